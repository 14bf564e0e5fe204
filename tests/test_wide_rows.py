"""The cells of a wide row are fetched once for all that is read of them. Blocks are counted, not time."""

from __future__ import annotations

import json
import random
import string
from typing import Any

import pytest

from tests.conftest import Connection
from tests.worker_fixtures import fetch_value

COLUMNS = ["reference_id", "street_1", "city", "state_or_province_code", "postal_code", "country_code", "building_type", "device_ids"]
SITE = ["site", "1 Elm St", "Austin", "TX", "78701", "US", "RESIDENTIAL", "1"]
WIDTH = 480


def noise() -> str:
    """Random, so that nothing is compressed: a row takes 30 KB in its table, which is 16 parts."""
    return "".join(random.Random().choices(string.ascii_letters, k=64))


@pytest.fixture
def organization(owner: Connection) -> str:
    return str(fetch_value(owner, "select api.create_organization('Wide')"))


@pytest.fixture
def draft(owner: Connection, organization: str) -> str:
    more = WIDTH - len(COLUMNS)
    rows = [[*COLUMNS, *(f"more {n}" for n in range(more))], [*SITE, *(noise() for _ in range(more))]]
    created = fetch_value(owner, "select api.create_upload(%s, null, true, 'Wide', %s)", organization, json.dumps({"rows": rows}))
    return str(created["id"])


def blocks_read(owner: Connection, call: str, parameters: dict[str, Any]) -> int:
    for _ in range(2):  # The first time, what the functions need is loaded, too.
        [(plan,)] = owner.execute(f"explain (analyze, buffers, format json) {call}".encode(), parameters).fetchall()
    return int(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])


def edit(owner: Connection, organization: str, draft: str, columns: list[int]) -> None:
    edits = [{"position": 0, "column": column, "value": noise()} for column in columns]
    owner.execute("select api.update_upload(%s, %s, %s)", [organization, draft, json.dumps({"edits": edits})])


@pytest.mark.parametrize("columns", [[2], list(range(9, WIDTH + 1))], ids=["one cell", "many cells"])
def test_an_edited_row_is_fetched_once(owner: Connection, organization: str, draft: str, columns: list[int]) -> None:
    edit(owner, organization, draft, columns)
    asked = {"organization": organization, "draft": draft}
    cells = "select app.edited_cells(cells, edits) from public.lookup_upload_rows where organization_id = %(organization)s"
    assert blocks_read(owner, cells, asked) < 300, "every cell took 16 blocks or more"
    search = "select api.get_upload_rows(%(organization)s, %(draft)s, p_q => %(q)s)"
    assert blocks_read(owner, search, asked | {"q": "nowhere"}) < 300


def test_edited_cells_are_found_as_edited(owner: Connection, organization: str, draft: str) -> None:
    edits = [{"position": 0, "column": 2, "value": "7 Oak St"}, {"position": 0, "column": 9, "value": ""}]
    before = fetch_value(owner, "select cells ->> 8 from public.lookup_upload_rows")
    owner.execute("select api.update_upload(%s, %s, %s)", [organization, draft, json.dumps({"edits": edits})])
    for text, found in {"7 oak": 1, "1 elm": 0, before: 0, "austin": 1}.items():
        total = "select api.get_upload_rows(%s, %s, p_q => %s) ->> 'total'"
        assert fetch_value(owner, total, organization, draft, text) == str(found), text


@pytest.mark.parametrize("file_format", ["csv", "ndjson"])
def test_the_source_of_an_item_is_fetched_once(owner: Connection, organization: str, draft: str, file_format: str) -> None:
    started = fetch_value(owner, "select body from api.start_upload(%s, %s)", organization, draft)
    results = "select api.get_batch_lookup_results(%(organization)s, %(job)s, %(format)s)"
    assert blocks_read(owner, results, {"organization": organization, "job": started["job_id"], "format": file_format}) < 500
