"""Large uploads and large answers take turns, so that PostgreSQL and the process keep a processor for everything else."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from pyshell.api import app
from pyshell.api.errors import ApiError
from pyshell.api.heavy_work import MAX_AT_ONCE, HeavyWork, spare_processors
from pyshell.postgres.compact import PIECE_BYTES
from pyshell.settings import Settings
from tests.conftest import Connection, waiting_for_locks
from tests.http_fixtures import OrganizationClient, organization_of, running_server, site
from tests.timed import wait_until

ONE, OTHER = uuid4(), uuid4()


class Calls:
    """Heavy calls that take one iteration of the event loop: how many run at once, and in which order."""

    def __init__(self, at_once: int) -> None:
        self._work = HeavyWork(at_once)
        self._going_on: list[UUID] = []
        self.order: list[UUID] = []
        self.most = self.most_of_one = 0

    async def call(self, organization_id: UUID) -> None:
        async with self._work.turn(organization_id):
            self.order.append(organization_id)
            self._going_on.append(organization_id)
            self.most = max(self.most, len(self._going_on))
            self.most_of_one = max(self.most_of_one, self._going_on.count(ONE))
            await asyncio.sleep(0)
            self._going_on.remove(organization_id)


@pytest.mark.parametrize(("at_once", "of_one"), [(1, 1), (2, 1), (4, 3)])
async def test_only_so_many_run_at_once(at_once: int, of_one: int) -> None:
    calls = Calls(at_once)
    await asyncio.gather(*(calls.call(organization) for organization in [ONE] * 20 + [OTHER] * 20))
    assert (len(calls.order), calls.most, calls.most_of_one) == (40, at_once, of_one)


async def test_organizations_take_turns() -> None:
    calls = Calls(1)
    await asyncio.gather(*(calls.call(organization) for organization in [ONE] * 20 + [OTHER] * 2))
    assert calls.order[:5] == [ONE, OTHER, ONE, OTHER, ONE]


async def test_an_organization_that_waits_too_long_for_its_own_calls_is_refused() -> None:
    work = HeavyWork(1, seconds=0.01)
    async with work.turn(ONE):
        with pytest.raises(ApiError) as raised:
            await work.turn(ONE).__aenter__()
        assert (raised.value.status, raised.value.code, raised.value.headers["Retry-After"]) == (503, "busy", "5")
    async with work.turn(ONE):
        pass


async def test_nobody_waits_for_another_organization_for_long() -> None:
    work = HeavyWork(1, patience=0.01)
    async with work.turn(ONE), work.turn(OTHER), work.turn(uuid4()):
        pass


def test_a_locked_row_of_an_organization_delays_no_heavy_call_of_others(
    database: Connection, http_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if two processors allow only one turn at a time."""
    monkeypatch.setattr(app, "spare_processors", lambda _: 1)
    with running_server(http_settings) as url, ExitStack() as stack, ThreadPoolExecutor(1) as executor:
        one, other = (stack.enter_context(OrganizationClient(url, http_settings.database_url)) for _ in range(2))
        job_id = one.submit()["job_id"]
        one.post(f"/batch-lookups/{job_id}/cancel")
        other_job = other.submit()["job_id"]
        upload_id = other.post("/uploads", json=[site()]).json()["id"]
        with database.transaction():
            database.execute(
                "select from public.batch_lookup_jobs where organization_id = %s and id = %s for update",
                [organization_of(database, {"job_id": job_id}), job_id],
            )
            held = executor.submit(one.post, f"/batch-lookups/{job_id}/retry")
            with psycopg.connect(database.info.dsn, password=database.info.password, autocommit=True) as observer:
                wait_until(lambda: len(waiting_for_locks(observer, "submit_retry")) == 1)
            answers = [
                other.request(method, path, content=body, headers=JSON)
                for method, path, body in heavy_requests(other, other_job, upload_id)
            ]
            # What is changed when its batch has started is refused.
            assert [answer.status_code for answer in answers] == [200] * 7 + [201, 201, 201, 409]
            assert not held.done()
        assert held.result().status_code < 500


