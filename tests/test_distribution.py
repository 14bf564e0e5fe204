"""Distributing a database over a Citus cluster. Tests that need one run if CITUS_URL names it, because no registry has Citus."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pyshell.deploy.doctor import check_nodes
from pyshell.deploy.migrations import MigrationError, migrate
from pyshell.settings import Settings
from tests.citus_fixtures import Cluster
from tests.conftest import Clock, Connection
from tests.worker_fixtures import Batches, fetch_value, update_settings


def test_a_database_without_citus_is_not_distributed(new_database: Callable[..., str]) -> None:
    url = new_database(empty=True)
    with pytest.raises(MigrationError, match=r"has no Citus.*DATABASE_URL must name the coordinator"):
        migrate(url, distribute=True)
    with psycopg.connect(url) as connection:
        assert connection.execute("select to_regnamespace('app')").fetchone() == (None,)


def problems(connection: psycopg.Connection[tuple[str, str]]) -> list[tuple[str, str]]:
    return connection.execute("select object, problem from api.check_distribution()").fetchall()


def test_every_table_is_distributed_as_it_should_be(citus: Cluster) -> None:
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


def test_only_a_superuser_deploys_to_several_nodes(citus: Cluster) -> None:
    if not citus.has_other_nodes:
        pytest.skip("on one node, the owner of the database suffices")
    url = citus.new_database()
    for distribute in (True, False):
        with pytest.raises(MigrationError, match="must name a superuser for this, which pg_monitor is not"):
            migrate(f"{url}?options=-crole%3Dpg_monitor", distribute=distribute)
        migrate(url, distribute=True)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("grant usage on schema app to pg_monitor; grant execute on function app.is_distributed() to pg_monitor")


def test_the_check_names_deviations(citus: Cluster) -> None:
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
            # Whether or not it was refused, the command has been sent.
            with suppress(psycopg.Error):
                connection.execute(f"select * from api.{name}({arguments})", organization)
            assert len([command for command in commands if command.startswith("issuing")]) == 1, name


@pytest.mark.parametrize("style", ["SQL, DMY", "German"])
def test_times_are_stored_as_they_are_whatever_the_datestyle(connections: list[Connection], style: str) -> None:
    coordinator, *_ = connections
    coordinator.execute(sql.SQL("set datestyle = {}").format(sql.Literal(style)))
    began = time.time()
    for _ in range(4):
        batches = Batches(coordinator)
        job = batches.create(1)
        query = "select extract(epoch from created_at)::float from public.batch_lookup_jobs where id = %s"
        assert began - 5 < fetch_value(connections[-1], query, job) < time.time() + 5
    coordinator.execute("select app.run_maintenance()")
    options = f"-c datestyle={style.replace(' ', '')}"
    with psycopg.connect(coordinator.info.dsn, password=coordinator.info.password, autocommit=True, options=options) as connection:
        [(name, problem)] = problems(connection)
    assert (name, problem.partition(" by default")[0]) == ("DateStyle", f"is {style.replace('German', 'German, DMY')}")


def test_members_are_refused_where_policies_do_not_see_their_claims(citus: Cluster) -> None:
    if not citus.has_other_nodes:
        pytest.skip("on one node, policies see the claims")
    url = citus.new_database()
    migrate(url, distribute=True)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set role authenticated")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select from api.jobs")
        with pytest.raises(psycopg.Error, match="On a cluster of several nodes, members call functions in a transaction only"):
            connection.execute("begin; select api.list_batch_lookups(gen_random_uuid())")


def test_members_call_functions_in_a_transaction(connections: list[Connection]) -> None:
    coordinator, *_ = connections
    mine, other = Batches(coordinator), Batches(coordinator)
    with coordinator.transaction():
        claims = json.dumps({"organization_id": str(mine.organization_id)})
        coordinator.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        coordinator.execute("set local role authenticated")
        job = mine.create(2)
        assert fetch_value(coordinator, "select api.list_batch_lookups(%s) #>> '{jobs,0,id}'", mine.organization_id) == str(job)
        with pytest.raises(psycopg.Error, match="The token is not for this organization"), coordinator.transaction():
            coordinator.execute("select api.list_batch_lookups(%s)", [other.organization_id])
        assert fetch_value(coordinator, "select api.cancel_batch_lookup(%s, %s) ->> 'job_id'", mine.organization_id, job) == str(job)
    assert mine.counts() == {"failed": 2}


@pytest.fixture
def connections(citus: Cluster) -> Iterator[list[Connection]]:
    """To a distributed database, at every node of a cluster of several; the first one is the coordinator's."""
    if not citus.has_other_nodes:
        pytest.skip("is about several nodes, and this cluster has one")
    url = citus.distributed_database()
    database = str(conninfo_to_dict(url)["dbname"])
    with ExitStack() as stack:
        yield [stack.enter_context(psycopg.connect(citus.url_at(node, database), autocommit=True)) for node in citus.nodes]
    citus.drop_database(url)


