"""A progress bar on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WIDTH = 30


@contextmanager
def shown(line_every: float | None = None) -> Iterator[Callable[[float, str], None]]:
    """Yields a function that draws the bar: `show(0.5, "programs")` fills half of it. The bar is erased at the end.

    If the output is not a terminal, it writes a line every few seconds, or nothing.
    """
    terminal = sys.stderr.isatty()
    printed_at = float("-inf")

    def show(share: float, what: str) -> None:
        nonlocal printed_at
        if terminal:
            print(f"\r\x1b[K{bar(share)} {what}", end="", file=sys.stderr, flush=True)
        elif line_every is not None and time.monotonic() - printed_at >= line_every:
            printed_at = time.monotonic()
            print(f"{bar(share)} {what}", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def bar(share: float) -> str:
    filled = round(share * WIDTH)
    return f"{'█' * filled}{'░' * (WIDTH - filled)} {share:4.0%}"
