"""`python -m bench.api`: how long clients of the API wait for uploads, pages and files, and for status polls while a batch runs."""

from __future__ import annotations

import csv
import http.client
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from bench.floor import measure_insert
from bench.nginx import running_nginx
from bench.polls import closed_loop, open_loop
from bench.system import System, batch, folder_for_everyone, migrated_database

Figures = dict[str, Any]
ITEMS = 10_000
# Slow enough for the batch to run during all the measurements.
LOOKUPS_PER_SECOND = 200
LARGE = 100_000


def measure_api(say: Callable[[str], None]) -> Figures:
    with folder_for_everyone() as folder, migrated_database(folder) as database_url, running_nginx(folder / "nginx") as nginx:
        system = System(database_url, nginx.url)
        with system.api() as server, system.workers():
            say("uploads: JSON, CSV and a bare INSERT, alternating")
            json_seconds, csv_seconds, insert_seconds = measure_uploads(system)
            say("a finished batch, to read from")
            done, _ = system.post_batch(ITEMS)
            system.wait_for_report(done)
            pages = measure_pages(system, done)
            first_byte = statistics.median(first_bytes(system, done) for _ in range(9))
            system.value("select api.update_settings(%s)::text", json.dumps({"lookups_per_second": LOOKUPS_PER_SECOND}))
            running, _ = system.post_batch(ITEMS)
            time.sleep(2)
            request = system.raw_request("GET", f"/batch-lookups/{running}")
            say("status polls, as many as possible, while a batch runs")
            rates = [uvloop.run(closed_loop(system.port, request, 16, 5)) for _ in range(3)]
            say("status polls, 200 a second, while a batch runs")
            latencies = uvloop.run(open_loop(system.port, request, 200, 15))
            still_running = system.request("GET", f"/batch-lookups/{running}")["status"]
            if still_running != "processing":
                raise RuntimeError(f"the batch was {still_running} before the polls ended")
            say(f"a file of {LARGE:,} results")
            megabytes = measure_large_file(system, server, done)
        return {
            "upload_json_seconds": round(json_seconds, 3),
            "upload_csv_seconds": round(csv_seconds, 3),
            "insert_seconds": round(insert_seconds, 3),
            "polls_per_second": round(statistics.median(rates)),
            "poll_milliseconds_at_200": {"p50": percentile(latencies, 50), "p99": percentile(latencies, 99)},
            "page_milliseconds": pages,
            "results_first_byte_milliseconds": round(first_byte, 1),
            "results_memory_megabytes": round(megabytes, 1),
        }


def percentile(values: list[float], percent: int) -> float:
    return round(statistics.quantiles(values, n=100)[percent - 1], 1)


def measure_uploads(system: System) -> tuple[float, float, float]:
    """Seconds for 10,000 items as JSON, as CSV and as INSERT ... SELECT, each the median of nine; the batches are cancelled immediately."""
    as_json = batch(ITEMS, system.device_id())
    as_csv = to_csv(json.loads(as_json)["items"])
    seconds: dict[str, list[float]] = {"application/json": [], "text/csv": [], "insert": []}
    for _ in range(9):
        for media_type, body in (("application/json", as_json), ("text/csv", as_csv)):
            started = time.perf_counter()
            answer = system.request("POST", "/batch-lookups", body, media_type)
            seconds[media_type].append(time.perf_counter() - started)
            # Cancelled, or already finished, so that the next upload does not compete with it.
            system.cancel(answer["job_id"])
        seconds["insert"].append(measure_insert(system.connection, answer["job_id"]))
    as_json_seconds, as_csv_seconds, insert_seconds = map(statistics.median, seconds.values())
    return as_json_seconds, as_csv_seconds, insert_seconds


def to_csv(items: list[dict[str, Any]]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["reference_id", *items[0]["address"], "building_type", "device_ids"])
    for item in items:
        writer.writerow([item["reference_id"], *item["address"].values(), item["building_type"], ";".join(map(str, item["device_ids"]))])
    return file.getvalue().encode()


