"""The sender of webhooks: claims deliveries, POSTs them and records the outcomes, in parallel to the lookups.

Each organization's receiver has a concurrency window: it grows by one with every success and halves with every failure. So a receiver
that is down or slow occupies a place or two, and delays no others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import ceil
from secrets import token_hex
from typing import Final
from uuid import UUID

from prometheus_client.core import Metric

from pyshell.metrics import gauge
from pyshell.postgres.connections import Session
from pyshell.postgres.notifications import Notifier
from pyshell.postgres.retries import BUSY_BEFORE_A_WARNING, Outage, Retries
from pyshell.postgres.sqlstates import DatabaseError, Kind, for_log, is_about_the_data, is_away, kind_of
from pyshell.settings import Settings
from pyshell.tasks import cancel_all, wait_at_most
from pyshell.webhooks.calls import claim_webhooks, disabled_reason, ready_webhooks, record_webhooks, release_lost_webhooks
from pyshell.webhooks.receiver_limits import FIRST_WINDOW, PAUSING_STATUSES, LoadShedding, ReceiverLimit
from pyshell.webhooks.requests import Attempt, Delivery, Receiver

logger = logging.getLogger(__name__)

APPLICATION_NAME: Final = "batch-lookups webhooks"
MAX_IN_FLIGHT: Final = 1000
# The limit for the bodies of these; one claim may exceed it by a single receiver's limit.
MAX_BYTES: Final = 128 * 1024 * 1024
ORGANIZATIONS_PER_ROUND: Final = 100
# With this much unrecorded (the database is away), nothing is sent.
MAX_UNRECORDED: Final = 5000
FLUSH_SECONDS: Final = 0.05
LONGEST_SLEEP: Final = 5.0
# For this long, receivers with more deliveries than room are refilled without asking which others are ready.
ASK_SECONDS: Final = 0.1
ASK_AGAIN_SECONDS: Final = 60.0
PAUSE_AFTER_ERROR: Final = 1.0
SHEDDING_PAUSE: Final = 0.2
LIMIT_KEPT_SECONDS: Final = 60.0
FINISH_SECONDS: Final = 10.0
LAST_CALLS_SECONDS: Final = 5.0


class Sender:
    """Sends until `run`'s event is set, with its own database connections. `count_lookups`: how many this process has done so far.

    An organization with locked rows, or for which a call fails otherwise, is skipped for a while. Its attempts are kept, and
    nothing more is sent for it before they are recorded.
    """

    def __init__(self, settings: Settings, notifier: Notifier, count_lookups: Callable[[], int] = lambda: 0) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
        self._settings = settings
        self._load_shedding = LoadShedding(count_lookups)
        self._claiming = Session(settings.database_url, APPLICATION_NAME)
        self._recording = Session(settings.database_url, APPLICATION_NAME)
        self._limits: dict[bytes, ReceiverLimit] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._held: set[Delivery] = set()
        self._unheard: set[bytes] = set()
        self._bytes = 0
        self._unrecorded: list[Attempt] = []
        self._has_unrecorded = asyncio.Event()
        self._wakeup = asyncio.Event()
        self._stopping = False
        self._asked_at = 0.0
        self._asked_after: dict[bytes, float] = {}
        self._blocked_claims = Retries()
        self._blocked_records = Retries()
        self._claim_outage = Outage()
        self._record_outage = Outage()
        notifier.subscribe("webhooks_ready", lambda _: self._wakeup.set())

    def metrics(self) -> Iterable[Metric]:
        yield gauge("worker_webhooks_in_flight", "Webhooks that this worker is sending", len(self._in_flight))
        yield gauge("worker_unrecorded_attempts", "Attempts at webhooks that are not in the database yet", self._count_unrecorded())

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set; then lets deliveries in flight finish."""
        stopping = asyncio.create_task(stop.wait())
        claiming = asyncio.create_task(self._claim())
        recording = asyncio.create_task(self._record())
        done, _ = await asyncio.wait([stopping, claiming, recording], return_when=asyncio.FIRST_COMPLETED)
        self._stopping = True
        self._wakeup.set()
        await asyncio.wait([claiming], timeout=LAST_CALLS_SECONDS)
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=FINISH_SECONDS)
        await cancel_all([stopping, claiming, recording, *self._in_flight])
        await self._finish()
        for task in done - {stopping}:
            task.result()

    async def _claim(self) -> None:
        while not self._stopping:
            if self._load_shedding.is_active():
                await asyncio.sleep(SHEDDING_PAUSE)
            self._wakeup.clear()
            try:
                sleep = await self._round()
                if (seconds := self._claim_outage.end(time.monotonic())) is not None:
                    logger.info("webhooks are claimed again after %.0f s", seconds)
            except DatabaseError as error:
                if self._claim_outage.is_worth_a_warning(time.monotonic()):
                    logger.warning("cannot claim webhooks, will try again: %s", error)
                sleep = PAUSE_AFTER_ERROR
                self._wakeup.clear()
            await wait_at_most(self._wakeup, sleep)

    async def _round(self) -> float:
        """Claims what the windows have room for; returns how long to sleep unless one has room for more before."""
        self._forget_idle_limits()
        now = time.monotonic()
        free = self._free
        full = {organization_id for organization_id, limit in self._limits.items() if not limit.room(free)}
        passed_over = full.union(self._blocked_claims.waiting(now), self._blocked_records.failed)
        refillable = [
            organization_id for organization_id, limit in self._limits.items() if limit.has_more and organization_id not in passed_over
        ]
        if refillable and now < self._asked_at + ASK_SECONDS:
            await self._claim_for(refillable)
            return ASK_SECONDS
        if not free:
            return FLUSH_SECONDS
        self._asked_at = now
        await self._release_lost()
        ready = await self._claiming.run(ready_webhooks, ORGANIZATIONS_PER_ROUND, list(passed_over))
        if not await self._claim_for(ready.organization_ids):
            return FLUSH_SECONDS
        if len(ready.organization_ids) == ORGANIZATIONS_PER_ROUND:
            return 0.0
        longest = min(LONGEST_SLEEP, self._blocked_claims.next_due_in(self._asked_at))
        return longest if ready.next_ready_in is None else min(ready.next_ready_in, longest)

    async def _claim_for(self, organization_ids: Sequence[bytes]) -> bool:
        """Fills the windows of these organizations; False: there was no room for all of them."""
        for organization_id in organization_ids:
            if self._stopping or not self._free or self._count_unrecorded() >= MAX_UNRECORDED:
                return False
            limit = self._limits.get(organization_id)
            room = limit.room(self._free) if limit else ceil(FIRST_WINDOW * self._free)
            try:
                deliveries = await self._claiming.run(claim_webhooks, self.name, organization_id, room)
            except asyncio.CancelledError:
                self._unheard.add(organization_id)
                raise
            except DatabaseError as error:
                if is_away(error):
                    self._unheard.add(organization_id)
                    raise
                note_blocked(self._blocked_claims, organization_id, error)
                continue
            self._blocked_claims.note_success(organization_id)
            for delivery in deliveries:
                self._start(delivery)
            limit = self._limits.get(organization_id)
            if limit:
                limit.has_more = len(deliveries) == room
                if limit.room(self._free) and limit.has_more:
                    # So many were sent meanwhile that half of the window is free again.
                    self._wakeup.set()
        return True

    async def _release_lost(self) -> None:
        """Returns what claims without a response may have claimed, long before its leases expire."""
        for organization_id in list(self._unheard):
            held = [delivery for delivery in self._held if delivery.organization_id == organization_id]
            try:
                await self._claiming.run(release_lost_webhooks, self.name, organization_id, held)
            except DatabaseError as error:
                if is_away(error):
                    raise
            else:
                self._unheard.discard(organization_id)

    def _start(self, delivery: Delivery) -> None:
        self._held.add(delivery)
        try:
            limit = self._limit_of(delivery)
        except ValueError:
            self._add_attempt(Attempt(delivery, None, "invalid_url", 0.0, None, None))
            return
        limit.start(delivery)
        self._bytes += len(delivery.body)
        task = asyncio.create_task(self._attempt(limit, delivery))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    def _limit_of(self, delivery: Delivery) -> ReceiverLimit:
        limit = self._limits.get(delivery.organization_id)
        if limit is None or limit.receiver.url != delivery.url:
            receiver = Receiver.of(delivery, self._settings)
            if limit is None:
                limit = self._limits[delivery.organization_id] = ReceiverLimit(receiver)
            else:
                limit.receiver.close()
                limit.receiver, limit.window = receiver, FIRST_WINDOW
        limit.used_at = time.monotonic()
        return limit

    def _forget_idle_limits(self) -> None:
        oldest = time.monotonic() - LIMIT_KEPT_SECONDS
        for organization_id, limit in list(self._limits.items()):
            if not limit.in_flight and not limit.unrecorded_pauses and limit.used_at < oldest:
                limit.receiver.close()
                del self._limits[organization_id]

    async def _attempt(self, limit: ReceiverLimit, delivery: Delivery) -> None:
        attempt = await limit.receiver.attempt(delivery)
        was_full = limit.is_full or not self._free
        task = asyncio.current_task()
        assert task
        self._in_flight.discard(task)
        limit.finish(delivery)
        self._bytes -= len(delivery.body)
        limit.learn(attempt)
        self._add_attempt(attempt)
        if limit.room(self._free) and was_full:
            self._wakeup.set()

    @property
    def _free(self) -> float:
        """Which part of the sender's own limits is free."""
        return 1 - min(max(len(self._in_flight) / MAX_IN_FLIGHT, self._bytes / MAX_BYTES), 1)

    def _count_unrecorded(self) -> int:
        """Includes those that are just being recorded."""
        return len(self._held) - len(self._in_flight)

    def _add_attempt(self, attempt: Attempt) -> None:
        self._unrecorded.append(attempt)
        self._has_unrecorded.set()

    async def _record(self) -> None:
        while True:
            await self._has_unrecorded.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self._flush()
                if (seconds := self._record_outage.end(time.monotonic())) is not None:
                    logger.info("webhook attempts are recorded again after %.0f s", seconds)
            except DatabaseError as error:
                if self._record_outage.is_worth_a_warning(time.monotonic()):
                    logger.warning("cannot record %s webhook attempts, will try again: %s", len(self._unrecorded), error)
                await asyncio.sleep(PAUSE_AFTER_ERROR)

    async def _flush(self) -> None:
        """Records all attempts, one transaction per organization; what is not recorded stays. Raises DatabaseError."""
        attempts, self._unrecorded = self._unrecorded, []
        self._has_unrecorded.clear()
        groups: dict[bytes, list[Attempt]] = defaultdict(list)
        for attempt in attempts:
            groups[attempt.delivery.organization_id].append(attempt)
        try:
            for organization_id in list(groups):
                if not self._blocked_records.is_due(organization_id, time.monotonic()):
                    continue
                try:
                    await self._record_group(organization_id, groups[organization_id])
                except DatabaseError as error:
                    if is_away(error):
                        raise
                    note_blocked(self._blocked_records, organization_id, error)
                else:
                    if self._blocked_records.has_failed(organization_id):
                        self._wakeup.set()
                    self._blocked_records.note_success(organization_id)
                    del groups[organization_id]
        finally:
            for group in groups.values():
                self._unrecorded += group
            if self._unrecorded:
                self._has_unrecorded.set()

    async def _record_group(self, organization_id: bytes, attempts: list[Attempt]) -> None:
        await self._try_to_record(organization_id, attempts)
        self._held.difference_update(attempt.delivery for attempt in attempts)
        await self._tell_of_disabled(organization_id, attempts)
        limit = self._limits.get(organization_id)
        if limit is not None and limit.unrecorded_pauses:
            limit.unrecorded_pauses -= sum(attempt.http_status in PAUSING_STATUSES for attempt in attempts)
            self._wakeup.set()

    async def _tell_of_disabled(self, organization_id: bytes, attempts: list[Attempt]) -> None:
        """Logs that failures have disabled a receiver. Asks at most once a minute per receiver, and only after failures.

        The attempts are already recorded: if the database fails, this is not logged.
        """
        now = time.monotonic()
        self._asked_after = {other: at for other, at in self._asked_after.items() if now < at + ASK_AGAIN_SECONDS}
        if organization_id in self._asked_after or all(attempt.succeeded for attempt in attempts):
            return
        self._asked_after[organization_id] = now
        reason = None
        with suppress(DatabaseError):
            reason = await self._recording.run(disabled_reason, organization_id)
        if reason in ("gone", "failing"):
            logger.warning("the receiver was disabled: %s", reason, extra={"fields": {"organization_id": UUID(bytes=organization_id)}})

    async def _try_to_record(self, organization_id: bytes, attempts: list[Attempt]) -> None:
        try:
            verdicts = await self._recording.run(record_webhooks, organization_id, attempts)
        except DatabaseError as error:
            if not is_about_the_data(error):
                raise
            logger.exception("%s webhook attempts cannot be recorded, their leases will expire", len(attempts))
        else:
            if verdicts.keys() - {"accepted"}:
                logger.info("recorded %s webhook attempts: %s", len(attempts), verdicts)

    async def _finish(self) -> None:
        """Records what was sent, lest it be sent again, and returns what lost claims may have claimed, retrying as often as it takes."""
        reason: object = "their rows are held"
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_CALLS_SECONDS):
                while self._unrecorded or self._unheard:
                    try:
                        await self._flush()
                        await self._release_lost()
                    except DatabaseError as error:
                        reason = error
                    if self._unrecorded or self._unheard:
                        await asyncio.sleep(FLUSH_SECONDS)
        if self._unrecorded:
            logger.warning("%s webhook attempts are not recorded, their leases will expire: %s", len(self._unrecorded), reason)
        for limit in self._limits.values():
            limit.receiver.close()
        for session in (self._claiming, self._recording):
            await session.close()


def note_blocked(blocked: Retries, organization_id: bytes, error: DatabaseError) -> None:
    blocked.note_failure(organization_id, time.monotonic())
    if blocked.is_worth_a_warning(organization_id, BUSY_BEFORE_A_WARNING if kind_of(error) is Kind.BUSY else 1):
        logger.warning(
            "webhooks of organization %s are passed over: %s",
            UUID(bytes=organization_id),
            for_log(error),
        )
