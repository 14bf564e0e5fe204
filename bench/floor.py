"""The floor: how fast PostgreSQL completes the same rows by bare updates, without claims, lookups, rules or reports."""

from __future__ import annotations

import json
import time

import psycopg

from bench.nginx import RESULT
from bench.system import Connection

CHUNK = 500

COMPLETE = """
    update public.bench_items
       set status = 'completed', result = %(result)s::jsonb, processed_at = now()
     where organization_id = %(organization_id)s and job_id = %(job_id)s and position >= %(start)s and position < %(start)s + %(chunk)s"""


def measure_insert(connection: Connection, job_id: str) -> float:
    """Seconds for a bare INSERT ... SELECT of a job's items into their table, as they were when new."""
    connection.execute("create temporary table job as select * from public.batch_lookup_jobs where id = %s", [job_id])
    connection.execute("create temporary table items as select * from public.lookup_queue_items where job_id = %s", [job_id])
    connection.execute("update job set id = app.uuid_v7()")
    connection.execute(
        """update items
              set id = app.numbered_uuid_v7(job.id, items.position), job_id = job.id, status = 'pending', result = null,
                  processed_at = null, error_code = null, error_message = null
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
    """Items a second on a copy of the job's items, with the indexes and checks of their table: one connection, a commit for every 500."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("create table public.bench_items (like public.lookup_queue_items including all)")
        try:
            organization_id, items = copy_items(connection, job_id)
            started = time.perf_counter()
            for start in range(0, items, CHUNK):
                chunk = {"organization_id": organization_id, "job_id": job_id, "start": start, "chunk": CHUNK, "result": json.dumps(RESULT)}
                connection.execute(COMPLETE, chunk)
            return items / (time.perf_counter() - started)
        finally:
            connection.execute("drop table public.bench_items")


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
