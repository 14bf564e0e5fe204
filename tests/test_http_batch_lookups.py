"""The documented contract of batches, literally. The client also checks responses against openapi.json."""

from __future__ import annotations

import re
import time

import pytest

from tests.conftest import Connection
from tests.http_fixtures import UNKNOWN_ID, Json, NewClient, OrganizationClient, address, look_up, site

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_the_response_to_a_new_batch_has_its_job_and_report(client: OrganizationClient) -> None:
    response = client.post("/batch-lookups", json={"items": [site("deal-001"), site("deal-002")]})

    assert response.status_code == 201
    created = response.json()
    assert list(created) == [
        *("job_id", "status", "total_items", "created_at", "report", "message"),
        *("total_invalid", "invalid_items", "warnings", "total_warnings", "notes"),
    ]
    assert created["status"] == "pending"
    assert created["total_items"] == 2
    assert RFC_3339.fullmatch(created["created_at"])
    report = created["report"]
    assert list(report) == ["id", "name", "description", "status", "report_type", "total_sites", "created_at"]
    assert report["name"] == f"Batch Lookup - {created['created_at'][:10]} (2 sites)"
    assert (report["status"], report["report_type"], report["total_sites"]) == ("processing", "bulk_lookup", 0)


@pytest.mark.parametrize("count", [1, 2])
def test_the_texts_of_a_new_batch_are_the_documented_ones(client: OrganizationClient, count: int) -> None:
    created = client.submit(*(site(f"deal-{number:03}") for number in range(count)))

    assert created["report"]["description"] == f"Batch lookup job with {count} items. Sites will be added as processing completes."
    assert created["message"] == (
        f"Batch job created with {count} items. Report is available immediately and sites will be added as processing completes. "
        "Poll GET /batch-lookups/{job_id} for job status."
    )


def test_ten_thousand_items_are_one_batch(client: OrganizationClient) -> None:
    started_at = time.monotonic()
    created = client.submit(*(site(f"deal-{number:05}") for number in range(10_000)))

    assert created["total_items"] == 10_000
    assert time.monotonic() - started_at < 10
    last_page = client.get(f"/batch-lookups/{created['job_id']}/items", params={"offset": 9_999}).json()
    assert [item["reference_id"] for item in last_page["items"]] == ["deal-09999"]


def test_the_bare_array_of_items_is_a_batch_too(client: OrganizationClient) -> None:
    assert client.post("/batch-lookups", json=[site()]).status_code == 201


def test_a_body_may_begin_with_a_byte_order_mark(client: OrganizationClient) -> None:
    content = b"\xef\xbb\xbf" + client.build_request("POST", "/", json=[site()]).read()
    response = client.post("/batch-lookups", content=content, headers={"content-type": "application/json; charset=UTF-8"})
    assert response.status_code == 201


@pytest.mark.parametrize(
    "item",
    [
        site(address=address(street_2="Apt 5")),
        site(address=address(street_2=None)),
        site(address=address(postal_code="90012-1234")),
        site(address=address(state_or_province_code="AE", city="APO", postal_code="09012")),
        site(address=address(state_or_province_code="PR", city="San Juan", postal_code="00901")),
        site(address=address(country_code="CA", state_or_province_code="ON", city="Toronto", postal_code="M5V 3L9")),
        site(address=address(country_code="CA", state_or_province_code="ON", city="Toronto", postal_code="M5V3L9")),
        site(address=address(city="Saint-Jérôme 🏠")),
        site(reference_id="A-Za-z0-9._~-"),
        site(reference_id="abc"),
        site(reference_id="a" * 256),
        site(building_type="MANUFACTURED_HOME"),
        site(device_ids=[1, 1]),
        site(device_ids=[1] * 100),
        site(create_application=True),
        site(webhook_custom_fields={"crm": {"id": 5}}),
    ],
)
def test_valid_items_are_accepted(client: OrganizationClient, item: Json) -> None:
    created = client.submit(item)
    [stored] = client.get(f"/batch-lookups/{created['job_id']}/items").json()["items"]
    assert stored["reference_id"] == item["reference_id"]
    assert stored["device_ids"] == item["device_ids"]
    assert stored["address"] == {name: value for name, value in item["address"].items() if value is not None}


def test_a_postal_code_outside_its_state_is_a_warning(client: OrganizationClient) -> None:
    created = client.submit(site(address=address(postal_code="10001")))
    [item] = client.get(f"/batch-lookups/{created['job_id']}/items").json()["items"]
    assert item["warnings"] == ["address.postal_code 10001 does not lie in CA"]


def test_a_new_job_waits(client: OrganizationClient) -> None:
    created = client.submit(site("deal-001"), site("deal-002"))

    job = client.get(f"/batch-lookups/{created['job_id']}").json()

    assert list(job)[:11] == [
        "id",
        "organization_id",
        "status",
        "total_items",
        "processed_items",
        "failed_items",
        "report_id",
        "created_at",
        "started_at",
        "completed_at",
        "item_counts",
    ]
    assert job["id"] == created["job_id"]
    assert job["report_id"] == created["report"]["id"]
    assert (job["status"], job["total_items"], job["processed_items"], job["failed_items"]) == ("pending", 2, 0, 0)
    assert job["item_counts"] == {"pending": 2, "processing": 0, "completed": 0, "failed": 0}
    assert job["created_at"] == created["created_at"]
    assert job["started_at"] is job["completed_at"] is None


