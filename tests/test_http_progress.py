"""Waiting for a job: what an answer adds to the counts, 304, long polls, and server-sent events."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest

from pyshell.api import job_watch
from pyshell.api.routes import progress
from pyshell.settings import Settings
from tests.clerk_fixtures import clerk_instance
from tests.conftest import Connection
from tests.http_fixtures import Json, OrganizationClient, look_up, organization_of, running_server, site


@pytest.fixture
def job(client: OrganizationClient) -> Json:
    return client.submit(*(site(f"deal-{number}") for number in range(4)))


def path(job: Json) -> str:
    return f"/batch-lookups/{job['job_id']}"


def test_a_job_says_how_fast_it_goes_and_when_to_ask_again(client: OrganizationClient, database: Connection, job: Json) -> None:
    waiting = client.get(path(job)).json()
    assert list(waiting)[11:17] == ["name", "upstream", "labels", "waiting_for", "waiting_until", "rate"]
    assert list(waiting)[17:20] == ["estimated_completion_at", "errors_by_code", "poll_after_ms"]
    assert (waiting["rate"], waiting["estimated_completion_at"], waiting["errors_by_code"], waiting["poll_after_ms"]) == (
        None,
        None,
        {},
        1000,
    )

    look_up(database, job, 2, status=404)
    look_up(database, job, 1, status=400)
    database.execute("update public.batch_lookup_jobs set rate = 0.1, updated_at = now() where id = %s", [job["job_id"]])
    running = client.get(path(job)).json()
    assert running["rate"] == pytest.approx(0.1)
    ends_in = datetime.fromisoformat(running["estimated_completion_at"]) - datetime.now(UTC)
    assert timedelta(0) < ends_in < timedelta(seconds=11)
    assert running["errors_by_code"] == {"not_found": 2, "upstream_rejected": 1}
    assert running["poll_after_ms"] == 500

    look_up(database, job, 1)
    ended = client.get(path(job)).json()
    assert ended["rate"] > 0
    assert ended["estimated_completion_at"] is ended["poll_after_ms"] is None
    assert sum(ended["errors_by_code"].values()) == ended["failed_items"]


def test_a_job_that_has_not_changed_is_not_sent_again(client: OrganizationClient, database: Connection, job: Json) -> None:
    response = client.get(path(job))
    etag = response.headers["etag"]
    compressed = [f'{etag[:-1]}-{encoding}"' for encoding in ("gzip", "br")]
    for known in (etag, f'W/{etag}, "other"', "*", *compressed, f"W/{compressed[0]}"):
        again = client.get(path(job), headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert client.get(path(job), headers={"if-none-match": '"other"'}).status_code == 200
    look_up(database, job, 1)
    assert client.get(path(job), headers={"if-none-match": etag}).status_code == 200


def later(client: OrganizationClient, url: str, **headers: str) -> Future[tuple[httpx.Response, float]]:
    """The answer to a request, and how long it took; the request is under way when this returns."""

    def get() -> tuple[httpx.Response, float]:
        started = time.perf_counter()
        return client.get(url, headers=headers), time.perf_counter() - started

    executor = ThreadPoolExecutor(1)
    future = executor.submit(get)
    executor.shutdown(wait=False)
    time.sleep(0.3)
    return future


def test_a_long_poll_is_answered_at_the_change(client: OrganizationClient, job: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    # So it was the notification: there is no poll before the request ends.
    monkeypatch.setattr(job_watch, "POLL_SECONDS", 600.0)
    answer = later(client, f"{path(job)}?wait=25")
    client.post(f"{path(job)}/cancel")
    response, seconds = answer.result()
    assert seconds < 20
    assert response.json()["status"] == "cancelled"


def test_a_long_poll_ends_when_its_time_is_up(client: OrganizationClient, job: Json) -> None:
    response, seconds = later(client, f"{path(job)}?wait=1").result()
    assert response.status_code == 200
    assert 0.9 < seconds < 20
    response, seconds = later(client, f"{path(job)}?wait=1", **{"if-none-match": response.headers["etag"]}).result()
    assert response.status_code == 304
    assert 0.9 < seconds < 20


def test_a_long_poll_returns_a_change_that_the_client_lacks_immediately(
    client: OrganizationClient, database: Connection, job: Json
) -> None:
    etag = client.get(path(job)).headers["etag"]
    look_up(database, job, 4)
    assert client.get(f"{path(job)}?wait=20", headers={"if-none-match": etag}).json()["status"] == "completed"
    # Nothing will change any more.
    started = time.perf_counter()
    assert client.get(f"{path(job)}?wait=25").status_code == 200
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("wait", ["-1", "61", "1.5", "soon", ""])
def test_the_wait_of_a_long_poll_has_bounds(client: OrganizationClient, job: Json, wait: str) -> None:
    response = client.get(path(job), params={"wait": wait})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_wait")


def events_of(response: httpx.Response) -> Iterator[dict[str, str]]:
    event: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            if "event" in event:
                yield event
            event = {}


def test_progress_comes_as_events_until_the_end(client: OrganizationClient, database: Connection, job: Json) -> None:
    with client.stream("GET", f"{path(job)}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = events_of(response)
        first = next(events)
        assert (first["event"], json.loads(first["data"])["status"]) == ("progress", "pending")
        look_up(database, job, 1)
        second = next(events)
        assert json.loads(second["data"])["item_counts"]["completed"] == 1
        look_up(database, job, 3)
        *_, last, end = list(events)
        assert (json.loads(last["data"])["status"], end["event"]) == ("completed", "end")
    job_now = client.get(path(job))
    assert json.loads(last["data"]) == job_now.json()


def test_event_streams_of_an_open_job_end_too(client: OrganizationClient, job: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MAX_STREAM_SECONDS", 0)
    with client.stream("GET", f"{path(job)}/events") as response:
        assert [event["event"] for event in events_of(response)] == ["progress"]


def test_the_head_of_the_events_does_not_hold_its_connection(client: OrganizationClient, job: Json) -> None:
    """It has no body, so the client sends its next request over the same connection."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20) as connection:
        for method in ("HEAD", "GET"):
            end = "" if method == "HEAD" else "Connection: close\r\n"
            head = f"{method} {path(job)}/events HTTP/1.1\r\nHost: x\r\nX-Api-Key: {client.api_key}\r\n{end}\r\n"
            connection.sendall(head.encode())
            answer = connection.recv(65536).lower()
            assert answer.startswith(b"http/1.1 200")
            assert b"content-type: text/event-stream; charset=utf-8" in answer
            assert b"content-length" not in answer


