"""The table of texts that every kind of file is read into, and the limits of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from pyshell.api.errors import ApiError

# For a file, its expanded content, and the texts of a sheet. 10,000 usual items take 3 MB; webhook_custom_fields may add to that.
MAX_FILE_BYTES = 20 * 1024 * 1024
# For one record, in characters.
MAX_RECORD_LENGTH = 1024 * 1024
MAX_ITEMS = 10_000
# Rows that are not items: titles above the header, the header, empty rows, a footer.
MAX_ROWS = 2 * MAX_ITEMS
MAX_COLUMNS = 500


class Note(NamedTuple):
    """A note to the sender about the whole file: a stable code and a sentence; for a workbook, which sheet was read and which there are."""

    code: str
    message: str
    sheet: str | None = None
    sheets: Sequence[str] = ()

    def members(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if value}


@dataclass(slots=True)
class Table:
    """The rows of a file, and the line (or row of a sheet) on which each begins, from 1.

    Each row is a JSON array of its cells, an empty row []. As separate strings, cells of two characters would take ten times the memory.
    Empty rows at the end are dropped: spreadsheets write as many as were ever in use.
    """

    rows: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    # The empty rows since the last one with content, as far as there is room.
    _empty_lines: list[int] = field(default_factory=list)

    def add(self, cells: list[str], line: int) -> None:
        """Raises ApiError 400 if there are too many rows or columns."""
        is_full = len(self.rows) + len(self._empty_lines) == MAX_ROWS
        if not any(cells):
            if not is_full:
                self._empty_lines.append(line)
            return
        if is_full:
            raise too_many_items()
        if len(cells) > MAX_COLUMNS:
            raise ApiError(
                400,
                "too_many_columns",
                f"Line {line} has {len(cells):,} columns; a file may have {MAX_COLUMNS}",
                members={"line": line},
            )
        self.rows += ["[]"] * len(self._empty_lines)
        self.lines += self._empty_lines
        self._empty_lines.clear()
        self.rows.append(orjson.dumps(cells).decode())
        self.lines.append(line)

    def is_empty(self) -> bool:
        return not self.rows

    def members(self) -> dict[str, Any]:
        """The table as members of p_file of api.create_batch_lookup, for orjson."""
        return {"rows": [orjson.Fragment(row) for row in self.rows], "lines": self.lines, "notes": [note.members() for note in self.notes]}


def too_many_items() -> ApiError:
    return ApiError(400, "invalid_item_count", f"A batch must have 1 to {MAX_ITEMS:,} items; this file has more")


def empty_file() -> ApiError:
    return ApiError(400, "empty_file", "The file is empty", hint="One row must name the columns; the rows below it are the sites.")
