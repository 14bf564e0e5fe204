"""Reports: read, filtered, summed, as CSV, as a page, renamed and deleted."""

from __future__ import annotations

import csv
import html
import io
import re
import shutil
import subprocess
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Page

from pyshell.api.reports.charts import NO_INCENTIVES, NO_SITES, state_tiles
from pyshell.api.reports.page import report_page
from tests.conftest import Connection
from tests.http_fixtures import UNKNOWN_ID, Json, NewClient, OrganizationClient, address, look_up, organization_of, site
from tests.timed import cpu_seconds

PROGRAM = {"program_id": "p1", "program_name": "Program", "total_incentive": 1500, "eligible_combinations": 2, "device_tier_results": []}
ANSWER: Json = {
    "utility": {"eiaid": "11208", "name": "LADWP"},
    "incentives": {"total_incentive_amount": 1500, "total_eligible_combinations": 2, "by_program": [PROGRAM]},
}


def test_a_report_grows_with_its_job(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(*(site(f"deal-{number:03}") for number in range(3)))
    path = f"/incentive-reports/{created['report']['id']}"
    assert client.get(path).json()["status"] == "processing"
    assert client.get(path).json()["sites"] == []

    look_up(database, created, 2, ANSWER)
    report = client.get(path).json()
    assert (report["status"], report["total_sites"], report["eligible_sites"]) == ("processing", 2, 2)
    assert report["total_incentive_value"] == 3000
    assert report["job_id"] == created["job_id"]

    look_up(database, created, 1, status=404)
    report = client.get(path).json()
    assert (report["status"], report["total_sites"]) == ("complete", 2)
    assert list(report)[:3] == ["id", "job_id", "name"]
    assert list(report)[-5:] == ["sites", "total", "limit", "offset", "next_cursor"]
    first = report["sites"][0]
    assert (first["reference_id"], first["eligible"], first["total_incentive_amount"]) == ("deal-000", True, 1500)
    assert first["address"] == address()
    assert first["utility"] == {"eiaid": 11208, "name": "LADWP"}
    assert first["programs"] == [{"program_id": "p1", "program_name": "Program", "total_incentive": 1500, "eligible_combinations": 2}]


def test_a_report_is_paged(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(*(site(f"deal-{number:03}") for number in range(5)))
    look_up(database, created, 5, ANSWER)
    path = f"/incentive-reports/{created['report']['id']}"

    page = client.get(path, params={"limit": 2, "offset": 2}).json()

    assert [place["reference_id"] for place in page["sites"]] == ["deal-002", "deal-003"]
    assert (page["total"], page["limit"], page["offset"], page["total_sites"]) == (5, 2, 2, 5)


def test_reports_are_listed_newest_first(client: OrganizationClient, database: Connection) -> None:
    created = [client.submit()]
    look_up(database, created[0], 1, status=400)
    created.append(client.submit())

    page = client.get("/incentive-reports").json()
    assert list(page) == ["reports", "total", "limit", "offset", "next_cursor"]
    assert [report["id"] for report in page["reports"]] == [job["report"]["id"] for job in reversed(created)]
    assert page["total"] == 2
    page = client.get("/incentive-reports", params={"status": "error"}).json()
    assert [report["id"] for report in page["reports"]] == [created[0]["report"]["id"]]


@pytest.mark.parametrize("report_id", ["1", UNKNOWN_ID])
def test_a_report_that_is_not_there_is_not_found(client: OrganizationClient, report_id: str) -> None:
    response = client.get(f"/incentive-reports/{report_id}")
    assert (response.status_code, response.json()["error"]) == (404, "Report not found")


def test_another_organizations_report_is_not_found(client: OrganizationClient, new_client: NewClient) -> None:
    report_id = new_client().submit()["report"]["id"]
    assert client.get(f"/incentive-reports/{report_id}").status_code == 404


def answer(amount: float, device_id: int = 1, utility: str = "LADWP", program: str = "p1") -> Json:
    result = {"device_id": device_id, "incentive_amount": amount, "eligible": amount > 0}
    by_program = [
        PROGRAM
        | {"program_id": program, "total_incentive": amount, "eligible_combinations": int(amount > 0), "device_tier_results": [result]}
    ]
    return {
        "utility": {"eiaid": "1", "name": utility},
        "incentives": {"total_incentive_amount": amount, "total_eligible_combinations": int(amount > 0), "by_program": by_program},
    }


@pytest.fixture
def report(client: OrganizationClient, database: Connection) -> str:
    """The path of a report of six sites: four in California, two in Texas; two utilities, two programs, and one site without a dollar."""
    texas = address(state_or_province_code="TX", city="Austin", postal_code="78701")
    sites = [site(f"deal-{n}", address=texas if n > 3 else address(), device_ids=[1, 28] if n == 2 else [1]) for n in range(6)]
    created = client.submit(*sites)
    for n, amount in enumerate((300, 100.5, 200, 0, 500, 100.5)):
        look_up(database, created, 1, answer(amount, 28 if n == 2 else 1, "Austin Energy" if n > 3 else "LADWP", f"p{n % 2}"))
    return f"/incentive-reports/{created['report']['id']}"


def references(page: Json) -> list[str]:
    return [place["reference_id"] for place in page["sites"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"eligible": "true"}, [0, 1, 2, 4, 5]),
        ({"eligible": "false"}, [3]),
        ({"state": "tx"}, [4, 5]),
        ({"utility": "austin energy"}, [4, 5]),
        ({"utility": "1"}, [0, 1, 2, 3, 4, 5]),
        ({"program": "p1"}, [1, 5]),
        ({"program": "p1", "state": "CA"}, [1]),
        ({"q": "AUSTIN"}, [4, 5]),
        ({"q": "deal-3"}, [3]),
        ({"q": "n spring st", "state": "CA", "eligible": "true"}, [0, 1, 2]),
        ({"q": "deal%"}, []),
        ({"sort": "amount"}, [3, 1, 5, 2, 0, 4]),
        ({"sort": "-amount"}, [4, 0, 2, 1, 5, 3]),
        ({"sort": "-position"}, [5, 4, 3, 2, 1, 0]),
        ({"sort": "-reference_id", "eligible": "true"}, [5, 4, 2, 1, 0]),
    ],
)
def test_sites_are_filtered_and_sorted_and_paged(client: OrganizationClient, report: str, query: Json, expected: list[int]) -> None:
    page = client.get(report, params=query).json()
    assert references(page) == [f"deal-{n}" for n in expected]
    assert (page["total"], page["next_cursor"]) == (len(expected), None)

    followed: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get(report, params=query | {"limit": 2} | cursor).json()
        assert page["total"] == len(expected)
        followed += references(page)
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert followed == [f"deal-{n}" for n in expected]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"cursor": "x"}, 400),
        ({"cursor": "eyJhIjoxfQ"}, 400),
        ({"cursor": "é"}, 400),
        ({"sort": "x"}, 400),
        ({"eligible": "x"}, 400),
        ({"limit": 501}, 400),
        ({"state": "\0"}, 400),
        ({"q": "x" * 201}, 400),
    ],
)
def test_a_wrong_page_of_sites_is_refused(client: OrganizationClient, report: str, query: Any, status: int) -> None:
    assert client.get(report, params=query).status_code == status


