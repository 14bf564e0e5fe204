"""`consistency=eventual`: reads at a streaming standby, whose replay is paused so that its answers differ from those of the primary."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import PoolTimeout

from pyshell.deploy import doctor
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.metrics import PROCESS
from pyshell.postgres.pool import Pool, PooledConnection
from pyshell.postgres.replica import Replica
from pyshell.settings import Settings
from tests.conftest import Connection, MakeCluster, running_copy
from tests.http_fixtures import OPENAPI, PEPPER, UNKNOWN_ID, OrganizationClient, look_up, running_server, site
from tests.operations_fixtures import fires, needs_promtool
from tests.standby import promote, running_standby, wait_for_replay
from tests.tcp_proxy import running_proxy
from tests.timed import PATIENCE, wait_until

CONSISTENCY = {"$ref": "#/components/parameters/Consistency"}
PATHS = [path for path, operations in OPENAPI["paths"].items() if CONSISTENCY in operations.get("get", {}).get("parameters", [])]
READS = "batch_lookups_db_eventual_reads_total"
OUTCOMES = ("replica", "after_write", "lag", "unavailable", "refused")


@dataclass
class Pair:
    """A primary, its standby, and an API in front of them."""

    primary: PrivatePostgres
    standby: PrivatePostgres
    database: Connection
    settings: Settings
    url: str
    stack: ExitStack

    def client(self) -> OrganizationClient:
        return self.stack.enter_context(OrganizationClient(self.url, self.primary.url()))

    def another_server(self, settings: Settings | None = None) -> str:
        return self.stack.enter_context(running_server(settings or self.settings))

    def on_standby(self, statement: str) -> None:
        with psycopg.connect(self.standby.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def pause(self, *clients: OrganizationClient) -> None:
        """Pauses the standby, once it answers each of the clients."""
        wait_until(lambda: all(lag_of(client) is not None for client in clients))
        self.on_standby("select pg_wal_replay_pause()")
        with psycopg.connect(self.standby.url(), autocommit=True) as connection:
            wait_until(lambda: connection.execute("select pg_get_wal_replay_pause_state()").fetchone() == ("paused",))

    def resume(self) -> None:
        self.on_standby("select pg_wal_replay_resume()")


@contextmanager
def running_pair(primary: PrivatePostgres) -> Iterator[Pair]:
    with ExitStack() as stack:
        standby = stack.enter_context(running_standby(primary, primary.folder.parent / "standby"))
        settings = Settings(
            database_url=primary.url(),
            database_replica_url=standby.url(),
            database_replica_max_lag_seconds=3600,
            api_key_pepper=PEPPER,
        )
        database = stack.enter_context(psycopg.connect(primary.url(), autocommit=True))
        database.execute("select api.update_settings('{\"lookups_per_second\": null}')")
        yield Pair(primary, standby, database, settings, stack.enter_context(running_server(settings)), stack)


@pytest.fixture(scope="module")
def module_pair(cluster: PrivatePostgres, make_cluster: MakeCluster) -> Iterator[Pair]:
    with running_copy(cluster, make_cluster) as primary, running_pair(primary) as pair:
        yield pair


@pytest.fixture
def pair(module_pair: Pair) -> Iterator[Pair]:
    """The pair of the module; its standby resumes in the end."""
    with ExitStack() as stack:
        yield replace(module_pair, stack=stack)
    module_pair.resume()


@pytest.fixture
def own_pair(own_postgres: PrivatePostgres) -> Iterator[Pair]:
    """For a test after which they are no pair any more."""
    with running_pair(own_postgres) as pair:
        yield pair


def eventual(client: OrganizationClient, path: str = "/batch-lookups", **parameters: str) -> httpx.Response:
    response = client.get(path, params={"consistency": "eventual", **parameters})
    assert response.status_code == 200, response.text
    return response


def lag_of(client: OrganizationClient) -> float | None:
    """How far the standby that answered lagged behind; None: the primary has answered."""
    lag = eventual(client).headers.get("replica-lag")
    assert lag is None or re.fullmatch(r"\d+\.\d{3}", lag)
    return None if lag is None else float(lag)


def reads() -> dict[str, float]:
    """How many reads have been answered where, and why there, by all servers of this process."""
    return {outcome: PROCESS.get_sample_value(READS, {"outcome": outcome}) or 0 for outcome in OUTCOMES}


def outcomes_since(before: dict[str, float]) -> set[str]:
    return {outcome for outcome, count in reads().items() if count > before[outcome]}


def test_a_replica_shows_an_earlier_state_and_its_age(pair: Pair) -> None:
    client = pair.client()
    job = client.submit()
    ids = {"job_id": job["job_id"], "report_id": job["report"]["id"], "position": "0", "application_id": "1"}
    pair.pause(client)
    look_up(pair.database, job, 1, {"total": 1})
    assert client.get(f"/batch-lookups/{job['job_id']}").json()["status"] == "completed"

    assert eventual(client, f"/batch-lookups/{job['job_id']}").json()["status"] == "pending"
    assert (lag_of(client) or 0) > 0
    for path in PATHS:
        url = path.format(**ids)
        parameters = {"from": ids["report_id"], "to": ids["report_id"]} if path.endswith("/diff") else {}
        response = client.get(url, params={"consistency": "eventual", **parameters})
        expected = (404, False) if path == "/applications/{application_id}" else (200, True)
        assert (response.status_code, "replica-lag" in response.headers) == expected, path
        strong = client.get(url, params={"consistency": "strong", **parameters})
        assert (strong.status_code, "replica-lag" in strong.headers) == (expected[0], False), path

    waited = client.get(f"/batch-lookups/{job['job_id']}", params={"wait": "0", "consistency": "eventual"})
    assert (waited.json()["status"], "replica-lag" in waited.headers) == ("completed", False)


def test_who_has_written_is_answered_by_the_primary_until_the_replica_has_it(pair: Pair) -> None:
    writer, other = pair.client(), pair.client()
    writer.submit()
    other.submit()
    pair.pause(writer, other)
    before = reads()
    writer.submit()

    response = eventual(writer)
    assert (response.json()["total"], "replica-lag" in response.headers) == (2, False)
    assert lag_of(other) is not None
    assert outcomes_since(before) == {"after_write", "replica"}

    pair.resume()
    wait_until(lambda: lag_of(writer) is not None)
    assert eventual(writer).json()["total"] == 2


def test_processes_know_about_each_others_writes(pair: Pair) -> None:
    client = pair.client()
    job = client.submit()
    another = pair.another_server()
    client.base_url = another
    pair.pause(client)
    client.base_url = pair.url
    assert client.post(f"/batch-lookups/{job['job_id']}/cancel").status_code == 200
    client.base_url = another
    response = eventual(client, f"/batch-lookups/{job['job_id']}")
    assert (response.json()["status"], "replica-lag" in response.headers) == ("cancelled", False)


def test_a_refused_write_changes_nothing_for_the_caller(pair: Pair) -> None:
    client = pair.client()
    client.submit()
    pair.pause(client)
    assert client.post("/batch-lookups", json={"items": [site("x")]}).status_code == 400
    assert client.post(f"/batch-lookups/{UNKNOWN_ID}/cancel").status_code == 404
    assert lag_of(client) is not None


def test_after_a_crash_the_record_of_writes_starts_again(own_pair: Pair) -> None:
    client = own_pair.client()
    client.submit()
    own_pair.pause(client)
    client.submit()
    own_pair.database.close()
    own_pair.primary.stop(immediately=True)
    own_pair.primary.start()
    wait_until(lambda: client.get("/batch-lookups").status_code == 200)
    response = eventual(client)
    assert (response.json()["total"], "replica-lag" in response.headers) == (2, False)
    own_pair.resume()
    wait_until(lambda: lag_of(client) is not None)
    assert eventual(client).json()["total"] == 2


def test_a_write_whose_outcome_is_unknown_counts_as_a_write(pair: Pair) -> None:
    client = pair.client()
    job = client.submit()
    with running_proxy(int(str(conninfo_to_dict(pair.primary.url())["port"]))) as proxy, ThreadPoolExecutor(1) as threads:
        settings = replace(pair.settings, database_url=make_conninfo(pair.primary.url(), port=proxy.port))
        with running_server(settings) as url:
            client.base_url = url
            pair.pause(client)
            with psycopg.connect(pair.primary.url()) as blocker:
                blocker.execute("select from public.batch_lookup_jobs for update")
                write = threads.submit(client.post, f"/batch-lookups/{job['job_id']}/cancel")
                wait_until(lambda: pair.database.execute("select from pg_locks where not granted").fetchone() is not None)
                proxy.cut()
                assert write.result().json()["code"] == "outcome_unknown"
    client.base_url = pair.url
    wait_until(lambda: client.get(f"/batch-lookups/{job['job_id']}").json()["status"] == "cancelled")
    response = eventual(client, f"/batch-lookups/{job['job_id']}")
    assert (response.json()["status"], "replica-lag" in response.headers) == ("cancelled", False)


def test_a_replica_that_is_too_far_behind_is_not_read(pair: Pair) -> None:
    client, other = pair.client(), pair.client()
    client.submit()
    strict = pair.another_server(replace(pair.settings, database_replica_max_lag_seconds=0))
    pair.pause(client)
    other.submit()
    before = reads()
    client.base_url = strict
    assert lag_of(client) is None
    assert outcomes_since(before) == {"lag"}


def test_the_primary_answers_while_the_replica_is_away(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    client = pair.client()
    client.submit()
    wait_until(lambda: lag_of(client) is not None)
    pair.standby.stop(immediately=True)
    before = reads()
    with caplog.at_level(logging.WARNING, "pyshell.postgres.replica"), caplog.at_level(logging.WARNING, "psycopg.pool"):
        for _ in range(3):
            response = eventual(client)
            assert (response.json()["total"], "replica-lag" in response.headers) == (1, False)
        assert outcomes_since(before) == {"unavailable"}
        wait_until(lambda: lag_of(client) is None and caplog.records)
        pair.standby.start()
        wait_until(lambda: lag_of(client) is not None)
    messages = [record.getMessage() for record in caplog.records if record.name == "pyshell.postgres.replica"]
    assert messages == [
        "the replica does not answer, the primary answers instead: it cannot be reached",
        "the replica answers again",
    ]
    assert "error connecting in 'the replica'" in caplog.text


@needs_promtool
def test_an_alert_tells_that_the_replica_is_away(pair: Pair) -> None:
    def fires_for(client: OrganizationClient) -> bool:
        before = reads()
        for _ in range(3):
            eventual(client)
        samples = ({f'{READS}{{outcome="{outcome}"}}': count for outcome, count in counts.items()} for counts in (before, reads()))
        return fires("ReplicaNotRead", *samples)

    client = pair.client()
    client.submit()
    wait_until(lambda: lag_of(client) is not None)
    assert not fires_for(client)
    pair.standby.stop(immediately=True)
    try:
        assert fires_for(client)
    finally:
        pair.standby.start()
    wait_until(lambda: lag_of(client) is not None)


def test_the_primary_answers_while_the_replica_is_silent(pair: Pair) -> None:
    client = pair.client()
    client.submit()
    with running_proxy(int(str(conninfo_to_dict(pair.standby.url())["port"]))) as proxy:
        client.base_url = pair.another_server(
            replace(pair.settings, database_replica_url=make_conninfo(pair.standby.url(), host="127.0.0.1", port=proxy.port))
        )
        wait_until(lambda: lag_of(client) is not None)
        proxy.fall_silent()
        for _ in range(3):
            assert lag_of(client) is None
        proxy.recover()
        wait_until(lambda: lag_of(client) is not None)


def test_only_the_first_request_waits_for_a_replica_that_accepts_no_connection(
    shared_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(
            database_url=shared_database_url,
            database_replica_url=f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing",
            api_key_pepper=PEPPER,
        )
        with running_server(settings) as url, OrganizationClient(url, shared_database_url) as client:
            assert lag_of(client) is None
            assert "the primary answers instead: it cannot be reached" in caplog.text


def test_a_replica_is_found_once_its_url_leads_to_it(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a failover, when there are still connections to the former standby, which is now the primary."""
    monkeypatch.setattr("pyshell.postgres.replica.AWAY_SECONDS", 0)
    client = pair.client()
    with running_proxy(pair.primary.port) as proxy:
        client.base_url = pair.another_server(
            replace(pair.settings, database_replica_url=make_conninfo(pair.standby.url(), host="127.0.0.1", port=proxy.port))
        )
        assert lag_of(client) is None
        proxy.target = pair.standby.port
        wait_until(lambda: lag_of(client) is not None)


