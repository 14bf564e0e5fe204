"""Workbooks of Excel (xlsx, xlsm, xlsb, xls) and OpenDocument (ods): reads one sheet, with its cells as people see them.

They are read in a process of their own, with limits: the reader lays a sheet out with all its empty cells, so that a thousand bytes with
a cell in the last row and column of a sheet would end the process for lack of memory, and a large sheet would hold up all others in it.
"""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import zipfile
import zlib
from datetime import date, datetime, time, timedelta
from pathlib import Path

import orjson
from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, PasswordError, SheetVisibleEnum

from pyshell.api.errors import ApiError
from pyshell.api.uploads.tables import Note, Table, empty_file

ROOT = Path(__file__).parents[3]

Cell = str | int | float | bool | date | datetime | time | timedelta

# Limit on the decompressed parts of a workbook together; a sheet of 10,000 rows has about ten.
MAX_EXPANDED_BYTES = 100 * 1024 * 1024
MAX_PROCESS_BYTES = 1024 * 1024 * 1024
MAX_PROCESS_SECONDS = 30
RAW_DEFLATE = -zlib.MAX_WBITS
LOCAL_HEADER_BYTES = 30


def read_workbook(data: bytes, sheet: str | None = None) -> Table:
    """The rows of a sheet: the one with that name or number (from 1), else the first visible one with a table, else with anything at all.

    Raises ApiError 400. Blocks for as long as it takes: to be called in a thread.
    """
    too_large = ApiError(
        400,
        "invalid_workbook",
        "The workbook cannot be read: it is damaged, or its sheet is too large",
        hint="Save a copy with nothing but the table in it, or save the sheet as CSV UTF-8.",
    )
    command = [sys.executable, "-m", __name__, *([] if sheet is None else [sheet])]
    try:
        # Nothing of our environment is its business.
        process = subprocess.run(command, input=data, capture_output=True, cwd=ROOT, env={}, timeout=MAX_PROCESS_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise too_large from None
    if process.returncode:
        raise too_large
    answer = orjson.loads(process.stdout)
    if "status" in answer:
        raise ApiError(answer["status"], answer["code"], answer["message"], hint=answer["hint"], members=answer["members"])
    return Table(answer["rows"], answer["lines"], [Note(**note) for note in answer["notes"]])


def main() -> None:
    """What the process does: a workbook comes in, a table or an error goes out as JSON."""
    data = sys.stdin.buffer.read()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_PROCESS_BYTES, MAX_PROCESS_BYTES))
    # What aborts for want of memory would leave a dump with the file in it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        table = read_in_process(data, sys.argv[1] if len(sys.argv) > 1 else None)
        answer = {"rows": table.rows, "lines": table.lines, "notes": [note._asdict() for note in table.notes]}
    except ApiError as error:
        answer = {"status": error.status, "code": error.code, "message": error.message, "hint": error.hint, "members": dict(error.members)}
    sys.stdout.buffer.write(orjson.dumps(answer))


def read_in_process(data: bytes, sheet: str | None) -> Table:
    """read_workbook, without limits of memory and time."""
    if data.startswith(b"PK"):
        check_expansion(data)
    try:
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(data))
        chosen, notes = choose_sheet(workbook, sheet)
        rows = chosen.to_python(skip_empty_area=False)
    except PasswordError as error:
        raise ApiError(400, "protected_workbook", "The workbook is protected by a password", hint="Save a copy without one.") from error
    except CalamineError as error:
        raise ApiError(400, "invalid_workbook", "The workbook cannot be read: it is damaged, or of an unknown kind") from error
    table = Table(notes=notes)
    for number, row in enumerate(rows, 1):
        cells = [as_text(cell) for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        table.add(cells, number)
    return table


def choose_sheet(workbook: CalamineWorkbook, wanted: str | None) -> tuple[CalamineSheet, list[Note]]:
    names = workbook.sheet_names
    if wanted is not None:
        if wanted in names:
            return workbook.get_sheet_by_name(wanted), []
        if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
            return workbook.get_sheet_by_index(int(wanted) - 1), []
        found = ", ".join(name[:50] for name in names[:50])
        raise ApiError(400, "sheet_not_found", f"The workbook has no sheet {wanted[:100]}", hint=f"It has {found}.")
    visible = [sheet.name for sheet in workbook.sheets_metadata if sheet.visible == SheetVisibleEnum.Visible]
    filled = [sheet for name in visible if (sheet := workbook.get_sheet_by_name(name)).height > 0]
    if not filled:
        raise empty_file()
    # A cover page is no table.
    chosen = next((sheet for sheet in filled if sheet.height > 1 and sheet.width > 1), filled[0])
    notes = []
    if len(filled) > 1:
        others = ", ".join(sheet.name[:50] for sheet in filled[:20] if sheet is not chosen)
        notes.append(Note("sheet_chosen", f"The sheet {chosen.name[:50]} was read; `sheet` chooses another: {others}"))
    return chosen, notes


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
        raise ApiError(400, "invalid_workbook", "The workbook cannot be read: it is damaged, or of an unknown kind") from error


def not_a_workbook(names: list[str]) -> ApiError:
    if any(name.startswith("Index/") for name in names):
        return ApiError(400, "unsupported_file", "This is a document of Apple Numbers", hint="Export it to Excel or CSV.")
    if any(name.startswith("word/") for name in names):
        return ApiError(400, "unsupported_file", "This is a Word document", hint="Put the table into a spreadsheet, and save that.")
    return ApiError(400, "unsupported_file", "This is a ZIP archive", hint="Send the file that is in it.")


if __name__ == "__main__":
    main()
