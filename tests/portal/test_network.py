"""A network and a service with interruptions: nothing fails silently, and what failed temporarily loads by itself."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Event
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Dialog, Route, expect

from tests.browser_fixtures import empty_page
from tests.conftest import Connection
from tests.http_fixtures import UNKNOWN_ID, OrganizationClient, site
from tests.portal.conftest import Person, SignedIn
from tests.webhook_receiver import serving


@pytest.mark.parametrize("address", ["batches/%E0%A4%A", "batches/100%"])
def test_a_broken_address_breaks_no_page(signed_in: SignedIn, address: str) -> None:
    page = signed_in(address).page
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.get_by_role("link", name="Batch Lookups").click()
    expect(page.get_by_role("heading", name="Batches", level=1)).to_be_visible()


def test_a_download_says_that_it_is_under_way_or_why_it_failed(signed_in: SignedIn, client: OrganizationClient) -> None:
    job = client.submit(site())
    page = signed_in(f"batches/{job['job_id']}").page
    note = page.get_by_role("status").last
    with page.expect_download() as file:
        page.get_by_role("button", name="Results…").click()
        page.get_by_role("button", name="CSV", exact=True).click()
    assert file.value.suggested_filename.endswith(".csv")
    expect(note).to_contain_text(".csv is there")
    page.route(
        re.compile("/results"), lambda route: route.fulfill(status=500, json={"error": "It broke.", "hint": "Try later.", "code": "x"})
    )
    page.get_by_role("button", name="Results…").click()
    page.get_by_role("button", name="CSV", exact=True).click()
    expect(note).to_have_text("It broke. Try later.")


@contextmanager
def cut_off(*, stalls: bool = False) -> Iterator[int]:
    """The port of a service that begins a response and hangs up, or stalls."""
    end = Event()

    class Answer(StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
            if stalls:
                end.wait()

    with ThreadingTCPServer(("127.0.0.1", 0), Answer) as server, serving(server):
        try:
            yield server.server_address[1]
        finally:
            end.set()


@pytest.mark.parametrize("stalls", [False, True])
def test_a_response_that_breaks_off_is_reported_and_requested_again(person: Person, client: OrganizationClient, stalls: bool) -> None:
    job = client.submit(site())
    page = person.page
    page.clock.install()
    with cut_off(stalls=stalls) as port:
        page.route(re.compile("/results|/api-keys"), lambda route: route.continue_(url=f"http://127.0.0.1:{port}/"))
        person.sign_in(client.api_key, f"batches/{job['job_id']}")
        page.get_by_role("button", name="Results…").click()
        with page.expect_response(f"http://127.0.0.1:{port}/"):
            page.get_by_role("button", name="CSV", exact=True).click()
        page.clock.run_for(601_000 if stalls else 0)
        expect(page.get_by_role("status").last).to_have_text("The response was cut off. Check the connection, and try again.")
        with page.expect_response(f"http://127.0.0.1:{port}/"):
            page.get_by_role("link", name="API keys").click()
        page.clock.run_for(61_000 if stalls else 0)
        expect(page.get_by_role("alert")).to_contain_text(
            "The response was cut off. Check the connection; this page retries automatically."
        )
    page.unroute_all()
    page.clock.run_for(11_000)
    expect(page.get_by_role("row")).to_have_count(2)
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("status", [502, 503])
def test_what_failed_for_a_moment_loads_by_itself(person: Person, client: OrganizationClient, status: int) -> None:
    """A deploy restarts the service; the browser's network works all the time."""
    page = person.page
    page.clock.install()
    person.sign_in(client.api_key, "batches")
    page.route(re.compile("/api-keys"), lambda route: route.fulfill(status=status, body="<h1>Bad gateway</h1>"))
    page.get_by_role("link", name="API keys").click()
    problem = page.get_by_role("alert")
    for _ in range(8):
        page.clock.run_for(1000)
    expect(problem).to_contain_text(f"The service answered {status}.")
    page.unroute_all()
    page.clock.run_for(11_000)
    expect(page.get_by_role("row")).to_have_count(2)
    expect(problem).to_have_count(0)


def test_a_request_without_a_response_ends(person: Person, client: OrganizationClient) -> None:
    page = person.page
    page.clock.install()
    person.sign_in(client.api_key, "batches")
    page.clock.pause_at(page.evaluate("Date.now()") + 1000)
    held: list[Route] = []
    page.route(re.compile("/api-keys"), lambda route: held.append(route))
    page.get_by_role("link", name="API keys").click()
    while not held:
        page.clock.run_for(1)
        page.wait_for_timeout(10)
    problem = page.get_by_role("alert")
    page.clock.run_for(59_000)
    expect(problem).to_have_count(0)
    page.clock.run_for(2_000)
    expect(problem).to_contain_text("The service is not responding. This page retries automatically.")
    page.clock.resume()
    page.unroute_all()
    page.clock.run_for(11_000)
    expect(page.get_by_role("row")).to_have_count(2)
    expect(problem).to_have_count(0)


