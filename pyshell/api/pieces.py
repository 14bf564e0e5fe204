"""Bodies and responses in pieces, between which other tasks run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from pyshell.postgres.compact import PIECE_BYTES


def cut(text: bytes) -> Iterator[bytes]:
    for start in range(0, len(text), PIECE_BYTES):
        yield text[start : start + PIECE_BYTES]


async def in_pieces(text: bytes) -> AsyncIterator[bytes]:
    """The text in pieces, between which other tasks run."""
    for piece in cut(text):
        yield piece
        await asyncio.sleep(0)
