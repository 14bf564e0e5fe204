"""Subscribers: an API key or a session token, and the claims for the policies."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from starlette.datastructures import Headers

from pyshell.api import api_keys
from pyshell.api.authentication import Authenticator, Caller, unauthorized

# If no notification arrives, a revoked API key is noticed after this many seconds.
RECHECK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Subscriber:
    """`claims` is JSON. `expires_at`, when the token expires, is in Unix time.

    `recheck_at`, when the credential is checked again, is in `time.monotonic`, which is never set back.
    """

    token: str
    caller: Caller
    organization_id: UUID
    scopes: frozenset[str]
    claims: str
    expires_at: float
    recheck_at: float

    @property
    def has_expired(self) -> bool:
        return self.expires_at <= time.time()


async def identify(authenticator: Authenticator, token: str, address: str | None = None) -> Subscriber:
    """The subscriber with that credential and IP address. Raises ApiError and DatabaseError, as authentication does."""
    if api_keys.is_well_formed(token):
        caller = await authenticator.authenticate(Headers({"x-api-key": token}), address)
        return _subscriber(token, caller, {}, float("inf"))
    if token.startswith((api_keys.LIVE, api_keys.TEST)):
        # A truncated or mistyped key: no token begins like one.
        raise unauthorized("invalid_api_key", "Invalid API key")
    if not token.isascii():
        raise unauthorized("invalid_token", "Invalid token")
    caller = await authenticator.authenticate(Headers({"authorization": f"Bearer {token}"}))
    import jwt

    claims = jwt.decode(token, options={"verify_signature": False, "verify_exp": False})
    return _subscriber(token, caller, claims, float(claims["exp"]))


def _subscriber(token: str, caller: Caller, claims: dict[str, Any], expires_at: float) -> Subscriber:
    # The organization's id in the API: that of an organization linked to Clerk later is not in Clerk's claims.
    claims = claims | {"role": "authenticated", "organization_id": str(caller.organization_id)}
    return Subscriber(
        token=token,
        caller=caller,
        organization_id=caller.organization_id,
        scopes=caller.scopes,
        claims=json.dumps(claims),
        expires_at=expires_at,
        recheck_at=time.monotonic() + RECHECK_SECONDS,
    )
