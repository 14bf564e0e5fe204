"""Uploads of files over HTTP: CSV and NDJSON, plain and compressed, and what their errors say."""

from __future__ import annotations

import csv
import gc
import gzip
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import httpx
import openpyxl
import psycopg
import pytest

from bench.attacks import Memory
from pyshell.settings import Settings
from tests.http_fixtures import Json, OrganizationClient, address, site
from tests.workbooks import saved, workbook

HEADER = "Deal ID,Street Address,City,State,ZIP,Building Type,Device IDs\n"
ROW = "deal-001,200 N Spring St,Los Angeles,CA,90012,Residential,1;2\n"
DESCRIPTION = json.loads((Path(__file__).parents[1] / "openapi.json").read_text())
SITES = Path(__file__).parents[1] / "examples" / "sites.csv"


def upload(
    client: OrganizationClient, text: str | bytes, content_type: str = "text/csv", headers: Any = None, **params: Any
) -> httpx.Response:
    content = text.encode() if isinstance(text, str) else text
    return client.post("/batch-lookups", content=content, headers={"content-type": content_type} | (headers or {}), params=params)


def created(response: httpx.Response) -> Json:
    assert response.status_code == 201, response.text
    body: Json = response.json()
    return body


def refused(response: httpx.Response, status: int = 400) -> Json:
    assert response.status_code == status, response.text
    body: Json = response.json()
    return body


def test_a_csv_file_is_a_batch(client: OrganizationClient) -> None:
    batch = created(upload(client, HEADER + ROW + ROW.replace("deal-001", "deal-002").replace("90012", "2134"), name="From a file"))
    assert (batch["total_items"], batch["total_invalid"], batch["report"]["name"]) == (2, 0, "From a file")
    assert batch["warnings"] == [
        {
            "index": 1,
            "record": 2,
            "line": 3,
            "reference_id": "deal-002",
            "warnings": [
                "ZIP: 2134 was read as 02134",
                "address.postal_code 02134 does not lie in CA",
            ],
            "details": [
                {
                    "field": "address.postal_code",
                    "column": 5,
                    "code": "postal_code_corrected",
                    "message": "ZIP: 2134 was read as 02134",
                    "was": "2134",
                    "now": "02134",
                },
                {
                    "field": "address.postal_code",
                    "column": 5,
                    "code": "postal_code_not_in_state",
                    "message": "ZIP: 02134 does not lie in CA",
                    "was": "02134",
                    "now": "02134",
                },
            ],
        }
    ]
    first, second = client.get(f"/batch-lookups/{batch['job_id']}/items").json()["items"]
    assert (first["address"], first["device_ids"], first["warnings"]) == (address(), [1, 2], [])
    assert second["warnings"][0] == "ZIP: 2134 was read as 02134"


def test_uploads_of_all_formats_are_answered_in_one_shape(client: OrganizationClient) -> None:
    def shape(text: str) -> str:
        """The response without what differs from batch to batch."""
        return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|20\d\d-\d\d-\d\dT[0-9:.]+Z", "", text)

    item = json.dumps(site())
    answers = {
        shape(upload(client, HEADER + ROW).text),
        shape(upload(client, item + "\n", "application/x-ndjson").text),
        shape(upload(client, f"[{item}]", "application/json").text),
        shape(upload(client, f"[{item}]", "application/json", on_invalid="skip").text),
    }
    assert len(answers) == 1


def test_the_example_file_is_a_batch(client: OrganizationClient) -> None:
    with SITES.open(newline="") as file:
        count = sum(1 for _ in csv.DictReader(file))
    assert created(upload(client, SITES.read_bytes()))["total_items"] == count


