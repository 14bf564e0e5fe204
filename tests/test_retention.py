"""Jobs and reports are deleted when their retention is over, however many there are, and each step is short."""

from __future__ import annotations

import asyncio
import json
from typing import cast

import psycopg
import pytest

from pyshell.local.private_postgres import PrivatePostgres
from pyshell.postgres.connections import Session
from pyshell.worker.claims import maintain, prune_expired, run_maintenance
from tests.conftest import Clock, Connection
from tests.http_fixtures import site
from tests.timed import wait_until
from tests.worker_fixtures import fetch_value

JOBS = 1200
ITEMS = 3
# The rows of an organization again and again, each time with other ids: far less work than as many uploads.
COPIES = """
    insert into {table}
    select p.*
      from jsonb_array_elements(%s) r (original), jsonb_array_elements(%s) c (ids),
           jsonb_populate_record(null::{table}, r.original || jsonb_build_object('id', app.uuid_v7()) || c.ids) p
"""


def copy(owner: Connection, organization_id: object, table: str, ids: list[dict[str, str]]) -> None:
    originals = [
        row for (row,) in owner.execute(f"select to_jsonb(t) from {table} t where organization_id = %s".encode(), [organization_id])
    ]
    owner.execute(COPIES.format(table=table).encode(), [json.dumps(originals), json.dumps(ids)])


def make_ended_jobs(owner: Connection, jobs: int = JOBS) -> None:
    """So many jobs in each of two organizations, all failed, with their reports."""
    items = json.dumps([site(reference_id=f"site-{n}") for n in range(ITEMS)])
    for name in ("Acme", "Globex"):
        [organization_id] = owner.execute("select api.create_organization(%s)", [name]).fetchone() or [None]
        owner.execute(
            "select api.cancel_batch_lookup(%s, (api.create_batch_lookup(%s, %s, false) ->> 'job_id')::uuid)",
            [organization_id, organization_id, items],
        )
        copies = owner.execute("select app.uuid_v7()::text, app.uuid_v7()::text from generate_series(2, %s)", [jobs]).fetchall()
        copy(owner, organization_id, "public.batch_lookup_jobs", [{"id": job, "report_id": report} for job, report in copies])
        copy(owner, organization_id, "public.incentive_reports", [{"id": report, "job_id": job} for job, report in copies])
        copy(owner, organization_id, "public.lookup_queue_items", [{"job_id": job} for job, _ in copies])


def left(owner: Connection) -> tuple[int, ...]:
    row = owner.execute(
        "select (select count(*) from public.batch_lookup_jobs), (select count(*) from public.lookup_queue_items),"
        " (select count(*) from public.incentive_reports)"
    ).fetchone()
    assert row is not None
    return row


@pytest.fixture(scope="module")
def shared_clock(shared_owner: Connection) -> Clock:
    """Of a database whose jobs ended 31 days ago, where jobs are kept for 30 days and reports for 60."""
    make_ended_jobs(shared_owner)
    shared_owner.execute("""select api.update_settings('{"job_retention_days": 30, "report_retention_days": 60}')""")
    clock = Clock(shared_owner)
    clock.advance(days=31)
    return clock


@pytest.mark.long
def test_a_step_of_the_retention_is_bounded(shared_owner: Connection, shared_clock: Clock) -> None:
    with shared_owner.transaction(force_rollback=True):
        assert left(shared_owner) == (2 * JOBS, 2 * JOBS * ITEMS, 2 * JOBS)
        steps = [fetch_value(shared_owner, "select api.prune_expired()")]
        while steps[-1]:
            steps.append(fetch_value(shared_owner, "select api.prune_expired()"))
        assert sum(steps) == 2 * JOBS
        assert max(steps) <= 2000


@pytest.mark.long
def test_whatever_has_outlived_its_retention_is_deleted_within_a_minute(
    shared_database_url: str, shared_owner: Connection, shared_clock: Clock
) -> None:
    assert left(shared_owner) == (2 * JOBS, 2 * JOBS * ITEMS, 2 * JOBS)

    async def maintain_once() -> None:
        session = Session(shared_database_url, "test")
        await run_maintenance(session)
        await session.close()

    asyncio.run(maintain_once())
    assert left(shared_owner) == (0, 0, 2 * JOBS)
    shared_clock.advance(days=30)
    asyncio.run(maintain_once())
    assert left(shared_owner) == (0, 0, 0)


