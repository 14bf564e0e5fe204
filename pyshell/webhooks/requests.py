"""One attempt to deliver a webhook: a signed POST (Standard Webhooks, https://www.standardwebhooks.com) and its result."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Self
from urllib.parse import urlsplit
from uuid import UUID

from pyreqwest.client import ClientBuilder
from pyreqwest.http import Url

from pyshell import traces
from pyshell.http_client import REDIRECTS, Clients, ExchangeError, Response, client_builder, exchange, is_success
from pyshell.settings import Settings
from pyshell.webhooks.addresses import Network, RefusedAddressError, is_ip_address, resolve

if TYPE_CHECKING:
    from pyshell.traces.spans import Recorder

logger = logging.getLogger(__name__)

ATTEMPT_SECONDS: Final = 15.0
# The limit for reading a response body.
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_ADDRESSES: Final = 8
KEPT_CHARACTERS: Final = 1024
# Attempts that start within this time of each other share one resolution of the receiver's name.
RESOLUTION_SECONDS: Final = 1.0
USER_AGENT: Final = "Batch-Lookups-Webhooks/1.0"
NOT_SENT: Final = {"unreachable": "connection", "tls": "tls"}


@dataclass(slots=True, eq=False)
class Delivery:
    """A claimed delivery: the body to POST, the URL, and the secrets to sign it with. The ids and the token are 16 bytes each.

    `traceparent` is the trace context of the job, if it has one.
    """

    organization_id: bytes
    delivery_id: bytes
    token: bytes
    body: bytes
    url: str
    secrets: Sequence[bytes]
    event: str
    traceparent: str | None = None


class Attempt(NamedTuple):
    """The result of one attempt, as `api.record_webhooks` takes it.

    Either `http_status` is set, with the first KEPT_CHARACTERS of its body in `body`, or `error_class` says why it is missing. `latency`
    and `retry_after` are in seconds.
    """

    delivery: Delivery
    http_status: int | None
    error_class: str | None
    latency: float
    body: str | None
    retry_after: float | None

    @property
    def succeeded(self) -> bool:
        """Whether the receiver responded with a 2xx status."""
        return is_success(self.http_status)


def sign(secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature for each secret, so that a receiver can change from one secret to the next.

    `timestamp` is in seconds since 1970. Each signature is HMAC-SHA256 over `<message_id>.<timestamp>.<body>`, in base64 after `v1,`.
    """
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join("v1," + b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in secrets)


