"""Who may do what: API keys, the internal credential, scopes; and keys stay secret."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

import httpx
import psycopg
import pytest
from starlette.datastructures import Headers
from starlette.routing import Route

from pyshell.api import api_keys
from pyshell.api import authentication as auth
from pyshell.api.limits import RequestLimiter
from pyshell.api.routes import routes
from pyshell.postgres.pool import Pool
from pyshell.postgres.sqlstates import DatabaseError
from pyshell.settings import Settings
from tests.conftest import Connection, waiting_for_locks
from tests.http_fixtures import OPENAPI, PEPPER, UNKNOWN_ID, NewClient, OrganizationClient, running_server, site
from tests.timed import wait_until

BOTH = "Provide either x-api-key OR Authorization, not both."
NEITHER = "Missing authentication. Provide either x-api-key or Authorization: Bearer token."

PUBLIC = {
    "/shared-reports/{token}",
    "/shared-reports/{token}/csv",
    "/shared-reports/{token}/xlsx",
    "/realtime/v1/websocket",
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/portal",
    "/portal/config.json",
    "/portal/{file}",
    "/docs",
    "/docs/{file}",
}
SECURED = [
    (method, re.sub(r"{\w+}", "1" if "application_id" in route.path else UNKNOWN_ID, route.path))
    for route in routes
    if isinstance(route, Route) and route.path not in PUBLIC
    for method in sorted((route.methods or set()) - {"HEAD"})
]


def test_the_description_names_the_credentials_of_all_routes_but_the_public_ones() -> None:
    without = {
        path
        for path, operations in OPENAPI["paths"].items()
        for name, operation in operations.items()
        if name != "parameters" and not operation["security"]
    }
    assert without == PUBLIC


@pytest.mark.parametrize(("method", "path"), SECURED)
def test_every_route_requires_exactly_one_credential(server: str, client: OrganizationClient, method: str, path: str) -> None:
    neither = httpx.request(method, server + path)
    assert (neither.status_code, neither.json()["error"]) == (401, NEITHER)
    assert neither.headers["www-authenticate"] == "Bearer"

    both = client.request(method, path, headers={"authorization": "Bearer token"})
    assert (both.status_code, both.json()["error"]) == (400, BOTH)


@pytest.mark.parametrize(("method", "path"), SECURED)
@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "leap_live_mistyped"},
        {"x-api-key": api_keys.generate()},
        {"x-api-key": "ключ".encode()},
        {"authorization": "Bearer"},
        {"authorization": "Bearer token"},
        {"authorization": "Bearer eyJhbGciOiJub25lIn0.e30."},
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"authorization": b"Bearer \xff\xfe"},
    ],
)
def test_a_bad_credential_is_refused(server: str, method: str, path: str, headers: dict[str, str]) -> None:
    response = httpx.request(method, server + path, headers=headers)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.json()["error"] in ("Invalid API key", "Invalid token")


def test_an_api_key_has_a_form_and_a_checksum() -> None:
    key = api_keys.generate()
    assert re.fullmatch(r"leap_live_[0-9A-Za-z]{49}", key)
    assert api_keys.is_well_formed(key)
    for place in range(len("leap_live_"), len(key)):
        mistyped = key[:place] + ("a" if key[place] != "a" else "b") + key[place + 1 :]
        assert not api_keys.is_well_formed(mistyped)


def test_only_the_hash_of_a_key_is_stored(client: OrganizationClient, database: Connection) -> None:
    row = database.execute(
        "select to_jsonb(k)::text from app.api_keys k join app.organizations o on o.id = k.organization_id where o.name = %s",
        [client.organization],
    ).fetchone()
    assert row is not None
    assert client.api_key not in row[0]
    assert client.api_key[-15:] not in row[0]
    assert api_keys.hash_key(client.api_key, PEPPER).hex() in row[0]


def test_a_key_of_another_pepper_is_unknown(server: str, http_settings: Settings) -> None:
    key = api_keys.create(http_settings.database_url, f"organization {uuid.uuid4()}", pepper="another")
    assert httpx.get(f"{server}/batch-lookups", headers={"x-api-key": key}).status_code == 401


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
def test_a_key_ends_within_seconds(client: OrganizationClient, database: Connection, column: str) -> None:
    assert client.get("/batch-lookups").status_code == 200
    database.execute(
        f"update app.api_keys set {column} = now() where key_hash = %s",
        [api_keys.hash_key(client.api_key, PEPPER)],
    )
    time.sleep(auth.CACHE_SECONDS + 0.1)
    assert client.get("/batch-lookups").status_code == 401


async def test_a_key_that_is_revoked_while_it_is_checked_is_not_remembered(http_settings: Settings, database: Connection) -> None:
    key = api_keys.create(http_settings.database_url, f"organization {uuid.uuid4()}", pepper=PEPPER)
    key_hash = api_keys.hash_key(key, PEPPER)
    async with Pool(http_settings.database_url) as pool:
        authenticator = auth.Authenticator(pool, http_settings, None, RequestLimiter())
        with psycopg.connect(http_settings.database_url) as other:
            # The check has found the key, and waits to note its use.
            uses = "insert into app.api_key_uses (organization_id, api_key_id, used_at) select organization_id, id, now() from app.api_keys"
            other.execute(f"{uses} where key_hash = %s", [key_hash])
            checking = asyncio.create_task(authenticator.authenticate(Headers({"x-api-key": key})))
            await asyncio.to_thread(wait_until, lambda: waiting_for_locks(database, "batch-lookups"))
            database.execute("update app.api_keys set revoked_at = now() where key_hash = %s", [key_hash])
            authenticator.forget()
            other.rollback()
        await checking
        with pytest.raises(DatabaseError, match="Invalid API key"):
            await authenticator.authenticate(Headers({"x-api-key": key}))


def test_a_key_may_only_do_what_its_scopes_say(client: OrganizationClient, database: Connection) -> None:
    database.execute("update app.api_keys set scopes = '{jobs:read}' where key_hash = %s", [api_keys.hash_key(client.api_key, PEPPER)])
    assert client.get("/batch-lookups").status_code == 200
    for method, path in [
        ("POST", "/batch-lookups"),
        ("POST", "/incentives"),
        ("GET", "/incentive-reports"),
        ("POST", "/batch-lookups-worker"),
    ]:
        response = client.request(method, path, json={})
        assert response.status_code == 403
        assert response.json()["code"] == "insufficient_scope"


def test_the_command_line_prints_a_key_and_nothing_else(server: str, http_settings: Settings) -> None:
    organization = f"Größe & Söhne {uuid.uuid4()}"
    keys = [
        subprocess.run(
            [sys.executable, "-m", "pyshell", "keys", "create", "--organization", organization],
            env={"DATABASE_URL": http_settings.database_url, "API_KEY_PEPPER": PEPPER},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for _ in range(2)
    ]
    for key in keys:
        assert re.fullmatch(r"leap_live_[0-9A-Za-z]{49}\n", key)
    first, second = ({"x-api-key": key.strip()} for key in keys)
    job_id = httpx.post(f"{server}/batch-lookups", json=[site()], headers=first).json()["job_id"]
    assert httpx.get(f"{server}/batch-lookups/{job_id}", headers=second).status_code == 200


class TestTheInternalCredential:
    @pytest.fixture
    def internal(self, server: str, database: Connection) -> Iterator[httpx.Client]:
        [key] = database.execute("select api.internal_key()").fetchone() or [None]
        with httpx.Client(base_url=server, headers={"authorization": f"Bearer {key}", "x-supabase-internal": "true"}) as internal:
            yield internal

    def test_looks_up_for_the_organization_it_names(self, internal: httpx.Client, client: OrganizationClient, database: Connection) -> None:
        [organization_id] = database.execute("select id from app.organizations where name = %s", [client.organization]).fetchone() or [None]
        internal.headers["x-organization-id"] = str(organization_id)
        assert internal.post("/incentives", json=site()).json() == client.post("/incentives", json=site()).json()

    @pytest.mark.parametrize("organization", [None, "", "acme"])
    def test_must_name_an_organization_to_look_up(self, internal: httpx.Client, organization: str | None) -> None:
        headers = {} if organization is None else {"x-organization-id": organization}
        response = internal.post("/incentives", json=site(), headers=headers)
        assert (response.status_code, response.json()["code"]) == (400, "organization_missing")

    def test_must_name_an_organization_that_exists(self, internal: httpx.Client) -> None:
        response = internal.post("/incentives", json=site(), headers={"x-organization-id": str(uuid.uuid4())})
        assert response.status_code == 404

    def test_counts_only_with_the_internal_header(self, internal: httpx.Client) -> None:
        del internal.headers["x-supabase-internal"]
        assert internal.post("/batch-lookups-worker").status_code == 401
        assert internal.post("/batch-lookups-worker", headers={"x-supabase-internal": "false"}).status_code == 401

    def test_counts_only_as_a_bearer_token(self, internal: httpx.Client) -> None:
        internal.headers["authorization"] = internal.headers["authorization"].replace("Bearer", "Basic")
        assert internal.post("/batch-lookups-worker").status_code == 401

    def test_reads_and_writes_no_batches(self, internal: httpx.Client) -> None:
        assert internal.get("/batch-lookups").status_code == 403
        assert internal.post("/batch-lookups", json=[site()]).status_code == 403

    def test_is_the_service_role_key_where_one_is_set(self, http_settings: Settings, database: Connection) -> None:
        [key] = database.execute("select api.internal_key()").fetchone() or [None]
        settings = Settings(database_url=http_settings.database_url, service_role_key="service role key of the tests")
        with running_server(settings) as url:

            def status(token: str) -> int:
                headers = {"authorization": f"Bearer {token}", "x-supabase-internal": "true"}
                return httpx.post(f"{url}/batch-lookups-worker", headers=headers).status_code

            assert status("service role key of the tests") == 200
            assert status(str(key)) == 401
            assert status("service role key of the test") == 401


def test_the_pepper_and_the_internal_key_can_be_rotated(http_settings: Settings, database: Connection) -> None:
    def stored(key: str, pepper: str | None) -> bool:
        return database.execute("select from app.api_keys where key_hash = %s", [api_keys.hash_key(key, pepper)]).fetchone() is not None

    def statuses(settings: Settings, *keys: str) -> list[int]:
        with running_server(settings) as url:
            return [httpx.get(f"{url}/batch-lookups", headers={"x-api-key": key}).status_code for key in keys]

    first, without = (api_keys.create(http_settings.database_url, "rotated", pepper=pepper) for pepper in ("first pepper", None))
    second = Settings(database_url=http_settings.database_url, api_key_pepper="second pepper")
    assert statuses(second, first, without) == [401, 401]
    assert statuses(replace(second, api_key_pepper_previous="first pepper"), first, without) == [200, 401]
    assert statuses(replace(second, api_key_pepper_previous="none"), without) == [200]
    assert (stored(first, "first pepper"), stored(first, "second pepper"), stored(without, None)) == (False, True, False)
    assert statuses(second, first, without) == [200, 200]

    with running_server(replace(second, service_role_key="new key", service_role_key_previous="old key")) as url:
        for token, status in (("new key", 200), ("old key", 200), ("other key", 401)):
            headers = {"authorization": f"Bearer {token}", "x-supabase-internal": "true"}
            assert httpx.post(f"{url}/batch-lookups-worker", headers=headers).status_code == status


def test_keys_never_appear_in_the_log(client: OrganizationClient, server: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.get("/batch-lookups", params={"x-api-key": client.api_key})
    client.post("/batch-lookups", content="{")
    httpx.get(f"{server}/batch-lookups", headers={"authorization": f"Bearer {client.api_key}"})

    def ours() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name.startswith(("pyshell", "uvicorn.error", "psycopg"))]

    # The last line is written after its response has been sent.
    wait_until(lambda: set(ours()) >= {"GET /batch-lookups 400", "POST /batch-lookups 400", "GET /batch-lookups 401"})
    assert [message for message in ours() if client.api_key in message] == []


def test_tenants_are_separate_on_the_same_connection(new_client: NewClient, server: str) -> None:
    one, other = new_client(), new_client()
    job_id = one.submit()["job_id"]
    with httpx.Client(base_url=server) as shared:
        for _ in range(3):
            assert shared.get(f"/batch-lookups/{job_id}", headers={"x-api-key": one.api_key}).status_code == 200
            assert shared.get(f"/batch-lookups/{job_id}", headers={"x-api-key": other.api_key}).status_code == 404


@pytest.mark.parametrize("name", ["x-api-key", "Authorization"])
def test_a_credential_sent_twice_is_refused(name: str, server: str, client: OrganizationClient) -> None:
    value = client.api_key if name == "x-api-key" else "Bearer x"
    response = httpx.get(f"{server}/batch-lookups", headers=[(name, value), (name, value)])
    assert (response.status_code, response.json()["code"]) == (400, "two_credentials")
