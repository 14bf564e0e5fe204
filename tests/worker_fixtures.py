"""Fixtures and helpers of the worker's tests: a worker on a thread, an upstream that responds as instructed, batches and their outcomes."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import uvloop

from pyshell.postgres.notifications import Notifier
from pyshell.settings import ROOT, Settings
from pyshell.worker.process import Worker
from tests.conftest import Connection
from tests.timed import wait_until
from tests.upstream import FakeUpstream, fake_upstream


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with fake_upstream() as server:
        yield server


@pytest.fixture
def worker_settings(database_url: str, upstream: FakeUpstream, owner: Connection) -> Settings:
    """Settings of a worker that looks up at `upstream`, on a fresh database without a rate limit and with short waits."""
    update_settings(owner, lookups_per_second=None, max_in_flight=20, retry_backoff_seconds=0.01)
    return Settings(database_url=database_url, incentives_api_url=upstream.url, incentives_api_key="key of the provider")


def unheard(call: Callable[..., Awaitable[object]], stop: asyncio.Event, seconds: float) -> Callable[..., Awaitable[None]]:
    """The call of the database, whose connection is lost so many seconds after its execution. Sets `stop` before."""

    async def carry_out_and_lose(*arguments: object) -> None:
        await call(*arguments)
        stop.set()
        await asyncio.sleep(seconds)
        raise psycopg.OperationalError

    return carry_out_and_lose


def start_worker_process(database_url: str, upstream: FakeUpstream, log: Path) -> subprocess.Popen[bytes]:
    """A worker to kill; it ends with this process, however that ends. Its log is appended to `log`."""
    with log.open("a") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "pyshell", "worker"],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": database_url, "INCENTIVES_API_URL": upstream.url},
            stderr=stderr,
            preexec_fn=end_with_parent,
        )


def end_with_parent() -> None:
    """In a child: it is killed when its parent ends (Linux's PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def running_worker(settings: Settings) -> AbstractContextManager[None]:
    """A worker on a thread of its own, stopped gracefully in the end."""

    async def run(stop: asyncio.Event) -> None:
        notifier = Notifier(settings.database_url, "batch-lookups worker listener")
        worker = Worker(settings, "internal key", notifier)
        async with notifier.running():
            await worker.run(stop)

    return running_until_stopped(run)


@contextmanager
def running_until_stopped(run: Callable[[asyncio.Event], Awaitable[None]]) -> Iterator[None]:
    """`run(stop)` in the event loop of a thread of its own; `stop` is set in the end. Raises what it raised."""
    stop = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    failures: list[BaseException] = []

    async def work() -> None:
        loops.append(asyncio.get_running_loop())
        await run(stop)

    def run_thread() -> None:
        try:
            uvloop.run(work())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run_thread)
    thread.start()
    try:
        yield
    finally:
        wait_until(lambda: loops or failures)
        if loops and not loops[0].is_closed():
            loops[0].call_soon_threadsafe(stop.set)
        thread.join()
    assert not failures, failures


class Batches:
    """Creates batches of one organization and reads their outcomes."""

    def __init__(self, owner: Connection, name: str = "organization", organization_id: UUID | None = None) -> None:
        self.owner = owner
        self.organization_id: UUID = organization_id or fetch_value(owner, "select api.create_organization(%s)", f"{name} {uuid.uuid4()}")

    def create(self, items: int | Sequence[str]) -> UUID:
        """Creates a batch of so many items, or of items with these reference ids; returns the job's id."""
        names = [f"site-{n}" for n in range(items)] if isinstance(items, int) else items
        request = json.dumps({"items": [site(name) for name in names]})
        created = fetch_value(
            self.owner,
            "select api.create_batch_lookup(p_organization_id => %s, p_request => %s, p_check_devices => false)",
            self.organization_id,
            request,
        )
        return UUID(created["job_id"])

    def status(self, job_id: UUID) -> str:
        answer: str = fetch_value(self.owner, "select status from public.batch_lookup_jobs where id = %s", job_id)
        return answer

    def wait(self, job_id: UUID) -> str:
        """Waits for the end of a job, checks the invariants, and returns its status."""
        wait_until(lambda: self.has_ended(job_id), self.counts)
        check_invariants(self.owner)
        return self.status(job_id)

    def has_ended(self, job_id: UUID) -> bool:
        return self.status(job_id) not in ("pending", "processing")

    def counts(self) -> dict[str, int]:
        rows = self.owner.execute(
            "select status, count(*) from api.items where organization_id = %s group by status", [self.organization_id]
        )
        return dict(rows.fetchall())

    def item(self, reference_id: str) -> dict[str, Any]:
        """status, retry_count, error_code, error_message and result of an item."""
        answer: dict[str, Any] = fetch_value(
            self.owner,
            "select to_jsonb(i) from public.lookup_queue_items i where organization_id = %s and reference_id = %s",
            self.organization_id,
            reference_id,
        )
        return answer


@pytest.fixture
def batches(owner: Connection) -> Batches:
    return Batches(owner)


def site(reference_id: str) -> dict[str, Any]:
    return {
        "reference_id": reference_id,
        "address": {
            "street_1": "1 Main St",
            "city": "Oakland",
            "state_or_province_code": "CA",
            "postal_code": "94601",
            "country_code": "US",
        },
        "building_type": "RESIDENTIAL",
        "device_ids": [1],
    }


def wait_for_all(organizations: Sequence[Batches], jobs: Sequence[UUID]) -> None:
    """Waits until a job of each organization is completed, and checks the invariants of all."""
    for batches, job in zip(organizations, jobs, strict=True):
        wait_until(partial(batches.has_ended, job), batches.counts)
    check_invariants(organizations[0].owner)
    assert {batches.status(job) for batches, job in zip(organizations, jobs, strict=True)} == {"completed"}


def update_settings(owner: Connection, **changes: float | None) -> None:
    owner.execute("select api.update_settings(%s)", [json.dumps(changes)])


def fetch_value(connection: Connection, query: str, *parameters: object) -> Any:
    row = connection.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


def check_invariants(owner: Connection, *, of_job: str | None = None) -> None:
    """Checks everything or, in a database that other tests change at will, the organization that has the job."""
    violations = owner.execute(
        """select * from api.check_invariants() violation
            where %(job)s::uuid is null
               or violation.organization_id = (select organization_id from public.batch_lookup_jobs where id = %(job)s::uuid)""",
        {"job": of_job},
    )
    assert violations.fetchall() == []


def leases(owner: Connection) -> int:
    answer: int = fetch_value(owner, "select count(*) from public.lookup_leases")
    return answer
