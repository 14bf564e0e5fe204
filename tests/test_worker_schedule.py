"""When a lease's lookup starts."""

from __future__ import annotations

import asyncio
import time

from pyshell.worker.calls import Lease
from pyshell.worker.claims import fair_shares
from pyshell.worker.schedule import TURN, Schedule


def lease(name: str, slot: float | None = None, expires_in: float = 60.0) -> Lease:
    now = asyncio.get_running_loop().time()
    return Lease(b"organization", name.encode(), 0, b"token", b"{}", None if slot is None else now + slot, now + expires_in)


class Started(list[tuple[str, float]]):
    """Takes everything off a schedule, with the seconds at which it came."""

    def __init__(self, schedule: Schedule) -> None:
        self.began = asyncio.get_running_loop().time()
        self._tasks = [asyncio.create_task(self._take(schedule)) for _ in range(3)]

    async def _take(self, schedule: Schedule) -> None:
        while taken := await schedule.take():
            self.append((taken.job_id.decode(), asyncio.get_running_loop().time() - self.began))

    async def end(self, schedule: Schedule) -> None:
        schedule.close()
        await asyncio.gather(*self._tasks)


async def test_a_lease_starts_at_its_slot() -> None:
    given_back: list[Lease] = []
    schedule = Schedule(given_back.append, asyncio.Event())
    started = Started(schedule)
    schedule.add([[lease("b", 0.1), lease("c", 0.2)], [lease("a", 0.05)]])
    await asyncio.sleep(0.3)
    assert [at >= slot - 0.002 for (_, at), slot in zip(started, [0.05, 0.1, 0.2], strict=True)] == [True] * 3
    await started.end(schedule)
    assert given_back == []


async def test_what_missed_its_slot_takes_the_next_and_the_last_goes_back() -> None:
    given_back: list[Lease] = []
    schedule = Schedule(given_back.append, asyncio.Event())
    started = Started(schedule)
    schedule.add([[lease("a", 0.02), lease("b", 0.04), lease("c", 0.5)]])
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - the whole process stands still
    await asyncio.sleep(0.5)
    assert [name for name, _ in started] == ["a"]
    assert started[0][1] >= 0.49
    assert [each.job_id for each in given_back] == [b"b", b"c"]
    await started.end(schedule)


async def test_organizations_take_turns() -> None:
    schedule = Schedule(lambda lease: None, asyncio.Event())
    schedule.add([[lease("a")] * (TURN + 1), [lease("b")], [lease("c")] * (TURN + 1)])
    taken = [await schedule.take() for _ in range(2 * TURN + 3)]
    assert [each.job_id for each in taken if each] == [b"a"] * TURN + [b"b"] + [b"c"] * TURN + [b"a", b"c"]


async def test_a_lease_that_expired_while_it_waited_goes_back() -> None:
    given_back: list[Lease] = []
    schedule = Schedule(given_back.append, asyncio.Event())
    schedule.add([[lease("expired", expires_in=-0.1), lease("held")]])
    taken = await schedule.take()
    assert taken is not None
    assert taken.job_id == b"held"
    assert [each.job_id for each in given_back] == [b"expired"]


async def test_a_low_schedule_asks_for_more() -> None:
    demand = asyncio.Event()
    schedule = Schedule(lambda lease: None, demand)
    schedule.add([[lease("a"), lease("b"), lease("c")]])
    schedule.low_water = 1
    await schedule.take()
    assert not demand.is_set()
    await schedule.take()
    assert demand.is_set()


async def test_a_closed_schedule_gives_everything_back() -> None:
    given_back: list[Lease] = []
    schedule = Schedule(given_back.append, asyncio.Event())
    schedule.add([[lease("a"), lease("b", 0.5)]])
    schedule.close()
    schedule.add([[lease("late")]])
    assert await schedule.take() is None
    assert [each.job_id for each in given_back] == [b"a", b"b", b"late"]


def test_shares_are_even_and_the_rest_goes_to_those_who_waited_longest() -> None:
    assert fair_shares([b"a", b"b", b"c"], 11) == {b"a": 4, b"b": 4, b"c": 3}
    assert fair_shares([b"a", b"b", b"c"], 2) == {b"a": 1, b"b": 1}
