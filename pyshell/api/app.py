"""The web application: routes, middleware, and the server."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import math
import os
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.types import ASGIApp

from pyshell import logs, traces
from pyshell.api.authentication import CREDENTIALS_CHANNEL, Authenticator
from pyshell.api.cors import cors_middleware
from pyshell.api.counts import Serving
from pyshell.api.error_responses import exception_handlers
from pyshell.api.heavy_work import HeavyWork, spare_processors
from pyshell.api.http_protocol import MAX_CONNECTIONS, BoundedProtocol
from pyshell.api.job_watch import JobWatch
from pyshell.api.large_answers import LargeAnswers
from pyshell.api.limits import UPLOAD_WAIT_SECONDS, UPLOADS_PER_ORGANIZATION, RequestLimiter
from pyshell.api.media_types import WORKBOOK
from pyshell.api.metrics import Metrics
from pyshell.api.middleware import RequestMiddleware
from pyshell.api.processes.parent import STARTUP_FAILURE, Parent, listening
from pyshell.api.processes.serving import ServingTogether
from pyshell.api.realtime.endpoint import Realtime
from pyshell.api.realtime.feed import Feed
from pyshell.api.realtime.websocket import WebSocketProtocol
from pyshell.api.routes import routes
from pyshell.api.routes.service import Readiness
from pyshell.postgres.notifications import Notifier
from pyshell.postgres.pool import MAX_CONNECTIONS as MAX_DATABASE_CONNECTIONS
from pyshell.postgres.pool import Pool
from pyshell.postgres.replica import NotingPool, Replica
from pyshell.postgres.slow import Threshold
from pyshell.settings import Settings
from pyshell.signals import stop_signals

logger = logging.getLogger(__name__)

GRACEFUL_SHUTDOWN_SECONDS = 20
# Per process: two concurrent statements of one organization, and room for others.
MIN_DATABASE_CONNECTIONS = 5
# A thread that reads an upload yields to the event loop after this time. With Python's default of 5 ms, every step of every request would
# wait.
SWITCH_SECONDS = 0.0005
# Longer than clients and proxies keep an idle connection, so that we never close one just as they send a request.
KEEP_ALIVE_SECONDS = 75
# How long a scheduled run of the worker may continue while the server shuts down.
WORKER_RUN_SECONDS = 5
# https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
ARENAS = 2
# Large blocks reuse freed memory: getting 8 MB from the system takes more CPU time than filling them.
KEPT_BYTES = 32 * 1024 * 1024
# Level 4 compresses the 511 KB of openapi.json to 67 KB in 7 ms, level 9 to 57 KB in 30 ms. A body that fits into a packet is not
# compressed.
# Compressed lengths reveal nothing (BREACH): keys and tokens travel in headers, which only the portal's own page can make a browser send.
GZIP: Final[dict[str, Any]] = {
    "minimum_size": 1024,
    "compresslevel": 4,
    "exclude_content_types": (*DEFAULT_EXCLUDED_CONTENT_TYPES, WORKBOOK),
}
# The largest message that a subscriber may send, in bytes.
MAX_WEBSOCKET_MESSAGE_BYTES = 128 * 1024


def create_app(settings: Settings, is_stopping: Callable[[], bool] = lambda: False, serving: Serving | None = None) -> Starlette:
    """The application; while it runs, `app.state` holds what the routes use (`clerk` is None where not configured).

    `is_stopping` says whether the server is shutting down, so that waiting requests end first. `serving` counts for limits; default: in
    this process alone.
    """
    serving = serving or Serving()
    pool_size = connections_of_each(serving.processes)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        notifier = Notifier(settings.database_url, "batch-lookups listener")
        async with AsyncExitStack() as stack:
            stack.enter_context(traces.sent_by("batch-lookups-api"))
            pool = (NotingPool if settings.database_replica_url else Pool)(settings.database_url, max_size=pool_size)
            await stack.enter_async_context(pool)
            app.state.settings = settings
            app.state.pool = pool
            app.state.serving = serving
            app.state.readiness = Readiness(pool)
            app.state.replica = None
            if settings.database_replica_url:
                app.state.replica = Replica(pool, settings.database_replica_url, settings.database_replica_max_lag_seconds, pool_size)
                await stack.enter_async_context(app.state.replica.pool)
            app.state.clerk = None
            # Its libraries are a fifth of what a process loads.
            if settings.clerk_issuer:
                from pyshell.api.clerk import Clerk

                app.state.clerk = Clerk.from_settings(settings)
            app.state.authenticator = Authenticator(pool, settings, app.state.clerk, RequestLimiter(serving.unknown_keys))
            app.state.request_limiter = RequestLimiter(serving.windows)
            app.state.large_answers = LargeAnswers(serving)
            app.state.heavy_reads, app.state.heavy_writes = (HeavyWork(spare_processors(serving.processes)) for _ in range(2))
            app.state.uploads = serving.shares("uploads of", UPLOADS_PER_ORGANIZATION, UPLOAD_WAIT_SECONDS)
            app.state.job_watch = JobWatch(notifier, is_stopping)
            app.state.realtime = Realtime(Feed(pool, notifier), app.state.authenticator, serving.holdings)
            app.state.worker_run = None
            notifier.subscribe(CREDENTIALS_CHANNEL, app.state.realtime.on_credentials_changed)
            async with notifier.running(), serving.told(app.state.metrics.own):
                yield
            if app.state.worker_run:
                await asyncio.wait([app.state.worker_run], timeout=WORKER_RUN_SECONDS)
                app.state.worker_run.cancel()
            await app.state.realtime.stop()

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            *cors_middleware(settings.cors_origins),
            Middleware(RequestMiddleware, root_path=settings.root_path),
            Middleware(GZipMiddleware, **GZIP),
        ],
        exception_handlers=exception_handlers,
    )
    app.router.redirect_slashes = False
    app.state.metrics = Metrics(
        lambda: [
            *app.state.pool.metrics(),
            *app.state.realtime.metrics(),
            *(app.state.replica.metrics() if app.state.replica else ()),
        ],
        serving,
    )
    return app


def server_config(app: ASGIApp, settings: Settings, **others: Any) -> uvicorn.Config:
    """How the application is served, with its limits."""
    protocols: dict[str, Any] = {"http": BoundedProtocol, "ws": WebSocketProtocol}
    return uvicorn.Config(
        app,
        ws_max_size=MAX_WEBSOCKET_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_SECONDS,
        **protocols | others,
    )


def serve(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM, or its terminal ends, then finishes the requests in progress; with as many processes as the settings
    say.
    """
    logs.configure(settings)
    Threshold.seconds = settings.log_slow_seconds
    share_memory_between_threads()
    sys.setswitchinterval(SWITCH_SECONDS)
    allow_open_files(2 * MAX_CONNECTIONS)
    sockets = listening(settings.host, settings.port)
    if settings.api_processes > 1:
        logger.info("%d processes serve port %d of %s", settings.api_processes, settings.port, settings.host)
        serve_together(settings, sockets)
    else:
        logger.info("serving port %d of %s", settings.port, settings.host)
        run(settings, sockets)


