"""A batch: live, cancelled, retried, and each of its sites."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Route, WebSocketRoute, expect

from pyshell.deploy import error_reference
from tests.conftest import Connection
from tests.http_fixtures import Json, NewClient, OrganizationClient, look_up, site
from tests.portal.conftest import Person, SignedIn

ANSWER = {
    "utility": {"eiaid": 1, "name": "City Power"},
    "incentives": {
        "total_incentive_amount": 3750,
        "by_program": [{"program_id": "p", "program_name": "Heat pump rebate", "total_incentive": 3750, "eligible_combinations": 1}],
    },
}


def upload(client: OrganizationClient, count: int, name: str = "March portfolio") -> Json:
    response = client.post("/batch-lookups", params={"name": name}, json=[site(f"deal-{number}") for number in range(count)])
    created: Json = response.json()
    return created


def test_progress_comes_by_itself_with_the_socket_cut_in_the_middle(
    person: Person, client: OrganizationClient, database: Connection
) -> None:
    page, sockets, cut = person.page, list[WebSocketRoute](), False

    def connect(socket: WebSocketRoute) -> None:
        if cut:
            socket.close()
        else:
            socket.connect_to_server()
            sockets.append(socket)

    page.route_web_socket(re.compile("/realtime/"), connect)
    job = upload(client, 20)
    person.sign_in(client.api_key, f"batches/{job['job_id']}")
    progress = page.get_by_role("region", name="Progress")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    look_up(database, job, 5, ANSWER)
    expect(progress).to_contain_text("25%")
    expect(page.locator("[data-live]")).to_have_text(re.compile(r"\d+% done"))

    cut = True
    for socket in sockets:
        socket.close()
    expect(page.get_by_text("Polling", exact=True)).to_be_visible()
    look_up(database, job, 5, {"error": "no"}, status=400)
    expect(progress).to_contain_text("50%")
    cut = False
    expect(page.get_by_text("Live", exact=True)).to_be_visible(timeout=30_000)
    look_up(database, job, 9, ANSWER)
    expect(progress).to_contain_text("95%")
    person.look("job-running")
    look_up(database, job, 1, ANSWER)
    expect(progress).to_contain_text("Completed")
    expect(page.get_by_role("button", name="Cancel…")).to_have_count(0)


def test_a_site_says_how_its_incentives_add_up_and_why_others_do_not(
    signed_in: SignedIn, client: OrganizationClient, database: Connection
) -> None:
    def tier(name: str, **changes: object) -> Json:
        kept = {"device_id": 1, "device_name": "Heat pump", "tier_id": name, "tier_name": name, "eligible": True}
        return kept | {"failed_requirements": [], "ignored_requirements": [], "completed_requirements": []} | changes

    per_ton = {"calculation_details": "3 tons (typical) at $400.00 per ton = $1,200.00", "ignored_requirements": ["Size: taken as 3 tons"]}
    poor = {"conditional": True, "conditional_requirements": ["Income: 80% of the median"], "calculation_details": "$900.00"}
    commercial = {"failed_requirements": ["Building type: for COMMERCIAL", "Dates: ended on 2026-01-31"], "calculation_details": "$5.00"}
    programs = [
        {"program_id": "a", "program_name": "City Rebates", "total_incentive": 1200, "device_tier_results": [tier("Per ton", **per_ton)]},
        {
            "program_id": "b",
            "program_name": "State Grant",
            "total_incentive": 0,
            "conditional_incentive_amount": 900,
            "device_tier_results": [tier("For the poor", eligible=False, **poor)],
        },
        {
            "program_id": "c",
            "program_name": "Shops",
            "total_incentive": 0,
            "device_tier_results": [tier(name, eligible=False, **commercial) for name in ("One", "Two")],
        },
        {
            "program_id": "d",
            "program_name": "Of another form",
            "total_incentive": 7,
            "conditional_incentive_amount": None,
            "device_tier_results": "none",
        },
    ]
    job = upload(client, 1)
    look_up(database, job, 1, {"incentives": {"total_incentive_amount": 1207, "by_program": programs}})
    person = signed_in(f"batches/{job['job_id']}?item=0")
    rows = person.page.get_by_role("dialog").get_by_role("row")
    expect(rows.nth(1)).to_contain_text("Heat pump: Per ton: 3 tons (typical) at $400.00 per ton = $1,200.00")
    expect(rows.nth(1)).to_contain_text("Not checked: Size: taken as 3 tons")
    expect(rows.nth(2)).to_contain_text("Only if: Income: 80% of the median")
    expect(rows.nth(2)).to_contain_text("$900 conditional")
    expect(rows.nth(3)).to_have_text(re.compile("^ShopsNot eligible: Building type: for COMMERCIAL; Dates: ended on 2026-01-31[$]0$"))
    expect(rows.nth(4)).to_have_text("Of another form$7")
    person.look("job-site-programs")


def test_progress_comes_without_web_sockets(person: Person, client: OrganizationClient, database: Connection) -> None:
    page, waits = person.page, list[str]()
    page.route_web_socket(re.compile("/realtime/"), lambda socket: socket.close())
    page.on("request", lambda request: waits.append(request.url) if "wait=30" in request.url else None)
    job = upload(client, 10)
    person.sign_in(client.api_key, f"batches/{job['job_id']}")
    expect(page.get_by_text("Polling", exact=True)).to_be_visible()
    progress = page.get_by_role("region", name="Progress")
    for share in ("20%", "40%"):
        look_up(database, job, 2, ANSWER)
        expect(progress).to_contain_text(share)
    look_up(database, job, 6, ANSWER)
    expect(progress).to_contain_text("Completed")
    # Each response takes one request, which waits for the change, rather than one every second.
    assert 0 < len(waits) < 12


def test_a_browser_without_a_network_is_not_called_live(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = upload(client, 4)
    person = signed_in(f"batches/{job['job_id']}")
    page = person.page
    live, offline = (page.get_by_text(state, exact=True) for state in ("Live", "Offline"))
    expect(live).to_be_visible()
    page.context.set_offline(True)
    expect(offline).to_be_visible()
    expect(live).to_have_count(0)
    page.context.set_offline(False)
    expect(live).to_be_visible()
    expect(offline).to_have_count(0)

    # On the same machine as the service, losing the network has no effect.
    with page.expect_response(re.compile("/portal/config.json")):
        page.evaluate("dispatchEvent(new Event('offline'))")
    look_up(database, job, 1, ANSWER)
    expect(page.get_by_role("region", name="Progress")).to_contain_text("25%")
    expect(live).to_be_visible()


def test_the_rate_and_the_time_left_are_told(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = upload(client, 100)
    look_up(database, job, 40, ANSWER)
    database.execute("update public.batch_lookup_jobs set rate = 0.5, updated_at = now() where id = %s", [job["job_id"]])
    person = signed_in(f"batches/{job['job_id']}")
    progress = person.page.get_by_role("region", name="Progress")
    expect(progress).to_contain_text("0.5 a second")
    expect(progress).to_contain_text(re.compile(r"(2 min|1 min \d+ s) left, done at \d+:\d\d [AP]M"))
    person.look("job-time-left")


@pytest.mark.parametrize("limit", [{"sample": 20}, {"max_lookups": 20, "when_limit_reached": "wait"}], ids=["sample", "limit"])
def test_a_batch_that_waits_for_its_user_shows_no_remaining_time(
    signed_in: SignedIn, client: OrganizationClient, database: Connection, limit: dict[str, str | int]
) -> None:
    job = client.post("/batch-lookups", params=limit, json=[site(f"deal-{number}") for number in range(100)]).json()
    person = signed_in("batches")
    page, asked = person.page, list[str]()
    page.on("request", lambda request: asked.append(request.url) if job["job_id"] in request.url else None)
    row = page.get_by_role("row", name=re.compile("100 sites"))
    spoken = page.locator("[data-live]")
    expect(spoken).to_have_text("1 batch is running")
    look_up(database, job, 20, ANSWER)
    # A limit stops a batch when more would be claimed.
    look_up(database, job, 20, ANSWER)
    expect(row).to_contain_text("Waits for you.")
    expect(spoken).to_have_text("1 batch waits for you")
    expect(page.get_by_role("link", name="In progress 1")).to_be_visible()
    person.look("batches-waiting")
    assert asked == []

    database.execute("update public.batch_lookup_jobs set rate = 0.5, updated_at = now() where id = %s", [job["job_id"]])
    row.get_by_role("link").first.click()
    expect(page.get_by_role("region", name="Progress")).to_contain_text("20%waits for you")
    expect(spoken).to_have_text("20% done, waits for you")
    client.post(f"/batch-lookups/{job['job_id']}/continue", params={"max_lookups": 100})
    expect(page.get_by_role("region", name="Progress")).not_to_contain_text("waits for you")


def test_a_batch_continues_with_a_new_limit(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    sites = [site(f"deal-{number}") for number in range(5)]
    job = client.post("/batch-lookups", params={"max_lookups": 2, "when_limit_reached": "wait"}, json=sites).json()
    for _ in range(2):
        look_up(database, job, 2, ANSWER)
    person = signed_in(f"batches/{job['job_id']}")
    banner = person.page.get_by_role("region", name="Waiting for you")
    expect(banner).to_contain_text("The lookup limit is reached after 2; 3 sites wait.")
    person.look("job-limit")
    banner.get_by_label("New limit of the batch").fill("4")
    banner.get_by_role("button", name="Continue").click()
    expect(banner).to_have_count(0)
    look_up(database, job, 5, ANSWER)
    expect(person.page.get_by_role("region", name="Progress")).to_contain_text("completed 4")


def test_a_batch_that_waits_for_the_next_month_asks_for_nothing(
    signed_in: SignedIn, client: OrganizationClient, database: Connection
) -> None:
    job = client.post("/batch-lookups", params={"when_limit_reached": "wait"}, json=[site(f"deal-{number}") for number in range(5)]).json()
    database.execute("select api.set_monthly_lookups(%s, 2)", [client.get(f"/batch-lookups/{job['job_id']}").json()["organization_id"]])
    for _ in range(2):
        look_up(database, job, 5, ANSWER)
    person = signed_in("batches")
    page = person.page
    expect(page.get_by_role("row").nth(1)).to_contain_text(re.compile(r"Waits until \w+ 1\b"))
    page.get_by_role("row").nth(1).get_by_role("link").first.click()
    expect(page.get_by_role("region", name="Progress")).to_contain_text("waits until")
    banner = page.get_by_role("region", name="Waiting for the next month")
    expect(banner).to_contain_text("The organization has used up this month's lookups. 3 sites wait until")
    expect(banner.get_by_role("button")).to_have_count(0)
    person.look("job-next-month")
    page.get_by_role("link", name="deal-4").click()
    # A time alone would be of today.
    expect(page.get_by_role("dialog").get_by_role("list")).to_contain_text(re.compile(r"until \w+ 1\b"))
    person.look("job-story-next-month")


def test_a_sample_is_continued_once(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    sites = [site(f"deal-{number}") for number in range(5)]
    job = client.post("/batch-lookups", params={"sample": 2}, json=sites).json()
    look_up(database, job, 2, ANSWER)
    person = signed_in(f"batches/{job['job_id']}")
    person.look("job-sample")
    sent: list[str] = []
    person.page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    banner = person.page.get_by_role("region", name="Waiting for you")
    banner.get_by_role("button", name="Look up the other 3").dblclick()
    expect(banner).to_have_count(0)
    assert len(sent) == 1


def test_a_batch_is_not_shown_as_done_before_its_report_is_closed(
    signed_in: SignedIn, client: OrganizationClient, database: Connection
) -> None:
    job = upload(client, 3)
    look_up(database, job, 2, ANSWER)

    def all_looked_up(route: Route) -> None:
        response = route.fetch()
        if response.status == 200:
            counts = {"pending": 0, "processing": 0, "completed": 3, "failed": 0}
            route.fulfill(response=response, json=response.json() | {"processed_items": 3, "item_counts": counts})
        else:
            route.fulfill(response=response)

    page = signed_in("batches").page
    page.route(re.compile(f"/batch-lookups/{job['job_id']}(\\?|$)"), all_looked_up)
    page.get_by_role("link", name="March portfolio").click()
    progress = page.get_by_role("region", name="Progress")
    expect(progress).to_contain_text("closing the report")
    expect(progress).to_contain_text("99%")
    expect(progress.get_by_role("progressbar")).to_have_attribute("aria-valuetext", re.compile("^99%"))
    expect(progress).not_to_contain_text("100%")


def test_a_batch_is_cancelled_and_says_what_still_finishes(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = upload(client, 6)
    look_up(database, job, 1, ANSWER)
    with claimed(database, job, 2) as finish:
        person = signed_in(f"batches/{job['job_id']}")
        person.page.get_by_role("button", name="Cancel…").click()
        dialog = person.page.get_by_role("dialog")
        expect(dialog).to_contain_text("3 sites will not be looked up. 2 lookups in flight will still finish.")
        person.look("job-cancel")
        dialog.get_by_role("button", name="Cancel the batch").click()
        progress = person.page.get_by_role("region", name="Progress")
        expect(progress).to_contain_text("Cancelled")
        assert client.get(f"/batch-lookups/{job['job_id']}").json()["status"] == "cancelled"
        finish()
        expect(progress).to_contain_text("completed 3")


def test_a_double_click_is_one_command(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = upload(client, 3)
    look_up(database, job, 1, {"error": "not there"}, status=404)
    page = signed_in(f"batches/{job['job_id']}").page
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method) if request.method in ("POST", "DELETE") else None)
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel the batch").dblclick()
    expect(page.get_by_role("button", name="Delete…")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("button", name="Retry sites that failed with not_found").dblclick()
    expect(page.get_by_text("1 site will be looked up again")).to_be_visible()
    page.go_back()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete the batch").dblclick()
    expect(page.get_by_role("heading", name="Batches", level=1)).to_be_visible()
    assert sent == ["POST", "POST", "DELETE"]


def test_failures_are_shown_and_retried_by_reason(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = upload(client, 6)
    for count, status in ((2, 400), (1, 404), (3, 200)):
        look_up(database, job, count, ANSWER if status == 200 else {"error": "not there"}, status=status)
    codes = client.get(f"/batch-lookups/{job['job_id']}").json()["errors_by_code"]
    code = max(codes, key=codes.__getitem__)
    person = signed_in(f"batches/{job['job_id']}")
    page = person.page
    expect(page.get_by_role("row", name="not_found")).to_contain_text("Nothing found for the address")
    page.get_by_role("button", name=f"Show sites that failed with {code}").click()
    sites = page.get_by_role("region", name="Sites").locator("tbody tr")
    expect(sites).to_have_count(2)
    assert f"status=failed&error={code}" in page.url
    person.look("job-failed-sites")
    sites.first.get_by_role("link").click()
    dialog = page.get_by_role("dialog", name="deal-0")
    expect(dialog).to_contain_text(code)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("group", name="Status of sites").get_by_role("link", name="Completed").click()
    expect(sites).to_have_count(3)
    sites.first.get_by_role("link").click()
    expect(page.get_by_role("dialog")).to_contain_text("Heat pump rebate")
    person.look("job-site")
    page.keyboard.press("Escape")

    expect(page).to_have_title(f"{page.get_by_role('heading', level=1).inner_text()} · Batch Lookups")
    retry = page.get_by_role("button", name=f"Retry sites that failed with {code}")
    expect(retry).to_have_text("Retry")
    retry.click()
    expect(page.get_by_text("retries failed sites of another batch")).to_be_visible()
    expect(page.get_by_role("region", name="Progress")).to_contain_text("waiting 2")
    look_up(database, job, 2, {"error": "not there"}, status=400)
    expect(page.get_by_role("region", name="Progress")).to_contain_text("failed 2")
    page.get_by_role("link", name="another batch").click()
    page.get_by_role("button", name="Retry all").click()
    expect(page.get_by_role("region", name="Progress")).to_contain_text("waiting 3")


def test_a_retry_that_somebody_else_has_begun_is_shown(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = upload(client, 3)
    look_up(database, job, 3, {"error": "not there"}, status=404)
    page = signed_in(f"batches/{job['job_id']}").page
    retry = page.get_by_role("button", name="Retry sites that failed with not_found")
    expect(retry).to_be_visible()
    begun = client.post(f"/batch-lookups/{job['job_id']}/retry").json()
    retry.click()
    expect(page.get_by_text("They are retried already: this is the batch.")).to_be_visible()
    expect(page).to_have_url(re.compile(f"batches/{begun['job_id']}"))


def test_many_sites_are_retried_only_after_a_question(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = upload(client, 24)
    for count, status in ((11, 404), (13, 400)):
        look_up(database, job, count, {"error": "not there"}, status=status)
    person = signed_in(f"batches/{job['job_id']}")
    page = person.page
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Retry all").click()
    expect(dialog).to_have_accessible_name("Retry 24 sites?")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Retry sites that failed with not_found").click()
    expect(dialog).to_have_accessible_name("Retry 11 sites?")
    expect(dialog).to_contain_text(
        "All that failed for this reason (Nothing found for the address) are looked up again in a new batch. That takes up to 11 lookups."
    )
    person.look("job-retry")
    assert len(client.get("/batch-lookups").json()["jobs"]) == 1
    dialog.get_by_role("button", name="Retry 11 sites").click()
    expect(page.get_by_role("region", name="Progress")).to_contain_text("waiting 11")
    assert len(client.get("/batch-lookups").json()["jobs"]) == 2


def test_every_reason_for_a_failure_is_given_in_words(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = upload(client, 1)
    look_up(database, job, 1, status=404)
    counts = dict.fromkeys([*error_reference.ITEM_FAILED, "of_an_operator"], 1)

    def with_all_reasons(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | {"errors_by_code": counts})

    page = signed_in("batches").page
    page.route(re.compile(f"/batch-lookups/{job['job_id']}(\\?|$)"), with_all_reasons)
    page.get_by_role("link", name="March portfolio").click()
    reasons = page.locator(".errors tbody td:first-child")
    expect(reasons).to_have_count(len(counts))
    assert {reason.split()[-1] for reason in reasons.all_inner_texts() if " " not in reason} == {"of_an_operator"}


@contextmanager
def claimed(database: Connection, job: Json, count: int) -> Iterator[Callable[[], None]]:
    """Puts items of the job in flight at a worker, and yields a function that records their responses."""
    [organization_id] = database.execute(
        "select organization_id from public.batch_lookup_jobs where id = %s", [job["job_id"]]
    ).fetchone() or [None]
    items = database.execute(
        "select job_id, position, lease_token from api.claim_lookups(%s, 'test', %s)", [organization_id, count]
    ).fetchall()
    assert len(items) == count

    def finish() -> None:
        for item in items:
            database.execute(
                "select api.record_lookups(%s, array[%s]::uuid[], array[%s]::integer[], array[%s]::uuid[], array[200], array[null::text],"
                " array[%s], array[null::double precision])",
                [organization_id, *item, json.dumps(ANSWER)],
            )

    yield finish


@pytest.fixture
def outage(database: Connection) -> Iterator[None]:
    database.execute("update app.upstream_state set unavailable_since = now() - interval '5 minutes'")
    yield
    database.execute("update app.upstream_state set unavailable_since = null")


def test_an_outage_is_said_to_lose_nothing(outage: None, signed_in: SignedIn, client: OrganizationClient) -> None:
    person = signed_in(f"batches/{upload(client, 3)['job_id']}")
    expect(person.page.get_by_text("Nothing is lost; items wait.")).to_be_visible()
    person.look("job-outage")


def test_a_batch_of_another_organization_is_not_found(signed_in: SignedIn, new_client: NewClient) -> None:
    job = upload(new_client(), 1)
    person = signed_in(f"batches/{job['job_id']}")
    alert = person.page.get_by_role("alert")
    expect(alert).to_contain_text("Batch job not found")
    person.look("not-found")
    for address in (f"batches/{job['job_id']}?item=0", f"reports/{job['report']['id']}"):
        person.page.goto("about:blank")
        person.page.goto(f"{person.server}/portal#/{address}")
        expect(alert.first).to_contain_text("not found")
        expect(person.page.get_by_text("deal-0")).to_have_count(0)


def test_a_site_shows_its_history(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = upload(client, 3)
    look_up(database, job, 1, {"error": "overloaded"}, status=500)
    person = signed_in(f"batches/{job['job_id']}?item=0")
    story = person.page.get_by_role("dialog", name="deal-0").get_by_role("list")
    expect(story.get_by_role("listitem")).to_have_count(3)
    expect(story).to_contain_text("HTTP 500")
    person.look("job-story")
    person.page.keyboard.press("Escape")
    person.page.get_by_role("searchbox", name="Search sites").fill("deal-2")
    expect(person.page.get_by_role("region", name="Sites").locator("tbody tr")).to_have_count(1)


def test_back_leads_from_the_sites_to_the_list(signed_in: SignedIn, client: OrganizationClient) -> None:
    client.submit(site("deal-1"), site("deal-2"))
    page = signed_in("batches").page
    page.get_by_role("link", name=re.compile("Batch Lookup -")).click()
    page.get_by_role("group", name="Status of sites").get_by_role("link", name="Waiting").click()
    dialog = page.get_by_role("dialog")
    for reference in ("deal-1", "deal-2"):
        page.get_by_role("link", name=reference).click()
        expect(dialog).to_contain_text(reference)
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        expect(page.get_by_role("link", name=reference)).to_be_focused()
    page.get_by_role("link", name="deal-1").click()
    dialog.get_by_role("button", name="Close").dblclick()
    expect(dialog).to_have_count(0)
    expect(page).to_have_url(re.compile("status=pending$"))
    page.go_back()
    expect(page).to_have_url(re.compile(r"batches/[\w-]+$"))
    page.go_back()
    expect(page.get_by_role("heading", name="Batches", exact=True)).to_be_visible()

    # Opening the URL of a site leads to its batch.
    page.go_forward()
    page.goto(f"{page.url}?item=1")
    page.reload()
    expect(dialog).to_contain_text("deal-2")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("link", name="deal-2")).to_be_visible()


def test_a_customer_is_found_by_the_columns_of_the_file(signed_in: SignedIn, client: OrganizationClient) -> None:
    rows = [
        "Deal ID,Customer,Phone,Street,City,State,ZIP,Home Type,Devices",
        "d-1,Kim O'Hara,555-0101,1 N Spring St,Los Angeles,CA,90012,RESIDENTIAL,1",
        "d-2,Ada Lee,,2 N Spring St,Los Angeles,CA,90012,RESIDENTIAL,1",
    ]
    created = client.post("/batch-lookups", content="\n".join(rows), headers={"content-type": "text/csv"}).json()
    person = signed_in(f"batches/{created['job_id']}")
    page = person.page
    page.get_by_label("Search sites").fill("o'hara")
    sites = page.get_by_role("region", name="Sites")
    expect(sites.get_by_role("row")).to_have_count(2)
    sites.get_by_role("link", name="d-1").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Kim O'Hara")).to_be_visible()
    expect(dialog.get_by_text("555-0101")).to_be_visible()
    person.look("site-columns")


def test_results_are_downloaded(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = upload(client, 2)
    look_up(database, job, 2, ANSWER)
    page = signed_in(f"batches/{job['job_id']}").page
    page.get_by_role("button", name="Results…").click()
    with page.expect_download() as downloads:
        page.get_by_role("button", name="CSV", exact=True).click()
    assert downloads.value.suggested_filename == "March portfolio.csv"
    assert downloads.value.path().read_text().count("\n") == 3
