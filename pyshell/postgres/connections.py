"""Connections to the database, all under one policy: time-outs, keepalives, role, encoding."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Concatenate, Final, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection, errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn, TransactionStatus
from psycopg.rows import Row

from pyshell.postgres.slow import noted
from pyshell.postgres.sqlstates import DatabaseError, Kind, NotMigratedError, kind_of, note_error

T = TypeVar("T")
P = ParamSpec("P")


class ClosableConnection(AsyncConnection[Row]):
    """A connection that may be closed while another task waits for the server: that task's call fails, as if the server had left.

    libuv aborts the process if a descriptor is closed that uvloop is about to watch. So the waiting task is made to release it first.
    `is_spent`: not to be used again, because its server process has taken much memory, most of which it never returns, or
    because its URL may lead elsewhere by now.
    """

    is_spent = False

    async def close(self) -> None:
        if self.lock.locked() and not self.closed:
            with suppress(OSError), socket.socket(fileno=os.dup(self.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)
            # An abandoned generator keeps the lock, but watches nothing.
            with suppress(TimeoutError):
                async with asyncio.timeout(LET_GO_SECONDS), self.lock:
                    pass
        await super().close()


async def answered(connection: ClosableConnection[Any], call: Coroutine[Any, Any, T], seconds: float) -> T:
    """What a call of the connection returns. Closes the connection and raises TimeoutError if it takes more than so many seconds."""
    asking = asyncio.create_task(call)
    try:
        done, _ = await asyncio.wait({asking}, timeout=seconds)
    finally:
        if not asking.done():
            # While it is open, a cancelled call waits for the server to confirm the cancellation.
            await connection.close()
            await asyncio.gather(asking, return_exceptions=True)
    if not done:
        raise TimeoutError
    return await asking


Connection = ClosableConnection[Any]
OwnerConnection = psycopg.Connection[Any]

SHELL: Final = "batch_lookups_shell"
STATEMENT_TIMEOUT: Final = 30
POOLER_PROBES: Final = 5
POOLER_SECONDS: Final = 5.0
POOLER_KNOWN_SECONDS: Final = 60.0
LET_GO_SECONDS: Final = 1.0
# glibc returns freed memory beyond twice the largest block ever freed (mallopt(3), M_TRIM_THRESHOLD).
KEEP_MEMORY: Final = b"select pg_catalog.length(pg_catalog.repeat(' ', 4194304))"
POLICY: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    # A server that vanishes silently is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    # Texts cross as UTF-8, whatever the role, the database or PGCLIENTENCODING say.
    "client_encoding": "UTF8",
}


def connect_as_owner(
    database_url: str,
    application_name: str = "batch-lookups",
    *,
    autocommit: bool = False,
    role: str | None = None,
    connect_timeout: int = POLICY["connect_timeout"],
) -> OwnerConnection:
    """A connection for deploys and tools, as the user in the URL, without a statement time-out.

    It begins a transaction unless `autocommit`, and gives up after `connect_timeout` seconds. `role` is set for the first transaction
    only, and no statement is prepared: a connection pooler might pass either on to other clients. Raises DatabaseError if it cannot
    connect, NotMigratedError if the role does not exist.
    """
    connection = psycopg.connect(
        database_url,
        autocommit=autocommit,
        application_name=application_name,
        prepare_threshold=None,
        **POLICY | {"connect_timeout": connect_timeout},
    )
    if role is not None:
        try:
            connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        except errors.InvalidParameterValue as error:
            connection.close()
            raise NotMigratedError from error
    return connection


async def connect(
    database_url: str, application_name: str, *, role: str = SHELL, statement_timeout: float = STATEMENT_TIMEOUT
) -> Connection:
    """A session in the given role, in autocommit; `statement_timeout` is in seconds.

    Raises DatabaseError when it cannot connect, NotMigratedError when the role does not exist, SessionNeededError behind a connection
    pooler in transaction mode.
    """
    connection = await Connection.connect(database_url, autocommit=True, application_name=application_name, **POLICY)
    try:
        if await is_transaction_pooled(database_url, connection):
            raise SessionNeededError
        await set_up(connection, role, statement_timeout)
    except BaseException:
        await connection.close()
        raise
    return connection


async def set_up(
    connection: Connection,
    role: str = SHELL,
    statement_timeout: float = STATEMENT_TIMEOUT,
    *,
    for_transaction: bool = False,
    read_only: bool = False,
) -> None:
    """Sets the role, the statement time-out (in seconds) and the other settings of every connection of the API and the worker.

    `for_transaction`: only for the current transaction, as behind a pooler that then gives the server to another client. Raises
    NotMigratedError if the role does not exist.
    """
    scope = sql.SQL("local" if for_transaction else "session")
    default = sql.SQL("" if for_transaction else "default_")
    try:
        # JIT pays off for queries that run for seconds; none of ours does. The functions lock rows and then read them, so they need read
        # committed, whatever the default of the database or the role.
        await connection.execute(
            sql.SQL(
                "set {0} role {1}; set {0} statement_timeout = {2}; set {0} jit = off; set {0} timezone = 'UTC';"
                " set {0} datestyle = 'ISO, MDY'; set {0} {3}transaction_isolation = 'read committed'"
            ).format(scope, sql.Identifier(role), round(statement_timeout * 1000), default)
            + (sql.SQL("; set {0} {1}transaction_read_only = on").format(scope, default) if read_only else sql.SQL(""))
        )
    except errors.InvalidParameterValue as error:
        raise NotMigratedError from error


def is_in_transaction(connection: OwnerConnection) -> bool:
    """Whether a transaction is open on the connection, and has not failed."""
    return connection.info.transaction_status is TransactionStatus.INTRANS


def password_apart(database_url: str) -> tuple[str, str | None]:
    """The connection string without its password, and the password (None: none).

    Everybody on the machine can read the arguments of a process, so the password must not be among them.
    """
    parts = conninfo_to_dict(database_url)
    password = parts.pop("password", None)
    return make_conninfo("", **parts), None if password is None else str(password)


def is_readable(database_url: str) -> bool:
    """Whether libpq can parse the URL, with no part of a password in the wrong place, which its errors would reveal."""
    try:
        parts = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:
        return False
    ports = str(parts.get("port") or "").split(",")
    host = str(parts.get("host") or "")
    # An abstract socket of Linux begins like this.
    return "@" not in host.removeprefix("@/") and all(not port or (port.isdecimal() and 0 < int(port) < 65536) for port in ports)


def refused_option(database_url: str) -> str | None:
    """libpq's message about an option with an invalid value, such as `sslmode`, in a URL that `is_readable`."""
    options = {name: value for name, value in conninfo_to_dict(database_url).items() if name not in ("host", "hostaddr", "port")}
    # It checks the options first, and then finds no socket there.
    connection = PGconn.connect_start(make_conninfo("", **options, host="/nonexistent").encode())
    message = connection.error_message.decode().strip()
    connection.finish()
    return message if message.startswith(("invalid ", "weak ")) else None


