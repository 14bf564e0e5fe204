"""NDJSON (https://github.com/ndjson/ndjson-spec): one JSON value per line; empty lines are ignored."""

from __future__ import annotations

import io
import json

from pyshell.api.errors import ApiError
from pyshell.api.uploads.tables import MAX_ITEMS, MAX_RECORD_LENGTH, too_many_items


def read_ndjson(data: bytes) -> tuple[str, list[int]]:
    """The values of a UTF-8 text as the text of a JSON array, and the line of each, from 1.

    Raises ApiError 400, naming record and line.
    """
    values: list[str] = []
    lines: list[int] = []
    # Not str.splitlines, for which some characters within a string end a line. A StringIO takes four bytes per character.
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline=""), 1):
        if line.isspace():
            continue
        if len(values) == MAX_ITEMS:
            raise too_many_items()
        members = {"record": len(values) + 1, "line": number}
        if len(line) > MAX_RECORD_LENGTH:
            raise ApiError(400, "record_too_long", f"Line {number} has more than {MAX_RECORD_LENGTH:,} characters", members=members)
        try:
            json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise ApiError(
                400, "invalid_json", f"Record {len(values) + 1} (line {number}) is not valid JSON{column}", members=members
            ) from error
        values.append(line.strip())
        lines.append(number)
    return f"[{','.join(values)}]", lines


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
