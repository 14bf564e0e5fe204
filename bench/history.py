"""Creates years of finished work in minutes: bulk copies of one batch that was really looked up."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from psycopg import sql

from bench.nginx import RESULT
from bench.system import Connection, batch

PATTERN_ITEMS = 10_000
SMALL_JOBS = 50
# A page of the small jobs has a name that few other jobs have.
PAGE = 20
DAYS = 90
# 0.2 KB instead of the 1 KB of RESULT.
SHORT_ANSWER: dict[str, Any] = {
    "utility": RESULT["utility"],
    "incentives": {
        "total_incentive_amount": 1000,
        "by_program": [{"program_id": 101, "program_name": "Heat Pump Water Heater Rebate", "total_incentive": 1000}],
    },
}
NAME = "'Rebates of district ' || n.number % 1000 || to_char(n.created_at, ', FMMonth DD')"
# The tables with rows of a finished batch, and what differs in a copy: `n` is the new job, `p` the row of the pattern.
ITEM_ID = "app.numbered_uuid_v7(n.job_id, p.position)"
LATER = "p.{} + n.later"
COPIED: dict[str, dict[str, str]] = {
    "public.batch_lookup_jobs": {
        "id": "n.job_id",
        "name": NAME,
        "report_id": "n.report_id",
        "total_items": "n.items",
        "processed_items": "n.items",
        **{name: LATER.format(name) for name in ("created_at", "started_at", "completed_at", "updated_at")},
    },
    "public.incentive_reports": {
        "id": "n.report_id",
        "job_id": "n.job_id",
        "total_sites": "n.items",
        "eligible_sites": "n.items",
        "total_incentive_value": "p.total_incentive_value / p.total_sites * n.items",
        **{name: LATER.format(name) for name in ("created_at", "completed_at", "updated_at")},
    },
    "app.job_names": {"job_id": "n.job_id", "parts": f"app.name_parts(n.organization_id, {NAME})"},
    "public.batch_lookup_job_labels": {"job_id": "n.job_id", "value": "'team-' || n.number % 1000"},
    "public.lookup_usage": {"job_id": "n.job_id", "day": "(n.created_at at time zone 'UTC')::date", "lookups": "n.items"},
    "public.lookup_queue_items": {
        "id": ITEM_ID,
        "job_id": "n.job_id",
        **{name: LATER.format(name) for name in ("created_at", "processed_at")},
    },
    "public.incentive_report_sites": {"report_id": "n.report_id", "item_id": ITEM_ID, "created_at": LATER.format("created_at")},
    "public.incentive_report_site_programs": {"report_id": "n.report_id"},
}
ROWS_OF_A_JOB = {"public.batch_lookup_jobs": "p.id", "public.incentive_reports": "p.job_id"}


def make_pattern(connection: Connection, answer: dict[str, Any] = RESULT) -> tuple[Any, Any]:
    """Looks up a batch of 10,000 in a new organization, and some small ones that fill pages. Returns the ids of the two."""
    connection.execute("select api.update_settings('{\"lookups_per_second\": null}')")
    [organization] = connection.execute("select api.create_organization('Large')").fetchone() or [None]
    for number in range(SMALL_JOBS):
        create(connection, organization, 1, "Rebates of district 77, May 31" if number < PAGE else "Rebates")
    created = create(connection, organization, PATTERN_ITEMS, "Rebates")
    while look_up(connection, organization, 500, answer):
        pass
    return organization, created["job_id"]


def create(connection: Connection, organization: object, items: int, name: str = "Rebates") -> Any:
    body = batch(items, 1).decode()
    options = json.dumps({"labels": {"team": "pattern"}, "name": name})
    [created] = connection.execute("select api.create_batch_lookup(%s, %s, false, %s)", [organization, body, options]).fetchone() or [None]
    return created


def look_up(connection: Connection, organization: object, items: int, answer: dict[str, Any] = RESULT) -> int:
    """Claims items and records a response for each. Returns how many there were."""
    claimed = claim(connection, organization, items)
    if claimed:
        connection.execute(RECORD, outcomes(organization, claimed, answer))
    return len(claimed)


def claim(connection: Connection, organization: object, items: int) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select job_id, position, lease_token from api.claim_lookups(%s, 'bench', %s)", [organization, items]
    ).fetchall()


RECORD = """select count(*)
              from api.record_lookups(%(organization)s, %(jobs)s, %(positions)s::integer[], %(tokens)s, %(statuses)s::integer[],
                   %(none)s::text[], %(answers)s, %(none)s::float8[], %(latencies)s::float8[])"""


def outcomes(organization: object, claimed: Sequence[tuple[Any, ...]], answer: dict[str, Any] = RESULT) -> dict[str, Any]:
    count = len(claimed)
    return {
        "organization": organization,
        "jobs": [row[0] for row in claimed],
        "positions": [row[1] for row in claimed],
        "tokens": [row[2] for row in claimed],
        "statuses": [200] * count,
        "answers": [json.dumps(answer)] * count,
        "latencies": [0.05] * count,
        "none": [None] * count,
    }


def add_history(
    connection: Connection,
    organization: object,
    job_id: object,
    items: int,
    jobs: int,
    organizations: int,
    say: Callable[[str], None],
    share: float = 0.3,
    age_days: int = 0,
) -> None:
    """Adds items that were finished within 90 days, up to `age_days` ago. The given organization gets `jobs` jobs and a share of the items;
    each other organization gets fewer items than the one before."""
    unknown = tables_of_job(connection, job_id) - set(COPIED)
    if unknown:
        raise RuntimeError(f"a finished batch has rows in tables that are not copied: {', '.join(sorted(unknown))}")
    connection.execute("drop table if exists new_jobs")
    connection.execute(NEW_JOBS, {"organization": organization, "items": items, "organizations": organizations,
                                  "jobs": jobs, "share": share, "age": age_days, "days": DAYS, "pattern": job_id})  # fmt: skip
    connection.execute("create unique index on new_jobs (number)")
    connection.execute("analyze new_jobs")
    [jobs] = connection.execute("select count(*)::integer from new_jobs").fetchone() or [0]
    step = 500
    for first in range(1, jobs + 1, step):
        with connection.transaction():
            for table, changes in COPIED.items():
                copy_rows(connection, table, changes, job_id, first, first + step)
        if first // step % 10 == 0:
            say(f"    {first + step - 1:,} of {jobs:,} jobs")
    connection.execute(WORK_MINUTES)


def tables_of_job(connection: Connection, job_id: object) -> set[str]:
    """The tables with rows of a finished job or of its report."""
    columns = connection.execute(
        """select format('%I.%I', n.nspname, c.relname), a.attname
             from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
            where n.nspname in ('app', 'public') and c.relkind = 'r' and a.attname in ('job_id', 'report_id')"""
    ).fetchall()
    report = "(select report_id from public.batch_lookup_jobs where id = %(job)s)"
    return {
        table
        for table, column in columns
        if connection.execute(
            f"select from {table} where {column} = {'%(job)s' if column == 'job_id' else report} limit 1".encode(), {"job": job_id}
        ).fetchone()
    }


# The jobs of the largest organization have equal sizes; those of the others have 1,000 items, the last one the rest. Their times ascend
# with their numbers.
NEW_JOBS = """
    create temporary table new_jobs as
    with others as (
        select api.create_organization('Organization ' || n) as organization_id,
               greatest((%(items)s * (1 - %(share)s::float8) / n
                         / (select sum(1.0 / r) from generate_series(2, %(organizations)s) r))::integer, 1) as items
          from generate_series(2, %(organizations)s) n
    ), jobs as (
        select %(organization)s::uuid as organization_id, greatest((%(items)s * %(share)s::float8 / %(jobs)s)::integer, 1) as items
          from generate_series(1, %(jobs)s)
         union all
        select o.organization_id, least(o.items - p, 1000) from others o, generate_series(0, o.items - 1, 1000) p
    ), shuffled as (
        select *, row_number() over (order by md5(random()::text)) as number, count(*) over () as jobs from jobs
    ), timed as (
        select s.*, now() - make_interval(days => %(age)s, secs => %(days)s * 86400.0 * (1.001 - s.number::float8 / s.jobs)) as created_at
          from shuffled s
    )
    select t.organization_id, t.number, t.items, t.created_at, app.uuid_v7(t.created_at) as job_id, app.uuid_v7(t.created_at) as report_id,
           t.created_at - p.created_at as later
      from timed t, public.batch_lookup_jobs p
     where p.id = %(pattern)s"""

# As maintenance leaves them: one row for each minute in which jobs ended.
WORK_MINUTES = """
    insert into app.work_minutes (organization_id, minute, kind, outcome, error_class, recorder, items, latency_seconds, latency_buckets,
                                  wait_seconds, wait_buckets)
    select n.organization_id, date_trunc('minute', n.created_at, 'UTC'), 'lookup', 'completed', '', 0, sum(n.items), sum(n.items) * 0.05,
           array[sum(n.items), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], sum(n.items), array[sum(n.items), 0, 0, 0, 0, 0, 0, 0, 0, 0]
      from new_jobs n
     where n.created_at > now() - interval '30 days'
     group by n.organization_id, date_trunc('minute', n.created_at, 'UTC')
        on conflict do nothing"""


def copy_rows(connection: Connection, table: str, changes: dict[str, str], job_id: object, first: int, end: int) -> None:
    names = [
        name
        for [name] in connection.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum", [table]
        ).fetchall()
    ]
    key = ROWS_OF_A_JOB.get(table) or ("p.report_id" if "report_id" in names else "p.job_id")
    wanted = "(select report_id from public.batch_lookup_jobs where id = {job})" if key == "p.report_id" else "{job}"
    expressions = ["n.organization_id", *(changes.get(name, f"p.{name}") for name in names if name != "organization_id")]
    query = (
        f"insert into {table} ({', '.join(['organization_id', *(name for name in names if name != 'organization_id')])})"
        f" select {', '.join(expressions)} from new_jobs n join {table} p"
        f" on {key} = {wanted} {'and p.position < n.items' if 'position' in names else ''}"
        " where n.number >= {first} and n.number < {end} order by n.number" + (", p.position" if "position" in names else "")
    )
    numbers = {"job": sql.Literal(job_id), "first": sql.Literal(first), "end": sql.Literal(end)}
    connection.execute(sql.SQL(query).format(**numbers))  # type: ignore[arg-type]


def add_open(connection: Connection, items: int) -> None:
    """Adds open items, a batch of 1,000 for each organization; a tenth of them wait for a retry."""
    organizations = connection.execute(
        "select id from app.organizations where name like 'Organization %%' order by length(name), name limit %s", [items // 1000]
    ).fetchall()
    for [organization] in organizations:
        create(connection, organization, 1000)
        held = outcomes(organization, claim(connection, organization, 100))
        connection.execute("select api.release_lookups(%(organization)s, %(jobs)s, %(positions)s::integer[], %(tokens)s)", held)
    connection.execute(
        "update public.lookup_queue_items set retry_at = now() + interval '5 minutes' where status = 'pending' and retry_at is not null"
    )
