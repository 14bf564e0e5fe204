"""How two connections share the recording of outcomes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, cast
from uuid import uuid4

import pytest
from psycopg.errors import LockNotAvailable

from pyshell.postgres.connections import Session
from pyshell.postgres.sqlstates import OutcomeUnknownError
from pyshell.worker.calls import Lease, Outcome
from pyshell.worker.leases import LeaseKeeper
from pyshell.worker.outcomes import LARGEST_FLUSH, Outcomes
from pyshell.worker.upstream import Answer


class HeldRows:
    """Flushes of some numbers, counted from 1, meet rows that are held and fail; others wait for them until they are released."""

    def __init__(self, items: int, failing: Container[int], waiting: Container[int]) -> None:
        self._left = items
        self._failing = failing
        self._waiting = waiting
        self._flushes = 0
        self.one_failed = asyncio.Event()
        self.one_waits = asyncio.Event()
        self.released = asyncio.Event()
        self.all_recorded = asyncio.Event()

    async def run(self, call: object, organization_id: bytes, outcomes: Sequence[Outcome]) -> dict[str, int]:
        self._flushes += 1
        if self._flushes in self._failing:
            self.one_failed.set()
            raise LockNotAvailable
        if self._flushes in self._waiting:
            self.one_waits.set()
            await self.released.wait()
        self._left -= len(outcomes)
        if not self._left:
            self.all_recorded.set()
        return {"accepted": len(outcomes)}


async def test_one_connection_waits_while_the_other_tries_an_organization_in_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 3 * LARGEST_FLUSH
    session = HeldRows(count, failing=range(1, 3), waiting=range(3, 1000))
    outcomes = Outcomes([cast(Session, session)] * 2, LeaseKeeper(cast(Any, None)))
    rounds = 0
    rest = Outcomes._rest

    def count_rounds(self: Outcomes) -> None:
        nonlocal rounds
        rounds += 1
        if rounds > 1000:
            raise AssertionError("it goes round and round, and nothing else runs")
        rest(self)

    monkeypatch.setattr(Outcomes, "_rest", count_rounds)
    outcomes.expect(count)
    add_answers(outcomes, range(count))
    running = asyncio.create_task(outcomes.run())
    try:
        async with asyncio.timeout(30):
            await asyncio.wait([running, asyncio.create_task(session.one_waits.wait())], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0.2)
            session.released.set()
            await asyncio.wait([running, asyncio.create_task(session.all_recorded.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert not running.done(), running.exception()
        assert not outcomes.waiting
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class LostAmidARecord:
    """The connection is lost while each of the first two flushes runs. `sizes`: of the flushes, by outcomes."""

    def __init__(self, items: int) -> None:
        self._left = items
        self.sizes: list[int] = []
        self.all_recorded = asyncio.Event()

    async def run(self, call: object, group: bytes | dict[bytes, Sequence[Outcome]], *outcomes: Sequence[Outcome]) -> object:
        recorded = [*outcomes] if isinstance(group, bytes) else [*group.values()]
        self.sizes.append(sum(map(len, recorded)))
        if len(self.sizes) <= 2:
            raise OutcomeUnknownError
        self._left -= self.sizes[-1]
        if not self._left:
            self.all_recorded.set()
        return {"accepted": self.sizes[-1]}


@pytest.mark.parametrize("together", [False, True])
async def test_a_connection_lost_during_a_record_makes_no_flush_smaller(together: bool) -> None:
    organizations = [uuid4().bytes for _ in range(2 if together else 1)]
    session = LostAmidARecord(10 * len(organizations))
    outcomes = Outcomes([cast(Session, session)], LeaseKeeper(cast(Any, None)))
    outcomes.together = together
    for organization_id in organizations:
        outcomes.expect(10)
        add_answers(outcomes, range(10), organization_id)
    running = asyncio.create_task(outcomes.run())
    try:
        await asyncio.wait_for(session.all_recorded.wait(), 30)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    # Once in trouble, organizations are recorded one by one.
    assert session.sizes == [10 * len(organizations), 10, *[10] * len(organizations)]


class Stopped:
    """The first flush never ends; `recorded`: the organizations of the others."""

    def __init__(self) -> None:
        self.recorded: list[bytes] = []
        self.began = asyncio.Event()

    async def run(self, call: object, group: bytes | dict[bytes, object], *_: object) -> object:
        if not self.began.is_set():
            self.began.set()
            await asyncio.Event().wait()
        self.recorded += [group] if isinstance(group, bytes) else group
        return {"accepted": 1}


@pytest.mark.parametrize("together", [False, True])
async def test_what_was_being_recorded_at_the_stop_is_recorded_after_it(together: bool) -> None:
    session = Stopped()
    keeper = LeaseKeeper(cast(Any, None))
    outcomes = Outcomes([cast(Session, session)], keeper)
    outcomes.together = together
    outcomes.expect(2)
    add_answers(outcomes, [0], b"one")
    add_answers(outcomes, [0], b"other")
    keeper.add([outcome.lease for waiting in outcomes._waiting.values() for outcome in waiting])
    running = asyncio.create_task(outcomes.run())
    await asyncio.wait_for(session.began.wait(), 30)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await asyncio.wait_for(outcomes.finish(), 30)
    assert sorted(session.recorded) == [b"one", b"other"]
    assert (outcomes.waiting, outcomes.waiting_bytes, len(keeper)) == (0, 0, 0)


class EarlyTimers:
    """The clock of the running loop, whose timers go off a moment before their time by that clock, as uvloop's do by its milliseconds."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def time(self) -> float:
        return self._loop.time()

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(max(delay - 0.002, 0.0), callback)