def test_a_kept_key_signs_in_once_the_service_is_back(person: Person, client: OrganizationClient) -> None:
    page = person.page
    page.clock.install()
    person.sign_in(client.api_key, "usage")
    page.route(re.compile("/me$"), lambda route: route.abort())
    page.reload()
    for _ in range(8):
        page.clock.run_for(1000)
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached. Your key is kept in this tab.")
    person.look("sign-in-away")
    page.unroute_all()
    page.clock.run_for(11_000)
    expect(page.get_by_role("heading", name="Usage", level=1)).to_be_visible()


def test_a_batch_says_that_the_service_does_not_respond(person: Person, client: OrganizationClient) -> None:
    job = client.submit(site())
    page = person.page
    is_away = [False]

    def answer(route: Route) -> None:
        # Nor are there long polls.
        if is_away[0] or "wait=30" in route.request.url:
            route.abort()
        else:
            route.continue_()

    page.route_web_socket(re.compile("/realtime/"), lambda socket: socket.close())
    page.route(re.compile("/batch-lookups/"), answer)
    person.sign_in(client.api_key, f"batches/{job['job_id']}")
    expect(page.get_by_text("Polling", exact=True)).to_be_visible()
    is_away[0] = True
    expect(page.get_by_text("No answer", exact=True)).to_be_visible()
    expect(page.locator("[data-live]")).to_have_text("No connection; what you see may be outdated")
    is_away[0] = False
    expect(page.get_by_text("No answer", exact=True)).to_have_count(0)


@pytest.mark.parametrize("screen", ["reports", "reports/REPORT"])
def test_reports_say_that_the_service_does_not_respond(person: Person, client: OrganizationClient, screen: str) -> None:
    job = client.submit(site())
    page = person.page
    page.route_web_socket(re.compile("/realtime/"), lambda socket: socket.close())
    person.sign_in(client.api_key, screen.replace("REPORT", job["report"]["id"]))
    expect(page.get_by_text("Polling", exact=True)).to_be_visible()
    page.route(re.compile("/incentive-reports"), lambda route: route.abort())
    expect(page.get_by_text("No answer", exact=True)).to_be_visible()
    page.unroute_all()
    expect(page.get_by_text("Polling", exact=True)).to_be_visible()


def test_a_page_that_waits_for_the_service_for_long_keeps_nothing_of_each_attempt(person: Person, client: OrganizationClient) -> None:
    job, page = client.submit(), person.page
    page.clock.install()
    page.route_web_socket(re.compile("realtime"), lambda socket: socket.close())
    person.sign_in(client.api_key, f"batches/{job['job_id']}")
    expect(page.get_by_role("region", name="Progress")).to_be_visible()
    page.route(re.compile("/batch-lookups/"), lambda route: route.abort())
    browser = page.context.new_cdp_session(page)

    def listeners_after(minutes: int) -> int:
        for _ in range(minutes * 60):
            page.clock.run_for(1000)
            page.wait_for_timeout(5)
        browser.send("HeapProfiler.collectGarbage")
        return int(browser.send("Memory.getDOMCounters")["jsEventListeners"])

    before = listeners_after(1)
    assert listeners_after(4) < before + 20


def test_a_wrong_clock_of_the_computer_shows_no_key_as_expired(person: Person, client: OrganizationClient) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    client.post("/api-keys", json={"name": "CRM", "scopes": ["jobs:read"], "expires_at": ends.isoformat()})
    person.page.clock.install(time=datetime.now(UTC) + timedelta(hours=2))
    person.sign_in(client.api_key, "keys")
    row = person.page.get_by_role("row", name="CRM")
    expect(row.get_by_role("button", name="Revoke CRM")).to_be_visible()
    expect(row).not_to_contain_text("expired")


def test_an_upload_that_ends_late_does_not_leave_another_screen(signed_in: SignedIn, client: OrganizationClient) -> None:
    page = signed_in("upload").page
    held: list[Route] = []
    page.route(re.compile(r"/uploads\?name"), lambda route: held.append(route))

    def choose(content: bytes) -> None:
        page.evaluate("location.hash = '#/upload'")
        with page.expect_request(re.compile(r"/uploads\?name")):
            page.locator("input[type=file]").set_input_files({"name": "sites.csv", "mimeType": "text/csv", "buffer": content})
        page.get_by_role("link", name="Usage").click()
        expect(page.get_by_role("heading", name="Usage", level=1)).to_be_visible()
        held.pop().continue_()

    choose(b"Deal ID,Street\nd-1,1 Elm St\n")
    expect(page.get_by_text("sites.csv has been uploaded, and is among the drafts.")).to_be_visible()
    choose(b"%PDF-1.7")
    expect(page.get_by_text("sites.csv has not been uploaded. This is a PDF document")).to_be_visible()
    expect(page.get_by_role("heading", name="Usage", level=1)).to_be_visible()
    assert client.get("/uploads").json()["total"] == 1