def of_organization(connections: list[Connection], batches: Batches) -> Connection:
    """The connection to the node that has the rows of the organization."""
    port = fetch_value(
        connections[0],
        "select n.nodeport from pg_dist_node n join pg_dist_placement p on p.groupid = n.groupid"
        " where p.shardid = get_shard_id_for_distribution_column('public.batch_lookup_jobs', %s)",
        batches.organization_id,
    )
    [found] = [connection for connection in connections if connection.info.port == port]
    return found


def findings(connection: Connection, check: str) -> list[tuple[str, str]]:
    return connection.execute('select state, finding from api.diagnose() where "check" = %s order by 2', [check]).fetchall()


def test_the_queues_health_is_that_of_all_nodes(connections: list[Connection], citus: Cluster) -> None:
    coordinator, *others = connections
    assert [state for state, _ in findings(coordinator, "nodes")] == ["problem"] * sum(node.has_shards for node in citus.nodes[1:])
    for node in others:
        node.execute("select api.heartbeat('worker')")
    health = fetch_value(coordinator, "select api.get_queue_health()")
    assert (health["workers"], health["upstream_unavailable_since"]) == (len(others), None)
    [(state, finding)] = findings(coordinator, "nodes")
    assert state == "ok"
    assert finding.count("(workers: 1)") == len(others)

    coordinator.execute("select api.heartbeat('another')")
    others[0].execute("update app.upstream_state set unavailable_since = now(), consecutive_failures = 12")
    others[-1].execute("update app.upstream_state set paused_until = now() + interval '10 minutes', concurrency_limit = 1")
    health = fetch_value(coordinator, "select row_to_json(h) from api.queue_health h")
    assert health["workers"] == len(connections) == fetch_value(coordinator, "select api.get_metrics() #> '{queue,workers}'")
    assert health["upstream_unavailable_since"] is not None
    assert health["upstream_consecutive_failures"] == 12
    assert health["upstream_closed_until"] is not None
    assert health["concurrency_limit"] == health["max_in_flight"]
    assert [state for state, _ in findings(coordinator, "upstream")] == ["problem"]


def test_a_node_that_is_away_is_a_finding(connections: list[Connection]) -> None:
    coordinator, *_, last = connections
    # As after a move to another address that the cluster does not know.
    coordinator.execute("select api.heartbeat('worker')")
    coordinator.execute("update pg_dist_node set nodeport = 1 where nodeport = %s", [last.info.port])
    assert fetch_value(coordinator, "select workers from app.nodes_together()") == 1
    [(state, finding)] = findings(coordinator, "nodes")
    assert state == "problem"
    assert finding.startswith("the node 127.0.0.1:1 does not answer")
    assert findings(coordinator, "maintenance"), "what the coordinator knows by itself is checked nevertheless"


def test_a_node_that_the_shell_cannot_log_in_to_is_a_finding(connections: list[Connection], citus: Cluster) -> None:
    coordinator, *_, last = connections
    settings = Settings(database_url=citus.url_at(citus.nodes[0], coordinator.info.dbname))
    assert list(check_nodes(settings)) == []
    # Connections of the shell and of the owner fail alike.
    coordinator.execute("update pg_dist_node set nodeport = 1 where nodeport = %s", [last.info.port])
    [finding] = check_nodes(settings)
    assert finding.finding == "batch_lookups_shell cannot connect to 127.0.0.1:1: Connection refused"


