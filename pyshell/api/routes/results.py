"""The results of a batch: its items as pages, and all of them as one file."""

from __future__ import annotations

import codecs
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from pyshell.api.errors import ApiError
from pyshell.api.heavy_work import heavy_turn
from pyshell.api.large_answers import bounded
from pyshell.api.media_types import NDJSON, WORKBOOK
from pyshell.api.routes.batch_lookups import job_id
from pyshell.api.routes.consistency import reader
from pyshell.api.routes.files import Piece, file_response
from pyshell.api.routes.parameters import MAX_INTEGER, boolean_param, integer_param, page_params, page_response, text_param, text_params
from pyshell.postgres.calls import call, call_row
from pyshell.postgres.compact import compact_lines

MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8; header=present",
    "ndjson": NDJSON,
    "xlsx": WORKBOOK,
}
# What the header Accept contains if one of them is wanted.
ACCEPTED = {"ndjson": "ndjson", "spreadsheetml": "xlsx"}


async def list_batch_lookup_items(request: Request) -> Response:
    return await bounded(request, request.user.organization_id, partial(page_of_items, request))


async def page_of_items(request: Request) -> Response:
    async with heavy_turn(request):
        body = await call(
            reader(request),
            "list_batch_lookup_items",
            organization_id=request.user.organization_id,
            job_id=job_id(request),
            **item_filter(request),
            **text_params(request, "q"),
            **page_params(request),
        )
        return page_response(request, body)


async def stream_batch_lookup_results(request: Request) -> Response:
    file_format = wanted_format(request)
    job = job_id(request)
    beginning = after_param(request, file_format)
    source = reader(request)
    options = {**item_filter(request), **text_params(request, "layout")}
    mark = codecs.BOM_UTF8 if boolean_param(request, "bom") and file_format == "csv" and beginning < 0 else b""

    async def read_piece(after: int, limit: int) -> Piece:
        async with heavy_turn(request):
            lines, last_position = await call_row(
                source,
                "get_batch_lookup_results",
                organization_id=request.user.organization_id,
                job_id=job,
                format=file_format,
                after=max(after, beginning),
                limit=limit,
                **options,
            )
            if file_format == "ndjson" and lines:
                lines = await compact_lines(lines)
        if after < 0:
            lines = mark + (lines or b"")
        return lines, last_position

    name = f"batch-lookup-{job}.{file_format}"
    return await file_response(request, request.user.organization_id, name, MEDIA_TYPES[file_format], read_piece, Vary="Accept")


def item_filter(request: Request) -> dict[str, object]:
    return {"status": text_param(request, "status"), "error_code": text_param(request, "error_code")}


def after_param(request: Request, file_format: str) -> int:
    """The position of the last item that the client has, -1 for none. A workbook cannot be continued."""
    if "after" not in request.query_params:
        return -1
    if file_format == "xlsx":
        raise ApiError(400, "invalid_after", "after is for CSV and NDJSON")
    after = integer_param(request, "after")
    if after is None or after < 0:
        raise ApiError(400, "invalid_after", f"after must be a whole number from 0 to {MAX_INTEGER}")
    return after


def wanted_format(request: Request) -> str:
    """One of MEDIA_TYPES, by the parameter `format`, else by the header Accept, else CSV."""
    file_format = text_param(request, "format")
    if file_format is None:
        accept = request.headers.get("accept", "")
        return next((name for part, name in ACCEPTED.items() if part in accept), "csv")
    if file_format not in MEDIA_TYPES:
        raise ApiError(400, "invalid_format", f"format must be one of {', '.join(MEDIA_TYPES)}")
    return file_format
