"""The schedule of claimed items: which lookup comes next, and when."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import chain
from math import ceil
from typing import Final

from pyshell.worker.calls import Lease

# How much later than its slot a lookup may start: in seconds, and in slots. Slots are spaced 1.5% wider than the rate limit, so that this
# delay never causes more lookups in a second than the limit plus one.
SLOT_TOLERANCE: Final = 0.01
SLOTS_TOLERANCE: Final = 0.8
# How many lookups of one organization follow each other, and for how long: their outcomes are then recorded in one transaction. If few
# lookups start per second, a turn that only counted them would keep the next organization waiting.
TURN: Final = 20
TURN_SECONDS: Final = 0.05
# If several organizations were served within the hour, none of them gets the whole concurrency: its lookups may hang until they time out,
# and another organization may come meanwhile.
RESERVE: Final = 0.1
SMALLEST_LIMIT_WITH_RESERVE: Final = 4
SERVED_LATELY_SECONDS: Final = 3600.0


class Schedule:
    """Hands out leases to idle workers of the pool. It owns the leases that wait, and counts those that run.

    A lease waits (`add`), runs (`take`) and ends (`finish`), or is released: if it expires or loses its slot before it starts, or
    with all others (`release_all`). Organizations take turns; one that has its share of the concurrency in flight is skipped,
    and so is one for whose outcomes there is no room. With a rate limit, leases have slots. A missed slot is dropped, and its lease
    takes the next one; leases that are left without a slot are released. `wakeup` is set when an organization, or all of
    them, has half as many leases left as after the last claim.
    """

    def __init__(self, release: Callable[[Lease], None], has_room: Callable[[bytes], bool], wakeup: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._release = release
        self._has_room = has_room
        self._wakeup = wakeup
        self._waiting: dict[bytes, deque[Lease]] = {}
        self._order: deque[bytes] = deque()
        self._turn = 0
        self._turn_began_at = 0.0
        self._count = 0
        self._refill_threshold = -1
        self._refill_thresholds: dict[bytes, int] = {}
        self._slots: deque[float] = deque()
        self._takers: deque[asyncio.Future[bool]] = deque()
        self._slot_is_awaited = False
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._tolerance = SLOT_TOLERANCE
        self._rate: float | None = None
        self._limit = 1
        self._served_at: dict[bytes, float] = {}
        self.in_flight: Counter[bytes] = Counter()
        self.running = 0

    def __len__(self) -> int:
        return self._count

    @property
    def last_slot(self) -> float:
        """Time of the last slot; long past if there is none."""
        return self._slots[-1] if self._slots else 0.0

    def waiting(self, organization_id: bytes) -> int:
        """How many leases of an organization wait."""
        return len(self._waiting.get(organization_id, ()))

    def waiting_for_turns(self, turn: int) -> int:
        """How many leases wait, counting at most so many of each organization."""
        return sum(min(len(leases), turn) for leases in self._waiting.values())

    def startable(self) -> int:
        """How many leases wait only for their time."""
        return sum(len(leases) for organization_id, leases in self._waiting.items() if not self.is_full(organization_id))

    def is_full(self, organization_id: bytes) -> bool:
        """Whether an organization's next lookup has to wait until one of its own ends, or is recorded."""
        return self.in_flight[organization_id] >= self._share() or not self._has_room(organization_id)

    def configure(self, limit: int, lookups_per_second: float | None) -> None:
        """Sets the concurrency and the rate limit. Leases claimed under another rate limit are released: their slots are wrong."""
        if lookups_per_second != self._rate:
            self.release_all()
            self._rate = lookups_per_second
            self._tolerance = SLOT_TOLERANCE + SLOTS_TOLERANCE / lookups_per_second if lookups_per_second else SLOT_TOLERANCE
        long_ago = self._loop.time() - SERVED_LATELY_SECONDS
        self._served_at = {organization_id: at for organization_id, at in self._served_at.items() if at > long_ago}
        if limit != self._limit:
            self._limit = limit
            self.look_again()

    def refill(self, organization_id: bytes) -> None:
        """Makes `wakeup` be set once half of an organization's current leases are left."""
        waiting = self.waiting(organization_id)
        if waiting:
            self._refill_thresholds[organization_id] = waiting // 2

    def refill_all(self) -> None:
        """Makes `wakeup` be set once half of all current leases are left."""
        self._refill_thresholds.clear()
        self._refill_threshold = self._count // 2

    def add(self, claims: Sequence[Sequence[Lease]]) -> None:
        """Adds what was claimed, a list for each organization."""
        if self._closed.done():
            for lease in chain.from_iterable(claims):
                self._release(lease)
            return
        added = 0
        for leases in claims:
            if not leases:
                continue
            organization_id = leases[0].organization_id
            if organization_id not in self._waiting:
                self._waiting[organization_id] = deque()
                self._order.append(organization_id)
            self._waiting[organization_id].extend(leases)
            added += len(leases)
        self._count += added
        self._slots.extend(sorted(lease.slot for lease in chain.from_iterable(claims) if lease.slot is not None))
        for _ in range(min(added, len(self._takers))):
            self._wake_taker()

    async def take(self) -> Lease | None:
        """The next lease, once its time has come; None: there will be none for this caller. `finish` must follow."""
        while not self._closed.done():
            organization_id = None if self._slot_is_awaited else self._next_organization()
            if organization_id is None:
                taker = self._loop.create_future()
                self._takers.append(taker)
                if not await taker:
                    return None
                continue
            leases = self._waiting[organization_id]
            if leases[0].expires_at < self._loop.time():
                self._release(self._pop(organization_id))
            elif leases[0].slot is None:
                return self._start(organization_id)
            elif await self._reach_slot():
                organization_id = self._next_organization()
                if organization_id is not None:
                    return self._start(organization_id)
        return None

    def finish(self, lease: Lease) -> None:
        """A lookup ended: its caller may take another lease."""
        self.running -= 1
        self.in_flight[lease.organization_id] -= 1
        if not self.in_flight[lease.organization_id]:
            del self.in_flight[lease.organization_id]

    def look_again(self) -> None:
        """Wakes waiting callers: a change may let them start."""
        for _ in range(len(self._takers)):
            self._wake_taker()

    def dismiss(self, takers: int) -> None:
        """Makes up to that many waiting callers return without a lease."""
        for _ in range(min(takers, len(self._takers))):
            self._wake_taker(False)

    def close(self) -> None:
        """Releases everything that has not started; `take` returns None from now on."""
        if not self._closed.done():
            self._closed.set_result(None)
        self.release_all()
        self.dismiss(len(self._takers))

    def release_all(self) -> None:
        """Releases everything that has not started; its slots are gone."""
        for leases in self._waiting.values():
            for lease in leases:
                self._release(lease)
        self._waiting.clear()
        self._order.clear()
        self._count = 0
        self._refill_threshold = -1
        self._refill_thresholds.clear()
        self._slots.clear()

    def release_beyond(self, count: int) -> None:
        """Releases the last leases of organizations that have more than their even part of `count`; at least one of each stays."""
        part = ceil(count / max(len(self._waiting), 1))
        for leases in self._waiting.values():
            while len(leases) > part:
                self._release(leases.pop())
                self._count -= 1

    def _share(self) -> int:
        """How many concurrent lookups one organization may have while others have some or may get some."""
        organizations = len(self._waiting.keys() | self.in_flight.keys())
        if organizations > 1:
            return ceil(self._limit / organizations)
        return self._unreserved()

    def _unreserved(self) -> int:
        if self._limit < SMALLEST_LIMIT_WITH_RESERVE or len(self._served_at) < 2:
            return self._limit
        return self._limit - ceil(self._limit * RESERVE)

    def _next_organization(self) -> bytes | None:
        """Whose turn it is: the same organization's for some lookups or a moment, then the next one's that may start one."""
        if self.running >= self._limit or not self._order:
            return None
        if self._turn >= TURN or (self._turn and self._loop.time() >= self._turn_began_at + TURN_SECONDS):
            self._rotate()
        share = self._share()
        for _ in range(len(self._order)):
            organization_id = self._order[0]
            if self.in_flight[organization_id] < share and self._has_room(organization_id):
                return organization_id
            self._rotate()
        return self._next_beyond_share()

    def _next_beyond_share(self) -> bytes | None:
        """The next organization even beyond its share, unless only the reserve is left."""
        if self.running >= self._unreserved():
            return None
        return next((organization_id for organization_id in self._order if self._has_room(organization_id)), None)

    def _rotate(self) -> None:
        self._order.rotate(-1)
        self._turn = 0

    def _start(self, organization_id: bytes) -> Lease:
        self.running += 1
        self.in_flight[organization_id] += 1
        now = self._loop.time()
        if not self._turn:
            self._turn_began_at = now
        self._turn += 1
        self._served_at[organization_id] = now
        return self._pop(organization_id)

    def _pop(self, organization_id: bytes) -> Lease:
        leases = self._waiting[organization_id]
        lease = leases.popleft()
        self._count -= 1
        if len(leases) <= self._refill_thresholds.get(organization_id, -1):
            del self._refill_thresholds[organization_id]
            self._wakeup.set()
        if self._count <= self._refill_threshold:
            self._refill_threshold = -1
            self._wakeup.set()
        if not leases:
            del self._waiting[organization_id]
            self._order.remove(organization_id)
            self._turn = 0
        return lease

    def _wake_taker(self, has_work: bool = True) -> None:
        taker = self._takers.popleft()
        if not taker.done():
            taker.set_result(has_work)

    async def _reach_slot(self) -> bool:
        """Waits for the next slot and uses it up; False: look again. One caller at a time; the others wait for leases."""
        self._slot_is_awaited = True
        try:
            while self._slots:
                delay = self._slots[0] - self._loop.time()
                if delay > 0:
                    # Closing takes the slots away.
                    await asyncio.wait([self._closed], timeout=delay)
                    continue
                self._slots.popleft()
                if -delay <= self._tolerance:
                    return bool(self._waiting)
            self.release_all()
            return False
        finally:
            self._slot_is_awaited = False
            if self._takers:
                self._wake_taker()