def test_a_job_counts_the_outcomes_of_its_lookups(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(*(site(f"deal-{number:03}") for number in range(4)))
    look_up(database, created, 2)
    look_up(database, created, 1, {"error": "Program lookup failed - no utility found"}, status=404)

    job = client.get(f"/batch-lookups/{created['job_id']}").json()
    assert (job["status"], job["processed_items"], job["failed_items"]) == ("processing", 3, 1)
    assert job["item_counts"] == {"pending": 1, "processing": 0, "completed": 2, "failed": 1}
    assert RFC_3339.fullmatch(job["started_at"])

    look_up(database, created, 1)
    job = client.get(f"/batch-lookups/{created['job_id']}").json()
    assert (job["status"], job["processed_items"], job["failed_items"]) == ("completed", 4, 1)
    assert RFC_3339.fullmatch(job["completed_at"])


def test_a_job_failed_when_all_its_items_did(client: OrganizationClient, database: Connection) -> None:
    created = client.submit()
    look_up(database, created, 1, status=400)
    assert client.get(f"/batch-lookups/{created['job_id']}").json()["status"] == "failed"


def test_a_job_includes_its_items_on_request(client: OrganizationClient) -> None:
    created = client.submit(site("deal-002"), site("deal-001"))
    path = f"/batch-lookups/{created['job_id']}"

    assert [item["reference_id"] for item in client.get(f"{path}?include_items=true").json()["items"]] == ["deal-002", "deal-001"]
    assert "items" not in client.get(f"{path}?include_items=false").json()
    assert client.get(f"{path}?include_items=maybe").status_code == 400


def test_a_large_job_cannot_include_its_items(client: OrganizationClient) -> None:
    created = client.submit(*(site(f"deal-{number:03}") for number in range(501)))
    response = client.get(f"/batch-lookups/{created['job_id']}?include_items=true")
    assert (response.status_code, response.json()["code"]) == (400, "too_many_items")
    assert "/items" in response.json()["hint"]


def test_items_are_not_read_again_at_every_change(client: OrganizationClient) -> None:
    response = client.get(f"/batch-lookups/{client.submit()['job_id']}?include_items=true&wait=1")
    assert (response.status_code, response.json()["code"]) == (400, "wait_with_items")


def test_jobs_are_listed_newest_first(client: OrganizationClient, database: Connection) -> None:
    jobs = [client.submit()]
    look_up(database, jobs[0], 1)
    jobs += [client.submit() for _ in range(2)]

    page = client.get("/batch-lookups").json()
    assert list(page) == ["jobs", "total", "limit", "offset", "next_cursor"]
    assert [job["id"] for job in page["jobs"]] == [job["job_id"] for job in reversed(jobs)]
    assert (page["total"], page["limit"], page["offset"]) == (3, 20, 0)

    page = client.get("/batch-lookups", params={"limit": 1, "offset": 1}).json()
    assert [job["id"] for job in page["jobs"]] == [jobs[1]["job_id"]]
    assert (page["total"], page["limit"], page["offset"]) == (3, 1, 1)

    page = client.get("/batch-lookups", params={"status": "completed"}).json()
    assert [job["id"] for job in page["jobs"]] == [jobs[0]["job_id"]]
    assert page["total"] == 1


def test_items_are_listed_in_upload_order(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(*(site(f"deal-{number:03}") for number in reversed(range(60))))
    path = f"/batch-lookups/{created['job_id']}/items"
    look_up(database, created, 1, {"utility": {"eiaid": "1", "name": "U"}})

    page = client.get(path).json()
    assert list(page) == ["items", "total", "limit", "offset", "next_cursor"]
    assert [item["reference_id"] for item in page["items"]] == [f"deal-{number:03}" for number in range(59, 9, -1)]
    assert (page["total"], page["limit"], page["offset"]) == (60, 50, 0)
    first, second = page["items"][:2]
    assert {"id", "job_id", "status", "reference_id", "address", "building_type", "device_ids", "result"} <= set(first)
    assert {"error_message", "retry_count", "created_at", "processed_at"} <= set(first)
    assert (first["status"], first["result"], first["error_message"]) == ("completed", {"utility": {"eiaid": "1", "name": "U"}}, None)
    assert RFC_3339.fullmatch(first["processed_at"])
    assert (second["status"], second["result"], second["processed_at"], second["retry_count"]) == ("pending", None, None, 0)
    assert second["job_id"] == created["job_id"]

    page = client.get(path, params={"limit": 500, "offset": 58}).json()
    assert [item["reference_id"] for item in page["items"]] == ["deal-001", "deal-000"]
    page = client.get(path, params={"status": "completed"}).json()
    assert [item["reference_id"] for item in page["items"]] == ["deal-059"]
    assert page["total"] == 1


def test_a_cancelled_job_keeps_what_it_has(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(site("deal-001"), site("deal-002"))
    look_up(database, created, 1)

    response = client.post(f"/batch-lookups/{created['job_id']}/cancel")

    assert response.status_code == 200
    assert response.json() == {"message": "Job cancelled successfully", "job_id": created["job_id"]}
    job = client.get(f"/batch-lookups/{created['job_id']}?include_items=true").json()
    assert job["status"] == "cancelled"
    assert [(item["status"], item["error_message"]) for item in job["items"]] == [("completed", None), ("failed", "Job cancelled")]
    assert client.get(f"/incentive-reports/{job['report_id']}").json()["status"] == "complete"


def test_a_job_that_has_ended_cannot_be_cancelled(client: OrganizationClient) -> None:
    path = f"/batch-lookups/{client.submit()['job_id']}/cancel"
    client.post(path)

    response = client.post(path)

    assert response.status_code == 409
    assert (response.json()["code"], response.json()["error"]) == ("job_ended", "The job has already been cancelled")


@pytest.mark.parametrize(("status", "told"), [(200, "completed"), (404, "failed")])
def test_a_job_that_has_ended_says_how(client: OrganizationClient, database: Connection, status: int, told: str) -> None:
    created = client.submit()
    look_up(database, created, 1, status=status)
    assert client.post(f"/batch-lookups/{created['job_id']}/cancel").json()["error"] == f"The job has already {told}"


@pytest.mark.parametrize("job_id", [UNKNOWN_ID, "1", "%00", "'; drop table--", "{" + UNKNOWN_ID + "}"])
@pytest.mark.parametrize(
    ("method", "suffix"),
    [("GET", ""), ("GET", "/items"), ("GET", "/results"), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")],
)
def test_a_job_that_is_not_there_is_not_found(client: OrganizationClient, job_id: str, method: str, suffix: str) -> None:
    response = client.request(method, f"/batch-lookups/{job_id}{suffix}")
    assert response.status_code == 404
    assert response.json()["error"] == "Batch job not found"
    assert response.json()["code"] == "job_not_found"


@pytest.mark.parametrize(
    ("method", "suffix"),
    [("GET", ""), ("GET", "/items"), ("GET", "/results"), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")],
)
def test_another_organizations_job_is_not_found(client: OrganizationClient, new_client: NewClient, method: str, suffix: str) -> None:
    job_id = new_client().submit()["job_id"]
    response = client.request(method, f"/batch-lookups/{job_id}{suffix}")
    assert response.status_code == 404
    assert response.json()["error"] == "Batch job not found"


def test_lists_hold_nothing_of_another_organization(client: OrganizationClient, new_client: NewClient) -> None:
    new_client().submit()
    assert client.get("/batch-lookups").json()["total"] == 0
    assert client.get("/incentive-reports").json()["total"] == 0


def test_organizations_may_use_the_same_reference_ids(client: OrganizationClient, new_client: NewClient) -> None:
    client.submit(site("deal-001"))
    new_client().submit(site("deal-001"))


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/batch-lookups", "limit=0", "invalid_limit"),
        ("/batch-lookups", "limit=201", "invalid_limit"),
        ("/batch-lookups", "limit=-1", "invalid_limit"),
        ("/batch-lookups", "limit=ten", "invalid_limit"),
        ("/batch-lookups", "limit=", "invalid_limit"),
        ("/batch-lookups", "limit=1e1", "invalid_limit"),
        ("/batch-lookups", "limit=99999999999999999999", "invalid_limit"),
        ("/batch-lookups", "limit=%D9%A5", "invalid_limit"),
        ("/batch-lookups", "offset=-1", "invalid_offset"),
        ("/batch-lookups", "offset=2147483648", "invalid_offset"),
        ("/batch-lookups", "status=done", "invalid_status"),
        ("/batch-lookups", "status=", "invalid_status"),
        ("/batch-lookups", "status=%00", "invalid_status"),
        ("/batch-lookups/{job_id}/items", "limit=501", "invalid_limit"),
        ("/batch-lookups/{job_id}/items", "status=cancelled", "invalid_status"),
        ("/batch-lookups/{job_id}/items", "offset=%00", "invalid_offset"),
        ("/batch-lookups/{job_id}/items", "error_code=%27", "invalid_error_code"),
        ("/batch-lookups/{job_id}/results", "format=pdf", "invalid_format"),
        ("/batch-lookups/{job_id}/results", "status=cancelled", "invalid_status"),
        ("/batch-lookups/{job_id}", "include_items=2", "invalid_include_items"),
        ("/incentive-reports", "status=completed", "invalid_status"),
        ("/incentive-reports/{report_id}", "limit=501", "invalid_limit"),
    ],
)
def test_a_wrong_parameter_is_refused(client: OrganizationClient, path: str, query: str, code: str) -> None:
    created = client.submit()
    response = client.get(path.format(job_id=created["job_id"], report_id=created["report"]["id"]) + "?" + query)
    assert response.status_code == 400
    assert response.json()["code"] == code
