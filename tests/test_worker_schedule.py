"""When a lease's lookup starts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from pyshell.worker import schedule as schedules
from pyshell.worker.calls import Lease
from pyshell.worker.claims import fair_shares, take_turns
from pyshell.worker.schedule import SERVED_LATELY_SECONDS, TURN, TURN_SECONDS, Schedule


class LoopClock:
    """The clock of the running loop. It moves only when all tasks wait, and then at once to the next time that one of them waits for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        selector = vars(loop)["_selector"]
        self._now = loop.time()
        self._select = selector.select
        monkeypatch.setattr(loop, "time", lambda: self._now)
        monkeypatch.setattr(selector, "select", self._wait)

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def _wait(self, seconds: float | None) -> object:
        self.advance(seconds or 0)
        return self._select(seconds and 0)


@pytest.fixture(autouse=True)
async def loop_clock(monkeypatch: pytest.MonkeyPatch) -> LoopClock:
    return LoopClock(monkeypatch)


def lease(name: str, slot: float | None = None, expires_in: float = 60.0, organization: bytes = b"organization") -> Lease:
    now = asyncio.get_running_loop().time()
    return Lease(organization, name.encode(), 0, b"token", b"{}", None if slot is None else now + slot, now + expires_in)


def make_schedule(
    release: Callable[[Lease], None] = lambda lease: None,
    has_room: Callable[[bytes], bool] = lambda organization_id: True,
    wakeup: asyncio.Event | None = None,
    limit: int = 1000,
) -> Schedule:
    schedule = Schedule(release, has_room, wakeup or asyncio.Event())
    schedule.configure(limit, None)
    return schedule


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
    released: list[Lease] = []
    schedule = make_schedule(released.append)
    started = Started(schedule)
    schedule.add([[lease("b", 0.1), lease("c", 0.2)], [lease("a", 0.05)]])
    await asyncio.sleep(0.3)
    assert [at for _, at in started] == pytest.approx([0.05, 0.1, 0.2])
    await started.end(schedule)
    assert released == []


async def test_a_lease_that_missed_its_slot_takes_the_next_and_the_last_is_released(loop_clock: LoopClock) -> None:
    released: list[Lease] = []
    schedule = make_schedule(released.append)
    started = Started(schedule)
    schedule.add([[lease("a", 0.02), lease("b", 0.04), lease("c", 0.5)]])
    await asyncio.sleep(0)
    # The whole process stalls.
    loop_clock.advance(0.2)
    await asyncio.sleep(0.5)
    assert [name for name, _ in started] == ["a"]
    assert [at for _, at in started] == pytest.approx([0.5])
    assert [each.job_id for each in released] == [b"b", b"c"]
    await started.end(schedule)


@pytest.mark.parametrize(("late", "started"), [(0.085, ["a", "b"]), (0.095, ["a"])])
async def test_a_slot_is_used_late_by_no_more_than_the_rate_limit_allows(loop_clock: LoopClock, late: float, started: list[str]) -> None:
    schedule = make_schedule()
    schedule.configure(1000, 10)
    taken = Started(schedule)
    schedule.add([[lease("a", 0.1), lease("b", 0.5)]])
    await asyncio.sleep(0)
    loop_clock.advance(0.1 + late)
    await asyncio.sleep(0.5)
    assert [name for name, _ in taken] == started
    await taken.end(schedule)


async def test_slots_are_given_up_with_what_is_released() -> None:
    schedule = make_schedule()
    started = Started(schedule)
    schedule.add([[lease("a", 0.1)]])
    schedule.release_all()
    schedule.add([[lease("b", 0.2)]])
    await asyncio.sleep(0.3)
    [(name, at)] = started
    assert name == "b"
    assert at == pytest.approx(0.2)
    await started.end(schedule)


def of(organization: str, count: int = 1) -> list[Lease]:
    return [lease(organization, organization=organization.encode()) for _ in range(count)]


async def take(schedule: Schedule, count: int) -> list[Lease]:
    taken = [await asyncio.wait_for(schedule.take(), 1) for _ in range(count)]
    return [each for each in taken if each]


