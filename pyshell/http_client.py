"""HTTP to other servers, for lookups and webhooks: one POST, one answer of a bounded size, or the class of what went wrong.

pyreqwest (Rust's reqwest) speaks HTTP/1.1, bounds headers (100 of them, 400 KB) and closes a connection that says more than it was
asked. No redirect is followed, no cookie kept, and nothing that may have reached the server is sent again: attempts are counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, DecodeError, NetworkError, RequestError, RequestTimeoutError
from pyreqwest.response import Response as StreamedResponse

logger = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 5.0
# Below the 5 s after which uvicorn closes an idle connection: a request must not meet the close halfway.
IDLE_SECONDS: Final = 4.0


class ExchangeError(Exception):
    """No usable answer came.

    `error_class` is timeout, unreachable, connection, tls, dns, response_too_large or invalid_response. With unreachable, tls and dns
    no request was sent.
    """

    def __init__(self, error_class: str) -> None:
        super().__init__(error_class)
        self.error_class = error_class


class Response(NamedTuple):
    """`retry_after` is in seconds."""

    status: int
    body: bytes
    retry_after: float | None


def client_builder(*, tls: bool) -> ClientBuilder:
    """A client that uses no proxy, whatever the environment says, unless it is given one.

    `build()` blocks: for `tls` it reads the machine's certificates, which takes 5 to 10 ms. Without TLS there is nothing to verify, and
    a machine needs none.
    """
    return (
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


class Clients:
    """Clients by key, with connections of their own: each built once, in a thread; of more than `limit` the longest unused is dropped.

    What is dropped closes its connections once no request is under way on them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._built: OrderedDict[object, asyncio.Future[Client]] = OrderedDict()

    async def get(self, key: object, builder: Callable[[], ClientBuilder]) -> Client:
        """Raises ExchangeError when it cannot be built."""
        built = self._built.get(key)
        if built is None:
            built = self._built[key] = asyncio.ensure_future(asyncio.to_thread(builder().build))
            if len(self._built) > self._limit:
                self._built.popitem(last=False)
        else:
            self._built.move_to_end(key)
        try:
            # Whoever is cancelled meanwhile must not take it from the others.
            return built.result() if built.done() else await asyncio.shield(built)
        except BuilderError as error:
            logger.error("no HTTP client can be made: %s", error)
            self._built.pop(key, None)
            raise ExchangeError("tls") from None

    def keep(self, keys: Collection[object]) -> None:
        """Drop all but these."""
        for key in self._built.keys() - set(keys):
            del self._built[key]


async def post(
    client: Client, url: str, body: bytes, headers: dict[str, str] | None, seconds: float, max_bytes: int, *, cut: bool = False
) -> Response:
    """POST `body`; raises ExchangeError. The whole exchange, connecting included, takes at most `seconds`.

    Of a longer answer `max_bytes` are read: with `cut` these are the answer, else it is an error. Either way its connection is closed.
    """
    request = client.post(url).body_bytes(body).timeout(timedelta(seconds=seconds))
    if headers:
        request = request.headers(headers)
    try:
        async with request.build_streamed() as response:
            # What is compressed in a way that no request asked for comes as it is.
            if response.status < 200 or (header(response, "content-encoding") not in (None, "identity") and not cut):
                raise ExchangeError("invalid_response")
            content = await response.body_reader.read(max_bytes + 1)
            if content is not None and len(content) > max_bytes and not cut:
                raise ExchangeError("response_too_large")
            asked_for = header(response, "retry-after")
            return Response(
                response.status,
                content.to_bytes()[:max_bytes] if content is not None else b"",
                None if asked_for is None else retry_after(asked_for, header(response, "date")),
            )
    except RequestError as error:
        raise ExchangeError(error_class([cause["message"] for cause in error.details["causes"] or []], error)) from None


def header(response: StreamedResponse, name: str) -> str | None:
    """The first of a header's values; None: it has none, or none that is text."""
    try:
        return response.get_header(name)
    except ValueError:
        return None


def error_class(causes: Sequence[str], error: RequestError) -> str:
    """What an exception comes to; `causes` are its messages from the outermost to the innermost."""
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
    """Seconds to wait (RFC 9110, 10.2.3): a number of seconds, or a date, which is counted from the server's own if it sent one."""
    text = value.strip()
    if text.isdecimal():
        return float(text[:9])
    until = http_date(text)
    if until is None:
        return None
    now = http_date(date) if date else None
    return max(until - (time.time() if now is None else now), 0.0)


def http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