def test_the_browser_asks_before_a_file_that_goes_up_is_lost(signed_in: SignedIn) -> None:
    page = signed_in("upload").page
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    page.route(re.compile(r"/uploads\?name"), lambda _: None)
    # Browsers ask only after the page has been used.
    page.get_by_role("heading", name="New upload", level=1).click()
    page.locator("input[type=file]").set_input_files({"name": "sites.csv", "mimeType": "text/csv", "buffer": b"Deal ID\n1\n"})
    expect(page.get_by_text("Uploading sites.csv…")).to_be_visible()
    page.close(run_before_unload=True)
    expect(page.get_by_text("Uploading sites.csv…")).to_be_visible()
    assert asked == ["beforeunload"]


def test_the_browser_asks_while_the_second_of_two_files_goes_up(signed_in: SignedIn) -> None:
    page = signed_in("upload").page
    held, asked = list[Route](), list[str]()

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    page.route(re.compile(r"/uploads\?name"), lambda route: held.append(route))
    for name in ("north.csv", "south.csv"):
        page.get_by_role("link", name="Usage").click()
        expect(page.get_by_role("heading", name="Usage", level=1)).to_be_visible()
        page.evaluate("location.hash = '#/upload'")
        page.get_by_role("heading", name="New upload", level=1).click()
        with page.expect_request(re.compile(r"/uploads\?name")):
            page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "text/csv", "buffer": name.encode()})
    held[0].fulfill(status=400, json={"error": "No.", "code": "x", "hint": ""})
    expect(page.get_by_text("Uploading south.csv…")).to_be_visible()
    page.wait_for_timeout(500)
    page.close(run_before_unload=True)
    expect(page.get_by_text("Uploading south.csv…")).to_be_visible()
    assert asked == ["beforeunload"]


def test_what_is_gone_is_not_tried_again(signed_in: SignedIn) -> None:
    page = signed_in(f"batches/{UNKNOWN_ID}").page
    expect(page.get_by_role("alert")).to_contain_text("Batch job not found")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)


def test_a_request_that_is_unanswered_when_a_test_ends_does_not_fail_the_next(browser: Browser, server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with empty_page(browser) as page:
            page.goto(f"{server}/portal")
            page.route(re.compile("/asked"), lambda route: route.fulfill(response=route.fetch(url=address)))
            page.evaluate("void fetch('/asked')")
            page.wait_for_timeout(100)
    with empty_page(browser) as page:
        page.wait_for_timeout(100)


@pytest.mark.parametrize("address", ["batches/..", "batches/%2e%2e", "batches/.", "reports/..", "uploads/%2E", "webhooks?delivery=.."])
def test_an_address_with_steps_asks_for_nothing_else(signed_in: SignedIn, address: str) -> None:
    page = signed_in("keys").page
    expect(page.get_by_role("row")).to_have_count(2)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.resource_type == "fetch" else None)
    page.goto(f"{page.url.partition('#')[0]}#/{address}")
    expect(page.get_by_role("alert")).to_contain_text("There is nothing at this address.")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    expected = {"/webhook-config", "/webhook-deliveries", "/portal"} if "delivery" in address else set[str]()
    assert {urlsplit(url).path for url in asked} <= expected


@pytest.mark.parametrize("address", ["constructor", "__proto__", "batches/" + "x" * 9000, "/"])
def test_an_address_that_nobody_meant_is_answered_plainly(signed_in: SignedIn, address: str) -> None:
    page = signed_in("keys").page
    page.goto(f"{page.url.partition('#')[0]}#/{address}")
    title = {"b": "Batches · Batch Lookups", "/": "Batches · Batch Lookups"}.get(address[0], "Nothing here · Batch Lookups")
    expect(page).to_have_title(title)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    if address.startswith("batches"):
        expect(page.get_by_role("alert")).to_contain_text("not found")


