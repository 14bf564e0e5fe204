"""The `api` functions of the queue as a worker calls them."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, Final, NamedTuple
from uuid import UUID

from pyshell.postgres.arrays import binary_cursor, floats, integers, texts, uuids
from pyshell.postgres.connections import Connection
from pyshell.worker.meter import Sample
from pyshell.worker.upstream import Answer

HEARTBEAT: Final = """
    select organization_ids, next_ready_in, max_in_flight, lookups_per_second, lookup_timeout, lease_seconds, max_response_bytes,
           paused_for, maintenance_due, stopped, limit_version, unavailable_since, failures, together
      from api.heartbeat(p_worker => %s, p_limit_version => %s, p_organizations => %s, p_outcomes => %s, p_answers => %s, p_overloads => %s,
                         p_latency => %s, p_busy_seconds => %s, p_overload_seconds => %s, p_usage => %s)"""
CLAIM: Final = (
    "select job_id, position, lease_token, request, start_in, retry_count, traceparent"
    " from api.claim_lookups(p_organization_id => %s, p_worker => %s, p_limit => %s)"
)
CLAIM_TOGETHER: Final = """
    select organization_id, job_id, position, lease_token, request, start_in, retry_count, traceparent
      from api.claim_for_organizations(p_organization_ids => %s, p_worker => %s, p_limits => %s, p_total => %s)"""
RECORD: Final = """
    select verdict, count(*)
      from api.record_lookups(p_organization_id => %s, p_job_ids => %s, p_positions => %s, p_lease_tokens => %s,
                              p_http_statuses => %s, p_error_classes => %s, p_responses => %s, p_retry_afters => %s, p_latencies => %s)
     group by verdict"""
RECORD_TOGETHER: Final = """
    select organization_id, verdict, items
      from api.record_for_organizations(p_organization_ids => %s, p_counts => %s, p_job_ids => %s, p_positions => %s, p_lease_tokens => %s,
                                        p_http_statuses => %s, p_error_classes => %s, p_responses => %s, p_retry_afters => %s,
                                        p_latencies => %s)"""
EXTEND: Final = """
    select job_id, position, expires_in
      from api.extend_leases(p_organization_id => %s, p_job_ids => %s, p_positions => %s, p_lease_tokens => %s)"""
EXHAUSTED: Final = """
    select job_id, position, attempts, error_code
      from api.exhausted_lookups(p_organization_id => %s, p_job_ids => %s, p_positions => %s)"""
RELEASE_LOST: Final = "select api.release_lost_claims(p_organization_id => %s, p_worker => %s, p_lease_tokens => %s)"
RELEASE: Final = """
    select api.release_lookups(p_organization_id => %s, p_job_ids => %s, p_positions => %s, p_lease_tokens => %s, p_were_sent => %s)"""

NO_SAMPLE: Final = [None] * len(Sample._fields)


@dataclass(slots=True, eq=False, repr=False)
class Lease:
    """A claimed item. `slot` and `expires_at` are times of the event loop's clock; without a slot it may start at any time.

    `traceparent` is the W3C trace context that its lookup continues. `was_sent`: its lookup has started.
    """

    organization_id: bytes
    job_id: bytes
    position: int
    token: bytes
    request: bytes
    slot: float | None
    expires_at: float
    retry_count: int = 0
    traceparent: str | None = None
    was_sent: bool = False

    def __str__(self) -> str:
        return f"item {self.position} of job {UUID(bytes=self.job_id)}, organization {UUID(bytes=self.organization_id)}"


class Outcome(NamedTuple):
    """The outcome of a lookup, and how long it took."""

    lease: Lease
    answer: Answer
    seconds: float


class WorkerState(NamedTuple):
    """The result of `api.heartbeat`; times in seconds."""

    organization_ids: list[bytes]
    next_ready_in: float | None
    max_in_flight: int
    lookups_per_second: float | None
    lookup_timeout: float
    lease_seconds: float
    max_response_bytes: int
    paused_for: float
    maintenance_due: bool
    stopped: bool
    limit_version: int
    unavailable_since: datetime | None
    failures: int
    together: bool


async def heartbeat(connection: Connection, worker: str, sample: Sample | None) -> WorkerState:
    async with binary_cursor(connection) as cursor:
        await cursor.execute(HEARTBEAT, [worker, *(sample or NO_SAMPLE)])
        return WorkerState._make(await cursor.fetchone() or ())


async def ready_organizations(connection: Connection, limit: int) -> list[bytes]:
    async with binary_cursor(connection) as cursor:
        await cursor.execute("select api.ready_organizations(p_limit => %s)", [limit])
        return [organization_id for (organization_id,) in await cursor.fetchall()]


async def claim_lookups(
    connection: Connection, worker: str, organization_id: bytes, limit: int, lease_seconds: float, paced: bool
) -> list[Lease]:
    """Claims for one organization. Not in a pipeline: rows arrive before their commit, and only a completed statement is committed."""
    asked_at = asyncio.get_running_loop().time()
    async with binary_cursor(connection) as cursor:
        await cursor.execute(CLAIM, [organization_id, worker, limit])
        rows = await cursor.fetchall()
    received_at = asyncio.get_running_loop().time()
    return leases_of([(organization_id, *row) for row in rows], asked_at + lease_seconds, received_at if paced else None)


async def claim_for_organizations(
    connection: Connection, worker: str, limits: Mapping[bytes, int], total: int, lease_seconds: float
) -> tuple[list[list[Lease]], list[bytes]]:
    """Claims for several organizations in one transaction, without a rate limit, until there are `total`.

    Returns what was claimed, by organization, and the organizations that were skipped because another transaction has locked their rows.
    """
    asked_at = asyncio.get_running_loop().time()
    async with binary_cursor(connection) as cursor:
        await cursor.execute(CLAIM_TOGETHER, [uuids(limits), worker, integers(limits.values()), total])
        rows = await cursor.fetchall()
    passed_over = [row[0] for row in rows if row[1] is None]
    leases = leases_of([row for row in rows if row[1] is not None], asked_at + lease_seconds, None)
    return list(by_organization(leases).values()), passed_over


def leases_of(rows: Iterable[tuple[Any, ...]], expires_at: float, slots_from: float | None) -> list[Lease]:
    """The leases of claimed rows; `start_in` is relative to the given time of the event loop; None: they have no slots."""
    return [
        Lease(
            organization_id,
            job_id,
            position,
            token,
            request,
            None if slots_from is None else slots_from + start_in,
            expires_at + start_in,
            retry_count,
            traceparent and traceparent.decode(),
        )
        for organization_id, job_id, position, token, request, start_in, retry_count, traceparent in rows
    ]


async def record_lookups(connection: Connection, organization_id: bytes, outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Records outcomes of one organization; returns the number of each verdict. Repeating it changes nothing."""
    async with binary_cursor(connection) as cursor:
        leases = [outcome.lease for outcome in outcomes]
        await cursor.execute(RECORD, identify(organization_id, leases) + describe(outcomes))
        return {verdict.decode(): count for verdict, count in await cursor.fetchall()}


