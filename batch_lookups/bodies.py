"""Sends requests, and reads bounded responses into memory: a server may send without end, or send little that decodes to much."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing, contextmanager

import httpx

from batch_lookups.errors import BatchLookupsError

# The limit of a decoded response, or of one record of results. The service's largest, files of full batches, have some tens of MB.
MAX_BYTES = 256 * 1024 * 1024
# These headers say how the body was sent; what is kept of it is decoded.
_TRANSFER_HEADERS = (b"content-encoding", b"content-length", b"transfer-encoding")


@contextmanager
def using_environment() -> Iterator[None]:
    """Turns httpx's errors about unusable proxies and certificates, raised when a client is created, into BatchLookupsError."""
    try:
        yield
    except BatchLookupsError:
        raise
    except (httpx.InvalidURL, ImportError, ValueError) as error:
        raise BatchLookupsError(f"The proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot be used: {error}") from error
    except OSError as error:
        raise BatchLookupsError(f"The certificates in SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {error}") from error


class _Gzip:
    """Decodes a body compressed with gzip. Raises httpx's error also if its end is missing, which httpx takes for whole."""

    def __init__(self, response: httpx.Response) -> None:
        self._request = response.request
        self._decoder = zlib.decompressobj(wbits=31)
        self._is_empty = True

    def feed(self, piece: bytes) -> bytes:
        self._is_empty = False
        try:
            return self._decoder.decompress(piece)
        except zlib.error as error:
            raise httpx.DecodingError(str(error), request=self._request) from error

    def end(self) -> None:
        # A 304 has the header, and no body.
        if not (self._decoder.eof or self._is_empty):
            raise httpx.RemoteProtocolError("the answer is cut off", request=self._request)


def _gzip_of(response: httpx.Response) -> _Gzip | None:
    is_gzip = response.headers.get("content-encoding", "").strip().lower() == "gzip"
    return _Gzip(response) if is_gzip and not response.is_stream_consumed else None


def pieces_of(response: httpx.Response) -> Iterator[bytes]:
    """The decoded body, as it arrives."""
    gzip = _gzip_of(response)
    if gzip is None:
        yield from response.iter_bytes()
        return
    for piece in response.iter_raw():
        yield gzip.feed(piece)
    gzip.end()


async def pieces_of_async(response: httpx.Response) -> AsyncIterator[bytes]:
    gzip = _gzip_of(response)
    if gzip is None:
        async for piece in response.aiter_bytes():
            yield piece
        return
    async for piece in response.aiter_raw():
        yield gzip.feed(piece)
    gzip.end()


class _Body:
    """The part of a body that has arrived. `add` raises BatchLookupsError once it is too long."""

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
        # As they were sent: httpx reads characters beyond ASCII, which proxies send, but does not take them.
        headers = [(name, value) for name, value in self._response.headers.raw if name.lower() not in _TRANSFER_HEADERS]
        return httpx.Response(self._response.status_code, headers=headers, content=b"".join(self._pieces), request=self._response.request)


def send(http: httpx.Client, request: httpx.Request) -> httpx.Response:
    """The whole response. Raises BatchLookupsError if it is too long, and httpx's errors."""
    with closing(http.send(request, stream=True)) as response:
        return read(response)


def read(response: httpx.Response) -> httpx.Response:
    """The whole response; its headers have arrived."""
    body = _Body(response)
    for piece in pieces_of(response):
        body.add(piece)
    return body.whole()


async def send_async(http: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    async with aclosing(await http.send(request, stream=True)) as response:
        return await read_async(response)


async def read_async(response: httpx.Response) -> httpx.Response:
    body = _Body(response)
    async for piece in pieces_of_async(response):
        body.add(piece)
    return body.whole()


def require_bounded(length: int) -> None:
    """Raises BatchLookupsError if a body, or a record, is too long to be kept in memory."""
    if length > MAX_BYTES:
        raise BatchLookupsError(f"The answer is longer than {MAX_BYTES // 1024**2} MB, more than Batch Lookups ever sends")
