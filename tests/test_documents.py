"""The pages in Markdown: every link leads somewhere, somebody who starts at the README finds every page, and lists are complete."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import yaml

from batch_lookups.cli.main import batch_lookups
from pyshell.settings import ROOT, Settings
from tests.conftest import Connection

PAGES = sorted(path for path in ROOT.rglob("*.md") if not re.search(r"/(\.|node_modules/)", f"/{path.relative_to(ROOT)}"))
PROSE = {path: re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE) for path in PAGES}


def links(path: Path) -> list[tuple[Path, str]]:
    """The files or folders in this repository that a page links to, each with the heading of the link or an empty text."""
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


def rows(page: str, header: str) -> list[list[str]]:
    """The cells of a page's table with this header."""
    [table] = re.findall(rf"^\| {re.escape(header)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", (ROOT / page).read_text(), re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def in_code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_readme_explains_every_variable() -> None:
    named = {name for row in rows("README.md", "variable") for name in in_code(row[0]) if not name.startswith("OTEL_")}
    assert named == {name.upper() for name in Settings.__dataclass_fields__}


def test_docker_compose_passes_every_variable_on() -> None:
    handed = set(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["x-app"]["environment"])
    assert {name.upper() for name in Settings.__dataclass_fields__} - handed == {"HOST", "PORT", "STATE_DIR"}


def test_the_defaults_of_settings_are_those_of_the_database(shared_owner: Connection) -> None:
    words = {"never": None, "four times that": None}
    shown = {in_code(row[0])[0]: row[1] for row in rows("README.md", "setting")}
    defaults: dict[str, str | None] = dict(
        shared_owner.execute(
            """select column_name, column_default from information_schema.columns where table_schema = 'app' and table_name = 'settings'"""
        ).fetchall()
    )
    assert len(shown) > 10
    assert {name: words.get(text, text.replace(",", "")) for name, text in shown.items()} == {name: defaults[name] for name in shown}


def test_the_architecture_names_every_chapter() -> None:
    spans = [re.findall(r"\d+", part) for row in rows("docs/architecture.md", "chapters") for part in row[0].split(",")]
    named = {chapter for span in spans for chapter in range(int(span[0]), int(span[-1]) + 1)}
    assert {int(file.name[:2]) for folder in ("schema", "functions") for file in (ROOT / "sql" / folder).glob("*.sql")} <= named


def test_the_page_of_the_command_names_every_command() -> None:
    named = {name for row in rows("docs/cli.md", "command") for name in in_code(row[0])}
    assert set(batch_lookups.commands) <= {name.split()[0] for name in named}


def test_the_runbook_names_existing_checks_and_codes() -> None:
    runbook = (ROOT / "docs" / "operations" / "runbook.md").read_text()
    sources = (ROOT / "pyshell" / "deploy" / "doctor.py").read_text() + (ROOT / "sql" / "functions" / "89_diagnosis.sql").read_text()
    checks = set(re.findall(r"""(?:Finding\(\s*"|app\.found\(')(\w+)""", sources))
    named = {name for said in re.findall(r"doctor's ((?:`\w+`(?:,? and |, )?)+)", runbook) for name in in_code(said)}
    assert len(named) > 15
    assert named - checks == set()
    codes = {name for row in rows("docs/operations/runbook.md", "code") for name in in_code(row[0])}
    assert codes - set(re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)) == set()


def test_the_catalogue_has_what_its_page_counts() -> None:
    page = " ".join((ROOT / "sql" / "catalogue" / "README.md").read_text().split())
    [counts] = re.findall(r"(\d+) incentive programs of (\d+) US states, (\d+) electric utilities, (\d+) devices in (\d+) categories", page)
    files = {
        path.stem: list(csv.DictReader(path.read_text().splitlines(keepends=True))) for path in (ROOT / "sql" / "catalogue").glob("*.csv")
    }
    states = {row["region_code"] for row in files["programs"]}
    there = (files["programs"], states, files["utilities"], files["devices"], files["device_categories"])
    assert [int(count) for count in counts] == [len(what) for what in there]
