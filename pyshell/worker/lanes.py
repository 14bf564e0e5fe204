"""Lanes: as many tasks as there may be lookups at once, each doing one after the other."""

import asyncio
import logging
from collections import Counter

from pyshell.worker.calls import Lease, WorkerState
from pyshell.worker.meter import Meter, Sample
from pyshell.worker.outcomes import Outcomes
from pyshell.worker.schedule import Schedule
from pyshell.worker.upstream import Upstream, failure

logger = logging.getLogger(__name__)


class Lanes:
    """Takes leases off the schedule, looks them up, and hands on the outcomes."""

    def __init__(self, schedule: Schedule, upstream: Upstream, outcomes: Outcomes, demand: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._schedule = schedule
        self._upstream = upstream
        self._outcomes = outcomes
        self._demand = demand
        self._lanes: set[asyncio.Task[None]] = set()
        self._limit = 0
        self._timeout = 0.0
        self._max_response_bytes = 0
        self.in_flight = 0
        self.finished = 0
        self._meter = Meter()
        self._served: Counter[bytes] = Counter()

    def configure(self, state: WorkerState) -> None:
        self._timeout = state.lookup_timeout
        self._max_response_bytes = state.max_response_bytes
        self._limit = state.max_in_flight
        self._meter.configure(state.max_in_flight, state.limit_version, self._loop.time())
        self._schedule.dismiss(len(self._lanes) - self._limit)
        while len(self._lanes) < self._limit:
            self._lanes.add(asyncio.create_task(self._run_lane()))

    @property
    def idle(self) -> int:
        return max(self._limit - self.in_flight, 0)

    def take_sample(self) -> Sample | None:
        """What was measured since the last sample, when it is enough for one."""
        return self._meter.take(+self._served, self._loop.time())

    async def finish(self, seconds: float) -> None:
        """Let lookups come to their end, for at most `seconds`. The schedule is closed before."""
        self._limit = 0
        if self._lanes:
            _, pending = await asyncio.wait(self._lanes, timeout=seconds)
            for lane in pending:
                lane.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _run_lane(self) -> None:
        try:
            # No more lanes end than are too many: one that ends is taken off in the same breath.
            while len(self._lanes) <= self._limit:
                await self._outcomes.wait_for_room()
                lease = await self._schedule.take()
                if lease is not None:
                    await self._look_up(lease)
        finally:
            lane = asyncio.current_task()
            assert lane
            self._lanes.discard(lane)

    async def _look_up(self, lease: Lease) -> None:
        self.in_flight += 1
        self._served[lease.organization_id] += 1
        self._meter.start(self.in_flight)
        started = self._loop.time()
        try:
            answer = await self._upstream.look_up(lease.organization_id, lease.request, self._timeout, self._max_response_bytes)
        except Exception:
            logger.exception("a lookup failed in an unexpected way")
            answer = failure("other")
        finally:
            self.in_flight -= 1
            self._served[lease.organization_id] -= 1
        self._outcomes.add(lease, answer)
        self.finished += 1
        if self._meter.finish(lease.organization_id, started, self._loop.time(), answer):
            self._demand.set()
        # Nothing more will come soon, or all workers should hear at once of a pause.
        if (not self.in_flight and not self._schedule) or answer.retry_after is not None:
            self._outcomes.hurry()
