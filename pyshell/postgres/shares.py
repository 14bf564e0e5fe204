"""What many share, and nobody may have all of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TakenError(Exception):
    """All shares of a holder were taken for too long."""


class Shares:
    """At most `size` at once of each holder; whoever finds them taken waits its turn, for at most `seconds`."""

    def __init__(self, size: int, seconds: float) -> None:
        self.size = size
        self.seconds = seconds
        # With how many hold or wait for one: a holder that has none of either is forgotten.
        self._of: dict[object, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def one_of(self, holder: object) -> AsyncIterator[None]:
        """Holds one. Raises TakenError."""
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
