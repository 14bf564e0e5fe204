"""The server's side of a WebSocket: uvicorn's, which would wait without end for a client that reads nothing to take what is left for it."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# How long a client may take to read the last messages and the close frame.
FLUSH_SECONDS = 10.0


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Aborts a connection that is over, when it cannot be closed in order, and takes a refusal for a complete answer.

    Otherwise uvicorn logs an error for each refused connection, of which anybody can make thousands.
    """

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    async def run_asgi(self) -> None:
        await super().run_asgi()
        # Nothing happens when it is closed by then.
        self.loop.call_later(FLUSH_SECONDS, self.transport.abort)