def test_errors_name_record_and_line(client: OrganizationClient) -> None:
    broken = ROW.replace("200 N Spring St", '"200\nN Spring St"')
    text = HEADER + broken + ROW.replace("CA", "XX")
    body = refused(upload(client, text))
    assert body["invalid_items"] == [
        {
            "index": 1,
            "record": 2,
            "line": 4,
            "error": "address.state_or_province_code XX is not a state or province of US",
            "problems": [
                {
                    "field": "address.state_or_province_code",
                    "column": 4,
                    "code": "unknown_state",
                    "message": "column State, row 4: XX is not a state or province of US",
                    "value": "XX",
                    "suggestion": None,
                }
            ],
        }
    ]
    assert refused(upload(client, HEADER + ROW * 2))["duplicates"] == ["deal-001"]
    assert refused(upload(client, HEADER))["code"] == "invalid_item_count"
    assert refused(upload(client, "a,b\n1,2\n"))["code"] == "missing_columns"
    crm = "Deal ID,Street,City,State,Zip\nd-001,12 Elm St,Boston,MA,02134\n"
    assert "?default_building_type=RESIDENTIAL&default_device_ids=1" in refused(upload(client, crm))["hint"]
    body = refused(upload(client, HEADER + ROW + ROW.replace("200 N", '"200" N')))
    assert (body["code"], body["line"]) == ("invalid_csv", 3)
    assert client.get("/batch-lookups").json()["total"] == 0


def test_invalid_rows_can_be_left_out(client: OrganizationClient) -> None:
    batch = created(upload(client, HEADER + "a,,,,,,\n" + ROW, on_invalid="skip"))
    assert (batch["total_items"], batch["invalid_items"][0]["line"]) == (1, 2)
    report = upload(client, HEADER + "a,,,,,,\n" + ROW, dry_run=True).json()
    assert (report["valid"], report["invalid_items"][0]["record"]) == (False, 1)


def test_columns_and_defaults_can_be_given(client: OrganizationClient) -> None:
    text = "Key,Where,City,State,ZIP\nsite-1,1 A St,Toronto,on,M5V 3L9\n"
    options = {
        "columns": '{"reference_id": "Key", "street_1": "Where"}',
        "default_building_type": "COMMERCIAL",
        "default_device_ids": "1,20",
    }
    batch = created(upload(client, text, **options))
    [item] = client.get(f"/batch-lookups/{batch['job_id']}/items").json()["items"]
    assert (item["building_type"], item["device_ids"], item["address"]["country_code"]) == ("COMMERCIAL", [1, 20], "CA")
    wrong = ("[]", "{", '{"reference_id": true}', '{"reference_id": 6}', '{"reference_id": "No"}', "[" * 5000)
    for columns in (*wrong, '{"reference_id": 99999999999999999999}', r'{"reference_id": "\ud800"}', r'{"\ud800": 1}'):
        assert refused(upload(client, text, **(options | {"columns": columns})))["code"] == "invalid_columns"


def test_the_parts_of_a_street_are_joined_and_come_back(client: OrganizationClient) -> None:
    header = "Deal ID,street_number,Dir,street_1,Type,City,State,ZIP,Building Type,Devices\n"
    columns = '{"street_predirectional": "Dir", "street_suffix": "Type"}'
    batch = created(upload(client, header + "abc,200,N,Spring,St,Los Angeles,CA,90012,House,1\n", columns=columns))
    [item] = client.get(f"/batch-lookups/{batch['job_id']}/items").json()["items"]
    assert item["address"]["street_1"] == "200 N Spring St"
    results = list(csv.reader(client.get(f"/batch-lookups/{batch['job_id']}/results?format=csv").text.splitlines()))
    assert [row[:5] for row in results] == [header.split(",")[:5], ["abc", "200", "N", "Spring", "St"]]


