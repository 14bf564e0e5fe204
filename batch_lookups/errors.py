"""What the client raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Responses of proxies (520 and above: of Cloudflare), which do not know whether the request was carried out; and 408, for a request that
# arrives too slowly.
GATEWAY = (408, 502, 504, 520, 521, 522, 523, 524)


class BatchLookupsError(Exception):
    """Anything that goes wrong between the client and the service."""


class InvalidArgumentError(BatchLookupsError, ValueError):
    """Arguments that do not make a valid request: an empty id, something that cannot be an API key. Nothing was sent."""


class UnavailableError(BatchLookupsError):
    """The service could not be reached, or did not respond in time, despite retries.

    `maybe_done`: the request may have been carried out, and was not repeated lest it be carried out twice.
    """

    def __init__(self, message: str, *, maybe_done: bool = False) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done


class ApiError(BatchLookupsError):
    """An error response of the service. `code` is stable, the message may be reworded; docs/errors.md lists the codes.

    `body` is the whole response, with the further members that some codes have.
    """

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(str(body.get("error") or f"The service answered with status {status}"))
        self.status = status
        self.body = body
        self.code = str(body.get("code") or "")
        self.hint = str(body.get("hint") or "")
        self.request_id = str(body.get("request_id") or "")

    def __reduce__(self) -> tuple[Any, ...]:
        # Needed for pickling between processes; without this, unpickling fails and breaks a process pool.
        return type(self), (self.status, self.body)
