"""Loads a catalogue, a folder of CSV files or another source, into the database. The folder's README describes the files."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyshell.deploy import rewiring_america
from pyshell.deploy.files import checksum
from pyshell.postgres import sqlstates
from pyshell.postgres.connections import OwnerConnection
from pyshell.settings import ROOT

STARTER = ROOT / "sql" / "catalogue"
# Files that depend on each other are imported together, the others one by one, so that a progress bar can advance.
PARTS = (("utilities",), ("utility_service_areas",), ("programs", "program_utilities", "program_tiers"))
SHOWN_ERRORS = 20

Summary = dict[str, dict[str, int]]


class CatalogueError(RuntimeError):
    """A file of the catalogue is not a table; the message names the file and the line."""


def load_catalogue(connection: OwnerConnection, directory: Path, name: str = "starter") -> Summary:
    """Imports every CSV file of `directory` as the catalogue `name`, in the connection's transaction.

    Answers `{file: {"rows": n, "changed": n, "retired": n}}`. Raises `CatalogueError` when a file is no table of equally long rows,
    and `DatabaseError` (SQLSTATE PT400) when the database finds a row invalid: its message names file, line and reason.
    """
    return import_rows(connection, {path.stem: read_rows(path) for path in csv_files(directory)} | {"catalogue": name})


def load_rewiring_america(
    connection: OwnerConnection, directory: Path, show: Callable[[float, str], None] = lambda share, what: None
) -> tuple[Summary, Counter[str]]:
    """Imports a clone of that public repository, in the connection's transaction.

    Answers what `load_catalogue` does, and how many incentives were left out for which reason. `show` is told how far it is, from 0 to
    1, and what comes next. Raises `CatalogueError` when the folder is no such clone.
    """
    show(0, "reading")
    try:
        source = rewiring_america.read(directory, STARTER)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else repr(error)
        raise CatalogueError(f"{directory} cannot be read as a clone of {rewiring_america.SOURCE}: {reason}") from error
    summary: Summary = {}
    rows_of = {part: sum(len(source.rows[file]) for file in part) for part in PARTS}
    done = 0
    for part in PARTS:
        show(0.1 + 0.9 * done / sum(rows_of.values()), part[0].replace("_", " "))
        rows: dict[str, Any] = {file: [{name: cell for name, cell in row.items() if cell} for row in source.rows[file]] for file in part}
        summary |= import_rows(connection, rows | {"catalogue": "rewiring-america", "source": rewiring_america.SOURCE})
        done += rows_of[part]
    show(1, "done")
    return summary, source.skipped


def import_rows(connection: OwnerConnection, catalogue: dict[str, Any]) -> Summary:
    summary = connection.execute("select api.import_catalogue(p_catalogue => %s::jsonb)", (json.dumps(catalogue),)).fetchone()
    assert summary is not None
    imported: Summary = summary[0]
    return imported


def explain(error: sqlstates.DatabaseError) -> str:
    """The error as a person should read it; of a catalogue with several errors, the first ones, a line each."""
    lines = [sqlstates.explain(error)]
    if error.diag.constraint_name == "invalid_catalogue":
        errors = json.loads(error.diag.message_detail or "{}").get("catalogue_errors", [])
        if len(errors) > 1:
            lines += [f"{fault['file']}.csv, line {fault['line']}: {fault['error']}" for fault in errors[:SHOWN_ERRORS]]
    return "\n".join(lines)


def find_warnings(connection: OwnerConnection) -> list[dict[str, Any]]:
    """Programs and offers that have ended or look wrong: `{"warning", "program_id", "tier_id", "catalogue", "explanation"}`."""
    warnings = connection.execute("select api.find_catalogue_warnings()").fetchone()
    assert warnings is not None
    found: list[dict[str, Any]] = warnings[0]
    return found


def catalogue_checksum(directory: Path) -> str:
    """Fingerprint of the catalogue's CSV files: equal if an import would change nothing."""
    return checksum(csv_files(directory))


def csv_files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise CatalogueError(f"{directory} is no folder")
    files = sorted(path for path in directory.iterdir() if path.suffix.lower() == ".csv")
    if not files:
        raise CatalogueError(f"{directory} has no CSV files")
    return files


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            rows = list(reader)
        except UnicodeDecodeError as error:
            raise CatalogueError(f"{path.name} is not UTF-8. Save it as CSV in UTF-8") from error
        except csv.Error as error:
            raise CatalogueError(f"{path.name}, line {reader.line_num}: {error}") from error
    # Spreadsheets leave empty rows at the end.
    while rows and not any(cell.strip() for cell in rows[-1]):
        rows.pop()
    if len(set(header)) < len(header):
        raise CatalogueError(f"{path.name}: a column is there twice")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise CatalogueError(f"{path.name}, line {line}: {len(row)} cells, but the header has {len(header)}")
    return [{column: cell for column, cell in zip(header, row, strict=True) if cell.strip()} for row in rows]
