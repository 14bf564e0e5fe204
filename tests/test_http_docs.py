"""The page that renders openapi.json: in a browser, offline, with a key that it doesn't keep."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Page

from pyshell.settings import Settings
from tests.http_fixtures import OPENAPI, OrganizationClient, running_server

UPLOADS = OPENAPI["paths"]["/batch-lookups"]["post"]["requestBody"]["content"]
LISTED = {
    (method, path)
    for path, operations in OPENAPI["paths"].items()
    for method, operation in operations.items()
    if method != "parameters" and not operation.get("x-internal")
}


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
def test_the_page_lists_what_a_user_can_call(http_settings: Settings, page: Page, root_path: str) -> None:
    settings = Settings(database_url=http_settings.database_url, root_path=root_path)
    with running_server(settings) as url:
        page.goto(f"{url}{root_path}/docs")
        page.locator(".opblock").first.wait_for()
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


def test_only_a_users_credentials_are_asked_for_and_none_is_kept(server: str, client: OrganizationClient, page: Page) -> None:
    open_docs(page, server)
    page.locator("button.authorize").first.click()
    names = page.locator(".modal-ux h4 code").all_inner_texts()
    assert [name.strip() for name in names] == ["apiKey", "bearer"]
    authorize(page, client.api_key)
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


@pytest.mark.long
def test_every_upload_with_an_example_can_be_tried_as_it_is_prefilled(server: str, client: OrganizationClient, page: Page) -> None:
    open_docs(page, server)
    page.locator("button.authorize").first.click()
    authorize(page, client.api_key)
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


def open_docs(page: Page, server: str) -> None:
    page.goto(f"{server}/docs")
    page.locator(".opblock").first.wait_for()


def authorize(page: Page, api_key: str) -> None:
    dialog = page.locator(".modal-ux")
    dialog.locator("input").first.fill(api_key)
    dialog.locator("button.authorize").first.click()
    dialog.locator("button.btn-done").first.click()
