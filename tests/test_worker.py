"""A worker, a database and an upstream: batches from upload to report."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
import uuid
from email.utils import formatdate
from typing import Any

import psycopg
import pytest

from pyshell.postgres import notifications
from pyshell.postgres.connections import Backoff, Session
from pyshell.postgres.notifications import Notifier
from pyshell.postgres.pool import Pool
from pyshell.settings import Settings
from pyshell.tasks import wait_at_most
from pyshell.webhooks import sender
from pyshell.webhooks.sender import Sender
from pyshell.worker import calls, claims, process
from pyshell.worker.process import Worker
from pyshell.worker.run_once import run_once
from pyshell.worker.upstream import Answer, Upstream
from tests.conftest import Connection
from tests.timed import PATIENCE, wait_until
from tests.upstream import FOREVER, FakeUpstream, Reply
from tests.worker_fixtures import Batches, check_invariants, fetch_value, leases, running_worker, update_settings, wait_for_all


def test_every_item_of_a_batch_is_looked_up_once_and_is_in_the_report(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    with running_worker(worker_settings):
        assert batches.wait(batches.create(300)) == "completed"
    assert upstream.times_seen() == {f"site-{n}": 1 for n in range(300)}
    assert upstream.most_in_flight <= 20
    assert batches.item("site-7")["result"]["utility"]["name"] == "Pacific Gas & Electric"
    assert fetch_value(owner, "select total_incentive_value from public.incentive_reports") == 300_000
    assert leases(owner) == 0


def test_two_workers_share_a_batch_and_look_up_no_item_twice(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    upstream.usual = Reply(delay=0.005)
    with running_worker(worker_settings), running_worker(worker_settings):
        assert batches.wait(batches.create(400)) == "completed"
    assert set(upstream.times_seen().values()) == {1}
    assert fetch_value(owner, "select count(*) from app.workers") == 2


def count_held(owner: Connection, worker: str) -> int:
    """How many items a worker holds."""
    answer: int = fetch_value(
        owner, "select coalesce(sum(app.count_positions(positions)), 0) from public.lookup_leases where worker like %s", f"{worker}%"
    )
    return answer


def test_a_worker_without_a_share_of_the_concurrency_limit_releases_its_items(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first share goes to the first by name.
    names = iter(["zzzz", "aaaa"])
    monkeypatch.setattr(socket, "gethostname", lambda: next(names, "other"))
    upstream.usual = Reply(delay=0.5)
    with running_worker(worker_settings):
        job = batches.create(30)
        wait_until(lambda: count_held(owner, "zzzz") == 30)
        update_settings(owner, max_in_flight=1)
        with running_worker(worker_settings):
            wait_until(lambda: count_held(owner, "aaaa") > 0)
            upstream.usual = Reply()
            assert batches.wait(job) == "completed"
    assert set(upstream.times_seen().values()) == {1}


def test_a_worker_that_became_slow_releases_what_it_would_not_start_soon(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LONGEST_SLEEP", 1.5)
    update_settings(owner, max_in_flight=2)
    for slow in range(300, 1000):
        upstream.plan(f"site-{slow}", Reply(delay=1))
    with running_worker(worker_settings):
        batches.create(1000)
        wait_until(lambda: len(upstream.requests) > 200 and count_held(owner, "") > 30)
        wait_until(lambda: len(upstream.requests) > 300 and count_held(owner, "") < 15)


def test_a_provider_gets_its_key_but_not_the_organization(batches: Batches, worker_settings: Settings, upstream: FakeUpstream) -> None:
    with running_worker(worker_settings):
        batches.wait(batches.create(1))
    [seen] = upstream.requests
    assert seen.target == "/v1/incentives?source=batch"
    assert seen.headers["authorization"] == "Bearer key of the provider"
    assert seen.headers["content-type"] == "application/json"
    assert "x-organization-id" not in seen.headers
    assert seen.body["address"]["postal_code"] == "94601"
    assert seen.body["device_ids"] == [1]


def test_without_a_provider_our_own_api_is_asked_in_the_name_of_the_organization(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream
) -> None:
    upstream.internal_key = b"internal key"
    own = Settings(database_url=worker_settings.database_url, port=upstream.port, root_path="/alpha")
    with running_worker(own):
        batches.wait(batches.create(1))
    recognition, seen = upstream.requests
    assert (recognition.body, recognition.headers["x-organization-id"]) == ({}, "")
    assert recognition.target == seen.target == "/alpha/incentives"
    assert seen.headers["authorization"].startswith("HMAC-SHA256 ")
    assert seen.headers["x-organization-id"] == str(batches.organization_id)
    assert seen.body["reference_id"] == "site-0"


def test_a_lookup_that_fails_temporarily_is_tried_again(batches: Batches, worker_settings: Settings, upstream: FakeUpstream) -> None:
    upstream.plan("site-1", Reply(500), Reply(reset=True), Reply())
    with running_worker(worker_settings):
        assert batches.wait(batches.create(3)) == "completed"
    assert batches.item("site-1")["status"] == "completed"
    assert batches.item("site-1")["retry_count"] == 2
    assert upstream.times_seen() == {"site-0": 1, "site-1": 3, "site-2": 1}


def test_a_lookup_that_keeps_failing_is_given_up_after_the_retries(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream
) -> None:
    upstream.plan("site-1", Reply(502))
    with running_worker(worker_settings):
        assert batches.wait(batches.create(2)) == "completed"
    item = batches.item("site-1")
    assert (item["status"], item["error_code"], item["retry_count"]) == ("failed", "upstream_error", 3)
    assert "HTTP 502" in item["error_message"]
    assert upstream.times_seen()["site-1"] == 4


def test_a_refusal_fails_at_once_with_the_providers_words(batches: Batches, worker_settings: Settings, upstream: FakeUpstream) -> None:
    upstream.plan("site-0", Reply(404, '{"error": "Program lookup failed - no utility found"}'))
    with running_worker(worker_settings):
        assert batches.wait(batches.create(1)) == "failed"
    assert batches.item("site-0")["error_message"] == "Program lookup failed - no utility found"
    assert upstream.times_seen() == {"site-0": 1}


BAD_ANSWERS = {
    "no-json": (Reply(body="<html>"), "invalid_response"),
    "no-object": (Reply(body="[1]"), "invalid_response"),
    "half-json": (Reply(body='{"incentives": {'), "invalid_response"),
    "empty": (Reply(body=""), "invalid_response"),
    "no-utf-8": (Reply(body=b'{"a": "\xff"}'), "invalid_response"),
    "lone-surrogate": (Reply(body='{"a": "\\ud800"}'), "invalid_response"),
    "deep": (Reply(body='{"a":' + "[" * 20_000), "invalid_response"),
    "no-http": (Reply(raw=b"SSH-2.0-OpenSSH_9.2\r\n\r\n", close=True), "invalid_response"),
    "no-gzip": (Reply(headers={"Content-Encoding": "gzip"}, body="{}"), "invalid_response"),
    "brotli": (Reply(headers={"Content-Encoding": "br"}, body="{}"), "invalid_response"),
    "truncated": (Reply(headers={"Content-Length": "100"}, body="{}", close=True), "upstream_unreachable"),
    "reset": (Reply(reset=True), "upstream_unreachable"),
    "late": (Reply(delay=FOREVER), "upstream_timeout"),
    "redirect": (Reply(302, headers={"Location": "/elsewhere"}), "upstream_redirected"),
    "huge": (Reply(body=b" " * 40_000), "response_too_large"),
    "huge-unannounced": (Reply(raw=b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 40_000, close=True), "response_too_large"),
    "huge-unzipped": (Reply(headers={"Content-Encoding": "gzip"}, body=gzip.compress(b" " * 1_000_000)), "response_too_large"),
}


def test_a_bad_answer_fails_only_its_item_and_says_why(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    update_settings(owner, max_retries=0, lookup_timeout_seconds=1, max_response_bytes=30_000)
    for reference_id, (reply, _) in BAD_ANSWERS.items():
        upstream.plan(reference_id, reply)
    with running_worker(worker_settings):
        job = batches.create([*BAD_ANSWERS, "good"])
        assert batches.wait(job) == "completed"
    errors = {reference_id: batches.item(reference_id)["error_code"] for reference_id in [*BAD_ANSWERS, "good"]}
    assert errors == {reference_id: code for reference_id, (_, code) in BAD_ANSWERS.items()} | {"good": None}
    assert upstream.times_seen() == dict.fromkeys([*BAD_ANSWERS, "good"], 1)


def test_an_answer_that_postgresql_cannot_store_fails_its_item_and_no_other(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    update_settings(owner, max_retries=0)
    upstream.plan("site-0", Reply(body='{"a": "x\\u0000y"}'))
    upstream.plan("site-1", Reply(body='{"b": "\\\\u0000"}'))
    upstream.plan("site-2", Reply(body=b'\xef\xbb\xbf{"c": "after a byte order mark"}'))
    with running_worker(worker_settings):
        assert batches.wait(batches.create(3)) == "completed"
    assert batches.item("site-0")["error_code"] == "invalid_response"
    assert batches.item("site-1")["result"] == {"b": "\\u0000"}
    assert batches.item("site-2")["result"] == {"c": "after a byte order mark"}


@pytest.mark.parametrize("end", ["perform 1 / 0", "perform pg_terminate_backend(pg_backend_pid())"], ids=["error", "end of the connection"])
async def test_a_claim_whose_commit_fails_is_not_used(batches: Batches, worker_settings: Settings, owner: Connection, end: str) -> None:
    """PostgreSQL sends the rows of a statement before it commits it."""
    batches.create(2)
    owner.execute(
        f"create function public.refuse() returns trigger language plpgsql security definer as $$ begin {end}; return null; end $$".encode()
    )
    owner.execute(
        b"""create constraint trigger refuse after insert on public.lookup_leases deferrable initially deferred
            for each row execute function public.refuse()"""
    )
    session = Session(worker_settings.database_url, "test")
    with pytest.raises(psycopg.Error):
        await session.run(calls.claim_lookups, "worker", batches.organization_id.bytes, 2, 60.0, False)
    await session.close()
    assert batches.counts() == {"pending": 2}


def test_what_was_claimed_is_looked_up_while_others_are_claimed_for(
    worker_settings: Settings, upstream: FakeUpstream, owner: Connection, database_url: str
) -> None:
    many = sorted((Batches(owner) for _ in range(12)), key=lambda batches: batches.organization_id)
    jobs = [batches.create([f"site-{number}"]) for number, batches in enumerate(many)]
    with psycopg.connect(database_url) as connection:
        connection.execute("insert into app.organization_queue_state (organization_id) values (%s)", [many[-1].organization_id])
        with running_worker(worker_settings):
            wait_until(lambda: len(upstream.requests) >= 10)
            connection.rollback()
            wait_for_all(many, jobs)
    assert set(upstream.times_seen().values()) == {1}


def test_what_was_claimed_when_lookups_were_faster_is_returned(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LONGEST_SLEEP", 0.1)
    monkeypatch.setattr(process, "FINISH_SECONDS", 0.1)
    update_settings(owner, max_in_flight=2)
    with running_worker(worker_settings):
        batches.create(2000)
        wait_until(lambda: len(upstream.requests) > 200)
        upstream.usual = Reply(delay=FOREVER)
        # Two are in flight, and two are ahead; a moment ago, there were dozens.
        wait_until(lambda: batches.counts()["processing"] <= 8, batches.counts)


@pytest.mark.parametrize("part", [Worker, Sender])
async def test_a_part_of_a_worker_with_a_fault_ends_it_with_an_error(
    part: type[Worker | Sender], batches: Batches, worker_settings: Settings, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(claims, "claim_for_organizations", fail)
    monkeypatch.setattr(claims, "claim_lookups", fail)
    monkeypatch.setattr(sender, "ready_webhooks", fail)
    batches.create(3)
    notifier = Notifier(worker_settings.database_url, "test")
    worker = Worker(worker_settings, "internal key", notifier) if part is Worker else Sender(worker_settings, notifier)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(worker.run(asyncio.Event()), PATIENCE)
    assert (batches.counts(), leases(owner)) == ({"pending": 3}, 0)


def test_a_claim_that_fails_does_not_affect_others(batches: Batches, worker_settings: Settings, owner: Connection) -> None:
    others = Batches(owner)
    owner.execute(f"alter table public.lookup_leases add constraint refuse check (organization_id <> '{batches.organization_id}')".encode())
    with running_worker(worker_settings):
        batches.create(2)
        assert others.wait(others.create(["other-1"])) == "completed"
        assert batches.counts() == {"pending": 2}
        owner.execute("alter table public.lookup_leases drop constraint refuse")
        wait_until(lambda: batches.counts() == {"completed": 2})


def test_an_outcome_that_the_database_refuses_does_not_hold_up_the_others(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    update_settings(owner, max_retries=0)
    owner.execute("alter table public.incentive_report_sites add constraint refuse check (utility_name <> 'refused')")
    upstream.plan("site-30", Reply(body='{"utility": {"name": "refused"}}'))
    with running_worker(worker_settings):
        assert batches.wait(batches.create(60)) == "completed"
    assert batches.item("site-30")["error_code"] == "invalid_response"
    assert batches.counts() == {"completed": 59, "failed": 1}


def test_a_retry_after_that_is_a_date_pauses_lookups_and_costs_no_retry(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    update_settings(owner, max_retries=0)
    upstream.plan("site-0", Reply(429, headers={"Retry-After": formatdate(time.time() + 600, usegmt=True)}), Reply())
    job = batches.create(1)
    with running_worker(worker_settings):
        wait_until(lambda: fetch_value(owner, "select paused_until > now() from app.upstream_state"))
        assert fetch_value(owner, "select extract(epoch from paused_until - now()) from app.upstream_state") == pytest.approx(585, abs=16)
        owner.execute("select api.resume_lookups()")
        assert batches.wait(job) == "completed"
    assert batches.item("site-0")["retry_count"] == 0
    assert upstream.times_seen() == {"site-0": 2}


def test_a_slow_lookup_keeps_its_lease(batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection) -> None:
    update_settings(owner, lease_seconds=1)
    upstream.plan("site-0", Reply(delay=2.2))
    with running_worker(worker_settings):
        assert batches.wait(batches.create(1)) == "completed"
    assert batches.item("site-0")["retry_count"] == 0
    assert upstream.times_seen() == {"site-0": 1}


def lose_lease(owner: Connection, upstream: FakeUpstream) -> None:
    """The effect of another worker's claim after a lease has expired."""
    wait_until(lambda: upstream.in_flight)
    owner.execute("update public.lookup_leases set lease_token = %s, worker = 'another worker'", [uuid.uuid4()])


