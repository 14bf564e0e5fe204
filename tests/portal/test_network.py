"""A network and a service that come and go: nothing fails in silence, and what failed for a moment comes by itself."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.http_fixtures import OrganizationClient, site
from tests.portal.conftest import SignedIn


@pytest.mark.parametrize("address", ["batches/%E0%A4%A", "batches/100%"])
def test_a_broken_address_breaks_no_page(signed_in: SignedIn, address: str) -> None:
    page = signed_in(address).page
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.get_by_role("link", name="Batch Lookups").click()
    expect(page.get_by_role("heading", name="Batches", level=1)).to_be_visible()


def test_a_download_says_that_it_comes_and_why_it_does_not(signed_in: SignedIn, client: OrganizationClient) -> None:
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
