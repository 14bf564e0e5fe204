"""`python -m bench.held`: lookups at a steady rate while a transaction stays open, so that vacuum can remove nothing.

This is the weak point of every queue in PostgreSQL: each claimed row stays in the index, and so does every version of a counter.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg

from bench.nginx import NginxError, running_nginx
from bench.system import System, batch, folder_for_everyone, migrated_database

FUNCTIONS = ("claim_lookups", "record_lookups", "heartbeat")
BATCH = 10_000


@dataclass(frozen=True)
class Sample:
    """The counts so far; `calls` and `milliseconds` are those of each of FUNCTIONS."""

    at: float
    items: int
    calls: dict[str, int]
    milliseconds: dict[str, float]


def measure(per_second: float, seconds: float, minutes: float) -> Iterator[str]:
    """The lines of a table: one for the minute before the transaction begins, then one for each minute in which it is open."""
    with folder_for_everyone() as folder, migrated_database(folder) as database_url, running_nginx(folder / "nginx") as nginx:
        system = System(database_url, nginx.url)
        system.connection.execute("alter system set track_functions = 'pl'")
        system.connection.execute("select pg_reload_conf()")
        system.value("select api.update_settings(jsonb_build_object('lookups_per_second', %s::float8))", per_second)
        with system.workers(), feeding(system, database_url):
            time.sleep(2)
            yield f"{'':>12}{'items/s':>10}" + "".join(f"{name + ' [ms]':>22}{'[µs/item]':>11}" for name in FUNCTIONS)
            yield line("before", *window(system, minutes * 60))
            with psycopg.connect(database_url) as holding:
                holding.execute("set transaction isolation level repeatable read")
                holding.execute("select 1")
                for minute in itertools.count(1):
                    yield line(f"{minute * minutes:g} min", *window(system, minutes * 60))
                    if minute * minutes * 60 >= seconds:
                        break


@contextmanager
def feeding(system: System, database_url: str) -> Iterator[None]:
    """Keeps at least two batches in the queue."""
    ends = threading.Event()
    body = batch(BATCH, system.device_id()).decode()

    def feed() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            organization_id = connection.execute("select api.create_organization('Held')").fetchone()
            assert organization_id is not None
            while not ends.is_set():
                open_items = connection.execute(
                    "select coalesce(sum(total_items - processed_items), 0) from public.batch_lookup_jobs where completed_at is null"
                ).fetchone()
                if open_items is not None and open_items[0] < 2 * BATCH:
                    connection.execute("select api.create_batch_lookup(%s, %s, false)", (organization_id[0], body))
                ends.wait(1)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def window(system: System, seconds: float) -> tuple[Sample, Sample]:
    start = sample(system)
    time.sleep(seconds)
    return start, sample(system)


def sample(system: System) -> Sample:
    time.sleep(1.1)
    rows = system.connection.execute(
        "select funcname, calls, total_time from pg_stat_user_functions where schemaname = 'api' and funcname = any (%s)", [list(FUNCTIONS)]
    ).fetchall()
    items = system.value("select coalesce(sum(processed_items), 0)::bigint from public.batch_lookup_jobs")
    calls, milliseconds = ({name: row for name, *values in rows for row in [values[column]]} for column in (0, 1))
    return Sample(time.perf_counter(), items, calls, milliseconds)


def line(label: str, start: Sample, end: Sample) -> str:
    items = end.items - start.items
    cells = f"{label:>12}{items / (end.at - start.at):>10,.0f}"
    for name in FUNCTIONS:
        calls = end.calls.get(name, 0) - start.calls.get(name, 0)
        milliseconds = end.milliseconds.get(name, 0.0) - start.milliseconds.get(name, 0.0)
        cells += f"{milliseconds / max(calls, 1):>22.2f}{milliseconds / max(items, 1) * 1000:>11.1f}"
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.held", description=__doc__)
    parser.add_argument("--per-second", type=float, default=800, help="rate of the lookups")
    parser.add_argument("--seconds", type=float, default=600, help="how long the transaction stays open")
    parser.add_argument("--minutes", type=float, default=1, help="how many minutes each line of the table covers")
    arguments = parser.parse_args()
    try:
        with suppress(KeyboardInterrupt):
            for text in measure(arguments.per_second, arguments.seconds, arguments.minutes):
                print(text, flush=True)
    except NginxError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
