"""Logs the jobs that a worker takes part in: when it begins one, and how one ended, with its counts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final
from uuid import UUID

from pyshell.postgres.connections import Connection, Session
from pyshell.postgres.sqlstates import DatabaseError, Kind, kind_of
from pyshell.worker.calls import Lease

logger = logging.getLogger(__name__)

# How often, and how many at a time, it checks jobs of which the worker has no item left.
ASK_SECONDS: Final = 5.0
ASK_JOBS: Final = 20
MAX_JOBS: Final = 10_000


class JobLog:
    """`held` returns the jobs of which the worker has items."""

    def __init__(self, session: Session, worker: str, held: Callable[[], Collection[bytes]]) -> None:
        self._session = session
        self._worker = worker
        self._held = held
        self._jobs: dict[bytes, bytes] = {}
        self._asked_at = 0.0

    def note(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            if lease.job_id not in self._jobs:
                while len(self._jobs) >= MAX_JOBS:
                    del self._jobs[next(iter(self._jobs))]
                self._jobs[lease.job_id] = lease.organization_id
                logger.info("a job has started", extra={"fields": self._fields(lease.organization_id, lease.job_id)})

    async def tell_ended(self, now: float) -> None:
        """Logs those that have ended. Raises DatabaseError."""
        if now - self._asked_at < ASK_SECONDS or not self._jobs:
            return
        self._asked_at = now
        held = self._held()
        for job_id in [job_id for job_id in self._jobs if job_id not in held][:ASK_JOBS]:
            # Claims continue meanwhile, and may have made room for other jobs.
            organization_id = self._jobs.get(job_id)
            if organization_id is None:
                continue
            try:
                job = await self._session.run(get_job, organization_id, job_id)
            except DatabaseError as error:
                if kind_of(error) is not Kind.REFUSED:
                    raise
                # Its owner has deleted it.
                self._jobs.pop(job_id, None)
                continue
            # To the end of the queue, behind those that were not checked.
            self._jobs.pop(job_id, None)
            if job["completed_at"] is None:
                self._jobs[job_id] = organization_id
                continue
            fields = self._fields(organization_id, job_id)
            counts = {"total_items": job["total_items"], "failed_items": job["failed_items"]}
            errors = ", ".join(f"{code} {count}" for code, count in job["errors_by_code"].items())
            logger.info(
                "a job has ended: %s, %s of %s items failed%s",
                job["status"],
                job["failed_items"],
                job["total_items"],
                f" ({errors})" if errors else "",
                extra={"fields": fields | {"status": job["status"]} | counts},
            )

    def _fields(self, organization_id: bytes, job_id: bytes) -> dict[str, object]:
        return {"job_id": UUID(bytes=job_id), "organization_id": UUID(bytes=organization_id), "worker": self._worker}


async def get_job(connection: Connection, organization_id: bytes, job_id: bytes) -> dict[str, Any]:
    """The job as the API shows it."""
    rows = await connection.execute(
        "select api.get_batch_lookup(p_organization_id => %s, p_job_id => %s)::text", [UUID(bytes=organization_id), UUID(bytes=job_id)]
    )
    [text] = await rows.fetchone() or ("{}",)
    answer: dict[str, Any] = json.loads(text)
    return answer
