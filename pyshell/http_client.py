"""The HTTP client for lookups, webhooks and Clerk's keys: one request, then a response of bounded size or the class of the error.

pyreqwest (Rust's reqwest) speaks HTTP/1.1, accepts up to 100 headers of 400 KB in all, and closes a connection that sends unsolicited
data. It follows no redirects, keeps no cookies and never repeats a request that may have reached the server, because attempts count.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, DecodeError, NetworkError, RequestError, RequestTimeoutError
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import RequestBuilder
from pyreqwest.response import Response as StreamedResponse

logger = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 5.0
# Less than the 5 s after which uvicorn closes an idle connection: a request must not cross with the close.
IDLE_SECONDS: Final = 4.0
REDIRECTS: Final = (301, 302, 303, 307, 308)


def is_success(status: int | None) -> bool:
    """Whether a response arrived with a 2xx status."""
    return status is not None and 200 <= status < 300


class ExchangeError(Exception):
    """There is no usable response.

    `error_class` is timeout, unreachable, connection, tls, dns, response_too_large or invalid_response. After unreachable, tls and dns no
    request was sent.
    """

    def __init__(self, error_class: str) -> None:
        super().__init__(error_class)
        self.error_class = error_class


class Response(NamedTuple):
    """A response. `retry_after` is in seconds (None: missing or invalid), `signature` is the value of the requested header, and
    `location` is the target of a redirect.
    """

    status: int
    body: bytes
    retry_after: float | None
    signature: str | None = None
    location: str | None = None


def client_builder(*, tls: bool, proxy: str | None = None, no_proxy: str | None = None) -> ClientBuilder:
    """A builder of clients, which use `proxy` but for the hosts of `no_proxy`, and none otherwise, whatever the environment says.

    `build()` blocks. With `tls` it reads the machine's certificates, which takes 5 to 10 ms; without it needs none, because there
    is nothing to verify.
    """
    builder = (
        ClientBuilder()
        .danger_accept_invalid_certs(not tls)
        .no_proxy()
        .follow_redirects(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .connect_timeout(timedelta(seconds=CONNECT_SECONDS))
        .pool_idle_timeout(timedelta(seconds=IDLE_SECONDS))
    )
    return builder if proxy is None else builder.proxy(ProxyBuilder.all(proxy).no_proxy(no_proxy))


class Clients:
    """Clients by key, each with its own connections and built once: with `tls`, which takes milliseconds, in a thread.

    If there are more than `limit`, the least recently used is dropped. A dropped client closes its connections once no request is using
    them.
    """

    def __init__(self, limit: int, *, tls: bool) -> None:
        self._limit = limit
        self._tls = tls
        self._built: OrderedDict[object, asyncio.Future[Client]] = OrderedDict()

    async def get(self, key: object, builder: Callable[[], ClientBuilder]) -> Client:
        """The client of a key, created with `builder` if there is none yet. Raises ExchangeError if it cannot be created."""
        built = self._built.get(key)
        if built is None:
            built = self._built[key] = self._build(builder())
            if len(self._built) > self._limit:
                self._built.popitem(last=False)
        else:
            self._built.move_to_end(key)
        try:
            # A caller that is cancelled must not cancel the client that others wait for.
            return built.result() if built.done() else await asyncio.shield(built)
        except Exception as error:
            # The next caller tries again to create it.
            self._built.pop(key, None)
            if not isinstance(error, BuilderError):
                raise
            logger.error("cannot create an HTTP client: %s", error)
            raise ExchangeError("tls") from None

    def _build(self, builder: ClientBuilder) -> asyncio.Future[Client]:
        if self._tls:
            return asyncio.ensure_future(asyncio.to_thread(builder.build))
        built: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        try:
            built.set_result(builder.build())
        except BuilderError as error:
            built.set_exception(error)
        return built

    def drop(self) -> None:
        """Drops all clients."""
        self._built.clear()


async def exchange(
    request: RequestBuilder,
    headers: dict[str, str] | None,
    seconds: float,
    max_bytes: int,
    *,
    cut: bool = False,
    signature_header: str | None = None,
) -> Response:
    """Sends a request and returns the response; the whole exchange, including connecting, takes at most `seconds`.

    Reads at most `max_bytes` of the body. If it is longer, the connection is closed, and the rest is cut off (with `cut`) or the
    response is an error. A success that cannot be decompressed is an error; any other response then has an empty body, as its status says
    enough. `signature_header` names the header with the signature. Raises ExchangeError.
    """
    request = request.timeout(timedelta(seconds=seconds))
    if headers:
        request = request.headers(headers)
    try:
        async with request.build_streamed() as response:
            # A body in an encoding that was not requested arrives as it is, and cannot be read.
            is_readable = cut or header(response, "content-encoding") in (None, "identity")
            if response.status < 200 or (is_success(response.status) and not is_readable):
                raise ExchangeError("invalid_response")
            content = await response.body_reader.read(max_bytes + 1)
            if content is not None and len(content) > max_bytes and not cut:
                raise ExchangeError("response_too_large")
            asked_for = header(response, "retry-after")
            return Response(
                response.status,
                content.to_bytes()[:max_bytes] if content is not None and is_readable else b"",
                None if asked_for is None else retry_after(asked_for, header(response, "date")),
                header(response, signature_header) if signature_header else None,
                header(response, "location") if response.status in REDIRECTS else None,
            )
    except RequestError as error:
        raise ExchangeError(error_class([cause["message"] for cause in error.details["causes"] or []], error)) from None


def header(response: StreamedResponse, name: str) -> str | None:
    """The first value of a header; None if it is missing or not text."""
    try:
        return response.get_header(name)
    except ValueError:
        return None


def error_class(causes: Sequence[str], error: RequestError) -> str:
    """The `error_class` of an exception; `causes` are its messages, the outermost first. Reraises unknown errors."""
    if "client error (Connect)" in causes:
        if "dns error" in causes:
            return "dns"
        is_below_tls = "tcp connect error" in causes or any(cause.startswith("tunnel error") for cause in causes)
        return "unreachable" if is_below_tls or isinstance(error, RequestTimeoutError) else "tls"
    if isinstance(error, RequestTimeoutError):
        return "timeout"
    if "error reading a body from connection" in causes:
        return "connection"
    if isinstance(error, DecodeError) or "error decoding response body" in causes:
        return "invalid_response"
    if isinstance(error, NetworkError):
        return "connection"
    raise error


def retry_after(value: str, date: str | None = None) -> float | None:
    """The seconds that a `Retry-After` asks to wait (RFC 9110, 10.2.3); None if it is invalid.

    `value` is a number of seconds or a date. A date is compared with `date`, the server's own clock, if it sent one, else with ours.
    """
    text = value.strip()
    if text.isdecimal():
        return float(text[:9])
    until = http_date(text)
    if until is None:
        return None
    now = http_date(date) if date else None
    return max(until - (time.time() if now is None else now), 0.0)


def http_date(text: str) -> float | None:
    """Seconds since 1970 of an HTTP date, in UTC also without a zone (RFC 9110, 5.6.7); None if it is not one."""
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