async def test_a_request_waits_in_vain_for_the_primary_only_once() -> None:
    class Busy:
        asked = 0

        async def run_for(self, *_: object) -> None:
            self.asked += 1
            raise PoolTimeout

    primary = Busy()
    replica = Replica(cast(Pool, primary), "postgresql://nobody@127.0.0.1:1/nothing", 10, 1)
    with pytest.raises(PoolTimeout):
        await replica.reader(lambda _: None).run_for(uuid4(), "get_batch_lookup", cast(Any, None))
    assert primary.asked == 1


async def test_nothing_is_left_of_a_read_that_is_cancelled_while_the_replica_is_silent(shared_database_url: str) -> None:
    def asking() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if "fetch_row" in str(task.get_coro())]

    async def once(connection: PooledConnection) -> None:
        raise AssertionError

    with running_proxy(int(str(conninfo_to_dict(shared_database_url)["port"]))) as proxy:
        async with Pool(shared_database_url) as primary:
            replica = Replica(primary, make_conninfo(shared_database_url, host="127.0.0.1", port=proxy.port), 60.0, 1)
            async with replica.pool:
                async with replica.pool.connection():
                    proxy.fall_silent()
                reading = asyncio.create_task(replica.reader(lambda lag: None).run_for(UUID(UNKNOWN_ID), "get_job", once))
                async with asyncio.timeout(PATIENCE):
                    while not asking():  # noqa: ASYNC110 (no event tells)
                        await asyncio.sleep(0.01)
                    reading.cancel()
                    with suppress(asyncio.CancelledError):
                        await reading
                assert not asking()


