"""When a request is repeated: on 429 and 503 as the service asks, and on lost connections if nothing can happen twice."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx

from batch_lookups.errors import GATEWAY, ApiError, BatchLookupsError, UnavailableError

RETRY_SECONDS = 60.0
FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0

PROXY_PASSWORD_NEEDED = 407
PROXY_PASSWORD_HINT = "Put them into its address: HTTPS_PROXY=http://name:password@proxy.example.com:3128"

# Nothing was sent, so nothing was done.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


class Retry(NamedTuple):
    """What a client passes to its `on_retry` before it waits: why, and for how many seconds."""

    reason: str
    delay: float


OnRetry = Callable[[Retry], None]


class Attempts:
    """The attempts at one request, for so many seconds from the end of the first. `repeatable`: it may be carried out twice without harm.

    `maybe_done`: one of them may have been carried out, and its response lost.

    The first does not count: a missing response is noticed late, and a new connection may be enough.
    """

    def __init__(self, seconds: float, *, repeatable: bool) -> None:
        self._seconds = seconds
        self._ends_at: float | None = None
        self._repeatable = repeatable
        self.maybe_done = False
        self._count = 0

    def after_error(self, error: httpx.RequestError) -> Retry:
        """How to continue after a connection was lost or not made. Raises UnavailableError to give up."""
        reason = describe(error)
        self.maybe_done |= not isinstance(error, _NOT_SENT)
        if not self._repeatable and not isinstance(error, _NOT_SENT):
            raise UnavailableError(f"{reason}; the request may have been carried out", maybe_done=True) from error
        if not isinstance(error, httpx.NetworkError | httpx.TimeoutException | httpx.RemoteProtocolError) or _fails_at_tls(error):
            # A proxy that refuses, an invalid address, a response that cannot be decoded, an untrusted certificate: time
            # does not help.
            raise UnavailableError(reason) from error
        delay = self._next_delay(None)
        if delay is None:
            raise UnavailableError(reason) from error
        return Retry(reason, delay)

    def after_response(self, response: httpx.Response) -> Retry:
        """How to continue after an unsuccessful response. Raises ApiError to give up."""
        error = error_of(response)
        # A request with the same idempotency key is in progress: from this command, before it was killed.
        waits = response.status_code in (429, 503, *GATEWAY) or error.code == "request_in_progress"
        # A 503 without a code is that of a proxy, too, which may have lost the service amid the request.
        unknown = response.status_code in GATEWAY or (response.status_code == 503 and error.code in ("", "outcome_unknown"))
        self.maybe_done |= unknown
        if not waits or (unknown and not self._repeatable):
            raise error
        delay = self._next_delay(retry_after(response))
        if delay is None:
            raise error
        return Retry(str(error), delay)

    def _next_delay(self, asked_for: float | None) -> float | None:
        """Seconds to wait: at least what the service says, else longer each time, with jitter. None: time is up."""
        delay: float = min(FIRST_DELAY * 2.0 ** min(self._count, 10), LONGEST_DELAY) * random.uniform(0.7, 1.3)
        if asked_for is not None:
            delay = max(asked_for + random.random(), delay)
        self._count += 1
        now = time.monotonic()
        if self._ends_at is None:
            self._ends_at = now + self._seconds
        return delay if now + delay < self._ends_at else None


def retry_after(response: httpx.Response) -> float | None:
    """The seconds that `Retry-After` asks to wait, in seconds or as a date, which is one of the server's clock; None: it does not say."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    until = http_date(text)
    if until is None:
        return None
    now = http_date(response.headers.get("date", ""))
    return until - (time.time() if now is None else now)


def http_date(text: str) -> float | None:
    """Seconds since 1970 of an HTTP date; None if it is not one."""
    from datetime import UTC
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _fails_at_tls(error: BaseException | None) -> bool:
    """Whether the TLS handshake failed; a connection lost in the middle of it raises an error of another type."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return type(error) in (ssl.SSLError, ssl.SSLCertVerificationError)


def error_of(response: httpx.Response) -> ApiError:
    if response.has_redirect_location:
        # The service redirects no call: a proxy redirects to https://, or to a sign-in page.
        said = {
            "error": f"{origin_of(response.url)} redirects to {target_of(response)}",
            "hint": "Use the address of the service itself, without a redirect.",
        }
        return ApiError(response.status_code, said)
    if response.status_code == PROXY_PASSWORD_NEEDED:
        return ApiError(response.status_code, {"error": "The proxy asks for a user name and a password", "hint": PROXY_PASSWORD_HINT})
    return ApiError(response.status_code, document_of(response) or {})


def target_of(response: httpx.Response) -> str:
    """Where a redirect leads, without what may be a secret."""
    try:
        return str(response.url.join(response.headers["location"]).copy_with(query=None, fragment=None, userinfo=b""))
    except (httpx.InvalidURL, UnicodeError):
        return "something that is not a web address"


def refuse_redirect(response: httpx.Response) -> None:
    """Raises ApiError for a redirect, before httpx reads its target, which it does even if it is not to follow it, and fails at some."""
    if response.has_redirect_location:
        raise error_of(response)


async def refuse_redirect_async(response: httpx.Response) -> None:
    refuse_redirect(response)


def document_of(response: httpx.Response) -> dict[str, Any] | None:
    """The JSON object in the response; None for anything else."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def require_ours(response: httpx.Response, media_type: str) -> None:
    """Raises BatchLookupsError for a success that is not the service's: from a proxy that asks to sign in, or at a wrong address."""
    answered = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if answered != media_type:
        raise BatchLookupsError(
            f"{origin_of(response.url)} answers with {answered or 'nothing'} instead of {media_type}; it is not Batch Lookups"
        )


def require_document(response: httpx.Response) -> Any:
    """The JSON object in the response. Raises BatchLookupsError if it is not valid JSON, or not an object."""
    document = document_of(response)
    if document is None:
        raise BatchLookupsError(f"{origin_of(response.url)} does not answer with a JSON object; it is not Batch Lookups")
    return document


def origin_of(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode()}"


def proxy_for(url: httpx.URL) -> str | None:
    """The proxy of the environment for this address, without a user name and password."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy.rpartition("://")[2].rpartition("@")[2] if proxy and not proxy_bypass(url.host) else None


def describe(error: httpx.RequestError) -> str:
    service = f"service at {origin_of(error.request.url)}"
    proxy = proxy_for(error.request.url)
    # Which of the two refused is not known.
    through = f" through the proxy at {proxy}" if proxy else ""
    what = {
        httpx.ConnectError: f"The {service} cannot be reached{through}",
        httpx.ConnectTimeout: f"The {service} cannot be reached{through}: no connection in time",
        httpx.ReadTimeout: f"The {service} did not answer in time",
        httpx.ProxyError: f"The proxy does not connect to the {service}",
        httpx.DecodingError: f"The answer of the {service} is not compressed as it says",
        httpx.UnsupportedProtocol: "The address of the service is not an http:// or https:// address",
    }.get(type(error), f"The connection to the {service} was lost")
    return f"{what} ({error})" if str(error) else what
