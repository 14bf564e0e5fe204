"""Reads requests: the body, ids in the path, query parameters."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import wraps
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from pyshell import traces
from pyshell.api.authentication import unauthorized
from pyshell.api.errors import ApiError, body_too_large
from pyshell.api.json_bodies import check_json
from pyshell.api.large_answers import PiecewiseResponse
from pyshell.api.media_types import JSON, check_charset, recognize
from pyshell.postgres.compact import PIECE_BYTES, compact

MAX_INTEGER = 2**31 - 1
# For bodies that have no reason to be larger.
MAX_JSON_BYTES = 64 * 1024
PAGE = ("limit", "offset", "cursor")
CREATED = ("created_from", "created_before")
# Those that may be repeated.
REPEATABLE = frozenset({"label"})

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
# The grammar of app.parse_timestamp. In a query, an unescaped plus sign has become a space.
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d([Tt ]([01]\d|2[0-3])(:[0-5]\d){2}(\.\d{1,9})?([Zz]|[+ -](0\d|1[0-4]):[0-5]\d))?", re.ASCII)
_NEXT_CURSOR = re.compile(rb'"next_cursor"\s*:\s*"([A-Za-z0-9_-]+)"\s*\}\s*$')
# A page ends with its next_cursor, which contains at most a reference_id.
_LONGEST_CURSOR = 2048

Endpoint = Callable[[Request], Awaitable[Response]]


def with_parameters(endpoint: Endpoint, *known: str) -> Endpoint:
    """The endpoint with its known query parameters. Others are refused, so that a misspelt filter never goes unnoticed."""

    @wraps(endpoint)
    async def checked(request: Request) -> Response:
        check_parameters(request, known)
        return await endpoint(request)

    return checked


def check_parameters(request: Request, known: tuple[str, ...]) -> None:
    """Raises ApiError 400 for unknown or repeated parameters."""
    given = Counter(name for name, _ in request.query_params.multi_items())
    if unknown := sorted(given.keys() - known):
        raise ApiError(
            400,
            "unknown_parameter",
            f"Unknown query parameters: {', '.join(name[:100] for name in unknown[:10])}",
            hint=f"This route knows {', '.join(known)}." if known else "This route knows none.",
        )
    if repeated := sorted(name for name, count in given.items() if count > 1 and name not in REPEATABLE):
        raise ApiError(400, "repeated_parameter", f"Query parameters given more than once: {', '.join(repeated)}")


def json_response(text: bytes, status: int = 200) -> Response:
    """JSON from PostgreSQL."""
    body = compact(text)
    kind = PiecewiseResponse if len(body) > PIECE_BYTES else Response
    return kind(body, status, media_type="application/json")


async def json_body(request: Request, max_bytes: int = MAX_JSON_BYTES) -> str:
    """The body as text, for PostgreSQL to parse.

    Raises ApiError: 400 not UTF-8, with a NUL character, or too much once it is parsed; 413 more than `max_bytes`; 415 declared as
    something other than JSON.
    """
    body = await read_body(request, max_bytes)
    check_content_type(request, body)
    # A large body, in a thread, so that others need not wait.
    return json_text(body) if len(body) <= PIECE_BYTES else await asyncio.to_thread(json_text, body)


async def optional_json_body(request: Request, max_bytes: int = MAX_JSON_BYTES) -> str:
    """Like `json_body`, but an empty object if there is no body."""
    return await json_body(request, max_bytes) or "{}"


def json_text(body: bytes) -> str:
    if b"\0" in body:
        raise ApiError(400, "invalid_json", "The body is not valid JSON: it contains a NUL character")
    check_json(body)
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
    if declared_bytes(request) > max_bytes:
        raise body_too_large(max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise body_too_large(max_bytes)
    signature = request.user.signature
    if signature is not None and hashlib.sha256(body).hexdigest() != signature.body_digest:
        raise unauthorized("invalid_signature", "The body is not the one that was signed")
    return bytes(body)


def declared_bytes(request: Request) -> int:
    """The Content-Length, 0 if there is none: a 64-bit number, which may have any number of leading zeros."""
    return int(request.headers.get("content-length", "0").lstrip("0") or 0)


def uuid_param(request: Request, name: str, otherwise: ApiError) -> UUID:
    """The id in the path. Raises `otherwise` if the path segment is not a UUID."""
    return read_uuid(request.path_params[name], otherwise)


def read_uuid(text: str, otherwise: ApiError) -> UUID:
    if not _UUID.fullmatch(text):
        raise otherwise
    return UUID(text)


def page_params(request: Request) -> dict[str, object]:
    """`limit`, `offset` and `cursor`, if given; the database knows their defaults and bounds."""
    numbers = {name: integer_param(request, name) for name in ("limit", "offset") if name in request.query_params}
    return {**numbers, **text_params(request, "cursor")}


def page_response(request: Request, body: bytes) -> Response:
    """A page of a list, with the URL of the next one as `Link` (RFC 8288)."""
    response = json_response(body)
    if next_cursor := _NEXT_CURSOR.search(body[-_LONGEST_CURSOR:]):
        query = [(name, value) for name, value in request.query_params.multi_items() if name not in ("offset", "cursor")]
        address = f"{_mounted_path(request)}?{urlencode([*query, ('cursor', next_cursor[1].decode())])}"
        response.headers["Link"] = f'<{address}>; rel="next"'
    return response


def _mounted_path(request: Request) -> str:
    """The path with the prefix that the service is mounted under, whether or not a proxy stripped it."""
    prefix, path = request.scope["root_path"], request.scope["path"]
    return f"{prefix}{path.removeprefix(prefix)}"


def text_param(request: Request, name: str) -> str | None:
    text = request.query_params.get(name)
    if text is not None and "\0" in text:
        raise ApiError(400, f"invalid_{name}", f"{name} contains a character that is not allowed")
    return text


def text_params(request: Request, *names: str) -> dict[str, str | None]:
    """Those of the parameters that are given; the database knows their defaults and validates them."""
    return {name: text_param(request, name) for name in names if name in request.query_params}


def time_param(request: Request, name: str) -> datetime:
    """A day, which begins in UTC, or an instant of RFC 3339."""
    text = request.query_params[name].upper()
    wrong = ApiError(400, f"invalid_{name}", f"{name} must be a date such as 2026-05-31 or a time such as 2026-05-31T08:00:00Z")
    if not _TIMESTAMP.fullmatch(text):
        raise wrong
    try:
        time = datetime.fromisoformat(text[:11] + text[11:].replace(" ", "+"))
    except ValueError as error:
        raise wrong from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def label_params(request: Request) -> dict[str, str]:
    """The labels of `?label=key:value`, which may be repeated; the database validates keys and values."""
    labels: dict[str, str] = {}
    for text in request.query_params.getlist("label"):
        key, colon, value = text.partition(":")
        if not colon or key in labels or "\0" in text:
            raise ApiError(
                400,
                "invalid_label",
                "label must be a key, a colon and a value, and each key may be given only once",
                hint="Such as label=team:north.",
            )
        labels[key] = value
    return labels


def created_params(request: Request) -> dict[str, datetime]:
    """Those of CREATED that are given."""
    return {name: time_param(request, name) for name in CREATED if name in request.query_params}


def integer_param(request: Request, name: str) -> int | None:
    """None if it is not an integer: the database, which knows the bounds, refuses that, too."""
    text = request.query_params[name]
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) and abs(int(text)) <= MAX_INTEGER else None


def boolean_param(request: Request, name: str) -> bool:
    """Whether `?name=true` (or 1) was given."""
    text = request.query_params.get(name, "false")
    if text.lower() not in _BOOLEANS:
        raise ApiError(400, f"invalid_{name}", f"{name} must be true or false")
    return _BOOLEANS[text.lower()]


def idempotency_key(request: Request) -> str | None:
    """The database validates it. Several headers are joined as HTTP joins them, which is not a valid key."""
    given = request.headers.getlist("idempotency-key")
    return ", ".join(given) if given else None


def traceparent_of(request: Request) -> str | None:
    """The trace context that a new job continues; the database validates it. Several headers count as none."""
    if traces.recorder is not None:
        return traces.recorder.current_traceparent()
    given = request.headers.getlist("traceparent")
    return given[0] if len(given) == 1 else None
