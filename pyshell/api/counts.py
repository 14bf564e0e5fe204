"""Counts for limits: requests in windows of time, and what holders currently have.

These count in a process that serves alone; if several serve behind one port, pyshell.api.processes counts for all of them together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import Metric

from pyshell.postgres.shares import Shares

MAX_WINDOWS = 10_000


@dataclass(slots=True)
class Window:
    ends_at: float
    requests: int


class Windows(Protocol):
    """Requests of each caller, in windows that begin with the first request of each. Times are those of `time.monotonic`."""

    def count(self, who: object, now: float, seconds: float) -> Window:
        """Counts one more request, in a new window of so many seconds if there is none."""

    def window(self, who: object, now: float) -> Window | None:
        """The open window, if any."""


class Holdings(Protocol):
    """How many of something each holder has. Every `take` that succeeds is followed by a `give_back`, or by the end of the process."""

    def take(self, holder: object, limit: float) -> bool:
        """Takes one more for the holder, unless it has as many as the limit."""

    def give_back(self, holder: object) -> None: ...

    def of(self, holder: object) -> int: ...


class OwnWindows:
    """Windows of this process: the newest MAX_WINDOWS."""

    def __init__(self) -> None:
        self._windows: dict[object, Window] = {}

    def __len__(self) -> int:
        return len(self._windows)

    def count(self, who: object, now: float, seconds: float) -> Window:
        window = self._windows.get(who)
        if window is None or window.ends_at <= now:
            window = self._begin(who, now, seconds)
        window.requests += 1
        return window

    def window(self, who: object, now: float) -> Window | None:
        window = self._windows.get(who)
        return window if window is not None and window.ends_at > now else None

    def _begin(self, who: object, now: float, seconds: float) -> Window:
        if len(self._windows) >= MAX_WINDOWS:
            self._windows = {other: window for other, window in self._windows.items() if window.ends_at > now}
        if len(self._windows) >= MAX_WINDOWS:
            # Windows begin in order, so the first ones are the oldest.
            del self._windows[next(iter(self._windows))]
        self._windows.pop(who, None)
        window = self._windows[who] = Window(now + seconds, 0)
        return window


class OwnHoldings:
    """What the holders of this process have."""

    def __init__(self) -> None:
        self._counts: Counter[object] = Counter()

    def take(self, holder: object, limit: float) -> bool:
        if self._counts[holder] >= limit:
            return False
        self._counts[holder] += 1
        return True

    def give_back(self, holder: object) -> None:
        self._counts[holder] -= 1
        if not self._counts[holder]:
            # A holder without any is not kept.
            del self._counts[holder]

    def of(self, holder: object) -> int:
        return self._counts[holder]


class Serving:
    """A process that serves: what it counts, and how many serve with it. This one serves alone."""

    processes = 1

    def __init__(self) -> None:
        self.windows: Windows = OwnWindows()
        # Requests with unknown keys by address, separately: however many there are, they do not displace windows of others.
        self.unknown_keys: Windows = OwnWindows()
        self.holdings: Holdings = OwnHoldings()

    def shares(self, name: str, size: int, seconds: float) -> Shares:
        """The `Shares` of that name, common to all processes."""
        return Shares(size, seconds)

    def told(self, metrics: Callable[[], list[Metric]]) -> AbstractAsyncContextManager[None]:
        """While the context lasts, the other processes can ask for the metrics of this one."""
        return nullcontext()

    async def of_all(self, metrics: list[Metric]) -> list[Metric]:
        """The metrics of all processes, given those of this one."""
        return metrics
