"""How CSV and NDJSON become items: whatever the spreadsheet, in whatever pieces it arrives."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import random
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pyshell.api.errors import ApiError
from pyshell.api.uploads.bodies import Decoder, gunzipped, limited
from pyshell.api.uploads.columns import REQUIRED, detect_delimiter, find_columns, plain
from pyshell.api.uploads.csv_reader import CsvReader, device_ids
from pyshell.api.uploads.records import NdjsonReader, RecordReader, Upload

HEADER = "reference_id,street_1,city,state_or_province_code,postal_code,building_type,device_ids\n"
ROW = "deal-001,200 N Spring St,Los Angeles,CA,90012,RESIDENTIAL,1;2\n"


def read(data: bytes | str, reader: RecordReader | None = None, *, size: int = 1_000_000, **options: Any) -> Upload:
    """What a reader makes of the data when that arrives in pieces of the size."""
    data = data.encode() if isinstance(data, str) else data
    reader = reader or CsvReader(options.get("columns", {}), options.get("defaults", {}))
    decoder = Decoder()
    for start in range(0, len(data), size):
        reader.feed(decoder.feed(data[start : start + size]))
    reader.feed(decoder.feed(b"", final=True))
    return reader.finish()


def items(upload: Upload) -> list[Any]:
    parsed: list[Any] = json.loads(upload.array)
    return parsed


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
values = st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5)


class TestCsv:
    def test_a_row_becomes_an_item(self) -> None:
        assert items(read(HEADER + ROW)) == [
            {
                "reference_id": "deal-001",
                "address": {
                    "street_1": "200 N Spring St",
                    "city": "Los Angeles",
                    "state_or_province_code": "CA",
                    "postal_code": "90012",
                    "country_code": "US",
                },
                "building_type": "RESIDENTIAL",
                "device_ids": [1, 2],
            }
        ]

    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_spreadsheets_write_it_in_their_ways(self, delimiter: str, end: str, encoding: str) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
        writer.writerow(["Deal ID", "Street Address", "Apt", "City", "State or Province", "ZIP", "Property Type", "Devices", "Notes"])
        writer.writerow(
            ["deal-001", "5 Rue d'Été", "4, B", "Québec", "qc", "G1A 1A1", "Manufactured Home", "1, 2|3", 'said "yes";\nthen no']
        )
        [item] = items(read(text.getvalue().encode(encoding), size=7))
        assert item == {
            "reference_id": "deal-001",
            "address": {
                "street_1": "5 Rue d'Été",
                "street_2": "4, B",
                "city": "Québec",
                "state_or_province_code": "QC",
                "postal_code": "G1A 1A1",
                "country_code": "CA",
            },
            "building_type": "MANUFACTURED_HOME",
            "device_ids": [1, 2, 3],
        }

    @pytest.mark.parametrize(
        ("cell", "postal_code", "mended"),
        [
            ("02134", "02134", False),
            ("2134", "02134", True),
            ("501", "00501", True),
            ("2134-1234", "02134-1234", True),
            ("02134-1234", "02134-1234", False),
            ("21", "21", False),
            ("90012", "90012", False),
        ],
    )
    def test_the_zeros_of_a_zip_survive(self, cell: str, postal_code: str, mended: bool) -> None:
        upload = read(HEADER + ROW.replace("90012", cell))
        assert items(upload)[0]["address"]["postal_code"] == postal_code
        assert upload.warnings == ({0: f"address.postal_code {cell} was completed to {postal_code}"} if mended else {})

    def test_lines_are_those_of_the_file(self) -> None:
        broken = ROW.replace("200 N Spring St", '"200 N\r\nSpring\nSt"')
        upload = read(f"{HEADER}\n{broken}\n,,,,,,\n{ROW}", size=3)
        assert upload.lines == [3, 8]
        assert items(upload)[0]["address"]["street_1"] == "200 N\r\nSpring\nSt"

    def test_defaults_are_for_what_is_not_there(self) -> None:
        text = "reference_id,street_1,city,state,zip,building_type\na-1,1 A St,Boston,MA,02108,\na-2,1 A St,Boston,MA,02108,commercial\n"
        found = items(read(text, defaults={"building_type": "RESIDENTIAL", "device_ids": [7]}))
        assert [item["building_type"] for item in found] == ["RESIDENTIAL", "COMMERCIAL"]
        assert [item["device_ids"] for item in found] == [[7], [7]]

    def test_a_map_names_the_columns(self) -> None:
        text = HEADER.replace("reference_id", "Key").replace("street_1", "Where") + ROW
        assert items(read(text, columns={"reference_id": "Key", "address.street_1": "Where"})) == items(read(HEADER + ROW))
        both = "Other," + HEADER + "x-1," + ROW
        assert items(read(both, columns={"reference_id": "Other"}))[0]["reference_id"] == "x-1"

    def test_the_delimiter_may_be_declared(self) -> None:
        assert items(read("sep=;\n" + (HEADER + ROW).replace(";", "|").replace(",", ";"))) == items(read(HEADER + ROW))

    def test_what_a_row_lacks_or_has_too_much_is_left_to_the_validation(self) -> None:
        short, long = items(read(HEADER + "deal-001,1 A St\n" + ROW.replace("\n", ",more\n")))
        assert "device_ids" not in short
        assert long["column 8, which the header does not name"] == "more"

    @pytest.mark.parametrize(
        ("text", "code", "message"),
        [
            ("", "invalid_csv", "The file is empty"),
            ("\n\n", "invalid_csv", "The file is empty"),
            (
                "reference_id,city\n",
                "missing_columns",
                "Columns are missing: street_1, state_or_province_code",
            ),
            ("x\n", "missing_columns", "Columns are missing: reference_id"),
            ("zip," + HEADER.replace("postal_code", "ZIP"), "ambiguous_columns", "More than one column is called ZIP"),
            (HEADER + ROW + '"a\nb\n', "invalid_csv", "Record 2 (line 3) has a quotation mark that is not closed"),
            (HEADER + ROW + ROW.replace("200", '2"00"'), "", ""),
            (HEADER + ROW + ROW.replace("200 N", '"200" N'), "invalid_csv", "Record 2 (line 3) is not CSV"),
            (HEADER + ROW + ROW.replace("200", '2"00') + ROW.replace("200", '2"00'), "invalid_csv", "Record 2 (line 3) is not CSV"),
            ('"a\n', "invalid_csv", "The header (line 1) has a quotation mark that is not closed"),
            (HEADER + ROW * 10_001, "invalid_item_count", "A batch must have 1 to 10,000 items; this one has more"),
            (HEADER + '"' + "x\n" * 600_000, "invalid_csv", "Record 1 (line 2) has a quotation mark that is not closed"),
            (HEADER + "x" * 1_100_000, "record_too_long", "A line has more than 1,048,576 characters"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, text: str, code: str, message: str) -> None:
        if not code:
            assert items(read(text))[1]["address"]["street_1"] == '2"00" N Spring St'
            return
        with pytest.raises(ApiError) as raised:
            read(text, size=65_536)
        assert (raised.value.status, raised.value.code) == (400, code)
        assert raised.value.message.startswith(message)

    @pytest.mark.parametrize("columns", [{"reference_id": "Nowhere"}, {"colour": "city"}, {"city": "x" * 5000}])
    def test_a_wrong_map_is_named(self, columns: dict[str, str]) -> None:
        with pytest.raises(ApiError) as raised:
            read(HEADER + ROW, columns=columns)
        assert raised.value.code == "invalid_columns"

    @settings(deadline=None)
    @given(st.lists(st.lists(cells, min_size=3, max_size=3)),
           st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.sampled_from(["\n", "\r\n"]), st.integers(1, 50))  # fmt: skip
    def test_every_cell_comes_through(self, rows: list[list[str]], quoting: Any, end: str, size: int) -> None:
        # The writer takes a lone carriage return for harmless.
        assume(quoting == csv.QUOTE_ALL or not any("\r" in cell for row in rows for cell in row))
        text = io.StringIO(newline="")
        writer = csv.writer(text, quoting=quoting, lineterminator=end)
        writer.writerow(["reference_id", "street_1", "city", "state", "zip", "building_type", "device_ids"])
        for row in rows:
            writer.writerow([*row, "CA", "90012", "x", "1"])
        found = items(read(text.getvalue(), size=size))
        assert [[item.get("reference_id"), item["address"].get("street_1"), item["address"].get("city")] for item in found] == [
            [cell.strip() or None for cell in row] for row in rows
        ]

    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=300) | st.text('a",;\t\r\n\ufeff', max_size=60).map(str.encode), st.integers(1, 40), st.booleans())
    def test_no_bytes_are_more_than_refused(self, data: bytes, size: int, with_header: bool) -> None:
        with contextlib.suppress(ApiError):
            read((HEADER.encode() if with_header else b"") + data, size=size)

    @settings(deadline=None)
    @given(st.text('ab",\r\n', max_size=40), st.integers(1, 10))
    def test_the_pieces_make_no_difference(self, text: str, size: int) -> None:
        def outcome(size: int) -> Any:
            try:
                upload = read(HEADER + text, size=size)
            except ApiError as error:
                return error.message
            return json.loads(upload.array), upload.lines

        assert outcome(size) == outcome(1000)


def test_the_usual_names_of_columns_are_known() -> None:
    others = dict.fromkeys(REQUIRED)
    for name in ("Deal ID", "deal_id", "DealID", "ReferenceId", "reference id", " Reference ID "):
        assert find_columns([name], {}, others) == {"reference_id": 0}
    assert find_columns(["ID", "Deal ID", "Reference"], {}, others) == {"reference_id": 2}
    assert plain("address.postal_code") == plain("Postal Code") == "postal code"
    assert plain("Address 1") == "address 1"
    assert detect_delimiter("Deal ID;Street, with number;City") == ";"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", (1,)),
        ("1;2", (1, 2)),
        ("[1, 2]", (1, 2)),
        ("1 2|3", (1, 2, 3)),
        ("", ""),
        ("x", "x"),
        ("1.5", "1.5"),
        ("-1", "-1"),
        ("1" * 10, "1" * 10),
        ("٣", "٣"),
    ],
)
def test_device_ids_are_a_list_of_numbers(text: str, expected: Any) -> None:
    assert device_ids(text) == expected


class TestNdjson:
    def test_a_line_is_an_item(self) -> None:
        upload = read('{"a": 1}\n\n {"b": "\u2028"} \r\n{"c": 3}', NdjsonReader(), size=4)
        assert items(upload) == [{"a": 1}, {"b": "\u2028"}, {"c": 3}]
        assert upload.lines == [1, 3, 4]

    @pytest.mark.parametrize("line", ["{", '{"a": 1} {"b": 2}', '{"a": 1}, {"b": 2}', "[1", "NaN", "x", "[" * 5000])
    def test_a_line_that_is_not_json_is_named(self, line: str) -> None:
        with pytest.raises(ApiError) as raised:
            read(f'{{"a": 1}}\n\n{line}\n', NdjsonReader())
        assert raised.value.code == "invalid_json"
        assert raised.value.message.startswith("Record 2 (line 3) is not valid JSON")

    @settings(deadline=None)
    @given(
        st.lists(st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5), max_size=8), st.integers(1, 30), st.booleans()
    )
    def test_every_value_comes_through(self, values: list[Any], size: int, escaped: bool) -> None:
        text = "\n".join(json.dumps(value, ensure_ascii=escaped) for value in values)
        try:
            data = text.encode()
        except UnicodeEncodeError:
            return
        assert items(read(data, NdjsonReader(), size=size)) == values


class TestEncodings:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"abc\xff", "The body is not valid UTF-8 at byte 3"),
            (b"\xef\xbb\xbfabc\xff", "The body is not valid UTF-8 at byte 6"),
            ("é".encode() * 5 + b"\xe9,", "The body is not valid UTF-8 at byte 10"),
            (b"\xff\xfea\x00\x00\xd8", "The body is not valid UTF-16-LE at byte 4"),
            (b"ab\0", "The body contains a NUL character at byte 2"),
            ("abc".encode("utf-16-le"), "The body contains a NUL character at byte 1"),
        ],
    )
    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    def test_a_mistake_is_named_by_its_byte(self, data: bytes, message: str, size: int) -> None:
        with pytest.raises(ApiError) as raised:
            read(data, NdjsonReader(), size=size)
        assert raised.value.message == message


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
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
