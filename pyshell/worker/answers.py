"""Checks the body of an answer: PostgreSQL can store it, clients can read it, and it answers this request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import orjson

from pyshell.postgres.compact import PIECE_BYTES

MAX_DEPTH: Final = 64
# 1e131071 is eight bytes here and 131,072 digits as jsonb. No amount of money has an exponent of three digits.
HUGE_EXPONENT: Final = re.compile(rb"[0-9][eE][-+]?0*[1-9][0-9]{2}")
ESCAPED_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# One digit stands for all, and braces nest as brackets do.
PLAIN: Final = bytes.maketrans(b"123456789E{}", b"000000000e[]")
SIGNS: Final = b"+-"
AS_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def is_storable(body: bytes) -> bool:
    """UTF-8 without NUL, which PostgreSQL stores neither as a character nor as an escape; no huge exponent; not nested too deeply.

    Most answers are told by a few searches; the others are read without their strings, where anything may stand.
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
        outside = outside_strings(body)
        return not HUGE_EXPONENT.search(outside) and not is_nested_deeper(outside, MAX_DEPTH)
    return True


def outside_strings(body: bytes) -> bytes:
    """A JSON text without its strings."""
    return b"".join(pieces_outside_strings(body))


def pieces_outside_strings(body: bytes) -> Iterator[bytes]:
    """A JSON text without its strings, a piece at a time."""
    start = 0
    is_inside = False
    while start < len(body):
        piece = body[start : start + PIECE_BYTES]
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        if backslashes % 2 and start + len(piece) < len(body):
            # What it escapes is in the next piece.
            piece = piece[:-1]
        start += len(piece)
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        yield b"".join(parts[is_inside::2])
        is_inside ^= len(parts) % 2 == 0


def is_nested_deeper(outside: bytes, depth: int) -> bool:
    """Whether arrays and objects are nested more than `depth` levels deep: removes the innermost ones so many times.

    Unclosed ones, which are no JSON, count as well.
    """
    brackets = outside.translate(AS_BRACKETS, NOT_BRACKETS)
    for _ in range(depth):
        if b"[]" not in brackets:
            break
        brackets = brackets.replace(b"[]", b"")
    return b"[]" in brackets or brackets.count(b"[") > depth


def foreign_reference_id(body: bytes, request: bytes) -> str | None:
    """The `reference_id` of an answer that is not the one of the request. None: it is the same, or there is none. Both are JSON."""
    if b"reference_id" not in body and (b"\\" not in body or b"\\u" not in body):
        return None
    answered = read_reference_id(body)
    return answered if answered is not None and answered != read_reference_id(request) else None


def read_reference_id(body: bytes) -> str | None:
    """The member at the top; a number counts as its digits. None: there is none."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    value = message.get("reference_id") if isinstance(message, dict) else None
    return None if value is None else str(value)
