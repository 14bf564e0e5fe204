"""A cluster of Citus for the tests: CITUS_URL names a database of its coordinator, as a superuser, in which the nodes are known."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo


@dataclass(frozen=True)
class Node:
    host: str
    port: int
    is_coordinator: bool
    has_shards: bool


@dataclass
class Cluster:
    """Makes databases that all nodes have. `nodes`: the coordinator first."""

    url: str
    nodes: list[Node]
    made: list[str]

    @property
    def has_other_nodes(self) -> bool:
        return len(self.nodes) > 1

    def url_at(self, node: Node, database: str) -> str:
        return make_conninfo(self.url, host=node.host, port=node.port, dbname=database)

    def new_database(self) -> str:
        """A database without anything but Citus, at the coordinator, with all nodes."""
        name = f"test_citus_{os.getpid()}_{len(self.made) + 1}"
        self.made.append(name)
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

    def drop_databases(self) -> None:
        for node, name in itertools.product(self.nodes, self.made):
            self._administer(node, "drop database if exists {} with (force)", name)

    def _administer(self, node: Node, statement: str, database: str) -> None:
        with psycopg.connect(self.url_at(node, "postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(database)))


@pytest.fixture(scope="session")
def citus() -> Iterator[Cluster]:
    if not (url := os.environ.get("CITUS_URL")):
        pytest.skip("needs a cluster of Citus, and CITUS_URL names none")
    with psycopg.connect(url) as connection:
        nodes = connection.execute(
            "select nodename, nodeport, groupid = 0, shouldhaveshards from pg_dist_node"
            " where noderole = 'primary' and isactive order by groupid"
        ).fetchall()
    with ExitStack() as stack:
        cluster = Cluster(url, [Node(*node) for node in nodes], [])
        stack.callback(cluster.drop_databases)
        yield cluster
