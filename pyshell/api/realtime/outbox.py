"""The frames that wait until a client reads them, and their limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from uuid import UUID

from prometheus_client.core import Metric

from pyshell.metrics import counters

# Messages that wait for a slow client; a newer state of a row replaces the waiting one.
MAX_WAITING = 1_000
# Their size in characters, with room for what is on its way to a slow client; and that of all connections of an organization, or of all
# that began as anonymous, beyond the minimum that each has.
MAX_WAITING_LENGTH = 16 * 1024 * 1024
MAX_WAITING_LENGTH_TOGETHER = 64 * 1024 * 1024
FREE_LENGTH = 64 * 1024


class Traffic:
    """What all connections of this process have sent and dropped, and what is queued for them."""

    def __init__(self) -> None:
        # Characters queued for the connections of an organization; None: for those that began as anonymous.
        self.waiting: Counter[UUID | None] = Counter()
        self.sent = 0
        self.dropped: Counter[str] = Counter({"superseded": 0, "too_slow": 0, "silent": 0, "stuck": 0})

    def metrics(self) -> Iterable[Metric]:
        yield counters("realtime_messages", "Messages that clients have taken", {(): self.sent})
        yield counters(
            "realtime_dropped",
            "superseded: messages that a newer state of the row replaced before the client took them; connections that were closed because "
            "the client took its messages too slowly (too_slow), was silent, or took nothing (stuck)",
            {(reason,): count for reason, count in self.dropped.items()},
            "reason",
        )


class Outbox:
    """The frames of one connection, each under a key for its subject. `owner`: the organization that it began with, if any."""

    def __init__(self, traffic: Traffic, owner: UUID | None) -> None:
        self.traffic = traffic
        self._owner = owner
        self._frames: dict[object, str] = {}
        self._length = 0

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, key: object, frame: str) -> None:
        """Appends a frame; a waiting frame with the same key is superseded."""
        if self._take(key) is not None:
            self.traffic.dropped["superseded"] += 1
        self._frames[key] = frame
        self._count(len(frame))

    def take_first(self) -> str | None:
        return self._take(next(iter(self._frames), None))

    def drop_changes(self, topic: str) -> None:
        """Drops the waiting changes of a channel, whose keys begin with its topic."""
        for key in [key for key in self._frames if isinstance(key, tuple) and key[0] == topic]:
            self._take(key)

    def clear(self) -> None:
        self._frames.clear()
        self._count(-self._length)

    @property
    def is_behind(self) -> bool:
        """Whether many frames wait."""
        return len(self._frames) > MAX_WAITING // 4 or self._length > MAX_WAITING_LENGTH // 16

    @property
    def has_too_much(self) -> bool:
        return (
            len(self._frames) > MAX_WAITING
            or self._length > MAX_WAITING_LENGTH
            or (self._length > FREE_LENGTH and self.traffic.waiting[self._owner] > MAX_WAITING_LENGTH_TOGETHER)
        )

    def _take(self, key: object) -> str | None:
        frame = self._frames.pop(key, None)
        if frame is not None:
            self._count(-len(frame))
        return frame

    def _count(self, length: int) -> None:
        self._length += length
        self.traffic.waiting[self._owner] += length
        if not self.traffic.waiting[self._owner]:
            del self.traffic.waiting[self._owner]
