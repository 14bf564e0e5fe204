"""Pages of other origins: what CORS lets a browser send and read."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page

from pyshell.api.cors import ALLOWED_HEADERS, ALLOWED_METHODS, EXPOSED_HEADERS
from pyshell.api.limits import RequestLimiter
from pyshell.settings import Settings
from tests.http_fixtures import OrganizationClient, running_server, site

ORIGIN = "https://app.example.com"
OTHER_ORIGIN = "https://elsewhere.example.com"


@pytest.fixture(scope="module")
def cors_server(http_settings: Settings) -> Iterator[str]:
    with running_server(replace(http_settings, cors_origins=(ORIGIN,))) as url:
        yield url


@pytest.fixture
def cors_client(cors_server: str, http_settings: Settings) -> Iterator[OrganizationClient]:
    with OrganizationClient(cors_server, http_settings.database_url) as client:
        client.headers["origin"] = ORIGIN
        yield client


def preflight(
    server: str, origin: str, method: str = "POST", headers: str = "authorization,content-type,idempotency-key"
) -> httpx.Response:
    return httpx.options(
        f"{server}/batch-lookups",
        headers={"origin": origin, "access-control-request-method": method, "access-control-request-headers": headers},
    )


@pytest.mark.parametrize("method", ALLOWED_METHODS)
def test_a_preflight_needs_no_credential(cors_server: str, method: str) -> None:
    response = preflight(cors_server, ORIGIN, method, ",".join(ALLOWED_HEADERS))

    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert method in response.headers["access-control-allow-methods"].split(", ")
    assert set(ALLOWED_HEADERS) <= set(response.headers["access-control-allow-headers"].lower().split(", "))
    assert int(response.headers["access-control-max-age"]) > 0
    assert "origin" in response.headers["vary"].lower()
    assert "access-control-allow-credentials" not in response.headers


def test_a_preflight_of_another_origin_is_not_allowed(cors_server: str) -> None:
    response = preflight(cors_server, OTHER_ORIGIN)

    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers


def test_without_origins_there_is_no_cors(server: str) -> None:
    assert preflight(server, ORIGIN).status_code == 405
    assert "access-control-allow-origin" not in httpx.get(f"{server}/healthz", headers={"origin": ORIGIN}).headers


def test_a_star_allows_every_origin(http_settings: Settings) -> None:
    with running_server(replace(http_settings, cors_origins=("*",))) as url:
        assert preflight(url, OTHER_ORIGIN).headers["access-control-allow-origin"] == "*"
        assert httpx.get(f"{url}/batch-lookups", headers={"origin": OTHER_ORIGIN}).headers["access-control-allow-origin"] == "*"


def assert_readable(response: httpx.Response, status: int) -> None:
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert response.headers["access-control-expose-headers"].split(", ") == list(EXPOSED_HEADERS)
    assert response.headers["vary"] == "x-api-key, authorization, Origin"


def test_answers_and_errors_can_be_read(cors_client: OrganizationClient, cors_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_readable(cors_client.get("/batch-lookups"), 200)
    assert_readable(cors_client.get("/batch-lookups/1"), 404)
    assert_readable(cors_client.post("/batch-lookups", content=b"{"), 400)
    assert_readable(httpx.get(f"{cors_server}/batch-lookups", headers={"origin": ORIGIN}), 401)
    assert_readable(httpx.get(f"{cors_server}/nowhere", headers={"origin": ORIGIN}), 404)

    count = RequestLimiter.count
    monkeypatch.setattr(RequestLimiter, "count", lambda self, who, quota: count(self, who, 0))
    assert_readable(cors_client.get("/batch-lookups"), 429)
    monkeypatch.setattr(RequestLimiter, "count", lambda self, who, quota: 1 / 0)
    # Not described in openapi.json, which the client would look up.
    headers = {"origin": ORIGIN, "x-api-key": cors_client.api_key}
    assert_readable(httpx.get(f"{cors_server}/batch-lookups", headers=headers), 500)


def test_answers_without_an_origin_vary_by_it_too(cors_client: OrganizationClient) -> None:
    del cors_client.headers["origin"]
    response = cors_client.get("/batch-lookups")
    assert response.headers["vary"] == "x-api-key, authorization, Origin"
    assert "access-control-allow-origin" not in response.headers


def test_an_origin_that_is_not_allowed_is_served_without_permission_to_read(cors_client: OrganizationClient) -> None:
    response = cors_client.get("/batch-lookups", headers={"origin": OTHER_ORIGIN})
    assert "access-control-allow-origin" not in response.headers


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[str]:
    """The origin of a web server with one empty page."""
    (tmp_path / "index.html").write_text("<!doctype html><title>Portal</title>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web_server:
        threading.Thread(target=web_server.serve_forever).start()
        yield f"http://127.0.0.1:{web_server.server_port}"
        web_server.shutdown()


USE_THE_API = """async ([api, key, site]) => {
    const call = async (path, options = {}) => {
        const response = await fetch(api + path, {...options, headers: {'x-api-key': key, ...options.headers}});
        return {status: response.status, headers: Object.fromEntries(response.headers), body: await response.text()};
    };
    const created = await call('/batch-lookups', {
        method: 'POST', body: JSON.stringify({items: [site]}), headers: {'idempotency-key': 'deal-001'},
    });
    const job = '/batch-lookups/' + JSON.parse(created.body).job_id;
    const read = await call(job);
    const unchanged = await fetch(api + job, {cache: 'no-store', headers: {'x-api-key': key, 'if-none-match': read.headers.etag}});
    const cancelled = await call(job + '/cancel', {method: 'POST'});
    const events = await call(job + '/events', {headers: {'last-event-id': 'none'}});
    const file = await call(job + '/results');
    const renamed = await call('/incentive-reports/' + JSON.parse(created.body).report.id, {
        method: 'PATCH', body: '{"name": "From the portal"}', headers: {'content-type': 'application/json'},
    });
    const unknown = await call('/batch-lookups/1');
    const stranger = await call('/batch-lookups', {headers: {'x-api-key': 'leap_live_mistyped'}});
    return {created, read, unchanged: unchanged.status, cancelled, events, file, renamed, unknown, stranger};
}"""


def test_a_page_of_another_origin_uses_the_api(client: OrganizationClient, http_settings: Settings, portal: str, page: Page) -> None:
    with running_server(replace(http_settings, cors_origins=(portal,))) as api:
        page.goto(portal)
        seen = page.evaluate(USE_THE_API, [api, client.api_key, site()])

    statuses = {name: answer if isinstance(answer, int) else answer["status"] for name, answer in seen.items()}
    assert statuses == {
        "created": 201,
        "read": 200,
        "unchanged": 304,
        "cancelled": 200,
        "events": 200,
        "file": 200,
        "renamed": 200,
        "unknown": 404,
        "stranger": 401,
    }
    assert {"etag", "x-request-id", "ratelimit", "ratelimit-policy"} <= set(seen["read"]["headers"])
    assert "attachment" in seen["file"]["headers"]["content-disposition"]
    assert "event: end" in seen["events"]["body"]


def test_a_page_of_an_origin_that_is_not_allowed_reads_nothing(
    client: OrganizationClient, http_settings: Settings, portal: str, page: Page
) -> None:
    with running_server(replace(http_settings, cors_origins=(ORIGIN,))) as api:
        page.goto(portal)
        outcome = page.evaluate(
            "([api, key]) => fetch(api + '/batch-lookups', {headers: {'x-api-key': key}}).then(() => 'read', error => error.name)",
            [api, client.api_key],
        )
    assert outcome == "TypeError"
