"""A cluster of Citus for the tests: CITUS_URL names a database of its coordinator, as a superuser, in which the nodes are known.

`pytest --on-citus` gives each test a database of that cluster, distributed, in place of one PostgreSQL.
"""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyshell.deploy.migrations import migrate


@dataclass(frozen=True)
class Node:
    host: str
    port: int
    is_coordinator: bool
    has_shards: bool


class Cluster:
    """Makes databases that all nodes have. `nodes`: the coordinator first."""

    def __init__(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            nodes = connection.execute(
                "select nodename, nodeport, groupid = 0, shouldhaveshards from pg_dist_node"
                " where noderole = 'primary' and isactive order by groupid"
            )
            self.nodes = [Node(*node) for node in nodes]
        self._url = url
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
        return make_conninfo(self._url, host=node.host, port=node.port, dbname=database)

    def new_database(self) -> str:
        """A database without anything but Citus, at the coordinator, with all nodes."""
        name = self._new_name()
        for node in self.nodes:
            self._administer(node, "create database {}", name)
            with psycopg.connect(self.url_at(node, name), autocommit=True) as connection:
                connection.execute("set client_min_messages = warning; create extension citus")
        url = self.url_at(self.nodes[0], name)
        with psycopg.connect(url, autocommit=True) as connection:
            for node in self.nodes:
                add = "citus_set_coordinator_host" if node.is_coordinator else "citus_add_node"
                connection.execute(f"select {add}(%s, %s)", [node.host, node.port])
                connection.execute(
                    "select citus_set_node_property(%s, %s, 'shouldhaveshards', %s)", [node.host, node.port, node.has_shards]
                )
        return url

    def distributed_database(self, *, empty: bool = False) -> str:
        """A migrated one, whose tables are distributed: a copy of the first one at each node."""
        if empty:
            return self.new_database()
        if self._template is None:
            url = self.new_database()
            migrate(url, distribute=True)
            self._template = str(conninfo_to_dict(url)["dbname"])
            for node in self.nodes:
                self._administer(node, "alter database {} allow_connections false", self._template)
        name = self._new_name()
        for node in self.nodes:
            # A process of Citus is connected, too.
            with self._administrator(node) as connection:
                connection.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", [self._template])
            self._administer(node, "create database {} template {} strategy file_copy", name, self._template)
        return self.url_at(self.nodes[0], name)

    def kill(self, node: Node, seconds: float) -> None:
        """Its server ends at once, without a word to anybody, and is started again after so many seconds, by a shell of its own."""
        with self._administrator(node) as connection:
            data, programs = connection.execute(
                "select current_setting('data_directory'), (select setting from pg_config where name = 'BINDIR')"
            ).fetchone() or (None, None)
            pg_ctl = shlex.join([f"{programs}/pg_ctl", "-D", str(data), "-m", "immediate"])
            script = f"{pg_ctl} stop; sleep {seconds:.1f}; {pg_ctl} -w start"
            command = f"setsid sh -c {shlex.quote(script)} < /dev/null > /dev/null 2>&1 &"
            connection.execute(sql.SQL("copy (select) to program {}").format(sql.Literal(command)))

    def drop_database(self, url: str) -> None:
        name = str(conninfo_to_dict(url)["dbname"])
        for node in self.nodes:
            self._administer(node, "drop database if exists {} with (force)", name)
        self._made.remove(name)

    def drop_databases(self) -> None:
        for node, name in itertools.product(self.nodes, self._made):
            self._administer(node, "drop database if exists {} with (force)", name)

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


# What --on-citus leaves out, and why.
NOT_ON_CITUS: dict[str, tuple[str, ...]] = {}


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
