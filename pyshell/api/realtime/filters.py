"""Subscriptions of a channel: the entries of `postgres_changes` in its join, with the filter grammar of Supabase Realtime.

A filter is `column=operator.value`; several, separated by commas, must all match; `not.` before the operator negates it. Quotes around a
value keep its commas. Without a value to compare, a row that lacks the column or has null there, a condition does not hold, negated or not;
`is` and `isdistinct` alone see null. https://supabase.com/docs/guides/realtime/postgres-changes#available-filters
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

SCHEMA = "public"
MAX_FILTER_LENGTH = 2_000
# Of a channel, together: a condition of 13 characters takes 270 bytes for as long as the channel is joined, and time at each change.
MAX_FILTERS_LENGTH = 4_000
MAX_PATTERN_LENGTH = 200
MAX_IN_VALUES = 100
# The primary key of every table.
KEY = frozenset({"organization_id", "id"})

# Half of a surrogate pair, which a JSON string may contain, but no text of PostgreSQL.
_SURROGATE = re.compile(r"[\ud800-\udfff]")

Record = Mapping[str, Any]
# Column types by name, as PostgreSQL calls them, of each table.
Tables = Mapping[str, Mapping[str, str]]


class FilterError(ValueError):
    """The message says what is wrong with an entry of postgres_changes."""


class Question(NamedTuple):
    """A comparison with PostgreSQL's own semantics: the arguments of `api.realtime_match`."""

    operator: str
    value: str
    operand: str


Answers = Mapping[Question, bool | None]


@dataclass(frozen=True, slots=True)
class Condition:
    """`operand` is the result of `read`; for `in`, a set of them."""

    column: str
    operator: str
    operand: Any
    is_negated: bool
    read: Callable[[str], Any]

    @property
    def is_asked(self) -> bool:
        return self.operator in _PATTERNS or (self.operator in _ORDERINGS and self.read is str)

    def question(self, record: Record) -> Question | None:
        found = record.get(self.column)
        return Question(self.operator, str(found), self.operand) if self.is_asked and found is not None else None

    def holds(self, record: Record, answers: Answers) -> bool:
        if self.column not in record:
            return False
        found = record[self.column]
        if self.operator == "is":
            return (found is None) != self.is_negated
        if self.operator == "isdistinct":
            return (found is None or self.read(str(found)) != self.operand) != self.is_negated
        if found is None:
            return False
        if question := self.question(record):
            answer = answers.get(question)
        elif self.operator == "in":
            answer = self.read(str(found)) in self.operand
        else:
            answer = _COMPARISONS[self.operator](self.read(str(found)), self.operand)
        return answer is not None and answer != self.is_negated


@dataclass(frozen=True, slots=True)
class Subscription:
    """One entry. Messages refer to it by its `id`."""

    id: int
    event: str
    tables: frozenset[str]
    conditions: tuple[Condition, ...]
    # The columns of its messages; None: all.
    columns: frozenset[str] | None
    # The only rows that the filter lets through; None: any.
    row_ids: frozenset[str] | None

    def may_want(self, table: str, row_id: str) -> bool:
        return table in self.tables and (self.row_ids is None or row_id in self.row_ids)

    def questions(self, table: str, record: Record) -> Iterator[Question]:
        if table in self.tables:
            yield from filter(None, (condition.question(record) for condition in self.conditions))

    def wants(self, event: str, table: str, record: Record, answers: Answers) -> bool:
        return (
            self.event in (event, "*") and table in self.tables and all(condition.holds(record, answers) for condition in self.conditions)
        )


def parse_subscriptions(entries: Sequence[Mapping[str, Any]], tables: Tables) -> list[Subscription]:
    """Reads the entries of a channel. Raises FilterError."""
    if sum(len(entry["filter"]) for entry in entries if isinstance(entry.get("filter"), str)) > MAX_FILTERS_LENGTH:
        raise FilterError(f"Error parsing `filter` params: those of a channel may have {MAX_FILTERS_LENGTH:,} characters together")
    return [parse_subscription(entry, number, tables) for number, entry in enumerate(entries, 1)]


def parse_subscription(entry: Mapping[str, Any], number: int, tables: Tables) -> Subscription:
    """Reads an entry. Raises FilterError. Patterns are checked only as far as possible without PostgreSQL."""
    event, schema, table, filter_text, select = (entry.get(name) for name in ("event", "schema", "table", "filter", "select"))
    event = event.upper() if isinstance(event, str) and event.upper() in ("INSERT", "UPDATE", "DELETE") else "*"
    if schema is None and table is None:
        raise FilterError("a subscription needs a schema or a table")
    schema, table = schema or SCHEMA, table or "*"
    if schema not in (SCHEMA, "*") or table not in (*tables, "*"):
        raise FilterError(f"there is no table to subscribe to here but {', '.join(f'{SCHEMA}.{name}' for name in sorted(tables))}")
    wanted = frozenset(tables if table == "*" else [table])
    if filter_text is not None and (
        not isinstance(filter_text, str) or len(filter_text) > MAX_FILTER_LENGTH or _SURROGATE.search(filter_text)
    ):
        raise FilterError(f"Error parsing `filter` params: it must be a text of up to {MAX_FILTER_LENGTH} characters")
    conditions = [tuple(_parse_filter((filter_text or "").strip(), tables[name])) for name in wanted]
    columns = _parse_select(select, schema, table, tables)
    return Subscription(number, event, wanted, conditions[0], columns, _row_ids(conditions[0]))


def _row_ids(conditions: Iterable[Condition]) -> frozenset[str] | None:
    ids = [
        frozenset(map(str, condition.operand if condition.operator == "in" else [condition.operand]))
        for condition in conditions
        if condition.column == "id" and condition.operator in ("eq", "in") and not condition.is_negated
    ]
    return frozenset.intersection(*ids) if ids else None