class SessionNeededError(RuntimeError):
    """The URL leads to a connection pooler in transaction mode, but a connection has to be one session here."""

    def __init__(self) -> None:
        super().__init__(
            "DATABASE_URL leads to a connection pooler in transaction mode. A worker needs sessions, for LISTEN and for what it has"
            " prepared: give it the address of the database itself, or that of a pooler in session mode."
        )


@dataclass
class _Answer:
    """What a probe of one URL has found, and until when that holds for further connections."""

    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_pooled: bool = False
    until: float = float("-inf")


_answers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Answer]] = WeakKeyDictionary()


async def is_transaction_pooled(database_url: str, connection: Connection) -> bool:
    """Whether a pooler gives this connection a server only for one transaction at a time. Raises DatabaseError.

    Connections that a process opens within a minute share one probe: with session pooling, each probe takes servers from other clients.
    The connection must be fresh, because a statement would make such a pooler give it a server for good.
    """
    loop = asyncio.get_running_loop()
    answer = _answers.setdefault(loop, {}).setdefault(database_url, _Answer())
    async with answer.asking:
        if loop.time() >= answer.until:
            answer.is_pooled = await _probe(database_url, connection)
            answer.until = loop.time() + POOLER_KNOWN_SECONDS
        return answer.is_pooled


