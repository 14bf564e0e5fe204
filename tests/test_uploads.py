"""How files become tables: whatever the spreadsheet, the encoding and the kind of file."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from datetime import date, datetime, time
from time import process_time
from types import SimpleNamespace
from typing import Any

import openpyxl
import pytest
import xlsxwriter
from hypothesis import assume, given
from hypothesis import strategies as st

from pyshell.api.errors import ApiError
from pyshell.api.routes.uploads import Body, read
from pyshell.api.uploads import workbooks
from pyshell.api.uploads.bodies import gunzipped, limited
from pyshell.api.uploads.csv_files import detect_delimiter, read_csv
from pyshell.api.uploads.files import read_file
from pyshell.api.uploads.ndjson import read_ndjson
from pyshell.api.uploads.tables import MAX_ROWS, Note, Table
from pyshell.api.uploads.texts import decode
from pyshell.api.uploads.workbooks import read_workbook
from pyshell.settings import ROOT
from tests.workbooks import saved, workbook

HEADER = "reference_id,street_1,city,state_or_province_code,postal_code,building_type,device_ids\n"
ROW = "deal-001,200 N Spring St,Los Angeles,CA,90012,RESIDENTIAL,1;2\n"

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x1a"), max_size=8)


def cells_of(table: Table) -> list[list[str]]:
    return [json.loads(row) for row in table.rows]


def rewritten(data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """The workbook with its parts, by their names, changed so."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as book, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in book.namelist():
            archive.writestr(name, change(name, book.read(name)))
    return file.getvalue()


