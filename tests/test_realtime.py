"""Watching jobs and reports with the real supabase-js, against our own endpoint."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.json import Jsonb
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from pyshell.api import api_keys, authentication
from pyshell.api.authentication import Authenticator, unauthorized
from pyshell.api.realtime import connection, credentials, endpoint, feed, filters, joins, limits, outbox, reader
from pyshell.api.realtime import websocket as realtime_websocket
from pyshell.api.realtime.credentials import Subscriber
from pyshell.api.realtime.limits import refusal_seconds
from pyshell.api.row_changes import Row
from pyshell.local.machine import free_port
from pyshell.postgres.pool import Pool
from pyshell.settings import ROOT, Settings
from tests.clerk_fixtures import clerk_instance
from tests.conftest import Connection
from tests.http_fixtures import Json, NewClient, OrganizationClient, look_up, running_server, site
from tests.realtime_fixtures import BareSocket, Watch, bare_socket
from tests.tcp_proxy import running_proxy
from tests.timed import PATIENCE, counted_turns, set_monotonic, wait_until


@pytest.fixture(autouse=True)
def without_pace(database: Connection) -> None:
    database.execute("""select api.update_settings('{"lookups_per_second": null}')""")


def submit(client: OrganizationClient, count: int) -> Json:
    return client.submit(*(site(f"deal-{number}") for number in range(count)))


def of_job(job: Json) -> Json:
    return {"filter": f"id=eq.{job['job_id']}"}


def test_a_job_is_watched_from_its_start_to_its_end(server: str, client: OrganizationClient, database: Connection, watch: Watch) -> None:
    job = submit(client, 3)
    watcher = watch(server, client.api_key, of_job(job)).subscribed()
    for _ in range(3):
        look_up(database, job, 1)
        watcher.changes(0.15)
    heard = watcher.until(lambda lines: any(line.get("change", {}).get("new", {}).get("status") == "completed" for line in lines))
    changes = [line["change"] for line in heard if "change" in line]
    # The claim that starts the job may or may not be seen by itself.
    assert [change["new"]["processed_items"] for change in changes if change["new"]["processed_items"]] == [1, 2, 3]
    last = changes[-1]
    assert last["eventType"] == "UPDATE"
    assert last["new"]["completed_at"]
    assert last["old"] == {"organization_id": last["new"]["organization_id"], "id": job["job_id"]}


def test_a_report_is_watched_and_an_insert_and_a_cancel_are_seen(
    server: str, client: OrganizationClient, database: Connection, watch: Watch
) -> None:
    watcher = watch(server, client.api_key, {"event": "*"}, {"event": "*", "table": "incentive_reports"}).subscribed()
    job = submit(client, 2)
    watcher.until(lambda lines: sum("change" in line for line in lines) == 2)
    look_up(database, job, 1)
    watcher.changes(0.3)
    client.post(f"/batch-lookups/{job['job_id']}/cancel")
    seen = [(change["table"], change["eventType"], change["new"]["status"]) for change in watcher.changes(0.5)]
    assert sorted(seen[:2]) == [("batch_lookup_jobs", "INSERT", "pending"), ("incentive_reports", "INSERT", "processing")]
    assert ("batch_lookup_jobs", "UPDATE", "cancelled") in seen
    assert ("incentive_reports", "UPDATE", "complete") in seen
    client.delete(f"/batch-lookups/{job['job_id']}")
    heard = watcher.until(lambda lines: any(line.get("change", {}).get("eventType") == "DELETE" for line in lines))
    assert {line["change"]["old"]["id"] for line in heard if line.get("change", {}).get("eventType") == "DELETE"} >= {job["job_id"]}


def test_another_organization_sees_nothing(server: str, new_client: NewClient, database: Connection, watch: Watch) -> None:
    ours, theirs = new_client(), new_client()
    job = submit(ours, 1)
    spies = [watch(server, theirs.api_key, entry).subscribed() for entry in (of_job(job), {"event": "*"}, {"event": "*", "table": "*"})]
    owner = watch(server, ours.api_key, of_job(job)).subscribed()
    look_up(database, job, 1)
    owner.until(lambda lines: any("change" in line for line in lines))
    assert [spy.changes(0.3) for spy in spies] == [[], [], []]


@pytest.mark.parametrize(("key", "said"), [("leap_live_wrong", "Invalid API key"), ("eyJhbGciOiJIUzI1NiJ9.e30.AAAA", "Invalid token")])
def test_a_bad_credential_is_refused(key: str, said: str, server: str, watch: Watch) -> None:
    heard = watch(server, key).until(lambda lines: any("status" in line for line in lines))
    assert heard[0]["status"] == "CHANNEL_ERROR"
    assert heard[0]["error"] == f"Unauthorized: {said}"


def test_a_wrong_filter_is_refused_with_the_documented_limits(server: str, client: OrganizationClient, watch: Watch) -> None:
    page = (ROOT / "docs" / "supabase.md").read_text()
    told_limits = (
        f"A connection can have {connection.MAX_CHANNELS} channels, a channel {joins.MAX_SUBSCRIPTIONS} entries of `postgres_changes`, "
        f"whose filters have at most {filters.MAX_FILTERS_LENGTH:,} characters together."
    )
    assert told_limits in " ".join(page.split())
    [told] = re.findall(r"\.on\('system', .* // (\w+ .*)", page)
    watcher = watch(server, client.api_key, {"filter": f"job_id=eq.{uuid.uuid4()}"})
    heard = watcher.until(lambda lines: any("system" in line for line in lines))
    assert any(line.get("status") == "SUBSCRIBED" for line in heard)
    assert [f"{line['system']['status']} {line['system']['message']}" for line in heard if "system" in line] == [told]


def test_white_space_in_a_filter_is_read_once() -> None:
    program = """
