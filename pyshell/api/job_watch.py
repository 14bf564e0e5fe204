"""Hears from the database that a job has changed, for requests that wait for it: one connection for all of them. A hint only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import psycopg

from pyshell.postgres.connections import connect

logger = logging.getLogger(__name__)

CHANNEL = "batch_lookups_changes"
HEARTBEAT_SECONDS = 60.0
RECONNECT_SECONDS = 1.0
# What a lost hint costs.
POLL_SECONDS = 2.0


class Change:
    """Set when a job may have changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def happened(self) -> None:
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Until a change, at most this long; and never longer than it is sensible to rely on hints."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, POLL_SECONDS)):
                await self._event.wait()
        self._event.clear()


class Changes:
    """The jobs that are being watched; `listen` runs as long as the process serves.

    `is_stopping` tells those who wait that the process wants to end.
    """

    def __init__(self, database_url: str, is_stopping: Callable[[], bool]) -> None:
        self.is_stopping = is_stopping
        self._database_url = database_url
        self._watched: dict[str, set[Change]] = {}

    @contextmanager
    def watch(self, organization_id: UUID, job_id: UUID) -> Iterator[Change]:
        key = f"{organization_id}:{job_id}"
        change = Change()
        self._watched.setdefault(key, set()).add(change)
        try:
            yield change
        finally:
            self._watched[key].discard(change)
            if not self._watched[key]:
                del self._watched[key]

    async def listen(self) -> None:
        while True:
            try:
                async with await connect(self._database_url, "batch-lookups") as connection:
                    await connection.execute(f"listen {CHANNEL}")
                    # Some may have been missed before.
                    for key in self._watched:
                        self._tell(key)
                    while True:
                        async for notification in connection.notifies(timeout=HEARTBEAT_SECONDS):
                            # Such as: UPDATE batch_lookup_jobs <organization id> <job id>
                            self._tell(":".join(notification.payload.split(" ")[2:]))
                        async with asyncio.timeout(10):
                            await connection.execute("")
            except (psycopg.Error, TimeoutError) as error:
                logger.warning("cannot listen for changes, polling until that works again: %s", error)
                await asyncio.sleep(RECONNECT_SECONDS)

    def _tell(self, key: str) -> None:
        for change in self._watched.get(key, ()):
            change.happened()
