"""Logs calls of the database that take long."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class Threshold:
    """Of this process, in seconds: LOG_SLOW_SECONDS."""

    seconds: float = 1.0


@contextmanager
def noted(name: str) -> Iterator[None]:
    """Logs what is done within, if it takes too long. The name tells which call it is."""
    started = time.monotonic()
    try:
        yield
    finally:
        seconds = time.monotonic() - started
        if seconds > Threshold.seconds:
            logger.warning("slow call of the database: %s took %.2f s", name, seconds, extra={"fields": {"duration": round(seconds, 3)}})
