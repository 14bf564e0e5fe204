"""Compares the two ways to a database: `sql/schema`, which says what the tables are, and the migrations, which get them there.

Rows count too: those that a new database has, such as settings and regions.
"""

from __future__ import annotations

import difflib
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import psycopg

from pyshell.deploy.migrations import Sources, migrate
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.settings import ROOT

SCHEMA = ROOT / "sql" / "schema"
# The version's own chatter, and a token that pg_dump makes up anew each time.
NOISE = re.compile(r"^(--.*|SET .*|SELECT pg_catalog\.set_config.*|\\(un)?restrict .*|)$")
# What is another in every database: secrets and times.
CHANCE = re.compile(r"'[0-9a-f]{64}'|'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^']*'")
BOOKKEEPING = ("app.schema_migrations", "app.deployed_parts")


def difference(postgres: PrivatePostgres, sources: Sources | None = None, schema: Path = SCHEMA) -> str:
    """Unified diff from the schema's dump to the migrations'; empty when both make the same. Makes two databases on the server."""
    sources = replace(sources or Sources(), catalogue=Path("/nonexistent"))
    from_schema = _dump(postgres, "drift_schema", replace(sources, migrations=schema))
    from_migrations = _dump(postgres, "drift_migrations", sources)
    return "\n".join(difflib.unified_diff(from_schema, from_migrations, "sql/schema", "migrations", lineterm="", n=5))


def _dump(postgres: PrivatePostgres, name: str, sources: Sources) -> list[str]:
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database if exists {name}")
        connection.execute(f"create database {name}")
    migrate(postgres.url(name), sources)
    without = [f"--exclude-table-data={table}" for table in BOOKKEEPING]
    dump = subprocess.run(
        [postgres.installation.bin / "pg_dump", "--inserts", *without, postgres.url(name)], check=True, capture_output=True, text=True
    )
    lines = [CHANCE.sub("''", line) for line in dump.stdout.splitlines() if not NOISE.match(line)]
    # Rows have no order.
    return [line for line in lines if not line.startswith("INSERT ")] + sorted(line for line in lines if line.startswith("INSERT "))
