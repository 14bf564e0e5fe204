"""Leases that wait for their lookup: in the order they came, each at its slot."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final

from pyshell.worker.calls import Lease

# How much later than its slot a lookup may start: in seconds, and in slots. Slots come 1.5% slower than the pace, so that such a delay
# never makes more lookups than the pace and one in any second.
SLOT_TOLERANCE: Final = 0.01
SLOTS_TOLERANCE: Final = 0.8
# How many lookups of one organization follow each other: their outcomes are then recorded together, in one transaction.
TURN: Final = 20


class Schedule:
    """Hands out leases to whoever is free to look them up.

    Slots and leases come in pairs but part on the way: a slot that was missed is gone, and its lease takes the next one. The leases
    left without a slot in the end, and those that expired while they waited, go to `give_back`. `demand` is set when no more than
    `low_water` leases are left.
    """

    def __init__(self, give_back: Callable[[Lease], None], demand: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._give_back = give_back
        self._leases: deque[Lease] = deque()
        self._slots: deque[float] = deque()
        self._takers: deque[asyncio.Future[bool]] = deque()
        self._slot_is_awaited = False
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._tolerance = SLOT_TOLERANCE
        self._demand = demand
        self.low_water = -1

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def last_slot(self) -> float:
        """Time of the last slot; long past when there is none."""
        return self._slots[-1] if self._slots else 0.0

    def set_pace(self, lookups_per_second: float | None) -> None:
        self._tolerance = SLOT_TOLERANCE + SLOTS_TOLERANCE / lookups_per_second if lookups_per_second else SLOT_TOLERANCE

    def add(self, claims: Sequence[Sequence[Lease]]) -> None:
        """Add what was claimed for several organizations; they take turns, a few lookups each."""
        if self._closed.done():
            for lease in chain.from_iterable(claims):
                self._give_back(lease)
            return
        longest = max(map(len, claims), default=0)
        leases = [lease for start in range(0, longest, TURN) for claim in claims for lease in claim[start : start + TURN]]
        self._leases.extend(leases)
        self._slots.extend(sorted(lease.slot for lease in leases if lease.slot is not None))
        for _ in range(min(len(leases), len(self._takers))):
            self._wake_taker()

    async def take(self) -> Lease | None:
        """The next lease, when its time has come; None: there will be none for this caller."""
        while not self._closed.done():
            if not self._leases or self._slot_is_awaited:
                taker = self._loop.create_future()
                self._takers.append(taker)
                if not await taker:
                    return None
            elif self._leases[0].expires_at < self._loop.time():
                self._give_back(self._leases.popleft())
            elif self._leases[0].slot is None or await self._reach_slot():
                return self._pop()
        return None

    def dismiss(self, takers: int) -> None:
        """Let up to that many waiting callers go without a lease."""
        for _ in range(min(takers, len(self._takers))):
            self._wake_taker(False)

    def close(self) -> None:
        """Give back everything that has not started; `take` answers None from now on."""
        if not self._closed.done():
            self._closed.set_result(None)
        self.give_back_all()
        self.dismiss(len(self._takers))

    def give_back_all(self) -> None:
        """Give back everything that has not started; its slots are gone."""
        while self._leases:
            self._give_back(self._leases.popleft())
        self._slots.clear()

    def _pop(self) -> Lease:
        lease = self._leases.popleft()
        if len(self._leases) <= self.low_water:
            self._demand.set()
        return lease

    def _wake_taker(self, has_work: bool = True) -> None:
        taker = self._takers.popleft()
        if not taker.done():
            taker.set_result(has_work)

    async def _reach_slot(self) -> bool:
        """Wait for the next slot and use it up; False: look again. One caller at a time; the others wait for leases."""
        self._slot_is_awaited = True
        try:
            while self._slots:
                delay = self._slots[0] - self._loop.time()
                if delay > 0:
                    await asyncio.wait([self._closed], timeout=delay)
                    if self._closed.done():
                        return False
                    continue
                self._slots.popleft()
                if -delay <= self._tolerance:
                    return bool(self._leases) and self._leases[0].slot is not None
            while self._leases and self._leases[0].slot is not None:
                self._give_back(self._leases.popleft())
            return False
        finally:
            self._slot_is_awaited = False
            if self._takers:
                self._wake_taker()
