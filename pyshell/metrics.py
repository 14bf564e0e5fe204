"""The metrics that every process has, and who may scrape them."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pyshell.settings import OPENAPI_FILE

PREFIX = "batch_lookups"

# Of this process, whichever it is.
PROCESS = CollectorRegistry()
for _collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
    PROCESS.register(_collector)

database_errors = Counter(
    f"{PREFIX}_db_errors",
    "Errors of the database that calls met with, by what had happened: lost, busy, timeout, read_only, unavailable (no disk or "
    "memory to be had), not_migrated, ...",
    ["kind"],
    registry=PROCESS,
)
eventual_reads = Counter(
    f"{PREFIX}_db_eventual_reads",
    "Reads that a replica was allowed to answer: by the replica, or by the primary because the caller had just written (after_write), "
    "of the replica's lag, because it was unavailable, or had refused the read and might not have what it is about (refused)",
    ["outcome"],
    registry=PROCESS,
)


class Collected(Collector):
    """Metrics that a function computes on each scrape."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        return self._collect()


@cache
def version() -> str:
    """The release, as in the description of the API."""
    return str(json.loads(OPENAPI_FILE.read_text())["info"]["version"])


def is_allowed(token: str | None, authorization: str) -> bool:
    """Whether the header of a scrape contains the token, if one is set."""
    return token is None or hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode())


def gauge(name: str, help_text: str, value: float | None, **labels: str) -> Metric:
    return gauges(name, help_text, {tuple(labels.values()): value}, *labels)


def gauges(name: str, help_text: str, values: Mapping[tuple[str, ...], float | None], *labels: str) -> Metric:
    """A gauge with a value for each combination of labels; None: no sample."""
    family = GaugeMetricFamily(f"{PREFIX}_{name}", help_text, labels=labels)
    for key, value in values.items():
        if value is not None:
            family.add_metric(key, value)
    return family


def counters(name: str, help_text: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", help_text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def histograms(
    name: str, help_text: str, bounds: list[float], values: Mapping[tuple[str, ...], tuple[list[int], float]], *labels: str
) -> Metric:
    """A histogram for each combination of labels, from the number of observations in each bucket and the sum of all."""
    family = HistogramMetricFamily(f"{PREFIX}_{name}", help_text, labels=labels)
    for key, (buckets, total) in values.items():
        cumulated: list[tuple[str, Any]] = []
        count = 0
        for bound, observed in zip([*(f"{bound:g}" for bound in bounds), "+Inf"], buckets, strict=True):
            count += observed
            cumulated.append((bound, count))
        family.add_metric(key, cumulated, total)
    return family
