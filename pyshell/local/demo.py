"""`make demo`: a batch of real sites from upload to report, on the terminal."""

from __future__ import annotations

import sys
import time
from typing import Any

import httpx

from pyshell.api import api_keys
from pyshell.local import progress_bar, stack
from pyshell.local.private_postgres import default_state_dir, make_enterable
from pyshell.local.stopping import until_stopped
from pyshell.settings import ROOT, Settings

SITES = ROOT / "examples" / "sites.csv"
RESULTS = ROOT / "demo-results.csv"
ORGANIZATION = "Demo"
REFRESH_SECONDS = 0.2
LINE_EVERY_SECONDS = 5.0
TOP_PROGRAMS = 10


def run(settings: Settings) -> None:
    """Starts the system, uploads `examples/sites.csv`, shows the progress, prints the report. Ctrl-C stops it all."""
    address_of_up = settings.server_url + settings.root_path
    folder = settings.state_dir or default_state_dir()
    make_enterable(folder)
    log_file = folder / "demo.log"
    print("Starting PostgreSQL, the API and a worker ...", flush=True)
    with (
        until_stopped() as stopping,
        log_file.open("w") as log,
        stack.running(settings, stopping, log=log, any_port=True) as system,
        stopping.interruptible(),
    ):
        key = api_keys.create(system.settings.database_url, ORGANIZATION, pepper=settings.api_key_pepper, name="make demo")
        address = system.url + settings.root_path
        print(f"In the browser: {address}/portal", flush=True)
        if sys.stdout.isatty():
            print(f"where this API key signs in: {key}", flush=True)
        try:
            with client_of(address, key) as client:
                job = _watch(client, _submit(client))
                RESULTS.write_bytes(_ok(client.get(f"/batch-lookups/{job['id']}/results")).content)
                summary = _ok(client.get(f"/incentive-reports/{job['report_id']}/summary")).json()
        except httpx.TransportError as error:
            raise RuntimeError(f"The API no longer answers: {error}. Its log is {log_file}.") from error
        print(report_text(job, summary))
        print(
            f"All results:  {RESULTS}\n"
            f"More:         make up, and then {address_of_up}/portal in the browser, with the API key {key}\n"
            f"              curl -H 'x-api-key: {key}' '{address_of_up}/incentive-reports/{job['report_id']}?limit=5'"
        )


def client_of(address: str, key: str) -> httpx.Client:
    """Of the API on this machine, which no proxy of the environment leads to."""
    return httpx.Client(base_url=address, headers={"x-api-key": key}, timeout=30, trust_env=False)


def _submit(client: httpx.Client) -> str:
    answer = _ok(client.post("/batch-lookups", content=SITES.read_bytes(), headers={"content-type": "text/csv"})).json()
    print(f"Uploaded {answer['total_items']} sites from {SITES.relative_to(ROOT)} as job {answer['job_id']}\n", flush=True)
    job_id: str = answer["job_id"]
    return job_id


def _watch(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """Shows the progress until the job has ended; answers the job."""
    started = time.monotonic()
    with progress_bar.shown(LINE_EVERY_SECONDS) as show:
        while True:
            job: dict[str, Any] = _ok(client.get(f"/batch-lookups/{job_id}")).json()
            show(job["processed_items"] / job["total_items"], progress(job, time.monotonic() - started))
            if job["completed_at"] is not None:
                break
            time.sleep(REFRESH_SECONDS)
    print(progress(job, time.monotonic() - started), end="\n\n")
    return job


def progress(job: dict[str, Any], seconds: float) -> str:
    """Such as: 130/250 done, 2 failed, 19.8/s"""
    done, total, failed = job["processed_items"], job["total_items"], job["failed_items"]
    return f"{done}/{total} done, {failed} failed, {done / seconds if seconds > 0 else 0:.1f}/s"


def report_text(job: dict[str, Any], summary: dict[str, Any]) -> str:
    """Prints the report's totals, the programs that pay the most, and the failed sites."""
    report = summary["report"]
    lines = [
        f"{report['name']}: {report['status']}",
        f"  Sites looked up   {report['total_sites']:>12,}",
        f"  Eligible sites    {report['eligible_sites']:>12,}",
        f"  Incentives found  {'$' + format(report['total_incentive_value'], ',.2f'):>12}",
    ]
    if programs := summary["by_program"][:TOP_PROGRAMS]:
        lines += ["", "Top programs"]
        for program in programs:
            value = "$" + format(program["total_incentive_value"], ",.0f")
            lines.append(f"  {value:>10}  {program['eligible_sites']:>4} sites  {program['program_name']}")
    if job["errors_by_code"]:
        lines += ["", "Not looked up"]
        lines += [f"  {count:>4}  {code}" for code, count in job["errors_by_code"].items()]
    return "\n".join(lines) + "\n"


def _ok(response: httpx.Response) -> httpx.Response:
    if response.is_error:
        raise RuntimeError(f"{response.request.method} {response.request.url} answered {response.status_code}: {response.text}")
    return response
