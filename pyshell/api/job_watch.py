"""Notifies requests that wait for a job when it changes. Notifications may be lost, so the requests also poll."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from pyshell.api.row_changes import CHANNEL, Row, parse
from pyshell.postgres.notifications import Notifier
from pyshell.tasks import wait_at_most

TABLE = "batch_lookup_jobs"
# The longest delay after a lost notification.
POLL_SECONDS = 2.0


class WatchedJob:
    """Set when the job may have changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def changed(self) -> None:
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Waits for a change, at most this long; capped at POLL_SECONDS, because notifications may be lost."""
        await wait_at_most(self._event, min(seconds, POLL_SECONDS))
        self._event.clear()


class JobWatch:
    """The jobs that requests wait for. `is_stopping`: the process is shutting down, so waits should end."""

    def __init__(self, notifier: Notifier, is_stopping: Callable[[], bool]) -> None:
        self.is_stopping = is_stopping
        self._watched: dict[Row, set[WatchedJob]] = {}
        notifier.subscribe(CHANNEL, self._on_notification)

    @contextmanager
    def watch(self, organization_id: UUID, job_id: UUID) -> Iterator[WatchedJob]:
        row = Row(TABLE, organization_id, str(job_id))
        job = WatchedJob()
        self._watched.setdefault(row, set()).add(job)
        try:
            yield job
        finally:
            self._watched[row].discard(job)
            if not self._watched[row]:
                del self._watched[row]

    def _on_notification(self, payload: str | None) -> None:
        if payload is None:
            for row in self._watched:
                self._tell(row)
        elif change := parse(payload):
            self._tell(change.row)

    def _tell(self, row: Row) -> None:
        for job in self._watched.get(row, ()):
            job.changed()
