"""The page about writing your own incentives API agrees with the database."""

from __future__ import annotations

import json
import re

from pyshell.settings import ROOT
from tests.conftest import Connection
from tests.http_fixtures import site

PAGE = (ROOT / "docs" / "incentives-api.md").read_text()


def test_its_statuses_are_those_of_the_retry_policy(owner: Connection) -> None:
    rows = re.findall(r"^\| `(\w+)`.*? \| (retry|wait|fail) \| `(\w+)` \|$", PAGE, re.MULTILINE)
    policy = owner.execute("select outcome, action, error_code from app.retry_policy").fetchall()
    assert sorted(rows) == sorted(policy)


def test_its_request_is_the_one_that_is_sent(owner: Connection) -> None:
    example = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
    item = site("deal-001") | {"address": example["address"], "device_ids": example["device_ids"]}
    [organization] = owner.execute("select api.create_organization('organization')").fetchone() or ()
    owner.execute("select api.create_batch_lookup(%s, %s, false)", [organization, json.dumps({"items": [item]})])
    [request] = owner.execute("select request from api.claim_lookups(%s, 'worker', 1)", [organization]).fetchone() or ()
    assert json.loads(request) == example


def test_its_limits_are_the_settings(owner: Connection) -> None:
    [settings] = owner.execute("select api.get_settings()").fetchone() or ()
    assert f"`lookup_timeout_seconds` ({settings['lookup_timeout_seconds']})" in PAGE
    assert settings["max_response_bytes"] == 1 << 20
    assert f"`max_retries` ({settings['max_retries']})" in PAGE
