"""A slow network: nothing is lost, mixed up or mislabelled, and nobody is taken away from the screen that they have opened."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import httpx
import openpyxl
import pytest
from playwright.sync_api import FilePayload, Page, Route, expect

from tests.conftest import Connection
from tests.http_fixtures import NewClient, OrganizationClient, look_up, site
from tests.portal.conftest import Person, SignedIn
from tests.timed import wait_until
from tests.webhook_receiver import FakeReceiver

Hold = Callable[[str], list[Route]]


@pytest.fixture
def hold(page: Page) -> Hold:
    """Holds back responses to matching URLs until the test releases them."""

    def keep(pattern: str) -> list[Route]:
        held: list[Route] = []
        page.route(re.compile(pattern), lambda route: held.append(route))
        return held

    return keep


def wait_for(page: Page, held: list[Route], count: int = 1) -> None:
    for _ in range(400):
        if len(held) >= count:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{len(held)} of {count} requests came")


def test_operations_load_though_responses_take_longer_than_the_refresh_interval(person: Person, hold: Hold, database: Connection) -> None:
    [key] = database.execute("select api.internal_key()").fetchone() or [None]
    page = person.page
    page.clock.install()
    held = hold("/operations$")
    person.sign_in(str(key))
    wait_for(page, held)
    page.clock.run_for(12_000)
    held[0].continue_()
    expect(page.get_by_role("region", name="Checks")).to_be_visible()


def test_a_report_loads_though_it_changes_faster_than_responses_arrive(person: Person, client: OrganizationClient, hold: Hold) -> None:
    job = client.submit(site())
    page = person.page
    page.clock.install()
    page.route_web_socket(re.compile("/realtime/"), lambda socket: socket.close())
    held = hold("/summary$")
    person.sign_in(client.api_key, f"reports/{job['report']['id']}")
    wait_for(page, held)
    page.clock.run_for(12_000)
    held[0].continue_()
    expect(page.get_by_text("In progress since")).to_be_visible()
    # What was missed in the meantime is requested then.
    wait_for(page, held, 2)


def test_a_site_loads_though_its_batch_changes_faster_than_responses_arrive(
    signed_in: SignedIn, client: OrganizationClient, database: Connection, hold: Hold
) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(4)))
    page = signed_in(f"batches/{job['job_id']}").page
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    held = hold("/items/3$")
    page.get_by_role("link", name="deal-3").click()
    wait_for(page, held)
    look_up(database, job, 2, {"incentives": {"total_incentive_amount": 100}})
    expect(page.get_by_role("region", name="Progress")).to_contain_text("50%")
    expect(page.get_by_role("row", name="deal-1 ")).to_contain_text("Completed")
    held[0].continue_()
    expect(page.get_by_role("dialog", name="deal-3")).to_contain_text("200 N Spring St")


def test_a_site_is_not_shown_with_the_content_of_the_one_before(signed_in: SignedIn, client: OrganizationClient, hold: Hold) -> None:
    job = client.submit(site("deal-0"), site("deal-1"))
    page = signed_in(f"batches/{job['job_id']}?item=0").page
    expect(page.get_by_role("dialog", name="deal-0")).to_be_visible()
    held = hold("/items/1$")
    page.evaluate("location.hash = location.hash.replace('item=0', 'item=1')")
    wait_for(page, held)
    expect(page.get_by_role("dialog", name="Site")).to_contain_text("Loading…")
    held[0].continue_()
    expect(page.get_by_role("dialog", name="deal-1")).to_be_visible()


def test_rows_of_the_previous_filter_are_marked_and_removed_if_no_response_arrives(
    signed_in: SignedIn, client: OrganizationClient, hold: Hold
) -> None:
    job = client.submit(site("deal-0"), site("deal-1"))
    page = signed_in(f"batches/{job['job_id']}").page
    sites = page.get_by_role("region", name="Sites")
    rows = sites.get_by_role("row")
    expect(rows).to_have_count(3)
    page.clock.install()
    held = hold("q=deal-1")
    page.get_by_role("searchbox").fill("deal-1")
    page.clock.run_for(300)
    wait_for(page, held)
    expect(sites.get_by_role("table")).to_have_attribute("aria-busy", "true")
    for attempt in range(1, 5):
        wait_for(page, held, attempt)
        held[-1].abort()
        page.clock.run_for(5000)
    expect(sites.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    expect(rows).to_have_count(0)
    page.unroute_all()
    sites.get_by_role("button", name="Try again").click()
    expect(rows).to_have_count(2)
    expect(sites.get_by_role("table")).to_have_attribute("aria-busy", "false")


def test_no_more_rows_of_the_previous_filter_are_requested_while_the_next_one_loads(
    signed_in: SignedIn, client: OrganizationClient, hold: Hold
) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(120)))
    page = signed_in(f"batches/{job['job_id']}").page
    sites = page.get_by_role("region", name="Sites")
    expect(sites.get_by_role("row", name="deal-0 ")).to_be_visible()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "cursor=" in request.url and "status=" in request.url else None)
    held = hold(r"/items\?(?!.*cursor).*status=pending")
    page.get_by_role("link", name="Waiting 120").click()
    wait_for(page, held)
    sites.get_by_role("row", name="deal-49 ").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    assert asked == []
    held[0].continue_()
    expect(sites.get_by_role("row", name="deal-60 ")).to_be_visible()
    expect(page.get_by_role("status").last).to_have_text("")


def test_rows_that_fail_to_load_are_not_reported_on_another_screen(signed_in: SignedIn, client: OrganizationClient, hold: Hold) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(60)))
    page = signed_in(f"batches/{job['job_id']}").page
    held = hold("/items.*cursor=")
    page.get_by_role("row", name="deal-49 ").scroll_into_view_if_needed()
    wait_for(page, held)
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("heading", name="Usage", level=1)).to_be_visible()
    with page.expect_response(re.compile("/items.*cursor=")):
        held[0].fulfill(status=500, json={"error": "It broke.", "hint": "", "code": "x"})
    page.wait_for_timeout(300)
    expect(page.get_by_role("status").last).to_have_text("")


def test_an_action_that_ends_late_does_not_leave_another_screen(
    signed_in: SignedIn, client: OrganizationClient, database: Connection, hold: Hold
) -> None:
    job = client.submit(site("deal-0"))
    look_up(database, job, 1, {"error": "no"}, status=400)
    page = signed_in(f"batches/{job['job_id']}").page
    held = hold("/retry")
    page.get_by_role("button", name="Retry sites").click()
    wait_for(page, held)
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("heading", name="Usage", level=1)).to_be_visible()
    held[0].continue_()
    expect(page.get_by_role("status").last).to_have_text("1 site will be looked up again")
    expect(page.get_by_role("heading", name="Usage", level=1)).to_be_visible()

    page.unroute_all()
    page.evaluate(f"location.hash = '#/reports/{job['report']['id']}'")
    page.get_by_role("button", name="More…").click()
    page.get_by_role("button", name="Delete…").click()
    held = hold("/incentive-reports/[^/]+$")
    page.get_by_role("button", name="Delete the report").click()
    wait_for(page, held)
    page.evaluate("location.hash = '#/usage'")
    expect(page.get_by_role("heading", name="Usage", level=1)).to_be_visible()
    held[0].continue_()
    expect(page.get_by_role("status").last).to_have_text("The report is deleted")
    expect(page.get_by_role("heading", name="Usage", level=1)).to_be_visible()


def test_what_was_typed_to_search_is_not_searched_for_on_the_next_screen(signed_in: SignedIn, client: OrganizationClient) -> None:
    job = client.submit(site())
    page = signed_in(f"batches/{job['job_id']}").page
    expect(page.get_by_role("row", name="deal-001 ")).to_be_visible()
    page.clock.install()
    page.get_by_role("searchbox").fill("nothing")
    page.get_by_role("link", name="Report", exact=True).click()
    expect(page.get_by_text("In progress since")).to_be_visible()
    page.clock.run_for(1000)
    assert page.url.endswith(job["report"]["id"])


def test_a_download_is_shown_until_it_is_there_and_asked_for_once(signed_in: SignedIn, client: OrganizationClient, hold: Hold) -> None:
    job = client.submit(site())
    page = signed_in(f"batches/{job['job_id']}").page
    page.clock.install()
    held = hold("/results")
    note = page.get_by_role("status").last
    for _ in range(2):
        page.get_by_role("button", name="Results…").click()
        page.get_by_role("button", name="CSV", exact=True).click()
        wait_for(page, held)
        page.clock.run_for(20_000)
        expect(note).to_contain_text("is on its way…")
    assert len(held) == 1
    with page.expect_download():
        held[0].continue_()
    expect(note).to_contain_text(".csv is there")


def test_a_notice_is_not_for_whoever_signs_in_next(person: Person, client: OrganizationClient, new_client: NewClient, hold: Hold) -> None:
    job = client.submit(site())
    page, note = person.page, person.page.get_by_role("status").last
    person.sign_in(client.api_key, f"batches/{job['job_id']}")
    held = hold("/results")
    page.get_by_role("button", name="Results…").click()
    page.get_by_role("button", name="CSV", exact=True).click()
    wait_for(page, held)
    expect(note).to_contain_text("is on its way…")
    sign_in_instead(person, new_client())
    assert note.text_content() == ""
    with page.expect_download():
        held[0].continue_()
    page.wait_for_timeout(300)
    expect(note).to_have_text("")


def test_a_file_that_broke_off_on_its_way_up_is_sent_again_by_a_click(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in("upload").page
    rows = "".join(f"deal-{number},{number} Elm St,Oakland,CA,94601\n" for number in range(10_000))
    content = f"Deal ID,Street,City,State,ZIP\n{rows}".encode()
    page.route(re.compile(r"/uploads\?name"), lambda route: route.abort("connectionreset"))
    page.locator("input[type=file]").set_input_files({"name": "sites.csv", "mimeType": "text/csv", "buffer": content})
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached. Check the connection, and try again.")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="sites.csv")).to_be_visible()
    [draft] = client.get("/uploads").json()["uploads"]
    assert draft["total_rows"] == 10_000

    page.evaluate("location.hash = '#/upload'")
    page.locator("input[type=file]").set_input_files({"name": "x.pdf", "mimeType": "text/csv", "buffer": b"%PDF-1.7"})
    expect(page.get_by_role("alert")).to_contain_text("This is a PDF document")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)


def lose_answers(page: Page, pattern: str, times: int | None = None) -> list[str]:
    """The requests are executed, but their responses are lost; returns the idempotency key of each."""
    keys: list[str] = []

    def lose(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        route.fetch()
        route.abort("connectionreset")

    page.route(re.compile(pattern), lose, times=times)
    return keys


def test_a_file_goes_to_the_organization_that_sent_it(person: Person, client: OrganizationClient, new_client: NewClient) -> None:
    page, other, keys = person.page, new_client(), list[str]()

    def answer(route: Route) -> None:
        keys.append(route.request.headers["x-api-key"])
        if len(keys) == 1:
            route.fulfill(status=503, headers={"retry-after": "30"}, json={"error": "Busy.", "code": "x", "hint": ""})
        else:
            route.continue_()

    page.route(re.compile(r"/uploads\?name"), answer)
    page.clock.install()
    person.sign_in(client.api_key, "upload")
    with page.expect_response(re.compile(r"/uploads\?name")):
        page.locator("input[type=file]").set_input_files({"name": "sites.csv", "mimeType": "text/csv", "buffer": b"Deal ID\n1\n"})
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key").fill(other.api_key)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text(other.get("/organization").json()["name"], exact=True)).to_be_visible()
    with page.expect_response(re.compile(r"/uploads\?name")):
        page.clock.run_for(31_000)
    assert keys == [client.api_key] * 2
    assert (client.get("/uploads").json()["total"], other.get("/uploads").json()["total"]) == (1, 0)


def test_words_are_shown_before_all_rows_have_been_read(signed_in: SignedIn, client: OrganizationClient, hold: Hold) -> None:
    header = "reference_id,street_1,city,state_or_province_code,postal_code,building_type,device_ids"
    rows = "".join(f"d-{n},{n} Main St,Oakland,CA,94601,{'Hut' if n < 600 else 'Barn'},1\n" for n in range(700))
    draft = client.upload(f"{header}\n{rows}")
    held = hold("/rows.*cursor=")
    page = signed_in(f"uploads/{draft['id']}?step=columns").page
    wait_for(page, held)
    words = page.get_by_role("region", name="What your words stand for").get_by_role("combobox")
    expect(words).to_have_count(1)
    words.first.select_option("RESIDENTIAL")
    expect(page.get_by_role("region", name="Start")).to_contain_text("600 sites ready")
    expect(words).to_have_count(2)
    expect(words.first).to_have_value("RESIDENTIAL")


def sign_in_instead(person: Person, other: OrganizationClient) -> None:
    person.page.get_by_role("button", name="Sign out").click()
    person.page.get_by_label("API key").fill(other.api_key)
    person.page.get_by_role("button", name="Continue").click()
    expect(person.page.get_by_text(other.get("/organization").json()["name"], exact=True)).to_be_visible()


def test_changes_of_a_draft_wait_for_their_own_organization(
    person: Person, client: OrganizationClient, new_client: NewClient, hold: Hold
) -> None:
    rows = "reference_id,street_1,city,state_or_province_code,postal_code,building_type,device_ids\n1,1 Main St,Oakland,CA,94601,Hut,1\n"
    draft = client.upload(rows)
    page, other, keys = person.page, new_client(), list[str]()
    page.on("request", lambda request: keys.append(request.headers["x-api-key"]) if request.method == "PATCH" else None)
    held = hold(f"/uploads/{draft['id']}$")
    person.sign_in(client.api_key, f"uploads/{draft['id']}?step=columns")
    wait_for(page, held)
    held.pop().continue_()
    page.get_by_label(re.compile("^Building type")).select_option("RESIDENTIAL")
    wait_for(page, held)
    page.get_by_label(re.compile("^Country")).select_option("US")
    page.evaluate("location.hash = '#/upload'")
    expect(page.get_by_role("heading", name="New upload", level=1)).to_be_visible()
    sign_in_instead(person, other)
    with page.expect_response(re.compile(f"/uploads/{draft['id']}$")):
        held.pop().continue_()
    page.wait_for_timeout(300)
    assert keys == [client.api_key]

    # They are sent once it has signed in again.
    page.unroute_all()
    sign_in_instead(person, client)
    page.evaluate(f"location.hash = '#/uploads/{draft['id']}?step=columns'")
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert keys == [client.api_key] * 2
    assert client.get(f"/uploads/{draft['id']}").json()["defaults"] == {"building_type": "RESIDENTIAL", "country_code": "US"}


def test_the_sheets_of_a_workbook_stay_with_the_organization_that_sent_it(
    person: Person, client: OrganizationClient, new_client: NewClient, hold: Hold
) -> None:
    book = openpyxl.Workbook()
    for name in ("One", "Two", "Three"):
        sheet_of_book = book.create_sheet(name)
        sheet_of_book.append(["Deal ID", "Street"])
        sheet_of_book.append([f"d-{name}", "1 Elm St"])
    book.save(content := io.BytesIO())
    page, other = person.page, new_client()
    person.sign_in(client.api_key, "upload")
    page.locator("input[type=file]").set_input_files({"name": "sites.xlsx", "mimeType": "", "buffer": content.getvalue()})
    sheet = page.get_by_label("Sheet")
    expect(sheet).to_be_visible()
    held = hold(r"/uploads\?name")
    sheet.select_option("Two")
    wait_for(page, held)
    sheet.select_option("Three")
    sign_in_instead(person, other)
    held[0].continue_()
    wait_for(page, held, 2)
    assert held[1].request.headers["x-api-key"] == client.api_key
    with page.expect_response(re.compile(r"/uploads\?name")):
        held[1].continue_()
    page.wait_for_timeout(300)
    assert other.get("/uploads").json()["total"] == 0
    # Whoever has signed in is not led to it.
    expect(page.get_by_role("alert")).to_contain_text("not found")
    expect(page.get_by_role("status").last).to_have_text("")


def test_whoever_signs_in_is_not_led_to_the_file_of_another_organization(
    person: Person, client: OrganizationClient, new_client: NewClient, hold: Hold
) -> None:
    page, other = person.page, new_client()
    held = hold(r"/uploads\?name")
    person.sign_in(client.api_key, "upload")
    page.locator("input[type=file]").set_input_files({"name": "sites.csv", "mimeType": "text/csv", "buffer": b"Deal ID\n1\n"})
    wait_for(page, held)
    expect(page.get_by_role("progressbar", name="sites.csv")).to_be_visible()
    sign_in_instead(person, other)
    expect(page.get_by_role("progressbar")).to_have_count(0)
    with page.expect_response(re.compile(r"/uploads\?name")):
        held[0].continue_()
    page.wait_for_timeout(300)
    expect(page.get_by_role("heading", name="New upload", level=1)).to_be_visible()
    expect(page.get_by_role("status").last).to_have_text("")


def test_who_signs_in_again_is_told_of_the_file_that_was_not_uploaded(person: Person, client: OrganizationClient, hold: Hold) -> None:
    key = client.post("/api-keys", json={"name": "CRM"}).json()
    page, held = person.page, hold(r"/uploads\?name")
    person.sign_in(key["key"], "upload")
    page.locator("input[type=file]").set_input_files({"name": "sites.csv", "mimeType": "text/csv", "buffer": b"Deal ID\n1\n"})
    wait_for(page, held)
    client.delete(f"/api-keys/{key['id']}")
    wait_until(lambda: httpx.get(f"{person.server}/me", headers={"x-api-key": key["key"]}).status_code == 401)
    held[0].continue_()
    expect(page.get_by_text("Please sign in again. sites.csv has not been uploaded.")).to_be_visible()


def test_a_file_whose_answer_was_lost_becomes_one_draft(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in("upload").page
    # As over HTTP.
    page.evaluate("delete Crypto.prototype.randomUUID")
    keys = lose_answers(page, r"/uploads\?name")
    file: FilePayload = {"name": "sites.csv", "mimeType": "text/csv", "buffer": b"Deal ID,Street\nd-1,1 Elm St\n"}
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    assert (len(keys), len(set(keys))) == (4, 1), "it was tried again by itself, too"
    page.unroute_all()
    with page.expect_request(re.compile(r"/uploads\?name")) as sent:
        page.get_by_role("button", name="Try again").click()
    assert sent.value.headers["idempotency-key"] == keys[0]
    expect(page.get_by_role("heading", name="sites.csv")).to_be_visible()
    assert client.get("/uploads").json()["total"] == 1

    # Chosen again, it counts as another file.
    page.evaluate("location.hash = '#/upload'")
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_role("heading", name="sites.csv")).to_be_visible()
    assert client.get("/uploads").json()["total"] == 2


def test_a_file_that_is_still_worked_on_is_waited_for(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in("upload").page
    page.clock.install()
    busy = {"error": "A request with this Idempotency-Key is in progress", "code": "request_in_progress"}
    page.route(re.compile(r"/uploads\?name"), lambda route: route.fulfill(status=409, json=busy))
    with page.expect_response(re.compile(r"/uploads\?name")):
        page.locator("input[type=file]").set_input_files(
            {"name": "sites.csv", "mimeType": "text/csv", "buffer": b"Deal ID,Street\nd-1,1 Elm St\n"}
        )
    # Each time it waits twice as long.
    for seconds in (1, 1, 2, 4, 8, 16):
        expect(page.get_by_text("Uploading sites.csv…")).to_be_visible()
        with page.expect_response(re.compile(r"/uploads\?name")):
            page.clock.run_for(seconds * 1000)
    expect(page.get_by_role("alert")).to_contain_text("The service is still working on this. Try again in a moment.")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="sites.csv")).to_be_visible()
    assert client.get("/uploads").json()["total"] == 1


def test_a_retry_whose_answer_was_lost_makes_one_batch(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = client.submit(site())
    look_up(database, job, 1, status=404)
    page = signed_in(f"batches/{job['job_id']}").page
    keys = lose_answers(page, "/retry", times=4)
    retry = page.get_by_role("button", name="Retry sites that failed with not_found")
    retry.click()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    # It has ended meanwhile.
    [made] = [made for made in client.get("/batch-lookups").json()["jobs"] if made["id"] != job["job_id"]]
    look_up(database, {"job_id": made["id"]}, 1)
    retry.click()
    page.wait_for_url(re.compile(made["id"]))
    expect(page.get_by_text("retries failed sites of another batch")).to_be_visible()
    assert len(set(keys)) == 1
    assert client.get("/batch-lookups").json()["total"] == 2


def test_what_is_typed_after_a_save_stays(page: Page, developer: OrganizationClient, receiver: FakeReceiver, hold: Hold) -> None:
    developer.put("/webhook-config", json={"url": receiver.url})
    Person(page, str(developer.base_url)).sign_in(developer.api_key, "webhooks")
    page.get_by_role("checkbox", name="A batch has ended").check()
    held: list[Route] = []
    page.route(re.compile("/webhook-config$"), lambda route: route.continue_() if route.request.method == "PUT" else held.append(route))
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").last).to_have_text("Saved")
    fields = page.get_by_role("textbox", name="Your fields to send")
    fields.fill("deal_id")
    for route in held:
        route.continue_()
    page.wait_for_timeout(300)
    expect(fields).to_have_value("deal_id")


def test_what_is_typed_while_a_save_is_under_way_stays(
    page: Page, developer: OrganizationClient, receiver: FakeReceiver, hold: Hold
) -> None:
    developer.put("/webhook-config", json={"url": receiver.url})
    Person(page, str(developer.base_url)).sign_in(developer.api_key, "webhooks")
    held: list[Route] = []
    page.route(re.compile("/webhook-config$"), lambda route: held.append(route) if route.request.method == "PUT" else route.continue_())
    ended = page.get_by_role("checkbox", name="A batch has ended")
    fields = page.get_by_role("textbox", name="Your fields to send")
    saved = page.get_by_role("status").last
    for typed in ("deal_id, owner", "deal_id"):
        ended.set_checked(not ended.is_checked())
        page.get_by_role("button", name="Save").click()
        wait_for(page, held)
        fields.fill(typed)
        developer.put("/webhook-config", json={"bundle_items": typed == "deal_id"})
        held.pop().continue_()
        expect(saved).to_have_text("Saved")
        expect(fields).to_have_value(typed)
        expect(saved).to_have_text("")
    page.get_by_role("button", name="Save").click()
    wait_for(page, held)
    held.pop().continue_()
    expect(saved).to_have_text("Saved")
    # What is shown as saved is what the service has, even if another person saved it.
    expect(fields).to_have_value("deal_id")
    expect(page.get_by_role("checkbox", name="Up to a hundred sites")).to_be_checked()
    config = developer.get("/webhook-config").json()
    assert (config["field_names"], config["bundle_items"]) == (["deal_id"], True)


def test_a_secret_that_arrives_late_is_shown_on_any_screen(signed_in: SignedIn, hold: Hold) -> None:
    page = signed_in("keys").page
    held: list[Route] = []
    page.route(re.compile("/api-keys$"), lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
    page.get_by_role("button", name="New key").click()
    page.get_by_role("button", name="Create the key").click()
    wait_for(page, held)
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("heading", name="Usage", level=1)).to_be_visible()
    held[0].continue_()
    expect(page.get_by_role("dialog", name="Your new key").locator(".secret code")).to_have_text(re.compile(r"leap_live_\w{49}"))
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("heading", name="Usage", level=1)).to_be_visible()


def test_a_secret_that_arrives_late_is_shown_to_its_organization_only(
    person: Person, client: OrganizationClient, new_client: NewClient, hold: Hold
) -> None:
    page, held = person.page, hold("/rotate$")
    person.sign_in(client.api_key, "keys")
    page.get_by_role("button", name="Rotate").click()
    page.get_by_role("button", name="Create the new key").click()
    wait_for(page, held)
    # The dialog covers the button.
    page.keyboard.press("Escape")
    sign_in_instead(person, new_client())
    with page.expect_response(re.compile("/rotate$")):
        held[0].continue_()
    page.wait_for_timeout(300)
    expect(page.get_by_role("dialog")).to_have_count(0)
    sign_in_instead(person, client)
    expect(page.get_by_role("dialog", name="Your new key").locator(".secret code")).to_have_text(re.compile("^leap_live_"))


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_a_page_whose_script_is_gone_says_so(person: Person, motion: str) -> None:
    """Another release has been deployed since the page was opened, or the connection broke."""
    page = person.page
    page.emulate_media(reduced_motion=motion)  # type: ignore[arg-type]
    page.route(re.compile(r"/main-\w+\.js"), lambda route: route.fulfill(status=404))
    person.open()
    advice = page.get_by_text("If nothing more appears, reload the page.")
    expect(advice).to_be_hidden()
    expect(advice).to_be_visible()
    page.unroute_all()
    page.reload()
    expect(page.get_by_label("API key")).to_be_visible()
    expect(advice).to_have_count(0)


def test_a_command_that_is_under_way_cannot_be_given_again(
    page: Page, developer: OrganizationClient, receiver: FakeReceiver, hold: Hold
) -> None:
    developer.put("/webhook-config", json={"url": receiver.url})
    developer.post("/webhook-config/test")
    [delivery] = developer.get("/webhook-deliveries").json()["deliveries"]
    Person(page, str(developer.base_url)).sign_in(developer.api_key, f"webhooks?delivery={delivery['id']}")
    again = page.get_by_role("button", name="Send it again")
    held = hold("/resend$")
    again.click()
    wait_for(page, held)
    again.click(force=True)
    page.wait_for_timeout(300)
    assert len(held) == 1
    held[0].fulfill(status=409, json={"error": "It is under way.", "hint": "", "code": "x"})
    expect(page.get_by_role("alert")).to_contain_text("It is under way.")
    page.unroute_all()
    again.click()
    expect(page.get_by_role("status").last).to_have_text("It will be sent again")


def test_a_setting_that_was_not_saved_is_marked_until_it_is(person: Person, database: Connection) -> None:
    [key] = database.execute("select api.internal_key()").fetchone() or [None]
    page = person.page
    person.sign_in(str(key))
    setting = page.get_by_role("textbox", name="max_retries", exact=True)
    expect(setting).to_have_value("3")
    page.route(re.compile("/operations/settings"), lambda route: route.abort())
    setting.fill("4")
    setting.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    expect(setting).to_have_attribute("aria-invalid", "true")
    expect(setting).to_have_value("4")
    page.unroute_all()
    setting.fill("3")
    setting.press("Enter")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(setting).not_to_have_attribute("aria-invalid", "true")


def test_a_box_that_was_not_saved_shows_what_is_set(person: Person, database: Connection) -> None:
    [key] = database.execute("select api.internal_key()").fetchone() or [None]
    page = person.page
    person.sign_in(str(key))
    box = page.get_by_role("region", name="Settings").get_by_role("checkbox").first
    before = box.is_checked()
    page.route(re.compile("/operations/settings"), lambda route: route.abort())
    box.click()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    with page.expect_response(re.compile("/operations$")):
        pass
    expect(box).to_be_checked(checked=before)
    expect(box).not_to_have_attribute("aria-invalid", "true")


def test_a_report_has_its_new_name_at_once_and_a_link_is_shown_though_its_dialog_is_closed(
    signed_in: SignedIn, client: OrganizationClient, hold: Hold
) -> None:
    job = client.submit(site())
    page = signed_in(f"reports/{job['report']['id']}").page
    expect(page.get_by_text("In progress since")).to_be_visible()
    hold("/summary$")
    page.get_by_role("button", name="More…").click()
    page.get_by_role("button", name="Rename…").click()
    page.get_by_label("Name", exact=True).fill("March")
    page.get_by_role("button", name="Rename", exact=True).click()
    expect(page.get_by_role("status").last).to_have_text("The report is renamed")
    expect(page.get_by_role("heading", level=1)).to_have_text("March")

    page.get_by_role("button", name="Share…").click()
    made: list[Route] = []
    page.route(re.compile("/share$"), lambda route: made.append(route) if route.request.method == "POST" else route.continue_())
    page.get_by_role("button", name="Create a link").click()
    wait_for(page, made)
    page.keyboard.press("Escape")
    made[0].continue_()
    expect(page.get_by_role("dialog", name="The link").locator(".secret code")).to_have_text(re.compile("/shared-reports/"))


def test_a_request_that_hangs_is_repeated_when_the_connection_is_back(signed_in: SignedIn, hold: Hold) -> None:
    page = signed_in("batches").page
    held = hold("/api-keys")
    page.get_by_role("link", name="API keys").click()
    wait_for(page, held)
    page.evaluate("dispatchEvent(new Event('online'))")
    wait_for(page, held, 2)
    held[1].continue_()
    expect(page.get_by_role("row")).to_have_count(2)
