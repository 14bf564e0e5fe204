"""The rate limit of requests by one credential, counted in this process, so that no request costs the database a write.

The headers are those of https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ (draft 10): RateLimit-Policy has the quota
(q) and the window in seconds (w), RateLimit the requests that remain (r) for how many seconds (t).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from pyshell.api.errors import ApiError

WINDOW_SECONDS = 60
MAX_WINDOWS = 10_000


@dataclass(slots=True)
class Window:
    ends_at: float
    requests: int


class RequestLimiter:
    """Counts requests in windows of a minute, which begin with the first request of each."""

    def __init__(self) -> None:
        self._windows: dict[object, Window] = {}

    def count(self, who: object, quota: int) -> tuple[dict[str, str], ApiError | None]:
        """The headers for the answer to a request of `who`, and the error to answer with if it exceeds the quota."""
        now = time.monotonic()
        window = self._windows.get(who)
        if window is None or window.ends_at <= now:
            window = self._begin(who, now)
        window.requests += 1
        seconds = math.ceil(window.ends_at - now)
        headers = {
            "RateLimit-Policy": f'"requests";q={quota};w={WINDOW_SECONDS}',
            "RateLimit": f'"requests";r={max(quota - window.requests, 0)};t={seconds}',
        }
        if window.requests <= quota:
            return headers, None
        return headers, ApiError(
            429,
            "too_many_requests",
            f"More than {quota} requests in {WINDOW_SECONDS} seconds",
            hint=f"Try again in {seconds} seconds. GET /batch-lookups/{{id}}?wait=30 waits for a change in a single request.",
            headers={"Retry-After": str(seconds)},
        )

    def _begin(self, who: object, now: float) -> Window:
        if len(self._windows) >= MAX_WINDOWS:
            self._windows = {other: window for other, window in self._windows.items() if window.ends_at > now}
        if len(self._windows) >= MAX_WINDOWS:
            # Windows begin in order, so the first ones are the oldest.
            del self._windows[next(iter(self._windows))]
        self._windows.pop(who, None)
        window = self._windows[who] = Window(now + WINDOW_SECONDS, 0)
        return window
