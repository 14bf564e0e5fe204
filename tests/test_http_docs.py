"""The page that renders openapi.json: in a browser, offline, with a key that it does not keep."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache

import httpx
import pytest
from playwright.sync_api import Browser, Page

from pyshell.settings import Settings
from tests.browser_fixtures import empty_page
from tests.http_fixtures import OPENAPI, OrganizationClient, running_server

UPLOADS = OPENAPI["paths"]["/batch-lookups"]["post"]["requestBody"]["content"]
LISTED = {
    (method, path)
    for path, operations in OPENAPI["paths"].items()
    for method, operation in operations.items()
    if method != "parameters" and not operation.get("x-internal")
}

OpenDocs = Callable[[str], Page]


@pytest.fixture(scope="module")
def open_docs(browser: Browser, http_settings: Settings) -> Iterator[OpenDocs]:
    """Answers the page of a server with that root path. To render it takes a browser seconds: the tests share it."""
    with ExitStack() as stack:

        @cache
        def load(root_path: str) -> Page:
            url = stack.enter_context(running_server(replace(http_settings, root_path=root_path)))
            page = stack.enter_context(empty_page(browser))
            page.goto(f"{url}{root_path}/docs")
            page.locator(".opblock").first.wait_for()
            return page

        yield load


@dataclass
class User:
    """Somebody at the page, where the key of `client` was entered."""

    page: Page
    client: OrganizationClient


@pytest.fixture(scope="module")
def user(open_docs: OpenDocs, server: str, http_settings: Settings) -> Iterator[User]:
    page = open_docs("")
    page.locator("button.authorize").first.click()
    dialog = page.locator(".modal-ux")
    with OrganizationClient(server, http_settings.database_url) as client:
        dialog.locator("input").first.fill(client.api_key)
        dialog.locator("button.authorize").first.click()
        dialog.locator("button.btn-done").first.click()
        yield User(page, client)


def test_the_page_needs_nothing_from_elsewhere(server: str) -> None:
    page = httpx.get(f"{server}/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    addresses = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
    assert len(addresses) == 4
    for address in addresses:
        response = httpx.get(f"{server}/{address}")
        assert response.status_code == 200
        assert len(response.content) > 500
    assert "script-src 'self';" in page.headers["content-security-policy"]


@pytest.mark.parametrize("file", ["index.html", "..%2f__init__.py", "swagger-ui.css.map", "%00"])
def test_no_other_file_is_served(server: str, file: str) -> None:
    assert httpx.get(f"{server}/docs/{file}").status_code == 404


@pytest.mark.parametrize("root_path", ["", "/alpha"])
@pytest.mark.long
def test_the_page_lists_what_a_user_can_call(open_docs: OpenDocs, root_path: str) -> None:
    page = open_docs(root_path)
    shown = page.locator(".opblock-tag-section .opblock:not(.is-open)")
    listed = {
        (method.lower(), path.replace("\u200b", ""))
        for method, path in zip(
            shown.locator(".opblock-summary-method").all_inner_texts(),
            shown.locator(".opblock-summary-path").all_inner_texts(),
            strict=True,
        )
    }
    assert page.locator(".servers option").all_inner_texts() == [root_path or "/"]
    assert listed - {("post", "event")} == LISTED
    assert not [path for _, path in LISTED if path.startswith(("/docs", "/functions/v1", "/openapi.json"))]


@pytest.mark.long
def test_the_page_asks_for_user_credentials_only_and_keeps_none(user: User) -> None:
    user.page.locator("button.authorize").first.click()
    names = user.page.locator(".modal-ux h4 code").all_inner_texts()
    assert [name.strip() for name in names] == ["apiKey", "bearer"]
    user.page.locator(".modal-ux button.btn-done").first.click()
    assert user.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


@pytest.mark.long
def test_every_upload_with_an_example_can_be_tried_as_it_is_prefilled(user: User) -> None:
    page, client = user.page, user.client
    operation = page.locator("#operations-batch_lookups-createBatchLookup")
    operation.locator(".opblock-summary-control").click()
    media_types = operation.get_by_label("Request content type")
    assert media_types.locator("option").all_inner_texts() == list(UPLOADS)
    assert {"application/json", "text/csv", "application/x-ndjson"} <= {name for name, upload in UPLOADS.items() if "example" in upload}
    for media_type in (name for name, upload in UPLOADS.items() if "example" in upload):
        media_types.select_option(media_type)
        with page.expect_response("**/batch-lookups?*") as responses:
            operation.locator("button.execute").click()
        response = responses.value
        assert response.request.headers["content-type"].partition(";")[0] == media_type
        assert response.status == 201, response.text()
        items = client.get(f"/batch-lookups/{response.json()['job_id']}/items").json()["items"]
        assert [item["address"] for item in items] == [item["address"] for item in UPLOADS["application/json"]["example"]["items"]]
    operation.locator(".opblock-summary-control").click()
