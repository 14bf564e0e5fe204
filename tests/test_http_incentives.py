"""Lookups, the manual run of the worker, and reports."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pyshell.settings import Settings
from tests.conftest import Connection
from tests.http_fixtures import PEPPER, Json, NewClient, OrganizationClient, address, look_up, running_server, site

PROGRAM = {"program_id": "p1", "program_name": "Program", "total_incentive": 1500, "eligible_combinations": 2, "device_tier_results": []}
ANSWER: Json = {
    "utility": {"eiaid": "11208", "name": "LADWP"},
    "incentives": {"total_incentive_amount": 1500, "total_eligible_combinations": 2, "by_program": [PROGRAM]},
}


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


def test_a_lookup_over_the_limit_is_refused(client: OrganizationClient) -> None:
    assert client.post("/incentives", json=site(note="x" * 1024 * 1024)).status_code == 413


@pytest.mark.parametrize("path", ["/batch-lookups-worker", "/functions/v1/batch-lookups-worker"])
def test_a_manual_run_looks_up_ten_items_at_most(new_database: Callable[..., str], path: str) -> None:
    settings = Settings(database_url=new_database(), api_key_pepper=PEPPER, service_role_key="service role key")
    headers = {"authorization": "Bearer service role key", "x-supabase-internal": "true"}
    with running_server(settings) as url, OrganizationClient(url, settings.database_url) as client:
        job = client.submit(*(site(f"deal-{number:03}") for number in range(12)))
        for processed, status in [(10, "processing"), (12, "completed"), (12, "completed")]:
            response = httpx.post(url + path, headers=headers, json={}, timeout=30)
            assert response.status_code == 200
            now = client.get(f"/batch-lookups/{job['job_id']}").json()
            assert (now["processed_items"], now["failed_items"], now["status"]) == (processed, 0, status)


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
    first = report["sites"][0]
    assert (first["reference_id"], first["eligible"], first["total_incentive_amount"]) == ("deal-000", True, 1500)
    assert first["address"] == address()
    assert first["utility"] == {"eiaid": "11208", "name": "LADWP"}
    assert first["programs"] == [{"program_id": "p1", "program_name": "Program", "total_incentive": 1500, "eligible_combinations": 2}]


def test_a_report_comes_in_pages(client: OrganizationClient, database: Connection) -> None:
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
    assert list(page) == ["reports", "total", "limit", "offset"]
    assert [report["id"] for report in page["reports"]] == [job["report"]["id"] for job in reversed(created)]
    assert page["total"] == 2
    page = client.get("/incentive-reports", params={"status": "error"}).json()
    assert [report["id"] for report in page["reports"]] == [created[0]["report"]["id"]]


@pytest.mark.parametrize("report_id", ["1", str(uuid.uuid4())])
def test_a_report_that_is_not_there_is_not_found(client: OrganizationClient, report_id: str) -> None:
    response = client.get(f"/incentive-reports/{report_id}")
    assert (response.status_code, response.json()["error"]) == (404, "Report not found")


def test_another_organizations_report_is_not_found(client: OrganizationClient, new_client: NewClient) -> None:
    report_id = new_client().submit()["report"]["id"]
    assert client.get(f"/incentive-reports/{report_id}").status_code == 404
