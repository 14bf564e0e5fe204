"""Finds changes and hands them to the channels that want them.

A notification says that a row changed, and nothing of what it holds. The row is read anew in the role `authenticated` with the claims of
each subscriber, so that the policies decide who sees it. A row is read at most once in `COALESCE_SECONDS`; its last state is
always delivered. Notifications may be lost, with a connection or in a pooler: every `POLL_SECONDS` the feed asks what it missed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, sql

from pyshell.api.realtime.filters import SCHEMA, Tables
from pyshell.postgres import calls as db

logger = logging.getLogger("pyshell.api.realtime")

CHANNEL = "batch_lookups_changes"
COALESCE_SECONDS = 0.1
POLL_SECONDS = 5.0
READY_SECONDS = 5.0
RETRY_SECONDS = 0.5
READS_AT_ONCE = 200
MAX_REMEMBERED_VERSIONS = 20_000
QUERY_CANCELED = "57014"


class Row(NamedTuple):
    table: str
    organization_id: UUID
    id: str


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to a row. `record` is what a subscriber sees of it, its key alone when it is gone; `data` is the message's JSON."""

    event: str
    row: Row
    record: Mapping[str, Any]
    data: str
    # What it became on the wire: most subscribers get the very same.
    frames: dict[object, str] = field(default_factory=dict)


class Listener(Protocol):
    """A channel that somebody has joined."""

    @property
    def organization_id(self) -> UUID: ...

    @property
    def claims(self) -> str: ...

    @property
    def joined_at(self) -> datetime: ...

    def may_want(self, table: str, row_id: str) -> bool: ...

    def deliver(self, change: Change) -> None: ...

    def fail(self, reason: str) -> None: ...


