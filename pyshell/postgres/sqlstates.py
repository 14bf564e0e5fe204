"""What to do after an error of the database: the one table of SQLSTATEs.

The codes are PostgreSQL's (https://www.postgresql.org/docs/current/errcodes-appendix.html), and `PTnnn`, which our own functions raise,
with the HTTP status in `nnn`.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

import psycopg

from pyshell.metrics import database_errors

DatabaseError = psycopg.Error
"""Whatever a call of the database raises, including the loss of the connection."""


class Kind(Enum):
    """What happened. After `REFUSED` and `DATA`, the same call fails again; after any other it may succeed later."""

    REFUSED = auto()
    """A rule of ours refused the call (`PTnnn`)."""
    DATA = auto()
    """A value cannot be stored or computed with."""
    CONFLICT = auto()
    """Rolled back to let others go on: a deadlock or a serialization failure. Trying again at once is fine."""
    STALE_STATEMENT = auto()
    """What the connection has prepared no longer fits the database. Nothing ran; after `deallocate all` it works."""
    LOST = auto()
    """The connection ended, or could not be made."""
    OUTCOME_UNKNOWN = auto()
    """The connection was lost while a statement ran that changes data, so nobody knows whether it took effect."""
    BUSY = auto()
    """A lock could not be had in time."""
    TIMEOUT = auto()
    """The statement took too long, or somebody cancelled it."""
    READ_ONLY = auto()
    """The database is a standby or read-only, and the statement would have changed something."""
    UNAVAILABLE = auto()
    """The server lacks memory, disk or connections, cannot read its files, or is starting or stopping."""
    NOT_MIGRATED = auto()
    """The database lacks something that this release calls."""
    INTERNAL = auto()
    """Anything else: a fault in our functions or in PostgreSQL."""


KINDS: Final = {
    "PT": Kind.REFUSED,
    "21": Kind.DATA,
    "22": Kind.DATA,
    "23": Kind.DATA,
    "54": Kind.DATA,
    "P0": Kind.DATA,
    "40": Kind.CONFLICT,
    "26": Kind.STALE_STATEMENT,
    "42P05": Kind.STALE_STATEMENT,
    "08": Kind.LOST,
    "25P03": Kind.LOST,
    "25P04": Kind.LOST,
    "57P01": Kind.LOST,
    "57P02": Kind.LOST,
    "57P03": Kind.LOST,
    "57P04": Kind.LOST,
    "57P05": Kind.LOST,
    "08007": Kind.OUTCOME_UNKNOWN,
    "40003": Kind.OUTCOME_UNKNOWN,
    "55006": Kind.BUSY,
    "55P03": Kind.BUSY,
    "57014": Kind.TIMEOUT,
    "25006": Kind.READ_ONLY,
    "53": Kind.UNAVAILABLE,
    "57": Kind.UNAVAILABLE,
    "58": Kind.UNAVAILABLE,
    "3F000": Kind.NOT_MIGRATED,
    "42703": Kind.NOT_MIGRATED,
    "42704": Kind.NOT_MIGRATED,
    "42883": Kind.NOT_MIGRATED,
    "42P01": Kind.NOT_MIGRATED,
}
"""By SQLSTATE, or by class (its first two characters) for the rest of that class. What is not here either way is INTERNAL."""

MOVED_SHARD: Final = re.compile(r"could not find valid entry for shard \d+|\b\w+\.\w+_\d{6,}\b")
"""What Citus says, or PostgreSQL in its language, where a plan names a shard that has just moved to another node. Such an error has the
SQLSTATE of other things, and no origin when a node passes it on. The next plan names the new place."""

FUNCTION_IN_CONTEXT: Final = re.compile(r"^(?:(?!JSON|\$\d).)*SQL", re.MULTILINE)
"""The line of a context for a PL/pgSQL or SQL function, in any language of PostgreSQL, but not the caller's own JSON or parameters."""

