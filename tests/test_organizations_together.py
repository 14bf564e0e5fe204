"""Claims and flushes of several organizations that share a transaction: fewer commits, and still no organization waits for another."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from pyshell.postgres.connections import Session
from pyshell.settings import Settings
from pyshell.worker import claims, outcomes
from pyshell.worker.calls import Lease, Outcome, claim_for_organizations, claim_lookups, record_for_organizations, record_lookups
from pyshell.worker.upstream import Answer
from tests.conftest import Connection
from tests.test_neighbours import HELD_BY_A_NEIGHBOUR, held
from tests.test_plans import Plans
from tests.timed import wait_until
from tests.upstream import FakeUpstream, Reply
from tests.worker_fixtures import Batches, check_invariants, fetch_value, running_worker, update_settings

# Of one organization, with a batch of its own that ends with the flush.
CLAIM_STATEMENTS, FLUSH_STATEMENTS = 39, 63
ANSWER = Answer(200, None, b"{}", None)


def several(owner: Connection, count: int) -> list[Batches]:
    return [Batches(owner, f"organization {number}") for number in range(count)]


async def claim_of(session: Session, organizations: list[Batches], total: int = 1000) -> tuple[dict[bytes, list[Lease]], list[bytes]]:
    limits = dict.fromkeys((batches.organization_id.bytes for batches in organizations), 10)
    claimed, passed_over = await session.run(claim_for_organizations, "worker", limits, total, 60.0)
    return {leases[0].organization_id: leases for leases in claimed}, passed_over


def succeeded(claimed: dict[bytes, list[Lease]]) -> dict[bytes, list[Outcome]]:
    return {organization_id: [Outcome(lease, ANSWER, 0.1) for lease in leases] for organization_id, leases in claimed.items()}


def hold(database_url: str, what: str, batches: Batches) -> AbstractContextManager[None]:
    return held(database_url, HELD_BY_A_NEIGHBOUR[what], batches.organization_id)


@pytest.mark.parametrize("what", ["its jobs", "its reports", "its leases", "its items"])
async def test_one_held_organization_among_fifty_is_left_out_of_their_flush(
    worker_settings: Settings, owner: Connection, database_url: str, what: str
) -> None:
    organizations = several(owner, 50)
    for batches in organizations:
        batches.create(2)
    session = Session(worker_settings.database_url, "test")
    claimed, _ = await claim_of(session, organizations)
    busy = organizations[17]
    with hold(database_url, what, busy):
        verdicts = await session.run(record_for_organizations, succeeded(claimed))
    assert verdicts.pop(busy.organization_id.bytes) == {"busy": 2}
    assert len(verdicts) == 49
    assert all(each == {"accepted": 2} for each in verdicts.values())
    assert busy.counts() == {"processing": 2}
    mine = succeeded(claimed)[busy.organization_id.bytes]
    assert await session.run(record_lookups, busy.organization_id.bytes, mine) == {"accepted": 2}
    assert await session.run(record_for_organizations, succeeded(claimed)) == {each: {"stale": 2} for each in claimed}, (
        "nothing counts twice"
    )
    await session.close()
    check_invariants(owner)


async def test_a_held_organization_is_passed_over_and_the_others_are_claimed_for(
    worker_settings: Settings, owner: Connection, database_url: str
) -> None:
    organizations = several(owner, 5)
    for batches in organizations:
        batches.create(2)
    session = Session(worker_settings.database_url, "test")
    await claim_of(session, organizations)
    for batches in organizations:
        batches.create(3)
    with hold(database_url, "its queue state", organizations[1]), hold(database_url, "its usage", organizations[3]):
        # Jobs of their own have rows of usage of their own.
        claimed, passed_over = await claim_of(session, organizations)
    assert passed_over == [organizations[1].organization_id.bytes]
    assert sorted(map(len, claimed.values())) == [3, 3, 3, 3]
    again, passed_over = await claim_of(session, organizations)
    assert [len(leases) for leases in again.values()] == [3]
    assert not passed_over
    await session.close()
    check_invariants(owner)


async def test_claims_end_with_the_total_and_those_left_out_come_first(worker_settings: Settings, owner: Connection) -> None:
    organizations = several(owner, 4)
    for batches in organizations:
        batches.create(6)
    session = Session(worker_settings.database_url, "test")
    claimed, _ = await claim_of(session, organizations, total=10)
    assert [len(leases) for leases in claimed.values()] == [6, 6]
    served = {batches.organization_id for batches in organizations if batches.organization_id.bytes in claimed}
    ready = [each for (each,) in owner.execute("select api.ready_organizations()").fetchall()]
    assert set(ready) == {batches.organization_id for batches in organizations} - served
    await session.close()


def test_an_organization_costs_few_statements_and_row_versions(owner: Connection) -> None:
    """With ten items each, an organization's statements cost more than its items: those of a body that is parsed anew at each call, too."""
    update_settings(owner, lookups_per_second=None)
    organizations = several(owner, 4)
    for batches in organizations:
        batches.create(10)
    ids = [batches.organization_id for batches in organizations]
    plans = Plans(owner)
    with owner.transaction():
        claimed, claims_run = plans.run(
            """select organization_id, job_id, position, lease_token
                 from api.claim_for_organizations(%(ids)s::uuid[], 'worker', array_fill(20, array[4]), 100)""",
            {"ids": ids},
        )
        claimed.sort()
        outcomes = {"ids": sorted(ids), "jobs": [row[1] for row in claimed], "positions": [row[2] for row in claimed]}
        outcomes["tokens"] = [row[3] for row in claimed]
        verdicts, flushes_run = plans.run(
            """select verdict, items
                 from api.record_for_organizations(
                          %(ids)s::uuid[], array_fill(10, array[4]), %(jobs)s::uuid[], %(positions)s::integer[], %(tokens)s::uuid[],
                          array_fill(200, array[40]), array_fill(null::text, array[40]), array_fill('{}'::text, array[40]),
                          array_fill(null::double precision, array[40]), array_fill(0.1::double precision, array[40]))""",
            outcomes,
        )
        replaced = owner.execute(
            "select relname, (n_tup_upd + n_tup_del) / 4 from pg_stat_xact_user_tables where n_tup_upd + n_tup_del >= 4"
        ).fetchall()
    assert verdicts == [("accepted", 10)] * 4
    assert dict(replaced) == {
        "batch_lookup_jobs": 2,
        "incentive_reports": 1,
        "lookup_leases": 1,
        "lookup_queue_items": 10,
        "organization_queue_state": 1,
        "queue_wakeups": 1,
        "queued_jobs": 1,
    }
    texts = Counter(plan["Query Text"].strip()[:60] for plan in claims_run + flushes_run)
    assert len(claims_run) // 4 <= CLAIM_STATEMENTS, texts
    assert len(flushes_run) // 4 <= FLUSH_STATEMENTS, texts


