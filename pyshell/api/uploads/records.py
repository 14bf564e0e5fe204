"""What a reader of records makes of a body, and the reader of NDJSON (https://github.com/ndjson/ndjson-spec)."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Protocol

from pyshell.api.errors import ApiError

MAX_ITEMS = 10_000
MAX_RECORD_LENGTH = 1024 * 1024


@dataclass(slots=True)
class Upload:
    """Items as texts of JSON, one or several with commas between, the line where each item begins (from 1), what was mended, by index."""

    texts: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    warnings: dict[int, str] = field(default_factory=dict)

    def add_item(self, line: int, warning: str | None = None) -> None:
        """An item whose text comes with `texts`. Raises ApiError 400 when there are too many."""
        if len(self.lines) == MAX_ITEMS:
            raise ApiError(400, "invalid_item_count", f"A batch must have 1 to {MAX_ITEMS:,} items; this one has more")
        if warning:
            self.warnings[len(self.lines)] = warning
        self.lines.append(line)

    @property
    def array(self) -> str:
        return f"[{','.join(self.texts)}]"


class RecordReader(Protocol):
    """Takes a text in pieces. Both methods raise ApiError 400 for what cannot be read at all, naming record and line."""

    def feed(self, text: str) -> None: ...

    def finish(self) -> Upload: ...


class Lines:
    """Cuts a text that comes in pieces into lines, which end with LF, CRLF or CR, and keep their ends."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        """The lines that are complete. Raises ApiError 400 when one does not end."""
        # Never str.splitlines: to it, some characters within a cell end a line.
        lines = list(io.StringIO(self._rest + text, newline=""))
        self._rest = ""
        # A carriage return at the very end may be half of a line end.
        if lines and not lines[-1].endswith("\n"):
            self._rest = lines.pop()
            if len(self._rest) > MAX_RECORD_LENGTH:
                raise ApiError(400, "record_too_long", f"A line has more than {MAX_RECORD_LENGTH:,} characters")
        return lines

    def finish(self) -> list[str]:
        return [self._rest] if self._rest else []


class NdjsonReader:
    """One JSON value a line; empty lines do not count."""

    def __init__(self) -> None:
        self._upload = Upload()
        self._lines = Lines()
        self._line = 0

    def feed(self, text: str) -> None:
        self._read(self._lines.feed(text))

    def finish(self) -> Upload:
        self._read(self._lines.finish())
        return self._upload

    def _read(self, lines: list[str]) -> None:
        for line in lines:
            self._line += 1
            if not line.isspace():
                self._upload.texts.append(self._checked(line))
                self._upload.add_item(self._line)

    def _checked(self, line: str) -> str:
        try:
            json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise unreadable(len(self._upload.lines) + 1, self._line, "invalid_json", f"is not valid JSON{column}") from error
        return line.strip()


def unreadable(record: int, line: int, code: str, what: str) -> ApiError:
    return ApiError(400, code, f"Record {record} (line {line}) {what}", members={"record": record, "line": line})


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