FULL_WIDTH = {code: code + 0xFEE0 for code in range(ord("!"), ord("~") + 1)}
# As other programs write them: the rows, the street of the first site, and its devices.
EXPORTS = {
    "openaddresses": (
        "LON,LAT,NUMBER,STREET,UNIT,CITY,DISTRICT,REGION,POSTCODE,ID,HASH\n-118.24,34.05,200,N SPRING ST,,LOS ANGELES,,CA,90012,,8f2b\n",
        "200 N SPRING ST",
        [1],
    ),
    "assessor": (
        "PARCEL_ID,HOUSE_NO,HOUSE_SFX,PRE_DIR,STREET,SUFFIX,UNIT,CITY,STATE,ZIP\n0100-22,200,1/2,N,SPRING,ST,,LOS ANGELES,CA,90012\n",
        "200 1/2 N SPRING ST",
        [1],
    ),
    "form": (
        '"Timestamp","Email Address","What is the address of the property?","What city is it in?","State","What is the ZIP code?",'
        '"Which devices are you interested in? (Select all that apply)"\n'
        '"2026/03/12 10:02:33 AM EST","a@example.com","200 N Spring St","Los Angeles","CA","90012","Induction range, Induction cooktop"\n',
        "200 N Spring St",
        [32, 33],
    ),
    "rent roll": (
        "Property,Property Address,Property City,Property State,Property Zip,Unit,Rent,Status,Sqft\n"
        '1,"200 N Spring St Los Angeles, CA 90012",Los Angeles,CA,90012,3A,"1,850.00",Current,650\nTotal,,,,,1 Unit,"1,850.00",,650\n',
        "200 N Spring St",
        [1],
    ),
    "pipedrive": (
        "Deal - ID,Deal - Address,Deal - House number of Address,Deal - Street/road name of Address,"
        "Deal - City/town/village/locality of Address,Deal - State/county of Address,Deal - ZIP/Postal code of Address\n"
        '1234,"200 N Spring St, Los Angeles, CA, USA",200,N Spring St,Los Angeles,California,90012\n',
        "200 N Spring St",
        [1],
    ),
    "numbers": (
        'Account #,Street #,Street Name,Unit #,City,State,Zip\n123456,200,N Spring St,,"Los Angeles, CA",CA,CA 90012\n',
        "200 N Spring St",
        [1],
    ),
    "groups with headings": (
        "Account Owner,Account Name,Billing Street,Billing City,Billing State/Province,Billing Zip/Postal Code\n"
        'Account Owner: Kim (1 record),,,,,\n,Oak Court,200 N Spring St,"Los Angeles, CA 90012",,\n',
        "200 N Spring St",
        [1],
    ),
    "lines in quotation marks": ('"ID,Street,City,State,Zip"\n"abc,200 N Spring St,Los Angeles,CA,90012"\n', "200 N Spring St", [1]),
    "mailchimp": ('Email Address,Address\na@example.com,"200 N Spring St  Los Angeles  CA  90012  US"\n', "200 N Spring St", [1]),
    "full-width": (
        f"ID,Address,City,State,Zip\nabc,{'200 N Spring St'.translate(FULL_WIDTH)},Los Angeles,CA,{'90012'.translate(FULL_WIDTH)}\n",
        "200 N Spring St",
        [1],
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_of_other_programs_are_read(client: OrganizationClient, name: str) -> None:
    text, street, devices = EXPORTS[name]
    options = {"default_building_type": "RESIDENTIAL", "default_device_ids": "1", "default_reference_id": "row-{line}"}
    batch = created(upload(client, text, **options))
    [item] = client.get(f"/batch-lookups/{batch['job_id']}/items").json()["items"]
    assert (item["address"]["street_1"], item["device_ids"]) == (street, devices)
    draft = client.post("/uploads", content=text, headers={"content-type": "text/csv"}, params=options).json()
    assert (draft["valid_rows"], draft["invalid_rows"]) == (1, 0)


def test_the_description_lists_the_fields_of_files(client: OrganizationClient) -> None:
    hint = refused(upload(client, HEADER + ROW, columns='{"colour": 1}'))["hint"]
    fields = hint.removeprefix("The fields are ").removesuffix(".").split(", ")
    for path in ("/batch-lookups", "/uploads"):
        parameters = {p["name"]: p["description"] for p in DESCRIPTION["paths"][path]["post"]["parameters"] if "name" in p}
        assert set(re.findall(r"`(\w+)`", parameters["columns"].partition("Fields: ")[2])) == set(fields)


def test_rows_without_an_id_are_numbered_by_their_lines(client: OrganizationClient) -> None:
    text = (
        'Street,City,State,ZIP,Building Type,Devices,Note\n1 A St,Boston,MA,02134,House,1,"two\nlines"\n\n2 A St,Boston,MA,02134,House,1,\n'
    )
    assert "?default_reference_id=row-{line}" in refused(upload(client, text))["hint"]
    batch = created(upload(client, text, default_reference_id="row-{line}"))
    items = client.get(f"/batch-lookups/{batch['job_id']}/items").json()["items"]
    # The second row begins in line 5, after a cell of two lines and an empty line.
    assert [item["reference_id"] for item in items] == ["row-2", "row-5"]
    own = "ID," + text.replace("\n1 A", "\nd-001,1 A").replace("\n2 A", "\n,2 A")
    batch = created(upload(client, own, default_reference_id="site.{line}"))
    items = client.get(f"/batch-lookups/{batch['job_id']}/items").json()["items"]
    assert [item["reference_id"] for item in items] == ["d-001", "site.5"]
    for wrong in ("row", "row-{row}"):
        assert refused(upload(client, text, default_reference_id=wrong))["code"] == "invalid_default_reference_id"
    assert refused(upload(client, text, default_reference_id="x" * 2_100 + "{line}"))["code"] == "invalid_defaults"
    [invalid] = refused(upload(client, text, default_reference_id="a/{line}", on_invalid="skip"))["invalid_items"][:1]
    assert invalid["problems"][0]["code"] == "invalid_reference_id"


def test_names_of_columns_have_a_limit(client: OrganizationClient) -> None:
    long = ",".join(f"{number}{'x' * 300}" for number in range(300))
    for path in ("/batch-lookups", "/uploads"):
        body = refused(client.post(path, content=f"{HEADER.strip()},{long}\n{ROW}", headers={"content-type": "text/csv"}))
        assert (body["code"], body["error"].partition(" have ")[0]) == ("column_names_too_long", "The names of all columns")
    items = [site(f"deal-{number}") | {"metadata": {f"{number}{'x' * 1000}": 1}} for number in range(100)]
    assert refused(client.post("/batch-lookups", json=items))["code"] == "column_names_too_long"


def test_ndjson_is_a_batch(client: OrganizationClient) -> None:
    text = "\n".join(json.dumps(site(f"deal-{number:03}")) for number in range(5)) + "\n\n"
    for content_type in ("application/x-ndjson", "application/ndjson; charset=utf-8", "application/jsonl"):
        assert created(upload(client, text, content_type))["total_items"] == 5
    body = refused(upload(client, "\n" + text + json.dumps(site("x y")), "application/x-ndjson"))
    assert [(item["record"], item["line"]) for item in body["invalid_items"]] == [(6, 8)]
    assert refused(upload(client, text + "{", "application/x-ndjson"))["line"] == 7
    assert refused(upload(client, "", "application/x-ndjson"))["code"] == "invalid_item_count"


@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson", "text/csv"])
def test_a_body_may_be_compressed(client: OrganizationClient, content_type: str) -> None:
    text = {"application/json": json.dumps([site()]), "application/x-ndjson": json.dumps(site()), "text/csv": HEADER + ROW}[content_type]
    headers = {"content-encoding": "gzip"}
    assert created(upload(client, gzip.compress(text.encode()), content_type, headers))["total_items"] == 1
    assert refused(upload(client, text, content_type, headers))["code"] == "invalid_gzip"
    assert refused(upload(client, gzip.compress(text.encode())[:-4], content_type, headers))["code"] == "invalid_gzip"
    bomb = gzip.compress(b"\n" * 12_000_000)
    assert refused(upload(client, bomb, content_type, headers), 413)["code"] == "suspicious_compression"


def test_an_upload_that_is_repeated_is_one_batch(client: OrganizationClient) -> None:
    headers = {"idempotency-key": "file-1"}
    first, second = (upload(client, HEADER + ROW, headers=headers) for _ in range(2))
    assert created(first) == created(second)
    assert refused(upload(client, HEADER + ROW.replace("001", "002"), headers=headers), 422)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/vnd.ms-excel",
        "text/tab-separated-values",
        "text/plain",
        "application/octet-stream",
        "text/x-csv",
        "application/x-csv",
        "text/comma-separated-values",
        "text/x-comma-separated-values",
        "text/csv; charset=windows-1252",
        "text/csv; header=present",
    ],
)
def test_csv_is_recognized_whatever_it_is_called(client: OrganizationClient, content_type: str) -> None:
    assert created(upload(client, HEADER + ROW, content_type))["total_items"] == 1
    assert created(upload(client, (HEADER + ROW).replace("001", "002").replace(",", "\t"), content_type))["total_items"] == 1


