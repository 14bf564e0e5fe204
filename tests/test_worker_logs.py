"""What a worker logs: the ends of jobs, pauses, outages, disabled receivers, slow calls."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from psycopg import OperationalError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyshell.local.machine import free_port
from pyshell.postgres import slow
from pyshell.postgres.notifications import Notifier
from pyshell.postgres.retries import Outage
from pyshell.settings import Settings
from pyshell.webhooks import sender
from pyshell.webhooks.calls import record_webhooks
from pyshell.webhooks.requests import Attempt, Delivery
from pyshell.webhooks.sender import Sender
from pyshell.worker import job_log
from pyshell.worker.failures import FirstOfEach
from tests.conftest import Connection
from tests.tcp_proxy import running_proxy
from tests.timed import wait_until
from tests.upstream import FakeUpstream, Reply
from tests.webhook_receiver import running_sender
from tests.worker_fixtures import Batches, running_worker, update_settings

ORGANIZATION = UUID("5a8b54ab-0b0c-4d3e-9d8c-3f1f6e0f3c11")


@pytest.fixture(autouse=True)
def prompt_job_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(job_log, "ASK_SECONDS", 0.0)
    caplog.set_level(logging.INFO)


def test_a_pause_and_the_end_of_a_job_are_logged(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.plan("site-0", Reply(429, headers={"Retry-After": "600"}), Reply(404))
    with running_worker(worker_settings):
        job_id = batches.create(2)
        wait_until(lambda: "a pause, of the incentives API or an operator: no lookup starts for" in caplog.text)
        owner.execute("select api.resume_lookups()")
        wait_until(lambda: "lookups continue after" in caplog.text)
        wait_until(lambda: "a job has ended: completed, 1 of 2 items failed (not_found 1)" in caplog.text)
    [ended] = [record for record in caplog.records if record.getMessage().startswith("a job has ended")]
    fields: dict[str, Any] = vars(ended)["fields"]
    assert (fields["job_id"], fields["total_items"], fields["failed_items"]) == (job_id, 2, 1)
    assert "outage" not in caplog.text


def test_claims_do_not_wait_for_the_logging_of_jobs(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never_ends(self: job_log.JobLog, now: float) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(job_log.JobLog, "tell_ended", never_ends)
    with running_worker(worker_settings):
        for _ in range(2):
            assert batches.wait(batches.create(2)) == "completed"


def test_items_that_have_used_up_their_retries_are_logged_once_for_each_reason(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    update_settings(owner, max_retries=2, outage_failures=1000)
    for n in range(30):
        upstream.plan(f"site-{n}", Reply(500))
    upstream.plan("site-30", Reply(500), Reply(408))
    upstream.plan("site-31", Reply(500), Reply(404))
    upstream.plan("site-32", Reply(500), Reply())
    with running_worker(worker_settings):
        job_id = batches.create(33)
        batches.wait(job_id)
        wait_until(lambda: "the retries of an item are used up: upstream_timeout" in caplog.text)
        wait_until(lambda: "the retries of an item are used up: upstream_error" in caplog.text)
    lines = {vars(line)["fields"]["reason"]: line for line in caplog.records if "used up" in line.getMessage()}
    assert len(lines) == len([line for line in caplog.records if "used up" in line.getMessage()]) == 2
    fields: dict[str, Any] = vars(lines["upstream_timeout"])["fields"]
    assert fields == {"job_id": job_id, "organization_id": batches.organization_id, "position": 30, "reason": "upstream_timeout"}
    assert "item 30, 3 attempts" in lines["upstream_timeout"].getMessage()
    assert "Main" not in caplog.text


def test_short_pauses_are_logged_once_a_minute(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.plan("site-0", *[Reply(429, headers={"Retry-After": "1"})] * 3, Reply())
    with running_worker(worker_settings):
        batches.create(1)
        wait_until(lambda: "a job has ended" in caplog.text)
    assert caplog.text.count("a pause") == caplog.text.count("lookups continue") == 1


def test_an_event_is_logged_again_after_a_minute_with_the_number_since_then(caplog: pytest.LogCaptureFixture) -> None:
    events = FirstOfEach("things happened")
    assert [events.is_first(reason, 100.0 + n) for n, reason in enumerate(["a", "b", "a", "a"])] == [True, True, False, False]
    assert "things happened" not in caplog.text
    assert events.is_first("a", 161.0)
    assert "things happened in the last minute: a 3 times, b 1 times" in caplog.text
    assert events.is_first("c", 250.0)
    assert caplog.text.count("things happened") == 1


def test_failures_in_a_row_are_logged_once_a_minute_and_their_end_is_logged() -> None:
    outage = Outage()
    assert [second for second in range(130) if outage.is_worth_a_warning(float(second))] == [0, 60, 120]
    assert (outage.end(130.0), outage.end(131.0)) == (130.0, None)
    assert outage.is_worth_a_warning(132.0), "the next outage is another one"


def test_a_database_that_is_away_is_logged_once_and_so_is_its_return(
    worker_settings: Settings, owner: Connection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "PAUSE_AFTER_ERROR", 0.01)
    monkeypatch.setattr(sender, "LONGEST_SLEEP", 0.01)
    port = int(conninfo_to_dict(worker_settings.database_url)["port"] or 0)
    with running_proxy(port) as proxy:
        settings = replace(worker_settings, database_url=make_conninfo(worker_settings.database_url, port=proxy.port))
        with running_worker(settings), running_sender(settings):
            wait_until(lambda: owner.execute("select from app.workers").rowcount == 1)
            proxy.target = free_port()
            proxy.cut()
            wait_until(lambda: proxy.refused > 50)
            proxy.target = port
            wait_until(lambda: "webhooks are claimed again after" in caplog.text and "the database is back after" in caplog.text)
            wait_until(lambda: "notifications arrive again" in caplog.text)
    assert caplog.text.count("cannot claim webhooks, will try again") == 1
    assert caplog.text.count("cannot claim lookups, will try again") == 1


def test_an_outage_is_logged_once(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    update_settings(owner, outage_failures=1)
    upstream.plan("site-0", Reply(500), Reply(500), Reply())
    with running_worker(worker_settings):
        batches.create(1)
        wait_until(lambda: "outage of the incentives API since" in caplog.text)
        wait_until(lambda: "lookups continue after" in caplog.text)
    lines = [record.getMessage() for record in caplog.records]
    assert sum("lookups continue after" in line for line in lines) == 1, "a probe that fails ends no outage"
    assert max(n for n, line in enumerate(lines) if "outage" in line) < next(
        n for n, line in enumerate(lines) if "lookups continue" in line
    )
    assert "a pause" not in caplog.text


class DisabledReceiver:
    """Stands in for the sender's session: the organization's webhooks were disabled."""

    asked = 0

    async def run(self, *_: object) -> str:
        self.asked += 1
        return "gone"


async def test_disabled_receivers_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing")
    sender = Sender(settings, Notifier(settings.database_url, "test"))
    session = DisabledReceiver()
    monkeypatch.setattr(sender, "_recording", session)
    for status, asked in ((200, 0), (410, 1), (410, 1)):
        await sender._tell_of_disabled(ORGANIZATION.bytes, [Attempt(None, status, None, 0.1, None, None)])  # type: ignore[arg-type]
        assert session.asked == asked
    [record] = caplog.records
    assert record.getMessage() == "the receiver was disabled: gone"
    assert vars(record)["fields"] == {"organization_id": ORGANIZATION}


class LostAfterRecording:
    """Stands in for the sender's session: attempts are recorded, and nothing else is answered."""

    recorded = 0

    async def run(self, call: object, *_: object) -> dict[str, int]:
        if call is not record_webhooks:
            raise OperationalError("the connection was lost")
        self.recorded += 1
        return {"accepted": 1}


async def test_attempts_are_recorded_once_though_nobody_knows_whether_their_receiver_was_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing")
    sender = Sender(settings, Notifier(settings.database_url, "test"))
    session = LostAfterRecording()
    monkeypatch.setattr(sender, "_recording", session)
    delivery = Delivery(ORGANIZATION.bytes, b"", b"", b"{}", "https://example.com", [], "batch.completed")
    sender._add_attempt(Attempt(delivery, 500, None, 0.1, None, None))
    for _ in range(2):
        await sender._flush()
    assert session.recorded == 1


@pytest.mark.parametrize(("seconds", "told"), [(0.0, True), (60.0, False)])
def test_a_slow_call_of_the_database_is_logged(
    seconds: float, told: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow.Threshold, "seconds", seconds)
    with slow.noted("api.list_reports"):
        pass
    assert ("slow call of the database: api.list_reports took" in caplog.text) is told
