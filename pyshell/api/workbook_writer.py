"""Workbooks of Excel (xlsx), written row by row."""

from __future__ import annotations

from typing import BinaryIO

import orjson

# The limit of a cell in Excel; xlsxwriter drops longer texts.
MAX_CELL = 32_767


class WorkbookWriter:
    """One sheet with a frozen header. Keeps one row in memory, the others in `folder`; call all methods in a thread."""

    def __init__(self, file: BinaryIO, folder: str) -> None:
        import xlsxwriter

        self._workbook = xlsxwriter.Workbook(file, {"constant_memory": True, "tmpdir": folder})
        self._sheet = self._workbook.add_worksheet("Results")
        self._sheet.freeze_panes(1, 0)
        self._bold = self._workbook.add_format({"bold": True})
        self._rows = 0

    def add(self, lines: bytes) -> None:
        """Adds rows, each a line with a JSON array of texts, numbers, booleans and nulls; the very first one is the header."""
        for line in lines.splitlines():
            for column, cell in enumerate(orjson.loads(line)):
                self._write(column, cell)
            self._rows += 1

    def _write(self, column: int, cell: str | float | bool | None) -> None:
        style = self._bold if self._rows == 0 else None
        if isinstance(cell, bool):
            self._sheet.write_boolean(self._rows, column, cell, style)
        elif isinstance(cell, str) and cell:
            # As text, whatever it looks like: never as a formula or a link.
            self._sheet.write_string(self._rows, column, cell[:MAX_CELL], style)
        elif isinstance(cell, int | float):
            self._sheet.write_number(self._rows, column, cell, style)

    def close(self) -> None:
        """Completes the file."""
        self._workbook.close()
