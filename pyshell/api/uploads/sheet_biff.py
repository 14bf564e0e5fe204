"""Reads what the workbook reader omits from a sheet of xls: errors, number formats, hidden rows.

[MS-XLS] describes the records, [MS-CFB] the compound file around them.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence

from pyshell.api.uploads.sheet_xml import UNKNOWN, Untold, padded_number, padding

_BOF, _EOF, _FILE_PASS, _CODE_PAGE, _BOUND_SHEET, _FORMAT, _XF = 0x809, 0x0A, 0x2F, 0x42, 0x85, 0x41E, 0xE0
_ROW, _NUMBER, _RK, _MUL_RK, _FORMULA, _BOOL_ERR = 0x208, 0x203, 0x27E, 0xBD, 0x06, 0x205
# The version of Excel 5 and 95.
_BIFF5 = 0x500
_ENCODINGS = {10000: "mac_roman"}
# In the order in which the reader looks for them; a file for several versions of Excel has two.
_STREAMS = ("Workbook", "Book", "WORKBOOK", "BOOK")
_IS_HIDDEN = 0x20
_ERRORS = {0x00: "#NULL!", 0x07: "#DIV/0!", 0x0F: "#VALUE!", 0x17: "#REF!", 0x1D: "#NAME?", 0x24: "#NUM!", 0x2A: "#N/A"}
# Numbers of sectors are smaller.
_LAST_SECTOR = 0xFFFFFFFA
_MINI_SECTOR = 64
_UNREADABLE = (struct.error, LookupError, ValueError)


def untold_of_xls(data: bytes, number: int) -> Untold:
    """What the reader omits from a sheet, by its number from 0. Files with an unusual layout are left to the reader."""
    found = Untold()
    with contextlib.suppress(*_UNREADABLE):
        _read(found, workbook_stream(data), number)
    return found


def is_encrypted_xls(data: bytes) -> bool:
    with contextlib.suppress(*_UNREADABLE):
        return any(kind == _FILE_PASS for kind, _ in _records(workbook_stream(data), 0))
    return False


def _read(found: Untold, stream: bytes, number: int) -> None:
    sheets: list[int] = []
    formats: dict[int, str] = {}
    styles: list[int] = []
    version, encoding = 0, "cp1252"
    for kind, body in _records(stream, 0):
        if kind == _BOF:
            version = _short(body, 0)
        elif kind == _CODE_PAGE:
            encoding = _ENCODINGS.get(page := _short(body, 0), f"cp{page}")
        elif kind == _BOUND_SHEET:
            sheets.append(struct.unpack_from("<I", body)[0])
        elif kind == _FORMAT:
            formats[_short(body, 0)] = body[3 : 3 + body[2]].decode(encoding) if version == _BIFF5 else _text(body[2:])
        elif kind == _XF:
            styles.append(_short(body, 2))
    padded = {n: code for n, style in enumerate(styles) if (code := padding(formats.get(style, "")))}
    for kind, body in _records(stream, sheets[number]):
        if kind == _ROW and _short(body, 12) & _IS_HIDDEN:
            found.hidden.add(_short(body, 0) + 1)
        for row, column, text in _cells(kind, body, padded):
            found.cells.setdefault(row + 1, {})[column] = text


def _cells(kind: int, body: bytes, padded: dict[int, str]) -> Iterator[tuple[int, int, str]]:
    """The row, the column (from 0) and the text of each cell in a record that the reader reads as something else."""
    if kind not in (_NUMBER, _RK, _MUL_RK, _FORMULA, _BOOL_ERR):
        return
    row, column, style = struct.unpack_from("<3H", body)
    numbers: list[tuple[int, float]] = []
    if kind == _BOOL_ERR and body[7]:
        yield row, column, _ERRORS.get(body[6], UNKNOWN)
    elif kind == _FORMULA and body[12:14] == b"\xff\xff":
        if body[6] == 2:
            yield row, column, _ERRORS.get(body[8], UNKNOWN)
    elif kind in (_NUMBER, _FORMULA):
        numbers = [(style, struct.unpack_from("<d", body, 6)[0])]
    elif kind == _RK:
        numbers = [(style, _number_of(body[6:10]))]
    elif kind == _MUL_RK:
        numbers = [(_short(body, at), _number_of(body[at + 2 : at + 6])) for at in range(4, len(body) - 2, 6)]
    for place, (of_number, value) in enumerate(numbers, column):
        code = padded.get(of_number)
        if code and 0 <= value < 1e15 and value.is_integer():
            yield row, place, padded_number(str(int(value)), code)


def _number_of(rk: bytes) -> float:
    """A number in 30 bits: the first ones of a double, or an integer; perhaps of hundredths."""
    bits = struct.unpack("<I", rk)[0]
    value: float = struct.unpack("<i", rk)[0] >> 2 if bits & 2 else struct.unpack("<d", struct.pack("<Q", (bits & ~3) << 32))[0]
    return float(value / 100 if bits & 1 else value)


def _text(body: bytes) -> str:
    length, is_wide = struct.unpack_from("<HB", body)
    return body[3 : 3 + 2 * length].decode("utf-16-le") if is_wide & 1 else body[3 : 3 + length].decode("latin-1")


def _short(body: bytes, at: int) -> int:
    number: int = struct.unpack_from("<H", body, at)[0]
    return number


def _records(stream: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """The records of a part of the workbook, each with its kind, without those of the charts in it: they have cells, too."""
    kind = depth = 0
    while kind != _EOF or depth > 0:
        kind, length = struct.unpack_from("<2H", stream, start)
        depth += (kind == _BOF) - (kind == _EOF)
        if depth < 2:
            yield kind, stream[start + 4 : start + 4 + length]
        start += 4 + length


def workbook_stream(data: bytes) -> bytes:
    """The stream of a compound file with the workbook. Raises LookupError, ValueError or struct.error if there is none."""
    shift, first_of_directory = struct.unpack_from("<H", data, 30)[0], struct.unpack_from("<I", data, 48)[0]
    cutoff, first_of_mini, _, more = struct.unpack_from("<4I", data, 56)
    size = 4096 if shift == 12 else 512

    def sector(number: int) -> bytes:
        return data[(number + 1) * size : (number + 2) * size]

    places = list(struct.unpack_from("<109I", data, 76))
    for _ in range(len(data) // size):
        if more >= _LAST_SECTOR or len(places) > len(data) // size:
            break
        *further, more = _integers(sector(more))
        places += further
    table = _integers(b"".join(sector(place) for place in places if place < _LAST_SECTOR))
    directory = b"".join(map(sector, _chain(table, first_of_directory)))
    entries = [directory[at : at + 128] for at in range(0, len(directory) - 127, 128)]
    named = {entry[: max(_short(entry, 64) - 2, 0)].decode("utf-16-le", "replace"): entry for entry in reversed(entries)}
    found = next((named[name] for name in _STREAMS if name in named), b"")
    first, length = struct.unpack_from("<2I", found, 116)
    if length >= cutoff:
        return b"".join(map(sector, _chain(table, first)))[:length]
    mini = b"".join(map(sector, _chain(table, struct.unpack_from("<I", entries[0], 116)[0])))
    mini_table = _integers(b"".join(map(sector, _chain(table, first_of_mini))))
    return b"".join(mini[at * _MINI_SECTOR : (at + 1) * _MINI_SECTOR] for at in _chain(mini_table, first))[:length]


def _integers(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])


def _chain(table: Sequence[int], number: int) -> Iterator[int]:
    for _ in range(len(table)):
        if number >= _LAST_SECTOR:
            return
        yield number
        number = table[number]
