"""How fast webhooks are sent: to each receiver as fast as it keeps up, and all of them not at the cost of the lookups."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pyshell.webhooks.requests import Attempt, Receiver

FIRST_WIDTH: Final = 4
LARGEST_WIDTH: Final = 128
# A receiver that takes longer gets half of that at most.
QUICK_SECONDS: Final = 0.1
CONCERN_ALL: Final = (410, 429, 503)
# The cost of a webhook is twice that of a lookup: at full speed, each takes from the other.
MANY_LOOKUPS_PER_SECOND: Final = 2000
PRESSURE_SECONDS: Final = 0.05


@dataclass(slots=True, eq=False)
class Lane:
    """What is on its way to one organization's receiver.

    `held` counts answers that concern all deliveries, a pause asked for or a 410, until the database knows of them: nothing is claimed
    meanwhile. `has_more`: the last claim brought all that it asked for.
    """

    receiver: Receiver
    width: int = FIRST_WIDTH
    in_flight: int = 0
    held: int = 0
    has_more: bool = False
    used_at: float = 0.0

    @property
    def room(self) -> int:
        """How many to claim: none before half of the lane is free, or every claim would be for one."""
        return self.width - self.in_flight if self.in_flight <= self.width // 2 and not self.held else 0

    def learn(self, attempt: Attempt) -> None:
        if attempt.succeeded:
            self.width = min(self.width + 1, LARGEST_WIDTH if attempt.latency < QUICK_SECONDS else LARGEST_WIDTH // 2)
        else:
            self.width = max(self.width // 2, 1)
        self.held += attempt.http_status in CONCERN_ALL


class Pressure:
    """Tells whether the lookups of this process are so many a second that webhooks had better wait a little; they have three days."""

    def __init__(self, count_lookups: Callable[[], int]) -> None:
        self._count = count_lookups
        self._counted, self._counted_at = count_lookups(), time.monotonic()
        self._is_high = False

    def is_high(self) -> bool:
        now, count = time.monotonic(), self._count()
        if now - self._counted_at >= PRESSURE_SECONDS:
            self._is_high = count - self._counted > MANY_LOOKUPS_PER_SECOND * (now - self._counted_at)
            self._counted, self._counted_at = count, now
        return self._is_high
