"""Workbooks that tests make and upload."""

from __future__ import annotations

import io
from typing import Any

import openpyxl


def saved(book: openpyxl.Workbook) -> bytes:
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def workbook(*sheets: list[list[Any]], hidden: int = 0) -> bytes:
    """An Excel workbook of such sheets, the first ones hidden."""
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(f"Sheet {number + 1}")
        sheet.sheet_state = "hidden" if number < hidden else "visible"
        for row in rows:
            sheet.append(row)
    return saved(book)
