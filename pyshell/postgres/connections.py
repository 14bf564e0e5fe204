"""Database connections of a worker: each is made again when it breaks, and no call waits for a dead server for ever."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection

logger = logging.getLogger(__name__)

T = TypeVar("T")

STATEMENT_TIMEOUT: Final = 30
CONNECTION_OPTIONS: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


async def connect(database_url: str, application_name: str) -> AsyncConnection[Any]:
    """Connect as the shell's role, in autocommit."""
    connection = await AsyncConnection.connect(database_url, autocommit=True, application_name=application_name, **CONNECTION_OPTIONS)
    try:
        await connection.execute(f"set role batch_lookups_shell; set statement_timeout = '{STATEMENT_TIMEOUT:d}s'; set jit = off")
    except BaseException:
        await connection.close()
        raise
    return connection


class Session:
    """One connection, used by one task at a time."""

    def __init__(self, database_url: str, application_name: str) -> None:
        self._database_url = database_url
        self._application_name = application_name
        self._connection: AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    async def run(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """`call(connection, *args)`; raises psycopg.Error, also when the server is silent."""
        async with self._lock:
            try:
                # The server cancels a statement that takes too long; if not even that is heard, the connection is dead.
                async with asyncio.timeout(STATEMENT_TIMEOUT + 5):
                    if self._connection is None:
                        self._connection = await connect(self._database_url, self._application_name)
                    return await call(self._connection, *args)
            except TimeoutError:
                await self.close()
                raise psycopg.OperationalError("the database did not answer in time") from None
            except BaseException:
                if self._connection is not None and (self._connection.closed or self._connection.broken):
                    await self.close()
                raise

    def another(self) -> "Session":
        """For what must not wait for this one, nor this one for it."""
        return Session(self._database_url, self._application_name)

    async def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