def test_the_api_starts_without_its_replica(own_postgres: PrivatePostgres) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    nowhere = make_conninfo(own_postgres.url(), host="127.0.0.1", port=port)
    settings = Settings(database_url=own_postgres.url(), database_replica_url=nowhere, api_key_pepper=PEPPER)
    with running_server(settings) as url, OrganizationClient(url, own_postgres.url()) as client:
        client.submit()
        assert lag_of(client) is None
        assert client.get("/readyz").status_code == 200


def test_a_promoted_standby_is_no_replica(own_pair: Pair) -> None:
    client = own_pair.client()
    client.submit()
    wait_until(lambda: lag_of(client) is not None)
    promote(own_pair.standby)
    before = reads()
    assert lag_of(client) is None
    assert outcomes_since(before) == {"unavailable"}


def test_doctor_says_whether_the_replica_is_used(own_pair: Pair) -> None:
    def found(**changes: object) -> tuple[str, str]:
        [finding] = [finding for finding in doctor.diagnose(replace(own_pair.settings, **changes)) if finding.check == "replica"]  # type: ignore[arg-type]
        return finding.state, finding.finding

    client = own_pair.client()
    own_pair.pause(client)
    client.submit()
    assert re.fullmatch(r"the replica is \d+\.\d s behind at most", found()[1])
    assert re.fullmatch(r"the replica is behind \(\d+ s\), so the primary is read", found(database_replica_max_lag_seconds=0)[1])
    for wrong in (own_pair.primary.url(), own_pair.primary.url("template1")):
        assert found(database_replica_url=wrong) == (
            "warning",
            "DATABASE_REPLICA_URL does not lead to a standby of the database, so the primary is read",
        )
    own_pair.standby.stop(immediately=True)
    state, text = found()
    assert (state, text.partition(":")[0]) == ("warning", "cannot tell whether the replica is behind")
    assert "replica" not in {finding.check for finding in doctor.diagnose(replace(own_pair.settings, database_replica_url=None))}


