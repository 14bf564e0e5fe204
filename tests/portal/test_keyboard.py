"""The portal without a mouse: the focus is always visible, and never lost."""

from __future__ import annotations

import re
from dataclasses import dataclass

from playwright.sync_api import Locator, Page, expect

from tests.conftest import Connection
from tests.http_fixtures import OrganizationClient, look_up, site
from tests.portal.conftest import Person, SignedIn
from tests.portal.test_drafts import dirty, workbook

ANSWER = {
    "utility": {"eiaid": 1, "name": "City Power"},
    "incentives": {
        "total_incentive_amount": 3750,
        "by_program": [{"program_id": "p", "program_name": "Heat pump rebate", "total_incentive": 3750, "eligible_combinations": 1}],
    },
}
# What has the focus: nothing in particular, nothing that can be seen, or something.
SEEN = """() => {
    const element = document.activeElement
    if (!element || element === document.body) return 'nothing'
    const input = element.matches('.drop input') ? element.closest('.drop') : element
    const ring = getComputedStyle(input)
    const box = input.getBoundingClientRect()
    const within = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth
    if (!within) return `out of sight: ${element.outerHTML.slice(0, 200)}`
    const shown = element.matches('main, dialog') || (ring.outlineStyle !== 'none' && parseFloat(ring.outlineWidth) >= 2)
    return shown ? 'seen' : `no ring: ${element.outerHTML.slice(0, 200)}`
}"""
MOST_TABS = 60


@dataclass
class Keys:
    """A keyboard; after each key, the focus must be on something visible."""

    page: Page

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
            self.check(key)

    def type(self, text: str) -> None:
        self.page.keyboard.type(text)
        self.check(text)

    def check(self, after: str) -> None:
        seen = self.page.evaluate(SEEN)
        assert seen == "seen", f"after {after}: {seen}"

    def tab_to(self, target: Locator, key: str = "Tab") -> None:
        """Presses Tab until the target has the focus."""
        expect(target).to_be_visible()
        for _ in range(MOST_TABS):
            if target.evaluate("element => element === document.activeElement"):
                return
            # From the last to the first element, the focus passes through the browser's own controls.
            self.page.keyboard.press(key)
            if self.page.evaluate("document.activeElement !== document.body"):
                self.check(key)
        raise AssertionError(f"{MOST_TABS} times {key} lead not to {target}")

    def use(self, target: Locator) -> None:
        self.tab_to(target)
        self.page.keyboard.press("Enter")


