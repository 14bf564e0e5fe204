"""The sender: it signs as receivers expect, is patient with those that are down, and none delays another."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from pyshell.postgres.notifications import Notifier
from pyshell.postgres.pool import Pool
from pyshell.settings import ROOT, Settings
from pyshell.webhooks import receiver_limits, sender
from pyshell.webhooks.calls import claim_webhooks
from pyshell.webhooks.receiver_limits import FIRST_WINDOW, LARGEST_WINDOW, MAX_RECEIVER_BYTES, LoadShedding, ReceiverLimit
from pyshell.webhooks.requests import Attempt, Delivery, Receiver
from pyshell.webhooks.runs import send_due
from pyshell.webhooks.sender import APPLICATION_NAME
from tests.certificates import authority
from tests.conftest import Clock, Connection, sessions
from tests.http_fixtures import look_up, site
from tests.tcp_proxy import running_proxy
from tests.timed import PATIENCE, set_monotonic, wait_until
from tests.webhook_receiver import FakeReceiver, Names, Received, fake_receiver, running_sender
from tests.worker_fixtures import end_with_parent, unheard


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with fake_receiver() as receiver:
        yield receiver


@pytest.fixture
def sender_settings(database_url: str) -> Settings:
    return Settings(database_url=database_url, webhooks_allow_private_networks=True)


class Organization:
    """An organization whose webhooks go to `url`, and whose lookups end on demand."""

    def __init__(self, owner: Connection, url: str, name: str = "organization", **config: Any) -> None:
        self.owner = owner
        owner.execute("""select api.update_settings('{"lookups_per_second": null}')""")
        self.id: UUID = self.fetch("select api.create_organization(%s)", name)
        self.secret: str = self.set_config(url=url, **config)["signing_secret"]

    def set_config(self, **changes: Any) -> Any:
        return self.fetch("select api.set_webhook_config(%s, %s, true)", self.id, json.dumps(changes))

    def config(self) -> Any:
        return self.fetch("select api.get_webhook_config(%s)", self.id)

    def complete(self, count: int, **item: Any) -> Any:
        """Uploads a batch of so many items and looks them all up; returns the response to the upload."""
        items = json.dumps({"items": [site(f"site-{n}", **item) for n in range(count)]})
        created = self.fetch("select api.create_batch_lookup(%s, %s, false)", self.id, items)
        look_up(self.owner, created, count, {"incentives": {"total_incentive_amount": 1200.5}})
        return created

    def statuses(self) -> dict[str, int]:
        rows = self.owner.execute(
            "select status, count(*) from app.webhook_deliveries where organization_id = %s group by status", [self.id]
        )
        return dict(rows.fetchall())

    def wait(self, **statuses: int) -> None:
        """Wait until the deliveries have these statuses and no others."""
        wait_until(lambda: self.statuses() == statuses, self.statuses)

    def fetch(self, query: str, *parameters: object) -> Any:
        row = self.owner.execute(query.encode(), parameters).fetchone()
        assert row is not None
        return row[0]


def test_a_completed_lookup_is_sent(owner: Connection, receiver: FakeReceiver, sender_settings: Settings) -> None:
    organization = Organization(owner, receiver.url, field_names=["deal"])
    with running_sender(sender_settings):
        job = organization.complete(1, webhook_custom_fields={"deal": {"id": 7}, "secret": "x"})
        organization.wait(delivered=1)
    [received] = receiver.received
    assert received.path == "/hooks?source=us"
    assert received.headers["content-type"] == "application/json"
    assert received.message["type"] == "lookup.completed"
    data = received.message["data"]
    assert data["job_id"] == job["job_id"]
    assert data["reference_id"] == "site-0"
    assert data["result"] == {"incentives": {"total_incentive_amount": 1200.5}}
    assert data["webhook_custom_fields"] == {"deal": {"id": 7}}


def test_its_signature_is_that_of_standard_webhooks(owner: Connection, receiver: FakeReceiver, sender_settings: Settings) -> None:
    organization = Organization(owner, receiver.url)
    with running_sender(sender_settings):
        organization.complete(1, webhook_custom_fields={"name": "Ünïcode ☀"})
        organization.wait(delivered=1)
    [received] = receiver.received
    assert Webhook(organization.secret).verify(received.body, received.headers) == received.message
    with pytest.raises(WebhookVerificationError):
        Webhook(organization.secret).verify(received.body.replace(b"site-0", b"site-1"), received.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 43 + "=").verify(received.body, received.headers)


def test_its_signature_is_accepted_by_the_node_package_of_standard_webhooks(
    owner: Connection, receiver: FakeReceiver, sender_settings: Settings, tmp_path: Path
) -> None:
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not there")
    (tmp_path / "package.json").write_text("{}")
    installed = subprocess.run(["npm", "install", "--silent", "standardwebhooks@1"], cwd=tmp_path, capture_output=True, check=False)
    if installed.returncode:
        pytest.skip("standardwebhooks cannot be installed from npm")
    organization = Organization(owner, receiver.url)
    with running_sender(sender_settings):
        organization.complete(1, webhook_custom_fields={"name": "Ünïcode ☀"})
        organization.wait(delivered=1)
    [received] = receiver.received
    answer = subprocess.run(
        ["node", Path(__file__).parent / "verify_webhook.mjs"],
        cwd=tmp_path,
        input=json.dumps({"secret": organization.secret, "body": received.body.decode(), "headers": received.headers}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(answer.stdout) == received.message


def test_deliveries_are_also_signed_with_a_rotated_secret_until_it_expires(
    owner: Connection, receiver: FakeReceiver, sender_settings: Settings, clock: Clock
) -> None:
    organization = Organization(owner, receiver.url)
    rotated = organization.fetch("""select api.rotate_webhook_secret(%s, '{"overlap_seconds": 60}')""", organization.id)["signing_secret"]
    with running_sender(sender_settings):
        organization.complete(1)
        organization.wait(delivered=1)
        for secret in (organization.secret, rotated):
            assert verifies(secret, receiver.received[0])
        clock.advance(seconds=61)
        wake(owner)
        organization.complete(1)
        organization.wait(delivered=2)
    assert verifies(rotated, receiver.received[1])
    assert not verifies(organization.secret, receiver.received[1])


def verifies(secret: str, received: Received) -> bool:
    try:
        Webhook(secret).verify(received.body, received.headers)
    except WebhookVerificationError:
        return False
    return True


def test_lookups_of_a_large_batch_are_each_sent_once(owner: Connection, receiver: FakeReceiver, sender_settings: Settings) -> None:
    organization = Organization(owner, receiver.url, events=["lookup.completed", "batch.completed"])
    with running_sender(sender_settings):
        job = organization.complete(300)
        organization.wait(delivered=301)
    lookups = [message["data"] for message in receiver.messages if message["type"] == "lookup.completed"]
    assert sorted(lookup["reference_id"] for lookup in lookups) == sorted(f"site-{n}" for n in range(300))
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 301
    [batch] = [message["data"] for message in receiver.messages if message["type"] == "batch.completed"]
    assert batch["id"] == job["job_id"]
    assert batch["item_counts"] == {"pending": 0, "processing": 0, "completed": 300, "failed": 0}


def test_an_outage_of_an_hour_loses_nothing(owner: Connection, receiver: FakeReceiver, sender_settings: Settings, clock: Clock) -> None:
    organization = Organization(owner, receiver.url)
    clock.freeze()
    started = clock.now()
    receiver.status = 503
    with running_sender(sender_settings):
        organization.complete(15)
        wait_until(lambda: all_have_been_tried(owner), organization.statuses)
        while clock.now() < started + timedelta(hours=1):
            clock.advance(minutes=5)
            wake(owner)
            wait_until(lambda: all_have_been_tried(owner), organization.statuses)
        assert organization.statuses() == {"pending": 15}
        assert organization.config()["failing_since"]
        receiver.status = 204
        clock.advance(hours=2)
        wake(owner)
        organization.wait(delivered=15)
    assert organization.config()["enabled"]
    assert organization.config()["failing_since"] is None
    answered = {received.headers["webhook-id"] for received in receiver.received[-15:]}
    assert len(answered) == 15, "a retry carries the webhook-id of the first attempt"
    assert answered == {received.headers["webhook-id"] for received in receiver.received}


def all_have_been_tried(owner: Connection) -> bool:
    """Whether nothing is due or in flight."""
    row = owner.execute(
        "select not exists (select 1 from app.webhook_deliveries where next_attempt_at <= app.clock() or status = 'sending')"
    ).fetchone()
    assert row
    return bool(row[0])


def wake(owner: Connection) -> None:
    """For after the clock was moved, which the sender's timers do not notice."""
    owner.execute("notify webhooks_ready")


