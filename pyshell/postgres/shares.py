"""A limit for each holder of a shared resource."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TakenError(Exception):
    """All shares of a holder were taken for too long."""


class Shares:
    """At most `size` concurrent shares for each holder. If all are taken, callers wait for one, in order, for at most `seconds`."""

    def __init__(self, size: int, seconds: float) -> None:
        self.size = size
        self.seconds = seconds
        # Each with the number of callers that hold a share or wait for one; at 0 the holder is removed.
        self._of: dict[object, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def one_of(self, holder: object) -> AsyncIterator[None]:
        """Holds one share while the context lasts. Raises TakenError if none becomes free in time."""
        semaphore, users = self._of.get(holder) or (asyncio.Semaphore(self.size), 0)
        self._of[holder] = semaphore, users + 1
        try:
            try:
                async with asyncio.timeout(self.seconds):
                    await semaphore.acquire()
            except TimeoutError:
                raise TakenError from None
            try:
                yield
            finally:
                semaphore.release()
        finally:
            semaphore, users = self._of.pop(holder)
            if users > 1:
                self._of[holder] = semaphore, users - 1