Run = Callable[..., subprocess.CompletedProcess[bytes]]
# A process that has imported everything, and forks for each file: its name comes in, the exit code goes out.
FORKS = """
import os, sys
from pyshell.api.uploads import workbooks
for name in map(str.strip, sys.stdin):
    if not (child := os.fork()):
        with open(name) as sys.stdin, open(name + ".json", "w") as sys.stdout:
            workbooks.main()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def run_in_fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Replaces subprocess.run for reading many workbooks: a fork takes a hundredth of the time of starting Python."""
    file = tmp_path_factory.mktemp("workbooks") / "workbook"
    with subprocess.Popen([sys.executable, "-c", FORKS], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forks:
        assert forks.stdin is not None
        exit_codes = iter(forks.stdout or [])

        def run(command: list[str], *, input: bytes, **_: object) -> subprocess.CompletedProcess[bytes]:  # noqa: A002
            file.write_bytes(input)
            print(file, file=forks.stdin, flush=True)
            exit_code = int(next(exit_codes))
            return subprocess.CompletedProcess(command, exit_code, file.with_name(file.name + ".json").read_bytes())

        yield run
        forks.stdin.close()


class TestCsv:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
    def test_csv_of_spreadsheets_is_read_in_all_its_variants(self, delimiter: str, end: str, encoding: str) -> None:
        rows = [
            ["Deal ID", "Street Address", "Apt", "City", "ZIP", "Devices", "Notes"],
            ["deal-001", "5 Rue d'Été", "4, B", "Québec", "G1A 1A1", "1, 2|3", 'said "yes";\nthen no'],
        ]
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(rows)
        table = read_file(text.getvalue().encode(encoding))
        assert (cells_of(table), table.notes) == (rows, [])

    def test_lines_are_those_of_the_file_and_empty_rows_are_kept(self) -> None:
        broken = ROW.replace("200 N Spring St", '"200 N\r\nSpring\nSt"')
        table = read_csv(f"{HEADER}\n{broken}\n,,,,,,\n{ROW}")
        assert table.lines == [1, 2, 3, 6, 7, 8]
        assert [len(row) for row in cells_of(table)] == [7, 0, 7, 0, 0, 7]
        assert cells_of(table)[2][1] == "200 N\r\nSpring\nSt"

    def test_the_delimiter_may_be_declared(self) -> None:
        table = read_csv("sep=;\n" + (HEADER + ROW).replace(";", "|").replace(",", ";"))
        assert (cells_of(table)[1][0], cells_of(table)[1][6], table.lines) == ("deal-001", "1|2", [2, 3])
        assert read_csv("\n\r\nsep=;\n" + HEADER + ROW).lines == [4, 5]
        # Megabytes of white space are not looked through for it.
        assert cells_of(read_csv(" \n" * 1000 + "sep=;\n" + ROW))[-2] == ["sep=;"]

    def test_empty_rows_at_the_end_are_ignored(self) -> None:
        table = read_csv(HEADER + ROW + ",,,,,,\n" * (MAX_ROWS - 3) + ROW + ",,,,,,\n" * MAX_ROWS)
        assert (len(table.rows), table.lines[-1], cells_of(table)[-1][0]) == (MAX_ROWS, MAX_ROWS, "deal-001")
        with pytest.raises(ApiError) as raised:
            read_csv(HEADER + ROW + ",,,,,,\n" * (MAX_ROWS - 2) + ROW)
        assert raised.value.code == "invalid_item_count"

    def test_the_delimiter_is_the_one_that_splits_all_rows_alike(self) -> None:
        assert detect_delimiter("Deal ID;Street, with number;City\nd-1;12 Elm St, Unit 4;Boston\n") == ";"
        assert detect_delimiter("My sites; all of them\n" + HEADER + ROW) == ","

    def test_commas_in_the_cells_do_not_outnumber_the_delimiters_of_the_header(self) -> None:
        row = "d-{};1 Main St, Apt 4, Oakland, CA 94601, USA;House\n"
        assert detect_delimiter("Deal ID;Full Address;Type\n" + "".join(map(row.format, range(9)))) == ";"
        # A few rows lack their last cells, and each has a comma.
        ragged = "d-{}\tBoston, MA\t02134\tHouse\n"
        assert detect_delimiter("ID\tCity, State\tZIP\tType\n" + "".join(map(ragged.format, range(9))) + "d-9\tBoston, MA\n") == "\t"

    def test_a_space_may_follow_the_delimiter(self) -> None:
        table = read_csv('Deal ID, Street, City\nd-1, "12 Elm St, Unit 4", "Boston"\nd-2, 13 Elm St, "Saint ""X"""\n')
        assert cells_of(table) == [["Deal ID", "Street", "City"], ["d-1", "12 Elm St, Unit 4", "Boston"], ["d-2", "13 Elm St", 'Saint "X"']]

    def test_quotation_marks_within_a_cell_are_text(self) -> None:
        for street in ('2"00 N Spring St', '"The Oaks" Unit 5'):
            rows = cells_of(read_csv(HEADER + ROW.replace("200 N Spring St", f" {street}") * 2))
            assert [row[1] for row in rows[1:]] == [street] * 2

    def test_a_control_z_at_the_end_is_not_part_of_the_text(self) -> None:
        assert cells_of(read_file((HEADER + ROW + "\x1a").encode()))[-1][0] == "deal-001"

    @pytest.mark.parametrize(
        ("text", "code", "message"),
        [
            ("", "empty_file", "The file is empty"),
            ("\n\n", "empty_file", "The file is empty"),
            (HEADER + ROW + '"a\nb\n', "invalid_csv", "Line 3 has a quotation mark that is not closed"),
            (HEADER + ROW + ROW.replace("200 N", '"200" N'), "invalid_csv", "Line 3 is not CSV"),
            ('"a\n', "invalid_csv", "Line 1 has a quotation mark that is not closed"),
            (HEADER + '"' + "x\n" * 600_000, "invalid_csv", "Line 2 has a cell of more than 131,072 characters"),
            (HEADER + ROW * 20_000, "invalid_item_count", "A batch must have 1 to 10,000 items; this file has more"),
            ("a," * 600, "too_many_columns", "Line 1 has 601 columns; a file may have 500"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, text: str, code: str, message: str) -> None:
        with pytest.raises(ApiError) as raised:
            read_csv(text)
        assert (raised.value.status, raised.value.code) == (400, code)
        assert raised.value.message.startswith(message)

    @given(st.lists(st.lists(cells, min_size=3, max_size=3)),
           st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.sampled_from(["\n", "\r\n"]))  # fmt: skip
    def test_every_cell_of_a_csv_file_is_read_back(self, rows: list[list[str]], quoting: Any, end: str) -> None:
        # The writer does not quote a lone carriage return.
        assume(quoting == csv.QUOTE_ALL or not any("\r" in cell for row in rows for cell in row))
        text = io.StringIO(newline="")
        writer = csv.writer(text, quoting=quoting, lineterminator=end)
        for row in [["reference_id", "street_1", "city"], *rows]:
            writer.writerow([*row, "CA", "90012", "x", "1"])
        assert [row[:3] for row in cells_of(read_csv(text.getvalue()))[1:]] == [[cell.strip() for cell in row] for row in rows]

    @given(st.binary(max_size=300) | st.text('a",;\t\r\n\ufeff', max_size=60).map(str.encode), st.booleans())
    def test_any_bytes_are_read_or_refused(self, data: bytes, with_header: bool) -> None:
        with contextlib.suppress(ApiError):
            read_file((HEADER.encode() if with_header else b"") + data)


class TestWorkbooks:
    def test_cells_are_read_as_a_person_sees_them(self) -> None:
        day, hour = (datetime.combine(date(2026, 3, 1), time(at)) for at in (0, 8))
        row = ["d-1", 2134, 1.5, 10017.0, True, day, date(2026, 3, 2), hour, time(9), None, " x "]
        table = read_file(workbook([[], ["title"], ["Deal ID", "ZIP"], row]))
        assert cells_of(table)[3] == [
            "d-1",
            "2134",
            "1.5",
            "10017",
            "TRUE",
            "2026-03-01",
            "2026-03-02",
            "2026-03-01T08:00:00",
            "09:00:00",
            "",
            "x",
        ]
        assert table.lines == [1, 2, 3, 4]

    def test_a_formula_without_its_result_is_noted(self) -> None:
        data = workbook(
            [["Deal ID", "ZIP", "Note"], ["d-1", 2134, "x"], ["=A2", '=TEXT(2134,"00000")', "=B2"], ["d-3", 2135, "=B2"], ["=A4"]]
        )
        table = read_file(data)
        assert cells_of(table)[2:] == [["#N/A", "#N/A", "#N/A"], ["d-3", "2135", "#N/A"], ["#N/A"]]
        message = (
            "5 formulas have no result (A3 is the first), read as #N/A: open the workbook in a spreadsheet, save it, and upload it again"
        )
        expected = [Note("formulas_without_results", message)]
        assert table.notes == expected
        assert read_workbook(data, "Sheet 1").notes == expected

    def test_a_formula_with_its_result_is_that_result_even_if_it_is_empty(self) -> None:
        file = io.BytesIO()
        with xlsxwriter.Workbook(file) as book:
            sheet = book.add_worksheet()
            sheet.write_row(0, 0, ["Deal ID", "Unit", "Count"])
            sheet.write_formula(1, 0, '="d-"&1', None, "d-1")
            sheet.write_formula(1, 1, '=IF(A2="","x","")', None, "EMPTY")
            sheet.write_formula(1, 2, "=1+1", None, 2)
            # For a formula without a result the writer stores 0, and that all are to be calculated.
            sheet.write_formula(2, 0, '="d-"&2')
            sheet.write_number(2, 1, 0)
        table = read_file(rewritten(file.getvalue(), lambda _, part: part.replace(b"EMPTY", b"")))
        assert cells_of(table)[1:] == [["d-1", "", "2"], ["#N/A", "0"]]
        assert [note.message[:28] for note in table.notes] == ["1 formula has no result (A3)"]
        table = read_file(rewritten(file.getvalue(), lambda _, part: part.replace(b'fullCalcOnLoad="1"', b"")))
        assert (cells_of(table)[2], table.notes) == (["0", "0"], [])

    def test_errors_are_no_empty_cells(self) -> None:
        book = openpyxl.Workbook()
        sheet: Any = book.active
        for number, error in enumerate(("#N/A", "#REF!", "#DIV/0!", "#NUM!"), 1):
            sheet.cell(1, number, error).data_type = "e"
        assert cells_of(read_file(saved(book))) == [["#N/A", "#REF!", "#DIV/0!", "#NUM!"]]

    @pytest.mark.parametrize(
        ("style", "number", "text"),
        [
            ("00000", 2134, "02134"),
            ("00000", 123456, "123456"),
            ("00000\\-0000", 21341234, "02134-1234"),
            ("000000", 0, "000000"),
            ("[$-409]00000", 2134, "02134"),
            ('"D-"0000', 42, "D-0042"),
            ('"SITE-"0', 42, "SITE-42"),
            ("\\S\\-0;-0", 42, "S-42"),
            ('"No. 10-"0', 42, "No. 10-42"),
            ('0" units"', 42, "42"),
            ('"$"0', 42, "42"),
            ('"10 "0', 42, "42"),
            ("(000) 000-0000", 1234567, "(000) 123-4567"),
            ("0000;[Red]-0000", 42, "0042"),
            ("00000", 1.5, "1.5"),
            ("00000", "12", "12"),
            ("0", 42, "42"),
            ("0.00", 42, "42"),
            ("#,##0", 4200, "4200"),
            ("0%", 2, "2"),
            ("00E+00", 42, "42"),
        ],
    )
    def test_numbers_have_the_zeros_that_their_format_gives_them(self, style: str, number: float | str, text: str) -> None:
        book = openpyxl.load_workbook(io.BytesIO(workbook([["Deal ID", "City"], [number, "Boston"], [number, "Salem"]])))
        book.worksheets[0]["A2"].number_format = style
        assert [row[0] for row in cells_of(read_file(saved(book)))[1:]] == [text, str(number)]

    def test_hidden_rows_are_read_and_noted(self) -> None:
        book = openpyxl.load_workbook(io.BytesIO(workbook([["Deal ID"], ["d-1"], ["d-2"], ["d-3"]])))
        for row in (3, 4, 5):
            book.worksheets[0].row_dimensions[row].hidden = True
        table = read_file(saved(book))
        assert len(table.rows) == 4
        assert table.notes == [Note("hidden_rows_read", "2 hidden rows were read, too")]

    def test_merged_cells_say_the_same_in_each_row(self) -> None:
        rows: list[list[Any]] = [
            ["Deal ID", "City", "Zip"],
            ["d-1", "Boston", 2134],
            ["d-2"],
            ["d-3"],
            [],
            ["d-4", "", 2135],
            ["d-5", "Salem"],
        ]
        book = openpyxl.load_workbook(io.BytesIO(workbook([["Portfolio", "", ""], *rows])))
        sheet = book.worksheets[0]
        sheet["C3"].number_format = "00000"
        for merged in ("A1:C1", "B3:B7", "C3:C5", "B8:C20", "D3:D9"):
            sheet.merge_cells(merged)
        table = read_file(saved(book))
        assert cells_of(table)[2:] == [
            ["d-1", "Boston", "02134"],
            ["d-2", "Boston", "02134"],
            ["d-3", "Boston", "02134"],
            [],
            ["d-4", "Boston", "2135"],
            ["d-5", "Salem"],
        ]
        message = "5 cells have the text of the cell above, with which the workbook merges them"
        assert table.notes == [Note("merged_cells_filled", message)]

    def test_the_header_may_be_merged_over_two_rows(self) -> None:
        book = openpyxl.load_workbook(io.BytesIO(workbook([["Deal ID", "Site", ""], ["", "City", "Zip"], ["d-1", "Boston", "02134"]])))
        for merged in ("A1:A2", "B1:C1"):
            book.worksheets[0].merge_cells(merged)
        assert cells_of(read_file(saved(book)))[1] == ["Deal ID", "City", "Zip"]

    def test_sheets_are_understood_however_their_parts_are_written(self) -> None:
        """With prefixes, single quotes, absolute targets, and cells that do not say where they are."""

        def other_style(name: str, part: bytes) -> bytes:
            if name == "xl/_rels/workbook.xml.rels":
                return part.replace(b'Target="worksheets', b'Target="/xl/worksheets')
            if name.startswith("xl/worksheets/"):
                part = re.sub(rb"<(/?)(?=(sheetData|row|c|v|f|is|t|worksheet)\b)", rb"<\1x:", part).replace(b"xmlns=", b"xmlns:x=")
                return re.sub(rb' r="[A-Z]*[0-9]+"', b"", part).replace(b'"', b"'")
            return part

        source = workbook([["other", "sheet"]], [["Deal ID", "City"], ["=A1", "Boston"], ["d-2", "=B2"]])
        table = read_workbook(rewritten(source, other_style), "2")
        assert cells_of(table) == [["Deal ID", "City"], ["#N/A", "Boston"], ["d-2", "#N/A"]]
        assert "(in row 2 is the first)" in table.notes[-1].message

    def test_any_error_of_a_spreadsheet_is_read(self) -> None:
        """Excel and Google Sheets know more of them than the reader, and others write what they like."""

        def other_errors(name: str, part: bytes) -> bytes:
            if not name.startswith("xl/worksheets/"):
                return part
            cells = (
                rb't="e"><f>A1+1</f><v>#SPILL!</v></c>',
                rb't="e"><f t="shared" si="0"/><v>#ERROR!</v></c>',
                rb't="e" cm="1"><v>#CALC!</v></c>',
            )
            for number, cell in enumerate(cells, 2):
                part = re.sub(rb't="e"><v>#NULL!</v></c>', cell, part, count=1)
                assert cell in part, number
            return part

        source = workbook([["Deal ID", "City"], ["d-1", "#NULL!"], ["d-2", "#NULL!"], ["d-3", "#NULL!"], ["#SPILL! is text", "Boston"]])
        table = read_file(rewritten(source, other_errors))
        assert cells_of(table)[1:] == [["d-1", "#SPILL!"], ["d-2", "#ERROR!"], ["d-3", "#CALC!"], ["#SPILL! is text", "Boston"]]

    def test_the_first_visible_sheet_with_rows_is_read(self) -> None:
        table = read_file(workbook([["hidden"]], [], [["third"]], [["fourth"]], hidden=1))
        assert cells_of(table) == [["third"]]
        assert [note.message for note in table.notes] == ["The sheet Sheet 3 was read; `sheet` chooses another: Sheet 4"]

    @pytest.mark.parametrize("cover", [[["hello"]], [["Sites of March"], [], ["Read this first"]]])
    def test_a_cover_page_is_skipped(self, cover: list[list[str]]) -> None:
        table = read_file(workbook(cover, [["id", "city"], ["1", "Boston"]], [["a", "b"], ["c", "d"]]))
        assert cells_of(table)[0] == ["id", "city"]
        assert [note.message for note in table.notes] == ["The sheet Sheet 2 was read; `sheet` chooses another: Sheet 1, Sheet 3"]

    def test_the_list_of_tables_that_numbers_exports_is_skipped(self) -> None:
        book = openpyxl.load_workbook(
            io.BytesIO(workbook([["Numbers Sheet Name", "Numbers Table Name"], ["Sheet 1", "Table 1"]], [["id", "city"], ["1", "Boston"]]))
        )
        book.worksheets[0].title = "Export Summary"
        assert cells_of(read_file(saved(book)))[0] == ["id", "city"]
        book.remove(book.worksheets[1])
        assert cells_of(read_file(saved(book)))[1] == ["Sheet 1", "Table 1"]

    def test_a_sheet_can_be_chosen_by_name_or_number(self) -> None:
        book = workbook([["one"]], [["two"]])
        assert read_workbook(book, "Sheet 2") == read_workbook(book, "2")
        assert cells_of(read_workbook(book, "2")) == [["two"]]
        with pytest.raises(ApiError, match="The workbook has no sheet 3") as raised:
            read_workbook(book, "3")
        assert raised.value.hint == "It has Sheet 1, Sheet 2."

    def test_a_workbook_lists_its_sheets_with_rows_whoever_chose_one(self) -> None:
        book = workbook([["hidden"]], [["Cover"]], [], [["id", "city"], ["1", "Boston"]], [["fifth"]], hidden=1)
        [chosen], [given], [hidden] = (read_workbook(book, sheet).notes for sheet in (None, "5", "1"))
        assert (chosen.sheet, chosen.sheets) == ("Sheet 4", ["Sheet 2", "Sheet 4", "Sheet 5"])
        assert (given.sheet, given.sheets) == ("Sheet 5", ["Sheet 2", "Sheet 4", "Sheet 5"])
        assert (hidden.sheet, hidden.sheets) == ("Sheet 1", ["Sheet 1", "Sheet 2", "Sheet 4", "Sheet 5"])
        assert read_workbook(workbook([["one"]], []), "1").notes == []

    def test_names_of_sheets_are_listed_within_limits(self) -> None:
        file = io.BytesIO()
        with (
            zipfile.ZipFile(io.BytesIO(workbook(*[[["one"]]] * 3))) as book,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for part in book.namelist():
                archive.writestr(part, book.read(part).replace(b'"Sheet ', b'"' + b"x" * 1_000_000 + b" "))
        [note] = read_workbook(file.getvalue()).notes
        assert (note.sheet, note.sheets) == ("x" * 100, ["x" * 100] * 3)
        assert read_workbook(workbook(*[[["one"]]] * 1001)).notes[0].sheets == [f"Sheet {number}" for number in range(1, 1001)]
        with pytest.raises(ApiError, match="The workbook has no sheet 999"):
            read_workbook(file.getvalue(), "9" * 5000)

    def test_a_sheet_is_read_though_another_one_is_too_large(self) -> None:
        book = openpyxl.load_workbook(io.BytesIO(workbook([["one"]], [["two"]])))
        book["Sheet 2"]["XFD1048576"] = 3
        file = saved(book)
        assert cells_of(read_workbook(file, "Sheet 1")) == [["one"]]
        with pytest.raises(ApiError, match="its sheet is too large"):
            read_workbook(file)

    def test_a_workbook_that_expands_too_far_is_refused_whatever_it_says(self) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("xl/workbook.xml", bytes(120 * 1024 * 1024))
        data = file.getvalue()
        # The directory and the header both give a wrong size.
        lying = data.replace((120 * 1024 * 1024).to_bytes(4, "little"), (10).to_bytes(4, "little"))
        assert lying != data
        for bomb in (data, lying):
            with pytest.raises(ApiError) as raised:
                read_file(bomb)
            assert (raised.value.status, raised.value.code) == (413, "suspicious_compression")

    @given(st.integers(0, 5000), st.binary(min_size=1, max_size=20))
    def test_a_damaged_workbook_is_read_or_refused(self, run_in_fork: Run, place: int, damage: bytes) -> None:
        data = bytearray(BOOK)
        data[place : place + len(damage)] = damage
        with pytest.MonkeyPatch.context() as monkeypatch, contextlib.suppress(ApiError):
            monkeypatch.setattr(workbooks, "subprocess", SimpleNamespace(run=run_in_fork, TimeoutExpired=subprocess.TimeoutExpired))
            read_file(b"PK\x03\x04" + bytes(data[4:]))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"PK\x03\x04 not really", "The workbook cannot be read"),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 not really", "The workbook cannot be read"),
            (b"%PDF-1.7", "This is a PDF document"),
            (b"PAR1....", "This is a Parquet file"),
            (b" <!DOCTYPE html><table>", "This is a web page"),
            (b'<?xml version="1.0"?>', "This is a web page or an XML file"),
            (b"\xef\xbb\xbf<html><table>", "This is a web page"),
            ("<html><table>".encode("utf-16"), "This is a web page"),
            (b"\r\n<div>\r\n\t<table>", "This is a web page"),
            (b"<style>td {}</style><table>", "This is a web page"),
        ],
    )
    def test_a_file_that_is_not_a_table_is_named_for_what_it_is(self, data: bytes, message: str) -> None:
        with pytest.raises(ApiError) as raised:
            read_file(data)
        assert raised.value.message.startswith(message)

    @pytest.mark.parametrize(
        ("part", "message"),
        [
            ("Index/Tables.iwa", "This is a document of Apple Numbers"),
            ("word/document.xml", "This is a Word document"),
            ("a.csv", "This is a ZIP archive"),
        ],
    )
    def test_other_archives_are_named(self, part: str, message: str) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(part, "x")
        with pytest.raises(ApiError, match=message):
            read_file(file.getvalue())


BOOK = workbook([["Deal ID", "ZIP"], ["d-1", 2134]])


class TestNdjson:
    def test_a_line_is_an_item(self) -> None:
        items, lines = read_ndjson('{"a": 1}\n\n {"b": "\u2028"} \r\n{"c": 3}'.encode())
        assert (json.loads(items), lines) == ([{"a": 1}, {"b": "\u2028"}, {"c": 3}], [1, 3, 4])

    @pytest.mark.parametrize("line", ["{", '{"a": 1} {"b": 2}', '{"a": 1}, {"b": 2}', "[1", "NaN", "x", "[" * 5000])
    def test_a_line_that_is_not_json_is_named(self, line: str) -> None:
        with pytest.raises(ApiError) as raised:
            read_ndjson(f'{{"a": 1}}\n\n{line}\n'.encode())
        assert raised.value.code == "invalid_json"
        assert raised.value.message.startswith("Record 2 (line 3) is not valid JSON")

    @given(st.lists(st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5), max_size=8), st.booleans())
    def test_every_value_of_a_json_line_is_read_back(self, values: list[Any], escaped: bool) -> None:
        text = "\n".join(json.dumps(value, ensure_ascii=escaped) for value in values)
        assert json.loads(read_ndjson(text.encode())[0]) == values


