"""Dashboards, maintenance and calls for one batch read only what is open or recent, however much has been finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import Connection
from tests.test_plans import Plans, rows_scanned
from tests.worker_fixtures import Batches

JOBS = 3_000
# The mean of all organizations, by which a plan for any of them goes, is far from what the large one has.
SMALL_ORGANIZATIONS = 300
HISTORY = """
    with organization as (
        select api.create_organization('Large') as id
    ), small_job as (
        insert into public.batch_lookup_jobs
               (organization_id, id, status, total_items, processed_items, report_id, created_at, started_at, completed_at, updated_at)
        select api.create_organization('Small ' || n), app.uuid_v7(), 'completed', 1, 1, app.uuid_v7(), at, at, at, at
          from generate_series(1, %(small)s) n, lateral (select now() - interval '1 day' - n * interval '1 minute' as at) t
        returning *
    ), job as (
        insert into public.batch_lookup_jobs
               (organization_id, id, status, total_items, processed_items, report_id, created_at, started_at, completed_at, updated_at)
        select o.id, app.uuid_v7(at), 'completed', 1, 1, app.uuid_v7(at), at, at, at, at
          from organization o, generate_series(1, %(jobs)s) n, lateral (select now() - interval '1 day' - n * interval '12 minutes' as at) t
        returning *
    ), labels as (
        insert into public.batch_lookup_job_labels (organization_id, job_id, key, value)
        select organization_id, id, 'team', id::text from (select * from job union all select * from small_job) j
    ), usage as (
        insert into public.lookup_usage (organization_id, day, job_id, lookups)
        select organization_id, (created_at at time zone 'UTC')::date, id, 1 from job
    ), attempts as (
        insert into public.lookup_attempts (organization_id, job_id, position, attempt, outcome, recorded_at)
        select organization_id, id, 0, n, 'complete', now() from job, generate_series(1, 10) n
    ), minutes as (
        insert into app.work_minutes
               (organization_id, minute, kind, outcome, items, latency_seconds, latency_buckets, wait_seconds, wait_buckets)
        select organization_id, date_trunc('minute', completed_at), 'lookup', 'completed', 1, 1, array_fill(0, '{11}'), 1,
               array_fill(0, '{10}')
          from job
    ), keys as (
        insert into app.idempotency_keys (organization_id, route, key, fingerprint, created_at)
        select organization_id, 'POST /batch-lookups', id::text, '', now() - interval '6 days' from job
    ), deleted as (
        insert into app.deleted_rows (organization_id, table_name, id, deleted_at)
        select organization_id, 'batch_lookup_jobs', id, now() from job
    )
    insert into app.audit_events (organization_id, id, action, actor_type, created_at)
    select organization_id, id, 'job.deleted', 'system', created_at from job
"""
TABLES = ("batch_lookup_jobs", "lookup_queue_items", "lookup_usage", "work_minutes", "idempotency_keys", "deleted_rows", "audit_events")


@pytest.fixture(scope="module", params=["fresh statistics", "no statistics"])
def history(request: pytest.FixtureRequest, new_database: Callable[..., str]) -> Iterator[Connection]:
    """A database with an organization of many finished jobs, and many of one."""
    with psycopg.connect(new_database(), autocommit=True) as connection:
        for [table] in connection.execute(
            "select oid::regclass::text from pg_class where relkind = 'r' and relnamespace in ('app'::regnamespace, 'public'::regnamespace)"
        ).fetchall():
            connection.execute(f"alter table {table} set (autovacuum_enabled = off)".encode())
        connection.execute(HISTORY, {"jobs": JOBS, "small": SMALL_ORGANIZATIONS})
        # The check reads each of the jobs when they are new: it is due in the tests that are about it.
        connection.execute("update app.maintenance_state set checked_at = now()")
        if request.param == "fresh statistics":
            connection.execute("vacuum analyze")
        yield connection


@pytest.fixture(autouse=True)
def as_it_was(history: Connection) -> Iterator[None]:
    with history.transaction(force_rollback=True):
        yield


def value(connection: Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_operations_read_the_state_of_the_queue_once(history: Connection) -> None:
    history.execute("insert into app.workers (id, started_at, seen_at) values ('one', now(), now())")
    _, seen = Plans(history).run("select api.get_operations()", {})
    assert rows_scanned(seen, "workers") == 1


@pytest.mark.parametrize("query", ["select api.get_operations()", "select api.get_metrics()"])
def test_dashboards_read_nothing_finished(history: Connection, query: str) -> None:
    _, seen = Plans(history).run(query, {})
    assert {table: rows_scanned(seen, table) for table in TABLES} == dict.fromkeys(TABLES, 0)


def test_open_items_are_counted_without_reading_them(history: Connection) -> None:
    """Of three batches of 2,000, all wait for a retry in one, none in another that is held, and 500 in one that is being claimed."""
    history.execute(
        """insert into public.batch_lookup_jobs (organization_id, id, status, total_items, report_id, created_at, started_at, updated_at)
           select o.id, app.uuid_v7(now()), 'processing', 2000, gen_random_uuid(), now(), now(), now()
             from app.organizations o where o.name in ('Large', 'Small 1', 'Small 2');
           insert into app.job_budgets (organization_id, job_id, sample, lookups, held_position)
           select j.organization_id, j.id, 10, 10, 0
             from public.batch_lookup_jobs j join app.organizations o on o.id = j.organization_id and o.name = 'Small 1'
            where j.status = 'processing';
           insert into app.queued_jobs (organization_id, job_id, next_position, end_position, next_rank)
           select j.organization_id, j.id, 1000, 2000, 0
             from public.batch_lookup_jobs j join app.organizations o on o.id = j.organization_id and o.name = 'Small 2'
            where j.status = 'processing';
           insert into public.lookup_leases (organization_id, job_id, lease_token, worker, expires_at, positions)
           select organization_id, job_id, gen_random_uuid(), 'one', now() + n * interval '1 minute', positions
             from app.queued_jobs, unnest(array[-1, 1], array['{[0,100)}', '{[100,500)}']::int4multirange[]) l (n, positions);
           insert into public.lookup_queue_items
                  (organization_id, id, job_id, position, reference_id, address, building_type, device_ids, retry_at, created_at)
           select j.organization_id, gen_random_uuid(), j.id, n, 'site-' || n, '{}', '', '{}',
                  case when o.name = 'Large' or o.name = 'Small 2' and n between 500 and 999 then now() end, now()
             from public.batch_lookup_jobs j
             join app.organizations o on o.id = j.organization_id
            cross join generate_series(0, 1999) n
            where j.status = 'processing'"""
    )
    [(queue,)], seen = Plans(history).run("select api.get_queue_health()", {})
    open_items = {
        name: queue[name] for name in ("ready_items", "items_waiting_for_retry", "items_in_flight", "expired_leases", "held_items")
    }
    assert open_items == {
        "ready_items": 1000,
        "items_waiting_for_retry": 2500,
        "items_in_flight": 500,
        "expired_leases": 100,
        "held_items": 2000,
    }
    assert rows_scanned(seen, "lookup_queue_items") == 0
    assert rows_scanned(seen, "batch_lookup_jobs") == 3


def test_maintenance_reads_nothing_finished(history: Connection) -> None:
    history.execute("update app.maintenance_state set checked_at = now() - interval '11 minutes'")
    plans = Plans(history)
    for _ in range(2):
        _, seen = plans.run("select app.run_maintenance(), app.prune_expired()", {})
        # A plan for an organization of one job may read that; there are some such plans, until there is one for all.
        assert rows_scanned(seen, "batch_lookup_jobs") <= 10
        assert {table: rows_scanned(seen, table) for table in TABLES[1:]} == dict.fromkeys(TABLES[1:], 0)
    assert value(history, "select checked_at > now() - interval '1 minute' from app.maintenance_state")


def test_a_step_of_the_retention_reads_little_of_an_organization_without_anything_expired(history: Connection) -> None:
    """Even where a plan that stops at the first row would rather scan the table than an index."""
    history.execute("""select api.update_settings('{"job_retention_days": 300, "report_retention_days": 300}')""")
    assert pages(history, "select api.prune_expired()") <= 600


def pages(connection: Connection, query: str) -> int:
    """How many pages a query reads or finds in memory, the only count that includes rows skipped in an index. The lowest of three calls,
    because one that plans also reads the catalog."""

    def once() -> int:
        plan = value(connection, f"explain (analyze, buffers, timing off, format json) {query}")[0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    return min(once() for _ in range(3))


def oldest_job(connection: Connection) -> str:
    """The statement that finds it, by its key."""
    key = value(
        connection,
        "select format('organization_id = %L and id = %L', organization_id, id) from public.batch_lookup_jobs order by id limit 1",
    )
    return f"select * from public.batch_lookup_jobs where {key}"


def test_the_lookups_of_a_job_are_counted_without_reading_the_usage_of_others(history: Connection) -> None:
    job = oldest_job(history)
    assert value(history, f"select app.lookups_of_job(j) from ({job}) j") == 1
    assert pages(history, f"select app.lookups_of_job(j) from ({job}) j") <= pages(history, job) + 6


def test_a_released_item_is_uncounted_without_reading_the_usage_of_other_jobs(history: Connection) -> None:
    job = oldest_job(history)
    history.execute("delete from public.lookup_usage")
    history.execute(
        """insert into public.lookup_usage (organization_id, day, job_id, lookups)
           select organization_id, (now() at time zone 'UTC')::date, id, 1 from public.batch_lookup_jobs"""
    )
    # From its last row on, a day's oldest job comes after all others.
    release = f"""
        select app.uncount_lookups(j.organization_id, array[j.id], array[(now() at time zone 'UTC')::date])
          from ({job}) j"""
    assert pages(history, release) <= pages(history, job) + 15
    assert value(history, "select count(*) from public.lookup_usage where lookups = 0") == 1


def test_the_status_of_a_job_reads_no_labels_of_others(history: Connection) -> None:
    poll = value(
        history,
        "select format('select api.get_batch_lookup(%L, %L)', organization_id, id) from public.batch_lookup_jobs order by id limit 1",
    )
    for _ in range(4):  # beyond the fifth call PL/pgSQL may change to a generic plan
        assert pages(history, poll) <= 30
    _, seen = Plans(history).run(poll, {})
    assert rows_scanned(seen, "batch_lookup_job_labels") == 1


def test_the_oldest_ready_item_is_found_without_reading_other_jobs(history: Connection) -> None:
    site = {
        "reference_id": "site-1",
        "address": {
            "street_1": "1 Main St",
            "city": "Austin",
            "state_or_province_code": "TX",
            "postal_code": "78701",
            "country_code": "US",
        },
        "building_type": "RESIDENTIAL",
        "device_ids": [1],
    }
    history.execute(
        "select api.create_batch_lookup(id, %s, false) from app.organizations where name = 'Large'", [json.dumps({"items": [site]})]
    )
    assert pages(history, "select app.oldest_ready_since(now())") <= 40
    assert value(history, "select app.oldest_ready_since(now()) is not null")


def test_the_oldest_ready_item_is_found_without_reading_all_that_wait_for_a_retry(history: Connection) -> None:
    history.execute(
        """insert into public.lookup_queue_items
                   (organization_id, id, job_id, position, reference_id, address, building_type, device_ids, retry_at, created_at)
           select j.organization_id, gen_random_uuid(), j.id, n, 'site-' || n, '{}', '', '{}', now() - n * interval '1 second', now()
             from (select * from public.batch_lookup_jobs order by id limit 1) j, generate_series(1, 2000) n"""
    )
    history.execute("insert into app.organization_queue_state (organization_id, ready_at) select id, now() from app.organizations")
    [(since,)], seen = Plans(history).run("select now() - app.oldest_ready_since(now())", {})
    assert since.total_seconds() == 2000
    assert rows_scanned(seen, "lookup_queue_items") <= 1


def test_organizations_that_came_after_the_oldest_new_item_are_not_asked_for_their_retries(history: Connection) -> None:
    history.execute(
        """insert into public.batch_lookup_jobs (organization_id, id, total_items, report_id, created_at, updated_at)
           select o.id, app.uuid_v7(at), 2, gen_random_uuid(), at, at
             from app.organizations o,
                  lateral (select now() - case o.name when 'Large' then interval '1 hour' else interval '1 minute' end as at) t;
           insert into public.lookup_queue_items
                  (organization_id, id, job_id, position, reference_id, address, building_type, device_ids, retry_at, created_at)
           select organization_id, gen_random_uuid(), id, n, 'site-' || n, '{}', '', '{}', case n when 0 then now() end, created_at
             from public.batch_lookup_jobs, generate_series(0, 1) n
            where status = 'pending';
           insert into app.queued_jobs (organization_id, job_id, next_position, end_position, next_rank)
           select organization_id, id, 1, 2, 0 from public.batch_lookup_jobs where status = 'pending';
           insert into app.organization_queue_state (organization_id, ready_at)
           select organization_id, created_at from public.batch_lookup_jobs where status = 'pending'"""
    )
    [(since,)], seen = Plans(history).run("select now() - app.oldest_ready_since(now())", {})
    assert since.total_seconds() == 3600
    assert rows_scanned(seen, "lookup_queue_items") == 0


def test_maintenance_handles_some_organizations_in_each_run_and_all_in_turn(history: Connection) -> None:
    plans = Plans(history)
    _, seen = plans.run("select app.run_maintenance()", {})
    assert len([plan for plan in seen if "delete from app.incentive_calls" in plan["Query Text"]]) == 25
    history.execute(
        """insert into public.lookup_attempts (organization_id, job_id, position, attempt, outcome, recorded_at)
           select organization_id, id, 0, 100, 'complete', now() - interval '2 years' from public.batch_lookup_jobs j
            where exists (select from app.organizations where id = j.organization_id and name like 'Small %')"""
    )
    for left in range(SMALL_ORGANIZATIONS, 0, -25):
        assert value(history, "select count(*) from public.lookup_attempts where attempt = 100") in (left, left + 1)
        history.execute("select app.prune_attempts(now() - interval '1 year')")
    history.execute("select app.prune_attempts(now() - interval '1 year')")
    assert value(history, "select count(*) from public.lookup_attempts where attempt = 100") == 0


def test_a_check_looks_at_organizations_where_something_was_counted_and_some_others(history: Connection) -> None:
    history.execute(
        """update app.maintenance_state set checked_at = now() - interval '11 minutes';
           insert into app.work_minutes
                  (organization_id, minute, kind, outcome, items, latency_seconds, latency_buckets, wait_seconds, wait_buckets)
           select id, date_trunc('minute', now()), 'job', 'completed', 1, 0, '{}', 0, '{}'
             from app.organizations where name like 'Small 1__'"""
    )
    with history.transaction(force_rollback=True):
        _, seen = Plans(history).run("select app.count_violations(now())", {})
        assert looks_at_queues(seen) == 0, "none of them has anything open, or has ended anything since"
    history.execute(
        """insert into public.lookup_leases (organization_id, job_id, lease_token, worker, expires_at, positions)
           select id, gen_random_uuid(), gen_random_uuid(), 'one', now() + interval '1 minute', '{[0,1)}' from app.organizations"""
    )
    _, seen = Plans(history).run("select app.count_violations(now())", {})
    assert 100 <= looks_at_queues(seen) <= 110


def looks_at_queues(seen: list[dict[str, Any]]) -> int:
    return len([plan for plan in seen if "an expired lease returns" in plan["Query Text"]])


OPEN_BATCHES = """
    insert into app.organization_queue_state (organization_id, ready_at) select id, now() from app.organizations;
    insert into public.batch_lookup_jobs (organization_id, id, total_items, report_id, created_at, updated_at)
    select id, app.uuid_v7(now()), 1, app.uuid_v7(now()), now(), now() from app.organizations;
    insert into public.incentive_reports (organization_id, id, job_id, name, description, created_at, updated_at)
    select organization_id, report_id, id, '', '', now(), now() from public.batch_lookup_jobs where status = 'pending';
    insert into app.queued_jobs (organization_id, job_id, next_position, end_position, next_rank)
    select organization_id, id, 0, 1, 0 from public.batch_lookup_jobs where status = 'pending';
    insert into public.lookup_queue_items
           (organization_id, id, job_id, position, reference_id, address, building_type, device_ids, created_at)
    select organization_id, gen_random_uuid(), job_id, 0, 'site', '{}', '', '{}', now() from app.queued_jobs"""


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("delete from app.queued_jobs", "a pending item is scheduled, leased, or still to be claimed"),
        ("update app.organization_queue_state set ready_at = null", "an organization with work is on the ready list"),
        (
            """update public.batch_lookup_jobs j
                  set status = 'completed', processed_items = 1, failed_items = 0, completed_at = now() where status = 'pending'""",
            "a job is open while it has open items",
        ),
        (
            """insert into public.lookup_leases (organization_id, job_id, lease_token, worker, expires_at, positions)
               select organization_id, job_id, gen_random_uuid(), 'one', now() - interval '6 minutes', '{[0,1)}' from app.queued_jobs""",
            "an expired lease returns to the queue",
        ),
    ],
)
def test_a_check_finds_what_is_wrong_with_one_organization(history: Connection, change: str, rule: str) -> None:
    """Although most have nothing to check and are skipped immediately."""
    history.execute(
        """update app.maintenance_state set checked_at = now() - interval '11 minutes';
           insert into app.work_minutes
                  (organization_id, minute, kind, outcome, items, latency_seconds, latency_buckets, wait_seconds, wait_buckets)
           select id, date_trunc('minute', now()), 'job', 'completed', 1, 0, '{}', 0, '{}' from app.organizations"""
    )
    history.execute(OPEN_BATCHES.replace("from app.organizations", "from app.organizations where name = 'Large'").encode())
    with history.transaction(force_rollback=True):
        history.execute("select app.count_violations(now())")
        assert value(history, "select violations from app.maintenance_state") == 0
    history.execute(change.encode())
    history.execute("select app.count_violations(now())")
    assert value(history, "select violations from app.maintenance_state") > 0
    assert value(history, "select array_agg(rule)::text from api.check_invariants(now() - interval '20 minutes')").find(rule) >= 0


def test_maintenance_only_reads_if_an_organization_needs_nothing(history: Connection) -> None:
    """Each minute, and of many: what would change something is not even tried."""
    history.execute(OPEN_BATCHES.encode())
    _, seen = Plans(history).run("select app.maintain_queue(id, now()) from app.organizations where name = 'Large'", {})
    statements = [plan["Query Text"].split(maxsplit=1)[0].lower() for plan in seen]
    assert {"update", "delete", "insert"}.isdisjoint(statements)
    assert len(statements) <= 16


@pytest.mark.parametrize("query", ["select api.get_operations()", "select api.get_metrics()"])
def test_dashboards_look_at_no_organization_without_a_limit(history: Connection, query: str) -> None:
    history.execute(OPEN_BATCHES.encode())
    _, seen = Plans(history).run(query, {})
    # That of the oldest item that is ready is asked how many lookups it has left; receivers that fail, of which there are none, are named.
    assert rows_scanned(seen, "organizations") <= 2


@pytest.mark.parametrize("analyzed", ["", "vacuum analyze public.lookup_attempts"], ids=["no statistics", "fresh statistics"])
def test_a_flush_reads_no_attempts_of_other_jobs(owner: Connection, analyzed: str) -> None:
    """They all belong to one job, which makes a condition on jobs look useless."""
    batches = Batches(owner)
    owner.execute(
        """insert into public.lookup_attempts (organization_id, job_id, position, attempt, outcome, recorded_at)
           select %s, %s, 0, n, 'complete', now() from generate_series(1, 30000) n""",
        [batches.organization_id, batches.create(1)],
    )
    owner.execute(analyzed.encode())
    for jobs in (1, 20):
        has_attempts = f"select app.has_attempts(%(organization)s, array(select gen_random_uuid() from generate_series(1, {jobs})))"
        rows, seen = Plans(owner).run(has_attempts, {"organization": batches.organization_id})
        assert rows == [(False,)]
        assert rows_scanned(seen, "lookup_attempts") == 0


def test_an_organization_off_the_ready_list_comes_back_in_the_next_run(history: Connection) -> None:
    """All others with open batches are handled in turn."""
    history.execute(
        """insert into app.organization_queue_state (organization_id, ready_at) select id, now() from app.organizations;
           insert into public.batch_lookup_jobs (organization_id, id, total_items, report_id, created_at, updated_at)
           select id, app.uuid_v7(now()), 1, gen_random_uuid(), now(), now() from app.organizations;
           insert into app.queued_jobs (organization_id, job_id, next_position, end_position, next_rank)
           select organization_id, id, 0, 1, 0 from public.batch_lookup_jobs where status = 'pending';
           insert into public.lookup_queue_items
                  (organization_id, id, job_id, position, reference_id, address, building_type, device_ids, created_at)
           select organization_id, gen_random_uuid(), job_id, 0, 'site', '{}', '', '{}', now() from app.queued_jobs;
           delete from app.queued_jobs where organization_id = (select min(id::text)::uuid from app.organizations);
           update public.lookup_queue_items set retry_at = now()
            where organization_id = (select min(id::text)::uuid from app.organizations);
           update app.organization_queue_state set ready_at = null
            where organization_id = any (select unnest(array[min(id::text), max(id::text)]::uuid[]) from app.organizations)"""
    )
    _, seen = Plans(history).run("select app.run_maintenance()", {})
    assert len([plan for plan in seen if "isempty" in plan["Query Text"]]) in (15, 16, 17)
    assert value(history, "select count(*) from app.organization_queue_state where ready_at is null") == 0


def test_batches_that_were_read_for_their_results_are_not_looked_at_again(history: Connection) -> None:
    large = value(history, "select id from app.organizations where name = 'Large'")
    history.execute("insert into app.known_jobs select organization_id, id, 1 from public.batch_lookup_jobs")
    history.execute("select app.learn_results(%s, '-infinity')", [large])
    plans = Plans(history)
    for _ in range(2):
        plans.run("select app.learn_results_in_turn()", {})
    _, seen = plans.run("select app.learn_results_in_turn()", {})
    assert rows_scanned(seen, "batch_lookup_jobs") == 0
