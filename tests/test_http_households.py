"""Facts about the households of a batch reach the incentives API, whether given in JSON or in columns of a file."""

from __future__ import annotations

import json
from io import BytesIO

import openpyxl
import pytest

from tests.conftest import Connection
from tests.http_fixtures import Json, OrganizationClient, look_up, site

HEADER = "reference_id,street_1,city,state,zip,building_type,device_ids"
SITE = "200 N Spring St,Los Angeles,CA,90012,RESIDENTIAL,1"
HOUSEHOLD = {"income": 60000, "size": 2, "owner_status": "homeowner", "tax_filing": "joint"}


def requests(client: OrganizationClient, database: Connection) -> dict[str, Json | None]:
    """Claims the organization's items, and returns the household in each request, by reference_id."""
    [(organization,)] = database.execute("select id from app.organizations where name = %s", [client.organization]).fetchall()
    claimed = database.execute("select request from api.claim_lookups(%s, 'test', 100)", [organization]).fetchall()
    asked = [json.loads(request) for (request,) in claimed]
    return {request["reference_id"]: request.get("household") for request in asked}


def upload(client: OrganizationClient, *lines: str) -> Json:
    answer: Json = client.post("/batch-lookups", content="\n".join(lines), headers={"content-type": "text/csv"}).json()
    return answer


def test_items_can_have_facts_about_the_household(client: OrganizationClient, database: Connection) -> None:
    facts: list[Json | None] = [HOUSEHOLD, {"size": 3, "income": None}, {}, None]
    sites = [*(site(f"deal-{n}", household=household) for n, household in enumerate(facts)), site("deal-9")]
    client.submit(*sites)
    assert requests(client, database) == {"deal-0": HOUSEHOLD, "deal-1": {"size": 3}, "deal-2": None, "deal-3": None, "deal-9": None}
    created = client.submit(*sites)
    look_up(database, created, 5, status=404)
    assert client.post(f"/batch-lookups/{created['job_id']}/retry").status_code == 201
    assert requests(client, database)["deal-0"] == HOUSEHOLD


def test_columns_can_have_facts_about_the_household_as_people_write_them(client: OrganizationClient, database: Connection) -> None:
    created = upload(
        client,
        f"{HEADER},Household Income,Household Size,Owner Status,Tax Filing Status",
        f'deal-1,{SITE},"$60,000",2,Owner,Married filing jointly',
        f"deal-2,{SITE},,4,,",
        f"deal-3,{SITE},,,,",
    )
    assert created["total_items"] == 3, created
    assert requests(client, database) == {"deal-1": HOUSEHOLD, "deal-2": {"size": 4}, "deal-3": None}


@pytest.mark.parametrize("header", ["Ownership", "Income", "Size", "Annual Revenue", "Filing"])
def test_columns_that_may_mean_something_else_are_left_alone(client: OrganizationClient, database: Connection, header: str) -> None:
    upload(client, f"{HEADER},{header}", f"deal-1,{SITE},Private")
    assert requests(client, database) == {"deal-1": None}


def test_a_wrong_fact_is_refused_by_its_field(client: OrganizationClient) -> None:
    refused = client.post("/batch-lookups", json={"items": [site(household={"owner_status": "guest"})]})
    assert refused.status_code == 400
    assert refused.json()["invalid_items"][0]["error"] == "household.owner_status must be one of homeowner, renter"
    refused = client.post("/batch-lookups", json={"items": [site(household=[])]})
    assert refused.json()["invalid_items"][0]["error"] == "household must be an object with income, size, owner_status or tax_filing"
    checked = upload(client, f"{HEADER},Household Size", f"deal-1,{SITE},many")
    [problem] = checked["invalid_items"][0]["problems"]
    assert (problem["field"], problem["column"], problem["code"]) == ("household.size", 8, "invalid_household")
    assert problem["message"] == "column Household Size, row 2: household.size must be a whole number from 1 to 20"


def test_a_report_sums_what_depends_on_the_households_separately(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(site("deal-0"), site("deal-1", household=HOUSEHOLD))
    look_up(database, created, 1, {"incentives": {"total_incentive_amount": 0, "conditional_incentive_amount": 801}})
    look_up(database, created, 1, {"incentives": {"total_incentive_amount": 1000, "total_eligible_combinations": 1}})

    path = f"/incentive-reports/{created['report']['id']}"
    report = client.get(path).json()
    assert (report["eligible_sites"], report["total_incentive_value"], report["conditional_incentive_amount"]) == (1, 1000, 801)
    assert [site["conditional_incentive_amount"] for site in report["sites"]] == [801, 0]
    assert client.get(f"{path}/summary").json()["report"]["conditional_incentive_amount"] == 801
    assert client.get("/incentive-reports").json()["reports"][0]["conditional_incentive_amount"] == 801
    page = client.get(f"{path}/html").text
    assert "Up to <b>$801</b> more, in no figure here" in page
    assert "$801 conditional" in page
    header, *lines = client.get(f"{path}/csv").text.splitlines()
    assert header.endswith(",programs,conditional_incentive_amount")
    assert [line.rpartition(",")[2] for line in lines] == ["801.00", "0.00"]
    results = f"/batch-lookups/{created['job_id']}/results"
    header, *lines = client.get(results).text.splitlines()
    assert header.endswith(",item_id,conditional_incentive_amount")
    assert [line.rpartition(",")[2] for line in lines] == ["801.00", "0.00"]
    sheet = openpyxl.load_workbook(BytesIO(client.get(results, params={"format": "xlsx"}).content)).worksheets[0]
    assert [row[-1].value for row in sheet] == ["conditional_incentive_amount", 801, 0], "amounts of a workbook are numbers"


def test_an_item_shows_the_facts_given_about_its_household(client: OrganizationClient) -> None:
    items = f"/batch-lookups/{client.submit(site('deal-0', household=HOUSEHOLD), site('deal-1'))['job_id']}/items"
    assert [client.get(f"{items}/{n}").json()["household"] for n in (0, 1)] == [HOUSEHOLD, None]
    assert [item["household"] for item in client.get(items).json()["items"]] == [HOUSEHOLD, None]
