"""For tests in which time passes: those that wait for something, and the few that measure time because they are about it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

PATIENCE = 30.0

# Other work on the machine may delay such a test, so it gets two more tries. One that is broken fails all three.
timed = pytest.mark.flaky(reruns=2)


def wait_until(condition: Callable[[], object], describe: Callable[[], object] = lambda: "not in time", patience: float = PATIENCE) -> None:
    """Wait for what happens elsewhere; fails with what `describe` answers, when it does not within `patience` seconds."""
    began_at = time.monotonic()
    while not condition():
        waited = time.monotonic() - began_at
        assert waited < patience, describe()
        # Checking takes CPU time from what it waits for.
        time.sleep(min(0.01 + waited / 10, 0.1))


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used: what a call costs, however busy the machine is."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def counted_turns() -> AsyncIterator[Callable[[], int]]:
    """How often another task has run since it began: whether what is awaited lets others run."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(take_turns())
    try:
        yield lambda: turns
    finally:
        other.cancel()


def set_monotonic(monkeypatch: pytest.MonkeyPatch, module: ModuleType, now: Callable[[], float]) -> None:
    """Another `time.monotonic` for one module; servers on other threads of this process keep theirs."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now))
