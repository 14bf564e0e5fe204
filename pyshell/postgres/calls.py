"""Calls the functions of the schema `api`, which are all that the shell knows of the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Protocol, TypeVar

from psycopg import AsyncCursor, sql
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow

from pyshell.postgres.pool import Pool, PooledConnection
from pyshell.postgres.sqlstates import DatabaseError, Kind, kind_of

T = TypeVar("T")

CLAIMED_SECONDS = 2.0
# Limit for the arguments of a call. PostgreSQL needs ten to fifty times as much memory to read them.
LARGE_LENGTH = 4 * 1024 * 1024


class Runner(Protocol):
    """Where functions are called: a `Pool`, or something that chooses between several for each call."""

    async def run(self, function: str, once: Callable[[PooledConnection], Awaitable[T]], /) -> T: ...

    async def run_for(self, organization: object, function: str, once: Callable[[PooledConnection], Awaitable[T]], /) -> T: ...


async def call(pool: Runner, function: str, sharer: object = None, /, **arguments: object) -> bytes:
    """Calls `api.<function>(p_<name> => value, ...)` and returns its result as the text that PostgreSQL sent; `null` for SQL's null.

    The connection comes from the share of the argument `organization_id` or, without it, of the `sharer`. Repeats the call after an
    error without effect, such as a deadlock, and also after a lost connection if the function may run twice. Raises
    `DatabaseError`.
    """
    [answer] = await call_row(pool, function, sharer, **arguments)
    return answer or b"null"


async def call_row(pool: Runner, function: str, sharer: object = None, /, **arguments: object) -> list[bytes | None]:
    """Like `call`, for a function with several OUT parameters: one text for each, None if it is null."""
    once = partial(fetch_row, function=function, arguments=arguments)
    sharer = arguments.get("organization_id", sharer)
    if sharer is None or arguments.get("for_item"):
        # The queue itself shares a worker's lookups among the organizations.
        return await pool.run(function, once)
    return await pool.run_for(sharer, function, once)


async def fetch_row(connection: PooledConnection, function: str, arguments: Mapping[str, object]) -> list[bytes | None]:
    """The result of `api.<function>`, called once on this connection, like that of `call_row`. Raises `DatabaseError`."""
    connection.is_spent |= sum(len(value) for value in arguments.values() if isinstance(value, str | bytes)) > LARGE_LENGTH
    cursor = await _execute(connection, _statement(function, tuple(arguments)), arguments)
    result = cursor.pgresult
    assert result is not None
    return [result.get_value(0, column) for column in range(result.nfields)]


async def call_with_claims(
    pool: Pool, function: str, calls: Sequence[tuple[str, Sequence[object]]], sharer: object = None
) -> list[bytes | None]:
    """Calls `api.<function>(*arguments)` once for each pair of claims (JSON) and arguments, in one transaction and one round trip.

    Returns the results as texts, in the order of the calls. The calls run in the role `authenticated`, as through PostgREST, so that
    the policies apply to the claims. With a `sharer`, in its share of the connections. Raises `DatabaseError` if one of them fails or all
    together take longer than CLAIMED_SECONDS.
    """
    statements = [sql.SQL("set local role authenticated; set local statement_timeout = {}").format(round(CLAIMED_SECONDS * 1000))]
    known = None
    for claims, arguments in calls:
        if claims != known:
            statements.append(sql.SQL("set local request.jwt.claims = {}").format(known := claims))
        statements.append(sql.SQL("select api.{}({})").format(sql.Identifier(function), sql.SQL(", ").join(map(sql.Literal, arguments))))

    async def once(connection: PooledConnection) -> list[bytes | None]:
        cursor = await connection.execute(sql.SQL("; ").join(statements))
        return [result.get_value(0, 0) async for result in _results(cursor)]

    return await (pool.run(function, once) if sharer is None else pool.run_for(sharer, function, once))


async def _results(cursor: AsyncCursor[TupleRow]) -> AsyncIterator[PGresult]:
    more: bool | None = True
    while more:
        if cursor.pgresult is not None and cursor.pgresult.ntuples:
            yield cursor.pgresult
        more = cursor.nextset()


async def _execute(connection: PooledConnection, statement: bytes, arguments: Mapping[str, object]) -> AsyncCursor[TupleRow]:
    try:
        return await connection.execute(statement, arguments)
    except DatabaseError as error:
        if kind_of(error) is not Kind.STALE_STATEMENT:
            raise
    # A deploy has changed the function's result type. Other connections are just as stale: this one continues without its prepared
    # statements.
    await connection.execute("deallocate all")
    return await connection.execute(statement, arguments)


@lru_cache(maxsize=256)
def _statement(function: str, names: tuple[str, ...]) -> bytes:
    named = (sql.SQL("{} => {}").format(sql.Identifier(f"p_{name}"), sql.Placeholder(name)) for name in names)
    return sql.SQL("select * from api.{}({})").format(sql.Identifier(function), sql.SQL(", ").join(named)).as_bytes()
