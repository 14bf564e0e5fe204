"""Spreading a database over a cluster of Citus. What needs one runs where CITUS_URL names its coordinator: no registry has Citus."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

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
        connection.execute("create or replace function app.clock() returns timestamptz language sql volatile as $$ select now() $$")
        found = problems(connection)
    assert ("app.column_memory", "is not distributed by organization_id together with public.batch_lookup_jobs") in found
    others = {name for name, _ in found if name != "app.column_memory"}
    assert others == ({"app.workers", "app.clock()"} if citus.has_other_nodes else set())
    migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        assert problems(connection) == []


def test_a_call_for_one_organization_is_one_command_to_its_node(citus: Cluster) -> None:
    if not citus.has_other_nodes:
        pytest.skip("a cluster of one node sends no commands")
    url = citus.new_database()
    migrate(url, distribute=True)
    commands: list[str] = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: commands.append(notice.message_primary or ""))
        organization = connection.execute("select api.create_organization('Acme')").fetchone()
        functions = connection.execute(
            """
            select proname, array(select format_type(type, null)
                                    from unnest(proargtypes::oid[]) with ordinality a (type, n)
                                   where n > 1 and n <= pronargs - pronargdefaults order by n)
              from pg_proc where pronamespace = 'api'::regnamespace and proargnames[1] = 'p_organization_id'
            """
        ).fetchall()
        assert organization is not None
        assert len(functions) > 60
        connection.execute("set client_min_messages = notice; set citus.log_remote_commands = on")
        for name, types in functions:
            commands.clear()
            arguments = ", ".join(["%s", *(f"null::{type_name}" for type_name in types)])
            # Refused or not, the command has been sent.
            with suppress(psycopg.Error):
                connection.execute(f"select * from api.{name}({arguments})", organization)
            assert len([command for command in commands if command.startswith("issuing")]) == 1, name


def test_members_are_refused_where_policies_do_not_see_their_claims(citus: Cluster) -> None:
    if not citus.has_other_nodes:
        pytest.skip("on one node, policies see the claims")
    url = citus.new_database()
    migrate(url, distribute=True)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select set_config('request.jwt.claims', '{}', false); set role authenticated")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select from api.jobs")
        with pytest.raises(psycopg.Error, match="On a cluster of several nodes, members have no access by SQL"):
            connection.execute("begin; select api.list_batch_lookups(gen_random_uuid())")
