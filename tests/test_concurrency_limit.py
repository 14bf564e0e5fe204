"""The concurrency limit finds what the upstream can handle, from any state: a simulated upstream and clock, the real meter and rules."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import pytest

from pyshell.worker.meter import Meter
from pyshell.worker.upstream import Answer, failure
from tests.conftest import Connection

MAX_IN_FLIGHT = 50
SUCCESS = Answer(200, None, b"{}", None)
BROKEN = failure("connection")
NOW = "timestamptz '2026-01-01' + make_interval(secs => current_setting('test.now')::float8)"


@dataclass
class Load:
    """What the upstream sees when a request arrives, including that one; `at` in seconds. It serves all requests that it did not refuse."""

    at: float
    in_flight: int
    serving: int
    organization: int
    chance: random.Random


Weather = Callable[[Load], tuple[float, Answer]]
"""How an upstream answers: after how many seconds, and what."""


def steady(seconds: float, failing: float = 0.0, how: Answer = BROKEN, fails_in: float | None = None) -> Weather:
    """Handles any load; a share of its responses are failures, whatever the load."""

    def answer(load: Load) -> tuple[float, Answer]:
        if load.chance.random() < failing:
            return seconds if fails_in is None else fails_in, how
        return seconds * load.chance.uniform(0.7, 1.3), SUCCESS

    return answer


def queueing(seconds: float, capacity: int) -> Weather:
    """Makes requests wait beyond its capacity."""
    return lambda load: (seconds * max(load.in_flight / capacity, 1) * load.chance.uniform(0.7, 1.3), SUCCESS)


def refusing(seconds: float, capacity: int, status: int) -> Weather:
    """Refuses requests beyond its capacity."""
    return lambda load: (
        (seconds * load.chance.uniform(0.7, 1.3), SUCCESS) if load.serving <= capacity else (0.03, Answer(status, None, b"", None))
    )


def changing(*phases: tuple[float, Weather]) -> Weather:
    """One behaviour after the other, each until a time in seconds; the last one stays."""
    return lambda load: next((weather for until, weather in phases if load.at < until), phases[-1][1])(load)


def one_of_two(ill: Weather, well: Weather) -> Weather:
    return lambda load: (ill if load.organization == 0 else well)(load)


class Simulation:
    """One worker that always has work of `organizations`, and an upstream, on a clock of its own."""

    def __init__(self, owner: Connection, weather: Weather, organizations: int = 1, seed: int = 1) -> None:
        self._owner = owner
        self._weather = weather
        self._chance = random.Random(seed)
        self._meter = Meter()
        self._organizations = organizations
        self._in_flight: list[int] = [0] * organizations
        self._running: list[tuple[float, int, float, int, Answer]] = []
        self._serving = 0
        self._started = 0
        self.answered: list[float] = []
        self.limits: list[tuple[float, int]] = []

    def run(self, seconds: float) -> None:
        limit = self._heartbeat(0.0)
        now = beat_at = 0.0
        while now < seconds:
            while len(self._running) < limit:
                self._start(now)
            now, _, started_at, organization, answer = heapq.heappop(self._running)
            self._in_flight[organization] -= 1
            if answer is SUCCESS:
                self._serving -= 1
                self.answered.append(now)
            if self._meter.finish(bytes([organization]), started_at, now, answer) or now > beat_at + 5:
                limit, beat_at = self._heartbeat(now), now

    def per_second(self, since: float, until: float) -> float:
        return sum(since <= at < until for at in self.answered) / (until - since)

    def _start(self, now: float) -> None:
        # Fair shares: the organization with the fewest lookups in flight comes next.
        organization = self._in_flight.index(min(self._in_flight))
        self._in_flight[organization] += 1
        self._started += 1
        seconds, answer = self._weather(Load(now, len(self._running) + 1, self._serving + 1, organization, self._chance))
        self._serving += answer is SUCCESS
        heapq.heappush(self._running, (now + seconds, self._started, now, organization, answer))
        self._meter.start(len(self._running))

    def _heartbeat(self, now: float) -> int:
        self._owner.execute("select set_config('test.now', %s, false)", [str(now)])
        sample = self._meter.take([bytes([n]) for n, count in enumerate(self._in_flight) if count], now)
        row = self._owner.execute(
            """select max_in_flight, limit_version
                 from api.heartbeat('worker', 100, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
            sample or [None] * 9,
        ).fetchone()
        assert row is not None
        limit: int = row[0]
        self._meter.configure(limit, row[1], now)
        self.limits.append((round(now, 1), limit))
        return limit


