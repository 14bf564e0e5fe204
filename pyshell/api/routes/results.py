"""What came of a batch: its items page by page, and all of them as one file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pyshell.api.errors import ApiError
from pyshell.api.routes.batch_lookups import job_id
from pyshell.api.routes.parameters import page_params, page_response, status_param, text_param
from pyshell.postgres.calls import call, call_row

MEDIA_TYPES = {"csv": "text/csv; charset=utf-8; header=present", "ndjson": "application/x-ndjson"}

# The first piece is small, so that it comes at once; the others are what a process holds of a batch at any time.
FIRST_PIECE_ITEMS = 100
PIECE_ITEMS = 500


async def list_batch_lookup_items(request: Request) -> Response:
    body = await call(
        request.app.state.pool,
        "list_batch_lookup_items",
        organization_id=request.user.organization_id,
        job_id=job_id(request),
        **item_filter(request),
        **page_params(request),
    )
    return page_response(request, body)


async def stream_batch_lookup_results(request: Request) -> Response:
    """A file, read and sent piece by piece: neither side holds the batch, and no connection waits for a slow client."""
    file_format = wanted_format(request)
    job = job_id(request)

    async def read_piece(after: int, limit: int) -> tuple[bytes, int | None]:
        lines, last_position = await call_row(
            request.app.state.pool,
            "get_batch_lookup_results",
            organization_id=request.user.organization_id,
            job_id=job,
            format=file_format,
            after=after,
            limit=limit,
            **item_filter(request),
        )
        return lines or b"", int(last_position) if last_position else None

    # Before anything is sent, so that an error can still be answered.
    first = await read_piece(-1, FIRST_PIECE_ITEMS)

    async def pieces() -> AsyncIterator[bytes]:
        lines, last_position = first
        yield lines
        while last_position is not None:
            lines, last_position = await read_piece(last_position, PIECE_ITEMS)
            yield lines

    headers = {
        "Content-Type": MEDIA_TYPES[file_format],
        "Content-Disposition": f'attachment; filename="{file_name(job, file_format)}"',
        "Vary": "Accept",
    }
    if request.method == "HEAD":
        return Response(headers=headers)
    return StreamingResponse(pieces(), headers=headers)


def item_filter(request: Request) -> dict[str, object]:
    return {"status": status_param(request), "error_code": text_param(request, "error_code")}


def wanted_format(request: Request) -> str:
    """`csv` or `ndjson`, by the parameter `format`, else by the header Accept, else CSV."""
    file_format = text_param(request, "format")
    if file_format is None:
        return "ndjson" if "ndjson" in request.headers.get("accept", "") else "csv"
    if file_format not in MEDIA_TYPES:
        raise ApiError(400, "invalid_format", f"format must be one of {', '.join(MEDIA_TYPES)}")
    return file_format


def file_name(job: UUID, file_format: str) -> str:
    return f"batch-lookup-{job}.{file_format}"
