"""What belongs to the organization: its company, and its own names of devices."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Dialog, Route, expect

from tests.http_fixtures import OrganizationClient
from tests.portal.conftest import Person, SignedIn
from tests.portal.test_network import cut_off

LONG = "the ductless mini split of " + "w" * 170


def test_the_company_is_set_where_applications_miss_it(signed_in: SignedIn, client: OrganizationClient) -> None:
    person = signed_in("applications")
    page = person.page
    person.look("applications-without-company")
    page.get_by_role("link", name="Set the company").click()
    company, save = page.get_by_label("Company"), page.get_by_role("button", name="Save")
    expect(page.get_by_role("navigation", name="Main").get_by_role("link", name="Organization")).to_have_attribute("aria-current", "page")
    expect(save).to_be_disabled()
    company.fill("Acme Inc.")
    company.press("Enter")
    expect(company).to_be_focused()
    expect(company).to_have_accessible_description(re.compile("^A company has up to 100 letters"))
    person.look("organization-wrong")
    company.fill(" acme ")
    save.click()
    expect(page.get_by_role("status").last).to_have_text("Saved")
    expect(company).to_have_value("acme")
    expect(page.get_by_text("Not saved")).to_have_count(0)
    assert client.get("/organization").json()["company"] == "acme"
    page.get_by_role("link", name="Applications").click()
    expect(page.get_by_text("No applications.")).to_be_visible()
    expect(page.get_by_role("link", name="Set the company")).to_have_count(0)


def test_typed_text_outlives_the_screen_and_a_response_that_breaks_off(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in("organization").page
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    company, save = page.get_by_label("Company"), page.get_by_role("button", name="Save")
    company.fill("acme")
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("heading", name="Usage", level=1)).to_be_visible()
    with page.expect_event("dialog"):
        page.close(run_before_unload=True)
    page.keyboard.press("g")
    page.keyboard.press("o")
    expect(company).to_have_value("acme")
    expect(page.get_by_text("Not saved")).to_be_visible()
    assert asked == ["beforeunload"]
    with cut_off() as port:
        page.route(
            re.compile("/organization$"),
            lambda route: route.continue_(url=f"http://127.0.0.1:{port}/") if route.request.method == "PATCH" else route.continue_(),
        )
        save.click()
        expect(page.get_by_role("alert")).to_contain_text("The response was cut off.")
    page.unroute_all()
    expect(company).to_have_value("acme")
    save.click()
    expect(page.get_by_role("status").last).to_have_text("Saved")
    assert client.get("/organization").json()["company"] == "acme"
    company.fill("globex")
    page.get_by_role("button", name="Never mind").click()
    expect(company).to_have_value("acme")


def test_two_people_who_set_the_company_at_once_learn_of_each_other(signed_in: SignedIn, client: OrganizationClient) -> None:
    person = signed_in("organization")
    page = person.page
    company, save = page.get_by_label("Company"), page.get_by_role("button", name="Save")
    company.fill("acme")
    client.patch("/organization", json={"company": "globex"})
    save.click()
    expect(page.get_by_role("alert")).to_contain_text("The company was not saved, as somebody has just changed it.")
    expect(page.get_by_text("Somebody has changed it to globex meanwhile. Saving replaces that.")).to_be_visible()
    expect(company).to_have_value("acme")
    person.look("organization-overtaken")
    assert client.get("/organization").json()["company"] == "globex"
    save.click()
    expect(page.get_by_role("status").last).to_have_text("Saved")
    assert client.get("/organization").json()["company"] == "acme"


def test_names_of_devices_are_added_changed_and_removed(signed_in: SignedIn, client: OrganizationClient) -> None:
    devices = {device["name"]: device["id"] for device in client.get("/devices").json()["devices"]}
    [(first, first_id), (second, second_id), *_] = devices.items()
    person = signed_in("organization")
    page, dialog = person.page, person.page.get_by_role("dialog")
    expect(page.get_by_text("No names yet.")).to_be_visible()
    client.patch("/organization", json={"device_names": {"split": first_id}})
    page.get_by_role("button", name="New name").click()
    dialog.get_by_label("Name").fill("Split ")
    dialog.get_by_label("Device").select_option(second)
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_label("Name")).to_be_focused()
    expect(dialog.get_by_label("Name")).to_have_accessible_description("This name already stands for a device. Change it in the list.")
    person.look("organization-name")
    dialog.get_by_label("Name").fill(LONG)
    dialog.get_by_label("Name").press("Enter")
    expect(page.get_by_role("row", name=LONG)).to_contain_text(second)
    expect(page.get_by_role("row", name="split", exact=False).first).to_contain_text(first)
    person.look("organization")

    # A concurrent change of another name stays.
    client.patch("/organization", json={"device_name_changes": {"hut": first_id}})
    page.get_by_role("button", name="Change split").click()
    expect(dialog.get_by_label("Device")).to_have_value(str(first_id))
    dialog.get_by_label("Device").select_option(second)
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").last).to_have_text(f"split stands for {second}")
    page.get_by_role("button", name=f"Remove {LONG}").click()
    person.look("organization-remove")
    dialog.get_by_role("button", name="Remove the name").click()
    expect(page.get_by_role("row", name=LONG)).to_have_count(0)
    expect(page.get_by_role("row", name="hut")).to_be_visible()
    assert client.get("/organization").json()["device_names"] == {"split": second_id, "hut": first_id}


def test_without_the_write_scope_it_is_read_only(person: Person, client: OrganizationClient) -> None:
    client.patch("/organization", json={"company": "acme", "device_names": {"split": 1}})
    key = client.post("/api-keys", json={"name": "Reader", "scopes": ["jobs:read"]}).json()["key"]
    person.sign_in(key, "organization")
    main = person.page.get_by_role("main")
    expect(main.locator(".facts")).to_contain_text("acme")
    expect(main.get_by_role("row", name="split")).to_be_visible()
    expect(main.get_by_role("textbox")).to_have_count(0)
    expect(main.get_by_role("button")).to_have_text(["Copy as…"])
    person.look("organization-read")


def test_without_any_scope_for_it_the_navigation_leaves_it_out(person: Person, client: OrganizationClient) -> None:
    key = client.post("/api-keys", json={"name": "Reports", "scopes": ["reports:read"]}).json()["key"]
    person.sign_in(key)
    expect(person.page.get_by_role("navigation", name="Main").get_by_role("link")).to_have_text(["Reports"])


@pytest.mark.parametrize("width", [765, 900, 1024, 1150, 1280])
def test_the_navigation_fits_at_every_width(signed_in: SignedIn, width: int) -> None:
    page = signed_in("organization").page
    page.set_viewport_size({"width": width, "height": 800})
    expect(page.get_by_role("heading", name="Organization", level=1)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_titles_are_whole_and_boxes_stand_beside_their_words_in_a_narrow_window(signed_in: SignedIn) -> None:
    page = signed_in("batches").page
    page.set_viewport_size({"width": 320, "height": 640})
    lines = "heading => { const text = document.createRange(); text.selectNodeContents(heading); return text.getClientRects().length }"
    assert page.get_by_role("heading", name="Batches", exact=True).evaluate(lines) == 1
    page.evaluate("location.hash = '#/webhooks'")
    boxes = page.get_by_role("checkbox")
    expect(boxes.first).to_be_visible()
    beside = """boxes => boxes.filter(box => {
        const text = document.createRange()
        text.selectNode(box.nextSibling)
        const [line] = text.getClientRects()
        const {right, bottom} = box.getBoundingClientRect()
        return line.left >= right && line.top < bottom
    }).length"""
    assert boxes.evaluate_all(beside) == boxes.count() > 5


def test_the_screen_loads_once_the_service_is_back(person: Person, client: OrganizationClient) -> None:
    page = person.page
    page.clock.install()
    person.sign_in(client.api_key, "usage")

    def refuse(route: Route) -> None:
        route.fulfill(status=503, json={"error": "The database is away", "hint": "Try again.", "code": "unavailable"})

    page.route(re.compile("/organization$"), refuse)
    page.get_by_role("link", name="Organization").click()
    for _ in range(8):
        page.clock.run_for(1000)
    expect(page.get_by_role("alert")).to_contain_text("The database is away")
    page.unroute_all()
    page.clock.run_for(11_000)
    expect(page.get_by_label("Company")).to_be_visible()
