"""`python -m bench`: measures, prints a table, and writes the figures as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.api import api_table, measure_api
from bench.chart import bars
from bench.floor import measure_floor
from bench.nginx import NginxError, running_nginx
from bench.peers import measure_peers
from bench.system import System, empty_databases, folder_for_everyone, migrated_database
from bench.workers import measure_traces, measure_workers

Figures = dict[str, Any]


def measure(runs: int, items: int, pickups: int, with_peers: bool, say: Callable[[str], None]) -> Figures:
    with folder_for_everyone() as folder, migrated_database(folder) as database_url:
        with running_nginx(folder / "nginx") as nginx:
            system = System(database_url, nginx.url)
            with system.api(), system.workers() as [worker]:
                posts, drains = measure_drain(system, runs, items, say)
                cpu = cpu_seconds(worker)
                traces = measure_traces(system, items)
                last_job = system.value("select id::text from public.batch_lookup_jobs order by created_at desc limit 1")
            scale = measure_workers(system, items, runs, say)
            peers = measure_peers(empty_databases(database_url), nginx.url, items, say) if with_peers else {}
        say("the floor: the same rows in bare SQL")
        floors = [measure_floor(database_url, last_job) for _ in range(runs)]
        with running_nginx(folder / "nginx-with-log", logs_arrivals=True) as nginx:
            system = System(database_url, nginx.url)
            with system.api(), system.workers():
                say(f"pickup: {pickups} batches of one item, one after the other")
                latencies = measure_pickup(system, nginx.arrivals, pickups)
        return {
            "machine": {
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "postgresql": system.value("show server_version"),
            },
            "items": items,
            "runs": runs,
            "post_seconds": spread(posts),
            "drain_items_per_second": spread(drains),
            "floor_items_per_second": spread(floors),
            "worker_cpu_microseconds_per_item": round(cpu / (items * (runs + 1)) * 1e6, 1),
            "pickup_milliseconds": {
                "p50": round(statistics.median(latencies), 1),
                "p99": round(statistics.quantiles(latencies, n=100)[98], 1),
                "max": round(max(latencies), 1),
            },
            "traces": traces,
            "scale": scale,
            "peers": peers,
        }


def measure_drain(system: System, runs: int, items: int, say: Callable[[str], None]) -> tuple[list[float], list[float]]:
    """Seconds of each upload, and items a second from response to closed report. The first batch is a warm-up and does not count."""
    posts, drains = [], []
    for run in range(runs + 1):
        say(f"{items:,} items: {'warm-up' if run == 0 else f'run {run} of {runs}'}")
        job_id, seconds = system.post_batch(items)
        answered = time.perf_counter()
        system.wait_for_report(job_id)
        if run:
            posts.append(seconds)
            drains.append(items / (time.perf_counter() - answered))
        time.sleep(0.5)
    return posts, drains


def measure_pickup(system: System, arrivals: Callable[[], list[float]], batches: int) -> list[float]:
    """Milliseconds from the response to an upload until its lookup reaches the upstream; 0 if it does so before the response."""
    latencies = []
    for _ in range(batches + 3):
        seen = len(arrivals())
        job_id, _ = system.post_batch(1)
        answered = time.time()
        system.wait_for_report(job_id)
        latencies.append(max(arrivals()[seen] - answered, 0.0) * 1000)
        time.sleep(0.1)
    return latencies[3:]


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def table(figures: Figures) -> str:
    drain, floor, post, pickup = (
        figures[name] for name in ("drain_items_per_second", "floor_items_per_second", "post_seconds", "pickup_milliseconds")
    )
    items = f"{figures['items']:,} items"
    rows = [
        ("", "median", "min", "max"),
        (f"drain of {items}: response to closed report [items/s]", *(f"{drain[key]:,.0f}" for key in ("median", "min", "max"))),
        ("floor: bulk updates in SQL [items/s]", *(f"{floor[key]:,.0f}" for key in ("median", "min", "max"))),
        (f"POST of {items} [s]", *(f"{post[key]:.2f}" for key in ("median", "min", "max"))),
        ("pickup: from the response to the lookup [ms]", f"{pickup['p50']:.0f}", "", f"{pickup['max']:.0f}"),
        ("    99th percentile", f"{pickup['p99']:.0f}", "", ""),
        ("worker's CPU time [µs/item]", f"{figures['worker_cpu_microseconds_per_item']:.0f}", "", ""),
    ]
    rows += [(f"    {name.replace('_', ' ')}", f"{value:,.6g}", "", "") for name, value in (figures["traces"] | figures["scale"]).items()]
    rows += [(f"{name}: drain [items/s]", f"{peer['drain_items_per_second']:,}", "", "") for name, peer in figures["peers"].items()]
    return "\n".join(f"{name:<58}{median:>10}{least:>10}{most:>10}" for name, median, least, most in rows)


def chart(figures: Figures) -> str:
    rates = {name: peer["drain_items_per_second"] for name, peer in figures["peers"].items()}
    ours = "Batch Lookups"
    return bars(
        f"HTTP lookups per second, one process, 50 concurrent, {figures['machine']['cores']} cores",
        {ours: figures["drain_items_per_second"]["median"], **rates},
        emphasized=ours,
    )


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="number of drains, whose median is reported")
    parser.add_argument("--items", type=int, default=10_000, help="items of a batch, at most 10,000")
    parser.add_argument("--pickups", type=int, default=100, help="batches of one item that measure the pickup latency")
    parser.add_argument("--no-peers", action="store_true", help="skip the other queues")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_name("results.json"), help="the file to write the figures to")
    parser.add_argument("--drains-only", action="store_true", help="skip what bench.api measures")
    arguments = parser.parse_args()
    try:
        figures = measure(arguments.runs, arguments.items, arguments.pickups, not arguments.no_peers, say)
    except NginxError as error:
        raise SystemExit(str(error)) from None
    print(table(figures), flush=True)
    if not arguments.drains_only:
        figures["api"] = measure_api(say)
        print(api_table(figures["api"]))
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    arguments.json.with_suffix(".svg").write_text(chart(figures))
    print(f"\nwritten as JSON and as a chart: {arguments.json}, {arguments.json.with_suffix('.svg')}")


if __name__ == "__main__":
    main()
