"""No final state is missed, despite broken connections, lost notifications, clocks that disagree, and very many jobs."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial

import psycopg
import pytest
from psycopg.types.json import Jsonb
from websockets.exceptions import WebSocketException

from pyshell.api.realtime import connection, feed, outbox
from pyshell.settings import Settings
from tests.conftest import Connection
from tests.http_fixtures import Json, OrganizationClient, site
from tests.realtime_fixtures import Watch, bare_socket
from tests.timed import PATIENCE, wait_until

SEED = int(os.environ.get("REALTIME_SEED", "1"))
DISCONNECTS = int(os.environ.get("REALTIME_DISCONNECTS", "300"))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.5)


class Organization:
    """Many jobs of one organization, changed in every possible way."""

    def __init__(self, client: OrganizationClient, database: Connection, settings: Settings, count: int) -> None:
        self._database = database
        self.database_url = settings.database_url
        self.api_key = client.api_key
        self._id = database.execute("select id from app.organizations where name = %s", [client.organization]).fetchall()[0][0]
        database.execute("select api.create_batch_lookup(%s, %s) from generate_series(1, %s)", [self._id, Jsonb([site()]), count])
        self.job_ids = [
            str(row[0]) for row in database.execute("select id from public.batch_lookup_jobs where organization_id = %s", [self._id])
        ]

    def now(self) -> str:
        return str(self._database.execute("select now()").fetchall()[0][0].isoformat())

    def rename(self, job_id: str, name: str, *, notified: bool = False, hours: int | None = 0) -> None:
        with self._database.transaction():
            [(stamp,)] = self._database.execute("select now() + make_interval(hours => %s)", [hours]).fetchall()
            changed = self._database.execute(
                "update public.batch_lookup_jobs set name = %s, updated_at = coalesce(%s, updated_at)"
                " where organization_id = %s and id = %s returning id",
                [name, stamp, self._id, job_id],
            ).fetchall()
            if notified and changed:
                self._database.execute("select app.notify_change('UPDATE', 'batch_lookup_jobs', %s, %s)", [self._id, job_id])

    def delete(self, job_id: str) -> None:
        self._database.execute("select api.cancel_batch_lookup(%s, %s)", [self._id, job_id])
        self._database.execute("select api.delete_batch_lookup(%s, %s)", [self._id, job_id])

    def names(self) -> dict[str, str | None]:
        rows = self._database.execute("select id, name from public.batch_lookup_jobs where organization_id = %s", [self._id])
        return {str(job_id): name for job_id, name in rows}

    def end_listening(self) -> None:
        self._database.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = 'batch-lookups listener'"
        )


class Subscriber:
    """Stays subscribed as a client does: when its connection breaks, it joins again since the last change that it heard of."""

    def __init__(self, url: str, key: str, since: str, **entry: str) -> None:
        self.names: dict[str, str | None] = {}
        self.joins = 0
        self._url, self._key, self._since, self._entry = url, key, since, entry
        self._is_over = False
        self._drop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def drop(self) -> None:
        """Breaks the connection silently."""
        with suppress(OSError):
            self._drop()

    def end(self) -> None:
        self._is_over = True
        self.drop()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_over:
            with suppress(OSError, TimeoutError, WebSocketException), bare_socket(self._url, self._key) as bare:
                self._drop = partial(bare.connection.socket.shutdown, socket.SHUT_RDWR)
                since = {"since": self._since} if self.joins else {}
                answer = bare.join({"event": "*", **since, **self._entry})
                if answer["status"] == "error":
                    assert answer["response"] == {"reason": connection.DATABASE_UNAVAILABLE}, answer
                    continue
                while not self._is_over:
                    self._hear(bare.receive())

    def _hear(self, frame: list[object]) -> None:
        payload = frame[4]
        assert isinstance(payload, dict)
        if frame[3] == "system":
            assert payload["status"] == "ok", payload
            self.joins += 1
        elif frame[3] == "postgres_changes":
            record: Json = payload["data"]["record"]
            self.names[record["id"]] = record["name"]
            self._since = max(self._since, record["updated_at"])


@pytest.fixture
def organization(client: OrganizationClient, database: Connection, http_settings: Settings, request: pytest.FixtureRequest) -> Organization:
    """It has ten jobs, or as many as an indirect parameter says."""
    return Organization(client, database, http_settings, getattr(request, "param", 10))


of_many_jobs = pytest.mark.parametrize("organization", [300], indirect=True)


@pytest.fixture
def subscribe(server: str, organization: Organization) -> Iterator[Callable[..., Subscriber]]:
    subscribers: list[Subscriber] = []

    def start(**entry: str) -> Subscriber:
        subscribers.append(Subscriber(server, organization.api_key, organization.now(), **entry))
        wait_until(lambda: subscribers[-1].joins)
        return subscribers[-1]

    yield start
    for subscriber in subscribers:
        subscriber.end()


@of_many_jobs
@pytest.mark.long
def test_every_subscriber_hears_the_last_state_of_every_job(
    organization: Organization, subscribe: Callable[..., Subscriber], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short, like the pause between polls: a minute would hide what is missed otherwise.
    monkeypatch.setattr(feed, "REPLAY_MARGIN", timedelta(seconds=3))
    chance = random.Random(SEED)
    subscribers = [subscribe() for _ in range(6)]
    for number in range(DISCONNECTS):
        for _ in range(chance.randrange(8)):
            organization.rename(chance.choice(organization.job_ids), f"name {number}", notified=chance.random() < 0.5)
        chance.choice(subscribers).drop()
        if chance.random() < 0.05:
            organization.end_listening()
        time.sleep(chance.random() * 0.05)
    for job_id in organization.job_ids:
        organization.rename(job_id, f"last {job_id}", notified=chance.random() < 0.5)
        if chance.random() < 0.1:
            chance.choice(subscribers).drop()
    expected = organization.names()
    wait_until(
        lambda: all(subscriber.names == expected for subscriber in subscribers),
        lambda: f"missed: {[sum(s.names.get(job_id) != name for job_id, name in expected.items()) for s in subscribers]}",
    )


@of_many_jobs
def test_changes_of_very_many_jobs_are_reported_without_notifications(
    organization: Organization, subscribe: Callable[..., Subscriber]
) -> None:
    everything = subscribe()
    one = subscribe(filter=f"id=eq.{organization.job_ids[0]}")
    organization.end_listening()
    for job_id in organization.job_ids:
        organization.rename(job_id, "changed in silence")
    wait_until(lambda: everything.names == organization.names(), lambda: f"told of {len(everything.names)}")
    wait_until(lambda: one.names == {organization.job_ids[0]: "changed in silence"})


def is_named(subscriber: Subscriber, job_id: str, name: str) -> bool:
    return subscriber.names.get(job_id) == name


def test_an_update_that_does_not_set_updated_at_is_reported(organization: Organization, subscribe: Callable[..., Subscriber]) -> None:
    subscriber = subscribe()
    # On a busy machine, the notifications of the new jobs come late. They are told before these, which the feed reads apart.
    for name in ("first", "second"):
        organization.rename(organization.job_ids[0], name, notified=True)
        wait_until(partial(is_named, subscriber, organization.job_ids[0], name))
    subscriber.names.clear()
    organization.rename(organization.job_ids[5], "by hand", hours=None)
    wait_until(lambda: subscriber.names.get(organization.job_ids[5]) == "by hand")
    # Only that one changed.
    assert set(subscriber.names) == {organization.job_ids[5]}


def test_a_poll_that_had_to_wait_does_not_delay_the_next_one(organization: Organization, subscribe: Callable[..., Subscriber]) -> None:
    subscriber = subscribe()
    with psycopg.connect(organization.database_url) as connection:
        connection.execute("lock table public.batch_lookup_jobs")
        waits = "select count(*) from pg_locks where relation = 'public.batch_lookup_jobs'::regclass and not granted"
        wait_until(lambda: connection.execute(waits).fetchone() == (1,))
        # Twenty times as long is more than anybody waits here.
        time.sleep(2 * PATIENCE / feed.POLL_SHARE)
    organization.rename(organization.job_ids[5], "after it")
    # Before the subscriber takes its connection for dead, and joins again.
    wait_until(lambda: subscriber.names.get(organization.job_ids[5]) == "after it", patience=PATIENCE / 2)


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_may_disagree(hours: int, organization: Organization, subscribe: Callable[..., Subscriber]) -> None:
    """The clock of the database is an hour behind or ahead of that of the API."""
    subscriber = subscribe()
    organization.rename(organization.job_ids[5], "stamped", hours=hours)
    wait_until(lambda: subscriber.names.get(organization.job_ids[5]) == "stamped")


def test_a_late_commit_is_reported_though_its_timestamp_is_early(organization: Organization, subscribe: Callable[..., Subscriber]) -> None:
    subscriber = subscribe()
    late, soon = organization.job_ids[:2]
    with psycopg.connect(organization.database_url) as connection:
        connection.execute("update public.batch_lookup_jobs set name = 'late', updated_at = now() where id = %s", [late])
        organization.rename(soon, "soon")
        wait_until(lambda: subscriber.names.get(soon) == "soon")
        # Several polls go by meanwhile.
        time.sleep(2)
        connection.commit()
    wait_until(lambda: subscriber.names.get(late) == "late")


def test_a_deletion_is_reported_without_a_notification(server: str, organization: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "parse", lambda payload: None)
    since, gone = organization.now(), organization.job_ids[3]
    with bare_socket(server, organization.api_key) as present:
        assert present.join({"event": "DELETE"})["status"] == "ok"
        assert present.receive()[3] == "system"
        organization.delete(gone)
        told = present.receive()
        assert (told[3], told[4]["data"]["type"], told[4]["data"]["old_record"]["id"]) == ("postgres_changes", "DELETE", gone)
        with bare_socket(server, organization.api_key) as late:
            assert late.join({"event": "DELETE", "since": since})["status"] == "ok"
            assert late.receive()[3] == "system"
            assert late.receive()[4]["data"]["old_record"]["id"] == gone


def test_supabase_js_gets_what_it_missed_since_a_given_time(
    server: str, organization: Organization, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "REPLAY_MARGIN", timedelta(0))
    since = organization.now()
    missed = organization.job_ids[7]
    organization.rename(missed, "missed")
    watcher = watch(server, organization.api_key, {"since": since}).subscribed()
    heard = watcher.until(lambda lines: any("change" in line for line in lines))
    assert [(line["change"]["new"]["id"], line["change"]["new"]["name"]) for line in heard if "change" in line] == [(missed, "missed")]


@of_many_jobs
def test_a_replay_waits_for_a_slow_client(server: str, organization: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "READS_AT_ONCE", 10)
    monkeypatch.setattr(outbox, "MAX_WAITING", 100)
    since = organization.now()
    for job_id in organization.job_ids:
        organization.rename(job_id, "x" * 100_000)
    with bare_socket(server, organization.api_key) as bare:
        assert bare.join({"since": since})["status"] == "ok"
        time.sleep(2)
        told = [bare.receive() for _ in range(1 + len(organization.job_ids))]
        assert {frame[4]["data"]["record"]["id"] for frame in told[1:]} == set(organization.job_ids)
