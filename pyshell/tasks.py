"""Tasks that end together, and waiting for an event with a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> list[Any]:
    """Cancels tasks and waits until they have ended. Returns what each returned or raised, in order; does not raise their errors."""
    cancelled = list(tasks)
    for task in cancelled:
        task.cancel()
    return await asyncio.gather(*cancelled, return_exceptions=True)


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Waits until the event is set, or the seconds are over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