class TestEncodings:
    def test_windows_1252_is_recognized_with_a_note_and_read_without_where_declared(self) -> None:
        data = "12 O\u2019Brien St, Montréal".encode("cp1252")
        text, notes = decode(data)
        assert (text, [note.code for note in notes]) == ("12 O\u2019Brien St, Montréal", ["encoding_assumed"])
        for charset in ("windows-1252", "ISO-8859-1", "latin1"):
            assert decode(data, charset) == ("12 O\u2019Brien St, Montréal", [])

    def test_lines_of_another_encoding_in_a_file_of_utf_8_are_read_alone(self) -> None:
        lines = ["City", "Montréal", "12 O\u2019Brien St", "Oakland", "Cañon City", "San José"]
        note = "The file is UTF-8, except for line 5, which was read as Windows-1252"
        mixed = [line.encode("cp1252" if line == "Cañon City" else "utf-8") for line in lines]
        assert decode(b"\r\n".join(mixed)) == ("\r\n".join(lines), [Note("encoding_assumed", note)])
        assert decode(b"\xef\xbb\xbf" + b"\n".join(mixed)) == ("\n".join(lines), [Note("encoding_assumed", note)])
        with pytest.raises(ApiError, match="The file is not valid UTF-8 at byte 41"):
            decode(b"\n".join(mixed), "utf-8")

        cut = b"\n".join([*mixed, *mixed, "Montré".encode()[:-1]])
        note = "The file is UTF-8, except for 3 lines (the first is line 5), which were read as Windows-1252"
        assert decode(cut) == ("\n".join([*lines, *lines, "MontrÃ"]), [Note("encoding_assumed", note)])

    def test_a_file_of_windows_1252_may_have_a_line_that_would_be_utf_8(self) -> None:
        for line in ("JOS\u00c9\u2019S", "Plain"):
            text = f"{line}\nMontréal\n"
            assert decode(text.encode("cp1252")) == (text, [Note("encoding_assumed", "The file is not UTF-8 and was read as Windows-1252")])

    def test_a_csv_file_of_an_old_mac_is_recognized_by_its_line_ends(self) -> None:
        text = 'Deal ID,City\rd-1,Montréal\rd-2,"O\u2019Brien\nUnit 4"\r'
        assert decode(text.encode("mac-roman")) == (text, [Note("encoding_assumed", "The file is not UTF-8 and was read as Mac Roman")])
        assert decode(text.encode()) == (text, [])
        for end in ("\n", "\r\n"):
            assert decode(text.replace("\r", end).encode("cp1252"))[0] == text.replace("\r", end)

    @pytest.mark.parametrize(
        ("data", "charset", "message"),
        [
            (b"abc\xff", "utf-8", "The file is not valid UTF-8 at byte 3"),
            (b"\xef\xbb\xbfabc\xff", None, "The file is not valid UTF-8 at byte 6"),
            ("é".encode() * 5 + b"\xe9,", "utf-8", "The file is not valid UTF-8 at byte 10"),
            (b"\xff\xfea\x00\x00\xd8", None, "The file is not valid UTF-16 at byte 4"),
            (b"ab\x81", None, "The file is not valid Windows-1252 at byte 2"),
            (b"ab\0c" * 100, None, "The file contains a NUL character (character 2)"),
        ],
    )
    def test_a_mistake_is_named_by_its_byte(self, data: bytes, charset: str | None, message: str) -> None:
        with pytest.raises(ApiError) as raised:
            decode(data, charset)
        assert (raised.value.code, raised.value.message.startswith(message)) == ("invalid_encoding", True), raised.value.message

    def test_an_unknown_charset_is_refused(self) -> None:
        with pytest.raises(ApiError, match="The charset klingon is not supported"):
            decode(b"x", "klingon")


