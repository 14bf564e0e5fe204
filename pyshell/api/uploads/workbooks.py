"""Workbooks of Excel (xlsx, xlsm, xlsb, xls) and OpenDocument (ods): reads one sheet, with its cells as people see them.

They are read in a separate process, with limits: the reader expands a sheet with all its empty cells, so that a thousand bytes with
a cell in the last row and column of a sheet would end the process for lack of memory, and a large sheet would hold up all others in it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, PasswordError, SheetTypeEnum, SheetVisibleEnum

from pyshell.api.errors import ApiError
from pyshell.api.uploads.sheet_biff import is_encrypted_xls, untold_of_xls
from pyshell.api.uploads.sheet_xml import Untold, untold
from pyshell.api.uploads.tables import MAX_FILE_BYTES, Note, Table, empty_file

ROOT = Path(__file__).parents[3]

Cell = str | int | float | bool | date | datetime | time | timedelta

# The limit for the decompressed parts of a workbook together; a sheet of 10,000 rows has about ten MB.
MAX_EXPANDED_BYTES = 100 * 1024 * 1024
MAX_PROCESS_BYTES = 1024 * 1024 * 1024
MAX_PROCESS_SECONDS = 30
# Names of sheets are stored with a draft and shown whenever it is; those of Excel have at most 31 characters.
MAX_SHEET_NAME = 100
MAX_SHEET_NAMES = 1000
# What the reader says about a cell with an error that it does not know.
UNKNOWN_ERROR = "cell error"
_ERROR_CELL = re.compile(
    rb"""(<(?:[\w.-]+:)?c\s[^>]*\bt\s*=\s*["']e["'][^>]*>\s*(?:<(?:[\w.-]+:)?f\b[^>]*(?:/>|>[^<]*</(?:[\w.-]+:)?f>)\s*)?<(?:[\w.-]+:)?v>)[^<]*"""
)
RAW_DEFLATE = -zlib.MAX_WBITS
LOCAL_HEADER_BYTES = 30


def read_workbook(data: bytes, sheet: str | None = None) -> Table:
    """The rows of a sheet: the one with that name or number (from 1), else the first visible one with a table, else with anything at all.

    Raises ApiError 400, 413. Blocks for as long as it takes: to be called in a thread.
    """
    command = [sys.executable, "-m", __name__, *([] if sheet is None else [sheet])]
    try:
        # The process needs nothing of our environment.
        process = subprocess.run(command, input=data, capture_output=True, cwd=ROOT, env={}, timeout=MAX_PROCESS_SECONDS, check=False)
        output = process.stdout
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
    # A process that ended too early may have written a result before.
    *told, _ = output.split(b"\n")
    if not told:
        raise ApiError(
            400,
            "invalid_workbook",
            "The workbook cannot be read: it is damaged, or its sheet is too large",
            hint="Save a copy with only the table in it, or save the sheet as CSV UTF-8.",
        )
    answer: dict[str, Any] = {}
    for line in told:
        answer |= orjson.loads(line)
    if "status" in answer:
        raise ApiError(answer["status"], answer["code"], answer["message"], hint=answer["hint"], members=answer["members"])
    return Table(answer["rows"], answer["lines"], [Note(**note) for note in answer["notes"]])


def main() -> None:
    """The process: reads a workbook, writes a table or an error as a line of JSON; a second line may add to the table."""
    data = sys.stdin.buffer.read()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_PROCESS_BYTES, MAX_PROCESS_BYTES))
    # Running out of memory would leave a dump with the file in it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        for members in read_in_process(data, sys.argv[1] if len(sys.argv) > 1 else None):
            tell(members)
    except ApiError as error:
        tell({"status": error.status, "code": error.code, "message": error.message, "hint": error.hint, "members": dict(error.members)})


def tell(members: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(members) + b"\n")
    sys.stdout.buffer.flush()


def read_in_process(data: bytes, wanted: str | None) -> Iterator[dict[str, Any]]:
    """read_workbook, without limits of memory and time: the members of its table, and new values of them."""
    if data.startswith(b"PK"):
        check_expansion(data)
    try:
        yield from read_sheets(data, data, wanted)
    except CalamineError as error:
        if is_protected(data):
            raise ApiError(400, "protected_workbook", "The workbook is protected by a password", hint="Save a copy without one.") from error
        if UNKNOWN_ERROR not in str(error):
            raise unreadable() from error
        try:
            yield from read_sheets(data, with_known_errors(data), wanted)
        except CalamineError as other:
            raise unreadable() from other


