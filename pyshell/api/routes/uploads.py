"""An upload as a request brings it: in which format, how compressed, and which options say how to read it."""

from __future__ import annotations

import codecs
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request

from pyshell.api.errors import ApiError
from pyshell.api.media_types import CSV, JSON, NDJSON, check_charset, content_of, recognize
from pyshell.api.routes.parameters import json_text, text_param
from pyshell.api.uploads.bodies import Decoder, gunzipped, limited, too_large
from pyshell.api.uploads.csv_reader import CsvReader, device_ids
from pyshell.api.uploads.records import NdjsonReader, RecordReader, Upload

# 10,000 items of the usual size take 3 MB; webhook_custom_fields may add to that.
MAX_BATCH_BYTES = 16 * 1024 * 1024
DEFAULTS = ("default_building_type", "default_country_code", "default_device_ids")


async def read_upload(request: Request) -> tuple[str, Upload | None]:
    """The items as a text of JSON and, where they came as records, what was noted of these.

    Raises ApiError: 400 what cannot be read; 413 too large; 415 another format.
    """
    # Options are checked, also where they have no effect.
    of_csv = csv_reader(request)
    rest = pieces(request)
    beginning = await beginning_of(rest)
    media_type = format_of(request, beginning)
    if media_type == JSON:
        return json_text(beginning + b"".join([piece async for piece in rest])), None
    decoder = Decoder()
    reader: RecordReader = NdjsonReader() if media_type == NDJSON else of_csv
    reader.feed(decoder.feed(beginning))
    async for piece in rest:
        reader.feed(decoder.feed(piece))
    reader.feed(decoder.feed(b"", final=True))
    upload = reader.finish()
    return upload.array, upload


async def beginning_of(body: AsyncIterator[bytes]) -> bytes:
    """The body up to a piece that holds more than white space and a byte order mark."""
    beginning = bytearray()
    async for piece in body:
        beginning += piece
        if len(beginning) > len(codecs.BOM_UTF8) and content_of(piece):
            break
    return bytes(beginning)


def format_of(request: Request, beginning: bytes) -> str:
    content_type = request.headers.get("content-type")
    media_type = recognize(content_type, beginning)
    if media_type not in (JSON, NDJSON, CSV):
        raise ApiError(
            415,
            "unsupported_media_type",
            "The body must be JSON, NDJSON or CSV",
            hint=f"Send the header Content-Type: {JSON}, {NDJSON} or {CSV}.",
        )
    check_charset(content_type, "utf-16")
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
    for parameter in DEFAULTS:
        name = parameter.removeprefix("default_")
        if text := text_param(request, parameter):
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
