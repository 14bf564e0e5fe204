"""How two connections share the recording of outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
    for position in range(count):
        lease = Lease(b"organization", b"job", position, b"token", b"{}", None, 1e9)
        outcomes.add(lease, Answer(200, None, b"{}", None), 0.1)
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
