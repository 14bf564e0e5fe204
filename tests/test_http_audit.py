"""Audit events as the admins of an organization read them, and what they never contain."""

from __future__ import annotations

import uuid
from dataclasses import replace

import httpx
import pytest

from pyshell.settings import Settings
from tests.clerk_fixtures import clerk_instance
from tests.conftest import Connection
from tests.http_fixtures import NewClient, OrganizationClient, running_server


def test_each_change_is_listed_with_who_made_it(client: OrganizationClient, database: Connection) -> None:
    [me] = client.get("/api-keys").json()["api_keys"]
    made = client.post(
        "/api-keys", json={"name": "portal", "scopes": ["jobs:read", "keys:admin"], "expires_at": "2100-01-01T00:00:00Z"}
    ).json()
    rotated = client.post(f"/api-keys/{made['id']}/rotate").json()
    client.delete(f"/api-keys/{rotated['id']}")
    client.patch("/organization", json={"company": "acme"})
    secret = client.put("/webhook-config", json={"url": "https://example.com/?token=hidden"}).json()["signing_secret"]
    client.post("/webhook-config/rotate-secret")
    client.delete("/webhook-config")
    response = client.get("/audit-events")
    assert response.status_code == 200
    events = response.json()["audit_events"]
    caller = {"type": "api_key", "id": me["id"]}
    assert [(event["action"], event["target_id"]) for event in events] == [
        ("webhooks.deleted", None),
        ("webhooks.secret_rotated", None),
        ("webhooks.changed", None),
        ("organization.changed", None),
        ("api_key.revoked", rotated["id"]),
        ("api_key.rotated", made["id"]),
        ("api_key.created", rotated["id"]),
        ("api_key.created", made["id"]),
        ("api_key.created", me["id"]),
        ("organization.created", None),
    ]
    assert [event["actor"] for event in events[:-2]] == [caller] * 8
    assert {event["actor"]["type"] for event in events[-2:]} == {"operator"}
    assert events[7] == {
        "id": events[7]["id"],
        "organization_id": me["organization_id"],
        "action": "api_key.created",
        "actor": caller,
        "target_id": made["id"],
        "details": {
            "name": "portal",
            "prefix": "leap_live_",
            "scopes": ["jobs:read", "keys:admin"],
            "last_four": made["last_four"],
            "expires_at": "2100-01-01T00:00:00.000Z",
            "allowed_networks": None,
        },
        "created_at": events[7]["created_at"],
    }
    for told in (client.api_key, made["key"], rotated["key"], secret, "hidden"):
        assert told not in response.text
    assert database.execute("select count(*) from api.audit_events where organization_id = %s", [me["organization_id"]]).fetchone() == (10,)


def test_its_pages_follow_each_other(client: OrganizationClient) -> None:
    for number in range(5):
        client.post("/api-keys", json={"name": f"key {number}"})
    seen, path = [], "/audit-events?limit=2&action=api_key.created"
    while path:
        page = client.get(path)
        assert len(page.json()["audit_events"]) <= 2
        seen += [event["details"]["name"] for event in page.json()["audit_events"]]
        path = page.links["next"]["url"] if "next" in page.links else ""
    assert seen[:5] == [f"key {number}" for number in reversed(range(5))]
    assert len(seen) == 6


def test_other_organizations_and_other_scopes_see_nothing(client: OrganizationClient, new_client: NewClient, server: str) -> None:
    other = new_client()
    other.patch("/organization", json={"company": "globex"})
    assert "organization.changed" not in client.get("/audit-events").text
    reader = client.post("/api-keys", json={"scopes": ["jobs:read", "webhooks:read"]}).json()["key"]
    refused = httpx.get(f"{server}/audit-events", headers={"x-api-key": reader})
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert httpx.get(f"{server}/audit-events").status_code == 401


@pytest.mark.parametrize("query", ["action=%25", "action=API", "limit=0", "limit=501", "cursor=x", "offset=-1", "action=a&action=b"])
def test_a_wrong_parameter_is_refused(client: OrganizationClient, query: str) -> None:
    assert client.get(f"/audit-events?{query}").status_code == 400


def test_a_user_is_named_by_clerk_s_id(http_settings: Settings) -> None:
    with clerk_instance() as clerk, running_server(replace(http_settings, clerk_issuer=clerk.issuer)) as url:
        organization = f"org_{uuid.uuid4().hex}"
        headers = {"authorization": f"Bearer {clerk.token(org_id=organization, org_role='org:admin', org_slug=organization)}"}
        assert httpx.patch(f"{url}/organization", json={"company": "acme"}, headers=headers).status_code == 200
        changed, created = httpx.get(f"{url}/audit-events", headers=headers).json()["audit_events"]
        assert (changed["action"], changed["actor"]) == ("organization.changed", {"type": "user", "id": "user_1"})
        assert (created["action"], created["actor"]) == ("organization.created", {"type": "system", "id": None})
        member = {"authorization": f"Bearer {clerk.token(org_id=organization, org_role='org:member')}"}
        assert httpx.get(f"{url}/audit-events", headers=member).status_code == 403
