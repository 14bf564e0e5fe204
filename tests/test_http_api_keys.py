"""API keys over HTTP: shown once, limited by scope, time and network, rotated without interruption, revoked immediately."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyshell.api import api_keys
from pyshell.api import authentication as auth
from pyshell.postgres import calls as db
from pyshell.settings import Settings
from tests.conftest import Connection
from tests.http_fixtures import PEPPER, Json, NewClient, OrganizationClient, running_server, site
from tests.timed import wait_until


def made(client: OrganizationClient, **options: Any) -> Json:
    response = client.post("/api-keys", json=options)
    assert response.status_code == 201, response.text
    key: Json = response.json()
    return key


def with_key(client: OrganizationClient, key: Json, path: str = "/batch-lookups", address: str | None = None) -> int:
    """The status of a request with the key, as if from the address; the server trusts a proxy on its own machine."""
    headers = {"x-api-key": key["key"]} | ({"x-forwarded-for": address} if address else {})
    return client.get(path, headers=headers).status_code


def test_a_key_is_shown_once(client: OrganizationClient) -> None:
    response = client.post("/api-keys", json={"name": "portal"})
    key = response.json()
    assert response.headers["cache-control"] == "private, no-store"
    assert re.fullmatch(r"leap_live_[0-9A-Za-z]{49}", key["key"])
    assert (key["name"], key["prefix"], key["last_four"]) == ("portal", "leap_live_", key["key"][-4:])
    assert with_key(client, key) == 200
    shown = client.get(f"/api-keys/{key['id']}").text + client.get("/api-keys").text
    assert key["key"][10:30] not in shown


def test_a_test_key_says_so(client: OrganizationClient) -> None:
    key = made(client, mode="test")
    assert key["key"].startswith("leap_test_")
    assert key["prefix"] == "leap_test_"
    assert with_key(client, key) == 200


def test_a_body_is_not_needed(client: OrganizationClient) -> None:
    key = client.post("/api-keys").json()
    assert (key["name"], key["expires_at"], key["allowed_networks"]) == ("API key", None, None)


def test_keys_are_listed_newest_first(client: OrganizationClient) -> None:
    first, second = made(client, name="first"), made(client, name="second")
    keys = client.get("/api-keys").json()
    assert [key["id"] for key in keys["api_keys"][:2]] == [second["id"], first["id"]]
    assert keys["total"] == 3
    assert client.get("/api-keys?limit=1&offset=1").json()["api_keys"] == [keys["api_keys"][1]]


def test_a_key_does_what_its_scopes_say(client: OrganizationClient) -> None:
    key = made(client, scopes=["reports:read", "jobs:read"])
    assert key["scopes"] == ["jobs:read", "reports:read"]
    assert with_key(client, key) == 200
    assert client.post("/batch-lookups", json=[site()], headers={"x-api-key": key["key"]}).status_code == 403
    assert with_key(client, key, "/api-keys") == 403


def test_nobody_hands_out_more_than_they_have(client: OrganizationClient) -> None:
    clerk = {"x-api-key": made(client, scopes=["keys:admin", "jobs:read"])["key"]}
    assert client.post("/api-keys", json={}, headers=clerk).json()["scopes"] == ["jobs:read", "keys:admin"]
    refused = client.post("/api-keys", json={"scopes": ["jobs:read", "jobs:write"]}, headers=clerk)
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    stronger = made(client)
    assert client.post(f"/api-keys/{stronger['id']}/rotate", headers=clerk).status_code == 403


def test_a_key_makes_none_that_outlives_it_or_reaches_further(client: OrganizationClient) -> None:
    maker = made(client, expires_at="2100-01-01T00:00:00.000Z", allowed_networks=["127.0.0.0/8"])
    as_maker = {"x-api-key": maker["key"]}
    forever = client.post("/api-keys", json={"name": "forever"}, headers=as_maker).json()
    assert (forever["expires_at"], forever["allowed_networks"]) == ("2100-01-01T00:00:00.000Z", ["127.0.0.0/8"])
    assert forever["created_by"] == maker["id"]
    for options in ({"expires_at": "2100-01-01T00:00:01Z"}, {"allowed_networks": ["0.0.0.0/0"]}):
        refused = client.post("/api-keys", json=options, headers=as_maker)
        assert (refused.status_code, refused.json()["code"]) == (403, "key_limits_exceeded")
    extended = client.post(f"/api-keys/{maker['id']}/rotate", json={"expires_at": "2101-01-01T00:00:00Z"}, headers=as_maker)
    assert (extended.status_code, extended.json()["code"]) == (403, "key_limits_exceeded")
    assert with_key(client, forever) == 200
    assert client.delete(f"/api-keys/{maker['id']}?include_created=true").json()["revoked_at"] is not None
    assert with_key(client, forever) == 401


def test_a_key_manages_only_keys_that_may_do_no_more(client: OrganizationClient) -> None:
    clerk = {"x-api-key": made(client, scopes=["keys:admin", "jobs:read"])["key"]}
    stronger, weaker = made(client), made(client, scopes=["jobs:read"])
    for key, status in ((stronger, 403), (weaker, 200)):
        for method in ("GET", "DELETE"):
            answer = client.request(method, f"/api-keys/{key['id']}", headers=clerk)
            assert (answer.status_code, answer.json().get("code")) == (status, "insufficient_scope" if status == 403 else None)
    assert with_key(client, stronger) == 200
    assert {key["id"] for key in client.get("/api-keys", headers=clerk).json()["api_keys"]}.isdisjoint({stronger["id"]})


def test_a_key_expires(client: OrganizationClient, database: Connection) -> None:
    expiry = datetime.now(UTC) + timedelta(hours=1)
    key = made(client, expires_at=expiry.isoformat())
    assert key["expires_at"] == f"{expiry:%Y-%m-%dT%H:%M:%S}.{expiry.microsecond // 1000:03}Z"
    assert with_key(client, key) == 200
    database.execute("update app.api_keys set expires_at = %s where id = %s", [expiry - timedelta(hours=1), key["id"]])
    wait_until(lambda: with_key(client, key) == 401)


def test_a_key_may_be_used_from_its_networks_only(client: OrganizationClient) -> None:
    key = made(client, allowed_networks=["203.0.113.0/24", "2001:db8::/32", "198.51.100.7"])
    assert key["allowed_networks"] == ["203.0.113.0/24", "2001:db8::/32", "198.51.100.7/32"]
    for address in ("203.0.113.9", "2001:db8::1", "198.51.100.7", "::ffff:203.0.113.9"):
        assert with_key(client, key, address=address) == 200
    for address in ("203.0.114.1", "2001:db9::1", "198.51.100.8", "unknown", ""):
        assert with_key(client, key, address=address) == 403


@pytest.mark.parametrize("address", ["203.0.113.7", "::ffff:cb00:7107", "203.0.113.7%eth0"])
def test_only_our_own_proxies_may_report_the_address_of_a_client(address: str, http_settings: Settings, client: OrganizationClient) -> None:
    key = made(client, allowed_networks=["203.0.113.0/24"])
    assert with_key(client, key, address=address) == 200
    with running_server(replace(http_settings, forwarded_allow_ips="")) as url:
        response = httpx.get(f"{url}/batch-lookups", headers={"x-api-key": key["key"], "x-forwarded-for": address})
    assert (response.status_code, response.json()["code"]) == (403, "address_not_allowed")


def test_rotation_keeps_the_old_key_for_a_while(client: OrganizationClient, database: Connection) -> None:
    old = made(client, name="portal", mode="test", scopes=["jobs:read"], allowed_networks=["127.0.0.0/8"])
    response = client.post(f"/api-keys/{old['id']}/rotate", json={"grace_seconds": 3600})
    new = response.json()
    assert response.status_code == 201
    assert new["key"] != old["key"]
    assert [new[name] for name in ("name", "prefix", "scopes", "allowed_networks")] == [
        "portal",
        "leap_test_",
        ["jobs:read"],
        ["127.0.0.0/8"],
    ]
    assert with_key(client, old) == with_key(client, new) == 200
    shown = client.get(f"/api-keys/{old['id']}").json()
    assert shown["replaced_by"] == new["id"]
    grace = "select extract(epoch from %s::timestamptz - now()) between 3590 and 3600"
    assert database.execute(grace, [shown["expires_at"]]).fetchone() == (True,)
    again = client.post(f"/api-keys/{old['id']}/rotate")
    assert (again.status_code, again.json()["code"]) == (409, "api_key_inactive")


def test_rotation_without_grace_ends_the_old_key_at_once(client: OrganizationClient) -> None:
    old = made(client)
    assert with_key(client, old) == 200
    new = client.post(f"/api-keys/{old['id']}/rotate", json={"grace_seconds": 0}).json()
    assert with_key(client, old) == 401
    assert with_key(client, new) == 200


def test_a_revoked_key_ends_at_once(client: OrganizationClient) -> None:
    key = made(client)
    assert with_key(client, key) == 200
    revoked = client.delete(f"/api-keys/{key['id']}")
    assert revoked.status_code == 200
    assert revoked.json()["revoked_at"] is not None
    assert with_key(client, key) == 401
    assert client.delete(f"/api-keys/{key['id']}").json() == revoked.json()
    assert client.post(f"/api-keys/{key['id']}/rotate").status_code == 409


def test_a_key_that_is_revoked_while_it_is_looked_up_ends_at_once(client: OrganizationClient, monkeypatch: pytest.MonkeyPatch) -> None:
    key = made(client)
    find, revoking = db.call, [key]

    async def find_and_revoke(pool: Any, function: str, sharer: object = None, /, **arguments: object) -> bytes:
        found = await find(pool, function, sharer, **arguments)
        if function == "authenticate_api_key" and arguments["key_hash"] == api_keys.hash_key(key["key"], PEPPER) and revoking:
            await asyncio.to_thread(client.delete, f"/api-keys/{revoking.pop()['id']}")
        return found

    monkeypatch.setattr(db, "call", find_and_revoke)
    assert with_key(client, key) == 200
    assert not revoking
    assert with_key(client, key) == 401


def test_another_organizations_key_is_not_found(new_client: NewClient) -> None:
    one, other = new_client(), new_client()
    key = made(one)
    assert [key["id"] for key in other.get("/api-keys").json()["api_keys"]].count(key["id"]) == 0
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/rotate")]:
        for key_id in (key["id"], str(uuid.uuid4()), "x"):
            assert other.request(method, f"/api-keys/{key_id}{path}").status_code == 404
    assert with_key(one, key) == 200


WRONG_OPTIONS = [
    ([], "invalid_body"),
    ({"nome": "x"}, "unknown_fields"),
    ({"name": ""}, "invalid_name"),
    ({"name": 5}, "invalid_name"),
    ({"name": "x" * 201}, "invalid_name"),
    ({"mode": "staging"}, "invalid_mode"),
    ({"scopes": "jobs:read"}, "invalid_scopes"),
    ({"scopes": []}, "invalid_scopes"),
    ({"scopes": [1]}, "invalid_scopes"),
    ({"scopes": ["fly"]}, "unknown_scope"),
    ({"expires_at": "tomorrow"}, "invalid_expires_at"),
    ({"expires_at": 5}, "invalid_expires_at"),
    ({"expires_at": "2027-02-30T00:00:00Z"}, "invalid_expires_at"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "invalid_expires_at"),
    ({"allowed_networks": ["intranet"]}, "invalid_allowed_networks"),
    ({"allowed_networks": ["10.0.0.0/33"]}, "invalid_allowed_networks"),
    ({"allowed_networks": [None]}, "invalid_allowed_networks"),
]
REFUSALS = {(400, code) for _, code in WRONG_OPTIONS} | {
    (400, "invalid_grace_seconds"),
    (400, "unsupported_character"),
    (400, "number_out_of_range"),
}


@pytest.mark.parametrize(("options", "code"), WRONG_OPTIONS)
def test_a_wrong_option_is_named(client: OrganizationClient, options: Any, code: str) -> None:
    response = client.post("/api-keys", json=options)
    assert (response.status_code, response.json()["code"]) == (400, code)
    assert client.get("/api-keys").json()["total"] == 1


@pytest.mark.parametrize("grace", [-1, 2592001, "x", 1e14, []])
def test_a_wrong_grace_period_changes_nothing(client: OrganizationClient, grace: Any) -> None:
    key = made(client)
    response = client.post(f"/api-keys/{key['id']}/rotate", json={"grace_seconds": grace})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_grace_seconds")
    assert client.get(f"/api-keys/{key['id']}").json()["expires_at"] is None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(["name", "mode", "scopes", "expires_at", "allowed_networks", "grace_seconds"]), anything, max_size=4)
    | anything
)
def test_no_option_makes_the_server_fail(client: OrganizationClient, options: Any) -> None:
    before = client.get("/api-keys?limit=1").json()["total"]
    response = client.post("/api-keys", json=options)
    created = response.status_code == 201
    if created:
        # None sends no body.
        asked = {} if options is None else options
        assert asked.keys() <= {"name", "mode", "scopes", "expires_at", "allowed_networks"}
        assert response.json()["name"] == (asked.get("name") or "API key")
    else:
        assert (response.status_code, response.json()["code"]) in REFUSALS
    assert client.get("/api-keys?limit=1").json()["total"] == before + created
    response = client.post(f"/api-keys/{uuid.uuid4()}/rotate", json=options)
    assert (response.status_code, response.json()["code"]) in REFUSALS | {(404, "api_key_not_found")}


def test_new_keys_never_appear_in_the_log(client: OrganizationClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = made(client)
    rotated = client.post(f"/api-keys/{key['id']}/rotate").json()
    client.get(f"/api-keys/{key['key']}", headers={"x-api-key": rotated["key"]})
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(("pyshell", "uvicorn.error", "psycopg")))
    assert rotated["key"] not in ours
    assert "POST /api-keys 201" in ours


def test_the_use_of_a_key_is_noted_once_a_minute(client: OrganizationClient, database: Connection) -> None:
    key = made(client)
    assert key["last_used_at"] is None
    version = "select xmin::text, used_at from app.api_key_uses where api_key_id = %s"
    with_key(client, key)
    noted = database.execute(version, [key["id"]]).fetchone()
    assert noted is not None
    assert noted[1] is not None
    time.sleep(auth.CACHE_SECONDS + 0.1)
    with_key(client, key)
    assert database.execute(version, [key["id"]]).fetchone() == noted


def test_the_command_line_limits_a_key(server: str, http_settings: Settings, database: Connection) -> None:
    key = subprocess.run(
        [
            sys.executable,
            "-m",
            "pyshell",
            "keys",
            "create",
            "--organization",
            "cli",
            "--test",
            "--scope",
            "jobs:read",
            "--scope",
            "reports:read",
            "--expires",
            "2099-01-31",
        ],
        env={"DATABASE_URL": http_settings.database_url, "API_KEY_PEPPER": PEPPER},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert key.startswith("leap_test_")
    assert api_keys.is_well_formed(key)
    assert httpx.get(f"{server}/incentive-reports", headers={"x-api-key": key}).status_code == 200
    assert httpx.post(f"{server}/batch-lookups", json=[site()], headers={"x-api-key": key}).status_code == 403
    [[expires_at]] = database.execute("select expires_at from app.api_keys where last_four = %s", [key[-4:]]).fetchall()
    assert expires_at == datetime(2099, 1, 31, tzinfo=UTC)
