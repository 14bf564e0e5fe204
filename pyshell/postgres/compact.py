"""JSON in one style: PostgreSQL's functions format white space in three different ways, often within one result."""

from __future__ import annotations

import asyncio

import msgspec

# Of a long text, this much is checked, compacted or sent at a time, so that neither other tasks nor other threads wait for long.
PIECE_BYTES = 64 * 1024


def compact(text: bytes) -> bytes:
    """The same JSON without white space between its tokens. The tokens stay the same, digit for digit."""
    try:
        return msgspec.json.format(text, indent=-1)
    except RecursionError:
        # JSON that a provider nested a thousand levels deep is sent as it came.
        return text


async def compact_lines(lines: bytes) -> bytes:
    """Lines of JSON, each compacted."""
    compacted = []
    size = 0
    for line in lines.splitlines():
        compacted.append(compact(line))
        size += len(line)
        if size >= PIECE_BYTES:
            size = 0
            await asyncio.sleep(0)
    return b"\n".join([*compacted, b""])
