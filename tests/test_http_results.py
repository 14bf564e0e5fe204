"""The results of a batch: pages by cursor, and files of any length."""

from __future__ import annotations

import csv
import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from pyshell.local.machine import free_port
from pyshell.settings import ROOT
from tests.conftest import Connection
from tests.http_fixtures import PEPPER, Json, OrganizationClient, address, is_ready, lines_until_the_end, look_up, site
from tests.timed import wait_until
from tests.worker_fixtures import end_with_parent

# Four times as many items as an upload may have. As NDJSON they are twice as large as the memory that the server may take.
LARGE = 40_000


def test_a_cursor_leads_through_all_the_items(client: OrganizationClient) -> None:
    created = client.submit(*(site(f"deal-{number:03}") for number in range(60)))
    url = f"/batch-lookups/{created['job_id']}/items?limit=25"
    sizes, references = [], []
    while url:
        response = client.get(url)
        page = response.json()
        sizes.append(len(page["items"]))
        references += [item["reference_id"] for item in page["items"]]
        assert page["total"] == 60
        assert (page["next_cursor"] is None) == ("link" not in response.headers)
        url = response.links["next"]["url"] if "link" in response.headers else ""
        assert not url or f"cursor={page['next_cursor']}" in url
    assert sizes == [25, 25, 10]
    assert references == [f"deal-{number:03}" for number in range(60)]


