"""Splits the sources of functions into statements of lower-case tokens, well enough to search them for patterns."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?\*/
      | (?P<text>[eE]?'(?:[^']|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
      | (?P<other>"?[A-Za-z_][\w$]*"?(?:\.(?:[A-Za-z_]\w*|\*))*|%\w+|\d[\d.]*|::|:=|=>|->>|->|<=|>=|<>|\|\||[^\s\w])""",
    re.DOTALL | re.VERBOSE,
)
_AFTER_A_TABLE = re.compile(
    "where|on|order|group|limit|for|set|join|left|right|full|cross|inner|natural|using|values|select|from|union|and|or|when|offset|returning"
    "|having|loop|do|default|then|lateral|tablesample|overriding"
)


@dataclass(frozen=True)
class Reference:
    """A table of a statement: `verb` is the word before it, `place` the token of its name, `named_at` that of its alias."""

    table: str
    alias: str
    verb: str
    place: int
    named_at: int


@dataclass(frozen=True)
class Statement:
    """A statement of a function, or an expression of PL/pgSQL: `if`, a condition, an assignment."""

    tokens: tuple[str, ...]

    @cached_property
    def text(self) -> str:
        return " ".join(self.tokens)

    def references(self, tables: Collection[str]) -> list[Reference]:
        return list(self._references(tables))

    def _references(self, tables: Collection[str]) -> Iterator[Reference]:
        tokens = self.tokens
        for place, token in enumerate(tokens):
            before = tokens[place - 1] if place else ""
            if token not in tables or before not in ("from", "join", "into", "update", "using", "table", "only", ","):
                continue
            if before == "," and not {"from", "using"}.intersection(tokens[:place]):
                continue
            if before == "into" and tokens[place - 2] != "insert":
                continue
            named_at = place + (2 if tokens[place + 1 : place + 2] == ("as",) else 1)
            named = tokens[named_at] if named_at < len(tokens) else ";"
            has_alias = bool(re.fullmatch(r"[a-z_]\w*", named)) and not _AFTER_A_TABLE.fullmatch(named)
            verb = "delete" if before == "from" and tokens[place - 2] == "delete" else before
            yield Reference(token, named if has_alias else token.split(".")[-1], verb, place, named_at if has_alias else place)

    def calls(self, names: Collection[str]) -> set[str]:
        """The functions of these names that it calls."""
        pairs = zip(self.tokens, self.tokens[1:], strict=False)
        return {token for token, after in pairs if after == "(" and token in names}

    def level(self, place: int) -> str:
        """The tokens of the innermost parentheses around a place, with what is in parentheses therein."""
        return " ".join(self.tokens[self._edge(place, -1) : self._edge(place, 1) + 1])

    def _edge(self, place: int, step: int) -> int:
        closing, opening = (")", "(") if step < 0 else ("(", ")")
        depth = 0
        while 0 <= place + step < len(self.tokens):
            place += step
            if self.tokens[place] == closing:
                depth += 1
            elif self.tokens[place] == opening:
                if depth == 0:
                    break
                depth -= 1
        return place


def statements(source: str) -> list[Statement]:
    """The statements of a body in SQL or PL/pgSQL, including those in strings that it executes."""
    found = list(_split(source))
    for statement in list(found):
        if "execute" in statement.tokens:
            for token in statement.tokens:
                if token.endswith(("'", "$")) and re.search(r"\b(select|insert|update|delete)\b", token):
                    found += _split(re.sub(r"^'|'$|^\$\w*\$|\$\w*\$$", "", token).replace("''", "'"))
    return found


def _split(source: str) -> Iterator[Statement]:
    tokens: list[str] = []
    cases = 0
    for match in _TOKEN.finditer(source):
        token = match["text"] or (match["other"] or "").lower()
        if token == "case":
            cases += 1
        elif token == "end" and cases:
            cases -= 1
        if token == ";" or token in ("begin", "declare", "loop") or (token in ("then", "else") and not cases):
            if tokens:
                yield Statement(tuple(tokens))
            tokens = []
        elif token:
            tokens.append(token)
    if tokens:
        yield Statement(tuple(tokens))


def closure(calls: Mapping[str, Collection[str]], first: Collection[str]) -> set[str]:
    """These names, and all functions that call one of them, directly or indirectly."""
    found = set(first)
    while more := {name for name, called in calls.items() if name not in found and not found.isdisjoint(called)}:
        found |= more
    return found
