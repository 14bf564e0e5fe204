"""Chaos on several nodes for CHAOS_SECONDS: shards move, and servers crash, even in the middle of a move.

Workers are connected to every node. Nodes, including the coordinator, crash and stay away for seconds, while batches are uploaded and
cancelled and the upstream misbehaves. Then every item must have ended with its own answer, and have been counted once.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.citus_fixtures import Cluster, Node
from tests.conftest import Connection
from tests.test_chaos import SECONDS, SEED, Provider, World, check_answers, wait_for_the_end
from tests.timed import wait_until
from tests.upstream import FakeUpstream
from tests.worker_fixtures import check_invariants, fetch_value, leases

WEATHER = "odd"
# The possible moves of a shard: its number, from which node, to which node.
PLACEMENTS = """
    select p.shardid, f.nodename, f.nodeport, t.nodename, t.nodeport
      from pg_dist_shard s
      join pg_dist_placement p on p.shardid = s.shardid
      join pg_dist_node f on f.groupid = p.groupid
      join pg_dist_node t on t.groupid <> f.groupid and t.shouldhaveshards
     where s.logicalrelid = 'public.batch_lookup_jobs'::regclass
     order by 1, 4, 5"""


class ClusterWorld(World):
    """`happened` counts the events. A node that is away causes errors, and so does a shard that has just moved."""

    trouble = (psycopg.OperationalError, psycopg.InternalError)

    def __init__(self, cluster: Cluster, url: str, folder: Path, upstream: FakeUpstream, provider: Provider, chance: random.Random) -> None:
        super().__init__(folder, upstream, provider, chance, WEATHER)
        self.happened: Counter[str] = Counter()
        self._cluster = cluster
        self._database = str(conninfo_to_dict(url)["dbname"])
        self.ways = {f"at {node.host}:{node.port}": self.url_at(node) for node in cluster.nodes}

    def url(self) -> str:
        return self.url_at(self._cluster.nodes[0])

    def url_at(self, node: Node) -> str:
        return self._cluster.url_at(node, self._database)

    def events(self) -> list[Callable[[], None]]:
        return [*super().events(), self.move_a_shard, self.kill_a_node, self.kill_a_node_while_a_shard_moves]

    def move_a_shard(self) -> None:
        """Moves a shard and those colocated with it, that is, all rows of some organizations, to another node."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            try:
                # Left by moves that failed.
                connection.execute("call citus_cleanup_orphaned_resources()")
                placements = connection.execute(PLACEMENTS).fetchall()
                connection.execute("set statement_timeout = '2min'")
                connection.execute("select citus_move_shard_placement(%s, %s, %s, %s, %s, 'force_logical')", self.chance.choice(placements))
                self.happened["shards moved"] += 1
            except psycopg.DatabaseError as error:
                print(f"a move came to nothing: {error.diag.message_primary or error}")
                self.happened["moves that came to nothing"] += 1

    def kill_a_node(self) -> None:
        node = self.chance.choice(self._cluster.nodes)
        self.happened["nodes killed"] += 1
        self._cluster.kill(node, self.chance.uniform(0, 5))

    def kill_a_node_while_a_shard_moves(self) -> None:
        with ThreadPoolExecutor() as executor:
            moved = executor.submit(self.move_a_shard)
            time.sleep(self.chance.uniform(1, 10))
            self.happened["nodes killed while a shard moved"] += not moved.done()
            self.kill_a_node()
            moved.result()

    def names_of_workers(self) -> Iterator[str]:
        for node in self._cluster.nodes:
            with psycopg.connect(self.url_at(node)) as connection:
                yield from (name for (name,) in connection.execute("select id from app.workers"))

    def leftovers(self) -> list[Any]:
        """What remains of interrupted transactions and moves after a cleanup, which Citus does by itself a minute later or more."""
        found = []
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute("call citus_cleanup_orphaned_resources()")
        for node in self._cluster.nodes:
            with psycopg.connect(self.url_at(node), autocommit=True) as connection:
                connection.execute("select recover_prepared_transactions()")
                found += connection.execute(
                    "select gid from pg_prepared_xacts where database = current_database()"
                    " union all select slot_name from pg_replication_slots where database = current_database()"
                ).fetchall()
        return found


@contextmanager
def maintained(url: str) -> Iterator[None]:
    """Stands in for pg_cron, which serves only one database of a server."""
    stop = threading.Event()

    def maintain() -> None:
        while not stop.wait(3):
            with suppress(psycopg.Error), psycopg.connect(url, autocommit=True) as connection:
                connection.execute("select app.run_maintenance()")

    thread = threading.Thread(target=maintain)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.long
def test_whatever_happens_to_its_nodes_every_item_ends_exactly_once(citus: Cluster, tmp_path: Path, upstream: FakeUpstream) -> None:
    if not citus.can_move_shards:
        pytest.skip("a shard moves between two nodes, and this cluster has one that may have shards")
    print(f"CHAOS_SEED={SEED}")
    provider = Provider(random.Random(SEED), is_well=False)
    upstream.improvise = provider.answer
    url = citus.distributed_database()
    world = ClusterWorld(citus, url, tmp_path, upstream, provider, random.Random(SEED))
    with psycopg.connect(url, autocommit=True) as owner:
        world.prepare(owner)
    with maintained(url):
        world.start_workers()
        try:
            world.go_wrong_for(SECONDS)
            amid_faults = provider.seen.total()
            provider.is_well = True
            with psycopg.connect(url, autocommit=True) as owner:
                # A transaction that was prepared at a node that died holds rows until Citus ends it, a minute later.
                wait_for_the_end(owner, patience=180)
                world.stop_workers_gracefully(world.names_of_workers)
        finally:
            world.stop_workers()
    wait_until(lambda: not world.leftovers(), world.leftovers)
    with psycopg.connect(url, autocommit=True) as owner:
        check_invariants(owner)
        assert leases(owner) == 0
        assert owner.execute("select * from api.check_distribution()").fetchall() == []
        check_counts(owner, provider)
        check_answers(owner, provider)
    lookups = f"{provider.seen.total()} lookups, {amid_faults} of them amid faults"
    print(f"{lookups}, of {len(provider.seen)} items in {len(world.jobs)} batches; {dict(world.happened)}")


def check_counts(owner: Connection, provider: Provider) -> None:
    counts = [
        "select organization_id, sum(items)::bigint from app.work_minutes where kind = 'lookup' and outcome = 'completed' group by 1",
        "select organization_id, count(*) from public.lookup_queue_items where status = 'completed' group by 1",
    ]
    of_minutes, of_items = (sorted(owner.execute(count).fetchall()) for count in counts)
    assert of_minutes == of_items, "a success was counted twice in the history of its organization, or never"
    counted = "select coalesce(sum(items), 0) from app.sum_work() where kind = 'lookup' and outcome = 'completed'"
    completed = fetch_value(owner, "select count(*) from public.lookup_queue_items where status = 'completed'")
    assert fetch_value(owner, counted) == completed, "a success was counted twice, or never"
    items: dict[str, Any] = dict(owner.execute("select reference_id, job_id from public.lookup_queue_items").fetchall())
    seen: Counter[Any] = Counter()
    for name, times in provider.seen.items():
        seen[items[name]] += times
    used: dict[Any, int] = dict(owner.execute("select job_id, sum(lookups) from public.lookup_usage group by 1").fetchall())
    assert {job: times for job, times in seen.items() if times > used[job]} == {}, "looked up without a claim"
