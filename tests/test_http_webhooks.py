"""Webhooks over HTTP: the config, its secret, a test, the deliveries. The client also checks responses against openapi.json."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from tests.conftest import Connection
from tests.http_fixtures import NewClient, OrganizationClient, look_up, organization_of, site
from tests.timed import wait_until
from tests.webhook_receiver import FakeReceiver, Names

URL = "https://crm.example.com/hooks"


def test_without_a_config_there_is_no_url(client: OrganizationClient) -> None:
    config = client.get("/webhook-config").json()
    assert (config["url"], config["enabled"], config["events"], config["secrets"]) == (None, False, ["lookup.completed"], [])


def test_the_secret_is_shown_once(client: OrganizationClient) -> None:
    created = client.put("/webhook-config", json={"url": URL})
    assert created.status_code == 200
    assert created.headers["cache-control"] == "private, no-store"
    assert created.json()["signing_secret"].startswith("whsec_")
    assert "signing_secret" not in client.get("/webhook-config").json()
    assert "signing_secret" not in client.put("/webhook-config", json={"field_names": ["deal"]}).json()


def test_a_change_affects_only_what_it_names(client: OrganizationClient) -> None:
    client.put("/webhook-config", json={"url": URL, "events": ["lookup.failed", "batch.completed"]})
    client.put("/webhook-config", json={"field_names": ["deal", "stage"]})
    config = client.put("/webhook-config", json={}).json()
    assert (config["url"], config["field_names"]) == (URL, ["deal", "stage"])
    assert sorted(config["events"]) == ["batch.completed", "lookup.failed"]
    assert client.put("/webhook-config", json={"url": None}).json()["enabled"] is False


@pytest.mark.parametrize(
    "url",
    ["http://crm.example.com/", "https://10.0.0.1/", "https://[::1]/", "https://localhost:8443/", "https://169.254.169.254/latest/meta-data",
     "https://user:password@crm.example.com/", "crm.example.com", "https://", "https://crm.example.com/#part", 7, ["https://a.example"]],
)  # fmt: skip
def test_a_url_that_is_not_for_the_internet_is_refused(client: OrganizationClient, url: object) -> None:
    refused = client.put("/webhook-config", json={"url": url})
    assert refused.status_code == 400
    assert client.get("/webhook-config").json()["url"] is None
    if refused.json()["code"] == "refused_address":
        assert "WEBHOOKS_ALLOW_PRIVATE_NETWORKS" in refused.json()["hint"]


@pytest.mark.parametrize("body", ['{"url": ', "[]", "null", '{"url": "https://a.example", "secret": "x"}', '{"events": ["x"]}'])
def test_a_body_that_is_not_a_config_is_refused(client: OrganizationClient, body: str) -> None:
    assert client.put("/webhook-config", content=body).status_code == 400


def test_a_rotated_secret_stays_valid_for_a_while(client: OrganizationClient) -> None:
    first = client.put("/webhook-config", json={"url": URL}).json()
    rotated = client.post("/webhook-config/rotate-secret", json={"overlap_seconds": 600})
    assert rotated.json()["signing_secret"] != first["signing_secret"]
    assert [secret["expires_at"] is None for secret in rotated.json()["secrets"]] == [True, False]
    assert client.post("/webhook-config/rotate-secret").status_code == 200, "a body is not needed"
    assert client.post("/webhook-config/rotate-secret", json={"overlap_seconds": "1 day"}).status_code == 400


def test_a_deleted_config_is_gone(client: OrganizationClient) -> None:
    client.put("/webhook-config", json={"url": URL})
    assert client.delete("/webhook-config").json() == {"message": "Webhook config deleted"}
    assert client.get("/webhook-config").json()["url"] is None
    assert client.delete("/webhook-config").status_code == 404
    assert client.post("/webhook-config/rotate-secret").json()["code"] == "webhook_config_not_found"


def test_a_test_returns_its_outcome_immediately(developer: OrganizationClient, receiver: FakeReceiver) -> None:
    secret = developer.put("/webhook-config", json={"url": receiver.url}).json()["signing_secret"]
    receiver.status, receiver.body = 200, b"thank you"
    tested = developer.post("/webhook-config/test").json()
    assert (tested["delivered"], tested["http_status"], tested["response_body"]) == (True, 200, "thank you")
    [received] = receiver.received
    assert Webhook(secret).verify(received.body, received.headers)["type"] == "webhook.test"
    assert received.headers["webhook-id"] == tested["delivery_id"]
    receiver.status = 500
    developer.put("/webhook-config", json={"enabled": False})
    tested = developer.post("/webhook-config/test").json()
    assert (tested["delivered"], tested["http_status"]) == (False, 500)
    delivery = developer.get(f"/webhook-deliveries/{tested['delivery_id']}").json()
    assert list(delivery)[-2:] == ["body", "attempt_log"]
    assert (delivery["status"], delivery["attempt_log"][0]["http_status"]) == ("failed", 500)


def test_a_redirect_is_reported_with_its_target(developer: OrganizationClient, receiver: FakeReceiver) -> None:
    developer.put("/webhook-config", json={"url": receiver.url, "enabled": False})
    receiver.status, receiver.headers = 301, {"Location": f"{receiver.url}/in/"}
    tested = developer.post("/webhook-config/test").json()
    assert (tested["delivered"], tested["http_status"]) == (False, 301)
    assert tested["response_body"] == f"the receiver points to {receiver.url}/in/"
    delivery = developer.get(f"/webhook-deliveries/{tested['delivery_id']}").json()
    assert delivery["last_error"] == f"HTTP 301: redirects are not followed; the receiver points to {receiver.url}/in/"


@pytest.mark.parametrize("url", ["https://crm.example.com/in\n", "  https://crm.example.com/in ", "\ufeffHTTPS://crm.example.com/in\r\n"])
def test_a_url_is_taken_as_it_was_pasted(client: OrganizationClient, url: str) -> None:
    assert client.put("/webhook-config", json={"url": url}).json()["url"] == "https://crm.example.com/in"


def test_without_a_url_there_is_nothing_to_test(client: OrganizationClient) -> None:
    assert client.post("/webhook-config/test").json()["code"] == "webhook_url_missing"


def test_a_test_of_a_private_network_is_refused(client: OrganizationClient, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch).answers["inside.example"] = [["10.0.0.1"]]
    client.put("/webhook-config", json={"url": "https://inside.example/"})
    assert client.post("/webhook-config/test").json()["error_class"] == "refused_address"


def test_a_config_is_tested_ten_times_a_minute(client: OrganizationClient, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch).answers["inside.example"] = [["10.0.0.1"]]
    client.put("/webhook-config", json={"url": "https://inside.example/"})
    assert [client.post("/webhook-config/test").status_code for _ in range(11)] == [*(10 * [200]), 429]
    refused = client.post("/webhook-config/test")
    assert (refused.json()["code"], refused.headers["retry-after"]) == ("too_many_webhook_tests", "60")


def test_deliveries_are_listed_page_by_page(client: OrganizationClient, database: Connection) -> None:
    client.put("/webhook-config", json={"url": URL, "events": ["lookup.completed", "lookup.failed", "batch.completed"]})
    job = client.submit(*[site(f"deal-{n:03}", webhook_custom_fields={"n": n}) for n in range(5)])
    look_up(database, job, 4)
    look_up(database, job, 1, status=404)
    everything = client.get("/webhook-deliveries").json()
    assert (everything["total"], everything["next_cursor"]) == (6, None)
    ids = [delivery["id"] for delivery in everything["deliveries"]]
    assert ids == sorted(ids, reverse=True)
    first = client.get("/webhook-deliveries", params={"limit": 4}).json()
    rest = client.get("/webhook-deliveries", params={"limit": 4, "cursor": first["next_cursor"]}).json()
    assert [d["id"] for d in first["deliveries"] + rest["deliveries"]] == ids
    for name, value, count in (
        ("event", "lookup.failed", 1),
        ("status", "delivered", 0),
        ("job_id", job["job_id"], 6),
        ("job_id", str(uuid.uuid4()), 0),
    ):
        page = client.get("/webhook-deliveries", params={name: value}).json()
        assert (len(page["deliveries"]), page["total"]) == (count, count)
    body = client.get(f"/webhook-deliveries/{first['deliveries'][-1]['id']}").json()["body"]
    assert body["data"]["job_id"] == job["job_id"]


def test_a_single_lookup_sends_a_webhook_too(client: OrganizationClient) -> None:
    client.put("/webhook-config", json={"url": URL, "field_names": ["deal"]})
    answer = client.post("/incentives", json=site(webhook_custom_fields={"deal": 7, "secret": 8}))
    assert answer.status_code == 200, answer.text
    [delivery] = client.get("/webhook-deliveries").json()["deliveries"]
    assert (delivery["event"], delivery["job_id"], delivery["item_ids"]) == ("lookup.completed", None, None)
    data = client.get(f"/webhook-deliveries/{delivery['id']}").json()["body"]["data"]
    assert data["result"] == answer.json()
    assert (data["reference_id"], data["webhook_custom_fields"]) == ("deal-001", {"deal": 7})


def test_a_lookup_of_the_worker_sends_a_webhook_only_for_its_item(client: OrganizationClient, database: Connection) -> None:
    client.put("/webhook-config", json={"url": URL})
    job = client.submit()
    [(key,)] = database.execute("select api.internal_key()").fetchall()
    headers = {"authorization": f"Bearer {key}", "x-supabase-internal": "true", "x-organization-id": str(organization_of(database, job))}
    assert httpx.post(client.base_url.join("/incentives"), json=site(), headers=headers).status_code == 200
    assert client.get("/webhook-deliveries").json()["total"] == 0
    look_up(database, job, 1)
    assert client.get("/webhook-deliveries").json()["total"] == 1


def test_a_manual_run_of_the_worker_sends_webhooks_too(developer: OrganizationClient, receiver: FakeReceiver, database: Connection) -> None:
    developer.put("/webhook-config", json={"url": receiver.url})
    look_up(database, developer.submit(), 1)
    [(key,)] = database.execute("select api.internal_key()").fetchall()
    headers = {"authorization": f"Bearer {key}", "x-supabase-internal": "true"}
    assert httpx.post(developer.base_url.join("/batch-lookups-worker"), headers=headers, timeout=30).status_code == 200
    wait_until(lambda: developer.get("/webhook-deliveries", params={"status": "delivered"}).json()["total"] == 1)
    assert len(receiver.received) == 1


@pytest.mark.parametrize("params", [{"status": "lost"}, {"event": "x"}, {"job_id": "x"}, {"limit": "0"}, {"status": "\0"}])
def test_a_parameter_that_is_wrong_is_refused(client: OrganizationClient, params: dict[str, str]) -> None:
    assert client.get("/webhook-deliveries", params=params).status_code == 400


def test_failed_deliveries_are_sent_again_on_request(client: OrganizationClient, database: Connection) -> None:
    client.put("/webhook-config", json={"url": URL})
    look_up(database, client.submit(), 1)
    [delivery] = client.get("/webhook-deliveries").json()["deliveries"]
    database.execute(
        "update app.webhook_deliveries set status = 'failed', next_attempt_at = null, ended_at = now() where id = %s", [delivery["id"]]
    )
    resent = client.post(f"/webhook-deliveries/{delivery['id']}/resend")
    assert (resent.status_code, resent.json()["status"]) == (202, "pending")
    assert client.post("/webhook-deliveries/recover", json={"since": delivery["created_at"]}).json()["recovered"] == 0
    assert client.post("/webhook-deliveries/recover", json={"since": "yesterday"}).status_code == 400
    refused = client.post("/webhook-deliveries/recover")
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_since")
    client.put("/webhook-config", json={"enabled": False})
    assert client.post(f"/webhook-deliveries/{delivery['id']}/resend").json()["code"] == "webhooks_disabled"
    client.put("/webhook-config", json={"enabled": True})
    assert client.post(f"/webhook-deliveries/{uuid.uuid4()}/resend").status_code == 404
    assert client.post("/webhook-deliveries/x/resend").status_code == 404


def test_another_organization_sees_nothing(client: OrganizationClient, new_client: NewClient, database: Connection) -> None:
    client.put("/webhook-config", json={"url": URL})
    look_up(database, client.submit(), 1)
    [delivery] = client.get("/webhook-deliveries").json()["deliveries"]
    other = new_client()
    other.put("/webhook-config", json={"url": URL})
    assert other.get("/webhook-deliveries").json()["total"] == 0
    assert other.get(f"/webhook-deliveries/{delivery['id']}").status_code == 404
    assert other.post(f"/webhook-deliveries/{delivery['id']}/resend").status_code == 404


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.put("/webhook-config", json={}),
        lambda client: client.delete("/webhook-config"),
        lambda client: client.post("/webhook-config/test"),
        lambda client: client.post("/webhook-config/rotate-secret"),
        lambda client: client.post("/webhook-deliveries/recover", json={"since": "2026-11-24T09:30:00Z"}),
    ],
)
def test_writing_needs_its_scope(client: OrganizationClient, database: Connection, call: Callable[[OrganizationClient], object]) -> None:
    database.execute("update app.api_keys set scopes = '{webhooks:read}' where last_four = %s", [client.api_key[-4:]])
    assert client.get("/webhook-config").status_code == 200
    assert getattr(call(client), "status_code", None) == 403
