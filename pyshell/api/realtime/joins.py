"""What a client asks for when it joins a channel, and whether it is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pyshell.api.authentication import Authenticator
from pyshell.api.error_responses import from_database
from pyshell.api.errors import ApiError
from pyshell.api.realtime.credentials import Subscriber, identify
from pyshell.api.realtime.filters import FilterError, Subscription, read_time
from pyshell.api.realtime.protocol import Frame
from pyshell.postgres.sqlstates import DatabaseError

MAX_SUBSCRIPTIONS = 20

# No row is older, and the feed looks back somewhat further than asked, which must not underflow.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)

SCOPES = {"batch_lookup_jobs": "jobs:read", "incentive_reports": "reports:read"}


class JoinError(Exception):
    """A refused join; the client gets `Code: message` and retries. `transient`: a fault of the server, a new attempt may succeed."""

    def __init__(self, reason: str, *, transient: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient


def postgres_changes(frame: Frame) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The config of a join and its entries of postgres_changes. Raises JoinError."""
    config = frame.payload.get("config")
    config = config if isinstance(config, dict) else {}
    entries = config.get("postgres_changes")
    entries = [entry for entry in entries if entry is not None] if isinstance(entries, list) else []
    if len(entries) > MAX_SUBSCRIPTIONS:
        raise JoinError(f"TooManyChanges: A channel can have {MAX_SUBSCRIPTIONS} entries in postgres_changes")
    if not all(isinstance(entry, dict) for entry in entries):
        raise JoinError("InvalidPostgresChanges: An entry of postgres_changes must be an object")
    return config, entries


def earliest_since(places: Iterable[Mapping[str, Any]]) -> datetime | None:
    """The earliest `since`: RFC 3339, or milliseconds since 1970 as in JavaScript. Raises FilterError."""
    moments = []
    for value in (place["since"] for place in places if place.get("since") is not None):
        try:
            moment = datetime.fromtimestamp(value / 1000, UTC) if isinstance(value, (int, float)) else read_time(value)
            moments.append(max(moment, EARLIEST))
        except (ValueError, TypeError, OverflowError, OSError) as error:
            raise FilterError("since must be a time such as 2026-01-31T12:00:00Z, or milliseconds since 1970") from error
    return min(moments, default=None)


async def subscriber_of(token: object, authenticator: Authenticator, address: str | None) -> Subscriber:
    """The subscriber of a token. Raises JoinError."""
    if not isinstance(token, str):
        raise JoinError("MalformedJWT: access_token must be a string")
    try:
        subscriber = await identify(authenticator, token, address)
    except (ApiError, DatabaseError) as error:
        reason = from_database(error) if isinstance(error, DatabaseError) else error
        raise JoinError(f"Unauthorized: {reason.message}", transient=reason.status >= 500) from error
    if subscriber.has_expired:
        raise JoinError("InvalidJWTToken: The token has expired")
    return subscriber


def check_scopes(subscriber: Subscriber, subscriptions: Iterable[Subscription]) -> None:
    """Raises JoinError if the credential does not allow what the subscriptions read."""
    for table in sorted({table for subscription in subscriptions for table in subscription.tables}):
        if SCOPES[table] not in subscriber.scopes:
            raise JoinError(f"Unauthorized: This credential lacks the scope {SCOPES[table]}")
