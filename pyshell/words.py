"""English for numbers of things."""

from __future__ import annotations


def plural(noun: str, count: int) -> str:
    """Such as site, sites; utility, utilities."""
    if count == 1:
        return noun
    return noun[:-1] + "ies" if noun.endswith("y") else noun + "s"


def counted(count: int, noun: str) -> str:
    """Such as 1 site; 1,204 sites."""
    return f"{count:,} {plural(noun, count)}"
