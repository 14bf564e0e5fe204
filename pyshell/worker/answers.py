"""Checks a response body: PostgreSQL can store it, clients can read it, and it belongs to this request."""

from __future__ import annotations

import asyncio
import re
from typing import Final

import msgspec
import orjson

from pyshell.postgres.json_text import MAX_DEPTH, pieces_of_numbers_and_depth

# 1e131071 is eight bytes here and 131,072 digits as jsonb. No amount of money has a three-digit exponent.
HUGE_EXPONENT: Final = re.compile(rb"[0-9][eE][-+]?0*[1-9][0-9]{2}")
# One digit replaces all, and braces nest as brackets do.
PLAIN: Final = bytes.maketrans(b"123456789E{}", b"000000000e[]")
SIGNS: Final = b"+-"


class Referring(msgspec.Struct):
    """All that is read of a response. The rest is only checked, and becomes no objects, of which a megabyte may have hundred thousands."""

    reference_id: msgspec.Raw = msgspec.Raw(b"null")


REFERRING: Final = msgspec.json.Decoder(Referring)


class AnswerCheck:
    """Checks responses, of which several may arrive at once: it scans one at a time, in pieces between which other tasks run."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def is_storable(self, body: bytes) -> bool:
        """UTF-8 without NUL, which PostgreSQL stores neither as a character nor as an escape; no huge exponent; not nested too deeply.

        A few searches settle most responses; the others are scanned without their strings, which may contain anything.
        """
        if not body.isascii():
            try:
                body.decode()
            except UnicodeDecodeError:
                return False
        if b"\0" in body or (b"\\u0000" in body and b"\\u0000" in body.replace(b"\\\\", b"/")):
            return False
        plain = body.translate(PLAIN, SIGNS)
        return (b"0e000" not in plain and plain.count(b"[") <= MAX_DEPTH) or await self._is_within_bounds(body)

    async def _is_within_bounds(self, body: bytes) -> bool:
        async with self._turn:
            for _, numbers, depth in pieces_of_numbers_and_depth(body):
                if depth > MAX_DEPTH or HUGE_EXPONENT.search(numbers):
                    return False
                await asyncio.sleep(0)
        return True


def foreign_reference_id(body: bytes, request: bytes) -> str | None:
    """The `reference_id` of a response if it differs from the request's; None: the same, or missing. Both are JSON."""
    if b"reference_id" not in body and (b"\\" not in body or b"\\u" not in body):
        return None
    answered = read_reference_id(body)
    return answered if answered is not None and answered != read_reference_id(request) else None


def read_reference_id(body: bytes) -> str | None:
    """The top-level member; a number counts as its digits. None: missing."""
    try:
        text = bytes(REFERRING.decode(body).reference_id)
        value = text.decode() if text[:1] in (b"[", b"{") else orjson.loads(text)
    except (ValueError, RecursionError):
        return None
    return None if value is None else str(value)
