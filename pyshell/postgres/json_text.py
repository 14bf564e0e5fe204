"""Scans JSON texts for PostgreSQL without creating values from them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from pyshell.postgres.compact import PIECE_BYTES

MAX_DEPTH: Final = 64
# One level down, or up: 1 and -1.
AS_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
EXPONENT: Final = re.compile(rb"[0-9][eE][+-]?\Z")


def pieces_outside_strings(body: bytes) -> Iterator[bytes]:
    """A JSON text without its strings, a piece at a time."""
    start = 0
    is_inside = False
    while start < len(body):
        piece = body[start : start + PIECE_BYTES]
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        if backslashes % 2 and start + len(piece) < len(body):
            # The character that it escapes is in the next piece.
            piece = piece[:-1]
        start += len(piece)
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        yield b"".join(parts[is_inside::2])
        is_inside ^= len(parts) % 2 == 0


def pieces_of_numbers_and_depth(body: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """The pieces outside strings; each also after the number that the one before it may have left unfinished, and with its deepest level.

    Unclosed arrays and objects, which are not valid JSON, count as well.
    """
    unfinished = b""
    opened = 0
    for piece in pieces_outside_strings(body):
        numbers = unfinished + piece
        steps = memoryview(piece.translate(AS_STEPS, NOT_BRACKETS)).cast("b")
        yield piece, numbers, max(accumulate(steps, initial=opened))
        unfinished = unfinished_number(numbers)
        opened = max(opened + sum(steps), 0)


def unfinished_number(text: bytes) -> bytes:
    """What a search for an exponent needs of a possibly unfinished number: not all its digits, nor zeros before an exponent."""
    before = text.rstrip(b"0123456789")
    digits = text[len(before) :]
    exponent = EXPONENT.search(before[-3:])
    return exponent[0] + digits.lstrip(b"0") if exponent else digits[-1:]