def test_a_cursor_belongs_to_one_order(client: OrganizationClient, report: str) -> None:
    cursor = client.get(report, params={"limit": 1}).json()["next_cursor"]
    assert client.get(report, params={"cursor": cursor, "sort": "amount"}).json()["code"] == "invalid_cursor"


def test_reports_are_filtered_by_type_and_time_and_followed_by_cursor(client: OrganizationClient) -> None:
    ids = [client.submit()["report"]["id"] for _ in range(3)][::-1]
    middle = client.get(f"/incentive-reports/{ids[1]}").json()["created_at"]

    def found(**query: str | int) -> list[str]:
        return [each["id"] for each in client.get("/incentive-reports", params=query).json()["reports"]]

    assert found(report_type="bulk_lookup", created_from="2020-01-01") == ids
    assert found(created_from=middle) == ids[:2]
    assert found(created_before=middle) == ids[2:]
    assert found(created_before="2020-01-01T00:00:00+02:00") == []
    cursor = client.get("/incentive-reports", params={"limit": 2}).json()["next_cursor"]
    client.submit()
    assert found(cursor=cursor) == ids[2:]
    for wrong in ({"created_from": "yesterday"}, {"report_type": "x"}, {"created_before": "0000-01-01"}):
        assert client.get("/incentive-reports", params=wrong).status_code == 400
    assert client.get("/incentive-reports", params={"cursor": "x"}).status_code == 400


