"""Reads what a request brings: the body, ids in the path, query parameters."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from pyshell.api.errors import ApiError
from pyshell.api.media_types import JSON, check_charset, recognize

MAX_INTEGER = 2**31 - 1

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def json_response(text: bytes, status: int = 200) -> Response:
    """JSON as PostgreSQL wrote it."""
    return Response(text, status, media_type="application/json")


async def json_body(request: Request, max_bytes: int) -> str:
    """The body as text, for PostgreSQL to parse.

    Raises ApiError: 400 not UTF-8, or with a NUL character; 413 more than `max_bytes`; 415 declared as something other than JSON.
    """
    body = await read_body(request, max_bytes)
    check_content_type(request, body)
    return json_text(body)


def json_text(body: bytes) -> str:
    if b"\0" in body:
        raise ApiError(400, "invalid_json", "The body is not valid JSON: it contains a NUL character")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ApiError(400, "invalid_encoding", f"The body is not valid UTF-8 at byte {error.start}") from error


def check_content_type(request: Request, body: bytes) -> None:
    content_type = request.headers.get("content-type")
    if recognize(content_type, body) != JSON:
        raise ApiError(415, "unsupported_media_type", "The body must be JSON", hint=f"Send the header Content-Type: {JSON}.")
    check_charset(content_type)
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(415, "unsupported_encoding", "The body must not be compressed")


async def read_body(request: Request, max_bytes: int) -> bytes:
    too_large = ApiError(413, "body_too_large", f"The body may have at most {max_bytes:,} bytes")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def uuid_param(request: Request, name: str, otherwise: ApiError) -> UUID:
    """The id in the path. Raises `otherwise` when it is none, because then nothing has it."""
    text = request.path_params[name]
    if not _UUID.fullmatch(text):
        raise otherwise
    return UUID(text)


def page_params(request: Request) -> dict[str, object]:
    """`limit` and `offset`, where given; the database knows their defaults and bounds."""
    return {name: integer_param(request, name) for name in ("limit", "offset") if name in request.query_params}


def status_param(request: Request) -> str | None:
    """`status`, where given; the database knows which there are."""
    return text_param(request, "status")


def text_param(request: Request, name: str) -> str | None:
    text = request.query_params.get(name)
    if text is not None and "\0" in text:
        raise ApiError(400, f"invalid_{name}", f"{name} contains a character that is not allowed")
    return text


def text_params(request: Request, *names: str) -> dict[str, str | None]:
    """Those of the parameters that were given; the database knows their defaults, and what they may be."""
    return {name: text_param(request, name) for name in names if name in request.query_params}


def time_param(request: Request, name: str) -> datetime:
    """A day, which begins in UTC, or an instant of RFC 3339, UTC unless it names another offset."""
    try:
        # In a query, a plus sign that was not escaped has become a space.
        time = datetime.fromisoformat(request.query_params[name].replace(" ", "+"))
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ApiError(400, f"invalid_{name}", f"{name} must be a date such as 2026-05-31 or 2026-05-31T08:00:00Z") from error


def integer_param(request: Request, name: str) -> int:
    text = request.query_params[name]
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text) or abs(int(text)) > MAX_INTEGER:
        raise ApiError(400, f"invalid_{name}", f"{name} must be a whole number up to {MAX_INTEGER}")
    return int(text)


def boolean_param(request: Request, name: str) -> bool:
    """Whether `?name=true` (or 1) was given."""
    text = request.query_params.get(name, "false")
    if text.lower() not in _BOOLEANS:
        raise ApiError(400, f"invalid_{name}", f"{name} must be true or false")
    return _BOOLEANS[text.lower()]
