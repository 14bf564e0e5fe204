"""Middleware around every request: its id, the path prefix, headers, the access log, and the response to unexpected errors."""

from __future__ import annotations

import logging
import re
import time
import uuid
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyshell import logs, traces
from pyshell.api.authentication import client_address
from pyshell.api.error_responses import INTERNAL, error_response, from_database
from pyshell.api.errors import ApiError
from pyshell.api.limits import patient
from pyshell.api.metrics import matched_route, method_of
from pyshell.postgres.sqlstates import DatabaseError

if TYPE_CHECKING:
    from pyshell.traces.spans import Recorded

access_log = logging.getLogger("pyshell.access")
logger = logging.getLogger("pyshell.api.errors")

# Browsers must not guess content types, nor send our URLs, which may contain ids, to other sites.
SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

# Requested every few seconds by machines: not worth recording, nor logging unless something is wrong.
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})

# Characters kept as they are in the access log.
PLAIN_IN_A_PATH = "/:@!$&'()*+,;="

_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")


class RequestMiddleware:
    """Assigns the request id (a valid `X-Request-Id` is kept), logs one line, measures, and turns any exception into a 500.

    Paths are served with and without `root_path`, so that a proxy may strip it or leave it.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        scope["root_path"] = self.root_path
        scope["path"] = self._path(scope)
        request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        logs.request_id.set(request_id)
        logs.caller.set({})
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
            return
        if scope["path"] == self.root_path:
            scope["path"] += "/"
        status, size, started_at = 0, 0, time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers.update(SECURITY_HEADERS)
                keep_private(headers)
                # Headers about the caller, on any response.
                headers.update(scope["state"].get("headers", {}))
            else:
                size += len(message.get("body", b""))
            await send(message)

        with recorded_request(scope) as recorded:
            try:
                await self.app(scope, patient(receive, lambda: status > 0), send_with_id)
            except Exception as error:
                if status and isinstance(error.__cause__, ApiError | DatabaseError):
                    # Such as when a batch is deleted while its results are sent. The connection ends before the body does.
                    reason = error.__cause__ if isinstance(error.__cause__, ApiError) else from_database(error.__cause__)
                    logger.warning("request %s was not answered to the end: %s", request_id, reason.message)
                    return
                logger.exception("request %s failed", request_id)
                if status:
                    raise
                response = error_response(Request(scope), ApiError(*INTERNAL))
                await response(scope, receive, send_with_id)
            finally:
                seconds = time.perf_counter() - started_at
                scope["app"].state.metrics.observe(scope, status, seconds)
                what: dict[str, object] = {"status": status, "bytes": size, "duration": round(seconds, 4)}
                if recorded is not None:
                    recorded.end_request(method_of(scope), matched_route(scope), status)
                    what["trace_id"] = recorded.trace_id
                log_access(scope, method=scope["method"], **what)

    def _path(self, scope: Scope) -> str:
        """The path that is served, without extra slashes, which pasted URLs often have; no two of our paths differ only by slashes."""
        path = re.sub("/{2,}", "/", scope["path"]).rstrip("/") or "/"
        if path.removeprefix(self.root_path) in PROBES:
            # A proxy that blocks these paths compares them literally, not in other spellings: %6detrics, or an extra slash.
            written: bytes = scope["raw_path"]
            return written.decode()
        return path

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a WebSocket: logs a line when it opens, or is refused, and one when it ends."""
        started_at = time.perf_counter()

        async def send_and_log(message: Message) -> None:
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                log_access(scope, method="WEBSOCKET", status=message.get("status", 101))
            await send(message)

        try:
            await self.app(scope, receive, send_and_log)
        finally:
            log_access(scope, method="WEBSOCKET", event="closed", duration=round(time.perf_counter() - started_at, 4))


def recorded_request(scope: Scope) -> AbstractContextManager[Recorded | None]:
    """The request in its trace; None: nothing is recorded."""
    if traces.recorder is None or scope["path"].removeprefix(scope["root_path"]) in PROBES:
        return nullcontext()
    return traces.recorder.request(method_of(scope), Headers(scope=scope).getlist("traceparent"))


def log_access(scope: Scope, *, method: str, **what: object) -> None:
    """Logs one line: what was requested, by whom, from where. Never the query, which may contain a credential."""
    user = scope.get("user")
    by = logs.caller.get() or (user.log_fields() if user else {})
    fields = {
        "request_id": scope["state"]["request_id"],
        "method": method,
        "path": scope["path"],
        **what,
        "client": client_address(HTTPConnection(scope)),
        **by,
    }
    status = what.get("status", what.get("event"))
    access_log.log(
        logging.DEBUG if is_routine(scope, status) else logging.INFO,
        "%s %s %s",
        method,
        # In a text line, anything after a space would look like our own fields.
        quote(scope["path"], safe=PLAIN_IN_A_PATH),
        status,
        extra={"fields": fields},
    )


def is_routine(scope: Scope, status: object) -> bool:
    """A successful probe, or one of the worker's thousands of lookups."""
    user = scope.get("user")
    is_signed = user is not None and user.signature is not None
    return status == 200 and (is_signed or scope["path"].removeprefix(scope["root_path"]) in PROBES)


def keep_private(headers: MutableHeaders) -> None:
    """Keeps responses out of shared caches, and those without an ETag out of all caches, unless the route says otherwise.

    To a cache, `x-api-key` is an ordinary header, so responses must say that they are private to one caller.
    """
    headers.setdefault("Cache-Control", "private, no-cache" if "etag" in headers else "private, no-store")
    if "private" in headers["Cache-Control"]:
        headers.add_vary_header("x-api-key, authorization")


def request_id_of(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _VALID_REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