async def _probe(database_url: str, connection: Connection) -> bool:
    """Other connections each open a transaction and stay in it. With transaction pooling, either one of them gets the server that this idle
    connection had, or this connection gets another one. With session pooling, neither happens.
    """
    own = await _backend_pid(connection)
    # The server sends every new connection its process id; a pooler makes one up.
    if own == connection.info.backend_pid:
        return False
    # If a probe gets no server although this connection is idle, it is session pooling.
    with suppress(TimeoutError):
        async with asyncio.timeout(POOLER_SECONDS), AsyncExitStack() as others:
            for _ in range(POOLER_PROBES):
                other = await others.enter_async_context(await _connect_plainly(database_url))
                await others.enter_async_context(other.transaction())
                if await _backend_pid(other) == own or await _backend_pid(connection) != own:
                    return True
    return False


async def _connect_plainly(database_url: str) -> Connection:
    return await Connection.connect(database_url, autocommit=True, application_name="batch-lookups probe", **POLICY)


async def _backend_pid(connection: Connection) -> int:
    row = await (await connection.execute("select pg_catalog.pg_backend_pid()", prepare=False)).fetchone()
    assert row is not None
    pid: int = row[0]
    return pid


async def require_sessions(database_url: str) -> None:
    """Raises SessionNeededError behind a pooler in transaction mode, DatabaseError if nothing responds."""
    async with await _connect_plainly(database_url) as connection:
        if await is_transaction_pooled(database_url, connection):
            raise SessionNeededError


class Session:
    """One connection that tasks use in turn, reopened after it breaks. No call waits for a dead server longer than 45 seconds:
    35 for its response, and 10 while psycopg tries to cancel the statement.

    `keeps_memory`: its server process keeps up to 8 MB of freed memory. Otherwise, a statement that needs megabytes gets them from the
    system page by page, each time, which can take a quarter of its CPU time.
    """

    def __init__(self, database_url: str, application_name: str, *, keeps_memory: bool = False) -> None:
        self._database_url = database_url
        self._application_name = application_name
        self._keeps_memory = keeps_memory
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()

    async def run(self, call: Callable[Concatenate[Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns `await call(connection, *args, **kwargs)`. Raises DatabaseError, also if the server does not respond in time."""
        async with self._lock:
            try:
                # The server cancels a statement that takes too long; if it does not even do that, the connection is dead.
                async with asyncio.timeout(STATEMENT_TIMEOUT + 5):
                    if self._connection is None:
                        self._connection = await connect(self._database_url, self._application_name)
                        if self._keeps_memory:
                            await self._connection.execute(KEEP_MEMORY)
                    with noted(getattr(call, "__name__", "a call")):
                        return await call(self._connection, *args, **kwargs)
            except TimeoutError:
                await self.close()
                silence = psycopg.OperationalError("the database did not answer in time")
                note_error(silence)
                raise silence from None
            except BaseException as error:
                if isinstance(error, DatabaseError):
                    note_error(error)
                if self._connection is not None and (self._connection.closed or _is_of_the_session(error)):
                    await self.close()
                raise

    def another(self) -> Session:
        """A second session to the same database, for calls that must not wait for those of this one."""
        return Session(self._database_url, self._application_name)

    async def close(self) -> None:
        """Closes the connection; the next call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _is_of_the_session(error: BaseException) -> bool:
    """Whether a new session may do better: one that began while the database was read-only, or leads to a former primary, stays so."""
    return isinstance(error, DatabaseError) and kind_of(error) in (Kind.STALE_STATEMENT, Kind.READ_ONLY)


class Backoff:
    """How long to wait before the next attempt: `first` seconds, then twice as long each time up to `longest`.

    Up to a quarter is taken off at random, so that many waiters do not all come back at once.
    """

    def __init__(self, first: float = 0.25, longest: float = 8.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def reset(self) -> None:
        """Starts again from `first`."""
        self._next = self._first

    def delay(self) -> float:
        """Seconds to wait now; the next call returns more."""
        delay, self._next = self._next, min(self._next * 2, self._longest)
        return delay * random.uniform(0.75, 1.0)
