"""Outcomes on their way to the database: collected, recorded in bulk, kept until they are recorded."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import accumulate, takewhile
from typing import Final
from uuid import UUID

from pyshell import traces
from pyshell.postgres.connections import Session
from pyshell.postgres.retries import BUSY_BEFORE_A_WARNING, Retries
from pyshell.postgres.sqlstates import DatabaseError, Kind, for_log, is_about_the_data, is_away, kind_of
from pyshell.tasks import wait_at_most
from pyshell.worker.calls import Lease, Outcome, record_for_organizations, record_lookups
from pyshell.worker.failures import ExhaustedLog
from pyshell.worker.leases import LeaseKeeper
from pyshell.worker.upstream import Answer, failure

logger = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 0.05
# A flush has a fixed cost, and several workers wait for one another's. So a connection then rests for this many times the duration of its
# flush.
REST_AFTER_A_FLUSH: Final = 2
LONGEST_REST: Final = 0.25
FLUSH_OUTCOMES: Final = 500
FLUSH_BYTES: Final = 8 << 20
LARGEST_FLUSH: Final = 1000
LARGEST_FLUSH_BYTES: Final = 16 << 20
# This many organizations, each with at most this many successes, are recorded in one transaction. All others are recorded by themselves.
FLUSHED_TOGETHER: Final = 50
FEW_OUTCOMES: Final = 200
# With this much unrecorded, or on its way, no lookup starts; nor one of an organization that has half of it.
MAX_BYTES: Final = 64 << 20
# A response of this size that times out or exhausts memory by itself this many times is too large for the database.
LARGE_ANSWER: Final = 1 << 20
ATTEMPTS_ALONE: Final = 5


class Outcomes:
    """Records outcomes every 50 ms (a quarter of a second if a flush takes long), every 500 outcomes or every 8 MB, whichever comes
    first; over several connections if necessary.

    Organizations with few outcomes share a transaction; new outcomes of theirs wait for its end, as they would for its locks. Organizations
    with locked rows are skipped, and the second time recorded separately. If that fails, outcomes are kept and
    retried, less often and fewer at a time, while the others continue; failing organizations are retried one at a time. `together`:
    whether organizations may share a transaction. `on_room` is called when there is room again.
    """

    def __init__(self, sessions: Sequence[Session], keeper: LeaseKeeper) -> None:
        self._sessions = sessions
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[bytes, list[Outcome]] = {}
        self._waiting_count = 0
        self._waiting_bytes = 0
        self._bytes: Counter[bytes] = Counter()
        self._total_bytes = 0
        self._running = 0
        self._expected_size = 0.0
        self._has_some = asyncio.Event()
        self._is_due = asyncio.Event()
        self._retries = Retries()
        self._exhausted = ExhaustedLog()
        self._largest: dict[bytes, int] = {}
        self._tries_one_in_trouble = False
        self._next_try: asyncio.TimerHandle | None = None
        self._under_way: set[bytes] = set()
        self._busy: set[bytes] = set()
        self._lacks_room = False
        self._database_is_away = False
        self.together = False
        self.on_room: Callable[[], None] = lambda: None

    @property
    def waiting(self) -> int:
        return self._waiting_count

    @property
    def waiting_bytes(self) -> int:
        return self._total_bytes

    def expect(self, lookups: int = 1) -> None:
        """Reserves room for the responses of lookups that start."""
        self._running += lookups

    def has_room(self, organization_id: bytes) -> bool:
        """Whether another lookup of the organization may start: what is kept, and what is expected by recent sizes, is bounded."""
        if not self._total_bytes and not self._running:
            return True
        if self._bytes[organization_id] < MAX_BYTES / 2 and self._total_bytes + (self._running + 1) * self._expected_size < MAX_BYTES:
            return True
        self._lacks_room = True
        return False

    def add(self, lease: Lease, answer: Answer, seconds: float) -> None:
        self._running -= 1
        size = answer.size
        self._expected_size = max(size, self._expected_size * 0.95)
        self._waiting.setdefault(lease.organization_id, []).append(Outcome(lease, answer, seconds))
        self._waiting_count += 1
        self._waiting_bytes += size
        self._bytes[lease.organization_id] += size
        self._total_bytes += size
        self._has_some.set()
        if self._waiting_count >= FLUSH_OUTCOMES or self._waiting_bytes >= FLUSH_BYTES:
            self._is_due.set()

    def hurry(self) -> None:
        """Records without delay, because nothing more will come soon."""
        self._is_due.set()

    async def run(self) -> None:
        """Records whatever comes, until cancelled."""
        await asyncio.gather(*[self._run(session) for session in self._sessions])

    async def finish(self) -> None:
        """Records everything that waits, retrying as often as it takes."""
        while self._waiting:
            for organization_id in list(self._waiting):
                if not await self._flush(self._sessions[0], organization_id):
                    await asyncio.sleep(0.1)

    async def _run(self, session: Session) -> None:
        rest = FLUSH_SECONDS
        while True:
            await self._has_some.wait()
            await wait_at_most(self._is_due, rest)
            self._is_due.clear()
            started = self._loop.time()
            await self._flush_all(session)
            rest = min(max(REST_AFTER_A_FLUSH * (self._loop.time() - started), FLUSH_SECONDS), LONGEST_REST)
            self._rest()

    async def _flush_all(self, session: Session) -> None:
        """Tries once to record what waits of each organization."""
        left = deque(self._waiting)
        while left:
            group = self._take_group(left)
            if group:
                await self._flush_together(session, group)
            elif left:
                await self._flush_in_turn(session, left.popleft())

    def _take_group(self, left: deque[bytes]) -> dict[bytes, list[Outcome]]:
        """Takes the outcomes of the next organizations that may share a transaction off `left`; none if there are not two."""
        together: list[bytes] = []
        count = size = 0
        for organization_id in left if self.together else ():
            waiting = self._waiting.get(organization_id, [])
            count += len(waiting)
            size += size_of(waiting)
            is_easy = (
                len(waiting) <= FEW_OUTCOMES
                and organization_id not in self._under_way
                and not self._retries.has_failed(organization_id)
                and organization_id not in self._largest
            )
            if not is_easy or count > LARGEST_FLUSH or size > LARGEST_FLUSH_BYTES or len(together) == FLUSHED_TOGETHER:
                break
            if not all(outcome.answer.succeeded for outcome in waiting):
                break
            together.append(organization_id)
        if len(together) < 2:
            return {}
        for _ in together:
            left.popleft()
        return {organization_id: outcomes for organization_id in together if (outcomes := self._take(organization_id))}

    async def _flush_together(self, session: Session, group: dict[bytes, list[Outcome]]) -> None:
        """Records outcomes of several organizations in one transaction, and separately those of organizations for which that fails."""
        self._under_way.update(group)
        try:
            await self._try_together(session, group)
        finally:
            self._under_way.difference_update(group)
            self._has_some.set()

    async def _try_together(self, session: Session, group: dict[bytes, list[Outcome]]) -> None:
        try:
            with ExitStack() as flushes:
                for organization_id, outcomes in group.items():
                    flushes.enter_context(flush_of(organization_id, outcomes))
                verdicts = await session.run(record_for_organizations, group)
        except DatabaseError as error:
            for organization_id, outcomes in group.items():
                self._put_back(organization_id, outcomes)
            for organization_id, outcomes in group.items():
                if is_away(error):
                    self._note_failure(organization_id, outcomes, error)
                else:
                    await self._flush(session, organization_id)
            return
        except BaseException:
            for organization_id, outcomes in group.items():
                self._put_back(organization_id, outcomes)
            raise
        busy = [organization_id for organization_id in group if "busy" in verdicts[organization_id]]
        again = self._busy.intersection(busy)
        for organization_id, outcomes in group.items():
            if organization_id in busy:
                self._put_back(organization_id, outcomes)
            else:
                self._let_go(organization_id, outcomes, verdicts[organization_id])
                self._forget(organization_id, outcomes)
                self._note_success(organization_id)
        self._busy.difference_update(group)
        self._busy.update(set(busy) - again)
        for organization_id in again:
            await self._flush(session, organization_id)

    def _rest(self) -> None:
        """Lets both connections sleep if nothing waits, or only what has to wait for its next try, or for the other connection to retry a
        failing organization; wakes them once something may be tried, which the other one may have found too early.
        """
        now = self._loop.time()
        if self._next_try is not None:
            self._next_try.cancel()
            self._next_try = None
        if any(self._may_try(organization_id, now) for organization_id in self._waiting):
            self._has_some.set()
            if self._waiting_count >= FLUSH_OUTCOMES or self._waiting_bytes >= FLUSH_BYTES:
                self._is_due.set()
            return
        self._has_some.clear()
        # A timer may fire slightly early. Then nothing is due yet, and this is the place that sets the next one.
        if (seconds := self._retries.next_due_in(now)) < float("inf"):
            self._next_try = self._loop.call_later(seconds, self._has_some.set)

    async def _flush_in_turn(self, session: Session, organization_id: bytes) -> None:
        if not self._may_try(organization_id, self._loop.time()):
            return
        if not self._retries.has_failed(organization_id):
            await self._flush(session, organization_id)
            return
        self._tries_one_in_trouble = True
        try:
            await self._flush(session, organization_id)
        finally:
            self._tries_one_in_trouble = False
            self._has_some.set()

    def _may_try(self, organization_id: bytes, now: float) -> bool:
        if organization_id in self._under_way:
            return False
        if not self._retries.has_failed(organization_id):
            return True
        return self._retries.is_due(organization_id, now) and not self._tries_one_in_trouble

    async def _flush(self, session: Session, organization_id: bytes) -> bool:
        """Records what waits of one organization, or much of it. What fails waits again; false: it did."""
        outcomes = self._take(organization_id)
        if not outcomes:
            return True
        try:
            with flush_of(organization_id, outcomes):
                await self._record(session, organization_id, outcomes)
        except DatabaseError as error:
            self._put_back(organization_id, outcomes)
            self._note_failure(organization_id, outcomes, error)
            return False
        except BaseException:
            self._put_back(organization_id, outcomes)
            raise
        self._forget(organization_id, outcomes)
        self._note_success(organization_id)
        await self._exhausted.note(session, organization_id, outcomes, self._loop.time())
        return True

    async def _record(self, session: Session, organization_id: bytes, outcomes: Sequence[Outcome]) -> None:
        """Records outcomes; if their data is refused, records each half separately, and a single one as unreadable."""
        try:
            verdicts = await session.run(record_lookups, organization_id, outcomes)
        except DatabaseError as error:
            if not is_about_the_data(error):
                raise
            if len(outcomes) > 1:
                middle = len(outcomes) // 2
                await self._record(session, organization_id, outcomes[:middle])
                await self._record(session, organization_id, outcomes[middle:])
                return
            [outcome] = outcomes
            if outcome.answer.error_class is not None:
                raise
            logger.warning("the database cannot store the answer for %s: %s", outcome.lease, error)
            verdicts = await session.run(record_lookups, organization_id, [outcome._replace(answer=failure("invalid_response"))])
        self._let_go(organization_id, outcomes, verdicts)

    def _let_go(self, organization_id: bytes, outcomes: Sequence[Outcome], verdicts: Mapping[str, int]) -> None:
        for outcome in outcomes:
            self._keeper.discard(outcome.lease)
        if verdicts.keys() - {"accepted"}:
            logger.info("organization %s: recorded %s outcomes: %s", UUID(bytes=organization_id), len(outcomes), verdicts)

    def _note_success(self, organization_id: bytes) -> None:
        if self._database_is_away:
            self._database_is_away = False
            logger.info("the database accepts outcomes again")
        if self._retries.note_success(organization_id):
            logger.info("outcomes of organization %s are recorded again", UUID(bytes=organization_id))
        if organization_id in self._largest:
            self._largest[organization_id] *= 2
            if self._largest[organization_id] >= LARGEST_FLUSH:
                del self._largest[organization_id]
        if self._lacks_room:
            self._lacks_room = False
            self.on_room()

    def _note_failure(self, organization_id: bytes, outcomes: list[Outcome], error: DatabaseError) -> None:
        now = self._loop.time()
        failures = self._retries.note_failure(organization_id, now)
        kind, away = kind_of(error), is_away(error)
        # A database that is away affects all organizations: one warning when that begins, then one a minute for each.
        first = 0 if away else BUSY_BEFORE_A_WARNING if kind is Kind.BUSY else 1
        if self._retries.is_worth_a_warning(organization_id, first) or (away and not self._database_is_away):
            logger.warning(
                "cannot record %s outcomes of organization %s, %s bytes are kept, will try again: %s",
                len(outcomes),
                UUID(bytes=organization_id),
                self._total_bytes,
                for_log(error),
            )
        self._database_is_away = self._database_is_away or away
        if not away and kind not in (Kind.BUSY, Kind.CONFLICT, Kind.STALE_STATEMENT):
            self._largest[organization_id] = max(len(outcomes) // 2, 1)
        if kind in (Kind.TIMEOUT, Kind.UNAVAILABLE) and len(outcomes) == 1 and failures >= ATTEMPTS_ALONE:
            [outcome] = outcomes
            if outcome.answer.size >= LARGE_ANSWER:
                self._replace(organization_id, outcome, failure("response_too_large"))

    def _replace(self, organization_id: bytes, outcome: Outcome, answer: Answer) -> None:
        logger.warning("the answer for %s is too large for the database: %s bytes", outcome.lease, outcome.answer.size)
        self._waiting[organization_id].remove(outcome)
        self._forget(organization_id, [outcome])
        self._waiting_count -= 1
        self._waiting_bytes -= outcome.answer.size
        self._running += 1
        self.add(outcome.lease, answer, outcome.seconds)

    def _take(self, organization_id: bytes) -> list[Outcome]:
        """As many outcomes as fit into one flush, at least one."""
        waiting = self._waiting.get(organization_id, [])
        largest = self._largest.get(organization_id, LARGEST_FLUSH)
        sizes = accumulate(outcome.answer.size for outcome in waiting[:largest])
        count = max(sum(1 for _ in takewhile(lambda size: size <= LARGEST_FLUSH_BYTES, sizes)), min(len(waiting), 1))
        outcomes, rest = waiting[:count], waiting[count:]
        if rest:
            self._waiting[organization_id] = rest
        else:
            self._waiting.pop(organization_id, None)
        self._waiting_count -= len(outcomes)
        self._waiting_bytes -= size_of(outcomes)
        return outcomes

    def _put_back(self, organization_id: bytes, outcomes: list[Outcome]) -> None:
        """At the end, so that an outcome that cannot be recorded does not hold up the others."""
        self._waiting.setdefault(organization_id, []).extend(outcomes)
        self._waiting_count += len(outcomes)
        self._waiting_bytes += size_of(outcomes)

    def _forget(self, organization_id: bytes, outcomes: Sequence[Outcome]) -> None:
        """Removes recorded outcomes, which no longer need room."""
        size = size_of(outcomes)
        self._bytes[organization_id] -= size
        if not self._bytes[organization_id]:
            del self._bytes[organization_id]
        self._total_bytes -= size


def flush_of(organization_id: bytes, outcomes: Sequence[Outcome]) -> AbstractContextManager[None]:
    """Records the flush in the traces of its lookups, if any was recorded."""
    if traces.recorder is None:
        return nullcontext()
    contexts = (outcome.lease.traceparent for outcome in outcomes)
    recorded = [context for context in contexts if context is not None and traces.is_recorded(context)]
    if not recorded:
        return nullcontext()
    attributes = {"batch_lookups.organization_id": str(UUID(bytes=organization_id)), "batch_lookups.outcomes": len(outcomes)}
    return traces.recorder.work("flush", recorded, attributes)


def size_of(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome.answer.size for outcome in outcomes)
