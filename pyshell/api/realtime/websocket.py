"""The server's side of a WebSocket: uvicorn's, which would wait without end for a client that reads nothing to take what is left for it."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# How long a client may take to read the last messages and the close frame.
FLUSH_SECONDS = 10.0


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Aborts a connection that is over, when it cannot be closed in order."""

    async def run_asgi(self) -> None:
        await super().run_asgi()
        # Nothing happens when it is closed by then.
        self.loop.call_later(FLUSH_SECONDS, self.transport.abort)
