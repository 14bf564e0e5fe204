"""The leases that a worker holds: renewed while their lookups run, released if those will not start."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

from pyshell.postgres.connections import Backoff, Session
from pyshell.postgres.sqlstates import DatabaseError, Kind, is_away, kind_of
from pyshell.tasks import wait_at_most
from pyshell.worker.calls import Lease, WorkerState, by_organization, extend_leases, release_lookups

logger = logging.getLogger(__name__)

TICKS_PER_LEASE: Final = 9
LONGEST_TICK: Final = 2.0
LOST: Final = float("-inf")
# So many leases that others have locked are waited for, one by one; meanwhile, none is renewed.
MOST_LOCKED: Final = 5


class LeaseKeeper:
    """Holds every lease from its claim until its outcome is recorded or it is released. Renewing leases is the workers' heartbeat."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._held: set[Lease] = set()
        self._released: list[Lease] = []
        self._wakeup = asyncio.Event()
        self._lease_seconds = 60.0

    def __len__(self) -> int:
        return len(self._held) + len(self._released)

    def jobs(self) -> set[bytes]:
        """The jobs whose items are held."""
        return {lease.job_id for lease in self._held}

    def tokens(self, organization_id: bytes) -> set[bytes]:
        """The leases of an organization that are held, or released but not returned yet."""
        return {lease.token for lease in (*self._held, *self._released) if lease.organization_id == organization_id}

    def configure(self, state: WorkerState) -> None:
        if state.lease_seconds != self._lease_seconds:
            self._lease_seconds = state.lease_seconds
            self._wakeup.set()

    def add(self, leases: list[Lease]) -> None:
        self._held.update(leases)

    def discard(self, lease: Lease) -> None:
        self._held.discard(lease)

    def release(self, lease: Lease) -> None:
        """Returns an item soon whose lookup has not started, or was cut short."""
        self._held.discard(lease)
        self._released.append(lease)
        self._wakeup.set()

    def release_all(self) -> None:
        for lease in list(self._held):
            self.release(lease)

    async def run(self) -> None:
        """Renews every lease after a third of its time, and returns what was released, until cancelled."""
        while True:
            await wait_at_most(self._wakeup, self._tick())
            # A failure to return leases must not keep others from being renewed.
            returned, renewed = await self.return_released(), await self._extend()
            if not (returned and renewed):
                await asyncio.sleep(self._tick())

    def _tick(self) -> float:
        return min(self._lease_seconds / TICKS_PER_LEASE, LONGEST_TICK)

    async def finish(self) -> None:
        """Returns what was released, retrying as often as it takes."""
        backoff = Backoff(0.1, 1.0)
        while self._released:
            if not await self.return_released():
                await asyncio.sleep(backoff.delay())

    async def return_released(self) -> bool:
        """Returns what was released; false: some of it could not be returned, and will be retried."""
        self._wakeup.clear()

        async def return_some(organization_id: bytes, leases: list[Lease]) -> None:
            for were_sent in (False, True):
                some = {lease for lease in leases if lease.was_sent is were_sent}
                if some:
                    await self._return(organization_id, some, were_sent)

        return await self._for_each_organization(self._released, return_some)

    async def _return(self, organization_id: bytes, leases: set[Lease], were_sent: bool) -> None:
        """Together; if somebody has locked a row of them, those of each token by themselves."""
        try:
            await self._session.run(release_lookups, organization_id, list(leases), were_sent)
        except DatabaseError as error:
            tokens = list({lease.token for lease in leases})
            if kind_of(error) is not Kind.BUSY or len(tokens) == 1:
                raise
            locked: list[DatabaseError] = []
            # In another order every time, so that none is always behind the locked ones.
            for token in random.sample(tokens, len(tokens)):
                try:
                    await self._return(organization_id, {lease for lease in leases if lease.token == token}, were_sent)
                except DatabaseError as failure:
                    locked.append(failure)
                    if kind_of(failure) is not Kind.BUSY or len(locked) == MOST_LOCKED:
                        break
            if locked:
                raise locked[-1] from None
        else:
            self._released = [lease for lease in self._released if lease not in leases]

    async def _extend(self) -> bool:
        now = asyncio.get_running_loop().time()
        due = [lease for lease in self._held if LOST < lease.expires_at < now + self._lease_seconds * 2 / 3]

        async def extend(organization_id: bytes, leases: list[Lease]) -> None:
            asked_at = asyncio.get_running_loop().time()
            held = await self._session.run(extend_leases, organization_id, leases)
            for lease in leases:
                # The lookup of a lost lease does not start; one that has started finishes. A lease that could not be renewed is due again
                # immediately.
                lease.expires_at = asked_at + held.get((lease.job_id, lease.position), LOST)

        return await self._for_each_organization(due, extend)

    async def _for_each_organization(self, leases: list[Lease], call: Callable[[bytes, list[Lease]], Awaitable[None]]) -> bool:
        """Calls for each organization; an error of one does not stop the others."""
        succeeded = True
        for organization_id, some in by_organization(leases).items():
            try:
                await call(organization_id, some)
            except DatabaseError as error:
                succeeded = False
                message = "cannot renew or release %s leases of organization %s, will try again: %s"
                # The recorders log it if the database is away.
                level = logging.DEBUG if is_away(error) else logging.WARNING
                logger.log(level, message, len(some), UUID(bytes=organization_id), error)
        return succeeded
