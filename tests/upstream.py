"""An incentives API for tests: a real HTTP server on a thread, which responds as instructed, even wrongly."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pyshell.worker.signatures import ANSWER_HEADER, sign_answer

FOREVER = 3600.0


@dataclass(frozen=True)
class Reply:
    """How to respond to one request: after `delay` seconds, with `status`, `headers` and `body` (None: a usual result).

    `raw` replaces the whole response. On request, the connection is reset instead of a response, or closed after it. `again`: the same
    response is sent a second time, so many seconds later, whatever has been requested by then.
    """

    status: int = 200
    body: str | bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    raw: bytes | None = None
    reset: bool = False
    close: bool = False
    again: float | None = None


@dataclass(frozen=True)
class Seen:
    """A request that arrived; `at` is a time of time.monotonic()."""

    reference_id: str
    at: float
    target: str
    headers: dict[str, str]
    body: dict[str, Any]


class FakeUpstream:
    """Responds with `usual`, or with what `improvise` returns for the request's body, unless `plan` has replies for its reference id.

    With `internal_key`, it signs usual responses, as our own API does.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.usual = Reply()
        self.improvise: Callable[[dict[str, Any]], Reply] | None = None
        self.requests: list[Seen] = []
        self.internal_key: bytes | None = None
        self.connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._plans: dict[str, list[Reply]] = {}
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/incentives?source=batch"

    @property
    def open_connections(self) -> int:
        return len(self._writers)

    def plan(self, reference_id: str, *replies: Reply) -> None:
        """Responds to requests for the item with these, one after the other; the last one stays."""
        self._plans[reference_id] = list(replies)

    def times_seen(self) -> Counter[str]:
        return Counter(seen.reference_id for seen in self.requests)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                pass
        writer.close()
        self._writers.discard(writer)

    def disconnect(self) -> None:
        """Closes all connections; may be called on any thread."""
        self.loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers = {name.lower(): value for name, value in re.findall(r"^([\w-]+): (.*)\r$", head, re.MULTILINE)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        reference_id = body.get("reference_id", "")
        self.requests.append(Seen(reference_id, time.monotonic(), head.split(" ")[1], headers, body))
        plan = self._plans.get(reference_id, [self.improvise(body) if self.improvise else self.usual])
        reply = plan.pop(0) if len(plan) > 1 else plan[0]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            # A client that hangs up in the meantime is not waited for.
            if reply.delay:
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), reply.delay)
                    return False
        finally:
            self.in_flight -= 1
        if reply.reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        if self.internal_key is not None:
            signature = sign_answer(self.internal_key, headers["authorization"], 200, json.dumps(result(body)).encode())
            reply = replace(reply, headers={**reply.headers, ANSWER_HEADER: signature})
        answer = reply.raw if reply.raw is not None else render(reply, body)
        writer.write(answer)
        if reply.again is not None:
            asyncio.get_running_loop().call_later(reply.again, writer.write, answer)
        await writer.drain()
        return not reply.close


def render(reply: Reply, request: dict[str, Any]) -> bytes:
    body = json.dumps(result(request)) if reply.body is None else reply.body
    content = body.encode() if isinstance(body, str) else body
    headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **reply.headers}
    lines = [f"HTTP/1.1 {reply.status} Reason", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def result(request: dict[str, Any]) -> dict[str, Any]:
    """A usual response: one program that pays 1000 dollars."""
    return {
        "customer_id": 1,
        "reference_id": request.get("reference_id"),
        "utility": {"eiaid": 14328, "name": "Pacific Gas & Electric"},
        "incentives": {
            "total_incentive_amount": 1000,
            "total_eligible_combinations": 1,
            "by_program": [{"program_id": 7, "program_name": "Heat pumps", "total_incentive": 1000, "eligible_combinations": 1}],
        },
    }


@contextmanager
def fake_upstream(tls: ssl.SSLContext | None = None) -> Iterator[FakeUpstream]:
    loop = asyncio.new_event_loop()
    upstream = FakeUpstream(loop)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(upstream.handle, "127.0.0.1", 0, backlog=1000, ssl=tls)

    async def stop() -> None:
        server.close()
        upstream.disconnect()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
