"""The error that refuses a request. Imports nothing heavy: the process that reads a workbook raises it, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """An error response. `code` is stable, `message` may be reworded; `members` are added to the body."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        members: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.members = members or {}
        self.headers = headers or {}


def body_too_large(max_bytes: int) -> ApiError:
    return ApiError(413, "body_too_large", f"The body may have at most {max_bytes:,} bytes")
