"""What is known of the households of a batch reaches the incentives API, whether it comes as JSON or as columns of a file."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Connection
from tests.http_fixtures import Json, OrganizationClient, look_up, site

HEADER = "reference_id,street_1,city,state,zip,building_type,device_ids"
SITE = "200 N Spring St,Los Angeles,CA,90012,RESIDENTIAL,1"
HOUSEHOLD = {"income": 60000, "size": 2, "owner_status": "homeowner", "tax_filing": "joint"}


def requests(client: OrganizationClient, database: Connection) -> dict[str, Json | None]:
    """What each item of the organization asks about its household, by its reference_id; they are claimed."""
    [(organization,)] = database.execute("select id from app.organizations where name = %s", [client.organization]).fetchall()
    claimed = database.execute("select request from api.claim_lookups(%s, 'test', 100)", [organization]).fetchall()
    asked = [json.loads(request) for (request,) in claimed]
    return {request["reference_id"]: request.get("household") for request in asked}


def upload(client: OrganizationClient, *lines: str) -> Json:
    answer: Json = client.post("/batch-lookups", content="\n".join(lines), headers={"content-type": "text/csv"}).json()
    return answer


def test_items_say_what_is_known_of_the_household(client: OrganizationClient, database: Connection) -> None:
    facts: list[Json | None] = [HOUSEHOLD, {"size": 3, "income": None}, {}, None]
    sites = [*(site(f"deal-{n}", household=household) for n, household in enumerate(facts)), site("deal-9")]
    client.submit(*sites)
    assert requests(client, database) == {"deal-0": HOUSEHOLD, "deal-1": {"size": 3}, "deal-2": None, "deal-3": None, "deal-9": None}
    created = client.submit(*sites)
    look_up(database, created, 5, status=404)
    assert client.post(f"/batch-lookups/{created['job_id']}/retry").status_code == 201
    assert requests(client, database)["deal-0"] == HOUSEHOLD


def test_columns_say_it_too_as_people_write_it(client: OrganizationClient, database: Connection) -> None:
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
