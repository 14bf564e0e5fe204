"""Loads a catalogue, a folder of CSV files or another source, into the database. The folder's README describes the files."""

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

from pyshell.deploy import rewiring_america
from pyshell.deploy.files import checksum
from pyshell.postgres import sqlstates
from pyshell.postgres.connections import OwnerConnection
from pyshell.settings import ROOT

STARTER = ROOT / "sql" / "catalogue"
# Files that depend on each other are imported together, all others one by one, so that a progress bar can advance.
PARTS = (("utilities",), ("utility_service_areas",), ("programs", "program_utilities", "program_tiers"))
SHOWN_ERRORS = 20
DELIMITERS = ",;\t|"

Summary = dict[str, dict[str, int]]


class CatalogueError(RuntimeError):
    """A file of the catalogue is not a valid table; the message names the file and the line."""


@dataclass(frozen=True)
class Differences:
    """What an import would change: how many rows, and the first of them, `{"file", "key", "change", "before", "after"}`."""

    total: int
    first: list[dict[str, Any]]


def load_catalogue(connection: OwnerConnection, directory: Path, name: str = "starter") -> Summary:
    """Imports every CSV file of `directory` as the catalogue `name`, in the connection's transaction.

    Returns `{file: {"rows": n, "changed": n, "retired": n}}`. Raises what `read_folder` does, and `DatabaseError` (SQLSTATE PT400) when
    the database finds a row invalid: its message names file, line and reason.
    """
    return import_rows(connection, read_folder(directory, name))


def read_folder(directory: Path, name: str, allow_empty: bool = False) -> dict[str, Any]:
    """The CSV files as `import_rows` takes them. Raises `CatalogueError` if one is not a table, or has no rows and may not be empty."""
    return {path.stem: read_rows(path, allow_empty) for path in csv_files(directory)} | {"catalogue": name}


def load_rewiring_america(
    connection: OwnerConnection, directory: Path, show: Callable[[float, str], None] = lambda share, what: None
) -> tuple[Summary, Counter[str]]:
    """Imports a clone of that public repository, in the connection's transaction.

    Returns what `load_catalogue` does, and how many incentives were skipped for which reason. `show` gets the progress from 0 to
    1, and the next step. Raises `CatalogueError` if the folder is not such a clone.
    """
    show(0, "reading")
    source, skipped = read_rewiring_america(directory)
    summary: Summary = {}
    rows_of = {part: sum(len(source[file]) for file in part) for part in PARTS}
    done = 0
    for part in PARTS:
        show(0.1 + 0.9 * done / sum(rows_of.values()), part[0].replace("_", " "))
        summary |= import_rows(connection, {member: value for member, value in source.items() if member in (*part, "catalogue", "source")})
        done += rows_of[part]
    show(1, "done")
    return summary, skipped


def read_rewiring_america(directory: Path) -> tuple[dict[str, Any], Counter[str]]:
    try:
        source = rewiring_america.read(directory, STARTER)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else repr(error)
        raise CatalogueError(f"{directory} cannot be read as a clone of {rewiring_america.SOURCE}: {reason}") from error
    rows = {file: [{name: cell for name, cell in row.items() if cell} for row in source.rows[file]] for part in PARTS for file in part}
    return rows | {"catalogue": "rewiring-america", "source": rewiring_america.SOURCE}, source.skipped


def import_rows(connection: OwnerConnection, catalogue: dict[str, Any]) -> Summary:
    imported: Summary = answer(connection, "select api.import_catalogue(p_catalogue => %s::jsonb)", json.dumps(catalogue))
    return imported


def try_rows(connection: OwnerConnection, catalogue: dict[str, Any]) -> tuple[Summary, Differences]:
    """What `import_rows` would return, and what it would change. It changes nothing, and raises the same errors."""
    tried = answer(connection, "select api.import_catalogue(p_catalogue => %s::jsonb, p_dry_run => true)", json.dumps(catalogue))
    differences = Differences(tried.pop("total_differences"), tried.pop("differences"))
    return tried, differences


