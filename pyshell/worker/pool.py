"""The worker pool: as many tasks as there may be concurrent lookups, each doing one after the other."""

import asyncio

from pyshell.tasks import cancel_all
from pyshell.worker.calls import Lease, WorkerState
from pyshell.worker.failures import FailureLog
from pyshell.worker.lookups import look_up
from pyshell.worker.meter import Meter, Sample
from pyshell.worker.outcomes import Outcomes
from pyshell.worker.schedule import Schedule
from pyshell.worker.upstream import Upstream


class WorkerPool:
    """Takes leases off the schedule, looks them up, and passes on the outcomes. `wakeup` is set when a sample is complete."""

    def __init__(self, schedule: Schedule, upstream: Upstream, outcomes: Outcomes, wakeup: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._schedule = schedule
        self._upstream = upstream
        self._outcomes = outcomes
        self._wakeup = wakeup
        self._meter = Meter()
        self._failures = FailureLog()
        self._tasks: set[asyncio.Task[None]] = set()
        self._limit = 0
        self._timeout = 0.0
        self._max_response_bytes = 0
        self.finished = 0

    def configure(self, state: WorkerState) -> None:
        self._timeout = state.lookup_timeout
        self._max_response_bytes = state.max_response_bytes
        self._limit = state.max_in_flight
        self._meter.configure(max(state.max_in_flight, 1), state.limit_version, self._loop.time())
        self._outcomes.together = state.together
        self._schedule.dismiss(len(self._tasks) - self._limit)
        while len(self._tasks) < self._limit:
            self._tasks.add(asyncio.create_task(self._work(), name=f"lookups {len(self._tasks)}"))

    @property
    def idle(self) -> int:
        return max(self._limit - self._schedule.running, 0)

    def take_sample(self) -> Sample | None:
        """What was measured since the last sample, if it is enough for one."""
        return self._meter.take(self._schedule.in_flight, self._loop.time())

    async def finish(self, seconds: float) -> None:
        """Lets lookups finish, for at most `seconds`, after the schedule was closed."""
        self._limit = 0
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=seconds)
            await cancel_all(pending)

    async def _work(self) -> None:
        try:
            # Exactly the surplus tasks end: one that ends is removed in the same step.
            while len(self._tasks) <= self._limit:
                lease = await self._schedule.take()
                if lease is not None:
                    await self._look_up(lease)
        finally:
            task = asyncio.current_task()
            assert task
            self._tasks.discard(task)

    async def _look_up(self, lease: Lease) -> None:
        started = self._loop.time()
        self._meter.start(self._schedule.running)
        self._outcomes.expect()
        lease.was_sent = True
        try:
            answer = await look_up(self._upstream, lease, self._timeout, self._max_response_bytes)
        except BaseException:
            self._outcomes.expect(-1)
            self._schedule.finish(lease)
            raise
        now = self._loop.time()
        self._outcomes.add(lease, answer, now - started)
        self._schedule.finish(lease)
        self.finished += 1
        self._failures.note(lease, answer, now)
        if self._meter.finish(lease.organization_id, started, now, answer):
            self._wakeup.set()
        # Nothing more will come soon, or all workers should learn of a pause immediately.
        if (not self._schedule.running and not self._schedule) or answer.retry_after is not None:
            self._outcomes.hurry()
