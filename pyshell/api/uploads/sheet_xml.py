"""Reads what the workbook reader omits from a sheet of xlsx or ods: errors, formulas without results, leading zeros, hidden rows."""

from __future__ import annotations

import contextlib
import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from xml.parsers import expat

from pyshell.api.uploads.tables import MAX_COLUMNS, MAX_ROWS

Attributes = dict[str, str]

# The database knows it as a placeholder, and names it in a warning.
UNKNOWN = "#N/A"
TRUE = ("1", "true")
# Rows of a sheet, whatever it claims.
MAX_ROW = 1_048_576
_UNREADABLE = (LookupError, ValueError, RuntimeError, expat.ExpatError, zipfile.BadZipFile, zlib.error)
_LETTERS = re.compile(r"[A-Z]{1,3}")
_WHOLE = re.compile(r"[0-9]{1,15}(\.0+)?", re.ASCII)
_LANGUAGE = re.compile(r"^\[\$-[0-9A-F]+\]", re.IGNORECASE)
# Zeros, with texts around them: 00000, 00000\-0000, "D-"0000, "SITE-"0.
_PADDED = re.compile(r'(?:0|"[^"]*"|\\.|[- ()/])*', re.DOTALL)
_TOKEN = re.compile(r'"([^"]*)"|\\(.)|(.)', re.DOTALL)
# Most sheets have none of these.
_FORMULA_ERROR_OR_HIDDEN = rb"<(?:[\w.-]+:)?f[\s/>]|\st\s*=\s*[\"']e[\"']|\shidden\s*=\s*[\"'](?:1|true)[\"']"
_UNTOLD_OF_ODS = re.compile(
    rb":formula=|:visibility=[\"'](?:collapse|filter)[\"']|:p>0|:value-type=[\"']float[\"'][^>]*>\s*<[\w.-]+:p>[A-Za-z]"
)


@dataclass(slots=True)
class Untold:
    """Texts of cells by row (from 1) and column (from 0) that replace those read; hidden rows; formulas without results."""

    cells: dict[int, dict[int, str]] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)
    without_result: int = 0
    first_without_result: str = ""


def untold(data: bytes, number: int) -> Untold:
    """What the reader omits from a sheet, by its number from 0. Files of other kinds or with an unusual layout are left to the reader."""
    found = Untold()
    with contextlib.suppress(*_UNREADABLE), zipfile.ZipFile(io.BytesIO(data)) as archive:
        if "content.xml" in archive.namelist():
            content = archive.read("content.xml")
            if _UNTOLD_OF_ODS.search(content):
                OdsParser(found, number).parse(content)
            return found
        names = {name.replace("\\", "/").lower(): name for name in archive.namelist()}

        def part(path: str) -> bytes:
            return archive.read(names[path.lower()])

        ids: list[str] = []
        targets: dict[str, str] = {}
        formats: dict[str, str] = {}
        styles: list[str] = []
        is_stale = False

        def of_workbook(tag: str, attributes: Attributes) -> None:
            nonlocal is_stale
            if tag == "sheet":
                ids.append(next((value for name, value in attributes.items() if name.endswith(":id")), ""))
            elif tag == "calcPr":
                is_stale = attributes.get("fullCalcOnLoad") in TRUE

        def of_relationships(tag: str, attributes: Attributes) -> None:
            if tag == "Relationship":
                targets[attributes["Id"]] = posixpath.join("/xl", attributes["Target"]).lstrip("/")

        is_cell_style = False

        def of_styles(tag: str, attributes: Attributes) -> None:
            nonlocal is_cell_style
            if tag in ("cellXfs", "cellStyleXfs", "cellStyles", "dxfs"):
                is_cell_style = tag == "cellXfs"
            elif tag == "numFmt":
                formats.setdefault(attributes["numFmtId"], attributes["formatCode"])
            elif tag == "xf" and is_cell_style:
                styles.append(attributes.get("numFmtId", "0"))

        each_element(part("xl/workbook.xml"), of_workbook)
        each_element(part("xl/_rels/workbook.xml.rels"), of_relationships)
        with contextlib.suppress(KeyError):
            each_element(part("xl/styles.xml"), of_styles)
        padded = {str(n): code for n, style in enumerate(styles) if (code := padding(formats.get(style, "")))}
        sheet = part(posixpath.normpath(targets[ids[number]]))
        wanted = [_FORMULA_ERROR_OR_HIDDEN, *(rf"\ss\s*=\s*[\"']{style}[\"']".encode() for style in padded)]
        if re.search(b"|".join(wanted), sheet):
            SheetParser(found, padded, is_stale=is_stale).parse(sheet)
    return found


