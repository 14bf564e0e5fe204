"""Prometheus metrics at /metrics: the requests of this process, and the state of the queue that all processes share."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.routing import Route
from starlette.types import Scope

RENDERED_FOR_SECONDS = 1

# The numeric columns of api.queue_health, and their metrics.
QUEUE_GAUGES = {
    "open_jobs": "Unfinished jobs",
    "ready_items": "Items ready to be claimed",
    "items_waiting_for_retry": "Items waiting for a retry",
    "items_in_flight": "Items leased by a worker",
    "expired_leases": "Items whose lease has expired and that are not yet back in the queue",
    "ready_organizations": "Organizations with items ready to be claimed",
    "workers": "Workers with a heartbeat in the last 15 seconds",
    "concurrency_limit": "Current limit on concurrent lookups",
    "upstream_consecutive_failures": "Consecutive failures of the incentives API that suggest an outage",
}


class Metrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        self._rendering: asyncio.Task[bytes] | None = None
        self._rendered_at = 0.0
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "batch_lookups_http_request_duration_seconds",
            "Time from the start of a request to the end of its response",
            ["method", "route", "status"],
            registry=self._registry,
        )

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        # Unknown methods are invented by clients: they share one label.
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
        self._requests.labels(method, route_of(scope), str(status)).observe(seconds)

    async def exposition(self, queue_health: Callable[[], Awaitable[bytes]]) -> bytes:
        """The text format of Prometheus; `queue_health` asks api.get_queue_health.

        Scrapes share one rendering a second, a failed one too: however many there are, they cost other requests nothing.
        """
        if self._rendering is None or (self._rendering.done() and time.monotonic() - self._rendered_at > RENDERED_FOR_SECONDS):
            self._rendered_at = time.monotonic()
            self._rendering = asyncio.create_task(self._render(queue_health))
        return await asyncio.shield(self._rendering)

    async def _render(self, queue_health: Callable[[], Awaitable[bytes]]) -> bytes:
        queue = CollectorRegistry()
        queue.register(QueueHealth(json.loads(await queue_health())))
        return generate_latest(self._registry) + generate_latest(queue)


class QueueHealth(Collector):
    """One row of api.queue_health as gauges."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row

    def collect(self) -> Iterable[Metric]:
        for name, help_text in QUEUE_GAUGES.items():
            if self._row[name] is not None:
                yield GaugeMetricFamily(f"batch_lookups_{name}", help_text, value=float(self._row[name]))
        since = self._row["upstream_unavailable_since"]
        yield GaugeMetricFamily(
            "batch_lookups_upstream_unavailable_since_timestamp_seconds",
            "Unix time at which the incentives API became unavailable; 0 while it is available",
            value=datetime.fromisoformat(since).timestamp() if since else 0.0,
        )


def route_of(scope: Scope) -> str:
    """The template of the route that matched, such as /batch-lookups/{job_id}; "none" for all other paths.

    Never made from the path itself: a client could make up as many of those as it likes, each a series for ever.
    """
    route = scope.get("route")
    return route.path if isinstance(route, Route) else "none"