def read_sheets(data: bytes, readable: bytes, wanted: str | None) -> Iterator[dict[str, Any]]:
    """`readable`: the same workbook in a form that the reader knows."""
    workbook = CalamineWorkbook.from_filelike(io.BytesIO(readable))
    if wanted is None:
        filled = filled_sheets(workbook)
        if not filled:
            raise nothing_to_see(workbook)
        # A cover page is not a table, nor is the list of tables that Numbers puts first.
        chosen = next((sheet for sheet in filled if sheet.height > 1 and sheet.width > 1 and sheet.name != "Export Summary"), filled[0])
        answer = table_of(chosen, more_of(data, workbook.sheet_names.index(chosen.name)))
        yield answer | {"notes": notes_of(chosen.name, [sheet.name for sheet in filled]) + answer["notes"]}
    else:
        chosen = workbook.get_sheet_by_name(name_of(workbook.sheet_names, wanted))
        answer = table_of(chosen, more_of(data, workbook.sheet_names.index(chosen.name)))
        yield answer
        # Other sheets that are unreadable or too large are no reason to refuse this one.
        with contextlib.suppress(CalamineError):
            told = {chosen.name, *(sheet.name for sheet in filled_sheets(workbook))}
            yield {"notes": notes_of(chosen.name, [name for name in workbook.sheet_names if name in told]) + answer["notes"]}


def more_of(data: bytes, number: int) -> Untold:
    return untold(data, number) if data.startswith(b"PK") else untold_of_xls(data, number)


