"""What a worker measures for the concurrency limit: responses, signs of overload and latency, under one version of the limit."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

from pyshell.worker.upstream import Answer

SHORTEST_SAMPLE_SECONDS: Final = 0.25
LONGEST_SAMPLE_SECONDS: Final = 5.0
FEWEST_OUTCOMES: Final = 3
OVERLOAD_STATUSES: Final = frozenset({408, 429, 503, 504})
PASSING_STATUSES: Final = frozenset({408, 425, 429})


class Sample(NamedTuple):
    """A sample for `api.heartbeat`; times in seconds, `usage` from 0 to 1."""

    limit_version: int
    organizations: int
    outcomes: int
    answers: int
    overloads: int
    latency: float | None
    busy_seconds: float
    overload_seconds: float
    usage: float


@dataclass(slots=True)
class Tally:
    """The lookups of one organization."""

    outcomes: int = 0
    answers: int = 0
    overloads: int = 0
    successes: int = 0
    success_seconds: float = 0.0
    busy_seconds: float = 0.0
    overload_seconds: float = 0.0


class Meter:
    """Collects the results of lookups until there are as many as may run at once, for twice as long as one takes.

    Lookups that started before the limit changed reflect the former limit, and do not count. If several organizations are served, the
    one with the most signs of overload is left out: what affects it alone is not due to the upstream.
    """

    def __init__(self) -> None:
        self._limit = 1
        self._version: int | None = None
        self._since = 0.0
        self._began_at = 0.0
        self._most_in_flight = 0
        self._outcomes = 0
        self._successes = 0
        self._success_seconds = 0.0
        self._tallies: dict[bytes, Tally] = {}

    def configure(self, limit: int, version: int, now: float) -> None:
        self._limit = limit
        if version != self._version:
            self._version = version
            self._since = now
            self._start(now)

    def start(self, in_flight: int) -> None:
        """A lookup starts, and then this many are in flight."""
        if in_flight > self._most_in_flight:
            self._most_in_flight = in_flight

    def finish(self, organization_id: bytes, started_at: float, now: float, answer: Answer) -> bool:
        """A lookup ended; returns whether there is enough for a sample."""
        if started_at < self._since:
            return False
        tally = self._tallies.get(organization_id)
        if tally is None:
            tally = self._tallies[organization_id] = Tally()
        seconds = now - started_at
        status = answer.http_status
        tally.outcomes += 1
        tally.busy_seconds += seconds
        if answer.succeeded:
            tally.answers += 1
            tally.successes += 1
            tally.success_seconds += seconds
            self._successes += 1
            self._success_seconds += seconds
        elif status in OVERLOAD_STATUSES or answer.error_class == "timeout":
            tally.overloads += 1
            tally.overload_seconds += seconds
        elif status is not None and 400 <= status < 500 and status not in PASSING_STATUSES:
            tally.answers += 1
        self._outcomes += 1
        return self._is_complete(now)

    def take(self, in_flight: Collection[bytes], now: float) -> Sample | None:
        """A sample, if there is enough for one. `in_flight`: the organizations with running lookups."""
        if self._version is None or not self._is_complete(now):
            return None
        organizations = len(self._tallies.keys() | set(in_flight))
        tallies = sorted(self._tallies.values(), key=lambda tally: tally.overloads)
        if organizations > 1 and tallies[-1].overloads:
            tallies.pop()
        successes = sum(tally.successes for tally in tallies)
        sample = Sample(
            limit_version=self._version,
            organizations=organizations,
            outcomes=sum(tally.outcomes for tally in tallies),
            answers=sum(tally.answers for tally in tallies),
            overloads=sum(tally.overloads for tally in tallies),
            latency=sum(tally.success_seconds for tally in tallies) / successes if successes else None,
            busy_seconds=sum(tally.busy_seconds for tally in tallies),
            overload_seconds=sum(tally.overload_seconds for tally in tallies),
            usage=min(self._most_in_flight / self._limit, 1.0),
        )
        self._start(now)
        return sample if sample.outcomes else None

    def _is_complete(self, now: float) -> bool:
        age = now - self._began_at
        if age < SHORTEST_SAMPLE_SECONDS or not self._outcomes:
            return False
        if age >= LONGEST_SAMPLE_SECONDS:
            return True
        return self._outcomes >= max(self._limit, FEWEST_OUTCOMES) and age * self._successes >= 2 * self._success_seconds

    def _start(self, now: float) -> None:
        self._began_at = now
        self._most_in_flight = 0
        self._outcomes = 0
        self._successes = 0
        self._success_seconds = 0.0
        self._tallies.clear()
