"""What an error of the database says about what to do next: the one table of SQLSTATEs.

The codes are those of https://www.postgresql.org/docs/current/errcodes-appendix.html; `PTnnn` are raised by our own functions, with the
HTTP status in `nnn`.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

import psycopg

DatabaseError = psycopg.Error
"""Whatever a call of the database raises, the loss of the connection included."""


class Kind(Enum):
    """What happened. Only `REFUSED` and `DATA` are about what was asked: after all others, the same may succeed later."""

    REFUSED = auto()
    """A rule of ours refused it (`PTnnn`)."""
    DATA = auto()
    """A value cannot be stored or worked with: the same fails again."""
    CONFLICT = auto()
    """Rolled back to let others go on: a deadlock or a serialization failure. The same may be tried at once."""
    STALE_STATEMENT = auto()
    """What the connection has prepared no longer fits the database. Nothing ran; it works after `deallocate all`."""
    LOST = auto()
    """The connection ended, or was never made."""
    OUTCOME_UNKNOWN = auto()
    """The connection was lost while something ran that changes data: it may have been carried out, or not."""
    BUSY = auto()
    """A lock was not to be had in time."""
    TIMEOUT = auto()
    """The statement was cancelled, because it took too long or because somebody said so."""
    READ_ONLY = auto()
    """The database is a standby or read-only, and this would have changed something."""
    UNAVAILABLE = auto()
    """The server lacks memory, disk or connections, cannot read its files, or is starting or stopping."""
    NOT_MIGRATED = auto()
    """Something that this release calls is not in the database."""
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
"""By SQLSTATE, or by its class, the first two characters, for all others of that class. What is in neither way here is INTERNAL."""

WITHOUT_EFFECT: Final = frozenset({"08001", "08003", "08004", "57P01", "57P03", "57P05"})
"""The losses of a connection that certainly left nothing behind: it was never made, was idle, or the server rolled back before it left."""


class StaleConnectionError(psycopg.OperationalError):
    """The server had closed a pooled connection before anything was sent over it."""

    sqlstate = "08003"


class OutcomeUnknownError(psycopg.OperationalError):
    """The connection was lost while a function ran that changes something: it may have been carried out, or not."""

    sqlstate = "08007"


class NotMigratedError(psycopg.ProgrammingError):
    """The database lacks what the migrations of this release make."""

    sqlstate = "3F000"

    def __init__(self) -> None:
        super().__init__("the database lacks the migrations of this release; `python -m pyshell migrate` applies them")


def kind_of(error: DatabaseError) -> Kind:
    """What happened. Errors that psycopg raises by itself have no SQLSTATE: they are lost connections, but for values it cannot send."""
    state = error.sqlstate
    if state is None:
        if isinstance(error, psycopg.DataError):
            return Kind.DATA
        return Kind.LOST if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) else Kind.INTERNAL
    if error.diag.source_function == "RevalidateCachedQuery":
        # "cached plan must not change result type". Its SQLSTATE has other uses, and its text is translated: where it comes from tells it.
        return Kind.STALE_STATEMENT
    kind = KINDS.get(state) or KINDS.get(state[:2], Kind.INTERNAL)
    return Kind.INTERNAL if kind is Kind.NOT_MIGRATED and is_inside_function(error) else kind


def is_about_the_data(error: DatabaseError) -> bool:
    """Whether the values are at fault, so that the same fails for ever. After any other error, the same may be tried again."""
    return kind_of(error) in (Kind.DATA, Kind.REFUSED)


def had_no_effect(error: DatabaseError) -> bool:
    """Whether it is certain that nothing was changed, though the same could be carried out by another try."""
    return kind_of(error) in (Kind.CONFLICT, Kind.STALE_STATEMENT) or error.sqlstate in WITHOUT_EFFECT


def is_inside_function(error: DatabaseError) -> bool:
    """Whether a function of the database was running, so that the call itself was well-formed."""
    return re.search(r"^(PL/pgSQL|SQL) function", error.diag.context or "", re.MULTILINE) is not None


def explain(error: DatabaseError) -> str:
    """The error for people: what happened and what helps, without where in the functions it happened."""
    if kind_of(error) is Kind.NOT_MIGRATED:
        return str(NotMigratedError())
    diag = error.diag
    if diag.message_primary is None:
        return str(error).strip()
    return "\n".join(filter(None, [diag.message_primary, diag.message_hint and f"hint: {diag.message_hint}"]))
