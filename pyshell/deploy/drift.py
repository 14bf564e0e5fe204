"""Compares the two sources of a database: `sql/schema`, the definition of the tables, and the migrations that create them.

Rows are compared, too: those of a new database, such as settings and regions.
"""

from __future__ import annotations

import difflib
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pyshell.deploy.migrations import Sources, migrate
from pyshell.postgres.connections import connect_as_owner
from pyshell.settings import ROOT

SCHEMA = ROOT / "sql" / "schema"
# Lines with the version, and a token that pg_dump generates for each dump.
NOISE = re.compile(r"^(--.*|SET .*|SELECT pg_catalog\.set_config.*|\\(un)?restrict .*|)$")
# Values that differ between databases: secrets and times.
CHANCE = re.compile(r"'[0-9a-f]{64}'|'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^']*'")
# PostgreSQL 18 names these constraints, and keeps the name when the column is renamed. Nothing of ours depends on it.
NOT_NULL = re.compile(r" CONSTRAINT \w+_not_null NOT NULL\b")
BOOKKEEPING = ("app.schema_migrations", "app.deployed_parts")


class Installation(Protocol):
    """`bin` is the folder of PostgreSQL's programs."""

    @property
    def bin(self) -> Path: ...


class Server(Protocol):
    """A PostgreSQL server to create databases on, with one known superuser."""

    @property
    def installation(self) -> Installation: ...

    def url(self, database: str) -> str: ...


def difference(server: Server, sources: Sources | None = None, schema: Path = SCHEMA) -> str:
    """Unified diff from the schema's dump to the migrations'; empty if they are equal. Creates two databases on the server."""
    sources = replace(sources or Sources(), catalogue=Path("/nonexistent"))
    from_schema = _built(server, "drift_schema", replace(sources, migrations=schema))
    from_migrations = _built(server, "drift_migrations", sources)
    return "\n".join(difflib.unified_diff(from_schema, from_migrations, "sql/schema", "migrations", lineterm="", n=5))


def _built(server: Server, name: str, sources: Sources) -> list[str]:
    with connect_as_owner(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database if exists {name}")
        connection.execute(f"create database {name}")
    migrate(server.url(name), sources)
    return dump(server, server.url(name))


def dump(server: Server, database_url: str) -> list[str]:
    """The lines of a database's dump, without random differences."""
    without = [f"--exclude-table-data={table}" for table in BOOKKEEPING]
    dumped = subprocess.run(
        [server.installation.bin / "pg_dump", "--inserts", *without, database_url], check=True, capture_output=True, text=True
    )
    lines = [NOT_NULL.sub(" NOT NULL", CHANCE.sub("''", line)) for line in dumped.stdout.splitlines() if not NOISE.match(line)]
    # Rows have no order.
    return [line for line in lines if not line.startswith("INSERT ")] + sorted(line for line in lines if line.startswith("INSERT "))
