"""`python -m bench.drafts`: how long creating a draft from a file and changing it takes, and how long the largest files delay others."""

from __future__ import annotations

import http.client
import io
import json
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import xlsxwriter

from bench.api import resident_megabytes
from bench.nginx import running_nginx
from bench.system import System, folder_for_everyone, migrated_database

Figures = dict[str, Any]
ROWS = 10_000
RUNS = 5
# Just below the limit for an upload.
LARGE_BYTES = 19 * 1024 * 1024
HEADER = ["Deal ID", "Street", "City", "State", "ZIP", "Bldg", "Devices", "Notes"]
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def rows(count: int, note: str = "call first") -> Iterator[list[str]]:
    """Rows of which every fiftieth is corrected and every hundredth has a problem."""
    for n in range(count):
        state = "California" if n % 50 == 0 else "CA"
        building_type = "Hut" if n % 100 == 1 else "Single family"
        yield [f"deal-{n:05}", f"{n} Amphitheatre Parkway", "Mountain View", state, "94043", building_type, "1", f"{note} {n}"]


def as_csv(count: int, note: str = "call first") -> bytes:
    return "".join(",".join(row) + "\n" for row in [HEADER, *rows(count, note)]).encode()


def as_workbook(count: int) -> bytes:
    file = io.BytesIO()
    workbook = xlsxwriter.Workbook(file)
    sheet = workbook.add_worksheet()
    for number, row in enumerate([HEADER, *rows(count)]):
        sheet.write_row(number, 0, row)
    workbook.close()
    return file.getvalue()


def as_ndjson(count: int, note: str) -> bytes:
    address = {"street_1": "1 Elm St", "city": "Boston", "state_or_province_code": "MA", "postal_code": "02134", "country_code": "US"}
    return "".join(
        json.dumps(
            {
                "reference_id": f"deal-{n:05}",
                "address": address,
                "building_type": "RESIDENTIAL",
                "device_ids": [1],
                "metadata": {"note": note},
            }
        )
        + "\n"
        for n in range(count)
    ).encode()


def measure_drafts() -> Figures:
    with folder_for_everyone() as folder, migrated_database(folder) as database_url, running_nginx(folder / "nginx") as nginx:
        system = System(database_url, nginx.url)
        with system.api() as server:
            return measure_times(system) | measure_large_files(system, server)


def measure_times(system: System) -> Figures:
    """Seconds from the first byte sent to the response, each the median of five."""
    seconds: dict[str, list[float]] = {}

    def request(what: str, method: str, path: str, body: bytes, media_type: str = "application/json") -> dict[str, Any]:
        started = time.perf_counter()
        answer = system.request(method, path, body, media_type)
        seconds.setdefault(what, []).append(time.perf_counter() - started)
        return answer

    csv_file, workbook = as_csv(ROWS), as_workbook(ROWS)
    for _ in range(RUNS):
        request("workbook to draft", "POST", "/uploads", workbook, XLSX)
        draft = request("CSV to draft", "POST", "/uploads", csv_file, "text/csv")
        path = f"/uploads/{draft['id']}"
        request("a column fewer", "PATCH", path, b'{"columns": {"building_type": null}}')
        request("a column more", "PATCH", path, b'{"columns": {"building_type": "Bldg"}}')
        request("the meaning of a word", "PATCH", path, b'{"value_maps": {"building_type": {"Hut": "COMMERCIAL"}}}')
        request("a page of rows", "GET", f"{path}/rows?problem=any", b"")
        job = request("start", "POST", f"{path}/start", b"{}")
        system.cancel(job["job_id"])
        system.connection.execute("delete from public.lookup_upload_rows; delete from public.lookup_uploads; delete from app.column_memory")
    return {what: round(statistics.median(each), 2) for what, each in seconds.items()}


def measure_large_files(system: System, server: subprocess.Popen[bytes]) -> Figures:
    """By how many megabytes the API grows with the largest files, and how many milliseconds another client waits meanwhile."""
    note = "x" * (LARGE_BYTES // ROWS - 400)
    files = {"CSV": (as_csv(ROWS, note), "text/csv"), "NDJSON": (as_ndjson(ROWS, note), "application/x-ndjson")}
    figures: Figures = {}
    for name, (body, media_type) in files.items():
        with watched(system, server) as seen:
            system.request("POST", "/uploads", body, media_type)
        figures[f"{name} of {len(body) / 1e6:.0f} MB"] = seen
        system.connection.execute("delete from public.lookup_upload_rows; delete from public.lookup_uploads")
    return figures


@contextmanager
def watched(system: System, server: subprocess.Popen[bytes]) -> Iterator[Figures]:
    """Requests /healthz all the time: the longest wait and the 99th percentile, and the growth of the server."""
    seen: Figures = {}
    ended = threading.Event()
    before = resident_megabytes(server)

    def watch() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=60)
        waits, most = [], before
        while not ended.wait(0.002):
            started = time.perf_counter()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            waits.append((time.perf_counter() - started) * 1000)
            most = max(most, resident_megabytes(server))
        seen["longest_wait_milliseconds"] = round(max(waits))
        seen["p99_wait_milliseconds"] = round(statistics.quantiles(waits, n=100)[98])
        seen["growth_megabytes"] = round(most - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    print(json.dumps(measure_drafts(), indent=2))