async def pieces(data: bytes, size: int) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


class TestCompression:
    async def expand(self, data: bytes, size: int = 1000, limit: int = 1_000_000) -> bytes:
        return b"".join([piece async for piece in gunzipped(limited(pieces(data, size), limit), limit)])

    @pytest.mark.parametrize("size", [1, 100, 100_000])
    async def test_what_was_compressed_comes_back(self, size: int) -> None:
        data = random.Random(1).randbytes(30_000) + b"a" * 30_000
        assert await self.expand(gzip.compress(data), size) == data
        assert await self.expand(gzip.compress(data) + gzip.compress(b"more"), size) == data + b"more"

    async def test_many_members_take_no_longer_in_one_chunk_than_in_many(self) -> None:
        data = gzip.compress(b"") * 100_000
        seconds = {}
        for size in (50_000, len(data)):
            began = process_time()
            assert [piece async for piece in gunzipped(pieces(data, size), 1000) if piece] == []
            seconds[size] = process_time() - began
        assert seconds[len(data)] < 4 * seconds[50_000]

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"x",
            random.Random(1).randbytes(2_000_000),
            gzip.compress(b"x")[:-1],
            gzip.compress(b"x") + b"x",
            zlib.compress(b"x"),
            b"\x1f\x8b",
        ],
        ids=["nothing", "text", "noise", "cut short", "followed by text", "deflate", "its first bytes"],
    )
    async def test_what_is_not_gzip_is_refused(self, data: bytes) -> None:
        with pytest.raises(ApiError) as raised:
            await self.expand(data)
        assert (raised.value.status, raised.value.code) == (400, "invalid_gzip")

    async def test_what_expands_too_far_is_refused_early(self) -> None:
        bomb = gzip.compress(bytes(50_000_000))
        with pytest.raises(ApiError) as raised:
            await self.expand(bomb, limit=100_000_000)
        assert (raised.value.status, raised.value.code) == (413, "suspicious_compression")
        with pytest.raises(ApiError) as raised:
            await self.expand(gzip.compress(random.Random(1).randbytes(2000) * 1000))
        assert (raised.value.status, raised.value.code) == (413, "body_too_large")
        with pytest.raises(ApiError) as raised:
            await self.expand(gzip.compress(random.Random(1).randbytes(2_000_000)))
        assert (raised.value.status, raised.value.code) == (413, "body_too_large")


