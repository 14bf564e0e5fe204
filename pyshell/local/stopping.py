"""Orderly shutdown on Ctrl-C or a signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pyshell.signals import stop_signals


class Stopped(BaseException):
    """A signal asked us to stop."""


class Stopping:
    """Whether a signal asked us to stop.

    A signal raises `Stopped` only within `interruptible`, where nothing gets lost: anywhere else Python may drop the exception,
    as it does in a hook of a fork, or a process that was just started may be forgotten.
    """

    def __init__(self) -> None:
        self._is_wanted = False
        self._may_raise = False

    def check(self) -> None:
        """Raises Stopped if a signal has asked us to stop."""
        if self._is_wanted:
            raise Stopped

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A signal ends this context immediately, with Stopped."""
        self._may_raise = True
        try:
            self.check()
            yield
        finally:
            self._may_raise = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_wanted = True
        if self._may_raise:
            self._may_raise = False
            raise Stopped


@contextmanager
def until_stopped() -> Iterator[Stopping]:
    """Catches the `stop_signals`, and the `Stopped` that they raise."""
    stopping = Stopping()
    before = {number: signal.signal(number, stopping.on_signal) for number in stop_signals()}
    try:
        yield stopping
    except Stopped:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
