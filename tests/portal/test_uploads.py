"""How a file is uploaded."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Event

import httpx
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.http_fixtures import OrganizationClient
from tests.portal.conftest import Person, SignedIn
from tests.timed import wait_until
from tests.webhook_receiver import serving


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in ("north.csv", "south.csv")]
    for path in paths:
        path.write_text("Deal ID,Street\nd-1,1 Elm St\n")
    return [str(path) for path in paths]


def drop(page: Page, target: Locator, files: list[str]) -> None:
    """Drops files as a person does, including the browser's default action if the page does not handle it."""
    box = target.bounding_box()
    assert box is not None
    browser = page.context.new_cdp_session(page)
    data = {"items": [], "files": files, "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 5, "y": box["y"] + 5, "data": data})
    browser.detach()


# Whether the browser performs its default action, which opens the file in place of the page.
DROP = """(text) => {
    const dataTransfer = new DataTransfer()
    if (text) dataTransfer.setData("text/plain", text)
    else dataTransfer.items.add(new File(["Deal ID"], "north.csv"))
    const event = (type) => new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true })
    return ["dragover", "drop"].map((type) => document.querySelector("h1").dispatchEvent(event(type)))
}"""


@pytest.mark.parametrize("screen", ["upload", "usage"])
def test_a_file_dropped_outside_the_drop_zone_changes_nothing(signed_in: SignedIn, client: OrganizationClient, screen: str) -> None:
    page = signed_in(screen).page
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.evaluate(DROP, "") == [False, False]
    assert page.evaluate(DROP, "text") == [True, True]
    assert client.get("/uploads").json()["total"] == 0


def test_of_several_files_the_page_says_which_one_is_uploaded(signed_in: SignedIn, client: OrganizationClient, files: list[str]) -> None:
    page = signed_in("upload").page
    held: list[Route] = []
    page.route(re.compile(r"/uploads\?name"), lambda route: held.append(route))
    note = page.get_by_role("status").last
    with page.expect_request(re.compile(r"/uploads\?name")):
        drop(page, page.locator(".drop"), files)
    expect(note).to_have_text("One file at a time: north.csv goes up, and no other one.")
    drop(page, page.locator(".drop"), files[1:])
    expect(note).to_have_text("north.csv is still uploading: south.csv was not accepted.")
    held[0].continue_()
    expect(page.get_by_role("heading", name="north.csv")).to_be_visible()
    assert client.get("/uploads").json()["total"] == 1


def test_a_large_file_is_sent_compressed_unless_it_is_already(signed_in: SignedIn, client: OrganizationClient, tmp_path: Path) -> None:
    rows = b"Deal ID,Street\n" + b"".join(b"deal-%d,%d Elm St\n" % (n, n) for n in range(6000))
    page = signed_in("upload").page
    for name, content, encoding in (("rows.csv", rows, "gzip"), ("rows.csv.gz", gzip.compress(rows, 0), None)):
        (tmp_path / name).write_bytes(content)
        with page.expect_request(re.compile(r"/uploads\?name")) as sent:
            page.locator("input[type=file]").set_input_files(str(tmp_path / name))
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        assert sent.value.headers.get("content-encoding") == encoding
        assert client.get("/uploads").json()["uploads"][0]["total_rows"] == 6000
        page.go_back()


@contextmanager
def stalled() -> Iterator[int]:
    """The port of a service that reads the beginning of a request and no more."""
    end = Event()

    class Answer(StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.read(100_000)
            end.wait()

    with ThreadingTCPServer(("127.0.0.1", 0), Answer) as server, serving(server):
        try:
            yield server.server_address[1]
        finally:
            end.set()


def test_a_large_file_shows_how_much_has_been_sent_and_can_be_cancelled(
    signed_in: SignedIn, client: OrganizationClient, files: list[str], tmp_path: Path
) -> None:
    person = signed_in("upload")
    name = "Portfolio_of_the_Municipal_Property_Management_and_Development_2026_final.csv"
    page, progress = person.page, person.page.get_by_role("progressbar", name=name)
    # Larger than what is on its way between two sockets.
    (tmp_path / name).write_bytes(b"Deal ID\n" + b"deal\n" * 10_000_000)
    with stalled() as port:
        page.route(re.compile(r"/uploads\?name"), lambda route: route.continue_(url=f"http://127.0.0.1:{port}/"))
        page.locator("input[type=file]").set_input_files(str(tmp_path / name))
        expect(progress).to_have_attribute("aria-valuetext", re.compile(r"^([1-9]|\d\d)% sent$"))
        person.look("upload-under-way")

        # It goes on elsewhere, and can still be cancelled.
        page.get_by_role("link", name="Usage").click()
        expect(progress).to_have_count(0)
        page.go_back()
        expect(progress).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("status").last).to_have_text(f"The upload of {name} is cancelled")
        expect(progress).to_have_count(0)
        expect(page.get_by_role("alert")).to_have_count(0)
        page.unroute_all()
    page.locator("input[type=file]").set_input_files(files[0])
    expect(page.get_by_role("heading", name="north.csv")).to_be_visible()
    assert client.get("/uploads").json()["total"] == 1


@contextmanager
def slow_to_answer(server: str) -> Iterator[tuple[str, Event]]:
    """A service that passes requests on to `server`, and answers them when the event is set."""
    end = Event()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = httpx.post(f"{server}{self.path}", content=body, headers=dict(self.headers))
            end.wait()
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as slow, serving(slow):
        try:
            yield f"http://127.0.0.1:{slow.server_address[1]}", end
        finally:
            end.set()


def test_a_file_that_is_cancelled_while_it_is_read_leaves_no_draft(person: Person, client: OrganizationClient, files: list[str]) -> None:
    page, server = person.page, person.server
    person.sign_in(client.api_key, "upload")
    with slow_to_answer(server) as (slow, answered):
        page.route(re.compile(r"/uploads\?name"), lambda route: route.continue_(url=route.request.url.replace(server, slow)))
        page.locator("input[type=file]").set_input_files(files[0])
        progress = page.get_by_role("progressbar", name="north.csv")
        expect(progress).to_have_attribute("aria-valuetext", "being read…")
        wait_until(lambda: bool(client.get("/uploads").json()["total"]), lambda: "there is no draft")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("status").last).to_have_text("The upload of north.csv is cancelled")
        expect(progress).to_have_count(0)
        page.unroute_all()
        page.locator("input[type=file]").set_input_files(files[1])
        expect(page.get_by_role("heading", name="south.csv")).to_be_visible()
        with page.expect_response(lambda response: response.request.method == "DELETE"):
            answered.set()
    assert [draft["name"] for draft in client.get("/uploads").json()["uploads"]] == ["south.csv"]
    expect(page.get_by_role("heading", name="south.csv")).to_be_visible()


