"""Files that are read from the database and streamed in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryDirectory, TemporaryFile
from typing import BinaryIO
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pyshell.api.authentication import authenticate
from pyshell.api.large_answers import bounded
from pyshell.api.media_types import WORKBOOK
from pyshell.api.pieces import in_pieces
from pyshell.api.workbook_writer import WorkbookWriter
from pyshell.postgres.compact import PIECE_BYTES

# The first piece is small, so that it arrives immediately. A process holds one piece of a file at a time.
FIRST_PIECE = 100
PIECE = 500

Piece = tuple[bytes | None, bytes | None]
# Given the position after which to read and a number of rows: their lines, and the position of the last one, None if there are no more.
ReadPiece = Callable[[int, int], Awaitable[Piece]]
# Raises ApiError or DatabaseError once the reader may no longer read.
Check = Callable[[], Awaitable[object]]


async def file_response(
    request: Request, organization_id: UUID, name: str, media_type: str, read_piece: ReadPiece, check: Check | None = None, **headers: str
) -> Response:
    """A file to download, as one of the large responses of the organization. For a workbook, lines are JSON arrays, header first.

    However slowly it is read, no piece is sent after its API key has ended, or after `check` has failed. A session token lasts a minute,
    and may expire meanwhile.
    """
    if check is None and "x-api-key" in request.headers:
        check = partial(authenticate, request)
    if check is not None:
        read_piece = partial(read_while_allowed, read_piece, check)
    headers |= {"Content-Type": media_type, "Content-Disposition": f'attachment; filename="{name}"'}
    stream = stream_workbook if media_type == WORKBOOK else stream_file
    return await bounded(request, organization_id, partial(stream, request, read_piece, headers))


async def read_while_allowed(read_piece: ReadPiece, check: Check, after: int, limit: int) -> Piece:
    if after >= 0:
        await check()
    return await read_piece(after, limit)


async def stream_file(request: Request, read_piece: ReadPiece, headers: Mapping[str, str]) -> Response:
    """Streams a file: neither side holds all of it, and no pooled connection waits for a slow client.

    An error in the first piece can still become an error response: nothing has been sent.
    """
    first = await read_piece(-1, FIRST_PIECE)
    if request.method == "HEAD":
        return only_headers(headers)

    async def pieces() -> AsyncIterator[bytes]:
        lines, last_position = first
        while True:
            async for piece in in_pieces(lines or b""):
                yield piece
            if last_position is None:
                return
            lines, last_position = await read_piece(int(last_position), PIECE)

    return StreamingResponse(pieces(), headers=headers)


async def stream_workbook(request: Request, read_piece: ReadPiece, headers: Mapping[str, str]) -> Response:
    """Like `stream_file`, but completes the file before sending it."""
    lines, last_position = await read_piece(-1, FIRST_PIECE)
    if request.method == "HEAD":
        return only_headers(headers)
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="results-"))
        file = stack.enter_context(TemporaryFile(dir=folder))
        workbook = WorkbookWriter(file, folder)
        await asyncio.to_thread(workbook.add, lines or b"")
        while last_position is not None:
            lines, last_position = await read_piece(int(last_position), PIECE)
            await asyncio.to_thread(workbook.add, lines or b"")
        await asyncio.to_thread(workbook.close)
        size = file.tell()
        file.seek(0)
        kept = stack.pop_all()
    return StreamingResponse(sent(file, kept), headers={**headers, "Content-Length": str(size)})


def only_headers(headers: Mapping[str, str]) -> Response:
    """The response to HEAD, without a Content-Length: that of the file is not known yet, and it is not 0."""
    response = Response(headers=headers)
    del response.headers["content-length"]
    return response


async def sent(file: BinaryIO, kept: ExitStack) -> AsyncIterator[bytes]:
    """The bytes of the file, which is deleted afterwards."""
    with kept:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece
