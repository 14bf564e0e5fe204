"""Subscribers during failovers and crashes: they get later changes, whatever transaction ids there were before."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyshell.api.realtime import feed
from pyshell.local.machine import free_port
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.settings import Settings
from tests.conftest import Connection
from tests.http_fixtures import PEPPER, Json, OrganizationClient, running_server
from tests.realtime_fixtures import BareSocket, bare_socket
from tests.standby import promote, running_standby, wait_for_replay
from tests.tcp_proxy import running_proxy
from tests.timed import wait_until


def either(*servers: PrivatePostgres) -> str:
    """A URL for whichever of the two accepts writes."""
    parts = [conninfo_to_dict(server.url()) for server in servers]
    hosts, ports = (",".join(str(part[name]) for part in parts) for name in ("host", "port"))
    return make_conninfo(servers[0].url(), host=hosts, port=ports, target_session_attrs="read-write")


def stop_receiving(standby: PrivatePostgres) -> None:
    with psycopg.connect(standby.url(), autocommit=True) as connection:
        connection.execute("alter system set primary_conninfo = ''")
        connection.execute("select pg_reload_conf()")
        wait_until(lambda: connection.execute("select count(*) from pg_stat_wal_receiver").fetchone() == (0,))


@contextmanager
def as_owner(server: PrivatePostgres) -> Iterator[Connection]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        yield connection


def rename(database: Connection, job_id: str, name: str) -> None:
    """As by hand: without a notification, and without setting updated_at."""
    database.execute("update public.batch_lookup_jobs set name = %s where id = %s", [name, job_id])


def hear(bare: BareSocket, name: str) -> None:
    """Returns when a change of a job with that name arrives."""
    while True:
        frame = bare.receive()
        if frame[3] == "postgres_changes" and frame[4]["data"]["record"]["name"] == name:
            return


def test_writes_of_a_new_primary_are_reported_though_the_former_one_had_higher_transaction_ids(own_postgres: PrivatePostgres) -> None:
    with running_standby(own_postgres, own_postgres.folder.parent / "standby") as standby:
        settings = Settings(database_url=either(own_postgres, standby), api_key_pepper=PEPPER)
        with running_server(settings) as url, OrganizationClient(url, own_postgres.url()) as client:
            job_id, other = (client.submit()["job_id"] for _ in range(2))
            wait_for_replay(own_postgres, standby)
            stop_receiving(standby)
            with as_owner(own_postgres) as database:
                for number in range(100):
                    rename(database, other, f"lost {number}")
            with bare_socket(url, client.api_key) as bare:
                assert bare.join({"event": "*"})["status"] == "ok"
                with as_owner(own_postgres) as database:
                    rename(database, job_id, "lost")
                hear(bare, "lost")
                own_postgres.stop(immediately=True)
                promote(standby)
                with as_owner(standby) as database:
                    rename(database, job_id, "of the new primary")
                hear(bare, "of the new primary")


def test_writes_of_a_primary_after_a_crash_are_reported_though_it_reuses_transaction_ids(
    own_postgres: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last transactions that nobody waited for are lost, as when the use of a key is noted, and their numbers are given once more."""
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.2)
    with as_owner(own_postgres) as database:
        # Anything else that flushes WAL to disk would flush these transactions, too.
        database.execute("alter system set autovacuum = off")
        database.execute("alter system set bgwriter_lru_maxpages = 0")
        database.execute("select pg_reload_conf(), cron.unschedule(jobname) from cron.job")
        found = database.execute("select pid from pg_stat_activity where backend_type = 'walwriter'").fetchone()
    assert found is not None
    (wal_writer,) = found
    with running_proxy(own_postgres.port) as proxy:
        settings = Settings(database_url=make_conninfo(own_postgres.url(), port=proxy.port), api_key_pepper=PEPPER)
        with running_server(settings) as url, OrganizationClient(url, own_postgres.url()) as client:
            job_id, other = (client.submit()["job_id"] for _ in range(2))
            with bare_socket(url, client.api_key) as bare:
                assert bare.join({"event": "*"})["status"] == "ok"
                with as_owner(own_postgres) as database:
                    rename(database, other, "first")
                    hear(bare, "first")
                    database.execute("set synchronous_commit = off")
                    os.kill(wal_writer, signal.SIGSTOP)
                    for number in range(20):
                        rename(database, other, f"lost {number}")
                    hear(bare, "lost 19")
                proxy.target = free_port()
                proxy.cut()
                os.kill(wal_writer, signal.SIGKILL)
                own_postgres.stop(immediately=True)
                own_postgres.start()
                with as_owner(own_postgres) as database:
                    left = database.execute("select name from public.batch_lookup_jobs where id = %s", [other]).fetchone()
                    assert left != ("lost 19",), "no transaction was lost"
                    rename(database, job_id, "after the crash")
                    for number in range(40):
                        rename(database, other, f"later {number}")
                proxy.target = own_postgres.port
                hear(bare, "after the crash")


def test_whoever_joins_after_a_start_gets_no_earlier_changes(database_url: str, owner: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.2)
    settings = Settings(database_url=database_url, api_key_pepper=PEPPER)
    with running_server(settings) as url, OrganizationClient(url, database_url) as client:
        job_id, _ = (client.submit()["job_id"] for _ in range(2))
        # While an older transaction runs, such as one of another database, the position of the start is before these.
        wait_until(
            lambda: (
                owner.execute(
                    "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint > max(xmin::text::bigint) from public.batch_lookup_jobs"
                ).fetchone()
                == (True,)
            )
        )
        with bare_socket(url, client.api_key) as bare:
            assert bare.join({"event": "*", "table": "batch_lookup_jobs"})["status"] == "ok"
            assert bare.receive()[3] == "system"
            for name in ("later", "last"):
                rename(owner, job_id, name)
                record: Json = {}
                while record.get("name") != name:
                    record = bare.receive()[4]["data"]["record"]
                    assert record["id"] == job_id
