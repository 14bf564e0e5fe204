"""The caller, and the lists for a form: devices, states and provinces, utilities."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from pyshell.api import api_keys
from pyshell.settings import Settings
from tests.http_fixtures import PEPPER, UNKNOWN_ID, NewClient, OrganizationClient, running_server

LISTS = ["/devices", "/device-categories", "/regions", "/utilities?postal_code=94102"]
DEVICE = {"id": 1, "name": "Air-source heat pump, ducted", "category_key": "heat_pump", "category_name": "Heat pump"}


def test_a_key_learns_its_organization_and_its_scopes(client: OrganizationClient) -> None:
    made = client.post("/api-keys", json={"name": "CRM", "scopes": ["webhooks:read"], "expires_at": "2100-01-01T00:00:00Z"}).json()

    response = client.get("/me", headers={"x-api-key": made["key"]})

    assert (response.status_code, response.headers["cache-control"]) == (200, "private, no-store")
    assert response.json() == {
        "organization": {"id": made["organization_id"], "name": client.organization},
        "caller": {"type": "api_key", "id": made["id"], "name": "CRM", "expires_at": "2100-01-01T00:00:00.000Z"},
        "scopes": ["webhooks:read"],
        "limits": {"requests_per_minute": 120000, "items_per_batch": 10000, "open_items": 200000},
    }


def test_two_organizations_are_distinguished(client: OrganizationClient, new_client: NewClient) -> None:
    other = new_client()
    mine, theirs = client.get("/me").json(), other.get("/me").json()
    assert (mine["organization"]["name"], theirs["organization"]["name"]) == (client.organization, other.organization)
    assert mine["caller"]["id"] != theirs["caller"]["id"]


def test_the_internal_credential_is_a_service_and_not_a_key(http_settings: Settings, client: OrganizationClient) -> None:
    secret = "the internal credential of this test"
    headers = {"authorization": f"Bearer {secret}", "x-supabase-internal": "true"}
    with running_server(replace(http_settings, service_role_key=secret)) as server:
        me = httpx.get(f"{server}/me", headers=headers | {"x-organization-id": client.get("/me").json()["organization"]["id"]}).json()
        assert me["caller"] == {"type": "service", "id": None, "name": None, "expires_at": None}
        assert httpx.get(f"{server}/me", headers=headers).json()["code"] == "organization_missing"
        unknown = httpx.get(f"{server}/me", headers=headers | {"x-organization-id": UNKNOWN_ID})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "organization_not_found")


def test_devices_are_listed_with_their_categories(client: OrganizationClient) -> None:
    devices = client.get("/devices").json()["devices"]
    assert devices[0] == DEVICE
    assert [device["id"] for device in devices] == sorted(device["id"] for device in devices)
    pumps = client.get("/devices", params={"category": "heat_pump"}).json()["devices"]
    assert pumps == [device for device in devices if device["category_key"] == "heat_pump"]

    categories = client.get("/device-categories").json()["device_categories"]
    assert {category["key"] for category in categories} >= {device["category_key"] for device in devices}
    [pump] = [category for category in categories if category["key"] == "heat_pump"]
    assert pump == {"key": "heat_pump", "name": "Heat pump", "typical_cost": 15000, "sizes": [{"unit": "ton", "typical_size": 3}]}


def test_regions_are_listed_as_addresses_name_them(client: OrganizationClient) -> None:
    regions = client.get("/regions").json()["regions"]
    assert len({(region["country_code"], region["state_or_province_code"]) for region in regions}) == len(regions) == 75
    texas = {"country_code": "US", "country_name": "United States", "state_or_province_code": "TX", "name": "Texas"}
    assert texas in regions
    assert client.get("/regions", params={"country_code": "CA"}).json()["regions"] == regions[-13:]
    refused = client.get("/regions", params={"country_code": "MX"})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_country_code")


def test_utilities_are_listed_for_a_postal_code(client: OrganizationClient) -> None:
    answer = client.get("/utilities", params={"postal_code": "94102"}).json()
    assert answer["postal_code"] == "94102"
    assert answer["utilities"][0] == {
        "eiaid": 14328,
        "name": "Pacific Gas & Electric",
        "country_code": "US",
        "state_or_province_code": "CA",
    }
    for query in ("", "?postal_code=9410", "?postal_code=D1A%201A1"):
        refused = client.get(f"/utilities{query}")
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_postal_code")


@pytest.mark.parametrize("path", LISTS)
def test_a_list_need_not_be_sent_twice(client: OrganizationClient, path: str) -> None:
    first = client.get(path)
    assert first.headers["cache-control"].startswith("private, max-age=")
    assert {name.strip() for name in first.headers["vary"].lower().split(",")} >= {"x-api-key", "authorization"}
    again = client.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert client.get(path, headers={"if-none-match": '"another"'}).status_code == 200


@pytest.mark.parametrize("path", ["/me", *LISTS])
def test_any_scope_suffices_and_no_credential_does_not(server: str, http_settings: Settings, client: OrganizationClient, path: str) -> None:
    for scope in ("applications:read", "incentives:write"):
        key = api_keys.create(http_settings.database_url, client.organization, scopes=[scope], pepper=PEPPER)
        assert httpx.get(server + path, headers={"x-api-key": key}).status_code == 200
    refused = httpx.get(server + path)
    assert (refused.status_code, refused.json()["code"]) == (401, "missing_credentials")
