"""Finds changes and hands them to the channels that subscribed to them.

A notification says that a row changed, not how. The row is read with the claims of each subscriber, so the policies decide who sees it, at
most once in `COALESCE_SECONDS`; its last state is always delivered. Notifications can get lost, with a connection or in a pooler, and a
plain UPDATE sends none: every `POLL_SECONDS` the feed steps through the rows of its organizations for everything written since the
previous step, going by the database's transaction numbers and not by any clock. On a cluster, whose nodes have numbers of
their own, it goes by `updated_at`, with a few seconds for clocks that differ.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from pyshell.api.realtime.filters import KEY, SCHEMA, Answers, FilterError, Question, Subscription, Tables
from pyshell.api.realtime.reader import read_all
from pyshell.api.row_changes import CHANNEL, Row, parse
from pyshell.postgres import calls as db
from pyshell.postgres.connections import Backoff
from pyshell.postgres.notifications import Notifier
from pyshell.postgres.pool import Pool
from pyshell.postgres.sqlstates import DatabaseError
from pyshell.tasks import cancel_all, wait_at_most

logger = logging.getLogger("pyshell.api.realtime")

COALESCE_SECONDS = 0.1
POLL_SECONDS = 5.0
READY_SECONDS = 5.0
READS_AT_ONCE = 200
# For the patterns of an organization that PostgreSQL cannot match all at once.
ALONE_SECONDS = 2.0
JUDGED_AT_ONCE = 2
# Listeners that are served before other tasks run; each may have hundreds of conditions.
SERVED_AT_ONCE = 10
MAX_CACHED_VERSIONS = 20_000
# A crash loses the last half second of asynchronous commits, and reuses their transaction numbers.
MAX_LOST_TRANSACTIONS = 10_000
# In place of the version of a row: its deletion has been sent to the listeners.
DELETED = "deleted"
# Polls of many rows are less frequent: they take up to a twentieth of one connection.
POLL_SHARE = 20
# Rows updated up to this long before may not have been sent: they are stamped before they are locked and committed, and polls take time.
REPLAY_MARGIN = timedelta(seconds=60)


class Number(str):
    """A number of a record with all digits that PostgreSQL wrote."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a row. `record` is what a subscriber may see of it, only the key after a DELETE; `columns` are (name, type)."""

    event: str
    row: Row
    record: Mapping[str, Any]
    columns: Iterable[tuple[str, str]]
    # PostgreSQL's verdicts on the conditions that only it can evaluate.
    answers: Answers = field(default_factory=dict)
    # Encoded frames: most subscribers get the same one.
    frames: dict[object, str] = field(default_factory=dict)

    def data(self, selected: Set[str] | None) -> str:
        """The JSON of the message, with the selected columns only."""
        key = {name: value for name, value in self.record.items() if name in KEY}
        at = self.record.get("updated_at") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        columns = [{"name": name, "type": type_name} for name, type_name in self.columns if selected is None or name in selected]
        members = [
            f'"schema":"{SCHEMA}","table":"{self.row.table}","type":"{self.event}","commit_timestamp":"{at}"',
            f'"columns":{json.dumps(columns)}',
            *([f'"record":{_encode(self.record, selected)}'] if self.event != "DELETE" else []),
            *([f'"old_record":{_encode(key, None)}'] if self.event != "INSERT" else []),
            '"errors":null',
        ]
        return "{" + ",".join(members) + "}"


def _encode(record: Mapping[str, Any], selected: Set[str] | None) -> str:
    members = (
        f"{json.dumps(name)}:{value if isinstance(value, Number) else json.dumps(value)}"
        for name, value in record.items()
        if selected is None or name in selected
    )
    return "{" + ",".join(members) + "}"


class Listener(Protocol):
    """A channel that a client has joined. Whatever the database's transactions at `position` could not see is news to it."""

    position: int

    @property
    def organization_id(self) -> UUID: ...

    @property
    def claims(self) -> str: ...

    @property
    def is_behind(self) -> bool:
        """Whether many messages wait to be read by the client."""
        ...

    def may_want(self, table: str, row_id: str) -> bool: ...

    def questions(self, table: str, record: Mapping[str, Any]) -> Iterator[Question]: ...

    def deliver(self, change: Change) -> None: ...

    def fail(self, reason: str) -> None: ...


# The listeners that get an event; None: all.
Audience = set[Listener] | None


