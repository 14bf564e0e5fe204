"""The worker: one process that claims lookups, does them over HTTP and records the outcomes, all three concurrently.

It also sends their webhooks.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from secrets import token_hex
from typing import Final

import uvloop
from prometheus_client.core import Metric

from pyshell import logs, traces
from pyshell.metrics import counters, gauge, version
from pyshell.postgres.connections import Backoff, Connection, Session
from pyshell.postgres.notifications import Notifier
from pyshell.postgres.retries import Outage
from pyshell.postgres.slow import Threshold
from pyshell.postgres.sqlstates import DatabaseError, explain
from pyshell.settings import Settings
from pyshell.signals import stop_signals
from pyshell.tasks import cancel_all, wait_at_most
from pyshell.webhooks.sender import Sender
from pyshell.worker.claims import Claims
from pyshell.worker.leases import LeaseKeeper
from pyshell.worker.metrics import served
from pyshell.worker.outcomes import Outcomes
from pyshell.worker.pool import WorkerPool
from pyshell.worker.schedule import Schedule
from pyshell.worker.upstream import Upstream

logger = logging.getLogger(__name__)

APPLICATION_NAME: Final = "batch-lookups worker"
RECORDERS: Final = 2
FINISH_SECONDS: Final = 10.0
LAST_CALLS_SECONDS: Final = 5.0


def run_worker(settings: Settings) -> None:
    """Works until SIGTERM or SIGINT, or its terminal ends; then finishes lookups in flight, releases the others, and ends the process.

    A second SIGTERM or SIGINT kills it.
    """
    logs.configure(settings)
    Threshold.seconds = settings.log_slow_seconds
    # Leases and outcomes come and go by the thousand, without cycles; by default, Python would collect garbage after every 700.
    gc.freeze()
    gc.set_threshold(20_000)
    let_others_finish()
    with traces.sent_by("batch-lookups-worker"):
        uvloop.run(_run_until_signal(settings))
    # Python would wait for the threads that resolve names whose servers do not respond.
    logging.shutdown()
    os._exit(0)


def let_others_finish() -> None:
    """Keeps arriving responses from preempting other processes on a busy machine.

    Responses accumulate meanwhile, and are handled together: four workers on two CPUs take a fifth less CPU time. If a CPU is
    free, nothing changes. A scheduling policy chosen for the process stays.
    """
    if sys.platform == "linux":
        # Not every sandbox allows it.
        with suppress(OSError):
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


async def _run_until_signal(settings: Settings) -> None:
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if not stop.is_set():
            logger.info("stopping; waiting for lookups in flight")
            stop.set()
        elif number != signal.SIGHUP:
            # A shell and the kernel each send SIGHUP when a terminal ends.
            os._exit(1)

    for number in stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    internal_key = settings.service_role_key or await fetch_internal_key(settings, stop)
    if internal_key:
        logs.hide(internal_key)
        notifier = Notifier(settings.database_url, f"{APPLICATION_NAME} listener")
        worker = Worker(settings, internal_key, notifier)
        sender = Sender(settings, notifier, worker.count_finished)
        with served(settings, lambda: [*worker.metrics(), *sender.metrics()]):
            async with notifier.running():
                ended = await asyncio.gather(*(_run_part(part, stop) for part in (worker, sender)), return_exceptions=True)
        for error in filter(None, ended):
            raise error


async def _run_part(part: "Worker | Sender", stop: asyncio.Event) -> None:
    """Runs a part; if it fails unexpectedly, the other shuts down in order."""
    try:
        await part.run(stop)
    finally:
        stop.set()


class Worker:
    """Connects the parts: claims fill the schedule, the pool empties it, outcomes go back to the database."""

    def __init__(self, settings: Settings, internal_key: str, notifier: Notifier) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
        claiming, *recording = [Session(settings.database_url, APPLICATION_NAME, keeps_memory=True) for _ in range(1 + RECORDERS)]
        keeping = Session(settings.database_url, APPLICATION_NAME)
        self._sessions = [claiming, keeping, *recording]
        wakeup = asyncio.Event()
        self._upstream = Upstream.from_settings(settings, internal_key)
        self._keeper = LeaseKeeper(keeping)
        self._outcomes = Outcomes(recording, self._keeper)
        self._schedule = Schedule(self._keeper.release, self._outcomes.has_room, wakeup)
        self._outcomes.on_room = self._schedule.look_again
        self._pool = WorkerPool(self._schedule, self._upstream, self._outcomes, wakeup)
        self._claims = Claims(claiming, self.name, self._schedule, self._pool, self._keeper, wakeup)
        self._parts = {"claims": self._claims.run, "leases": self._keeper.run, "outcomes": self._outcomes.run}
        notifier.subscribe("batch_lookups_ready", lambda _: wakeup.set())

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set. If a part fails unexpectedly, everything shuts down in order and its error is raised."""
        stopping = asyncio.create_task(stop.wait())
        claiming, *others = [asyncio.create_task(part(), name=name) for name, part in self._parts.items()]
        logger.info("worker %s is up", self.name)
        done, _ = await asyncio.wait([stopping, claiming, *others], return_when=asyncio.FIRST_COMPLETED)
        self._claims.stop()
        await asyncio.wait([claiming], timeout=LAST_CALLS_SECONDS)
        self._schedule.close()
        await self._pool.finish(FINISH_SECONDS)
        await cancel_all([stopping, claiming, *others])
        await self._say_goodbye()
        for part in done - {stopping}:
            logger.error("%s of worker %s ended unexpectedly", part.get_name(), self.name)
            part.result()

    def metrics(self) -> Iterable[Metric]:
        yield gauge("build_info", "1, labelled with the release", 1, version=version(), migration="")
        yield counters("worker_lookups", "Lookups of this worker that came to an end", {(): self._pool.finished})
        yield gauge("worker_lookups_in_flight", "Lookups that it has under way", self._schedule.in_flight.total())
        yield gauge("worker_leases", "Items that it holds", len(self._keeper))
        yield gauge("worker_unrecorded_outcomes", "Outcomes that are not in the database yet", self._outcomes.waiting)
        yield gauge("worker_unrecorded_bytes", "Their size; lookups stop at 64 MB", self._outcomes.waiting_bytes)

    def count_finished(self) -> int:
        """The number of lookups so far."""
        return self._pool.finished

    async def _say_goodbye(self) -> None:
        """Records known outcomes and releases the other leases; without a database, they will expire."""
        try:
            async with asyncio.timeout(LAST_CALLS_SECONDS):
                # An outcome may have to wait for locked rows; leases that never started need not wait with it.
                await asyncio.gather(self._outcomes.finish(), self._keeper.finish(), self._claims.finish())
                self._keeper.release_all()
                await self._keeper.finish()
        except (TimeoutError, DatabaseError) as error:
            logger.warning("%s leases are left to expire: %r", len(self._keeper), error)
        self._upstream.close()
        for session in self._sessions:
            await session.close()


async def fetch_internal_key(settings: Settings, stop: asyncio.Event) -> str | None:
    """The credential for our own API; waits until the database is there. None: stopped meanwhile."""
    session, backoff, outage = Session(settings.database_url, APPLICATION_NAME), Backoff(first=1.0), Outage()
    while not stop.is_set():
        try:
            return await session.run(internal_key)
        except DatabaseError as error:
            if outage.is_worth_a_warning(asyncio.get_running_loop().time()):
                logger.warning("cannot start, will try again: %s", explain(error))
            await wait_at_most(stop, backoff.delay())
        finally:
            await session.close()
    return None


async def internal_key(connection: Connection) -> str:
    row = await (await connection.execute("select api.internal_key()")).fetchone()
    assert row
    return str(row[0])
