"""The tour of docs/tour.md, as a visitor takes it: from a file with mistakes to a report that is shared.

`make tour` writes its pictures into docs/tour. What the page has in bold must be on the screen shown with it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from pyshell.local.machine import free_port
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.settings import ROOT
from tests.conftest import MakeCluster, folder_for_postgres
from tests.portal.conftest import Person
from tests.test_stack import Environment, run, up, url_of

PAGE = ROOT / "docs" / "tour.md"
FILE = ROOT / "docs" / "tour" / "march.csv"
PICTURES = ROOT / os.environ.get("TOUR_PICTURES", ".state/tour")
MOST_BYTES = 600_000
WINDOW: ViewportSize = {"width": 1200, "height": 860}
EXTENT = "main => main.getBoundingClientRect().bottom + 16"


@pytest.fixture
def stack(cluster: PrivatePostgres, make_cluster: MakeCluster) -> Iterator[Environment]:
    """What `make up` runs."""
    with folder_for_postgres(cluster) as folder:
        make_cluster(PrivatePostgres.of_project(folder).folder)
        environment = os.environ | {"PORT": str(free_port()), "STATE_DIR": str(folder), "DATABASE_URL": "", "ROOT_PATH": ""}
        with up(environment | {"LOG_LEVEL": "warning"}) as process:
            yield environment
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(30) == 0


class Tour:
    """The pictures, and what could be read on each."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        PICTURES.mkdir(parents=True, exist_ok=True)

    def take(self, page: Page, name: str, height: int = WINDOW["height"]) -> None:
        """The upper part of the screen, at most so many pixels."""
        page.emulate_media(reduced_motion="reduce")
        page.evaluate("window.scrollTo(0, 0)")
        page.evaluate("document.fonts.ready")
        bottom: float = page.locator("main").evaluate(EXTENT)
        clip = {"x": 0, "y": 0, "width": WINDOW["width"], "height": min(bottom, height)}
        page.screenshot(path=PICTURES / f"{name}.png", clip=clip)  # type: ignore[arg-type]
        values = page.locator("input").evaluate_all("inputs => inputs.map(input => input.value)")
        self.texts[name] = " ".join([page.locator("body").inner_text(), *values])


def sections() -> dict[str, list[str]]:
    """What each section of the page says in bold, by the name of its picture."""
    found = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        [picture] = re.findall(r"\]\(tour/([\w-]+)\.png\)", section)
        found[picture] = re.findall(r"\*\*(.+?)\*\*", section.replace("\n", " "))
    return found


@pytest.mark.long
def test_the_tour_leads_from_a_file_with_mistakes_to_a_shared_report(stack: Environment, page: Page) -> None:
    tour = Tour()
    page.set_default_timeout(20_000)
    page.set_viewport_size(WINDOW)
    key = run(stack, "keys", "create", "--organization", "Acme").stdout.strip()
    Person(page, url_of(stack)).sign_in(key, "upload")
    page.get_by_label(re.compile("Drop a file here")).set_input_files(FILE)
    start = page.get_by_role("region", name="Start")
    expect(start).to_contain_text("114 sites ready")
    tour.take(page, "check")

    page.get_by_role("link", name="1. Columns").click()
    word = page.get_by_label(re.compile("^Bungalow"))
    word.select_option("RESIDENTIAL")
    expect(start).to_contain_text("117 sites ready")
    tour.take(page, "words", 780)

    page.get_by_role("link", name="2. Check").click()
    page.get_by_role("link", name="Reference: repeated 1").click()
    page.get_by_role("button", name="Keep the first of each").click()
    expect(start).to_contain_text("1 left out by you")
    page.get_by_role("link", name=re.compile("Rows with problems")).click()
    change(page, "empty", "City", "Richmond")
    expect(start).to_contain_text("118 sites ready")
    change(page, "9A012", "ZIP", "80444")
    expect(start).to_contain_text("119 sites ready")
    page.get_by_label("Name of the batch").fill("March portfolio")
    page.get_by_role("link", name="Left out 1").click()
    expect(page.get_by_role("grid").get_by_role("row")).to_have_count(2)
    page.get_by_role("grid").evaluate("grid => (grid.scrollLeft = 0)")
    tour.take(page, "ready")

    page.get_by_role("button", name="Start 119 sites").click()
    expect(page.get_by_role("heading", name="March portfolio")).to_be_visible()
    expect(page.get_by_role("region", name="Progress")).to_contain_text(re.compile(r"[3-7]\d%"))
    tour.take(page, "live", 480)

    expect(page.get_by_role("region", name="Progress")).to_contain_text("Completed", timeout=60_000)
    page.get_by_role("link", name="Report", exact=True).click()
    expect(page.get_by_role("heading", name="March portfolio")).to_be_visible()
    expect(page.get_by_role("main")).not_to_contain_text("the figures grow")
    expect(page.get_by_role("heading", name="Incentives by state")).to_be_visible()
    tour.take(page, "report", 740)

    page.get_by_role("button", name="Share…").click()
    page.get_by_role("button", name="Create a link").click()
    link = page.locator(".secret code")
    expect(link).to_have_text(re.compile("/shared-reports/"))
    tour.take(page, "share", 600)
    assert page.context.browser is not None
    with page.context.browser.new_context() as of_somebody_else:
        visitor = of_somebody_else.new_page()
        visitor.goto(link.inner_text())
        expect(visitor.get_by_role("heading", name="March portfolio")).to_be_visible()

    told = sections()
    assert list(told) == list(tour.texts)
    assert {name: missing for name, words in told.items() if (missing := [word for word in words if word not in tour.texts[name]])} == {}


def change(page: Page, before: str, label: str, after: str) -> None:
    page.get_by_role("grid").get_by_role("gridcell", name=before).dblclick()
    page.get_by_role("textbox", name=label).fill(after)
    page.keyboard.press("Enter")


def test_the_page_shows_every_picture_and_they_are_small() -> None:
    pictures = sorted((PAGE.parent / "tour").glob("*.png"))
    assert sorted(sections()) == [picture.stem for picture in pictures]
    assert sum(Path(picture).stat().st_size for picture in pictures) <= MOST_BYTES