async def test_each_step_is_a_call_by_itself() -> None:
    """A call of a session is given up after 35 seconds, and the steps go on for 50."""
    left = [2000, 17, 0]
    calls = []

    class Counted:
        async def run(self, call: object) -> int | None:
            calls.append(call)
            return None if call is maintain else left.pop(0)

    await run_maintenance(cast(Session, Counted()))
    assert calls == [maintain, *[prune_expired] * 3]


def test_a_step_is_short_however_long_a_deletion_takes(owner: Connection, clock: Clock) -> None:
    """As on a cluster, where a node is asked for each table: a step that the time limit of a statement ends has deleted nothing."""
    make_ended_jobs(owner, 6)
    # Each by itself for its size.
    owner.execute("update public.batch_lookup_jobs set total_items = 1000, processed_items = 1000")
    owner.execute("""select api.update_settings('{"job_retention_days": 30}')""")
    clock.advance(days=31)
    owner.execute(
        """alter function app.delete_jobs(uuid, uuid[]) rename to delete_jobs_at_once;
           create function app.delete_jobs(p_organization_id uuid, p_job_ids uuid[]) returns text[] language plpgsql as $$
           begin
               perform pg_sleep(0.5 * cardinality(p_job_ids));
               return app.delete_jobs_at_once(p_organization_id, p_job_ids);
           end $$"""
    )
    deleted = fetch_value(owner, "select api.prune_expired()")
    assert 0 < deleted <= 5
    assert fetch_value(owner, "select api.prune_expired()") > 0, "the next one goes on"


def test_small_jobs_are_deleted_together(owner: Connection, clock: Clock) -> None:
    """And their reports: a table is asked once for many of them, not once for each."""
    make_ended_jobs(owner, 200)
    owner.execute("""select api.update_settings('{"job_retention_days": 30, "report_retention_days": 30}')""")
    clock.advance(days=31)
    owner.execute(
        """create table app.deletions (table_name text);
           create function app.note_deletion() returns trigger language plpgsql
           as $$ begin insert into app.deletions values (tg_table_name); return null; end $$;
           create trigger notes after delete on public.lookup_queue_items for each statement execute function app.note_deletion();
           create trigger notes after delete on public.incentive_report_sites for each statement execute function app.note_deletion()"""
    )
    assert fetch_value(owner, "select api.prune_expired()") == 2 * 2 * 200
    assert left(owner) == (0, 0, 0)
    # One for each of the two organizations.
    rows = owner.execute("select table_name, count(*) from app.deletions group by 1 order by 1").fetchall()
    assert rows == [("incentive_report_sites", 2), ("lookup_queue_items", 2)]


def test_a_locked_job_does_not_keep_others_from_being_deleted(database_url: str, owner: Connection, clock: Clock) -> None:
    make_ended_jobs(owner, 3)
    owner.execute("""select api.update_settings('{"job_retention_days": 30}')""")
    clock.advance(days=31)
    with psycopg.connect(database_url) as holder:
        [organization_id] = owner.execute("select organization_id from public.batch_lookup_jobs limit 1").fetchone() or [None]
        holder.execute("select from public.batch_lookup_jobs where organization_id = %s limit 1 for update", [organization_id])
        while owner.execute("select api.prune_expired()").fetchone() != (0,):
            pass
        assert left(owner)[0] == 1


@pytest.mark.long
def test_pg_cron_deletes_in_steps(own_postgres: PrivatePostgres) -> None:
    """With a commit after each, as a schedule may."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as owner:
        make_ended_jobs(owner, 550)
        owner.execute("""select api.update_settings('{"job_retention_days": 1}')""")
        owner.execute(
            "update public.batch_lookup_jobs set created_at = now() - interval '3 days', completed_at = now() - interval '2 days'"
        )
        owner.execute("select cron.unschedule('batch-lookups-maintenance')")
        owner.execute("select cron.alter_job(jobid, schedule => '@reboot') from cron.job where jobname = 'batch-lookups-retention'")
    own_postgres.stop()
    own_postgres.start()
    with psycopg.connect(own_postgres.url(), autocommit=True) as owner:
        wait_until(lambda: left(owner)[:2] == (0, 0))
        runs = """select count(*) from cron.job_run_details join cron.job using (jobid)
                  where jobname = 'batch-lookups-retention' and start_time >= pg_postmaster_start_time()"""
        assert fetch_value(owner, runs) == 1
