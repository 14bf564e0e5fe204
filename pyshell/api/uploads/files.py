"""Recognizes the kind of a file by its content, and reads it as a table."""

from __future__ import annotations

import re

from pyshell.api.errors import ApiError
from pyshell.api.uploads.csv_files import read_csv
from pyshell.api.uploads.tables import Table
from pyshell.api.uploads.texts import decode
from pyshell.api.uploads.workbooks import read_workbook

WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
# Kinds of files that people send by mistake, by their first bytes.
OTHERS = {
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet file",
    b"{\\rtf": "an RTF document",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"SQLite format 3": "an SQLite database",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"(\xb5/\xfd": "a Zstandard archive",
}
MARKUP = (b"<html", b"<!doctype", b"<table", b"<?xml", b"<!--", b"<head", b"<meta", b"<style", b"<body", b"<div")
BYTE_ORDER_MARK = re.compile(rb"\A(\xef\xbb\xbf|\xff\xfe|\xfe\xff)")


def read_file(data: bytes, charset: str | None = None, sheet: str | None = None) -> Table:
    """The rows of a workbook or a CSV file. Raises ApiError 400 for any other kind, naming it."""
    if data.startswith(WORKBOOKS):
        return read_workbook(data, sheet)
    refuse_others(data)
    text, notes = decode(data, charset)
    table = read_csv(text)
    table.notes = notes
    return table


def refuse_others(data: bytes) -> None:
    for beginning, name in OTHERS.items():
        if data.startswith(beginning):
            raise ApiError(400, "unsupported_file", f"This is {name}", hint="Send the table as CSV or as an Excel workbook.")
    # In UTF-16, each letter comes with a zero byte.
    if BYTE_ORDER_MARK.sub(b"", data[:200]).replace(b"\0", b"").lstrip().lower().startswith(MARKUP):
        raise ApiError(
            400,
            "unsupported_file",
            "This is a web page or an XML file, despite its name",
            hint="Open it in a spreadsheet, and save it as an Excel workbook or as CSV UTF-8.",
        )
