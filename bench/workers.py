"""Drains with more workers and more organizations; WAL and dead row versions per item; a worker's memory."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from bench.system import System, batch

WORKERS = (1, 2, 4)
ORGANIZATIONS = (100, 1000)
WARM_UPS = 2


def measure_workers(system: System, items: int, runs: int, say: Callable[[str], None]) -> dict[str, float]:
    """Medians of so many runs. All cases take turns, because other work on the machine comes and goes."""
    rates: dict[str, list[float]] = defaultdict(list)
    memory = 0.0
    for number in range(1, runs + 1):
        for count in WORKERS:
            with system.workers(count) as workers:
                say(f"{count} worker(s), {items:,} items, run {number} of {runs}")
                # Each of a worker's connections plans a statement the first time that it runs it.
                for _ in range(WARM_UPS):
                    drain(system, items, 1)
                rates[f"workers_{count}_items_per_second"] += [drain(system, items, 1) for _ in range(2)]
                if count == 1:
                    for organizations in ORGANIZATIONS:
                        if organizations <= items:
                            rates[f"organizations_{organizations}_items_per_second"].append(drain(system, items, organizations))
                    memory = max(memory, peak_memory(workers[0]))
    return {name: round(statistics.median(values)) for name, values in rates.items()} | {"worker_memory_megabytes": round(memory, 1)}


def measure_traces(system: System, items: int) -> dict[str, float]:
    """Bytes of WAL and dead row versions (other than those of HOT updates) per item of one batch, including its upload."""
    before = traces(system)
    drain(system, items, 1)
    time.sleep(1)
    wal, dead = (after - start for after, start in zip(traces(system), before, strict=True))
    return {"wal_bytes_per_item": round(wal / items), "dead_rows_per_item": round(dead / items, 2)}


def traces(system: System) -> tuple[int, int]:
    query = """select array[(pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint,
                            (select sum(n_tup_upd + n_tup_del - n_tup_hot_upd) from pg_stat_user_tables)::bigint]"""
    wal, dead = system.value(query)
    return wal, dead


def drain(system: System, items: int, organizations: int) -> float:
    """Items a second, from the commit of all jobs together to the end of the last one."""
    body = batch(items // organizations, system.device_id()).decode()
    with system.connection.transaction():
        for number in range(organizations):
            system.connection.execute(
                "select api.create_batch_lookup(api.create_organization(%s), %s, false)", (f"Organization {number}", body)
            )
    started = time.perf_counter()
    while system.value("select exists (select from public.batch_lookup_jobs where completed_at is null)"):
        time.sleep(0.005)
    return items / (time.perf_counter() - started)


def peak_memory(process: subprocess.Popen[bytes]) -> float:
    """The peak of the resident memory of a process, in megabytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