from pyshell.api.realtime import filters
try:
    filters._operand("status", "text", "in", "(" + " " * 200_000 + "{)")
except filters.FilterError:
    print("refused")
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60, capture_output=True)
    assert run.stdout == b"refused\n"


async def test_other_tasks_run_while_many_channels_are_told_of_a_change() -> None:
    class Listener:
        def __init__(self) -> None:
            self.told_at = 0

        def deliver(self, change: feed.Change) -> None:
            self.told_at = turns()

    listeners: Any = [Listener() for _ in range(1000)]
    row = Row("batch_lookup_jobs", uuid.UUID(int=1), str(uuid.UUID(int=2)))
    async with counted_turns() as turns:
        await feed._hand(feed.Change("UPDATE", row, {}, {}), listeners)
    times = [listener.told_at for listener in listeners]
    assert max(Counter(times).values()) <= 20
    assert times == sorted(times)


def test_filters_choose_the_rows(server: str, client: OrganizationClient, database: Connection, watch: Watch) -> None:
    texts = ["status=eq.completed", "status=in.(failed, completed)", "processed_items=gte.2", "total_items=neq.2", "total_items=lt.2"]
    watchers = [watch(server, client.api_key, {"filter": text}) for text in texts]
    for watcher in watchers:
        watcher.subscribed()
    job = submit(client, 2)
    for _ in range(2):
        look_up(database, job, 1)
        watchers[0].changes(0.2)
    assert [[change["new"]["processed_items"] for change in watcher.changes(0.2)] for watcher in watchers] == [[2], [2], [2], [], []]


def test_a_client_reconnects_after_a_restart(
    http_settings: Settings, client: OrganizationClient, database: Connection, watch: Watch
) -> None:
    job = submit(client, 2)
    port = free_port()
    with running_server(http_settings, port) as url:
        watcher = watch(url, client.api_key, of_job(job)).subscribed()
        look_up(database, job, 1)
        watcher.until(lambda lines: any("change" in line for line in lines))
    with running_server(http_settings, port):
        watcher.subscribed(times=2)
        look_up(database, job, 1)
        watcher.until(lambda lines: any(line.get("change", {}).get("new", {}).get("status") == "completed" for line in lines))


def test_changes_are_found_after_the_listener_lost_its_connection(
    server: str, client: OrganizationClient, database: Connection, watch: Watch
) -> None:
    job = submit(client, 2)
    watcher = watch(server, client.api_key, of_job(job)).subscribed()
    ended = database.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name = 'batch-lookups listener'"
    )
    assert ended.fetchall() == [(True,)]
    look_up(database, job, 1)
    watcher.until(lambda lines: any(line.get("change", {}).get("new", {}).get("processed_items") == 1 for line in lines))
    look_up(database, job, 1)
    watcher.until(lambda lines: any(line.get("change", {}).get("new", {}).get("status") == "completed" for line in lines))


def test_broadcasts_of_supabase_js_do_no_harm(server: str, client: OrganizationClient, database: Connection, watch: Watch) -> None:
    job = submit(client, 1)
    watcher = watch(server, client.api_key, of_job(job)).subscribed()
    watcher.broadcast("hello")
    look_up(database, job, 1)
    heard = watcher.until(lambda lines: any(line.get("change", {}).get("new", {}).get("status") == "completed" for line in lines))
    assert not [line for line in heard if line.get("status") in ("CLOSED", "CHANNEL_ERROR", "TIMED_OUT")]


class ShiftedTime:
    """The module `time` of a host whose clock is ahead by `seconds`."""

    seconds = 0.0
    monotonic = staticmethod(time.monotonic)

    def time(self) -> float:
        return time.time() + self.seconds


