"""`python -m bench.retention`: how fast finished work is deleted, how long a step takes, and whether its space comes back."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import psycopg

from bench.history import add_history, make_pattern
from bench.scale import Meter, say, server
from bench.system import Connection, folder_for_everyone
from pyshell.deploy import migrations

# The same number of items for each size of job.
ITEMS = 100_000
SIZES = {"jobs of 10": 10_000, "jobs of 1,000": 100, "jobs of 10,000": 10}
ROUNDS = 6
TABLES = (
    "batch_lookup_jobs",
    "lookup_queue_items",
    "incentive_reports",
    "incentive_report_sites",
    "incentive_report_site_programs",
    "batch_lookup_job_labels",
)


def prune(connection: Connection, name: str) -> dict[str, float]:
    """Deletes everything that has expired, in steps, as pg_cron and workers do."""
    meter, before = Meter(connection), count_items(connection)
    steps, longest, started = 0, 0.0, time.perf_counter()
    while True:
        step = time.perf_counter()
        [(deleted,)] = meter.time(name, "select api.prune_expired()", {})
        longest = max(longest, time.perf_counter() - step)
        steps += 1
        if not deleted:
            break
    seconds = time.perf_counter() - started
    items = before - count_items(connection)
    return {
        "items": items,
        "items_per_second": round(items / seconds),
        "cpu_microseconds_per_item": round(meter.total(name) * 1000 / items, 1),
        "steps": steps,
        "longest_step_seconds": round(longest, 2),
    }


def count_items(connection: Connection) -> int:
    [(items,)] = connection.execute("select count(*) from public.lookup_queue_items").fetchall()
    return int(items)


def sizes(connection: Connection) -> dict[str, tuple[float, float]]:
    """Megabytes of each table and of its indexes."""
    return {
        table: (round(heap / 1e6, 1), round(indexes / 1e6, 1))
        for table, heap, indexes in connection.execute(
            "select t, pg_table_size('public.' || t), pg_indexes_size(('public.' || t)::regclass) from unnest(%s::text[]) t", [list(TABLES)]
        ).fetchall()
    }


def measure(connection: Connection) -> dict[str, Any]:
    organization, job = make_pattern(connection)
    connection.execute("""select api.update_settings('{"job_retention_days": 1, "report_retention_days": 1}')""")
    rates: dict[str, Any] = {}
    for name, jobs in SIZES.items():
        add_history(connection, organization, job, ITEMS, jobs, 1, lambda _: None, share=1, age_days=2)
        rates[name] = prune(connection, name)
        say(f"{name:<16}{json.dumps(rates[name])}")
        connection.execute("vacuum analyze")
    space = []
    for number in range(1, ROUNDS + 1):
        add_history(connection, organization, job, ITEMS, 2000, 1, lambda _: None, share=1, age_days=2)
        prune(connection, "round")
        connection.execute("vacuum")
        space.append(sizes(connection))
        say(f"round {number}: {json.dumps(space[-1])}")
    return {"rates": rates, "space": space}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.retention", description=__doc__)
    parser.add_argument("--json", type=Path, help="the file to write the figures to")
    arguments = parser.parse_args()
    with folder_for_everyone() as folder, server(folder) as postgres:
        migrations.migrate(postgres.url(), lookups_per_second=float("inf"))
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute("set synchronous_commit = off")
            figures = measure(connection)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
