"""Clerk session tokens: verification, and the organization that a session is active in.

https://clerk.com/docs/guides/sessions/session-tokens describes both versions of the claims,
https://clerk.com/docs/guides/sessions/manual-jwt-verification how to check them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import jwt

from pyshell.api.clerk_keys import ConfiguredKey, FetchedKeys, Keys, KeysUnavailableError
from pyshell.settings import Settings

__all__ = ["Clerk", "InvalidTokenError", "KeysUnavailableError", "Membership", "membership"]

LEEWAY_SECONDS = 5
MAX_TOKEN_LENGTH = 16_384
# In the year 5138. Infinity, NaN and numbers of a thousand digits are rejected as well.
LATEST_TIME = 1e11
# Tokens of machines, signed with the same keys: https://github.com/clerk/javascript, JWT_CATEGORY_M2M_TOKEN.
MACHINE_CATEGORY = "cl_B7d4PD333AAA"


class InvalidTokenError(Exception):
    """The message says what is wrong with the token without quoting it."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The active organization of a session, by Clerk's id, and the member's role there (without `org:`)."""

    clerk_organization_id: str
    slug: str | None
    role: str | None


class Clerk:
    """Verifies the session tokens of one Clerk instance."""

    def __init__(self, issuer: str, keys: Keys, authorized_parties: Sequence[str] = ()) -> None:
        self._issuer = issuer
        self._keys = keys
        self._authorized_parties = frozenset(authorized_parties)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """None if no issuer is configured: then no Clerk tokens are accepted."""
        if settings.clerk_issuer is None:
            return None
        if settings.clerk_jwt_key:
            keys: Keys = ConfiguredKey(settings.clerk_jwt_key)
        else:
            url = f"{settings.clerk_issuer}/.well-known/jwks.json"
            keys = FetchedKeys(url, proxy=settings.proxy_for(url), no_proxy=settings.no_proxy)
        return cls(settings.clerk_issuer, keys, settings.clerk_authorized_parties)

    async def verify(self, token: str) -> Mapping[str, Any]:
        """The claims of a token, if it is genuine and valid now. Raises InvalidTokenError, KeysUnavailableError."""
        if len(token) > MAX_TOKEN_LENGTH:
            raise InvalidTokenError("The token is too long")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise InvalidTokenError("The token is not a JSON Web Token") from error
        # We choose the algorithm, never the token.
        if header.get("alg") != "RS256":
            raise InvalidTokenError("The token is not signed with RS256")
        if header.get("typ") not in (None, "JWT") or header.get("cat") == MACHINE_CATEGORY:
            raise InvalidTokenError("The token is not a session token")
        key = await self._keys.find(header.get("kid"))
        if key is None:
            raise InvalidTokenError("The token is signed with an unknown key")
        try:
            claims = jwt.decode(token, key, algorithms=["RS256"], options=_SIGNATURE_ONLY)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise InvalidTokenError("The signature of the token is invalid") from error
        self._check(claims)
        return claims

    def _check(self, claims: Mapping[str, Any]) -> None:
        now = time.time()
        for name in ("exp", "nbf", "iat"):
            value = claims.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LATEST_TIME:
                raise InvalidTokenError(f"The token lacks the time {name}")
        if claims["exp"] <= now - LEEWAY_SECONDS:
            raise InvalidTokenError("The token has expired")
        if max(claims["nbf"], claims["iat"]) > now + LEEWAY_SECONDS:
            raise InvalidTokenError("The token is not valid yet")
        if claims.get("iss") != self._issuer:
            raise InvalidTokenError("The token comes from another issuer")
        # It is stored as the actor.
        if not isinstance(claims.get("sub"), str) or not claims["sub"].isprintable() or not claims["sub"]:
            raise InvalidTokenError("The token lacks a subject")
        # A token made from a JWT template has none, and contains whatever the template says.
        if not isinstance(claims.get("sid"), str) or not claims["sid"]:
            raise InvalidTokenError("The token is not a session token")
        if self._authorized_parties:
            party = claims.get("azp")
            if not isinstance(party, str) or party not in self._authorized_parties:
                raise InvalidTokenError("The token was made for another party")
        # Such a session is incomplete; a second factor may be missing: https://clerk.com/docs/guides/configure/session-tasks
        if claims.get("sts") == "pending":
            raise InvalidTokenError("The session is pending")


_SIGNATURE_ONLY: Any = {
    "verify_signature": True,
    **dict.fromkeys(["verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss", "verify_sub", "verify_jti"], False),
}


def membership(claims: Mapping[str, Any]) -> Membership | None:
    """The membership in claims of version 2 (`o.id`, `o.rol`) or 1 (`org_id`, `org_role`); None: no organization is active.

    `app.clerk_organization_id_of_claims` and `app.scopes_of_claims` read the same claims by the same rules.
    """
    if "v" in claims or "o" in claims:
        organization = claims.get("o")
        found, slug, role = (organization.get(name) if isinstance(organization, Mapping) else None for name in ("id", "slg", "rol"))
    else:
        found, slug, role = (claims.get(name) for name in ("org_id", "org_slug", "org_role"))
    if not isinstance(found, str) or not _ORGANIZATION_ID.fullmatch(found):
        return None
    role = _word(role)
    return Membership(found, _word(slug), role.removeprefix("org:") if role else None)


_ORGANIZATION_ID = re.compile(r"org_[0-9A-Za-z]{1,200}")


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[\w:.-]{1,200}", value) else None