def sheet_of(cells: dict[str, int]) -> bytes:
    """A workbook with numbers in these cells."""
    book = openpyxl.Workbook()
    for cell, number in cells.items():
        book.active[cell] = number  # type: ignore[index]
    return saved(book)


@pytest.mark.parametrize("corner", ["XFD1048576", "XFD20000"])
def test_a_workbook_of_a_few_cells_far_apart_takes_no_memory_of_ours(corner: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_workbook(sheet_of({"A1": 1, corner: 2}))
    assert (refused.value.status, refused.value.code) == (400, "invalid_workbook")


def test_a_workbook_that_exhausts_the_memory_leaves_no_core_dump_with_its_content() -> None:
    def allow_core_dumps() -> None:
        most = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (most, most))

    command = [sys.executable, "-m", workbooks.__name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, preexec_fn=allow_core_dumps) as process:
        assert process.stdin is not None
        process.stdin.write(sheet_of({"A1": 1, "XFD1048576": 2}))
        process.stdin.close()
        _, status = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == -signal.SIGABRT
    assert not os.WCOREDUMP(status)


def test_a_workbook_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbooks, "MAX_PROCESS_SECONDS", 0.001)
    with pytest.raises(ApiError, match="cannot be read"):
        read_workbook(sheet_of({"A1": 1}))


