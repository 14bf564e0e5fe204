"""A Citus cluster for the tests: CITUS_URL is the URL, for a superuser, of a database of its coordinator that knows the nodes.

`pytest --on-citus` gives each test a distributed database of that cluster instead of a single PostgreSQL.
"""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pyshell.deploy.migrations import migrate
from pyshell.postgres.connections import SHELL
from tests.timed import wait_until


@dataclass(frozen=True)
class Node:
    host: str
    port: int
    is_coordinator: bool
    has_shards: bool


class Cluster:
    """Creates databases on all nodes. `nodes`: the coordinator comes first."""

    def __init__(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            nodes = connection.execute(
                "select nodename, nodeport, groupid = 0, shouldhaveshards from pg_dist_node"
                " where noderole = 'primary' and isactive order by groupid"
            )
            self.nodes = [Node(*node) for node in nodes]
        self._parts = urlsplit(url)
        login, at, _ = self._parts.netloc.rpartition("@")
        self._login = login + at
        self._numbers = itertools.count(1)
        self._made: list[str] = []
        self._template: str | None = None

    @property
    def has_other_nodes(self) -> bool:
        return len(self.nodes) > 1

    @property
    def can_move_shards(self) -> bool:
        return sum(node.has_shards for node in self.nodes) > 1

    def url_at(self, node: Node, database: str) -> str:
        return urlunsplit(self._parts._replace(netloc=f"{self._login}{node.host}:{node.port}", path=f"/{database}"))

    def new_database(self) -> str:
        """A database without anything but Citus, at the coordinator, with all nodes."""
        name = self._new_name()
        for node in self.nodes:
            self._administer(node, "create database {}", name)
            with psycopg.connect(self.url_at(node, name), autocommit=True) as connection:
                connection.execute("set client_min_messages = warning; create extension citus")
        url = self.url_at(self.nodes[0], name)
        with psycopg.connect(url, autocommit=True) as connection:
            # Two shards per table and node. The 32 that Citus creates by default are thousands of files per database.
            connection.execute(sql.SQL("alter database {} set citus.shard_count = 6").format(sql.Identifier(name)))
            for node in self.nodes:
                add = "citus_set_coordinator_host" if node.is_coordinator else "citus_add_node"
                connection.execute(f"select {add}(%s, %s)", [node.host, node.port])
                connection.execute(
                    "select citus_set_node_property(%s, %s, 'shouldhaveshards', %s)", [node.host, node.port, node.has_shards]
                )
        return url

    def distributed_database(self, *, empty: bool = False) -> str:
        """A migrated database with distributed tables: a copy, at each node, of one that is created once."""
        if empty:
            return self.new_database()
        if self._template is None:
            url = self.new_database()
            migrate(url, distribute=True)
            self._template = str(conninfo_to_dict(url)["dbname"])
            for node in self.nodes:
                # Workers and the API have this role, and Citus connects to other nodes as the calling role.
                self._administer(node, "alter role {} login", SHELL)
                self._administer(node, "alter database {} allow_connections false", self._template)
        name = self._new_name()
        for node in self.nodes:
            # A process of Citus is connected, too.
            with self._administrator(node) as connection:
                connection.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", [self._template])
            self._administer(node, "create database {} template {} strategy file_copy", name, self._template)
        return self.url_at(self.nodes[0], name)

    def kill(self, node: Node, seconds: float) -> None:
        """Crashes its server, which returns after so many seconds."""
        with self._administrator(node) as connection:
            started, data, programs = connection.execute(
                "select pg_postmaster_start_time(), current_setting('data_directory'), setting from pg_config where name = 'BINDIR'"
            ).fetchone() or (None, None, None)
            pg_ctl = shlex.join([f"{programs}/pg_ctl", "-D", str(data), "-m", "immediate"])
            # The next server must not inherit this connection, which would stay open while nobody responds.
            close = 'for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-"; done'
            script = f"{close}; {pg_ctl} stop; sleep {seconds:.1f}; {pg_ctl} start"
            command = f"setsid bash -c {shlex.quote(script)} < /dev/null > /dev/null 2>&1 &"
            # The server may end before it can respond.
            with suppress(psycopg.OperationalError):
                connection.execute(sql.SQL("copy (select) to program {}").format(sql.Literal(command)))

        def is_back() -> bool:
            with suppress(psycopg.OperationalError), self._administrator(node) as connection:
                return connection.execute("select pg_postmaster_start_time()").fetchone() != (started,)
            return False

        wait_until(is_back, patience=60)

    def drop_database(self, url: str) -> None:
        name = str(conninfo_to_dict(url)["dbname"])
        for node in self.nodes:
            wait_until(partial(self._drop, node, name))
        self._made.remove(name)

    def drop_databases(self) -> None:
        for node, name in itertools.product(self.nodes, self._made):
            wait_until(partial(self._drop, node, name))

    def _drop(self, node: Node, name: str) -> bool:
        """Whether it is gone: a session takes its time to end on a busy machine."""
        with suppress(psycopg.errors.ObjectInUse):
            self._administer(node, "drop database if exists {} with (force)", name)
            return True
        return False

    def _new_name(self) -> str:
        name = f"test_citus_{os.getpid()}_{next(self._numbers)}"
        self._made.append(name)
        return name

    def _administrator(self, node: Node) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.url_at(node, "postgres"), autocommit=True)

    def _administer(self, node: Node, statement: str, *databases: str) -> None:
        with self._administrator(node) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, databases)))


@pytest.fixture(scope="session")
def citus() -> Iterator[Cluster]:
    if not (url := os.environ.get("CITUS_URL")):
        pytest.skip("needs a cluster of Citus, and CITUS_URL names none")
    with ExitStack() as stack:
        cluster = Cluster(url)
        stack.callback(cluster.drop_databases)
        yield cluster


