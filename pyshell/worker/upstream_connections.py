"""HTTP/1.1 connections to one server, for thousands of small POSTs a second.

The parser is llhttp (through httptools); a request costs one future and no task. `bench/README.md` has the measurements that led
here. Not spoken: HTTP/2, proxies, redirects, cookies.
"""

import asyncio
import ssl
import zlib
from collections.abc import Mapping
from socket import gaierror
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

CONNECT_TIMEOUT: Final = 5.0
# Below the 5 s after which uvicorn closes an idle connection: a request must not meet the close halfway.
IDLE_TIMEOUT: Final = 4.0
FRAMING_HEADERS: Final = (b"content-length", b"transfer-encoding")


class ExchangeError(Exception):
    """No usable answer came. `error_class` is timeout, unreachable, connection, tls, dns, response_too_large or invalid_response."""

    def __init__(self, error_class: str) -> None:
        super().__init__(error_class)
        self.error_class = error_class


class Response(NamedTuple):
    """Status, headers by lower-case name, and the body, decompressed."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Connection(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Response] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.idle_since = 0.0
        self.is_open = False

    def send(self, request: bytes, seconds: float, max_bytes: int) -> asyncio.Future[Response]:
        """Send one request; the future's answer comes, or its ExchangeError, within `seconds`."""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_size = 0
        self._max_bytes = max_bytes
        self._status = 0
        self._answer = self._loop.create_future()
        self._timer = self._loop.call_later(seconds, self._fail, "timeout")
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self.is_open = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("invalid_response")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        ends_with_connection = (
            self._answer is not None and self._status >= 200 and not any(name in self._headers for name in FRAMING_HEADERS)
        )
        if ends_with_connection and exc is None:
            self._succeed()
        else:
            self._fail("connection")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if int(self._headers.get(b"content-length", 0)) > self._max_bytes:
            self._fail("response_too_large")

    def on_body(self, chunk: bytes) -> None:
        self._body.append(chunk)
        self._body_size += len(chunk)
        if self._body_size > self._max_bytes:
            self._fail("response_too_large")

    def on_message_complete(self) -> None:
        if self._status < 200:  # 100 Continue and the like; the answer is still to come
            self._headers.clear()
        else:
            self.is_open = self.is_open and self._parser.should_keep_alive()
            self._succeed()

    def _succeed(self) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        self._timer.cancel()
        self.idle_since = self._loop.time()
        try:
            body = decompress(b"".join(self._body), self._headers.get(b"content-encoding"), self._max_bytes)
        except ExchangeError as error:
            answer.set_exception(error)
        else:
            answer.set_result(Response(self._status, self._headers, body))

    def _fail(self, error_class: str) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        self._timer.cancel()
        self.close()
        answer.set_exception(ExchangeError(error_class))


def decompress(body: bytes, encoding: bytes | None, max_bytes: int) -> bytes:
    """Undo gzip, the only encoding that requests say they accept."""
    if encoding is None or encoding.lower() == b"identity":
        return body
    if encoding.lower() not in (b"gzip", b"x-gzip"):
        raise ExchangeError("invalid_response")
    decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = decompressor.decompress(body, max_bytes + 1)
    except zlib.error:
        raise ExchangeError("invalid_response") from None
    if len(plain) > max_bytes:
        raise ExchangeError("response_too_large")
    if not decompressor.eof:
        raise ExchangeError("invalid_response")
    return plain


class ConnectionPool:
    """Connections to the server of `url`: as many as there are requests at once, kept for the next ones."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http or https URL: {url}")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._authority = parts.netloc.rpartition("@")[2]
        self._idle: list[Connection] = []

    def prepare(self, headers: Mapping[str, str]) -> bytes:
        """The start of a POST to the pool's URL, up to where its Content-Length comes."""
        lines = [f"POST {self._target} HTTP/1.1", f"Host: {self._authority}", "Accept-Encoding: gzip"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header contains a line break")
        return "\r\n".join([*lines, "Content-Length: "]).encode("latin-1")

    async def post(self, prepared: bytes, body: bytes, seconds: float, max_bytes: int) -> Response:
        """POST `body`; raises ExchangeError. The whole exchange, connecting included, takes at most `seconds`."""
        started = asyncio.get_running_loop().time()
        connection = self._take_idle(started)
        if connection is None:
            connection = await self._connect(min(seconds, CONNECT_TIMEOUT))
            seconds -= asyncio.get_running_loop().time() - started
        try:
            answer = await connection.send(b"%b%d\r\n\r\n%b" % (prepared, len(body), body), seconds, max_bytes)
        except BaseException:
            connection.close()
            raise
        if connection.is_open:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _take_idle(self, now: float) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and now - connection.idle_since < IDLE_TIMEOUT:
                return connection
            connection.close()
        return None

    async def _connect(self, seconds: float) -> Connection:
        try:
            async with asyncio.timeout(seconds):
                _, connection = await asyncio.get_running_loop().create_connection(Connection, self._host, self._port, ssl=self._ssl)
        except TimeoutError:
            raise ExchangeError("unreachable") from None
        except (gaierror, UnicodeError):
            raise ExchangeError("dns") from None
        except ssl.SSLError:
            raise ExchangeError("tls") from None
        except OSError:
            raise ExchangeError("unreachable") from None
        return connection