def _parse_select(select: object, schema: str, table: str, tables: Tables) -> frozenset[str] | None:
    if isinstance(select, str):
        raise FilterError('Error parsing `select` params: it must be a list of columns, such as ["status"]')
    chosen = [name for name in select if isinstance(name, str)] if isinstance(select, list) else []
    if not chosen:
        return None
    if "*" in (schema, table):
        raise FilterError("Columns can be selected only of one table in one schema, given by their names")
    for name in chosen:
        if name not in tables[table]:
            raise FilterError(f"invalid column for select {name}")
    return frozenset(chosen) | KEY


_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
_ORDERINGS = frozenset({"lt", "lte", "gt", "gte"})
_PATTERNS = frozenset({"like", "ilike", "match", "imatch"})
_OPERATORS = (*_COMPARISONS, "in", "like", "ilike", "is", "match", "imatch", "isdistinct")


def read_time(text: str) -> datetime:
    """A time of RFC 3339, in UTC unless it says otherwise. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _number(text: str) -> Decimal:
    number = Decimal(text)
    # It is neither less nor greater than a number, and comparisons raise.
    if number.is_nan():
        raise ValueError(text)
    return number


_READERS: Mapping[str, Callable[[str], Any]] = {
    "uuid": UUID,
    "int4": int,
    "int8": int,
    "numeric": _number,
    "timestamptz": read_time,
    "text": str,
}


def _parse_filter(text: str, columns: Mapping[str, str]) -> Iterator[Condition]:
    for part in _split(text) if text else []:
        column, equals, rest = part.strip().partition("=")
        if not part.strip():
            raise FilterError("Error parsing `filter` params: there is nothing between two commas")
        is_negated = rest.startswith("not.")
        name, dot, value = rest.removeprefix("not.").partition(".")
        if not equals or not dot or name not in _OPERATORS:
            raise FilterError(
                f"Error parsing `filter` params: {part.strip()} is not column=operator.value; the operators are {', '.join(_OPERATORS)}"
            )
        if column not in columns or columns[column] not in _READERS:
            raise FilterError(f"invalid column for filter {column}")
        yield Condition(column, name, _operand(column, columns[column], name, value), is_negated, _READERS[columns[column]])


def _split(text: str) -> Iterator[str]:
    """The parts between commas, except within parentheses or quotes, which begin after a dot, a parenthesis or a comma."""
    start = depth = at = 0
    is_quoted = False
    while at < len(text):
        character = text[at]
        if is_quoted:
            at += character == "\\"
            is_quoted = character != '"'
        elif character == '"' and at > start and text[at - 1] in ".(,":
            is_quoted = True
        elif character in "()":
            depth = max(depth + (1 if character == "(" else -1), 0)
        elif character == "," and depth == 0:
            yield text[start:at]
            start = at + 1
        at += 1
    yield text[start:]


def _operand(column: str, type_name: str, name: str, value: str) -> Any:
    read = _READERS[type_name]
    if name == "in":
        if not (value.startswith("(") and value.endswith(")") and len(value) > 1):
            raise FilterError(
                "Error parsing `filter` params: the values of in must be in parentheses, such as status=in.(completed,failed)"
            )
        elements = list(_elements(value[1:-1]))
        if len(elements) > MAX_IN_VALUES:
            raise FilterError(f"too many values for `in` filter. Maximum {MAX_IN_VALUES}")
        return frozenset(_read(read, element, column) for element in elements)
    value = _unquoted(value)
    if name == "is":
        if value not in ("null", "true", "false", "unknown"):
            raise FilterError("invalid value for is filter: must be null, true, false, or unknown")
        if value != "null":
            raise FilterError(f"is.{value} needs a boolean column, and {column} is {type_name}")
    elif name in _PATTERNS:
        if type_name != "text":
            raise FilterError(f"{name} needs a text column, and {column} is {type_name}")
        if len(value) > MAX_PATTERN_LENGTH:
            raise FilterError(f"a pattern may have {MAX_PATTERN_LENGTH} characters")
        if name.endswith("like") and len(value) - len(value.rstrip("\\")) & 1:
            raise FilterError(f"a pattern of {name} must not end with the escape character")
        if name.endswith("match") and re.search(r"\\[1-9]", value):
            # The only kind of pattern with unbounded cost.
            raise FilterError("a regular expression must be without back references")
        return value
    return None if name == "is" else _read(read, value, column)


# What a part has matched is never tried again in smaller portions: white space may begin an element, and be in it.
_ELEMENT = re.compile(r'\s*+(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"\s*+|(?P<bare>[^",{}]++))(?:,|$)', re.DOTALL)


def _elements(text: str) -> Iterator[str]:
    """The elements of a PostgreSQL array literal without its braces, without nulls, as nothing equals them."""
    at = 0
    while text.strip() and (at < len(text) or text.endswith(",")):
        element = _ELEMENT.match(text, at)
        if element is None or (element["quoted"] is None and not element["bare"].strip()):
            raise FilterError(f"the values of in are not a list: {text}")
        at = element.end()
        if element["quoted"] is not None:
            yield _unescaped(element["quoted"])
        elif element["bare"].strip().lower() != "null":
            yield _unescaped(element["bare"].strip())


_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)


def _unquoted(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return _unescaped(quoted[1]) if quoted else text


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _read(read: Callable[[str], Any], text: str, column: str) -> Any:
    try:
        return read(text)
    except (ValueError, ArithmeticError) as error:
        raise FilterError(f"invalid value for {column}: {text}") from error