def export(connection: OwnerConnection, directory: Path, name: str) -> dict[str, int]:
    """Writes the catalogue `name` into `directory`, a CSV file for each of its files, and returns how many rows each has.

    All of them or none: importing a part of a catalogue would retire the rest.
    Raises `CatalogueError` if the folder already has CSV files, and `DatabaseError` (SQLSTATE PT404) if there is no such catalogue.
    """
    if directory.is_dir() and any(path.suffix.lower() == ".csv" for path in directory.iterdir()):
        raise CatalogueError(f"{directory} already has CSV files. Export into another folder")
    files = answer(connection, "select api.export_catalogue(%s)", name)
    del files["catalogue"]
    directory.mkdir(parents=True, exist_ok=True)
    parts = {file: directory / f"{file}.csv.part" for file in files}
    try:
        for file, rows in files.items():
            # With a byte order mark, Excel takes the file for UTF-8.
            with parts[file].open("w", encoding="utf-8-sig", newline="") as opened:
                writer = csv.DictWriter(opened, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        for part in parts.values():
            part.rename(part.with_suffix(""))
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return {file: len(rows) for file, rows in files.items()}


def find_catalogues(connection: OwnerConnection) -> list[dict[str, Any]]:
    """The catalogues that were imported: `{"catalogue", "files": {file: {"rows", "retired"}}}`."""
    found: list[dict[str, Any]] = answer(connection, "select api.list_catalogues()")["catalogues"]
    return found


def answer(connection: OwnerConnection, statement: LiteralString, *arguments: str | int | None) -> Any:
    row = connection.execute(statement, arguments).fetchone()
    assert row is not None
    return row[0]


def explain(error: sqlstates.DatabaseError) -> str:
    """The error for people; for a catalogue with several errors, the first ones, one per line."""
    lines = [sqlstates.explain(error)]
    if error.diag.constraint_name == "invalid_catalogue":
        errors = json.loads(error.diag.message_detail or "{}").get("catalogue_errors", [])
        if len(errors) > 1:
            lines += [f"{fault['file']}.csv, line {fault['line']}: {fault['error']}" for fault in errors[:SHOWN_ERRORS]]
    return "\n".join(lines)


def describe(differences: Differences) -> list[str]:
    """A line for each row, such as `program_tiers a b: amount 1500 -> 2000`, and one for those that are not shown."""
    lines = [describe_row(difference) for difference in differences.first]
    if differences.total > len(lines):
        lines.append(f"... and {differences.total - len(lines):,} more")
    return lines


def describe_row(difference: dict[str, Any]) -> str:
    before, after = difference["before"] or {}, difference["after"] or {}
    row = f"{difference['file']} {difference['key']}"
    cells = before | after
    if difference["change"] == "changed":
        return f"{row}: " + "; ".join(f"{name} {before[name] or '(empty)'} -> {after[name] or '(empty)'}" for name in cells)
    if difference["change"] == "retired":
        return f"{row}: retired"
    return f"{row}: added: " + "; ".join(f"{name} {cell}" for name, cell in cells.items())


def find_warnings(connection: OwnerConnection, days: int = 0, name: str | None = None) -> list[dict[str, Any]]:
    """Programs and offers that have ended, end within `days`, or look wrong, of the catalogue `name` or of all.

    Returns `{"warning", "program_id", "tier_id", "catalogue", "explanation"}`.
    """
    found: list[dict[str, Any]] = answer(connection, "select api.find_catalogue_warnings(%s, %s)", days, name)
    return found


def catalogue_checksum(directory: Path) -> str:
    """Fingerprint of the catalogue's CSV files: the same if an import would change nothing."""
    return checksum(csv_files(directory))


def csv_files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise CatalogueError(f"{directory} is not a folder")
    files = sorted(path for path in directory.iterdir() if path.suffix.lower() == ".csv")
    if not files:
        raise CatalogueError(f"{directory} has no CSV files")
    return files


def read_rows(path: Path, allow_empty: bool = False) -> list[dict[str, str]]:
    """The rows of a CSV file as spreadsheets write it: any usual delimiter and line end, empty rows and columns around the table.

    The first row has all columns, so that the database sees their names. A row has the member `_line` where its line is not its number.
    """
    text = text_of(path)
    header_line, _, _ = text.lstrip().partition("\n")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=header_line.count), strict=True)
    records: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for record in reader:
            cells = [cell.strip() for cell in record]
            if any(cells):
                records.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise CatalogueError(f"{path.name}, line {line}: {error}") from error
    if not records:
        raise CatalogueError(
            f"{path.name} is empty. Give it its header and rows, or leave it out to keep the rows that the catalogue has of it"
        )
    (header_at, header), *rows = records
    while not header[-1]:
        header.pop()
    if not all(header):
        raise CatalogueError(f"{path.name}, line {header_at}: column {header.index('') + 1} has no name")
    if len(set(header)) < len(header):
        twice = next(column for column in header if header.count(column) > 1)
        raise CatalogueError(f"{path.name}, line {header_at}: the column {twice} occurs twice")
    if not rows and not allow_empty:
        raise CatalogueError(
            f"{path.name} has no rows, so every row that the catalogue has of it would be retired. "
            "Leave the file out to keep them, or add --allow-empty to retire them"
        )
    return [row_of(path, header, n, line, cells) for n, (line, cells) in enumerate(rows, start=2)]


def row_of(path: Path, header: list[str], n: int, line: int, cells: list[str]) -> dict[str, str]:
    if len(cells) < len(header):
        raise CatalogueError(f"{path.name}, line {line}: {len(cells)} cells, but the header has {len(header)}")
    beyond = next((k for k, cell in enumerate(cells) if cell and k >= len(header)), None)
    if beyond is not None:
        raise CatalogueError(
            f"{path.name}, line {line}: {len(cells)} cells, but the header has {len(header)}; cell {beyond + 1} is {cells[beyond][:100]!r}"
        )
    row = {column: cell for column, cell in zip(header, cells, strict=False) if cell or n == 2}
    return row | ({"_line": str(line)} if line != n else {})


def text_of(path: Path) -> str:
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CatalogueError(f"{path.name} is not UTF-8: line {line} has other bytes. Save it as CSV in UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CatalogueError(f"{path.name}, line {line}: a NUL character, which text cannot have. Save it as CSV in UTF-8")
    return text
