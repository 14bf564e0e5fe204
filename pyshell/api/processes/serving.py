"""A process that serves with others: how it counts with them, and how they learn each other's metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from pyshell.api.counts import Holdings, Serving
from pyshell.api.http_protocol import BoundedProtocol
from pyshell.api.processes.exchange import Exchange
from pyshell.api.processes.shared_memory import SharedHoldings, SharedWindows
from pyshell.api.realtime.websocket import WebSocketProtocol
from pyshell.postgres.shares import Shares, TakenError

HTTP_CONNECTIONS = "connections of HTTP"
# Waiters for a share check this often: other processes do not notify them.
LOOK_SECONDS = 0.02


class ServingTogether(Serving):
    """Created before the processes are forked; each of them then says which one it is."""

    def __init__(self, processes: int, folder: Path) -> None:
        self.processes = processes
        self.windows = SharedWindows()
        self.unknown_keys = SharedWindows()
        self.holdings: SharedHoldings = SharedHoldings(processes)
        self._exchange = Exchange(processes, folder)

    def become(self, number: int) -> None:
        """Makes this the process with that number, from 0."""
        self.holdings.process = number
        self._exchange.number = number

    def forget(self, number: int) -> None:
        """Releases what the process with that number had when it ended."""
        self.holdings.forget(number)

    def shares(self, name: str, size: int, seconds: float) -> Shares:
        return SharesOfAll(name, size, seconds, self.holdings)

    def told(self, metrics: Callable[[], list[Metric]]) -> AbstractAsyncContextManager[None]:
        return self._exchange.told(metrics)

    async def of_all(self, metrics: list[Metric]) -> list[Metric]:
        return await self._exchange.of_all(metrics)

    def protocols(self) -> dict[str, Any]:
        """HTTP and WebSocket protocols for uvicorn that count the connections of all processes together."""
        holdings = self.holdings

        class Http(BoundedProtocol):
            def connections_of_all(self) -> int:
                return holdings.note(HTTP_CONNECTIONS, len(self.connections))

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                self.connections_of_all()

        class WebSocket(WebSocketProtocol):
            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                holdings.note(HTTP_CONNECTIONS, len(self.connections))

        return {"http": Http, "ws": WebSocket}


class SharesOfAll(Shares):
    """Shares of all processes together. Waiters in one process are served in order."""

    def __init__(self, name: str, size: int, seconds: float, holdings: Holdings) -> None:
        super().__init__(size, seconds)
        self._name = name
        self._holdings = holdings

    @asynccontextmanager
    async def one_of(self, holder: object) -> AsyncIterator[None]:
        deadline = time.monotonic() + self.seconds
        async with super().one_of(holder):
            while not self._holdings.take((self._name, holder), self.size):
                if time.monotonic() >= deadline:
                    raise TakenError
                await asyncio.sleep(LOOK_SECONDS)
            try:
                yield
            finally:
                self._holdings.give_back((self._name, holder))
