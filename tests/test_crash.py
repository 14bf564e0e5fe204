"""Workers as processes: what remains after they are killed and PostgreSQL crashes in the middle of a batch."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pyshell.local.private_postgres import PrivatePostgres
from tests.conftest import Connection
from tests.timed import PATIENCE, wait_until
from tests.upstream import FakeUpstream, Reply
from tests.worker_fixtures import Batches, check_invariants, fetch_value, leases, start_worker_process, update_settings

ITEMS = 2000
KILLS = 5


StartWorker = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def start_worker(own_postgres: PrivatePostgres, upstream: FakeUpstream, tmp_path: Path) -> Iterator[StartWorker]:
    workers: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        workers.append(start_worker_process(own_postgres.url(), upstream, tmp_path / "worker.log"))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()
        worker.wait()


def connect(postgres: PrivatePostgres) -> Connection:
    return psycopg.connect(postgres.url(), autocommit=True)


def count_ended(owner: Connection) -> int:
    answer: int = fetch_value(owner, "select count(*) from public.lookup_queue_items where processed_at is not null")
    return answer


@pytest.mark.long
def test_killed_workers_and_a_crashed_postgresql_lose_no_item(
    own_postgres: PrivatePostgres, upstream: FakeUpstream, start_worker: StartWorker
) -> None:
    upstream.usual = Reply(delay=0.02)
    upstream.plan("site-100", Reply(400))
    upstream.plan("site-200", Reply(500), Reply(reset=True), Reply())
    with connect(own_postgres) as owner:
        update_settings(owner, lookups_per_second=None, max_in_flight=20, lease_seconds=1, max_retries=20, retry_backoff_seconds=0.01)
        batches = Batches(owner)
        jobs = [batches.create(ITEMS), batches.create([f"second-{n}" for n in range(200)])]
        ended = 0
        for _ in range(KILLS):
            worker = start_worker()
            wait_until(lambda: count_ended(owner) >= ended + 150)  # noqa: B023
            time.sleep(random.uniform(0, 0.3))
            worker.kill()
            worker.wait()
            ended = count_ended(owner)
        worker = start_worker()
        wait_until(lambda: count_ended(owner) >= ended + 150)
    own_postgres.stop(immediately=True)
    time.sleep(random.uniform(0, 0.5))
    own_postgres.start()

    with connect(own_postgres) as owner:
        batches.owner = owner
        assert [batches.wait(job) for job in jobs] == ["completed", "completed"]
        assert batches.counts() == {"completed": ITEMS + 199, "failed": 1}
        # Every attempt that upstream saw is counted: it is the first one, or a retry.
        rows = owner.execute("select reference_id, retry_count + 1 from public.lookup_queue_items").fetchall()
        attempts: dict[str, int] = dict(rows)
        assert {name: (seen, attempts[name]) for name, seen in upstream.times_seen().items() if seen > attempts[name]} == {}
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0
        assert leases(owner) == 0
        check_invariants(owner)


def test_a_worker_that_was_frozen_past_its_leases_does_no_harm(
    own_postgres: PrivatePostgres, upstream: FakeUpstream, start_worker: StartWorker
) -> None:
    upstream.usual = Reply(delay=0.02)
    with connect(own_postgres) as owner:
        update_settings(owner, lookups_per_second=None, max_in_flight=20, lease_seconds=1, retry_backoff_seconds=0.01)
        batches = Batches(owner)
        job = batches.create(1500)
        frozen = start_worker()
        wait_until(lambda: len(upstream.requests) > 200)
        frozen.send_signal(signal.SIGSTOP)
        start_worker()
        time.sleep(2)
        frozen.send_signal(signal.SIGCONT)
        assert batches.wait(job) == "completed"
        assert batches.counts() == {"completed": 1500}
        assert fetch_value(owner, "select max(retry_count) from public.lookup_queue_items") <= 1


def test_a_worker_whose_terminal_ends_stops_in_order(
    own_postgres: PrivatePostgres, upstream: FakeUpstream, start_worker: StartWorker, not_ignoring_hangups: None
) -> None:
    upstream.usual = Reply(delay=0.5)
    with connect(own_postgres) as owner:
        update_settings(owner, lookups_per_second=None, max_in_flight=20)
        Batches(owner).create(1000)
        worker = start_worker()
        wait_until(lambda: upstream.requests)
        for _ in range(2):
            worker.send_signal(signal.SIGHUP)
            time.sleep(0.1)
        assert worker.wait(PATIENCE) == 0
        assert leases(owner) == 0
        assert count_ended(owner) == len(upstream.requests)


def test_no_thread_of_a_worker_interrupts_other_processes(
    own_postgres: PrivatePostgres, upstream: FakeUpstream, start_worker: StartWorker
) -> None:
    upstream.usual = Reply(delay=3600)
    with connect(own_postgres) as owner:
        Batches(owner).create(5)
    worker = start_worker()
    wait_until(lambda: upstream.in_flight)
    threads = [int(task.name) for task in Path(f"/proc/{worker.pid}/task").iterdir()]
    # At least one of them is the HTTP client's.
    assert len(threads) > 1
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_BATCH}


def test_a_second_signal_ends_a_worker_at_once(own_postgres: PrivatePostgres, upstream: FakeUpstream, start_worker: StartWorker) -> None:
    upstream.usual = Reply(delay=3600)
    with connect(own_postgres) as owner:
        Batches(owner).create(5)
    worker = start_worker()
    wait_until(lambda: upstream.in_flight)
    worker.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert worker.poll() is None
    worker.send_signal(signal.SIGINT)
    assert worker.wait(PATIENCE) != 0


def test_a_worker_waits_for_a_database_that_is_not_there_yet(
    own_postgres: PrivatePostgres, upstream: FakeUpstream, start_worker: StartWorker
) -> None:
    with connect(own_postgres) as owner:
        batches = Batches(owner)
        job = batches.create(3)
    own_postgres.stop(immediately=True)
    start_worker()
    time.sleep(1.5)
    own_postgres.start()
    with connect(own_postgres) as owner:
        batches.owner = owner
        assert batches.wait(job) == "completed"
