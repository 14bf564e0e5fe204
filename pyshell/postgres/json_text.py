"""Scans JSON texts for PostgreSQL without creating values from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pyshell.postgres.compact import PIECE_BYTES

MAX_DEPTH: Final = 64
AS_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


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


def is_nested_deeper(outside: bytes, depth: int) -> bool:
    """Whether arrays and objects are nested more than `depth` levels deep: removes the innermost ones that many times.

    Unclosed ones, which are not valid JSON, count as well.
    """
    brackets = outside.translate(AS_BRACKETS, NOT_BRACKETS)
    for _ in range(depth):
        if b"[]" not in brackets:
            break
        brackets = brackets.replace(b"[]", b"")
    return b"[]" in brackets or brackets.count(b"[") > depth
