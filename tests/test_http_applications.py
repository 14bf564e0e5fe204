"""Applications: created by batches, listed, read, and moved to another status."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Connection
from tests.http_fixtures import Json, NewClient, OrganizationClient, look_up, site

PROGRAMS = [
    {"program_id": f"p{n}", "program_name": f"Program {n}", "total_incentive": 100 * n, "eligible_combinations": n} for n in range(3)
]
ANSWER: Json = {"incentives": {"total_incentive_amount": 300, "total_eligible_combinations": 3, "by_program": PROGRAMS}}


@pytest.fixture
def applications(client: OrganizationClient, database: Connection) -> list[Json]:
    """The four applications of a batch of two sites, the newest first."""
    look_up(database, client.submit(*(site(f"deal-00{n}", create_application=True) for n in range(2))), 2, ANSWER)
    found: list[Json] = client.get("/applications").json()["applications"]
    return found


def test_a_batch_makes_one_application_for_each_site_and_program(
    client: OrganizationClient, database: Connection, applications: list[Json]
) -> None:
    made = [(each["reference_id"], each["program_id"], each["application_status"], each["total_incentive"]) for each in applications]
    assert sorted(made) == [(f"deal-00{n}", f"p{p}", "not_started", 100 * p) for n in range(2) for p in (1, 2)]
    look_up(database, client.submit(site("deal-000", create_application=True)), 1, ANSWER)
    assert client.get("/applications").json()["applications"] == applications


def test_applications_are_filtered_and_paged(client: OrganizationClient, applications: list[Json]) -> None:
    assert {each["reference_id"] for each in client.get("/applications", params={"refId": "deal-001"}).json()["applications"]} == {
        "deal-001"
    }
    assert client.get("/applications", params={"application_status": "approved"}).json()["applications"] == []
    page = client.get("/applications", params={"limit": 1, "offset": 1, "refId": "deal-001"}).json()
    assert list(page) == ["applications", "total", "limit", "offset", "next_cursor"]
    assert (page["total"], page["limit"], page["offset"], page["next_cursor"]) == (2, 1, 1, None)


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 201}, {"application_status": "lost"}, {"refId": "\0"}])
def test_a_wrong_page_of_applications_is_refused(client: OrganizationClient, query: Any) -> None:
    assert client.get("/applications", params=query).status_code == 400


def test_an_application_moves_on_step_by_step(client: OrganizationClient, applications: list[Json]) -> None:
    path = f"/applications/{applications[0]['id']}"
    assert client.get(path).json() == applications[0]
    refused = client.patch(path, json={"application_status": "submitted"})
    assert (refused.status_code, refused.json()["code"], refused.json()["next_statuses"]) == (
        409,
        "invalid_transition",
        ["in_progress"],
    )
    dry = client.patch(path, params={"dryRun": "true"}, json={"application_status": "in_progress"})
    assert dry.json()["application_status"] == "in_progress"
    assert client.get(path).json() == applications[0]
    for status in applications[0]["next_statuses"] + ["awaiting_partner", "completed", "submitted", "rejected"]:
        assert client.patch(path, json={"application_status": status}).json()["application_status"] == status
    decided = client.get(path).json()
    assert (decided["next_statuses"], decided["submitted_at"] <= decided["decided_at"]) == ([], True)


@pytest.mark.parametrize("changes", ["x", {"application_status": 5}])
def test_a_wrong_change_of_an_application_is_refused(client: OrganizationClient, applications: list[Json], changes: Any) -> None:
    assert client.patch(f"/applications/{applications[0]['id']}", json=changes).status_code == 400


@pytest.mark.parametrize("application_id", ["0", "x", "99999999999999999999", "-1", "1.5"])
def test_an_application_that_is_not_there_is_not_found(client: OrganizationClient, application_id: str) -> None:
    response = client.get(f"/applications/{application_id}")
    assert (response.status_code, response.json()["error"]) == (404, "Application not found")


def test_another_organizations_application_is_not_found(new_client: NewClient, applications: list[Json]) -> None:
    other = new_client()
    path = f"/applications/{applications[0]['id']}"
    assert other.get(path).status_code == 404
    assert other.patch(path, json={"application_status": "in_progress"}).status_code == 404
    assert other.get("/applications").json()["applications"] == []
