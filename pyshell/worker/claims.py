"""Claiming ahead: keeps the schedule filled, with fair shares for all organizations that have work."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from math import ceil
from typing import Final, TypeVar

from pyshell.postgres.connections import Connection, Session
from pyshell.postgres.sqlstates import DatabaseError
from pyshell.worker.calls import WorkerState, claim_lookups, heartbeat
from pyshell.worker.lanes import Lanes
from pyshell.worker.leases import Holdings
from pyshell.worker.schedule import Schedule

logger = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_SLEEP: Final = 5.0
CLAIM_AHEAD_SECONDS: Final = 0.15
LARGEST_CLAIM: Final = 2000
RATE_WINDOW_SECONDS: Final = 0.05
# A commit each: what was claimed for some is looked up while others are claimed for.
ORGANIZATIONS_AT_ONCE: Final = 10
# The database gives out slots a second ahead. What is claimed cannot make way for a new batch: claim less, and more when half is left.
SLOTS_AHEAD_SECONDS: Final = 0.6
SHORTEST_PACED_SLEEP: Final = 0.1


class Claims:
    """Checks in, claims, and sleeps until `demand` is set or more may be ready (at most 5 s)."""

    def __init__(self, session: Session, worker: str, schedule: Schedule, lanes: Lanes, holdings: Holdings, demand: asyncio.Event) -> None:
        self._session = session
        self._worker = worker
        self._schedule = schedule
        self._lanes = lanes
        self._holdings = holdings
        self._demand = demand
        self._maintenance: asyncio.Task[None] | None = None
        self._stopping = False
        self._fruitless_rounds = 0
        self._claim_seconds = 0.0
        self._rate = 0.0
        self._measured_at = 0.0
        self._measured_finished = 0

    async def run(self) -> None:
        while not self._stopping:
            self._demand.clear()
            try:
                sleep = await self._round()
            except DatabaseError as error:
                logger.warning("cannot claim lookups, will try again: %s", error)
                sleep = self._back_off(longest=2.0)
            with suppress(TimeoutError):
                async with asyncio.timeout(sleep):
                    await self._demand.wait()

    def stop(self) -> None:
        """Let `run` end after its current round: what that claims must not get lost."""
        self._stopping = True
        self._demand.set()

    async def _round(self) -> float:
        """Check in, claim what there is room for; answers how long to sleep."""
        state = await self._session.run(heartbeat, self._worker, self._lanes.take_sample())
        self._lanes.configure(state)
        self._holdings.configure(state)
        self._schedule.set_pace(state.lookups_per_second)
        if state.stopped:
            self._schedule.give_back_all()
        if state.maintenance_due and (self._maintenance is None or self._maintenance.done()):
            self._maintenance = asyncio.create_task(self._maintain())

        wanted = self._count_wanted(state)
        claimed = 0
        if wanted > 0 and state.organization_ids and state.paused_for < SHORTEST_PACED_SLEEP and not self._stopping:
            shares = fair_shares(state.organization_ids, wanted)
            paced = state.lookups_per_second is not None
            started = asyncio.get_running_loop().time()
            for some in batched(shares.items(), ORGANIZATIONS_AT_ONCE):
                claims = await self._session.run(claim_lookups, self._worker, dict(some), state.lease_seconds, paced)
                claimed += sum(map(len, claims))
                for leases in claims:
                    self._holdings.add(leases)
                self._schedule.add(claims)
            self._claim_seconds = asyncio.get_running_loop().time() - started
        if claimed:
            self._fruitless_rounds = 0
        return self._count_sleep(state, wanted, claimed)

    def _count_wanted(self, state: WorkerState) -> int:
        """How many more leases to hold: enough for the next claims to come in time, which take long when they are for many
        organizations, a commit each; with a pace, no more than will start within its second.
        """
        rate = self._measure_rate()
        if state.lookups_per_second is None:
            ahead = self._lanes.idle + max(state.max_in_flight, rate * (CLAIM_AHEAD_SECONDS + 4 * self._claim_seconds))
        else:
            ahead = min(state.lookups_per_second * SLOTS_AHEAD_SECONDS, max(self._lanes.idle, rate * SLOTS_AHEAD_SECONDS * 1.2)) + 1
        return min(ceil(ahead), LARGEST_CLAIM) - len(self._schedule)

    def _count_sleep(self, state: WorkerState, wanted: int, claimed: int) -> float:
        paced = state.lookups_per_second is not None
        has_more = wanted <= claimed or wanted <= 0
        self._schedule.low_water = len(self._schedule) // 2 if has_more and not paced else -1
        if not state.organization_ids:
            return min(LONGEST_SLEEP if state.next_ready_in is None else state.next_ready_in, LONGEST_SLEEP)
        if paced:
            slots_left = self._schedule.last_slot - asyncio.get_running_loop().time()
            return min(max(state.paused_for, slots_left - SLOTS_AHEAD_SECONDS / 2, SHORTEST_PACED_SLEEP), LONGEST_SLEEP)
        if state.paused_for > 0:
            return min(state.paused_for, LONGEST_SLEEP)
        if has_more:
            return LONGEST_SLEEP
        return 0.0 if claimed else self._back_off(longest=0.5)

    def _back_off(self, longest: float) -> float:
        self._fruitless_rounds += 1
        return min(0.005 * 2.0 ** min(self._fruitless_rounds, 20), longest)

    def _measure_rate(self) -> float:
        """Lookups finished per second lately, smoothed: whoever claims by its best moment hoards what others could do."""
        now = asyncio.get_running_loop().time()
        if now - self._measured_at > RATE_WINDOW_SECONDS:
            rate = (self._lanes.finished - self._measured_finished) / (now - self._measured_at)
            self._rate = (self._rate + rate) / 2
            self._measured_at, self._measured_finished = now, self._lanes.finished
        return self._rate

    async def _maintain(self) -> None:
        session = self._session.another()
        try:
            await session.run(run_maintenance)
        except DatabaseError as error:
            logger.warning("maintenance failed: %s", error)
        finally:
            await session.close()


async def run_maintenance(connection: Connection) -> None:
    await connection.execute("select api.run_maintenance()")


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """The values in lists of at most that size."""
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch


def fair_shares(organization_ids: Sequence[bytes], wanted: int) -> dict[bytes, int]:
    """Split a number of claims evenly; what is left over goes to those who waited longest, who come first."""
    share, rest = divmod(wanted, len(organization_ids))
    shares = {organization_id: share + (place < rest) for place, organization_id in enumerate(organization_ids)}
    return {organization_id: share for organization_id, share in shares.items() if share}
