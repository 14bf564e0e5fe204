"""Logs failed lookups, and items that have used up their retries: the first one for each reason, then counts once a minute."""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

from pyshell.postgres.connections import Session
from pyshell.postgres.sqlstates import DatabaseError
from pyshell.worker.calls import Lease, Outcome, exhausted_lookups
from pyshell.worker.upstream import Answer

logger = logging.getLogger(__name__)

SUMMARY_SECONDS: Final = 60.0


class FirstOfEach:
    """Tells which events are the first for their reason; when a minute is over, logs how many of each there were."""

    def __init__(self, summary: str) -> None:
        self._summary = summary
        self._counts: Counter[str] = Counter()
        self._since = 0.0

    def is_first(self, reason: str, now: float) -> bool:
        if now - self._since > SUMMARY_SECONDS:
            if self._counts.total() > len(self._counts):
                counts = ", ".join(f"{reason} {count} times" for reason, count in self._counts.most_common())
                logger.warning("%s in the last minute: %s", self._summary, counts)
            self._counts.clear()
            self._since = now
        self._counts[reason] += 1
        return self._counts[reason] == 1


class FailureLog:
    def __init__(self) -> None:
        self._reasons = FirstOfEach("lookups failed")

    def note(self, lease: Lease, answer: Answer, now: float) -> None:
        if answer.succeeded:
            return
        reason = answer.error_class or f"HTTP {answer.http_status}"
        if self._reasons.is_first(reason, now):
            message = "a lookup failed: %s, item %s; more of these are counted once a minute"
            logger.warning(message, reason, lease.position, extra={"fields": fields_of(lease, reason)})


class ExhaustedLog:
    """Logs items whose retries are used up, which the database decides. It is asked only after failures of retried items."""

    def __init__(self) -> None:
        self._reasons = FirstOfEach("items used up their retries")

    async def note(self, session: Session, organization_id: bytes, outcomes: Sequence[Outcome], now: float) -> None:
        """Handles recorded outcomes of one organization. If the database fails, nothing is logged."""
        leases = {
            (outcome.lease.job_id, outcome.lease.position): outcome.lease
            for outcome in outcomes
            if outcome.lease.retry_count and not outcome.answer.succeeded
        }
        if not leases:
            return
        with suppress(DatabaseError):
            for job_id, position, attempts, reason in await session.run(exhausted_lookups, organization_id, list(leases.values())):
                if self._reasons.is_first(reason, now):
                    message = "the retries of an item are used up: %s, item %s, %s attempts; more of these are counted once a minute"
                    fields = fields_of(leases[job_id, position], reason)
                    logger.warning(message, reason, position, attempts, extra={"fields": fields | {"position": position}})


def fields_of(lease: Lease, reason: str) -> dict[str, object]:
    return {"job_id": UUID(bytes=lease.job_id), "organization_id": UUID(bytes=lease.organization_id), "reason": reason}