async def test_organizations_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "TURN_SECONDS", 60.0)
    schedule = make_schedule()
    schedule.add([of("a", TURN + 1), of("c", TURN + 1), of("b")])
    taken = await take(schedule, 2 * TURN + 3)
    assert [each.job_id for each in taken] == [b"a"] * TURN + [b"c"] * TURN + [b"b", b"a", b"c"]


async def test_a_turn_ends_after_a_moment_however_few_lookups_have_started() -> None:
    schedule = make_schedule(limit=1)
    schedule.add([of("a", TURN), of("b")])
    served = []
    for _ in range(3):
        [taken] = await take(schedule, 1)
        await asyncio.sleep(TURN_SECONDS * 0.6)
        schedule.finish(taken)
        served.append(taken.organization_id)
    assert served == [b"a", b"a", b"b"]


async def test_no_organization_has_more_than_its_share_in_flight_while_others_wait() -> None:
    schedule = make_schedule(limit=10)
    schedule.add([of("a", 30), of("b", 30)])
    taken = await take(schedule, 10)
    assert Counter(each.organization_id for each in taken) == {b"a": 5, b"b": 5}
    waiting = asyncio.create_task(schedule.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    # An organization that hangs keeps its share, and the other one has its own.
    for each in taken:
        if each.organization_id == b"b":
            schedule.finish(each)
    assert [each.organization_id for each in await take(schedule, 4)] == [b"b"] * 4
    assert schedule.in_flight == {b"a": 5, b"b": 4}
    schedule.close()
    await waiting


async def test_shares_that_are_rounded_up_exceed_no_limit() -> None:
    schedule = make_schedule(limit=10)
    schedule.add([of("a", 30), of("b", 30), of("c", 30)])
    await take(schedule, 10)
    waiting = asyncio.create_task(schedule.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    schedule.configure(11, None)
    assert await asyncio.wait_for(waiting, 1), "a higher limit lets it start"


async def test_unused_shares_may_be_used_by_others_except_for_a_reserve() -> None:
    schedule = make_schedule(limit=10)
    schedule.add([of("a", 30)])
    assert len(await take(schedule, 10)) == 10, "alone, it has all"
    schedule = make_schedule(limit=10)
    schedule.add([of("b")])
    [other] = await take(schedule, 1)
    schedule.finish(other)
    schedule.add([of("a", 30)])
    first = await take(schedule, 5)
    assert not schedule.is_full(b"a"), "the other one has nothing to do any more"
    assert len([*first, *await take(schedule, 4)]) == 9
    waiting = asyncio.create_task(schedule.take())
    await asyncio.sleep(0)
    schedule.add([of("b")])
    assert (await asyncio.wait_for(waiting, 1)).organization_id == b"b"  # type: ignore[union-attr]
    schedule.finish(first[0])
    waiting = asyncio.create_task(schedule.take())
    await asyncio.sleep(0)
    assert not waiting.done(), "the reserve is kept though the other one's lookup uses a part of the limit"
    schedule.close()
    await waiting


async def test_an_hour_after_the_others_one_organization_may_use_everything(loop_clock: LoopClock) -> None:
    schedule = make_schedule(limit=10)
    schedule.add([of("b")])
    [other] = await take(schedule, 1)
    schedule.finish(other)
    loop_clock.advance(SERVED_LATELY_SECONDS + 1)
    schedule.configure(10, None)
    schedule.add([of("a", 10)])
    assert len(await take(schedule, 10)) == 10


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_a_small_limit_has_no_reserve(limit: int) -> None:
    schedule = make_schedule(limit=limit)
    for organization in ("a", "b"):
        schedule.add([of(organization)])
        [taken] = await take(schedule, 1)
        schedule.finish(taken)
    schedule.add([of("a", limit)])
    assert len(await take(schedule, limit)) == limit


async def test_an_organization_without_room_for_outcomes_is_passed_over() -> None:
    full = {b"a"}
    schedule = make_schedule(has_room=lambda organization_id: organization_id not in full)
    schedule.add([of("a", 2), of("b", 2)])
    assert schedule.startable() == 2
    assert [each.organization_id for each in await take(schedule, 2)] == [b"b"] * 2
    waiting = asyncio.create_task(schedule.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    full.clear()
    schedule.look_again()
    assert (await asyncio.wait_for(waiting, 1)).organization_id == b"a"  # type: ignore[union-attr]
    schedule.close()


async def test_a_new_rate_limit_releases_what_was_claimed_under_the_former_one() -> None:
    released: list[Lease] = []
    schedule = make_schedule(released.append)
    schedule.add([of("a", 3)])
    schedule.configure(1000, 5)
    assert (len(schedule), len(released)) == (0, 3)


async def test_a_lease_that_expired_while_it_waited_is_released() -> None:
    released: list[Lease] = []
    schedule = make_schedule(released.append)
    schedule.add([[lease("expired", expires_in=-0.1), lease("held", expires_in=0.1)]])
    taken = await schedule.take()
    assert taken is not None
    assert taken.job_id == b"held"
    assert [each.job_id for each in released] == [b"expired"]


async def test_excess_leases_are_released_and_the_first_ones_stay() -> None:
    released: list[Lease] = []
    schedule = make_schedule(released.append)
    large, small = of("large", 30), of("small", 3)
    schedule.add([large, small])
    schedule.release_beyond(20)
    assert sorted(map(id, released)) == sorted(map(id, large[10:]))
    assert len(schedule) == 13
    assert await take(schedule, 13) == large[:10] + small


async def test_a_schedule_that_runs_low_wakes_the_claimer() -> None:
    wakeup = asyncio.Event()
    schedule = make_schedule(wakeup=wakeup)
    schedule.add([[lease("a"), lease("b"), lease("c")]])
    schedule.refill(b"organization")
    await schedule.take()
    assert not wakeup.is_set()
    await schedule.take()
    assert wakeup.is_set()
    wakeup.clear()
    schedule.add([of("d", 2), of("e", 2)])
    schedule.refill_all()
    await take(schedule, 2)
    assert not wakeup.is_set()
    await schedule.take()
    assert wakeup.is_set()


async def test_callers_that_wait_start_as_many_as_are_added_and_go_when_they_are_dismissed() -> None:
    schedule = make_schedule()
    callers = [asyncio.create_task(schedule.take()) for _ in range(4)]
    await asyncio.sleep(0)
    schedule.add([of("a", 3)])
    await asyncio.wait(callers, timeout=1)
    assert [caller.done() for caller in callers] == [True, True, True, False]
    schedule.dismiss(1)
    assert await asyncio.wait_for(callers[3], 1) is None


async def test_each_slot_has_a_caller_though_lookups_take_long() -> None:
    schedule = make_schedule()
    callers = [asyncio.create_task(schedule.take()) for _ in range(3)]
    await asyncio.sleep(0)
    schedule.add([[lease("a", 0.05), lease("b", 0.1), lease("c", 0.15)]])
    await asyncio.sleep(0.2)
    assert [caller.done() for caller in callers] == [True, True, True]


async def test_a_closed_schedule_releases_everything() -> None:
    released: list[Lease] = []
    schedule = make_schedule(released.append)
    schedule.add([[lease("a"), lease("b", 0.5)]])
    schedule.close()
    schedule.add([[lease("late")]])
    assert await schedule.take() is None
    assert [each.job_id for each in released] == [b"a", b"b", b"late"]


def test_shares_are_equal_and_the_remainder_goes_to_those_who_waited_longest() -> None:
    assert fair_shares([b"a", b"b", b"c"], 11) == {b"a": 4, b"b": 4, b"c": 3}
    assert fair_shares([b"a", b"b", b"c"], 2) == {b"a": 1, b"b": 1}


def test_many_organizations_take_turns_with_claims_that_are_worth_a_transaction() -> None:
    many = [bytes([number]) for number in range(4)]
    waiting = {many[0]: 150, many[1]: 90}
    assert take_turns(many, lambda each: waiting.get(each, 0), 200) == {many[1]: 110, many[2]: 200, many[3]: 200}
    assert take_turns([b"hangs", b"new"], {b"hangs": 200, b"new": 0}.__getitem__, 200) == {b"new": 200}, "although others fill the room"


async def test_what_waits_fills_no_more_than_a_turn_of_each_organization() -> None:
    schedule = make_schedule()
    schedule.add([[lease("a") for _ in range(5)], [lease("b", organization=b"other organization")]])
    assert schedule.waiting_for_turns(3) == 4
