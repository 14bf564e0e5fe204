"""What the client raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class BatchLookupsError(Exception):
    """Whatever goes wrong between the client and the service."""


class InvalidArgumentError(BatchLookupsError, ValueError):
    """What no request can be made of: an empty id, an API key that cannot be one. Nothing was sent."""


class UnavailableError(BatchLookupsError):
    """The service could not be reached, or didn't answer in time, however often it was tried.

    `maybe_done`: the request may have been carried out, and was not repeated because a repetition could do it twice.
    """

    def __init__(self, message: str, *, maybe_done: bool = False) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done


class ApiError(BatchLookupsError):
    """An answer of the service other than success. `code` is stable, the message may be reworded; docs/errors.md lists the codes.

    `body` is the whole answer, with the further members that some codes have.
    """

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(str(body.get("error") or f"The service answered with status {status}"))
        self.status = status
        self.body = body
        self.code = str(body.get("code") or "")
        self.hint = str(body.get("hint") or "")
        self.request_id = str(body.get("request_id") or "")

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process gets what was raised in this one; without this, unpickling fails and brings its pool of processes down.
        return type(self), (self.status, self.body)