class Receiver:
    """A webhook URL and the connections to it. Follows no redirect and uses no proxy.

    `allow_private` is for development: it allows http, and any address and port except in `refused_networks`. Without it, the URL must be
    https, its addresses public, and its port 443 or above 1023. Raises ValueError for any other URL.
    """

    def __init__(self, url: str, *, allow_private: bool, refused_networks: Sequence[Network] = ()) -> None:
        # The client's own parser: the host that is checked is the host that is connected to, however it is written.
        parsed = Url(url)
        if parsed.scheme != "https" and not (allow_private and parsed.scheme == "http"):
            raise ValueError("The URL must begin with https://")
        if not urlsplit(url).hostname or not parsed.host_str or parsed.username or parsed.password is not None:
            raise ValueError("The URL must have a host, and no user name")
        self.url = url
        self._allow_private = allow_private
        self._refused_networks = refused_networks
        self._host = parsed.host_str.strip("[]")
        self._is_https = parsed.scheme == "https"
        self._port = parsed.port or (443 if self._is_https else 80)
        if self._port < 1024 and self._port != 443 and not allow_private:
            raise ValueError("The port must be 443 or above 1023")
        self._resolution: asyncio.Task[list[str]] | None = None
        self._resolved_at = 0.0
        self._clients = Clients(MAX_ADDRESSES, tls=self._is_https)

    @classmethod
    def of(cls, delivery: Delivery, settings: Settings) -> Self:
        """The receiver of a delivery, as strict as the settings say. Raises ValueError as the constructor does."""
        return cls(
            delivery.url,
            allow_private=settings.webhooks_allow_private_networks,
            refused_networks=settings.webhooks_refused_networks,
        )

    async def attempt(self, delivery: Delivery) -> Attempt:
        """POSTs a delivery and returns the result after at most ATTEMPT_SECONDS. Raises nothing except when it is cancelled."""
        return await (self._attempt(delivery) if traces.recorder is None else self._attempt_and_record(delivery, traces.recorder))

    async def _attempt_and_record(self, delivery: Delivery, recorder: Recorder) -> Attempt:
        """Records the events of batches, and one in a hundred of those of items, of which there may be thousands a second."""
        if delivery.event.startswith("lookup.") and int.from_bytes(delivery.delivery_id[-4:]) % traces.ONE_IN:
            delivery.traceparent = traces.not_recorded(delivery.traceparent)
            return await self._attempt(delivery)
        attributes = {
            "batch_lookups.organization_id": str(UUID(bytes=delivery.organization_id)),
            "batch_lookups.delivery_id": str(UUID(bytes=delivery.delivery_id)),
        }
        with recorder.call_out(f"webhook {delivery.event}", delivery.traceparent, attributes) as recorded:
            delivery.traceparent = recorded.traceparent
            attempt = await self._attempt(delivery)
            recorded.end_call(attempt.http_status, attempt.error_class)
        return attempt

    async def _attempt(self, delivery: Delivery) -> Attempt:
        started = time.monotonic()
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                response = await self._post(delivery)
        except ExchangeError as error:
            return Attempt(delivery, None, error.error_class, time.monotonic() - started, None, None)
        except TimeoutError:
            return Attempt(delivery, None, "timeout", time.monotonic() - started, None, None)
        except Exception:
            logger.exception("a webhook failed in an unexpected way")
            return Attempt(delivery, None, "other", time.monotonic() - started, None, None)
        return Attempt(delivery, response.status, None, time.monotonic() - started, said(response), response.retry_after)

    def close(self) -> None:
        """Closes the connections: those in use once their request ends."""
        self._clients.drop()

    async def _post(self, delivery: Delivery) -> Response:
        """POSTs to the first of the checked addresses that accepts a connection. Raises ExchangeError."""
        addresses = await self._resolve()
        problem = ExchangeError("dns")
        headers = signed_headers(delivery)
        for address in addresses[:MAX_ADDRESSES]:
            try:
                client = await self._clients.get(address, partial(self._builder, address))
                request = client.post(self.url).body_bytes(delivery.body)
                return await exchange(request, headers, ATTEMPT_SECONDS, MAX_ANSWER_BYTES, cut=True)
            except ExchangeError as error:
                # Nothing was sent after these errors, so another address may be tried.
                if error.error_class not in NOT_SENT:
                    raise
                problem = ExchangeError(NOT_SENT[error.error_class])
        raise problem

    def _builder(self, address: str) -> ClientBuilder:
        """A builder of clients that connect to this address only, with the receiver's own name for TLS and `Host`."""
        builder = client_builder(tls=self._is_https).gzip(False).user_agent(USER_AGENT)
        return builder if is_ip_address(self._host) else builder.resolve(self._host, address, self._port)

    async def _resolve(self) -> list[str]:
        """The receiver's checked addresses, resolved for this attempt or for one that has just started. Raises ExchangeError."""
        now = time.monotonic()
        if self._resolution is None or (self._resolution.done() and now - self._resolved_at > RESOLUTION_SECONDS):
            self._resolution = asyncio.create_task(self._look_up_host())
            self._resolution.add_done_callback(lambda resolution: resolution.cancelled() or resolution.exception())
            self._resolved_at = now
        try:
            return await asyncio.shield(self._resolution)
        except (RefusedAddressError, OSError, UnicodeError) as error:
            # The error must not reveal which names exist in a private network.
            is_told = self._allow_private and not isinstance(error, RefusedAddressError)
            raise ExchangeError("dns" if is_told else "refused_address") from None

    async def _look_up_host(self) -> list[str]:
        return await resolve(self._host, self._port, allow_private=self._allow_private, refused_networks=self._refused_networks)


def said(response: Response) -> str:
    """The part of a response that is kept: the start of its body or, of a redirect, its target, which its owner needs to know."""
    if response.status in REDIRECTS:
        text = f"the receiver points to {response.location}" if response.location else "the receiver does not say where it points to"
    else:
        text = response.body[: 4 * KEPT_CHARACTERS].decode("utf-8", "replace")
    return text.replace("\0", "")[:KEPT_CHARACTERS]


def signed_headers(delivery: Delivery) -> dict[str, str]:
    """The headers of an attempt that starts now."""
    message_id, timestamp = str(UUID(bytes=delivery.delivery_id)), int(time.time())
    return {
        "Content-Type": "application/json",
        # A compressed response may be larger than it looks.
        "Accept-Encoding": "identity",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(delivery.secrets, message_id, timestamp, delivery.body),
        **({"traceparent": delivery.traceparent} if delivery.traceparent else {}),
    }
