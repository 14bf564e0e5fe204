"""The database's notifications about changed rows: one channel, for waiting requests and for Realtime."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

CHANNEL = "batch_lookups_changes"
EVENTS = ("INSERT", "UPDATE", "DELETE")


class Row(NamedTuple):
    table: str
    organization_id: UUID
    id: str


class RowChange(NamedTuple):
    """`event` is INSERT, UPDATE or DELETE."""

    event: str
    row: Row


def parse(payload: str) -> RowChange | None:
    """Parses a payload such as `UPDATE batch_lookup_jobs <organization id> <row id>`; None for anything else.

    Anybody who can connect to the database can send one, so it is only a hint to read the row.
    """
    words = payload.split(" ")
    if len(words) != 4:
        return None
    event, table, organization_id, row_id = words
    if event not in EVENTS:
        return None
    try:
        return RowChange(event, Row(table, UUID(organization_id), str(UUID(row_id))))
    except ValueError:
        return None
