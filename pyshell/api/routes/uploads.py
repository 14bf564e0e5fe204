"""Reads an upload from a request: its format, its compression, and its options."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import orjson
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from pyshell.api.errors import ApiError, body_too_large
from pyshell.api.heavy_work import heavy_turn
from pyshell.api.json_bodies import check_json
from pyshell.api.media_types import JSON, MULTIPART, NDJSON, charset_of, check_charset, declared_type, recognize, recognize_upload
from pyshell.api.routes.parameters import MAX_JSON_BYTES, declared_bytes, json_text, text_param
from pyshell.api.uploads.bodies import gunzipped, limited
from pyshell.api.uploads.files import WORKBOOKS, read_file
from pyshell.api.uploads.ndjson import read_ndjson
from pyshell.api.uploads.tables import MAX_FILE_BYTES
from pyshell.api.uploads.texts import declared_encoding, decode
from pyshell.postgres.compact import PIECE_BYTES
from pyshell.postgres.shares import Shares, TakenError

GZIP = b"\x1f\x8b"
DEFAULTS = ("default_reference_id", "default_building_type", "default_country_code", "default_device_ids")
# In RFC 5987, as .NET sends it; beside it may be a `filename` for receivers that do not know it.
_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=\s*\"?(utf-8|iso-8859-1)'[^']*'([^;\"\s]*)", re.IGNORECASE)
MULTIPART_HINT = "Send one file: curl -F file=@sites.csv. Options go into the query string."


@dataclass(frozen=True, slots=True)
class Upload:
    """Arguments of api.submit_batch_lookup and api.submit_upload: the items as JSON, or a file with the items, and its name."""

    request: str | None
    file: str | None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of an upload, their Content-Type, and the name of the file, which only a form contains."""

    data: bytes
    content_type: str | None
    name: str | None = None


