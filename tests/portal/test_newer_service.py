"""A page that has been open since before a release: what the service has learned meanwhile is shown in its own words."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from tests.conftest import Connection
from tests.http_fixtures import Json, OrganizationClient, look_up, site
from tests.portal.conftest import Person, SignedIn
from tests.webhook_receiver import FakeReceiver

PROGRAM = {"program_id": "p", "program_name": "Heat pump rebate", "total_incentive": 900, "eligible_combinations": 1}
ANSWER = {"incentives": {"total_incentive_amount": 900, "by_program": [PROGRAM]}}


def change(page: Page, pattern: str, changed: Callable[[Json], Json]) -> None:
    def fulfill(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, json=changed(response.json()))

    page.route(re.compile(pattern), fulfill)


def change_rows(page: Page, pattern: str, changed: Callable[[Json], Json]) -> None:
    """Changes the rows of a list."""

    def change_all(body: Json) -> Json:
        return {name: [changed(row) for row in value] if isinstance(value, list) else value for name, value in body.items()}

    change(page, pattern, change_all)


def test_a_batch_with_states_of_a_newer_service_is_shown(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = client.submit(site("deal-1"))
    look_up(database, job, 1, {"error": "no"}, status=400)
    page = signed_in("keys").page

    def put_on_hold(batch: Json) -> Json:
        return batch | {"status": "on_hold", "completed_at": None}

    def set_aside(item: Json) -> Json:
        return item | {"status": "set_aside"}

    def hand_over(item: Json) -> Json:
        return set_aside(item) | {"attempts": [attempt | {"outcome": "hand_over"} for attempt in item["attempts"]]}

    change_rows(page, "/batch-lookups\\?", put_on_hold)
    change(page, f"/batch-lookups/{job['job_id']}(\\?|$)", put_on_hold)
    change_rows(page, "/items\\?", set_aside)
    change(page, "/items/0", hand_over)
    page.get_by_role("link", name="Batches", exact=True).click()
    expect(page.get_by_role("row").nth(1)).to_contain_text("On hold")
    page.get_by_role("row").nth(1).get_by_role("link").first.click()
    expect(page.get_by_role("region", name="Progress")).to_contain_text("On hold")
    expect(page.get_by_role("region", name="Progress")).not_to_contain_text("NaN")
    expect(page.locator("[data-live]")).to_have_text(re.compile("^On hold: "))
    expect(page.get_by_role("row", name=re.compile("deal-1"))).to_contain_text("Set aside")
    page.get_by_role("link", name="deal-1").click()
    story = page.get_by_role("dialog").get_by_role("listitem")
    expect(story.nth(1)).to_contain_text("Hand over")
    expect(story.last).to_contain_text("set aside")


def test_a_batch_that_waits_for_something_new_says_so(signed_in: SignedIn, client: OrganizationClient) -> None:
    job = client.submit(site("deal-1"), site("deal-2"))
    page = signed_in("keys").page
    change(page, f"/batch-lookups/{job['job_id']}(\\?|$)", lambda batch: batch | {"waiting_for": "second_opinion"})
    page.goto(f"{page.url.partition('#')[0]}#/batches/{job['job_id']}")
    banner = page.get_by_role("region", name="Waiting for you")
    expect(banner).to_have_text("2 sites wait (Second opinion).")


def test_an_application_moves_to_a_status_that_is_new(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    client.patch("/organization", json={"company": "acme"})
    job = client.submit(site("deal-7", create_application=True))
    look_up(database, job, 1, ANSWER)
    page = signed_in("keys").page

    [application] = client.get("/applications").json()["applications"]
    change_rows(page, "/applications\\?", lambda row: row | {"application_status": "on_hold", "next_statuses": ["sent_back"]})
    moved = application | {"application_status": "sent_back", "next_statuses": []}
    page.route(re.compile("/applications/"), lambda route: route.fulfill(json=moved))
    page.get_by_role("link", name="Applications").click()
    status = page.get_by_label(re.compile("Status of application"))
    expect(status.get_by_role("option")).to_have_text(["On hold", "Sent back"])
    status.select_option("sent_back")
    expect(page.get_by_role("status").last).to_have_text("deal-7: sent back")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_role("row").nth(1)).to_contain_text("Sent back")


def test_events_that_are_new_stay_chosen(page: Page, developer: OrganizationClient, receiver: FakeReceiver) -> None:
    developer.put("/webhook-config", json={"url": receiver.url, "events": ["batch.completed"]})
    change(page, "/webhook-config$", lambda config: config | {"events": ["batch.completed", "batch.started"]})
    Person(page, str(developer.base_url)).sign_in(developer.api_key, "webhooks")
    expect(page.get_by_role("checkbox", name="batch.started")).to_be_checked()
    page.unroute_all()
    sent: list[Json] = []

    def save(route: Route) -> None:
        sent.append(route.request.post_data_json or {})
        route.fulfill(json=developer.get("/webhook-config").json())

    page.route(re.compile("/webhook-config$"), save)
    page.get_by_role("checkbox", name="A batch has been cancelled").check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").last).to_have_text("Saved")
    [changes] = sent
    assert set(changes["events"]) == {"batch.completed", "batch.cancelled", "batch.started"}


@pytest.mark.parametrize(
    ("screen", "pattern", "changed", "words"),
    [
        ("reports", "/incentive-reports\\?", {"status": "being_checked"}, "Being checked"),
        ("webhooks", "/webhook-deliveries\\?", {"status": "put_off"}, "Put off"),
        ("audit", "/audit-events\\?", {"actor": {"type": "support_agent", "id": None}}, "Support agent"),
    ],
    ids=["reports", "webhooks", "audit"],
)
def test_lists_with_states_of_a_newer_service_are_shown(
    signed_in: SignedIn,
    client: OrganizationClient,
    database: Connection,
    receiver: FakeReceiver,
    screen: str,
    pattern: str,
    changed: Json,
    words: str,
) -> None:
    client.post("/api-keys", json={"name": "CRM"})
    client.put("/webhook-config", json={"url": "https://example.com/", "events": ["batch.completed"]})
    look_up(database, client.submit(site("deal-1")), 1, ANSWER)
    page = signed_in("keys").page
    change_rows(page, pattern, lambda row: row | changed)
    page.goto(f"{page.url.partition('#')[0]}#/{screen}")
    expect(page.locator("tbody tr").first).to_contain_text(words)


def test_a_key_without_every_scope_is_not_said_to_do_everything(signed_in: SignedIn, client: OrganizationClient) -> None:
    scopes = [scope for scope in client.get("/me").json()["scopes"] if scope != "keys:admin"]
    client.post("/api-keys", json={"name": "CRM", "scopes": scopes})
    page = signed_in("usage").page

    def add_scope(key: Json) -> Json:
        return key | {"scopes": [*key["scopes"], "exports:read"]} if key["name"] == "CRM" else key

    change_rows(page, "/api-keys\\?", add_scope)
    page.get_by_role("link", name="API keys").click()
    row = page.get_by_role("row", name="CRM")
    expect(row).to_contain_text("exports:read")
    expect(row).not_to_contain_text("everything")
