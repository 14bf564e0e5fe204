"""Files that are read from the database and streamed in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

# The first piece is small, so that it comes at once. A process holds one piece of a file at a time.
FIRST_PIECE = 100
PIECE = 500

Piece = tuple[bytes | None, bytes | None]


async def stream_file(request: Request, read_piece: Callable[[int, int], Awaitable[Piece]], headers: Mapping[str, str]) -> Response:
    """Neither side holds the whole file, and no pooled connection waits for a slow client.

    `read_piece` gets the position after which to read and how many rows; it answers their lines and the position of the last one, null
    when there are no more. An error in the first piece can still be answered: nothing has been sent.
    """
    first = await read_piece(-1, FIRST_PIECE)

    async def pieces() -> AsyncIterator[bytes]:
        lines, last_position = first
        yield lines or b""
        while last_position is not None:
            lines, last_position = await read_piece(int(last_position), PIECE)
            yield lines or b""

    return Response(headers=headers) if request.method == "HEAD" else StreamingResponse(pieces(), headers=headers)
