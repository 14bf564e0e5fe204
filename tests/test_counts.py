"""Counters match what counting would give, even during changes, and nobody waits for them."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.conftest import Connection
from tests.test_plans import Plans, rows_scanned
from tests.worker_fixtures import Batches, check_invariants, fetch_value, site, update_settings

ENDED = 3_000
ENDED_BATCHES = """
    with organization as (
        select api.create_organization('Large') as id
    ), job as (
        insert into public.batch_lookup_jobs
               (organization_id, id, status, total_items, processed_items, report_id, created_at, started_at, completed_at, updated_at)
        select o.id, app.uuid_v7(at), 'completed', 1, 1, app.uuid_v7(at), at, at, at, at
          from organization o, generate_series(1, %(jobs)s) n, lateral (select now() - n * interval '12 minutes' as at) t
        returning *
    ), report as (
        insert into public.incentive_reports
               (organization_id, id, job_id, name, description, status, total_sites, created_at, completed_at, updated_at)
        select organization_id, report_id, id, '', '', 'complete', 1, created_at, created_at, created_at from job
    ), queue as (
        insert into app.organization_queue_state (organization_id) select id from organization
    ), usage as (
        insert into public.lookup_usage (organization_id, day, job_id, lookups)
        select organization_id, (created_at at time zone 'UTC')::date, id, 2 from job
    )
    insert into app.ended_changes (organization_id, id, change) select id, gen_random_uuid(), 0 from organization
