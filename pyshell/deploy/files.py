"""The files that a database is created from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sql_files(folder: Path) -> list[Path]:
    """In the order in which they run."""
    return sorted(folder.glob("*.sql"))


def checksum(files: Iterable[Path]) -> str:
    """SHA-256, in hexadecimal, of the names and contents of files; line endings don't matter."""
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
