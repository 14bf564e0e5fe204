"""A person with a Clerk session: which organization they work for, and what they may do there."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import pytest
from psycopg.types.json import Jsonb

from pyshell.api import api_keys
from pyshell.api.clerk import membership
from pyshell.postgres.sqlstates import DatabaseError
from pyshell.settings import Settings
from tests.clerk_fixtures import ClerkInstance, clerk_instance
from tests.conftest import Connection
from tests.http_fixtures import OrganizationClient, check_against_openapi, running_server, site

ADMIN = "org:admin"


@pytest.fixture(scope="module")
def instance() -> Iterator[ClerkInstance]:
    with clerk_instance() as running:
        yield running


@pytest.fixture(scope="module")
def portal(instance: ClerkInstance, http_settings: Settings) -> Iterator[httpx.Client]:
    """A client of a server that accepts the instance's tokens."""
    with (
        running_server(replace(http_settings, clerk_issuer=instance.issuer)) as url,
        httpx.Client(base_url=url, timeout=30, event_hooks={"response": [check_against_openapi]}) as client,
    ):
        yield client


@pytest.fixture
def organization() -> str:
    return f"org_{uuid.uuid4().hex}"


def session(instance: ClerkInstance, organization: str, role: str = ADMIN, **claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {instance.token(org_id=organization, org_role=role, **claims)}"}


def test_a_session_works_for_its_organization(instance: ClerkInstance, portal: httpx.Client, organization: str) -> None:
    mine, others = session(instance, organization), session(instance, f"{organization}x")
    created = portal.post("/batch-lookups", json=[site()], headers=mine)
    assert created.status_code == 201
    job = f"/batch-lookups/{created.json()['job_id']}"
    assert portal.get(job, headers=mine).status_code == 200
    assert portal.get(job, headers=others).status_code == 404
    second_version = instance.token(v=2, o={"id": organization, "rol": "admin", "slg": "acme"})
    assert portal.get(job, headers={"authorization": f"bearer {second_version}"}).status_code == 200


def test_an_organization_seen_first_gets_the_id_made_of_its_clerk_id(
    instance: ClerkInstance, portal: httpx.Client, organization: str, database: Connection
) -> None:
    slug = f"acme-{organization[4:12]}"
    assert portal.get("/batch-lookups", headers=session(instance, organization, org_slug=slug)).status_code == 200
    row = database.execute(
        "select name, id = app.organization_id_of_clerk(clerk_organization_id) from app.organizations where clerk_organization_id = %s",
        [organization],
    ).fetchone()
    assert row == (f"clerk:{slug}", True)


def test_a_name_that_is_taken_gives_no_access(
    instance: ClerkInstance, portal: httpx.Client, organization: str, client: OrganizationClient
) -> None:
    job_id = client.submit()["job_id"]
    headers = session(instance, organization, org_slug=client.organization)
    assert portal.get(f"/batch-lookups/{job_id}", headers=headers).status_code == 404
    assert portal.get("/batch-lookups", headers=headers).json()["total"] == 0


def test_an_organization_may_be_linked(
    instance: ClerkInstance, portal: httpx.Client, organization: str, client: OrganizationClient, database: Connection
) -> None:
    job_id = client.submit()["job_id"]
    database.execute("select api.create_organization(%s, %s)", [client.organization, organization])
    assert portal.get(f"/batch-lookups/{job_id}", headers=session(instance, organization)).status_code == 200


def test_whoever_takes_a_name_first_gets_nothing_of_its_later_holder(
    instance: ClerkInstance, portal: httpx.Client, organization: str, http_settings: Settings
) -> None:
    slug = f"initech-{uuid.uuid4().hex}"
    attacker = session(instance, organization, org_slug=slug)
    assert portal.get("/organization", headers=attacker).status_code == 200
    key = {"x-api-key": api_keys.create(http_settings.database_url, slug, pepper=http_settings.api_key_pepper)}
    assert portal.post("/batch-lookups", json=[site()], headers=key).status_code == 201
    assert portal.get("/batch-lookups", headers=attacker).json()["total"] == 0
    with pytest.raises(DatabaseError, match="created through Clerk"):
        api_keys.create(http_settings.database_url, f"clerk:{slug}")
    mine = UUID(portal.get("/organization", headers=attacker).json()["id"])
    key = {"x-api-key": api_keys.create(http_settings.database_url, mine, pepper=http_settings.api_key_pepper)}
    assert portal.get("/organization", headers=key).json()["id"] == str(mine)


def test_an_organization_made_for_a_clerk_organization_is_the_same_in_sql(
    instance: ClerkInstance, portal: httpx.Client, organization: str, database: Connection
) -> None:
    database.execute("select api.create_organization(%s, %s)", [f"Hooli {organization}", organization])
    claims = instance.claims(org_id=organization, org_role=ADMIN)
    headers = session(instance, organization)
    job_id = portal.post("/batch-lookups", json=[site()], headers=headers).json()["job_id"]
    with database.transaction():
        database.execute(
            "select set_config('request.jwt.claims', %s, true), set_config('role', 'authenticated', true)", [json.dumps(claims)]
        )
        assert database.execute("select id::text from public.batch_lookup_jobs").fetchall() == [(job_id,)]
    with pytest.raises(DatabaseError, match="already linked to another one"):
        database.execute("select api.create_organization(%s, 'org_new')", [f"Hooli {organization}"])


SESSION = {"sid": "sess_1", "sub": "user_1"}


@pytest.mark.parametrize(
    "claims",
    [
        {"org_id": "org_1"},
        {"org_id": "org_1", "org_role": "org:admin", "v": 2},
        {"org_id": "org_1", "o": None},
        {"org_id": "org_1", "o": {"id": None}},
        {"org_id": "org_1", "org_role": "org:admin", "o": {"id": "org_2", "rol": "viewer"}},
        {"v": 2, "o": {"id": "org_2", "rol": "org:admin"}},
        {"v": 2, "o": "org_2"},
        {"org_id": 5},
        {"org_id": "user_1"},
        {"org_id": "org_1\n"},
        {"org_id": "org_" + "1" * 201},
        {"org_id": ["org_1"], "org_role": ["admin"]},
        {"org_id": "org_1", "org_role": "org:member"},
        {"org_id": "org_1", "org_role": "org:org:admin"},
        {"org_id": "org_1", "org_role": {"admin": 1}},
    ],
)
def test_python_and_sql_read_the_same_of_claims(claims: dict[str, Any], database: Connection) -> None:
    claims = SESSION | claims
    in_python = membership(claims)
    row = database.execute(
        "select app.clerk_organization_id_of_claims(%(claims)s), app.scopes_of_claims(%(claims)s), app.role_scopes(%(role)s)",
        {"claims": Jsonb(claims), "role": in_python.role if in_python else None},
    ).fetchone()
    assert row is not None
    assert row[0] == (in_python.clerk_organization_id if in_python else None)
    if in_python:
        assert row[1] == row[2]


def test_odd_claims_cause_no_server_error(instance: ClerkInstance, portal: httpx.Client, organization: str) -> None:
    def status(token: str) -> int:
        return portal.get("/batch-lookups", headers={"authorization": f"Bearer {token}"}).status_code

    assert status(instance.token(org_id=f"{organization}\0")) == 403
    assert status(instance.token(org_id=organization, org_slug="a\0", org_role="\0")) == 200
    assert status(instance.token(org_id=organization, org_slug="\ud800", org_role="\ud800")) == 200
    assert status(instance.token(org_id=organization, exp=10**400)) == 401
    assert status(instance.token(org_id=organization, sid=None)) == 401


def test_unknown_organizations_are_refused_if_the_setting_is_off(
    instance: ClerkInstance, portal: httpx.Client, organization: str, database: Connection
) -> None:
    database.execute("""select api.update_settings('{"create_clerk_organizations": false}')""")
    refused = portal.get("/batch-lookups", headers=session(instance, organization))
    assert (refused.status_code, refused.json()["code"]) == (403, "unknown_organization")
    assert database.execute("select from app.organizations where clerk_organization_id = %s", [organization]).fetchone() is None


@pytest.mark.parametrize(
    ("role", "reads", "writes"),
    [
        ("org:admin", 200, 201),
        ("admin", 200, 201),
        ("org:member", 200, 201),
        ("basic_member", 200, 201),
        ("org:auditor", 200, 403),
        ("", 200, 403),
    ],
)
def test_the_role_says_what_a_member_may_do(
    instance: ClerkInstance, portal: httpx.Client, organization: str, role: str, reads: int, writes: int
) -> None:
    headers = session(instance, organization, role)
    assert portal.get("/batch-lookups", headers=headers).status_code == reads
    assert portal.post("/batch-lookups", json=[site()], headers=headers).status_code == writes


def test_a_session_without_an_organization_is_refused_with_the_reason(instance: ClerkInstance, portal: httpx.Client) -> None:
    refused = portal.get("/batch-lookups", headers={"authorization": f"Bearer {instance.token()}"})
    assert (refused.status_code, refused.json()["code"]) == (403, "no_active_organization")


def test_a_bad_token_is_refused_with_the_reason(instance: ClerkInstance, portal: httpx.Client, organization: str) -> None:
    refused = portal.get("/batch-lookups", headers=session(instance, organization, exp=1))
    assert (refused.status_code, refused.json()["error"], refused.json()["hint"]) == (401, "Invalid token", "The token has expired.")
    both = portal.get("/batch-lookups", headers=session(instance, organization) | {"x-api-key": "leap_live_x"})
    assert both.status_code == 400


def test_a_session_is_no_internal_call(instance: ClerkInstance, portal: httpx.Client, organization: str) -> None:
    headers = session(instance, organization) | {"x-supabase-internal": "true"}
    assert portal.post("/batch-lookups-worker", headers=headers).status_code == 403


def test_unreachable_keys_are_not_blamed_on_the_caller(http_settings: Settings, organization: str) -> None:
    with clerk_instance() as instance, running_server(replace(http_settings, clerk_issuer=instance.issuer)) as url:
        instance.status = 500
        unavailable = httpx.get(f"{url}/batch-lookups", headers=session(instance, organization))
        check_against_openapi(unavailable)
        assert (unavailable.status_code, unavailable.json()["code"]) == (503, "token_keys_unavailable")
        assert int(unavailable.headers["retry-after"]) > 0
