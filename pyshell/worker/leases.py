"""The leases that a worker holds: renewed while their lookups run, given back when those will not start."""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from pyshell.postgres.connections import Session
from pyshell.postgres.sqlstates import DatabaseError
from pyshell.worker.calls import Lease, WorkerState, by_organization, extend_leases, release_lookups

logger = logging.getLogger(__name__)

TICKS_PER_LEASE: Final = 9
LONGEST_TICK: Final = 2.0
LOST: Final = float("-inf")


class Holdings:
    """Every lease from its claim until its outcome is recorded or it is given back."""

    def __init__(self, session: Session, worker: str) -> None:
        self._session = session
        self._worker = worker
        self._held: set[Lease] = set()
        self._returned: list[Lease] = []
        self._wake = asyncio.Event()
        self._lease_seconds = 60.0

    def __len__(self) -> int:
        return len(self._held)

    def configure(self, state: WorkerState) -> None:
        if state.lease_seconds != self._lease_seconds:
            self._lease_seconds = state.lease_seconds
            self._wake.set()

    def add(self, leases: list[Lease]) -> None:
        self._held.update(leases)

    def discard(self, lease: Lease) -> None:
        self._held.discard(lease)

    def give_back(self, lease: Lease) -> None:
        """Return an item that was not looked up, soon."""
        self._held.discard(lease)
        self._returned.append(lease)
        self._wake.set()

    def give_back_all(self) -> None:
        for lease in list(self._held):
            self.give_back(lease)

    async def run(self) -> None:
        """Renew every lease that has lost a third of its time, and release what was given back, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self._lease_seconds / TICKS_PER_LEASE, LONGEST_TICK)):
                    await self._wake.wait()
            try:
                await self.release()
                await self.extend()
            except DatabaseError as error:
                logger.warning("cannot renew or release leases, will try again: %s", error)
                await asyncio.sleep(min(self._lease_seconds / TICKS_PER_LEASE, LONGEST_TICK))

    async def extend(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [lease for lease in self._held if LOST < lease.expires_at < now + self._lease_seconds * 2 / 3]
        for organization_id, leases in by_organization(due).items():
            asked_at = asyncio.get_running_loop().time()
            held = await self._session.run(extend_leases, self._worker, organization_id, leases)
            for lease in leases:
                # One that is somebody else's by now does not start any more; if it has started, it comes to its end.
                lease.expires_at = asked_at + self._lease_seconds if (lease.job_id, lease.position) in held else LOST

    async def release(self) -> None:
        self._wake.clear()
        while self._returned:
            organization_id = self._returned[0].organization_id
            leases = [lease for lease in self._returned if lease.organization_id == organization_id]
            await self._session.run(release_lookups, self._worker, organization_id, leases)
            released = set(leases)
            self._returned = [lease for lease in self._returned if lease not in released]
