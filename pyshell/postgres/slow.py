"""Logs slow calls of the database, and records them in traces."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyshell import traces

logger = logging.getLogger(__name__)


class Threshold:
    """Of this process, in seconds: LOG_SLOW_SECONDS."""

    seconds: float = 1.0


@contextmanager
def noted(name: str) -> Iterator[None]:
    """Logs the work within if it takes too long, and records it in traces. The name identifies the call."""
    started = time.monotonic()
    try:
        if traces.recorder is None:
            yield
        else:
            with traces.recorder.database_call(name):
                yield
    finally:
        seconds = time.monotonic() - started
        if seconds > Threshold.seconds:
            logger.warning("slow call of the database: %s took %.2f s", name, seconds, extra={"fields": {"duration": round(seconds, 3)}})
