"""Drafts over HTTP: a file is stored, reviewed, repaired, and started as one batch."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import openpyxl
import psycopg
import pytest

from pyshell.api.limits import UPLOADS_PER_ORGANIZATION
from pyshell.api.routes import parameters
from pyshell.settings import Settings
from tests.conftest import Connection
from tests.http_fixtures import UNKNOWN_ID, Json, NewClient, OrganizationClient, site
from tests.timed import wait_until
from tests.workbooks import saved

HEADER = "Deal ID,Street Address,City,State,ZIP,Bldg,Device IDs,Owner\n"
ROWS = (
    "deal-001,200 N Spring St,Los Angeles,California,90012,RESIDENTIAL,1,Kim\n"
    "deal-002,200 N Spring St,Los Angeles,CA,90012,Hut,1,\n"
    "deal-003,200 N Spring St,,CA,90012,RESIDENTIAL,1,Lee\n"
)
HUT = "column Bldg, row 3: Hut is not a building type (RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL)"
COLUMNS = [
    ("Deal ID", "reference_id", ["deal-001", "deal-002", "deal-003"]),
    ("Street Address", "street_1", ["200 N Spring St"]),
    ("City", "city", ["Los Angeles"]),
    ("State", "state_or_province_code", ["CA", "California"]),
    ("ZIP", "postal_code", ["90012"]),
    ("Bldg", "building_type", ["Hut", "RESIDENTIAL"]),
    ("Device IDs", "device_ids", ["1"]),
    ("Owner", None, ["Kim", "Lee"]),
]


def send(client: OrganizationClient, content: str | bytes = HEADER + ROWS, content_type: str = "text/csv", **params: Any) -> httpx.Response:
    data = content.encode() if isinstance(content, str) else content
    return client.post("/uploads", content=data, headers={"content-type": content_type}, params=params)


def draft(client: OrganizationClient, *content: Any, **params: Any) -> Json:
    return answer(send(client, *content, **params), 201)


def answer(response: httpx.Response, status: int = 200) -> Json:
    assert response.status_code == status, response.text
    body: Json = response.json()
    return body


def rows(client: OrganizationClient, upload: Json, **params: Any) -> list[Json]:
    page: list[Json] = answer(client.get(f"/uploads/{upload['id']}/rows", params=params))["rows"]
    return page


def change(client: OrganizationClient, upload: Json, **changes: Any) -> Json:
    return answer(client.patch(f"/uploads/{upload['id']}", json=changes))


def start(client: OrganizationClient, upload: Json, key: str | None = None, **options: Any) -> httpx.Response:
    return client.post(f"/uploads/{upload['id']}/start", json=options, headers={"idempotency-key": key} if key else {})


def items(client: OrganizationClient, job: Json) -> list[Json]:
    page: list[Json] = client.get(f"/batch-lookups/{job['job_id']}/items").json()["items"]
    return page


def test_a_file_is_kept_as_a_draft(client: OrganizationClient) -> None:
    upload = draft(client, name="March")
    assert upload == {
        "id": upload["id"],
        "name": "March",
        "status": "draft",
        "job_id": None,
        "created_at": upload["created_at"],
        "updated_at": upload["created_at"],
        "expires_at": upload["expires_at"],
        "total_rows": 3,
        "valid_rows": 1,
        "invalid_rows": 2,
        "skipped_rows": 0,
        "warning_rows": 1,
        "columns": [
            {"number": number, "header": header, "field": field, "how": field and "name", "samples": samples}
            for number, (header, field, samples) in enumerate(COLUMNS, 1)
        ],
        "missing_fields": [],
        "defaults": {},
        "value_maps": {},
        "problem_groups": [
            {
                "field": "address.city",
                "code": "missing",
                "count": 1,
                "examples": [{"position": 2, "line": 4, "value": None, "message": "column City, row 4: the cell is empty"}],
            },
            {
                "field": "building_type",
                "code": "unknown_building_type",
                "count": 1,
                "examples": [{"position": 1, "line": 3, "value": "Hut", "message": HUT}],
            },
        ],
        "warning_groups": [
            {
                "field": "address.state_or_province_code",
                "code": "value_recognized",
                "count": 1,
                "examples": [{"position": 0, "line": 2, "value": "California", "message": "State: California was read as CA"}],
            }
        ],
        "notes": [],
        "reuse_results": None,
        "estimate": {"lookups": 1, "known_already": 0, "seconds": None},
    }
    assert answer(client.get(f"/uploads/{upload['id']}")) == upload
    assert client.get("/batch-lookups").json()["total"] == 0


def test_any_file_that_can_become_a_batch_can_become_a_draft(client: OrganizationClient) -> None:
    book = openpyxl.Workbook(write_only=True)
    table = book.create_sheet()
    for line in (HEADER + ROWS).splitlines():
        table.append(line.split(","))
    item = json.dumps(site(building_type="Hut", metadata={"owner": "Kim"}))
    assert draft(client, saved(book), "application/octet-stream")["valid_rows"] == 1
    by_json = draft(client, f'{{"items": [{item}]}}', "application/json")
    assert [column["header"] for column in by_json["columns"]][-3:] == ["building_type", "device_ids", "owner"]
    [row] = rows(client, draft(client, f"\n{item}\n", "application/x-ndjson"))
    assert (row["line"], row["problems"][0]["message"][:32]) == (2, "column building_type, row 2: Hut")
    form = answer(client.post("/uploads", files={"file": ("q2.csv", HEADER + ROWS, "text/csv")}), 201)
    assert (form["name"], form["total_rows"]) == ("q2.csv", 3)


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ("filename*=UTF-8''Gr%C3%B6%C3%9Fe%20%26%20%22M%22.csv", 'Größe & "M".csv'),
        ("filename=\"=?utf-8?B?R3LDtsOfZS5jc3Y=?=\"; filename*=utf-8''Gr%C3%B6%C3%9Fe.csv", "Größe.csv"),
        ("filename*=iso-8859-1'de'Gr%F6%DFe.csv; filename=Groesse.csv", "Größe.csv"),
        ("filename*=UTF-8''%FF%00.csv", "\ufffd.csv"),
        ("filename=a.csv; filename*=klingon''b.csv", "a.csv"),
    ],
)
def test_a_form_may_name_its_file_as_rfc_5987_does(client: OrganizationClient, names: str, name: str) -> None:
    lines = ["--x", f'Content-Disposition: form-data; name="file"; {names}', "Content-Type: text/csv", "", HEADER + ROWS, "--x--", ""]
    form = client.post("/uploads", content="\r\n".join(lines), headers={"content-type": "multipart/form-data; boundary=x"})
    assert (answer(form, 201)["name"], form.json()["total_rows"]) == (name, 3)


def test_a_draft_says_which_sheets_there_are_and_which_was_read(client: OrganizationClient) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.title = "Cover"
    book.active.append(["Sites of March"])
    for title, word in (("Sites A", "deal"), ("Sites B", "site")):
        table = book.create_sheet(title)
        for line in (HEADER + ROWS.replace("deal", word)).splitlines():
            table.append(line.split(","))
    file = saved(book)
    kept = []
    for sheet, params, others in (("Sites A", {}, "Cover, Sites B"), ("Sites B", {"sheet": "Sites B"}, "Cover, Sites A")):
        made = draft(client, file, "application/octet-stream", **params)
        message = f"The sheet {sheet} was read; `sheet` chooses another: {others}"
        note = {"code": "sheet_chosen", "message": message, "sheet": sheet, "sheets": ["Cover", "Sites A", "Sites B"]}
        assert made["notes"] == answer(client.get(f"/uploads/{made['id']}"))["notes"] == [note]
        assert list(made["notes"][0]) == list(note)
        kept.append([row["cells"][0] for row in rows(client, made)])
        started = answer(client.post(f"/uploads/{made['id']}/start", json={"skip_invalid": True}), 201)
        assert started["notes"][0] == note
    assert [cells[0] for cells in kept] == ["deal-001", "site-001"]


def test_rows_are_found_by_what_is_wrong_and_by_what_they_say(client: OrganizationClient) -> None:
    upload = draft(client)
    change(client, upload, name="Looked through")
    assert rows(client, upload, problem="unknown_building_type") == [
        {
            "position": 1,
            "line": 3,
            "cells": ["deal-002", "200 N Spring St", "Los Angeles", "CA", "90012", "Hut", "1", ""],
            "edits": {},
            "skipped": False,
            "problems": [
                {"field": "building_type", "column": 6, "code": "unknown_building_type", "message": HUT, "value": "Hut", "suggestion": None}
            ],
            "warnings": [],
        }
    ]
    found: dict[str, Json] = {
        "everything": {},
        "any problem": {"problem": "any"},
        "a field": {"field": "address.city"},
        "a warning": {"warning": "any"},
        "a text": {"q": "kim"},
        "left out": {"skipped": True},
    }
    assert {what: [row["position"] for row in rows(client, upload, **params)] for what, params in found.items()} == {
        "everything": [0, 1, 2],
        "any problem": [1, 2],
        "a field": [2],
        "a warning": [0],
        "a text": [0],
        "left out": [],
    }
    first = client.get(f"/uploads/{upload['id']}/rows", params={"limit": 2})
    assert [row["position"] for row in client.get(first.headers["link"].partition(">")[0][1:]).json()["rows"]] == [2]


def test_a_draft_is_repaired_and_started(client: OrganizationClient) -> None:
    upload = draft(client, name="March")
    repaired = change(
        client,
        upload,
        value_maps={"building_type": {"Hut": "RESIDENTIAL"}},
        edits=[{"position": 2, "column": 3, "value": "Los Angeles"}],
    )
    assert (repaired["valid_rows"], repaired["problem_groups"], repaired["warning_rows"]) == (3, [], 2)
    [edited] = rows(client, upload, q="lee")
    assert (edited["cells"][2], edited["edits"]) == ("", {"3": "Los Angeles"})

    job = answer(start(client, upload), 201)
    assert list(job)[:6] == ["job_id", "status", "total_items", "created_at", "report", "message"]
    assert (job["total_items"], job["report"]["name"]) == (3, "March")
    assert [item["building_type"] for item in items(client, job)] == ["RESIDENTIAL"] * 3
    results = client.get(f"/batch-lookups/{job['job_id']}/results").text.splitlines()
    assert results[0].startswith(HEADER.strip())
    started = answer(client.get(f"/uploads/{upload['id']}"))
    assert (started["status"], started["job_id"]) == ("started", job["job_id"])

    again = draft(client)
    assert (again["columns"][5]["how"], again["value_maps"]) == ("remembered", {"building_type": {"Hut": "RESIDENTIAL"}})


def test_columns_are_mapped_and_defaults_stand_in(client: OrganizationClient) -> None:
    upload = draft(client, "Key,Where,City,State,ZIP\nsite-1,1 A St,Toronto,on,M5V 3L9\n")
    assert upload["missing_fields"] == ["reference_id", "street_1", "building_type", "device_ids"]
    assert upload["problem_groups"][0]["examples"][0]["message"] == "row 2: there is no address.street_1, and no column for it"
    mapped = change(
        client,
        upload,
        columns={"reference_id": "key", "street_1": 2},
        defaults={"building_type": "COMMERCIAL", "device_ids": [1]},
    )
    assert (mapped["missing_fields"], mapped["valid_rows"]) == ([], 1)
    assert [column["how"] for column in mapped["columns"]] == ["given", "given", "name", "name", "name"]
    assert change(client, upload, columns={"city": None}, defaults={"device_ids": None})["missing_fields"] == ["city", "device_ids"]


def test_the_columns_of_an_address_follow_its_street(client: OrganizationClient) -> None:
    names = [f"{whose} {part}" for whose in ("Situs", "Mailing") for part in ("Address", "City", "State", "Zip")]
    cells = "d-1,1 Oak St,Oakland,CA,94601,9 Wall St,New York,NY,10005,4,RESIDENTIAL,1"
    upload = draft(client, f"ID,{','.join(names)},Mailing Unit,Building Type,Devices\n{cells}\n")
    assert [column["how"] for column in upload["columns"]] == ["name", *["ambiguous"] * 9, "name", "name"]
    mapped = change(client, upload, columns={"street_1": "Situs Address"})
    fields = ["street_1", "city", "state_or_province_code", "postal_code", *[None] * 5]
    assert [column["field"] for column in mapped["columns"]][1:10] == fields
    assert (mapped["missing_fields"], mapped["valid_rows"]) == ([], 1)
    assert [column["how"] for column in mapped["columns"]][4:6] == ["name", None]
    other = draft(client, f"ID,{','.join(names)},Mailing Unit,Building Type,Devices\n{cells}\n")
    assert change(client, other, columns={"city": None})["missing_fields"] == ["street_1", "city", "state_or_province_code", "postal_code"]
    assert change(client, other, columns={"street_1": "Situs Address"})["missing_fields"] == ["city"]


def test_columns_that_fit_equally_well_wait_to_be_named(client: OrganizationClient) -> None:
    upload = draft(client, HEADER.replace("City", "Billing City").replace("Owner", "Shipping City") + ROWS)
    assert [column["how"] for column in upload["columns"]][2::5] == ["ambiguous", "ambiguous"]
    assert change(client, upload, columns={"city": "Billing City"})["missing_fields"] == []


def test_rows_are_skipped_by_position_or_by_problem(client: OrganizationClient) -> None:
    upload = draft(client)
    assert change(client, upload, skip=[0])["skipped_rows"] == 1
    left = change(client, upload, skip={"problem": "missing", "field": "address.city"}, unskip=[0])
    assert (left["valid_rows"], left["invalid_rows"], left["skipped_rows"], left["estimate"]["lookups"]) == (1, 1, 1, 1)
    job = answer(start(client, upload, skip_invalid=True), 201)
    assert (job["total_items"], job["total_invalid"], job["invalid_items"][0]["line"]) == (1, 1, 3)


def test_a_start_takes_the_options_of_a_new_batch(client: OrganizationClient) -> None:
    upload = draft(client, name="March")
    job = answer(start(client, upload, on_invalid="skip", name="April", labels={"team": "north"}, max_lookups=5), 201)
    created = client.get(f"/batch-lookups/{job['job_id']}").json()
    assert (created["name"], created["labels"], created["total_items"]) == ("April", {"team": "north"}, 1)


def test_a_draft_with_problems_is_started_only_on_request(client: OrganizationClient) -> None:
    upload = draft(client)
    refused = answer(start(client, upload), 400)
    assert (refused["code"], refused["total_invalid"]) == ("invalid_items", 2)
    assert [item["problems"][0]["message"] for item in refused["invalid_items"]] == [HUT, "column City, row 4: the cell is empty"]
    assert answer(client.get(f"/uploads/{upload['id']}"))["status"] == "draft"
    assert answer(start(client, upload, dry_run=True, skip_invalid=True))["valid_items"] == 1
    assert client.get("/batch-lookups").json()["total"] == 0
    change(client, upload, skip=[0, 1, 2])
    assert answer(start(client, upload), 400)["code"] == "invalid_item_count"


def test_a_draft_becomes_one_batch(client: OrganizationClient) -> None:
    upload = draft(client)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: start(client, upload, skip_invalid=True), range(6)))
    [job] = [one.json() for one in answers if one.status_code == 201]
    assert [(one.json()["code"], one.json()["job_id"]) for one in answers if one.status_code != 201] == [
        ("upload_started", job["job_id"])
    ] * 5
    assert client.get("/batch-lookups").json()["total"] == 1
    assert answer(client.patch(f"/uploads/{upload['id']}", json={"name": "late"}), 409)["code"] == "upload_started"


def test_a_start_that_is_cut_off_leaves_the_draft_as_it_was(
    client: OrganizationClient, database: Connection, http_settings: Settings
) -> None:
    upload = draft(client)
    [organization_id] = database.execute("select organization_id from public.lookup_uploads where id = %s", [upload["id"]]).fetchone() or [
        None
    ]
    with psycopg.connect(http_settings.database_url) as crashing:
        crashing.execute("select api.start_upload(%s, %s, '{\"skip_invalid\": true}', 'key-1')", [organization_id, upload["id"]])
        database.execute("select pg_terminate_backend(%s::integer)", [crashing.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            crashing.execute("select")
    assert answer(client.get(f"/uploads/{upload['id']}")) == upload
    assert len(rows(client, upload)) == 3
    assert client.get("/batch-lookups").json()["total"] == 0
    assert answer(start(client, upload, "key-1", skip_invalid=True), 201)["total_items"] == 1


def test_a_start_that_is_repeated_with_its_key_answers_the_same(client: OrganizationClient) -> None:
    upload = draft(client)
    first = start(client, upload, "key-1", skip_invalid=True)
    second = start(client, upload, "key-1", skip_invalid=True)
    assert (second.status_code, second.json(), second.headers["idempotency-replayed"]) == (201, first.json(), "true")
    assert answer(start(client, upload, "key-1"), 422)["code"] == "idempotency_key_reused"


def test_a_file_that_is_repeated_with_its_key_is_answered_with_the_draft_as_it_was(client: OrganizationClient) -> None:
    def repeat() -> httpx.Response:
        return client.post(
            "/uploads", content=HEADER + ROWS, headers={"content-type": "text/csv", "idempotency-key": "file-1"}, params={"name": "March"}
        )

    def check_repeated() -> None:
        again = repeat()
        assert (again.status_code, again.content, again.headers["idempotency-replayed"]) == (201, first.content, "true")

    first = repeat()
    upload = answer(first, 201)
    change(client, upload, value_maps={"building_type": {"Hut": "RESIDENTIAL"}})
    check_repeated()
    answer(start(client, upload, skip_invalid=True), 201)
    check_repeated()
    # Another one would exceed the limit.
    for _ in range(20):
        draft(client)
    check_repeated()
    assert answer(send(client), 409)["code"] == "too_many_open_uploads"
    answer(client.delete(f"/uploads/{upload['id']}"))
    check_repeated()
    assert client.get(f"/uploads/{upload['id']}").status_code == 404
    assert client.get("/uploads").json()["total"] == 20


def test_the_name_of_a_file_in_a_form_belongs_to_the_request_with_a_key(client: OrganizationClient) -> None:
    def post(name: str) -> httpx.Response:
        return client.post("/uploads", files={"file": (name, HEADER + ROWS, "text/csv")}, headers={"idempotency-key": "file-1"})

    first = answer(post("March.csv"), 201)
    assert (answer(post("March.csv"), 201), first["name"]) == (first, "March.csv")
    assert answer(post("April.csv"), 422)["code"] == "idempotency_key_reused"


def test_drafts_are_listed_and_deleted(client: OrganizationClient) -> None:
    first, second = draft(client), draft(client)
    answer(start(client, first, skip_invalid=True), 201)
    listed = answer(client.get("/uploads", params={"limit": 1}))
    assert ([upload["id"] for upload in listed["uploads"]], listed["total"]) == ([second["id"]], 2)
    next_page = answer(client.get("/uploads", params={"cursor": listed["next_cursor"]}))
    assert [(upload["id"], upload["status"]) for upload in next_page["uploads"]] == [(first["id"], "started")]
    assert answer(client.get("/uploads", params={"status": "draft"}))["total"] == 1
    assert answer(client.delete(f"/uploads/{second['id']}")) == {"message": "Upload deleted successfully", "upload_id": second["id"]}
    assert answer(client.get(f"/uploads/{second['id']}"), 404)["code"] == "upload_not_found"


def test_an_organization_has_a_limited_number_of_drafts_for_a_limited_time(client: OrganizationClient, database: Connection) -> None:
    for _ in range(20):
        upload = draft(client)
    refused = answer(send(client), 409)
    assert (refused["code"], refused["open_uploads"], refused["max_open_uploads"]) == ("too_many_open_uploads", 20, 20)
    database.execute("update public.lookup_uploads set expires_at = now() where id = %s", [upload["id"]])
    assert answer(client.get(f"/uploads/{upload['id']}"), 404)["code"] == "upload_not_found"
    draft(client)


def test_rows_without_an_id_keep_their_numbers_when_others_are_skipped(client: OrganizationClient) -> None:
    text = "\n".join(line.partition(",")[2] for line in (HEADER + ROWS).splitlines())
    upload = draft(client, text)
    assert (upload["missing_fields"], upload["valid_rows"]) == (["reference_id"], 0)
    numbered = change(client, upload, defaults={"reference_id": "row-{line}"}, skip=[1])
    assert (numbered["missing_fields"], numbered["valid_rows"], numbered["defaults"]) == ([], 1, {"reference_id": "row-{line}"})
    change(client, upload, edits=[{"position": 2, "column": 2, "value": "Los Angeles"}])
    assert [item["reference_id"] for item in items(client, answer(start(client, upload), 201))] == ["row-2", "row-4"]


def test_items_of_json_without_an_id_are_numbered(client: OrganizationClient) -> None:
    sites = [{name: value for name, value in site("x").items() if name != "reference_id"} for _ in range(2)]
    upload = draft(client, json.dumps(sites), "application/json")
    assert change(client, upload, defaults={"reference_id": "row-{line}"})["valid_rows"] == 2
    assert [item["reference_id"] for item in items(client, answer(start(client, upload), 201))] == ["row-1", "row-2"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/rows"), ("POST", "/start")],
)
def test_nobody_reaches_the_draft_of_another_organization(new_client: NewClient, method: str, path: str) -> None:
    upload, stranger = draft(new_client()), new_client()
    for upload_id in (upload["id"], UNKNOWN_ID, "x"):
        refused = stranger.request(method, f"/uploads/{upload_id}{path}", json={} if method in ("PATCH", "POST") else None)
        assert answer(refused, 404)["code"] == "upload_not_found"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"colour": 1}, "unknown_fields"),
        ({"columns": {"colour": 1}}, "invalid_columns"),
        ({"columns": {"city": "Nowhere"}}, "invalid_columns"),
        ({"columns": [1]}, "invalid_columns"),
        ({"defaults": {"colour": "red"}}, "invalid_defaults"),
        ({"defaults": {"city": {}}}, "invalid_defaults"),
        ({"defaults": {"city": "x" * 2_100}}, "invalid_defaults"),
        ({"defaults": {"reference_id": "site"}}, "invalid_default_reference_id"),
        ({"value_maps": {"city": {"a": "b"}}}, "invalid_value_maps"),
        ({"value_maps": {"building_type": {"a": "b" * 70_000}}}, "invalid_value_maps"),
        ({"value_maps": {"device_ids": {"a": "1," * 1_100}}}, "invalid_value_maps"),
        ({"value_maps": {"building_type": "x"}}, "invalid_value_maps"),
        ({"edits": {}}, "invalid_edits"),
        ({"edits": [{"position": 3, "column": 1, "value": "x"}]}, "invalid_edits"),
        ({"edits": [{"position": 0, "column": 9, "value": "x"}]}, "invalid_edits"),
        ({"edits": [{"position": 0, "column": 1}]}, "invalid_edits"),
        ({"edits": [{"position": 0, "column": 1, "value": 7}]}, "invalid_edits"),
        ({"skip": "all"}, "invalid_skip"),
        ({"skip": [0.5]}, "invalid_skip"),
        ({"skip": [0, 3]}, "invalid_skip"),
        ({"unskip": [10000]}, "invalid_unskip"),
        ({"unskip": {}}, "invalid_unskip"),
        ({"name": ""}, "invalid_name"),
    ],
)
def test_a_wrong_change_is_named_and_changes_nothing(client: OrganizationClient, changes: Json, code: str) -> None:
    upload = draft(client)
    assert (
        answer(client.patch(f"/uploads/{upload['id']}", json={"value_maps": {"building_type": {"Hut": "COMMERCIAL"}}} | changes), 400)[
            "code"
        ]
        == code
    )
    assert answer(client.get(f"/uploads/{upload['id']}")) == upload


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip": [1, 7]}, "skip must be for rows at positions from 0 to 2, not 7"),
        ({"edits": [{"position": 3, "column": 1, "value": "x"}]}, "edits must be for rows at positions from 0 to 2, not 3"),
        ({"edits": [{"position": 0, "column": 9, "value": "x"}]}, "edits must be for columns from 1 to 8, not 9"),
    ],
)
def test_a_row_or_a_column_that_is_not_there_is_named(client: OrganizationClient, changes: Json, message: str) -> None:
    assert answer(client.patch(f"/uploads/{draft(client)['id']}", json=changes), 400)["error"] == message


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"skip_invalid": "yes"}, "invalid_skip_invalid"),
        ({"colour": 1}, "unknown_option"),
        ([], "invalid_options"),
        ({"name": 1}, "invalid_name"),
    ],
)
def test_a_wrong_option_is_named(client: OrganizationClient, options: Any, code: str) -> None:
    upload = draft(client)
    assert answer(client.post(f"/uploads/{upload['id']}/start", json=options), 400)["code"] == code


def test_ten_thousand_rows_are_a_draft_and_one_more_is_refused(client: OrganizationClient) -> None:
    text = HEADER + "".join(f"deal-{number:05},{number} Spring St,Los Angeles,CA,90012,Hut,1,Kim\n" for number in range(10_000))
    upload = draft(client, text)
    assert (upload["invalid_rows"], upload["problem_groups"][0]["count"]) == (10_000, 10_000)
    assert change(client, upload, value_maps={"building_type": {"Hut": "COMMERCIAL"}})["valid_rows"] == 10_000
    assert answer(start(client, upload), 201)["total_items"] == 10_000
    assert answer(send(client, text + "deal-x,1 Spring St,Los Angeles,CA,90012,Hut,1,Kim\n"), 400)["code"] == "invalid_item_count"


def test_a_large_body_is_checked_beside_other_requests(client: OrganizationClient, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = draft(client)
    threads = []
    check = parameters.json_text

    def noted(body: bytes) -> str:
        threads.append(threading.get_ident())
        return check(body)

    monkeypatch.setattr(parameters, "json_text", noted)
    for size in (1, 100_000):
        assert client.patch(f"/uploads/{upload['id']}", json={"value_maps": {}, "unknown": "x" * size}).status_code == 400
    small, large = threads
    assert small != large


def test_a_body_names_a_draft_and_has_no_options_of_its_start(client: OrganizationClient) -> None:
    body = {"items": [site()], "name": "April"}
    assert answer(client.post("/uploads", json=body), 201)["name"] == "April"
    assert answer(client.post("/uploads", json=body, params={"name": "May"}), 201)["name"] == "May"
    refused = answer(client.post("/uploads", json=body | {"max_lookups": 3}), 400)
    assert (refused["code"], refused["error"]) == ("unknown_fields", "Options that only a start has: max_lookups")
    assert refused["hint"] == "Send them to POST /uploads/{upload_id}/start."


@pytest.mark.parametrize(("method", "path"), [("PATCH", f"/uploads/{UNKNOWN_ID}"), ("POST", "/incentives")])
def test_large_bodies_are_uploads_of_which_an_organization_has_few(method: str, path: str, client: OrganizationClient) -> None:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {client.api_key}\r\nContent-Type: application/json\r\n"
    with ExitStack() as stack:
        for _ in range(UPLOADS_PER_ORGANIZATION):
            connection = stack.enter_context(socket.create_connection((client.base_url.host, client.base_url.port or 80)))
            connection.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode() + b" " * 100_000)
        wait_until(lambda: client.request(method, path, content=b" " * 100_000).status_code == 429)
        refused = client.request(method, path, content=b" " * 100_000)
        assert refused.json()["code"] == "too_many_uploads"
        # Small ones need no share.
        assert client.request(method, path, json={"changes": []}).status_code in (400, 404)
