"""Answers that are read into memory, and how long they may be: a server may send without end, or little that decodes to much."""

from __future__ import annotations

from contextlib import aclosing, closing

import httpx

from batch_lookups.errors import BatchLookupsError

# Of an answer, decoded, or of one record of results. The largest of the service's, files of full batches, have some tens of MB.
MAX_BYTES = 256 * 1024 * 1024
# What says how a body was sent, which is not how it is kept.
_OF_THE_WAY = ("content-encoding", "content-length", "transfer-encoding")


class _Body:
    """What has come of a body. Raises BatchLookupsError once it is too long."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._pieces: list[bytes] = []
        self._length = 0

    def add(self, piece: bytes) -> None:
        self._length += len(piece)
        require_bounded(self._length)
        self._pieces.append(piece)

    def whole(self) -> httpx.Response:
        """The response with its body."""
        headers = [(name, value) for name, value in self._response.headers.multi_items() if name not in _OF_THE_WAY]
        return httpx.Response(self._response.status_code, headers=headers, content=b"".join(self._pieces), request=self._response.request)


def send(http: httpx.Client, request: httpx.Request) -> httpx.Response:
    """The whole answer. Raises BatchLookupsError where it is too long, and what httpx raises."""
    with closing(http.send(request, stream=True)) as response:
        return read(response)


def read(response: httpx.Response) -> httpx.Response:
    """The whole of an answer of which the head has come."""
    body = _Body(response)
    for piece in response.iter_bytes():
        body.add(piece)
    return body.whole()


async def send_async(http: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    async with aclosing(await http.send(request, stream=True)) as response:
        return await read_async(response)


async def read_async(response: httpx.Response) -> httpx.Response:
    body = _Body(response)
    async for piece in response.aiter_bytes():
        body.add(piece)
    return body.whole()


def require_bounded(length: int) -> None:
    """Raises BatchLookupsError: what is that long is not kept in memory."""
    if length > MAX_BYTES:
        raise BatchLookupsError(f"The answer is longer than {MAX_BYTES // 1024**2} MB, and so none of Batch Lookups")
