"""One attempt at a webhook: a signed POST to a receiver (Standard Webhooks, https://www.standardwebhooks.com), and what came of it."""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from socket import gaierror
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from pyshell.webhooks.addresses import RefusedAddressError, resolve
from pyshell.worker.upstream import retry_after
from pyshell.worker.upstream_connections import IDLE_TIMEOUT, Connection, ExchangeError, Response

logger = logging.getLogger(__name__)

ATTEMPT_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 5.0
# So much of an answer is read at most, headers included.
MAX_ANSWER_BYTES: Final = 64 * 1024
KEPT_CHARACTERS: Final = 1024
# Attempts that start so close together share one resolution of the receiver's name.
RESOLUTION_SECONDS: Final = 1.0
USER_AGENT: Final = "Batch-Lookups-Webhooks/1.0"


@dataclass(slots=True, eq=False)
class Delivery:
    """A claimed delivery: what to POST and where, and the keys to sign it with."""

    organization_id: bytes
    delivery_id: bytes
    token: bytes
    body: bytes
    url: str
    secrets: Sequence[bytes]


class Attempt(NamedTuple):
    """What came of a delivery, as `api.record_webhooks` takes it; `latency` and `retry_after` in seconds."""

    delivery: Delivery
    http_status: int | None
    error_class: str | None
    latency: float
    body: str | None
    retry_after: float | None

    @property
    def succeeded(self) -> bool:
        return self.http_status is not None and 200 <= self.http_status < 300


def sign(secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature for each secret, so that receivers can change over from one to the next."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join("v1," + b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in secrets)


class ReceiverConnection(Connection):
    """Reads of an answer what is worth keeping: the rest stays unread, and the connection is closed."""

    def send(self, request: bytes, timeout: float, max_bytes: int) -> asyncio.Future[Response]:
        self._received = 0
        return super().send(request, timeout, max_bytes)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        if self._received > MAX_ANSWER_BYTES and self._answer is not None:
            if self._status < 200:
                self._fail("invalid_response")
            else:
                self._succeed()
                self.close()

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        # No request asks for one; and what is compressed may be larger than it looks.
        self._headers.pop(b"content-encoding", None)


class Receiver:
    """A URL, and the connections to it. No redirect is followed and no proxy used.

    `allow_private` is for development: any address may be connected to, and http spoken. Raises ValueError for a URL that is none, or
    not HTTPS.
    """

    def __init__(self, url: str, *, allow_private: bool) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
            raise ValueError("The URL must begin with https://")
        if not parts.hostname or parts.username is not None:
            raise ValueError("The URL must have a host, and no user name")
        self.url = url
        self._allow_private = allow_private
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = tls() if parts.scheme == "https" else None
        self._start = (
            f"POST {parts.path or '/'}{'?' + parts.query if parts.query else ''} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/json\r\nUser-Agent: {USER_AGENT}\r\nAccept-Encoding: identity\r\n"
        )
        self._resolution: asyncio.Task[list[str]] | None = None
        self._resolved_at = 0.0
        self._idle: list[tuple[str, ReceiverConnection]] = []

    async def attempt(self, delivery: Delivery) -> Attempt:
        """POST a delivery; raises nothing but cancellation."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                response = await self._post(self._request(delivery))
        except ExchangeError as error:
            return Attempt(delivery, None, error.error_class, time.monotonic() - started, None, None)
        except TimeoutError:
            return Attempt(delivery, None, "timeout", time.monotonic() - started, None, None)
        except Exception:
            logger.exception("a webhook failed in an unexpected way")
            return Attempt(delivery, None, "other", time.monotonic() - started, None, None)
        header = response.headers.get(b"retry-after")
        return Attempt(
            delivery,
            response.status,
            None,
            time.monotonic() - started,
            response.body[: 4 * KEPT_CHARACTERS].decode("utf-8", "replace").replace("\0", "")[:KEPT_CHARACTERS],
            None if header is None else retry_after(header, response.headers.get(b"date")),
        )

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    def _request(self, delivery: Delivery) -> bytes:
        message_id, timestamp = str(UUID(bytes=delivery.delivery_id)), int(time.time())
        signature = sign(delivery.secrets, message_id, timestamp, delivery.body)
        head = (
            f"{self._start}webhook-id: {message_id}\r\nwebhook-timestamp: {timestamp}\r\nwebhook-signature: {signature}\r\n"
            f"Content-Length: {len(delivery.body)}\r\n\r\n"
        )
        return head.encode("latin-1") + delivery.body

    async def _post(self, request: bytes) -> Response:
        addresses = await self._resolve()
        connection = self._take_idle(addresses)
        if connection is not None:
            try:
                return await self._exchange(*connection, request)
            except ExchangeError as error:
                # Most likely the receiver closed an idle connection at that very moment.
                if error.error_class != "connection":
                    raise
        return await self._exchange(*await self._connect(addresses), request)

    async def _exchange(self, address: str, connection: ReceiverConnection, request: bytes) -> Response:
        try:
            response = await connection.send(request, ATTEMPT_SECONDS, 2 * MAX_ANSWER_BYTES)
        except asyncio.CancelledError:
            connection.close()
            raise
        if connection.is_open:
            self._idle.append((address, connection))
        else:
            connection.close()
        return response

    async def _resolve(self) -> list[str]:
        """The receiver's addresses, checked for this attempt or those beside it."""
        now = time.monotonic()
        if self._resolution is None or (self._resolution.done() and now - self._resolved_at > RESOLUTION_SECONDS):
            self._resolution = asyncio.create_task(resolve(self._host, self._port, allow_private=self._allow_private))
            self._resolution.add_done_callback(lambda resolution: resolution.cancelled() or resolution.exception())
            self._resolved_at = now
        try:
            return await asyncio.shield(self._resolution)
        except RefusedAddressError:
            raise ExchangeError("refused_address") from None
        except (OSError, UnicodeError):
            raise ExchangeError("dns") from None

    def _take_idle(self, addresses: Sequence[str]) -> tuple[str, ReceiverConnection] | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            address, connection = self._idle.pop()
            if connection.is_open and now - connection.idle_since < IDLE_TIMEOUT and address in addresses:
                return address, connection
            connection.close()
        return None

    async def _connect(self, addresses: Sequence[str]) -> tuple[str, ReceiverConnection]:
        """Connect to one of the checked addresses, with the receiver's own name for TLS."""
        problem = ExchangeError("dns")
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    _, connection = await asyncio.get_running_loop().create_connection(
                        ReceiverConnection, address, self._port, ssl=self._ssl, server_hostname=self._host if self._ssl else None
                    )
                return address, connection
            except TimeoutError:
                problem = ExchangeError("timeout")
            except ssl.SSLError:
                problem = ExchangeError("tls")
            except (OSError, gaierror):
                problem = ExchangeError("connection")
        raise problem


@cache
def tls() -> ssl.SSLContext:
    """One for all receivers: reading the machine's certificates takes milliseconds."""
    return ssl.create_default_context()