async def test_a_timer_that_fires_early_leaves_no_outcome_unrecorded() -> None:
    count = 2 * LARGEST_FLUSH
    session = HeldRows(count, failing=[2], waiting=[1])
    outcomes = Outcomes([cast(Session, session)] * 2, LeaseKeeper(cast(Any, None)))
    outcomes._loop = cast(asyncio.AbstractEventLoop, EarlyTimers())
    outcomes.expect(count)
    running = asyncio.create_task(outcomes.run())
    try:
        add_answers(outcomes, range(count))
        async with asyncio.timeout(30):
            await session.one_failed.wait()
            # Nothing more arrives, but there is enough for a flush immediately.
            outcomes.hurry()
            # The next attempt is due while the first connection is still recording.
            await asyncio.sleep(0.1)
            session.released.set()
            await session.all_recorded.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class SlowDatabase:
    """A flush takes 50 ms. `flushes`: when each one began and ended."""

    def __init__(self) -> None:
        self.flushes: list[tuple[float, float]] = []

    async def run(self, call: object, organization_id: bytes, outcomes: Sequence[Outcome]) -> dict[str, int]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await asyncio.sleep(0.05)
        self.flushes.append((started, loop.time()))
        return {"accepted": len(outcomes)}


async def test_a_connection_waits_for_longer_than_a_slow_flush_took() -> None:
    session = SlowDatabase()
    outcomes = Outcomes([cast(Session, session)], LeaseKeeper(cast(Any, None)))
    running = asyncio.create_task(outcomes.run())
    try:
        async with asyncio.timeout(30):
            for position in itertools.count():
                outcomes.expect()
                add_answers(outcomes, [position])
                await asyncio.sleep(0.01)
                if len(session.flushes) == 4:
                    break
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    for (started, ended), (begun, _) in itertools.pairwise(session.flushes):
        assert begun - ended > min(1.9 * (ended - started), 0.24)


async def test_what_is_recorded_makes_room_for_further_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyshell.worker.outcomes.MAX_BYTES", 4)
    outcomes = Outcomes([cast(Session, HeldRows(1, failing=[1], waiting=[]))], LeaseKeeper(cast(Any, None)))
    has_room = asyncio.Event()
    outcomes.on_room = has_room.set
    outcomes.expect()
    add_answers(outcomes, [0])
    assert not outcomes.has_room(b"organization")
    assert not has_room.is_set()
    running = asyncio.create_task(outcomes.run())
    try:
        await asyncio.wait_for(has_room.wait(), 30)
        assert outcomes.has_room(b"organization")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def add_answers(outcomes: Outcomes, positions: Iterable[int], organization_id: bytes = b"organization") -> None:
    for position in positions:
        lease = Lease(organization_id, b"job", position, b"token", b"{}", None, 1e9)
        outcomes.add(lease, Answer(200, None, b"{}", None), 0.1)