@pytest.fixture(scope="module")
def simulated(shared_owner: Connection) -> Connection:
    shared_owner.execute(f"create or replace function app.clock() returns timestamptz language sql volatile return {NOW}".encode())
    return shared_owner


@pytest.fixture
def owner(simulated: Connection) -> Iterator[Connection]:
    with simulated.transaction(force_rollback=True):
        yield simulated


STARTS = {
    "a new database": "concurrency_limit = null, base_latency = null",
    "stuck at one": "concurrency_limit = 1, base_latency = 0.003",
    "a base that is too low": "concurrency_limit = null, base_latency = 0.003",
    "a base that is too high": "concurrency_limit = 3, base_latency = 10, base_overload = 1",
    "an old trial": "concurrency_limit = 2, base_latency = 0.01, trial_limit = 4, trial_latency = 0.01, trial_cost = 0.01",
    "far above max_in_flight": "concurrency_limit = 9000, base_latency = 0.2",
}


def pairs(weathers: Iterable[str], *thorough: str) -> list[tuple[str, str]]:
    """Each behaviour with the two initial states that matter most, some with all of them."""
    return [
        (weather, start) for weather in weathers for start in STARTS if weather in thorough or start in ("a new database", "stuck at one")
    ]


BEARS_ANYTHING = {
    "healthy": (steady(0.2), 1.0),
    "fast": (steady(0.05), 1.0),
    "slow": (steady(1.5), 1.0),
    **{f"{share:.0%} of 500": (steady(0.2, share, Answer(500, None, b"", None)), 1 - share) for share in (0.05, 0.1, 0.2, 0.5)},
    **{f"{share:.0%} of 503": (steady(0.2, share, Answer(503, None, b"", None)), 1 - share) for share in (0.1, 0.2, 0.5)},
    "20% of fast 500": (steady(0.2, 0.2, Answer(500, None, b"", None), fails_in=0.02), 1.0),
    "20% of 404": (steady(0.2, 0.2, Answer(404, None, b"", None), fails_in=0.02), 1.0),
    "broken connections": (steady(0.2, 0.3), 0.7),
    "one bad endpoint": (steady(0.2, 0.1, failure("timeout"), fails_in=2.0), 0.9 * 0.2 / (0.9 * 0.2 + 0.1 * 2)),
    "fast errors first": (changing((8, steady(0.01, 1, Answer(500, None, b"", None))), (60, steady(0.2))), 1.0),
    "fast, then slow": (changing((10, steady(0.03)), (60, steady(0.4))), 1.0),
    "slow, then fast": (changing((10, steady(0.4)), (60, steady(0.05))), 1.0),
    "flapping": (lambda load: steady(0.05 if load.at % 10 < 5 else 0.3)(load), 1.0),
}


@pytest.mark.parametrize(("weather", "start"), pairs(BEARS_ANYTHING, "healthy", "slow"))
def test_a_limit_that_is_not_needed_is_gone_within_a_minute(owner: Connection, weather: str, start: str) -> None:
    """At least 80% of what as many lookups as `max_in_flight` would bring from the same upstream."""
    owner.execute(f"update app.upstream_state set {STARTS[start]}".encode())
    simulation = Simulation(owner, BEARS_ANYTHING[weather][0])
    simulation.run(90)
    assert simulation.per_second(60, 90) >= 0.8 * unlimited(BEARS_ANYTHING[weather][0]), simulation.limits[-20:]


