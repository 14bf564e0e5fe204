"""As many concurrent lookups as the worker's share allows, even when that changes."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

from pyshell.worker.calls import Lease, WorkerState
from pyshell.worker.outcomes import Outcomes
from pyshell.worker.pool import WorkerPool
from pyshell.worker.schedule import Schedule
from pyshell.worker.upstream import Answer


class NoOutcomes:
    def add(self, lease: Lease, answer: Answer, seconds: float) -> None: ...

    def hurry(self) -> None: ...

    def expect(self, lookups: int = 1) -> None: ...


@dataclass
class SlowUpstream:
    in_flight: int = 0
    seen: list[int] = field(default_factory=list)

    async def look_up(self, *_: object) -> Answer:
        self.in_flight += 1
        self.seen.append(self.in_flight)
        await asyncio.sleep(0.01)
        self.in_flight -= 1
        return Answer(200, None, b"{}", None)


def state(max_in_flight: int) -> WorkerState:
    return WorkerState([], None, max_in_flight, None, 30.0, 60.0, 1 << 20, 0.0, False, False, 0, None, 0, True)


def configure(pool: WorkerPool, schedule: Schedule, state: WorkerState) -> None:
    pool.configure(state)
    schedule.configure(state.max_in_flight, state.lookups_per_second)


async def test_a_smaller_share_keeps_as_many_tasks_as_it_allows() -> None:
    upstream = SlowUpstream()
    schedule = Schedule(lambda lease: None, lambda organization_id: True, asyncio.Event())
    pool = WorkerPool(schedule, cast(Any, upstream), cast(Outcomes, NoOutcomes()), asyncio.Event())
    configure(pool, schedule, state(50))
    now = asyncio.get_running_loop().time()
    schedule.add([[Lease(b"", b"", n, b"", b"", None, now + 60) for n in range(250)]])
    await asyncio.sleep(0.015)
    assert max(upstream.seen) == 50
    configure(pool, schedule, state(12))
    await asyncio.sleep(0.03)
    upstream.seen.clear()
    await asyncio.sleep(0.03)
    assert max(upstream.seen) == 12
    configure(pool, schedule, state(20))
    upstream.seen.clear()
    await asyncio.sleep(0.03)
    assert max(upstream.seen) == 20
    schedule.close()
    await pool.finish(1)
    assert not upstream.in_flight
