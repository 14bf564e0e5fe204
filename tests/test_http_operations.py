"""What operators can see and do with the service role key."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Connection
from tests.http_fixtures import OrganizationClient, check_against_openapi


@pytest.fixture
def operator(server: str, database: Connection) -> Iterator[httpx.Client]:
    [key] = database.execute("select api.internal_key()").fetchone() or [None]
    headers = {"authorization": f"Bearer {key}", "x-supabase-internal": "true"}
    with httpx.Client(base_url=server, headers=headers, event_hooks={"response": [check_against_openapi]}) as operator:
        yield operator
        operator.post("/operations/resume")


def test_an_operator_reads_the_queue_and_the_settings(operator: httpx.Client, database: Connection) -> None:
    operations = operator.get("/operations").json()
    assert operations["queue"]["upstream_closed_until"] is None
    names = [setting["name"] for setting in operations["settings"]]
    assert names[:1] == ["lookups_per_second"]
    assert "internal_key" not in names
    assert all(setting["description"] for setting in operations["settings"])


def test_a_setting_is_changed_or_refused(operator: httpx.Client) -> None:
    changed = operator.patch("/operations/settings", json={"max_retries": 5}).json()
    assert [setting["value"] for setting in changed["settings"] if setting["name"] == "max_retries"] == [5]
    for changes, code in (({"max_retries": -1}, "invalid_settings"), ({"nothing": 1}, "unknown_setting"), ([], "invalid_settings")):
        refused = operator.patch("/operations/settings", json=changes)
        assert (refused.status_code, refused.json()["code"]) == (400, code)


def test_lookups_are_paused_and_resumed(operator: httpx.Client) -> None:
    assert operator.post("/operations/pause", params={"seconds": 60}).json()["queue"]["upstream_closed_until"]
    assert operator.post("/operations/resume").json()["queue"]["upstream_closed_until"] is None
    assert operator.post("/operations/pause").json()["queue"]["upstream_closed_until"]
    for seconds in ("0", "901", "soon"):
        refused = operator.post("/operations/pause", params={"seconds": seconds})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_seconds")


def test_nobody_else_may_operate(client: OrganizationClient) -> None:
    assert client.get("/operations").status_code == 403
    assert client.patch("/operations/settings", json={"max_retries": 5}).status_code == 403
    assert client.post("/operations/pause").status_code == 403
    assert client.post("/operations/resume").status_code == 403