# What --on-citus skips, and why.
NOT_ON_CITUS: dict[str, tuple[str, ...]] = {
    "the session reports rows and plans, and on a cluster nodes read the rows": (
        "test_plans",
        "test_history_plans",
        "test_many_jobs",
        "test_report_plans",
        "test_reuse_plans",
        "test_names::test_a_search_by_name_reads_few_more_batches_than_it_finds",
        "test_names::test_a_search_for_a_common_name_reads_no_indexed_names",
        "test_names::test_names_that_are_kept_are_not_looked_at_again",
        "test_counts::test_a_list_of_batches_reads_the_page_whatever_its_total_is",
        "test_counts::test_a_list_of_reports_reads_the_page_whatever_its_total_is",
        "test_counts::test_lists_of_a_rare_status_do_not_read_past_all_others",
        "test_counts::test_a_list_of_reports_with_errors_does_not_read_past_all_others",
        "test_counts::test_usage_reads_the_page_and_a_row_for_each_day",
        "test_metrics::test_a_thousand_organizations_cost_a_scrape_little",
        "test_metrics::test_organizations_whose_month_is_spent_cost_a_scrape_little",
        "test_catalogue::test_a_lookup_in_a_large_catalogue_reads_few_rows",
        "test_catalogue::test_the_checks_of_a_catalogue_scale_linearly_with_its_rows",
        "test_sql_users::test_statements_of_the_pages_read_items_by_an_index",
        "test_sql_users::test_waiting_without_an_organization_looks_for_it_once",
        "test_spending::test_held_batches_cost_a_claim_nothing_but_a_look_at_their_limits",
        "test_spending::test_a_batch_at_its_limit_is_not_read_while_its_last_lookups_are_in_flight",
        "test_wide_rows::test_an_edited_row_is_fetched_once",
        "test_wide_rows::test_the_source_of_an_item_is_fetched_once",
    ),
    "one statement compares rows of an organization with what a function for it answers": (
        "test_counts::test_totals_are_exact_at_every_moment",
    ),
    "it reads the CPU time of the session's server process, and nodes do the work": (
        "test_http_reports::test_a_report_of_10_000_sites_is_read_within_a_second_and_fits_a_megabyte",
    ),
    "members have no access to tables on several nodes": (
        "test_http_clerk::test_an_organization_made_for_a_clerk_organization_is_the_same_in_sql",
        "test_sql_users::test_a_callers_own_types_run_no_code_as_the_owner",
        "test_sql_users::test_the_reference_is_current",
    ),
    "the organization of a subscriber's claims decides there what it sees, and no policy": (
        "test_realtime::TestTheProtocol::test_a_subscriber_whose_read_fails_does_not_affect_others",
    ),
    "changes without a notification are found there by updated_at, from ten seconds before a subscriber joined": (
        "test_realtime_gaps::test_an_update_that_does_not_set_updated_at_is_reported",
        "test_realtime_gaps::test_clocks_may_disagree[-1]",
        "test_realtime_gaps::test_a_replay_waits_for_a_slow_client",
        "test_realtime_gaps::test_supabase_js_gets_what_it_missed_since_a_given_time",
        "test_realtime_failover::test_whoever_joins_after_a_start_gets_no_earlier_changes",
        "test_pgbouncer::test_the_api_works_with_transaction_pooling",
    ),
    "sessions between nodes are read-only there, too, and cannot take that back": (
        "test_http_database::test_api_and_worker_go_on_when_a_database_takes_writes_again",
    ),
    "it reads the catalogue, where Citus has tables and views of its own": ("test_catalog",),
    "it counts the notifications of one server, and a listener on a cluster gets those of each node": (
        "test_notifications::test_a_connection_that_fell_silent_is_replaced",
        "test_notifications::test_a_connection_that_falls_silent_before_it_listens_is_replaced",
        "test_notifications::test_many_subscribers_share_one_connection",
        "test_notifications::test_all_subscribers_learn_that_notifications_may_have_been_missed",
        "test_notifications::test_a_handler_that_fails_does_not_keep_notifications_from_others",
        "test_spending::test_watchers_learn_that_a_batch_is_held_and_that_it_continues",
    ),
    "the limit of a function for locks holds at the coordinator, and nodes do the work": (
        "test_queue_races::test_the_maintenance_adds_nothing_to_an_organization_that_is_being_deleted",
    ),
    "a row of a reference table that is locked keeps others from being deleted there": (
        "test_queue_races::test_maintenance_skips_an_organization_whose_expired_rows_are_locked[a link to its report]",
    ),
    "it writes an outage into the row of a single node": ("portal/test_job::test_an_outage_is_said_to_lose_nothing",),
    "doctor reads shards there, which a lock of their table does not cover": (
        "test_faults::test_a_table_that_nobody_may_read_is_named_with_its_process",
    ),
    "its database is not distributed": ("test_distribution::test_a_database_without_citus_is_not_distributed",),
    "its trigger is on a distributed table": (
        "test_worker::test_a_claim_whose_commit_fails_is_not_used",
        "test_retention::test_small_jobs_are_deleted_together",
    ),
    "workers record for several organizations together where one PostgreSQL has them all": ("test_organizations_together",),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--on-citus", action="store_true", help="give tests distributed databases, of the cluster of Citus that CITUS_URL names"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("on_citus"):
        return
    reasons = {name: reason for reason, names in NOT_ON_CITUS.items() for name in names}
    for item in items:
        module, _, case = item.nodeid.removeprefix("tests/").partition(".py::")
        for name in (module, f"{module}::{case}", f"{module}::{case.partition('[')[0]}"):
            if name in reasons:
                item.add_marker(pytest.mark.skip(reason=f"not on a cluster: {reasons[name]}"))
