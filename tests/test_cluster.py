"""A worker on a cluster of Citus, where organizations are at several nodes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import psycopg
import pytest
from psycopg.errors import Diagnostic

from pyshell.deploy.migrations import migrate
from pyshell.postgres.notifications import Notifier
from pyshell.settings import Settings
from pyshell.worker import claims, outcomes
from tests.citus_fixtures import Cluster
from tests.conftest import Connection
from tests.test_pacing import most_in_a_second
from tests.timed import PATIENCE, timed, wait_until
from tests.upstream import FakeUpstream, Reply
from tests.worker_fixtures import Batches, fetch_value, running_worker, site, update_settings


@dataclass
class Installation:
    """A database of the cluster, as its owner at the coordinator, the settings of a worker there, and the URLs of nodes with shards."""

    owner: Connection
    settings: Settings
    nodes: dict[tuple[str, int], str]

    def organizations(self, at_each: int) -> dict[str, list[Batches]]:
        """So many organizations on each node that has shards, by the URL of the node."""
        organizations: dict[str, list[Batches]] = {url: [] for url in self.nodes.values()}
        while any(len(some) < at_each for some in organizations.values()):
            batches = Batches(self.owner)
            some = organizations[self.nodes[self._node_of(batches)]]
            if len(some) < at_each:
                some.append(batches)
        return organizations

    def at(self, url: str) -> Settings:
        return replace(self.settings, database_url=url)

    def _node_of(self, batches: Batches) -> tuple[str, int]:
        row = self.owner.execute(
            "select n.nodename, n.nodeport from pg_dist_placement p join pg_dist_node n on n.groupid = p.groupid"
            " where p.shardid = get_shard_id_for_distribution_column('public.batch_lookup_jobs', %s)",
            [batches.organization_id],
        ).fetchone()
        assert row
        return row[0], row[1]


@pytest.fixture(scope="module")
def cluster_url(citus: Cluster) -> str:
    url = citus.new_database()
    migrate(url, distribute=True)
    with psycopg.connect(url, autocommit=True) as owner:
        # Nodes connect to each other as the calling role.
        owner.execute("alter role batch_lookups_shell login")
    return url


@pytest.fixture
def installation(citus: Cluster, cluster_url: str, upstream: FakeUpstream) -> Iterator[Installation]:
    with psycopg.connect(cluster_url, autocommit=True) as owner:
        update_settings(owner, lookups_per_second=None, max_in_flight=20, retry_backoff_seconds=0.01, outage_failures=10)
        settings = Settings(database_url=cluster_url, incentives_api_url=upstream.url, incentives_api_key="key of the provider")
        nodes = {(node.host, node.port): citus.url_at(node, owner.info.dbname) for node in citus.nodes if node.has_shards}
        yield Installation(owner, settings, nodes)


@pytest.mark.parametrize("kind", ["at the coordinator", "at every node"])
def test_workers_serve_all_organizations(
    installation: Installation, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # A call for several organizations would send commands for each statement, and commit on several nodes.
    monkeypatch.delattr(claims, "claim_for_organizations")
    monkeypatch.delattr(outcomes, "record_for_organizations")
    organizations = installation.organizations(at_each=4)
    caplog.set_level(logging.WARNING)
    everybody = [batches for some in organizations.values() for batches in some]
    jobs = [(batches, batches.create([f"{batches.organization_id}-{n}" for n in range(30)])) for batches in everybody]
    at_nodes = map(installation.at, organizations)
    with ExitStack() as workers:
        for settings in [installation.settings] if kind == "at the coordinator" else at_nodes:
            workers.enter_context(running_worker(settings))
        assert {batches.wait(job) for batches, job in jobs} == {"completed"}
    assert set(upstream.times_seen().values()) == {1}
    assert [record.getMessage() for record in caplog.records if record.name.startswith("pyshell.worker")] == []


def test_an_organization_is_not_alone_while_another_node_gets_answers(installation: Installation, upstream: FakeUpstream) -> None:
    [failing], [other] = list(installation.organizations(at_each=1).values())[:2]
    with running_worker(installation.settings):
        assert other.wait(other.create(1)) == "completed"
    assert fetch_value(installation.owner, "select count(*) from public.lookup_leases") == 0
    assert fetch_value(installation.owner, "select app.is_served_alone(%s)", failing.organization_id) is False
    installation.owner.execute("delete from app.work_minutes")
    assert fetch_value(installation.owner, "select app.is_served_alone(%s)", failing.organization_id) is True


def noting(commands: list[str]) -> Callable[[Diagnostic], None]:
    return lambda notice: commands.append(notice.message_primary or "")


def test_a_node_claims_and_records_without_asking_another(installation: Installation) -> None:
    for url, [mine] in installation.organizations(at_each=1).items():
        mine.create(3)
        commands: list[str] = []
        with psycopg.connect(url, autocommit=True) as node:
            node.add_notice_handler(noting(commands))
            node.execute("set client_min_messages = notice; set citus.log_remote_commands = on")
            ready = fetch_value(node, "select organization_ids from api.heartbeat('worker')")
            assert set(ready) == {mine.organization_id}
            claimed = node.execute("select * from api.claim_lookups(%s, 'worker', 10)", [mine.organization_id]).fetchall()
            assert len(claimed) == 3
            node.execute(
                """
                select from api.record_lookups(
                    %s, %s, %s, %s, array[200, 200, 200], array_fill(null::text, array[3]), array['{}', '{}', '{}'],
                    array_fill(null::float8, array[3]), array[0.1, 0.1, 0.1])""",
                [mine.organization_id, *([row[column] for row in claimed] for column in range(3))],
            )
        assert mine.counts() == {"completed": 3}
        assert [command for command in commands if command.startswith("issuing")] == []


@pytest.mark.parametrize("busy", ["all nodes", "one node"])
@timed
def test_workers_at_all_nodes_keep_to_one_rate_limit_and_use_it(installation: Installation, upstream: FakeUpstream, busy: str) -> None:
    rate = 40
    organizations = installation.organizations(at_each=2)
    update_settings(installation.owner, lookups_per_second=rate)
    for some in list(organizations.values())[: 1 if busy == "one node" else None]:
        for batches in some:
            batches.create([f"{batches.organization_id}-{n}" for n in range(rate * 4)])
    with ExitStack() as workers:
        for url in organizations:
            workers.enter_context(running_worker(installation.at(url)))
        wait_until(lambda: upstream.requests)
        time.sleep(3.6)
    arrivals = sorted(seen.at for seen in upstream.requests)
    assert most_in_a_second(arrivals) <= rate * 1.1 + len(organizations)
    assert sum(arrivals[0] + 0.5 <= at < arrivals[0] + 3.5 for at in arrivals) >= 0.8 * rate * 3


def test_nodes_are_notified_of_a_pause_and_of_an_outage(installation: Installation) -> None:
    organizations = installation.organizations(at_each=1)
    (url, [mine]), *_ = organizations.items()
    urls = {installation.settings.database_url, *organizations}

    def stopped() -> set[bool]:
        answers = set()
        for each in urls:
            with psycopg.connect(each, autocommit=True) as node:
                answers.add(fetch_value(node, "select stopped from api.heartbeat('test')"))
        return answers

    def record(status: int | None, error: str | None, retry_after: float | None) -> None:
        with psycopg.connect(url, autocommit=True) as node:
            ((job, position, token),) = node.execute(
                "select job_id, position, lease_token from api.claim_lookups(%s, 'w', 1)", [mine.organization_id]
            ).fetchall()
            node.execute(
                """
                select from api.record_lookups(
                    %s, array[%s], array[%s], array[%s], array[%s::integer], array[%s], array['{}'], array[%s::float8])""",
                [mine.organization_id, job, position, token, status, error, retry_after],
            )

    mine.create(3)
    assert stopped() == {False}
    record(429, None, 60.0)
    assert stopped() == {True}
    installation.owner.execute("select api.resume_lookups()")
    assert stopped() == {False}
    installation.owner.execute("select api.pause_lookups(60)")
    assert stopped() == {True}
    installation.owner.execute("select api.resume_lookups()")
    update_settings(installation.owner, outage_failures=1)
    record(None, "unreachable", None)
    assert stopped() == {True}
    with psycopg.connect(url, autocommit=True) as node:
        node.execute("update app.upstream_state set probe_at = '-infinity'")
    record(200, None, None)
    assert stopped() == {False}
    installation.owner.execute("select api.resume_lookups()")


def test_nodes_divide_how_many_lookups_run_at_once(installation: Installation) -> None:
    shares = []
    for url in installation.nodes.values():
        with psycopg.connect(url, autocommit=True) as node:
            node.execute("delete from app.workers")
            shares.append(fetch_value(node, "select max_in_flight from api.heartbeat('only worker')"))
    assert set(shares) == {20 // len(shares)}


async def test_the_api_is_notified_of_changes_at_any_node(installation: Installation) -> None:
    heard: list[str | None] = []
    notifier = Notifier(installation.settings.database_url, "test")
    notifier.subscribe("batch_lookups_changes", heard.append)
    organizations = installation.organizations(at_each=1)
    servers = {installation.settings.database_url, *organizations}
    async with notifier.running():
        async with asyncio.timeout(PATIENCE):
            while len(heard) < len(servers):  # noqa: ASYNC110 (what is heard sets no event)
                await asyncio.sleep(0.01)
            jobs = [mine.create(1) for [mine] in organizations.values()]
            while not all(any(str(job) in str(payload) for payload in heard) for job in jobs):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def test_operators_see_all_organizations(installation: Installation) -> None:
    for [mine] in installation.organizations(at_each=1).values():
        mine.create(2)
        installation.owner.execute("select api.set_monthly_lookups(%s, 10)", [mine.organization_id])
    metrics = fetch_value(installation.owner, "select api.get_metrics()")
    assert metrics["oldest_ready_age"] > 0
    assert metrics["webhooks"]["due"] == 0
    checks = {check["name"]: check["finding"] for check in fetch_value(installation.owner, "select api.get_operations()")["checks"]}
    assert checks["lookups"]


def test_a_check_from_elsewhere_sees_one_moment_and_what_is_wrong(installation: Installation, upstream: FakeUpstream) -> None:
    check = "select rule, details from app.find_violations(%s, '-infinity', 'infinity')"
    upstream.usual = Reply(delay=0.005)
    organizations = installation.organizations(at_each=1)
    everybody = [batches.organization_id for some in organizations.values() for batches in some]
    with ExitStack() as workers:
        for url in organizations:
            workers.enter_context(running_worker(installation.at(url)))
        jobs = [(batches, batches.create([f"{batches.organization_id}-{n}" for n in range(600)])) for [batches] in organizations.values()]
        checks = 0
        while any(batches.status(job) != "completed" for batches, job in jobs):
            assert installation.owner.execute(check, [everybody]).fetchall() == []
            checks += 1
    assert checks > 2
    for change in ("+ 1", "- 1"):
        for batches, job in jobs:
            miscount = f"update public.batch_lookup_jobs set failed_items = failed_items {change} where organization_id = %s and id = %s"
            installation.owner.execute(miscount.encode(), [batches.organization_id, job])
        for url in organizations:
            with psycopg.connect(url) as node:
                found = [rule for rule, _ in node.execute(check, [everybody])]
                assert found.count("a job counts its items") == (len(jobs) if change == "+ 1" else 0)


def test_members_read_records_of_their_own_organization_alone(installation: Installation) -> None:
    """Wherever its rows are, though the policies at other nodes see no claims."""
    jobs = {batches.organization_id: batches.create(1) for [batches] in installation.organizations(1).values()}
    for organization_id, job in jobs.items():
        with installation.owner.transaction(force_rollback=True):
            installation.owner.execute("set local role authenticated")
            claims = json.dumps({"role": "authenticated", "organization_id": str(organization_id)})
            installation.owner.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            read = "select api.realtime_record('batch_lookup_jobs', %s, %s) -> 'record' ->> 'id'"
            seen = {other: fetch_value(installation.owner, read, other, jobs[other]) for other in jobs}
            assert seen == {other: str(job) if other == organization_id else None for other in jobs}
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                installation.owner.execute("select from public.batch_lookup_jobs")


@timed
def test_an_open_upload_holds_up_no_other_organization(installation: Installation) -> None:
    owner = installation.owner
    holder, *others = (Batches(owner) for _ in range(6))
    with psycopg.connect(installation.settings.database_url) as connection:
        create = "select api.create_batch_lookup(%s, %s, false)"
        connection.execute(create, [holder.organization_id, json.dumps({"items": [site("uncommitted")]})])
        owner.execute("set statement_timeout = '10s'")
        for batches in others:
            started = time.monotonic()
            batches.create(1)
            assert time.monotonic() - started < 1
        connection.rollback()
