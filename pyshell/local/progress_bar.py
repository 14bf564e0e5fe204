"""A bar on the terminal that shows how far something is. Where the output is no terminal, nothing is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WIDTH = 30


@contextmanager
def shown() -> Iterator[Callable[[float, str], None]]:
    """Gives what draws the bar: `show(0.5, "programs")` fills half of it. It is wiped out in the end."""
    terminal = sys.stderr.isatty()

    def show(share: float, what: str) -> None:
        if terminal:
            filled = round(share * WIDTH)
            print(f"\r\x1b[K{'█' * filled}{'░' * (WIDTH - filled)} {share:4.0%} {what}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
