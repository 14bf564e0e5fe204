"""CSV (RFC 4180) as spreadsheets write it: any usual delimiter and line end, line breaks in quoted cells."""

from __future__ import annotations

import csv
import io
import re
from contextlib import suppress
from itertools import islice
from operator import attrgetter
from typing import NamedTuple, Self

import orjson

from pyshell.api.errors import ApiError
from pyshell.api.uploads.tables import MAX_RECORD_LENGTH, Table, empty_file

DELIMITERS = ",;\t|"
SAMPLE_ROWS = 50
# A first line that names the delimiter is found this far into the file; reading on in megabytes of white space would hold up all threads.
_BEGINNING = 1000
_SEPARATOR_LINE = re.compile(r'\s*"?sep=([^"\s\w]|\t)"?[ ]*(\r\n|\n|\r|$)', re.IGNORECASE)


class RecordLines:
    """The lines of a text. A record may have MAX_RECORD_LENGTH characters: its cells exist before anything can count them."""

    def __init__(self, text: str, number: int) -> None:
        # A StringIO takes four bytes per character.
        self._lines = io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8", newline="")
        self._length = 0
        self.number = number

    def begin_record(self, number: int) -> None:
        self._length = 0
        self.number = number

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._length += len(line)
        if self._length > MAX_RECORD_LENGTH:
            members = {"line": self.number}
            raise ApiError(
                400, "record_too_long", f"The row of line {self.number} has more than {MAX_RECORD_LENGTH:,} characters", members=members
            )
        return line


def read_csv(text: str) -> Table:
    """The rows of a file; a first line such as `sep=;`, Excel's own, names the delimiter. Raises ApiError 400, naming the line."""
    first_line = 1
    if separator := _SEPARATOR_LINE.match(text, 0, _BEGINNING):
        text = text[separator.end() :]
        first_line += sum(1 for _ in RecordLines(separator[0], first_line))
    delimiter = separator[1] if separator else detect_delimiter(text)
    try:
        table = read_rows(text, delimiter, first_line, skip_spaces=True)
        return rows_in_single_cells(table, first_line) or table
    except ApiError as error:
        # In `12 Main St, "The Oaks" Unit 5`, what follows the space is not a quoted cell.
        if "expected after" in str(error.__cause__):
            with suppress(ApiError):
                return read_rows(text, delimiter, first_line, skip_spaces=False)
        raise


def rows_in_single_cells(table: Table, first_line: int) -> Table | None:
    """The rows of a file whose lines are quoted as a whole, as Excel saves those that it did not split; None: it is no such file."""
    if not all(row.count('"') == 2 or row == "[]" for row in table.rows):
        return None
    lines = [next(iter(orjson.loads(row)), "") for row in table.rows]
    text = "\n".join(lines)
    delimiter = detect_delimiter(text)
    counts = {line.count(delimiter) for line in lines if line}
    return read_rows(text, delimiter, first_line, skip_spaces=True) if len(counts) == 1 and min(counts) > 1 else None


def read_rows(text: str, delimiter: str, first_line: int, *, skip_spaces: bool) -> Table:
    """skip_spaces: a cell may be quoted after spaces, too, as people write who type CSV themselves."""
    table = Table()
    lines = RecordLines(text, first_line)
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=skip_spaces)
    line = first_line
    try:
        for cells in reader:
            table.add([cell.strip() for cell in cells], line)
            line = first_line + reader.line_num
            lines.begin_record(line)
    except csv.Error as error:
        raise ApiError(400, "invalid_csv", f"Line {line} {reason(error)}", members={"line": line}) from error
    if table.is_empty():
        raise empty_file()
    return table


class Fit(NamedTuple):
    """How a delimiter splits the first rows: how many rows it splits alike, the first of these, and their cells beyond the first cell."""

    cells: int
    rows: int
    first_row: int
    delimiter: str


def detect_delimiter(text: str) -> str:
    """The delimiter that splits most of the first rows into the same number of cells, and into most cells.

    One that begins with an earlier row and splits more rows alike wins. An address in one cell may have more commas than its row
    has semicolons, as in `d-001;1 Main St, Apt 4, Oakland, CA 94601;House`, but the header above has none.
    """
    fits = [fit(text[:100_000], delimiter) for delimiter in DELIMITERS]
    best = max(fits, key=attrgetter("cells"))
    earlier = [other for other in fits if other.cells > 0 and other.first_row < best.first_row and other.rows > best.rows]
    return max(earlier, key=attrgetter("cells"), default=best).delimiter


def fit(sample: str, delimiter: str) -> Fit:
    rows_of: dict[int, list[int]] = {}
    try:
        rows = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, skipinitialspace=True)
        for number, cells in enumerate(islice(rows, SAMPLE_ROWS)):
            rows_of.setdefault(len(cells), []).append(number)
    except csv.Error:
        return Fit(0, 0, 0, delimiter)
    return max(
        (Fit((width - 1) * len(numbers), len(numbers), numbers[0], delimiter) for width, numbers in rows_of.items()),
        default=Fit(0, 0, 0, delimiter),
    )


def reason(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end" in text:
        return "has a quotation mark that is not closed"
    if "field larger" in text:
        return f"has a cell of more than {csv.field_size_limit():,} characters, or a quotation mark that is not closed"
    return "is not CSV: a cell with a quotation mark must be quoted, and the mark doubled"
