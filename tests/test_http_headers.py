"""Headers of every response: nothing of a tenant is cached by shared caches, framed, sniffed or revealed to other sites."""

from __future__ import annotations

import re
import uuid

import httpx
import pytest
from starlette.routing import Route

from pyshell.api.routes import routes
from pyshell.settings import Settings
from tests.conftest import Connection
from tests.http_fixtures import OrganizationClient, look_up, running_server

EVERY_ROUTE = [
    (method, re.sub(r"\{\w+\}", str(uuid.uuid4()), route.path))
    for route in routes
    if isinstance(route, Route)
    for method in sorted((route.methods or set()) - {"HEAD"})
]


def assert_private(response: httpx.Response) -> None:
    kept = r"private, (no-cache|max-age=\d+)" if "etag" in response.headers else "private, no-store"
    assert re.fullmatch(kept, response.headers["cache-control"])
    assert {"x-api-key", "authorization"} <= set(re.split(r", *", response.headers["vary"].lower()))
    assert_safe(response)


def assert_safe(response: httpx.Response) -> None:
    assert response.headers.get_list("x-content-type-options") == ["nosniff"]
    assert response.headers.get_list("referrer-policy") == ["no-referrer"]


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
def test_every_route_forbids_shared_caches(server: str, client: OrganizationClient, method: str, path: str) -> None:
    for headers in ({}, {"x-api-key": client.api_key}):
        assert_private(httpx.request(method, server + path, headers=headers))


def test_answers_with_data_are_kept_out_of_shared_caches(client: OrganizationClient, database: Connection) -> None:
    created = client.submit()
    look_up(database, created, 1)
    job, report = f"/batch-lookups/{created['job_id']}", f"/incentive-reports/{created['report']['id']}"
    for path in (job, f"{job}/items", f"{job}/results", f"{job}/events", report, f"{report}/summary", f"{report}/csv", f"{report}/html"):
        response = client.get(path)
        assert response.status_code == 200
        assert_private(response)
    assert_private(client.get(job, headers={"if-none-match": client.get(job).headers["etag"]}))


def test_the_files_of_the_documentation_may_be_cached(server: str) -> None:
    response = httpx.get(f"{server}/docs/swagger-ui.css")
    assert response.headers["cache-control"] == "max-age=86400"
    assert_safe(response)


def test_the_description_need_not_be_sent_twice(server: str) -> None:
    url = f"{server}/openapi.json"
    etag = httpx.get(url).headers["etag"]
    again = httpx.get(url, headers={"if-none-match": etag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert httpx.get(url, headers={"if-none-match": '"of another release"'}).status_code == 200


def test_the_report_page_can_do_nothing_but_show_itself(client: OrganizationClient) -> None:
    policy = client.get(f"/incentive-reports/{client.submit()['report']['id']}/html").headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} <= set(policy)


@pytest.mark.parametrize("root_path", ["", "/alpha"])
def test_the_root_leads_to_the_portal_and_the_documentation(http_settings: Settings, root_path: str) -> None:
    with running_server(Settings(database_url=http_settings.database_url, root_path=root_path)) as url:
        for path in {"/", root_path or "/", f"{root_path}/"}:
            program = httpx.get(url + path)
            links = {"name": "Batch Lookups"} | {
                name: f"{root_path}/{place}" for name, place in (("portal", "portal"), ("docs", "docs"), ("openapi", "openapi.json"))
            }
            assert (program.status_code, program.json()) == (200, links)
            browser = httpx.get(url + path, headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
            assert (browser.status_code, browser.headers["location"]) == (307, f"{root_path}/portal")
        assert httpx.get(f"{url}{root_path}/docs").status_code == 200


def test_event_source_is_told_what_to_use_instead(server: str) -> None:
    response = httpx.get(f"{server}/batch-lookups/{uuid.uuid4()}/events", headers={"accept": "text/event-stream"})
    assert response.status_code == 401
    assert "fetch" in response.json()["hint"]
    assert "hint" not in httpx.get(f"{server}/batch-lookups").json()
