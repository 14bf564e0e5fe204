"""A person at the portal: signed in and looking at a screen, where every error fails the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.base import AXE_SCRIPT  # type: ignore[import-untyped]
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, ViewportSize, expect

from pyshell.api.routes.portal import DIST
from tests.browser_fixtures import running_browser
from tests.http_fixtures import OrganizationClient

# Longer than a person would wait, because the machine may be busy.
expect.set_options(timeout=20_000)
# The folder for screenshots, which most runs do not need.
PICTURES = os.environ.get("PICTURES")
PHONE: ViewportSize = {"width": 375, "height": 740}
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
# A tablet, a phone, and a window of 1280 pixels at 200 % and at 400 % (WCAG 1.4.4 and 1.4.10).
NARROW: dict[str, ViewportSize] = {
    "tablet": {"width": 768, "height": 1024},
    "phone": PHONE,
    "200%": {"width": 640, "height": 400},
    "400%": {"width": 320, "height": 256},
}
# What a narrow window cuts off, or makes scroll sideways, except the grid of a draft, and the organization in the row of places.
CUT = """() => {
    const found = []
    const root = document.querySelector('dialog[open]') ?? document.body
    if (document.documentElement.scrollWidth > innerWidth) found.push(`the page is ${document.documentElement.scrollWidth} wide`)
    for (const element of root.querySelectorAll('*')) {
        if (element.closest('.grid, .unseen, .skip, .note-toast, option, .who > .organization') || !element.checkVisibility()) continue
        const style = getComputedStyle(element)
        if (/auto|scroll/.test(style.overflowX) && element.scrollWidth > element.clientWidth + 1) {
            found.push(`scrolls sideways: ${element.outerHTML.slice(0, 100)}`)
        }
        for (const text of element.childNodes) {
            if (text.nodeType !== Node.TEXT_NODE || !text.data.trim()) continue
            const range = document.createRange()
            range.selectNodeContents(text)
            const {left, right} = range.getBoundingClientRect()
            let [least, most] = [0, innerWidth]
            for (let around = element; around && !(around instanceof SVGElement); around = around.parentElement) {
                if (getComputedStyle(around).overflowX === 'visible') continue
                const box = around.getBoundingClientRect()
                least = Math.max(least, box.left)
                most = Math.min(most, box.right)
            }
            if (left < least - 1 || right > most + 1) found.push(`cut: ${text.data}`)
        }
    }
    return found
}"""
PAINTED = """async () => {
    await document.fonts.ready
    await new Promise(painted => requestAnimationFrame(() => requestAnimationFrame(painted)))
}"""
# axe describes what passes only if it is asked to.
RULES: dict[Literal["light", "dark"], Any] = {
    "light": {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"], "resultTypes": ["violations"]},
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}, "resultTypes": ["violations"]},
}


@dataclass
class Person:
    """Somebody with a browser and an API key."""

    page: Page
    server: str

    def open(self, address: str = "") -> None:
        self.page.goto(f"{self.server}/portal{address and f'#/{address}'}")

    def sign_in(self, key: str, address: str = "") -> None:
        self.open(address)
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Continue").click()
        expect(self.page.get_by_role("navigation", name="Main")).to_be_visible()

    def look(self, name: str) -> None:
        """Checks the screen with axe, in light and dark mode, and for what is cut off on a phone or enlarged. Can keep screenshots."""
        page = self.page
        for scheme, options in RULES.items():
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            self._paint(f"{name}-{scheme}")
            is_loaded = page.evaluate("'axe' in window")
            found = Axe("0" if is_loaded else AXE_SCRIPT).run(page, options=options)
            assert found.violations_count == 0, f"{name} in the {scheme}: {found.generate_report()}"
        page.emulate_media(color_scheme="light")
        for window, viewport in NARROW.items():
            page.set_viewport_size(viewport)
            self._paint(f"{name}-{window}")
            cut = page.evaluate(CUT)
            assert not cut, f"{name} at a width of {viewport['width']}: {cut}"
        page.set_viewport_size(DESKTOP)

    def _paint(self, name: str) -> None:
        """Waits until the page shows what it has loaded."""
        self.page.evaluate(PAINTED)
        if PICTURES:
            self.page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)


SignedIn = Callable[[str], Person]


@pytest.fixture(scope="session", autouse=True)
def build() -> None:
    assert (DIST / "index.html").is_file(), "the portal is not built: make portal"


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One for all tests of the portal, which start no event loops."""
    with running_browser() as browser:
        yield browser


@pytest.fixture
def person(page: Page, server: str) -> Person:
    page.set_viewport_size(DESKTOP)
    page.set_default_timeout(20_000)
    return Person(page, server)


@pytest.fixture
def signed_in(person: Person, client: OrganizationClient) -> SignedIn:
    """Signs in with the key of `client`, at a screen."""

    def at(address: str) -> Person:
        person.sign_in(client.api_key, address)
        return person

    return at
