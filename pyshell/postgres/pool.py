"""The connection pool that the requests of the API share."""

from __future__ import annotations

import asyncio
import logging
import random
import select
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

from prometheus_client.core import Metric
from psycopg import OperationalError, errors
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pyshell.metrics import gauge, gauges
from pyshell.postgres.connections import POLICY, STATEMENT_TIMEOUT, ClosableConnection, answered, is_transaction_pooled, set_up
from pyshell.postgres.shares import Shares, TakenError
from pyshell.postgres.slow import noted
from pyshell.postgres.sqlstates import (
    DatabaseError,
    Kind,
    NotMigratedError,
    OutcomeUnknownError,
    StaleConnectionError,
    had_no_effect,
    kind_of,
    note_error,
)

logger = logging.getLogger(__name__)
# The library warns about connections that come back closed, which is wrong if we closed them.
logging.getLogger("psycopg.pool").addFilter(lambda record: not any(getattr(value, "is_spent", False) for value in record.args or ()))

T = TypeVar("T")

PooledConnection = ClosableConnection[TupleRow]

MAX_ATTEMPTS = 3
MAX_CONNECTIONS = 10
NOT_MIGRATED_SECONDS = 1.0
# The server cancels a statement that takes too long, but not a commit that waits for a synchronous standby.
ANSWER_SECONDS = STATEMENT_TIMEOUT + 5.0
# For a new connection: until it is there, the pool opens no other one.
SET_UP_SECONDS = 10.0
# For the response of each connection that is checked after another one was lost.
CHECK_SECONDS = 1.0
# These write, but may run twice: they record the use of a key and what replicas need, or create a new organization.
REPEATABLE = frozenset({"authenticate_api_key", "authenticate_clerk_member", "note_write", "read_position"})
READ_ONLY_FUNCTIONS = """
    select proname
      from pg_catalog.pg_proc
     where pronamespace = 'api'::pg_catalog.regnamespace
     group by proname
    having bool_and(provolatile <> 'v')"""


