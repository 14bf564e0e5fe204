"""Lists that are longer than the window."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Route, expect

from tests.conftest import Connection
from tests.http_fixtures import OrganizationClient, look_up, site
from tests.portal.conftest import SignedIn

SITES = 1000
# Scrolls down as fast as rows load, and returns the highest number of rows that were in the document.
TO_THE_END = """async last => {
    let most = 0
    for (let frame = 0; frame < 6000 && !document.querySelector(`[aria-rowindex='${last}']`); frame++) {
        scrollTo(0, document.documentElement.scrollHeight)
        await new Promise(requestAnimationFrame)
        most = Math.max(most, document.querySelectorAll('.rows tr').length)
    }
    return most
}"""
# Where the text of an element is: its right end, and its middle.
TEXT = """element => {
    const range = document.createRange()
    range.selectNodeContents(element)
    const {right, top, bottom} = range.getBoundingClientRect()
    return [right, (top + bottom) / 2]
}"""


def test_of_many_sites_only_those_near_the_window_are_in_the_page_and_are_up_to_date(
    signed_in: SignedIn, client: OrganizationClient, database: Connection
) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(SITES)))
    page = signed_in(f"batches/{job['job_id']}").page
    sites = page.get_by_role("region", name="Sites")
    first, last = (sites.get_by_role("row", name=f"deal-{number} ") for number in (0, SITES - 1))
    expect(first).to_contain_text("Waiting")
    page.emulate_media(media="print")
    expect(sites.get_by_text(re.compile(rf"The first \d+ of {SITES:,}: the others are not printed"))).to_be_visible()
    page.emulate_media(media="screen")
    assert page.evaluate(TO_THE_END, SITES + 1) < 300
    expect(sites.get_by_text("the others are not printed")).to_have_count(0)
    expect(sites.get_by_role("table")).to_have_attribute("aria-rowcount", str(SITES + 1))
    expect(page.get_by_role("button", name="Show more")).to_have_count(0)
    last.scroll_into_view_if_needed()
    expect(sites.get_by_role("row", name="deal-60 ")).to_have_count(0)

    look_up(database, job, SITES, {"incentives": {"total_incentive_amount": 100}})
    expect(last).to_contain_text("Completed")
    page.evaluate("scrollTo(0, 0)")
    expect(first).to_contain_text("Completed")
    expect(last).to_have_count(0)
    middle = sites.get_by_role("row", name="deal-120 ")
    page.evaluate("scrollTo(0, 120 * 38)")
    expect(middle).to_contain_text("Completed")


def test_back_leads_to_the_same_rows_of_a_long_list(signed_in: SignedIn, client: OrganizationClient) -> None:
    job, *_ = [client.post("/batch-lookups", params={"name": f"Batch {number}"}, json=[site()]).json() for number in range(120)]
    page = signed_in("batches").page
    row = page.get_by_role("row", name="Batch 0 ")
    expect(page.get_by_role("row", name="Batch 119 ")).to_be_visible()
    page.evaluate(TO_THE_END, 121)
    row.scroll_into_view_if_needed()
    place = page.evaluate("scrollY")
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", name="Batch 0")).to_be_visible()
    assert page.evaluate("scrollY") == 0
    client.post(f"/batch-lookups/{job['job_id']}/cancel")
    page.go_back()
    expect(row).to_be_in_viewport()
    expect(row).to_contain_text("Cancelled")
    assert abs(page.evaluate("scrollY") - place) <= 1

    # A link leads to the top.
    page.get_by_role("link", name="Reports").click()
    expect(page.get_by_role("heading", name="Reports")).to_be_visible()
    page.get_by_role("link", name="Batches", exact=True).click()
    expect(page.get_by_role("row", name="Batch 119 ")).to_be_in_viewport()
    assert page.evaluate("scrollY") == 0


def test_a_list_that_changes_while_its_next_rows_load_goes_on(signed_in: SignedIn, client: OrganizationClient) -> None:
    for number in range(52):
        client.post("/batch-lookups", params={"name": f"Batch {number}"}, json=[site()])
    page, held = signed_in("keys").page, list[Route]()
    page.route(re.compile("/batch-lookups.*cursor="), lambda route: held.append(route), times=1)
    with page.expect_request(re.compile("/batch-lookups.*cursor=")):
        page.get_by_role("link", name="Batches", exact=True).click()
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        expect(page.get_by_role("row", name="Batch 51 ")).to_be_visible()
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    client.post("/batch-lookups", params={"name": "Another"}, json=[site()])
    expect(page.get_by_role("row", name="Another ")).to_have_count(1)
    held[0].continue_()
    expect(page.get_by_role("row", name="Batch 0 ")).to_have_count(1)


def test_the_row_in_focus_stays_in_the_page(signed_in: SignedIn, client: OrganizationClient) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(SITES)))
    page = signed_in(f"batches/{job['job_id']}").page
    link = page.get_by_role("link", name="deal-3", exact=True)
    link.focus()
    page.evaluate(TO_THE_END, SITES + 1)
    expect(link).to_be_focused()


@pytest.mark.parametrize(
    ("screen", "title", "button"), [("reports", "Compare", "Compare…"), ("keys", "Actions", "Revoke…")], ids=["reports", "keys"]
)
def test_buttons_stand_in_line_with_their_row_and_below_their_title(
    signed_in: SignedIn, client: OrganizationClient, screen: str, title: str, button: str
) -> None:
    client.submit()
    page = signed_in(screen).page
    row = page.locator("tbody tr").first
    right, middle = row.get_by_text(button, exact=True).evaluate(TEXT)
    assert page.get_by_role("columnheader", name=title).evaluate(TEXT)[0] == pytest.approx(right, abs=2)
    assert row.locator("td").nth(2).evaluate(TEXT)[1] == pytest.approx(middle, abs=2)


def test_a_screen_loads_when_the_connection_is_back(signed_in: SignedIn) -> None:
    page = signed_in("").page
    page.context.set_offline(True)
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("alert")).to_contain_text(
        "The service cannot be reached. Check the connection; this page retries automatically."
    )
    page.context.set_offline(False)
    expect(page.get_by_text("Each attempt counts")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_batches_that_were_scrolled_to_stay_when_others_change(signed_in: SignedIn, client: OrganizationClient) -> None:
    jobs = [client.submit(site(f"deal-{number}")) for number in range(60)]
    page = signed_in("batches").page
    rows = page.get_by_role("row")
    expect(rows).to_have_count(51)
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(rows).to_have_count(61)
    client.post(f"/batch-lookups/{jobs[0]['job_id']}/cancel")
    expect(rows.last).to_contain_text("Cancelled")
    expect(rows).to_have_count(61)
    client.post("/batch-lookups", params={"name": "Newest"}, json=[site("deal-60")])
    expect(page.get_by_role("link", name="All 61")).to_be_visible()
    page.evaluate("scrollTo(0, 0)")
    expect(rows.nth(1)).to_contain_text("Newest")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(rows.last).to_contain_text("Cancelled")


def test_a_late_response_does_not_replace_a_newer_list(signed_in: SignedIn, client: OrganizationClient) -> None:
    client.submit(site("deal-1"))
    page = signed_in("batches").page
    held: list[Route] = []
    asked: list[str] = []

    def hold(route: Route) -> None:
        asked.append(route.request.url)
        held.append(route) if len(asked) == 1 else route.continue_()

    expect(page.get_by_role("link", name="All 1")).to_be_visible()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    page.route(re.compile(r"/batch-lookups\?.*limit=50"), hold)
    # The rows are loaded again, and once more when that has ended.
    client.submit(site("deal-2"))
    expect(page.get_by_role("link", name="All 2")).to_be_visible()
    client.submit(site("deal-3"))
    expect(page.get_by_role("link", name="All 3")).to_be_visible()
    assert len(held) == 1
    page.get_by_role("link", name="Cancelled 0").click()
    expect(page.get_by_text("No batch is like that.")).to_be_visible()
    before = len(asked)
    with page.expect_response(lambda response: len(asked) > before and response.url == asked[before]):
        held[0].continue_()
    assert "status=cancelled" in asked[before]
    expect(page.get_by_text("No batch is like that.")).to_be_visible()


def test_a_list_grows_while_the_one_before_it_still_waits_for_rows(signed_in: SignedIn, client: OrganizationClient) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(120)))
    page = signed_in(f"batches/{job['job_id']}").page
    sites = page.get_by_role("region", name="Sites")
    held: list[Route] = []
    first, last = (sites.get_by_role("row", name=f"deal-{number} ") for number in (0, 49))
    expect(first).to_be_visible()
    page.route(re.compile("/items.*cursor="), lambda route: route.continue_() if "q=" in route.request.url else held.append(route))
    with page.expect_request(re.compile("/items.*cursor=")):
        last.scroll_into_view_if_needed()
    page.get_by_role("searchbox").fill("Spring")
    expect(first.get_by_role("link")).to_have_attribute("href", re.compile("q=Spring"))
    last.scroll_into_view_if_needed()
    expect(sites.get_by_role("row", name="deal-60 ")).to_be_visible()
    for route in held:
        route.abort()


def test_a_key_far_down_is_revoked_where_it_is(signed_in: SignedIn, client: OrganizationClient) -> None:
    for number in range(60):
        client.post("/api-keys", json={"name": f"Key {number}", "scopes": ["jobs:read"]})
    page = signed_in("keys").page
    expect(page.locator("tbody tr")).to_have_count(50)
    page.mouse.wheel(0, 100_000)
    expect(page.locator("tbody tr")).to_have_count(61)
    key = page.get_by_role("row", name=re.compile("^Key 3 "))
    revoke = key.get_by_role("button", name="Revoke Key 3")
    revoke.click()
    page.get_by_role("button", name="Never mind").click()
    expect(revoke).to_be_focused()
    revoke.click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(key).to_contain_text("revoked")
    expect(key).to_be_in_viewport()
    expect(page.get_by_role("row", name=re.compile("^Key 0 "))).to_have_count(1)


def test_the_reference_field_of_applications_shows_the_filter(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in("applications?reference=deal-1").page
    reference = page.get_by_role("searchbox", name="Reference")
    expect(reference).to_have_value("deal-1")
    expect(page.get_by_text("No application is like that.")).to_be_visible()
    reference.fill("deal-2")
    reference.press("Enter")
    expect(page).to_have_url(re.compile("reference=deal-2"))
    page.get_by_role("link", name="Applications").click()
    expect(page.get_by_text("No applications. Sites that are uploaded")).to_be_visible()
    expect(reference).to_have_value("")
    page.get_by_role("link", name="Webhooks").click()
    expect(page.get_by_text("Nothing has been sent.")).to_be_visible()
    page.get_by_role("link", name="Failed").click()
    expect(page.get_by_text("No delivery is like that.")).to_be_visible()


def test_the_search_field_shows_what_is_searched_for(signed_in: SignedIn, client: OrganizationClient) -> None:
    client.submit()
    page = signed_in("batches").page
    search = page.get_by_role("searchbox")
    search.fill("nothing")
    page.get_by_role("link", name="Show all").click()
    expect(page.get_by_text("No batch is like that.")).to_have_count(0)
    expect(search).to_have_value("")
    page.evaluate("location.hash = '#/batches?search=Batch'")
    expect(search).to_have_value("Batch")
    search.fill("Batch Lookup")
    expect(page).to_have_url(re.compile("search=Batch\\+Lookup"))
    expect(search).to_have_value("Batch Lookup")
