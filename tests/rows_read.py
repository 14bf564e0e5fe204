"""How many rows of the catalogue the database has read: the cost of a lookup, whatever the speed of the machine."""

from __future__ import annotations

from tests.conftest import Connection

CATALOGUE_ROWS_READ = """
    select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))
      from pg_stat_user_tables
     where relname in ('utilities', 'utility_service_areas', 'programs', 'program_utilities', 'program_tiers')
"""


def catalogue_rows_read(connection: Connection) -> int:
    """By all connections so far; of this one, whatever it has done."""
    connection.execute("select pg_stat_force_next_flush()")
    row = connection.execute(CATALOGUE_ROWS_READ).fetchone()
    assert row is not None
    return int(row[0])
