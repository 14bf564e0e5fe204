"""What a Prometheus server reads at /metrics: the requests of this process, and the state of the queue that all processes share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

# Columns of api.queue_health that are numbers, and what they are called.
QUEUE_GAUGES = {
    "open_jobs": "Jobs that have not ended",
    "ready_items": "Items that may be claimed",
    "items_waiting_for_retry": "Items that wait for a retry",
    "items_in_flight": "Items that a worker holds",
    "expired_leases": "Items whose worker fell silent, not yet back in the queue",
    "ready_organizations": "Organizations with something to claim",
    "workers": "Workers that checked in within the last 15 seconds",
    "in_flight_limit": "Lookups that the incentives API bears at once",
    "upstream_failures_in_a_row": "Signs of an outage of the incentives API since its last answer",
}


class Metrics:
    """The measurements of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "batch_lookups_http_request_duration_seconds",
            "Time from a request to the end of its answer",
            ["method", "route", "status"],
            registry=self._registry,
        )

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        # A method that nobody knows is whatever the client made up.
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
        self._requests.labels(method, route_of(scope), str(status)).observe(seconds)

    def render(self, queue_health: bytes) -> bytes:
        """The text format of Prometheus; `queue_health` is the answer of api.get_queue_health."""
        queue = CollectorRegistry()
        queue.register(QueueHealth(json.loads(queue_health)))
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
            "Unix time since which the incentives API is unavailable; 0: it answers",
            value=datetime.fromisoformat(since).timestamp() if since else 0.0,
        )


def route_of(scope: Scope) -> str:
    """The path with its parameters as in the list of routes, such as /batch-lookups/{job_id}: there are only so many of those."""
    if "endpoint" not in scope:
        return "none"
    path: str = scope["path"]
    for name, value in scope.get("path_params", {}).items():
        path = path.replace(str(value), f"{{{name}}}")
    return path.removeprefix(scope["root_path"])
