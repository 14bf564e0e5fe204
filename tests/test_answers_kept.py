"""Whatever the database cannot do for a while, a good answer is recorded in the end, and no item fails because of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pyshell.postgres import retries
from pyshell.postgres.connections import connect
from pyshell.postgres.notifications import Notifier
from pyshell.settings import Settings
from pyshell.worker import claims, outcomes, process
from pyshell.worker.calls import Lease, claim_lookups
from pyshell.worker.leases import LeaseKeeper
from pyshell.worker.outcomes import Outcomes
from pyshell.worker.process import Worker
from pyshell.worker.upstream import Answer
from tests.conftest import Connection, sessions
from tests.tcp_proxy import running_proxy
from tests.timed import PATIENCE, wait_until
from tests.upstream import FakeUpstream, Reply
from tests.worker_fixtures import Batches, check_invariants, fetch_value, leases, running_worker, unheard, update_settings

ITEMS = 60


def end_connections_of_workers(owner: Connection) -> None:
    owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where starts_with(application_name, 'batch-lookups worker')")


@contextmanager
def read_only(owner: Connection, database_url: str) -> Iterator[None]:
    """As a standby is, or a project whose disk is full: new connections cannot write."""
    name = owner.info.dbname
    owner.execute(f"alter database {name} set default_transaction_read_only = on".encode())
    end_connections_of_workers(owner)
    yield
    owner.execute(f"alter database {name} reset default_transaction_read_only".encode())
    end_connections_of_workers(owner)


@contextmanager
def locked(owner: Connection, database_url: str) -> Iterator[None]:
    with psycopg.connect(database_url) as connection:
        connection.execute("lock table public.lookup_leases")
        yield


@pytest.mark.parametrize("trouble", [read_only, locked], ids=["read-only", "leases locked"])
@pytest.mark.long
def test_a_database_that_is_away_for_longer_than_a_lease_loses_no_answer(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, database_url: str, trouble: object
) -> None:
    update_settings(owner, lease_seconds=1, max_retries=0, max_in_flight=20)
    upstream.usual = Reply(delay=0.3)
    with running_worker(worker_settings):
        job = batches.create(ITEMS)
        wait_until(lambda: len(upstream.requests) >= 25)
        with trouble(owner, database_url):  # type: ignore[operator]
            time.sleep(3)
        assert batches.wait(job) == "completed"
    assert batches.counts() == {"completed": ITEMS}
    check_invariants(owner)


@pytest.mark.parametrize("organizations", [1, 3])
def test_a_claim_whose_answer_is_lost_delays_nothing_and_costs_no_retry(
    worker_settings: Settings, upstream: FakeUpstream, owner: Connection, database_url: str, organizations: int
) -> None:
    """The claim has committed when the connection breaks, so the worker never learns what it has claimed. A setting, which all nodes of a
    cluster know, keeps the claim from returning.
    """
    owner.execute(
        """alter function app.note_claim rename to note_claim_at_once;
           create function app.note_claim(
               p_organization_id uuid, p_has_items boolean, p_has_more boolean, p_ready_at timestamptz, p_has_expired boolean,
               p_expires_at timestamptz, p_now timestamptz
           ) returns void language plpgsql volatile as $$
           begin
               perform app.note_claim_at_once($1, $2, $3, $4, $5, $6, $7);
               while p_has_items and (select lease_seconds = 600 from app.settings) loop
                   perform pg_sleep(0.01);
               end loop;
           end;
           $$"""
    )
    update_settings(owner, lease_seconds=600)
    batches = [Batches(owner, f"organization {n}") for n in range(organizations)]
    jobs = [each.create(8) for each in batches]
    with running_proxy(owner.info.port) as proxy:
        url = make_conninfo(database_url, host="127.0.0.1", port=proxy.port)
        with running_worker(replace(worker_settings, database_url=url)):
            asleep = f"select from {sessions(owner)} where wait_event = 'PgSleep'"
            wait_until(lambda: owner.execute(asleep.encode()).rowcount)
            proxy.fall_silent()
            update_settings(owner, lease_seconds=500)
            wait_until(lambda: leases(owner) > 0)
            proxy.recover()
            assert [each.wait(job) for each, job in zip(batches, jobs, strict=True)] == ["completed"] * organizations
    assert fetch_value(owner, "select max(retry_count) from public.lookup_queue_items") == 0
    assert fetch_value(owner, "select sum(lookups) from public.lookup_usage") == len(upstream.requests) == 8 * organizations


def test_large_answers_are_recorded_in_smaller_flushes(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole flush takes longer than the time limit of statements; a part of it does not."""
    monkeypatch.setitem(connect.__kwdefaults__, "statement_timeout", 1)  # type: ignore[arg-type]
    owner.execute(
        """alter function app.add_report_sites(uuid, public.lookup_queue_items[], timestamptz) rename to add_report_sites_at_once;
           create function app.add_report_sites(p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz) returns void
           language plpgsql as $$
           begin
               perform pg_sleep(0.06 * cardinality(p_items));
               perform app.add_report_sites_at_once(p_organization_id, p_items, p_now);
           end $$"""
    )
    with running_worker(worker_settings):
        assert batches.wait(batches.create(ITEMS)) == "completed"
    assert set(upstream.times_seen().values()) == {1}
    assert batches.counts() == {"completed": ITEMS}