def test_a_text_shared_by_many_cells_counts_once_for_each() -> None:
    def sheet(rows: int) -> bytes:
        return workbook([["reference_id", "note"], *([f"deal-{row}", "é" * 15_000] for row in range(rows))])

    assert len(read_workbook(sheet(600)).rows) == 601
    large = sheet(800)
    assert len(large) < 100_000
    with pytest.raises(ApiError) as refused:
        read_workbook(large)
    assert (refused.value.status, refused.value.code) == (413, "body_too_large")


def compound_file(stream: str, content: bytes = b"") -> bytes:
    """What Excel writes around an encrypted workbook, and around each of xls: a header, the chain of sectors, the directory, the stream."""
    none, end = 0xFFFFFFFF, 0xFFFFFFFE
    sectors = len(content) // 512
    header = struct.pack("<8s16x5H6x10I", bytes.fromhex("d0cf11e0a1b11ae1"), 0x3E, 3, 0xFFFE, 9, 6, 0, 1, 1, 0, 4096, end, 0, end, 0, 0)
    chain = [0xFFFFFFFD, end, *range(3, 2 + sectors), *([end] if sectors else [])]
    directory = b"".join(
        name.encode("utf-16-le").ljust(64, b"\0") + struct.pack("<HBB3I36xIQ", 2 * len(name) + 2, kind, 1, none, none, child, start, size)
        for name, kind, child, start, size in (("Root Entry", 5, 1, end, 0), (stream, 2, none, 2 if sectors else end, len(content)))
    )
    return header + b"\xff" * 432 + struct.pack(f"<{len(chain)}I", *chain).ljust(512, b"\xff") + directory.ljust(512, b"\0") + content


def xls(*cells: bytes, formats: Sequence[str], stream: str = "Workbook", code_page: int | None = None, other: bytes = b"") -> bytes:
    """A workbook of Excel 97 with two sheets, the second of which has these cells, and a style for each number format.

    With a code page, it is one of Excel 95. `other` has the records of the first sheet: a chart.
    """
    parts = [biff(0x809, "<2H12x", 0x500 if code_page else 0x600, kind) for kind in (0x05, 0x20, 0x10)]
    begin, end = parts[0], biff(0x0A)
    if code_page:
        encoding = "mac_roman" if code_page == 10000 else f"cp{code_page}"
        texts = [bytes([len(text)]) + text.encode(encoding) for text in formats]
    else:
        texts = [
            struct.pack("<HB", len(text), not text.isascii()) + text.encode("latin-1" if text.isascii() else "utf-16-le")
            for text in formats
        ]
    styles = [biff(0x42, "<H", code_page or 1200), *(biff(0x41E, "<H", 164 + n, tail=text) for n, text in enumerate(texts))]
    styles += [biff(0xE0, "<2H16x", 0, 164 + n) for n in range(len(formats))]
    names = [bytes([len(name)]) + (b"" if code_page else b"\0") + name for name in (b"Other", b"Sites")]
    start = len(begin) + sum(map(len, styles)) + sum(len(name) + 10 for name in names) + len(end)
    sheets = [parts[1] + other + end, parts[2] + b"".join(cells) + end]
    places = [biff(0x85, "<I2B", start + n * len(sheets[0]), 0, 2 * (n == 0), tail=name) for n, name in enumerate(names)]
    book = b"".join([begin, *styles, *places, end, *sheets])
    return compound_file(stream, book.ljust(4096, b"\0"))