def serve_together(settings: Settings, sockets: list[socket.socket]) -> None:
    """Serves with several processes, which accept from the same sockets and count what limits hold for together."""
    with tempfile.TemporaryDirectory(prefix="batch-lookups-") as folder:
        serving = ServingTogether(settings.api_processes, Path(folder))

        def serve_as(number: int) -> None:
            logs.of_process["pid"] = os.getpid()
            serving.become(number)
            run(settings, sockets, serving)

        # The processes share what is already loaded, as long as none of them writes to it.
        gc.collect()
        gc.freeze()
        status = Parent(settings.api_processes, serve_as, serving.forget, sockets).run()
    raise SystemExit(status)


def run(settings: Settings, sockets: list[socket.socket], serving: ServingTogether | None = None) -> None:
    """Serves in this process, alone or together with others. Raises SystemExit if it could not start."""
    app = create_app(settings, lambda: server.should_exit, serving)
    server = uvicorn.Server(server_config(app, settings, loop="uvloop", **serving.protocols() if serving else {}))
    # All of this stays: exclude it from garbage collections, which large uploads cause.
    gc.collect()
    gc.freeze()
    # uvicorn handles the others.
    if signal.SIGHUP in stop_signals():
        signal.signal(signal.SIGHUP, server.handle_exit)
    with suppress(KeyboardInterrupt):
        server.run(sockets)
    if not server.started:
        raise SystemExit(STARTUP_FAILURE)


def connections_of_each(processes: int) -> int:
    """How many database connections each process may have: together as many as a single process, as long as that is enough."""
    return max(math.ceil(MAX_DATABASE_CONNECTIONS / processes), MIN_DATABASE_CONNECTIONS)


def share_memory_between_threads() -> None:
    """Lets all threads allocate from two arenas. glibc would give each of them one, and rarely returns what uploads free there."""
    libc = ctypes.CDLL(None)
    # musl has no arenas, and no mallopt.
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, ARENAS)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def allow_open_files(count: int) -> None:
    """Raises the soft limit of open files, which is often 1,024, to `count`, or as near as possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
