"""Signing in, and the list of batches."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Route, expect

from tests.conftest import Connection
from tests.http_fixtures import NewClient, OrganizationClient, look_up, site
from tests.portal.conftest import Person, SignedIn

ANSWER = {"incentives": {"total_incentive_amount": 3750}}


def test_a_key_signs_in_for_the_tab_and_no_longer(person: Person, client: OrganizationClient) -> None:
    page = person.page
    person.open("batches?status=failed")
    person.look("sign-in")
    page.get_by_label("API key").fill("leap_live_mistyped")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("Invalid API key")
    page.get_by_label("API key").fill(client.api_key[1:])
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("alert")).to_have_text("This key is not known. API keys begin with leap_live_ or leap_test_.")
    person.sign_in(client.api_key, "batches?status=failed")
    expect(page.get_by_text(client.organization)).to_be_visible()
    expect(page.get_by_role("group", name="Status").get_by_role("link", name="Failed")).to_have_attribute("aria-current", "true")

    page.reload()
    expect(page.get_by_text(client.organization)).to_be_visible()
    other_tab = page.context.new_page()
    other_tab.goto(page.url)
    expect(other_tab.get_by_label("API key")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    page.reload()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_a_key_that_no_browser_sends_is_unknown(person: Person, client: OrganizationClient) -> None:
    """Such as one that was copied from the list of keys, in which the middle is left out."""
    person.open()
    page, asked = person.page, list[str]()
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/me") else None)
    for key in (f"{client.api_key[:14]}…{client.api_key[-4:]}", f"{client.api_key} {client.api_key}"):
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("alert")).to_have_text("This key is not known. API keys begin with leap_live_ or leap_test_.")
    assert asked == []


def test_a_browser_that_keeps_nothing_signs_in(person: Person, client: OrganizationClient) -> None:
    """As Chrome does if it blocks all cookies."""
    page = person.page
    for place in ("sessionStorage", "localStorage"):
        page.add_init_script(f"Object.defineProperty(window, '{place}', {{get() {{ throw new DOMException('', 'SecurityError') }}}})")
    person.sign_in(client.api_key, "batches")
    page.keyboard.press("?")
    keys = page.get_by_role("checkbox", name="Use single-key shortcuts")
    keys.uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    page.get_by_role("button", name="Keys").click()
    expect(keys).not_to_be_checked()
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="Batches", exact=True)).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()


def test_the_list_updates_by_itself(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    first = client.post("/batch-lookups", params={"name": "March portfolio"}, json=[site(f"deal-{n}") for n in range(10)]).json()
    person = signed_in("")
    page = person.page
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    row = page.get_by_role("row", name=re.compile("March portfolio"))
    expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "0")

    look_up(database, first, 9, ANSWER)
    expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "9")
    expect(row).to_contain_text("90%")
    person.look("batches-running")
    look_up(database, first, 1, {"error": "no"}, status=400)
    expect(row).to_contain_text("Completed")
    client.post("/batch-lookups", params={"name": "April portfolio", "label": "team:north"}, json=[site()])
    expect(page.get_by_role("row", name=re.compile("April portfolio"))).to_be_visible()
    expect(page.get_by_role("link", name="Completed 1")).to_be_visible()

    page.get_by_role("searchbox").fill("april")
    expect(row).to_have_count(0)
    assert "search=april" in page.url
    page.get_by_role("searchbox").fill("")
    page.get_by_role("link", name="team: north").click()
    expect(row).to_have_count(0)
    assert "label=team" in page.url
    page.get_by_role("link", name="Cancelled 0").click()
    expect(page.get_by_text("No batch is like that.")).to_be_visible()
    page.go_back()
    page.keyboard.press("Escape")


def test_old_batches_show_their_incentives(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    first = client.post("/batch-lookups", params={"name": "January portfolio"}, json=[site()]).json()
    look_up(database, first, 1, ANSWER)
    for _ in range(205):
        client.submit(site())
    page = signed_in("batches?search=january").page
    expect(page.get_by_role("row", name=re.compile("January portfolio"))).to_contain_text("$3.8K")


def test_what_a_key_may_not_do_is_not_offered(person: Person, client: OrganizationClient) -> None:
    key = client.post("/api-keys", json={"scopes": ["jobs:read"]}).json()["key"]
    person.sign_in(key)
    expect(person.page.get_by_text("No batches yet")).to_be_visible()
    expect(person.page.get_by_role("link", name="New upload")).to_have_count(0)
    expect(person.page.get_by_text("Live", exact=True)).to_be_visible()
    person.look("batches-empty")


def test_an_unknown_address_says_so(signed_in: SignedIn) -> None:
    person = signed_in("nowhere")
    person.look("nothing-here")
    person.page.get_by_role("link", name="Back to the start").click()
    expect(person.page.get_by_role("heading", name="Batches", exact=True)).to_be_visible()


def test_the_keyboard_is_enough(signed_in: SignedIn) -> None:
    page = signed_in("").page
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("n")
    expect(page.get_by_role("heading", name="New upload", level=1)).to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("b")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()


def test_batches_of_another_organization_are_not_shown(signed_in: SignedIn, new_client: NewClient) -> None:
    new_client().post("/batch-lookups", params={"name": "Secret"}, json=[site()])
    page = signed_in("").page
    expect(page.get_by_text("No batches yet")).to_be_visible()
    expect(page.get_by_text("Secret")).to_have_count(0)


def test_drafts_are_in_the_list(signed_in: SignedIn, client: OrganizationClient) -> None:
    rows = "reference_id,street_1,city\ndeal-1,200 N Spring St,Los Angeles\n"
    client.upload(rows, name="Half a list")
    client.submit(site())
    person = signed_in("")
    page = person.page
    page.get_by_role("link", name="Drafts 1").click()
    row = page.get_by_role("row", name=re.compile("Half a list"))
    expect(row).to_contain_text("1 row")
    expect(page.get_by_role("row")).to_have_count(2)
    person.look("batches-drafts")
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", name="Half a list")).to_be_visible()
    client.delete(page.url.partition("#")[2].partition("?")[0])
    page.goto(f"{person.server}/portal#/batches?status=drafts")
    expect(page.get_by_text("No drafts.")).to_be_visible()


@pytest.mark.parametrize("address", ["upload", "batches?status=drafts"])
def test_a_list_of_drafts_follows_what_is_done_elsewhere(signed_in: SignedIn, client: OrganizationClient, address: str) -> None:
    rows = "reference_id,street_1,city\ndeal-1,200 N Spring St,Los Angeles\n"

    def send(name: str) -> None:
        client.upload(rows, name=name)

    send("First")
    page = signed_in(address).page
    drafts = page.get_by_role("link", name=re.compile("^(First|Second|third.csv)$"))
    expect(drafts).to_have_text(["First"])
    send("Second")
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(drafts).to_have_text(["Second", "First"])

    # Including what this page has uploaded without waiting.
    page.evaluate("location.hash = '#/upload'")
    expect(page.get_by_role("heading", name="New upload", level=1)).to_be_visible()
    held: list[Route] = []
    page.route(re.compile(r"/uploads\?name"), lambda route: held.append(route))
    with page.expect_request(re.compile(r"/uploads\?name")):
        page.locator("input[type=file]").set_input_files({"name": "third.csv", "mimeType": "text/csv", "buffer": rows.encode()})
    page.evaluate("location.hash = '#/batches?status=drafts'")
    expect(page.get_by_role("link", name="Drafts 2")).to_be_visible()
    expect(drafts).to_have_text(["Second", "First"])
    held[0].continue_()
    expect(drafts).to_have_text(["third.csv", "Second", "First"])
    expect(page.get_by_role("link", name="Drafts 3")).to_be_visible()


def test_every_draft_is_in_the_list(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    database.execute("""select api.update_settings('{"max_open_uploads": 60}')""")
    rows = "reference_id,street_1,city\ndeal-1,200 N Spring St,Los Angeles\n"
    for number in range(55):
        client.upload(rows, name=f"Draft {number}")
    page = signed_in("batches?status=drafts").page
    expect(page.get_by_role("link", name="Draft 54", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="Drafts 55")).to_be_visible()
    page.get_by_role("link", name=re.compile("^Draft ")).last.scroll_into_view_if_needed()
    expect(page.get_by_role("link", name="Draft 0", exact=True)).to_have_count(1)


def test_a_search_waits_until_somebody_has_stopped_to_type(person: Person, client: OrganizationClient) -> None:
    client.submit(site())
    page = person.page
    page.clock.install()
    person.sign_in(client.api_key)
    expect(page.get_by_role("row")).to_have_count(2)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "name=" in request.url else None)
    page.clock.pause_at(page.evaluate("Date.now()") + 1000)
    for letter in "nothing":
        page.get_by_role("searchbox").press_sequentially(letter)
        page.clock.run_for(200)
    assert asked == []
    page.clock.run_for(100)
    expect(page.get_by_text("No batch is like that.")).to_be_visible()
    assert {re.findall(r"name=(\w*)", url)[0] for url in asked} == {"nothing"}
