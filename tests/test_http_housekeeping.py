"""Retries of failed items, and deletion of ended jobs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from tests.conftest import Connection
from tests.http_fixtures import Json, OrganizationClient, look_up, organization_of, site


@pytest.fixture
def job(client: OrganizationClient) -> Json:
    return client.submit(*(site(f"deal-{number}", webhook_custom_fields={"row": number}) for number in range(5)))


def path(job: Json) -> str:
    return f"/batch-lookups/{job['job_id']}"


def references(client: OrganizationClient, job: Json) -> list[str]:
    return [item["reference_id"] for item in client.get(f"{path(job)}/items").json()["items"]]


def end(database: Connection, job: Json) -> None:
    """Three of five items fail, for two reasons."""
    look_up(database, job, 1, status=404)
    look_up(database, job, 2)
    look_up(database, job, 1, status=400)
    look_up(database, job, 1, status=404)


def test_failed_items_become_a_new_job(client: OrganizationClient, database: Connection, job: Json) -> None:
    end(database, job)

    response = client.post(f"{path(job)}/retry")

    assert response.status_code == 201
    retry = response.json()
    assert list(retry) == [*job, "retry_of_job_id"]
    assert (retry["status"], retry["total_items"], retry["retry_of_job_id"]) == ("pending", 3, job["job_id"])
    assert retry["report"]["id"] != job["report"]["id"]
    assert client.get(path(retry)).json()["retry_of_job_id"] == job["job_id"]
    assert references(client, retry) == ["deal-0", "deal-3", "deal-4"]
    assert client.get(f"{path(retry)}/items?offset=2").json()["items"][0]["reference_id"] == "deal-4"
    fields = database.execute(
        "select array_agg(webhook_custom_fields ->> 'row' order by position) from public.lookup_queue_items where job_id = %s",
        [retry["job_id"]],
    ).fetchone()
    assert fields == (["0", "3", "4"],)

    look_up(database, retry, 3)
    assert client.get(path(retry)).json()["status"] == "completed"
    assert client.get(path(job)).json()["failed_items"] == 3


def test_items_that_failed_for_one_reason_can_be_tried_again(client: OrganizationClient, database: Connection, job: Json) -> None:
    end(database, job)
    retry = client.post(f"{path(job)}/retry", params={"error_code": "not_found"}).json()
    assert references(client, retry) == ["deal-0", "deal-4"]


def test_a_job_is_not_tried_again_twice_at_once(client: OrganizationClient, database: Connection, job: Json) -> None:
    end(database, job)
    retry = client.post(f"{path(job)}/retry").json()
    again = client.post(f"{path(job)}/retry")
    assert (again.status_code, again.json()["code"], again.json()["job_id"]) == (409, "retry_in_progress", retry["job_id"])
    client.post(f"{path(retry)}/cancel")
    assert client.post(f"{path(job)}/retry").status_code == 201


def test_a_retry_that_is_repeated_with_its_key_makes_one_job(client: OrganizationClient, database: Connection, job: Json) -> None:
    def retry(key: str, **params: str) -> httpx.Response:
        return client.post(f"{path(job)}/retry", params=params, headers={"idempotency-key": key})

    end(database, job)
    first = retry("retry-1", error_code="not_found")
    assert (first.status_code, first.headers.get("idempotency-replayed")) == (201, None)
    # It has ended and was deleted: without the key, there would be another one.
    look_up(database, first.json(), 2)
    client.delete(path(first.json()))
    second = retry("retry-1", error_code="not_found")
    assert (second.status_code, second.content, second.headers["idempotency-replayed"]) == (201, first.content, "true")
    assert client.get("/batch-lookups").json()["total"] == 1
    for response, status, code in ((retry("retry-1"), 422, "idempotency_key_reused"), (retry("a b"), 400, "invalid_idempotency_key")):
        assert (response.status_code, response.json()["code"]) == (status, code)
    assert retry("retry-2").json()["total_items"] == 3


def test_a_retry_that_is_repeated_while_it_is_made_is_in_progress(client: OrganizationClient, database: Connection, job: Json) -> None:
    def retry() -> httpx.Response:
        return client.post(f"{path(job)}/retry", headers={"idempotency-key": "retry-1"})

    end(database, job)
    with psycopg.connect(database.info.dsn, password=database.info.password) as first:
        made = first.execute("select body from api.submit_retry(%s, %s, null, 'retry-1')", [organization_of(database, job), job["job_id"]])
        [body] = made.fetchone() or [None]
        second = retry()
        assert (second.status_code, second.json()["code"]) == (409, "request_in_progress")
    third = retry()
    assert (third.status_code, third.json(), third.headers["idempotency-replayed"]) == (201, body, "true")
    assert client.get("/batch-lookups").json()["total"] == 2


def test_a_retry_that_is_sent_many_times_at_once_makes_one_job(client: OrganizationClient, database: Connection, job: Json) -> None:
    end(database, job)
    with ThreadPoolExecutor(4) as executor:
        retries = [executor.submit(client.post, f"{path(job)}/retry", headers={"idempotency-key": "retry-1"}) for _ in range(8)]
        answers = [retry.result() for retry in retries]
    assert {(answer.status_code, answer.json().get("code")) for answer in answers} <= {(201, None), (409, "request_in_progress")}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert client.get("/batch-lookups").json()["total"] == 2


@pytest.mark.parametrize(("method", "suffix"), [("POST", "/retry"), ("DELETE", "")])
def test_a_job_must_have_ended(client: OrganizationClient, database: Connection, job: Json, method: str, suffix: str) -> None:
    response = client.request(method, path(job) + suffix)
    assert (response.status_code, response.json()["code"]) == (409, "job_not_ended")
    assert response.json()["error"] == "The job is still pending; 5 items are unfinished"
    # Including the item that was in flight at the cancel.
    database.execute("select api.claim_lookups(%s, 'test', 1)", [organization_of(database, job)])
    client.post(f"{path(job)}/cancel")
    response = client.request(method, path(job) + suffix)
    assert (response.status_code, response.json()["code"]) == (409, "job_not_ended")
    assert response.json()["error"] == "The job was cancelled; 1 item is unfinished"
    assert response.json()["hint"] == "Wait until its last lookups have ended."


def test_without_failures_there_is_nothing_to_try_again(client: OrganizationClient, database: Connection, job: Json) -> None:
    look_up(database, job, 5)
    response = client.post(f"{path(job)}/retry")
    assert (response.status_code, response.json()["code"]) == (409, "no_failed_items")
    assert response.json()["error"] == "No item of this job failed"
    response = client.post(f"{path(job)}/retry", params={"error_code": "not_found"})
    assert response.json()["error"] == "No item of this job failed with error_code not_found"


@pytest.mark.parametrize("include_report", [False, True])
def test_a_deleted_job_is_gone(client: OrganizationClient, database: Connection, job: Json, include_report: bool) -> None:
    end(database, job)
    response = client.delete(path(job), params={"include_report": include_report})
    assert response.json() == {"message": "Job deleted successfully", "job_id": job["job_id"]}
    assert client.get(path(job)).status_code == client.get(f"{path(job)}/items").status_code == client.delete(path(job)).status_code == 404
    report = client.get(f"/incentive-reports/{job['report']['id']}")
    assert report.status_code == (404 if include_report else 200)
    assert include_report or report.json()["total_sites"] == 2


def test_deleting_a_report_with_its_job_takes_the_scope_for_reports(client: OrganizationClient, database: Connection, job: Json) -> None:
    end(database, job)
    keeper = {"x-api-key": client.post("/api-keys", json={"scopes": ["jobs:write"]}).json()["key"]}
    refused = client.delete(path(job), params={"include_report": True}, headers=keeper)
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert client.get(path(job)).status_code == client.get(f"/incentive-reports/{job['report']['id']}").status_code == 200
    assert client.delete(path(job), headers=keeper).status_code == 200