def each_element(xml: bytes, see: Callable[[str, Attributes], None]) -> None:
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, attributes: see(local(name), attributes)
    parser.Parse(xml, True)


def local(name: str) -> str:
    return name.rpartition(":")[2]


def padding(code: str) -> str:
    """The format for numbers that are not negative, if it writes leading zeros or a text that begins with a letter; else an empty text."""
    first = _LANGUAGE.sub("", code.partition(";")[0])
    if not _PADDED.fullmatch(first):
        return ""
    tokens = tokens_of(first)
    before = "".join(text for _, text in takewhile(lambda token: not token[0], tokens))
    return first if sum(is_zero for is_zero, _ in tokens) > (0 if before[:1].isalpha() else 1) else ""


def tokens_of(code: str) -> list[tuple[bool, str]]:
    """The zeros and texts of a format: whether it is a zero, and the text."""
    return [(token[3] == "0", token[1] or token[2] or token[3] or "") for token in _TOKEN.finditer(code)]


def padded_number(number: str, code: str) -> str:
    """A whole number in a format of `padding`: zeros are filled from the right, and the remaining digits precede the first."""
    tokens = tokens_of(code)
    zeros = sum(is_zero for is_zero, _ in tokens)
    digits = number.lstrip("0").zfill(zeros)
    places = iter([digits[: len(digits) - zeros + 1], *digits[len(digits) - zeros + 1 :]])
    return "".join(next(places) if is_zero else text for is_zero, text in tokens)


class SheetParser:
    """Parses the cells of a sheet. `padded`: the formats of `padding` by style; `is_stale`: no formula was calculated.

    If a cell has nothing to add, neither its value nor its end is parsed.
    """

    def __init__(self, found: Untold, padded: dict[str, str], *, is_stale: bool) -> None:
        self._found = found
        self._padded = padded
        self._is_stale = is_stale
        self._row = 0
        self._column = -1
        self._cell: Attributes = {}
        self._has_formula = False
        self._value = ""
        self._locals: dict[str, str] = {}
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start

    def parse(self, sheet: bytes) -> None:
        self._parser.Parse(sheet, True)

    def _start(self, name: str, attributes: Attributes) -> None:
        tag = name if len(name) == 1 else self._locals.setdefault(name, local(name))
        if tag == "c":
            self._column = column_of(attributes["r"]) if "r" in attributes else self._column + 1
            self._cell, self._has_formula = attributes, False
            if attributes.get("t") == "e" or attributes.get("s", "0") in self._padded:
                self._look()
        elif tag == "f":
            self._has_formula = True
            self._look()
        elif tag == "v":
            self._value = ""
        elif tag == "row":
            self._row = int(attributes.get("r", self._row + 1))
            self._column = -1
            if attributes.get("hidden") in TRUE:
                self._found.hidden.add(self._row)

    def _look(self) -> None:
        self._value = ""
        self._parser.CharacterDataHandler = self._add
        self._parser.EndElementHandler = self._end

    def _add(self, text: str) -> None:
        self._value += text

    def _end(self, name: str) -> None:
        tag = local(name)
        if tag == "f":
            # What was collected is the formula.
            self._value = ""
        elif tag == "c":
            self._parser.CharacterDataHandler = self._parser.EndElementHandler = None
            text = self._text()
            if text is not None and 0 < self._row <= MAX_ROW:
                self._found.cells.setdefault(self._row, {})[self._column] = text

    def _text(self) -> str | None:
        """The text of the cell; None: as read."""
        kind, value = self._cell.get("t", "n"), self._value.strip()
        if kind == "e":
            return value or UNKNOWN
        if kind == "n" and self._has_formula and (not value or (self._is_stale and value == "0")):
            self._found.without_result += 1
            self._found.first_without_result = self._found.first_without_result or self._cell.get("r", f"in row {self._row}")
            return UNKNOWN
        code = self._padded.get(self._cell.get("s", "0"))
        if kind == "n" and code and _WHOLE.fullmatch(value):
            return padded_number(value.partition(".")[0], code)
        return None


