"""Repeated failures: backoff by organization, so that one does not delay the others, and which of them to log."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pyshell.postgres.connections import Backoff
from pyshell.postgres.sqlstates import DatabaseError, is_about_the_data

T = TypeVar("T")

FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 2.0
# Busy workers wait for one another's rows, too: an organization is logged only after this many failures in a row.
BUSY_BEFORE_A_WARNING: Final = 5
FAILURES_A_MINUTE: Final = 30
OUTAGE_WARNING_SECONDS: Final = 60.0
# How long a manual run waits for rows that are locked, or for a database that is away. With what it did before, less than a lease lasts.
RECORD_SECONDS: Final = 20.0


async def until_recorded(record: Callable[[], Awaitable[T]], seconds: float) -> T:
    """The result of `record`, which may be repeated; it is for so many seconds, unless the data are at fault. Raises DatabaseError."""
    backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
    gives_up_at = time.monotonic() + seconds
    while True:
        try:
            return await record()
        except DatabaseError as error:
            if is_about_the_data(error) or time.monotonic() >= gives_up_at:
                raise
        await asyncio.sleep(backoff.delay())


class Outage:
    """Failures in a row of something that is tried repeatedly. Times are in seconds of the caller's clock."""

    def __init__(self) -> None:
        self._began_at: float | None = None
        self._named_at = 0.0

    def is_worth_a_warning(self, now: float) -> bool:
        """Whether to log the failure at `now`: the first in a row, then one a minute."""
        is_worth_it = self._began_at is None or now - self._named_at >= OUTAGE_WARNING_SECONDS
        if self._began_at is None:
            self._began_at = now
        if is_worth_it:
            self._named_at = now
        return is_worth_it

    def end(self, now: float) -> float | None:
        """Records a success at `now`; returns how long it had failed, None: it had not."""
        began_at, self._began_at = self._began_at, None
        return None if began_at is None else now - began_at


class Retries:
    """Failures in a row and the time of the next try, in seconds of the caller's clock, for each organization that has failed."""

    def __init__(self) -> None:
        self._failures: dict[bytes, int] = {}
        self._due_at: dict[bytes, float] = {}
        self._named: set[bytes] = set()

    def note_failure(self, organization_id: bytes, now: float) -> int:
        """Returns how many failures in a row it is."""
        failures = self._failures[organization_id] = self._failures.get(organization_id, 0) + 1
        self._due_at[organization_id] = now + min(FIRST_PAUSE * 2.0 ** min(failures, 20), LONGEST_PAUSE)
        return failures

    def is_worth_a_warning(self, organization_id: bytes, first: int = BUSY_BEFORE_A_WARNING) -> bool:
        """Whether to log the last failure: the `first` in a row, counted from 1, then about one a minute."""
        failures = self._failures.get(organization_id, 0)
        is_worth_it = failures == first or (failures > 0 and failures % FAILURES_A_MINUTE == 0)
        if is_worth_it:
            self._named.add(organization_id)
        return is_worth_it

    def note_success(self, organization_id: bytes) -> bool:
        """Returns whether a failure was logged before."""
        self._due_at.pop(organization_id, None)
        self._failures.pop(organization_id, None)
        was_named = organization_id in self._named
        self._named.discard(organization_id)
        return was_named

    def has_failed(self, organization_id: bytes) -> bool:
        return organization_id in self._failures

    @property
    def failed(self) -> list[bytes]:
        """The organizations whose last try failed."""
        return list(self._failures)

    def is_due(self, organization_id: bytes, now: float) -> bool:
        return self._due_at.get(organization_id, now) <= now

    def waiting(self, now: float) -> list[bytes]:
        """The organizations whose next try has to wait."""
        return [organization_id for organization_id, due_at in self._due_at.items() if due_at > now]

    def next_due_in(self, now: float) -> float:
        """Seconds until the next waiting try is due; infinite if there is none."""
        return min((due_at - now for due_at in self._due_at.values() if due_at > now), default=float("inf"))