@asynccontextmanager
async def one_upload(request: Request) -> AsyncIterator[Upload]:
    """The upload in a request, one of a few that its organization may have in progress. For a large one, the context lasts for its turn.

    Also raises ApiError 429 if the organization has too many, 503 if its turn does not come.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(share_of_uploads(request))
        # Options are checked even if they have no effect.
        options, sheet = file_options(request), text_param(request, "sheet")
        body = await read_body(request)
        # The size of a workbook says little about how long it takes to read.
        if len(body.data) > PIECE_BYTES or body.data.startswith(WORKBOOKS):
            await stack.enter_async_context(heavy_turn(request))
        upload = await asyncio.to_thread(read, body, options, sheet)
        yield replace(upload, name=body.name)


@asynccontextmanager
async def share_of_uploads(request: Request) -> AsyncIterator[None]:
    """One of the few megabytes-long bodies that its organization may have in progress. Raises ApiError 429 if there are too many."""
    uploads: Shares = request.app.state.uploads
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(uploads.one_of(request.user.organization_id))
        except TakenError:
            raise ApiError(
                429, "too_many_uploads", f"{uploads.size} uploads of the organization are in progress", headers={"Retry-After": "5"}
            ) from None
        yield


@asynccontextmanager
async def share_if_large(request: Request) -> AsyncIterator[None]:
    """Like `share_of_uploads`, for a body that is usually small: then, nothing is needed."""
    async with AsyncExitStack() as stack:
        if not 0 < declared_bytes(request) <= MAX_JSON_BYTES:
            await stack.enter_async_context(share_of_uploads(request))
        yield


def read(body: Body, options: dict[str, Any], sheet: str | None) -> Upload:
    """Reads a whole file, in a thread so that other requests continue meanwhile.

    Raises ApiError: 400 unreadable; 415 unsupported format.
    """
    kind = recognize_upload(body.content_type, body.data)
    if kind == JSON:
        check_charset(body.content_type)
        return Upload(json_text(body.data), None)
    if kind == NDJSON:
        data = decode(body.data, charset_of(body.content_type) or "utf-8")[0].encode()
        check_json(data)
        items, lines = read_ndjson(data)
        return Upload(items, json.dumps({"lines": lines}))
    check_line_ends(body)
    table = read_file(body.data, charset_of(body.content_type), sheet)
    return Upload(None, orjson.dumps(table.members() | options).decode())


def check_line_ends(body: Body) -> None:
    """Refuses a file whose lines `curl -d` has joined into one: its content would be taken for column names."""
    one_line = body.data.strip() and not any(end in body.data for end in (b"\n", b"\r", b"\0"))
    if one_line and declared_type(body.content_type) == "application/x-www-form-urlencoded":
        raise ApiError(
            400,
            "empty_file",
            "The file is a single line",
            hint="`curl -d` removes line breaks. Send the file with -F file=@sites.csv or --data-binary @sites.csv.",
        )


async def read_body(request: Request) -> Body:
    """The body, decompressed and within its limits; of a multipart form, its only file."""
    content_type = request.headers.get("content-type")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise ApiError(415, "unsupported_encoding", "The body may be compressed only with gzip")
    if declared_bytes(request) > MAX_FILE_BYTES:
        raise body_too_large(MAX_FILE_BYTES)
    pieces = limited(request.stream(), MAX_FILE_BYTES)
    if encoding != "identity":
        pieces = gunzipped(pieces, MAX_FILE_BYTES)
    if recognize(content_type, b"") == MULTIPART:
        body = await file_of_form(request, pieces)
    else:
        body = Body(b"".join([piece async for piece in pieces]), content_type)
    if body.data.startswith(GZIP):
        # The file itself is compressed, such as sites.csv.gz.
        body = replace(body, data=b"".join([piece async for piece in gunzipped(one(body.data), MAX_FILE_BYTES)]))
    return body


async def file_of_form(request: Request, pieces: AsyncGenerator[bytes, None]) -> Body:
    """The only file of a form, as sent by `curl -F file=@sites.csv` and by browsers."""
    wrong = ApiError(400, "invalid_form", "A form must have one file, and nothing else", hint=MULTIPART_HINT)
    _, parameters = parse_options_header(request.headers["content-type"])
    if b"charset" in parameters:
        # The parser would accept any codec of Python, some of which do not produce text, and Python caches every name that it looks up.
        declared_encoding(parameters[b"charset"].decode("latin-1"))
    parser = FormParser(request.headers, pieces, max_files=1, max_fields=0)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise wrong from error
    if not parser.is_complete:
        parser.close()
        raise ApiError(400, "invalid_form", "The form is cut short: the boundary at its end is missing", hint=MULTIPART_HINT)
    try:
        [file] = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        name = (file.filename or "").replace("\0", "").strip()[:200]
        return Body(await file.read(), file.content_type, name or None)
    except ValueError as error:
        raise wrong from error
    finally:
        await form.close()


class FormParser(MultiPartParser):
    """Knows `filename*`, and whether the form is complete. The file of an incomplete form has no other owner, and has to be closed."""

    is_complete = False

    def on_headers_finished(self) -> None:
        part = self._current_part
        extended = _EXTENDED_NAME.search(part.content_disposition or b"")
        if extended and part.content_disposition:
            # Without any `filename`, it would not be a file.
            part.content_disposition += b'; filename=""'
        super().on_headers_finished()
        if extended and part.file:
            part.file.filename = unquote(extended[2].decode("latin-1"), extended[1].decode())

    def on_end(self) -> None:
        self.is_complete = True

    def close(self) -> None:
        for file in self._files_to_close_on_error:
            file.close()


async def one(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


def file_options(request: Request) -> dict[str, Any]:
    """`columns` is a JSON object of fields and columns; `default_...` are values for rows without one."""
    defaults = {name.removeprefix("default_"): text for name in DEFAULTS if (text := text_param(request, name))}
    return {"columns": column_param(request), "defaults": defaults}


def column_param(request: Request) -> dict[str, str | int]:
    wrong = ApiError(
        400,
        "invalid_columns",
        "columns must be a JSON object of fields and their columns, by name or by number",
        hint='Such as {"reference_id": "Deal", "city": 4}.',
    )
    try:
        columns = orjson.loads(text_param(request, "columns") or "{}")
    except ValueError as error:
        raise wrong from error
    if not isinstance(columns, dict) or not all(type(column) in (str, int) for column in columns.values()):
        raise wrong
    return columns
