"""API keys, webhooks and applications."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.conftest import Connection
from tests.http_fixtures import NewClient, OrganizationClient, look_up, site
from tests.portal.conftest import Person, SignedIn
from tests.webhook_receiver import FakeReceiver


def test_keys_are_made_shown_once_rotated_and_revoked(signed_in: SignedIn, client: OrganizationClient) -> None:
    person = signed_in("keys")
    page = person.page
    page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox", name="Name").fill("CRM")
    dialog.get_by_role("textbox", name="Networks").fill("203.0.113.0/24")
    dialog.get_by_role("checkbox", name="See reports").uncheck()
    person.look("keys-new")
    dialog.get_by_role("button", name="Create the key").click()
    key = page.locator(".secret code")
    expect(key).to_have_text(re.compile(r"leap_live_\w{49}"))
    page.keyboard.press("Escape")
    expect(key).to_have_count(0)
    expect(page.get_by_role("button", name="New key")).to_be_focused()
    [made] = [key for key in client.get("/api-keys").json()["api_keys"] if key["name"] == "CRM"]
    assert made["allowed_networks"] == ["203.0.113.0/24"]
    assert "reports:read" not in made["scopes"]
    assert "jobs:read" in made["scopes"]

    page.get_by_role("button", name="Rotate CRM").click()
    page.get_by_role("button", name="Create the new key").click()
    expect(key).to_have_text(re.compile(r"leap_live_\w{49}"))
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Rotate CRM").last).to_be_focused()
    networks = ["2001:db8:1234:5678::/64", "198.51.100.0/24", "2001:db8:1234:5678:9abc:def0:1234:5678/128"]
    client.post("/api-keys", json={"name": "Of several networks", "scopes": ["applications:write"], "allowed_networks": networks})
    page.reload()
    expect(page.get_by_text("Of several networks")).to_be_visible()
    person.look("keys")
    for left in (1, 0):
        page.get_by_role("button", name="Revoke CRM").first.click()
        page.get_by_role("button", name="Revoke the key").click()
        expect(page.get_by_role("button", name="Revoke CRM")).to_have_count(left)
    expect(page.get_by_text("revoked, ")).to_have_count(2)


def test_applications_move_on(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    client.patch("/organization", json={"company": "acme"})
    program = {"program_id": "p", "program_name": "Heat pump rebate", "total_incentive": 900, "eligible_combinations": 1}
    job = client.submit(site("deal-7", create_application=True))
    look_up(database, job, 1, {"incentives": {"total_incentive_amount": 900, "by_program": [program]}})
    [application] = client.get("/applications").json()["applications"]
    person = signed_in("applications")
    status = person.page.get_by_label(f"Status of application {application['id']}")
    person.look("applications")
    status.select_option(application["next_statuses"][0])
    expect(person.page.get_by_role("status").last).to_contain_text("deal-7")
    moved = client.get(f"/applications/{application['id']}").json()
    assert moved["application_status"] == application["next_statuses"][0]

    person.page.get_by_role("link", name="deal-7").click()
    details = person.page.get_by_role("dialog", name=f"Application {application['id']}")
    expect(details).to_contain_text("Heat pump rebate")
    person.look("application")
    [*_, last] = details.locator("footer button").all_inner_texts()
    details.get_by_role("button", name=last).click()
    expect(details.locator("dd").first).to_have_text(last)
    again = client.get(f"/applications/{application['id']}").json()
    assert again["application_status"] == moved["next_statuses"][-1]
    person.page.reload()
    expect(details.locator("dd").first).to_have_text(last)


def test_an_application_that_somebody_else_moves_shows_where_it_is(
    signed_in: SignedIn, client: OrganizationClient, database: Connection
) -> None:
    client.patch("/organization", json={"company": "acme"})
    program = {"program_id": "p", "program_name": "Heat pump rebate", "total_incentive": 900, "eligible_combinations": 1}
    job = client.submit(site("deal-7", create_application=True))
    look_up(database, job, 1, {"incentives": {"total_incentive_amount": 900, "by_program": [program]}})
    [application] = client.get("/applications").json()["applications"]
    page = signed_in(f"applications?application={application['id']}").page
    details = page.get_by_role("dialog", name=f"Application {application['id']}")
    expect(details.locator("dd").first).to_have_text("Not started")
    for status in ("in_progress", "awaiting_partner"):
        client.patch(f"/applications/{application['id']}", json={"application_status": status})
    details.get_by_role("button", name="In progress").click()
    expect(details.get_by_role("alert")).to_contain_text("An application cannot go from awaiting_partner to in_progress")
    expect(details.locator("dd").first).to_have_text("Awaiting the partner")
    expect(details.locator("footer button")).to_have_text(["Completed"])


def test_an_endpoint_is_set_tested_and_sent_to_again(page: Page, developer: OrganizationClient, receiver: FakeReceiver) -> None:
    receiver.status, receiver.body = 500, b"out of order"
    person = Person(page, str(developer.base_url))
    person.sign_in(developer.api_key, "webhooks")
    page.get_by_role("textbox", name="Endpoint").fill(receiver.url)
    page.get_by_role("checkbox", name="A batch has ended").check()
    page.get_by_role("button", name="Save").click()
    secret = page.get_by_role("dialog", name="The signing secret")
    expect(secret.locator(".secret code")).to_have_text(re.compile("whsec_.+"))
    page.keyboard.press("Escape")
    assert set(developer.get("/webhook-config").json()["events"]) == {"lookup.completed", "batch.completed"}

    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_text("The endpoint did not accept the test: HTTP 500")).to_contain_text("It answered: out of order")
    page.get_by_role("button", name="Reload").click()
    delivery = page.get_by_role("region", name="Deliveries").get_by_role("link", name="test")
    person.look("webhooks")
    delivery.click()
    expect(page.get_by_role("dialog").get_by_text("HTTP 500, after")).to_be_visible()
    person.look("webhooks-delivery")
    page.get_by_role("button", name="Send it again").click()
    expect(page.get_by_role("dialog")).to_contain_text("Due")
    page.keyboard.press("Escape")

    developer.put("/webhook-config", json={"url": "http://127.0.0.1:1/"})
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_text("The endpoint did not accept the test: no connection, or it was lost, after")).to_be_visible()


def test_saving_keeps_what_others_have_set(page: Page, developer: OrganizationClient, receiver: FakeReceiver) -> None:
    developer.put("/webhook-config", json={"url": receiver.url, "events": ["batch.completed", "lookup.failed"]})
    Person(page, str(developer.base_url)).sign_in(developer.api_key, "webhooks")
    page.get_by_role("checkbox", name="A batch has been cancelled").check()
    developer.put("/webhook-config", json={"field_names": ["deal_id"], "bundle_items": True, "enabled": False})
    with page.expect_request(lambda request: request.method == "PUT") as saved:
        page.get_by_role("button", name="Save").click()
    assert list(saved.value.post_data_json or {}) == ["events"]
    expect(page.get_by_role("textbox", name="Your fields to send")).to_have_value("deal_id")
    config = developer.get("/webhook-config").json()
    assert (config["field_names"], config["bundle_items"], config["enabled"]) == (["deal_id"], True, False)
    assert set(config["events"]) == {"batch.completed", "lookup.failed", "batch.cancelled"}

    with page.expect_request(lambda request: request.method == "PUT") as saved:
        page.get_by_role("button", name="Save").click()
    assert saved.value.post_data_json == {}


def test_what_was_missed_is_recovered(page: Page, developer: OrganizationClient, receiver: FakeReceiver, database: Connection) -> None:
    developer.put("/webhook-config", json={"url": receiver.url, "events": ["batch.completed"], "enabled": False})
    job = developer.submit(site())
    look_up(database, job, 1, {"incentives": {"total_incentive_amount": 900}})
    person = Person(page, str(developer.base_url))
    person.sign_in(developer.api_key, "webhooks?status=failed")
    missed = page.get_by_role("region", name="Deliveries").get_by_role("link", name="batch.completed")
    expect(missed).to_have_count(1)
    page.get_by_role("checkbox", name="Enabled").check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").last).to_contain_text("Saved")
    page.get_by_role("button", name="Recover…").click()
    page.get_by_label("Since").fill("2020-01-01T00:00")
    person.look("webhooks-recover")
    page.get_by_role("button", name="Send them again").click()
    expect(missed).to_have_count(0)
    [delivery] = developer.get("/webhook-deliveries").json()["deliveries"]
    assert delivery["status"] == "pending"


def test_the_lookups_are_counted_by_day_and_batch(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = client.post("/batch-lookups", params={"name": "March portfolio"}, json=[site(f"deal-{number}") for number in range(3)]).json()
    look_up(database, job, 3, {"incentives": {"total_incentive_amount": 900}})
    person = signed_in("usage")
    rows = person.page.locator("tbody tr")
    expect(rows).to_have_text([re.compile("March portfolio.*3")])
    expect(person.page.locator(".figure span")).to_have_text([re.compile("^lookups in "), "lookups in the days below"])
    person.look("usage")
    person.page.get_by_label("before").fill("2020-01-01")
    expect(rows).to_have_count(0)
    organization = client.get(f"/batch-lookups/{job['job_id']}").json()["organization_id"]
    for limit, told in ((4, "75% of the limit of 4"), (0, "the limit of 0")):
        database.execute("select api.set_monthly_lookups(%s, %s)", [organization, limit])
        person.page.reload()
        expect(person.page.locator(".figure small")).to_have_text(told)


def test_a_year_of_usage_can_be_typed_while_figures_arrive(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    look_up(database, client.submit(site()), 1, {"incentives": {"total_incentive_amount": 900}})
    page, asked = signed_in("usage").page, list[str]()
    page.on("request", lambda request: asked.append(request.url) if "created_from" in request.url else None)
    page.get_by_label("before").fill("2099-01-01")
    expect(page).to_have_url(re.compile("before=2099-01-01"))
    first = page.get_by_label("From")
    first.focus()
    page.keyboard.type("0101")
    for digit in "2026":
        page.keyboard.type(digit)
        # As if something else had changed on the screen meanwhile.
        with page.expect_response(re.compile("before=2098")):
            page.evaluate("location.hash = location.hash.replace(/&?before=\\d+/, '&before=2098').replace(/$/, '&again')")
        page.evaluate("location.hash = location.hash.replace('before=2098', 'before=2099')")
    expect(first).to_have_value("2026-01-01")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert [url for url in asked if "created_from=2026-01-01" not in url] == []


def test_a_single_lookup_is_called_one(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    look_up(database, client.submit(site()), 1, {"incentives": {"total_incentive_amount": 900}})
    page = signed_in("usage").page
    expect(page.locator(".figure span")).to_have_text([re.compile("^lookup in "), "lookup in the days below"])


def test_a_batch_without_a_name_is_called_the_same_everywhere(
    signed_in: SignedIn, client: OrganizationClient, database: Connection
) -> None:
    job = client.submit(site("deal-1"), site("deal-2"))
    look_up(database, job, 2, {"incentives": {"total_incentive_amount": 900}})
    name = client.get(f"/incentive-reports/{job['report']['id']}").json()["name"]
    person = signed_in("batches")
    page, asked = person.page, list[str]()
    page.get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    page.goto(f"{person.server}/portal#/reports")
    expect(page.get_by_role("link", name=name)).to_be_visible()
    page.on("request", lambda request: asked.append(request.url) if job["job_id"] in request.url else None)
    page.goto(f"{person.server}/portal#/usage")
    expect(page.get_by_role("link", name=name)).to_be_visible()
    client.delete(f"/batch-lookups/{job['job_id']}")
    page.reload()
    expect(page.locator("tbody tr")).to_contain_text("Deleted batch")
    expect(page.locator("tbody a")).to_have_count(0)
    assert asked == []


def test_who_did_what_is_listed(signed_in: SignedIn, client: OrganizationClient) -> None:
    made = client.post("/api-keys", json={"name": "CRM"}).json()
    client.delete(f"/api-keys/{made['id']}")
    person = signed_in("audit")
    page = person.page
    revoked = page.get_by_role("row", name=re.compile("API key revoked"))
    expect(revoked).to_contain_text(made["id"])
    expect(revoked).to_contain_text(str(client.get("/me").json()["caller"]["id"]))
    person.look("audit")
    page.get_by_label("Action").select_option("API key created")
    expect(revoked).to_have_count(0)
    expect(page.get_by_role("row", name=re.compile("API key created"))).not_to_have_count(0)
    assert "action=api_key.created" in page.url


def test_whoever_rotates_their_own_key_continues_with_the_new_one(person: Person, client: OrganizationClient) -> None:
    own = client.post("/api-keys", json={"name": "Mine", "scopes": ["keys:admin"]}).json()
    person.sign_in(own["key"], "keys")
    page = person.page
    page.get_by_role("button", name="Rotate Mine").click()
    expect(page.get_by_role("dialog")).to_contain_text("You are signed in with the old one")
    page.get_by_label("When").select_option("at once")
    page.get_by_role("button", name="Create the new key").click()
    shown = page.locator(".secret code")
    expect(shown).to_have_text(re.compile(r"leap_live_\w{49}"))
    assert shown.inner_text() != own["key"]
    expect(page.get_by_text("expired, ")).to_have_count(1)
    page.keyboard.press("Escape")
    page.reload()
    page.get_by_role("button", name="Revoke Mine").click()
    expect(page.get_by_role("dialog")).to_contain_text("will be signed out")
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_screen_stays_live_with_the_key_that_replaces_the_own_one(
    person: Person, client: OrganizationClient, database: Connection
) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(4)))
    own = client.post("/api-keys", json={"name": "Mine", "scopes": ["keys:admin", "jobs:read"]}).json()
    person.sign_in(own["key"], "keys")
    page, held = person.page, list[Route]()
    page.route(re.compile("/rotate$"), lambda route: held.append(route))
    page.get_by_role("button", name="Rotate Mine").click()
    page.get_by_label("When").select_option("at once")
    with page.expect_request(re.compile("/rotate$")):
        page.get_by_role("button", name="Create the new key").click()
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Batches", exact=True).click()
    live = page.get_by_text("Live", exact=True)
    expect(live).to_be_visible()
    held[0].continue_()
    expect(page.locator(".secret code")).to_be_visible()
    page.keyboard.press("Escape")
    expect(live).to_be_visible()
    look_up(database, job, 1, {"incentives": {"total_incentive_amount": 900}})
    expect(page.get_by_role("row").nth(1)).to_contain_text("25%")
    expect(live).to_be_visible()


def test_a_click_beside_a_dialog_loses_neither_what_was_typed_nor_a_secret(signed_in: SignedIn) -> None:
    page = signed_in("keys").page
    page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    name = dialog.get_by_role("textbox", name="Name")
    name.fill("CRM")
    box = name.bounding_box()
    assert box is not None
    # Selecting text with the mouse may end outside the dialog.
    page.mouse.move(box["x"] + 60, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(20, 300)
    page.mouse.up()
    expect(name).to_have_value("CRM")
    page.mouse.click(20, 300)
    expect(name).to_have_value("CRM")
    dialog.get_by_role("button", name="Create the key").click()
    expect(page.locator(".secret code")).to_be_visible()
    page.mouse.click(20, 300)
    expect(page.locator(".secret code")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keys", exact=True).click()
    expect(dialog).to_be_visible()
    page.mouse.click(20, 300)
    expect(dialog).to_have_count(0)


@pytest.mark.parametrize("page", [{"permissions": ["clipboard-write", "clipboard-read"]}, {}], indirect=True, ids=["asked", "refused"])
def test_a_secret_is_copied_and_the_dialog_says_so(signed_in: SignedIn) -> None:
    """The browser denies the clipboard to pages over HTTP from another machine."""
    page = signed_in("keys").page
    page.get_by_role("button", name="New key").click()
    page.get_by_role("button", name="Create the key").click()
    key = page.locator(".secret code").inner_text()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Copy").click()
    expect(dialog.get_by_role("status")).to_have_text("Secret copied")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New key").click()
    name = dialog.get_by_role("textbox", name="Name")
    name.focus()
    page.keyboard.press("Control+v")
    expect(name).to_have_value(key)


def test_what_is_wrong_with_a_field_is_said_beside_it_in_words(signed_in: SignedIn) -> None:
    person = signed_in("keys")
    page = person.page
    page.get_by_role("button", name="New key").click()
    networks, expires = page.get_by_label("Networks"), page.get_by_label("Expires")
    networks.fill("the office")
    expires.fill("2020-01-01T00:00")
    page.get_by_role("button", name="Create the key").click()
    expect(networks).to_be_focused()
    expect(networks).to_have_accessible_description(re.compile("^Networks look like 203.0.113.0/24"))
    person.look("keys-wrong")
    networks.fill("")
    page.get_by_role("button", name="Create the key").click()
    expect(expires).to_be_focused()
    expect(expires).to_have_accessible_description("The expiry date must be in the future.")
    expect(networks).not_to_have_attribute("aria-invalid", "true")
    expires.fill("")
    page.get_by_role("button", name="Create the key").click()
    expect(page.locator(".secret code")).to_be_visible()


def test_a_test_goes_to_the_endpoint_as_it_is_saved(page: Page, developer: OrganizationClient, receiver: FakeReceiver) -> None:
    developer.put("/webhook-config", json={"url": receiver.url})
    person = Person(page, str(developer.base_url))
    person.sign_in(developer.api_key, "webhooks")
    page.get_by_role("textbox", name="Endpoint").fill("https://example.com/new")
    page.get_by_role("button", name="New signing secret…").click()
    page.get_by_role("button", name="Create the new secret").click()
    expect(page.locator(".secret code")).to_have_text(re.compile("whsec_.+"))
    page.keyboard.press("Escape")
    held = list[Route]()
    page.route(re.compile("/webhook-config/test"), lambda route: held.append(route))
    page.get_by_role("button", name="Send a test").click()
    outcome = page.get_by_role("region", name="Endpoint").get_by_role("status")
    expect(outcome).to_have_text(f"A test is on its way to {receiver.url}…")
    page.get_by_role("button", name="Send a test").click(force=True)
    [test] = held
    test.continue_()
    expect(outcome).to_contain_text("The endpoint accepted the test: HTTP 204, after")
    expect(outcome).to_contain_text(f"at {receiver.url}.")
    expect(page.get_by_role("region", name="Deliveries").get_by_role("link", name="test")).to_be_visible()
    expect(page.get_by_role("textbox", name="Endpoint")).to_have_value("https://example.com/new")
    page.goto(f"{person.server}/portal#/webhooks?delivery=01a22667-485d-7524-b47f-b1f8e9431666")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("not found")
    expect(page.get_by_role("dialog").get_by_text("Loading…")).to_have_count(0)


def test_what_was_typed_is_there_after_the_key_has_ended(person: Person, client: OrganizationClient, new_client: NewClient) -> None:
    made = client.post("/api-keys", json={"scopes": ["keys:admin", "jobs:read", "reports:read"]}).json()
    person.sign_in(made["key"], "keys")
    page = person.page
    page.get_by_role("button", name="New key").click()
    page.get_by_role("textbox", name="Name").fill("CRM")
    page.get_by_label("Kind").select_option("test")
    page.get_by_role("checkbox", name="See reports").uncheck()
    client.delete(f"/api-keys/{made['id']}")
    page.get_by_role("button", name="Create the key").click()
    expect(page.get_by_role("alert")).to_contain_text("sign in again. What you typed is kept for when you open the form again.")

    # Not for others.
    other = new_client()
    for key in (other.api_key, client.api_key):
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("button", name="New key").click()
        kept = key == client.api_key
        expect(page.get_by_role("textbox", name="Name")).to_have_value("CRM" if kept else "")
        expect(page.get_by_label("Kind")).to_have_value("test" if kept else "live")
        expect(page.get_by_role("checkbox", name="See reports")).to_be_checked(checked=not kept)
        if not kept:
            page.keyboard.press("Escape")
            page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Create the key").click()
    expect(page.locator(".secret code")).to_have_text(re.compile(r"leap_test_\w{49}"))
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New key").click()
    expect(page.get_by_role("textbox", name="Name")).to_have_value("")


def test_webhooks_as_typed_are_there_after_the_key_has_ended(page: Page, developer: OrganizationClient, receiver: FakeReceiver) -> None:
    made = developer.post("/api-keys", json={"scopes": ["webhooks:read", "webhooks:write"]}).json()
    Person(page, str(developer.base_url)).sign_in(made["key"], "webhooks")
    page.get_by_role("textbox", name="Endpoint").fill(receiver.url)
    page.get_by_role("checkbox", name="A batch has ended").check()
    developer.delete(f"/api-keys/{made['id']}")
    page.get_by_role("button", name="Save").click()
    page.get_by_label("API key").fill(developer.api_key)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("textbox", name="Endpoint")).to_have_value(receiver.url)
    expect(page.get_by_role("checkbox", name="A batch has ended")).to_be_checked()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog", name="The signing secret")).to_be_visible()
    assert developer.get("/webhook-config").json()["url"] == receiver.url


def test_who_may_not_change_webhooks_cannot_save_them(person: Person, client: OrganizationClient) -> None:
    made = client.post("/api-keys", json={"scopes": ["webhooks:read"]}).json()
    person.sign_in(made["key"], "webhooks")
    expect(person.page.get_by_role("textbox", name="Endpoint")).to_be_disabled()
    expect(person.page.get_by_role("button", name="Save")).to_be_disabled()
