"""Lookups, and the manual run of the worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pyshell.settings import Settings
from tests.http_fixtures import PEPPER, NewClient, OrganizationClient, address, running_server, site


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
