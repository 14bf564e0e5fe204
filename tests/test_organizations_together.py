"""Claims and flushes of several organizations that share a transaction: fewer commits, and still no organization waits for another."""

from __future__ import annotations

import functools
import json
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
from tests.worker_fixtures import Batches, check_invariants, fetch_value, running_worker, update_settings, wait_for_all

# One organization has a batch that ends with the flush.
CLAIM_STATEMENTS, FLUSH_STATEMENTS = 43, 8
ANSWER = Answer(200, None, b"{}", None)


def several(owner: Connection, count: int) -> list[Batches]:
    return [Batches(owner, f"organization {number}") for number in range(count)]


async def claim_of(
    session: Session, organizations: list[Batches], total: int = 1000, limit: int = 10
) -> tuple[dict[bytes, list[Lease]], list[bytes]]:
    limits = dict.fromkeys((batches.organization_id.bytes for batches in organizations), limit)
    claimed, passed_over = await session.run(claim_for_organizations, "worker", limits, total, 60.0)
    return {leases[0].organization_id: leases for leases in claimed}, passed_over


def succeeded(claimed: dict[bytes, list[Lease]]) -> dict[bytes, list[Outcome]]:
    return {organization_id: [Outcome(lease, ANSWER, 0.1) for lease in leases] for organization_id, leases in claimed.items()}


def hold(database_url: str, what: str, batches: Batches) -> AbstractContextManager[None]:
    return held(database_url, HELD_BY_A_NEIGHBOUR[what], batches.organization_id)


