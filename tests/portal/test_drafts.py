"""From a dirty file to a batch: columns, words, cells, and a start."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import openpyxl
import pytest
from playwright.sync_api import Dialog, Download, Error, Locator, Page, Request, Route, expect

from tests.conftest import Connection
from tests.http_fixtures import NewClient, OrganizationClient, look_up
from tests.portal.conftest import DESKTOP, PAINTED, PHONE, Person, SignedIn
from tests.workbooks import saved
from tests.worker_fixtures import fetch_value

# The browser copies once, when the test allows it.
HOLD_COPY = """() => {
    const { clipboard } = navigator
    window.copying = new Promise((begun) => {
        clipboard.writeText = (text) => new Promise((copied) => {
            window.finishCopy = () => {
                delete clipboard.writeText
                copied(clipboard.writeText(text))
            }
            begun()
        })
    })
}"""
PLAIN = "reference_id,street_1,city,state_or_province_code,postal_code,building_type,device_ids"
HEADER = ["Deal ID", "Street Address", "City", "State", "ZIP", "Bldg", "Devices", "Owner"]


def workbook(rows: list[list[Any]]) -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    above: list[list[Any]] = [["Sites of March"], [], HEADER]
    for row in above + rows:
        sheet.append(row)
    return saved(book)


def dirty() -> list[list[Any]]:
    rows: list[list[Any]] = [
        [f"deal-{n:03}", f"{n} N Spring St", "Los Angeles", "California", 90012, "Hut" if n in (3, 4) else "Residential", "1", "Kim"]
        for n in range(1, 41)
    ]
    rows[6][2] = None
    rows[7][4] = "9A012"
    rows[8][0] = "deal-001"
    return rows


def upload(page: Page, content: bytes, name: str = "March.xlsx") -> None:
    page.get_by_label(re.compile("Drop a file here")).set_input_files({"name": name, "mimeType": "", "buffer": content})
    expect(page.get_by_role("heading", name=name)).to_be_visible()


def refuse_changes(page: Page, status: int = 503) -> None:
    page.route(
        re.compile("/uploads/"), lambda route: route.fulfill(status=status) if route.request.method == "PATCH" else route.continue_()
    )


def hold_first_change(page: Page) -> list[Route]:
    held: list[Route] = []
    page.route(
        re.compile("/uploads/"), lambda route: held.append(route) if route.request.method == "PATCH" and not held else route.continue_()
    )
    return held


def release(page: Page, held: list[Route]) -> None:
    """Lets the change through that is held or about to arrive."""
    for _ in range(1000):
        if held:
            break
        page.wait_for_timeout(20)
    held[0].continue_()


def leave(page: Page) -> list[str]:
    """Closes the page, and stays if the browser asks. Returns what it asked."""
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    with page.expect_event("dialog"):
        page.once("dialog", stay)
        page.close(run_before_unload=True)
    return asked


def edits_of(client: OrganizationClient, draft: str) -> dict[str, str]:
    [row] = client.get(f"/uploads/{draft}/rows").json()["rows"]
    return dict(row["edits"])


def test_a_dirty_workbook_becomes_a_batch(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    person = signed_in("upload")
    page = person.page
    page.locator("input[type=file]").set_input_files({"name": "sites.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7"})
    expect(page.get_by_role("alert")).to_contain_text("PDF")
    person.look("upload")
    upload(page, workbook(dirty()))
    start = page.get_by_role("region", name="Start")
    expect(start).to_contain_text("35 sites ready, 5 rows with problems will be left out")
    grid = page.get_by_role("grid")
    expect(grid.get_by_role("row")).to_have_count(6)
    person.look("draft-check")

    page.get_by_role("link", name="1. Columns").click()
    expect(page.get_by_label("Bldg")).to_have_value("building_type")
    page.get_by_label(re.compile("^Hut")).select_option("RESIDENTIAL")
    expect(start).to_contain_text("37 sites ready")
    person.look("draft-columns")

    page.get_by_role("link", name="2. Check").click()
    page.get_by_role("link", name="Reference: repeated 1").click()
    page.get_by_role("button", name="Keep the first of each").click()
    expect(start).to_contain_text("2 rows with problems will be left out, 1 left out by you")
    page.get_by_role("link", name=re.compile("City: empty")).click()
    page.get_by_role("button", name="One value for all…").click()
    page.get_by_role("dialog").get_by_label("City").fill("Los Angeles")
    page.get_by_role("button", name="Change 1 row").click()
    expect(start).to_contain_text("38 sites ready, 1 row with problems")

    page.get_by_role("link", name=re.compile("Rows with problems")).click()
    expect(grid.get_by_role("row")).to_have_count(2)
    page.reload()
    expect(grid.get_by_role("gridcell", name="9A012")).to_be_visible()
    grid.get_by_role("gridcell", name="9A012").dblclick()
    page.get_by_role("textbox", name="ZIP").fill("90012")
    page.keyboard.press("Enter")
    expect(start).to_contain_text("39 sites ready, 1 left out by you")
    page.get_by_role("button", name="Undo").click()
    expect(start).to_contain_text("38 sites ready")
    page.get_by_label("Name of the batch").fill("March portfolio")
    page.get_by_role("button", name="Try 20 first").click()
    expect(page.get_by_role("heading", name="March portfolio")).to_be_visible()
    [job] = client.get("/batch-lookups").json()["jobs"]
    assert (job["name"], job["total_items"]) == ("March portfolio", 38)
    look_up(database, {"job_id": job["id"]}, 20, {"incentives": {"total_incentive_amount": 100}})
    expect(page.get_by_role("button", name="Look up the other 18")).to_be_visible()
    person.look("job-sample-done")
    page.get_by_role("button", name="Look up the other 18").click()
    expect(page.get_by_role("region", name="Waiting for you")).to_have_count(0)
    look_up(database, {"job_id": job["id"]}, 18, {"incentives": {"total_incentive_amount": 100}})
    assert client.get(f"/batch-lookups/{job['id']}").json()["status"] == "completed"

    page.go_back()
    expect(page.get_by_text("It changes no more.")).to_be_visible()
    person.look("draft-started")


def three_sheets() -> bytes:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.title = "Cover"
    book.active.append(["Sites of March"])
    for title, street, rows in (("Sites A", "Elm St", 2), ("Sites B", "Oak St", 3)):
        sheet = book.create_sheet(title)
        sheet.append(HEADER)
        for n in range(1, rows + 1):
            sheet.append([f"{title[-1]}-{n}", f"{n} {street}", "Los Angeles", "CA", "90012", "Residential", "1", "Kim"])
    return saved(book)


def test_another_sheet_of_a_workbook_is_chosen(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    person = signed_in("upload")
    page = person.page
    upload(page, three_sheets())
    start = page.get_by_role("region", name="Start")
    expect(start).to_contain_text("2 sites ready")
    expect(page.get_by_text("The sheet Sites A was read, one of 3 with rows.")).to_be_visible()
    person.look("draft-sheet")
    page.get_by_role("link", name="Choose another").click()
    sheet = page.get_by_role("combobox", name="Sheet", exact=True)
    expect(sheet).to_have_value("Sites A")
    expect(sheet.get_by_role("option")).to_have_text(["Cover", "Sites A", "Sites B"])

    # If there is nothing to read, the draft does not change.
    sheet.focus()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("alert")).to_contain_text("1 to 10,000 items")
    expect(sheet).to_have_value("Sites A")
    page.keyboard.press("ArrowDown")
    expect(start).to_contain_text("3 sites ready")
    expect(sheet).to_have_value("Sites B")
    expect(sheet).to_be_focused()
    expect(page.get_by_role("cell", name="1 Oak St · 2 Oak St · 3 Oak St")).to_be_visible()
    person.look("draft-sheets")
    [kept] = client.get("/uploads").json()["uploads"]
    assert kept["total_rows"] == 3

    fields = fetch_value(database, "select app.file_fields()")
    assert {option.get_attribute("value") for option in page.get_by_label("Owner").locator("option").all()} == {"", *fields}

    # Changes are not lost silently.
    page.get_by_label("Owner").select_option("street_2")
    expect(page.get_by_text("Saved")).to_be_visible()
    sheet.select_option("Sites A")
    page.get_by_role("button", name="Keep Sites B").click()
    expect(sheet).to_have_value("Sites B")
    sheet.select_option("Sites A")
    person.look("draft-another-sheet")
    page.get_by_role("button", name="Read it").click()
    expect(start).to_contain_text("2 sites ready")
    expect(page.get_by_label("Owner")).to_have_value("")
    sheet.select_option("Sites B")
    expect(start).to_contain_text("3 sites ready")

    # Nor are changes that have not been saved yet.
    refuse_changes(page)
    page.get_by_label("Owner").select_option("street_2")
    expect(page.get_by_text("Not saved", exact=True)).to_be_visible()
    sheet.select_option("Sites A")
    page.get_by_role("button", name="Keep Sites B").click()
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()

    # The file is gone with the page.
    page.reload()
    expect(page.get_by_text("The sheet Sites B was read, one of 3 with rows. To read another one, drop the file again.")).to_be_visible()
    expect(sheet).to_have_count(0)
    page.get_by_label("Name of the batch").fill("Sites B of March")
    page.get_by_role("button", name="Start 3 sites").click()
    expect(page.get_by_role("heading", name="Sites B of March")).to_be_visible()
    [job] = client.get("/batch-lookups").json()["jobs"]
    items = client.get(f"/batch-lookups/{job['id']}/items").json()["items"]
    assert [item["reference_id"] for item in items] == ["B-1", "B-2", "B-3"]


def test_a_sheet_whose_answer_was_lost_becomes_one_draft(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in("upload").page
    upload(page, three_sheets())
    page.get_by_role("link", name="Choose another").click()
    sheet = page.get_by_role("combobox", name="Sheet", exact=True)

    def lose(route: Route) -> None:
        route.fetch()
        route.abort("connectionreset")

    page.route(re.compile(r"sheet=Sites\+B"), lose)
    sheet.select_option("Sites B")
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    expect(sheet).to_have_value("Sites A")
    page.unroute_all()
    sheet.select_option("Sites B")
    expect(page.get_by_role("region", name="Start")).to_contain_text("3 sites ready")
    expect(sheet).to_have_value("Sites B")
    [kept] = client.get("/uploads").json()["uploads"]
    assert kept["total_rows"] == 3


def test_a_whole_address_in_one_cell_is_split(signed_in: SignedIn, client: OrganizationClient) -> None:
    person = signed_in("upload")
    page = person.page
    rows = [
        "Customer,Where,Home Type,Equipment",
        '001,"1 N SPRING ST, LOS ANGELES, CA 90012",House,1',
        "002,2 N Spring St Los Angeles,House,1",
    ]
    upload(page, "\n".join(rows).encode(), "Installs.csv")
    banner = page.get_by_text("No column was found for")
    expect(banner).to_contain_text(
        "City, State or province, and Postal code. Choose it below. A column with the whole address becomes Street."
    )
    expect(banner).to_contain_text("If no column identifies your sites, number them by row.")
    page.get_by_label("Customer", exact=True).select_option("Reference")
    page.get_by_label("Where", exact=True).select_option("Street")
    expect(banner).to_have_count(0)
    expect(page.get_by_role("region", name="Start")).to_contain_text("1 site ready, 1 row with problems")
    page.get_by_role("link", name="2. Check").click()
    expect(page.get_by_text("City: not found in this row")).to_be_visible()
    person.look("draft-split")
    page.get_by_role("link", name="Street: read as another form 1").click()
    expect(page.get_by_text("was read as 1 N SPRING ST | LOS ANGELES | CA | 90012")).to_be_visible()

    page.set_viewport_size(PHONE)
    page.get_by_role("link", name="Rows with problems").click()
    row = page.get_by_role("region", name="Row 3")
    expect(row.get_by_role("textbox")).to_have_count(1)
    person.look("draft-split-card")
    page.set_viewport_size(PHONE)
    row.get_by_label("Where", exact=True).fill("2 N Spring St, Los Angeles, CA 90012")
    page.keyboard.press("Tab")
    expect(page.get_by_role("region", name="Start")).to_contain_text("2 sites ready")
    page.set_viewport_size(DESKTOP)
    page.get_by_role("button", name="Start 2 sites").click()
    expect(page.get_by_role("cell", name="1 N SPRING ST, LOS ANGELES, CA 90012")).to_be_visible()


def test_a_word_stands_for_several_devices(signed_in: SignedIn, client: OrganizationClient) -> None:
    first, second, third = client.get("/devices").json()["devices"][:3]
    address = "1 N Spring St,Los Angeles,CA,90012,Residential"
    rows = f"deal-1,{address},HP + thermostat,Kim\ndeal-2,{address},Air thing,Kim\n"
    draft = client.upload(",".join(HEADER) + "\n" + rows)
    person = signed_in(f"uploads/{draft['id']}?step=columns")
    page = person.page
    words = page.get_by_role("region", name="What your words stand for").get_by_role("group")
    expect(words).to_have_count(2)
    word = words.last
    expect(word).to_have_accessible_name("HP + thermostat Devices")
    chosen, add = word.get_by_role("button"), word.get_by_role("combobox", name="Add a device")
    add.focus()
    # The first arrow opens the list.
    for count, downs in enumerate((3, 2), start=1):
        for key in ["ArrowDown"] * downs + ["Enter"]:
            page.keyboard.press(key)
        expect(chosen).to_have_count(count)
        expect(add).to_be_focused()
    expect(chosen).to_contain_text([second["name"], first["name"]])
    start = page.get_by_role("region", name="Start")
    expect(start).to_contain_text("1 site ready, 1 row with problems")
    expect(words.first).to_have_accessible_name("Air thing Devices")
    person.look("draft-words")
    maps = client.get(f"/uploads/{draft['id']}").json()["value_maps"]
    assert maps == {"device_ids": {"HP + thermostat": [second["id"], first["id"]]}}

    for left in (1, 0):
        word.get_by_role("button").first.focus()
        page.keyboard.press("Enter")
        expect(chosen).to_have_count(left)
    expect(add).to_be_focused()
    expect(start).to_contain_text("0 sites ready")
    expect(words).to_have_count(2)
    # Another client sent the name.
    named = {"device_ids": {"HP + thermostat": f"{third['name']}; {first['name']}"}}
    client.patch(f"/uploads/{draft['id']}", json={"value_maps": named})
    page.reload()
    expect(chosen).to_contain_text([third["name"], first["name"]])


def test_a_change_without_a_connection_is_sent_when_it_is_back(signed_in: SignedIn, client: OrganizationClient) -> None:
    row = "deal-1,1 N Spring St,Los Angeles,CA,90012,,1,Kim\n"
    draft = client.upload(",".join(HEADER) + "\n" + row)
    person = signed_in(f"uploads/{draft['id']}?step=columns")
    page = person.page
    default = page.get_by_role("region", name="Where a cell is empty").get_by_label("Building type")
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    page.context.set_offline(True)
    default.select_option("Residential")
    told = "The service cannot be reached. Check the connection; this page retries automatically."
    expect(page.get_by_role("alert")).to_contain_text(told)
    expect(page.get_by_text("Not saved", exact=True)).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Not saved", exact=True)).to_be_visible()
    page.context.set_offline(False)
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_role("region", name="Start")).to_contain_text("1 site ready")
    expect(default).to_have_value("RESIDENTIAL")


def test_a_change_that_meets_a_503_can_be_sent_again(signed_in: SignedIn, client: OrganizationClient) -> None:
    row = "deal-1,1 N Spring St,Los Angeles,CA,90012,,1,Kim\n"
    draft = client.upload(",".join(HEADER) + "\n" + row)
    page = signed_in(f"uploads/{draft['id']}?step=columns").page
    page.route(re.compile("/uploads/"), lambda route: route.fulfill(status=503) if route.request.method == "PATCH" else route.continue_())
    page.get_by_role("region", name="Where a cell is empty").get_by_label("Building type").select_option("Residential")
    expect(page.get_by_text("Not saved", exact=True)).to_be_visible()
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    expect(page.get_by_role("region", name="Start")).to_contain_text("1 site ready")


def test_sites_without_an_id_are_numbered_by_row(signed_in: SignedIn, client: OrganizationClient) -> None:
    person = signed_in("upload")
    page = person.page
    rows = ["Street,City,State,ZIP,Home Type,Equipment", *(f"{n} N Spring St,Los Angeles,CA,90012,House,1" for n in range(1, 4))]
    upload(page, "\n".join(rows).encode(), "Installs.csv")
    expect(page.get_by_role("region", name="Start")).to_contain_text("3 rows with problems")
    person.look("draft-without-ids")
    page.get_by_role("button", name="number them by row").click()
    expect(page.get_by_text("No column was found for")).to_have_count(0)
    expect(page.get_by_role("region", name="Start")).to_contain_text("3 sites ready")
    page.get_by_role("link", name="1. Columns").click()
    expect(page.get_by_role("region", name="Where a cell is empty").get_by_label("Reference")).to_have_value("row-{line}")
    person.look("draft-numbered")
    page.get_by_role("button", name="Start 3 sites").click()
    expect(page.get_by_role("cell", name="row-3", exact=True)).to_be_visible()
    [job] = client.get("/batch-lookups").json()["jobs"]
    items = client.get(f"/batch-lookups/{job['id']}/items").json()["items"]
    assert [item["reference_id"] for item in items] == ["row-2", "row-3", "row-4"]


def test_suggestions_are_taken_one_at_a_time_and_all_at_once(signed_in: SignedIn, client: OrganizationClient) -> None:
    rows = "".join(f"deal #{n},{n} N Spring St,Los Angeles,CA,90012,Residential,1,Kim\n" for n in range(1, 4))
    draft = client.upload(",".join(HEADER) + "\n" + rows)
    person = signed_in(f"uploads/{draft['id']}")
    page = person.page
    start = page.get_by_role("region", name="Start")
    expect(start).to_contain_text("0 sites ready")
    page.get_by_role("link", name="Reference: cannot be a reference 3").click()
    page.get_by_role("button", name="Use deal-1").click()
    expect(start).to_contain_text("1 site ready")
    person.look("draft-suggestions")
    page.get_by_role("button", name="Take the suggestions").click()
    expect(start).to_contain_text("3 sites ready")
    edits = [row["edits"] for row in client.get(f"/uploads/{draft['id']}/rows").json()["rows"]]
    assert edits == [{"1": "deal-1"}, {"1": "deal-2"}, {"1": "deal-3"}]
    page.get_by_role("button", name="Undo").click()
    expect(start).to_contain_text("1 site ready, 2 rows with problems")


def test_the_keyboard_repairs_cells(signed_in: SignedIn, client: OrganizationClient) -> None:
    person = signed_in("upload")
    page = person.page
    upload(page, workbook(dirty()))
    page.get_by_role("link", name=re.compile("All rows")).click()
    grid = page.get_by_role("grid")
    expect(grid).to_have_attribute("aria-rowcount", "41")
    grid.focus()
    keyboard = page.keyboard
    for key in ["ArrowDown"] * 2 + ["ArrowRight"] * 5:
        keyboard.press(key)
    expect(page.locator(":focus")).to_have_text("Hut")
    keyboard.type("Condo")
    expect(page.locator(":focus")).to_have_value("Condo")
    keyboard.press("Escape")
    expect(page.locator(":focus")).to_have_text("Hut")
    keyboard.press("Enter")
    keyboard.type("s")
    expect(page.locator(":focus")).to_have_value("Huts")
    keyboard.press("Escape")
    keyboard.press("Control+d")
    expect(page.locator(":focus")).to_have_text("Residential")
    keyboard.press("Shift+ArrowDown")
    keyboard.press("Control+d")
    start = page.get_by_role("region", name="Start")
    expect(start).to_contain_text("37 sites ready")
    keyboard.press("Control+z")
    expect(start).to_contain_text("36 sites ready")
    keyboard.press("Space")
    expect(start).to_contain_text("left out by you")
    keyboard.press("Control+End")
    expect(page.locator(":focus")).to_have_text("Kim")
    assert page.locator(":focus").get_attribute("aria-colindex") == "9"


def test_cells_are_copied_cut_and_pasted(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in("upload").page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    upload(page, workbook(dirty()))
    draft = page.url.rpartition("/")[2].partition("?")[0]
    page.get_by_role("link", name=re.compile("All rows")).click()
    grid = page.get_by_role("grid")
    note = page.locator(".note-toast")
    keyboard = page.keyboard

    def column(number: int) -> Locator:
        return grid.locator(f"[role=gridcell][aria-colindex='{number + 1}']")

    def see(number: int, *texts: str) -> None:
        """The first cells of a column."""
        for row, text in enumerate(texts):
            expect(column(number).nth(row)).to_have_text(text)

    def put(text: str) -> None:
        page.evaluate("text => navigator.clipboard.writeText(text)", text)
        keyboard.press("Control+v")

    see(2, *(f"{n} N Spring St" for n in (1, 2, 3, 4, 5)))
    column(1).first.click()
    keyboard.press("Shift+ArrowDown")
    keyboard.press("Control+c")
    expect(note).to_have_text("2 cells copied")
    assert page.evaluate("navigator.clipboard.readText()") == "deal-001\ndeal-002"
    keyboard.press("ArrowRight")

    # As Excel copies it: cells with a tab, a quote or a line break are quoted.
    put('"1 ""A"" St"\tPasadena\r\n5" Main St\t"two\nlines"\r\n\tGlendale\r\n')
    expect(note).to_have_text("6 cells pasted")
    see(2, "1 N Spring St", '1 "A" St', '5" Main St', "empty", "5 N Spring St")
    see(3, "Los Angeles", "Pasadena", "two lines", "Glendale", "Los Angeles")
    see(4, *["California"] * 5)
    keyboard.press("Control+z")
    expect(note).to_have_text("Undone: pasting")
    see(2, *(f"{n} N Spring St" for n in (1, 2, 3, 4, 5)))
    see(3, *["Los Angeles"] * 5)

    # One cell is for the whole range.
    keyboard.press("End")
    for _ in range(2):
        keyboard.press("Shift+ArrowDown")
    put("Lee")
    expect(note).to_have_text("3 cells pasted")
    see(8, "Kim", "Lee", "Lee", "Lee", "Kim")
    # Moving on while the browser is still copying cuts nothing else.
    page.evaluate(HOLD_COPY)
    keyboard.press("Control+x")
    page.evaluate("() => copying")
    keyboard.press("Home")
    page.evaluate("finishCopy()")
    see(8, "Kim", "", "", "", "Kim")
    assert page.evaluate("navigator.clipboard.readText()") == "Lee\nLee\nLee"
    keyboard.press("Control+End")
    put("Ann\tBob\nCid\tDan")
    expect(note).to_have_text("1 cell pasted; 3 others do not fit here")
    put("\n".join(["Kim"] * 10_001))
    expect(note).to_have_text("At most 10,000 cells can be pasted at a time.")
    rows = client.get(f"/uploads/{draft}/rows?limit=500").json()["rows"]
    assert [row["edits"] for row in rows if row["edits"]] == [{"8": ""}] * 3 + [{"8": "Ann"}]


def test_a_range_includes_rows_that_were_never_on_the_screen(signed_in: SignedIn, client: OrganizationClient) -> None:
    lines = "".join(f"deal-{n:05},{n} N Spring St,Los Angeles,CA,90012,Residential,1,Kim\n" for n in range(1_500))
    draft = client.upload(",".join(HEADER) + "\n" + lines)
    page = signed_in(f"uploads/{draft['id']}?rows=all").page
    grid = page.get_by_role("grid")
    grid.get_by_role("gridcell", name="Kim").first.click()
    grid.evaluate("grid => grid.scrollTop = grid.scrollHeight")
    last = grid.locator("[aria-rowindex='1501']").get_by_role("gridcell").last
    expect(last).to_have_text("Kim")
    last.click(modifiers=["Shift"])
    page.keyboard.press("Delete")
    expect(last).to_have_text("")
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    found = [client.get(f"/uploads/{draft['id']}/rows?limit=500&offset={offset}").json()["rows"] for offset in (0, 500, 1000)]
    assert [row["edits"] for rows in found for row in rows] == [{"8": ""}] * 1_500


def without_cities(client: OrganizationClient, count: int) -> str:
    rows = [f"deal-{n},{n} N Spring St,,CA,90012,Residential,1,Kim" for n in range(count)]
    draft = client.upload("\n".join([",".join(HEADER), *rows]))
    return str(draft["id"])


def test_what_is_typed_goes_to_the_row_in_which_it_was_begun(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = without_cities(client, 4)
    page = signed_in(f"uploads/{draft}").page
    grid, keyboard = page.get_by_role("grid"), page.keyboard
    expect(grid.get_by_role("row")).to_have_count(5)
    grid.get_by_role("gridcell", name="empty").first.dblclick()
    held = hold_first_change(page)
    keyboard.type("Pasadena")
    keyboard.press("Enter")
    keyboard.type("Bur")
    # The first row is repaired, and leaves the list while the person types in the second.
    with page.expect_response(re.compile("/rows")) as loaded:
        release(page, held)
    loaded.value.finished()
    page.evaluate(PAINTED)
    keyboard.type("bank")
    keyboard.press("Enter")
    expect(grid.get_by_role("row")).to_have_count(3)
    # And the keyboard continues in the row below, wherever that is now.
    expect(page.locator(":focus")).to_have_text("empty")
    keyboard.type("Glendale")
    keyboard.press("Enter")
    expect(grid.get_by_role("row")).to_have_count(2)
    rows = client.get(f"/uploads/{draft}/rows").json()["rows"]
    assert [row["edits"] for row in rows] == [{"3": "Pasadena"}, {"3": "Burbank"}, {"3": "Glendale"}, {}]


def test_what_is_typed_stays_in_its_cell_when_somebody_clicks_elsewhere(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = without_cities(client, 4)
    page = signed_in(f"uploads/{draft}?step=check&rows=all").page
    cells = page.get_by_role("gridcell", name="empty")
    expect(cells).to_have_count(4)
    cells.first.dblclick()
    page.keyboard.type("Pasadena")
    page.get_by_role("gridcell", name="deal-3").click()
    page.keyboard.press("Enter")
    page.keyboard.type("0")
    # What is clicked has the focus, and keeps it.
    page.get_by_role("searchbox", name="Search cells").click()
    page.keyboard.type("deal")
    expect(page.get_by_role("searchbox", name="Search cells")).to_have_value("deal")
    expect(page.get_by_role("gridcell", name="deal-30", exact=True)).to_be_visible()
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    rows = client.get(f"/uploads/{draft}/rows").json()["rows"]
    assert [row["edits"] for row in rows] == [{"3": "Pasadena"}, {}, {}, {"1": "deal-30"}]


def test_cells_that_are_edited_while_one_is_saved_are_saved_together(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = without_cities(client, 4)
    page = signed_in(f"uploads/{draft}?step=check&rows=all").page
    sent: list[int] = []

    def count(request: Request) -> None:
        if request.method == "PATCH":
            sent.append(len(json.loads(request.post_data or "")["edits"]))

    page.on("request", count)
    held = hold_first_change(page)
    page.get_by_role("gridcell", name="empty").first.click()
    for city in ("Pasadena", "Burbank", "Glendale", "Compton"):
        page.keyboard.type(city)
        page.keyboard.press("Enter")
    expect(page.get_by_text("Saving…", exact=True)).to_be_visible()
    release(page, held)
    expect(page.get_by_role("region", name="Start")).to_contain_text("4 sites ready")
    assert sent == [1, 3]
    page.keyboard.press("Control+z")
    expect(page.get_by_role("region", name="Start")).to_contain_text("3 sites ready")
    rows = client.get(f"/uploads/{draft}/rows").json()["rows"]
    assert [row["edits"] for row in rows] == [{"3": "Pasadena"}, {"3": "Burbank"}, {"3": "Glendale"}, {}]


def test_what_is_typed_when_the_last_problem_goes_is_kept(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = without_cities(client, 1)
    page = signed_in(f"uploads/{draft}").page
    page.get_by_role("gridcell", name="empty").dblclick()
    held = hold_first_change(page)
    page.keyboard.type("Pasadena")
    page.keyboard.press("Tab")
    page.keyboard.type("N")
    with page.expect_response(re.compile("/rows")) as loaded:
        release(page, held)
    loaded.value.finished()
    page.evaluate(PAINTED)
    page.keyboard.type("V")
    page.keyboard.press("Enter")
    expect(page.get_by_role("gridcell", name="NV", exact=True)).to_be_visible()
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    assert edits_of(client, draft) == {"3": "Pasadena", "4": "NV"}


def test_keys_that_are_pressed_before_the_rows_have_loaded_count(signed_in: SignedIn) -> None:
    page = signed_in("upload").page
    upload(page, workbook(dirty()))
    grid = page.get_by_role("grid")
    expect(grid).to_have_attribute("aria-rowcount", "6")
    asked: list[Route] = []
    page.route(re.compile("/rows"), lambda route: asked.append(route))
    page.get_by_role("link", name=re.compile("All rows")).click()
    expect(grid).to_have_attribute("aria-rowcount", "1")
    grid.focus()
    for key in ["ArrowDown"] * 2 + ["ArrowRight"] * 5:
        page.keyboard.press(key)
    for route in asked:
        route.continue_()
    expect(page.locator(":focus")).to_have_text("Hut")


def test_ten_thousand_rows_scroll_without_long_tasks(signed_in: SignedIn, client: OrganizationClient) -> None:
    lines = "".join(f"deal-{n:05},{n} N Spring St,Los Angeles,CA,90012,Hut,1,Kim\n" for n in range(10_000))
    draft = client.upload(",".join(HEADER) + "\n" + lines)
    page = signed_in(f"uploads/{draft['id']}?rows=all").page
    grid = page.get_by_role("grid")
    expect(grid.get_by_role("gridcell", name="deal-00000")).to_be_visible()
    grid.focus()
    page.keyboard.press("Control+End")
    expect(grid.get_by_role("gridcell", name="deal-09999")).to_be_visible()
    assert grid.get_by_role("row").count() < 60
    assert grid.get_attribute("aria-rowcount") == "10001"


def test_a_draft_is_left_and_continued_elsewhere_and_on_a_phone(
    signed_in: SignedIn, client: OrganizationClient, new_client: NewClient
) -> None:
    person = signed_in("upload")
    page = person.page
    expect(page.get_by_role("heading", name="New upload", level=1)).to_be_visible()
    page.evaluate(
        """text => {
        const data = new DataTransfer()
        data.setData('text/plain', text)
        document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))
    }""",
        "\t".join(HEADER) + "\ndeal-001\t1 Main St\t\tCA\t94102\tResidential\t1\tKim\n",
    )
    expect(page.get_by_role("heading", name="Pasted rows")).to_be_visible()
    address = page.url
    page.goto(f"{person.server}/portal#/upload")
    page.get_by_role("link", name="Pasted rows").click()
    page.set_viewport_size(PHONE)
    page.get_by_role("region", name="Row 2").get_by_label("City").fill("San Francisco")
    page.keyboard.press("Tab")
    expect(page.get_by_role("region", name="Start")).to_contain_text("1 site ready")
    person.look("draft-repaired")

    page.get_by_role("button", name="Sign out").click()
    page.goto("about:blank")
    person.sign_in(new_client().api_key, address.split("#/")[1])
    expect(page.get_by_role("alert")).to_contain_text("Upload not found")


def test_undo_shows_on_a_phone_what_the_cell_was(signed_in: SignedIn, client: OrganizationClient) -> None:
    row = "deal-1,1 N Spring St,Los Angeles,CA,9A012,Residential,1,Kim\n"
    draft = client.upload(",".join(HEADER) + "\n" + row)
    page = signed_in(f"uploads/{draft['id']}?step=check").page
    page.set_viewport_size(PHONE)
    cell = page.get_by_role("region", name="Row 2").get_by_label("ZIP")
    expect(cell).to_have_value("9A012")
    cell.fill("9B012")
    cell.press("Tab")
    expect(page.get_by_text("9B012 is not a ZIP code")).to_be_visible()
    expect(cell).to_have_value("9B012")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("9A012 is not a ZIP code")).to_be_visible()
    expect(cell).to_have_value("9A012")


def test_a_phone_says_which_rows_it_does_not_show(signed_in: SignedIn, client: OrganizationClient) -> None:
    lines = "".join(f"deal-{n},{n} N Spring St,Los Angeles,CA,90012,Hut,1,Kim\n" for n in range(501))
    draft = client.upload(",".join(HEADER) + "\n" + lines)
    page = signed_in("usage").page
    page.set_viewport_size(PHONE)
    page.goto(f"{page.url.partition('#')[0]}#/uploads/{draft['id']}?step=check")
    cards = page.get_by_role("region", name=re.compile("^Row "))
    more = page.get_by_role("button", name="Show more")
    for shown in range(25, 501, 25):
        expect(cards).to_have_count(shown)
        if shown < 500:
            more.click()
    expect(more).to_have_count(0)
    expect(page.get_by_text("These are the first 500. Search, or choose a kind of problem, to see the others.")).to_be_visible()
    page.get_by_role("searchbox", name="Search cells").fill("deal-500")
    expect(cards).to_have_count(1)
    expect(page.get_by_text("These are the first")).to_have_count(0)


def test_a_long_word_stays_within_the_window(signed_in: SignedIn, client: OrganizationClient) -> None:
    row = f"deal-1,1 N Spring St,Los Angeles,CA,90012,{'Zweifamilienhaus' * 8},1,Kim\n"
    draft = client.upload(",".join(HEADER) + "\n" + row)
    person = signed_in(f"uploads/{draft['id']}")
    expect(person.page.get_by_text("is not a building type (RESIDENTIAL").first).to_be_attached()
    person.look("draft-long-word")
    person.page.get_by_role("link", name="1. Columns").click()
    expect(person.page.get_by_label(re.compile("^Zweifamilienhaus"))).to_be_visible()
    person.look("draft-long-word-columns")
    assert person.page.evaluate("document.documentElement.scrollWidth") == DESKTOP["width"]


def test_a_repair_of_some_rows_says_how_many_and_offers_nothing_of_other_problems(signed_in: SignedIn, client: OrganizationClient) -> None:
    rows = "".join(f"deal #{n},{n} N Spring St,,CA,90012,Residential,1,Kim\n" for n in range(1, 4))
    draft = client.upload(",".join(HEADER) + "\n" + rows)
    page = signed_in(f"uploads/{draft['id']}").page
    held: list[Route] = []
    page.route(re.compile("/rows.*invalid_reference_id"), lambda route: held.append(route))
    page.get_by_role("link", name=re.compile("^Reference: cannot be a reference")).click()
    with page.expect_response(re.compile("/rows.*address.city")):
        page.get_by_role("link", name=re.compile("^City: empty")).click()
    for route in held:
        # The page may no longer want it.
        with contextlib.suppress(Error):
            route.continue_()
    page.get_by_role("searchbox", name="Search cells").fill("deal #2")
    expect(page.get_by_role("grid").get_by_role("row")).to_have_count(2)
    page.get_by_role("button", name="One value for all…").click()
    expect(page.get_by_role("button", name="Change 1 row", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Take the suggestions")).to_have_count(0)


def test_rows_to_repair_are_downloaded_once(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in(f"uploads/{without_cities(client, 3)}").page
    downloads: list[Download] = []
    page.on("download", lambda download: downloads.append(download))
    held: list[Route] = []
    page.route(re.compile("/rows.*limit=500"), lambda route: held.append(route))
    button = page.get_by_role("button", name="Download 3 rows")
    with page.expect_request(re.compile("/rows.*limit=500")):
        button.dblclick()
    with page.expect_download():
        release(page, held)
    expect(button).to_have_attribute("aria-disabled", "false")
    page.evaluate(PAINTED)
    assert len(downloads) == 1
    assert len(held) == 1


def test_words_are_not_looked_for_after_their_screen_is_left(signed_in: SignedIn, client: OrganizationClient) -> None:
    rows = "".join(f"deal-{n},{n} N Spring St,Los Angeles,CA,90012,Hut,1,Kim\n" for n in range(600))
    draft = client.upload(",".join(HEADER) + "\n" + rows)
    person = signed_in("usage")
    page, held, asked = person.page, list[Route](), list[str]()
    page.route(re.compile("/rows.*unknown_building_type"), lambda route: held.append(route))
    page.on("request", lambda request: asked.append(request.url) if "cursor=" in request.url else None)
    with page.expect_request(re.compile("/rows.*unknown_building_type")):
        person.open(f"uploads/{draft['id']}?step=columns")
    page.get_by_role("link", name="Organization").click()
    expect(page.get_by_text("No names yet.")).to_be_visible()
    page.unroute_all()
    for route in held:
        # The page may no longer want it.
        with contextlib.suppress(Error):
            route.continue_()
    page.wait_for_timeout(1000)
    assert asked == []


def test_a_draft_is_deleted_once(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in(f"uploads/{one_row(client)}").page
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method) if request.method == "DELETE" else None)
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete the draft").dblclick()
    expect(page.get_by_role("heading", name="New upload", level=1)).to_be_visible()
    assert (sent, client.get("/uploads").json()["uploads"]) == (["DELETE"], [])


def test_a_draft_shows_what_was_done_with_it_elsewhere(signed_in: SignedIn, client: OrganizationClient) -> None:
    made = client.post(
        "/uploads", params={"name": "March.xlsx"}, content=workbook(dirty()), headers={"content-type": "application/octet-stream"}
    )
    path = f"/uploads/{made.json()['id']}"
    page = signed_in(path[1:]).page
    start = page.get_by_role("region", name="Start")
    expect(start).to_contain_text("35 sites ready")
    client.patch(path, json={"value_maps": {"building_type": {"Hut": "RESIDENTIAL"}}})
    # Somebody comes back from another tab.
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(start).to_contain_text("37 sites ready")
    job = client.post(f"{path}/start", json={"skip_invalid": True}).json()
    start.get_by_role("button", name="Start 37 sites").click()
    expect(page.get_by_role("heading", name="March.xlsx was started")).to_be_visible()
    page.get_by_role("link", name="See the batch").click()
    expect(page).to_have_url(re.compile(job["job_id"]))


def one_row(client: OrganizationClient) -> str:
    row = "deal-1,1 N Spring St,Los Angeles,CA,90012,Residential,1,Kim\n"
    draft = client.upload(",".join(HEADER) + "\n" + row)
    return str(draft["id"])


def write(page: Page, label: str, before: str, after: str) -> None:
    page.get_by_role("gridcell", name=before, exact=True).dblclick()
    page.get_by_role("textbox", name=label, exact=True).fill(after)
    page.keyboard.press("Enter")


def test_a_start_takes_the_changes_before_it(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in(f"uploads/{one_row(client)}").page
    held = hold_first_change(page)
    write(page, "City", "Los Angeles", "Pasadena")
    write(page, "ZIP", "90012", "91101")
    start = page.get_by_role("button", name="Start 1 site")
    start.click()
    expect(start).to_have_attribute("aria-disabled", "true")
    release(page, held)
    page.wait_for_url("**/batches/*")
    [job] = client.get("/batch-lookups").json()["jobs"]
    [item] = client.get(f"/batch-lookups/{job['id']}/items").json()["items"]
    assert (item["address"]["city"], item["address"]["postal_code"]) == ("Pasadena", "91101")


def test_nothing_starts_while_a_change_is_not_saved(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in(f"uploads/{one_row(client)}").page
    refuse_changes(page)
    write(page, "City", "Los Angeles", "Pasadena")
    expect(page.get_by_text("Not saved", exact=True)).to_be_visible()
    page.get_by_role("button", name="Start 1 site").click()
    alert = page.get_by_role("region", name="Start").get_by_role("alert")
    expect(alert).to_have_text("Nothing was started, because a change has not been saved.")
    assert client.get("/batch-lookups").json()["jobs"] == []
    page.unroute_all()
    page.get_by_role("button", name="Start 1 site").click()
    page.wait_for_url("**/batches/*")
    [job] = client.get("/batch-lookups").json()["jobs"]
    [item] = client.get(f"/batch-lookups/{job['id']}/items").json()["items"]
    assert item["address"]["city"] == "Pasadena"


def test_a_change_that_is_sent_again_overwrites_no_later_one(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = one_row(client)
    page = signed_in(f"uploads/{draft}").page
    refuse_changes(page)
    write(page, "City", "Los Angeles", "Pasadena")
    expect(page.get_by_text("Not saved", exact=True)).to_be_visible()
    page.unroute_all()
    write(page, "City", "Pasadena", "Burbank")
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.evaluate("dispatchEvent(new Event('online'))")
    expect(page.get_by_role("gridcell", name="Burbank", exact=True)).to_be_visible()
    assert edits_of(client, draft) == {"3": "Burbank"}


def test_a_text_is_filled_down_before_it_is_saved(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = without_cities(client, 3)
    page = signed_in(f"uploads/{draft}?step=check&rows=all").page
    cells = page.get_by_role("gridcell", name="empty")
    expect(cells).to_have_count(3)
    held = hold_first_change(page)
    cells.first.dblclick()
    page.keyboard.type("Pasadena")
    for key in ("Enter", "ArrowUp", "Shift+ArrowDown", "Shift+ArrowDown", "Control+d"):
        page.keyboard.press(key)
    expect(page.get_by_role("gridcell", name="Pasadena", exact=True)).to_have_count(3)
    release(page, held)
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    rows = client.get(f"/uploads/{draft}/rows").json()["rows"]
    assert [row["edits"] for row in rows] == [{"3": "Pasadena"}] * 3


def test_keys_that_follow_an_edit_before_the_next_frame_start_from_it(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = without_cities(client, 3)
    page = signed_in(f"uploads/{draft}?step=check&rows=all").page
    page.get_by_role("gridcell", name="empty").first.dblclick()
    page.keyboard.type("Pasadena")
    page.evaluate("""() => {
        const down = {key: 'ArrowDown', shiftKey: true}
        for (const key of [{key: 'Enter'}, {key: 'ArrowUp'}, down, down, {key: 'd', ctrlKey: true}]) {
            document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {...key, bubbles: true}))
        }
    }""")
    expect(page.get_by_role("gridcell", name="Pasadena", exact=True)).to_have_count(3)


def test_the_former_text_is_typed_again_before_the_change_is_saved(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = one_row(client)
    page = signed_in(f"uploads/{draft}").page
    held = hold_first_change(page)
    write(page, "City", "Los Angeles", "Pasadena")
    write(page, "City", "Pasadena", "Los Angeles")
    release(page, held)
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    [row] = client.get(f"/uploads/{draft}/rows").json()["rows"]
    assert row["edits"].get("3", row["cells"][2]) == "Los Angeles"


def test_a_second_device_is_added_before_the_first_is_saved(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = one_row(client)
    page = signed_in(f"uploads/{draft}?step=columns").page
    devices = page.get_by_role("group", name="Devices")
    add = devices.get_by_label("Add a device")
    expect(add.get_by_role("option").nth(2)).to_be_attached()
    held = hold_first_change(page)
    names = add.get_by_role("option").all_inner_texts()[1:3]
    for name in names:
        add.select_option(name)
    release(page, held)
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    for name in names:
        expect(devices.get_by_role("button", name=f"Remove {name}")).to_be_visible()
    assert len(client.get(f"/uploads/{draft}").json()["defaults"]["device_ids"]) == 2


def test_undo_takes_back_a_change_that_is_still_under_way(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = one_row(client)
    page = signed_in(f"uploads/{draft}").page
    write(page, "City", "Los Angeles", "Pasadena")
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    held = hold_first_change(page)
    write(page, "ZIP", "90012", "91101")
    page.keyboard.press("Control+z")
    expect(page.get_by_text("Saving…", exact=True)).to_be_visible()
    release(page, held)
    expect(page.get_by_text("Undone: the edit")).to_be_visible()
    assert edits_of(client, draft) == {"3": "Pasadena"}


def test_a_refused_undo_can_be_repeated(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = one_row(client)
    page = signed_in(f"uploads/{draft}").page
    write(page, "City", "Los Angeles", "Pasadena")
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    refuse_changes(page, 500)
    undo = page.get_by_role("button", name="Undo")
    undo.click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.unroute_all()
    undo.click()
    expect(page.get_by_text("Undone: the edit")).to_be_visible()
    assert edits_of(client, draft) == {}


def test_undoing_a_column_gives_back_the_field_that_it_had(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = one_row(client)
    page = signed_in(f"uploads/{draft}?step=columns").page
    before = [column["field"] for column in client.get(f"/uploads/{draft}").json()["columns"]]
    page.get_by_label("City", exact=True).select_option("street_1")
    expect(page.get_by_label("Street Address", exact=True)).to_have_value("")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("Undone: the column")).to_be_visible()
    assert [column["field"] for column in client.get(f"/uploads/{draft}").json()["columns"]] == before


def test_changes_that_are_not_saved_outlive_the_screen(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = one_row(client)
    page = signed_in(f"uploads/{draft}").page
    refuse_changes(page)
    write(page, "City", "Los Angeles", "Pasadena")
    expect(page.get_by_text("Not saved", exact=True)).to_be_visible()
    assert leave(page) == ["beforeunload"]
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_text("Days are in UTC.")).to_be_visible()
    # The draft's screen is gone.
    page.evaluate(PAINTED)
    assert leave(page) == ["beforeunload"]
    page.unroute_all()
    page.go_back()
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    assert edits_of(client, draft) == {"3": "Pasadena"}


@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_the_browser_asks_before_a_cell_that_is_being_typed_is_lost(signed_in: SignedIn, client: OrganizationClient, device: str) -> None:
    draft = one_row(client) if device == "desktop" else without_cities(client, 1)
    page = signed_in(f"uploads/{draft}").page
    if device == "phone":
        page.set_viewport_size(PHONE)
        page.get_by_label("City", exact=True).click()
    else:
        page.get_by_role("gridcell", name="Los Angeles", exact=True).dblclick()
        page.keyboard.press("Control+a")
    page.keyboard.type("Pasadena")
    asked = leave(page)
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    assert asked == ["beforeunload"]
    assert edits_of(client, draft) == {"3": "Pasadena"}


def test_a_card_stays_while_its_cells_are_typed(signed_in: SignedIn, client: OrganizationClient) -> None:
    row = "deal-1,1 N Spring St,,CA,9A012,Residential,1,Kim\n"
    draft = client.upload(",".join(HEADER) + "\n" + row)["id"]
    page = signed_in(f"uploads/{draft}?problem=missing&field=address.city").page
    page.set_viewport_size(PHONE)
    card = page.get_by_role("region", name="Row 2")
    held = hold_first_change(page)
    card.get_by_label("City", exact=True).fill("Los Angeles")
    card.get_by_label("ZIP", exact=True).click()
    page.keyboard.press("Control+a")
    page.keyboard.type("900")
    with page.expect_response(re.compile("/rows.*address.city")):
        release(page, held)
    page.evaluate(PAINTED)
    page.keyboard.type("12")
    page.keyboard.press("Tab")
    expect(page.get_by_role("region", name="Start")).to_contain_text("1 site ready")
    assert edits_of(client, draft) == {"3": "Los Angeles", "5": "90012"}


def test_changes_outlive_the_key_that_they_were_made_with(person: Person, client: OrganizationClient) -> None:
    draft = without_cities(client, 3)
    made = client.post("/api-keys", json={"scopes": ["jobs:read", "jobs:write"]}).json()
    person.sign_in(made["key"], f"uploads/{draft}?step=check&rows=all")
    page = person.page
    cells = page.get_by_role("gridcell", name="empty")
    expect(cells).to_have_count(3)
    held = hold_first_change(page)
    cells.first.dblclick()
    for city in ("Pasadena", "Burbank"):
        page.keyboard.type(city)
        page.keyboard.press("Enter")
    client.delete(f"/api-keys/{made['id']}")
    release(page, held)
    expect(page.get_by_role("alert")).to_contain_text("Please sign in again.")
    page.get_by_label("API key").fill(client.api_key)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    expect(cells).to_have_count(1)
    rows = client.get(f"/uploads/{draft}/rows").json()["rows"]
    assert [row["edits"] for row in rows] == [{"3": "Pasadena"}, {"3": "Burbank"}, {}]


def test_keys_of_an_input_method_do_not_end_a_cell(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = without_cities(client, 2)
    page = signed_in(f"uploads/{draft}?step=check").page
    first = page.get_by_role("gridcell", name="empty").first
    first.dblclick()
    field = page.locator(".grid input")
    method = page.context.new_cdp_session(page)
    for key in ("Enter", "Escape"):
        method.send("Input.imeSetComposition", {"text": "ろす", "selectionStart": 2, "selectionEnd": 2})
        page.keyboard.press(key)
        expect(field).to_have_value(re.compile("ろす$"))
        expect(field).to_be_focused()
    method.send("Input.insertText", {"text": "ロス"})
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Start")).to_contain_text("1 site ready")
    assert {"3": "ロス"} in [row["edits"] for row in client.get(f"/uploads/{draft}/rows").json()["rows"]]


def test_enter_in_a_field_starts_nothing(signed_in: SignedIn, client: OrganizationClient) -> None:
    """Among cells, Enter ends what is typed; a start costs money."""
    page = signed_in("upload").page
    upload(page, workbook(dirty()))
    start = page.get_by_role("region", name="Start")
    expect(start.get_by_role("button", name="Try 20 first")).to_be_visible()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.url.endswith("/start") else None)
    name = page.get_by_label("Name of the batch")
    name.fill("April")
    for label in ("Name of the batch", "Stop after this many lookups", "Reuse results"):
        page.get_by_label(label).press("Enter")
    expect(name).to_have_value("April")
    page.wait_for_timeout(300)
    assert sent == []
    start.get_by_role("button", name=re.compile("^Start")).press("Enter")
    expect(page.get_by_role("heading", name="April")).to_be_visible()
    assert client.get("/batch-lookups").json()["jobs"][0]["waiting_for"] is None


def test_control_and_an_arrow_lead_to_the_end(signed_in: SignedIn, client: OrganizationClient) -> None:
    extra = range(480 - len(HEADER))
    lines = [",".join([*HEADER, *(f"Extra {n}" for n in extra)])]
    lines += [
        f"deal-{row:03},{row} N Spring St,Los Angeles,CA,90012,Hut,1,Kim" + "".join(f",{row}-{n}" for n in extra) for row in range(300)
    ]
    draft = client.upload("\n".join(lines))
    page = signed_in(f"uploads/{draft['id']}?step=check&rows=all").page
    grid, focused = page.get_by_role("grid"), page.locator(":focus")
    expect(grid.get_by_role("gridcell", name="deal-000")).to_be_visible()
    grid.focus()
    last = extra[-1]
    for key, text in {
        "Home": "deal-000",
        "Control+ArrowRight": f"0-{last}",
        "Control+ArrowDown": f"299-{last}",
        "Control+ArrowLeft": "deal-299",
        "Control+ArrowUp": "deal-000",
        "End": f"0-{last}",
        "Control+End": f"299-{last}",
        "Control+Home": "deal-000",
    }.items():
        page.keyboard.press(key)
        expect(focused).to_have_text(text)
        expect(focused).to_be_in_viewport(ratio=0.9)
    for keys in (["PageDown", "PageUp"], ["Control+ArrowRight", "PageDown", "PageUp", "Control+ArrowLeft"]):
        for key in keys:
            page.keyboard.press(key)
            expect(focused).to_be_in_viewport(ratio=0.9)
        expect(focused).to_have_text("deal-000")


def test_undo_works_with_caps_lock(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = without_cities(client, 2)
    page = signed_in(f"uploads/{draft}?step=check&rows=all").page
    page.get_by_role("gridcell", name="empty").first.dblclick()
    page.keyboard.type("Pasadena")
    page.keyboard.press("Enter")
    start = page.get_by_role("region", name="Start")
    expect(start).to_contain_text("1 site ready")
    page.keyboard.press("Control+Z")
    expect(start).to_contain_text("0 sites ready")


def test_more_cells_than_fit_are_refused_however_many(signed_in: SignedIn, client: OrganizationClient) -> None:
    """As many as a whole column of a spreadsheet."""
    draft = without_cities(client, 2)
    page = signed_in(f"uploads/{draft}?step=check&rows=all").page
    page.get_by_role("gridcell", name="empty").first.click()
    page.evaluate(
        """() => {
            const clipboardData = new DataTransfer()
            clipboardData.setData("text/plain", "x\\n".repeat(2 ** 20))
            document.activeElement.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }))
        }"""
    )
    expect(page.locator(".note-toast")).to_have_text("At most 10,000 cells can be pasted at a time.")


def test_defaults_of_other_clients_are_shown(signed_in: SignedIn, client: OrganizationClient) -> None:
    defaults = {"default_reference_id": "site-{line}", "default_building_type": "single family", "default_country_code": "usa"}
    rows = "Street Address,City,State,ZIP,Devices\n1 Elm St,Los Angeles,CA,90012,1\n"
    draft = client.upload(rows, **defaults)
    page = signed_in(f"uploads/{draft['id']}?step=columns").page
    region = page.get_by_role("region", name="Where a cell is empty")
    for label, value in (("Reference", "site-{line}"), ("Building type", "single family"), ("Country", "usa")):
        field = region.get_by_label(label)
        expect(field).to_have_value(value)
        expect(field.locator("option:checked")).to_have_text(value)
    region.get_by_label("Reference").select_option("No default")
    expect(page.locator(".banner").first).to_contain_text("No column was found for Reference")


def draft_with_problem(client: OrganizationClient) -> str:
    rows = [f"deal-{n},{n} N Spring St,Los Angeles,CA,90012,{'Hut' if n else 'Residential'},1,Kim" for n in range(2)]
    draft = client.upload("\n".join([",".join(HEADER), *rows]))
    return str(draft["id"])


def test_who_may_only_see_a_draft_is_offered_no_change(person: Person, client: OrganizationClient) -> None:
    draft = draft_with_problem(client)
    key = client.post("/api-keys", json={"scopes": ["jobs:read"]}).json()["key"]
    person.sign_in(key, f"uploads/{draft}?step=check")
    page = person.page
    changes: list[str] = []
    page.on("request", lambda request: changes.append(request.url) if request.method != "GET" else None)
    expect(page.get_by_text("You may see this draft, but neither change nor start it.")).to_be_visible()
    cell = page.get_by_role("gridcell", name="Hut")
    cell.dblclick()
    for pressed in ("x", "Enter", "F2", "Delete", "Backspace", "Space", "Control+d", "Control+x", "Control+v"):
        page.keyboard.press(pressed)
    page.get_by_role("link", name="Building type: not a building type").click()
    expect(cell).to_be_visible()
    expect(page.locator(".grid input")).to_have_count(0)
    names = "Undo|Saved|Delete…|Leave|One value|Use "
    expect(page.get_by_role("main").get_by_role("button", name=re.compile(names))).to_have_count(0)
    person.look("draft-seen")
    page.set_viewport_size(PHONE)
    expect(page.get_by_label("Bldg")).to_have_js_property("readOnly", True)
    expect(page.get_by_role("main").get_by_role("button", name=re.compile(names))).to_have_count(0)
    page.set_viewport_size(DESKTOP)
    page.get_by_role("link", name="1. Columns").click()
    expect(page.get_by_label("Hut Building type")).to_be_disabled()
    assert all(choice.is_disabled() for choice in page.get_by_role("main").get_by_role("combobox").all())
    person.look("draft-seen-columns")
    assert changes == []


def test_another_repair_can_begin_while_one_is_under_way(signed_in: SignedIn, client: OrganizationClient) -> None:
    rows = [f"deal-{n},{n} N Spring St,Los Angeles,CA,9A012,Hut,1,Kim" for n in range(2)]
    draft = client.upload("\n".join([",".join(HEADER), *rows]))["id"]
    page = signed_in(f"uploads/{draft}?step=check").page
    dialog = page.get_by_role("dialog")

    def fill(group: str, value: str) -> None:
        page.get_by_role("link", name=group).click()
        page.get_by_role("button", name="One value for all…").click()
        dialog.get_by_role("textbox").fill(value)
        dialog.get_by_role("button", name="Change 2 rows").click()

    held: list[Route] = []
    page.route(re.compile("/rows.*postal_code.*limit=500"), lambda route: held.append(route))
    with page.expect_request(re.compile("limit=500")):
        fill("Postal code: not a postal code", "90012")
    page.keyboard.press("Escape")
    fill("Building type: not a building type", "RESIDENTIAL")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("link", name="Building type: not a building type")).to_have_count(0)
    held[0].continue_()
    expect(page.get_by_role("region", name="Start")).to_contain_text("2 sites ready")


def test_what_was_typed_to_search_rows_does_not_lead_back_to_them(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in(f"uploads/{draft_with_problem(client)}?step=check").page
    expect(page.get_by_role("gridcell", name="Hut")).to_be_visible()
    page.clock.install()
    page.get_by_role("searchbox", name="Search cells").fill("deal")
    page.get_by_role("link", name="1. Columns").click()
    expect(page.get_by_role("columnheader", name="Becomes")).to_be_visible()
    page.clock.run_for(1000)
    expect(page.get_by_role("link", name="1. Columns")).to_have_attribute("aria-current", "step")


@pytest.mark.parametrize("key", ["Delete", "Backspace"])
def test_a_cell_is_cleared_by_the_key_that_a_laptop_has(signed_in: SignedIn, client: OrganizationClient, key: str) -> None:
    draft = draft_with_problem(client)
    page = signed_in(f"uploads/{draft}?step=check&rows=all").page
    page.get_by_role("gridcell", name="Kim").first.click()
    page.keyboard.press(key)
    expect(page.get_by_role("gridcell", name="Kim")).to_have_count(1)
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    assert [row["edits"] for row in client.get(f"/uploads/{draft}/rows").json()["rows"]] == [{"8": ""}, {}]


def test_the_choice_of_the_last_column_leads_to_no_other_step(signed_in: SignedIn, client: OrganizationClient) -> None:
    rows = ["Opportunity,Street,City,State,ZIP,Kind,Equipment", "deal-1,1 N Spring St,Los Angeles,CA,90012,Hut,1"]
    draft = client.upload("\n".join(rows))["id"]
    page = signed_in(f"uploads/{draft}").page
    page.get_by_label("Opportunity", exact=True).select_option("Reference")
    choice = page.get_by_label("Kind", exact=True)
    choice.focus()
    choice.select_option("Building type")
    expect(page.get_by_text("No column was found for")).to_have_count(0)
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    expect(choice).to_be_focused()
    page.get_by_label(re.compile("^Hut")).select_option("RESIDENTIAL")
    expect(page.get_by_role("region", name="Start")).to_contain_text("1 site ready")


def test_words_are_not_said_to_be_understood_before_they_are_read(signed_in: SignedIn, client: OrganizationClient) -> None:
    draft = draft_with_problem(client)
    page = signed_in("batches").page
    held: list[Route] = []
    page.route(re.compile("/rows.*unknown_building_type"), lambda route: held.append(route))
    with page.expect_request(re.compile("/rows.*unknown_building_type")):
        page.goto(f"{page.url.partition('#')[0]}#/uploads/{draft}?step=columns")
    words = page.get_by_role("region", name="What your words stand for")
    expect(words).to_contain_text("Loading…")
    expect(words).not_to_contain_text("Every value was understood.")
    held[0].continue_()
    words.get_by_label(re.compile("^Hut")).select_option("RESIDENTIAL")
    expect(page.get_by_role("region", name="Start")).to_contain_text("2 sites ready")
    words.get_by_label(re.compile("^Hut")).select_option("")
    page.get_by_label("Bldg", exact=True).select_option("")
    expect(words).to_contain_text("Every value was understood.")


def test_a_kind_of_problem_that_is_repaired_leads_to_the_others(signed_in: SignedIn, client: OrganizationClient) -> None:
    rows = ["deal-0,1 N Spring St,Los Angeles,CA,9A012,Residential,1,Kim", "deal-1,1 N Spring St,Los Angeles,CA,90012,Hut,1,Kim"]
    draft = client.upload("\n".join([",".join(HEADER), *rows]))["id"]
    page = signed_in(f"uploads/{draft}?step=check").page
    for kind, value in (("Postal code: not a postal code", "90012"), ("Building type: not a building type", "RESIDENTIAL")):
        page.get_by_role("link", name=kind).click()
        page.get_by_role("button", name="One value for all…").click()
        page.get_by_role("dialog").get_by_role("textbox").fill(value)
        page.keyboard.press("Enter")
        if value == "90012":
            expect(page.get_by_text("None of this kind are left.")).to_be_visible()
            page.get_by_role("link", name="See the others").click()
            expect(page.get_by_role("gridcell", name="Hut")).to_be_visible()
    expect(page.get_by_text("Nothing is left to repair.")).to_be_visible()


def test_a_kind_of_problem_leads_to_what_its_words_stand_for(signed_in: SignedIn, client: OrganizationClient) -> None:
    rows = f"{PLAIN}\ndeal-1,1 Main St,Oakland,CA,94601,Hut,1\ndeal-2,2 Main St,,CA,94601,RESIDENTIAL,1\n"
    draft = client.upload(rows)
    person = signed_in(f"uploads/{draft['id']}?step=check&problem=missing&field=address.city")
    page, link = person.page, person.page.get_by_role("link", name="Say what they stand for")
    expect(page.get_by_role("button", name="Leave them out")).to_be_visible()
    expect(link).to_have_count(0)
    page.get_by_role("link", name=re.compile("^Building type: not a building type")).click()
    link.click()
    expect(page.get_by_role("heading", name="What your words stand for")).to_be_focused()
    page.get_by_label(re.compile("^Hut")).select_option("RESIDENTIAL")
    page.go_back()
    expect(page.get_by_text("None of this kind are left.")).to_be_visible()


def test_a_repair_of_many_rows_says_that_they_are_being_read(signed_in: SignedIn, client: OrganizationClient) -> None:
    rows = "".join(f"deal-{n},{n} Main St,Oakland,CA,94601,Hut,1\n" for n in range(501))
    draft = client.upload(f"{PLAIN}\n{rows}")
    page = signed_in(f"uploads/{draft['id']}?step=check&problem=unknown_building_type&field=building_type").page
    expect(page.get_by_role("gridcell", name="Hut").first).to_be_visible()
    held: list[Route] = []
    page.route(re.compile("/rows.*limit=500"), lambda route: held.append(route), times=1)
    note = page.get_by_role("status").last
    with page.expect_request(re.compile("/rows.*limit=500")):
        page.get_by_role("button", name="Leave them out").click()
    expect(note).to_have_text("Reading 501 rows…")
    held[0].continue_()
    expect(page.get_by_text("501 left out by you")).to_be_visible()
    expect(note).to_have_text("")


def test_a_long_name_has_its_own_line_on_a_phone(signed_in: SignedIn, client: OrganizationClient) -> None:
    name = "Portfolio_of_the_Municipal_Property_Management_2026_final.csv"
    draft = client.upload("Deal ID\n1\n", name=name)
    page = signed_in(f"uploads/{draft['id']}").page
    page.set_viewport_size(PHONE)
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    heading, main = (page.locator(place).first.bounding_box() for place in ("main h1", "main .tabs"))
    assert heading is not None
    assert main is not None
    assert heading["width"] == main["width"]
