"""HTTP/1.1 as uvicorn speaks it, with bounds on what precedes the application: sizes, time, and the number of connections."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Literal

from httptools import HttpParserUpgrade
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from pyshell.api.errors import ApiError

# Request line and header fields together; trailers have the same limit.
MAX_HEAD_BYTES: Final = 64 * 1024
# Header fields and query parameters together: each costs more than its bytes.
MAX_HEADERS: Final = 256
# Bytes that are parsed in one go, besides those of a body whose length is known. A request may have 18 of them, and takes some 10
# microseconds.
PIECE_BYTES: Final = 8192
HEAD_SECONDS = 10.0
# For this long, whatever a refused client still sends is discarded: closing the connection earlier would reset it, and lose the response.
LINGER_SECONDS = 2.0
# It is read this rarely, so that the client has to wait rather than we.
DROP_SECONDS = 0.05
# A client that has not read this much of what waits for it in this time is gone, or wants to tie up memory.
TAKE_SECONDS = 30.0
MIN_TAKEN_BYTES = 32 * 1024
MAX_CONNECTIONS = 10_000

HEAD_TOO_LARGE = ApiError(
    431,
    "headers_too_large",
    f"The URL and the headers may have at most {MAX_HEAD_BYTES:,} bytes together,"
    f" and there may be at most {MAX_HEADERS} headers and query parameters",
)
HEAD_INCOMPLETE = ApiError(408, "incomplete_headers", f"The headers of the request did not arrive within {HEAD_SECONDS:.0f} seconds")
TOO_MANY_CONNECTIONS = ApiError(503, "busy", "There are too many connections; please try again", headers={"Retry-After": "5"})


class HeadTooLargeError(Exception):
    """Ends the parsing."""


class Intake(FlowControl):
    """Reads no further while something that has been read is not yet parsed."""

    is_behind = False

    def fall_behind(self) -> None:
        self.is_behind = True
        self._transport.pause_reading()

    def catch_up(self) -> None:
        self.is_behind = False
        if not self.read_paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def resume_reading(self) -> None:
        if self.is_behind:
            self.read_paused = False
        else:
            super().resume_reading()


class BoundedProtocol(HttpToolsProtocol):
    """Answers 431 to heads beyond MAX_HEAD_BYTES or MAX_HEADERS, 408 to those incomplete after HEAD_SECONDS, and closes the connection.

    Input is parsed in pieces, between which other tasks run, and no further while a request waits for the answer to the one before it: the
    256 KB that uvloop reads at once may be fourteen thousand requests.
    """

    _phase: Literal["idle", "head", "body"] = "head"
    # The head as parsed, and the bytes received since the parser last produced any of it: it does not notice a field that never ends.
    _head_bytes = 0
    _headers = 0
    _pending_bytes = 0
    _is_refused = False
    _timer: asyncio.TimerHandle | None = None
    # The request being handled; `cycle` is the last one received, which may have to wait for its turn.
    _answered: RequestResponseCycle | None = None
    # While more waits for the client than the transport's limit.
    _taking: asyncio.TimerHandle | None = None
    # What the parser is given; whether that begins with a head that has been handled.
    _parsed = b""
    _is_known_head = False
    # Of the request's body, if it has a Content-Length: the bytes that are not parsed yet.
    _body_left = 0
    flow: Intake
    _next_piece: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Intake(transport)
        self._unparsed = bytearray()
        if self.connections_of_all() > MAX_CONNECTIONS:
            self._refuse(TOO_MANY_CONNECTIONS)
        else:
            self._after(HEAD_SECONDS, self._head_is_late)

    def connections_of_all(self) -> int:
        """The connections of all processes that serve together: here, of this one."""
        return len(self.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_watching()
        self._forget_input()
        super().connection_lost(exc)
        if self._answered is not None and not self._answered.response_complete:
            # uvicorn notifies only the last request, and the response to this one would be written to a closed connection.
            self._answered.disconnected = True
            self._answered.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_client()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_watching()

    def _watch_client(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._taking = self.loop.call_later(TAKE_SECONDS, self._check_client, waiting)

    def _check_client(self, waited: int) -> None:
        if waited - self.transport.get_write_buffer_size() < MIN_TAKEN_BYTES:
            self.transport.abort()
        else:
            self._watch_client()

    def _stop_watching(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self._drop()
            return
        is_behind = bool(self._unparsed or self.pipeline)
        self._unparsed += data
        if not is_behind:
            self._parse_piece()
        if self._unparsed:
            self.flow.fall_behind()

    def _parse_piece(self) -> None:
        self._next_piece = None
        if not self._is_refused and not self.transport.is_closing():
            self._parse_first()
        if self._is_refused or self.transport.is_closing():
            self._forget_input()
        self._parse_on()

    def _parse_first(self) -> None:
        size = max(self._body_left, PIECE_BYTES)
        self._parsed = bytes(self._unparsed[:size])
        del self._unparsed[:size]
        if self._phase == "idle":
            self._phase = "head"
        self._pending_bytes += len(self._parsed)
        super().data_received(self._parsed)
        if self._is_refused or self.transport.is_closing():
            return
        if self._pending_bytes > MAX_HEAD_BYTES:
            self._refuse(HEAD_TOO_LARGE)
        elif self._phase == "head" and self._timer is None:
            self._after(HEAD_SECONDS, self._head_is_late)

    def _parse_on(self) -> None:
        """Parses the next piece soon; not before the requests that have been parsed are being answered."""
        if self._unparsed:
            if self._next_piece is None and not self.pipeline:
                self._next_piece = self.loop.call_soon(self._parse_piece)
        elif self.flow.is_behind:
            self.flow.catch_up()

    def _forget_input(self) -> None:
        self._unparsed.clear()
        if self._next_piece is not None:
            self._next_piece.cancel()
            self._next_piece = None

    def _unsupported_upgrade_warning(self) -> None:
        """Ignores an upgrade to anything but a WebSocket, as to HTTP/2 (RFC 9110, section 7.8).

        The parser takes what follows the head for another protocol, and then for another request. So it gets the lines that tell where the
        body ends again.
        """
        upgrade = sys.exception()
        assert isinstance(upgrade, HttpParserUpgrade)
        framing = [name + b": " + value for name, value in self.headers if name in (b"content-length", b"transfer-encoding")]
        self._is_known_head = True
        self._unparsed[:0] = b"\r\n".join([b"POST / HTTP/1.1", *framing, b"", b""]) + self._parsed[upgrade.args[0] :]

    def handle_websocket_upgrade(self) -> None:
        if self._is_answering():
            # That response would never learn that its client takes more, or is gone, and keep what it holds.
            self.transport.close()
        else:
            # A client sends no frames before the handshake is answered.
            self._forget_input()
            self.flow.catch_up()
            super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        if self._is_head_too_large():
            self._refuse(HEAD_TOO_LARGE)
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        if self._is_known_head:
            return
        self._phase = "head"
        self._head_bytes = self._headers = self._pending_bytes = self._body_left = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._is_known_head:
            return
        self._headers += url.count(b"&")
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_known_head:
            return
        self._headers += 1
        self._count(len(name) + len(value))
        # A trailer is not a header (RFC 9110, section 6.5.1): a proxy that sets X-Forwarded-For does not touch one in the client's
        # trailers.
        if self._phase == "head":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_known_head:
            self._is_known_head = False
            return
        self._phase = "body"
        self._pending_bytes = 0
        self._body_left = next((int(value.lstrip(b"0") or 0) for name, value in self.headers if name == b"content-length"), 0)
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending_bytes = 0
        self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and not self._should_upgrade():
            # The body is still to come.
            return
        self._phase = "idle"
        self._pending_bytes = 0
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._parse_on()
        if self._phase == "body":
            # The rest of this body is discarded: it may arrive, but not indefinitely.
            self._after(HEAD_SECONDS, self.transport.close)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._is_head_too_large():
            raise HeadTooLargeError

    def _is_head_too_large(self) -> bool:
        return self._head_bytes > MAX_HEAD_BYTES or self._headers > MAX_HEADERS

    def _head_is_late(self) -> None:
        if self._is_answering():
            # The response to the previous request continues.
            self._after(HEAD_SECONDS, self._head_is_late)
        else:
            self._refuse(HEAD_INCOMPLETE)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: ApiError) -> None:
        """Responds, unless a response has begun, and closes the connection."""
        self._is_refused = True
        self._unset_keepalive_if_required()
        if self._phase == "body" or self._is_answering():
            self.transport.close()
            return
        self.transport.write(rendered(error))
        self.transport.write_eof()
        self._after(LINGER_SECONDS, self.transport.close)

    def _drop(self) -> None:
        """Discards what arrives for a moment."""
        if not self.transport.is_closing():
            self.transport.pause_reading()
            self.loop.call_later(DROP_SECONDS, self._drop_more)

    def _drop_more(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def rendered(error: ApiError) -> bytes:
    """The response as bytes: the application's middleware is not involved."""
    request_id = str(uuid.uuid4())
    body = json.dumps({"error": error.message, "code": error.code, "request_id": request_id}).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": request_id,
        "cache-control": "no-store",
        "connection": "close",
        **error.headers,
    }
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
