"""Operating-system helpers: free ports, and child processes that end with their parent."""

from __future__ import annotations

import ctypes
import random
import signal
import socket
from collections.abc import Callable
from pathlib import Path

FIRST_FREE_PORT = 10_000
# From here on, ports are ephemeral by default.
FIRST_LENT_PORT = 32_768
LENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def why_taken(host: str, port: int) -> str | None:
    """Why a port cannot be used; None: it can."""
    with _probe(host) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def free_port(host: str = "127.0.0.1") -> int:
    """A free port that stays free until somebody chooses it: it is below the ephemeral range, so no outgoing connection gets it."""
    ports = range(FIRST_FREE_PORT, int(LENT_PORTS.read_text().split()[0]) if LENT_PORTS.exists() else FIRST_LENT_PORT)
    for port in random.sample(ports, min(len(ports), 100)):
        if why_taken(host, port) is None:
            return port
    with _probe(host) as probe:
        probe.bind((host, 0))
        lent: int = probe.getsockname()[1]
        return lent


def ends_with_parent(number: signal.Signals) -> Callable[[], None]:
    """For `preexec_fn`: the child gets the signal when its parent dies (Linux's PR_SET_PDEATHSIG)."""

    def ask() -> None:
        ctypes.CDLL(None).prctl(1, number)

    return ask


def _probe(host: str) -> socket.socket:
    probe = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return probe
