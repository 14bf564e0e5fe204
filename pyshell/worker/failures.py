"""Logs failed lookups: the first one for each reason, then their number once a minute."""

import logging
from collections import Counter
from typing import Final
from uuid import UUID

from pyshell.worker.calls import Lease
from pyshell.worker.upstream import Answer

logger = logging.getLogger(__name__)

SUMMARY_SECONDS: Final = 60.0


class FailureLog:
    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._since = 0.0

    def note(self, lease: Lease, answer: Answer, now: float) -> None:
        if answer.http_status is not None and 200 <= answer.http_status < 300:
            return
        if now - self._since > SUMMARY_SECONDS:
            if len(self._counts) and self._counts.total() > len(self._counts):
                summary = ", ".join(f"{reason} {count} times" for reason, count in self._counts.most_common())
                logger.warning("lookups failed in the last minute: %s", summary)
            self._counts.clear()
            self._since = now
        reason = answer.error_class or f"HTTP {answer.http_status}"
        if not self._counts[reason]:
            fields = {"job_id": UUID(bytes=lease.job_id), "organization_id": UUID(bytes=lease.organization_id), "reason": reason}
            message = "a lookup failed: %s, item %s; more of these are counted once a minute"
            logger.warning(message, reason, lease.position, extra={"fields": fields})
        self._counts[reason] += 1
