"""A report: live, filtered, as a file and on paper."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.conftest import Connection
from tests.http_fixtures import OrganizationClient, address, look_up, site
from tests.portal.conftest import Person, SignedIn

AUSTIN = address(city="Austin", state_or_province_code="TX", postal_code="78701")


def pays(amount: float, utility: str) -> dict[str, object]:
    program = {"program_id": utility.lower(), "program_name": f"{utility} rebate", "total_incentive": amount, "eligible_combinations": 1}
    return {
        "utility": {"eiaid": None, "name": utility},
        "incentives": {"total_incentive_amount": amount, "by_program": [program] if amount else []},
    }


def test_a_report_grows_is_filtered_and_downloaded(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    sites = [site("la-1"), site("la-2"), site("austin-1", address=AUSTIN), site("austin-2", address=AUSTIN)]
    job = client.post("/batch-lookups", params={"name": "Two cities"}, json=sites).json()
    look_up(database, job, 2, pays(3750, "Water & Power"))
    person = signed_in("reports")
    page = person.page
    person.look("reports")
    page.get_by_role("link", name="Two cities").click()
    expect(page.get_by_text("the figures grow")).to_be_visible()
    expect(page.get_by_text("$7,500").first).to_be_visible()

    look_up(database, job, 1, pays(1200, "Austin Energy"))
    look_up(database, job, 1, pays(0, "Austin Energy"))
    expect(page.get_by_text("$8,700").first).to_be_visible()
    expect(page.get_by_role("img", name="3 eligible sites of 4")).to_be_visible()
    person.look("report")
    states = page.get_by_role("region", name="Incentives by state")
    states.get_by_text("As a table").click()
    expect(states.get_by_role("row", name="Texas 2 1 $1,200")).to_be_visible()

    rows = page.get_by_role("region", name="Sites").locator("tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.first).to_contain_text("$3,750")
    page.get_by_role("button", name="Austin Energy rebate").click()
    expect(rows).to_have_count(1)
    assert "program=austin" in page.url
    page.reload()
    expect(rows).to_have_count(1)
    shown = page.get_by_role("button", name="Show all programs")
    expect(shown).to_have_text(re.compile("^Austin Energy rebate "))
    shown.click()
    page.get_by_role("combobox", name="Eligibility").select_option("Not eligible")
    expect(rows).to_have_text([re.compile("austin-2")])
    # Its batch explains how its amount adds up.
    page.get_by_role("link", name="austin-2").click()
    expect(page.get_by_role("heading", name="Two cities")).to_be_visible()
    expect(rows).to_have_text([re.compile("austin-2")])
    page.go_back()
    expect(page.get_by_role("combobox", name="Eligibility")).to_have_value("false")

    page.get_by_role("combobox", name="Eligibility").select_option("Eligible or not")

    texas = states.get_by_role("button", name="Texas, $1,200")
    texas.click()
    expect(rows).to_have_text([re.compile("austin-1"), re.compile("austin-2")])
    expect(texas).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("combobox", name="State")).to_have_value("TX")
    person.look("report-state")
    page.get_by_role("button", name="Download…").click()
    with page.expect_download() as downloads:
        page.get_by_role("button", name="Filtered sites as CSV").click()
    filtered = downloads.value.path().read_text()
    assert "austin-1" in filtered
    assert "la-1" not in filtered
    texas.focus()
    expect(texas).to_be_focused()
    page.keyboard.press("Enter")
    expect(rows).to_have_count(4)

    page.get_by_role("button", name="Download…").click()
    with page.expect_download() as downloads:
        page.get_by_role("button", name="A page to forward").click()
    assert "Two cities" in downloads.value.path().read_text()
    page.get_by_role("button", name="Share…").click()
    page.get_by_role("button", name="Create a link").click()
    link = page.locator(".secret code")
    expect(link).to_have_text(re.compile("/shared-reports/"))
    person.look("report-share")
    assert page.context.browser is not None
    with page.context.browser.new_context() as clean_profile:
        visitor = clean_profile.new_page()
        visitor.goto(link.inner_text())
        expect(visitor.get_by_role("heading", name="Two cities")).to_be_visible()
        page.get_by_role("button", name="Revoke").click()
        expect(page.get_by_role("button", name="Revoke")).to_have_count(0)
        visitor.reload()
        expect(visitor.get_by_role("heading", name="Two cities")).to_have_count(0)
    page.keyboard.press("Escape")
    page.emulate_media(media="print")
    expect(page.get_by_role("navigation")).to_be_hidden()
    expect(page.get_by_text("Skip to content")).to_be_hidden()
    expect(page.get_by_label("Compare with")).to_be_hidden()
    expect(page.locator(".legend i").first).to_have_css("print-color-adjust", "exact")


def test_a_report_tells_what_was_not_looked_up(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(5)))
    look_up(database, job, 1, pays(100, "City Power"))
    look_up(database, job, 1, {"error": "no"}, status=404)
    person = signed_in(f"reports/{job['report']['id']}")
    page = person.page
    heading = page.locator(".heading p")
    looked_up = page.locator(".figure", has_text="looked up").last
    expect(heading).to_contain_text("1 of 5 sites was not looked up, and the figures leave them out. The batch")
    client.post(f"/batch-lookups/{job['job_id']}/cancel")
    expect(heading).to_have_text(re.compile(r"^Cancelled, [\d:]+ [AP]M\. 4 of 5 sites were not looked up, and the figures leave them"))
    expect(looked_up).to_have_text("1site looked upof 5 uploaded")
    person.look("report-cancelled")
    assert "No site looked up" in client.get(f"/incentive-reports/{job['report']['id']}/html").text
    never_begun = client.submit(site("deal-7"), site("deal-8"))
    client.post(f"/batch-lookups/{never_begun['job_id']}/cancel")
    page.goto(f"{person.server}/portal#/reports")
    expect(page.get_by_role("row", name=re.compile("5 sites"))).to_contain_text("Ended")
    expect(page.get_by_role("row", name=re.compile("2 sites"))).to_contain_text("No site looked up")

    client.delete(f"/batch-lookups/{job['job_id']}")
    page.go_back()
    expect(heading).to_have_text(re.compile(r"^Ended, [\d:]+ [AP]M\.\s*$"))


def test_a_report_of_few_of_its_sites_is_not_called_complete(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(3)))
    look_up(database, job, 2, {"error": "no"}, status=404)
    look_up(database, job, 1, pays(100, "City Power"))
    page = signed_in(f"reports/{job['report']['id']}").page
    expect(page.locator(".heading p")).to_contain_text("Ended without most of its sites,")


@pytest.mark.parametrize(
    ("eligible", "sites", "shown"), [(0, 3, "0%"), (1, 300, "1%"), (5, 8, "63%"), (8, 11, "73%"), (299, 300, "99%"), (3, 3, "100%")]
)
def test_the_portal_and_the_page_to_forward_round_alike(
    signed_in: SignedIn, client: OrganizationClient, database: Connection, eligible: int, sites: int, shown: str
) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(sites)))
    look_up(database, job, eligible, pays(100, "City Power"))
    look_up(database, job, sites - eligible, pays(0, "City Power"))
    page = signed_in("reports").page
    expect(page.get_by_role("cell", name=f"{eligible} of {sites} · {shown}", exact=True)).to_be_visible()
    page.get_by_role("link", name=f"{sites} sites").click()
    expect(page.locator(".figure", has_text="eligible site").first).to_contain_text(f"{shown} of the sites looked up")
    expect(page.locator(".donut text")).to_have_text(shown)
    assert f"{shown} of the sites looked up" in client.get(f"/incentive-reports/{job['report']['id']}/html").text


def test_two_reports_are_compared(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    for name, amounts in (("Last month", {"deal-1": 100, "deal-2": 200}), ("This month", {"deal-2": 350, "deal-3": 400})):
        job = client.post("/batch-lookups", params={"name": name}, json=[site(reference_id) for reference_id in amounts]).json()
        for amount in amounts.values():
            look_up(database, job, 1, pays(amount, "City Power"))
    person = signed_in(f"reports/{job['report']['id']}")
    person.page.get_by_role("combobox", name="Compare with").select_option(index=1)
    expect(person.page.get_by_role("heading", name="+$450")).to_be_visible()
    rows = person.page.locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(person.page.locator(".figure span")).to_have_text(["site added", "site removed", "site changed", "sites unchanged"])
    person.look("report-difference")
    person.page.get_by_role("link", name="Changed 1").click()
    expect(rows).to_have_text([re.compile("deal-2.*Changed.*200.*350.*150")])


def test_amounts_that_depend_on_the_household_are_shown_separately(
    signed_in: SignedIn, client: OrganizationClient, database: Connection
) -> None:
    job = client.submit(site("sure"), site("depends"))
    look_up(database, job, 1, pays(1000, "City Power"))
    look_up(database, job, 1, {"incentives": {"total_incentive_amount": 0, "conditional_incentive_amount": 801}})
    person = signed_in(f"reports/{job['report']['id']}")
    total = person.page.locator(".figure", has_text="total incentives")
    expect(total).to_contain_text("$1,000")
    expect(total).to_contain_text("and up to $801 that depends on facts about the households")
    expect(person.page.get_by_role("row", name=re.compile("depends"))).to_contain_text("$801 conditional")
    expect(person.page.get_by_text("conditional")).to_have_count(1)
    person.look("report-conditional")


def test_what_depends_on_the_household_is_compared_separately(
    signed_in: SignedIn, client: OrganizationClient, database: Connection
) -> None:
    for name, conditional in (("Last month", 801), ("This month", 1200)):
        job = client.post("/batch-lookups", params={"name": name}, json=[site()]).json()
        look_up(database, job, 1, {"incentives": {"total_incentive_amount": 100, "conditional_incentive_amount": conditional}})
    person = signed_in(f"reports/{job['report']['id']}")
    person.page.get_by_role("combobox", name="Compare with").select_option(index=1)
    expect(person.page.get_by_text("Depending on facts about the households: from $801 to $1,200")).to_be_visible()
    expect(person.page.locator(".figure", has_text="site changed")).to_contain_text("+$399 conditional")
    amounts = re.compile(r"\$100\s*\$801 conditional.*\$100\s*\$1,200 conditional.*\$0\s*\+\$399 conditional")
    expect(person.page.locator("tbody tr")).to_have_text([amounts])
    person.look("report-difference-conditional")


def test_the_report_to_compare_with_is_chosen_from_the_list(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    for name, amount in (("Last month", 100), ("This month", 350)):
        job = client.post("/batch-lookups", params={"name": name}, json=[site()]).json()
        look_up(database, job, 1, pays(amount, "City Power"))
    person = signed_in("reports")
    page = person.page
    page.get_by_role("button", name="Compare This month").click()
    expect(page.get_by_text("Choose what to compare This month with.")).to_be_visible()
    person.look("reports-compare")
    page.get_by_role("button", name="Compare with Last month").click()
    expect(page.get_by_role("heading", name="+$250")).to_be_visible()


@pytest.mark.parametrize("width", [768, 1000, 1280])
def test_a_long_name_has_a_line_of_its_own(signed_in: SignedIn, client: OrganizationClient, width: int) -> None:
    name = f"Portfolio of the Municipal Property Management and Development, {'X' * 60}, second revision"
    client.post("/batch-lookups", params={"name": "Short"}, json=[site()])
    job = client.post("/batch-lookups", params={"name": name}, json=[site()]).json()
    page = signed_in(f"reports/{job['report']['id']}").page
    page.set_viewport_size({"width": width, "height": 800})
    heading = page.locator("main > .heading")
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    expect(page.get_by_label("Compare with")).to_be_visible()
    tops = heading.locator("> button, > select").evaluate_all("all => all.map(each => Math.round(each.getBoundingClientRect().top))")
    assert len(set(tops)) == 1, tops
    bottom = heading.locator("> div:not([popover])").evaluate("name => name.getBoundingClientRect().bottom")
    assert tops[0] > bottom


def test_a_difference_that_rounds_to_nothing_has_no_sign(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    for name, amounts in (("Before", {"deal-1": 100.4, "deal-2": 200}), ("After", {"deal-1": 100, "deal-2": 200.4})):
        job = client.post("/batch-lookups", params={"name": name}, json=[site(reference_id) for reference_id in amounts]).json()
        for amount in amounts.values():
            look_up(database, job, 1, pays(amount, "City Power"))
    page = signed_in(f"reports/{job['report']['id']}").page
    page.get_by_role("combobox", name="Compare with").select_option(index=1)
    expect(page.get_by_role("heading", level=1)).to_have_text("$0")
    expect(page.locator("tbody tr td:last-child")).to_have_text(["$0", "$0"])


def test_the_list_of_reports_is_read_once_per_interval_while_polling(person: Person, client: OrganizationClient) -> None:
    client.submit(site())
    page, asked, read = person.page, list[str](), list[str]()
    page.route_web_socket(re.compile("/realtime/"), lambda socket: socket.close())
    page.clock.install()
    person.sign_in(client.api_key, "reports")
    expect(page.get_by_role("row")).to_have_count(2)
    expect(page.get_by_text("Polling", exact=True)).to_be_visible()
    page.clock.pause_at(page.evaluate("Date.now()") + 1000)
    page.on("request", lambda request: asked.append(request.url) if "/incentive-reports" in request.url else None)
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda request: read.append(request.url) if "/incentive-reports" in request.url else None)
    for _ in range(60):
        page.clock.run_for(1000)
        page.wait_for_timeout(30)
        while len(read) < len(asked):
            page.wait_for_timeout(30)
    assert 8 <= len(asked) <= 13


def test_the_list_of_reports_updates_by_itself(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = client.submit(site("deal-1"))
    page = signed_in("reports").page
    report = page.locator("tbody tr")
    expect(report).to_contain_text(re.compile("In progress.*0 of 0.*[$]0"))
    look_up(database, job, 1, pays(900, "City Power"))
    expect(report).to_contain_text(re.compile("Ended.*1 of 1.*[$]900"))


def test_a_report_is_renamed_and_deleted(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = client.submit(site())
    person = signed_in(f"reports/{job['report']['id']}")
    page = person.page
    page.get_by_role("button", name="More…").click()
    expect(page.get_by_role("button", name="Delete…")).to_have_count(0)
    page.get_by_role("button", name="Rename…").click()
    person.look("report-rename")
    page.get_by_role("textbox", name="Name").fill("Northside homes")
    page.get_by_role("button", name="Rename", exact=True).click()
    expect(page.get_by_role("heading", name="Northside homes")).to_be_visible()
    assert client.get(f"/incentive-reports/{job['report']['id']}").json()["name"] == "Northside homes"

    look_up(database, job, 1, pays(100, "City Power"))
    expect(page.get_by_text("Complete,")).to_be_visible()
    page.get_by_role("button", name="More…").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete the report").click()
    expect(page.get_by_role("heading", name="Reports", level=1)).to_be_visible()
    assert client.get(f"/incentive-reports/{job['report']['id']}").status_code == 404