@pytest.mark.parametrize("sqlstate", ["40001", "57P01", "53200"])
def test_a_read_that_the_replica_cancels_is_answered_by_the_primary(pair: Pair, sqlstate: str) -> None:
    client = pair.client()
    client.submit()
    with interrupted_at_standby(pair, "list_batch_lookups", sqlstate, "true"):
        wait_until(lambda: "replica-lag" in eventual(client, "/incentive-reports").headers)
        response = eventual(client)
        assert (response.json()["total"], "replica-lag" in response.headers) == (1, False)


def test_a_file_that_the_replica_breaks_off_goes_on_at_the_primary(pair: Pair) -> None:
    client = pair.client()
    job = client.submit(*(site(f"site-{number:03}") for number in range(150)))
    path = f"/batch-lookups/{job['job_id']}/results"
    with interrupted_at_standby(pair, "get_batch_lookup_results", "57P01", "p_after >= 0"):
        wait_until(lambda: "replica-lag" in eventual(client, path, format="ndjson").headers)
        before = reads()
        response = eventual(client, path, format="ndjson")
        references = [json.loads(line)["reference_id"] for line in response.text.splitlines()]
        assert references == [f"site-{number:03}" for number in range(150)]
        assert outcomes_since(before) == {"replica", "unavailable"}