def test_an_answer_that_is_too_large_for_the_database_fails_its_item_alone(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.05)
    update_settings(owner, max_retries=0, max_response_bytes=2 * outcomes.LARGE_ANSWER)
    owner.execute(
        """alter function app.add_report_sites(uuid, public.lookup_queue_items[], timestamptz) rename to add_report_sites_within_memory;
           create function app.add_report_sites(p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz) returns void
           language plpgsql as $$
           begin
               if exists (select from unnest(p_items) i where i.reference_id in ('site-3', 'site-5') and i.status = 'completed') then
                   raise sqlstate '53200' using message = 'out of memory';
               end if;
               perform app.add_report_sites_within_memory(p_organization_id, p_items, p_now);
           end $$"""
    )
    upstream.plan("site-3", Reply(body='{"x": "' + "x" * outcomes.LARGE_ANSWER + '"}'))
    with running_worker(worker_settings):
        job = batches.create(8)
        wait_until(lambda: batches.counts() == {"completed": 6, "failed": 1, "processing": 1}, batches.counts)
        # Any other answer is recorded once there is memory.
        owner.execute("drop function app.add_report_sites(uuid, public.lookup_queue_items[], timestamptz)")
        owner.execute(
            "alter function app.add_report_sites_within_memory(uuid, public.lookup_queue_items[], timestamptz) rename to add_report_sites"
        )
        assert batches.wait(job) == "completed"
    assert batches.counts() == {"completed": 7, "failed": 1}
    failed = "select reference_id || ' ' || error_code from public.lookup_queue_items where status = 'failed'"
    assert fetch_value(owner, failed) == "site-3 response_too_large"
    check_invariants(owner)


def test_what_cannot_be_recorded_yet_is_bounded(
    batches: Batches,
    worker_settings: Settings,
    upstream: FakeUpstream,
    owner: Connection,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outcomes, "MAX_BYTES", 1 << 20)
    update_settings(owner, max_in_flight=10, max_response_bytes=200_000)
    upstream.usual = Reply(body='{"x": "' + "x" * 100_000 + '"}', delay=0.05)
    with running_worker(worker_settings):
        job = batches.create(100)
        wait_until(lambda: len(upstream.requests) >= 5)
        with psycopg.connect(database_url) as connection, suppress(psycopg.Error):
            connection.execute("select from public.batch_lookup_jobs where organization_id = %s for update", [batches.organization_id])
            started = len(upstream.requests)
            time.sleep(2)
            # Half of the room is one organization's.
            assert len(upstream.requests) - started <= 25
            connection.rollback()
        assert batches.wait(job) == "completed"
    assert set(upstream.times_seen().values()) == {1}


async def test_the_room_for_outcomes_includes_lookups_in_flight() -> None:
    kept = Outcomes([], LeaseKeeper(None))  # type: ignore[arg-type]
    kept._expected_size = outcomes.MAX_BYTES / 4
    for expected in (True, True, True, False):
        assert kept.has_room(b"organization") is expected
        kept.expect()


async def test_the_size_of_an_answer_is_reserved_for_the_next_ones() -> None:
    kept = Outcomes([], LeaseKeeper(None))  # type: ignore[arg-type]

    def add(organization_id: bytes, size: int) -> None:
        kept.expect()
        kept.add(Lease(organization_id, b"job", 0, b"token", b"{}", None, 1e9), Answer(200, None, b"x" * size, None), 0.1)

    add(b"one", outcomes.MAX_BYTES // 4)
    assert kept.has_room(b"one")
    add(b"one", outcomes.MAX_BYTES // 4)
    assert not kept.has_room(b"one"), "it has half of the room"
    assert kept.has_room(b"other")
    kept.expect()
    assert not kept.has_room(b"other"), "there would be no room for two answers as large"


async def test_one_lookup_may_always_start() -> None:
    kept = Outcomes([], LeaseKeeper(None))  # type: ignore[arg-type]
    kept._expected_size = outcomes.MAX_BYTES
    assert kept.has_room(b"organization"), "its answer may be as large as the room"
    kept.expect()
    assert not kept.has_room(b"organization")


def test_a_good_answer_is_recorded_once_the_database_has_its_functions_again(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    """As during a deploy: functions that the worker calls are missing for a while."""
    update_settings(owner, max_retries=0)
    with running_worker(worker_settings):
        batches.create(["warm-up"])
        wait_until(lambda: batches.counts() == {"completed": 1})
        owner.execute("alter function app.add_report_sites(uuid, public.lookup_queue_items[], timestamptz) rename to away")
        job = batches.create(10)
        wait_until(lambda: len(upstream.requests) == 11)
        time.sleep(2)
        owner.execute("alter function app.away(uuid, public.lookup_queue_items[], timestamptz) rename to add_report_sites")
        assert batches.wait(job) == "completed"
    assert batches.counts() == {"completed": 11}
    assert fetch_value(owner, "select count(*) from public.lookup_queue_items where error_code is not null") == 0


@pytest.mark.parametrize("seconds", [0.1, PATIENCE], ids=["lost", "broken off"])
async def test_a_claim_whose_response_is_missing_at_the_stop_is_released(
    batches: Batches, worker_settings: Settings, owner: Connection, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(process, "LAST_CALLS_SECONDS", 0.7)
    notifier = Notifier(worker_settings.database_url, "test")
    worker = Worker(worker_settings, "internal key", notifier)
    stop = asyncio.Event()

    monkeypatch.setattr(claims, "claim_lookups", unheard(claim_lookups, stop, seconds))
    batches.create(3)
    # Such a claim is for one organization.
    update_settings(owner, lookups_per_second=100)
    await worker.run(stop)
    assert leases(owner) == 0
    assert batches.counts() == {"pending": 3}
