"""How we connect: with the same settings whatever the database, the role or the environment says; and which calls are repeated."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pyshell.postgres import connections
from pyshell.postgres import pool as pool_module
from pyshell.postgres.calls import LARGE_LENGTH, call, call_row, fetch_row
from pyshell.postgres.connections import Connection as AsyncConnection
from pyshell.postgres.connections import Session, connect, connect_as_owner, set_up
from pyshell.postgres.pool import REPEATABLE, Pool, PooledConnection
from pyshell.postgres.sqlstates import DatabaseError, NotMigratedError
from pyshell.settings import ROOT
from tests.conftest import Connection
from tests.tcp_proxy import running_proxy
from tests.timed import PATIENCE, wait_until

SETTINGS = ("client_encoding", "role", "statement_timeout", "jit", "TimeZone", "DateStyle")


@pytest.fixture(params=["role", "database", "environment"])
def other_encoding(request: pytest.FixtureRequest, owner: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    name = sql.Identifier(owner.info.dbname)
    if request.param == "role":
        owner.execute("alter role postgres set client_encoding = 'LATIN1'")
    elif request.param == "database":
        owner.execute(sql.SQL("alter database {} set client_encoding = 'SQL_ASCII'").format(name))
    else:
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    yield
    owner.execute("alter role postgres reset client_encoding")


async def show(connection: AsyncConnection) -> dict[str, str]:
    answers = {}
    for name in SETTINGS:
        row = await (await connection.execute(sql.SQL("show {}").format(sql.Identifier(name)))).fetchone()
        assert row is not None
        answers[name] = row[0]
    return answers


@pytest.mark.usefixtures("other_encoding")
async def test_every_connection_follows_the_policy(database_url: str, owner: Connection) -> None:
    policy = {"client_encoding": "UTF8", "role": "batch_lookups_shell", "statement_timeout": "30s", "jit": "off"}
    policy |= {"TimeZone": "UTC", "DateStyle": "ISO, MDY"}
    owner.execute(sql.SQL("alter database {} set timezone = 'Asia/Kathmandu'").format(sql.Identifier(owner.info.dbname)))
    owner.execute(sql.SQL("alter database {} set datestyle = 'German'").format(sql.Identifier(owner.info.dbname)))
    async with await connect(database_url, "test") as connection:
        assert await show(connection) == policy
    async with Pool(database_url) as pool, pool.connection() as pooled:
        assert await show(pooled) == policy
    with connect_as_owner(database_url) as owner:
        assert owner.info.encoding == "utf-8"


async def test_a_connection_that_cannot_be_set_up_is_closed(database_url: str, owner: Connection) -> None:
    with pytest.raises(NotMigratedError) as refused:
        await connect(database_url, "closed at once", role="nobody")
    opened = "select from pg_stat_activity where application_name = 'closed at once'"
    await asyncio.to_thread(wait_until, lambda: not owner.execute(opened).rowcount)
    assert refused.tb, "which keeps the connection until here"


async def test_no_request_waits_for_connections_that_have_fallen_silent(
    database_url: str, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler or a load balancer that has lost its server without noticing."""
    monkeypatch.setattr(pool_module, "CHECK_SECONDS", 0.1)
    calls: list[PooledConnection] = []

    async def once(connection: PooledConnection) -> list[bytes | None]:
        calls.append(connection)
        if len(calls) == 1:
            await connection.close()
            raise psycopg.OperationalError("the connection is lost")
        return await fetch_row(connection, "get_settings", {})

    with running_proxy(owner.info.port) as proxy:
        async with Pool(make_conninfo(database_url, host="127.0.0.1", port=proxy.port), min_size=3, max_size=3) as pool:
            await pool.wait()
            proxy.strand()
            asking = asyncio.create_task(pool.run("get_settings", once))
            answered, _ = await asyncio.wait([asking], timeout=PATIENCE)
            proxy.recover()
            assert answered
            assert json.loads(asking.result()[0] or b"")["items_per_run"] == 10
        assert len(calls) == 2


