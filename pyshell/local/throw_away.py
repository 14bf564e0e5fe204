"""PostgreSQL servers and folders that disappear with the process that created them, for tests and benchmarks."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pyshell.local.private_postgres import PrivatePostgres

MEMORY_FILES = Path("/dev/shm")
MEMORY_NEEDED = 4_000_000_000


@contextmanager
def throw_away_postgres(extensions: Sequence[str] = ("pg_cron",)) -> Iterator[PrivatePostgres]:
    """A new, fast and unsafe server while the context lasts. It ends with this process, even if this is killed."""
    with throw_away_folder() as folder:
        postgres = PrivatePostgres(folder / "postgres", throw_away=True, extensions=extensions)
        try:
            postgres.start()
            yield postgres
        finally:
            postgres.stop(immediately=True)


@contextmanager
def throw_away_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user can access, while the context lasts. After a kill, the next process that needs one deletes it."""
    folder = Path(tempfile.mkdtemp(prefix=".batch-lookups-", dir=_throw_away_place()))
    folder.chmod(0o711)
    with (folder / "in_use").open("w") as in_use:
        fcntl.flock(in_use, fcntl.LOCK_EX)
        # Only now that it is locked does it get the name by which others look for abandoned folders.
        folder = folder.rename(folder.with_name(folder.name[1:]))
        _delete_abandoned(folder.parent)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def _throw_away_place() -> Path:
    """Where to put disposable data: in memory if there is enough, which makes creating databases ten times faster."""
    with suppress(OSError):
        if os.access(MEMORY_FILES, os.W_OK) and shutil.disk_usage(MEMORY_FILES).free > MEMORY_NEEDED:
            return MEMORY_FILES
    return Path(tempfile.gettempdir())


def _delete_abandoned(parent: Path) -> None:
    """Deletes the folders of disposable servers whose process was killed."""
    for marker in parent.glob("batch-lookups-*/in_use"):
        with suppress(OSError), marker.open("r+") as in_use:
            fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(marker.parent)
