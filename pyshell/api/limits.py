"""Limits of requests: the rate of a credential, concurrent uploads of an organization, the time that a body may take.

All are counted in memory, so that no request costs the database a write. The headers are those of
https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ (draft 10): RateLimit-Policy has the quota (q) and the window in
seconds (w), RateLimit the requests that remain (r) for how many seconds (t).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from starlette.types import Message, Receive

from pyshell.api.counts import OwnWindows, Windows
from pyshell.api.errors import ApiError

# An upload keeps its body in memory, and is parsed in a thread.
UPLOADS_PER_ORGANIZATION = 4
UPLOAD_WAIT_SECONDS = 5.0
BODY_SECONDS = 30.0
MIN_BODY_BYTES_PER_SECOND = 1024
WINDOW_SECONDS = 60
# Unknown API keys from one address: each costs a query.
UNKNOWN_KEYS_PER_MINUTE = 300


class RequestLimiter:
    """Counts requests in windows of a minute, which begin with the first request of each."""

    def __init__(self, windows: Windows | None = None) -> None:
        self._windows: Windows = OwnWindows() if windows is None else windows

    def count(self, who: object, quota: int) -> tuple[dict[str, str], ApiError | None]:
        """The headers for the response to a request of `who`, and the error to respond with if it exceeds the quota."""
        now = time.monotonic()
        window = self._windows.count(who, now, WINDOW_SECONDS)
        seconds = math.ceil(window.ends_at - now)
        headers = {
            "RateLimit-Policy": f'"requests";q={quota};w={WINDOW_SECONDS}',
            "RateLimit": f'"requests";r={max(quota - window.requests, 0)};t={seconds}',
        }
        return headers, too_many_requests(quota, seconds) if window.requests > quota else None

    def check(self, who: object, quota: int) -> None:
        """Raises ApiError if the quota is used up; counts nothing."""
        now = time.monotonic()
        window = self._windows.window(who, now)
        if window is not None and window.requests >= quota:
            raise too_many_requests(quota, math.ceil(window.ends_at - now))


def too_many_requests(quota: int, seconds: int) -> ApiError:
    return ApiError(
        429,
        "too_many_requests",
        f"More than {quota} requests in {WINDOW_SECONDS} seconds",
        hint=f"Try again in {seconds} seconds. GET /batch-lookups/{{id}}?wait=30 waits for a change in a single request.",
        headers={"Retry-After": str(seconds)},
    )


def patient(receive: Receive, is_answered: Callable[[], bool]) -> Receive:
    """`receive` for a slow body: raises ApiError 408 once its budget of BODY_SECONDS is spent on waiting.

    Each second of waiting takes one off, and each MIN_BODY_BYTES_PER_SECOND received add one. Only the time in which the
    application waits counts: the client cannot do anything about the rest.
    """
    patience = BODY_SECONDS
    is_complete = False

    async def receive_in_time() -> Message:
        nonlocal patience, is_complete
        if is_complete:
            return await receive()
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError:
            is_complete = True
            if is_answered():
                return {"type": "http.disconnect"}
            raise ApiError(408, "incomplete_body", "The body did not arrive in time", headers={"Connection": "close"}) from None
        gained = len(message.get("body", b"")) / MIN_BODY_BYTES_PER_SECOND
        patience = min(patience - (time.monotonic() - started_at) + gained, BODY_SECONDS)
        is_complete = not message.get("more_body", False)
        return message

    return receive_in_time
