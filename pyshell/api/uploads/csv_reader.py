"""Reads CSV (RFC 4180) as it arrives: quoted line breaks, any usual delimiter and line end, spreadsheets' lost zeros."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from pyshell.api.errors import ApiError
from pyshell.api.uploads.columns import detect_delimiter, find_columns
from pyshell.api.uploads.records import MAX_RECORD_LENGTH, Lines, Upload, unreadable

ADDRESS = ("street_1", "street_2", "city", "state_or_province_code", "postal_code", "country_code")
COUNTRIES = {
    "USA": "US",
    "UNITED STATES": "US",
    "UNITED STATES OF AMERICA": "US",
    "U.S.": "US",
    "U.S.A.": "US",
    "CAN": "CA",
    "CANADA": "CA",
}
BOOLEANS = {"true": True, "yes": True, "y": True, "1": True, "false": False, "no": False, "n": False, "0": False}

# What a spreadsheet makes of 02134 and 00501.
_ZIP_WITHOUT_ZEROS = re.compile(r"([0-9]{3,4})(-[0-9]{4})?")
_CANADIAN = re.compile(r"[A-Za-z][0-9][A-Za-z] ?[0-9][A-Za-z][0-9]")
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\s\w]|\t)"?\s*', re.IGNORECASE)


class CsvReader:
    """Items out of rows. `columns` names the column of a field; `defaults` are for empty cells and columns that are not there."""

    def __init__(self, columns: Mapping[str, str], defaults: Mapping[str, Any]) -> None:
        self._columns = columns
        self._defaults = defaults
        self._upload = Upload()
        self._lines = Lines()
        self._line = 0
        self._begun: list[str] = []
        self._begun_length = 0
        self._delimiter = ""
        self._header: list[str] = []
        self._address_places: list[tuple[str, int]] = []
        self._item_places: list[tuple[str, int]] = []
        self._items: list[dict[str, Any]] = []

    def feed(self, text: str) -> None:
        self._read(self._lines.feed(text))

    def finish(self) -> Upload:
        self._read(self._lines.finish())
        if self._begun:
            raise self._unreadable(self._line - len(self._begun) + 1, "has a quotation mark that is not closed")
        if not self._header:
            raise ApiError(400, "invalid_csv", "The file is empty", hint="The first line must name the columns.")
        return self._upload

    def _read(self, lines: list[str]) -> None:
        """Puts lines together to records: a line end within quotation marks belongs to the cell."""
        is_open = bool(self._begun)
        for line in lines:
            self._line += 1
            if line.count('"') % 2:
                is_open = not is_open
            if is_open:
                self._begun.append(line)
                self._begun_length += len(line)
                if self._begun_length > MAX_RECORD_LENGTH:
                    raise self._unreadable(self._line - len(self._begun) + 1, "has a quotation mark that is not closed")
            elif self._begun:
                first = self._line - len(self._begun)
                self._record("".join([*self._begun, line]), first)
                self._begun, self._begun_length = [], 0
            elif not line.isspace():
                self._record(line, self._line)
        if self._items:
            self._upload.texts.append(orjson.dumps(self._items)[1:-1].decode())
            self._items.clear()

    def _record(self, text: str, line: int) -> None:
        if not self._delimiter:
            if separator := _SEPARATOR_LINE.fullmatch(text):
                self._delimiter = separator[1]
                return
            self._delimiter = detect_delimiter(text)
        cells = self._cells(text, line)
        if not self._header:
            self._header = cells
            for field, place in find_columns(cells, self._columns, self._defaults).items():
                (self._address_places if field in ADDRESS else self._item_places).append((field, place))
            return
        cells = [cell.strip() for cell in cells]
        if len(cells) < len(self._header):
            cells += [""] * (len(self._header) - len(cells))
        address = {field: cell for field, place in self._address_places if (cell := cells[place])}
        item: dict[str, Any] = {field: cell for field, place in self._item_places if (cell := cells[place])}
        if address or item or any(cells):
            warning = self._complete(item, address, cells[len(self._header) :])
            self._items.append(item)
            self._upload.add_item(line, warning)

    def _cells(self, text: str, line: int) -> list[str]:
        if '"' not in text:
            return text.rstrip("\r\n").split(self._delimiter)
        try:
            [cells] = csv.reader([text], delimiter=self._delimiter, strict=True)
        except (csv.Error, ValueError) as error:
            raise self._unreadable(line, "is not CSV: a cell with a quotation mark must be quoted, and the mark doubled") from error
        return cells

    def _complete(self, item: dict[str, Any], address: dict[str, str], further: list[str]) -> str | None:
        """Puts what a row says, also beyond the header's columns, into the form of an item; whether it is valid, the database judges.

        Answers a warning of what was mended.
        """
        warning = None
        item["address"] = address
        if cell := item.get("building_type"):
            item["building_type"] = building_type(cell)
        if cell := item.get("device_ids"):
            item["device_ids"] = device_ids(cell)
        if cell := item.get("create_application"):
            item["create_application"] = BOOLEANS.get(cell.lower(), cell)
        for field, default in self._defaults.items():
            (address if field in ADDRESS else item).setdefault(field, default)
        postal_code = address.get("postal_code", "")
        address["country_code"] = country = country_code(address.get("country_code"), postal_code)
        if region := address.get("state_or_province_code"):
            address["state_or_province_code"] = region.upper()
        if country == "US" and (short := _ZIP_WITHOUT_ZEROS.fullmatch(postal_code)):
            address["postal_code"] = short[1].zfill(5) + (short[2] or "")
            warning = f"address.postal_code {postal_code} was completed to {address['postal_code']}"
        for place, cell in enumerate(further, len(self._header) + 1):
            if cell:
                item[f"column {place}, which the header does not name"] = cell
        return warning

    def _unreadable(self, line: int, what: str) -> ApiError:
        if not self._header:
            return ApiError(400, "invalid_csv", f"The header (line {line}) {what}", members={"line": line})
        return unreadable(len(self._upload.lines) + 1, line, "invalid_csv", what)


def country_code(cell: str | None, postal_code: str) -> str:
    """The code of a country by its name or code; where none is given, what the postal code looks like."""
    if not cell:
        return "CA" if _CANADIAN.fullmatch(postal_code) else "US"
    cell = cell.upper()
    return COUNTRIES.get(cell, cell)


@lru_cache(maxsize=256)
def building_type(text: str) -> str:
    return re.sub(r"[\s-]+", "_", text).upper()


@lru_cache(maxsize=1024)
def device_ids(text: str) -> tuple[int, ...] | str:
    """The numbers in a list such as `1;2` or `[1, 2]`; the text itself where it is none."""
    parts = re.split(r"[;,|\s]+", text.removeprefix("[").removesuffix("]").strip("; ,|"))
    if all(part.isascii() and part.isdecimal() and len(part) <= 9 for part in parts):
        return tuple(int(part) for part in parts)
    return text
