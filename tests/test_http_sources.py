"""Own columns, in their order under their names, and metadata of an upload are returned with the results."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import httpx
import openpyxl
import pytest

from batch_lookups.records import Reader, whole_records
from tests.conftest import Connection
from tests.http_fixtures import OrganizationClient, look_up, site
from tests.workbooks import saved

HEADER = ["Owner", "Deal ID", "Street", "City", "State", "ZIP", "Building", "Device", "Volume", "Note", "status", "Since", "Owner"]
OURS = [
    "reference_id", "status (lookup)", "street_1", "street_2", "city (lookup)", "state_or_province_code", "postal_code", "country_code",
    "building_type", "device_ids", "utility_eiaid", "utility_name", "eligible", "total_incentive_amount", "programs", "error_code",
    "error_message", "warnings", "retry_count", "processed_at", "item_id", "conditional_incentive_amount",
]  # fmt: skip
ROWS = [
    [
        "Kim",
        "d-1",
        "1 Elm St",
        "Boston",
        "Massachusetts",
        "2134",
        "Single Family",
        "1",
        "12.50",
        "=HYPERLINK(1)",
        "won",
        "2026-03-01",
        "Lee",
    ],
    ["Ada", "d-2", "2 Elm St", "Boston", "MA", "02134", "RESIDENTIAL", "1;2", "-3", 'she said "no",\nthen yes', "", "", ""],
]
WORKBOOK = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
ANSWER = {"utility": {"eiaid": 1015, "name": "Eversource"}, "incentives": {"total_incentive_amount": 1200.5, "by_program": []}}


def as_csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def as_workbook(rows: list[list[Any]]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    # A text that looks like a formula is one to the library.
    for cell in (cell for row in book.worksheets[0] for cell in row if isinstance(cell.value, str)):
        cell.data_type = "s"
    return saved(book)


def created(client: OrganizationClient, data: bytes, **params: Any) -> dict[str, Any]:
    response = client.post("/batch-lookups", content=data, headers={"content-type": "application/octet-stream"}, params=params)
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("write", [as_csv, as_workbook])
def test_the_columns_of_a_file_are_returned_in_order_followed_by_ours(client: OrganizationClient, write: Any) -> None:
    batch = created(client, write([["Sites of March"], HEADER, *ROWS]))
    response = client.get(f"/batch-lookups/{batch['job_id']}/results")
    header, first, second = rows_of(response.text)
    assert header == HEADER + OURS
    assert first[: len(HEADER)] == [f"'{cell}" if cell.startswith("=") else cell for cell in ROWS[0]]
    assert second[: len(HEADER)] == ROWS[1]
    assert first[len(HEADER) :][:9] == ["d-1", "pending", "1 Elm St", "", "Boston", "MA", "02134", "US", "RESIDENTIAL"]
    assert response.text == client.get(f"/batch-lookups/{batch['job_id']}/results?layout=append").text
    # A client that follows a job looks at our status, whatever theirs says.
    lines = list(whole_records(io.BytesIO(response.content), "csv"))
    assert not Reader("csv", lines[0]).is_final(lines[1])


def test_the_plain_layout_has_only_our_columns(client: OrganizationClient) -> None:
    batch = created(client, as_csv([HEADER, *ROWS]))
    header, first, _ = rows_of(client.get(f"/batch-lookups/{batch['job_id']}/results?layout=plain").text)
    assert header == [name.removesuffix(" (lookup)") for name in OURS]
    assert first[0] == "d-1"
    response = client.get(f"/batch-lookups/{batch['job_id']}/results?layout=wide")
    assert (response.status_code, response.json()["code"]) == (400, "invalid_layout")


def test_a_workbook_has_a_frozen_header_numbers_as_numbers_and_no_formulas(client: OrganizationClient, database: Connection) -> None:
    batch = created(client, as_csv([HEADER, *ROWS]))
    look_up(database, batch, 1, ANSWER)
    response = client.get(f"/batch-lookups/{batch['job_id']}/results?format=xlsx")
    assert response.headers["content-type"] == WORKBOOK
    assert response.headers["content-disposition"] == f'attachment; filename="batch-lookup-{batch["job_id"]}.xlsx"'
    sheet = openpyxl.load_workbook(io.BytesIO(response.content)).worksheets[0]
    header, first, second = sheet.iter_rows()
    assert sheet.freeze_panes == "A2"
    assert [cell.value for cell in header] == HEADER + OURS
    theirs: list[Any] = [*ROWS[0]]
    theirs[8] = 12.5
    assert [cell.value for cell in first][: len(HEADER)] == theirs
    assert (first[5].data_type, first[8].data_type, first[9].data_type) == ("s", "n", "s")
    values = dict(zip(OURS, [cell.value for cell in first][len(HEADER) :], strict=True))
    assert values["eligible"] in (True, False)
    assert (values["postal_code"], values["total_incentive_amount"], values["retry_count"], values["street_2"]) == (
        "02134",
        1200.5,
        0,
        None,
    )
    assert second[9].value == ROWS[1][9]
    rest = client.get(f"/batch-lookups/{batch['job_id']}/results?format=xlsx&after=0")
    assert (rest.status_code, rest.json()["code"]) == (400, "invalid_after")
    by_header = client.get(f"/batch-lookups/{batch['job_id']}/results", headers={"accept": WORKBOOK})
    assert by_header.headers["content-type"] == WORKBOOK


def test_a_workbook_of_many_rows_comes_in_upload_order(server: str, client: OrganizationClient) -> None:
    rows = [["x", f"d-{number:04}", *ROWS[0][2:]] for number in range(1234)]
    batch = created(client, as_csv([HEADER, *rows]))
    response = client.get(f"/batch-lookups/{batch['job_id']}/results?format=xlsx")
    sheet = openpyxl.load_workbook(io.BytesIO(response.content), read_only=True).worksheets[0]
    assert [row[1] for row in sheet.iter_rows(min_row=2, values_only=True)] == [row[1] for row in rows]
    head = httpx.head(f"{server}/batch-lookups/{batch['job_id']}/results?format=xlsx", headers={"x-api-key": client.api_key})
    assert (head.status_code, head.content) == (200, b"")


def test_csv_starts_with_a_byte_order_mark_on_request(client: OrganizationClient) -> None:
    batch = created(client, as_csv([HEADER, *ROWS]))
    path = f"/batch-lookups/{batch['job_id']}/results"
    marked, plain = client.get(path, params={"bom": "true"}).content, client.get(path).content
    assert marked == b"\xef\xbb\xbf" + plain
    assert client.get(path, params={"bom": "maybe"}).json()["code"] == "invalid_bom"
    assert client.get(path, params={"bom": "true", "format": "ndjson"}).content.startswith(b"{")


def test_metadata_of_items_is_returned(client: OrganizationClient) -> None:
    batch = client.submit(site("deal-1", metadata={"zone": "north", "crm": {"id": 7}}), site("deal-2"))
    lines = client.get(f"/batch-lookups/{batch['job_id']}/results?format=ndjson").text.splitlines()
    items = [json.loads(line) for line in lines]
    assert [item.get("source") for item in items] == [{"zone": "north", "crm": {"id": 7}}, None]
    assert next(iter(items[0])) == "source"
    header, first, second = rows_of(client.get(f"/batch-lookups/{batch['job_id']}/results").text)
    assert (header[:3], first[:3], second[:3]) == (["crm", "zone", "reference_id"], ['{"id": 7}', "north", "deal-1"], ["", "", "deal-2"])
    response = client.post("/batch-lookups", json=[site(metadata={"x": "y" * 4096})])
    assert response.json()["invalid_items"][0]["error"] == "metadata must be an object of at most 4,096 bytes"


def test_a_row_that_is_too_large_is_named(client: OrganizationClient) -> None:
    large = [*ROWS[0][:9], "x" * 40_000, *ROWS[0][10:]]
    response = client.post("/batch-lookups", content=as_csv([HEADER, ROWS[1], large]), headers={"content-type": "text/csv"})
    [problem] = response.json()["invalid_items"]
    assert (problem["line"], problem["error"]) == (4, "The row has more than 32,768 bytes")
