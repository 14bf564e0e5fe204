"""Signatures of webhooks according to Standard Webhooks (https://www.standardwebhooks.com)."""

from __future__ import annotations

import binascii
import hmac
import time
from base64 import b64decode, b64encode

SECONDS_OFF = 300
# Far more digits than any time has; more than Python converts would raise an error.
MOST_DIGITS = 15
# What the service stores about an attempt without a 2xx response.
NOT_DELIVERED = {
    "connection": "no connection, or it was lost",
    "disabled": "webhooks were disabled",
    "dns": "the host name was not found",
    "invalid_response": "the response was not HTTP",
    "refused_address": "the host is unknown, or in a private network, which WEBHOOKS_ALLOW_PRIVATE_NETWORKS=true allows for development",
    "timeout": "no answer within 15 seconds",
    "tls": "the certificate or its name is not trusted, or it does not speak TLS",
}


def why_not_delivered(error: str) -> str:
    """An `error_class` or a `last_error` in words."""
    return NOT_DELIVERED.get(error, error)


class SecretError(ValueError):
    """A text that is not a signing secret."""


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature` for a body. Raises SecretError."""
    signed = _bytes(f"{message_id}.{timestamp}.") + body
    return "v1," + b64encode(hmac.digest(_key(secret), signed, "sha256")).decode()


def why_not_genuine(
    secret: str, body: bytes, *, message_id: str, timestamp: str, signature: str, seconds_off: float = SECONDS_OFF
) -> str | None:
    """Why the message is not trustworthy; None: it is genuine. `seconds_off`: how old it may be. Raises SecretError."""
    if not timestamp.isdecimal() or len(timestamp) > MOST_DIGITS:
        return "webhook-timestamp is not a number of seconds"
    expected = sign(secret, message_id, int(timestamp), body)
    if not any(hmac.compare_digest(expected.encode(), _bytes(given)) for given in signature.split(" ")):
        return "no signature was made with this secret for this id, timestamp and body"
    # Written so that NaN fails, too.
    if not abs(time.time() - int(timestamp)) <= seconds_off:
        return f"the timestamp is more than {seconds_off:g} seconds off: it may be an old message sent again"
    return None


def _bytes(text: str) -> bytes:
    """Arguments of a command may contain any bytes, which Python keeps as surrogates."""
    return text.encode(errors="surrogateescape")


def _key(secret: str) -> bytes:
    try:
        key = b64decode(secret.strip().removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise SecretError("This is not a signing secret: one begins with whsec_, then base64")
    return key
