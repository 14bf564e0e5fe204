"""A client for many small requests that needs next to no CPU time itself, so that the server is what is measured."""

from __future__ import annotations

import asyncio
import math
import time
from typing import cast

HEADERS_END = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """A persistent connection with one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(HEADERS_END)
        if end < 0 or self._answer is None:
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(self._received) >= end + len(HEADERS_END) + length:
            self._received.clear()
            self._answer.set_result(int(head[9:12]))
            self._answer = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None:
            self._answer.set_exception(error or ConnectionResetError())

    async def send(self, request: bytes) -> int:
        """The status of the response."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def connect(port: int, count: int) -> list[Connection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(count)]


async def closed_loop(port: int, request: bytes, connections: int, seconds: float) -> float:
    """Requests a second if each connection sends the next one as soon as the response to the last one arrives."""
    answered = 0
    ends_at = time.perf_counter() + seconds

    async def drive(connection: Connection) -> None:
        nonlocal answered
        while time.perf_counter() < ends_at:
            status = await connection.send(request)
            if status != 200:
                raise RuntimeError(f"answered {status}")
            answered += 1

    open_connections = await connect(port, connections)
    started = time.perf_counter()
    await asyncio.gather(*map(drive, open_connections))
    elapsed = time.perf_counter() - started
    for connection in open_connections:
        connection.close()
    return answered / elapsed


async def open_loop(port: int, request: bytes, per_second: float, seconds: float) -> list[float]:
    """Milliseconds from when each request was due until its response, at a steady rate; infinite if the service was too busy."""
    latencies: list[float] = []
    # All take turns, because the server closes a connection that is idle for some seconds.
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in await connect(port, 64):
        free.put_nowait(connection)
    tasks = []

    async def poll(due: float) -> None:
        connection = await free.get()
        status = await connection.send(request)
        if status not in (200, 503):
            raise RuntimeError(f"answered {status}")
        latencies.append((time.perf_counter() - due) * 1000 if status == 200 else math.inf)
        free.put_nowait(connection)

    started = time.perf_counter()
    for number in range(int(per_second * seconds)):
        due = started + number / per_second
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(poll(due)))
    await asyncio.gather(*tasks)
    while not free.empty():
        free.get_nowait().close()
    return latencies
