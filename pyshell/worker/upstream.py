"""The incentives API as the worker sees it: a request goes out, an Answer comes back, whatever happens in between."""

import time
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple, Self
from uuid import UUID

from pyshell.settings import Settings
from pyshell.worker.upstream_connections import ConnectionPool, ExchangeError, Response


class Answer(NamedTuple):
    """What one lookup came to, as `api.record_lookups` takes it: a status and the text of the answer, or the class of the error.

    `retry_after` is in seconds.
    """

    http_status: int | None
    error_class: str | None
    text: bytes | None
    retry_after: float | None


def failure(error_class: str) -> Answer:
    return Answer(None, error_class, None, None)


class Upstream:
    """POSTs lookups to one URL.

    `names_organization` sends the organization's id along: to our own API, never to somebody else's.
    """

    def __init__(self, url: str, headers: dict[str, str], *, names_organization: bool) -> None:
        self._pool = ConnectionPool(url)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", **headers}
        self._names_organization = names_organization
        self._prepared = lru_cache(maxsize=1000)(self._prepare)

    @classmethod
    def from_settings(cls, settings: Settings, internal_key: str) -> Self:
        """The provider that the settings name, else our own `/incentives`, which trusts `internal_key`."""
        if settings.incentives_api_url:
            key = settings.incentives_api_key
            return cls(settings.incentives_api_url, {"Authorization": f"Bearer {key}"} if key else {}, names_organization=False)
        return cls(
            f"{settings.server_url}{settings.root_path}/incentives",
            {"Authorization": f"Bearer {internal_key}", "x-supabase-internal": "true"},
            names_organization=True,
        )

    async def look_up(self, organization_id: bytes, request: bytes, seconds: float, max_bytes: int) -> Answer:
        """One lookup of an organization (the 16 bytes of its id); within `seconds`. Raises nothing but cancellation."""
        try:
            response = await self._pool.post(self._prepared(organization_id), request, seconds, max_bytes)
        except ExchangeError as error:
            return failure(error.error_class)
        return read_answer(response)

    def close(self) -> None:
        self._pool.close()

    def _prepare(self, organization_id: bytes) -> bytes:
        if self._names_organization:
            return self._pool.prepare({**self._headers, "x-organization-id": str(UUID(bytes=organization_id))})
        return self._pool.prepare(self._headers)


def read_answer(response: Response) -> Answer:
    """The body must be UTF-8; PostgreSQL stores no NUL, neither as a character nor as a JSON escape."""
    body = response.body
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            return failure("invalid_response")
    if b"\0" in body:
        body = body.replace(b"\0", b"")
    if b"\\u0000" in body:
        body = without_escaped_nul(body)
    header = response.headers.get(b"retry-after")
    return Answer(response.status, None, body, None if header is None else retry_after(header, response.headers.get(b"date")))


def without_escaped_nul(body: bytes) -> bytes:
    r"""Remove `\u0000` from JSON text, but not from `\\u0000`, a backslash followed by letters."""
    return b"\\\\".join(part.replace(b"\\u0000", b"") for part in body.split(b"\\\\"))


def retry_after(header: bytes, date: bytes | None = None) -> float | None:
    """Seconds to wait (RFC 9110, 10.2.3): a number of seconds, or a date, which is counted from the server's own if it sent one."""
    text = header.decode("latin-1").strip()
    if text.isdecimal():
        return float(text[:9])
    until = http_date(text)
    if until is None:
        return None
    now = http_date(date.decode("latin-1")) if date else None
    return max(until - (time.time() if now is None else now), 0.0)


def http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