def test_large_results_come_in_pages_and_pieces_of_a_bounded_size(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(*(site(f"deal-{number:03}") for number in range(200)))
    look_up(database, created, 200, {"text": "x" * 100_000})
    url = f"/batch-lookups/{created['job_id']}/items?limit=500"
    references = []
    while url:
        response = client.get(url)
        assert len(response.content) < 9_000_000
        references += [item["reference_id"] for item in response.json()["items"]]
        url = response.links["next"]["url"] if "link" in response.headers else ""
    assert references == [f"deal-{number:03}" for number in range(200)]
    lines = client.get(f"/batch-lookups/{created['job_id']}/results?format=ndjson").text.splitlines()
    assert [json.loads(line)["reference_id"] for line in lines] == references


def test_a_download_ends_when_its_key_is_revoked(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(*(site(f"deal-{number:03}") for number in range(300)))
    look_up(database, created, 300, {"text": "x" * 100_000})
    key = client.post("/api-keys", json={"scopes": ["jobs:read"]}).json()
    url = f"/batch-lookups/{created['job_id']}/results?format=ndjson"
    headers = {"x-api-key": key["key"]}
    assert 0 < lines_until_the_end(client, url, lambda: client.delete(f"/api-keys/{key['id']}"), **headers) < 300


def test_items_are_found_by_a_text_page_by_page(client: OrganizationClient, database: Connection) -> None:
    sites = [site(f"deal-{n}", address=address(city="Austin" if n % 2 else "Los Angeles", street_1=f"{n} Oak_Ave")) for n in range(6)]
    created = client.submit(*sites)
    look_up(database, created, 2, {})
    path = f"/batch-lookups/{created['job_id']}/items"

    def found(**query: str) -> list[str]:
        page = client.get(path, params=query).json()
        assert page["total"] == len(page["items"])
        return [item["reference_id"] for item in page["items"]]

    assert found(q="austin") == ["deal-1", "deal-3", "deal-5"]
    assert found(q="4 oak_") == found(q="DEAL-4") == ["deal-4"]
    assert found(q="oak%") == []
    assert found(q="austin", status="completed") == ["deal-1"]
    response = client.get(path, params={"q": "austin", "limit": 2})
    assert response.json()["total"] == 3
    assert [item["reference_id"] for item in client.get(response.links["next"]["url"]).json()["items"]] == ["deal-5"]
    refused = client.get(path, params={"q": "x" * 201})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_q")


@pytest.mark.parametrize("cursor", ["", "YWZ0ZXIgLTE", "%F0%9F%98%80"])
def test_an_invalid_cursor_is_refused(client: OrganizationClient, cursor: str) -> None:
    response = client.get(f"/batch-lookups/{client.submit()['job_id']}/items?cursor={cursor}")
    assert (response.status_code, response.json()["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("file_format", ["csv", "ndjson"])
def test_a_download_resumes_after_the_last_item_received(client: OrganizationClient, file_format: str) -> None:
    created = client.submit(*(site(f"deal-{number:03}") for number in range(130)))
    path = f"/batch-lookups/{created['job_id']}/results"
    whole = client.get(path, params={"format": file_format}).text.splitlines(keepends=True)
    header = file_format == "csv"
    for after in (0, 1, 99, 128, 129, 2**31 - 1):
        assert client.get(path, params={"format": file_format, "after": after}).text == "".join(whole[header + after + 1 :])


@pytest.mark.parametrize("after", ["", "-1", "x", "2147483648"])
def test_an_invalid_position_is_refused(client: OrganizationClient, after: str) -> None:
    response = client.get(f"/batch-lookups/{client.submit()['job_id']}/results?after={after}")
    assert (response.status_code, response.json()["code"]) == (400, "invalid_after")


def test_a_cursor_keeps_the_filter(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(*(site(f"deal-{number:03}") for number in range(6)))
    path = f"/batch-lookups/{created['job_id']}/items"
    look_up(database, created, 3, status=404)
    look_up(database, created, 1)
    page = client.get(path, params={"error_code": "not_found", "limit": 2}).json()
    assert ([item["reference_id"] for item in page["items"]], page["total"]) == (["deal-000", "deal-001"], 3)
    page = client.get(path, params={"error_code": "not_found", "limit": 2, "cursor": page["next_cursor"]}).json()
    assert ([item["reference_id"] for item in page["items"]], page["next_cursor"]) == (["deal-002"], None)
    totals = [client.get(path, params={"status": status}).json()["total"] for status in ("pending", "processing", "completed", "failed")]
    assert totals == [2, 0, 1, 3]
    assert client.get(path, params={"error_code": "not_found", "status": "completed"}).json()["total"] == 0


def answer(name: str = "Austin Energy") -> Json:
    return {
        "utility": {"eiaid": 1015, "name": name},
        "incentives": {
            "total_incentive_amount": 1200.5,
            "total_eligible_combinations": 1,
            "by_program": [{"program_id": 7, "program_name": 'Heat "pumps"', "total_incentive": 1200.5, "eligible_combinations": 1}],
        },
    }


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_results_come_as_csv_in_upload_order_while_the_job_runs(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(*(site(f"deal-{number}", device_ids=[1, 1, 2]) for number in (900, 100, 500, 300)))
    look_up(database, created, 1, answer())
    look_up(database, created, 1, {"error": 'Nothing, "really"\nnothing'}, 404)

    response = client.get(f"/batch-lookups/{created['job_id']}/results")

    assert response.headers["content-type"].startswith("text/csv; charset=utf-8")
    assert response.headers["content-disposition"] == f'attachment; filename="batch-lookup-{created["job_id"]}.csv"'
    rows = rows_of(response.text)
    assert [(row["reference_id"], row["status"]) for row in rows] == [
        ("deal-900", "completed"),
        ("deal-100", "failed"),
        ("deal-500", "pending"),
        ("deal-300", "pending"),
    ]
    assert rows[0]["device_ids"] == "1;1;2"
    assert (rows[0]["utility_name"], rows[0]["eligible"], rows[0]["total_incentive_amount"]) == ("Austin Energy", "true", "1200.50")
    assert rows[0]["programs"] == 'Heat "pumps"'
    assert (rows[1]["error_code"], rows[1]["error_message"]) == ("not_found", 'Nothing, "really"\nnothing')
    assert (rows[2]["utility_name"], rows[2]["total_incentive_amount"], rows[2]["processed_at"]) == ("", "", "")
    assert all(None not in row and len(row) == 22 for row in rows)


@pytest.mark.parametrize("ask", [{"params": {"format": "ndjson"}}, {"headers": {"accept": "application/x-ndjson"}}])
def test_results_come_as_ndjson_like_the_items(client: OrganizationClient, database: Connection, ask: Json) -> None:
    created = client.submit(*(site(f"deal-{number}") for number in range(300)))
    look_up(database, created, 2, answer())
    response = client.get(f"/batch-lookups/{created['job_id']}/results", **ask)
    assert response.headers["content-type"] == "application/x-ndjson"
    items = [json.loads(line) for line in response.text.splitlines()]
    assert items[:50] == client.get(f"/batch-lookups/{created['job_id']}/items").json()["items"]
    assert [item["reference_id"] for item in items] == [f"deal-{number}" for number in range(300)]


def test_results_can_be_filtered(client: OrganizationClient, database: Connection) -> None:
    created = client.submit(*(site(f"deal-{number}") for number in range(4)))
    look_up(database, created, 1, answer())
    look_up(database, created, 1, status=404)
    path = f"/batch-lookups/{created['job_id']}/results"
    assert [row["reference_id"] for row in rows_of(client.get(path, params={"status": "pending"}).text)] == ["deal-2", "deal-3"]
    assert [row["reference_id"] for row in rows_of(client.get(path, params={"error_code": "not_found"}).text)] == ["deal-1"]
    assert client.get(path, params={"status": "processing"}).text.count("\r\n") == 1
    assert client.get(path, params={"status": "processing", "format": "ndjson"}).text == ""


@pytest.mark.parametrize("cell", ["=1+1", "+1 Main St", "-cmd|'/C calc'!A0", "@SUM(A1)", "\uff1d1+1", '="x",1'])
def test_a_result_that_looks_like_a_formula_is_escaped(client: OrganizationClient, database: Connection, cell: str) -> None:
    created = client.submit(site("-deal", address=address(street_1=cell)))
    look_up(database, created, 1, answer(cell))
    response = client.get(f"/batch-lookups/{created['job_id']}/results")
    [row] = rows_of(response.text)
    assert (row["street_1"], row["utility_name"], row["reference_id"]) == ("'" + cell, "'" + cell, "'-deal")


def test_deleting_a_batch_ends_its_downloads_with_a_line_in_the_log(
    client: OrganizationClient, database: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    created = client.submit(*(site(f"deal-{number}") for number in range(1500)))
    look_up(database, created, 1500, {"text": "x" * 20_000})
    path = f"/batch-lookups/{created['job_id']}"
    caplog.set_level(logging.INFO)
    with client.stream("GET", f"{path}/results?format=ndjson") as response:
        assert client.delete(path).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            response.read()
    wait_until(lambda: any("/results" in record.getMessage() for record in caplog.records if record.name == "pyshell.access"))
    told = [record.getMessage() for record in caplog.records if record.name == "pyshell.api.errors"]
    assert told == [f"request {response.headers['x-request-id']} was not answered to the end: Batch job not found"]
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def test_a_head_request_for_the_file_has_no_content(server: str, client: OrganizationClient) -> None:
    url = f"{server}/batch-lookups/{client.submit()['job_id']}/results"
    for query in ("", "?format=xlsx"):
        response = httpx.head(url + query, headers={"x-api-key": client.api_key})
        assert (response.status_code, response.content) == (200, b"")
        assert "content-length" not in response.headers


@pytest.fixture(scope="module")
def large_job(shared_database_url: str) -> Iterator[tuple[subprocess.Popen[bytes], OrganizationClient, str]]:
    """A server process of its own and a job with far more items than an upload may have, all completed."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "pyshell", "serve"],
        cwd=ROOT,
        env={"DATABASE_URL": shared_database_url, "PORT": str(port), "API_KEY_PEPPER": PEPPER, "LOG_LEVEL": "error"},
        preexec_fn=end_with_parent,
    )
    try:
        with OrganizationClient(f"http://127.0.0.1:{port}", shared_database_url) as client:
            wait_until(lambda: is_ready(f"http://127.0.0.1:{port}"))
            job_id = client.submit()["job_id"]
            with psycopg.connect(shared_database_url, autocommit=True) as owner:
                owner.execute(
                    """
                    insert into public.lookup_queue_items
                           (organization_id, id, job_id, position, reference_id, address, building_type, device_ids, created_at,
                            status, result, processed_at)
                    select j.organization_id, app.uuid_v7(), j.id, n, 'site-' || n, '{"city": "Austin"}', 'RESIDENTIAL', '{1}', now(),
                           'completed', %s, now()
                      from public.batch_lookup_jobs j, generate_series(1, %s) n
                    """,
                    [json.dumps(answer() | {"padding": "x" * 1000}), LARGE - 1],
                )
                owner.execute("vacuum analyze public.lookup_queue_items")
            yield server, client, f"/batch-lookups/{job_id}"
    finally:
        server.terminate()
        server.wait(30)


def resident_megabytes(process: subprocess.Popen[bytes]) -> float:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.mark.parametrize("file_format", ["csv", "ndjson"])
@pytest.mark.long
def test_a_large_file_starts_immediately_and_takes_little_memory(
    large_job: tuple[subprocess.Popen[bytes], OrganizationClient, str], file_format: str
) -> None:
    server, client, path = large_job
    client.get(f"{path}/results?format={file_format}&status=pending")
    before = most = resident_megabytes(server)
    started = time.perf_counter()
    lines = 0
    with client.stream("GET", f"{path}/results?format={file_format}") as response:
        for number, chunk in enumerate(response.iter_bytes()):
            if number == 0:
                first_byte = time.perf_counter() - started
            lines += chunk.count(b"\n")
            most = max(most, resident_megabytes(server))
    seconds = time.perf_counter() - started
    print(
        f"{file_format}: first byte after {first_byte * 1000:.0f} ms, {LARGE / seconds:,.0f} rows/s, "
        f"memory {before:.0f} MB + {most - before:.1f} MB"
    )
    assert lines == LARGE + (file_format == "csv")
    assert most - before < 30
    assert first_byte < seconds / 5  # the benchmark holds it to 0.1 s on a quiet machine
