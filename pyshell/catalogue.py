"""Loads a catalogue, a folder of CSV files, into the database. The folder's README says what the files hold."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import psycopg


class CatalogueError(Exception):
    """A file of the catalogue is not a table; the message names the file and the line."""


def load_catalogue(connection: psycopg.Connection[Any], directory: Path, name: str = "starter") -> dict[str, dict[str, int]]:
    """Imports every CSV file of `directory` as the catalogue `name`, in the connection's transaction.

    Answers `{file: {"rows": n, "changed": n, "retired": n}}`. Raises `CatalogueError` when a file is no table of equally long rows,
    and `psycopg.Error` (SQLSTATE PT400) when the database finds a row invalid: its message names file, line and reason.
    """
    catalogue: dict[str, Any] = {path.stem: read_rows(path) for path in csv_files(directory)}
    catalogue["catalogue"] = name
    summary = connection.execute("select api.import_catalogue(p_catalogue => %s::jsonb)", (json.dumps(catalogue),)).fetchone()
    assert summary is not None
    imported: dict[str, dict[str, int]] = summary[0]
    return imported


def catalogue_checksum(directory: Path) -> str:
    """SHA-256, in hexadecimal, of the names and contents of the catalogue's CSV files: equal when an import would change nothing."""
    checksum = hashlib.sha256()
    for path in csv_files(directory):
        content = path.read_bytes()
        checksum.update(f"{path.name} {len(content)}\n".encode() + content)
    return checksum.hexdigest()


def csv_files(directory: Path) -> list[Path]:
    files = sorted(directory.glob("*.csv"))
    if not files:
        raise CatalogueError(f"{directory} has no CSV files")
    return files


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            rows = list(reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise CatalogueError(f"{path.name}, line {reader.line_num}: {error}") from error
    if len(set(header)) < len(header):
        raise CatalogueError(f"{path.name}: a column is there twice")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise CatalogueError(f"{path.name}, line {line}: {len(row)} cells, but the header has {len(header)}")
    return [{column: cell for column, cell in zip(header, row, strict=True) if cell.strip()} for row in rows]
