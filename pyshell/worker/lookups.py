"""One lookup of a claimed item, in the trace of its batch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import UUID

from pyshell import traces
from pyshell.worker.calls import Lease
from pyshell.worker.upstream import Answer, Upstream, failure

if TYPE_CHECKING:
    from pyshell.traces.spans import Recorder

logger = logging.getLogger(__name__)


async def look_up(upstream: Upstream, lease: Lease, seconds: float, max_bytes: int) -> Answer:
    """Looks up one item. Raises nothing but cancellation."""
    try:
        if traces.recorder is not None:
            return await _look_up_and_record(traces.recorder, upstream, lease, seconds, max_bytes)
        return await upstream.look_up(lease.organization_id, lease.request, seconds, max_bytes, lease.traceparent)
    except Exception:
        logger.exception("a lookup failed in an unexpected way: %s", lease)
        return failure("other")


async def _look_up_and_record(recorder: Recorder, upstream: Upstream, lease: Lease, seconds: float, max_bytes: int) -> Answer:
    """Records the first item of a batch and every hundredth. From here on, `lease.traceparent` says whether it was recorded."""
    if lease.position % traces.ONE_IN:
        lease.traceparent = traces.not_recorded(lease.traceparent)
        return await upstream.look_up(lease.organization_id, lease.request, seconds, max_bytes, lease.traceparent)
    attributes = {
        "batch_lookups.organization_id": str(UUID(bytes=lease.organization_id)),
        "batch_lookups.job_id": str(UUID(bytes=lease.job_id)),
        "batch_lookups.position": lease.position,
        "batch_lookups.retry_count": lease.retry_count,
    }
    with recorder.call_out("lookup", lease.traceparent, attributes) as recorded:
        lease.traceparent = recorded.traceparent
        answer = await upstream.look_up(lease.organization_id, lease.request, seconds, max_bytes, lease.traceparent)
        recorded.end_call(answer.http_status, answer.error_class)
    return answer
