"""What a screen reader says, and what does not move for people who want it so."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Connection
from tests.http_fixtures import OrganizationClient, look_up, site
from tests.portal.conftest import DESKTOP, PHONE, Person, SignedIn
from tests.timed import wait_until

ANSWER = {
    "utility": {"eiaid": 1, "name": "City Power"},
    "incentives": {
        "total_incentive_amount": 3750,
        "by_program": [{"program_id": "p", "program_name": "Heat pump rebate", "total_incentive": 3750, "eligible_combinations": 1}],
    },
}
# Every sentence that a screen reader would announce, and when.
LISTEN = """() => {
    window.said = []
    const note = () => {
        for (const region of document.querySelectorAll('[role=status], [role=alert], [aria-live]')) {
            const text = region.innerText.trim()
            if (text && region.said !== text) window.said.push([Date.now() / 1000, text])
            region.said = text
        }
    }
    note()
    window.said = []
    new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true})
}"""
QUIET_SECONDS = 10


def said(page: Page) -> list[tuple[float, str]]:
    return [(at, text) for at, text in page.evaluate("window.said")]


def expect_spoken(page: Page, told: str) -> None:
    """For a page whose clock stands still: the answer that is to be told may come only after the clock has been turned once."""
    live = page.locator("[data-live]")

    def is_spoken() -> bool:
        page.clock.run_for(QUIET_SECONDS * 1000)
        return live.text_content() == told

    wait_until(is_spoken, lambda: f"not {told!r}, but {live.text_content()!r}")


@pytest.mark.parametrize("screen", ["batch", "report"])
def test_at_most_one_sentence_is_spoken_every_ten_seconds(
    person: Person, client: OrganizationClient, database: Connection, screen: str
) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(10)))
    look_up(database, job, 1, ANSWER)
    page = person.page
    page.clock.install()
    person.sign_in(client.api_key, f"batches/{job['job_id']}" if screen == "batch" else f"reports/{job['report']['id']}")
    place = page.get_by_role("region", name="Progress") if screen == "batch" else page.locator(".figure strong").first

    def text(count: int) -> str:
        return f"{count}0%" if screen == "batch" else f"${count * 3750:,}"

    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(place).to_contain_text(text(1))
    page.evaluate(LISTEN)
    for count in range(2, 10):
        look_up(database, job, 1, ANSWER)
        page.clock.run_for(2000)
        expect(place).to_contain_text(text(count))
    page.clock.run_for(11_000)
    expect(page.locator("[data-live]")).to_contain_text(text(9))
    sentences = said(page)
    assert len(sentences) >= 2
    for (before, _), (after, _) in itertools.pairwise(sentences):
        assert after - before >= QUIET_SECONDS - 0.01, sentences


def test_every_chart_has_its_figures_as_a_table(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = client.submit(site("deal-1"), site("deal-2"))
    look_up(database, job, 1, ANSWER)
    look_up(database, job, 1, {"incentives": {"total_incentive_amount": 0}})
    page = signed_in(f"reports/{job['report']['id']}").page
    expect(page.get_by_role("img", name="1 eligible site of 2")).to_be_visible()
    tables: dict[str, Any] = {
        "Eligibility": [re.compile("^Eligible 1"), "Not eligible 1"],
        "Incentives by state": [re.compile("^California 2 1 \\$3,750$")],
        "Programs": ["Heat pump rebate 1 $3,750"],
        "Utilities": [re.compile("^City Power .*1 \\$3,750$")],
    }
    for name, rows in tables.items():
        chart = page.get_by_role("region", name=name)
        chart.get_by_text("As a table").click()
        for row in rows:
            expect(chart.get_by_role("row", name=row)).to_be_visible()
    for chart in page.locator(".chart:has(svg), .chart:has(.bars li)").all():
        expect(chart.locator("table")).to_have_count(1)


def test_nothing_moves_for_people_who_want_it_so(signed_in: SignedIn, client: OrganizationClient) -> None:
    job = client.submit(site())
    page = signed_in(f"batches/{job['job_id']}").page
    expect(page.get_by_role("progressbar")).to_be_visible()
    moving = """() => [...document.querySelectorAll('*')]
        .flatMap(element => [undefined, '::before', '::after', '::backdrop'].map(part => getComputedStyle(element, part)))
        .filter(style => /[1-9]/.test(style.transitionDuration) || style.animationName !== 'none' || style.scrollBehavior !== 'auto')
        .length"""
    assert page.evaluate(moving) > 0
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moving) == 0


def test_what_colours_mean_is_visible_where_colours_are_forced(
    signed_in: SignedIn, client: OrganizationClient, database: Connection
) -> None:
    job = client.submit(site("deal-1"), site("deal-2"))
    look_up(database, job, 1, ANSWER)
    page = signed_in(f"batches/{job['job_id']}").page
    expect(page.locator(".bar .completed")).to_be_visible()
    page.emulate_media(forced_colors="active", reduced_motion="reduce")
    backgrounds = "names => names.map(name => getComputedStyle(document.querySelector(name)).backgroundColor)"
    empty, done, legend, tab, other = page.evaluate(
        backgrounds, [".bar", ".bar .completed", ".legend .completed", ".tabs [aria-current]", ".tabs a:not([aria-current])"]
    )
    assert done not in (empty, "rgba(0, 0, 0, 0)")
    assert legend == done
    assert tab != other

    rows = "reference_id,building_type\ndeal-1,Hut\n"
    draft = client.upload(rows)
    page.goto(f"{page.url.partition('#')[0]}#/uploads/{draft['id']}?step=check&problem=unknown_building_type&field=building_type")
    expect(page.locator(".groups .problem[aria-current]")).to_contain_text("not a building type")
    others = [".groups a:not([aria-current])", ".groups .problem[aria-current]"]
    group, chosen = page.evaluate(backgrounds, others)
    assert chosen == tab != group

    page.get_by_role("gridcell", name="deal-1").click()
    page.keyboard.press("ArrowRight")
    ring, text = page.locator(":focus").evaluate("cell => [getComputedStyle(cell).outlineColor, getComputedStyle(cell).color]")
    assert ring == text


def test_every_screen_has_a_title(signed_in: SignedIn) -> None:
    person = signed_in("")
    for address, title in {
        "": "Batches",
        "upload": "New upload",
        "reports/difference?from=a&to=b": "Difference",
        "usage": "Usage",
        "elsewhere": "Nothing here",
    }.items():
        person.open(address)
        expect(person.page).to_have_title(f"{title} · Batch Lookups")
    person.page.get_by_role("button", name="Sign out").click()
    expect(person.page).to_have_title("Sign in · Batch Lookups")


def test_a_batch_that_is_cancelled_says_what_was_looked_up(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(10)))
    look_up(database, job, 2, ANSWER)
    client.post(f"/batch-lookups/{job['job_id']}/cancel")
    page = signed_in(f"batches/{job['job_id']}").page
    expect(page.locator("[data-live]")).to_have_text("Cancelled: 2 of 10 sites looked up, 8 failed")


def test_an_upload_is_spoken_while_it_is_sent(signed_in: SignedIn) -> None:
    page = signed_in("upload").page
    page.route(re.compile("/uploads\\?name"), lambda _: None)
    page.locator("input[type=file]").set_input_files({"name": "sites.csv", "mimeType": "text/csv", "buffer": b"Deal ID\n1\n"})
    expect(page.locator("[data-live]")).to_have_text("Uploading sites.csv")


def test_what_a_filter_finds_is_spoken(person: Person, client: OrganizationClient) -> None:
    page = person.page
    page.clock.install()
    client.post("/batch-lookups", params={"name": "January"}, json=[site()])
    client.post("/batch-lookups", params={"name": "February"}, json=[site()])
    person.sign_in(client.api_key, "batches")
    live = page.locator("[data-live]")
    expect(live).to_have_text("2 batches are running")
    for status, told in (("Completed 0", "Nothing found"), ("Not started 2", "2 found"), ("All 2", "2 batches are running")):
        page.get_by_role("link", name=status).click()
        expect(page.get_by_role("link", name=status)).to_have_attribute("aria-current", "true")
        expect(page.get_by_text("No batch is like that.")).to_have_count(1 if told == "Nothing found" else 0)
        expect_spoken(page, told)


@pytest.mark.parametrize("shown", ["grid", "cards"])
def test_what_a_search_in_a_draft_finds_is_spoken(person: Person, client: OrganizationClient, shown: str) -> None:
    page = person.page
    page.set_viewport_size(DESKTOP if shown == "grid" else PHONE)
    page.clock.install()
    rows = "".join(f"deal-{n},{n} Main St,Oakland,CA,94601,Hut,1\n" for n in range(3))
    draft = client.post(
        "/uploads",
        content=f"reference_id,street_1,city,state_or_province_code,postal_code,building_type,device_ids\n{rows}",
        headers={"content-type": "text/csv"},
    ).json()
    person.sign_in(client.api_key, f"uploads/{draft['id']}?step=check")
    live = page.locator("[data-live]")
    expect(live).to_have_text("0 rows are ready, 3 to repair")
    for text, told in (("deal-2", "1 found"), ("deal-9", "Nothing found")):
        page.get_by_role("searchbox", name="Search cells").fill(text)
        page.clock.run_for(QUIET_SECONDS * 2 * 1000)
        if shown == "grid":
            expect(page.get_by_role("grid")).to_have_attribute("aria-rowcount", "2" if told == "1 found" else "1")
        else:
            expect(page.get_by_role("region", name=re.compile("^Row "))).to_have_count(1 if told == "1 found" else 0)
        expect_spoken(page, told)


def test_a_cell_on_a_phone_is_described_by_what_is_wrong_with_it(signed_in: SignedIn, client: OrganizationClient) -> None:
    header = "reference_id,street_1,city,state_or_province_code,postal_code,building_type,device_ids"
    draft = client.post(
        "/uploads", content=f"{header}\ndeal-1,1 Main St,Oakland,CA,94601,Hut,1\n", headers={"content-type": "text/csv"}
    ).json()
    person = signed_in(f"uploads/{draft['id']}?step=check")
    person.page.set_viewport_size(PHONE)
    cell = person.page.get_by_role("textbox", name="building_type")
    expect(cell).to_have_attribute("aria-invalid", "true")
    expect(cell).to_have_accessible_description(re.compile("Hut is not a building type"))
    expect(person.page.get_by_role("region", name="Start").get_by_role("textbox").first).not_to_have_attribute("aria-invalid", "true")


def test_the_steps_of_a_draft_say_what_their_counts_mean(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = client.upload("Deal ID,City\n101,Oakland\n")
    page = signed_in(f"uploads/{draft['id']}").page
    steps = page.get_by_role("navigation", name="Steps").get_by_role("link")
    expect(steps).to_have_count(2)
    expect(steps.first).to_have_accessible_name(f"1. Columns {len(draft['missing_fields'])} missing")
    expect(steps.last).to_have_accessible_name("2. Check 1 to repair")