async def record_for_organizations(connection: Connection, outcomes: Mapping[bytes, Sequence[Outcome]]) -> dict[bytes, dict[str, int]]:
    """Records outcomes of several organizations in one transaction; returns the number of each verdict for each of them.

    The verdict `busy`: none of an organization's are recorded, because another transaction has locked a row of it.
    """
    everything = list(chain.from_iterable(outcomes.values()))
    _, *identity = identify(b"", [outcome.lease for outcome in everything])
    counts = integers(map(len, outcomes.values()))
    verdicts: dict[bytes, dict[str, int]] = {}
    async with binary_cursor(connection) as cursor:
        await cursor.execute(RECORD_TOGETHER, [uuids(outcomes), counts, *identity, *describe(everything)])
        for organization_id, verdict, count in await cursor.fetchall():
            verdicts.setdefault(organization_id, {})[verdict.decode()] = count
    return verdicts


async def extend_leases(connection: Connection, organization_id: bytes, leases: Sequence[Lease]) -> dict[tuple[bytes, int], float]:
    """Renews leases of one organization; returns job and position of the items still held, and for how many seconds."""
    async with binary_cursor(connection) as cursor:
        await cursor.execute(EXTEND, identify(organization_id, leases))
        return {(job_id, position): seconds for job_id, position, seconds in await cursor.fetchall()}


async def exhausted_lookups(connection: Connection, organization_id: bytes, leases: Sequence[Lease]) -> list[tuple[bytes, int, int, str]]:
    """Those items of one organization that failed with their last retry: job, position, attempts, error code."""
    async with binary_cursor(connection) as cursor:
        jobs, positions = uuids(lease.job_id for lease in leases), integers(lease.position for lease in leases)
        await cursor.execute(EXHAUSTED, [organization_id, jobs, positions])
        return [(job_id, position, attempts, reason.decode()) for job_id, position, attempts, reason in await cursor.fetchall()]


async def release_lookups(connection: Connection, organization_id: bytes, leases: Sequence[Lease], were_sent: bool) -> None:
    """Releases items of one organization whose lookups will not complete; those that were sent still count."""
    async with binary_cursor(connection) as cursor:
        await cursor.execute(RELEASE, [*identify(organization_id, leases), were_sent])


async def release_lost_claims(connection: Connection, worker: str, organization_id: bytes, tokens: Iterable[bytes]) -> int:
    """Releases what the worker holds of one organization under leases other than these; returns how many items."""
    async with binary_cursor(connection) as cursor:
        await cursor.execute(RELEASE_LOST, [organization_id, worker, uuids(tokens)])
        [(count,)] = await cursor.fetchall()
        return int(count)


def identify(organization_id: bytes, leases: Sequence[Lease]) -> list[bytes]:
    return [
        organization_id,
        uuids(lease.job_id for lease in leases),
        integers(lease.position for lease in leases),
        uuids(lease.token for lease in leases),
    ]


def describe(outcomes: Sequence[Outcome]) -> list[bytes]:
    http_statuses, error_classes, responses, retry_afters = zip(*(outcome.answer for outcome in outcomes), strict=True)
    return [
        integers(http_statuses),
        texts(error_class and error_class.encode() for error_class in error_classes),
        texts(responses),
        floats(retry_afters),
        floats(outcome.seconds for outcome in outcomes),
    ]


def by_organization(leases: Iterable[Lease]) -> dict[bytes, list[Lease]]:
    groups: dict[bytes, list[Lease]] = {}
    for lease in leases:
        groups.setdefault(lease.organization_id, []).append(lease)
    return groups