@pytest.mark.parametrize(
    "content_type",
    ["text/x-ndjson", "application/json-lines", "application/jsonlines", "application/x-jsonl", "text/plain", "application/octet-stream"],
)
def test_ndjson_is_recognized_whatever_it_is_called(client: OrganizationClient, content_type: str) -> None:
    text = "\n".join(json.dumps(site(f"deal-{number:03}")) for number in range(3))
    assert created(upload(client, text, content_type))["total_items"] == 3
    assert created(upload(client, json.dumps(site("deal-alone")), content_type))["total_items"] == 1


@pytest.mark.parametrize("content_type", ["text/json", "text/plain", "application/octet-stream", "application/json; charset=utf-8"])
def test_json_is_recognized_whatever_it_is_called(client: OrganizationClient, content_type: str) -> None:
    assert created(upload(client, json.dumps({"items": [site()]}, indent=2), content_type))["total_items"] == 1


@pytest.mark.parametrize("content_type", ["application/pdf", "image/png", "application/csvx"])
def test_another_format_is_refused_by_its_name(client: OrganizationClient, content_type: str) -> None:
    assert refused(upload(client, HEADER + ROW, content_type), 415)["error"] == f"A body of type {content_type} cannot be read"


def test_an_excel_workbook_is_a_batch(client: OrganizationClient) -> None:
    header = HEADER.strip().split(",")
    book = workbook(
        [], [["Sites of March"], header, ["deal-001", "12 Elm St", "Boston", "Massachusetts", 2134, "Single Family", 1]], [["x"]]
    )
    report = upload(client, book, "application/octet-stream", dry_run=True).json()
    assert [(note["code"], note["sheet"], note["sheets"]) for note in report["notes"]] == [
        ("sheet_chosen", "Sheet 2", ["Sheet 2", "Sheet 3"])
    ]
    assert report["columns"][3] == {
        "number": 4,
        "header": "State",
        "field": "state_or_province_code",
        "how": "name",
        "samples": ["Massachusetts"],
    }
    batch = created(upload(client, book, "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"))
    [item] = client.get(f"/batch-lookups/{batch['job_id']}/items").json()["items"]
    assert (item["address"]["state_or_province_code"], item["address"]["postal_code"], item["building_type"]) == (
        "MA",
        "02134",
        "RESIDENTIAL",
    )
    assert item["device_ids"] == [1]
    assert batch["warnings"][0]["line"] == 3
    for name in ("Sheet 9", "4", "9" * 5000):
        body = refused(upload(client, book, "application/vnd.ms-excel", sheet=name))
        assert (body["code"], body["hint"]) == ("sheet_not_found", "It has Sheet 1, Sheet 2, Sheet 3.")
    assert refused(upload(client, book, "text/csv", sheet="3"))["code"] == "missing_columns"
    # Where the wrong one was read, the error names the others.
    book = workbook(
        [["Author", "Ada"], ["Month", "March"]], [header, ["deal-001", "12 Elm St", "Boston", "MA", "02134", "Single Family", 1]]
    )
    assert refused(upload(client, book, "application/octet-stream"))["error"].endswith(
        ". The sheet Sheet 1 was read; `sheet` chooses another: Sheet 2"
    )


