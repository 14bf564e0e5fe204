"""A database that is slow, restarts or is lost, as the API's clients see it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyshell.local.machine import free_port
from pyshell.settings import ROOT, Settings
from tests.conftest import Connection, is_cluster, waiting_for_locks
from tests.http_fixtures import PEPPER, OrganizationClient, is_ready, running_server, site
from tests.tcp_proxy import running_proxy
from tests.timed import wait_until
from tests.upstream import FakeUpstream
from tests.worker_fixtures import end_with_parent, running_worker


@pytest.fixture(scope="module")
def api(shared_database_url: str) -> Iterator[OrganizationClient]:
    """A client of a server with a database of its own."""
    settings = Settings(database_url=shared_database_url, api_key_pepper=PEPPER)
    with running_server(settings) as url, OrganizationClient(url, settings.database_url) as client:
        yield client


@contextmanager
def nobody_gets_at_jobs(database_url: str) -> Iterator[None]:
    with psycopg.connect(database_url) as connection:
        connection.execute("lock table public.batch_lookup_jobs in access exclusive mode")
        yield


def waiting_backend(database: Connection) -> int:
    """The process of a request that waits for the jobs."""
    wait_until(lambda: waiting_for_locks(database, "batch-lookups"))
    return waiting_for_locks(database, "batch-lookups")[0]


def test_clients_do_not_notice_closed_connections(api: OrganizationClient, shared_owner: Connection) -> None:
    created = api.submit()
    for _ in range(3):
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(api.get, [f"/batch-lookups/{created['job_id']}"] * 8))
        shared_owner.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and application_name = 'batch-lookups'"
        )
        assert api.get(f"/batch-lookups/{created['job_id']}").status_code == 200
        assert api.post("/batch-lookups", json=[site()]).status_code == 201


def interrupted(api: OrganizationClient, owner: Connection, database_url: str, method: str, function: str) -> httpx.Response:
    """The response to a request whose statement is interrupted by the given function."""
    with ThreadPoolExecutor(1) as thread:
        with nobody_gets_at_jobs(database_url):
            answer: Future[httpx.Response] = thread.submit(api.request, method, "/batch-lookups", json=[site()])
            owner.execute(f"select {function}(%s::integer)", [waiting_backend(owner)])
        return answer.result()


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 201)])
def test_a_request_survives_the_loss_of_its_connection_to_the_database(
    api: OrganizationClient, shared_owner: Connection, shared_database_url: str, method: str, status: int
) -> None:
    before = api.get("/batch-lookups").json()["total"]
    assert interrupted(api, shared_owner, shared_database_url, method, "pg_terminate_backend").status_code == status
    assert api.get("/batch-lookups").json()["total"] == before + (1 if method == "POST" else 0)


def test_a_statement_that_takes_too_long_is_answered(api: OrganizationClient, shared_owner: Connection, shared_database_url: str) -> None:
    response = interrupted(api, shared_owner, shared_database_url, "GET", "pg_cancel_backend")
    assert (response.status_code, response.json()["code"], response.headers["retry-after"]) == (503, "timeout", "1")


def test_a_read_only_database_still_answers_reads(new_database: Callable[..., str]) -> None:
    database_url = new_database()
    with OrganizationClient("http://unused", database_url) as first:
        name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
        with psycopg.connect(database_url, autocommit=True) as owner:
            statement = f"alter database {name} set default_transaction_read_only = on"
            if is_cluster(owner):
                owner.execute("select run_command_on_all_nodes(%s)", [statement])
            else:
                owner.execute(statement.encode())
        with running_server(Settings(database_url=database_url, api_key_pepper=PEPPER)) as url:
            first.base_url = url
            assert first.get("/batch-lookups").status_code == 200
            for response in (first.post("/batch-lookups", json=[site()]), first.get("/readyz")):
                assert (response.status_code, response.json()["code"]) == (503, "database_read_only")
                assert response.headers["retry-after"] == "1"


def test_api_and_worker_go_on_when_a_database_takes_writes_again(new_database: Callable[..., str], upstream: FakeUpstream) -> None:
    """A session that began in the meantime stays read-only to its end."""
    database_url = new_database()
    settings = Settings(database_url=database_url, api_key_pepper=PEPPER, incentives_api_url=upstream.url)
    with psycopg.connect(database_url, autocommit=True) as owner, OrganizationClient("http://unused", database_url) as client:
        with running_server(settings) as url:
            client.base_url = url
            job = client.submit()["job_id"]
        change = f"alter database {owner.info.dbname} %s default_transaction_read_only"
        owner.execute((change % "set" + " = on").encode())
        with running_server(settings) as url, running_worker(settings):
            client.base_url = url
            assert client.post("/batch-lookups", json=[site()]).json()["code"] == "database_read_only"
            time.sleep(0.5)
            assert client.get(f"/batch-lookups/{job}").json()["status"] == "pending"
            owner.execute((change % "reset").encode())
            wait_until(lambda: client.post("/batch-lookups", json=[site()]).status_code == 201)
            wait_until(lambda: client.get("/readyz").status_code == 200)
            wait_until(lambda: client.get(f"/batch-lookups/{job}").json()["status"] == "completed")


def test_a_write_is_not_repeated_when_the_network_fails(new_database: Callable[..., str]) -> None:
    database_url = new_database()
    with (
        running_proxy(int(conninfo_to_dict(database_url)["port"] or 5432)) as proxy,
        psycopg.connect(database_url, autocommit=True) as owner,
    ):
        settings = Settings(database_url=make_conninfo(database_url, port=proxy.port), api_key_pepper=PEPPER)
        with running_server(settings) as url, OrganizationClient(url, database_url) as client, ThreadPoolExecutor(2) as threads:
            with nobody_gets_at_jobs(database_url):
                write = threads.submit(client.post, "/batch-lookups", json=[site()])
                waiting_backend(owner)
                read = threads.submit(client.get, "/batch-lookups")
                time.sleep(0.2)
                proxy.cut()
                assert (write.result().status_code, write.result().json()["code"]) == (503, "outcome_unknown")
            assert read.result().status_code == 200
            # It is executed once: the server does not notice that nobody waits for the response.
            jobs = "select count(*) from public.batch_lookup_jobs"
            wait_until(lambda: owner.execute(jobs).fetchone() == (1,))
            time.sleep(0.2)
            assert owner.execute(jobs).fetchone() == (1,)


def test_a_stopped_server_ends_its_requests_first(new_database: Callable[..., str]) -> None:
    database_url = new_database()
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "pyshell", "serve"],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url, "PORT": str(port), "API_KEY_PEPPER": PEPPER},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent,
    )
    with (
        OrganizationClient(f"http://127.0.0.1:{port}", database_url) as client,
        psycopg.connect(database_url, autocommit=True) as owner,
        ThreadPoolExecutor(1) as thread,
    ):
        wait_until(lambda: is_ready(f"http://127.0.0.1:{port}"))
        with nobody_gets_at_jobs(database_url):
            answer = thread.submit(client.submit)
            waiting_backend(owner)
            server.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert answer.result()["status"] == "pending"
        _, log = server.communicate(timeout=30)
        assert "POST /batch-lookups 201" in log
        assert client.api_key not in log
