"""Calls functions of the database's schema `api`: all that the shell knows about the database."""

from __future__ import annotations

import asyncio
import random
import select
from functools import lru_cache
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pyshell.postgres.sqlstates import DatabaseError, Kind, OutcomeUnknownError, StaleConnectionError, had_no_effect, kind_of

Pool = AsyncConnectionPool[AsyncConnection[TupleRow]]

MAX_ATTEMPTS = 3

# Functions that may run twice: these read, and authenticate_api_key at most notes when the key was used.
_REPEATABLE_PREFIXES = ("get_", "list_", "realtime_", "applied_", "internal_", "authenticate_")


def create_pool(database_url: str, *, min_size: int = 2, max_size: int = 10, timeout: float = 10) -> Pool:
    """A pool, not yet open, of autocommit connections in the role of the shell.

    `timeout` is how long, in seconds, a caller waits for a connection.
    """
    return AsyncConnectionPool(
        database_url,
        connection_class=AsyncConnection[TupleRow],
        kwargs={
            "autocommit": True,
            "application_name": "batch-lookups",
            "connect_timeout": 5,
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
        configure=_configure,
        min_size=min_size,
        max_size=max_size,
        timeout=timeout,
        # Give up early: the next caller tries again at once, while the pool's own attempts are ever further apart.
        reconnect_timeout=2,
        open=False,
    )


async def _configure(connection: AsyncConnection[Any]) -> None:
    # Compiling a query of seconds to machine code pays; none of ours takes that long.
    await connection.execute("set role batch_lookups_shell; set statement_timeout = '30s'; set jit = off")


async def call(pool: Pool, function: str, /, **arguments: object) -> bytes:
    """The answer of `api.<function>(p_<name> => value, ...)`, as the text that PostgreSQL sent.

    Repeats what had no effect, such as after a deadlock, and what may be done twice. Raises `DatabaseError`.
    """
    [answer] = await call_row(pool, function, **arguments)
    return answer or b"null"


async def call_row(pool: Pool, function: str, /, **arguments: object) -> list[bytes | None]:
    """Like `call`, for a function with several results: all of them, None where one is null."""
    attempt = 1
    while True:
        try:
            return await _call_once(pool, function, arguments)
        except PoolTimeout:
            raise
        except DatabaseError as error:
            lost = kind_of(error) is Kind.LOST
            if lost and not had_no_effect(error) and not function.startswith(_REPEATABLE_PREFIXES):
                raise OutcomeUnknownError(f"connection lost in api.{function}: {error}") from error
            if attempt == MAX_ATTEMPTS or not (lost or had_no_effect(error)):
                raise
        if lost:
            await pool.check()
        else:
            await asyncio.sleep(attempt * random.uniform(0.01, 0.05))
        attempt += 1


async def _call_once(pool: Pool, function: str, arguments: dict[str, object]) -> list[bytes | None]:
    async with pool.connection() as connection:
        if connection.closed or _is_stale(connection):
            await connection.close()
            raise StaleConnectionError("the server closed the connection")
        cursor = await connection.execute(_statement(function, tuple(arguments)), arguments)
        result = cursor.pgresult
        assert result is not None
        return [result.get_value(0, column) for column in range(result.nfields)]


def _is_stale(connection: AsyncConnection[TupleRow]) -> bool:
    """Whether an idle connection has something to read, which is the server's farewell: seen without a round trip."""
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


@lru_cache(maxsize=256)
def _statement(function: str, names: tuple[str, ...]) -> bytes:
    named = (sql.SQL("{} => {}").format(sql.Identifier(f"p_{name}"), sql.Placeholder(name)) for name in names)
    return sql.SQL("select * from api.{}({})").format(sql.Identifier(function), sql.SQL(", ").join(named)).as_bytes()