@pytest.mark.parametrize(
    ("processors", "processes", "at_once"), [(1, 1, 1), (2, 1, 1), (3, 1, 2), (64, 1, MAX_AT_ONCE), (5, 2, 2), (4, 4, 1)]
)
def test_one_processor_is_left_free(processors: int, processes: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    assert spare_processors(processes) == at_once


@pytest.fixture
def clients(http_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[OrganizationClient]]:
    """Of three organizations, at a server with two turns."""
    monkeypatch.setattr(app, "spare_processors", lambda _: 2)
    with running_server(http_settings) as url, ExitStack() as stack:
        yield [stack.enter_context(OrganizationClient(url, http_settings.database_url)) for _ in range(3)]


LARGE = json.dumps([site()]).encode() + b" " * PIECE_BYTES
JSON = {"content-type": "application/json"}


def heavy_requests(client: OrganizationClient, job_id: str, upload_id: str) -> list[tuple[str, str, bytes | None]]:
    report_id = client.get("/incentive-reports").json()["reports"][0]["id"]
    return [
        ("GET", f"/batch-lookups/{job_id}/items", None),
        ("GET", f"/batch-lookups/{job_id}/results", None),
        ("GET", f"/batch-lookups/{job_id}/results?format=xlsx", None),
        ("GET", f"/batch-lookups/{job_id}?include_items=true", None),
        ("GET", f"/incentive-reports/{report_id}", None),
        ("GET", f"/incentive-reports/{report_id}/csv", None),
        ("GET", f"/incentive-reports/{report_id}/html", None),
        ("POST", "/batch-lookups", LARGE),
        ("POST", "/uploads", LARGE),
        ("POST", f"/uploads/{upload_id}/start", None),
        ("PATCH", f"/uploads/{upload_id}", b'{"edits": []}'),
    ]


def test_heavy_requests_leave_the_rest_to_the_light_ones(database: Connection, clients: list[OrganizationClient]) -> None:
    one, *others = clients
    job_id = one.submit()["job_id"]
    upload_id = one.post("/uploads", json=[site()]).json()["id"]
    other_jobs = [other.submit()["job_id"] for other in others]
    requests = heavy_requests(one, job_id, upload_id)
    # Every heavy call waits at these tables; the list of jobs does without them.
    tables = "public.lookup_queue_items, public.incentive_report_sites, public.lookup_uploads"
    with database.transaction(), ThreadPoolExecutor(len(requests) + 3) as executor:
        database.execute(f"lock table {tables} in access exclusive mode".encode())

        def ask(client: OrganizationClient, method: str, path: str, body: bytes | None = None) -> Future[httpx.Response]:
            return executor.submit(client.request, method, path, content=body, headers=JSON)

        asked = [ask(one, *request) for request in requests]
        asked += [ask(other, "GET", f"/batch-lookups/{job}/items") for other, job in zip(others, other_jobs, strict=True)]

        def blocked_calls() -> int:
            with psycopg.connect(database.info.dsn, password=database.info.password, autocommit=True) as observer:
                return len(waiting_for_locks(observer, "batch-lookups"))

        # One that reads and one that writes of the first organization, and one that reads of another; later one of the third, too.
        wait_until(lambda: blocked_calls() >= 3)
        for _ in range(3):
            assert [client.get("/batch-lookups?limit=1").status_code for client in clients] == [200] * 3
            assert blocked_calls() <= 4
        database.execute("rollback")
    assert [answer.result().json() for answer in asked if answer.result().status_code >= 500] == []


@pytest.mark.parametrize("value", ["1", "12345.75", '"a"'])
def test_a_check_of_many_values_takes_little_memory(owner: Connection, value: str) -> None:
    one, many = (f'{{"items": [{{"device_ids": [{",".join([value] * number)}]}}]}}' for number in (1, 400_000))
    owner.execute("select app.check_json(%s)", [one])
    owner.execute("select pg_column_size(%s::jsonb)", [many])
    before = most_megabytes(owner.info.backend_pid)
    owner.execute("select app.check_json(%s)", [many])
    assert most_megabytes(owner.info.backend_pid) - before < 100, "600 bytes for each would be 240 MB"


def most_megabytes(pid: int) -> int:
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) // 1024


def test_a_workbook_is_large_whatever_its_size(database: Connection, http_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """How large a few kilobytes of a workbook become is known only after reading it."""
    monkeypatch.setattr(app, "spare_processors", lambda _: 1)
    monkeypatch.setattr(app, "HeavyWork", partial(HeavyWork, seconds=0.1))
    with running_server(http_settings) as url, OrganizationClient(url, http_settings.database_url) as client:
        with database.transaction(), ThreadPoolExecutor(1) as executor:
            database.execute("lock table public.lookup_uploads in access exclusive mode")
            held = executor.submit(client.post, "/uploads", content=LARGE, headers=JSON)
            with psycopg.connect(database.info.dsn, password=database.info.password, autocommit=True) as observer:
                wait_until(lambda: len(waiting_for_locks(observer, "submit_upload")) == 1)
            refused = client.post("/uploads", content=b"PK\x03\x04", headers={"content-type": "application/zip"})
            database.execute("rollback")
        assert (refused.status_code, refused.json()["code"]) == (503, "busy")
        assert held.result().status_code == 201
