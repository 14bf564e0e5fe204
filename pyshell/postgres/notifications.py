"""Hears the notifications of the database, for all who wait for some in this process, over one connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from psycopg import sql

from pyshell.postgres.connections import Backoff, SessionNeededError, connect
from pyshell.postgres.sqlstates import DatabaseError

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 10.0
# A connection that stood for less is no sign that all is well again.
STEADY_SECONDS: Final = 10.0

Handler = Callable[[str | None], None]


class Notifier:
    """Notifications are hints: some get lost with a connection or in a pooler, so whoever subscribes polls as well.

    A handler is called with the payload of each notification on its channel, and with None whenever some may have been missed, which is
    each time that listening begins. `is_ready` is set for as long as notifications arrive, and for good where a connection pooler in
    transaction mode keeps them away: polling has to do then.
    """

    def __init__(self, database_url: str, application_name: str) -> None:
        self.is_ready = asyncio.Event()
        self._database_url = database_url
        self._application_name = application_name
        self._handlers: dict[str, list[Handler]] = {}
        self._backoff = Backoff()

    def subscribe(self, channel: str, handler: Handler) -> None:
        """To be called before `running`."""
        self._handlers.setdefault(channel, []).append(handler)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listens for as long as the context lasts, and connects again whenever that is necessary."""
        task = asyncio.create_task(self._run(), name="notifier")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        told = ""
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await self._listen()
            except SessionNeededError:
                logger.warning("a connection pooler in transaction mode keeps notifications away: whoever waits for some polls")
                self.is_ready.set()
                return
            except (DatabaseError, OSError, TimeoutError) as error:
                reason = str(error) or "the connection fell silent"
                # Once for each reason, not at every try.
                if reason != told:
                    logger.warning("cannot listen for notifications, polling until that works again: %s", reason)
                    told = reason
            except Exception:
                logger.exception("listening for notifications failed")
            if asyncio.get_running_loop().time() - started > STEADY_SECONDS:
                self._backoff.reset()
                told = ""
            await asyncio.sleep(self._backoff.delay())

    async def _listen(self) -> None:
        async with await connect(self._database_url, self._application_name) as connection:
            await connection.execute(sql.SQL("; ").join(sql.SQL("listen {}").format(sql.Identifier(channel)) for channel in self._handlers))
            self.is_ready.set()
            try:
                for channel in self._handlers:
                    self._tell(channel, None)
                while True:
                    async for notification in connection.notifies(timeout=HEARTBEAT_SECONDS):
                        self._tell(notification.channel, notification.payload)
                    # An empty query: is anybody still there?
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await connection.execute("")
            finally:
                self.is_ready.clear()

    def _tell(self, channel: str, payload: str | None) -> None:
        for handler in self._handlers[channel]:
            try:
                handler(payload)
            except Exception:
                logger.exception("a notification on %s could not be handled", channel)
