"""Finds the PostgreSQL installed on this machine."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OLDEST_VERSION = 15


class PostgresError(RuntimeError):
    """An operation on the private PostgreSQL failed. The message says why, and what helps."""


@dataclass(frozen=True)
class Installation:
    """One installed version of PostgreSQL, in Debian's folders or, if relocatable, in `home`."""

    version: int
    home: Path | None = None

    @property
    def bin(self) -> Path:
        """The folder with the programs."""
        return (self.home or Path(f"/usr/lib/postgresql/{self.version}")) / "bin"

    @property
    def extensions(self) -> Path:
        """The folder with the control files of the extensions."""
        if self.home is None:
            return Path(f"/usr/share/postgresql/{self.version}/extension")
        return next(folder for folder in (self.home / "share/extension", self.home / "share/postgresql/extension") if folder.exists())

    def has_extensions(self, names: Sequence[str]) -> bool:
        """Whether the server and all these extensions are installed."""
        return (self.bin / "postgres").exists() and all((self.extensions / f"{name}.control").exists() for name in names)


def chosen_installation() -> Installation | None:
    """The relocatable build in the folder POSTGRES_HOME, with whatever extensions it has. Raises PostgresError if there is none."""
    if not os.environ.get("POSTGRES_HOME"):
        return None
    home = Path(os.environ["POSTGRES_HOME"])
    try:
        version = subprocess.run([home / "bin/postgres", "--version"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise PostgresError(f"POSTGRES_HOME names {home}, where no PostgreSQL is: {error}") from None
    # As in "postgres (PostgreSQL) 18beta1".
    major = int(re.findall(r" (\d+)", version)[0])
    if major < OLDEST_VERSION:
        raise PostgresError(f"POSTGRES_HOME names {home}, which has PostgreSQL {major}. This needs {OLDEST_VERSION} or later.")
    return Installation(major, home)


def newest_installation(extensions: Sequence[str] = ("pg_cron",)) -> Installation:
    """The newest installed version, OLDEST_VERSION or later, with the extensions. Raises PostgresError if there is none.

    POSTGRES_HOME overrides it, even without the extensions: workers run the maintenance if there is no pg_cron.
    """
    if chosen := chosen_installation():
        return chosen
    versions = sorted((int(path.name) for path in Path("/usr/lib/postgresql").glob("*") if path.name.isdecimal()), reverse=True)
    for version in versions:
        if version >= OLDEST_VERSION and Installation(version).has_extensions(extensions):
            return Installation(version)
    raise PostgresError(
        f"No PostgreSQL {OLDEST_VERSION} or later with {' and '.join(extensions)} is installed."
        " scripts/setup installs it on Debian and Ubuntu."
    )
