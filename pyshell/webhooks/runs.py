"""Sends webhooks without the sender process: tests of a receiver, and due deliveries if no sender runs."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final
from uuid import UUID

from pyshell.postgres.pool import Pool
from pyshell.postgres.retries import RECORD_SECONDS, until_recorded
from pyshell.settings import Settings
from pyshell.webhooks.calls import claim_webhooks, ready_webhooks, record_webhooks, start_webhook_test
from pyshell.webhooks.requests import Attempt, Delivery, Receiver

MANUAL_RUN: Final = "manual run"
DUE_PER_RUN: Final = 50
ORGANIZATIONS_PER_RUN: Final = 100


async def send_due(pool: Pool, settings: Settings) -> int:
    """Attempts due deliveries once, at most `DUE_PER_RUN` per organization, if no sender runs; returns how many.

    Raises an ExceptionGroup once all others are recorded, for organizations with locked rows, and for other failures.
    """
    ready = await pool.run("ready_webhooks", partial(ready_webhooks, limit=ORGANIZATIONS_PER_RUN, besides=[]))
    sending = [_send_due_of(pool, settings, organization_id) for organization_id in ready.organization_ids]
    counts, failures = [], []
    for organization_id, outcome in zip(ready.organization_ids, await asyncio.gather(*sending, return_exceptions=True), strict=True):
        if isinstance(outcome, BaseException):
            outcome.add_note(f"organization {UUID(bytes=organization_id)}")
            failures.append(outcome)
        else:
            counts.append(outcome)
    if failures:
        raise BaseExceptionGroup("webhooks of some organizations were not sent or not recorded", failures)
    return sum(counts)


async def _send_due_of(pool: Pool, settings: Settings, organization_id: bytes) -> int:
    claim = partial(claim_webhooks, sender=MANUAL_RUN, organization_id=organization_id, limit=DUE_PER_RUN)
    deliveries = await pool.run("claim_webhooks", claim)
    await _send_and_record(pool, settings, deliveries)
    return len(deliveries)


async def _send_and_record(pool: Pool, settings: Settings, deliveries: list[Delivery]) -> list[Attempt]:
    """Sends the deliveries of one claim, all at once."""
    if not deliveries:
        return []
    try:
        receiver = Receiver.of(deliveries[0], settings)
    except ValueError:
        attempts = [Attempt(delivery, None, "invalid_url", 0.0, None, None) for delivery in deliveries]
    else:
        attempts = await asyncio.gather(*[receiver.attempt(delivery) for delivery in deliveries])
        receiver.close()

    record = partial(record_webhooks, organization_id=deliveries[0].organization_id, attempts=attempts)
    await until_recorded(partial(pool.run, "record_webhooks", record), RECORD_SECONDS)
    return attempts


async def send_test(pool: Pool, settings: Settings, organization_id: UUID) -> dict[str, Any]:
    """Sends a `webhook.test` immediately and records it: {delivery_id, delivered, http_status, error_class, latency_ms, response_body}."""
    start = partial(start_webhook_test, sender=MANUAL_RUN, organization_id=organization_id.bytes)
    delivery = await pool.run("start_webhook_test", start)
    [attempt] = await _send_and_record(pool, settings, [delivery])
    return {
        "delivery_id": str(UUID(bytes=delivery.delivery_id)),
        "delivered": attempt.succeeded,
        "http_status": attempt.http_status,
        "error_class": attempt.error_class,
        "latency_ms": round(attempt.latency * 1000),
        "response_body": attempt.body,
    }
