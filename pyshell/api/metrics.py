"""Prometheus metrics at /metrics: of the processes that serve here, and of the whole installation, as counted by the database."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import Metric
from starlette.routing import Route
from starlette.types import Scope

from pyshell import metrics
from pyshell.api.counts import Serving
from pyshell.metrics import Collected, counters, gauge, gauges, histograms
from pyshell.postgres.sqlstates import DatabaseError

logger = logging.getLogger(__name__)

RENDERED_FOR_SECONDS = 1
DATABASE_SECONDS = 3


class Metrics:
    """The metrics of one application, and of those that serve with it. `process` is collected on each request."""

    def __init__(self, process: Callable[[], Iterable[Metric]] = lambda: (), serving: Serving | None = None) -> None:
        self._serving = serving or Serving()
        self._rendering: asyncio.Task[bytes] | None = None
        self._rendered_at = 0.0
        self._requests = Histogram(
            "http_server_request_duration_seconds",
            "Time from the start of a request to the end of its response",
            ["method", "route", "status"],
            registry=None,
        )
        self._process = CollectorRegistry()
        self._process.register(self._requests)
        self._process.register(Collected(process))

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        self._requests.labels(method_of(scope), matched_route(scope) or "none", str(status)).observe(seconds)

    def own(self) -> list[Metric]:
        """The metrics of this process."""
        return [*metrics.PROCESS.collect(), *self._process.collect()]

    async def exposition(self, ask_database: Callable[[], Awaitable[bytes]]) -> bytes:
        """The text format of Prometheus; `ask_database` calls api.get_metrics.

        Scrapes share one rendering per second, even a failed one, so that they cost other requests nothing. If the
        database does not respond in time, only its own metrics are missing.
        """
        if self._rendering is None or (self._rendering.done() and time.monotonic() - self._rendered_at > RENDERED_FOR_SECONDS):
            self._rendered_at = time.monotonic()
            self._rendering = asyncio.create_task(self._render(ask_database))
        return await asyncio.shield(self._rendering)

    async def _render(self, ask_database: Callable[[], Awaitable[bytes]]) -> bytes:
        shared: list[Metric] = []
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                answer = json.loads(await ask_database())
            shared = list(of_database(answer, time.time()))
        except (DatabaseError, TimeoutError) as error:
            logger.warning("metrics of the database are missing: %s", str(error) or "it did not answer in time")
        up = gauge("db_up", "1: the database has answered this scrape", 1 if shared else 0)
        of_processes = await self._serving.of_all(self.own())
        everything = CollectorRegistry()
        everything.register(Collected(lambda: [*of_processes, up, *shared]))
        return generate_latest(everything)


def of_database(answer: Mapping[str, Any], now: float) -> Iterable[Metric]:
    """The metrics in the result of api.get_metrics; `now` is this machine's time."""
    yield gauge(
        "build_info",
        "1, labelled with the release and the newest migration",
        1,
        version=metrics.version(),
        migration=answer["migration"] or "",
    )
    yield from of_work(answer)
    yield from of_queue(answer)
    yield from of_webhooks(answer)
    yield from of_postgres(answer, now)


def of_work(answer: Mapping[str, Any]) -> Iterable[Metric]:
    """What has been counted since the installation, by all processes together."""
    work: dict[str, list[Mapping[str, Any]]] = {"lookup": [], "job": [], "webhook": [], "pause": []}
    for row in answer["work"]:
        work[row["kind"]].append(row)
    # Series that alerts watch exist from the start: Prometheus sees no increase in a series that begins with its first events.
    lookups = {("failed", "upstream_unauthorized"): 0} | {(row["outcome"], row["error_class"]): row["items"] for row in work["lookup"]}
    yield counters(
        "lookups",
        "Items by what came of a lookup: completed, failed, retried (it will be tried again), deduplicated (answered from a duplicate)",
        lookups,
        "outcome",
        "error_class",
    )
    yield histograms(
        "lookup_duration_seconds",
        "How long lookups took, by what came of them",
        answer["latency_bounds"],
        summed(work["lookup"], "latency", "outcome"),
        "outcome",
    )
    yield histograms(
        "queue_wait_seconds",
        "Time from the upload of an item until the lookup that ended it",
        answer["wait_bounds"],
        summed(work["lookup"], "wait"),
    )
    yield counters(
        "jobs", "Batches that ended: completed, failed, cancelled", {(row["outcome"],): row["items"] for row in work["job"]}, "status"
    )
    attempts: Counter[tuple[str, ...]] = Counter()
    for row in work["webhook"]:
        attempts[row["outcome"],] += row["items"]
    yield counters("webhook_deliveries", "Attempts at webhooks: delivered, failed (for good), retried", attempts, "result")
    yield histograms(
        "webhook_duration_seconds",
        "How long receivers took to answer",
        answer["latency_bounds"],
        summed(work["webhook"], "latency", "outcome"),
        "result",
    )
    pauses = dict.fromkeys([("outage",), ("retry_after",)], 0) | {(row["outcome"],): row["items"] for row in work["pause"]}
    yield counters("pauses", "Times that lookups stopped: for an outage, or for a Retry-After", pauses, "cause")