def measure_pages(system: System, job_id: str) -> Figures:
    """Milliseconds for the first page of 100 items, the last by offset and the last by cursor: medians of 30."""
    path = f"/batch-lookups/{job_id}/items?limit=100"
    cursor, last = None, None
    while True:
        page = system.request("GET", path + (f"&cursor={cursor}" if cursor else ""))
        if page["next_cursor"] is None:
            break
        cursor = last = page["next_cursor"]

    def milliseconds(address: str) -> float:
        times = []
        for _ in range(30):
            started = time.perf_counter()
            system.request("GET", address)
            times.append((time.perf_counter() - started) * 1000)
        return round(statistics.median(times), 2)

    return {
        "first": milliseconds(path),
        "last_by_offset": milliseconds(f"{path}&offset={ITEMS - 100}"),
        "last_by_cursor": milliseconds(f"{path}&cursor={last}"),
    }


def first_bytes(system: System, job_id: str) -> float:
    """Milliseconds until the first byte of a file of results."""
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=60)
    started = time.perf_counter()
    connection.request("GET", f"/batch-lookups/{job_id}/results", headers=system.headers)
    response = connection.getresponse()
    response.read(1)
    elapsed = (time.perf_counter() - started) * 1000
    response.read()
    connection.close()
    return elapsed


def measure_large_file(system: System, server: subprocess.Popen[bytes], job_id: str) -> float:
    """By how many megabytes the server grows while it sends the results of a job with ten times the items that an upload may have."""
    first_bytes(system, job_id)
    system.connection.execute(
        """
        insert into public.lookup_queue_items
               (organization_id, id, job_id, position, reference_id, address, building_type, device_ids, created_at,
                status, result, processed_at)
        select i.organization_id, app.uuid_v7(), i.job_id, n, 'site-' || n, i.address, i.building_type, i.device_ids, i.created_at,
               i.status, i.result, i.processed_at
          from public.lookup_queue_items i, generate_series(%s, %s) n
         where i.job_id = %s and i.position = 0
        """,
        [ITEMS, LARGE - 1, job_id],
    )
    before = most = resident_megabytes(server)
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=60)
    connection.request("GET", f"/batch-lookups/{job_id}/results?format=ndjson", headers=system.headers)
    response = connection.getresponse()
    lines = 0
    while data := response.read1(1 << 20):
        lines += data.count(b"\n")
        most = max(most, resident_megabytes(server))
    if lines != LARGE:
        raise RuntimeError(f"{lines} results arrived instead of {LARGE}")
    return most - before


def resident_megabytes(process: subprocess.Popen[bytes]) -> float:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096 / 1e6


def api_table(figures: Figures) -> str:
    pages, polls = figures["page_milliseconds"], figures["poll_milliseconds_at_200"]
    rows = [
        (
            f"{ITEMS:,} items as JSON / as CSV / INSERT ... SELECT [s]",
            " / ".join(f"{figures[name]:.2f}" for name in ("upload_json_seconds", "upload_csv_seconds", "insert_seconds")),
        ),
        ("status polls beside a running batch [1/s]", f"{figures['polls_per_second']:,}"),
        ("status poll at 200/s, p50 / p99 [ms]", f"{polls['p50']} / {polls['p99']}"),
        ("100 items: first page / offset 9,900 / last cursor [ms]", " / ".join(str(ms) for ms in pages.values())),
        ("results: first byte of 10,000 [ms]", f"{figures['results_first_byte_milliseconds']}"),
        (f"results: memory growth at {LARGE:,} [MB]", f"{figures['results_memory_megabytes']}"),
    ]
    return "\n".join(f"{name:<58}{figure:>30}" for name, figure in rows)


if __name__ == "__main__":
    print(api_table(measure_api(lambda line: print(line, file=sys.stderr, flush=True))))
