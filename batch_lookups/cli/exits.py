"""How the command ends: exit codes that scripts can rely on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from batch_lookups.errors import GATEWAY, ApiError, BatchLookupsError, UnavailableError

if TYPE_CHECKING:
    from batch_lookups.types import Job

ALL, ERROR, USAGE, SOME_FAILED, AUTHENTICATION, NOTHING, STOPPED, UNAVAILABLE, DETACHED = 0, 1, 2, 3, 4, 5, 6, 7, 130
BROKEN_PIPE = 141

EXPLANATION = """\
\b
Exit codes:
  0    everything was done, and every item was looked up
  1    an error                       5  no item was valid, or all failed
  2    wrong usage                    6  cancelled, or stopped by a limit
  3    some items failed              7  the service is unavailable
  4    no key, or not authorized   130  detached with Ctrl-C
"""


def interrupted(error: KeyboardInterrupt | SystemExit) -> int:
    """The exit code after Ctrl-C, or a signal such as SIGTERM, which both end the command from wherever it is."""
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else DETACHED


class Ended(Exception):  # noqa: N818 - not always an error
    """Ends the command with an exit code, what happened and what to do about it; as JSON, also with `details`."""

    def __init__(self, code: int, message: str, hint: str = "", details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
        self.details = details or {}


def of_job(job: Job) -> int:
    """The exit code for a job that has ended, or that waits to be continued."""
    if job["status"] == "cancelled" or job["waiting_for"] or "lookup_limit_reached" in job["errors_by_code"]:
        return STOPPED
    if job["failed_items"] == job["total_items"]:
        return NOTHING
    return SOME_FAILED if job["failed_items"] else ALL


def of_error(error: BatchLookupsError) -> int:
    if isinstance(error, ApiError):
        if error.code in ("too_many_open_items", "lookup_limit_reached"):
            return STOPPED
        if error.status in (401, 403):
            return AUTHENTICATION
        if error.status in (429, 503, *GATEWAY):
            return UNAVAILABLE
        return ERROR
    return UNAVAILABLE if isinstance(error, UnavailableError) else ERROR