def test_a_workbook_notes_what_a_person_sees_differently(client: OrganizationClient) -> None:
    header = HEADER.strip().split(",")
    rows = [[row, "12 Elm St", "Boston", "MA", 2134, "Single Family", 1] for row in (41, 42, 43)]
    book = openpyxl.load_workbook(io.BytesIO(workbook([header, *rows])))
    sheet = book.worksheets[0]
    for row in (2, 3, 4):
        sheet[f"A{row}"].number_format, sheet[f"E{row}"].number_format = "000000", "00000"
    sheet.row_dimensions[3].hidden = True

    batch = created(upload(client, saved(book), "application/octet-stream"))
    items = client.get(f"/batch-lookups/{batch['job_id']}/items").json()["items"]
    assert [item["reference_id"] for item in items] == ["000041", "000042", "000043"]
    assert {item["address"]["postal_code"] for item in items} == {"02134"}
    assert [note["code"] for note in batch["notes"]] == ["hidden_rows_read"]
    sheet["B2"], sheet["C4"] = '=CONCATENATE(12," Elm St")', "#REF!"
    body = refused(upload(client, saved(book), "application/octet-stream"))
    assert [(item["line"], item["error"]) for item in body["invalid_items"]] == [
        (2, "Missing required fields: address.street_1"),
        (4, "Missing required fields: address.city"),
    ]
    assert body["hint"].startswith("1 formula has no result (B2), read as #N/A: open the workbook")
    draft = client.post("/uploads", content=saved(book), headers={"content-type": "application/octet-stream"}).json()
    assert [note["code"] for note in draft["notes"]] == ["formulas_without_results", "hidden_rows_read"]
    [row, *_] = client.get(f"/uploads/{draft['id']}/rows").json()["rows"]
    assert row["cells"][1] == "#N/A"


