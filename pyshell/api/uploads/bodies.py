"""Reads bodies as they arrive: decompresses them and enforces limits."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

from pyshell.api.errors import ApiError, body_too_large
from pyshell.api.pieces import cut, in_pieces
from pyshell.postgres.compact import PIECE_BYTES

# Text compresses to about a tenth, repetitive text to a hundredth; anything that expands more is an attack.
MAX_RATIO = 250
# For zlib: with the header and the trailer of gzip.
GZIP_BITS = 16 + zlib.MAX_WBITS


async def limited(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The chunks; raises ApiError 413 as soon as their total exceeds `max_bytes`."""
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > max_bytes:
            raise body_too_large(max_bytes)
        async for piece in in_pieces(chunk):
            yield piece


async def gunzipped(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The decompressed chunks (RFC 1952, also of several members), at most one piece at a time.

    Raises ApiError: 400 not gzip, or truncated; 413 expands to more than `max_bytes`, or beyond `MAX_RATIO`.
    """
    member = zlib.decompressobj(GZIP_BITS)
    read = expanded = 0
    async for chunk in chunks:
        # What follows a member, and the rest after a piece, is copied each time: for a whole file, that would take hours.
        for rest in cut(chunk):
            read += len(rest)
            while rest:
                if member.eof:
                    member = zlib.decompressobj(GZIP_BITS)
                try:
                    piece = member.decompress(rest, PIECE_BYTES)
                except zlib.error as error:
                    raise ApiError(400, "invalid_gzip", "The body is not valid gzip") from error
                rest = member.unused_data if member.eof else member.unconsumed_tail
                expanded += len(piece)
                if expanded > max_bytes:
                    raise body_too_large(max_bytes)
                if expanded > max(read * MAX_RATIO, PIECE_BYTES):
                    raise ApiError(413, "suspicious_compression", f"The body expands to more than {MAX_RATIO} times its size")
                yield piece
                await asyncio.sleep(0)
    if not member.eof:
        raise ApiError(400, "invalid_gzip", "The body is not valid gzip: its end is missing")