def test_a_new_node_is_told_from_one_that_is_away(connections: list[Connection]) -> None:
    coordinator, *_, last = connections
    coordinator.execute("select api.heartbeat('worker')")
    last.execute("set citus.enable_ddl_propagation = off; alter table app.upstream_state rename to away")
    [(state, finding)] = findings(coordinator, "nodes")
    assert (state, finding) == ("problem", f"the node 127.0.0.1:{last.info.port} lacks tables: it is new")


def test_any_node_answers_for_the_whole_cluster(connections: list[Connection]) -> None:
    coordinator, *_, last = connections
    coordinator.execute("select api.run_maintenance(), api.heartbeat('worker')")
    assert fetch_value(last, "select api.get_queue_health() -> 'workers'") == 1
    assert fetch_value(last, "select api.get_metrics() #> '{queue,workers}'") == 1
    assert fetch_value(last, "select api.get_operations() #> '{queue,workers}'") == 1
    for check in ("maintenance", "nodes"):
        assert findings(last, check) == findings(coordinator, check) != []


def test_leases_are_kept_while_their_worker_sends_heartbeats_at_any_node(connections: list[Connection]) -> None:
    owner = connections[0]
    update_settings(owner, lookups_per_second=None)
    batches, clock = Batches(owner), Clock(owner)
    batches.create(1)
    node = of_organization(connections, batches)

    def expired() -> int:
        return int(fetch_value(owner, "select app.run_maintenance() -> 'expired_leases'"))

    node.execute("select api.heartbeat('worker')")
    node.execute("select * from api.claim_lookups(%s, 'worker', 1)", [batches.organization_id])
    clock.advance(hours=1)
    node.execute("select api.heartbeat('worker')")
    assert expired() == 0, "no worker could renew a lease for an hour"
    node.execute("update app.workers set returned_at = '-infinity'")
    assert expired() == 0, "something keeps the worker from renewing it"
    clock.advance(hours=1)
    assert expired() == 1


def test_maintenance_does_not_wait_for_rows_that_are_locked_at_a_node(connections: list[Connection], citus: Cluster) -> None:
    owner, *_ = connections
    update_settings(owner, lookups_per_second=None)
    everybody, clock = [Batches(owner) for _ in range(4)], Clock(owner)
    for batches in everybody:
        batches.create(1)
        owner.execute("select * from api.claim_lookups(%s, 'worker', 1)", [batches.organization_id])
    clock.advance(hours=1)
    with ExitStack() as holders:
        for batches in everybody[:2]:
            holder = holders.enter_context(psycopg.connect(citus.url_at(citus.nodes[0], owner.info.dbname)))
            holder.execute("select from public.lookup_queue_items where organization_id = %s for update", [batches.organization_id])
        owner.execute("set statement_timeout = '10s'")
        assert fetch_value(owner, "select api.run_maintenance() -> 'expired_leases'") == 2
    assert fetch_value(owner, "select api.run_maintenance() -> 'expired_leases'") == 2


def test_an_item_does_not_wait_for_a_worker_where_one_serves_from_elsewhere(connections: list[Connection]) -> None:
    owner = connections[0]
    batches = Batches(owner)
    job = batches.create(1)
    reason = "select api.explain_item(%s, %s, 0) #>> '{waiting_for,reason}'"
    assert fetch_value(owner, reason, batches.organization_id, job) == "no_worker"
    [elsewhere, *_] = [connection for connection in connections if connection is not of_organization(connections, batches)]
    elsewhere.execute("select api.heartbeat('worker')")
    assert fetch_value(owner, reason, batches.organization_id, job) == "next_claim"


def test_waiting_for_a_batch_works_on_a_cluster(connections: list[Connection]) -> None:
    batches = Batches(connections[0])
    job = batches.create(1)
    waiting = "select api.wait_for_batch(%s, '0 seconds', %s) ->> 'status'"
    assert fetch_value(connections[0], waiting, job, batches.organization_id) == "pending"
    with connections[0].transaction():
        # Which transaction wrote a row is known to its node alone.
        batches.create(["another"])
        assert fetch_value(connections[0], waiting, job, batches.organization_id) == "pending"


def test_a_refused_setting_does_not_reveal_how_tables_are_distributed(connections: list[Connection]) -> None:
    with pytest.raises(psycopg.Error) as refused:
        update_settings(connections[0], max_in_flight=0)
    assert refused.value.diag.message_primary == "max_in_flight must be a whole number from 1 to 10000"
