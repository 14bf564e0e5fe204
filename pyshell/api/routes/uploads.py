"""An upload as a request brings it: in which format, how compressed, and which options say how to read it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request

from pyshell.api.errors import ApiError
from pyshell.api.routes.parameters import json_text, text_param
from pyshell.api.uploads.bodies import Decoder, gunzipped, limited, too_large
from pyshell.api.uploads.csv_reader import CsvReader, device_ids
from pyshell.api.uploads.records import NdjsonReader, RecordReader

# 10,000 items of the usual size take 3 MB; webhook_custom_fields may add to that.
MAX_BATCH_BYTES = 16 * 1024 * 1024
JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
ALIASES = {"application/ndjson": NDJSON, "application/jsonl": NDJSON, "application/x-jsonlines": NDJSON, "application/csv": CSV}


async def read_upload(request: Request) -> tuple[str, dict[str, object]]:
    """The items as a text of JSON, and what the database should know of the file: the lines of its records, what was mended.

    Raises ApiError: 400 what cannot be read; 413 too large; 415 another format.
    """
    media_type = format_of(request)
    # Options are checked, also where they have no effect.
    of_csv = csv_reader(request)
    if media_type == JSON:
        return json_text(b"".join([piece async for piece in pieces(request)])), {}
    decoder = Decoder()
    reader: RecordReader = NdjsonReader() if media_type == NDJSON else of_csv
    async for piece in pieces(request):
        reader.feed(decoder.feed(piece))
    reader.feed(decoder.feed(b"", final=True))
    upload = reader.finish()
    return upload.array, {"lines": upload.lines} | ({"warnings": upload.warnings} if upload.warnings else {})


def format_of(request: Request) -> str:
    media_type, _, parameters = request.headers.get("content-type", JSON).partition(";")
    media_type = media_type.strip().lower()
    media_type = ALIASES.get(media_type, media_type)
    if media_type.startswith("application/") and media_type.endswith("+json"):
        media_type = JSON
    if media_type not in (JSON, NDJSON, CSV):
        raise ApiError(
            415,
            "unsupported_media_type",
            "The body must be JSON, NDJSON or CSV",
            hint=f"Send the header Content-Type: {JSON}, {NDJSON} or {CSV}.",
        )
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii", "utf-16"):
        raise ApiError(415, "unsupported_charset", "The body must be encoded in UTF-8, or in UTF-16 with a byte order mark")
    return media_type


def pieces(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces, decompressed and held to its limits."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise ApiError(415, "unsupported_encoding", "The body may be compressed with gzip, and with nothing else")
    if int(request.headers.get("content-length", 0)) > MAX_BATCH_BYTES:
        raise too_large(MAX_BATCH_BYTES)
    body = limited(request.stream(), MAX_BATCH_BYTES)
    return body if encoding == "identity" else gunzipped(body, MAX_BATCH_BYTES)


def csv_reader(request: Request) -> CsvReader:
    """`columns` is a JSON object of field and column; `default_...` are for what the file does not say."""
    defaults: dict[str, Any] = {}
    for name in ("building_type", "country_code", "device_ids"):
        if text := text_param(request, f"default_{name}"):
            defaults[name] = device_ids(text) if name == "device_ids" else text
    return CsvReader(column_param(request), defaults)


def column_param(request: Request) -> dict[str, str]:
    wrong = ApiError(
        400, "invalid_columns", "columns must be a JSON object of fields and columns", hint='Such as {"reference_id": "Deal"}.'
    )
    try:
        columns = json.loads(text_param(request, "columns") or "{}")
    except (ValueError, RecursionError) as error:
        raise wrong from error
    if not isinstance(columns, dict) or not all(isinstance(column, str) for column in columns.values()):
        raise wrong
    return columns
