"""One connection that listens for all subscribers in a process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pyshell.postgres import notifications
from pyshell.postgres.connections import Backoff, ClosableConnection, connect
from pyshell.postgres.notifications import Notifier
from tests.conftest import Connection
from tests.tcp_proxy import running_proxy
from tests.timed import PATIENCE

NAME = "test listener"
LISTENERS = "select pid from pg_stat_activity where datname = current_database() and application_name = %s"


class Heard(list[str | None]):
    """A handler that records its calls."""

    def __call__(self, payload: str | None) -> None:
        self.append(payload)


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (what is heard sets no event)
            await asyncio.sleep(0.01)


async def test_many_subscribers_share_one_connection(shared_database_url: str, shared_owner: Connection) -> None:
    first, second, third = Heard(), Heard(), Heard()
    notifier = Notifier(shared_database_url, NAME)
    notifier.subscribe("a", first)
    notifier.subscribe("a", second)
    notifier.subscribe("b", third)
    async with notifier.running():
        await notifier.is_ready.wait()
        assert len(shared_owner.execute(LISTENERS, [NAME]).fetchall()) == 1
        shared_owner.execute("notify a, 'one'; notify b, 'two'; notify c, 'three'; notify a, 'four'")
        await until(lambda: len(first) == 3 and len(third) == 2)
    assert first == second == [None, "one", "four"]
    assert third == [None, "two"]


async def test_all_subscribers_learn_that_notifications_may_have_been_missed(shared_database_url: str, shared_owner: Connection) -> None:
    first, second = Heard(), Heard()
    notifier = Notifier(shared_database_url, NAME)
    notifier.subscribe("a", first)
    notifier.subscribe("b", second)
    async with notifier.running():
        await notifier.is_ready.wait()
        shared_owner.execute(f"select pg_terminate_backend(pid) from ({LISTENERS}) listeners", [NAME])
        shared_owner.execute("notify a, 'lost'")
        await until(lambda: first == second == [None, None])
        shared_owner.execute("notify b, 'heard'")
        await until(lambda: second == [None, None, "heard"])


async def test_notifications_arrive_from_each_node_of_a_cluster(
    database_url: str, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "HEARTBEAT_SECONDS", 0.1)
    heard = Heard()
    nodes = (
        "create or replace function api.other_nodes() returns table (host text, port integer) language sql as $$ select '127.0.0.1', {} $$"
    )
    with running_proxy(owner.info.port) as proxy:
        owner.execute(nodes.format(proxy.port).encode())
        notifier = Notifier(database_url, NAME)
        notifier.subscribe("a", heard)
        async with notifier.running():
            await until(lambda: heard == [None, None])
            owner.execute("notify a, 'one'")
            await until(lambda: heard == [None, None, "one", "one"])
            owner.execute(nodes.format("1 where false").encode())
            await until(lambda: len(owner.execute(LISTENERS, [NAME]).fetchall()) == 1)
        await until(lambda: owner.execute(LISTENERS, [NAME]).fetchall() == [])


@pytest.mark.long
async def test_a_connection_that_fell_silent_is_replaced(
    shared_database_url: str, shared_owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(notifications, "ANSWER_SECONDS", 0.3)
    heard = Heard()
    port = int(str(psycopg.conninfo.conninfo_to_dict(shared_database_url)["port"]))
    with running_proxy(port) as proxy:
        notifier = Notifier(psycopg.conninfo.make_conninfo(shared_database_url, port=proxy.port), NAME)
        notifier.subscribe("a", heard)
        async with notifier.running():
            await notifier.is_ready.wait()
            await asyncio.to_thread(proxy.fall_silent)
            await until(lambda: not notifier.is_ready.is_set())
            await asyncio.to_thread(proxy.recover)
            await until(lambda: heard == [None, None])


async def test_a_connection_that_falls_silent_before_it_listens_is_replaced(
    shared_database_url: str, shared_owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "SET_UP_SECONDS", 1.0)
    heard = Heard()
    port = int(str(psycopg.conninfo.conninfo_to_dict(shared_database_url)["port"]))
    with running_proxy(port) as proxy:
        attempts = 0

        async def connect_once_in_vain(*arguments: str) -> ClosableConnection[Any]:
            nonlocal attempts
            connection = await connect(*arguments)
            attempts += 1
            if attempts == 1:
                await asyncio.to_thread(proxy.strand)
            return connection

        monkeypatch.setattr(notifications, "connect", connect_once_in_vain)
        notifier = Notifier(psycopg.conninfo.make_conninfo(shared_database_url, port=proxy.port), NAME)
        notifier.subscribe("a", heard)
        async with notifier.running():
            await until(lambda: heard == [None])
    assert attempts == 2


async def test_a_handler_that_fails_does_not_keep_notifications_from_others(
    shared_database_url: str, shared_owner: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(payload: str | None) -> None:
        raise ValueError(payload)

    heard = Heard()
    notifier = Notifier(shared_database_url, NAME)
    notifier.subscribe("a", fail)
    notifier.subscribe("a", heard)
    async with notifier.running():
        await notifier.is_ready.wait()
        shared_owner.execute("notify a, 'one'")
        await until(lambda: heard == [None, "one"])
    assert "a notification on a could not be handled" in caplog.text


async def test_a_database_that_is_away_is_tried_less_and_less_often(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []

    class NotedBackoff(Backoff):
        def delay(self) -> float:
            delays.append(super().delay())
            return 0

    monkeypatch.setattr(notifications, "Backoff", NotedBackoff)
    notifier = Notifier("postgresql://127.0.0.1:1/none", NAME)
    with caplog.at_level(logging.WARNING):
        async with notifier.running():
            await until(lambda: len(delays) >= 8)
    for number, delay in enumerate(delays):
        longest = min(0.25 * 2**number, 8.0)
        assert longest * 0.75 <= delay <= longest
    assert caplog.text.count("cannot listen") == 1


def test_a_backoff_starts_again_after_a_success() -> None:
    backoff = Backoff(first=1, longest=4)
    for longest in (1, 2, 4, 4):
        assert longest * 0.75 <= backoff.delay() <= longest
    backoff.reset()
    assert backoff.delay() <= 1
