"""Finds changed rows and delivers them to the channels that subscribed to them.

A notification says that a row changed, but not how. The row is read with the claims of each subscriber, so that the policies decide who
sees it, at most once in `COALESCE_SECONDS`; its last state is always delivered. Notifications may be lost, with a connection or in a
pooler, so the feed polls for missed changes every `POLL_SECONDS`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from pyshell.api.realtime.filters import SCHEMA, Tables
from pyshell.api.realtime.reader import read_records
from pyshell.api.row_changes import CHANNEL, Row, parse
from pyshell.postgres import calls as db
from pyshell.postgres.connections import Backoff
from pyshell.postgres.notifications import Notifier
from pyshell.postgres.pool import Pool
from pyshell.postgres.sqlstates import DatabaseError

logger = logging.getLogger("pyshell.api.realtime")

COALESCE_SECONDS = 0.1
POLL_SECONDS = 5.0
READY_SECONDS = 5.0
READS_AT_ONCE = 200
MAX_CACHED_VERSIONS = 20_000


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a row. `record` is what a subscriber may see of it, only the key after a DELETE; `data` is the JSON of the message."""

    event: str
    row: Row
    record: Mapping[str, Any]
    data: str
    # Encoded frames: most subscribers get the same one.
    frames: dict[object, str] = field(default_factory=dict)


class Listener(Protocol):
    """A channel that a client has joined."""

    @property
    def organization_id(self) -> UUID: ...

    @property
    def claims(self) -> str: ...

    @property
    def joined_at(self) -> datetime: ...

    def may_want(self, table: str, row_id: str) -> bool: ...

    def deliver(self, change: Change) -> None: ...

    def fail(self, reason: str) -> None: ...


class Feed:
    """The changes of one database, from the first call of `ready` until `stop`."""

    def __init__(self, pool: Pool, notifier: Notifier) -> None:
        self.tables: Tables = {}
        self._pool = pool
        self._notifier = notifier
        self._columns: dict[str, str] = {}
        self._listeners: dict[UUID, set[Listener]] = {}
        self._pending: dict[Row, dict[str, None]] = {}
        self._read_at: dict[Row, float] = {}
        self._versions: dict[Row, datetime] = {}
        self._knows_tables = asyncio.Event()
        self._hinted = asyncio.Event()
        self._may_have_missed = asyncio.Event()
        # The database's time of the last poll.
        self._asked_at: str | None = None
        self._tasks: list[asyncio.Task[None]] = []
        notifier.subscribe(CHANNEL, self._on_notification)

    async def ready(self) -> None:
        """Waits until changes are noticed. Raises TimeoutError after READY_SECONDS."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._keep(part)) for part in (self._read, self._poll)]
        async with asyncio.timeout(READY_SECONDS):
            await self._knows_tables.wait()
            await self._notifier.is_ready.wait()

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

    async def _keep(self, part: Callable[[Backoff], Awaitable[None]]) -> None:
        backoff = Backoff()
        while True:
            try:
                await part(backoff)
            except (DatabaseError, OSError, TimeoutError) as error:
                logger.warning("realtime: %s", error)
            except Exception:
                logger.exception("realtime failed")
            await asyncio.sleep(backoff.delay())

    async def _load_tables(self) -> None:
        tables = json.loads(await db.call(self._pool, "realtime_tables"))
        self.tables = {table["table"]: {column["name"]: column["type"] for column in table["columns"]} for table in tables}
        self._columns = {table["table"]: json.dumps(table["columns"]) for table in tables}
        self._knows_tables.set()

    def _on_notification(self, payload: str | None) -> None:
        if payload is None:
            self._may_have_missed.set()
        elif change := parse(payload):
            self._note(change.event, change.row)

    def _note(self, event: str, row: Row, at: datetime | None = None) -> None:
        listeners = self._listeners.get(row.organization_id, ())
        if any(listener.may_want(row.table, row.id) and (at is None or at > listener.joined_at) for listener in listeners):
            self._pending.setdefault(row, {})[event] = None
            self._hinted.set()

    async def _poll(self, backoff: Backoff) -> None:
        """Finds changes whose notification was lost: every POLL_SECONDS, and when listening begins again."""
        await self._load_tables()
        while True:
            backoff.reset()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._may_have_missed.wait()
            self._may_have_missed.clear()
            if not self._listeners:
                self._asked_at = None
                continue
            organization_ids = list(self._listeners)
            answer = json.loads(await db.call(self._pool, "realtime_changes", organization_ids=organization_ids, since=self._asked_at))
            self._asked_at = answer["now"]
            for change in answer["changes"]:
                row = Row(change["table"], UUID(change["organization_id"]), change["id"])
                updated_at = datetime.fromisoformat(change["updated_at"])
                if self._versions.get(row) != updated_at:
                    self._versions[row] = updated_at
                    self._note("UPDATE", row, updated_at)
            while len(self._versions) > MAX_CACHED_VERSIONS:
                del self._versions[next(iter(self._versions))]

    async def _read(self, backoff: Backoff) -> None:
        while True:
            await self._hinted.wait()
            now = time.monotonic()
            due = [row for row in self._pending if self._read_at.get(row, 0) + COALESCE_SECONDS <= now][:READS_AT_ONCE]
            if due:
                await self._deliver({row: tuple(self._pending[row]) for row in due})
                backoff.reset()
            elif self._pending:
                first = min(self._read_at[row] for row in self._pending)
                await asyncio.sleep(max(first + COALESCE_SECONDS - now, 0))
            else:
                self._hinted.clear()
                self._read_at = {row: at for row, at in self._read_at.items() if at + COALESCE_SECONDS > now}

    async def _deliver(self, due: Mapping[Row, tuple[str, ...]]) -> None:
        now = time.monotonic()
        wanted: dict[tuple[str, Row], list[Listener]] = {}
        for row, events in due.items():
            # A change notified from now on may be missing in what is read.
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
            records, failed = await read_records(self._pool, wanted)
        except DatabaseError:
            for row, events in due.items():
                self._pending.setdefault(row, {}).update(dict.fromkeys(events))
            raise
        for read in failed:
            for listener in wanted[read]:
                listener.fail("The row could not be read with your claims")
        for (claims, row), text in records.items():
            changes = [self._change(event, row, text) for event in due[row] if event != "DELETE"]
            for change in changes:
                _hand(change, wanted[claims, row])

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


def _hand(change: Change, listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        try:
            listener.deliver(change)
        except Exception:
            logger.exception("realtime: a channel failed")
            listener.fail("Internal error")