def test_a_clerk_session_watches_until_its_token_expires(
    http_settings: Settings, database: Connection, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization = f"org_{uuid.uuid4().hex}"
    shifted = ShiftedTime()
    monkeypatch.setattr(credentials, "time", shifted)
    identified = []

    async def identify(authenticator: Authenticator, token: str, address: str | None = None) -> Subscriber:
        subscriber = await credentials.identify(authenticator, token, address)
        identified.append(token)
        return subscriber

    monkeypatch.setattr(joins, "identify", identify)
    with clerk_instance() as clerk, running_server(replace(http_settings, clerk_issuer=clerk.issuer)) as url:

        def token(seconds: float) -> str:
            return clerk.token(v=2, o={"id": organization, "rol": "admin"}, exp=int(clerk.claims()["iat"] + seconds))

        expired = watch(url, "anon", token=token(-60))
        expired.until(lambda lines: sum(line.get("status") == "CHANNEL_ERROR" for line in lines) == 2)

        short = watch(url, "anon", {"event": "*"}, token=token(600)).subscribed()
        renewed = watch(url, "anon", {"event": "*"}, token=token(600)).subscribed()
        renewed.set_token(new_token := token(3600))
        wait_until(lambda: new_token in identified)
        shifted.seconds = 660
        short.until(lambda lines: any(line.get("status") == "CLOSED" for line in lines))
        assert [line["system"]["message"] for line in short.heard if "system" in line] == ["Subscribed to PostgreSQL", "Token has expired"]

        [organization_id] = database.execute("select app.organization_id_of_clerk(%s)", [organization]).fetchone() or [None]
        items = Jsonb([site()])
        database.execute("select api.create_batch_lookup(%s, %s)", [organization_id, items])
        renewed.until(lambda lines: any(line.get("change", {}).get("eventType") == "INSERT" for line in lines))
        assert short.changes() == []


def test_a_token_that_comes_while_the_database_is_away_is_checked_when_it_is_back(
    http_settings: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients send each token once: one that was let go would end the channel with the token before it."""
    monkeypatch.setitem(Pool.__init__.__kwdefaults__ or {}, "timeout", 0.2)
    monkeypatch.setattr(authentication, "CACHE_SECONDS", 0)
    shifted = ShiftedTime()
    monkeypatch.setattr(credentials, "time", shifted)
    parts = conninfo_to_dict(http_settings.database_url)
    with clerk_instance() as clerk, running_proxy(int(str(parts["port"]))) as proxy:
        settings = replace(http_settings, clerk_issuer=clerk.issuer, database_url=make_conninfo("", **parts | {"port": proxy.port}))

        def token(seconds: float) -> str:
            return clerk.token(v=2, o={"id": organization, "rol": "admin"}, exp=int(clerk.claims()["iat"] + seconds))

        organization = f"org_{uuid.uuid4().hex}"
        with running_server(settings) as url, bare_socket(url, token(600)) as bare:
            # A busy machine may not connect to the database within the 0.2 seconds.
            wait_until(lambda: bare.join({"event": "INSERT"})["status"] == "ok")
            assert bare.receive()[4]["status"] == "ok"
            target, proxy.target = proxy.target, free_port()
            proxy.cut()
            bare.send("access_token", {"access_token": token(3600)})
            # Whatever came before it has been handled by the time that this is answered.
            assert bare.ask("heartbeat", topic="phoenix", join_ref=None)["status"] == "ok"
            shifted.seconds = 660
            with pytest.raises(TimeoutError):
                bare.receive(3 * endpoint.SWEEP_SECONDS)
            proxy.target = target
            [organization_id] = database.execute("select app.organization_id_of_clerk(%s)", [organization]).fetchone() or [None]
            database.execute("select api.create_batch_lookup(%s, %s)", [organization_id, Jsonb([site()])])
            told = bare.receive()
            assert (told[3], told[4]["data"]["type"]) == ("postgres_changes", "INSERT")
            shifted.seconds = 3660
            assert bare.receive()[4]["message"].endswith("oken has expired")


@pytest.mark.parametrize("is_valid", [True, False], ids=["valid", "refused"])
def test_a_new_token_outlives_a_check_of_the_one_before_it(
    http_settings: Settings, monkeypatch: pytest.MonkeyPatch, is_valid: bool
) -> None:
    """The check began before the new token came, and ends after it."""
    shifted = ShiftedTime()
    monkeypatch.setattr(credentials, "time", shifted)
    monkeypatch.setattr(credentials, "RECHECK_SECONDS", 0.5)
    identified: list[str] = []
    begun, ended = threading.Event(), threading.Event()

    async def identify(authenticator: Authenticator, token: str, address: str | None = None) -> Subscriber:
        if token in identified and not begun.is_set():
            begun.set()
            await asyncio.to_thread(ended.wait, PATIENCE)
            if not is_valid:
                raise unauthorized("invalid_token", "Invalid token")
        subscriber = await credentials.identify(authenticator, token, address)
        identified.append(token)
        return subscriber

    with clerk_instance() as clerk, running_server(replace(http_settings, clerk_issuer=clerk.issuer)) as url:
        organization = f"org_{uuid.uuid4().hex}"
        old, new = (clerk.token(v=2, o={"id": organization, "rol": "admin"}, exp=int(clerk.claims()["iat"] + n)) for n in (600, 3600))
        with bare_socket(url, old) as bare:
            assert bare.join({"event": "INSERT"})["status"] == "ok"
            assert bare.receive()[4]["status"] == "ok"
            monkeypatch.setattr(joins, "identify", identify)
            identified.append(old)
            assert begun.wait(PATIENCE)
            bare.send("access_token", {"access_token": new})
            wait_until(lambda: new in identified)
            ended.set()
            shifted.seconds = 660
            with pytest.raises(TimeoutError):
                bare.receive(3 * endpoint.SWEEP_SECONDS)
            assert bare.ask("heartbeat", topic="phoenix", join_ref=None)["status"] == "ok"
            shifted.seconds = 3660
            assert bare.receive()[4]["message"].endswith("oken has expired")


def test_two_hundred_subscribers_see_the_job_end_and_none_is_flooded(
    server: str, client: OrganizationClient, database: Connection, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the feed, which reads a row once in `COALESCE_SECONDS`, only moves on between the lookups."""
    now = time.monotonic()
    set_monotonic(monkeypatch, feed, lambda: now)
    job = submit(client, 60)
    watcher = watch(server, client.api_key, of_job(job), clients=200)
    watcher.subscribed(times=200)
    for count in (1, 59):
        for _ in range(count):
            look_up(database, job, 1)
        now += feed.COALESCE_SECONDS
        status = "processing" if count == 1 else "completed"
        heard = watcher.until(lambda lines: len(watching(lines, status)) == 200)  # noqa: B023
    assert max(Counter(line["client"] for line in heard if "change" in line).values()) <= 3, "one at each of three times"


def watching(lines: list[Json], status: str) -> set[int]:
    """The clients that have seen this status."""
    return {line["client"] for line in lines if line.get("change", {}).get("new", {}).get("status") == status}


def flood(bare: BareSocket) -> None:
    """Sends 60 MB that the server answers with as much, and reads nothing: far more than all buffers between the two hold."""
    watch = {"schema": "public", "table": "batch_lookup_jobs", "event": "UPDATE", "padding": "x" * 100_000}
    for _ in range(600):
        bare.send("phx_join", {"config": {"postgres_changes": [watch]}})


def flood_and_read(bare: BareSocket) -> None:
    flood(bare)
    deque(iter(bare.receive, None), maxlen=0)


def refusal(server: str, key: str) -> int | None:
    """The status that a connection is refused with."""
    try:
        with bare_socket(server, key):
            return None
    except InvalidStatus as refused:
        return refused.response.status_code


class TestTheProtocol:
    def test_is_refused_without_a_key(self, server: str) -> None:
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{server.replace('http', 'ws')}/realtime/v1/websocket")
        assert refused.value.response.status_code == 401

    def test_respects_the_networks_of_a_key(self, server: str, client: OrganizationClient) -> None:
        key = client.post("/api-keys", json={"allowed_networks": ["127.0.0.0/8"]}).json()["key"]
        with bare_socket(server, key) as bare:
            assert bare.join({})["status"] == "ok"
        key = client.post("/api-keys", json={"allowed_networks": ["203.0.113.0/24"]}).json()["key"]
        assert refusal(server, key) == 403

    def test_is_refused_with_an_unknown_key(self, server: str) -> None:
        assert refusal(server, api_keys.generate()) == 401

    def test_limits_anonymous_connections(self, server: str, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch) -> None:
        for limit in ("MAX_ANONYMOUS", "MAX_ANONYMOUS_PER_ADDRESS"):
            monkeypatch.setattr(limits, limit, 2)
            monkeypatch.setattr(limits, "REFUSAL_SECONDS", 0)
            with bare_socket(server, "anon") as first, bare_socket(server, "anon"):
                assert refusal(server, "anon") == 503
                # Known clients have their own places, and a client that joins has one of them.
                with bare_socket(server, client.api_key) as known:
                    assert known.join({})["status"] == "ok"
                assert first.join({}, access_token=client.api_key)["status"] == "ok"
                with bare_socket(server, "anon"):
                    assert refusal(server, "anon") == 503
            wait_until(lambda: refusal(server, "anon") is None)
            monkeypatch.undo()

    def test_delays_refusals_and_only_so_many_of_them(self, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "REFUSAL_SECONDS", 10)
        monkeypatch.setattr(limits, "MAX_REFUSALS", 1)
        with ThreadPoolExecutor() as executor:
            both = [executor.submit(refusal, server, api_keys.generate()) for _ in range(2)]
            [told], [waiting] = wait(both, return_when=FIRST_COMPLETED)
            assert (told.result(), refusal(server, api_keys.generate())) == (401, 401)
            assert not waiting.done()
            assert waiting.result() == 401

    def test_delays_refusals_of_anonymous_connections(
        self, server: str, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "ANONYMOUS_SECONDS", 4)
        with ThreadPoolExecutor() as executor:
            anonymous = executor.submit(refusal, server, "anon")
            with bare_socket(server, client.api_key) as known:
                assert known.join({})["status"] == "ok"
            assert not anonymous.done()
            assert anonymous.result() is None

    def test_delays_refusals_of_one_address_the_longer_the_more_there_are(self) -> None:
        assert [refusal_seconds(waiting) for waiting in (1, 20, 50, 1000)] == [0.1, 2.0, 5.0, 5.0]

    def test_bounds_the_channels_of_an_organization(self, server: str, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "MAX_CHANNELS_PER_ORGANIZATION", 2)
        join: Json = {"config": {}}
        with bare_socket(server, client.api_key) as one, bare_socket(server, client.api_key) as other:
            assert [
                bare.ask("phx_join", join, topic=topic)["status"] for bare in (one, other) for topic in ("realtime:a", "realtime:b")
            ] == [
                *("ok", "ok"),
                *("error", "error"),
            ]
            assert one.ask("phx_leave", topic="realtime:a")["status"] == "ok"
            assert other.ask("phx_join", join, topic="realtime:a")["status"] == "ok"

    @pytest.mark.parametrize(
        "frame", [b"\x89\x80\0\0\0\0", b"\x81\xa3\0\0\0\0" + b'[null,"1","phoenix","heartbeat",{}]'], ids=["pings", "heartbeats"]
    )
    def test_many_frames_of_one_client_hold_up_nobody(
        self, server: str, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch, frame: bytes
    ) -> None:
        frames = frame * (6_000_000 // len(frame))
        pieces: list[int] = []
        handle = WebSocketsSansIOProtocol.data_received

        def note(self: WebSocketsSansIOProtocol, data: bytes) -> None:
            pieces.append(len(data))
            handle(self, data)

        def flood() -> None:
            with suppress(OSError):
                bare.connection.socket.sendall(frames)

        with bare_socket(server, "anon") as bare:
            monkeypatch.setattr(WebSocketsSansIOProtocol, "data_received", note)
            threading.Thread(target=flood).start()
            wait_until(lambda: len(pieces) > 10)
            for _ in range(10):
                assert client.get("/healthz").status_code == 200
            assert max(pieces) < 10_000
            assert sum(pieces) < len(frames), "it still sends"
            bare.connection.socket.shutdown(socket.SHUT_RDWR)

    def test_is_explained_to_plain_http(self, server: str, client: OrganizationClient) -> None:
        response = client.get(f"/realtime/v1/websocket?apikey={client.api_key}")
        assert (response.status_code, response.json()["code"]) == (426, "upgrade_missing")
        assert response.headers["upgrade"] == "websocket"
        assert "proxy" in response.json()["hint"]

    def test_answers_heartbeats_leaves_and_unknown_events(self, server: str, client: OrganizationClient) -> None:
        with bare_socket(server, client.api_key) as bare:
            assert bare.ask("heartbeat", topic="phoenix", join_ref=None)["status"] == "ok"
            assert bare.join({})["response"]["postgres_changes"][0]["id"] == 1
            assert bare.receive()[3] == "system"
            assert bare.ask("broadcast", {"x": 1})["status"] == "error"
            assert bare.ask("phx_leave")["status"] == "ok"
            assert bare.receive()[3] == "phx_close"

    @pytest.mark.parametrize(
        ("entry", "reason"),
        [
            ({"table": "lookup_queue_items"}, "there is no table"),
            ({"schema": "app", "table": "api_keys"}, "there is no table"),
            ({"schema": None, "table": None}, "needs a schema or a table"),
            ({"filter": "id=eq.5"}, "invalid value for id"),
            ({"filter": "nothing=eq.5"}, "invalid column for filter nothing"),
            ({"table": "incentive_reports", "filter": "total_incentive_value=gt.NaN"}, "invalid value for total_incentive_value"),
            ({"filter": "id=like.x"}, "like needs a text column"),
            ({"filter": "name=foo.hey"}, "Error parsing `filter` params"),
            ({"filter": "undefined"}, "Error parsing `filter` params"),
            ({"filter": "name=eq.a,,status=eq.b"}, "Error parsing `filter` params"),
            ({"filter": "status=in.a"}, "Error parsing `filter` params"),
            ({"filter": "name=match.(["}, "invalid pattern for match filter"),
            ({"filter": "name=like.\ud800"}, "Error parsing `filter` params: it must be a text"),
            ({"filter": "name=gt.\0"}, "invalid pattern for gt filter"),
            ({"filter": r"name=match.(.*)\1"}, "without back references"),
            ({"filter": "name=is.true"}, "needs a boolean column"),
            ({"filter": "name=is.nothing"}, "must be null, true, false, or unknown"),
            ({"filter": 5}, "Error parsing `filter` params"),
            ({"select": "name"}, "Error parsing `select` params"),
            ({"select": ["nothing"]}, "invalid column for select nothing"),
            ({"select": ["name"], "table": "*"}, "only of one table"),
            ({"since": "yesterday"}, "since must be a time"),
        ],
    )
    def test_reports_what_cannot_be_watched_after_the_join(
        self, entry: Json, reason: str, server: str, client: OrganizationClient, database: Connection
    ) -> None:
        with bare_socket(server, client.api_key) as bare:
            assert bare.join({}, entry)["status"] == "ok"
            system = bare.receive()[4]
            assert (system["extension"], system["status"]) == ("postgres_changes", "error")
            assert reason in system["message"]
            # Nor is the entry served that had no fault.
            look_up(database, submit(client, 1), 1)
            with pytest.raises(TimeoutError):
                bare.receive(0.5)

    def test_limits_the_filters_of_a_channel_together(self, server: str, client: OrganizationClient) -> None:
        entry = {"filter": ",".join(["status=neq.a"] * 150)}
        with bare_socket(server, client.api_key) as bare:
            assert bare.join(entry, entry)["status"] == "ok"
            assert bare.receive()[4]["message"] == "Subscribed to PostgreSQL"
            assert bare.join(entry, entry, entry)["status"] == "ok"
            assert "may have 4,000 characters together" in bare.receive()[4]["message"]

    @pytest.mark.parametrize("since", ["0001-01-01T00:00:00+14:00", -62_135_596_800_000])
    def test_replays_everything_since_the_earliest_possible_times(self, since: str | int, server: str, client: OrganizationClient) -> None:
        job = submit(client, 1)
        with bare_socket(server, client.api_key) as bare:
            assert bare.join({"since": since})["status"] == "ok"
            assert bare.receive()[4]["message"] == "Subscribed to PostgreSQL"
            assert bare.receive()[4]["data"]["record"]["id"] == job["job_id"]

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("name=eq.a,status=eq.pending", ["a"]),
            ("name=neq.a,total_items=gt.1", ["B c", 'd, "e"']),
            ('name=in.(a,"B c"),total_items=not.eq.1', ["a", "B c"]),
            ("name=not.in.(a,b)", ["B c", 'd, "e"']),
            ("name=like.B%", ["B c"]),
            ("name=ilike.%C", ["B c"]),
            ("name=not.like.B%", ["a", 'd, "e"']),
            ("name=match.^[a-c]$", ["a"]),
            ("name=imatch.^b", ["B c"]),
            ("name=gt.c,name=not.lte.c", ['d, "e"']),
            ('name=eq."d, \\"e\\""', ['d, "e"']),
            ("name=is.null", [None]),
            ("name=not.is.null", ["a", "B c", 'd, "e"']),
            ("name=isdistinct.a", ["B c", None, 'd, "e"']),
            ("name=not.isdistinct.a", ["a"]),
            ("created_at=gte.2020-01-01,total_items=lte.2,total_items=not.lt.2", ["a", "B c", None, 'd, "e"']),
            ("status=in.()", []),
            ("  ", ["a", "B c", None, 'd, "e"']),
        ],
    )
    def test_filters_as_supabase_does(
        self, text: str, names: list[str | None], server: str, client: OrganizationClient, database: Connection
    ) -> None:
        all_names = ("a", "B c", None, 'd, "e"')
        with bare_socket(server, client.api_key) as bare:
            bare.join({"filter": text}, {})
            assert bare.receive()[4]["message"] == "Subscribed to PostgreSQL"
            for name in all_names:
                job = submit(client, 2)
                database.execute(
                    "with named as (update public.batch_lookup_jobs set name = %s where id = %s returning organization_id, id)"
                    " select app.notify_change('UPDATE', 'batch_lookup_jobs', organization_id, id) from named",
                    [name, job["job_id"]],
                )
            # The other entry tells of all, in any order. A poll that finds a batch before it has its name tells of that, too.
            told: dict[str, Any] = {}
            while {payload["data"]["record"]["name"] for payload in told.values()} != set(all_names):
                payload = bare.receive()[4]
                told[payload["data"]["record"]["id"]] = payload
        assert {payload["data"]["record"]["name"] for payload in told.values() if 1 in payload["ids"]} == set(names)

    def test_slow_patterns_of_one_organization_hold_up_no_other(
        self, server: str, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, other = new_client(), new_client()
        began, may_end = threading.Event(), threading.Event()

        async def slowed(pool: Pool, function: str, reads: Iterable[Any], *rest: Any, **options: Any) -> Any:
            reads = list(reads)
            if function == "realtime_match" and any(question.value for _, question in reads):
                began.set()
                await asyncio.to_thread(may_end.wait, 20)
            return await reader.read_all(pool, function, reads, *rest, **options)

        monkeypatch.setattr(feed, "read_all", slowed)
        with bare_socket(server, one.api_key) as slow, bare_socket(server, other.api_key) as quick:
            for bare, entry in ((slow, {"filter": "name=match.^slow"}), (quick, {})):
                bare.join({"event": "INSERT"} | entry)
                assert bare.receive()[4]["message"] == "Subscribed to PostgreSQL"
            assert one.post("/batch-lookups", json={"items": [site()], "name": "slow"}).status_code == 201
            assert began.wait(20)
            for _ in range(2):
                job = submit(other, 1)
                assert quick.receive(8)[4]["data"]["record"]["id"] == job["job_id"]
            may_end.set()
            assert slow.receive(20)[4]["data"]["record"]["name"] == "slow"

    def test_patterns_that_take_too_long_are_refused_together(self, server: str, client: OrganizationClient) -> None:
        with bare_socket(server, client.api_key) as bare:
            watches = [
                {"schema": "public", "table": "batch_lookup_jobs", "event": "*", "filter": rf"name=match.((\w?){{30}}){{30}}{letter}"}
                for letter in "abcdefghij"
            ]
            bare.send("phx_join", {"config": {"postgres_changes": watches}})
            # All together, then one by one for a while.
            assert bare.receive(12)[3] == "phx_reply"
            assert "invalid pattern for match filter" in bare.receive(12)[4]["message"]

    def test_sends_the_selected_columns_only(self, server: str, client: OrganizationClient, database: Connection) -> None:
        with bare_socket(server, client.api_key) as bare:
            bare.join({"event": "INSERT", "select": ["status"]}, {"event": "INSERT"}, {"event": "INSERT", "select": ["status", "id"]})
            bare.receive()
            submit(client, 1)
            some, everything = sorted((bare.receive()[4] for _ in range(2)), key=lambda payload: len(payload["data"]["record"]))
            assert (some["ids"], everything["ids"]) == ([1, 3], [2])
            assert (
                set(some["data"]["record"]) == {column["name"] for column in some["data"]["columns"]} == {"organization_id", "id", "status"}
            )
            assert set(everything["data"]["record"]) == {column["name"] for column in everything["data"]["columns"]}
            assert {name: everything["data"]["record"][name] for name in some["data"]["record"]} == some["data"]["record"]

    @pytest.mark.parametrize(
        "data",
        [b"", b"\x03", b"\xff\x00", b"\x00\x01\x01\x0d\xff1", b"\x03\x01\x01\x0d\x01\x00\x01", b"\x02\x00\x00\x00\x00"],
    )
    def test_survives_meaningless_binary_frames(self, data: bytes, server: str, client: OrganizationClient) -> None:
        with bare_socket(server, client.api_key) as bare:
            bare.connection.send(data)
            assert bare.ask("heartbeat", topic="phoenix", join_ref=None)["status"] == "ok"

    def test_answers_binary_frames(self, server: str, client: OrganizationClient) -> None:
        with bare_socket(server, client.api_key) as bare:
            bare.join({})
            bare.receive()
            broadcast = b"\x03\x01\x01\x0d\x03\x00\x01" + b"15realtime:jobshey{}"
            push = b"\x00\x01\x01\x0d\x03" + b"16realtime:jobshey{}"
            for frame, ref in ((broadcast, "5"), (push, "6")):
                bare.connection.send(frame)
                answer = bare.receive()
                assert (answer[:4], answer[4]["status"]) == (["1", ref, "realtime:jobs", "phx_reply"], "error")

    @pytest.mark.parametrize("text", ["", "{}", "[1]", "[" * 5000, '[null,null,5,"x",{}]', '["1","1","","phx_join",{}]'])
    def test_closes_on_an_invalid_frame(self, text: str, server: str, client: OrganizationClient) -> None:
        with bare_socket(server, client.api_key) as bare:
            bare.connection.send(text)
            with pytest.raises(ConnectionClosed):
                bare.receive()

    def test_bounds_the_channels_of_a_connection(self, server: str, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "MAX_CHANNELS", 2)
        with bare_socket(server, client.api_key) as bare:
            join: Json = {"config": {}}
            answers = [bare.ask("phx_join", join, topic=f"realtime:{number}")["status"] for number in range(3)]
            assert answers == ["ok", "ok", "error"]

    def test_bounds_the_connections_of_an_organization(
        self, server: str, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "MAX_CONNECTIONS_PER_ORGANIZATION", 1)
        with bare_socket(server, client.api_key) as first, bare_socket(server, "anon") as second:
            assert first.join({})["status"] == "ok"
            assert refusal(server, client.api_key) == 429
            answer = second.join({}, access_token=client.api_key)
            assert answer["response"]["reason"].startswith("ConnectionRateLimitReached: ")

    def test_warns_a_client_that_reads_too_slowly_before_it_is_dropped(
        self, server: str, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbox, "MAX_WAITING", 5)
        with bare_socket(server, client.api_key) as bare, pytest.raises(ConnectionClosed) as closed:
            flood_and_read(bare)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == connection.TRY_AGAIN_LATER

    @pytest.mark.parametrize(("limit", "length"), [("MAX_WAITING_LENGTH", 50_000), ("MAX_WAITING_LENGTH_TOGETHER", 0)])
    def test_bounds_the_length_of_what_waits_for_a_client(
        self, server: str, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch, limit: str, length: int
    ) -> None:
        """What waits is answers of 100 KB, of which a thousand would be 100 MB, and as much for each connection."""
        monkeypatch.setattr(outbox, limit, length)
        with bare_socket(server, client.api_key) as bare, pytest.raises(ConnectionClosed) as closed:
            flood_and_read(bare)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == connection.TRY_AGAIN_LATER

    @pytest.mark.parametrize("ref", ["x" * 256, 10**256], ids=["text", "number"])
    def test_closes_on_a_reference_that_every_answer_would_repeat_at_length(self, server: str, ref: object) -> None:
        with bare_socket(server, "anon") as bare:
            assert bare.ask("heartbeat", topic="phoenix", ref="x" * 255)["status"] == "ok"
            bare.connection.send(json.dumps([None, ref, "phoenix", "heartbeat", {}]))
            with pytest.raises(ConnectionClosed) as closed:
                bare.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == connection.UNSUPPORTED_DATA

    def test_forgets_a_client_that_reads_nothing(
        self, http_settings: Settings, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Even one that blocks in sending: the server has ceased to read, and what it has sent is never taken."""
        monkeypatch.setattr(limits, "MAX_CONNECTIONS_PER_ORGANIZATION", 1)
        monkeypatch.setattr(connection, "STUCK_SECONDS", 0.5)
        monkeypatch.setattr(realtime_websocket, "FLUSH_SECONDS", 0.5)
        is_over = threading.Event()

        def flood_forever(url: str) -> None:
            with suppress(ConnectionClosed), bare_socket(url, client.api_key) as bare:
                bare.join({})
                while True:
                    flood(bare)
            is_over.set()

        with running_server(http_settings) as url:
            threading.Thread(target=flood_forever, args=[url], daemon=True).start()
            assert is_over.wait(PATIENCE)
            wait_until(lambda: refusal(url, client.api_key) is None)

    def test_ends_though_a_client_reads_nothing(
        self, http_settings: Settings, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(realtime_websocket, "FLUSH_SECONDS", 0.5)
        server = ExitStack()
        url = server.enter_context(running_server(http_settings))
        with suppress(ConnectionClosed), bare_socket(url, client.api_key) as bare:
            bare.join({})
            flood(bare)
            ending = threading.Thread(target=server.close, daemon=True)
            ending.start()
            ending.join(PATIENCE)
            assert not ending.is_alive()

    def test_supports_version_1_of_the_protocol_too(self, server: str, client: OrganizationClient, database: Connection) -> None:
        job = submit(client, 1)
        with connect(f"{server.replace('http', 'ws')}/realtime/v1/websocket?apikey={client.api_key}") as socket_:
            watching = {"event": "*", "schema": "public", "table": "batch_lookup_jobs"} | of_job(job)
            join = {"topic": "realtime:jobs", "event": "phx_join", "payload": {"config": {"postgres_changes": [watching]}}, "ref": "1"}
            socket_.send(json.dumps(join | {"join_ref": "1"}))
            answer, system = (json.loads(socket_.recv(5)) for _ in range(2))
            assert answer["payload"] == {"status": "ok", "response": {"postgres_changes": [watching | {"id": 1}]}}
            assert (answer["event"], answer["ref"], answer["join_ref"], system["event"]) == ("phx_reply", "1", "1", "system")
            look_up(database, job, 1)
            change = json.loads(socket_.recv(5))
            assert (change["topic"], change["event"], change["payload"]["ids"]) == ("realtime:jobs", "postgres_changes", [1])

    def test_is_served_under_a_prefix(self, http_settings: Settings, client: OrganizationClient) -> None:
        with (
            running_server(replace(http_settings, root_path="/alpha")) as url,
            bare_socket(url, client.api_key, "/alpha/realtime/v1/websocket") as bare,
        ):
            assert bare.join({})["status"] == "ok"

    def test_drops_a_client_that_joins_nothing(self, server: str, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "CHANNELLESS_SECONDS", 0.1)
        with bare_socket(server, client.api_key) as idle, bare_socket(server, client.api_key) as busy:
            assert busy.join({})["status"] == "ok"
            assert busy.receive()[3] == "system"
            with pytest.raises(ConnectionClosed):
                idle.receive()
            assert busy.ask("heartbeat", topic="phoenix", join_ref=None)["status"] == "ok"

    def test_bounds_the_connections_of_the_process(self, server: str, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch) -> None:
        with bare_socket(server, client.api_key):
            monkeypatch.setattr(limits, "MAX_CONNECTIONS", 1)
            with pytest.raises(InvalidStatus) as refused, bare_socket(server, client.api_key):
                pass
            assert refused.value.response.status_code == 503

    def test_a_refused_connection_is_not_logged_as_an_error(self, server: str, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(InvalidStatus), bare_socket(server, api_keys.generate()):
            pass
        assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []

    def test_invalid_text_ends_its_connection_and_is_not_logged_as_an_error(self, server: str, caplog: pytest.LogCaptureFixture) -> None:
        with bare_socket(server, "anon") as bare:
            bare.connection.socket.sendall(b"\x81\x82\0\0\0\0\xff\xfe")
            with pytest.raises(ConnectionClosed) as closed:
                bare.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1007
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []

    @pytest.mark.parametrize("seconds", [0, -3600])
    def test_notices_a_revoked_key_though_the_clock_is_set_back(
        self, seconds: float, server: str, client: OrganizationClient, database: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shifted = ShiftedTime()
        for module in (connection, credentials):
            monkeypatch.setattr(module, "time", shifted)
        monkeypatch.setattr(credentials, "RECHECK_SECONDS", 0.5)
        with bare_socket(server, client.api_key) as bare:
            assert bare.join({})["status"] == "ok"
            assert bare.receive()[3] == "system"
            shifted.seconds = seconds
            database.execute(
                "update app.api_keys set revoked_at = now() where organization_id = (select id from app.organizations where name = %s)",
                [client.organization],
            )
            assert bare.receive(10)[4]["message"].startswith("Unauthorized: ")
            assert bare.receive()[3] == "phx_close"

    def test_notices_immediately_that_a_key_is_revoked_elsewhere(
        self, server: str, client: OrganizationClient, database: Connection
    ) -> None:
        with bare_socket(server, client.api_key) as bare:
            assert bare.join({})["status"] == "ok"
            assert bare.receive()[3] == "system"
            database.execute(
                "select api.revoke_api_key(k.organization_id, k.id) from app.api_keys k"
                " join app.organizations o on o.id = k.organization_id where o.name = %s",
                [client.organization],
            )
            assert bare.receive(credentials.RECHECK_SECONDS / 2)[4]["message"].startswith("Unauthorized: ")
            assert bare.receive()[3] == "phx_close"

    @pytest.mark.parametrize("event", ["DELETE", 'E"VIL', "TRUNCATE"])
    def test_forged_notifications_reveal_nothing(self, server: str, client: OrganizationClient, database: Connection, event: str) -> None:
        """Whoever can connect to the database can send them."""
        job = submit(client, 1)
        [organization_id] = database.execute(
            "select organization_id from public.batch_lookup_jobs where id = %s", [job["job_id"]]
        ).fetchone() or [None]
        with bare_socket(server, client.api_key) as bare:
            assert bare.join({"event": "*"} | of_job(job))["status"] == "ok"
            assert bare.receive()[3] == "system"
            for table in ("batch_lookup_jobs", "app.api_keys"):
                payload = f"{event} {table} {organization_id} {job['job_id']}"
                database.execute("select pg_notify('batch_lookups_changes', %s)", [payload])
            look_up(database, job, 1)
            heard = bare.receive()
            # That the job is new may be told after the join, on a busy machine.
            if heard[4]["data"]["type"] == "INSERT":
                heard = bare.receive()
            assert (heard[3], heard[4]["data"]["type"]) == ("postgres_changes", "UPDATE")

    def test_a_subscriber_whose_read_fails_does_not_affect_others(
        self, server: str, client: OrganizationClient, database: Connection, http_settings: Settings
    ) -> None:
        job = submit(client, 1)
        with clerk_instance() as clerk, running_server(replace(http_settings, clerk_issuer=clerk.issuer)) as url:
            organization = f"org_{uuid.uuid4().hex}"
            database.execute("update app.organizations set clerk_organization_id = %s where name = %s", [organization, client.organization])
            database.execute(
                'create policy "one subscriber\'s trouble" on public.batch_lookup_jobs for select to authenticated'
                " using (1 / (case when current_setting('request.jwt.claims') like '%user_1%' then 0 else 1 end) = 1)"
            )
            try:
                with bare_socket(url, client.api_key) as healthy, bare_socket(url, clerk.token(org_id=organization)) as failing:
                    for bare in (healthy, failing):
                        assert bare.join(of_job(job))["status"] == "ok"
                        assert bare.receive()[3] == "system"
                    look_up(database, job, 1)
                    assert healthy.receive()[3] == "postgres_changes"
                    assert failing.receive()[4]["status"] == "error"
            finally:
                database.execute('drop policy "one subscriber\'s trouble" on public.batch_lookup_jobs')