@cache
def unlimited(weather: Weather) -> float:
    """Successes a second after the first minute, without any limit but max_in_flight."""
    chance, running, successes, now = random.Random(2), list[tuple[float, Answer]](), 0, 0.0
    while now < 120:
        while len(running) < MAX_IN_FLIGHT:
            seconds, answer = weather(Load(now, len(running) + 1, len(running) + 1, 0, chance))
            heapq.heappush(running, (now + seconds, answer))
        now, answer = heapq.heappop(running)
        successes += answer is SUCCESS and 60 <= now < 120
    return successes / 60


BEARS_SO_MUCH = {
    "makes wait beyond 10": (queueing(0.2, 10), 10 / 0.2),
    "makes wait beyond 3": (queueing(0.2, 3), 3 / 0.2),
    "refuses beyond 30": (refusing(0.2, 30, 429), 30 / 0.2),
    "refuses beyond 8": (refusing(0.2, 8, 503), 8 / 0.2),
    "slow, refuses beyond 20": (refusing(0.8, 20, 429), 20 / 0.8),
    "bears less, then more": (changing((30, refusing(0.2, 8, 429)), (80, refusing(0.2, 40, 429))), 40 / 0.2),
    "bears more, then less": (changing((30, refusing(0.2, 40, 429)), (80, refusing(0.2, 8, 429))), 8 / 0.2),
}


@pytest.mark.parametrize(("weather", "start"), pairs(BEARS_SO_MUCH, "makes wait beyond 10", "refuses beyond 8"))
def test_an_overloaded_upstream_gets_as_much_as_it_can_handle(owner: Connection, weather: str, start: str) -> None:
    answer, bears = BEARS_SO_MUCH[weather]
    owner.execute(f"update app.upstream_state set {STARTS[start]}".encode())
    simulation = Simulation(owner, answer)
    simulation.run(80)
    assert simulation.per_second(60, 80) >= 0.8 * bears, simulation.limits[-40:]


@pytest.mark.parametrize("weather", ["makes wait beyond 10", "refuses beyond 8", "refuses beyond 30"])
def test_an_overloaded_upstream_is_spared(owner: Connection, weather: str) -> None:
    answer, bears = BEARS_SO_MUCH[weather]
    simulation = Simulation(owner, answer)
    simulation.run(80)
    capacity = bears * 0.2
    limits = [limit for at, limit in simulation.limits if at > 40]
    assert sum(limits) / len(limits) <= capacity * 2, simulation.limits[-40:]


@pytest.mark.parametrize(
    "ill",
    [steady(2.0, 1, failure("timeout")), steady(0.01, 1, Answer(500, None, b"", None)), steady(0.05, 1, Answer(429, None, b"", None))],
    ids=["time-outs", "500", "429"],
)
def test_failures_of_one_organization_do_not_slow_down_another(owner: Connection, ill: Weather) -> None:
    simulation = Simulation(owner, one_of_two(ill, steady(0.2)), organizations=2)
    simulation.run(60)
    # Half of the concurrent lookups belong to the other organization.
    assert simulation.per_second(20, 60) >= 0.8 * MAX_IN_FLIGHT / 2 / 0.2, simulation.limits[-20:]


def test_the_measurements_of_another_limit_do_not_count(owner: Connection) -> None:
    owner.execute("select set_config('test.now', '1', false)")
    owner.execute("update app.upstream_state set concurrency_limit = 10, base_latency = 0.1, limit_version = 7")
    beat = "select max_in_flight from api.heartbeat('worker', 100, %s, 1, 50, 25, 25, 0.1, 5, 5, 1)"
    assert owner.execute(beat, [6]).fetchone() == (10,)
    assert owner.execute(beat, [7]).fetchone() == (5,)
