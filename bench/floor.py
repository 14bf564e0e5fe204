"""The floor: what PostgreSQL alone needs to claim and complete the same rows, without lookups, rules or reports."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import psycopg

from bench.nginx import RESULT
from bench.system import Connection

CHUNK = 500

CLAIM = """
    with ready as materialized (
        select id from public.bench_items
         where organization_id = %(organization_id)s and status = 'pending' and retry_at is null
         order by queue_rank
         limit %(limit)s
           for update skip locked
    ), claimed as (
        update public.bench_items i
           set status = 'processing', lease_token = gen_random_uuid(), lease_expires_at = now() + interval '1 minute', leased_by = 'bench'
          from ready r
         where i.organization_id = %(organization_id)s and i.id = r.id
        returning i.id, i.lease_token
    )
    select array_agg(id)::text, array_agg(lease_token)::text, count(*) from claimed"""

COMPLETE = """
    update public.bench_items i
       set status = 'completed', lease_token = null, lease_expires_at = null, leased_by = null, result = o.result::jsonb,
           processed_at = now()
      from unnest(%(ids)s::uuid[], %(tokens)s::uuid[], array_fill(%(result)s::text, array[%(count)s::integer]))
        as o (id, lease_token, result)
     where i.organization_id = %(organization_id)s and i.id = o.id and i.lease_token = o.lease_token"""


def measure_insert(connection: Connection, job_id: str) -> float:
    """Seconds of a bare INSERT ... SELECT of a job's items, as they were when new, into their table."""
    connection.execute("create temporary table job as select * from public.batch_lookup_jobs where id = %s", [job_id])
    connection.execute("create temporary table items as select * from public.lookup_queue_items where job_id = %s", [job_id])
    connection.execute("update job set id = app.uuid_v7()")
    connection.execute(
        """update items
              set id = app.numbered_uuid_v7(job.id, items.position), job_id = job.id, status = 'pending', lease_token = null,
                  lease_expires_at = null, leased_by = null, result = null, processed_at = null, error_code = null, error_message = null
             from job"""
    )
    connection.execute("insert into public.batch_lookup_jobs table job")
    started = time.perf_counter()
    connection.execute("insert into public.lookup_queue_items select * from items order by position")
    elapsed = time.perf_counter() - started
    connection.execute("delete from public.lookup_queue_items where job_id = (select id from job)")
    connection.execute("delete from public.batch_lookup_jobs where id = (select id from job)")
    connection.execute("drop table job, items")
    return elapsed


def measure_floor(database_url: str, job_id: str) -> float:
    """Items a second, over a copy of the job's items with its indexes and checks: one connection claims, another completes."""
    with psycopg.connect(database_url, autocommit=True) as claiming, psycopg.connect(database_url, autocommit=True) as completing:
        claiming.execute("create table public.bench_items (like public.lookup_queue_items including all)")
        try:
            organization_id, items = copy_items(claiming, job_id)
            return items / drain(claiming, completing, organization_id)
        finally:
            claiming.execute("drop table public.bench_items")


def copy_items(connection: Connection, job_id: str) -> tuple[str, int]:
    connection.execute("insert into public.bench_items select * from public.lookup_queue_items where job_id = %s", [job_id])
    connection.execute(
        "update public.bench_items set status = 'pending', result = null, processed_at = null, error_code = null, error_message = null"
    )
    connection.execute("vacuum (full, analyze) public.bench_items")
    connection.execute("checkpoint")
    row = connection.execute("select min(organization_id::text), count(*) from public.bench_items").fetchone()
    assert row is not None
    return row[0], row[1]


def drain(claiming: Connection, completing: Connection, organization_id: str) -> float:
    """Seconds until every item is completed."""
    claims: SimpleQueue[tuple[str, str, int]] = SimpleQueue()

    def claim() -> None:
        count = 1
        while count:
            row = claiming.execute(CLAIM, {"organization_id": organization_id, "limit": CHUNK}).fetchone()
            assert row is not None
            claims.put((row[0], row[1], row[2]))
            count = row[2]

    started = time.perf_counter()
    with ThreadPoolExecutor() as executor:
        claimer = executor.submit(claim)
        while (claimed := claims.get())[2]:
            ids, tokens, count = claimed
            outcomes = {"ids": ids, "tokens": tokens, "count": count, "result": json.dumps(RESULT)}
            completing.execute(COMPLETE, {"organization_id": organization_id, **outcomes})
        claimer.result()
    return time.perf_counter() - started
