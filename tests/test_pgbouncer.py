"""Behind PgBouncer, with session pooling or transaction pooling."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyshell.api.realtime import feed
from pyshell.local.machine import free_port
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.postgres import connections
from pyshell.postgres.connections import ClosableConnection, connect, is_transaction_pooled
from pyshell.postgres.pool import Pool
from pyshell.settings import ROOT, Settings
from pyshell.worker.run_once import run_once
from tests.conftest import Connection, folder_for_postgres
from tests.http_fixtures import PEPPER, OrganizationClient, look_up, running_server, site
from tests.realtime_fixtures import bare_socket
from tests.timed import wait_until
from tests.upstream import FakeUpstream
from tests.worker_fixtures import Batches, running_worker

PROGRAM = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")


@contextmanager
def pgbouncer(cluster: PrivatePostgres, database_url: str, mode: str, size: int = 20) -> Iterator[str]:
    """The URL of the same database through a PgBouncer of its own."""
    assert PROGRAM is not None
    parts = conninfo_to_dict(database_url)
    login = " ".join(f"{name}={parts[name]}" for name in ("user", "password") if name in parts)
    port = free_port()
    with folder_for_postgres(cluster) as folder:
        file = folder / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n{parts['dbname']} = host=127.0.0.1 port={parts['port']} {login}\n"
            f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nauth_type=any\npool_mode={mode}\ndefault_pool_size={size}\nserver_login_retry=1\nunix_socket_dir=\n"
        )
        file.chmod(0o644)
        # It refuses to run as root.
        identity = {} if os.geteuid() else {"user": pwd.getpwnam("postgres").pw_uid}
        process = subprocess.Popen([PROGRAM, file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **identity)  # type: ignore[call-overload]
        try:
            wait_until(lambda: is_open(port))
            yield make_conninfo(database_url, port=port)
        finally:
            process.terminate()
            process.wait(10)


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def url_of(conninfo: str) -> str:
    parts = conninfo_to_dict(conninfo)
    return f"postgresql://{parts['user']}:{parts.get('password', '')}@127.0.0.1:{parts['port']}/{parts['dbname']}"


@pytest.mark.parametrize(("mode", "pooled"), [("transaction", True), ("session", False)])
async def test_transaction_pooling_is_recognized(cluster: PrivatePostgres, database_url: str, mode: str, pooled: bool) -> None:
    with pgbouncer(cluster, database_url, mode) as url:
        async with await ClosableConnection.connect(url, autocommit=True) as connection:
            assert await is_transaction_pooled(url, connection) is pooled
    async with await connect(database_url, "test") as connection:
        assert not await is_transaction_pooled(database_url, connection)


async def test_connections_of_a_process_share_one_probe(
    cluster: PrivatePostgres, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[str] = []

    async def probe(url: str) -> connections.Connection:
        probes.append(url)
        return await connect_plainly(url)

    connect_plainly = connections._connect_plainly
    monkeypatch.setattr(connections, "_connect_plainly", probe)
    # As many servers as a worker has connections.
    with pgbouncer(cluster, database_url, "session", size=7) as url:
        opened = await asyncio.gather(*(connect(url, "test") for _ in range(7)))
        for connection in opened:
            await connection.close()
    assert len(probes) == connections.POOLER_PROBES


def test_the_api_works_with_transaction_pooling(
    cluster: PrivatePostgres, database_url: str, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.3)
    with pgbouncer(cluster, database_url, "transaction") as conninfo:
        settings = Settings(database_url=url_of(conninfo), api_key_pepper=PEPPER)
        with running_server(settings) as url, OrganizationClient(url, settings.database_url) as client, ThreadPoolExecutor(8) as threads:
            jobs = [job.json()["job_id"] for job in threads.map(lambda _: client.post("/batch-lookups", json=[site()]), range(40))]
            answers = list(threads.map(lambda job: client.get(f"/batch-lookups/{job}"), jobs * 5))
            assert {answer.status_code for answer in answers} == {200}
            assert [answer.json()["id"] for answer in answers] == jobs * 5
            assert client.get(f"/batch-lookups/{jobs[0]}", params={"wait": 1}).status_code == 200
            with bare_socket(url, client.api_key) as bare:
                assert bare.join({})["status"] == "ok"
                assert bare.receive()[3] == "system"
                look_up(owner, {"job_id": jobs[0]}, 1)
                # No notification comes, so it takes a poll.
                assert bare.receive(10)[4]["data"]["record"]["status"] in ("processing", "completed")
        # Other programs with the same pool get the defaults of the server.
        with psycopg.connect(conninfo, prepare_threshold=None) as other:
            for name, value in (("role", "none"), ("statement_timeout", "0")):
                assert other.execute(f"show {name}").fetchone() == (value,)
            assert other.execute("select from pg_prepared_statements").fetchall() == []


async def test_a_transaction_that_fails_is_not_taken_for_committed(cluster: PrivatePostgres, database_url: str) -> None:
    with pgbouncer(cluster, database_url, "transaction") as url:
        async with Pool(url) as pool:

            async def fail() -> None:
                async with pool.connection() as connection:
                    with suppress(psycopg.Error):
                        await connection.execute("select 1 / 0")

            with pytest.raises(psycopg.OperationalError, match="a statement of the transaction failed"):
                await fail()


@pytest.mark.parametrize(("command", "settings"), [("worker", {}), ("worker", {"SERVICE_ROLE_KEY": "s" * 32}), ("up", {})])
def test_a_worker_refuses_transaction_pooling(cluster: PrivatePostgres, database_url: str, command: str, settings: dict[str, str]) -> None:
    with pgbouncer(cluster, database_url, "transaction") as conninfo, folder_for_postgres(cluster) as state_dir:
        environment = os.environ | {"DATABASE_URL": url_of(conninfo), "STATE_DIR": str(state_dir), "PORT": str(free_port())} | settings
        ended = subprocess.run(
            [sys.executable, "-m", "pyshell", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: DATABASE_URL leads to a connection pooler in transaction mode.")
    assert "Traceback" not in ended.stderr


def test_a_worker_works_with_session_pooling(
    cluster: PrivatePostgres, batches: Batches, worker_settings: Settings, upstream: FakeUpstream
) -> None:
    with pgbouncer(cluster, worker_settings.database_url, "session") as conninfo:
        pooled = Settings(database_url=url_of(conninfo), incentives_api_url=worker_settings.incentives_api_url, incentives_api_key="key")
        with running_worker(pooled):
            assert batches.wait(batches.create(100)) == "completed"
    assert len(upstream.requests) == 100


async def test_a_manual_run_skips_an_organization_whose_rows_are_held(
    cluster: PrivatePostgres, owner: Connection, database_url: str, worker_settings: Settings
) -> None:
    neighbour, other = Batches(owner), Batches(owner)
    for batches in (neighbour, other):
        batches.create(1)
        owner.execute(
            "insert into app.organization_queue_state (organization_id) values (%s) on conflict do nothing", [batches.organization_id]
        )
    with pgbouncer(cluster, database_url, "transaction") as url, psycopg.connect(database_url) as holding:
        holding.execute("select from app.organization_queue_state where organization_id = %s for update", [neighbour.organization_id])
        async with Pool(url) as pool:
            assert await run_once(pool, worker_settings) == {"claimed": 1, "accepted": 1}
