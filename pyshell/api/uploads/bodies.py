"""Bodies as they arrive: decompressed, held to their limits, decoded."""

from __future__ import annotations

import asyncio
import codecs
import zlib
from collections.abc import AsyncIterator

from pyshell.api.errors import ApiError

# What is read at once, so that other requests get their turn in between.
PIECE_BYTES = 64 * 1024
# Text compresses to a tenth or so, repetitive text to a hundredth; what expands further was made to do harm.
MAX_RATIO = 250
GZIP = 16 + zlib.MAX_WBITS

BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


async def limited(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """The chunks; raises ApiError 413 as soon as they are more than `max_bytes` together."""
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > max_bytes:
            raise too_large(max_bytes)
        for start in range(0, len(chunk), PIECE_BYTES):
            yield chunk[start : start + PIECE_BYTES]
            await asyncio.sleep(0)


async def gunzipped(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """What the chunks expand to (RFC 1952, several members too), never more than a piece at once.

    Raises ApiError: 400 it is not gzip, or cut short; 413 it expands to more than `max_bytes`, or beyond `MAX_RATIO`.
    """
    member = zlib.decompressobj(GZIP)
    read = expanded = 0
    async for chunk in chunks:
        read += len(chunk)
        rest = chunk
        while rest:
            if member.eof:
                member = zlib.decompressobj(GZIP)
            try:
                piece = member.decompress(rest, PIECE_BYTES)
            except zlib.error as error:
                raise ApiError(400, "invalid_gzip", "The body is not valid gzip") from error
            rest = member.unused_data if member.eof else member.unconsumed_tail
            expanded += len(piece)
            if expanded > max_bytes:
                raise too_large(max_bytes)
            if expanded > max(read * MAX_RATIO, PIECE_BYTES):
                raise ApiError(413, "suspicious_compression", f"The body expands to more than {MAX_RATIO} times its size")
            yield piece
            await asyncio.sleep(0)
    if not member.eof:
        raise ApiError(400, "invalid_gzip", "The body is not valid gzip: its end is missing")


def too_large(max_bytes: int) -> ApiError:
    return ApiError(413, "body_too_large", f"The body may have at most {max_bytes:,} bytes")


class Decoder:
    """Bytes to text: UTF-8, or UTF-16 where a byte order mark says so. Mistakes are named by their byte."""

    def __init__(self) -> None:
        self._start = b""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._taken = 0

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """The text of what came so far. Raises ApiError 400."""
        if self._decoder is None:
            self._start += data
            if len(self._start) < 3 and not final:
                return ""
            data = self._begin()
        assert self._decoder is not None
        pending = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise ApiError(
                400,
                "invalid_encoding",
                f"The body is not valid {error.encoding.upper()} at byte {self._taken - pending + error.start}",
                hint="Save the file as UTF-8.",
            ) from error
        if "\0" in text:
            before = len(text[: text.index("\0")].encode(self._encoding, "replace"))
            raise ApiError(400, "invalid_encoding", f"The body contains a NUL character at byte {self._taken - pending + before}")
        self._taken += len(data)
        return text

    def _begin(self) -> bytes:
        mark, self._encoding = next(((mark, name) for mark, name in BYTE_ORDER_MARKS if self._start.startswith(mark)), (b"", "utf-8"))
        self._decoder = codecs.getincrementaldecoder(self._encoding)()
        self._taken = len(mark)
        return self._start[len(mark) :]
