"""How the portal's files are served."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import WebSocketRoute, expect

from pyshell.api.routes import portal
from tests.http_fixtures import OrganizationClient
from tests.portal.conftest import Person

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
MOST_KILOBYTES = 90


def test_a_first_visit_loads_little_and_may_keep_it(server: str) -> None:
    page = httpx.get(f"{server}/portal")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "private, no-cache"
    assert page.headers["content-security-policy"] == POLICY
    files = re.findall(r"(?:src|href)=\"(portal/[^\"]+)\"", page.text)
    assert len(files) == 2
    loaded = len(gzip.compress(page.content))
    for name in files:
        response = httpx.get(f"{server}/{name}", headers={"accept-encoding": "gzip"})
        assert response.headers["content-encoding"] == "gzip"
        assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert response.headers["vary"] == "Accept-Encoding"
        loaded += int(response.headers["content-length"])
        assert httpx.get(f"{server}/{name}", headers={"accept-encoding": "identity"}).text == response.text
    assert loaded <= MOST_KILOBYTES * 1024


@pytest.mark.parametrize("sign", ["look", "connection"])
def test_a_page_that_is_open_when_another_build_comes_says_so(
    person: Person, client: OrganizationClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    page = person.page
    sockets: list[WebSocketRoute] = []

    def connect(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    page.route_web_socket(re.compile("/realtime/"), connect)
    person.sign_in(client.api_key, "batches")
    live = page.get_by_text("Live", exact=True)
    expect(live).to_be_visible()
    note = page.get_by_text("A newer version of the portal is available.")

    def change() -> None:
        with page.expect_response(f"{person.server}/portal"):
            if sign == "look":
                page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            else:
                sockets[-1].close()

    change()
    expect(live).to_be_visible()
    expect(note).to_have_count(0)
    for file in portal.DIST.iterdir():
        if re.search("^(main|style|index)", file.name) and file.suffix != ".gz":
            (tmp_path / file.name.replace("main-", "main-2")).write_text(file.read_text().replace("portal/main-", "portal/main-2"))
    monkeypatch.setattr(portal, "DIST", tmp_path)
    change()
    expect(note).to_be_visible()
    person.look("newer")
    page.get_by_role("button", name="Reload the page").click()
    expect(note).to_have_count(0)
    expect(page.get_by_role("heading", name="Batches", exact=True)).to_be_visible()


@pytest.mark.parametrize("file", ["index.html", ".built", "main.js", "..%2findex.html", "%00", "x.js.gz", "a" * 300 + ".js"])
def test_no_other_file_is_served(server: str, file: str) -> None:
    assert httpx.get(f"{server}/portal/{file}").status_code == 404


def test_a_portal_that_is_not_built_says_so(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal, "DIST", tmp_path)
    response = httpx.get(f"{server}/portal")
    assert response.status_code == 503
    assert "<code>make portal</code>" in response.text
    assert httpx.get(f"{server}/healthz").status_code == 200


def test_a_slash_at_the_end_leads_to_the_page(server: str) -> None:
    assert httpx.get(f"{server}/portal/", follow_redirects=True).url == f"{server}/portal"