"""


@pytest.fixture(scope="module")
def grown(new_database: Callable[..., str]) -> Iterator[Connection]:
    """A database with an organization of many ended batches, which maintenance has counted."""
    with psycopg.connect(new_database(), autocommit=True) as connection:
        connection.execute(ENDED_BATCHES, {"jobs": ENDED})
        connection.execute("select app.add_up_counts(app.clock())")
        connection.execute("vacuum analyze public.batch_lookup_jobs, public.incentive_reports")
        yield connection


@pytest.mark.parametrize("status", [None, "completed"])
def test_a_list_of_batches_reads_the_page_whatever_its_total_is(grown: Connection, status: str | None) -> None:
    organization = fetch_value(grown, "select id from app.organizations")
    [(page,)], seen = Plans(grown).run(
        "select api.list_batch_lookups(%(organization)s, %(status)s)", {"organization": organization, "status": status}
    )
    assert (page["total"], len(page["jobs"])) == (ENDED, 20)
    assert rows_scanned(seen, "batch_lookup_jobs") <= 21
    assert rows_scanned(seen, "ended_totals") <= 4


@pytest.mark.parametrize("status", ["failed", "cancelled", "processing"])
def test_lists_of_a_rare_status_do_not_read_past_all_others(grown: Connection, status: str) -> None:
    """Three of these batches are older than all completed ones."""
    organization = fetch_value(grown, "select id from app.organizations")
    with grown.transaction(force_rollback=True):
        grown.execute(
            """insert into public.batch_lookup_jobs
                      (organization_id, id, status, total_items, processed_items, failed_items, report_id, created_at, completed_at,
                       updated_at)
               select %(o)s, gen_random_uuid(), %(status)s, 1, f, f, gen_random_uuid(), at,
                      case when %(status)s <> 'processing' then at end, at
                 from generate_series(1, 3) n,
                      lateral (select '2020-01-01Z'::timestamptz + n * interval '1 day' as at, (%(status)s = 'failed')::integer as f) t;
            """,
            {"o": organization, "status": status},
        )
        grown.execute(
            """insert into public.incentive_reports (organization_id, id, job_id, name, description, status, created_at, updated_at)
               select organization_id, report_id, id, '', '', 'processing', created_at, created_at
                 from public.batch_lookup_jobs where status = 'processing'"""
        )
        parameters = {"organization": organization, "status": status}
        [(page,)], seen = Plans(grown).run("select api.list_batch_lookups(%(organization)s, %(status)s)", parameters)
        assert len(page["jobs"]) == 3
        assert rows_scanned(seen, "batch_lookup_jobs") <= 6
        if status == "processing":
            [(page,)], seen = Plans(grown).run("select api.list_incentive_reports(%(organization)s, %(status)s)", parameters)
            assert (page["total"], len(page["reports"])) == (3, 3)
            assert rows_scanned(seen, "incentive_reports") <= 3


def test_a_list_of_reports_with_errors_does_not_read_past_all_others(grown: Connection) -> None:
    organization = fetch_value(grown, "select id from app.organizations")
    with grown.transaction(force_rollback=True):
        grown.execute(
            """insert into public.incentive_reports (organization_id, id, name, description, status, created_at, completed_at, updated_at)
               select %s, gen_random_uuid(), '', '', 'error', at, at, at
                 from generate_series(1, 3) n, lateral (select '2020-01-01Z'::timestamptz + n * interval '1 day' as at) t""",
            [organization],
        )
        parameters = {"organization": organization}
        [(page,)], seen = Plans(grown).run("select api.list_incentive_reports(%(organization)s, 'error')", parameters)
        assert len(page["reports"]) == 3
        assert rows_scanned(seen, "incentive_reports") <= 3


def test_usage_reads_the_page_and_a_row_for_each_day(grown: Connection) -> None:
    organization = fetch_value(grown, "select id from app.organizations")
    [(usage,)], seen = Plans(grown).run("select api.get_usage(%(organization)s)", {"organization": organization})
    assert (usage["total"], usage["lookups"], len(usage["usage"])) == (ENDED, 2 * ENDED, 100)
    assert rows_scanned(seen, "lookup_usage") <= 101
    assert rows_scanned(seen, "usage_days") <= 2 * 27 + 1


@pytest.mark.parametrize("status", [None, "complete"])
def test_a_list_of_reports_reads_the_page_whatever_its_total_is(grown: Connection, status: str | None) -> None:
    organization = fetch_value(grown, "select id from app.organizations")
    [(page,)], seen = Plans(grown).run(
        "select api.list_incentive_reports(%(organization)s, %(status)s)", {"organization": organization, "status": status}
    )
    assert (page["total"], len(page["reports"])) == (ENDED, 20)
    assert rows_scanned(seen, "incentive_reports") <= 21


def test_totals_are_exact_at_every_moment(database_url: str, owner: Connection) -> None:
    """Five connections upload, look up, cancel and delete, while maintenance adds up: what one statement sees is the same both ways."""
    update_settings(owner, lookups_per_second=None)
    many = [Batches(owner) for _ in range(2)]
    stop = threading.Event()

    def change(seed: int) -> int:
        choose = random.Random(seed)
        done = 0
        with psycopg.connect(database_url, autocommit=True) as connection:
            while not stop.is_set():
                organization = choose.choice(many).organization_id
                try:
                    done += step(connection, organization, choose)
                except psycopg.DatabaseError as error:
                    if error.sqlstate not in ("55P03", "PT404", "PT409"):
                        raise
        return done

    def step(connection: Connection, organization: object, choose: random.Random) -> int:
        jobs = connection.execute(
            "select id, report_id from public.batch_lookup_jobs where organization_id = %s", [organization]
        ).fetchall()
        what = choose.choice(["upload", "look up", "look up", "give back", "cancel", "delete", "delete report"])
        if what == "upload" or not jobs:
            request = json.dumps({"items": [site(f"site-{n}") for n in range(choose.choice([1, 3]))]})
            options = json.dumps({"name": choose.choice(["North, May", "North, June", None])})
            connection.execute("select api.create_batch_lookup(%s, %s, false, %s)", [organization, request, options])
        elif what == "look up":
            status, answer = choose.choice([(200, "{}"), (404, None)])
            connection.execute(LOOK_UP, {"organization": organization, "limit": choose.randint(1, 5), "status": status, "answer": answer})
        elif what == "give back":
            connection.execute(GIVE_BACK, {"organization": organization, "limit": choose.randint(1, 5)})
        elif what == "cancel":
            connection.execute("select api.cancel_batch_lookup(%s, %s)", [organization, choose.choice(jobs)[0]])
        elif what == "delete":
            connection.execute(
                "select api.delete_batch_lookup(%s, %s, %s)", [organization, choose.choice(jobs)[0], choose.choice([True, False])]
            )
        else:
            connection.execute("select api.delete_incentive_report(%s, %s)", [organization, choose.choice(jobs)[1]])
        return 1

    with ThreadPoolExecutor() as threads:
        changing = [threads.submit(change, seed) for seed in range(5)]
        try:
            for round_ in range(40):
                if round_ % 3 == 2:
                    owner.execute("select app.add_up_counts(app.clock())")
                for batches in many:
                    for status in (None, "completed", "failed", "cancelled"):
                        told, there = fetch_row(owner, JOBS, batches.organization_id, status)
                        assert told == there, status
                    for name in ("north, m", "north, j", "march"):
                        told, there = fetch_row(owner, NAMED, batches.organization_id, name)
                        assert told == there, name
                    for status in (None, "complete", "error", "processing"):
                        told, there = fetch_row(owner, REPORTS, batches.organization_id, status)
                        assert told == there, status
                    told, there = fetch_row(owner, USAGE, batches.organization_id)
                    assert told == there
                told, there = fetch_row(owner, OPEN_ITEMS)
                assert told == there
        finally:
            stop.set()
        assert sum(changed.result() for changed in changing) > 0
    assert fetch_value(owner, "select count(distinct organization_id) from app.ended_totals") == len(many)
    check_invariants(owner)
    owner.execute("select app.add_up_counts(app.clock())")
    check_invariants(owner)
    assert fetch_value(owner, "select count(*) from app.usage_days where day = '-infinity'") == len(many)


LOOK_UP = """
    select r.verdict
      from (select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens, count(*)::integer as n
              from api.claim_lookups(%(organization)s, 'tester', %(limit)s)) c
     cross join lateral api.record_lookups(%(organization)s, c.jobs, c.positions, c.tokens, array_fill(%(status)s::integer, array[n]),
           array_fill(null::text, array[n]), array_fill(%(answer)s::text, array[n]), array_fill(null::double precision, array[n])) r
     where c.n > 0"""
GIVE_BACK = """
    select api.release_lookups(%(organization)s, c.jobs, c.positions, c.tokens)
      from (select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens, count(*) as n
              from api.claim_lookups(%(organization)s, 'tester', %(limit)s)) c
     where c.n > 0"""
JOBS = """
    select (api.list_batch_lookups(o, s) ->> 'total')::integer,
           (select count(*) from public.batch_lookup_jobs where organization_id = o and (s is null or status = s))
      from (select %s::uuid as o, %s::text as s) a"""
NAMED = """
    select (api.list_batch_lookups(o, p_name => n) ->> 'total')::integer,
           (select count(*) from public.batch_lookup_jobs where organization_id = o and name ilike '%%' || n || '%%')
      from (select %s::uuid as o, %s::text as n) a"""
REPORTS = """
    select (api.list_incentive_reports(o, s) ->> 'total')::integer,
           (select count(*) from public.incentive_reports where organization_id = o and (s is null or status = s))
      from (select %s::uuid as o, %s::text as s) a"""

USAGE = """
    select array[(u ->> 'lookups')::bigint, (u ->> 'total')::bigint, (u #>> '{month,lookups}')::bigint],
           (select array[coalesce(sum(lookups), 0), count(*) filter (where lookups > 0), coalesce(sum(lookups), 0)]
              from public.lookup_usage where organization_id = o)
      from (select o, api.get_usage(o) as u from (select %s::uuid as o) o) a"""

OPEN_ITEMS = """
    select (select array[ready_items, items_waiting_for_retry, items_in_flight, held_items] from api.queue_health),
           (select array[count(*) filter (where i.retry_at is null and not i.is_claimed), count(*) filter (where i.retry_at is not null),
                         count(*) filter (where i.retry_at is null and i.is_claimed), 0]
              from (select i.retry_at, coalesce(i.position < q.next_position, true) as is_claimed
                      from public.lookup_queue_items i
                      left join app.queued_jobs q on q.organization_id = i.organization_id and q.job_id = i.job_id
                     where i.status = 'pending'
                       -- One that is just being claimed while its batch is cancelled still waits, to everybody else.
                       and i.job_id in (select id from public.batch_lookup_jobs where status in ('pending', 'processing'))) i)"""


def fetch_row(connection: Connection, query: str, *parameters: object) -> tuple[object, ...]:
    row = connection.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row


def test_a_batch_can_end_while_maintenance_adds_up_the_counts(database_url: str, owner: Connection) -> None:
    update_settings(owner, lookups_per_second=None)
    batches = Batches(owner)
    for _ in range(3):
        batches.create(1)
        owner.execute(LOOK_UP, {"organization": batches.organization_id, "limit": 1, "status": 200, "answer": "{}"})
        if fetch_value(owner, "select count(*) from app.usage_days") == 1:
            owner.execute("select app.add_up_counts(app.clock())")  # the first time, it delays claims
        with psycopg.connect(database_url) as adding:
            adding.execute("select app.add_up_counts(app.clock())")
            batches.create(1)
            owner.execute(LOOK_UP, {"organization": batches.organization_id, "limit": 1, "status": 200, "answer": "{}"})
    check_invariants(owner)
    assert fetch_value(owner, "select api.list_batch_lookups(%s) ->> 'total'", batches.organization_id) == "6"