def test_event_streams_resume_where_they_ended(client: OrganizationClient, database: Connection, job: Json) -> None:
    with client.stream("GET", f"{path(job)}/events") as response:
        first = next(events_of(response))
    answer: list[dict[str, str]] = []

    def follow() -> None:
        with client.stream("GET", f"{path(job)}/events", headers={"last-event-id": first["id"]}) as response:
            answer.extend(events_of(response))

    with ThreadPoolExecutor(1) as executor:
        following = executor.submit(follow)
        time.sleep(0.5)
        look_up(database, job, 4)
        following.result()
    assert first["id"] not in [event["id"] for event in answer]
    assert [event["event"] for event in answer][-2:] == ["progress", "end"]
    again = client.get(f"{path(job)}/events", headers={"last-event-id": answer[-1]["id"]})
    assert (again.status_code, again.content) == (204, b"")


def test_events_of_a_cancelled_job_continue_while_items_are_in_flight(client: OrganizationClient, database: Connection, job: Json) -> None:
    organization_id = organization_of(database, job)
    [item] = database.execute("select job_id, position, lease_token from api.claim_lookups(%s, 'test', 1)", [organization_id]).fetchall()
    with client.stream("GET", f"{path(job)}/events") as response:
        events = events_of(response)
        next(events)
        client.post(f"{path(job)}/cancel")
        cancelled = json.loads(next(events)["data"])
        assert (cancelled["status"], cancelled["item_counts"]["processing"]) == ("cancelled", 1)
        database.execute(
            "select api.record_lookups(%s, array[%s], array[%s::int], array[%s], array[200], array[null::text], array['{}'],"
            " array[null::float8])",
            [organization_id, *item],
        )
        assert [event["event"] for event in events] == ["progress", "end"]


def test_long_polls_work_without_notifications(http_settings: Settings, client: OrganizationClient, job: Json) -> None:
    """The connection that receives notifications can be lost at any time."""
    with (
        running_server(http_settings) as url,
        psycopg.connect(http_settings.database_url, autocommit=True) as owner,
        ThreadPoolExecutor(1) as executor,
    ):
        headers = {"x-api-key": client.api_key}
        answer = executor.submit(httpx.get, f"{url}{path(job)}?wait=20", headers=headers, timeout=30)
        time.sleep(0.5)
        owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query like 'listen%'")
        owner.execute("update public.batch_lookup_jobs set status = 'processing', started_at = now() where id = %s", [job["job_id"]])
        assert answer.result().json()["status"] == "processing"


REVOKE = """select api.revoke_api_key(k.organization_id, k.id) from app.api_keys k join app.organizations o on o.id = k.organization_id
             where o.name = %s"""


def test_event_streams_and_long_polls_end_when_the_key_is_revoked(client: OrganizationClient, database: Connection, job: Json) -> None:
    """Revoked by anybody, but not through the process that serves them."""
    with client.stream("GET", f"{path(job)}/events") as response, ThreadPoolExecutor(1) as executor:
        events = events_of(response)
        assert next(events)["event"] == "progress"
        patient = executor.submit(client.get, f"{path(job)}?wait=60", timeout=70)
        time.sleep(0.5)
        database.execute(REVOKE, [client.organization])
        assert list(events) == []
        refused = patient.result()
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_api_key")


def test_events_end_when_the_session_does(http_settings: Settings, client: OrganizationClient, database: Connection, job: Json) -> None:
    with clerk_instance() as clerk, running_server(replace(http_settings, clerk_issuer=clerk.issuer)) as url:
        organization = f"org_{uuid.uuid4().hex}"
        database.execute("update app.organizations set clerk_organization_id = %s where name = %s", [organization, client.organization])
        headers = {"authorization": f"Bearer {clerk.token(org_id=organization, exp=int(time.time()) + 2)}"}
        with httpx.stream("GET", f"{url}{path(job)}/events", headers=headers, timeout=60) as response:
            assert [event["event"] for event in events_of(response)] == ["progress"]
        assert httpx.get(f"{url}{path(job)}", headers=headers).status_code == 401