def test_a_slow_receiver_fills_only_its_own_window(
    owner: Connection, receiver: FakeReceiver, sender_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        slow = stack.enter_context(fake_receiver())
        slow.delay = 14.0
        patient = Organization(owner, slow.url, "slow")
        quick = Organization(owner, receiver.url, "quick")
        stack.enter_context(running_sender(sender_settings))
        patient.complete(100)
        wait_until(lambda: slow.in_flight == FIRST_WINDOW)
        quick.complete(200)
        quick.wait(delivered=200)
        assert slow.in_flight == FIRST_WINDOW, "all of the other's deliveries came between two of its"
        assert slow.most_in_flight <= FIRST_WINDOW
        assert patient.statuses() == {"sending": FIRST_WINDOW, "pending": 100 - FIRST_WINDOW}
        slow.hurry.set()


def test_many_receivers_that_never_answer_leave_room_for_others(
    owner: Connection, receiver: FakeReceiver, sender_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyshell.webhooks.sender.MAX_IN_FLIGHT", 20)
    monkeypatch.setattr("pyshell.webhooks.requests.ATTEMPT_SECONDS", 2 * PATIENCE)
    with ExitStack() as stack:
        silent = stack.enter_context(fake_receiver())
        silent.delay = 2 * PATIENCE
        many = [Organization(owner, silent.url, f"silent {n}") for n in range(8)]
        quick = Organization(owner, receiver.url, "quick")
        for organization in many:
            organization.complete(10)
        stack.enter_context(running_sender(sender_settings))
        wait_until(lambda: all("sending" in organization.statuses() for organization in many))
        quick.complete(3)
        quick.wait(delivered=3)
        silent.hurry.set()


@pytest.mark.parametrize("bound", ["MAX_IN_FLIGHT", "MAX_BYTES", "MAX_UNRECORDED"])
def test_deliveries_in_flight_or_unrecorded_are_bounded(
    owner: Connection,
    receiver: FakeReceiver,
    sender_settings: Settings,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
) -> None:
    monkeypatch.setattr(f"pyshell.webhooks.sender.{bound}", 1)
    receiver.delay = PATIENCE
    first, second = (Organization(owner, receiver.url, name) for name in ("first", "second"))
    with psycopg.connect(database_url) as other, running_sender(sender_settings):
        first.complete(2)
        wait_until(lambda: receiver.in_flight == 2)
        if bound == "MAX_UNRECORDED":
            other.execute("select from app.webhook_deliveries where organization_id = %s for update", [first.id])
            receiver.hurry.set()
            wait_until(lambda: receiver.in_flight == 0)
        second.complete(1)
        time.sleep(0.3)
        assert len(receiver.received) == 2
        receiver.hurry.set()
        other.rollback()
        second.wait(delivered=1)
    assert first.statuses() == {"delivered": 2}


async def test_a_manual_run_records_its_attempts_after_the_database_was_away(
    owner: Connection, receiver: FakeReceiver, sender_settings: Settings
) -> None:
    receiver.delay = PATIENCE
    organization = Organization(owner, receiver.url, events=["lookup.completed"])
    organization.complete(3)
    end_connections = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'batch-lookups'"
    async with Pool(sender_settings.database_url) as pool:
        await pool.wait()
        owner.execute(end_connections)
        sending = asyncio.create_task(send_due(pool, sender_settings))
        await asyncio.to_thread(wait_until, lambda: receiver.in_flight == 3)
        owner.execute(end_connections)
        receiver.hurry.set()
        assert await sending == 3
    assert organization.statuses() == {"delivered": 3}


def test_a_receiver_that_times_out_is_tried_one_by_one(
    owner: Connection, receiver: FakeReceiver, sender_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyshell.webhooks.requests.ATTEMPT_SECONDS", 0.1)
    receiver.delay = 1.0
    organization = Organization(owner, receiver.url)
    with running_sender(sender_settings):
        organization.complete(100)
        wait_until(lambda: len(receiver.received) > 12)
        in_flight = organization.statuses()["sending"]
    assert in_flight <= 3, "those in the air and those not yet recorded"
    row = owner.execute("select distinct error_class, http_status from app.webhook_attempts").fetchall()
    assert row == [("timeout", None)]


def test_retry_after_is_respected(owner: Connection, receiver: FakeReceiver, sender_settings: Settings, clock: Clock) -> None:
    organization = Organization(owner, receiver.url)
    clock.freeze()
    receiver.status, receiver.headers = 429, {"Retry-After": "120"}
    with running_sender(sender_settings):
        organization.complete(100)
        # In this order: before the first claim, all are pending, too.
        wait_until(lambda: receiver.received and organization.statuses() == {"pending": 100})
        asked = len(receiver.received)
        assert asked <= 3 * FIRST_WINDOW
        clock.advance(seconds=100)
        wake(owner)
        time.sleep(0.3)
        assert len(receiver.received) == asked
        receiver.status, receiver.headers = 204, {}
        clock.advance(seconds=30)
        wake(owner)
        organization.wait(delivered=100)


def test_a_receiver_that_is_gone_is_left_alone(owner: Connection, receiver: FakeReceiver, sender_settings: Settings) -> None:
    organization = Organization(owner, receiver.url)
    receiver.status = 410
    with running_sender(sender_settings):
        organization.complete(100)
        wait_until(lambda: organization.config()["disabled_reason"] == "gone")
        asked = len(receiver.received)
        organization.complete(1)
        time.sleep(0.3)
        assert len(receiver.received) <= asked + FIRST_WINDOW
        receiver.status = 204
        organization.set_config(enabled=True)
        recovered = organization.fetch(
            """select api.recover_webhook_deliveries(%s, '{"since": "2020-01-01T00:00:00Z"}')""", organization.id
        )
        organization.wait(delivered=101)
    assert 2 <= recovered["recovered"] <= 3 * FIRST_WINDOW, "what was answered with 410, and what happened meanwhile"


def test_a_sender_that_dies_loses_nothing(
    owner: Connection, receiver: FakeReceiver, sender_settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyshell.webhooks.sender.LONGEST_SLEEP", 600.0)
    organization = Organization(owner, receiver.url)
    organization.complete(10)
    owner.execute("select api.claim_webhooks(%s, 'dead', 6)", [organization.id])
    with running_sender(sender_settings):
        organization.wait(delivered=4, sending=6)
        clock.advance(seconds=61)
        wake(owner)
        organization.wait(delivered=10)


def test_stopping_waits_for_deliveries_in_flight(owner: Connection, receiver: FakeReceiver, sender_settings: Settings) -> None:
    receiver.delay = 0.5
    organization = Organization(owner, receiver.url)
    with running_sender(sender_settings):
        organization.complete(2)
        wait_until(lambda: receiver.in_flight == 2)
    assert organization.statuses() == {"delivered": 2}


# Resolves a name of a receiver only long after the test.
WORKER_WITH_A_SILENT_NAME = """
import socket, time
resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *others, **named: time.sleep(300) if host == "silent.example" else resolve(host, *others, **named)
from pyshell.webhooks import sender
sender.FINISH_SECONDS = 0.1
from pyshell.__main__ import main
main(["worker"])
"""


def test_stopping_does_not_wait_for_a_name_that_is_being_resolved(owner: Connection, database_url: str) -> None:
    organization = Organization(owner, "https://silent.example/")
    organization.complete(1)
    environment = os.environ | {"DATABASE_URL": database_url}
    with subprocess.Popen(
        [sys.executable, "-c", WORKER_WITH_A_SILENT_NAME], cwd=ROOT, env=environment, preexec_fn=end_with_parent
    ) as worker:
        try:
            organization.wait(sending=1)
            worker.terminate()
            assert worker.wait(PATIENCE) == 0
        finally:
            worker.kill()


def test_stopping_records_what_was_sent_once_its_rows_are_free(
    owner: Connection, receiver: FakeReceiver, sender_settings: Settings, database_url: str
) -> None:
    receiver.delay = PATIENCE
    organization = Organization(owner, receiver.url)
    with psycopg.connect(database_url) as other, running_sender(sender_settings):
        organization.complete(2)
        wait_until(lambda: receiver.in_flight == 2)
        other.execute("select from app.webhook_deliveries where organization_id = %s for update", [organization.id])
        receiver.hurry.set()

        def let_go() -> None:
            other.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s", [APPLICATION_NAME])
            other.rollback()

        # The sender stops in the meantime.
        threading.Timer(0.7, let_go).start()
    assert organization.statuses() == {"delivered": 2}


def test_a_connection_that_the_receiver_closed_is_replaced(owner: Connection, receiver: FakeReceiver, sender_settings: Settings) -> None:
    receiver.headers = {"Connection": "close"}
    organization = Organization(owner, receiver.url)
    with running_sender(sender_settings):
        organization.complete(20)
        organization.wait(delivered=20)
    assert len(receiver.received) == 20


def test_bundles_reach_the_receiver_as_one(owner: Connection, receiver: FakeReceiver, sender_settings: Settings) -> None:
    organization = Organization(owner, receiver.url, bundle_items=True)
    with running_sender(sender_settings):
        organization.complete(150)
        organization.wait(delivered=2)
    assert sorted(len(message["data"]["items"]) for message in receiver.messages) == [50, 100]


@pytest.mark.parametrize(("scheme", "error_class"), [("https", "refused_address"), ("http", "invalid_url")])
def test_without_the_development_setting_this_machine_is_refused(
    owner: Connection, receiver: FakeReceiver, database_url: str, scheme: str, error_class: str
) -> None:
    organization = Organization(owner, f"{scheme}://localhost:{receiver.port}/")
    with running_sender(Settings(database_url=database_url)):
        organization.complete(1)
        wait_until(lambda: organization.config()["failing_since"])
    assert organization.fetch("select last_error from app.webhook_deliveries where organization_id = %s", organization.id) == error_class
    assert receiver.received == []


def test_proxies_and_certificates_of_the_incentives_api_are_not_for_webhooks(
    owner: Connection, receiver: FakeReceiver, sender_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = authority("receiver.example", tmp_path)
    Names(monkeypatch).answers["receiver.example"] = [["127.0.0.1"]]
    proxy = f"http://127.0.0.1:{receiver.port}"
    settings = replace(sender_settings, incentives_api_ca_file=made.file, https_proxy=proxy, http_proxy=proxy)
    with fake_receiver(made.server) as secure, running_sender(settings):
        organization = Organization(owner, f"https://receiver.example:{secure.port}/")
        organization.complete(1)
        wait_until(lambda: organization.config()["failing_since"])
        assert organization.fetch("select last_error from app.webhook_deliveries where organization_id = %s", organization.id) == "tls"
        assert (secure.received, receiver.connections) == ([], 0)


def test_a_broken_connection_to_the_database_loses_nothing(owner: Connection, receiver: FakeReceiver, sender_settings: Settings) -> None:
    organization = Organization(owner, receiver.url)
    with running_sender(sender_settings):
        for _ in range(3):
            organization.complete(30)
            owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s", [APPLICATION_NAME])
        organization.wait(delivered=90)


def test_a_claim_whose_response_is_lost_delays_no_webhook(owner: Connection, receiver: FakeReceiver, sender_settings: Settings) -> None:
    """The claim has committed when the connection breaks, so the sender never learns what it has claimed. A setting, which all nodes of a
    cluster know, keeps the claim from returning.
    """
    owner.execute(
        """alter function app.lease_webhooks rename to lease_webhooks_at_once;
           create function app.lease_webhooks(p_organization_id uuid, p_sender text, p_limit integer, p_now timestamptz)
           returns app.webhook_deliveries[] language plpgsql volatile as $$
           declare
               v_deliveries constant app.webhook_deliveries[] := app.lease_webhooks_at_once($1, $2, $3, $4);
           begin
               while v_deliveries <> '{}' and (select lease_seconds = 600 from app.settings) loop
                   perform pg_sleep(0.01);
               end loop;
               return v_deliveries;
           end;
           $$"""
    )
    organization = Organization(owner, receiver.url)
    receiver.delay = PATIENCE
    with running_proxy(owner.info.port) as proxy:
        url = make_conninfo(sender_settings.database_url, host="127.0.0.1", port=proxy.port)
        with running_sender(replace(sender_settings, database_url=url)):
            organization.complete(1)
            wait_until(lambda: receiver.in_flight == 1)
            owner.execute("""select api.update_settings('{"lease_seconds": 600}')""")
            organization.complete(3)
            asleep = f"select from {sessions(owner)} where wait_event = 'PgSleep'"
            wait_until(lambda: owner.execute(asleep.encode()).rowcount)
            proxy.fall_silent()
            owner.execute("""select api.update_settings('{"lease_seconds": 500}')""")
            wait_until(lambda: organization.statuses() == {"sending": 4})
            proxy.recover()
            wait_until(lambda: receiver.in_flight == 4)
            receiver.hurry.set()
            organization.wait(delivered=4)
    assert len(receiver.received) == 4, "what was on its way is not sent again"


@pytest.mark.parametrize("seconds", [0.1, PATIENCE], ids=["lost", "broken off"])
async def test_a_claim_whose_response_is_missing_at_the_stop_is_released(
    owner: Connection, sender_settings: Settings, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(sender, "LAST_CALLS_SECONDS", 0.7)
    stop = asyncio.Event()

    monkeypatch.setattr(sender, "claim_webhooks", unheard(claim_webhooks, stop, seconds))
    organization = Organization(owner, "https://example.com/")
    organization.complete(1)
    await sender.Sender(sender_settings, Notifier(sender_settings.database_url, "test")).run(stop)
    assert organization.statuses() == {"pending": 1}


def test_webhooks_wait_while_there_are_many_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lookups = 0.0, 0
    set_monotonic(monkeypatch, receiver_limits, lambda: now)
    load_shedding = LoadShedding(lambda: lookups)
    seen = []
    for finished in (0, 100, 10, 1000, 0):
        now, lookups = now + 0.1, lookups + finished
        seen.append(load_shedding.is_active())
    assert seen == [False, False, False, True, False]


def test_a_window_is_as_large_as_its_receiver_is_quick() -> None:
    delivery = Delivery(b"o", b"d", b"t", b"{}", "https://a.example/", [], "lookup.completed")
    limit = ReceiverLimit(Receiver(delivery.url, allow_private=False))
    for latency, window in ((0.01, LARGEST_WINDOW), (1.0, LARGEST_WINDOW // 2)):
        for _ in range(200):
            limit.learn(Attempt(delivery, 200, None, latency, "", None))
        assert limit.window == window
    for _ in range(10):
        limit.learn(Attempt(delivery, 500, None, 0.01, "", None))
    assert limit.window == 1
    for status in (410, 429, 503):
        limit = ReceiverLimit(limit.receiver)
        limit.learn(Attempt(delivery, status, None, 0.01, "", 60.0))
        assert limit.room() == 0, "nothing is claimed until the database knows of the pause"


def test_a_window_is_filled_again_when_half_of_it_is_free() -> None:
    delivery = Delivery(b"o", b"d", b"t", b"{}", "https://a.example/", [], "lookup.completed")
    limit = ReceiverLimit(Receiver(delivery.url, allow_private=False), window=8)
    room = []
    for _ in range(5):
        limit.start(delivery)
        room.append(limit.room())
    assert room == [7, 6, 5, 4, 0]


def test_windows_shrink_as_the_sender_fills() -> None:
    delivery = Delivery(b"o", b"d", b"t", b"x" * 1_000_000, "https://a.example/", [], "lookup.completed")
    limit = ReceiverLimit(Receiver(delivery.url, allow_private=False), window=8)
    assert [limit.room(free) for free in (1.0, 0.6, 0.5, 0.1, 0.001, 0.0)] == [8, 5, 4, 1, 1, 0]
    limit.start(delivery)
    assert [limit.room(free) for free in (0.5, 0.2, 0.1)] == [3, 1, 0]
    limit.window = LARGEST_WINDOW
    assert [limit.room(free) for free in (1.0, 0.25)] == [15, 3], "as many bodies of a megabyte as fit"


def test_the_window_depends_on_the_size_of_bodies() -> None:
    small, large = (Delivery(b"o", b"d", b"t", b"x" * size, "https://a.example/", [], "lookup.completed") for size in (1000, 2_000_000))
    limit = ReceiverLimit(Receiver(small.url, allow_private=False), window=LARGEST_WINDOW)
    limit.start(small)
    assert limit.room() == LARGEST_WINDOW - 1
    limit.start(Delivery(b"o", b"d", b"t", b"{}", small.url, [], small.event))
    assert limit.largest == 937, "one small body does not tell that all are"
    limit.finish(small)
    limit.bytes, limit.largest = len(small.body), len(small.body)
    limit.start(large)
    assert limit.room() == (MAX_RECEIVER_BYTES - 2_001_000) // 2_000_000 == 7
    for _ in range(limit.room()):
        limit.start(large)
    assert (limit.room(), limit.bytes) == (0, 16_001_000)
    for delivery in (small, *[large] * 8):
        limit.finish(delivery)
    assert (limit.room(), limit.bytes) == (8, 0)
    limit.start(Delivery(b"o", b"d", b"t", b"x" * (MAX_RECEIVER_BYTES + 1), large.url, [], large.event))
    assert limit.room() == 0
    limit.bytes = limit.in_flight = 0
    assert limit.room() == 1, "one that is larger than all may be goes alone"