def test_organizations_share_their_commits(
    worker_settings: Settings, upstream: FakeUpstream, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One claim and one flush for each of a hundred organizations were at least two hundred transactions."""
    update_settings(owner, max_in_flight=50)
    commits: Counter[str] = Counter()

    def count(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(call)
        async def counted(*arguments: object) -> Any:
            commits[call.__name__] += 1
            return await call(*arguments)

        return counted

    for module, call in (
        (claims, claim_lookups),
        (claims, claim_for_organizations),
        (outcomes, record_lookups),
        (outcomes, record_for_organizations),
    ):
        monkeypatch.setattr(module, call.__name__, count(call))
    organizations = several(owner, 100)
    with owner.transaction():
        jobs = [batches.create([f"{number}-{n}" for n in range(5)]) for number, batches in enumerate(organizations)]
    with running_worker(worker_settings):
        assert {batches.wait(job) for batches, job in zip(organizations, jobs, strict=True)} == {"completed"}
    assert set(upstream.times_seen().values()) == {1}
    assert commits.total() <= 100, commits


def test_a_failure_within_a_shared_transaction_costs_the_others_nothing(
    worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    organizations = several(owner, 10)
    refused = organizations[4]
    owner.execute(
        f"""create function public.refuse() returns trigger language plpgsql as $$ begin
                if new.organization_id = '{refused.organization_id}' and new.total_sites > 0 then
                    raise exception 'no' using errcode = 'internal_error';
                end if;
                return new; end $$""".encode()
    )
    owner.execute("create trigger refuse before update on public.incentive_reports for each row execute function public.refuse()")
    with owner.transaction():
        jobs = [batches.create([f"{number}-{n}" for n in range(3)]) for number, batches in enumerate(organizations)]
    with running_worker(worker_settings):
        for batches, job in zip(organizations, jobs, strict=True):
            if batches is not refused:
                assert batches.wait(job) == "completed"
        assert refused.status(jobs[4]) == "processing"
        owner.execute("drop trigger refuse on public.incentive_reports")
        assert refused.wait(jobs[4]) == "completed"
    assert set(upstream.times_seen().values()) == {1}


def test_a_crash_in_the_middle_of_a_shared_transaction_loses_and_doubles_nothing(
    worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    """The backend ends while it records the last of ten organizations; nobody's outcomes are recorded, and the worker has them all."""
    organizations = several(owner, 10)
    last = max(batches.organization_id for batches in organizations)
    upstream.usual = Reply(delay=0.02)
    owner.execute("create table public.crashes (at timestamptz)")
    owner.execute(
        f"""create function public.crash() returns trigger language plpgsql security definer as $$ begin
                if new.organization_id = '{last}' and new.total_sites > 0 and not exists (select from public.crashes)
                   and current_query() like '%record_for_organizations%' then
                    perform pg_terminate_backend(pg_backend_pid());
                end if;
                return new; end $$""".encode()
    )
    owner.execute("create trigger crash before update on public.incentive_reports for each row execute function public.crash()")
    with owner.transaction():
        jobs = [batches.create([f"{number}-{n}" for n in range(2)]) for number, batches in enumerate(organizations)]
    with running_worker(worker_settings):
        wait_until(lambda: len(upstream.requests) == 20)
        wait_until(lambda: fetch_value(owner, "select sum(sessions_killed) from pg_stat_database where datname = current_database()") > 0)
        owner.execute("insert into public.crashes values (now())")
        assert {batches.wait(job) for batches, job in zip(organizations, jobs, strict=True)} == {"completed"}
    assert set(upstream.times_seen().values()) == {1}
