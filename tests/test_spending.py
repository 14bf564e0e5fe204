"""Samples and limits of lookups: over HTTP, and with several workers, retries included."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pyshell.settings import Settings
from tests.conftest import Connection, sessions
from tests.http_fixtures import UNKNOWN_ID, Json, NewClient, OrganizationClient, look_up, organization_of, site
from tests.test_plans import Plans, rows_scanned
from tests.timed import wait_until
from tests.upstream import FakeUpstream, Reply
from tests.worker_fixtures import Batches, check_invariants, fetch_value, running_worker, update_settings
from tests.worker_fixtures import site as worker_site


def path(job: Json) -> str:
    return f"/batch-lookups/{job['job_id']}"


def submit(client: OrganizationClient, count: int, **options: Any) -> Json:
    created: Json = client.post("/batch-lookups", json={"items": [site(f"deal-{n}") for n in range(count)], **options}).json()
    return created


def test_a_sample_waits_to_be_continued(client: OrganizationClient, database: Connection) -> None:
    job = submit(client, 6, sample=2)
    response = client.post(f"{path(job)}/continue")
    assert (response.status_code, response.json()["code"]) == (409, "job_not_waiting")
    look_up(database, job, 10)
    waiting = client.get(path(job)).json()
    assert list(waiting)[-2:] == ["retry_of_job_id", "lookups"]
    assert (waiting["status"], waiting["processed_items"], waiting["lookups"], waiting["waiting_for"]) == ("processing", 2, 2, "continue")

    response = client.post(f"{path(job)}/continue")
    assert response.status_code == 200
    assert list(response.json()) == list(waiting)
    assert response.json()["waiting_for"] is None
    look_up(database, job, 10)
    assert client.get(path(job)).json()["status"] == "completed"


def test_a_limit_is_raised_to_continue(client: OrganizationClient, database: Connection) -> None:
    job = submit(client, 6, max_lookups=2, when_limit_reached="wait")
    look_up(database, job, 10)
    database.execute("select count(*) from api.claim_lookups(%s, 'w', 9)", [organization_of(database, job)])
    assert client.get(path(job)).json()["waiting_for"] == "lookup_limit"
    for query, status, code in (
        ("", 409, "lookup_limit_reached"),
        ("?max_lookups=2", 409, "lookup_limit_reached"),
        ("?max_lookups=0", 400, "invalid_max_lookups"),
        ("?max_lookups=all", 400, "invalid_max_lookups"),
    ):
        response = client.post(f"{path(job)}/continue{query}")
        assert (response.status_code, response.json()["code"]) == (status, code)
    assert client.post(f"{path(job)}/continue?max_lookups=6").json()["waiting_for"] is None
    look_up(database, job, 10)
    assert client.get(path(job)).json()["status"] == "completed"
    check_invariants(database, of_job=job["job_id"])


def test_a_limit_holds_for_a_batch_that_arrives_during_a_claim(database_url: str, owner: Connection) -> None:
    """A claim that pauses after finding an organization without limits."""
    update_settings(owner, lookups_per_second=None)
    owner.execute(
        """alter function app.hold_slots(uuid, integer) rename to hold_slots_at_once;
           create function app.hold_slots(
               p_organization_id uuid, p_limit integer, out slots integer, out claimed_at timestamptz, out first_at timestamptz,
               out spacing interval, out is_probe boolean, out lease interval
           ) language plpgsql as $$
           begin
               select * into slots, claimed_at, first_at, spacing, is_probe, lease from app.hold_slots_at_once(p_organization_id, p_limit);
               perform pg_sleep(1);
           end $$"""
    )
    batches = Batches(owner)
    request = json.dumps({"items": [worker_site(f"site-{n}") for n in range(9)], "max_lookups": 2})
    with ThreadPoolExecutor() as threads, psycopg.connect(database_url, autocommit=True) as claiming:
        claim = threads.submit(fetch_value, claiming, "select count(*) from api.claim_lookups(%s, 'w', 9)", batches.organization_id)
        sleeping = f"select exists (select from {sessions(owner)} where wait_event = 'PgSleep')"
        wait_until(lambda: fetch_value(owner, sleeping))
        owner.execute("select api.create_batch_lookup(%s, %s, false)", [batches.organization_id, request])
        assert claim.result() == 2
    check_invariants(owner)


def test_jobs_of_others_are_not_continued(client: OrganizationClient, new_client: NewClient) -> None:
    job = submit(client, 3, sample=1)
    for response in (new_client().post(f"{path(job)}/continue"), client.post(f"/batch-lookups/{UNKNOWN_ID}/continue")):
        assert (response.status_code, response.json()["code"]) == (404, "job_not_found")
    assert client.post(f"{path(job)}/continue", headers={"x-api-key": "leap_live_" + "0" * 40}).status_code == 401


@pytest.mark.parametrize(
    ("option", "value"),
    [("sample", 0), ("sample", "few"), ("sample", 1.5), ("max_lookups", -1), ("max_lookups", True), ("when_limit_reached", "stop")],
)
def test_options_have_limits(client: OrganizationClient, option: str, value: object) -> None:
    in_body = client.post("/batch-lookups", json={"items": [site()], option: value})
    in_query = client.post("/batch-lookups", json=[site()], params={option: str(value)})
    for response in (in_body, in_query):
        assert (response.status_code, response.json()["code"]) == (400, f"invalid_{option}")


def test_options_are_taken_from_the_query(client: OrganizationClient, database: Connection) -> None:
    options = {"sample": "3", "max_lookups": "2", "when_limit_reached": "wait"}
    job = client.post("/batch-lookups", json=[site(f"deal-{n}") for n in range(5)], params=options).json()
    budget = database.execute("select sample, max_lookups, when_limit_reached from app.job_budgets where job_id = %s", [job["job_id"]])
    assert budget.fetchone() == (3, 2, "wait")


def test_usage_is_listed_by_day_and_job(client: OrganizationClient, database: Connection, new_client: NewClient) -> None:
    assert client.get("/usage").json()["usage"] == []
    first, second = submit(client, 3, name="Spring"), submit(client, 2)
    look_up(database, first, 5)
    database.execute("update public.lookup_usage set day = day - 40 where job_id = %s", [first["job_id"]])

    usage = client.get("/usage").json()
    assert list(usage) == ["usage", "lookups", "month", "total", "limit", "offset", "next_cursor"]
    assert list(usage["month"]) == ["month", "lookups", "limit"]
    newest, oldest = usage["usage"]
    assert list(newest) == ["day", "job_id", "name", "lookups", "total_items", "created_at"]
    assert (newest["job_id"], newest["name"], newest["lookups"]) == (second["job_id"], None, 2)
    assert (oldest["job_id"], oldest["name"], oldest["lookups"]) == (first["job_id"], "Spring", 3)
    assert (usage["lookups"], usage["total"], usage["month"]["lookups"], usage["month"]["limit"]) == (5, 2, 2, None)

    page = client.get("/usage?limit=1").json()
    assert page["usage"] == [newest]
    assert client.get(f"/usage?limit=1&cursor={page['next_cursor']}").json()["usage"] == [oldest]
    assert client.get(f"/usage?created_from={newest['day']}").json()["usage"] == [newest]
    assert client.get(f"/usage?created_from={newest['day']}T00:00:01Z").json()["usage"] == []
    assert client.get(f"/usage?created_before={newest['day']}").json()["lookups"] == 3
    assert client.get(f"/usage?created_before={newest['day']}T00:00:01Z").json()["lookups"] == 5
    assert client.get("/usage?limit=501").status_code == 400
    assert new_client().get("/usage").json()["lookups"] == 0
    assert client.get("/usage", headers={"x-api-key": "leap_live_" + "0" * 40}).status_code == 401


def create(owner: Connection, batches: Batches, count: int, **options: Any) -> UUID:
    request = json.dumps({"items": [worker_site(f"site-{n}") for n in range(count)], **options})
    created = fetch_value(owner, "select api.create_batch_lookup(%s, %s, false)", batches.organization_id, request)
    return UUID(created["job_id"])


def test_no_number_of_workers_exceeds_a_limit(
    worker_settings: Settings, upstream: FakeUpstream, batches: Batches, owner: Connection
) -> None:
    """The first lookup of every third site fails, and is repeated."""
    for number in range(0, 400, 3):
        upstream.plan(f"site-{number}", Reply(500), Reply())
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(running_worker(worker_settings))
        job = create(owner, batches, 400, max_lookups=150)
        assert batches.wait(job) == "completed"
        assert len(upstream.requests) == 150
        monthly = fetch_value(owner, "select api.get_usage(%s) #>> '{month,lookups}'", batches.organization_id)
        assert monthly == "150"

        owner.execute("select api.set_monthly_lookups(%s, 190)", [batches.organization_id])
        jobs = [create(owner, batches, 100), create(owner, batches, 100, when_limit_reached="wait")]
        assert batches.wait(jobs[0]) in ("completed", "failed")
        wait_until(lambda: len(upstream.requests) == 190)
        assert batches.status(jobs[1]) in ("pending", "processing")
        owner.execute("select api.set_monthly_lookups(%s, null)", [batches.organization_id])
        assert batches.wait(jobs[1]) == "completed"
    codes = owner.execute("select distinct error_code from public.lookup_queue_items where error_code is not null").fetchall()
    assert codes == [("lookup_limit_reached",)]
    counted = fetch_value(owner, "select sum(lookups) from public.lookup_usage")
    assert counted == len(upstream.requests)


CLAIM = "select job_id, position, lease_token from api.claim_lookups(%(organization)s, 'w', %(limit)s)"
RECORD = """select api.record_lookups(%s, array[%s::uuid], array[%s], array[%s::uuid], array[500], array[null], array['{}'],
                                      array[null]::float8[])"""


@pytest.fixture
def counted(owner: Connection) -> Batches:
    """An organization whose claims are counted, with fresh statistics or not: autovacuum keeps away."""
    update_settings(owner, lookups_per_second=None, retry_backoff_seconds=0.01)
    for table in ("public.lookup_queue_items", "public.batch_lookup_jobs", "app.job_budgets"):
        owner.execute(f"alter table {table} set (autovacuum_enabled = off)".encode())
    return Batches(owner)


@pytest.mark.parametrize("of_sample", [False, True], ids=["", "with a sample"])
def test_held_batches_cost_a_claim_nothing_but_a_look_at_their_limits(owner: Connection, counted: Batches, of_sample: bool) -> None:
    """An organization may have as many of them as open items: 200,000."""
    held = 60
    options = {"sample": 2} if of_sample else {}
    for _ in range(held):
        create(owner, counted, 3, max_lookups=1, when_limit_reached="wait", **options)
    asked = {"organization": counted.organization_id, "limit": 2 * held}
    leased = owner.execute(CLAIM, asked).fetchall()
    assert len(leased) == held
    retried, *others = leased
    for job_id, position, token in others:
        owner.execute(RECORD.replace("500", "200"), [counted.organization_id, job_id, position, token])
    owner.execute(CLAIM, asked)
    assert fetch_value(owner, "select count(*) from app.job_budgets where held_position is not null") == held

    plans = Plans(owner)
    create(owner, counted, 9)
    claimed, seen = plans.run(CLAIM, asked | {"limit": 4})
    assert len(claimed) == 4
    assert len(seen) < held
    assert rows_scanned(seen, "lookup_queue_items") <= 4

    # Only the batch with an item to retry is held again.
    owner.execute(RECORD, [counted.organization_id, *retried])
    waiting = "select job_id from public.lookup_queue_items where retry_at < 'infinity'"
    assert fetch_value(owner, waiting) == retried[0]
    claimed, seen = plans.run(CLAIM, asked | {"limit": 4})
    assert len(claimed) == 4
    assert len(seen) < held
    assert rows_scanned(seen, "lookup_queue_items") <= 20
    assert owner.execute(waiting).fetchall() == []
    assert fetch_value(owner, "select count(*) from public.lookup_queue_items where job_id = %s and retry_at = 'infinity'", retried[0]) >= 1

    check_invariants(owner)


def test_watchers_learn_that_a_batch_is_held_and_that_it_continues(owner: Connection, counted: Batches) -> None:
    job = create(owner, counted, 3, max_lookups=1, when_limit_reached="wait")
    asked = {"organization": counted.organization_id, "limit": 5}
    leased = owner.execute(CLAIM, asked).fetchone()
    assert leased is not None
    owner.execute(RECORD.replace("500", "200"), [counted.organization_id, *leased])
    owner.execute("listen batch_lookups_changes")
    change = f"UPDATE batch_lookup_jobs {counted.organization_id} {job}"
    owner.execute(CLAIM, asked)
    assert [each.payload for each in owner.notifies(timeout=0)] == [change]
    owner.execute(CLAIM, asked)
    assert list(owner.notifies(timeout=0)) == [], "it is held already"
    owner.execute("select api.continue_batch_lookup(%s, %s, 3)", [counted.organization_id, job])
    assert [each.payload for each in owner.notifies(timeout=0)] == [change]


def test_a_batch_at_its_limit_is_not_read_while_its_last_lookups_are_in_flight(owner: Connection, counted: Batches) -> None:
    jobs = [create(owner, counted, 50, max_lookups=1) for _ in range(4)]
    asked = {"organization": counted.organization_id, "limit": 4}
    retried, *_ = owner.execute(CLAIM, asked).fetchall()
    owner.execute(CLAIM, asked)
    assert [counted.status(job) for job in jobs] == ["processing"] * 4
    plans = Plans(owner)
    claimed, seen = plans.run(CLAIM, asked)
    assert (claimed, rows_scanned(seen, "lookup_queue_items")) == ([], 0)

    owner.execute(RECORD, [counted.organization_id, *retried])
    owner.execute(CLAIM, asked)
    assert sorted(counted.status(job) for job in jobs) == ["failed", *["processing"] * 3]
    check_invariants(owner)
