"""JSON in one style. PostgreSQL's functions write three kinds of white space, often in one answer."""

from __future__ import annotations

import msgspec


def compact(text: bytes) -> bytes:
    """The same JSON without white space between its tokens, which stay as they are, digit for digit."""
    try:
        return msgspec.json.format(text, indent=-1)
    except RecursionError:
        # What a provider nested a thousand deep goes out as it is.
        return text
