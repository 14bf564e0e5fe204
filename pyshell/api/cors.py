"""CORS: the origins whose pages may call the API from a browser (https://fetch.spec.whatwg.org/#http-cors-protocol).

Keys and tokens travel in headers and never as cookies, so no credentials mode is offered.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

ALLOWED_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ALLOWED_HEADERS = (
    "x-api-key",
    "authorization",
    "content-type",
    "content-encoding",
    "idempotency-key",
    "if-none-match",
    "last-event-id",
    "traceparent",
    "x-request-id",
)
EXPOSED_HEADERS = (
    "ETag",
    "Link",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Replica-Lag",
    "X-Request-Id",
    "Idempotency-Replayed",
    "Content-Disposition",
)
# Chromium caches preflights for no longer.
PREFLIGHT_SECONDS = 7200


class CrossOriginMiddleware(CORSMiddleware):
    """Starlette's middleware, with an empty body in the response to an allowed preflight."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code != 200:
            return response
        return Response(
            status_code=204, headers={name: value for name, value in response.headers.items() if not name.startswith("content-")}
        )


def cors_middleware(origins: tuple[str, ...]) -> list[Middleware]:
    """The outermost middleware, so that pages can read all errors. Without origins: no middleware."""
    if not origins:
        return []
    return [
        Middleware(
            CrossOriginMiddleware,
            allow_origins=origins,
            allow_methods=ALLOWED_METHODS,
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
            max_age=PREFLIGHT_SECONDS,
        )
    ]
