"""A person with a Clerk session: which organization they work for, and what they may do there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

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
    """A client of a server that takes the instance's tokens."""
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
    assert row == (slug, True)


def test_a_name_that_is_taken_opens_no_door(
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


def test_unknown_organizations_are_refused_when_the_setting_says_so(
    instance: ClerkInstance, portal: httpx.Client, organization: str, database: Connection
) -> None:
    database.execute("""select api.update_settings('{"create_clerk_organizations": false}')""")
    try:
        refused = portal.get("/batch-lookups", headers=session(instance, organization))
    finally:
        database.execute("""select api.update_settings('{"create_clerk_organizations": true}')""")
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


def test_a_session_without_an_organization_is_told_so(instance: ClerkInstance, portal: httpx.Client) -> None:
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


def test_keys_out_of_reach_are_no_fault_of_the_caller(http_settings: Settings, organization: str) -> None:
    with clerk_instance() as instance, running_server(replace(http_settings, clerk_issuer=instance.issuer)) as url:
        instance.status = 500
        unavailable = httpx.get(f"{url}/batch-lookups", headers=session(instance, organization))
        check_against_openapi(unavailable)
        assert (unavailable.status_code, unavailable.json()["code"]) == (503, "token_keys_unavailable")
        assert int(unavailable.headers["retry-after"]) > 0