def test_a_response_that_the_browser_has_kept_sets_no_clock(signed_in: SignedIn, client: OrganizationClient, database: Connection) -> None:
    job = client.submit(*(site(f"deal-{number}") for number in range(10)))
    ends = datetime.now(UTC) + timedelta(hours=1)
    client.post("/api-keys", json={"name": "CRM", "scopes": ["jobs:read"], "expires_at": ends.isoformat()})
    page = signed_in("batches").page
    page.goto(f"{page.url.partition('#')[0]}#/batches/{job['job_id']}")
    progress = page.get_by_role("region", name="Progress")
    database.execute("update public.batch_lookup_jobs set rate = 0.05, updated_at = now() where id = %s", [job["job_id"]])
    page.reload()
    expect(progress).to_contain_text("3 min")
    came = format_datetime(datetime.now(UTC) - timedelta(minutes=4), usegmt=True)
    page.route(re.compile("/devices$"), lambda route: held.append(route))
    held: list[Route] = []
    page.get_by_role("link", name="deal-1").click()
    expect(page.get_by_role("dialog")).to_contain_text("Address")
    held[0].fulfill(json=client.get("/devices").json(), headers={"date": came, "cache-control": "private, max-age=300"})
    expect(page.get_by_role("dialog")).not_to_contain_text("device 1")
    page.wait_for_timeout(1500)
    expect(progress).to_contain_text(re.compile("[23] min"))


def test_a_retry_is_announced_only_where_there_is_one(person: Person, client: OrganizationClient) -> None:
    job = client.submit(site())
    page = person.page
    page.clock.install()
    page.route(re.compile("/me$|/results"), lambda route: route.abort())
    person.open(f"batches/{job['job_id']}")
    page.get_by_label("API key").fill(client.api_key)
    page.get_by_role("button", name="Continue").click()
    told = "The service cannot be reached. Check the connection, and try again."
    problem = page.get_by_role("alert")
    # Some attempts, with pauses between them.
    for _ in range(5):
        page.clock.run_for(2000)
        page.wait_for_timeout(50)
    expect(problem).to_have_text(told)
    page.unroute(re.compile("/me$|/results"))
    page.get_by_role("button", name="Continue").click()
    page.route(re.compile("/results"), lambda route: route.abort())
    page.get_by_role("button", name="Results…").click()
    page.get_by_role("button", name="CSV", exact=True).click()
    note = page.get_by_role("status").last
    for _ in range(5):
        page.clock.run_for(2000)
        page.wait_for_timeout(50)
    expect(note).to_have_text(told)


def test_the_rows_of_a_draft_that_failed_for_a_moment_load_by_themselves(person: Person, client: OrganizationClient) -> None:
    header = "reference_id,street_1,city,state_or_province_code,postal_code,building_type,device_ids"
    rows = f"{header}\n1,1 Main St,Oakland,CA,94601,Hut,1\n"
    draft = client.upload(rows)
    page = person.page
    page.clock.install()
    page.route(re.compile("/rows"), lambda route: route.abort())
    person.sign_in(client.api_key, f"uploads/{draft['id']}?step=check")
    problem = page.get_by_role("alert")
    for _ in range(5):
        page.clock.run_for(2000)
        page.wait_for_timeout(50)
    expect(problem).to_contain_text("The service cannot be reached. Check the connection; this page retries automatically.")
    page.unroute_all()
    page.clock.run_for(11_000)
    expect(page.get_by_role("gridcell", name="Hut")).to_be_visible()
    expect(problem).to_have_count(0)


def test_a_change_of_a_draft_is_sent_once_the_service_is_back(person: Person, client: OrganizationClient) -> None:
    """A deploy restarts the service; the browser's network works all the time."""
    header = "reference_id,street_1,city,state_or_province_code,postal_code,building_type,device_ids"
    rows = f"{header}\ndeal-1,1 Main St,Oakland,CA,94601,,1\n"
    draft = client.upload(rows)
    page = person.page
    page.clock.install()
    person.sign_in(client.api_key, f"uploads/{draft['id']}?step=columns")
    default = page.get_by_label(re.compile("^Building type"))
    expect(default).to_be_visible()
    page.route(
        re.compile(f"/uploads/{draft['id']}$"),
        lambda route: route.abort() if route.request.method == "PATCH" else route.continue_(),
    )
    default.select_option("RESIDENTIAL")
    expect(page.get_by_text("Not saved", exact=True)).to_be_visible()
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("The service cannot be reached. Check the connection; this page retries automatically.")
    with page.expect_request(lambda request: request.method == "PATCH"):
        page.clock.run_for(11_000)
    expect(page.get_by_text("Not saved", exact=True)).to_be_visible()
    page.unroute_all()
    page.clock.run_for(11_000)
    expect(page.get_by_text("Saved", exact=True)).to_be_visible()
    expect(problem).to_have_count(0)
    assert client.get(f"/uploads/{draft['id']}").json()["defaults"] == {"building_type": "RESIDENTIAL"}