def test_a_folder_or_a_file_that_was_changed_is_said_to_be_unreadable(
    signed_in: SignedIn, client: OrganizationClient, files: list[str], tmp_path: Path
) -> None:
    page = signed_in("upload").page
    alert = page.get_by_role("alert")
    (tmp_path / "folder").mkdir()
    drop(page, page.locator(".drop"), [str(tmp_path / "folder")])
    expect(alert).to_contain_text("This file cannot be read.")
    page.route(re.compile(r"/uploads\?name"), lambda route: route.abort())
    page.locator("input[type=file]").set_input_files(files[0])
    expect(alert).to_contain_text("The service cannot be reached.")
    page.unroute_all()
    Path(files[0]).write_text("Deal ID,Street\nd-1,1 Elm St\nd-2,2 Elm St\n")
    page.get_by_role("button", name="Try again").click()
    expect(alert).to_contain_text("This file cannot be read.")
    assert client.get("/uploads").json()["total"] == 0


PASTE = """([text, image]) => {
    const clipboardData = new DataTransfer()
    clipboardData.setData("text/plain", text)
    if (image) clipboardData.items.add(new File(["x"], "image.png", { type: "image/png" }))
    document.activeElement.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }))
}"""


@pytest.mark.parametrize("source", ["text", "excel"])
def test_rows_are_pasted_at_the_drop_zone(signed_in: SignedIn, client: OrganizationClient, source: str) -> None:
    page = signed_in("upload").page
    page.locator("input[type=file]").focus()
    # Excel copies a picture of the cells, too.
    page.evaluate(PASTE, ["Deal ID\tCity\nd-1\tLos Angeles\n", source == "excel"])
    expect(page.get_by_role("heading", name="Pasted rows")).to_be_visible()
    [draft] = client.get("/uploads").json()["uploads"]
    assert draft["total_rows"] == 1


def test_pasted_columns_without_a_title_stay_in_their_place(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in("upload").page
    page.locator("input[type=file]").focus()
    page.evaluate(PASTE, ["\tDeal ID\tCity\tOwner\n1\td-1\tLos Angeles\t\n", False])
    expect(page.get_by_role("heading", name="Pasted rows")).to_be_visible()
    [draft] = client.get("/uploads").json()["uploads"]
    columns = client.get(f"/uploads/{draft['id']}").json()["columns"]
    assert [(column["header"], column["samples"]) for column in columns] == [
        ("", ["1"]),
        ("Deal ID", ["d-1"]),
        ("City", ["Los Angeles"]),
        ("Owner", None),
    ]


def test_who_may_not_upload_is_told_so(person: Person, client: OrganizationClient) -> None:
    key = client.post("/api-keys", json={"scopes": ["jobs:read"]}).json()["key"]
    person.sign_in(key, "upload")
    page, sent = person.page, list[str]()
    page.on("request", lambda request: sent.append(request.url) if request.method != "GET" else None)
    expect(page.get_by_text("You may see drafts, but not upload files.")).to_be_visible()
    expect(page.locator("input[type=file]")).to_have_count(0)
    page.evaluate("""() => {
        const clipboardData = new DataTransfer()
        clipboardData.setData("text/plain", "Deal ID\\tStreet\\nd-1\\t1 Elm St")
        document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }))
    }""")
    person.look("upload-refused")
    assert sent == []