@contextmanager
def interrupted_at_standby(pair: Pair, function: str, sqlstate: str, condition: str) -> Iterator[None]:
    """Lets a function fail as recovery makes it fail, at a standby and where the condition holds."""
    [definition] = pair.database.execute(
        "select pg_get_functiondef(oid) from pg_proc where pronamespace = 'api'::regnamespace and proname = %s", [function]
    ).fetchone() or [""]
    interruption = f"begin\n    if pg_is_in_recovery() and {condition} then raise sqlstate '{sqlstate}'; end if;\n"
    assert "\nbegin\n" in definition
    pair.database.execute(definition.replace("begin\n", interruption, 1).encode())
    wait_for_replay(pair.primary, pair.standby)
    try:
        yield
    finally:
        pair.database.execute(definition.encode())


def test_an_etag_of_the_replica_is_that_of_the_state_it_showed(pair: Pair) -> None:
    client = pair.client()
    job = client.submit()
    path = f"/batch-lookups/{job['job_id']}"
    pair.pause(client)
    known = {"If-None-Match": eventual(client, path).headers["etag"]}
    assert client.get(path, headers=known).status_code == 304
    assert client.get(path, params={"consistency": "eventual"}, headers=known).status_code == 304
    look_up(pair.database, job, 1)
    assert client.get(path, headers=known).status_code == 200
    same = client.get(path, params={"consistency": "eventual"}, headers=known)
    assert (same.status_code, "replica-lag" in same.headers) == (304, True)


def test_without_a_replica_both_consistencies_are_strong(client: OrganizationClient) -> None:
    client.submit()
    for consistency in ("eventual", "strong"):
        response = client.get("/batch-lookups", params={"consistency": consistency})
        assert (response.json()["total"], "replica-lag" in response.headers) == (1, False)


@pytest.mark.parametrize("path", PATHS)
def test_no_other_consistency_is_known(client: OrganizationClient, path: str) -> None:
    url = re.sub(r"\{\w+\}", lambda name: "1" if name[0] in ("{application_id}", "{position}") else UNKNOWN_ID, path)
    for wrong in ("weak", "", "Eventual"):
        response = client.get(url, params={"consistency": wrong, **({"from": UNKNOWN_ID, "to": UNKNOWN_ID} if "diff" in path else {})})
        assert (response.status_code, response.json()["code"]) == (400, "invalid_consistency")
        assert response.json()["error"] == "consistency must be eventual or strong"
