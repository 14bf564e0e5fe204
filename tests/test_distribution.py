"""Spreading a database over a cluster of Citus. What needs one runs where CITUS_URL names its coordinator: no registry has Citus."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from pyshell.deploy.migrations import MigrationError, migrate
from tests.citus_fixtures import Cluster


def test_a_database_without_citus_is_not_distributed(new_database: Callable[..., str]) -> None:
    url = new_database(empty=True)
    with pytest.raises(MigrationError, match=r"has no Citus.*DATABASE_URL must name the coordinator"):
        migrate(url, distribute=True)
    with psycopg.connect(url) as connection:
        assert connection.execute("select to_regnamespace('app')").fetchone() == (None,)


def problems(connection: psycopg.Connection[tuple[str, str]]) -> list[tuple[str, str]]:
    return connection.execute("select object, problem from api.check_distribution()").fetchall()


def test_everything_is_where_it_belongs(citus: Cluster) -> None:
    url = citus.new_database()
    migrate(url, distribute=True)
    with psycopg.connect(url, autocommit=True) as connection:
        assert problems(connection) == []
        kinds = connection.execute(
            "select d.kind, count(*), count(p.logicalrelid) from app.distribution() d"
            " left join pg_dist_partition p on p.logicalrelid = d.name::regclass group by 1"
        )
        found = {kind: (tables, known) for kind, tables, known in kinds}
    assert found["local"][1] == 0
    assert found["distributed"][0] == found["distributed"][1] > 30
    assert found["reference"][0] == found["reference"][1] > 10


def test_a_database_that_has_rows_is_distributed_with_them_and_stays_so(citus: Cluster) -> None:
    url = citus.new_database()
    migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        assert problems(connection) == [(connection.info.dbname, "is not distributed: one PostgreSQL has all of its rows")]
        devices = connection.execute("select count(*) from app.devices").fetchone()
    for distribute in (True, True, False):
        migrate(url, distribute=distribute)
        with psycopg.connect(url, autocommit=True) as connection:
            assert problems(connection) == []
            assert connection.execute("select count(*) from app.devices").fetchone() == devices
            assert connection.execute("select count(*) from only app.devices").fetchone() == devices


def test_the_check_names_what_is_not_as_it_must_be(citus: Cluster) -> None:
    url = citus.new_database()
    migrate(url, distribute=True)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("alter table app.workers add column shoe_size integer")
        connection.execute("alter table app.column_memory drop constraint column_memory_organization_id_fkey")
        connection.execute("select undistribute_table('app.column_memory')")
        connection.execute("set citus.enable_ddl_propagation = off")
        connection.execute(
            "create or replace function app.longest_pause() returns interval language sql immutable return interval '1 minute'"
        )
        found = problems(connection)
    assert ("app.column_memory", "is not distributed by organization_id together with public.batch_lookup_jobs") in found
    others = {name for name, _ in found if name != "app.column_memory"}
    assert others == ({"app.workers", "app.longest_pause()"} if citus.has_other_nodes else set())
    migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        assert problems(connection) == []