def test_a_file_may_come_in_a_form_and_compressed(client: OrganizationClient) -> None:
    files = {"file": ("sites.csv", (HEADER + ROW).encode(), "text/csv")}
    assert created(client.post("/batch-lookups", files=files))["total_items"] == 1
    files = {"file": ("sites.csv.gz", gzip.compress((HEADER + ROW.replace("001", "002")).encode()), "application/gzip")}
    assert created(client.post("/batch-lookups", files=files))["total_items"] == 1
    wrong: Any
    for wrong in ({"data": {"name": "x"}, "files": files}, {"files": [("file", ("a", "x")), ("file", ("b", "y"))]}):
        assert refused(client.post("/batch-lookups", **wrong))["code"] == "invalid_form"
    response = client.post("/batch-lookups", content="--x", headers={"content-type": "multipart/form-data"})
    assert refused(response)["code"] == "invalid_form"


@pytest.mark.parametrize("rows", [1, 50_000])
def test_a_truncated_form_is_called_that(client: OrganizationClient, rows: int) -> None:
    lines = ["--x", 'Content-Disposition: form-data; name="file"; filename="sites.csv"', "", HEADER + ROW * rows, "--x"]
    response = client.post("/batch-lookups", content="\r\n".join(lines), headers={"content-type": "multipart/form-data; boundary=x"})
    body = refused(response)
    assert (body["code"], body["error"]) == ("invalid_form", "The form is cut short: the boundary at its end is missing")
    # Nothing of the file is left open, which would be a warning here.
    gc.collect()


