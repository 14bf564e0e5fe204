"""The parent of the processes that serve: it starts them, restarts those that end, and ends with them.

uvicorn's own waits indefinitely for processes that do not stop, kills one whose event loop is busy for five seconds, starts
an interpreter for each instead of sharing memory, and has no hook for the end of one.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pyshell.signals import stop_signals

logger = logging.getLogger(__name__)

# The time in which uvicorn finishes requests, and the application after it; containers are given 30.
STOP_SECONDS = 28.0
# A process that ended sooner is restarted only after this time, so that it does not start and fail in a loop.
STEADY_SECONDS = 1.0
# The exit status of a process that could not start serving. Another would fail as well.
STARTUP_FAILURE = 3
PR_SET_PDEATHSIG = 1


class Parent:
    """Each process runs `serve(number)`; `on_end(number)` is called when one has ended, before another takes its place.

    The `sockets` stay open while a process is restarted: clients that connect meanwhile wait, and are not refused.
    """

    def __init__(
        self, processes: int, serve: Callable[[int], None], on_end: Callable[[int], None], sockets: Sequence[socket.socket]
    ) -> None:
        self._numbers = range(processes)
        self._serve = serve
        self._on_end = on_end
        self._sockets = sockets
        # By process id: its number, and when it was started.
        self._running: dict[int, tuple[int, float]] = {}
        # By number: when to start it.
        self._due = dict.fromkeys(self._numbers, 0.0)
        self._status = 0
        self._stops_at: float | None = None

    def run(self) -> int:
        """Returns when all have ended after a signal, with the status to exit with."""
        stops = stop_signals()
        signals = (*stops, signal.SIGCHLD)
        # Signals are handled only when asked for, never between two lines.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        # SIGCHLD may be inherited as ignored: then this process could learn neither that a child has ended nor how.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            while self._running or self._stops_at is None:
                self._start_due()
                received = signal.sigtimedwait(signals, self._patience())
                if received is not None and received.si_signo in stops:
                    self._stop(received.si_signo)
                self._reap()
                if self._stops_at is not None and time.monotonic() > self._stops_at:
                    self._tell_all(signal.SIGKILL)
        finally:
            self._tell_all(signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._status

    def _patience(self) -> float:
        due = [*self._due.values()] if self._stops_at is None else [self._stops_at]
        return min([5.0, *(max(at - time.monotonic(), 0.0) for at in due)])

    def _start_due(self) -> None:
        for number, at in tuple(self._due.items()):
            if self._stops_at is None and time.monotonic() >= at:
                try:
                    pid = self._fork(number)
                except OSError as error:
                    # Memory or process ids may be short for a while. The other processes continue.
                    logger.error("a process could not be started: %s; will try again", error.strerror)
                    self._due[number] = time.monotonic() + STEADY_SECONDS
                else:
                    del self._due[number]
                    self._running[pid] = number, time.monotonic()

    def _fork(self, number: int) -> int:
        """Forks a process with that number, and returns its process id."""
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            self._be_child(number, parent)
        return pid

    def _be_child(self, number: int, parent: int) -> NoReturn:
        status = 1
        try:
            # A terminal signals only the parent, which passes signals on in order.
            os.setsid()
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*stop_signals(), signal.SIGCHLD))
            if os.getppid() == parent:
                self._serve(number)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            logger.exception("a process could not serve")
        finally:
            # Skip the cleanup of the parent.
            logging.shutdown()
            os._exit(status)

    def _reap(self) -> None:
        """Registers the processes that have ended."""
        for pid in tuple(self._running):
            ended, wait_status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            number, started_at = self._running.pop(pid)
            self._on_end(number)
            status = os.waitstatus_to_exitcode(wait_status)
            if self._stops_at is not None:
                continue
            if status == STARTUP_FAILURE:
                logger.error("process %d could not start serving; stopping all", pid)
                self._status = status
                self._stop(signal.SIGTERM)
                continue
            cause = signal.Signals(-status).name if status < 0 else f"status {status}"
            logger.error("process %d has ended with %s; another takes its place", pid, cause)
            now = time.monotonic()
            self._due[number] = now if now - started_at > STEADY_SECONDS else now + STEADY_SECONDS

    def _stop(self, number: int) -> None:
        """Lets all processes finish their requests, without new connections. A second SIGINT ends them at once, as in a single process."""
        if self._stops_at is None:
            self._stops_at = time.monotonic() + STOP_SECONDS
            self._due.clear()
            for listening in self._sockets:
                listening.close()
            self._tell_all(signal.SIGTERM)
        elif number == signal.SIGINT:
            self._tell_all(signal.SIGINT)

    def _tell_all(self, number: int) -> None:
        for pid in self._running:
            os.kill(pid, number)


def listening(host: str, port: int) -> list[socket.socket]:
    """Sockets for all addresses of the host; `::` means all of the machine. Connecting is possible only once a process listens.

    Raises OSError, with a message that names the settings.
    """
    try:
        found = socket.getaddrinfo(None if host == "::" else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [bound(family, address) for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found)]
    except OSError as error:
        raise OSError(f"PORT {port} of HOST {host} cannot be used: {error.strerror or error}.") from error


def bound(family: int, address: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(address)
    return listener
