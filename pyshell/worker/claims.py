"""Claims ahead: keeps the schedule filled, with fair shares for all organizations that have work."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice, takewhile
from math import ceil
from typing import Final
from uuid import UUID

from pyshell.postgres.connections import Backoff, Connection, Session
from pyshell.postgres.retries import Outage, Retries
from pyshell.postgres.sqlstates import DatabaseError, for_log, is_away
from pyshell.tasks import cancel_all, wait_at_most
from pyshell.worker.calls import Lease, WorkerState, claim_for_organizations, claim_lookups, heartbeat, release_lost_claims
from pyshell.worker.failures import FirstOfEach
from pyshell.worker.job_log import JobLog
from pyshell.worker.leases import LeaseKeeper
from pyshell.worker.pool import WorkerPool
from pyshell.worker.schedule import Schedule

logger = logging.getLogger(__name__)

LONGEST_SLEEP: Final = 5.0
CLAIM_AHEAD_SECONDS: Final = 0.15
LARGEST_CLAIM: Final = 2000
RATE_WINDOW_SECONDS: Final = 0.05
# A claim takes at least what is looked up in this time. If there are too many organizations for that, they take turns, and one of them is
# claimed for after this time even if there is enough work.
TURN_SECONDS: Final = 0.05
# The number of organizations per transaction. Their lookups start once it has ended.
CLAIMED_TOGETHER: Final = 16
# The database hands out slots a second ahead. Claimed items cannot make way for a new batch, so claim less, and more once half is left.
SLOTS_AHEAD_SECONDS: Final = 0.6
SHORTEST_PACED_SLEEP: Final = 0.1
# Shorter ones, which an API with a rate limit may request every second, are counted once a minute.
LONG_PAUSE_SECONDS: Final = 10.0
# Of each minute.
PRUNE_SECONDS: Final = 50.0


class Claims:
    """Sends heartbeats, claims, and sleeps until `wakeup` is set or more may be ready (at most 5 s).

    Each round gets the state from the database, configures the pool, the keeper and the schedule accordingly, and claims for each
    organization what its share of the leases ahead lacks, several in one transaction unless there is a rate limit, whose row that would
    lock, or they are distributed over several nodes. If the shares would be small, the organizations that have waited longest get more,
    and the others come next. An organization with locked rows is skipped for a while, and then claimed for by itself.

    No item waits here for long while another worker could look it up: without a share of the concurrency, everything that has not
    started is released, as is more than this worker can do in a while.
    """

    def __init__(
        self, session: Session, worker: str, schedule: Schedule, pool: WorkerPool, keeper: LeaseKeeper, wakeup: asyncio.Event
    ) -> None:
        self._session = session
        self._worker = worker
        self._schedule = schedule
        self._pool = pool
        self._keeper = keeper
        self._wakeup = wakeup
        self._maintenance: asyncio.Task[None] | None = None
        self._job_log: asyncio.Task[None] | None = None
        self._stopping = False
        self._fruitless_rounds = 0
        self._claim_seconds = 0.0
        self._takes_turns = False
        self._claimed_at = 0.0
        self._rate = 0.0
        self._measured_at = 0.0
        self._measured_finished = 0
        self._looked_at = 0.0
        self._looked_finished = 0
        self._blocked = Retries()
        self._unheard: set[bytes] = set()
        self._last_state: WorkerState | None = None
        self._jobs = JobLog(session, worker, keeper.jobs)
        self._outage = Outage()
        self._stopped_at = 0.0
        self._pauses = FirstOfEach("lookups were held up")
        self._is_stop_told = True

    async def run(self) -> None:
        try:
            while not self._stopping:
                await self._round_and_sleep()
        finally:
            await cancel_all(task for task in (self._maintenance, self._job_log) if task is not None)

    async def _round_and_sleep(self) -> None:
        self._wakeup.clear()
        try:
            sleep = await self._round()
        except DatabaseError as error:
            sleep = self._back_off(longest=2.0)
            if self._outage.is_worth_a_warning(asyncio.get_running_loop().time()):
                logger.warning("worker %s cannot claim lookups, will try again: %s", self._worker, error)
        await wait_at_most(self._wakeup, sleep)

    async def finish(self) -> None:
        """After `run`: returns what lost claims may have claimed, retrying as often as it takes."""
        backoff = Backoff(0.1, 1.0)
        while self._unheard:
            with suppress(DatabaseError):
                await self._release_lost()
            if self._unheard:
                await asyncio.sleep(backoff.delay())

    def stop(self) -> None:
        """Lets `run` end after its current round, so that no claim is lost."""
        self._stopping = True
        self._wakeup.set()

    async def _round(self) -> float:
        """Sends a heartbeat, then claims what there is room for; returns how long to sleep."""
        state = await self._session.run(heartbeat, self._worker, self._pool.take_sample())
        self._note_database()
        self._log_changes(state)
        await self._release_lost()
        if self._job_log is None or self._job_log.done():
            self._job_log = asyncio.create_task(self._log_jobs(), name="job log")
        self._pool.configure(state)
        self._keeper.configure(state)
        self._schedule.configure(state.max_in_flight, state.lookups_per_second)
        if state.stopped or state.max_in_flight == 0:
            self._schedule.release_all()
        elif state.lookups_per_second is None:
            self._release_surplus(state.max_in_flight)
        if state.maintenance_due and (self._maintenance is None or self._maintenance.done()):
            self._maintenance = asyncio.create_task(self._maintain(), name="maintenance")

        shares: dict[bytes, int] = {}
        room = 0
        if state.paused_for < SHORTEST_PACED_SLEEP and state.max_in_flight > 0:
            shares, room = self._count_wanted(state)
        started = asyncio.get_running_loop().time()
        claimed, has_more = await self._claim_all(shares, room, state)
        if self._takes_turns:
            self._schedule.refill_all()
        elif state.lookups_per_second is None:
            for organization_id in {*state.organization_ids, *shares}:
                self._schedule.refill(organization_id)
        if shares:
            self._claim_seconds = asyncio.get_running_loop().time() - started
        if claimed:
            self._fruitless_rounds = 0
        return self._count_sleep(state, has_more, claimed)

    async def _claim_all(self, shares: dict[bytes, int], room: int, state: WorkerState) -> tuple[int, bool]:
        """Claims until the room is used up; returns how many were claimed, and whether that was as many as requested."""
        left = dict(shares)
        claimed, has_more = 0, True
        while left and claimed < room and not self._stopping:
            group = self._next_group(left, state)
            for organization_id in group:
                del left[organization_id]
            if len(group) == 1:
                [(organization_id, share)] = group.items()
                total = share
                count = len(await self._claim(organization_id, share, state))
            else:
                total = min(max(room - claimed, *group.values()), sum(group.values()))
                count = await self._claim_together(group, total, state)
            claimed += count
            has_more = has_more and count >= total
        return claimed, has_more

    def _next_group(self, shares: dict[bytes, int], state: WorkerState) -> dict[bytes, int]:
        """The first organizations of `shares` that may be claimed for in one transaction, or the first one."""
        group: dict[bytes, int] = {}
        if state.together and state.lookups_per_second is None:
            first = islice(shares.items(), CLAIMED_TOGETHER)
            group = dict(takewhile(lambda share: not self._blocked.has_failed(share[0]), first))
        return group or dict(islice(shares.items(), 1))

    async def _claim_together(self, shares: dict[bytes, int], total: int, state: WorkerState) -> int:
        """Claims for several organizations in one transaction; returns how many items."""
        try:
            claims, passed_over = await self._session.run(claim_for_organizations, self._worker, shares, total, state.lease_seconds)
        except asyncio.CancelledError:
            self._unheard.update(shares)
            raise
        except DatabaseError as error:
            self._raise_if_away(error, shares)
            return sum([len(await self._claim(organization_id, share, state)) for organization_id, share in shares.items()])
        for organization_id in passed_over:
            self._blocked.note_failure(organization_id, asyncio.get_running_loop().time())
        for leases in claims:
            self._jobs.note(leases)
            self._keeper.add(leases)
        self._schedule.add(claims)
        return sum(map(len, claims))

    async def _claim(self, organization_id: bytes, limit: int, state: WorkerState) -> list[Lease]:
        """Claims for one organization; its lookups start while others are claimed for."""
        paced = state.lookups_per_second is not None
        try:
            leases = await self._session.run(claim_lookups, self._worker, organization_id, limit, state.lease_seconds, paced)
        except asyncio.CancelledError:
            self._unheard.add(organization_id)
            raise
        except DatabaseError as error:
            self._raise_if_away(error, [organization_id])
            self._blocked.note_failure(organization_id, asyncio.get_running_loop().time())
            if self._blocked.is_worth_a_warning(organization_id):
                logger.warning(
                    "cannot claim for organization %s, which is passed over: %s",
                    UUID(bytes=organization_id),
                    for_log(error),
                )
            return []
        if self._blocked.note_success(organization_id):
            logger.info("organization %s is served again", UUID(bytes=organization_id))
        self._jobs.note(leases)
        self._keeper.add(leases)
        self._schedule.add([leases])
        return leases

    def _raise_if_away(self, error: DatabaseError, organization_ids: Iterable[bytes]) -> None:
        if is_away(error):
            self._unheard.update(organization_ids)
            raise error

    async def _release_lost(self) -> None:
        """Returns what claims with a lost response may have claimed, long before its leases expire."""
        for organization_id in list(self._unheard):
            tokens = self._keeper.tokens(organization_id)
            try:
                count = await self._session.run(release_lost_claims, self._worker, organization_id, tokens)
            except DatabaseError as error:
                self._raise_if_away(error, [])
                logger.debug("cannot release lost claims of organization %s, will try again: %s", UUID(bytes=organization_id), error)
                continue
            self._unheard.discard(organization_id)
            if count:
                message = "returned %s items of organization %s, claimed when the connection was lost"
                logger.info(message, count, UUID(bytes=organization_id))

    def _count_wanted(self, state: WorkerState) -> tuple[dict[bytes, int], int]:
        """How many leases to claim for each organization, and for how many in all there is room: enough until the next claims arrive,
        which takes long for many organizations; with a rate limit, no more than will start within its second.
        """
        rate = self._measure_rate()
        paced = state.lookups_per_second is not None
        self._takes_turns = False
        if state.lookups_per_second is None:
            ahead = self._pool.idle + max(state.max_in_flight, rate * (CLAIM_AHEAD_SECONDS + 4 * self._claim_seconds))
        else:
            ahead = min(state.lookups_per_second * SLOTS_AHEAD_SECONDS, max(self._pool.idle, rate * SLOTS_AHEAD_SECONDS * 1.2)) + 1
        now = asyncio.get_running_loop().time()
        organizations = [
            organization_id
            for organization_id in state.organization_ids
            if self._blocked.is_due(organization_id, now)
            # Slots of lookups that cannot start would be lost.
            and not (paced and self._schedule.waiting(organization_id) and self._schedule.is_full(organization_id))
        ]
        if not organizations:
            return {}, 0
        turn = ceil(rate * TURN_SECONDS)
        if not paced and ahead < turn * len(organizations):
            self._takes_turns = True
            shares = take_turns(organizations, self._schedule.waiting, turn)
            ahead = self._pool.idle + max(state.max_in_flight, rate * (TURN_SECONDS + 4 * self._claim_seconds))
            room = min(ceil(ahead), LARGEST_CLAIM) - self._schedule.waiting_for_turns(turn)
            if room <= 0 and now - self._claimed_at >= TURN_SECONDS:
                # The first organization may be new here, and those that fill the room may hang.
                shares, room = dict(islice(shares.items(), 1)), 1
            if room > 0 and shares:
                self._claimed_at = now
            return shares, room
        wanted = min(ceil(ahead), LARGEST_CLAIM) - (self._schedule.startable() if paced else 0)
        shares = fair_shares(organizations, max(wanted, 0))
        if not paced:
            shares = {organization_id: share - self._schedule.waiting(organization_id) for organization_id, share in shares.items()}
        shares = {organization_id: share for organization_id, share in shares.items() if share > 0}
        return shares, sum(shares.values())

    def _count_sleep(self, state: WorkerState, has_more: bool, claimed: int) -> float:
        if not state.organization_ids:
            return min(LONGEST_SLEEP if state.next_ready_in is None else state.next_ready_in, LONGEST_SLEEP)
        now = asyncio.get_running_loop().time()
        longest = min(TURN_SECONDS if self._takes_turns else LONGEST_SLEEP, self._blocked.next_due_in(now))
        if state.lookups_per_second is not None:
            slots_left = self._schedule.last_slot - now
            return min(max(state.paused_for, slots_left - SLOTS_AHEAD_SECONDS / 2, SHORTEST_PACED_SLEEP), longest)
        if state.paused_for > 0:
            return min(state.paused_for, LONGEST_SLEEP)
        if has_more:
            return longest
        return 0.0 if claimed else min(self._back_off(longest=0.5), longest)

    def _back_off(self, longest: float) -> float:
        self._fruitless_rounds += 1
        return min(0.005 * 2.0 ** min(self._fruitless_rounds, 20), longest)

    def _measure_rate(self) -> float:
        """Recent lookups per second, smoothed: a worker that claims by its peak rate hoards items that others could look up."""
        now = asyncio.get_running_loop().time()
        if now - self._measured_at > RATE_WINDOW_SECONDS:
            rate = (self._pool.finished - self._measured_finished) / (now - self._measured_at)
            self._rate = (self._rate + rate) / 2
            self._measured_at, self._measured_finished = now, self._pool.finished
        return self._rate

    def _release_surplus(self, max_in_flight: int) -> None:
        """Once in a while: release what this worker would not start for a long time, as others may be free to. It was claimed when
        lookups were faster, or when there were fewer workers.
        """
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= LONGEST_SLEEP:
            keep = max_in_flight + self._pool.finished - self._looked_finished
            self._looked_at, self._looked_finished = now, self._pool.finished
            if len(self._schedule) > 2 * keep:
                self._schedule.release_beyond(keep)

    def _note_database(self) -> None:
        seconds = self._outage.end(asyncio.get_running_loop().time())
        if seconds is not None:
            fields = {"worker": self._worker, "duration": round(seconds, 3)}
            logger.info("the database is back after %.0f s", seconds, extra={"fields": fields})

    def _log_changes(self, state: WorkerState) -> None:
        last, self._last_state = self._last_state, state
        now = asyncio.get_running_loop().time()
        if last is None:
            self._stopped_at = now
            return
        # A probe does not end an outage, although it may start.
        is_held, was_held = (each.stopped or each.unavailable_since is not None for each in (state, last))
        if is_held and not was_held:
            self._stopped_at = now
        if state.stopped and not last.stopped:
            if state.unavailable_since is None:
                self._is_stop_told = state.paused_for >= LONG_PAUSE_SECONDS or self._pauses.is_first("by a short pause", now)
                if self._is_stop_told:
                    logger.warning("a pause, of the incentives API or an operator: no lookup starts for %.0f s", state.paused_for)
            else:
                self._is_stop_told = True
                logger.warning(
                    "outage of the incentives API since %s, after %s failures in a row: single lookups probe it",
                    state.unavailable_since.isoformat(timespec="seconds"),
                    state.failures,
                )
        elif was_held and not is_held:
            seconds = now - self._stopped_at
            if self._is_stop_told or last.unavailable_since is not None:
                logger.info("lookups continue after %.0f s", seconds, extra={"fields": {"duration": round(seconds, 3)}})
        if state.max_in_flight != last.max_in_flight:
            logger.info("worker %s: concurrency limit %s, was %s", self._worker, state.max_in_flight, last.max_in_flight)
        if state.lookups_per_second != last.lookups_per_second:
            logger.info("rate limit %s lookups per second, was %s", state.lookups_per_second, last.lookups_per_second)

    async def _log_jobs(self) -> None:
        """Runs beside the claims, which wait for one call at most, not for twenty."""
        # If the database is away, the next round notices and logs it.
        with suppress(DatabaseError):
            await self._jobs.tell_ended(asyncio.get_running_loop().time())

    async def _maintain(self) -> None:
        session = self._session.another()
        try:
            await run_maintenance(session)
        except DatabaseError as error:
            logger.warning("maintenance failed: %s", error)
        finally:
            await session.close()


async def run_maintenance(session: Session) -> None:
    """Deletes what has outlived its retention in steps, each a short transaction: a minute may bring thousands of jobs. Each step is a
    separate call, because all together take longer than a call may.
    """
    await session.run(maintain)
    until = asyncio.get_running_loop().time() + PRUNE_SECONDS
    while asyncio.get_running_loop().time() < until:
        if not await session.run(prune_expired):
            break


async def maintain(connection: Connection) -> None:
    await connection.execute("select api.run_maintenance()")


async def prune_expired(connection: Connection) -> int:
    """Returns how many were deleted."""
    [(count,)] = await (await connection.execute("select api.prune_expired()")).fetchall()
    return int(count)


def fair_shares(organization_ids: Sequence[bytes], wanted: int) -> dict[bytes, int]:
    """Splits a number of claims evenly; the remainder goes to the first, who have waited longest."""
    share, rest = divmod(wanted, len(organization_ids))
    shares = {organization_id: share + (place < rest) for place, organization_id in enumerate(organization_ids)}
    return {organization_id: share for organization_id, share in shares.items() if share}


def take_turns(organization_ids: Sequence[bytes], waiting: Callable[[bytes], int], turn: int) -> dict[bytes, int]:
    """How many items to claim for the organizations that have less than half a turn left."""
    shares = {organization_id: turn - waiting(organization_id) for organization_id in organization_ids}
    return {organization_id: share for organization_id, share in shares.items() if share * 2 > turn}
