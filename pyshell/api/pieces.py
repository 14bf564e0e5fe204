"""Bodies and answers in pieces, between which others have their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from pyshell.postgres.compact import PIECE_BYTES


def cut(text: bytes) -> Iterator[bytes]:
    for start in range(0, len(text), PIECE_BYTES):
        yield text[start : start + PIECE_BYTES]


async def in_pieces(text: bytes) -> AsyncIterator[bytes]:
    """The text, with turns for others between its pieces."""
    for piece in cut(text):
        yield piece
        await asyncio.sleep(0)
