"""Queues that people might choose instead, with the same work: HTTP lookups, 50 concurrent ones, each result written to a table.

Each is installed into an environment of its own under `.state/bench`, and skipped with a message if that fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pyshell.settings import ROOT

FOLDER = Path(__file__).parent
ENVIRONMENTS = ROOT / ".state" / "bench"
CONCURRENCY = 50
INSTALL_SECONDS = 300
DRAIN_SECONDS = 300


class PeerError(Exception):
    """The peer cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Peer:
    """`packages` come from PyPI or, for a script in JavaScript, from npm, including the version of Node that it requires."""

    name: str
    script: str
    packages: tuple[str, ...]

    def install(self) -> list[str]:
        """Installs what the script needs. Returns the command that runs it."""
        folder = ENVIRONMENTS / self.name
        stamp = folder / "installed"
        is_node = self.script.endswith(".mjs")
        python = folder / "bin" / "python"
        if not stamp.exists() or stamp.read_text() != " ".join(self.packages):
            folder.mkdir(parents=True, exist_ok=True)
            if is_node:
                (folder / "package.json").write_text('{"private": true}')
                _run("npm", "install", "--silent", "--no-audit", "--no-fund", *self.packages, cwd=folder)
            else:
                _run(sys.executable, "-m", "venv", ".", cwd=folder)
                _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *self.packages, cwd=folder)
            stamp.write_text(" ".join(self.packages))
        if not is_node:
            return [str(python), str(FOLDER / self.script)]
        # Node looks for modules beside the script.
        shutil.copy(FOLDER / self.script, folder)
        return [str(folder / "node_modules" / ".bin" / "node"), str(folder / self.script)]

    def drain(self, database_url: str, upstream_url: str, items: int) -> dict[str, float]:
        """Seconds to enqueue and to drain, in an empty database."""
        command = self.install()
        environment = os.environ | {
            "DATABASE_URL": database_url,
            "UPSTREAM_URL": upstream_url,
            "ITEMS": str(items),
            "CONCURRENCY": str(CONCURRENCY),
        }
        output = _run(*command, environment=environment, seconds=DRAIN_SECONDS)
        with psycopg.connect(database_url) as connection:
            row = connection.execute("select count(*) from bench_results").fetchone()
        if row != (items,):
            raise PeerError(f"{row} results of {items} items")
        seconds: dict[str, float] = json.loads(output.splitlines()[-1])
        return seconds


PEERS = [
    Peer("graphile-worker", "graphile_worker.mjs", ("graphile-worker@^0.18", "node@^22.18", "pg", "undici")),
    Peer("pgqueuer", "pgqueuer_drain.py", ("pgqueuer", "asyncpg", "aiohttp", "uvloop")),
    Peer("procrastinate", "procrastinate_drain.py", ("procrastinate", "psycopg[binary,pool]", "aiohttp", "uvloop")),
]


def measure_peers(
    new_database: Callable[[], str], upstream_url: str, items: int, say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Items a second that each peer enqueues and drains, for those that can be installed."""
    figures: dict[str, dict[str, float]] = {}
    for peer in PEERS:
        say(f"{peer.name}: {items:,} items")
        try:
            seconds = peer.drain(new_database(), upstream_url, items)
        except PeerError as error:
            say(f"{peer.name} is skipped: {error}")
        else:
            figures[peer.name] = {
                "enqueue_items_per_second": round(items / seconds["enqueue_seconds"]),
                "drain_items_per_second": round(items / seconds["drain_seconds"]),
            }
    return figures


def _run(*command: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None, seconds: float = INSTALL_SECONDS) -> str:
    try:
        process = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    except FileNotFoundError:
        raise PeerError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise PeerError(f"not done within {seconds:.0f} s") from None
    if process.returncode:
        raise PeerError((process.stderr.strip() or f"{command[0]} ended with status {process.returncode}").splitlines()[-1])
    return process.stdout