class Pool(AsyncConnectionPool[PooledConnection]):
    """`min_size` to `max_size` connections in autocommit and in the role of the shell. It must be opened before use.

    A caller waits for a connection for at most `timeout` seconds; then `PoolTimeout` is raised. `read_only`: so are its transactions.
    `name` appears in the log. `on_unreachable` is called when no connection could be opened for two seconds.
    """

    def __init__(
        self,
        database_url: str,
        *,
        name: str = "the database",
        min_size: int = 2,
        max_size: int = MAX_CONNECTIONS,
        timeout: float = 10,
        read_only: bool = False,
        on_unreachable: Callable[[], None] = lambda: None,
    ) -> None:
        self._database_url = database_url
        self._read_only = read_only
        self._not_migrated = False
        # Whether there is a connection pooler in transaction mode; None: not known yet.
        self._per_transaction: bool | None = None
        self._asking = asyncio.Lock()
        self._shares = Shares(statements_per_organization(max_size), timeout)
        self._read_only_functions: frozenset[str] = frozenset()
        super().__init__(
            database_url,
            connection_class=PooledConnection,
            kwargs={"autocommit": True, "application_name": "batch-lookups", **POLICY},
            configure=self._set_up_in_time,
            name=name,
            min_size=min_size,
            max_size=max_size,
            timeout=timeout,
            # Give up early: the next caller tries again immediately, whereas the pool waits longer before each attempt of its own.
            reconnect_timeout=2,
            reconnect_failed=lambda _: on_unreachable(),
            open=False,
        )

    async def _set_up_in_time(self, connection: PooledConnection) -> None:
        await answered(connection, self._set_up(connection), SET_UP_SECONDS)

    async def _set_up(self, connection: PooledConnection) -> None:
        try:
            if await self._is_per_transaction(connection):
                connection.prepare_threshold = None
            else:
                await set_up(connection, read_only=self._read_only)
            rows = await (await connection.execute(READ_ONLY_FUNCTIONS)).fetchall()
        except DatabaseError as error:
            self._not_migrated = kind_of(error) is Kind.NOT_MIGRATED
            raise
        self._not_migrated = False
        self._read_only_functions = frozenset(name for (name,) in rows)

    async def _is_per_transaction(self, connection: PooledConnection) -> bool:
        async with self._asking:
            if self._per_transaction is None:
                self._per_transaction = await is_transaction_pooled(self._database_url, connection)
                if self._per_transaction:
                    logger.warning(
                        "the database's URL leads to a connection pooler in transaction mode: nothing is prepared, and Realtime polls"
                    )
        return self._per_transaction

    @staticmethod
    async def check_connection(conn: PooledConnection) -> None:
        """Raises an error for a connection that is lost, or silent: the base class would wait for a response without end."""
        await answered(conn, conn.execute(""), CHECK_SECONDS)

    @asynccontextmanager
    async def connection(self, timeout: float | None = None) -> AsyncIterator[PooledConnection]:  # noqa: ASYNC109 (the base class has it)
        """A connection in the role of the shell, closed after the context if it is spent. Behind a pooler in transaction mode, whose
        connections are not ours to close, the context is one transaction.

        Raises PoolTimeout if none is free within `timeout` seconds, StaleConnectionError if the server had closed the one it got.
        """
        async with super().connection(timeout) as connection:
            if connection.closed or _has_ended(connection):
                await connection.close()
                raise StaleConnectionError("the server closed the connection")
            if not self._per_transaction:
                try:
                    yield connection
                finally:
                    if connection.is_spent:
                        await connection.close()
                return
            async with connection.transaction():
                await set_up(connection, for_transaction=True, read_only=self._read_only)
                yield connection
                if connection.info.transaction_status is TransactionStatus.INERROR:
                    # Committing it would roll back without an error.
                    raise OperationalError("a statement of the transaction failed")

    async def is_read_only(self) -> bool:
        """Whether the database is a standby or read-only. Takes no query: PostgreSQL reports both to every connection."""
        async with self.connection() as connection:
            is_read_only = "on" in map(connection.info.parameter_status, ("in_hot_standby", "default_transaction_read_only"))
            connection.is_spent |= is_read_only
            return is_read_only

    def metrics(self) -> Iterable[Metric]:
        """How much of the pool is in use."""
        stats = self.get_stats()
        available = stats.get("pool_available", 0)
        yield gauges(
            "db_pool_connections",
            "Connections to the database that requests share",
            {("used",): stats.get("pool_size", 0) - available, ("idle",): available},
            "state",
        )
        yield gauge("db_pool_max", "Connections that the pool may have", stats.get("pool_max", 0))
        yield gauge("db_pool_waiting", "Requests that wait for a connection", stats.get("requests_waiting", 0))

    def may_repeat(self, function: str) -> bool:
        """Whether a function of `api` may run twice: by its volatility it changes nothing, or it is in REPEATABLE."""
        return function in self._read_only_functions or function in REPEATABLE

    async def run_for(self, organization: object, function: str, once: Callable[[PooledConnection], Awaitable[T]]) -> T:
        """Like `run`, within the organization's limit of concurrent statements: further ones wait their turn, or raise PoolTimeout."""
        try:
            async with self._shares.one_of(organization):
                return await self.run(function, once)
        except TakenError:
            raise PoolTimeout(f"{self._shares.size} statements of the organization took too long") from None

    async def run(self, function: str, once: Callable[[PooledConnection], Awaitable[T]]) -> T:
        """Returns `await once(connection)`, which calls the function of that name in `api`.

        It is called up to MAX_ATTEMPTS times: again after an error without effect, and after a lost connection if the function
        may run twice. Raises DatabaseError: OutcomeUnknownError if the connection was lost, or no response came in time, during a function
        that may not, PoolTimeout if no connection is free in time, NotMigratedError if the database lacks the shell's role.
        """
        attempt = 1
        while True:
            try:
                # Without the role there are no connections, so do not wait for long.
                async with self.connection(NOT_MIGRATED_SECONDS if self._not_migrated else None) as connection:
                    with noted(f"api.{function}"):
                        return await self._answer(function, once, connection)
            except PoolTimeout as error:
                note_error(error)
                if self._not_migrated:
                    raise NotMigratedError from None
                raise
            except DatabaseError as error:
                note_error(error)
                lost = kind_of(error) is Kind.LOST
                if lost and not had_no_effect(error) and not self.may_repeat(function):
                    raise OutcomeUnknownError(f"connection lost in api.{function}: {error}") from error
                if attempt == MAX_ATTEMPTS or not (lost or had_no_effect(error)):
                    raise
            if lost:
                await self.check()
            else:
                await asyncio.sleep(attempt * random.uniform(0.01, 0.05))
            attempt += 1

    async def _answer(self, function: str, once: Callable[[PooledConnection], Awaitable[T]], connection: PooledConnection) -> T:
        try:
            async with asyncio.timeout(ANSWER_SECONDS) as limit:
                return await once(connection)
        except DatabaseError as error:
            # A session that began while the database was read-only, or leads to a former primary, stays so.
            connection.is_spent |= kind_of(error) is Kind.READ_ONLY
            raise
        except TimeoutError:
            if not limit.expired():
                raise
            silence = f"the database did not answer api.{function} in time"
            raise errors.QueryCanceled(silence) if self.may_repeat(function) else OutcomeUnknownError(silence) from None


def statements_per_organization(connections: int) -> int:
    """How many concurrent statements one organization may have, so that it never takes all connections."""
    return max(connections * 2 // 5, 1)


def _has_ended(connection: PooledConnection) -> bool:
    """Whether the server has closed an idle connection: then its last message can be read. Takes no round trip."""
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))
