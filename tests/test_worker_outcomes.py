"""How two connections share the recording of outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import pytest
from psycopg.errors import LockNotAvailable

from pyshell.postgres.connections import Session
from pyshell.worker.calls import Lease, Outcome
from pyshell.worker.leases import LeaseKeeper
from pyshell.worker.outcomes import LARGEST_FLUSH, Outcomes
from pyshell.worker.upstream import Answer


class BusyThenSlow:
    """The rows of the organization are held at first; the second flush has to wait for them, and then all is well."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.all_recorded = asyncio.Event()
        self.flushes = 0
        self.second_began = asyncio.Event()
        self.released = asyncio.Event()

    async def run(self, call: object, organization_id: bytes, outcomes: Sequence[Outcome]) -> dict[str, int]:
        self.flushes += 1
        if self.flushes <= 2:
            raise LockNotAvailable
        self.second_began.set()
        await self.released.wait()
        self.left -= len(outcomes)
        if not self.left:
            self.all_recorded.set()
        return {"accepted": len(outcomes)}


async def test_a_connection_rests_while_the_other_tries_an_organization_in_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 3 * LARGEST_FLUSH
    session = BusyThenSlow(count)
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
            await asyncio.wait([running, asyncio.create_task(session.second_began.wait())], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0.2)
            session.released.set()
            await asyncio.wait([running, asyncio.create_task(session.all_recorded.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert not running.done(), running.exception()
        assert not outcomes.waiting
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class SlowThenBusy:
    """The first flush waits until it is let go; the second one meets rows that are held."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.all_recorded = asyncio.Event()
        self.flushes = 0
        self.second_failed = asyncio.Event()
        self.released = asyncio.Event()

    async def run(self, call: object, organization_id: bytes, outcomes: Sequence[Outcome]) -> dict[str, int]:
        self.flushes += 1
        if self.flushes == 2:
            self.second_failed.set()
            raise LockNotAvailable
        if self.flushes == 1:
            await self.released.wait()
        self.left -= len(outcomes)
        if not self.left:
            self.all_recorded.set()
        return {"accepted": len(outcomes)}


class EarlyTimers:
    """The clock of the running loop, whose timers go off a moment before their time by that clock, as uvloop's do by its milliseconds."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def time(self) -> float:
        return self._loop.time()

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(max(delay - 0.002, 0.0), callback)


async def test_a_timer_that_goes_off_early_leaves_no_outcome_behind() -> None:
    count = 2 * LARGEST_FLUSH
    session = SlowThenBusy(count)
    outcomes = Outcomes([cast(Session, session)] * 2, LeaseKeeper(cast(Any, None)))
    outcomes._loop = cast(asyncio.AbstractEventLoop, EarlyTimers())
    outcomes.expect(count)
    running = asyncio.create_task(outcomes.run())
    try:
        add_answers(outcomes, range(count))
        async with asyncio.timeout(30):
            await session.second_failed.wait()
            # Nothing more comes, but there is enough for a flush at once.
            outcomes.hurry()
            # The time of the next try comes while the first connection still records.
            await asyncio.sleep(0.1)
            session.released.set()
            await session.all_recorded.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def add_answers(outcomes: Outcomes, positions: Iterable[int]) -> None:
    for position in positions:
        lease = Lease(b"organization", b"job", position, b"token", b"{}", None, 1e9)
        outcomes.add(lease, Answer(200, None, b"{}", None), 0.1)
