"""The pages in Markdown: every link leads somewhere, and somebody who starts at the README finds every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyshell.settings import ROOT

PAGES = sorted(path for path in ROOT.rglob("*.md") if not re.search(r"/(\.|node_modules/)", f"/{path.relative_to(ROOT)}"))
PROSE = {path: re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE) for path in PAGES}


def links(path: Path) -> list[tuple[Path, str]]:
    """The files or folders in this repository that a page links to, each with the heading that is meant, or an empty text."""
    targets = re.findall(r"\]\(([^)\s]+)\)", PROSE[path])
    inside = [target.partition("#") for target in targets if not re.match(r"[a-z]+:", target)]
    return [((path.parent / name).resolve() if name else path, heading) for name, _, heading in inside]


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", PROSE[path], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert [str(target) for target, _ in links(page) if not target.exists()] == []
    assert [f"{target}#{heading}" for target, heading in links(page) if heading and heading not in anchors(target)] == []


def test_the_readme_leads_to_every_page() -> None:
    found, to_read = set(), [ROOT / "README.md"]
    while to_read:
        page = to_read.pop()
        if page in found:
            continue
        found.add(page)
        to_read += [target / "README.md" if target.is_dir() else target for target, _ in links(page)]
        to_read = [target for target in to_read if target in PROSE]
    assert set(PAGES) - found == set()