def with_known_errors(data: bytes) -> bytes:
    """An xlsx workbook whose cells have no error but #N/A: the reader refuses a whole workbook for one such as #SPILL! or #ERROR!."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(file, "w") as copy:
        for part in archive.infolist():
            content = archive.read(part)
            copy.writestr(part.filename, _ERROR_CELL.sub(rb"\1#N/A", content) if "worksheets/" in part.filename else content)
    return file.getvalue()


def is_protected(data: bytes) -> bool:
    """Whether it needs a password. The reader detects that only in a file with the right extension; nothing is written to disk."""
    if is_encrypted_xls(data):
        return True
    with TemporaryDirectory() as folder, os.fdopen(os.memfd_create("workbook"), "wb") as memory:
        memory.write(data)
        memory.flush()
        for kind in ("xlsx", "ods"):
            path = Path(folder, f"workbook.{kind}")
            path.symlink_to(f"/proc/self/fd/{memory.fileno()}")
            try:
                CalamineWorkbook.from_path(path)
            except PasswordError:
                return True
            except CalamineError:
                continue
    return False


def table_of(sheet: CalamineSheet, more: Untold) -> dict[str, Any]:
    table = Table()
    text_bytes = hidden = filled = 0
    rows = sheet.to_python(skip_empty_area=False)
    downwards = merged_downwards(sheet)
    merged: dict[int, tuple[str, int]] = {}
    for number in range(1, max(len(rows), max(more.cells, default=0)) + 1):
        cells = [as_text(cell) for cell in rows[number - 1]] if number <= len(rows) else []
        for column, text in more.cells.get(number, {}).items():
            cells += [""] * (column + 1 - len(cells))
            cells[column] = text
        merged = {column: (text, last) for column, (text, last) in merged.items() if number <= last}
        if any(cells):
            for column, (text, _) in merged.items():
                cells += [""] * (column + 1 - len(cells))
                if not cells[column]:
                    cells[column] = text
                    filled += 1
        for column, last in downwards.get(number, ()):
            if column < len(cells) and cells[column]:
                merged[column] = cells[column], last
        # Any number of cells may share one text of the workbook.
        text_bytes += sum(len(cell.encode()) for cell in cells)
        if text_bytes > MAX_FILE_BYTES:
            raise ApiError(413, "body_too_large", f"The cells of a sheet may hold at most {MAX_FILE_BYTES:,} bytes of text together")
        while cells and not cells[-1]:
            cells.pop()
        table.add(cells, number)
        hidden += bool(cells) and number in more.hidden
    return {"rows": table.rows, "lines": table.lines, "notes": notes_of_cells(more, hidden, filled)}


def merged_downwards(sheet: CalamineSheet) -> dict[int, list[tuple[int, int]]]:
    """By the row in which a merged cell begins (from 1): its column (from 0) and its last row, if it has several."""
    found: dict[int, list[tuple[int, int]]] = {}
    for (first, column), (last, _) in sheet.merged_cell_ranges or ():
        if last > first:
            found.setdefault(first + 1, []).append((column, last + 1))
    return found


def notes_of_cells(more: Untold, hidden: int, filled: int) -> list[dict[str, Any]]:
    """Notes about what the table itself does not show."""
    notes = []
    if filled:
        cells = "1 cell has" if filled == 1 else f"{filled:,} cells have"
        message = f"{cells} the text of the cell above, with which the workbook merges {'it' if filled == 1 else 'them'}"
        notes.append({"code": "merged_cells_filled", "message": message})
    if more.without_result:
        formulas = "1 formula has" if more.without_result == 1 else f"{more.without_result:,} formulas have"
        message = (
            f"{formulas} no result ({more.first_without_result}{' is the first' if more.without_result > 1 else ''}), read as #N/A: "
            "open the workbook in a spreadsheet, save it, and upload it again"
        )
        notes.append({"code": "formulas_without_results", "message": message})
    if hidden:
        message = "1 hidden row was read, too" if hidden == 1 else f"{hidden:,} hidden rows were read, too"
        notes.append({"code": "hidden_rows_read", "message": message})
    return notes


def name_of(names: list[str], wanted: str) -> str:
    if wanted in names:
        return wanted
    if wanted.isdecimal() and len(wanted) < 10 and 1 <= int(wanted) <= len(names):
        return names[int(wanted) - 1]
    found = ", ".join(name[:50] for name in names[:50])
    raise ApiError(400, "sheet_not_found", f"The workbook has no sheet {wanted[:100]}", hint=f"It has {found}.")


def filled_sheets(workbook: CalamineWorkbook) -> list[CalamineSheet]:
    """The visible sheets that are not empty; those of xls that are a chart have a copy of its numbers."""
    shown = [sheet for sheet in workbook.sheets_metadata if sheet.visible == SheetVisibleEnum.Visible]
    visible = [sheet.name for sheet in shown if sheet.typ == SheetTypeEnum.WorkSheet]
    return [sheet for name in visible if (sheet := workbook.get_sheet_by_name(name)).height > 0]


def nothing_to_see(workbook: CalamineWorkbook) -> ApiError:
    """The error for a workbook without visible content: if everything is hidden, it is not empty to its author."""
    hidden = [sheet.name[:50] for sheet in workbook.sheets_metadata if sheet.visible != SheetVisibleEnum.Visible]
    if not hidden:
        return empty_file()
    return ApiError(
        400, "empty_file", "No visible sheet has anything in it", hint=f"`sheet` chooses one that is hidden: {', '.join(hidden[:20])}"
    )


def notes_of(chosen: str, filled: list[str]) -> list[dict[str, Any]]:
    """The notes for a workbook with several sheets."""
    if len(filled) < 2:
        return []
    others = ", ".join(name[:50] for name in filled[:20] if name != chosen)
    message = f"The sheet {chosen[:50]} was read; `sheet` chooses another: {others}"
    told = [name[:MAX_SHEET_NAME] for name in filled[:MAX_SHEET_NAMES]]
    return [{"code": "sheet_chosen", "message": message, "sheet": chosen[:MAX_SHEET_NAME], "sheets": told}]


def as_text(cell: Cell) -> str:
    """A cell as people see it: whole numbers without a fraction, dates as ISO 8601."""
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else f"{cell:.15g}"
    if isinstance(cell, datetime) and cell.time() == time():
        return cell.date().isoformat()
    return cell.isoformat() if isinstance(cell, date | time) else str(cell)


def check_expansion(data: bytes) -> None:
    """Refuses an archive whose parts expand too far, whatever sizes its directory claims."""
    expanded = 0
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if "mimetype" not in names and not any(name.startswith("xl/") for name in names):
                raise not_a_workbook(names)
            for part in archive.infolist():
                name_bytes = int.from_bytes(data[part.header_offset + 26 : part.header_offset + 28], "little")
                extra_bytes = int.from_bytes(data[part.header_offset + 28 : part.header_offset + 30], "little")
                start = part.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
                compressed = data[start : start + part.compress_size]
                if part.compress_type == zipfile.ZIP_STORED:
                    expanded += len(compressed)
                else:
                    part_of = zlib.decompressobj(RAW_DEFLATE)
                    while compressed and expanded <= MAX_EXPANDED_BYTES:
                        expanded += len(part_of.decompress(compressed, 1024 * 1024))
                        compressed = part_of.unconsumed_tail
                if expanded > MAX_EXPANDED_BYTES:
                    raise ApiError(413, "suspicious_compression", f"The workbook expands to more than {MAX_EXPANDED_BYTES:,} bytes")
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, ValueError) as error:
        raise unreadable() from error


def unreadable() -> ApiError:
    return ApiError(400, "invalid_workbook", "The workbook cannot be read: it is damaged, or of an unknown kind")


def not_a_workbook(names: list[str]) -> ApiError:
    if any(name.startswith("Index/") for name in names):
        return ApiError(400, "unsupported_file", "This is a document of Apple Numbers", hint="Export it to Excel or CSV.")
    if any(name.startswith("word/") for name in names):
        return ApiError(400, "unsupported_file", "This is a Word document", hint="Put the table into a spreadsheet, and save that.")
    return ApiError(400, "unsupported_file", "This is a ZIP archive", hint="Send the file that is in it.")


if __name__ == "__main__":
    main()