# Each count exists before the first error of its kind: Prometheus sees no increase in a series that begins with it.
for _kind in Kind:
    if _kind is not Kind.REFUSED:
        database_errors.labels(_kind.name.lower())

WITHOUT_EFFECT: Final = frozenset({"08001", "08003", "08004", "57P01", "57P03", "57P05"})
"""Losses of a connection that certainly changed nothing: it was never made, it was idle, or the server rolled back before it closed it."""


class StaleConnectionError(psycopg.OperationalError):
    """The server had closed a pooled connection before anything was sent over it."""

    sqlstate = "08003"


class OutcomeUnknownError(psycopg.OperationalError):
    """The connection was lost during a function that changes data, so it is unknown whether it took effect."""

    sqlstate = "08007"


class NotMigratedError(psycopg.ProgrammingError):
    """The database lacks the migrations of this release."""

    sqlstate = "3F000"

    def __init__(self) -> None:
        super().__init__("the database lacks the migrations of this release; `python -m pyshell migrate` applies them")


def kind_of(error: DatabaseError) -> Kind:
    """What happened. psycopg's own errors have no SQLSTATE: a lost connection, or a value that cannot be sent."""
    state = error.sqlstate
    if state is None:
        if isinstance(error, psycopg.DataError):
            return Kind.DATA
        return Kind.LOST if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) else Kind.INTERNAL
    if error.diag.source_function == "RevalidateCachedQuery":
        # "cached plan must not change result type". Its SQLSTATE has other uses and its text is translated, so it is identified by its
        # origin.
        return Kind.STALE_STATEMENT
    if state in ("XX000", "42P01") and MOVED_SHARD.search(error.diag.message_primary or ""):
        return Kind.CONFLICT
    kind = KINDS.get(state) or KINDS.get(state[:2], Kind.INTERNAL)
    return Kind.INTERNAL if kind is Kind.NOT_MIGRATED and is_inside_function(error) else kind


def note_error(error: DatabaseError) -> None:
    """Counts it for /metrics, unless it is a refusal by a rule of ours."""
    if kind_of(error) is not Kind.REFUSED:
        database_errors.labels(kind_of(error).name.lower()).inc()


def is_about_the_data(error: DatabaseError) -> bool:
    """Whether the values are at fault, so that the same call fails every time. After any other error it may be tried again."""
    return kind_of(error) in (Kind.DATA, Kind.REFUSED)


def is_away(error: DatabaseError) -> bool:
    """Whether the database cannot be reached, or not be written to: any other call fails as well."""
    return kind_of(error) in (Kind.LOST, Kind.OUTCOME_UNKNOWN, Kind.READ_ONLY)


def had_no_effect(error: DatabaseError) -> bool:
    """Whether the call certainly changed nothing and may succeed if it is repeated immediately."""
    return kind_of(error) in (Kind.CONFLICT, Kind.STALE_STATEMENT) or error.sqlstate in WITHOUT_EFFECT


def is_inside_function(error: DatabaseError) -> bool:
    """Whether the error came from inside a function of the database, so that the call itself was well-formed."""
    return FUNCTION_IN_CONTEXT.search(error.diag.context or "") is not None


def for_log(error: DatabaseError) -> str:
    """The full error for a log. For rows that are locked, one line that points to api.queue_health."""
    return f"{explain(error)} (api.queue_health names blocking transactions)" if kind_of(error) is Kind.BUSY else str(error)


ONLY_READS = "DATABASE_URL must lead to the primary: this database is a standby, or lets nobody write."


def explain(error: DatabaseError) -> str:
    """The error for people: the message and the hint, without PostgreSQL's trace through the functions."""
    if kind_of(error) is Kind.NOT_MIGRATED:
        return str(NotMigratedError())
    diag = error.diag
    if diag.message_primary is None:
        return str(error).strip()
    hint = diag.message_hint
    if kind_of(error) is Kind.READ_ONLY:
        hint = ONLY_READS
    return "\n".join(filter(None, [diag.message_primary, hint and f"hint: {hint}"]))
