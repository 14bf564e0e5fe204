"""A TCP proxy that can fall silent, with open connections on which nothing passes, and that can abort them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Forwards to a port of this machine."""

    def __init__(self, target: int, loop: asyncio.AbstractEventLoop) -> None:
        self.target = target
        self._loop = loop
        self.port = 0
        # Connections that the target did not accept.
        self.refused = 0
        self._open = threading.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._stranded: set[asyncio.StreamWriter] = set()

    def fall_silent(self) -> None:
        self._open.clear()

    def strand(self) -> None:
        """Forwards nothing more on existing connections, which stay open, as if a router had forgotten them."""
        self._loop.call_soon_threadsafe(lambda: self._stranded.update(self._writers))

    def recover(self) -> None:
        """Forwards again for new connections; existing ones are aborted."""
        self.cut()
        self._open.set()

    def cut(self) -> None:
        """Aborts the existing connections."""
        self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        self._stranded.clear()
        for writer in self._writers:
            writer.transport.abort()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            self.refused += 1
            writer.transport.abort()
            return
        ends = {writer, other_writer}
        self._writers |= ends
        await asyncio.gather(self._forward(reader, other_writer), self._forward(other_reader, writer))
        self._writers -= ends
        self._stranded -= ends

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                while not self._open.is_set() or writer in self._stranded:  # noqa: ASYNC110 (set from another thread)
                    await asyncio.sleep(0.05)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@contextmanager
def running_proxy(target: int) -> Iterator[Proxy]:
    loop = asyncio.new_event_loop()
    proxy = Proxy(target, loop)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(proxy.handle, "127.0.0.1", 0)

    async def stop() -> None:
        server.close()
        proxy.recover()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
