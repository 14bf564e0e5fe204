"""Numbers, amounts, dates and times in the form of the browser's language."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.conftest import Connection
from tests.http_fixtures import OrganizationClient, look_up, site
from tests.portal.conftest import Person, SignedIn

ANSWER = {"incentives": {"total_incentive_amount": 3750}}
GERMAN = {"locale": "de-DE", "timezone_id": "Europe/Berlin"}
FRENCH = {"locale": "fr-FR", "timezone_id": "Europe/Paris"}
AMERICAN = {"locale": "en-US", "timezone_id": "America/New_York"}


def forms(**values: Any) -> Any:
    """The texts of each language, where `~` is the narrow space that French has in numbers, `_` the space before a unit."""
    cases = [(GERMAN, values["german"]), (FRENCH, values["french"]), (AMERICAN, values["american"])]
    return pytest.mark.parametrize(
        ("page", "shown"),
        [(language, [text.replace("~", "\u202f").replace("_", "\u00a0") for text in texts]) for language, texts in cases],
        indirect=["page"],
        ids=values,
    )


@forms(
    german=["1.000", "83_%", "3.750.000_$", "3,8_Mio._$", "5. Nov. 2025", "15:07:00"],
    french=["1~000", "83~%", "3~750~000_$US", "3,8_M_$US", "5 nov. 2025", "15:07:00"],
    american=["1,000", "83%", "$3,750,000", "$3.8M", "Nov 5, 2025", "9:07:00 AM"],
)
def test_figures_have_the_form_of_the_language(
    signed_in: SignedIn, client: OrganizationClient, database: Connection, shown: list[str]
) -> None:
    count, share, amount, short_amount, day, time = shown
    job = client.post("/batch-lookups", params={"name": "Large"}, json=[site(f"deal-{n}") for n in range(1200)]).json()
    look_up(database, job, 1000, ANSWER)
    for table, column in (("batch_lookup_jobs", "id"), ("incentive_reports", "job_id")):
        database.execute(f"update public.{table} set created_at = '2025-11-05 14:07+00' where {column} = %s".encode(), [job["job_id"]])
    page = signed_in("batches").page
    row = page.get_by_role("row", name=re.compile("Large"))
    expect(row).to_contain_text(share)
    expect(row).to_contain_text(short_amount)
    expect(row).to_contain_text(day)
    expect(row.locator("time")).to_have_attribute("title", re.compile(re.escape(time)))
    page.goto(f"{page.url.split('#')[0]}#/batches/{job['job_id']}")
    expect(page.get_by_role("region", name="Progress")).to_contain_text(f"completed {count}")
    page.get_by_role("link", name="Report", exact=True).click()
    expect(page.locator(".figure strong").first).to_have_text(amount)


@pytest.mark.parametrize(("languages", "shown"), [(["C"], "1,000"), (["en-US@posix", "de-DE"], "1.000")], ids=["none", "another"])
def test_a_language_that_is_a_locale_of_the_system_is_skipped(
    signed_in: SignedIn, client: OrganizationClient, person: Person, languages: list[str], shown: str
) -> None:
    person.page.add_init_script(f"Object.defineProperty(navigator, 'languages', {{value: {languages}}})")
    client.post("/batch-lookups", params={"name": "Large"}, json=[site(f"deal-{n}") for n in range(1000)])
    expect(signed_in("batches").page.get_by_role("row", name=re.compile("Large"))).to_contain_text(shown)


@forms(german=["1.000", "1,5"], french=["1 000", "1,5"], american=["1,000", "1.5"])
def test_a_limit_is_typed_in_the_form_of_the_language(
    signed_in: SignedIn, client: OrganizationClient, database: Connection, shown: list[str]
) -> None:
    thousand, broken = shown
    rows = "".join(f"deal-{n},{n} N Spring St,Los Angeles,CA,90012,RESIDENTIAL,1\n" for n in range(3))
    header = "reference_id,street_1,city,state_or_province_code,postal_code,building_type,device_ids\n"
    draft = client.upload(header + rows)
    page = signed_in(f"uploads/{draft['id']}").page
    limit = page.get_by_label("Stop after this many lookups")
    start = page.get_by_role("button", name="Start 3 sites")
    for text in (broken, "0", "many"):
        limit.fill(text)
        start.click()
        assert limit.evaluate("input => input.matches(':invalid')"), text
    limit.fill(thousand)
    start.click()
    expect(page.get_by_role("region", name="Progress")).to_be_visible()
    [job] = client.get("/batch-lookups").json()["jobs"]
    assert database.execute("select max_lookups from app.job_budgets where job_id = %s", [job["id"]]).fetchone() == (1000,)


# Whether the letters of the element's own texts stand from left to right in each line.
FORWARD = """element => [...element.childNodes].filter(node => node.nodeType === Node.TEXT_NODE).every(node => {
    const places = [...node.data].map((_, at) => {
        const range = document.createRange()
        range.setStart(node, at)
        range.setEnd(node, at + 1)
        return range.getBoundingClientRect()
    })
    return places.every(({left, top}, at) => at === 0 || top > places[at - 1].top + 5 || left >= places[at - 1].left)
})"""


def test_a_name_from_right_to_left_turns_nothing_around_it(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    hebrew, override = "\u05ea\u05d9\u05e7 2026", "\u202eMarch"
    reports = []
    for name in (hebrew, override, "April"):
        job = client.post("/batch-lookups", params={"name": name}, json=[site()]).json()
        look_up(database, job, 1, ANSWER)
        reports.append(job["report"]["id"])
    page = signed_in(f"reports/difference?from={reports[0]}&to={reports[1]}").page
    sums = page.locator(".heading p")
    expect(sums).to_contain_text("($3,750)")
    assert sums.evaluate(FORWARD)
    page.get_by_role("link", name="March").click()
    expect(page).to_have_title("March · Batch Lookups")
    expect(page.get_by_label("Compare with").locator("option").nth(2)).to_contain_text(f"\u2068{hebrew}\u2069, ")
    page.get_by_role("button", name="Download…").click()
    with page.expect_download():
        page.get_by_role("button", name="Sites as CSV").click()
    expect(page.get_by_role("status").last).to_have_text("March.csv is there")
    page.get_by_role("button", name="More…").click()
    page.get_by_role("button", name="Delete…").click()
    expect(page.get_by_role("dialog", name="Delete March?")).to_be_visible()


@pytest.fixture
def service_role_key(database: Connection) -> str:
    [key] = database.execute("select api.internal_key()").fetchone() or [None]
    return str(key)


@pytest.mark.parametrize("page", [GERMAN], indirect=True)
def test_settings_are_shown_and_typed_in_german(person: Person, service_role_key: str, database: Connection) -> None:
    page = person.page
    person.sign_in(service_role_key)
    for name, typed, stored in (("retry_backoff_seconds", "0,25", 0.25), ("max_in_flight", "1.500", 1500)):
        setting = page.get_by_role("textbox", name=name, exact=True)
        setting.fill(typed)
        setting.press("Enter")
        expect(page.get_by_text(f"{name} is changed")).to_be_visible()
        assert database.execute(f"select {name}::float from app.settings").fetchone() == (stored,)
    page.reload()
    expect(page.get_by_role("textbox", name="retry_backoff_seconds", exact=True)).to_have_value("0,25")
    expect(page.get_by_role("textbox", name="max_in_flight", exact=True)).to_have_value("1.500")


def test_a_time_of_today_becomes_one_of_yesterday_at_midnight(person: Person, client: OrganizationClient) -> None:
    page = person.page
    page.clock.install()
    person.sign_in(client.api_key, "keys")
    last_used = page.get_by_role("row").nth(1).locator("time").first
    expect(last_used).to_have_text(re.compile(r"^\d+:\d+"))
    page.clock.fast_forward(24 * 60 * 60 * 1000)
    page.clock.run_for(2000)
    expect(last_used).to_have_text(re.compile(r"^[A-Z][a-z]+ \d+"))


@pytest.fixture
def service_date(page: Page) -> dict[str, str]:
    """What the service says that the time is, as `date`."""
    said: dict[str, str] = {}

    def answer(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, headers=response.headers | said)

    page.route("**/*", answer)
    return said


def test_the_turn_of_the_year_takes_no_hour_from_a_time(
    person: Person, client: OrganizationClient, database: Connection, service_date: dict[str, str]
) -> None:
    for name, at in (("Autumn", "2026-11-30 23:55+00"), ("Holidays", "2026-12-31 23:55+00")):
        job = client.post("/batch-lookups", params={"name": name}, json=[site()]).json()
        database.execute("update public.batch_lookup_jobs set created_at = %s where id = %s", [at, job["job_id"]])
    page = person.page
    page.clock.install(time="2027-01-01T00:05:00Z")
    service_date["date"] = "Fri, 01 Jan 2027 00:05:00 GMT"
    person.sign_in(client.api_key)
    expect(page.get_by_role("row", name="Holidays").locator("time")).to_have_text(re.compile(r"^Dec 31, 11:55\sPM$"))
    expect(page.get_by_role("row", name="Autumn").locator("time")).to_have_text("Nov 30, 2026")


def test_midnight_comes_by_the_clock_of_the_service(
    person: Person, client: OrganizationClient, database: Connection, service_date: dict[str, str]
) -> None:
    job = client.submit(site())
    database.execute("update public.batch_lookup_jobs set created_at = '2026-11-30 12:00+00' where id = %s", [job["job_id"]])
    page = person.page
    page.clock.install(time="2026-11-30T23:40:00Z")
    service_date["date"] = "Mon, 30 Nov 2026 23:50:00 GMT"
    person.sign_in(client.api_key)
    created = page.get_by_role("row").nth(1).locator("time")
    expect(created).to_have_text(re.compile(r"^12:00\sPM$"))
    service_date["date"] = "Tue, 01 Dec 2026 00:05:00 GMT"
    page.clock.fast_forward(15 * 60 * 1000)
    page.clock.run_for(2000)
    expect(created).to_have_text(re.compile(r"^Nov 30, 12:00\sPM$"))


@pytest.mark.parametrize(
    ("page", "typed"),
    [({"locale": "ar-EG"}, "\u0667"), ({"locale": "fa-IR"}, "\u06f7"), ({"locale": "mr-IN"}, "\u096d")],
    indirect=["page"],
    ids=["arabic", "persian", "marathi"],
)
def test_numbers_are_typed_in_the_digits_in_which_they_are_shown(person: Person, service_role_key: str, typed: str) -> None:
    page = person.page
    person.sign_in(service_role_key)
    retries = page.get_by_role("textbox", name="max_retries", exact=True)
    retries.fill(typed)
    retries.press("Enter")
    expect(page.get_by_text("max_retries is changed")).to_be_visible()
    page.reload()
    expect(retries).to_have_value(typed)
