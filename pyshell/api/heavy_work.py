"""Work that occupies a CPU for a tenth of a second or more: large uploads and responses of megabytes.

PostgreSQL and this process share the CPUs with small requests. So heavy work leaves one CPU free,
and organizations take turns: a call waits for one call of each other organization, not for everything that one of them has sent.

A turn is a courtesy, not a lock: a call that waits for a row, which a transaction may have locked for long, keeps its turn.
So others wait for a turn only briefly, and then continue without one; and reads never wait for writes.
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

# Per kind. An organization may have one fewer: in a process that serves alone, its reads or its writes always leave it one statement.
MAX_AT_ONCE: Final = 4
# Wait for the organization's own calls.
TURN_SECONDS = 30.0
# Wait for the calls of others.
PATIENCE_SECONDS = 2.0


class HeavyWork:
    """Heavy calls of one kind in this process: `at_once` concurrently, if more than one, the last only for another organization."""

    def __init__(self, at_once: int, seconds: float = TURN_SECONDS, patience: float = PATIENCE_SECONDS) -> None:
        self._of_organization = Shares(max(at_once - 1, 1), seconds)
        self._of_all = Shares(at_once, patience)

    @asynccontextmanager
    async def turn(self, organization_id: UUID) -> AsyncIterator[None]:
        """Waits until it is the organization's turn, which lasts as long as the context.

        It waits at most `seconds` for the organization's own calls, then raises ApiError 503; and only `patience` seconds for the calls
        of others, then continues without a turn.
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
    """This process's share of the CPUs of the machine, less one, among so many processes that serve together; 1 to MAX_AT_ONCE.

    Processes do not count together: a call in one could starve while the others always have another call waiting.
    """
    return min(max((len(os.sched_getaffinity(0)) - 1) // processes, 1), MAX_AT_ONCE)


@asynccontextmanager
async def heavy_turn(request: Request, organization_id: UUID | None = None) -> AsyncIterator[None]:
    """A turn of the calling organization, or of another one. Raises ApiError 503 as `HeavyWork.turn` does."""
    heavy_work: HeavyWork = request.app.state.heavy_reads if request.method in ("GET", "HEAD") else request.app.state.heavy_writes
    async with heavy_work.turn(organization_id or request.user.organization_id):
        yield