def test_a_phone_has_the_places_in_a_menu(signed_in: SignedIn) -> None:
    person = signed_in("batches")
    page, keys = person.page, Keys(person.page)
    header, places = page.get_by_role("banner"), page.get_by_role("navigation", name="Main").get_by_role("link")
    menu = page.get_by_role("button", name="Menu")
    expect(menu).to_have_count(0)
    expect(places).to_have_count(8)
    page.set_viewport_size({"width": 390, "height": 844})
    expect(places).to_have_count(0)
    box = header.bounding_box()
    assert box is not None
    assert box["height"] < 100
    keys.use(menu)
    expect(places).to_have_count(8)
    expect(places.first).to_have_attribute("aria-current", "page")
    page.keyboard.press("Escape")
    expect(menu).to_be_focused()
    expect(places).to_have_count(0)

    keys.press("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp")
    expect(places.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Reports", level=1)).to_be_visible()
    expect(page.get_by_role("main")).to_be_focused()
    expect(places).to_have_count(0)
    # Going past its end leaves it.
    keys.use(menu)
    keys.tab_to(page.get_by_role("button", name="Sign out"))
    expect(places).to_have_count(0)
    menu.click()
    person.look("menu")


def test_a_dirty_file_becomes_a_shared_report_by_keys_alone(person: Person, client: OrganizationClient, database: Connection) -> None:
    page = person.page
    keys = Keys(page)
    # From now on files are chosen by the test, not in a dialog of the system.
    page.on("filechooser", lambda chooser: None)
    person.open()
    expect(page.get_by_label("API key")).to_be_focused()
    keys.type(client.api_key)
    page.keyboard.press("Enter")
    expect(page.get_by_text("No batches yet")).to_be_visible()
    expect(page.get_by_role("main")).to_be_focused()

    keys.press("n")
    keys.tab_to(page.locator("input[type=file]"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": "March.xlsx", "mimeType": "", "buffer": workbook(dirty())})
    expect(page.get_by_role("heading", name="March.xlsx")).to_be_visible()
    keys.check("the upload")

    keys.use(page.get_by_role("link", name="1. Columns"))
    keys.tab_to(page.get_by_label(re.compile("^Hut")))
    start = page.get_by_role("region", name="Start")
    keys.type("Residential")
    expect(start).to_contain_text("37 sites ready")
    keys.check("what a word stands for")
    keys.tab_to(page.get_by_role("link", name="2. Check"), "Shift+Tab")
    page.keyboard.press("Enter")

    keys.use(page.get_by_role("link", name="Reference: repeated 1"))
    keys.use(page.get_by_role("button", name="Keep the first of each"))
    expect(start).to_contain_text("1 left out by you")
    keys.check("the last row of a kind")
    keys.tab_to(page.get_by_role("link", name=re.compile("Rows with problems")), "Shift+Tab")
    page.keyboard.press("Enter")
    grid = page.get_by_role("grid")
    expect(grid.get_by_role("row")).to_have_count(3)
    cell = grid.locator("[tabindex='0']")
    expect(cell).to_have_attribute("aria-invalid", "true")
    keys.tab_to(cell)
    expect(page.locator(":focus")).to_have_accessible_description(re.compile("column City, row 10: the cell is empty"))
    keys.press("Enter")
    keys.type("Los Angeles")
    keys.press("Enter")
    expect(grid.get_by_role("row")).to_have_count(2)
    keys.press("ArrowRight", "ArrowRight")
    expect(page.locator(":focus")).to_have_text("9A012")
    keys.type("90012")
    keys.press("Enter")
    expect(start).to_contain_text("39 sites ready, 1 left out by you")
    expect(page.get_by_text("Nothing is left to repair.")).to_be_visible()
    keys.check("the last row with a problem")
    keys.press("Control+z")
    expect(start).to_contain_text("38 sites ready")
    keys.press("Control+z")
    expect(start).to_contain_text("37 sites ready")

    keys.tab_to(page.get_by_role("textbox", name="Name of the batch"))
    keys.press("Control+a")
    keys.type("March portfolio")
    keys.use(start.get_by_role("button", name="Start 37 sites"))
    expect(page.get_by_role("heading", name="March portfolio")).to_be_visible()
    keys.check("the start")
    [job] = client.get("/batch-lookups").json()["jobs"]
    running = {"job_id": job["id"]}
    look_up(database, running, 36, ANSWER)
    progress = page.get_by_role("region", name="Progress")
    expect(progress).to_contain_text("97%")
    keys.use(page.get_by_role("button", name="Cancel…"))
    expect(page.get_by_role("dialog")).to_be_visible()
    keys.press("Escape")
    expect(page.get_by_role("button", name="Cancel…")).to_be_focused()
    look_up(database, running, 1, ANSWER)
    expect(progress).to_contain_text("Completed")
    keys.check("a button that is no longer there")
    keys.use(page.get_by_role("region", name="Sites").get_by_role("link", name="deal-001"))
    expect(page.get_by_role("dialog")).to_contain_text("Heat pump rebate")
    keys.press("Escape")
    expect(page.get_by_role("link", name="deal-001")).to_be_focused()

    keys.tab_to(page.get_by_role("link", name="Report", exact=True), "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("$138,750").first).to_be_visible()
    keys.check("the report")
    keys.use(page.get_by_role("button", name="Share…"))
    keys.use(page.get_by_role("button", name="Create a link"))
    expect(page.locator(".secret code")).to_have_text(re.compile("/shared-reports/"))
    keys.check("the link")
    keys.use(page.get_by_role("button", name="Revoke"))
    expect(page.get_by_role("button", name="Revoke")).to_have_count(0)
    keys.check("a row that is no longer there")
    keys.press("Escape")
    expect(page.get_by_role("button", name="Share…")).to_be_focused()


def test_menus_are_walked_with_the_arrows(signed_in: SignedIn, client: OrganizationClient) -> None:
    job = client.submit(site())
    page = signed_in(f"batches/{job['job_id']}").page
    keys = Keys(page)
    keys.tab_to(page.get_by_role("button", name="Results…"))
    keys.press("ArrowDown")
    expect(page.get_by_role("button", name="Excel")).to_be_focused()
    keys.press("ArrowDown")
    expect(page.get_by_role("button", name="CSV", exact=True)).to_be_focused()
    keys.press("ArrowUp", "ArrowUp")
    expect(page.get_by_role("button", name="NDJSON")).to_be_focused()
    keys.press("Escape")
    expect(page.get_by_role("button", name="Results…")).to_be_focused()
    keys.press("Enter")
    keys.press("Tab")
    with page.expect_download() as downloads:
        page.keyboard.press("Enter")
    assert downloads.value.suggested_filename.endswith(".xlsx")
    expect(page.get_by_role("button", name="Results…")).to_be_focused()


def test_a_form_that_is_refused_keeps_the_focus(person: Person) -> None:
    page = person.page
    keys = Keys(page)
    person.open()
    expect(page.get_by_label("API key")).to_be_focused()
    keys.type("leap_live_mistyped")
    keys.tab_to(page.get_by_role("button", name="Continue"))
    keys.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Invalid API key")
    expect(page.get_by_role("button", name="Continue")).to_be_enabled()
    keys.check("the refusal")


def test_shortcuts_work_only_after_signing_in(person: Person, client: OrganizationClient) -> None:
    person.open()
    person.page.get_by_role("heading", name="Sign in").click()
    person.page.keyboard.press("?")
    person.page.get_by_label("API key").fill(client.api_key)
    person.page.get_by_role("button", name="Continue").click()
    expect(person.page.get_by_role("heading", name="Batches", level=1)).to_be_visible()
    expect(person.page.get_by_role("dialog")).to_have_count(0)


def test_the_list_of_shortcuts_has_those_of_the_grid_and_returns_the_focus(signed_in: SignedIn) -> None:
    person = signed_in("")
    page = person.page
    keys = Keys(page)
    keys.tab_to(page.get_by_role("link", name="New upload").first)
    keys.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_contain_text("Fill down")
    person.look("keys-of-the-keyboard")
    keys.press("Escape")
    expect(page.get_by_role("link", name="New upload").first).to_be_focused()


def test_arrow_keys_neither_move_an_application_nor_open_another_report(
    signed_in: SignedIn, client: OrganizationClient, database: Connection
) -> None:
    """On Windows and Linux, arrow keys choose in a closed list, which would apply every option on the way."""
    for name in ("deal-6", "deal-7", "deal-8"):
        look_up(database, client.submit(site(name, create_application=True)), 1, ANSWER)
    first = client.get("/applications").json()["applications"][0]
    page = signed_in("applications").page
    status = page.get_by_label(f"Status of application {first['id']}")
    moves: list[str] = []
    page.on("request", lambda request: moves.append(request.url) if request.method == "PATCH" else None)
    status.focus()
    for key in ("ArrowDown", "Escape"):
        page.keyboard.press(key)
    expect(status).to_have_value("not_started")
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_role("status").last).to_contain_text("deal-8: in progress")
    assert len(moves) == 1

    [newest, *others] = client.get("/incentive-reports").json()["reports"]
    page.goto(f"{page.url.partition('#')[0]}#/reports/{newest['id']}")
    page.get_by_role("combobox", name="Compare with").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page).to_have_url(re.compile(f"from={others[1]['id']}&to={newest['id']}"))


def test_arrow_keys_take_no_field_from_a_column(signed_in: SignedIn, client: OrganizationClient) -> None:
    csv = "Deal ID,Street Address,City,State,ZIP,Bldg,Devices,Nation\ndeal-1,1 N Spring St,Los Angeles,CA,90012,Residential,1,US\n"
    draft = client.upload(csv)
    page = signed_in(f"uploads/{draft['id']}?step=columns").page
    fields = [column["field"] for column in draft["columns"]]
    assert fields[-1] is None
    page.get_by_role("combobox", name="Nation").focus()
    for key in ["ArrowDown"] * 8 + ["Enter"]:
        page.keyboard.press(key)
    expect(page.get_by_role("combobox", name="Nation")).to_have_value("country_code")
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    assert [column["field"] for column in client.get(f"/uploads/{draft['id']}").json()["columns"]] == [*fields[:-1], "country_code"]


def test_after_signing_out_another_key_can_be_typed(signed_in: SignedIn) -> None:
    page = signed_in("usage").page
    page.get_by_role("button", name="Sign out").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("API key")).to_be_focused()
