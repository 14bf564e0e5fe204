"""Tasks that end together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> list[Any]:
    """Cancels tasks and waits until they have ended. Returns what each has returned or raised, in their order; raises nothing of theirs."""
    cancelled = list(tasks)
    for task in cancelled:
        task.cancel()
    return await asyncio.gather(*cancelled, return_exceptions=True)
