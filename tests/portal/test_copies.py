"""What a screen shows, as a command for a shell and for psql."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from pyshell.settings import Settings
from tests.browser_fixtures import empty_page
from tests.conftest import Connection
from tests.http_fixtures import OrganizationClient, site
from tests.portal.conftest import DESKTOP, Person, SignedIn

ADDRESSES = [
    "batches?status=pending&search=O'Hare&label=team:east:2",
    "batches?status=drafts",
    "batches/JOB?status=pending&q=O'Hare",
    "batches/JOB?item=0",
    "reports",
    "reports/REPORT",
    "reports/difference?from=REPORT&to=REPORT",
    "applications?status=in_progress&reference=deal-1",
    "webhooks?status=failed",
    "keys",
    "usage?from=2026-01-01&before=2099-01-01",
    "audit?action=api_key.created",
]
NAMED = {"name": "O'Hare", "label": "team:east:2"}


def copies(person: Person, kind: str) -> list[str]:
    """Everything that the current screen offers to copy as `kind`."""
    page = person.page
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    around = page.get_by_role("dialog") if "item=" in page.url else page.locator("main")
    expect(around.get_by_role("button", name="Copy as…")).not_to_have_count(0)
    found = []
    for button in around.get_by_role("button", name="Copy as…").all():
        button.click()
        page.locator(".menu:popover-open").get_by_role("button", name=kind).click()
        found.append(page.evaluate("navigator.clipboard.readText()"))
    return found


@dataclass
class Reader:
    """A signed-in person who looks at the same batch on several screens."""

    person: Person
    client: OrganizationClient
    job: Any


@pytest.fixture(scope="module")
def reader(browser: Browser, server: str, http_settings: Settings) -> Iterator[Reader]:
    with (
        OrganizationClient(server, http_settings.database_url) as client,
        empty_page(browser, viewport=DESKTOP, permissions=["clipboard-read", "clipboard-write"]) as page,
    ):
        page.set_default_timeout(20_000)
        person = Person(page, server)
        person.sign_in(client.api_key)
        yield Reader(person, client, client.post("/batch-lookups", params=NAMED, json=[site("deal-1")]).json())


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_copied_runs(address: str, reader: Reader, database: Connection) -> None:
    person, client, job = reader.person, reader.client, reader.job
    # Nothing of the previous screen remains.
    person.page.goto("about:blank")
    person.open(address.replace("JOB", job["job_id"]).replace("REPORT", job["report"]["id"]))
    expect(person.page.get_by_role("navigation", name="Main")).to_be_visible()
    database.execute(
        "select set_config('request.jwt.claims', %s, false)",
        [json.dumps({"organization_id": client.get("/me").json()["organization"]["id"]})],
    )
    for sql in copies(person, "SQL"):
        rows = database.execute(sql.encode()).fetchall()
        assert rows or "where" in sql, sql
    for command in copies(person, "curl"):
        program, url, option, header = shlex.split(command)
        assert (program, option, header) == ("curl", "-H", "x-api-key: $key")
        assert httpx.get(url, headers={"x-api-key": client.api_key}).status_code == 200
    if "search" in address:
        [sql] = copies(person, "SQL")
        assert len(database.execute(sql.encode()).fetchall()) == 1


@pytest.mark.parametrize(
    "address",
    [
        "batches?status=QUOTE",
        "batches/JOB?status=QUOTE",
        "reports/difference?from=QUOTE&to=QUOTE",
        "applications?status=QUOTE",
        "webhooks?status=QUOTE",
        "usage?from=QUOTE&before=QUOTE",
        "audit?action=QUOTE",
    ],
)
def test_text_from_an_address_cannot_break_out_of_a_copied_command(address: str, reader: Reader) -> None:
    """A link may come from a stranger."""
    reader.person.page.goto("about:blank")
    reader.person.open(address.replace("JOB", reader.job["job_id"]).replace("QUOTE", "%27;drop%20%27"))
    expect(reader.person.page.get_by_role("navigation", name="Main")).to_be_visible()
    [sql] = [sql for sql in copies(reader.person, "SQL") if "drop" in sql]
    assert "drop" not in sql.replace("''';drop '''", "")


def test_a_draft_is_copied_with_its_rows(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    draft = client.post("/uploads", json=[site("deal-1"), site("deal-2")]).json()
    person = signed_in(f"uploads/{draft['id']}")
    person.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    [sql] = copies(person, "SQL")
    assert len(database.execute(sql.encode()).fetchall()) == 2


def test_a_copied_upload_runs_in_a_shell(signed_in: SignedIn, client: OrganizationClient, tmp_path: Path) -> None:
    person = signed_in("upload")
    person.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    with person.page.expect_download() as downloads:
        person.page.get_by_role("link", name="Template").click()
    downloads.value.save_as(tmp_path / "sites.csv")
    [command] = copies(person, "curl")
    answer = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env={"key": client.api_key, "PATH": "/usr/bin:/bin"}, capture_output=True, check=True
    )
    assert json.loads(answer.stdout)["valid_rows"] == 1
    [draft] = client.get("/uploads").json()["uploads"]
    assert draft["name"] == "sites.csv"
