"""Limits on sending webhooks: each receiver gets as many as it can handle, and lookups take precedence."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final

from pyshell.webhooks.requests import Attempt, Delivery, Receiver

FIRST_WINDOW: Final = 4
LARGEST_WINDOW: Final = 128
# For the bodies on their way to one receiver, going by their recent size.
MAX_RECEIVER_BYTES: Final = 16 * 1024 * 1024
# The window of a slower receiver is at most half the largest.
QUICK_SECONDS: Final = 0.1
PAUSING_STATUSES: Final = (410, 429, 503)
# A webhook costs twice as much as a lookup: at full speed, each slows down the other.
BUSY_LOOKUPS_PER_SECOND: Final = 2000
MEASURING_SECONDS: Final = 0.05


@dataclass(slots=True, eq=False)
class ReceiverLimit:
    """The concurrency window of one organization's receiver: additive increase, multiplicative decrease.

    `bytes` is the size of the bodies in flight, `largest` that of the largest recent body. `unrecorded_pauses` counts unrecorded 410, 429
    and 503 responses: nothing is claimed until they are recorded. `has_more`: the last claim was filled completely. `is_full`: there was no
    room when it was last asked for.
    """

    receiver: Receiver
    window: int = FIRST_WINDOW
    in_flight: int = 0
    bytes: int = 0
    largest: int = 0
    unrecorded_pauses: int = 0
    has_more: bool = False
    is_full: bool = False
    used_at: float = 0.0

    def room(self, free: float = 1.0) -> int:
        """How many to claim: none before half of the window is free, as otherwise every claim would be for one.

        `free` is the part of the sender that is free. The less, the smaller is each window: however many slow receivers there are, those
        that come later find room.
        """
        window = ceil(self.window * free)
        room = 0
        if self.in_flight <= window // 2 and not self.unrecorded_pauses:
            fitting = int(MAX_RECEIVER_BYTES * free - self.bytes) // max(self.largest, 1)
            room = min(window - self.in_flight, max(fitting, 0 if self.in_flight else 1))
        self.is_full = room <= 0
        return max(room, 0)

    def start(self, delivery: Delivery) -> None:
        self.in_flight += 1
        self.bytes += len(delivery.body)
        self.largest = max(self.largest * 15 // 16, len(delivery.body))

    def finish(self, delivery: Delivery) -> None:
        self.in_flight -= 1
        self.bytes -= len(delivery.body)

    def learn(self, attempt: Attempt) -> None:
        if attempt.succeeded:
            self.window = min(self.window + 1, LARGEST_WINDOW if attempt.latency < QUICK_SECONDS else LARGEST_WINDOW // 2)
        else:
            self.window = max(self.window // 2, 1)
        self.unrecorded_pauses += attempt.http_status in PAUSING_STATUSES


class LoadShedding:
    """Whether this process does so many lookups a second that webhooks should wait briefly; they have three days."""

    def __init__(self, count_lookups: Callable[[], int]) -> None:
        self._count = count_lookups
        self._counted, self._counted_at = count_lookups(), time.monotonic()
        self._is_active = False

    def is_active(self) -> bool:
        now, count = time.monotonic(), self._count()
        if now - self._counted_at >= MEASURING_SECONDS:
            self._is_active = count - self._counted > BUSY_LOOKUPS_PER_SECOND * (now - self._counted_at)
            self._counted, self._counted_at = count, now
        return self._is_active
