"""For tests in which time passes: those that wait for something, and the few that watch the clock because time is what they are about."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

PATIENCE = 30.0

# Whatever else the machine does may hold such a test up: it gets two more tries. One that is broken fails all three.
timed = pytest.mark.flaky(reruns=2)


def wait_until(condition: Callable[[], object], describe: Callable[[], object] = lambda: "not in time", patience: float = PATIENCE) -> None:
    """Wait for what happens elsewhere; fails with what `describe` answers, when it does not within `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.01)