@pytest.mark.parametrize("charset", ["unicode_escape", "raw_unicode_escape", "punycode", "undefined", "klingon"])
def test_a_form_in_an_unknown_charset_is_refused(client: OrganizationClient, charset: str) -> None:
    lines = ["--x", 'Content-Disposition: form-data; name="file"; filename="\\ud800.csv"', "", HEADER + ROW, "--x--", ""]
    body = "\r\n".join(lines)

    def sent(name: str) -> httpx.Response:
        return client.post("/batch-lookups", content=body, headers={"content-type": f"multipart/form-data; boundary=x; charset={name}"})

    assert refused(sent(charset), 415)["code"] == "unsupported_charset"
    assert created(sent("ISO-8859-1"))["total_items"] == 1


@pytest.mark.parametrize("content_type", ["text/csv", "application/octet-stream", "text/plain"])
def test_a_file_without_content_is_called_empty(content_type: str, client: OrganizationClient) -> None:
    assert refused(upload(client, "", content_type))["code"] == "empty_file"
    assert refused(client.post("/batch-lookups", files={"file": ("sites", b"", content_type)}))["code"] == "empty_file"


def test_a_file_without_line_breaks_as_curl_sends_it_is_refused_with_a_hint(client: OrganizationClient) -> None:
    joined = "reference_id,citydeal-001,Austin"
    error = refused(upload(client, joined, "application/x-www-form-urlencoded"))
    assert (error["code"], error["error"]) == ("empty_file", "The file is a single line")
    assert "--data-binary" in error["hint"]
    for content_type, body in (("text/csv", joined), ("application/x-www-form-urlencoded", "reference_id,city\r\ndeal-001,Austin")):
        assert refused(upload(client, body, content_type))["code"] == "missing_columns", content_type
    # A request without its body is incomplete.
    assert refused(client.post("/batch-lookups"))["code"] == "invalid_json"


def test_titles_above_and_footers_below_the_table_are_skipped(client: OrganizationClient) -> None:
    text = f',,\nSites for the March campaign,,\n{HEADER}{ROW}\n"Open Deals"\n"Generated By: Pat Example"\n\x1a'
    batch = created(upload(client, text))
    assert (batch["total_items"], batch["notes"]) == (
        1,
        [{"code": "footer_skipped", "message": "The last rows look like a footer, and were left out"}],
    )
    assert upload(client, text, dry_run="true").json()["columns"][0]["samples"] == ["deal-001"]


def test_a_file_without_names_of_columns_keeps_its_first_site(client: OrganizationClient) -> None:
    text = "d-1,200 N Spring St,Los Angeles,CA,90012\nd-2,12 Main St,Boise,ID,83702\n"
    options = {"default_building_type": "RESIDENTIAL", "default_device_ids": "1"}
    body = refused(upload(client, text, **options))
    assert (body["code"], "The header has Column 1, Column 2" in body["hint"]) == ("missing_columns", True)
    columns = '{"reference_id": 1, "street_1": 2, "city": 3, "state_or_province_code": 4, "postal_code": 5}'
    batch = created(upload(client, text, columns=columns, **options))
    assert (batch["total_items"], [note["code"] for note in batch["notes"]]) == (2, ["no_header"])
    items = client.get(f"/batch-lookups/{batch['job_id']}/items").json()["items"]
    assert [item["address"]["street_1"] for item in items] == ["200 N Spring St", "12 Main St"]
    header = client.get(f"/batch-lookups/{batch['job_id']}/results?format=csv").text.splitlines()[0]
    assert header.startswith("Column 1,Column 2,Column 3,Column 4,Column 5,reference_id")
    draft = client.post("/uploads", content=text, headers={"content-type": "text/csv"}, params=options).json()
    assert (draft["total_rows"], draft["columns"][1]["samples"]) == (2, ["12 Main St", "200 N Spring St"])


def test_totals_and_names_within_the_table_are_skipped(client: OrganizationClient) -> None:
    total = "Oak Court Total,,,,,,\n"
    text = HEADER + ROW + total + ROW.replace("001", "002") + HEADER + ROW.replace("001", "003")
    batch = created(upload(client, text))
    note = {"code": "rows_skipped", "message": "Rows without a site, such as totals, headings or names of columns, were left out: 3, 5"}
    assert (batch["total_items"], batch["notes"]) == (3, [note])
    draft = client.post("/uploads", content=text, headers={"content-type": "text/csv"}).json()
    assert (draft["total_rows"], draft["valid_rows"], draft["notes"]) == (3, 3, [note])


