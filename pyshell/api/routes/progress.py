"""The progress of a job: polled, awaited with `?wait=`, or streamed as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pyshell.api.authentication import authenticate
from pyshell.api.errors import ApiError
from pyshell.api.heavy_work import heavy_turn
from pyshell.api.job_watch import JobWatch
from pyshell.api.large_answers import bounded
from pyshell.api.routes.batch_lookups import job_id
from pyshell.api.routes.consistency import reader
from pyshell.api.routes.etags import fingerprint, is_known, response_with_etag
from pyshell.api.routes.files import only_headers
from pyshell.api.routes.parameters import boolean_param, integer_param
from pyshell.postgres.calls import Runner, call
from pyshell.postgres.compact import compact
from pyshell.postgres.sqlstates import DatabaseError

MAX_WAIT_SECONDS = 60
# A stream ends after this time, so that the client must authenticate again.
MAX_STREAM_SECONDS = 300
KEEP_ALIVE_SECONDS = 15
# The shortest time between two events.
EVENT_SECONDS = 0.2


async def get_batch_lookup(request: Request) -> Response:
    """The job; 304 if the client has its current state. With `?wait=SECONDS`, waits for a change."""
    include_items = boolean_param(request, "include_items")
    wanted = request.headers.get("if-none-match")
    wait = wait_param(request)
    source = reader(request)
    if wait is not None:
        # Live progress is read at the primary, where it changes.
        source = request.app.state.pool
    read = job_reader(request, source, include_items=include_items)
    if include_items and wait is not None:
        # All items would be read again at every change.
        raise ApiError(
            400, "wait_with_items", "Provide either wait or include_items, not both", hint="Read the items when the job has changed."
        )
    if include_items:
        return await bounded(request, request.user.organization_id, partial(answer_with_items, request, read))
    return await answer_with_job(request, read if wait is None else partial(read_changed, request, read, wanted, wait))


async def answer_with_items(request: Request, read: Callable[[], Awaitable[bytes]]) -> Response:
    async with heavy_turn(request):
        return await answer_with_job(request, read)


async def answer_with_job(request: Request, read: Callable[[], Awaitable[bytes]]) -> Response:
    return await response_with_etag(request, await read(), "private, no-cache")


async def read_changed(request: Request, read: Callable[[], Awaitable[bytes]], wanted: str | None, seconds: int) -> bytes:
    """The job once it differs from the client's state (`If-None-Match`, else the current one), has ended, or time is up."""
    job_watch: JobWatch = request.app.state.job_watch
    deadline = time.monotonic() + seconds
    with job_watch.watch(request.user.organization_id, job_id(request)) as watched:
        body = await read()
        known = wanted if wanted is not None else f'"{fingerprint(body)}"'
        while is_known(body, known) and not has_ended(body) and not job_watch.is_stopping():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            await watched.wait(remaining)
            await authenticate(request)
            body = await read()
    return body


async def stream_batch_lookup_events(request: Request) -> Response:
    """Server-sent events: `progress` with the job at every change, then `end`.

    An event's id is the job's fingerprint: a client that reconnects with `Last-Event-ID` gets what is new or, after the end, 204, which
    stops it (https://html.spec.whatwg.org/multipage/server-sent-events.html). The stream also ends when the credential does.
    """
    job_watch: JobWatch = request.app.state.job_watch
    organization_id, job = request.user.organization_id, job_id(request)
    read = job_reader(request, request.app.state.pool)
    last_id = request.headers.get("last-event-id")
    first = await read()
    if has_ended(first) and last_id == fingerprint(first):
        return Response(status_code=204)
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    if request.method == "HEAD":
        return only_headers(headers)

    async def events() -> AsyncIterator[bytes]:
        ends_at, quiet_since = time.monotonic() + MAX_STREAM_SECONDS, time.monotonic()
        sent, body = last_id, first
        yield b"retry: 2000\n\n"
        with job_watch.watch(organization_id, job) as watched:
            while True:
                if (now_id := fingerprint(body)) != sent:
                    yield event("progress", now_id, body)
                    sent, quiet_since = now_id, time.monotonic()
                if has_ended(body):
                    yield event("end", now_id, b"{}")
                if has_ended(body) or job_watch.is_stopping() or time.monotonic() > ends_at:
                    return
                if time.monotonic() - quiet_since > KEEP_ALIVE_SECONDS:
                    yield b": still here\n\n"
                    quiet_since = time.monotonic()
                await asyncio.sleep(EVENT_SECONDS)
                await watched.wait(KEEP_ALIVE_SECONDS)
                try:
                    await authenticate(request)
                    body = await read()
                except (ApiError, DatabaseError):
                    # The job is deleted, the credential has ended, or the database is away: the client learns that when it reconnects.
                    return

    return StreamingResponse(events(), headers=headers)


def job_reader(request: Request, source: Runner, *, include_items: bool = False) -> Callable[[], Awaitable[bytes]]:
    organization_id, job = request.user.organization_id, job_id(request)
    return lambda: call(source, "get_batch_lookup", organization_id=organization_id, job_id=job, include_items=include_items)


def wait_param(request: Request) -> int | None:
    if "wait" not in request.query_params:
        return None
    seconds = integer_param(request, "wait")
    if seconds is None or not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise ApiError(400, "invalid_wait", f"wait must be a whole number from 0 to {MAX_WAIT_SECONDS}")
    return seconds


def has_ended(body: bytes) -> bool:
    """Whether the job will no longer change; a cancelled one still waits for items in flight."""
    job = json.loads(body)
    return bool(job["processed_items"] == job["total_items"])


def event(name: str, event_id: str, data: bytes) -> bytes:
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), name.encode(), compact(data))
