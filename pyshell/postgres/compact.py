"""JSON in one style: PostgreSQL's functions put white space in three different ways, often within one answer."""

from __future__ import annotations

import msgspec


def compact(text: bytes) -> bytes:
    """The same JSON without white space between its tokens. The tokens themselves stay as they are, digit for digit."""
    try:
        return msgspec.json.format(text, indent=-1)
    except RecursionError:
        # JSON that a provider nested a thousand levels deep goes out as it came.
        return text
