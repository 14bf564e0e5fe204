"""Reads at a standby, for callers that accept its lag: never behind a write of their own organization, whichever process did it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar
from uuid import UUID

from prometheus_client.core import Metric
from psycopg_pool import PoolTimeout

from pyshell.metrics import eventual_reads, gauge
from pyshell.postgres.calls import call_row, fetch_row
from pyshell.postgres.connections import answered
from pyshell.postgres.pool import Pool, PooledConnection
from pyshell.postgres.sqlstates import DatabaseError, Kind, OutcomeUnknownError, kind_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long a caller waits for a standby before the primary is used.
PATIENCE_SECONDS = 1.0
# How long a standby that does not respond is left alone.
AWAY_SECONDS = 5.0


class NotingPool(Pool):
    """The pool of the primary: after each write of an organization, before its response, it records what a standby must have replayed."""

    async def run_for(self, organization: object, function: str, once: Callable[[PooledConnection], Awaitable[T]]) -> T:
        """Like that of `Pool`. Raises OutcomeUnknownError also if the write cannot be recorded."""
        try:
            answer = await super().run_for(organization, function, once)
        except OutcomeUnknownError:
            with suppress(DatabaseError):
                await self._note(organization, has_ended=False)
            raise
        if not self.may_repeat(function):
            try:
                await self._note(organization, has_ended=True)
            except DatabaseError as error:
                raise OutcomeUnknownError(f"api.{function} could not be noted for the standbys: {error}") from error
        return answer

    async def _note(self, organization: object, *, has_ended: bool) -> None:
        if isinstance(organization, UUID):
            arguments = {"organization_id": organization, "has_ended": has_ended}
            await self.run("note_write", partial(fetch_row, function="note_write", arguments=arguments))


class Replica:
    """The standbys of a primary, behind one URL. While they are away, the primary is used."""

    def __init__(self, primary: Pool, database_url: str, max_lag: float, max_size: int) -> None:
        self.primary = primary
        self.max_lag = max_lag
        self.lag: float | None = None
        self.pool = Pool(
            database_url,
            name="the replica",
            min_size=0,
            max_size=max_size,
            timeout=PATIENCE_SECONDS,
            read_only=True,
            on_unreachable=lambda: self.note_away("it cannot be reached"),
        )
        # Reads that have a connection.
        self.under_way = 0
        self._is_away = False
        self._again_at = 0.0

    def reader(self, note_lag: Callable[[float], None]) -> Reader:
        """For the reads of one request; `note_lag` is called with the lag in seconds whenever a standby was used."""
        return Reader(self, note_lag)

    def may_be_asked(self) -> bool:
        """Whether the standby is there. While it is away, one caller every few seconds finds out whether it is back."""
        if self._is_away:
            if time.monotonic() < self._again_at:
                return False
            self._again_at = time.monotonic() + AWAY_SECONDS
        return True

    def note_away(self, reason: str) -> None:
        if not self._is_away:
            logger.warning("the replica does not answer, the primary answers instead: %s", reason)
        self._is_away = True
        self.lag = None
        self._again_at = time.monotonic() + AWAY_SECONDS

    def note_lag(self, lag: float | None) -> None:
        """Records how many seconds it is behind."""
        if self._is_away:
            logger.warning("the replica answers again")
        self._is_away = False
        self.lag = lag

    def metrics(self) -> Iterable[Metric]:
        yield gauge("db_replica_lag_seconds", "How far the replica was behind at most when it was last asked; none: no sample", self.lag)


class NotAtReplicaError(Exception):
    """The standby may not be used; `reason` is the label of the metric."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Reader:
    """Calls of functions that only read, in place of a pool. Once the primary was used, it is used for the rest as well."""

    def __init__(self, replica: Replica, note_lag: Callable[[float], None]) -> None:
        self._replica = replica
        self._note_lag = note_lag
        self._is_at_primary = False
        self._asking = asyncio.Lock()
        self._asked_at = 0.0
        self._position: dict[str, object] = {}
        # Standbys behind one URL differ: none may show less than the one before it did.
        self._replayed: object = None

    async def run(self, function: str, once: Callable[[PooledConnection], Awaitable[T]]) -> T:
        """At the primary: without an organization, it is unknown what was written."""
        return await self._replica.primary.run(function, once)

    async def run_for(self, organization: object, function: str, once: Callable[[PooledConnection], Awaitable[T]]) -> T:
        """Like that of `Pool`, at a standby if it has what the organization has written and is not too far behind."""
        replica = self._replica
        if not self._is_at_primary:
            try:
                if not replica.may_be_asked():
                    raise NotAtReplicaError("unavailable")
                await self._ask_primary(organization)
                answer = await replica.pool.run_for(organization, function, partial(self._read_and_count, once))
                eventual_reads.labels("replica").inc()
                return answer
            except NotAtReplicaError as error:
                eventual_reads.labels(error.reason).inc()
            except DatabaseError as error:
                kind = kind_of(error)
                if kind is Kind.TIMEOUT or (isinstance(error, PoolTimeout) and not self._position):
                    # The primary would take as long, or has: it was the primary that had no free connection.
                    raise
                if isinstance(error, PoolTimeout) and not replica.under_way:
                    # Nobody has one, so none can be opened: do not let each request wait until an attempt fails.
                    replica.note_away("it cannot be reached")
                # What a standby refuses, such as a row that it lacks, may differ at the primary by now.
                eventual_reads.labels("refused" if kind is Kind.REFUSED else "unavailable").inc()
            self._is_at_primary = True
        return await replica.primary.run_for(organization, function, once)

    async def _ask_primary(self, organization: object) -> None:
        async with self._asking:
            if not self._position:
                self._asked_at = time.monotonic()
                row = await call_row(self._replica.primary, "read_position", organization_id=organization)
                names = ("wal_history", "written", "lsn", "read_at")
                self._position = {name: value.decode() for name, value in zip(names, row, strict=True) if value}

    async def _read_and_count(self, once: Callable[[PooledConnection], Awaitable[T]], connection: PooledConnection) -> T:
        self._replica.under_way += 1
        try:
            return await self._read(once, connection)
        finally:
            self._replica.under_way -= 1

    async def _read(self, once: Callable[[PooledConnection], Awaitable[T]], connection: PooledConnection) -> T:
        arguments = self._position | ({"written": self._replayed} if self._replayed else {})
        try:
            has_written, lag, replayed = await answered(connection, fetch_row(connection, "replica_lag", arguments), PATIENCE_SECONDS)
        except TimeoutError:
            self._replica.note_away("it takes too long")
            raise NotAtReplicaError("unavailable") from None
        if has_written is None:
            # After a failover, its URL may lead to another server by now.
            connection.is_spent = True
            self._replica.note_away("it is no standby of the primary")
            raise NotAtReplicaError("unavailable")
        # The primary may have moved on since it was asked.
        seconds = None if lag is None else float(lag) + time.monotonic() - self._asked_at
        self._replica.note_lag(seconds)
        if has_written != b"t":
            raise NotAtReplicaError("after_write")
        if not self._replayed and (seconds is None or seconds > self._replica.max_lag):
            raise NotAtReplicaError("lag")
        answer = await once(connection)
        self._replayed = replayed and replayed.decode()
        if seconds is not None:
            self._note_lag(seconds)
        return answer
