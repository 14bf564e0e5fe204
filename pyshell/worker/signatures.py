"""How the worker and our own API authenticate each other: by signatures, so that the shared key is never sent.

The worker signs the time, the organization and the body of a lookup; the API signs its response. If another process listens on the
API's port, it learns nothing that is valid for another request, or for the same one after VALID_SECONDS, and its responses are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

SCHEME: Final = "HMAC-SHA256"
ANSWER_HEADER: Final = "x-internal-signature"
# How far the time of a signature may differ from the API's clock, either way.
VALID_SECONDS: Final = 60

_CREDENTIALS: Final = re.compile(r"time=([0-9]{1,12}), body=([0-9a-f]{64}), signature=([0-9a-f]{64})")


def sign_request(key: bytes, organization_id: str, body: bytes, now: float) -> str:
    """The header Authorization of a lookup; `organization_id` is its header x-organization-id, or empty."""
    time, digest = str(int(now)), hashlib.sha256(body).hexdigest()
    return f"{SCHEME} time={time}, body={digest}, signature={_sign(key, 'request', time, organization_id, digest)}"


def body_digest(key: bytes, credentials: str, organization_id: str, now: float) -> str | None:
    """The SHA-256 (hex) that the body of a request must have. None: not signed with this key, or not valid now.

    `credentials` is the header Authorization without the scheme.
    """
    match = _CREDENTIALS.fullmatch(credentials)
    if not match or abs(int(match[1]) - now) > VALID_SECONDS:
        return None
    return match[2] if hmac.compare_digest(_sign(key, "request", match[1], organization_id, match[2]), match[3]) else None


def sign_answer(key: bytes, authorization: str, status: int, body: bytes) -> str:
    """The header ANSWER_HEADER of a response to a request with this Authorization."""
    return _sign(key, "answer", authorization, str(status), hashlib.sha256(body).hexdigest())


def is_answer_signed(key: bytes, authorization: str, status: int, body: bytes, signature: str | None) -> bool:
    return hmac.compare_digest(sign_answer(key, authorization, status, body).encode(), (signature or "").encode())


def _sign(key: bytes, *parts: str) -> str:
    return hmac.new(key, "\n".join(parts).encode(), hashlib.sha256).hexdigest()