def test_the_sums_of_a_report_match_its_rows(client: OrganizationClient, report: str, database: Connection) -> None:
    summary = client.get(report + "/summary").json()
    sites = client.get(report).json()["sites"]

    def expected(key: Any) -> dict[Any, list[Any]]:
        sums: dict[Any, list[Any]] = defaultdict(lambda: [0, 0, 0.0])
        for each in sites:
            entry = sums[key(each)]
            entry[0] += 1
            entry[1] += each["eligible"]
            entry[2] += each["total_incentive_amount"]
        return sums

    def given(rows: list[Json], key: str) -> dict[Any, list[Any]]:
        return {row[key]: [row["sites"], row["eligible_sites"], row["total_incentive_value"]] for row in rows}

    assert given(summary["by_state"], "state_or_province_code") == expected(lambda each: each["address"]["state_or_province_code"])
    assert given(summary["by_utility"], "name") == expected(lambda each: each["utility"]["name"])
    programs: dict[str, list[Any]] = defaultdict(lambda: [0, 0.0])
    for program in (program for each in sites for program in each["programs"]):
        programs[program["program_id"]][0] += 1
        programs[program["program_id"]][1] += program["total_incentive"]
    assert {row["program_id"]: [row["eligible_sites"], row["total_incentive_value"]] for row in summary["by_program"]} == programs
    whole = summary["report"]
    assert whole["total_sites"] == len(sites) == sum(row["sites"] for row in summary["by_state"])
    assert whole["eligible_sites"] == sum(each["eligible"] for each in sites)
    assert whole["total_incentive_value"] == sum(each["total_incentive_amount"] for each in sites)
    categories = given(summary["by_device_category"], "key")
    assert categories["heat_pump"] == [6, 4, 1001]
    assert [value for key, value in categories.items() if key != "heat_pump"] == [[1, 1, 200]]


def test_a_report_can_be_downloaded_as_csv(client: OrganizationClient, report: str) -> None:
    response = client.get(report + "/csv")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in response.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert [row["reference_id"] for row in rows] == [f"deal-{n}" for n in range(6)]
    assert sum(Decimal(row["total_incentive_amount"]) for row in rows) == Decimal("1201.00")
    assert rows[1]["programs"] == "Program: 100.50"
    assert len(client.get(report + "/csv", params={"state": "TX"}).text.splitlines()) == 3
    assert len(client.get(report + "/csv", params={"q": "austin"}).text.splitlines()) == 3


def test_the_file_of_a_large_report_is_sent_in_pieces_that_fit_together(client: OrganizationClient, database: Connection) -> None:
    [(organization,)] = database.execute("select id from app.organizations where name = %s", [client.organization]).fetchall()
    database.execute(LARGE_REPORT, {"organization": organization})
    [(report,)] = database.execute("select id from public.incentive_reports where organization_id = %s", [organization]).fetchall()
    rows = list(csv.DictReader(io.StringIO(client.get(f"/incentive-reports/{report}/csv").text, newline="")))
    assert [row["reference_id"] for row in rows] == [f"site-{n}" for n in range(1, 10_001)]
    assert rows[9_999]["programs"] == "Program 101: 1000; Program 102: 1000; Program 103: 1000"


def test_a_cell_that_looks_like_a_formula_is_escaped(client: OrganizationClient, database: Connection) -> None:
    street = '=HYPERLINK("http://evil.example","x")'
    created = client.submit(site("-deal", address=address(street_1=street)))
    look_up(database, created, 1, answer(5, utility="@SUM(1)"))
    [row] = csv.DictReader(io.StringIO(client.get(f"/incentive-reports/{created['report']['id']}/csv").text, newline=""))
    assert row["street_1"] == "'" + street
    assert row["utility_name"] == "'@SUM(1)"
    assert row["reference_id"] == "'-deal"