@pytest.mark.parametrize("what", ["its jobs", "its reports", "its leases", "its items"])
async def test_one_locked_organization_among_fifty_is_left_out_of_their_flush(
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


async def test_a_locked_organization_is_skipped_and_the_others_are_claimed_for(
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


async def test_claims_stop_at_the_limit_and_organizations_left_out_come_first(worker_settings: Settings, owner: Connection) -> None:
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
    plans = Plans(owner)
    claims_of_few, flushes_of_few, _ = claim_and_record(owner, plans, 4)
    claims_of_many, flushes_of_many, replaced = claim_and_record(owner, plans, 14)
    assert replaced == {
        "batch_lookup_jobs": 2,
        "incentive_reports": 1,
        "lookup_leases": 1,
        "lookup_queue_items": 10,
        "organization_queue_state": 1,
        "queue_wakeups": 1,
        "queued_jobs": 1,
    }
    assert (claims_of_many - claims_of_few) / 10 <= CLAIM_STATEMENTS
    assert (flushes_of_many - flushes_of_few) / 10 <= FLUSH_STATEMENTS


def claim_and_record(owner: Connection, plans: Plans, count: int) -> tuple[int, int, dict[str, int]]:
    """How many statements ran for so many organizations with ten items each, and how many rows of one became dead, by table."""
    organizations = several(owner, count)
    for batches in organizations:
        batches.create(10)
    with owner.transaction():
        before = dead_rows(owner)
        claimed, claims_run = plans.run(
            """select organization_id, job_id, position, lease_token
                 from api.claim_for_organizations(%(ids)s::uuid[], 'worker', array_fill(20, array[%(count)s]), 1000)""",
            {"ids": [batches.organization_id for batches in organizations], "count": count},
        )
        verdicts, flushes_run = plans.run(
            """select r.verdict, r.items
                 from (select array_agg(distinct u.id) as ids, array_agg(u.job order by u.id) as jobs,
                              array_agg(u.place order by u.id) as places, array_agg(u.token order by u.id) as tokens
                         from unnest(%(ids)s::uuid[], %(jobs)s::uuid[], %(places)s::integer[], %(tokens)s::uuid[])
                              u (id, job, place, token)) c
                cross join api.record_for_organizations(
                      c.ids, array_fill(10, array[%(count)s]), c.jobs, c.places, c.tokens, array_fill(200, array[10 * %(count)s]),
                      array_fill(null::text, array[10 * %(count)s]), array_fill('{}'::text, array[10 * %(count)s]),
                      array_fill(null::float, array[10 * %(count)s]), array_fill(0.1::float, array[10 * %(count)s])) r""",
            dict(zip(("ids", "jobs", "places", "tokens"), map(list, zip(*claimed, strict=True)), strict=True)) | {"count": count},
        )
        dead = {table: rows - before.get(table, 0) for table, rows in dead_rows(owner).items()}
    assert verdicts == [("accepted", 10)] * count
    return len(claims_run), len(flushes_run), {table: rows // count for table, rows in dead.items() if rows}


def dead_rows(owner: Connection) -> dict[str, int]:
    return dict(owner.execute("select relname, n_tup_upd + n_tup_del from pg_stat_xact_user_tables").fetchall())


ELIGIBLE = json.dumps(
    {
        "utility": {"eiaid": 14328, "name": "Pacific Gas and Electric Company"},
        "incentives": {
            "total_incentive_amount": 1000,
            "conditional_incentive_amount": 50,
            "total_eligible_combinations": 1,
            "by_program": [{"program_id": 101, "program_name": "Rebate", "total_incentive": 1000, "eligible_combinations": 1}],
        },
    }
).encode()
# Without times and what names an organization.
WHAT_IS_RECORDED = {
    "public.batch_lookup_jobs": "total_items, status, processed_items, failed_items, completed_at is null, started_at is null, rate > 0",
    "public.lookup_queue_items": "position, status, retry_at, result::text, error_code, processed_at is not null",
    "public.incentive_reports": """status, total_sites, eligible_sites, total_incentive_value, conditional_incentive_amount,
                                   completed_at is not null""",
    "public.incentive_report_sites s": "to_jsonb(s) - array['organization_id', 'report_id', 'item_id', 'created_at']",
    "public.incentive_report_site_programs p": "to_jsonb(p) - array['organization_id', 'report_id']",
    "public.applications": "reference_id, program_id, total_incentive",
    "public.lookup_attempts": "position, attempt, outcome",
    "public.lookup_leases": "positions",
    "app.ended_changes": "change, job_status, report_status",
    "app.work_minutes": "kind, outcome, error_class, items, round(latency_seconds::numeric, 3), latency_buckets, "
    "(select sum(n) from unnest(wait_buckets) n)",
    "app.webhook_deliveries": "event",
}


async def test_recording_together_gives_the_same_result_as_recording_separately(worker_settings: Settings, owner: Connection) -> None:
    """Two batches of each: one ends, with applications, the other goes on. One organization has webhooks, another a failure behind it."""
    together, alone = several(owner, 5), several(owner, 5)
    session = Session(worker_settings.database_url, "test")
    for organizations in (together, alone):
        for batches in organizations:
            batches.create(7)
            job = batches.create(4)
            owner.execute("update public.lookup_queue_items set create_application = true where job_id = %s and position < 2", [job])
        watched, failing, *_ = organizations
        owner.execute(
            "select api.set_webhook_config(%s, %s)",
            [watched.organization_id, json.dumps({"url": "https://example.org", "events": ["batch.completed"]})],
        )
        failed, _ = await claim_of(session, [failing], limit=1)
        [(each, [lease])] = failed.items()
        await session.run(record_lookups, each, [Outcome(lease, Answer(400, None, None, None), 0.1)])
        claimed, _ = await claim_of(session, organizations, limit=9)
        outcomes = {
            each: [Outcome(lease, Answer(200, None, ELIGIBLE, None), 0.3) for lease in leases[:-1]] for each, leases in claimed.items()
        }
        if organizations is together:
            verdicts = await session.run(record_for_organizations, outcomes)
        else:
            verdicts = {each: await session.run(record_lookups, each, mine) for each, mine in outcomes.items()}
        assert list(verdicts.values()) == [{"accepted": 8}] * 5
    for table, columns in WHAT_IS_RECORDED.items():
        query = f"select {columns} from {table} where organization_id = any (%s)".encode()
        recorded = [
            sorted(map(repr, owner.execute(query, [[batches.organization_id for batches in some]]).fetchall()))
            for some in (together, alone)
        ]
        assert recorded[0], table
        assert recorded[0] == recorded[1], table
    await session.close()
    check_invariants(owner)


def test_organizations_share_their_commits(
    worker_settings: Settings, upstream: FakeUpstream, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim and a flush for each of a hundred organizations would be at least two hundred transactions.

    However slow the machine is: an organization whose rows a claim or a flush of its own worker has locked is served alone afterwards.
    """
    update_settings(owner, max_in_flight=50)
    commits: Counter[str] = Counter()
    found_locked = 0

    def count(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(call)
        async def counted(*arguments: object) -> Any:
            nonlocal found_locked
            commits[call.__name__] += 1
            result = await call(*arguments)
            if call is claim_for_organizations:
                found_locked += len(result[1])
            elif call is record_for_organizations:
                found_locked += sum("busy" in verdicts for verdicts in result.values())
            return result

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
        wait_for_all(organizations, jobs)
    assert set(upstream.times_seen().values()) == {1}
    assert commits.total() - found_locked <= 100, (commits, found_locked)


def test_no_organization_is_recorded_twice_at_a_time(
    worker_settings: Settings, upstream: FakeUpstream, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second flush would wait for the locks of the first, or skip the organization."""
    recording: Counter[bytes] = Counter()
    most: Counter[bytes] = Counter()

    async def noted(session: Any, given: dict[bytes, list[Outcome]]) -> Any:
        recording.update(given.keys())
        for each in given:
            most[each] = max(most[each], recording[each])
        try:
            return await record_for_organizations(session, given)
        finally:
            recording.subtract(given.keys())

    monkeypatch.setattr(outcomes, "record_for_organizations", noted)
    owner.execute("create function public.dawdle() returns trigger language plpgsql as $$ begin perform pg_sleep(0.1); return null; end $$")
    owner.execute("create trigger dawdle before update on public.incentive_reports for each statement execute function public.dawdle()")
    upstream.usual = Reply(delay=0.02)
    organizations = several(owner, 8)
    with owner.transaction():
        jobs = [batches.create([f"{number}-{n}" for n in range(20)]) for number, batches in enumerate(organizations)]
    with running_worker(worker_settings):
        wait_for_all(organizations, jobs)
    assert len(most) >= 2
    assert max(most.values()) == 1


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


@pytest.mark.parametrize(("table", "column"), [("incentive_reports", "job_id"), ("batch_lookup_jobs", "id")])
def test_triggers_that_move_rows_while_they_are_recorded_cost_no_count(
    worker_settings: Settings, owner: Connection, table: str, column: str
) -> None:
    organizations = several(owner, 5)
    owner.execute(
        f"""create function public.touch() returns trigger language plpgsql security definer as $$ begin
                update public.{table} set updated_at = now()
                 where {column} = (select job_id from public.incentive_reports r where r.id = new.report_id);
                return null; end $$""".encode()
    )
    owner.execute("create trigger touch after insert on public.incentive_report_sites for each row execute function public.touch()")
    with owner.transaction():
        jobs = [batches.create([f"{number}-{n}" for n in range(4)]) for number, batches in enumerate(organizations)]
    with running_worker(worker_settings):
        wait_for_all(organizations, jobs)
    assert fetch_value(owner, "select sum(total_sites) from public.incentive_reports") == 20


def test_a_crash_during_a_shared_transaction_loses_and_doubles_nothing(
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
        wait_for_all(organizations, jobs)
    assert set(upstream.times_seen().values()) == {1}
