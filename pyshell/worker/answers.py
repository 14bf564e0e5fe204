"""Checks a response body: PostgreSQL can store it, clients can read it, and it belongs to this request."""

from __future__ import annotations

import re
from typing import Final

import orjson

from pyshell.postgres.json_text import MAX_DEPTH, is_nested_deeper, pieces_outside_strings

# 1e131071 is eight bytes here and 131,072 digits as jsonb. No amount of money has a three-digit exponent.
HUGE_EXPONENT: Final = re.compile(rb"[0-9][eE][-+]?0*[1-9][0-9]{2}")
ESCAPED_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# One digit replaces all, and braces nest as brackets do.
PLAIN: Final = bytes.maketrans(b"123456789E{}", b"000000000e[]")
SIGNS: Final = b"+-"


def is_storable(body: bytes) -> bool:
    """UTF-8 without NUL, which PostgreSQL stores neither as a character nor as an escape; no huge exponent; not nested too deeply.

    A few searches settle most responses; the others are scanned without their strings, which may contain anything.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            return False
    if b"\0" in body or (b"\\" in body and b"\\u0000" in body and ESCAPED_NUL.search(body)):
        return False
    plain = body.translate(PLAIN, SIGNS)
    if b"0e000" in plain or plain.count(b"[") > MAX_DEPTH:
        outside = b"".join(pieces_outside_strings(body))
        return not HUGE_EXPONENT.search(outside) and not is_nested_deeper(outside, MAX_DEPTH)
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
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    value = message.get("reference_id") if isinstance(message, dict) else None
    return None if value is None else str(value)