def biff(kind: int, layout: str = "<", *values: float, tail: bytes = b"") -> bytes:
    body = struct.pack(layout, *values) + tail
    return struct.pack("<2H", kind, len(body)) + body


def biff_text(row: int, column: int, text: str) -> bytes:
    return biff(0x204, "<4HB", row, column, 0, len(text), 0, tail=text.encode("latin-1"))


def test_an_xls_workbook_is_read_as_it_is_seen() -> None:
    rk = 12 << 2 | 2
    data = xls(
        *(biff_text(0, column, text) for column, text in enumerate(("Deal ID", "City", "Zip"))),
        biff(0x203, "<3Hd", 1, 0, 1, 42.0),
        biff_text(1, 1, "Boston"),
        biff(0x203, "<3Hd", 1, 2, 2, 2134.0),
        biff(0x208, "<8H", 2, 0, 3, 255, 0, 0, 0x20, 0),
        biff(0xBD, "<2HHIHIH", 2, 0, 1, rk, 3, rk, 1),
        biff(0x27E, "<3HI", 2, 2, 2, 50100 << 2 | 3),
        biff(0x205, "<3H2B", 3, 0, 0, 0x17, 1),
        biff(0x06, "<3H4B2xHHIH", 3, 1, 0, 2, 0, 0x2A, 0, 0xFFFF, 0, 0, 0),
        biff(0x205, "<3H2B", 3, 2, 0, 1, 0),
        biff(0x203, "<3Hd", 4, 0, 1, 1.5),
        biff(0x203, "<3Hd", 4, 1, 0, 7.0),
        formats=["General", '"D-"0000', "00000", '"Étage "0'],
    )
    table = read_workbook(data, "Sites")
    assert cells_of(table) == [
        ["Deal ID", "City", "Zip"],
        ["D-0042", "Boston", "02134"],
        ["D-0012", "Étage 12", "00501"],
        ["#REF!", "#N/A", "TRUE"],
        ["1.5", "7"],
    ]
    assert [note.code for note in table.notes] == ["hidden_rows_read"]


@pytest.mark.parametrize(
    ("stream", "code_page", "prefix"),
    [("Book", 1251, "Офис"), ("Book", 10000, "Étage"), ("WORKBOOK", None, "Офис")],
    ids=["Excel 95", "Macintosh", "capitals"],
)
def test_an_xls_workbook_of_other_programs_is_read_as_it_is_seen(stream: str, code_page: int | None, prefix: str) -> None:
    data = xls(
        *(biff(0x203, "<3Hd", row, column, column, 42.0) for row in range(2) for column in range(2)),
        biff(0x205, "<3H2B", 1, 2, 0, 0x17, 1),
        biff(0x208, "<8H", 1, 0, 3, 255, 0, 0, 0x20, 0),
        formats=["General", f'"{prefix} "0000'],
        stream=stream,
        code_page=code_page,
    )
    table = read_workbook(data, "Sites")
    assert cells_of(table) == [["42", f"{prefix} 0042"], ["42", f"{prefix} 0042", "#REF!"]]
    assert [note.code for note in table.notes] == ["hidden_rows_read"]


CHART = [biff(0x203, "<3Hd", 0, 0, 1, 42.0), biff(0x205, "<3H2B", 1, 0, 0, 0x2A, 1), biff(0x203, "<3Hd", 1, 1, 0, 42.0)]


def test_a_chart_in_a_sheet_of_xls_is_no_part_of_its_cells() -> None:
    data = xls(
        *(biff_text(row, column, f"{row}{column}") for row in range(2) for column in range(2)),
        biff(0x809, "<2H12x", 0x600, 0x20),
        *CHART,
        biff(0x0A),
        biff(0x208, "<8H", 1, 0, 3, 255, 0, 0, 0x20, 0),
        formats=["General", "0000"],
    )
    table = read_workbook(data, "Sites")
    assert cells_of(table) == [["00", "01"], ["10", "11"]]
    assert [note.code for note in table.notes] == ["hidden_rows_read"]


def test_a_chart_before_the_sheet_of_xls_is_not_its_table() -> None:
    cells = [biff_text(row, column, f"{row}{column}") for row in range(2) for column in range(2)]
    table = read_workbook(xls(*cells, formats=["General"], other=b"".join(CHART)))
    assert cells_of(table) == [["00", "01"], ["10", "11"]]
    assert table.notes == []


FORMULA = "table:formula='of:=A2'"


def ods(*rows: str) -> bytes:
    """A workbook of OpenDocument with two sheets, the second of which has these rows."""
    schemas = " ".join(f"xmlns:{name}='urn:oasis:names:tc:opendocument:xmlns:{name}:1.0'" for name in ("office", "table", "text"))
    other = f"<table:table table:name='Other'>{ods_row(ods_cell('', FORMULA))}</table:table>"
    content = (
        f"<office:document-content {schemas}><office:body><office:spreadsheet>{other}<table:table table:name='Sites'>{''.join(rows)}"
        "</table:table></office:spreadsheet></office:body></office:document-content>"
    )
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
        archive.writestr("content.xml", content)
    return data.getvalue()


def ods_row(*cells: str, attributes: str = "") -> str:
    return f"<table:table-row {attributes}>{''.join(cells)}</table:table-row>"


def ods_cell(shown: str, attributes: str = "office:value-type='string'") -> str:
    """As LibreOffice writes it, with a note."""
    note = "<office:annotation><text:p>0042</text:p></office:annotation>"
    return f"<table:table-cell {attributes}>{note}{shown and f'<text:p>{shown}</text:p>'}</table:table-cell>"


@pytest.mark.parametrize(
    ("shown", "value", "text"),
    [("SITE-42", "42", "SITE-42"), ("USD 4,200", "4200", "4200"), ("Jan 42", "1", "1"), ("A0042", "42", "A0042")],
)
def test_a_number_in_ods_has_the_text_that_its_format_puts_before_it(shown: str, value: str, text: str) -> None:
    number = f"<table:table-cell office:value-type='float' office:value='{value}'><text:p>{shown}</text:p></table:table-cell>"
    data = ods(ods_row(ods_cell("Deal ID"), ods_cell("City")), ods_row(number, ods_cell("Boston")))
    assert cells_of(read_workbook(data, "Sites"))[1] == [text, "Boston"]


