"""Lists of the service, page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ParamSpec, TypedDict, TypeVar

P = ParamSpec("P")
L = TypeVar("L", bound="ListPage")


class ListPage(TypedDict):
    next_cursor: str | None


def pages(load: Callable[P, L], *arguments: P.args, **options: P.kwargs) -> Iterator[L]:
    """The pages of `load`, which takes `cursor` and these arguments, each loaded on demand."""
    load_page: Callable[..., L] = load
    cursor: str | None = None
    while True:
        page = load_page(*arguments, **options, cursor=cursor)
        yield page
        cursor = page["next_cursor"]
        if cursor is None:
            return
