"""Results of earlier items that are reused instead of being paid for twice."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from pyshell.settings import Settings
from tests.conftest import Connection
from tests.http_fixtures import OrganizationClient, look_up, site
from tests.upstream import FakeUpstream
from tests.worker_fixtures import Batches, check_invariants, fetch_value, running_worker
from tests.worker_fixtures import site as worker_site

SITES, CHANGED = 600, 37


def sites(changed: int = 0) -> list[dict[str, Any]]:
    """Sites at different addresses; the last `changed` have new ones."""
    items = [worker_site(f"site-{number}") for number in range(SITES)]
    for number, item in enumerate(items):
        street = "Elm St" if number >= SITES - changed else "Main St"
        item["address"] |= {"street_1": f"{number} {street}"}
    return items


def test_the_same_file_again_costs_only_lookups_of_what_is_new(
    worker_settings: Settings, upstream: FakeUpstream, batches: Batches, owner: Connection
) -> None:
    def submit(changed: int) -> dict[str, Any]:
        created: dict[str, Any] = fetch_value(
            owner,
            "select api.create_batch_lookup(%s, %s, false)",
            batches.organization_id,
            json.dumps({"items": sites(changed), "reuse_results": {"max_age_days": 30}}),
        )
        return created

    with running_worker(worker_settings):
        first = submit(0)
        assert batches.wait(first["job_id"]) == "completed"
        second = submit(CHANGED)
        assert batches.wait(second["job_id"]) == "completed"

    assert (first["reused_items"], second["reused_items"]) == (0, SITES - CHANGED)
    assert len(upstream.requests) == SITES + CHANGED
    paid = [request.reference_id for request in upstream.requests[SITES:]]
    assert sorted(paid) == sorted(f"site-{number}" for number in range(SITES - CHANGED, SITES))
    reports = owner.execute("select total_sites, total_incentive_value from public.incentive_reports").fetchall()
    assert reports == [(SITES, SITES * 1000)] * 2


def csv_of(*rows: dict[str, str]) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, ["reference_id", "street_1", "city", "state", "zip", "building_type", "device_ids"])
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def row(reference_id: str, street_1: str) -> dict[str, str]:
    return {
        "reference_id": reference_id,
        "street_1": street_1,
        "city": "Los Angeles",
        "state": "CA",
        "zip": "90012",
        "building_type": "RESIDENTIAL",
        "device_ids": "1",
    }


def test_a_dry_run_of_a_file_says_what_is_known(client: OrganizationClient, database: Connection) -> None:
    job = client.submit(site("deal-0"))
    look_up(database, job, 1)
    file = csv_of(row("other-0", "200 N. Spring St."), row("other-1", "201 N Spring St"))
    headers, options = {"content-type": "text/csv"}, {"reuse_max_age_days": "7"}

    checked = client.post("/batch-lookups", content=file, headers=headers, params=options | {"dry_run": "true"}).json()
    assert (checked["valid_items"], checked["lookups"], checked["known_already"]) == (2, 1, 1)
    unasked = client.post("/batch-lookups", content=file, headers=headers, params={"dry_run": "true"}).json()
    assert (unasked["lookups"], unasked["known_already"]) == (2, 0)

    created = client.post("/batch-lookups", content=file, headers=headers, params=options).json()
    assert list(created)[5:8] == ["message", "reused_items", "total_invalid"]
    assert (created["status"], created["reused_items"], created["report"]["total_sites"]) == ("processing", 1, 1)
    first, second = client.get(f"/batch-lookups/{created['job_id']}/items").json()["items"]
    assert (first["status"], first["reused_from"]) == ("completed", {"job_id": job["job_id"], "position": 0})
    assert (second["status"], second["reused_from"]) == ("pending", None)
    look_up(database, created, 10)
    assert client.get(f"/batch-lookups/{created['job_id']}").json()["status"] == "completed"
    check_invariants(database, of_job=created["job_id"])


def test_a_draft_says_what_is_known_and_its_start_looks_up_the_rest(client: OrganizationClient, database: Connection) -> None:
    def change(**changes: Any) -> dict[str, Any]:
        response = client.patch(f"/uploads/{draft['id']}", json=changes)
        assert response.status_code == 200, response.text
        changed: dict[str, Any] = response.json()
        return changed

    look_up(database, client.submit(site("deal-0")), 1)
    rows = [row("other-0", "200 N. Spring St."), row("other-1", "201 N Spring St"), row("other-2", "")]
    headers = {"content-type": "text/csv"}
    draft = client.post("/uploads", content=csv_of(*rows), headers=headers, params={"reuse_max_age_days": "7"}).json()
    assert (draft["reuse_results"], draft["estimate"]) == ({"max_age_days": 7}, {"lookups": 1, "known_already": 1, "seconds": None})
    assert client.get(f"/uploads/{draft['id']}").json() == draft

    assert change(skip=[0])["estimate"]["known_already"] == 0
    assert change(unskip=[0], reuse_results=None)["estimate"] == {"lookups": 2, "known_already": 0, "seconds": None}
    assert change(reuse_results={"max_age_days": 30})["estimate"] == {"lookups": 1, "known_already": 1, "seconds": None}
    refused = client.patch(f"/uploads/{draft['id']}", json={"reuse_results": {"max_age_days": 0}})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_reuse_results")

    start = f"/uploads/{draft['id']}/start"
    unasked = client.post(start, json={"skip_invalid": True, "dry_run": True, "reuse_results": None}).json()
    assert (unasked["lookups"], unasked["known_already"]) == (2, 0)
    assert client.post(start, json={"skip_invalid": True}).json()["reused_items"] == 1


@pytest.mark.parametrize("days", ["0", "3651", "-1", "1.5", "week", ""])
def test_the_age_of_results_is_limited(client: OrganizationClient, days: str) -> None:
    response = client.post("/batch-lookups", json=[site()], params={"reuse_max_age_days": days})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_reuse_results")


@pytest.mark.parametrize("option", [7, {}, {"max_age_days": "7"}, {"max_age_days": 7, "max_age_hours": 1}, []])
def test_the_option_is_an_object_with_an_age(client: OrganizationClient, option: object) -> None:
    response = client.post("/batch-lookups", json={"items": [site()], "reuse_results": option})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_reuse_results")
