"""Receives the database's notifications (LISTEN) over one connection to each server, for everything in this process that waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from psycopg import sql
from psycopg.conninfo import make_conninfo

from pyshell.postgres.connections import Backoff, Connection, SessionNeededError, connect
from pyshell.postgres.sqlstates import DatabaseError
from pyshell.tasks import cancel_all

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 10.0
SET_UP_SECONDS: Final = 35.0
# A connection that lasted less than this does not mean that the problem is over.
STEADY_SECONDS: Final = 10.0

Handler = Callable[[str | None], None]


class Notifier:
    """One LISTEN connection, on a cluster also one to each other node, with a list of handlers for each channel.

    A handler is called with the payload of each notification on its channel, and with None whenever listening begins, because some
    may have been missed before. Notifications are only hints: they get lost with a connection or a pooler, so subscribers poll as well.

    `is_ready` is set while notifications arrive. Behind a connection pooler in transaction mode none ever do: there it is always set,
    and subscribers rely on polling.
    """

    def __init__(self, database_url: str, application_name: str) -> None:
        self.is_ready = asyncio.Event()
        self._database_url = database_url
        self._application_name = application_name
        self._handlers: dict[str, list[Handler]] = {}
        self._nodes: dict[str, asyncio.Task[None]] = {}
        # By URL, the logged reason why it cannot be listened to.
        self._told: dict[str, str] = {}

    def subscribe(self, channel: str, handler: Handler) -> None:
        """Adds a handler for a channel. Must be called before `running`."""
        self._handlers.setdefault(channel, []).append(handler)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listens while the context lasts; reconnects when the connection breaks. Raises nothing: logs why it cannot listen."""
        task = asyncio.create_task(self._keep_listening(self._database_url), name="notifier")
        try:
            yield
        finally:
            await cancel_all([task, *self._nodes.values()])

    async def _keep_listening(self, url: str) -> None:
        backoff = Backoff()
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await self._listen(url)
            except SessionNeededError:
                logger.warning("a connection pooler in transaction mode blocks notifications: polling instead")
                self.is_ready.set()
                return
            except (DatabaseError, OSError, TimeoutError) as error:
                reason = str(error) or "the connection fell silent"
                # Once for each reason, not at every attempt.
                if reason != self._told.get(url):
                    logger.warning("cannot listen for notifications, polling until that works again: %s", reason)
                    self._told[url] = reason
            except Exception:
                logger.exception("listening for notifications failed")
            if asyncio.get_running_loop().time() - started > STEADY_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.delay())

    async def _listen(self, url: str) -> None:
        is_first = url == self._database_url
        async with AsyncExitStack() as connected:
            async with asyncio.timeout(SET_UP_SECONDS):
                connection = await connected.enter_async_context(await connect(url, self._application_name))
                if is_first:
                    self._listen_at(await self._other_nodes(connection))
                listens = (sql.SQL("listen {}").format(sql.Identifier(channel)) for channel in self._handlers)
                await connection.execute(sql.SQL("; ").join(listens))
            if self._told.pop(url, None) is not None:
                logger.info("notifications arrive again")
            if is_first:
                self.is_ready.set()
            try:
                for channel in self._handlers:
                    self._tell(channel, None)
                while True:
                    async for notification in connection.notifies(timeout=HEARTBEAT_SECONDS):
                        self._tell(notification.channel, notification.payload)
                    # The response also shows that the server is still there.
                    async with asyncio.timeout(ANSWER_SECONDS):
                        urls = await self._other_nodes(connection)
                    if is_first:
                        self._listen_at(urls)
            finally:
                if is_first:
                    self.is_ready.clear()

    async def _other_nodes(self, connection: Connection) -> set[str]:
        """The URLs of this cluster's other nodes, whose notifications the connection does not receive; none on one PostgreSQL."""
        rows = await (await connection.execute("select host, port from api.other_nodes()")).fetchall()
        return {make_conninfo(self._database_url, host=host, port=port) for host, port in rows}

    def _listen_at(self, urls: set[str]) -> None:
        for url in self._nodes.keys() - urls:
            self._nodes.pop(url).cancel()
        for url in urls - self._nodes.keys():
            self._nodes[url] = asyncio.create_task(self._keep_listening(url), name="notifier of a node")

    def _tell(self, channel: str, payload: str | None) -> None:
        for handler in self._handlers[channel]:
            try:
                handler(payload)
            except Exception:
                logger.exception("a notification on %s could not be handled", channel)