def test_an_ods_workbook_is_read_as_it_is_seen() -> None:
    number = "office:value-type='float' office:value="
    error = f"{FORMULA} office:value-type='string' office:string-value=''"
    data = ods(
        ods_row(*map(ods_cell, ("Deal ID", "Count", "City", "State", "Note"))),
        ods_row(
            ods_cell("000042", f"{number}'42'"),
            ods_cell("4,200", f"{number}'4200'"),
            ods_cell("#N/A", error),
            ods_cell("Err:508", error),
            ods_cell("", f"{FORMULA} table:number-columns-repeated='2'"),
        ),
        ods_row(ods_cell("d-2"), ods_cell("0", f"{number}'0'"), ods_cell("", error), attributes="table:visibility='filter'"),
        ods_row(
            ods_cell("d-3", f"office:value-type='string' {FORMULA} office:string-value='d-3'"),
            ods_cell("0.5", f"{number}'0.5'"),
        ),
        ods_row("<table:table-cell/>", attributes="table:visibility='collapse' table:number-rows-repeated='1000000'"),
    )
    table = read_workbook(data, "Sites")
    assert cells_of(table) == [
        ["Deal ID", "Count", "City", "State", "Note"],
        ["000042", "4200", "#N/A", "#N/A", "#N/A", "#N/A"],
        ["d-2", "0"],
        ["d-3", "0.5"],
    ]
    assert [note.message.partition(",")[0] for note in table.notes] == [
        "2 formulas have no result (in row 2 is the first)",
        "1 hidden row was read",
    ]


def encrypted_ods() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        manifest = '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"><manifest:file-entry'
        encryption = "><manifest:encryption-data/></manifest:file-entry></manifest:manifest>"
        archive.writestr("META-INF/manifest.xml", f'{manifest} manifest:full-path="content.xml"{encryption}')
        archive.writestr("content.xml", os.urandom(100))
    return data.getvalue()


# The records BOF, of BIFF8, and FILEPASS, of RC4.
ENCRYPTED_XLS = struct.pack("<HHHH12x", 0x0809, 16, 0x0600, 5) + struct.pack("<HHH48x", 0x2F, 50, 1)
# With a FILEPASS of XOR; what follows is scrambled.
OBFUSCATED_XLS = ENCRYPTED_XLS[:20] + biff(0x2F, "<3H", 0, 0x4242, 0x1234) + biff(0x85, "<I4B", 99, 0x7F, 0x99, 0x33, 0x55)


@pytest.mark.parametrize(
    "data",
    [
        compound_file("EncryptedPackage"),
        compound_file("Workbook", ENCRYPTED_XLS.ljust(4096, b"\0")),
        compound_file("Workbook", OBFUSCATED_XLS.ljust(4096, b"\0")),
        encrypted_ods(),
    ],
    ids=["xlsx", "xls", "xls of XOR", "ods"],
)
def test_a_workbook_with_a_password_is_named_for_what_it_is(data: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        read_workbook(data)
    assert (refused.value.code, refused.value.message) == ("protected_workbook", "The workbook is protected by a password")


def test_a_damaged_workbook_is_not_said_to_be_encrypted() -> None:
    for data in (compound_file("Something"), sheet_of({"A1": 1})[:1000]):
        with pytest.raises(ApiError) as refused:
            read_workbook(data)
        assert refused.value.code == "invalid_workbook"


def test_a_workbook_whose_sites_are_hidden_is_not_said_to_be_empty() -> None:
    book = openpyxl.Workbook()
    hidden = book.create_sheet("Sites")
    hidden["A1"], hidden.sheet_state = "reference_id", "hidden"
    data = saved(book)
    with pytest.raises(ApiError) as refused:
        read_workbook(data)
    assert (refused.value.code, refused.value.message) == ("empty_file", "No visible sheet has anything in it")
    assert refused.value.hint == "`sheet` chooses one that is hidden: Sites"
    assert cells_of(read_workbook(data, "Sites")) == [["reference_id"]]


def test_an_error_in_a_workbook_arrives_complete() -> None:
    with pytest.raises(ApiError) as refused:
        read_workbook(sheet_of({"A1": 1, "SG2": 2}))
    error = refused.value
    assert (error.code, error.message, error.members) == ("too_many_columns", "Line 2 has 501 columns; a file may have 500", {"line": 2})


@pytest.mark.parametrize("record", ["a," * 600_000, '"\n",b,' * 200_000, "x" * 1_100_000])
def test_a_record_has_a_limit_before_its_cells_exist(record: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ApiError) as refused:
        read_csv(f"reference_id,city\nd-1,Austin\n{record}")
    assert (refused.value.code, refused.value.members) == ("record_too_long", {"line": 3})


def test_the_length_of_records_does_not_add_up() -> None:
    table = read_csv("reference_id,city\n" + ("x" * 100_000 + ",b\n") * 15)
    assert len(table.rows) == 16


@pytest.mark.parametrize(
    ("media_type", "line", "times"),
    [
        ("text/csv", f"deal,{'x' * 1000}\n", 5),
        ("application/x-ndjson", f'{{"reference_id": "deal", "metadata": {{"note": "{"x" * 1000}"}}}}\n', 5),
        # Each cell gets quotation marks.
        ("text/csv", "deal" + ",ab" * 400 + "\n", 8),
    ],
    ids=["long cells", "NDJSON", "many cells"],
)
def test_a_large_file_takes_a_few_times_its_size_to_read(media_type: str, line: str, times: int) -> None:
    body = Body(line.encode() * 2_000, media_type)
    tracemalloc.start()
    read(body, {"columns": {}, "defaults": {}}, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < times * len(body.data)


def test_a_file_is_recognized_without_its_values() -> None:
    """There are a million lists in its first line."""
    body = Body(b'{"reference_id":[' + b"[]," * 1_000_000 + b"[]]}\n{}\n", "application/octet-stream")
    tracemalloc.start()
    with pytest.raises(ApiError) as refused:
        read(body, {"columns": {}, "defaults": {}}, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.code == "record_too_long"
    assert peak < 5 * len(body.data)
