"""The server's side of a WebSocket. uvicorn's own waits indefinitely until a client that reads nothing takes what is left for it, and
handles everything that a client has sent in one go.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# How long a client may take to read the last messages and the close frame.
FLUSH_SECONDS = 10.0
# Bytes that are handled in one go. A frame takes at least six of them, and some 10 microseconds.
PIECE_BYTES = 1024
# After a piece of a larger input, a connection waits this many times as long as the piece took.
REST = 4


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Aborts a finished connection that cannot be closed in order, and treats a refusal as a complete response.

    Otherwise uvicorn logs an error for each refused connection, and anybody can cause thousands. Input is handled in
    pieces, between which other tasks run: the megabytes that uvloop reads at once may be frames for many seconds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unhandled = bytearray()
        self._next_piece: asyncio.Handle | None = None

    def data_received(self, data: bytes) -> None:
        self._unhandled += data
        if self._next_piece is None:
            self._handle_piece()
        self._read_no_further()

    def _handle_piece(self) -> None:
        self._next_piece = None
        if self.transport.is_closing():
            self._unhandled.clear()
            return
        piece = bytes(self._unhandled[:PIECE_BYTES])
        del self._unhandled[:PIECE_BYTES]
        began = time.monotonic()
        super().data_received(piece)
        if self._unhandled:
            self._next_piece = self.loop.call_later(REST * (time.monotonic() - began), self._handle_piece)
        elif not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _read_no_further(self) -> None:
        """Pauses reading until what has been read is handled, even if uvicorn resumes it."""
        if self._unhandled and not self.transport.is_closing():
            self.transport.pause_reading()

    def send_receive_event_to_app(self) -> None:
        # uvicorn closes such a connection in the same way, but logs an error for each.
        if self.curr_msg_data_type == "text" and not is_utf_8(b"".join(self.frames)):
            self.conn.send_close(1007)
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()

    async def receive(self) -> Any:
        message = await super().receive()
        self._read_no_further()
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        self._read_no_further()
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    async def run_asgi(self) -> None:
        await super().run_asgi()
        # This does nothing if it is closed by then.
        self.loop.call_later(FLUSH_SECONDS, self.transport.abort)


def is_utf_8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