class Feed:
    """The changes of one database, from the first call of `ready` until `stop`."""

    def __init__(self, pool: Pool, notifier: Notifier) -> None:
        self.tables: Tables = {}
        self._pool = pool
        self._notifier = notifier
        self._listeners: dict[UUID, set[Listener]] = {}
        self._pending: dict[Row, dict[str, Audience]] = {}
        self._read_at: dict[Row, float] = {}
        self._versions: dict[Row, str] = {}
        self._knows_tables = asyncio.Event()
        self._hinted = asyncio.Event()
        self._may_have_missed = asyncio.Event()
        # Everything visible at that position has been polled, and the listeners that joined since then.
        self._position: int | None = None
        # The history of the server whose transactions the positions number.
        self._history: str | None = None
        self._may_have_crashed = False
        self._joined: list[Listener] = []
        self._replays: dict[Listener, asyncio.Task[None]] = {}
        # Organizations whose patterns are being matched, which may take long: only their own rows wait.
        self._judged: dict[UUID, asyncio.Task[None]] = {}
        self._judging = asyncio.Semaphore(JUDGED_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []
        notifier.subscribe(CHANNEL, self._on_notification)

    async def ready(self) -> None:
        """Waits until changes are being noticed. Raises TimeoutError after READY_SECONDS."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._keep(part)) for part in (self._read, self._poll)]
        async with asyncio.timeout(READY_SECONDS):
            await self._knows_tables.wait()
            await self._notifier.is_ready.wait()

    async def stop(self) -> None:
        await cancel_all([*self._tasks, *self._replays.values(), *self._judged.values()])

    async def position(self) -> int:
        """The position of a listener that joins now. Raises DatabaseError."""
        return int(await db.call(self._pool, "realtime_position"))

    async def check(self, subscriptions: Iterable[Subscription], organization_id: UUID) -> None:
        """Raises FilterError when PostgreSQL cannot work with a pattern, or not in time, and DatabaseError."""
        patterns = {
            Question(condition.operator, "", condition.operand)
            for subscription in subscriptions
            for condition in subscription.conditions
            if condition.is_asked
        }
        # A short regular expression can take seconds: an organization has its share of the connections for that.
        questions = [("{}", pattern) for pattern in patterns]
        _, failed = await read_all(self._pool, "realtime_match", questions, organization_id, ALONE_SECONDS)
        for _, pattern in failed:
            raise FilterError(f"invalid pattern for {pattern.operator} filter: {pattern.operand}")

    def add(self, listener: Listener, since: datetime | None = None) -> None:
        """Subscribes the listener to changes, and to rows updated `since` then, in the database's time."""
        self._listeners.setdefault(listener.organization_id, set()).add(listener)
        self._joined.append(listener)
        if self._position is None:
            self._position = listener.position
            # Immediately, to learn which server it is.
            self._may_have_missed.set()
        if since is not None:
            replay = self._replays[listener] = asyncio.create_task(self._replay(listener, since - REPLAY_MARGIN))
            replay.add_done_callback(lambda task: self._replays.pop(listener, None) if self._replays.get(listener) is task else None)

    def remove(self, listener: Listener) -> None:
        if replay := self._replays.pop(listener, None):
            replay.cancel()
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
        self._knows_tables.set()

    def _on_notification(self, payload: str | None) -> None:
        if payload is None:
            # A listener that joins later gets a position of the server as of then.
            self._may_have_crashed = self._position is not None
            self._may_have_missed.set()
        elif change := parse(payload):
            self._note(change.event, change.row)

    def _note(self, event: str, row: Row, revision: int | None = None, audience: Audience = None) -> None:
        listeners = self._listeners.get(row.organization_id, set()) if audience is None else audience
        if any(listener.may_want(row.table, row.id) and (revision is None or revision >= listener.position) for listener in listeners):
            events = self._pending.setdefault(row, {})
            others = events.get(event, set())
            events[event] = None if audience is None or others is None else others | audience
            self._hinted.set()

    async def _poll(self, backoff: Backoff) -> None:
        """Finds changes without notifications: every POLL_SECONDS, and when listening begins again."""
        await self._load_tables()
        pause, took = POLL_SECONDS, 0.0
        while True:
            backoff.reset()
            await wait_at_most(self._may_have_missed, pause)
            self._may_have_missed.clear()
            if not self._listeners:
                self._position = self._history = None
                self._may_have_crashed = False
                continue
            if self._may_have_crashed and self._position is not None:
                self._go_back(max(self._position - MAX_LOST_TRANSACTIONS, 0))
            self._may_have_crashed = False
            self._joined = []
            started = time.monotonic()
            positions = []
            async for step in self._steps(list(self._listeners), since=self._position):
                if self._history not in (None, step.history):
                    # After a failover, the former server may have counted further, so it is unknown what the new one has written.
                    self._go_back(0)
                    self._may_have_missed.set()
                    positions.append(0)
                self._history = step.history
                positions.append(step.position)
                for row, version, revision, is_new, is_deleted in step.changes:
                    if is_deleted:
                        if self._versions.get(row) != DELETED:
                            self._note("DELETE", row, revision)
                    elif row not in self._pending and self._versions.get(row) != version:
                        if is_new and row not in self._versions:
                            self._note("INSERT", row, revision)
                        self._note("UPDATE", row, revision)
            # A listener that joined meanwhile may belong to an organization whose rows were not read.
            self._position = min([*positions, *(listener.position for listener in self._joined)])
            while len(self._versions) > MAX_CACHED_VERSIONS:
                del self._versions[next(iter(self._versions))]
            # A single slow one had to wait for something.
            before, took = took, time.monotonic() - started
            pause = max(POLL_SECONDS, min(before, took) * POLL_SHARE)

    def _go_back(self, position: int) -> None:
        """Makes everything written since then news to all, even if known: another transaction may have had the same number.

        Known rows get a version that no row has, so that they count as an UPDATE, not as an INSERT.
        """
        self._position = position
        for listener in chain.from_iterable(self._listeners.values()):
            listener.position = min(listener.position, position)
        self._versions = {row: version if version == DELETED else "" for row, version in self._versions.items()}

    async def _replay(self, listener: Listener, updated_since: datetime) -> None:
        """Sends one listener all rows updated since then, no faster than its client reads."""
        backoff = Backoff()
        while True:
            try:
                async for step in self._steps([listener.organization_id], updated_since=updated_since, limit=READS_AT_ONCE):
                    for row, *_, is_deleted in step.changes:
                        self._note("DELETE" if is_deleted else "UPDATE", row, audience={listener})
                    while listener.is_behind:  # noqa: ASYNC110 - as fast as the client reads, which sets no event
                        await asyncio.sleep(COALESCE_SECONDS)
                return
            except (DatabaseError, OSError, TimeoutError) as error:
                logger.warning("realtime: %s", error)
            await asyncio.sleep(backoff.delay())

    async def _steps(self, organization_ids: list[UUID], **arguments: object) -> AsyncIterator[Step]:
        """All rows of some organizations that were written since then. A step waits until those of the previous one are nearly read."""
        for table in self.tables:
            after: dict[str, Any] | None = {}
            while after is not None:
                answer = json.loads(
                    await db.call(
                        self._pool,
                        "realtime_changes",
                        organization_ids=organization_ids,
                        table=table,
                        **{"since": None, **arguments, **after},
                    )
                )
                yield Step(
                    answer["position"],
                    answer["history"],
                    [
                        Written(
                            Row(table, UUID(change["organization_id"]), change["id"]),
                            change["version"],
                            change["revision"],
                            change["is_new"],
                            change["is_deleted"],
                        )
                        for change in answer["changes"]
                    ],
                )
                while self._unread(organization_ids) > READS_AT_ONCE:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(COALESCE_SECONDS)
                after = answer["next"]

    def _unread(self, organization_ids: Collection[UUID]) -> int:
        """How many of their rows are to be read; of several organizations, without those whose patterns are being matched."""
        passed_over = self._judged.keys() if len(organization_ids) > 1 else ()
        return sum(row.organization_id in organization_ids and row.organization_id not in passed_over for row in self._pending)

    async def _read(self, backoff: Backoff) -> None:
        while True:
            await self._hinted.wait()
            now = time.monotonic()
            readable = [row for row in self._pending if row.organization_id not in self._judged]
            due = [row for row in readable if self._read_at.get(row, 0) + COALESCE_SECONDS <= now][:READS_AT_ONCE]
            if due:
                await self._deliver({row: self._pending.pop(row) for row in due})
                backoff.reset()
            elif readable:
                first = min(self._read_at[row] for row in readable)
                await asyncio.sleep(max(first + COALESCE_SECONDS - now, 0))
            else:
                self._hinted.clear()
                self._read_at = {row: at for row, at in self._read_at.items() if at + COALESCE_SECONDS > now}

    async def _deliver(self, due: Mapping[Row, Mapping[str, Audience]]) -> None:
        now = time.monotonic()
        wanted: dict[tuple[str, Row], list[Listener]] = {}
        for row, events in due.items():
            self._read_at[row] = now
            for listener in self._listeners.get(row.organization_id, ()):
                if listener.may_want(row.table, row.id) and any(_is_for(listener, audience) for audience in events.values()):
                    wanted.setdefault((listener.claims, row), []).append(listener)
        try:
            answers, failed = await read_all(self._pool, "realtime_record", wanted)
            records = {read: json.loads(text, parse_float=Number) for read, text in answers.items()}
        except Exception:
            self._note_again(due)
            raise
        for read in failed:
            for listener in wanted[read]:
                listener.fail("The row could not be read with your claims")
        asked: dict[UUID, dict[Question, list[Listener]]] = {}
        for (claims, row), answer in records.items():
            async for listener in _in_turns(wanted[claims, row]):
                for question in listener.questions(row.table, answer["record"]):
                    asked.setdefault(row.organization_id, {}).setdefault(question, []).append(listener)
        told = {read: listeners for read, listeners in wanted.items() if read not in failed}
        await self._tell({row: events for row, events in due.items() if row.organization_id not in asked}, told, records, {})
        for organization_id, questions in asked.items():
            rows = {row: events for row, events in due.items() if row.organization_id == organization_id}
            self._judged[organization_id] = asyncio.create_task(self._judge(organization_id, questions, rows, told, records))

    async def _judge(
        self,
        organization_id: UUID,
        asked: Mapping[Question, list[Listener]],
        due: Mapping[Row, Mapping[str, Audience]],
        wanted: Mapping[tuple[str, Row], list[Listener]],
        records: Mapping[tuple[str, Row], Any],
    ) -> None:
        """Sends the rows of an organization that match the patterns of its listeners."""
        try:
            async with self._judging:
                questions = [("{}", question) for question in asked]
                matches, unanswered = await read_all(self._pool, "realtime_match", questions, alone_seconds=ALONE_SECONDS)
            for _, question in unanswered:
                for listener in asked[question]:
                    listener.fail(f"The filter {question.operator}.{question.operand} could not be evaluated")
            await self._tell(due, wanted, records, {question: match == b"t" for (_, question), match in matches.items()})
        except Exception as error:
            self._note_again(due)
            logger.warning("realtime: %s", error, exc_info=not isinstance(error, DatabaseError | OSError | TimeoutError))
            await asyncio.sleep(Backoff().delay())
        finally:
            del self._judged[organization_id]
            self._hinted.set()

    def _note_again(self, due: Mapping[Row, Mapping[str, Audience]]) -> None:
        for row, events in due.items():
            for event, audience in events.items():
                self._note(event, row, audience=audience)

    async def _tell(
        self,
        due: Mapping[Row, Mapping[str, Audience]],
        wanted: Mapping[tuple[str, Row], list[Listener]],
        records: Mapping[tuple[str, Row], Any],
        known: Answers,
    ) -> None:
        """Sends the changes of these rows to the listeners that want them."""
        for (claims, row), listeners in wanted.items():
            # Really gone, not just reported as deleted.
            if row in due and "DELETE" in due[row] and (claims, row) not in records:
                key = {"organization_id": str(row.organization_id), "id": row.id}
                audience = due[row]["DELETE"]
                if audience is None:
                    self._versions[row] = DELETED
                change = Change("DELETE", row, key, self.tables[row.table].items())
                await _hand(change, [listener for listener in listeners if _is_for(listener, audience)])
        for (claims, row), answer in records.items():
            if row not in due:
                continue
            # What was sent to one listener is still news to the others.
            if None in due[row].values():
                self._versions[row] = answer["version"]
            for event, audience in due[row].items():
                if event != "DELETE":
                    change = Change(event, row, answer["record"], self.tables[row.table].items(), known)
                    await _hand(change, [listener for listener in wanted[claims, row] if _is_for(listener, audience)])


class Written(NamedTuple):
    """A row that changed. `is_new`: it was never updated; `is_deleted`: it has been deleted."""

    row: Row
    version: str
    revision: int
    is_new: bool
    is_deleted: bool


class Step(NamedTuple):
    """Some of the rows that changed, the position of the step, and the history that it belongs to (None: on a cluster)."""

    position: int
    history: str | None
    changes: list[Written]


def _is_for(listener: Listener, audience: Audience) -> bool:
    return audience is None or listener in audience


async def _in_turns(listeners: Iterable[Listener]) -> AsyncIterator[Listener]:
    """The listeners, a few at a time, between which other tasks run."""
    for number, listener in enumerate(listeners, 1):
        yield listener
        if number % SERVED_AT_ONCE == 0:
            await asyncio.sleep(0)


async def _hand(change: Change, listeners: Iterable[Listener]) -> None:
    async for listener in _in_turns(listeners):
        try:
            listener.deliver(change)
        except Exception:
            logger.exception("realtime: a channel failed")
            listener.fail("Internal error")