@dataclass
class Feed:
    """The changes of one database. It connects when the first channel is added, and stays until `stop`."""

    pool: db.Pool
    database_url: str
    tables: Tables = field(default_factory=dict)
    _columns: dict[str, str] = field(default_factory=dict)
    _listeners: dict[UUID, set[Listener]] = field(default_factory=dict)
    _pending: dict[Row, dict[str, None]] = field(default_factory=dict)
    _read_at: dict[Row, float] = field(default_factory=dict)
    _versions: dict[Row, datetime] = field(default_factory=dict)
    _listening: asyncio.Event = field(default_factory=asyncio.Event)
    _hinted: asyncio.Event = field(default_factory=asyncio.Event)
    _may_have_missed: asyncio.Event = field(default_factory=asyncio.Event)
    # The database's time of the last poll.
    _asked_at: str | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def ready(self) -> None:
        """Returns once changes are heard of. Raises TimeoutError when that doesn't come about."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._keep(part)) for part in (self._listen, self._read, self._poll)]
        async with asyncio.timeout(READY_SECONDS):
            await self._listening.wait()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add(self, listener: Listener) -> None:
        self._listeners.setdefault(listener.organization_id, set()).add(listener)

    def remove(self, listener: Listener) -> None:
        listeners = self._listeners.get(listener.organization_id, set())
        listeners.discard(listener)
        if not listeners:
            self._listeners.pop(listener.organization_id, None)

    async def _keep(self, part: Any) -> None:
        while True:
            try:
                await part()
            except (psycopg.Error, OSError, TimeoutError) as error:
                logger.warning("realtime: %s", error)
            except Exception:
                logger.exception("realtime failed")
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        async with await self._connect("batch_lookups_shell") as connection:
            await self._load_tables()
            await connection.execute(f"listen {CHANNEL}")
            self._listening.set()
            self._may_have_missed.set()
            try:
                async for notification in connection.notifies():
                    self._hint(notification.payload)
            finally:
                self._listening.clear()

    async def _connect(self, role: str) -> AsyncConnection[Any]:
        connection = await AsyncConnection.connect(
            self.database_url, autocommit=True, application_name="batch-lookups realtime", connect_timeout=5, keepalives_idle=15
        )
        await connection.execute(
            sql.SQL("set role {}; set timezone = 'UTC'; set statement_timeout = '2s'; set jit = off").format(sql.Identifier(role))
        )
        return connection

    async def _load_tables(self) -> None:
        tables = json.loads(await db.call(self.pool, "realtime_tables"))
        self.tables = {table["table"]: {column["name"]: column["type"] for column in table["columns"]} for table in tables}
        self._columns = {table["table"]: json.dumps(table["columns"]) for table in tables}

    def _hint(self, payload: str) -> None:
        words = payload.split(" ")
        if len(words) == 4:
            with suppress(ValueError):
                self._note(words[0], Row(words[1], UUID(words[2]), str(UUID(words[3]))))

    def _note(self, event: str, row: Row, at: datetime | None = None) -> None:
        listeners = self._listeners.get(row.organization_id, ())
        if any(listener.may_want(row.table, row.id) and (at is None or at > listener.joined_at) for listener in listeners):
            self._pending.setdefault(row, {})[event] = None
            self._hinted.set()

    async def _poll(self) -> None:
        """Finds what no notification told: every now and then, and when listening begins again."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._may_have_missed.wait()
            self._may_have_missed.clear()
            if not self._listeners:
                self._asked_at = None
                continue
            organization_ids = list(self._listeners)
            answer = json.loads(await db.call(self.pool, "realtime_changes", organization_ids=organization_ids, since=self._asked_at))
            self._asked_at = answer["now"]
            for change in answer["changes"]:
                row = Row(change["table"], UUID(change["organization_id"]), change["id"])
                updated_at = datetime.fromisoformat(change["updated_at"])
                if self._versions.get(row) != updated_at:
                    self._versions[row] = updated_at
                    self._note("UPDATE", row, updated_at)
            while len(self._versions) > MAX_REMEMBERED_VERSIONS:
                del self._versions[next(iter(self._versions))]

    async def _read(self) -> None:
        async with await self._connect("authenticated") as connection:
            while True:
                await self._hinted.wait()
                now = time.monotonic()
                due = [row for row in self._pending if self._read_at.get(row, 0) + COALESCE_SECONDS <= now][:READS_AT_ONCE]
                if due:
                    await self._deliver(connection, {row: tuple(self._pending[row]) for row in due})
                elif self._pending:
                    first = min(self._read_at[row] for row in self._pending)
                    await asyncio.sleep(max(first + COALESCE_SECONDS - now, 0))
                else:
                    self._hinted.clear()
                    self._read_at = {row: at for row, at in self._read_at.items() if at + COALESCE_SECONDS > now}

    async def _deliver(self, connection: AsyncConnection[Any], due: Mapping[Row, tuple[str, ...]]) -> None:
        now = time.monotonic()
        wanted: dict[tuple[str, Row], list[Listener]] = {}
        for row, events in due.items():
            # What is hinted at from now on may not be in what is read.
            del self._pending[row]
            self._read_at[row] = now
            for listener in self._listeners.get(row.organization_id, ()):
                if listener.may_want(row.table, row.id):
                    wanted.setdefault((listener.claims, row), []).append(listener)
            if "DELETE" in events:
                gone = self._change("DELETE", row, None)
                for (_, other), listeners in wanted.items():
                    if other == row:
                        _hand(gone, listeners)
        try:
            records = await self._records(connection, list(wanted))
        except psycopg.Error:
            for row, events in due.items():
                self._pending.setdefault(row, {}).update(dict.fromkeys(events))
            raise
        for (claims, row), text in records.items():
            changes = [self._change(event, row, text) for event in due[row] if event != "DELETE"]
            for change in changes:
                _hand(change, wanted[claims, row])

    async def _records(self, connection: AsyncConnection[Any], reads: list[tuple[str, Row]]) -> dict[tuple[str, Row], bytes]:
        """What is to be seen of each row with each claims. Claims that make the database fail take their listeners with them, no others."""
        try:
            return await _read_records(connection, reads)
        except psycopg.Error as error:
            if _is_lost(error):
                raise
            found: dict[tuple[str, Row], bytes] = {}
            for read in reads:
                try:
                    found |= await _read_records(connection, [read])
                except psycopg.Error as error:
                    if _is_lost(error):
                        raise
                    logger.warning("realtime: a subscriber's read failed: %s", error)
                    for listener in tuple(self._listeners.get(read[1].organization_id, ())):
                        if listener.claims == read[0]:
                            listener.fail("The row could not be read with your claims")
            return found

    def _change(self, event: str, row: Row, text: bytes | None) -> Change:
        key = {"organization_id": str(row.organization_id), "id": row.id}
        record = json.loads(text) if text is not None else key
        at = record.get("updated_at") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if text is not None:
            self._versions[row] = datetime.fromisoformat(at)
        parts = [
            f'"schema":"{SCHEMA}","table":"{row.table}","type":"{event}","commit_timestamp":"{at}","columns":{self._columns[row.table]}',
            *([f'"record":{text.decode()}'] if text is not None else []),
            *([f'"old_record":{json.dumps(key)}'] if event != "INSERT" else []),
            '"errors":null',
        ]
        return Change(event, row, record, "{" + ",".join(parts) + "}")


def _is_lost(error: psycopg.Error) -> bool:
    """Whether the connection died, rather than the statement failed."""
    return isinstance(error, psycopg.OperationalError) and error.sqlstate != QUERY_CANCELED


def _hand(change: Change, listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        try:
            listener.deliver(change)
        except Exception:
            logger.exception("realtime: a channel failed")
            listener.fail("Internal error")


async def _read_records(connection: AsyncConnection[Any], reads: list[tuple[str, Row]]) -> dict[tuple[str, Row], bytes]:
    """One round trip for all: the claims are set, then the rows read with them, as PostgREST would. Rows not to be seen are left out."""
    if not reads:
        return {}
    ordered = sorted(reads, key=lambda read: read[0])
    statements: list[sql.Composable] = []
    claims = None
    for read in ordered:
        if read[0] != claims:
            claims = read[0]
            statements.append(sql.SQL("set request.jwt.claims = {}").format(sql.Literal(claims)))
        table, organization_id, row_id = read[1]
        statements.append(sql.SQL("select api.realtime_record({}, {}, {}::uuid)").format(table, organization_id, row_id))
    cursor = await connection.execute(sql.SQL("; ").join(statements))
    found: list[bytes | None] = []
    while True:
        result = cursor.pgresult
        if result is not None and result.ntuples:
            found.append(result.get_value(0, 0))
        if not cursor.nextset():
            break
    return {read: text for read, text in zip(ordered, found, strict=True) if text is not None}