class OdsParser:
    """Parses the cells of the sheet with this number, from 0. The displayed text of a cell is in its paragraphs."""

    def __init__(self, found: Untold, number: int) -> None:
        self._found = found
        self._number = number
        self._sheet = -1
        self._notes = 0
        self._row = 1
        self._rows = 1
        self._column = 0
        self._is_hidden = self._is_filled = False
        self._cell: Attributes = {}
        self._shown: list[str] = []
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end

    def parse(self, content: bytes) -> None:
        self._parser.Parse(content, True)

    def _start(self, name: str, attributes: Attributes) -> None:
        match local(name):
            case "table":
                self._sheet += 1
            case "annotation":
                self._notes += 1
            case "table-row":
                self._rows = int(attributes.get("table:number-rows-repeated", 1))
                self._column = 0
                self._is_hidden = attributes.get("table:visibility") in ("collapse", "filter")
                self._is_filled = False
            case "table-cell" | "covered-table-cell":
                self._cell, self._shown = attributes, []
            case "p" if not self._notes and self._sheet == self._number:
                self._parser.CharacterDataHandler = self._shown.append

    def _end(self, name: str) -> None:
        match local(name):
            case "annotation":
                self._notes -= 1
            case "p":
                self._parser.CharacterDataHandler = None
            case "table-cell" | "covered-table-cell" if self._sheet == self._number:
                shown = "".join(self._shown).strip()
                text = self._text(shown)
                self._is_filled = self._is_filled or bool(text or shown)
                if text is not None:
                    self._tell(text)
                self._column += self._columns()
            case "table-row" if self._sheet == self._number:
                if self._is_hidden and self._is_filled:
                    self._found.hidden.update(range(self._row, self._row + min(self._rows, MAX_ROWS)))
                self._row += self._rows

    def _text(self, shown: str) -> str | None:
        """The text of the cell; None: as read."""
        kind, value = self._cell.get("office:value-type"), self._cell.get("office:value", "")
        if kind == "string" and shown and self._cell.get("office:string-value") == "":
            # An error, such as #N/A or Err:508.
            return shown if shown.startswith("#") else UNKNOWN
        if kind is None and not shown and "table:formula" in self._cell:
            self._found.without_result += self._columns() * self._rows
            self._found.first_without_result = self._found.first_without_result or f"in row {self._row}"
            return UNKNOWN
        if kind != "float" or not _WHOLE.fullmatch(value):
            return None
        is_padded = shown.startswith("0") and shown.lstrip("0") == value.lstrip("0")
        # As in SITE-0042.
        has_text = shown[:1].isalpha() and shown.endswith(value) and not shown[: -len(value)].endswith((",", "."))
        return shown if is_padded or has_text else None

    def _columns(self) -> int:
        return int(self._cell.get("table:number-columns-repeated", 1))

    def _tell(self, text: str) -> None:
        """One row or column more than a file may have is enough to refuse it."""
        for row in range(self._row, self._row + min(self._rows, MAX_ROWS + 1)):
            of_row = self._found.cells.setdefault(row, {})
            of_row.update(dict.fromkeys(range(self._column, self._column + min(self._columns(), MAX_COLUMNS + 1)), text))


def column_of(reference: str) -> int:
    """The column of a cell such as AB12, from 0."""
    return number_of(reference.rstrip("0123456789"))


@cache
def number_of(letters: str) -> int:
    if not _LETTERS.fullmatch(letters):
        raise ValueError(f"{letters[:10]} is no column")
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1
