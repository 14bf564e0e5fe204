"""Counts in memory shared by processes: none is lost, none blocks for long, and what a dead process held is released."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import time
from functools import lru_cache
from types import TracebackType

from pyshell.api.counts import Window

# Per table; at most as many windows as a single process keeps.
ROWS = 2**14
# A name is stored within this many rows of its hash.
NEAR = 32
NAME_BYTES = 16
# The same in all processes, and secret: with it, somebody could choose addresses that fill the rows near a name.
NAME_KEY = os.urandom(16)
NUMBER_BYTES = 8
LOCK_SECONDS = 0.02
LOOK_SECONDS = 0.0001


class Lock:
    """A byte of a file, locked by one process at a time. The kernel releases the lock of a process that ends.

    It is held for microseconds. Only a process stopped during them keeps others waiting: they continue without the lock after
    LOCK_SECONDS, when a count may be off by one.
    """

    def __init__(self, file: int, byte: int) -> None:
        self._file = file
        self._byte = byte

    def __enter__(self) -> None:
        deadline = 0.0
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._byte)
            except BlockingIOError:
                deadline = deadline or time.monotonic() + LOCK_SECONDS
                if time.monotonic() > deadline:
                    return
                time.sleep(LOOK_SECONDS)
            else:
                return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._byte)


class Table:
    """Rows of 64-bit floats by name. A row whose name has gone is reused for another; nothing else ever moves."""

    def __init__(self, name: str, columns: int) -> None:
        self.columns = columns
        rows = ROWS + NEAR
        file = os.memfd_create(name)
        os.ftruncate(file, rows * (NAME_BYTES + columns * NUMBER_BYTES))
        self._memory = mmap.mmap(file, 0)
        self.numbers = memoryview(self._memory)[rows * NAME_BYTES :].cast("d")
        self.lock = Lock(file, 0)

    def find(self, name: object) -> int | None:
        """The offset of the numbers of that name."""
        digest, row = place(name)
        at = self._memory.find(digest, row * NAME_BYTES, (row + NEAR) * NAME_BYTES)
        return None if at < 0 else at // NAME_BYTES * self.columns

    def near(self, name: object) -> range:
        """The offsets of the rows that may hold the name."""
        row = place(name)[1]
        return range(row * self.columns, (row + NEAR) * self.columns, self.columns)

    def give(self, at: int, name: object) -> None:
        row = at // self.columns
        self._memory[row * NAME_BYTES : (row + 1) * NAME_BYTES] = place(name)[0]

    def rows(self) -> range:
        return range(0, len(self.numbers), self.columns)


@lru_cache(4096)
def place(name: object) -> tuple[bytes, int]:
    """The hash of a name, and the first row that may hold it."""
    digest = hashlib.blake2b(repr(name).encode(), digest_size=NAME_BYTES, key=NAME_KEY).digest()
    return digest, int.from_bytes(digest[:4]) % ROWS


class SharedWindows:
    """Windows of all processes together."""

    def __init__(self) -> None:
        # When it ends, and its requests.
        self._table = Table("request windows", 2)

    def count(self, who: object, now: float, seconds: float) -> Window:
        numbers = self._table.numbers
        with self._table.lock:
            at = self._table.find(who)
            if at is None:
                # The one that has ended, or will end first.
                at = min(self._table.near(who), key=numbers.__getitem__)
                self._table.give(at, who)
                numbers[at] = 0
            if numbers[at] <= now:
                numbers[at] = now + seconds
                numbers[at + 1] = 0
            numbers[at + 1] += 1
            return Window(numbers[at], int(numbers[at + 1]))

    def window(self, who: object, now: float) -> Window | None:
        at = self._table.find(who)
        if at is None or self._table.numbers[at] <= now:
            return None
        return Window(self._table.numbers[at], int(self._table.numbers[at + 1]))


class SharedHoldings:
    """Holdings of all processes together: a column for each, which it alone writes, so that `forget` releases what a dead one had."""

    def __init__(self, processes: int) -> None:
        self._table = Table("holdings", processes)
        # The column of this process.
        self.process = 0

    def take(self, holder: object, limit: float) -> bool:
        with self._table.lock:
            at = self._row(holder)
            if at is None or self._sum(at) >= limit:
                return False
            self._table.numbers[at + self.process] += 1
            return True

    def give_back(self, holder: object) -> None:
        # The row is not given to another name while this process holds something there.
        at = self._table.find(holder)
        assert at is not None
        self._table.numbers[at + self.process] -= 1

    def of(self, holder: object) -> int:
        at = self._table.find(holder)
        return 0 if at is None else int(self._sum(at))

    def note(self, holder: object, count: int) -> int:
        """Sets how many this process has, and returns how many all have."""
        with self._table.lock:
            at = self._row(holder)
            if at is None:
                return count
            self._table.numbers[at + self.process] = count
            return int(self._sum(at))

    def forget(self, process: int) -> None:
        """Releases everything that a process had that has ended."""
        for row in self._table.rows():
            self._table.numbers[row + process] = 0

    def _row(self, holder: object) -> int | None:
        """The row of the holder, or a free one; None: its neighbourhood is full, with far more holders than limits allow."""
        at = self._table.find(holder)
        if at is None:
            at = next((row for row in self._table.near(holder) if not self._sum(row)), None)
            if at is not None:
                self._table.give(at, holder)
        return at

    def _sum(self, at: int) -> float:
        return sum(self._table.numbers[at : at + self._table.columns])
