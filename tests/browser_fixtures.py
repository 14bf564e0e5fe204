"""A page in Chromium, for tests of what a browser makes of our answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright


@contextmanager
def running_browser() -> Iterator[Browser]:
    """While it runs, this thread has an event loop, and no test may start another one."""
    names = ("chromium-headless-shell", "chromium", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("there is no Chromium here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


# Without these, those of the machine.
USUAL_OPTIONS = {"locale": "en-US", "timezone_id": "UTC"}


@contextmanager
def empty_page(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page in a fresh profile with these options. Fails in the end if a script has failed or was blocked by a policy."""
    faults: list[str] = []
    with browser.new_context(**USUAL_OPTIONS | options) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
        yield page
        # A request that the page repeats may be on its way through a handler, whose errors would fail the next test.
        for opened in context.pages:
            opened.unroute_all(behavior="ignoreErrors")
    assert faults == []


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """An empty page. An indirect parameter of the test has options of its profile, such as the locale."""
    with empty_page(browser, **getattr(request, "param", {})) as page:
        yield page
