"""`make demo`: a batch of real sites from upload to report, on the terminal."""

from __future__ import annotations

import csv
import shutil
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from pyshell.api import api_keys
from pyshell.local import stack
from pyshell.local.private_postgres import default_state_dir
from pyshell.local.stopping import until_stopped
from pyshell.settings import ROOT, Settings

SITES = ROOT / "examples" / "sites.csv"
RESULTS = ROOT / "demo-results.csv"
ORGANIZATION = "Demo"
REFRESH_SECONDS = 0.2


def run(settings: Settings) -> None:
    """Starts the system, uploads `examples/sites.csv`, shows the progress, prints the report. Ctrl-C stops it all."""
    settings = replace(settings, port=_port(settings))
    folder = settings.state_dir or default_state_dir()
    folder.mkdir(parents=True, exist_ok=True)
    log_file = folder / "demo.log"
    print("Starting PostgreSQL, the API and a worker ...", flush=True)
    with (
        until_stopped() as stopping,
        log_file.open("w") as log,
        stack.running(settings, stopping, log=log) as system,
        stopping.interruptible(),
    ):
        key = api_keys.create(system.settings.database_url, ORGANIZATION, pepper=settings.api_key_pepper, name="make demo")
        with httpx.Client(base_url=system.url + settings.root_path, headers={"x-api-key": key}, timeout=30) as client:
            job_id = _submit(client, read_sites(SITES))
            job = _watch(client, job_id)
            items, report = _read_results(client, job)
        write_results(RESULTS, items)
        _print_report(items, report)
        print(
            f"All results:  {RESULTS}\n"
            f"More:         make up, and then\n"
            f"              curl -H 'x-api-key: {key}' '{system.url}{settings.root_path}/incentive-reports/{report['id']}?limit=5'"
        )


def read_sites(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file as items of a batch; device_ids are separated by semicolons."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {
                "reference_id": row["reference_id"],
                "address": {
                    name: row[name]
                    for name in ("street_1", "street_2", "city", "state_or_province_code", "postal_code", "country_code")
                    if row.get(name)
                },
                "building_type": row["building_type"],
                "device_ids": [int(number) for number in row["device_ids"].split(";")],
            }
            for row in csv.DictReader(file)
        ]


def write_results(path: Path, items: list[dict[str, Any]]) -> None:
    """One row per site, in upload order. Amounts are US dollars."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["reference_id", "status", "city", "state", "building_type", "utility", "total_incentive_amount", "programs", "error"]
        )
        for item in items:
            result = item["result"] or {}
            incentives = result.get("incentives") or {}
            programs = [program["program_name"] for program in incentives.get("by_program", []) if program["eligible_combinations"]]
            writer.writerow(
                [
                    item["reference_id"],
                    item["status"],
                    item["address"]["city"],
                    item["address"]["state_or_province_code"],
                    item["building_type"],
                    (result.get("utility") or {}).get("name"),
                    incentives.get("total_incentive_amount"),
                    "; ".join(programs),
                    item["error_message"],
                ]
            )


def _port(settings: Settings) -> int:
    """The port of the settings, or any other one when it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError:
            probe.bind((settings.host, 0))
        port: int = probe.getsockname()[1]
        return port


def _submit(client: httpx.Client, sites: list[dict[str, Any]]) -> str:
    answer = _json(client.post("/batch-lookups", json={"items": sites}))
    print(f"Uploaded {answer['total_items']} sites from {SITES.relative_to(ROOT)} as job {answer['job_id']}\n", flush=True)
    job_id: str = answer["job_id"]
    return job_id


def _watch(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """Shows the progress until the job has ended: a line that is written over, or on no terminal one line in five seconds."""
    live = sys.stdout.isatty()
    started, shown = time.monotonic(), 0.0
    while True:
        job = _json(client.get(f"/batch-lookups/{job_id}"))
        ended = job["completed_at"] is not None
        now = time.monotonic()
        if live or ended or now - shown >= 5:
            shown = now
            line = progress_line(job, now - started, shutil.get_terminal_size().columns)
            print(f"\r\x1b[K{line}" if live else line, end="" if live else "\n", flush=True)
        if ended:
            print("\n" if live else "")
            return job
        time.sleep(REFRESH_SECONDS)


def progress_line(job: dict[str, Any], seconds: float, columns: int) -> str:
    """Such as: [########--------]  52%  130/250 done  2 failed  120 left  19.8/s"""
    done, total, failed = job["processed_items"], job["total_items"], job["failed_items"]
    rate = done / seconds if seconds > 0 else 0
    facts = f" {done / total:4.0%}  {done}/{total} done  {failed} failed  {total - done} left  {rate:.1f}/s"
    width = max(min(columns - len(facts) - 3, 40), 5)
    filled = width * done // total
    return f"[{'#' * filled}{'-' * (width - filled)}]{facts}"


def _read_results(client: httpx.Client, job: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    items = list(_items(client, job["id"]))
    report = _json(client.get(f"/incentive-reports/{job['report_id']}", params={"limit": 1}))
    return items, report


def _items(client: httpx.Client, job_id: str) -> Iterator[dict[str, Any]]:
    offset = 0
    while True:
        page = _json(client.get(f"/batch-lookups/{job_id}/items", params={"limit": 500, "offset": offset}))
        yield from page["items"]
        offset += len(page["items"])
        if offset >= page["total"]:
            return


def _print_report(items: list[dict[str, Any]], report: dict[str, Any]) -> None:
    failures = Counter(item["error_message"] for item in items if item["status"] == "failed")
    sites: Counter[str] = Counter()
    value: defaultdict[str, float] = defaultdict(float)
    for item in items:
        for program in ((item["result"] or {}).get("incentives") or {}).get("by_program", []):
            if program["eligible_combinations"]:
                sites[program["program_name"]] += 1
                value[program["program_name"]] += program["total_incentive"]
    print(f"{report['name']}: {report['status']}")
    print(f"  Sites looked up   {report['total_sites']:>12,}")
    print(f"  Eligible sites    {report['eligible_sites']:>12,}")
    print(f"  Incentives found  {'$' + format(report['total_incentive_value'], ',.2f'):>12}\n")
    if value:
        print("Top programs")
        for name in sorted(value, key=lambda name: -value[name])[:10]:
            print(f"  {'$' + format(value[name], ',.0f'):>10}  {sites[name]:>4} sites  {name}")
        print()
    if failures:
        print("Not looked up")
        for message, count in failures.most_common():
            print(f"  {count:>4}  {message}")
        print()


def _json(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise RuntimeError(f"{response.request.method} {response.request.url} answered {response.status_code}: {response.text}")
    body: dict[str, Any] = response.json()
    return body
