"""One attempt at a webhook: a signed POST to a receiver (Standard Webhooks, https://www.standardwebhooks.com), and what came of it."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit
from uuid import UUID

from pyreqwest.client import ClientBuilder
from pyreqwest.http import Url

from pyshell.http_client import Clients, ExchangeError, Response, client_builder, post
from pyshell.settings import Settings
from pyshell.webhooks.addresses import Network, RefusedAddressError, is_ip_address, resolve

logger = logging.getLogger(__name__)

ATTEMPT_SECONDS: Final = 15.0
# So much of an answer's body is read at most.
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_ADDRESSES: Final = 8
KEPT_CHARACTERS: Final = 1024
# Attempts that start so close together share one resolution of the receiver's name.
RESOLUTION_SECONDS: Final = 1.0
USER_AGENT: Final = "Batch-Lookups-Webhooks/1.0"
NOT_SENT: Final = {"unreachable": "connection", "tls": "tls"}


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


class Receiver:
    """A URL, and the connections to it. No redirect is followed and no proxy used.

    `allow_private` is for development: any address may be connected to, at any port, and http spoken; but never one of the
    `refused_networks`. Raises ValueError for a URL that is none, not HTTPS, or leads to the port of another service.
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
        self._clients = Clients(MAX_ADDRESSES)

    @classmethod
    def of(cls, delivery: Delivery, settings: Settings) -> Self:
        return cls(
            delivery.url,
            allow_private=settings.webhooks_allow_private_networks,
            refused_networks=settings.webhooks_refused_networks,
        )

    async def attempt(self, delivery: Delivery) -> Attempt:
        """POST a delivery; raises nothing but cancellation."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                response = await self._post(delivery, started)
        except ExchangeError as error:
            return Attempt(delivery, None, error.error_class, time.monotonic() - started, None, None)
        except TimeoutError:
            return Attempt(delivery, None, "timeout", time.monotonic() - started, None, None)
        except Exception:
            logger.exception("a webhook failed in an unexpected way")
            return Attempt(delivery, None, "other", time.monotonic() - started, None, None)
        return Attempt(
            delivery,
            response.status,
            None,
            time.monotonic() - started,
            response.body[: 4 * KEPT_CHARACTERS].decode("utf-8", "replace").replace("\0", "")[:KEPT_CHARACTERS],
            response.retry_after,
        )

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._clients.keep([])

    async def _post(self, delivery: Delivery, started: float) -> Response:
        """POST to the first of the checked addresses that can be connected to."""
        addresses = await self._resolve()
        self._clients.keep(addresses)
        problem = ExchangeError("dns")
        headers = signed_headers(delivery)
        for address in addresses[:MAX_ADDRESSES]:
            seconds = ATTEMPT_SECONDS - (time.monotonic() - started)
            try:
                client = await self._clients.get(address, partial(self._builder, address))
                return await post(client, self.url, delivery.body, headers, seconds, MAX_ANSWER_BYTES, cut=True)
            except ExchangeError as error:
                # With these nothing was sent: another address may be tried.
                if error.error_class not in NOT_SENT:
                    raise
                problem = ExchangeError(NOT_SENT[error.error_class])
        raise problem

    def _builder(self, address: str) -> ClientBuilder:
        """Of a client that connects to this address and no other, with the receiver's own name for TLS and `Host`."""
        builder = client_builder(tls=self._is_https).gzip(False).user_agent(USER_AGENT)
        return builder if is_ip_address(self._host) else builder.resolve(self._host, address, self._port)

    async def _resolve(self) -> list[str]:
        """The receiver's addresses, checked for this attempt or those beside it."""
        now = time.monotonic()
        if self._resolution is None or (self._resolution.done() and now - self._resolved_at > RESOLUTION_SECONDS):
            self._resolution = asyncio.create_task(self._look_up_host())
            self._resolution.add_done_callback(lambda resolution: resolution.cancelled() or resolution.exception())
            self._resolved_at = now
        try:
            return await asyncio.shield(self._resolution)
        except (RefusedAddressError, OSError, UnicodeError) as error:
            # Nobody is told which names of a private network there are.
            is_told = self._allow_private and not isinstance(error, RefusedAddressError)
            raise ExchangeError("dns" if is_told else "refused_address") from None

    async def _look_up_host(self) -> list[str]:
        return await resolve(self._host, self._port, allow_private=self._allow_private, refused_networks=self._refused_networks)


def signed_headers(delivery: Delivery) -> dict[str, str]:
    message_id, timestamp = str(UUID(bytes=delivery.delivery_id)), int(time.time())
    return {
        "Content-Type": "application/json",
        # What is compressed may be larger than it looks.
        "Accept-Encoding": "identity",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(delivery.secrets, message_id, timestamp, delivery.body),
    }
