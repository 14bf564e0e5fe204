"""The results of a job as whole records: lines of NDJSON, or records of CSV, whose cells may hold line breaks."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from typing import BinaryIO, Literal

ResultsFormat = Literal["csv", "ndjson"]
_STATUS = re.compile(r"status( \(lookup( \d+)?\))?")

_PIECE = 1024 * 1024
_OPEN = ("pending", "processing")


class RecordSplitter:
    """Splits pieces of a file into whole records, each with its line end. A line break between quotes is part of a cell (RFC 4180)."""

    def __init__(self, results_format: ResultsFormat) -> None:
        self._quotes_count = results_format == "csv"
        # The incomplete record, and how many quotes it has.
        self._rest = bytearray()
        self._quotes = 0

    @property
    def rest_length(self) -> int:
        """The current length of the incomplete record."""
        return len(self._rest)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        start = 0
        # Not bytes.splitlines(): that also splits at a carriage return, which a cell may contain.
        while (end := piece.find(b"\n", start) + 1) > 0:
            self._add(piece[start:end])
            start = end
            if not self._quotes_count or self._quotes % 2 == 0:
                yield bytes(self._rest)
                self._rest.clear()
                self._quotes = 0
        self._add(piece[start:])

    def _add(self, part: bytes) -> None:
        self._rest += part
        self._quotes += part.count(b'"')


def whole_records(file: BinaryIO, results_format: ResultsFormat) -> Iterator[bytes]:
    """The records of a file, without the last one if its end is missing."""
    splitter = RecordSplitter(results_format)
    while piece := file.read(_PIECE):
        yield from splitter.feed(piece)


class Reader:
    """Reads the columns of a results file; for CSV, `header` is its first record."""

    def __init__(self, results_format: ResultsFormat, header: bytes = b"") -> None:
        # The columns of the uploaded file precede ours, and one of ours with the same name has a suffix.
        places = [place for place, name in enumerate(_cells(header)) if _STATUS.fullmatch(name)]
        self._status_column = places[-1] if results_format == "csv" else None

    def is_final(self, record: bytes) -> bool:
        """Whether the item has ended, so that its record will not change any more."""
        status = json.loads(record)["status"] if self._status_column is None else _cells(record)[self._status_column]
        return status not in _OPEN


def _cells(record: bytes) -> list[str]:
    return next(csv.reader([record.decode()], strict=True), [])
