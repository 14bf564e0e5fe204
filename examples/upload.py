"""Uploads a CSV file of sites, shows the progress, and writes the result of each site. Needs nothing but Python.

    API_KEY=leap_live_... python examples/upload.py examples/sites.csv results.csv

`API_URL` is the URL of the API; default: http://127.0.0.1:8000.
"""

import csv
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

URL = os.environ.get("API_URL", "http://127.0.0.1:8000").rstrip("/")
ADDRESS = ("street_1", "street_2", "city", "state_or_province_code", "postal_code", "country_code")


def main(sites_file: str, results_file: str) -> None:
    items = read_sites(sites_file)
    job_id = call("POST", "/batch-lookups", {"items": items})["job_id"]
    job = wait_for(job_id)
    with Path(results_file).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["reference_id", "status", "utility", "total_incentive_amount", "error"])
        writer.writerows(to_row(item) for item in read_items(job_id))
    report = call("GET", f"/incentive-reports/{job['report_id']}?limit=1")
    print(
        f"{report['name']}: {report['eligible_sites']} of {report['total_sites']} eligible, ${report['total_incentive_value']:,.2f} in all"
    )


def read_sites(sites_file: str) -> list[dict[str, Any]]:
    try:
        with Path(sites_file).open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if missing := {"reference_id", "building_type", "device_ids"}.difference(rows.fieldnames or ()):
                sys.exit(f"{sites_file} lacks these columns: {', '.join(sorted(missing))}")
            return [to_item(row) for row in rows]
    except (OSError, ValueError) as error:
        sys.exit(f"{sites_file} cannot be read: {error}")


def to_item(row: dict[str, str]) -> dict[str, Any]:
    return {
        "reference_id": row["reference_id"],
        "address": {name: row[name] for name in ADDRESS if row.get(name)},
        "building_type": row["building_type"],
        "device_ids": [int(device_id) for device_id in row["device_ids"].split(";")],
    }


def to_row(item: dict[str, Any]) -> list[Any]:
    result = item["result"] or {}
    return [
        item["reference_id"],
        item["status"],
        result.get("utility", {}).get("name"),
        result.get("incentives", {}).get("total_incentive_amount"),
        item["error_message"],
    ]


def wait_for(job_id: str) -> dict[str, Any]:
    """The job once it has ended."""
    while True:
        job: dict[str, Any] = call("GET", f"/batch-lookups/{job_id}")
        print(f"{job['processed_items']} of {job['total_items']} done, {job['failed_items']} failed", flush=True)
        if job["status"] not in ("pending", "processing"):
            return job
        time.sleep(1)


def read_items(job_id: str) -> Iterator[dict[str, Any]]:
    offset, total = 0, 1
    while offset < total:
        page = call("GET", f"/batch-lookups/{job_id}/items?limit=500&offset={offset}")
        yield from page["items"]
        offset, total = offset + 500, page["total"]


def call(method: str, path: str, body: Any = None) -> Any:
    """The JSON answer. Waits and tries a read again when the service is busy; ends with the service's words on other errors."""
    request = urllib.request.Request(
        URL + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"x-api-key": os.environ["API_KEY"], "content-type": "application/json"},
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code in (429, 503) and method == "GET":
                time.sleep(float(error.headers.get("retry-after", 1)))
                continue
            sys.exit(f"{error.code} {error.read().decode()}")
        except urllib.error.URLError as error:
            sys.exit(f"{URL} cannot be reached: {error.reason}")
        except (OSError, http.client.HTTPException) as error:
            sys.exit(f"The connection to {URL} was lost: {error}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or "API_KEY" not in os.environ:
        sys.exit("usage: API_KEY=leap_live_... python upload.py SITES.csv RESULTS.csv")
    main(*sys.argv[1:])