def test_a_success_that_comes_after_the_lease_is_lost_counts(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    upstream.plan("site-0", Reply(delay=0.5))
    with running_worker(worker_settings):
        job = batches.create(1)
        lose_lease(owner, upstream)
        assert batches.wait(job) == "completed"


def test_a_failure_that_comes_after_the_lease_is_lost_does_not_count(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    upstream.plan("site-0", Reply(400, delay=0.5))
    with running_worker(worker_settings):
        batches.create(1)
        lose_lease(owner, upstream)
        wait_until(lambda: not upstream.in_flight)
    assert fetch_value(owner, "select worker from public.lookup_leases") == "another worker"
    assert batches.counts() == {"processing": 1}


def test_a_worker_that_stops_finishes_what_is_in_flight_and_releases_the_rest(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    update_settings(owner, max_in_flight=5)
    upstream.usual = Reply(delay=0.5)
    with running_worker(worker_settings):
        batches.create(100)
        wait_until(lambda: upstream.in_flight == 5)
    started = len(upstream.requests)
    assert batches.counts() == {"completed": started, "pending": 100 - started}
    assert fetch_value(owner, "select max(retry_count) from public.lookup_queue_items") == 0
    assert leases(owner) == 0
    check_invariants(owner)


def test_a_worker_that_stops_does_not_wait_for_ever(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "FINISH_SECONDS", 0.3)
    upstream.usual = Reply(delay=FOREVER)
    with running_worker(worker_settings):
        batches.create(30)
        wait_until(lambda: upstream.in_flight == 20)
    assert batches.counts() == {"pending": 30}
    assert leases(owner) == 0
    # A lookup that was sent may have to be paid for, whether or not its response arrives.
    assert fetch_value(owner, "select sum(lookups) from public.lookup_usage") == 20
    check_invariants(owner)


def test_an_idle_worker_notices_a_new_batch_immediately(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LONGEST_SLEEP", 600.0)
    with running_worker(worker_settings):
        batches.wait(batches.create(1))
        time.sleep(0.5)
        batches.wait(batches.create(["second-batch"]))
    assert upstream.times_seen() == {"site-0": 1, "second-batch": 1}


def test_polling_is_enough(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LONGEST_SLEEP", 0.2)
    monkeypatch.setattr(notifications, "Backoff", lambda: Backoff(FOREVER, FOREVER))
    with running_worker(worker_settings):
        wait_until(lambda: terminate(owner, "query like 'listen%%'"))
        assert batches.wait(batches.create(10)) == "completed"
    assert len(upstream.requests) == 10


def test_an_idle_worker_sleeps_as_long_as_it_may(worker_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps: list[tuple[float, bool]] = []

    async def sleep(wakeup: asyncio.Event, seconds: float) -> None:
        await wait_at_most(wakeup, seconds)
        sleeps.append((seconds, wakeup.is_set()))

    monkeypatch.setattr(claims, "wait_at_most", sleep)
    monkeypatch.setattr(claims, "LONGEST_SLEEP", 0.1)
    with running_worker(worker_settings):
        # Parts of the worker that start may wake it.
        wait_until(lambda: sleeps[-6:] == [(0.1, False)] * 6, lambda: sleeps)


def test_a_small_batch_of_another_organization_does_not_wait_for_a_large_one(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    update_settings(owner, max_in_flight=4)
    upstream.usual = Reply(delay=0.01)
    small = Batches(owner)
    with running_worker(worker_settings):
        large_job = batches.create(600)
        wait_until(lambda: len(upstream.requests) > 20)
        submitted = len(upstream.requests)
        small_job = small.create([f"small-{n}" for n in range(10)])
        small.wait(small_job)
        finished = max(place for place, seen in enumerate(upstream.requests) if seen.reference_id.startswith("small"))
        assert batches.wait(large_job) == "completed"
    # At most what was claimed ahead, then ten of each in turn, then a claim's worth of error.
    assert finished - submitted < 200


def test_settings_take_effect_without_a_restart(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    update_settings(owner, max_in_flight=2)
    upstream.usual = Reply(delay=0.02)
    with running_worker(worker_settings):
        batches.wait(batches.create(40))
        assert upstream.most_in_flight == 2
        update_settings(owner, max_in_flight=7)
        batches.wait(batches.create([f"second-{n}" for n in range(60)]))
        assert upstream.most_in_flight == 7
        update_settings(owner, max_in_flight=1)
        upstream.most_in_flight = 0
        batches.wait(batches.create([f"third-{n}" for n in range(20)]))
        assert upstream.most_in_flight == 1


def test_a_dropped_connection_loses_no_outcome(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    upstream.usual = Reply(delay=0.05)
    with running_worker(worker_settings):
        job = batches.create(400)
        for _ in range(4):
            time.sleep(0.2)
            terminate(owner, "application_name like '%%worker%%'")
        assert batches.wait(job) == "completed"
    assert set(upstream.times_seen()) == {f"site-{n}" for n in range(400)}


def test_a_worker_runs_maintenance_when_nobody_else_does(worker_settings: Settings, owner: Connection) -> None:
    owner.execute("update app.maintenance_state set ran_at = now() - interval '1 hour'")
    with running_worker(worker_settings):
        wait_until(lambda: fetch_value(owner, "select ran_at > now() - interval '1 minute' from app.maintenance_state"))


async def test_a_manual_run_looks_up_ten_items_at_most(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    batches.create(15)
    async with Pool(worker_settings.database_url) as pool:
        assert await run_once(pool, worker_settings) == {"claimed": 10, "accepted": 10}
        assert await run_once(pool, worker_settings) == {"claimed": 5, "accepted": 5}
        assert await run_once(pool, worker_settings) == {"claimed": 0, "accepted": 0}
    assert len(upstream.requests) == 15
    check_invariants(owner)


async def test_a_manual_run_records_what_it_looked_up_beside_what_failed(
    batches: Batches, worker_settings: Settings, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim fails for one organization, and a lookup in an unexpected way."""
    refused, *others = sorted((Batches(owner), batches, Batches(owner)), key=lambda each: each.organization_id)[::-1]
    owner.execute(f"alter table public.lookup_leases add constraint refuse check (organization_id <> '{refused.organization_id}')".encode())
    for each in (refused, *others):
        each.create(["site-0", "broken"])
    look_up = Upstream.look_up

    async def break_one(upstream: Upstream, organization_id: bytes, request: bytes, *arguments: Any) -> Answer:
        if b"broken" in request:
            raise RuntimeError("can't start new thread")
        return await look_up(upstream, organization_id, request, *arguments)

    monkeypatch.setattr(Upstream, "look_up", break_one)
    async with Pool(worker_settings.database_url) as pool:
        assert await run_once(pool, worker_settings) == {"claimed": 4, "accepted": 4}
    assert leases(owner) == 0
    assert [each.counts() for each in others] == [{"completed": 1, "pending": 1}] * 2


async def test_a_manual_run_records_its_lookups_after_the_database_was_away(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    upstream.usual = Reply(delay=1)
    job = batches.create(3)
    async with Pool(worker_settings.database_url) as pool:
        run = asyncio.create_task(run_once(pool, worker_settings))
        await asyncio.to_thread(wait_until, lambda: len(upstream.requests) == 3)
        assert terminate(owner, "application_name = 'batch-lookups'") >= 2
        assert await run == {"claimed": 3, "accepted": 3}
    assert batches.wait(job) == "completed"
    assert len(upstream.requests) == 3


def terminate(owner: Connection, which: str) -> int:
    """Ends the other connections of the database for which the condition holds; returns how many."""
    query = f"""select count(pg_terminate_backend(pid)) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid() and {which}"""
    answer: int = psycopg.ClientCursor(owner).execute(query.encode()).fetchone()[0]  # type: ignore[index]
    return answer