def summed(rows: Iterable[Mapping[str, Any]], what: str, *labels: str) -> dict[tuple[str, ...], tuple[list[int], float]]:
    """Buckets and sums of `latency` or `wait`, grouped by these columns."""
    sums: dict[tuple[str, ...], tuple[list[int], float]] = {}
    for row in rows:
        key = tuple(row[label] for label in labels)
        buckets, seconds = sums.get(key, ([0] * len(row[f"{what}_buckets"]), 0.0))
        added = [one + another for one, another in zip(buckets, row[f"{what}_buckets"], strict=True)]
        sums[key] = added, seconds + row[f"{what}_seconds"]
    return {key: (buckets, seconds) for key, (buckets, seconds) in sums.items() if any(buckets)}


def of_queue(answer: Mapping[str, Any]) -> Iterable[Metric]:
    queue, maintenance = answer["queue"], answer["maintenance"]
    states = {"ready": "ready_items", "waiting": "items_waiting_for_retry", "in_flight": "items_in_flight", "held": "held_items"}
    yield gauges(
        "items",
        "Open items: ready (never claimed), waiting (for a retry), in_flight (a worker looks them up), held (by "
        "a limit or behind a sample)",
        {(state,): queue[column] for state, column in states.items()},
        "state",
    )
    yield gauge("expired_leases", "Items whose worker has been silent for longer than its lease", queue["expired_leases"])
    yield gauge(
        "oldest_ready_age_seconds",
        "Age of the oldest item that could be looked up now; 0 in an outage or a pause",
        answer["oldest_ready_age"] or 0,
    )
    yield gauge(
        "longest_unserved_seconds",
        "For how long an organization with ready items has not been served, the longest of all",
        answer["longest_unserved"] or 0,
    )
    yield gauge("ready_organizations", "Organizations with something to claim", queue["ready_organizations"])
    yield gauges("open_jobs", "Unfinished batches", {(status,): count for status, count in answer["open_jobs"].items()}, "status")
    yield gauge("workers", "Workers with a heartbeat in the last 15 seconds", queue["workers"])
    yield gauge("pace_limit", "Rate limit of all workers together in lookups a second; none: no sample", queue["lookups_per_second"])
    yield gauge("pace_used_ratio", "Lookups of the last full minute, as a part of the rate limit", answer["pace_used"])
    yield gauge(
        "in_flight_limit",
        "The concurrency limit: lookups that may run at once, all workers together",
        queue["max_in_flight"] if queue["concurrency_limit"] is None else queue["concurrency_limit"],
    )
    yield gauge("max_in_flight", "The setting max_in_flight, which the limit never exceeds", queue["max_in_flight"])
    yield gauge(
        "upstream_available",
        "0: the circuit breaker is open, the incentives API does not answer",
        queue["upstream_unavailable_since"] is None,
    )
    yield gauge("upstream_paused", "1: no lookup starts, because of an outage or a Retry-After", queue["upstream_closed_until"] is not None)
    yield gauge(
        "upstream_consecutive_failures", "Failures since the last answer that suggest an outage", queue["upstream_consecutive_failures"]
    )
    yield gauge("maintenance_age_seconds", "Time since the last run of maintenance, which runs every minute", maintenance["age"])
    yield gauge(
        "invariant_violations", "Violated invariants that maintenance found; api.check_invariants() lists them", maintenance["violations"]
    )
    yield gauge("invariants_checked_age_seconds", "Time since maintenance last looked for violated invariants", maintenance["checked_age"])


def of_webhooks(answer: Mapping[str, Any]) -> Iterable[Metric]:
    webhooks = answer["webhooks"]
    yield gauge("webhooks_due", "Deliveries that are due, at most 1,000 of an organization", webhooks["due"])
    yield gauge("webhook_oldest_due_age_seconds", "For how long the oldest of them has been due", webhooks["oldest_due_age"] or 0)
    yield gauges(
        "webhook_receivers",
        "Webhook configs: enabled, failing (the last attempts did not succeed), disabled",
        {(state,): webhooks[state] for state in ("enabled", "failing", "disabled")},
        "state",
    )


def of_postgres(answer: Mapping[str, Any], now: float) -> Iterable[Metric]:
    database, blocking = answer["database"], answer["queue"]["blocking_transactions"]
    yield gauge("db_read_only", "1: the database is a standby or read-only", database["read_only"])
    yield gauge("db_clock_offset_seconds", "The clock of the database minus that of this machine", database["now"] - now)
    yield gauge(
        "db_oldest_xmin_age_seconds",
        "Age of the oldest transaction that keeps VACUUM from removing dead rows, as far as the database's owner may see",
        database["oldest_xmin_age"],
    )
    yield gauge("db_blocking_transactions", "Transactions open for over a second that hold rows of the queue", len(blocking))
    yield gauge("db_notify_queue_ratio", "Used part of the queue of notifications", database["notify_queue_ratio"])
    yield gauges("db_dead_tuples", "Dead rows", {(table,): rows for table, rows in database["dead_rows"].items()}, "table")


def method_of(scope: Scope) -> str:
    """The method, with one name for all unknown methods, which clients make up."""
    return scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"


def matched_route(scope: Scope) -> str | None:
    """The template of the route that matched, such as /batch-lookups/{job_id}; None for all other paths.

    Never derived from the path itself: clients could make up any number of those, each a permanent series.
    """
    route = scope.get("route")
    return route.path if isinstance(route, Route) else None
