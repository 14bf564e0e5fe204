"""Which package may import which: dependencies point one way, and one package knows psycopg."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from pyshell.settings import ROOT

# What each package stands on. `settings` and `postgres` are at the bottom, `local` and the command line on top.
MAY_IMPORT = {
    "settings": set[str](),
    "tasks": set(),
    "signals": set(),
    "words": set(),
    "logs": {"settings"},
    "http_client": {"settings"},
    "metrics": {"settings"},
    "traces": {"settings", "logs", "metrics"},
    "postgres": {"tasks", "metrics", "traces"},
    "webhooks": {"settings", "tasks", "metrics", "traces", "postgres", "http_client"},
    # The process that looks sites up sends the webhooks too.
    "worker": {"settings", "tasks", "signals", "logs", "metrics", "traces", "postgres", "http_client", "webhooks"},
    "deploy": {"settings", "postgres"},
    "api": {
        *("settings", "tasks", "signals", "words", "logs", "metrics", "traces", "postgres", "http_client", "worker", "webhooks", "deploy"),
    },
    "local": {"settings", "signals", "postgres", "deploy", "api"},
    "__main__": {"settings", "logs", "postgres", "worker", "deploy", "api", "local", "words"},
}
KNOWS_PSYCOPG = "postgres"


@cache
def modules() -> dict[str, ast.Module]:
    files = sorted((ROOT / "pyshell").rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(file.read_text()) for file in files}


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module imported anywhere in a file; for `from a import b`, both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative imports are not used here"
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_packages_import_only_what_they_stand_on() -> None:
    found = {
        (package(module), package(name))
        for module, tree in modules().items()
        for name in imported(tree)
        if name.startswith("pyshell.") and package(name) != package(module)
    }
    assert found - {(upper, lower) for upper, lowers in MAY_IMPORT.items() for lower in lowers} == set()
    assert {package(module) for module in modules()} - {"pyshell"} == set(MAY_IMPORT)


def test_no_package_imports_in_a_circle() -> None:
    order = list(TopologicalSorter(MAY_IMPORT).static_order())
    assert order.index("postgres") < order.index("worker") < order.index("api") < order.index("local")


def test_no_module_imports_in_a_circle() -> None:
    graph = {module: {name for name in imported(tree) if name in modules() and name != module} for module, tree in modules().items()}
    # A package's own file is imported by everything in it.
    for module, names in graph.items():
        names -= {str(Path(module.replace(".", "/")).parent).replace("/", ".")}
    TopologicalSorter(graph).prepare()


def test_psycopg_is_known_in_one_package() -> None:
    knowing = {
        package(module) for module, tree in modules().items() if any(name.split(".")[0].startswith("psycopg") for name in imported(tree))
    }
    assert knowing == {KNOWS_PSYCOPG}


def loaded_with(module: str) -> set[str]:
    listed = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", listed], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def test_a_workbook_is_read_without_the_servers_libraries() -> None:
    """Its process would take five times as long to start."""
    loaded = loaded_with("pyshell.api.uploads.workbooks")
    assert "pyshell.api.errors" in loaded
    assert {"psycopg", "starlette", "pyshell.settings"}.isdisjoint(loaded)


def test_processes_start_without_what_only_some_of_them_use() -> None:
    """The libraries for Clerk, for pages of reports and for workbooks: a third of an API process's start, and of its memory a quarter."""
    rarely_used = {"cryptography", "httpx", "jinja2", "jwt", "rich", "xlsxwriter"}
    assert loaded_with("pyshell.api.app") & rarely_used == set()
    assert loaded_with("pyshell.worker.process") & rarely_used == set()
