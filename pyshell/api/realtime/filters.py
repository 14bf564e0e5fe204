"""Subscriptions of a channel: the entries of `postgres_changes` in its join."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

SCHEMA = "public"
EVENTS = ("INSERT", "UPDATE", "DELETE", "*")
MAX_FILTER_LENGTH = 2_000
MAX_IN_VALUES = 100

Record = Mapping[str, Any]
# Column types by name, as PostgreSQL calls them, of each table.
Tables = Mapping[str, Mapping[str, str]]


class FilterError(ValueError):
    """The message says what is wrong with an entry of postgres_changes."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """One entry: events, tables and a condition on the rows. Messages name it by its `id`."""

    id: int
    event: str
    tables: frozenset[str]
    condition: Callable[[Record], bool]
    # The only row that the filter lets through; None: any.
    row_id: str | None

    def may_want(self, table: str, row_id: str) -> bool:
        return table in self.tables and self.row_id in (None, row_id)

    def wants(self, event: str, table: str, record: Record) -> bool:
        return self.event in (event, "*") and table in self.tables and self.condition(record)


def parse_subscription(entry: object, number: int, tables: Tables) -> Subscription:
    """Reads an entry. Raises FilterError."""
    if not isinstance(entry, Mapping):
        raise FilterError("an entry of postgres_changes must be an object")
    event, schema, table, filter_text = (entry.get(name) for name in ("event", "schema", "table", "filter"))
    if event not in EVENTS:
        raise FilterError(f"event must be one of {', '.join(EVENTS)}")
    if schema not in (SCHEMA, "*"):
        raise FilterError(f"schema must be {SCHEMA}")
    if table in (None, "", "*"):
        wanted = frozenset(tables)
    elif table in tables:
        wanted = frozenset([table])
    else:
        raise FilterError(f"table must be one of {', '.join(sorted(tables))}")
    if not filter_text:
        return Subscription(number, event, wanted, lambda record: True, None)
    if not isinstance(filter_text, str) or len(filter_text) > MAX_FILTER_LENGTH or len(wanted) != 1:
        raise FilterError("filter must be text such as id=eq.5, for one table")
    condition, row_id = _parse_filter(filter_text, tables[next(iter(wanted))])
    return Subscription(number, event, wanted, condition, row_id)


_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}

_READERS: Mapping[str, Callable[[str], Any]] = {
    "uuid": UUID,
    "int4": int,
    "int8": int,
    "numeric": Decimal,
    "timestamptz": datetime.fromisoformat,
    "text": str,
}


def _parse_filter(text: str, columns: Mapping[str, str]) -> tuple[Callable[[Record], bool], str | None]:
    """The condition of `column=op.value`, and the row's id where it fixes one."""
    column, equals, rest = text.partition("=")
    name, dot, value = rest.partition(".")
    if not equals or not dot or (name != "in" and name not in _COMPARISONS):
        raise FilterError(f"filter must be column=op.value, with op one of {', '.join([*_COMPARISONS, 'in'])}, such as id=eq.5")
    if column not in columns or columns[column] not in _READERS:
        raise FilterError(f"filter names no column that can be compared: {column}")
    read = _READERS[columns[column]]
    if name == "in":
        if not (value.startswith("(") and value.endswith(")")) or value.count(",") >= MAX_IN_VALUES:
            raise FilterError(f"in takes up to {MAX_IN_VALUES} values in parentheses, such as status=in.(completed,failed)")
        choices = [_read(read, choice.strip().strip('"'), column) for choice in value[1:-1].split(",")]
        return lambda record: (found := record.get(column)) is not None and read(str(found)) in choices, None
    wanted, compare = _read(read, value, column), _COMPARISONS[name]
    row_id = str(wanted) if column == "id" and name == "eq" else None
    return lambda record: (found := record.get(column)) is not None and compare(read(str(found)), wanted), row_id


def _read(read: Callable[[str], Any], text: str, column: str) -> Any:
    try:
        value = read(text)
    except (ValueError, ArithmeticError) as error:
        raise FilterError(f"filter has no proper value for {column}: {text}") from error
    if isinstance(value, datetime) and value.tzinfo is None:
        raise FilterError(f"filter must give a time zone for {column}: {text}")
    return value
