"""The sender's calls of the `api` functions of the webhook outbox. Ids are 16 bytes; each call raises DatabaseError."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from pyshell.postgres.arrays import binary_cursor, floats, integers, texts, uuids
from pyshell.postgres.compact import compact
from pyshell.postgres.connections import Connection
from pyshell.webhooks.requests import Attempt, Delivery

READY: Final = "select organization_ids, next_ready_in from api.ready_webhooks(p_limit => %s, p_except => %s)"
CLAIM: Final = """
    select delivery_id, lease_token, body, url, secrets, event, traceparent
      from api.claim_webhooks(p_organization_id => %s, p_sender => %s, p_limit => %s)"""
RELEASE_LOST: Final = "select api.release_lost_webhooks(p_organization_id => %s, p_sender => %s, p_delivery_ids => %s)"
START_TEST: Final = """
    select delivery_id, lease_token, body, url, secrets, event, traceparent
      from api.start_webhook_test(p_organization_id => %s, p_sender => %s)"""
RECORD: Final = """
    select verdict, count(*)
      from api.record_webhooks(p_organization_id => %s, p_delivery_ids => %s, p_lease_tokens => %s,
                               p_http_statuses => %s, p_error_classes => %s, p_latencies => %s, p_bodies => %s, p_retry_afters => %s)
     group by verdict"""


class Ready(NamedTuple):
    """Organizations with deliveries that are due, and in how many seconds the next delivery of any other is due (None: there is none)."""

    organization_ids: list[bytes]
    next_ready_in: float | None


async def ready_webhooks(connection: Connection, limit: int, besides: Sequence[bytes]) -> Ready:
    """Up to `limit` organizations with deliveries to send, not counting those in `besides`."""
    async with binary_cursor(connection) as cursor:
        await cursor.execute(READY, [limit, uuids(besides)])
        return Ready._make(await cursor.fetchone() or ())


async def claim_webhooks(connection: Connection, sender: str, organization_id: bytes, limit: int) -> list[Delivery]:
    """Leases up to `limit` deliveries of an organization to the named sender."""
    return await _deliveries(connection, organization_id, CLAIM, [organization_id, sender, limit])


async def release_lost_webhooks(connection: Connection, sender: str, organization_id: bytes, held: Iterable[Delivery]) -> int:
    """Releases the sender's leases of one organization other than these; returns how many deliveries."""
    async with binary_cursor(connection) as cursor:
        await cursor.execute(RELEASE_LOST, [organization_id, sender, uuids(delivery.delivery_id for delivery in held)])
        [(count,)] = await cursor.fetchall()
        return int(count)


async def start_webhook_test(connection: Connection, sender: str, organization_id: bytes) -> Delivery:
    """Creates a test delivery for an organization, and leases it to the named sender."""
    [delivery] = await _deliveries(connection, organization_id, START_TEST, [organization_id, sender])
    return delivery


async def record_webhooks(connection: Connection, organization_id: bytes, attempts: Sequence[Attempt]) -> dict[str, int]:
    """Records attempts of one organization and returns their number by verdict. Recording them again changes nothing."""
    async with binary_cursor(connection) as cursor:
        await cursor.execute(
            RECORD,
            [
                organization_id,
                uuids(attempt.delivery.delivery_id for attempt in attempts),
                uuids(attempt.delivery.token for attempt in attempts),
                integers(attempt.http_status for attempt in attempts),
                texts(attempt.error_class.encode() if attempt.error_class else None for attempt in attempts),
                floats(attempt.latency for attempt in attempts),
                texts(attempt.body.encode() if attempt.body is not None else None for attempt in attempts),
                floats(attempt.retry_after for attempt in attempts),
            ],
        )
        return {verdict.decode(): count for verdict, count in await cursor.fetchall()}


async def disabled_reason(connection: Connection, organization_id: bytes) -> str | None:
    """Why the webhooks of an organization are disabled; None: they are enabled."""
    rows = await connection.execute(
        "select api.get_webhook_config(p_organization_id => %s) ->> 'disabled_reason'", [UUID(bytes=organization_id)]
    )
    [reason] = await rows.fetchone() or (None,)
    return str(reason) if reason else None


async def _deliveries(connection: Connection, organization_id: bytes, query: str, parameters: Sequence[object]) -> list[Delivery]:
    async with binary_cursor(connection) as cursor:
        await cursor.execute(query.encode(), parameters)
        return [
            Delivery(
                organization_id,
                delivery_id,
                token,
                compact(body),
                url.decode(),
                secrets,
                event.decode(),
                traceparent and traceparent.decode(),
            )
            for delivery_id, token, body, url, secrets, event, traceparent in await cursor.fetchall()
        ]
