"""Lookups, and the manual run of the worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from pyshell.settings import Settings
from tests.conftest import Connection
from tests.http_fixtures import PEPPER, NewClient, OrganizationClient, address, check_against_openapi, running_server, site, validator
from tests.timed import wait_until


def test_a_lookup_answers_as_documented(client: OrganizationClient) -> None:
    response = client.post("/incentives", json=site())

    assert response.status_code == 200
    result = response.json()
    assert list(result) == [
        "customer_id",
        "reference_id",
        "address",
        "building_type",
        "utility",
        "possible_utilities",
        "programs_evaluated",
        "incentives",
    ]
    assert result["reference_id"] == "deal-001"
    assert result["address"] == address()
    assert result["utility"] in result["possible_utilities"]
    assert list(result["incentives"]) == ["total_incentive_amount", "total_eligible_combinations", "by_program"]


def test_the_documented_example_finds_the_utilities_of_san_francisco(client: OrganizationClient) -> None:
    san_francisco = address(street_1="123 Main St", city="San Francisco", postal_code="94102")
    for utility, programs in (
        ({"eiaid": 14328, "name": "Pacific Gas & Electric"}, {"PG&E Rebates and Incentives"}),
        ({"eiaid": None, "name": "CleanPowerSF (City & County of San Francisco)"}, set()),
    ):
        result = client.post("/incentives", json=site(address=san_francisco, utility={"name": utility["name"]})).json()
        assert (result["utility"], len(result["possible_utilities"])) == (utility, 2)
        assert {found["program_name"] for found in result["incentives"]["by_program"]} == {
            "Golden State Rebates Program",
            "Green Labeling Program",
            *programs,
        }

    result = client.post("/incentives", json=site(address=san_francisco)).json()
    assert result["utility"]["name"] == "Pacific Gas & Electric"
    result = client.post("/incentives", json=site(address=san_francisco, device_ids=[1, 12, 28])).json()
    assert result["incentives"]["total_incentive_amount"] > 60

    def audit(city: str) -> float:
        home = address(street_1="123 Main St", city=city, postal_code="94102")
        amount: float = client.post("/incentives", json=site(address=home, device_ids=[49])).json()["incentives"]["total_incentive_amount"]
        return amount

    assert [audit("San Francisco"), audit("Fresno")] == [200, 0], "BayREN pays the customers of the usual utility, in the city alone"


def test_a_customer_keeps_its_number(client: OrganizationClient, new_client: NewClient) -> None:
    first, again = (client.post("/incentives", json=site()).json()["customer_id"] for _ in range(2))
    assert first == again
    assert new_client().post("/incentives", json=site()).json()["customer_id"] != first


def test_an_address_without_a_utility_is_not_found(client: OrganizationClient) -> None:
    abroad = address(state_or_province_code="PW", city="Ngerulmud", postal_code="96939")
    response = client.post("/incentives", json=site(address=abroad))
    assert response.status_code == 404
    assert response.json()["error"] == "Program lookup failed - no utility found"


@pytest.mark.parametrize(
    "body", [None, [], {}, site(device_ids=[]), site(device_ids=[999_999_999]), site("x"), site(address=None), site(x=1)]
)
def test_a_wrong_lookup_is_refused(client: OrganizationClient, body: Any) -> None:
    assert client.post("/incentives", json=body).status_code == 400


def test_a_wrong_lookup_has_no_large_answer_and_leaves_none_in_the_log(client: OrganizationClient, database: Connection) -> None:
    body = site(device_ids=["y" * 100_000]) | {f"{number}{'x' * 400}": 1 for number in range(2_000)}
    response = client.post("/incentives", json=body)
    assert (response.status_code, len(response.content) < 4_000) == (400, True)
    [[kept]] = database.execute(
        "select sum(octet_length(response)) from app.incentive_calls"
        " where organization_id = (select id from app.organizations where name = %s)",
        [client.organization],
    ).fetchall()
    assert 0 < kept < 4_000


def test_a_lookup_over_the_limit_is_refused(client: OrganizationClient) -> None:
    assert client.post("/incentives", json=site(note="x" * 1024 * 1024)).status_code == 413


@pytest.mark.parametrize("path", ["/batch-lookups-worker", "/functions/v1/batch-lookups-worker"])
def test_a_manual_run_is_started_by_a_request(new_database: Callable[..., str], path: str) -> None:
    settings = Settings(database_url=new_database(), api_key_pepper=PEPPER, service_role_key="service role key")
    headers = {"authorization": "Bearer service role key", "x-supabase-internal": "true"}
    with running_server(settings) as url, OrganizationClient(url, settings.database_url) as client:
        job = client.submit(*(site(f"deal-{number:03}") for number in range(12)))
        for processed, status in [(10, "processing"), (12, "completed"), (12, "completed")]:
            response = httpx.post(url + path, headers=headers, json={}, timeout=30)
            assert response.status_code == 200
            now = client.get(f"/batch-lookups/{job['job_id']}").json()
            assert (now["processed_items"], now["failed_items"], now["status"]) == (processed, 0, status)


def test_a_scheduler_gets_its_response_immediately_and_starts_no_second_run(new_database: Callable[..., str]) -> None:
    settings = Settings(database_url=new_database(), api_key_pepper=PEPPER, service_role_key="service role key")
    headers = {"authorization": "Bearer service role key", "x-supabase-internal": "true", "prefer": "respond-async"}
    with (
        running_server(settings) as url,
        OrganizationClient(url, settings.database_url) as client,
        httpx.Client(base_url=url, headers=headers, event_hooks={"response": [check_against_openapi]}) as scheduler,
    ):
        job = client.submit(*(site(f"deal-{number:03}") for number in range(10)))
        answers = [scheduler.post("/functions/v1/batch-lookups-worker", json={}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 202]
        assert [answer.json()["status"] for answer in answers] == ["started", "running", "running"]
        wait_until(lambda: client.get(f"/batch-lookups/{job['job_id']}").json()["status"] == "completed")


def test_a_refresh_needs_only_the_reference_id(client: OrganizationClient) -> None:
    first = client.post("/incentives", json=site(device_ids=[1, 1]))
    again = client.post("/incentives", json={"operation_type": "refresh", "reference_id": "deal-001"})
    assert (again.status_code, again.json()) == (200, first.json())
    other = client.post("/incentives", json={"operation_type": "override", "reference_id": "deal-001", "device_ids": [1]})
    assert other.json()["incentives"] != first.json()["incentives"]
    unknown = client.post("/incentives", json={"operation_type": "refresh", "reference_id": "deal-002"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "customer_not_found")


def test_devices_can_be_given_by_the_organizations_own_names(client: OrganizationClient) -> None:
    assert client.patch("/organization", json={"device_names": {"Split system": 1}}).json()["device_names"] == {"split system": 1}
    by_name = {key: value for key, value in site().items() if key != "device_ids"} | {"device_names": ["split system"]}
    assert client.post("/incentives", json=by_name).json() == client.post("/incentives", json=site()).json()
    unknown = client.post("/incentives", json=by_name | {"device_names": ["windmill"]})
    assert (unknown.status_code, unknown.json()["unknown_device_names"]) == (400, ["windmill"])
    assert client.patch("/organization", json={"device_names": {"windmill": 999_999}}).status_code == 400
    changed = client.patch("/organization", json={"device_name_changes": {"Mini split": 1, "SPLIT SYSTEM": None}})
    assert changed.json()["device_names"] == {"mini split": 1}


def test_a_batch_files_applications_through_our_own_provider_once(new_database: Callable[..., str]) -> None:
    settings = Settings(database_url=new_database(), api_key_pepper=PEPPER, service_role_key="service role key")
    headers = {"authorization": "Bearer service role key", "x-supabase-internal": "true"}
    with running_server(settings) as url, OrganizationClient(url, settings.database_url) as client:
        for _ in range(2):
            job = client.submit(*(site(f"deal-{number}", create_application=True) for number in range(3)))
            httpx.post(url + "/batch-lookups-worker", headers=headers, json={}, timeout=30)
            assert client.get(f"/batch-lookups/{job['job_id']}").json()["item_counts"]["completed"] == 3
            applications = client.get("/applications").json()["applications"]
            assert {application["reference_id"] for application in applications} == {"deal-0", "deal-1", "deal-2"}
            programs = [(application["reference_id"], application["program_id"]) for application in applications]
            assert len(set(programs)) == len(programs)


def test_an_application_is_filed_and_connected(new_database: Callable[..., str]) -> None:
    settings = Settings(database_url=new_database(), api_key_pepper=PEPPER, connect_url_base="https://connect.example.com")
    with running_server(settings) as url, OrganizationClient(url, settings.database_url) as client:
        asked = site(create_application=True)
        refused = client.post("/incentives", json=asked)
        assert (refused.status_code, refused.json()["code"]) == (400, "company_missing")
        client.patch("/organization", json={"company": "acme"})
        for _ in range(2):
            result = client.post("/incentives", json=asked).json()
            assert result["connect_url"] == "https://connect.example.com/acme/refId/deal-001"
        eligible = [program["program_id"] for program in result["incentives"]["by_program"] if program["eligible_combinations"]]
        applications = client.get("/applications").json()["applications"]
        assert sorted(application["program_id"] for application in applications) == sorted(eligible) != []
        with psycopg.connect(settings.database_url) as connection:
            logged = connection.execute("select status, count(*) from app.incentive_calls group by 1 order by 1").fetchall()
        assert logged == [(200, 2), (400, 1)]


def test_facts_about_a_household_are_checked(client: OrganizationClient) -> None:
    household = {"income": 60_000, "size": 2, "owner_status": "homeowner", "tax_filing": "joint"}
    usual = client.post("/incentives", json=site()).json()
    response = client.post("/incentives", json=site(household=household))
    assert response.status_code == 200
    assert list(response.json()) == list(usual)
    for wrong in ({"size": 0}, {"income": "60,000"}, {"pets": 2}, "rich"):
        refused = client.post("/incentives", json=site(household=wrong))
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
        assert refused.json()["error"].startswith("household")


def test_an_offer_that_depends_on_income_is_conditional(client: OrganizationClient, database: Connection) -> None:
    with database.transaction(force_rollback=True):
        changed = database.execute(
            """update app.program_tiers set income_requirement = '80% of the median income', income_limits = '{"1": [50000, 50000]}'
                where amount > 0 returning 1"""
        ).fetchall()
        assert changed
        [(organization,)] = database.execute("select id from app.organizations where name = %s", [client.organization]).fetchall()

        def incentives(**household: object) -> Any:
            asked = json.dumps(site(household=household))
            [(answer,)] = database.execute("select api.lookup_incentives(%s, %s::jsonb)", [organization, asked]).fetchall()
            validator(json.dumps({"$ref": "#/components/schemas/LookupResult"})).validate(answer)
            return answer["incentives"]

        unknown, poor, rich = incentives(), incentives(income=50_000, size=1), incentives(income=50_001, size=1)
        assert unknown["total_incentive_amount"] == 0 < unknown["conditional_incentive_amount"]
        assert poor["total_incentive_amount"] == unknown["conditional_incentive_amount"]
        assert rich["total_incentive_amount"] == 0
        assert "conditional_incentive_amount" not in poor | rich
