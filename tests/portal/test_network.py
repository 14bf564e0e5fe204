"""A network and a service that come and go: nothing fails in silence, and what failed for a moment comes by itself."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.portal.conftest import SignedIn


@pytest.mark.parametrize("address", ["batches/%E0%A4%A", "batches/100%"])
def test_a_broken_address_breaks_no_page(signed_in: SignedIn, address: str) -> None:
    page = signed_in(address).page
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.get_by_role("link", name="Batch Lookups").click()
    expect(page.get_by_role("heading", name="Batches", level=1)).to_be_visible()
