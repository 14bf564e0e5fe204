"""Whatever a transaction of one organization or of an operator keeps locked, lookups of others continue at their usual rate."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from statistics import median
from typing import Any

import psycopg
import pytest
from psycopg.errors import LockNotAvailable

from pyshell.postgres.connections import Session
from pyshell.postgres.pool import Pool
from pyshell.postgres.retries import Retries
from pyshell.settings import Settings
from pyshell.tasks import cancel_all
from pyshell.webhooks import calls, runs
from pyshell.webhooks.requests import Attempt
from pyshell.webhooks.runs import send_due
from pyshell.worker.calls import claim_lookups
from pyshell.worker.leases import LeaseKeeper
from pyshell.worker.run_once import run_once
from tests.conftest import Connection
from tests.test_webhooks import Organization
from tests.timed import PATIENCE, timed, wait_until
from tests.upstream import FOREVER, FakeUpstream, Reply, fake_upstream
from tests.webhook_receiver import fake_receiver, running_sender
from tests.worker_fixtures import Batches, check_invariants, fetch_value, leases, running_worker, site, update_settings

ITEMS = 20
OPEN_BATCH = json.dumps({"items": [site("uncommitted")]})
HELD_BY_A_NEIGHBOUR = {
    "its queue state": "select from app.organization_queue_state where organization_id = %(organization)s for update",
    "its jobs": "select from public.batch_lookup_jobs where organization_id = %(organization)s for update",
    "its reports": "select from public.incentive_reports where organization_id = %(organization)s for update",
    "its leases": "select from public.lookup_leases where organization_id = %(organization)s for update",
    "its items": "select from public.lookup_queue_items where organization_id = %(organization)s for update",
    "its usage": "select from public.lookup_usage where organization_id = %(organization)s for update",
    "an open batch": f"select api.create_batch_lookup(%(organization)s, '{OPEN_BATCH}', false)",
    "an open cancel": "select api.cancel_batch_lookup(%(organization)s, %(job)s)",
    "an open rename": "update public.batch_lookup_jobs set name = 'renamed' where organization_id = %(organization)s",
}
HELD_BY_AN_OPERATOR = {
    "the settings": "select from app.settings for update",
    "an open update_settings": """select api.update_settings('{"max_retries": 3}')""",
    "an open resume_lookups": "select api.resume_lookups()",
    "the circuit breaker": "select from app.upstream_state for update",
}


@contextmanager
def held(database_url: str, query: str, organization: object = None, job: object = None) -> Iterator[None]:
    with psycopg.connect(database_url) as connection:
        connection.execute(query.encode(), {"organization": organization, "job": job})
        yield
        connection.rollback()


def seconds_of_a_batch(batches: Batches, name: str) -> float:
    started = time.monotonic()
    job = batches.create([f"{name}-{n}" for n in range(ITEMS)])
    wait_until(lambda: batches.status(job) == "completed", batches.counts, patience=15)
    return time.monotonic() - started


@pytest.fixture(scope="module", params=[None, 200], ids=["unlimited", "paced"])
def pace(request: pytest.FixtureRequest) -> int | None:
    rate: int | None = request.param
    return rate


@pytest.fixture(scope="module")
def worker_of_all(shared_database_url: str, shared_owner: Connection, pace: int | None) -> Iterator[FakeUpstream]:
    """The upstream of a worker that runs for all tests with a rate limit."""
    update_settings(shared_owner, lookups_per_second=pace, max_in_flight=20, lease_seconds=2, retry_backoff_seconds=0.01)
    with fake_upstream() as upstream:
        upstream.usual = Reply(delay=0.02)
        with running_worker(Settings(database_url=shared_database_url, incentives_api_url=upstream.url)):
            yield upstream


@pytest.mark.parametrize("what", [*HELD_BY_A_NEIGHBOUR, *HELD_BY_AN_OPERATOR])
@timed
def test_an_open_transaction_delays_nobody_else(
    worker_of_all: FakeUpstream, shared_owner: Connection, shared_database_url: str, pace: int | None, what: str
) -> None:
    neighbour, other = Batches(shared_owner), Batches(shared_owner)
    usual = seconds_of_a_batch(other, "usual")
    seen = len(worker_of_all.requests)
    neighbours_job = neighbour.create(200)
    wait_until(lambda: len(worker_of_all.requests) > seen + 10)
    with held(shared_database_url, (HELD_BY_A_NEIGHBOUR | HELD_BY_AN_OPERATOR)[what], neighbour.organization_id, neighbours_job):
        # The neighbour's own work may compete for the rate limit, which halves the other's rate.
        meanwhile = median(seconds_of_a_batch(other, f"meanwhile-{n}") for n in range(3))
        assert meanwhile <= usual * (2 if pace else 1) + 0.7
    assert neighbour.wait(neighbours_job) == "completed"
    check_invariants(shared_owner)


def test_the_log_names_an_organization_that_is_held_once_and_says_when_that_is_over(
    worker_settings: Settings, upstream: FakeUpstream, owner: Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pyshell.worker")
    update_settings(owner, lookups_per_second=50)
    neighbour = Batches(owner)
    with running_worker(worker_settings):
        job = neighbour.create(200)
        wait_until(lambda: len(upstream.requests) > 0)
        with held(database_url, HELD_BY_A_NEIGHBOUR["its queue state"], neighbour.organization_id):
            wait_until(lambda: f"cannot claim for organization {neighbour.organization_id}" in caplog.text, patience=15)
            time.sleep(1)
        assert neighbour.wait(job) == "completed"
        wait_until(lambda: f"organization {neighbour.organization_id} is served again" in caplog.text)
    assert caplog.text.count("cannot claim for organization") == 1


def test_a_worker_that_stops_releases_the_items_of_other_organizations(
    worker_settings: Settings, upstream: FakeUpstream, owner: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyshell.worker.process.LAST_CALLS_SECONDS", 1.5)
    update_settings(owner, max_in_flight=2)
    upstream.usual = Reply(delay=0.05)
    neighbour, other = (Batches(owner, name) for name in ("neighbour", "other"))
    of_one = "select count(*) from public.lookup_leases where organization_id = %s"
    with ExitStack() as stack:
        with running_worker(worker_settings):
            for batches in (neighbour, other):
                batches.create(100)
            wait_until(lambda: all(fetch_value(owner, of_one, batches.organization_id) for batches in (neighbour, other)))
            stack.enter_context(held(database_url, HELD_BY_A_NEIGHBOUR["its items"], neighbour.organization_id))
            seen = len(upstream.requests)
            wait_until(lambda: len(upstream.requests) > seen + 5)
        assert fetch_value(owner, of_one, neighbour.organization_id) > 0
        assert fetch_value(owner, of_one, other.organization_id) == 0


def test_a_worker_that_stops_releases_items_once_their_rows_are_free(
    batches: Batches,
    worker_settings: Settings,
    upstream: FakeUpstream,
    owner: Connection,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("pyshell.worker.process.FINISH_SECONDS", 0.1)
    upstream.usual = Reply(delay=FOREVER)
    with ThreadPoolExecutor() as threads, psycopg.connect(database_url) as holding, running_worker(worker_settings):
        batches.create(30)
        wait_until(lambda: upstream.in_flight == 20)
        holding.execute("select from public.lookup_queue_items where organization_id = %s for update", [batches.organization_id])

        def let_go() -> None:
            wait_until(lambda: caplog.text.count("will try again") >= 3)
            holding.rollback()

        threads.submit(let_go)
    assert leases(owner) == 0


async def test_leases_are_renewed_while_others_cannot_be_released(worker_settings: Settings, owner: Connection, database_url: str) -> None:
    neighbour, other = (Batches(owner, name) for name in ("neighbour", "other"))
    session = Session(database_url, "test")
    keeper = LeaseKeeper(session)
    for batches in (neighbour, other):
        batches.create(1)
        [lease] = await session.run(claim_lookups, "worker", batches.organization_id.bytes, 1, 0.0, False)
        keeper.add([lease])
        if batches is neighbour:
            keeper.release(lease)
    with held(database_url, HELD_BY_A_NEIGHBOUR["its items"], neighbour.organization_id):
        expired_at = lease.expires_at
        running = asyncio.create_task(keeper.run())
        await asyncio.to_thread(wait_until, lambda: lease.expires_at > expired_at)
        await cancel_all([running])
    await session.close()


async def test_leases_are_given_back_beside_those_that_somebody_holds(
    worker_settings: Settings, owner: Connection, database_url: str
) -> None:
    batches = Batches(owner)
    session = Session(database_url, "test")
    keeper = LeaseKeeper(session)
    for _ in range(3):
        job = batches.create(2)
        keeper.add(await session.run(claim_lookups, "worker", batches.organization_id.bytes, 2, 0.0, False))
    lease = "select from public.lookup_leases where organization_id = %(organization)s and job_id = %(job)s for update"
    with held(database_url, lease, batches.organization_id, job):
        keeper.release_all()
        assert not await keeper.return_released()
        assert (len(keeper), leases(owner)) == (2, 1)
    await keeper.finish()
    assert (len(keeper), leases(owner)) == (0, 0)
    check_invariants(owner)
    await session.close()


def test_workers_that_wait_for_one_another_for_a_moment_are_not_worth_a_warning() -> None:
    busy = Retries()
    warnings = []
    for _ in range(60):
        busy.note_failure(b"one", now=0.0)
        warnings.append(busy.is_worth_a_warning(b"one"))
    assert [n for n, warned in enumerate(warnings, 1) if warned] == [5, 30, 60]
    assert busy.note_success(b"one"), "the log has named it"
    busy.note_failure(b"one", now=0.0)
    assert not busy.is_worth_a_warning(b"one")
    assert not busy.note_success(b"one"), "the log has not named it"
    assert busy.note_failure(b"two", now=0.0) == 1
    assert busy.is_worth_a_warning(b"two", first=1)


def test_uploads_and_lookups_continue_during_an_open_upload_of_the_organization(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, database_url: str
) -> None:
    with running_worker(worker_settings), held(database_url, HELD_BY_A_NEIGHBOUR["an open batch"], batches.organization_id):
        owner.execute(f"set statement_timeout = {PATIENCE * 1000}")
        assert batches.wait(batches.create(5)) == "completed"


HELD_OF_WEBHOOKS = {
    "an open change of the config": """select api.set_webhook_config(%(organization)s, '{"enabled": true}', true)""",
    "an open resend": 'select api.recover_webhook_deliveries(%(organization)s, \'{"since": "2020-01-01"}\')',
    "its ready list": "select from app.webhook_queue_state where organization_id = %(organization)s for update",
    "its config": "select from app.webhook_configs where organization_id = %(organization)s for update",
}


@pytest.mark.parametrize("what", HELD_OF_WEBHOOKS)
def test_lookups_continue_during_an_open_change_of_webhooks(
    worker_settings: Settings, owner: Connection, database_url: str, what: str
) -> None:
    organization = Organization(owner, "https://example.com/", events=["lookup.completed", "batch.completed"])
    organization.complete(1)
    owner.execute("select count(*) from api.claim_webhooks(%s, 'sender', 10)", [organization.id])
    batches = Batches(owner, organization_id=organization.id)
    with running_worker(worker_settings), held(database_url, HELD_OF_WEBHOOKS[what], organization.id):
        assert batches.wait(batches.create(5)) == "completed"
    assert organization.statuses() == {"sending": 2, "pending": 6}
    assert fetch_value(owner, "select organization_ids from api.ready_webhooks()") == [organization.id], "nobody has forgotten them"


@pytest.mark.parametrize("what", HELD_OF_WEBHOOKS)
def test_an_open_transaction_delays_no_webhooks_of_others(owner: Connection, database_url: str, what: str) -> None:
    settings = Settings(database_url=database_url, webhooks_allow_private_networks=True)
    with fake_receiver() as receiver, running_sender(settings):
        neighbour, other = (Organization(owner, receiver.url, name, events=["lookup.completed"]) for name in ("neighbour", "other"))
        for organization in (neighbour, other):
            organization.complete(1)
            organization.wait(delivered=1)
        with held(database_url, HELD_OF_WEBHOOKS[what], neighbour.id):
            neighbour.complete(20)
            for n in range(3):
                other.complete(5)
                other.wait(delivered=6 + 5 * n)
        neighbour.wait(delivered=21)


@pytest.mark.parametrize("what", ["app.webhook_requests", "app.update_receiver_health"], ids=["claim", "record"])
def test_webhooks_of_others_are_sent_while_one_organizations_cannot_be_claimed_or_recorded(
    owner: Connection, database_url: str, what: str
) -> None:
    settings = Settings(database_url=database_url, webhooks_allow_private_networks=True)
    with fake_receiver() as receiver:
        neighbour, other = (Organization(owner, receiver.url, name, events=["lookup.completed"]) for name in ("neighbour", "other"))
        broken = fetch_value(owner, "select pg_get_functiondef(%s::regproc)", what)
        organization_id = "p_config.organization_id" if what == "app.webhook_requests" else "p_organization_id"
        refusal = f"\nbegin\n    if {organization_id} = '{neighbour.id}' then raise query_canceled; end if;"
        owner.execute(broken.replace("\nbegin", refusal, 1).encode())
        with running_sender(settings):
            neighbour.complete(1)
            wait_until(lambda: what == "app.webhook_requests" or receiver.received)
            for n in range(3):
                other.complete(2)
                other.wait(delivered=2 + 2 * n)
            owner.execute(broken.encode())
            neighbour.wait(delivered=1)
    assert len(receiver.received) == 7


def test_nothing_more_is_sent_while_attempts_cannot_be_recorded(
    owner: Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(database_url=database_url, webhooks_allow_private_networks=True)
    with fake_receiver() as receiver, running_sender(settings):
        neighbour, other = (Organization(owner, receiver.url, name, events=["lookup.completed"]) for name in ("neighbour", "other"))
        owner.execute("update app.webhook_configs set failing_since = now() where organization_id = %s", [neighbour.id])
        # Claims do not wait for a change of this row; a success does, because it clears the row.
        with held(database_url, "select from app.webhook_configs where organization_id = %(organization)s for no key update", neighbour.id):
            neighbour.complete(1)
            wait_until(lambda: f"webhooks of organization {neighbour.id} are passed over" in caplog.text)
            neighbour.complete(10)
            for n in range(3):
                other.complete(1)
                other.wait(delivered=1 + n)
            assert len(receiver.received) == 4
        neighbour.wait(delivered=11)
    assert len(receiver.received) == 14


OPEN_CLAIM = "select from api.claim_webhooks(%(organization)s, 'another sender', 10)"
THEIR_DELIVERIES = "select from app.webhook_deliveries where organization_id = %(organization)s for update"


async def test_a_manual_run_sends_webhooks_of_others_and_names_those_it_could_not_claim(owner: Connection, database_url: str) -> None:
    settings = Settings(database_url=database_url, webhooks_allow_private_networks=True)
    with fake_receiver() as receiver:
        neighbour, other = (Organization(owner, receiver.url, name, events=["lookup.completed"]) for name in ("neighbour", "other"))
        for organization in (neighbour, other):
            organization.complete(3)
        async with Pool(database_url) as pool:
            with held(database_url, OPEN_CLAIM, neighbour.id), pytest.raises(ExceptionGroup) as failed:
                await send_due(pool, settings)
            assert (neighbour.statuses(), other.statuses()) == ({"pending": 3}, {"delivered": 3})
            assert await send_due(pool, settings) == 3
    [error] = failed.value.exceptions
    assert isinstance(error, LockNotAvailable)
    assert error.__notes__ == [f"organization {neighbour.id}"]
    assert (neighbour.statuses(), len(receiver.received)) == ({"delivered": 3}, 6)


@pytest.mark.parametrize("patience", [PATIENCE, 0.0])
async def test_a_manual_run_records_attempts_once_their_rows_are_free(
    owner: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(runs, "RECORD_SECONDS", patience)
    tries = []

    async def record_webhooks(connection: Any, organization_id: bytes, attempts: list[Attempt]) -> dict[str, int]:
        tries.append(organization_id)
        return await calls.record_webhooks(connection, organization_id, attempts)

    monkeypatch.setattr(runs, "record_webhooks", record_webhooks)
    settings = Settings(database_url=database_url, webhooks_allow_private_networks=True)
    with fake_receiver() as receiver:
        receiver.delay = PATIENCE
        neighbour, other = (Organization(owner, receiver.url, name, events=["lookup.completed"]) for name in ("neighbour", "other"))
        for organization in (neighbour, other):
            organization.complete(1)
        async with Pool(database_url) as pool:
            sending = asyncio.create_task(send_due(pool, settings))
            await asyncio.to_thread(wait_until, lambda: receiver.in_flight == 2)
            with held(database_url, THEIR_DELIVERIES, neighbour.id):
                receiver.hurry.set()
                await asyncio.to_thread(other.wait, delivered=1)
                if patience:
                    await asyncio.to_thread(wait_until, lambda: tries.count(neighbour.id.bytes) > 1)
                else:
                    with pytest.raises(ExceptionGroup, match="not recorded"):
                        await sending
            if patience:
                assert await sending == 2
    assert neighbour.statuses() == ({"delivered": 1} if patience else {"sending": 1})


async def test_a_manual_run_records_lookups_of_others_while_one_organizations_rows_are_locked(
    worker_settings: Settings, upstream: FakeUpstream, owner: Connection, database_url: str
) -> None:
    upstream.usual = Reply(delay=1)
    neighbour, other = (Batches(owner, name) for name in ("neighbour", "other"))
    for batches in (neighbour, other):
        batches.create(3)
    completed = "select count(*) from public.lookup_queue_items where organization_id = %s and status = 'completed'"
    async with Pool(database_url) as pool:
        run = asyncio.create_task(run_once(pool, worker_settings))
        await asyncio.to_thread(wait_until, lambda: len(upstream.requests) == 6)
        with held(database_url, HELD_BY_A_NEIGHBOUR["its items"], neighbour.organization_id):
            await asyncio.to_thread(wait_until, lambda: fetch_value(owner, completed, other.organization_id) == 3)
            assert fetch_value(owner, completed, neighbour.organization_id) == 0
        assert await run == {"claimed": 6, "accepted": 6}


def test_transactions_that_lock_rows_of_the_queue_are_named(batches: Batches, owner: Connection, database_url: str) -> None:
    batches.create(1)
    with suppress(psycopg.OperationalError), held(database_url, HELD_BY_A_NEIGHBOUR["its jobs"], batches.organization_id):
        wait_until(lambda: fetch_value(owner, "select json_array_length(blocking_transactions) from api.queue_health") == 1)
        [blocking] = fetch_value(owner, "select blocking_transactions from api.queue_health")
        assert blocking["state"] == "idle in transaction"
        assert blocking["query"].startswith("select from public.batch_lookup_jobs")
        assert owner.execute("select pg_terminate_backend(%s::integer)", [blocking["pid"]]).fetchone() == (True,)
        wait_until(lambda: fetch_value(owner, "select json_array_length(blocking_transactions) from api.queue_health") == 0)


@pytest.mark.parametrize("reply", [Reply(delay=FOREVER), Reply(500), Reply(429)], ids=["hangs", "fails", "refuses"])
@timed
@pytest.mark.long
def test_lookups_of_others_continue_while_one_organizations_go_wrong(
    worker_settings: Settings, upstream: FakeUpstream, owner: Connection, reply: Reply
) -> None:
    update_settings(owner, lookups_per_second=100, max_in_flight=10, lookup_timeout_seconds=600, max_retries=20)
    ill, well = Batches(owner), Batches(owner)
    for n in range(400):
        upstream.plan(f"ill-{n}", reply)
    with running_worker(worker_settings):
        usual = seconds_of_a_batch(well, "usual")
        job = ill.create([f"ill-{n}" for n in range(400)])
        wait_until(lambda: sum(seen.reference_id.startswith("ill") for seen in upstream.requests) >= 5)
        slowest = max(seconds_of_a_batch(well, f"meanwhile-{n}") for n in range(4))
        # At least its half of the rate limit.
        assert slowest <= usual * 2 + 0.7
        owner.execute("select api.cancel_batch_lookup(%s, %s)", [ill.organization_id, job])
        upstream.disconnect()


def test_wait_for_batch_says_at_once_that_its_batch_is_not_committed(batches: Batches, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        create = "select api.create_batch_lookup(%s, %s, false) ->> 'job_id'"
        row = connection.execute(create, [batches.organization_id, OPEN_BATCH]).fetchone()
        assert row is not None
        with pytest.raises(psycopg.Error) as refused:
            connection.execute("select api.wait_for_batch(%s)", [row[0]])
    assert (refused.value.sqlstate, refused.value.diag.constraint_name) == ("PT409", "batch_not_committed")


def test_wait_for_batch_answers_before_the_time_limit_of_a_statement(batches: Batches, database_url: str) -> None:
    job = batches.create(1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("set statement_timeout = '1s'")
        assert connection.execute("select api.wait_for_batch(%s) ->> 'status'", [job]).fetchone() == ("pending",)
