"""CORS: which pages of other origins may call the API from a browser (https://fetch.spec.whatwg.org/#http-cors-protocol).

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
    "x-request-id",
)
EXPOSED_HEADERS = (
    "ETag",
    "Link",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "X-Request-Id",
    "Idempotency-Replayed",
    "Content-Disposition",
)
# Chromium remembers no preflight for longer.
PREFLIGHT_SECONDS = 7200


class CrossOriginMiddleware(CORSMiddleware):
    """Starlette's, whose answer to a preflight that is allowed has no body."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code != 200:
            return response
        return Response(
            status_code=204, headers={name: value for name, value in response.headers.items() if not name.startswith("content-")}
        )


def cors_middleware(origins: tuple[str, ...]) -> list[Middleware]:
    """The outermost middleware, so that what fails further in is readable too. No origins: none."""
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