def test_a_street_that_is_only_a_number_has_a_warning(client: OrganizationClient) -> None:
    batch = created(upload(client, HEADER + ROW.replace("200 N Spring St", "200")))
    assert batch["warnings"][0]["warnings"] == ["Street Address: 200 is only a number"]


def test_a_unit_that_the_street_ends_in_is_kept_once(client: OrganizationClient) -> None:
    text = HEADER.replace("City", "Unit,City") + ROW.replace("Spring St,", "Spring St Apt 4,#4,")
    batch = created(upload(client, text))
    [item] = client.get(f"/batch-lookups/{batch['job_id']}/items").json()["items"]
    assert item["address"] == address(street_1="200 N Spring St Apt 4")
    assert item["warnings"] == ["Unit: #4 is also at the end of the street, and was left out"]


def test_an_encoding_that_was_not_declared_is_recognized_with_a_note(client: OrganizationClient) -> None:
    data = (HEADER + ROW.replace("Los", "L\u00f6s")).encode("cp1252")
    batch = created(upload(client, data))
    assert [note["message"] for note in batch["notes"]] == ["The file is not UTF-8 and was read as Windows-1252"]
    [item] = client.get(f"/batch-lookups/{batch['job_id']}/items").json()["items"]
    assert item["address"]["city"] == "L\u00f6s Angeles"
    assert created(upload(client, data.replace(b"001", b"002"), "text/csv; charset=iso-8859-1"))["notes"] == []
    created(upload(client, (HEADER + ROW.replace("Los", "L\u00f6s").replace("001", "003")).encode("utf-16")))
    body = refused(upload(client, data, "text/csv; charset=utf-8"))
    assert body["error"] == f"The file is not valid UTF-8 at byte {len(HEADER) + ROW.index('Los') + 1}"


@pytest.mark.parametrize(
    ("beginning", "name"), [(b"%PDF-1.7", "a PDF document"), (b"PAR1", "a Parquet file"), (b"<html>", "a web page or an XML file")]
)
def test_a_file_that_is_not_a_table_is_named_for_what_it_is(client: OrganizationClient, beginning: bytes, name: str) -> None:
    body = refused(upload(client, beginning + b" and more"))
    assert (body["code"], body["error"].removeprefix("This is ").startswith(name)) == ("unsupported_file", True)


def test_ten_thousand_rows_are_a_batch_and_one_more_is_refused(client: OrganizationClient) -> None:
    rows = [ROW.replace("001", f"{number:05}") for number in range(10_001)]
    assert created(upload(client, HEADER + "".join(rows[:10_000])))["total_items"] == 10_000
    assert refused(upload(client, HEADER + "".join(rows)))["error"] == "A batch must have 1 to 10,000 items; this one has 10,001"


def test_the_memory_for_a_wide_file_is_a_bounded_multiple_of_its_size(http_settings: Settings, client: OrganizationClient) -> None:
    columns = 250
    header = ",".join(["reference_id,street_1,city,state,zip,building_type,device_ids", *(f"more {n}" for n in range(columns))])
    row = ",1 Main St,Salem,OR,97301,RESIDENTIAL,1" + ",ab" * columns
    text = "\n".join([header, *(f"deal-{n}{row}" for n in range(4000))])
    with psycopg.connect(http_settings.database_url, autocommit=True) as connection, Memory(os.getpid(), connection) as memory:
        assert upload(client, text, dry_run="true").json()["valid_items"] == 4000
    # PostgreSQL needs some 60 bytes per cell to read the JSON. When the file was also copied for the checks, it was 95 times the size.
    assert memory.backend_bytes < 70 * len(text)
