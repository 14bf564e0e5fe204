"""API keys: `leap_live_` or `leap_test_`, 43 random characters, a checksum of 6. The database has only their hashes.

The fixed prefix lets secret scanners recognize our keys.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
import zlib
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from pyshell.postgres.connections import SHELL, connect_as_owner

LIVE, TEST = "leap_live_", "leap_test_"
# Tokens of links to reports have the same form.
SHARE = "leap_share_"
# As the previous pepper: keys were hashed without one.
NO_PEPPER = "none"

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FORM = re.compile(r"((leap_(?:live|test|share)_)[0-9A-Za-z]{43})([0-9A-Za-z]{6})")


def generate(prefix: str = LIVE) -> str:
    """A new key of 256 random bits (43 base-62 characters)."""
    body = prefix + "".join(secrets.choice(_ALPHABET) for _ in range(43))
    return body + _checksum(body)


def is_well_formed(key: str, prefixes: Sequence[str] = (LIVE, TEST)) -> bool:
    """Whether form and checksum are right, so that mistyped or invented keys cost no query."""
    match = _FORM.fullmatch(key)
    return match is not None and match[2] in prefixes and _checksum(match[1]) == match[3]


def hash_key(key: str, pepper: str | None) -> bytes:
    """HMAC-SHA256 of the key with the deployment's pepper."""
    return hmac.digest((pepper or "").encode(), key.encode(), "sha256")


def create(
    database_url: str,
    organization: str | UUID,
    *,
    clerk_organization_id: str | None = None,
    pepper: str | None = None,
    name: str | None = None,
    prefix: str = LIVE,
    scopes: Sequence[str] | None = None,
    expires_at: datetime | None = None,
) -> str:
    """Creates and stores a key for an organization, and returns it. No scopes: all of them.

    An organization given by name is created if it is new, for the Clerk organization if given; a UUID is the id of an existing one.
    """
    key = generate(prefix)
    with connect_as_owner(database_url, role=SHELL) as connection:
        connection.execute(
            "select api.create_api_key(p_organization_id => coalesce(%(organization_id)s,"
            " api.create_organization(p_name => %(name_of_organization)s, p_clerk_organization_id => %(clerk_organization_id)s)),"
            " p_key_hash => %(hash)s, p_prefix => %(prefix)s, p_last_four => %(last_four)s, p_name => %(name)s,"
            " p_scopes => %(scopes)s::text[], p_expires_at => %(expires_at)s)",
            {
                "organization_id": organization if isinstance(organization, UUID) else None,
                "name_of_organization": organization if isinstance(organization, str) else None,
                "clerk_organization_id": clerk_organization_id,
                "hash": hash_key(key, pepper),
                "prefix": prefix,
                "last_four": key[-4:],
                "name": name,
                "scopes": None if scopes is None else list(scopes),
                "expires_at": expires_at,
            },
        )
    return key


def _checksum(text: str) -> str:
    """CRC-32 as six base-62 digits."""
    rest, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        digits = _ALPHABET[digit] + digits
    return digits