async def test_a_session_leaves_a_connection_that_does_not_answer(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never_answer(connection: AsyncConnection) -> None:
        await asyncio.Event().wait()

    async def process(connection: AsyncConnection) -> int:
        return connection.info.backend_pid

    session = Session(database_url, "test")
    first = await session.run(process)
    monkeypatch.setattr(connections, "STATEMENT_TIMEOUT", -4.8)
    with pytest.raises(psycopg.OperationalError, match="did not answer in time"):
        await session.run(never_answer)
    monkeypatch.undo()
    assert await session.run(process) != first
    await session.close()


@pytest.mark.parametrize("for_transaction", [False, True])
async def test_the_default_isolation_of_the_database_is_not_used(database_url: str, owner: Connection, for_transaction: bool) -> None:
    """The functions lock rows and then read them, so that an upload during a flush would fail."""
    name = sql.Identifier(owner.info.dbname)
    owner.execute(sql.SQL("alter database {} set default_transaction_isolation = 'serializable'").format(name))
    async with await AsyncConnection.connect(database_url, autocommit=True) as connection, connection.transaction():
        assert await (await connection.execute("show transaction_isolation")).fetchone() == ("serializable",)
    async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
        if not for_transaction:
            await set_up(connection)
        async with connection.transaction():
            if for_transaction:
                await set_up(connection, for_transaction=True)
            assert await (await connection.execute("show transaction_isolation")).fetchone() == ("read committed",)


@pytest.mark.usefixtures("other_encoding")
async def test_texts_are_exchanged_in_utf8(database_url: str, owner: Connection) -> None:
    owner.execute("select set_config('client_encoding', 'UTF8', false)")
    owner.execute("create function api.echo(p_text text) returns text language sql stable as 'select p_text'")
    async with Pool(database_url) as pool:
        assert await call(pool, "echo", text="Café ™ 東京") == "Café ™ 東京".encode()


async def test_a_database_without_the_role_says_what_to_do(new_database: Callable[..., str]) -> None:
    async with Pool(new_database(empty=True), timeout=3) as pool:
        with pytest.raises(NotMigratedError, match="migrate"):
            await call(pool, "applied_migrations")


async def test_only_reads_may_be_repeated(shared_database_url: str, shared_owner: Connection) -> None:
    shared_owner.execute("create function api.list_and_mark() returns integer language sql volatile as 'select 1'")
    functions = shared_owner.execute(
        "select proname, bool_or(provolatile = 'v') from pg_proc where pronamespace = 'api'::regnamespace group by proname"
    ).fetchall()
    async with Pool(shared_database_url) as pool:
        await pool.wait()
        repeated = {name for name, _ in functions if pool.may_repeat(name)}
    assert repeated == {name for name, changes in functions if not changes} | REPEATABLE
    assert "list_and_mark" not in repeated
    assert "get_batch_lookup" in repeated


async def test_a_deploy_that_changes_a_row_leaves_the_running_api_alone(shared_database_url: str, shared_owner: Connection) -> None:
    shared_owner.execute("create function api.grown(out a integer) language sql volatile as 'select 1'")
    async with Pool(shared_database_url, min_size=3, max_size=3) as pool:
        await pool.wait()
        for _ in range(30):
            assert await call_row(pool, "grown") == [b"1"]
        prepared = 0
        for _ in range(3):
            async with pool.connection() as connection:
                rows = await (await connection.execute("select from pg_prepared_statements")).fetchall()
                prepared += bool(rows)
        assert prepared == 3
        shared_owner.execute(
            "drop function api.grown; create function api.grown(out a integer, out b integer) language sql volatile as 'select 1, 2'"
        )
        answers = await asyncio.gather(*[call_row(pool, "grown") for _ in range(30)])
    assert answers == [[b"1", b"2"]] * 30


async def test_a_session_drops_a_prepared_statement_whose_row_has_changed(shared_database_url: str, shared_owner: Connection) -> None:
    async def read(connection: AsyncConnection, prepare: bool) -> int:
        cursor = await connection.execute("select * from api.changed()", prepare=prepare)
        return len(await cursor.fetchone() or ())

    shared_owner.execute("create function api.changed(out a integer) language sql volatile as 'select 1'")
    session = Session(shared_database_url, "test")
    assert await session.run(read, prepare=True) == 1
    shared_owner.execute(
        "drop function api.changed; create function api.changed(out a integer, out b integer) language sql volatile as 'select 1, 2'"
    )
    with pytest.raises(psycopg.Error):
        await session.run(read, prepare=True)
    assert await session.run(read, prepare=True) == 2
    await session.close()


# Closes a connection some turns of the event loop after another task began to wait for an answer.
CLOSES = """
import asyncio, sys
import psycopg, uvloop
from pyshell.postgres.connections import Session

async def sleep(connection):
    await connection.execute("select pg_sleep(60)")

async def close(turns):
    session = Session(sys.argv[1], "test")
    await session.run(lambda connection: connection.execute("select 1"))
    waiting = asyncio.create_task(session.run(sleep))
    for _ in range(turns):
        await asyncio.sleep(0)
    await session.close()
    try:
        await asyncio.wait_for(waiting, 20)
    except psycopg.OperationalError as error:
        print(turns, "closed")

async def main():
    for turns in range(1, 6):
        await close(turns)

uvloop.run(main())
"""


def test_a_connection_may_be_closed_while_another_task_waits(shared_database_url: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CLOSES, shared_database_url], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert (run.stdout.splitlines(), run.returncode) == ([f"{turns} closed" for turns in range(1, 6)], 0), run.stderr


async def test_a_connection_ends_with_a_large_call(
    shared_database_url: str, shared_owner: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    [organization_id] = shared_owner.execute("select api.create_organization('Large')").fetchone() or [None]

    async def changes_process(note: str) -> bool:
        """Whether the pool has another server process after a call, which is refused because a note is no item."""
        async with Pool(shared_database_url, min_size=1, max_size=1) as pool:
            async with pool.connection() as connection:
                before = connection.info.backend_pid
            with pytest.raises(DatabaseError, match="failed validation"):
                await call(pool, "create_batch_lookup", organization_id=organization_id, request=json.dumps([note]))
            async with pool.connection() as connection:
                return connection.info.backend_pid != before

    assert not await changes_process("small")
    assert await changes_process("x" * LARGE_LENGTH), "it would keep the memory that it took"
    assert not [record for record in caplog.records if record.name == "psycopg.pool"]


@pytest.mark.parametrize("keeps_memory", [True, False])
async def test_a_session_can_keep_the_memory_of_its_server_process(shared_database_url: str, keeps_memory: bool) -> None:
    session = Session(shared_database_url, "test", keeps_memory=keeps_memory)

    async def take_memory(connection: AsyncConnection) -> int:
        """Takes 1.5 MB in small pieces; returns how many pages the system has given to the process so far."""
        await connection.execute("select cardinality(array_agg(repeat('x', 1000))) from generate_series(1, 1500)")
        return page_faults(connection.info.backend_pid)

    for _ in range(5):
        before = await session.run(take_memory)
    for _ in range(10):
        after = await session.run(take_memory)
    assert (after - before < 10 * 50) == keeps_memory
    await session.close()


def page_faults(process_id: int) -> int:
    """How many pages the system has allocated to a process."""
    return int(Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[7])


async def test_a_pool_grows_beside_a_server_process_that_is_silent_from_the_start(
    database_url: str, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "SET_UP_SECONDS", 2.0)
    silent = set[int]()

    def fall_silent() -> bool:
        for (pid,) in owner.execute("select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                silent.add(pid)
        return bool(silent)

    assert not fall_silent()
    try:
        async with Pool(database_url, min_size=1, max_size=2, timeout=PATIENCE) as pool:
            await pool.wait()
            first = await pool.getconn()
            with psycopg.connect(database_url) as holding:
                # The set-up reads it.
                holding.execute("lock table pg_proc in access exclusive mode")
                second = asyncio.create_task(pool.getconn())
                await asyncio.to_thread(wait_until, fall_silent)
            for connection in (first, await second):
                await pool.putconn(connection)
    finally:
        for pid in silent:
            os.kill(pid, signal.SIGCONT)
