"""Health, readiness, metrics and the API's description; and the manual run of the worker."""

from __future__ import annotations

import asyncio
import json
import logging
from functools import cache, partial

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from pyshell.api.errors import ApiError
from pyshell.api.routes.etags import response_with_etag
from pyshell.deploy import migrations
from pyshell.metrics import is_allowed
from pyshell.postgres.calls import call
from pyshell.postgres.pool import Pool
from pyshell.postgres.sqlstates import DatabaseError, Kind, kind_of
from pyshell.settings import OPENAPI_FILE, Settings
from pyshell.webhooks.runs import send_due
from pyshell.worker.run_once import run_once

logger = logging.getLogger(__name__)

READY_WITHIN_SECONDS = 3
# Whoever presents it may run the worker.
WORKER_RUN = "worker run"


async def upgrade_required(request: Request) -> Response:
    """Responds to plain HTTP at Realtime's path: all that remains of a WebSocket behind a proxy that drops the header."""
    raise ApiError(
        426,
        "upgrade_missing",
        "This address is for WebSockets, and the request has no header Upgrade: websocket",
        hint="A proxy has to forward the headers Upgrade and Connection, in nginx with proxy_set_header.",
        headers={"Upgrade": "websocket", "Connection": "Upgrade"},
    )


async def root(request: Request) -> Response:
    """Redirects browsers to the portal, and gives programs links."""
    portal, docs, openapi_json = (f"{request.scope['root_path']}/{name}" for name in ("portal", "docs", "openapi.json"))
    response = (
        RedirectResponse(portal)
        if "text/html" in request.headers.get("accept", "")
        else JSONResponse({"name": "Batch Lookups", "portal": portal, "docs": docs, "openapi": openapi_json})
    )
    response.headers["Vary"] = "Accept"
    return response


async def healthz(request: Request) -> Response:
    """The process is up, whatever the state of the database."""
    return JSONResponse({"status": "up"})


class Readiness:
    """Whether requests can be served: the database responds, has all migrations of this release, and accepts writes.

    Whoever asks during a check gets its result, so that however many ask, they need one connection to the database. The migrations are read
    once: files that an upgrade puts in place of them are those of another release than this process runs.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._release = migrations.read_release()
        self._check: asyncio.Task[ApiError | None] | None = None

    async def problem(self) -> ApiError | None:
        """Why they cannot; None: they can."""
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._find_problem())
        return await asyncio.shield(self._check)

    async def _find_problem(self) -> ApiError | None:
        try:
            async with asyncio.timeout(READY_WITHIN_SECONDS):
                applied = json.loads(await call(self._pool, "applied_migrations"))
                read_only = await self._pool.is_read_only()
        except (DatabaseError, TimeoutError) as error:
            if not isinstance(error, DatabaseError) or kind_of(error) is not Kind.NOT_MIGRATED:
                return ApiError(503, "database_unavailable", "The database is not reachable", headers={"Retry-After": "1"})
            applied, read_only = [], False
        pending = migrations.pending(applied, self._release)
        if pending:
            return ApiError(503, "migrations_pending", "The database lacks migrations", members={"pending": pending})
        if read_only:
            return ApiError(503, "database_read_only", "The database is read-only at the moment", headers={"Retry-After": "1"})
        return None


async def readyz(request: Request) -> Response:
    readiness: Readiness = request.app.state.readiness
    if problem := await readiness.problem():
        raise problem
    return JSONResponse({"status": "ready"})


async def metrics(request: Request) -> Response:
    """Prometheus metrics: counts and durations, no data of callers. Requires `METRICS_TOKEN` if set."""
    state = request.app.state
    if not is_allowed(state.settings.metrics_token, request.headers.get("authorization", "")):
        raise ApiError(401, "invalid_metrics_token", "Metrics require the METRICS_TOKEN", headers={"WWW-Authenticate": "Bearer"})
    text = await state.metrics.exposition(partial(call, state.pool, "get_metrics"))
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def run_worker(request: Request) -> Response:
    """One run over at most `items_per_run` items, in this process.

    `Prefer: respond-async` (RFC 7240) is for schedulers that do not wait: a run starts in the background, unless one is in progress.
    """
    state = request.app.state
    if "respond-async" not in request.headers.get("prefer", ""):
        done = await run_once(state.pool, state.settings)
        return JSONResponse(done, background=BackgroundTask(_send_webhooks, state.pool, state.settings))
    begun = state.serving.holdings.take(WORKER_RUN, 1)
    if begun:
        state.worker_run = asyncio.create_task(_run_in_background(state.pool, state.settings))
        state.worker_run.add_done_callback(lambda _: state.serving.holdings.give_back(WORKER_RUN))
    return JSONResponse({"status": "started" if begun else "running"}, 202, {"Preference-Applied": "respond-async"})


async def _run_in_background(pool: Pool, settings: Settings) -> None:
    try:
        await run_once(pool, settings)
    except Exception:
        logger.exception("a run of the worker failed; its items return to the queue")
    await _send_webhooks(pool, settings)


async def _send_webhooks(pool: Pool, settings: Settings) -> None:
    """Sends the webhooks of the run, even if no worker process runs."""
    try:
        await send_due(pool, settings)
    except Exception:
        logger.exception("webhooks could not be sent; they are due again soon")


async def openapi(request: Request) -> Response:
    return await response_with_etag(request, openapi_text(request.scope["root_path"]), "private, no-cache")


@cache
def openapi_text(root_path: str) -> bytes:
    """The OpenAPI description, with the prefix of this deployment."""
    description = json.loads(OPENAPI_FILE.read_text())
    return json.dumps(description | {"servers": [{"url": root_path or "/"}]}).encode()
