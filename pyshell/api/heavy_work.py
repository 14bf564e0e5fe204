"""Work that takes a processor for a tenth of a second and more: large uploads, and what is answered in megabytes.

PostgreSQL and this process share the processors with whoever asks for little. So only so much of it is done at a time that one of them is
left, and organizations take turns: who waits, waits for one call of each other organization, not for all that one of them has sent.

A turn is a courtesy, not a lock: a call that waits for a row, which a transaction of its organization may hold for long, has a turn all the
while. So others wait for theirs only briefly, and then go on without one; and those who only read never wait for those who write.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final
from uuid import UUID

from starlette.requests import Request

from pyshell.api.errors import ApiError
from pyshell.postgres.shares import Shares, TakenError

# Of each kind. An organization has one fewer: in a process that serves alone, what it reads, or what it writes, leaves it a statement.
MAX_AT_ONCE: Final = 4
# For the organization's own calls.
TURN_SECONDS = 30.0
# For the calls of others.
PATIENCE_SECONDS = 2.0


class HeavyWork:
    """Heavy calls of one kind in this process: `at_once` together, of which one is for another organization, if there is more than one."""

    def __init__(self, at_once: int, seconds: float = TURN_SECONDS, patience: float = PATIENCE_SECONDS) -> None:
        self._of_organization = Shares(max(at_once - 1, 1), seconds)
        self._of_all = Shares(at_once, patience)

    @asynccontextmanager
    async def turn(self, organization_id: UUID) -> AsyncIterator[None]:
        """Waits until it is the organization's turn, which lasts as long as the context.

        For its own calls it waits `seconds` at most, and raises ApiError 503 then; for those of others only `patience` seconds, after
        which it goes on all the same.
        """
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._of_organization.one_of(organization_id))
            except TakenError:
                raise ApiError(
                    503, "busy", "Too many large requests are in progress; please try again", headers={"Retry-After": "5"}
                ) from None
            with suppress(TakenError):
                await stack.enter_async_context(self._of_all.one_of(None))
            yield


def spare_processors(processes: int) -> int:
    """The processors of the machine, less one, for each of so many processes that serve together; 1 to MAX_AT_ONCE.

    They do not count together: who waits in one process would wait in vain while the others always have somebody next.
    """
    return min(max((len(os.sched_getaffinity(0)) - 1) // processes, 1), MAX_AT_ONCE)


@asynccontextmanager
async def heavy_turn(request: Request, organization_id: UUID | None = None) -> AsyncIterator[None]:
    """A turn of the organization that calls, or of another one. Raises ApiError 503 as `HeavyWork.turn` does."""
    heavy_work: HeavyWork = request.app.state.heavy_reads if request.method in ("GET", "HEAD") else request.app.state.heavy_writes
    async with heavy_work.turn(organization_id or request.user.organization_id):
        yield
