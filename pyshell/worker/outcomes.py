"""Outcomes on their way to the database: collected, recorded in bulk, kept until they are recorded."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from pyshell.postgres.connections import Session
from pyshell.postgres.sqlstates import DatabaseError, is_about_the_data
from pyshell.worker.calls import Lease, Outcome, record_lookups
from pyshell.worker.leases import Holdings
from pyshell.worker.upstream import Answer, failure

logger = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 0.05
FLUSH_OUTCOMES: Final = 500
FLUSH_BYTES: Final = 8 << 20
LARGEST_FLUSH: Final = 1000
# With this much unrecorded (the database is away), no lookup starts.
MAX_BYTES: Final = 64 << 20
LONGEST_PAUSE: Final = 2.0


class Outcomes:
    """Records outcomes every 50 ms, every 500 outcomes or every 8 MB, whichever comes first; over several connections if need be."""

    def __init__(self, sessions: Sequence[Session], worker: str, holdings: Holdings) -> None:
        self._sessions = sessions
        self._worker = worker
        self._holdings = holdings
        self._waiting: list[Outcome] = []
        self._waiting_bytes = 0
        self._unrecorded_bytes = 0
        self._has_some = asyncio.Event()
        self._is_due = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    def add(self, lease: Lease, answer: Answer) -> None:
        size = len(answer.text or b"")
        self._waiting.append(Outcome(lease, answer))
        self._waiting_bytes += size
        self._unrecorded_bytes += size
        if len(self._waiting) == 1:
            self._has_some.set()
        if len(self._waiting) >= FLUSH_OUTCOMES or self._waiting_bytes >= FLUSH_BYTES:
            self._is_due.set()
        if self._unrecorded_bytes >= MAX_BYTES:
            self._has_room.clear()

    def hurry(self) -> None:
        """Nothing more will come soon: do not wait for it."""
        self._is_due.set()

    async def wait_for_room(self) -> None:
        if not self._has_room.is_set():
            await self._has_room.wait()

    async def run(self) -> None:
        """Record whatever comes, until cancelled."""
        await asyncio.gather(*[self._run(session) for session in self._sessions])

    async def finish(self) -> None:
        """Record everything that waits."""
        while self._waiting:
            await self._flush(self._sessions[0])

    async def _run(self, session: Session) -> None:
        while True:
            await self._has_some.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._is_due.wait()
            await self._flush(session)

    async def _flush(self, session: Session) -> None:
        """Record what waits, or much of it; try until the database takes it."""
        outcomes, self._waiting = self._waiting[:LARGEST_FLUSH], self._waiting[LARGEST_FLUSH:]
        size = sum(len(outcome.answer.text or b"") for outcome in outcomes)
        self._waiting_bytes -= size
        if not self._waiting:
            self._has_some.clear()
            self._is_due.clear()
        try:
            await self._record(session, outcomes)
        except asyncio.CancelledError:
            self._waiting += outcomes
            raise
        self._unrecorded_bytes -= size
        if self._unrecorded_bytes < MAX_BYTES:
            self._has_room.set()

    async def _record(self, session: Session, outcomes: Sequence[Outcome]) -> None:
        attempt = 0
        while outcomes:
            try:
                verdicts = await session.run(record_lookups, self._worker, outcomes)
            except DatabaseError as error:
                attempt += 1
                if is_about_the_data(error):
                    await self._isolate(session, outcomes, error)
                    return
                logger.warning("cannot record %s outcomes, will try again: %s", len(outcomes), error)
                await asyncio.sleep(min(0.05 * 2**attempt, LONGEST_PAUSE))
            else:
                for outcome in outcomes:
                    self._holdings.discard(outcome.lease)
                if verdicts.keys() - {"accepted"}:
                    logger.info("recorded %s outcomes: %s", len(outcomes), verdicts)
                return

    async def _isolate(self, session: Session, outcomes: Sequence[Outcome], error: DatabaseError) -> None:
        """The database refuses these together: record each half by itself, and a single one as unreadable."""
        if len(outcomes) > 1:
            middle = len(outcomes) // 2
            await self._record(session, outcomes[:middle])
            await self._record(session, outcomes[middle:])
        elif outcomes[0].answer.error_class is None:
            logger.warning("an answer that the database refuses: %s", error)
            await self._record(session, [Outcome(outcomes[0].lease, failure("invalid_response"))])
        else:
            logger.error("an outcome that the database refuses is dropped, its lease will expire: %s", error)
            self._holdings.discard(outcomes[0].lease)