def test_a_report_can_be_downloaded_as_a_self_contained_page(client: OrganizationClient, report: str) -> None:
    response = client.get(report + "/html")
    page = response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert 'aria-label="Map of the states' in page
    assert "$1,201" in page
    assert "Austin Energy" in page
    assert not re.search(r"<script|<img|src=|@import|url\(", page)
    # Only the icon, which Firefox would otherwise ask for, and report as blocked.
    assert re.findall(r"<(\w+)[^>]*? href=.([^,]*)", page) == [("link", "data:image/svg+xml")]
    assert "img-src data:;" in response.headers["content-security-policy"]


def test_a_page_shows_names_as_they_are(client: OrganizationClient, database: Connection) -> None:
    name = "<script>alert(1)</script>"
    created = client.submit(site())
    look_up(database, created, 1, answer(5, utility=name))
    path = f"/incentive-reports/{created['report']['id']}"
    client.patch(path, json={"name": name})
    page = client.get(path + "/html").text
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_page_rounds_as_the_portal_does(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(site("deal-001"), site("deal-002"))
    look_up(database, created, 1, answer(1234.5))
    look_up(database, created, 1, answer(0.5))
    page = page_text(client, created)
    assert "LADWP Program $1,235" in page
    assert "LADWP Program $1 " in page
    assert "$1,235 total incentives" in page


def test_files_name_each_program_of_a_site_once(client: OrganizationClient, database: Connection) -> None:
    programs = [
        {"program_id": "nameless", "program_name": "", "total_incentive": 300, "eligible_combinations": 1},
        {"program_id": "twice", "program_name": "Twice", "total_incentive": 100, "eligible_combinations": 1},
        {"program_id": "twice", "program_name": "Twice", "total_incentive": 100, "eligible_combinations": 1},
        {"program_id": "nothing", "program_name": "Pays nothing", "total_incentive": 0, "eligible_combinations": 1},
        {"program_id": "refused", "program_name": "Refused", "total_incentive": 0, "eligible_combinations": 0},
    ]
    created = client.submit(site())
    look_up(database, created, 1, {"incentives": {"total_incentive_amount": 500, "by_program": programs}})
    [row] = csv.DictReader(io.StringIO(client.get(f"/batch-lookups/{created['job_id']}/results").text, newline=""))
    assert row["programs"] == "nameless; Twice; Pays nothing"
    path = f"/incentive-reports/{created['report']['id']}"
    [row] = csv.DictReader(io.StringIO(client.get(path + "/csv").text, newline=""))
    assert row["programs"] == "nameless: 300.00; Twice: 200.00; Pays nothing: 0.00"
    assert client.get(path + "/summary").json()["by_program"][0]["program_name"] == "nameless"


def test_a_page_without_sites_can_be_made(client: OrganizationClient) -> None:
    summary = client.get(f"/incentive-reports/{client.submit()['report']['id']}/summary").json()
    assert "In progress since" in report_page(summary, [])


def test_a_page_says_what_was_not_looked_up_and_why(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(site("deal-001"), site("deal-002"), site("deal-003", address=address(street_1="<b>1 Elm St</b>")))
    look_up(database, created, 2, answer(5))
    look_up(database, created, 1, {"error": "No program covers <this> address"}, status=404)
    page = page_text(client, created)
    assert "Completed on" in page
    assert "2 sites looked up of 3 uploaded" in page
    assert "1 site not looked up" in page
    assert "deal-003 <b>1 Elm St</b>, Los Angeles, CA No program covers <this> address" in page


def test_a_batch_that_failed_is_not_called_completed(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(site("deal-001"), site("deal-002"))
    look_up(database, created, 2, {"error": "No program covers this address"}, status=404)
    page = page_text(client, created)
    assert "Failed on" in page
    assert "no site could be looked up" in page
    assert "2 sites not looked up" in page
    assert "Completed" not in page
    assert "Top programs" not in page


def test_a_batch_that_failed_for_the_most_part_is_not_called_completed_either(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(*(site(f"deal-{n}") for n in range(7)))
    look_up(database, created, 1, answer(5))
    look_up(database, created, 4, {"error": "No program covers this address"}, status=404)
    look_up(database, created, 2, status=400)
    page = page_text(client, created)
    assert "Ended on" in page
    assert "Completed" not in page
    assert "6 of 7 sites were not looked up" in page
    reasons = page.partition("Why 6 sites were not looked up")[2].partition("6 sites not looked up")[0]
    assert re.search(r"No program covers this address not_found 4 sites · 67% .+ 2 sites · 33%", reasons), reasons


def test_a_cancelled_batch_is_called_cancelled(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(site("deal-001"), site("deal-002"))
    look_up(database, created, 1, answer(5))
    client.post(f"/batch-lookups/{created['job_id']}/cancel")
    page = page_text(client, created)
    assert "Cancelled on" in page
    assert "Completed" not in page
    assert "1 site not looked up" in page


def test_a_page_outlives_its_job(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(site())
    look_up(database, created, 1, answer(5))
    client.delete(f"/batch-lookups/{created['job_id']}")
    page = page_text(client, created)
    assert "Completed on" in page
    assert "1 site looked up" in page


def test_a_state_with_sites_but_no_incentives_differs_from_one_without_sites() -> None:
    fills = {tile.code: tile.fill for tile in state_tiles({"TX": 0.0, "CA": 100.0, "NV": 1.0})}
    assert (fills["TX"], fills["UT"]) == (NO_INCENTIVES, NO_SITES)
    assert len({fills[code] for code in ("TX", "UT", "CA", "NV")}) == 4


def test_a_page_reads_well_on_a_phone_and_on_paper(client: OrganizationClient, report: str, page: Page) -> None:
    page.set_content(client.get(report + "/html").text)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    heights = page.evaluate("[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height)")
    assert min(heights) > 9
    # The space between the margins of a sheet of Letter paper.
    page.set_viewport_size({"width": 710, "height": 900})
    page.emulate_media(media="print")
    columns = page.evaluate("getComputedStyle(document.querySelector('.figures')).gridTemplateColumns.split(' ').length")
    assert columns == 4
    assert page.locator(".sites thead").is_visible()
    assert page.pdf(format="Letter")[:5] == b"%PDF-"


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext, of poppler-utils, is not here")
@pytest.mark.parametrize("paper", ["Letter", "A4"])
def test_no_heading_stands_alone_at_the_end_of_a_sheet(
    client: OrganizationClient, database: Connection, page: Page, tmp_path: Path, paper: Literal["Letter", "A4"]
) -> None:
    created = client.submit(*(site(f"deal-{n}") for n in range(80)))
    look_up(database, created, 30, answer(5))
    look_up(database, created, 50, status=404)
    path = f"/incentive-reports/{created['report']['id']}"
    summary, sites = client.get(f"{path}/summary").json(), client.get(path).json()["sites"]
    items = client.get(f"/batch-lookups/{created['job_id']}/items?status=failed").json()["items"]
    job = client.get(f"/batch-lookups/{created['job_id']}").json()
    for length in range(1, 50, 6):
        # The table of states moves what is behind it down the sheet.
        page.set_content(report_page(summary | {"by_state": summary["by_state"] * length}, sites, job, items))
        headings = set(page.locator("h2").all_inner_texts())
        assert len(headings) >= 5
        page.pdf(path=tmp_path / "report.pdf", format=paper)
        text = subprocess.run(["pdftotext", "-layout", tmp_path / "report.pdf", "-"], capture_output=True, text=True, check=True).stdout
        sheets = [[line.strip() for line in sheet.splitlines() if line.strip()] for sheet in text.split("\f")[:-1]]
        for number, sheet in enumerate(sheets, 1):
            assert f"Page {number} of {len(sheets)}" in sheet[-1]
            assert sheet[-2] not in headings


def page_text(client: OrganizationClient, job: Json) -> str:
    """The words of the page of a job's report, as a reader sees them."""
    markup = client.get(f"/incentive-reports/{job['report']['id']}/html").text.partition("</style>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def test_a_report_gets_another_name(client: OrganizationClient, report: str) -> None:
    renamed = client.patch(report, json={"name": " Northside homes "}).json()
    assert renamed["name"] == "Northside homes"
    assert client.patch(report, json={"description": ""}).json()["name"] == "Northside homes"
    assert client.get(report).json()["name"] == "Northside homes"


@pytest.mark.parametrize(
    "changes", [{}, [], "x", {"name": ""}, {"name": " "}, {"name": "x" * 201}, {"name": None}, {"status": "complete"}, {"name": 5}]
)
def test_a_wrong_change_of_a_report_is_refused(client: OrganizationClient, report: str, changes: Any) -> None:
    response = client.patch(report, json=changes)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_report")


def test_a_report_is_deleted_with_its_sites(client: OrganizationClient, report: str, database: Connection) -> None:
    assert client.delete(report).status_code == 200
    assert client.get(report).status_code == 404
    assert client.delete(report).status_code == 404
    for table in ("incentive_report_sites", "incentive_report_site_programs"):
        row = database.execute(f"select count(*) from public.{table} where report_id = %s".encode(), [report.split("/")[-1]]).fetchone()
        assert row == (0,)


def test_a_report_in_progress_cannot_be_deleted(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(site("deal-001"), site("deal-002"))
    path = f"/incentive-reports/{created['report']['id']}"
    assert client.delete(path).json()["code"] == "job_not_ended"
    database.execute("select api.claim_lookups(%s, 'test', 1)", [organization_of(database, created)])
    client.post(f"/batch-lookups/{created['job_id']}/cancel")
    assert client.delete(path).status_code == 409


@pytest.mark.parametrize(("method", "suffix"), [("GET", "/summary"), ("GET", "/csv"), ("GET", "/html"), ("PATCH", ""), ("DELETE", "")])
def test_another_organizations_report_cannot_be_reached(
    client: OrganizationClient, new_client: NewClient, method: str, suffix: str
) -> None:
    path = f"/incentive-reports/{new_client().submit()['report']['id']}{suffix}"
    response = client.request(method, path, json={"name": "x"} if method == "PATCH" else None)
    assert (response.status_code, response.json()["error"]) == (404, "Report not found")


def test_a_report_of_10_000_sites_is_read_within_a_second_and_fits_a_megabyte(owner: Connection) -> None:
    row = owner.execute("select api.create_organization('Large')").fetchone()
    assert row is not None
    owner.execute(LARGE_REPORT, {"organization": row[0]})
    backend = owner.info.backend_pid
    before = cpu_seconds(backend)
    read = owner.execute(
        """select api.get_incentive_report_summary(organization_id, id),
                  api.get_incentive_report(organization_id, id, 200, p_sort => '-amount')
             from public.incentive_reports"""
    ).fetchone()
    assert read is not None
    assert cpu_seconds(backend) - before < 1
    summary, page = read
    assert summary["by_program"][0]["eligible_sites"] == 102
    assert len(report_page(summary, page["sites"]).encode()) < 300_000


LARGE_REPORT = """
    with report as (
        insert into public.incentive_reports
               (organization_id, id, name, description, status, total_sites, eligible_sites, total_incentive_value, created_at,
                completed_at, updated_at)
        values (%(organization)s, app.uuid_v7(), 'Large', 'Large', 'complete', 10000, 10000, 30000000, now(), now(), now())
        returning *
    ), site as (
        insert into public.incentive_report_sites
        select organization_id, id, n, app.uuid_v7(), 'site-' || n, n || ' Main St', null, 'City ' || n %% 500, r.code, '78701', 'US',
               'RESIDENTIAL', '{heat_pump,insulation}', '{2000,1000}', (n %% 1000)::text, 'Utility ' || n %% 1000, true, 3000, now()
          from report
         cross join generate_series(1, 10000) n
          join (select code,
                       row_number() over (order by code) - 1 as place from app.regions where country_code = 'US') r on r.place = n %% 50
        returning *
    )
    insert into public.incentive_report_site_programs
    select organization_id, report_id, position, 'program-' || (position + p) %% 300, 'Program ' || (position + p) %% 300, 1000, 1
      from site
     cross join generate_series(1, 3) p
"""
