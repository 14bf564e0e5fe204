"""Two transactions of the queue, step by step: there are no deadlocks, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from uuid import uuid4

import psycopg
import pytest

from tests.conftest import Clock, Connection, waiting_for_locks
from tests.timed import wait_until
from tests.worker_fixtures import Batches, check_invariants, fetch_value, site, update_settings

Start = Callable[..., Future[None]]


REPORT = "select from public.incentive_reports where organization_id = %s and job_id = %s for update"
FIRST_ITEM = "select from public.lookup_queue_items where organization_id = %s and position = 0 for update"


@pytest.fixture
def start(database_url: str, owner: Connection) -> Iterator[Start]:
    """Starts a statement on a connection of its own, and returns when it waits for a lock or has ended."""

    def run(query: str, parameters: tuple[object, ...]) -> None:
        with psycopg.connect(database_url, autocommit=True, application_name=query[:60]) as connection:
            connection.execute(query.encode(), parameters)

    with ThreadPoolExecutor() as threads:

        def begin(query: str, *parameters: object) -> Future[None]:
            statement = threads.submit(run, query, parameters)
            wait_until(lambda: statement.done() or waiting_for_locks(owner, query[:60]))
            return statement

        yield begin


@contextmanager
def locked(database_url: str, query: str, *parameters: object) -> Iterator[Connection]:
    """While the context lasts, another transaction holds the locks of the query."""
    with psycopg.connect(database_url) as connection:
        connection.execute(query.encode(), parameters)
        yield connection


def let_everything_wait(owner: Connection) -> None:
    """For a lock, as long as it takes here: to give up after a moment, as the queue's functions do, is tested in test_neighbours."""
    owner.execute(
        """do $$ declare v_function regprocedure; begin
               for v_function in select oid from pg_proc where array_to_string(proconfig, ' ') like '%lock_timeout=%' loop
                   execute format('alter function %s set lock_timeout = %L', v_function, '30s');
               end loop; end $$"""
    )


def claim(batches: Batches, limit: int) -> list[tuple[object, int, object]]:
    return batches.owner.execute(
        "select job_id, position, lease_token from api.claim_lookups(%s, 'worker', %s)", [batches.organization_id, limit]
    ).fetchall()


def record_all(batches: Batches, claimed: list[tuple[object, int, object]]) -> None:
    """Records a success for each."""
    jobs, positions, tokens = map(list, zip(*claimed, strict=True))
    batches.owner.execute(
        "select api.record_lookups(%s, %s, %s, %s, %s, %s::text[], %s, %s::float8[])",
        [batches.organization_id, jobs, positions, tokens, [200] * len(jobs), [None] * len(jobs), ["{}"] * len(jobs), [None] * len(jobs)],
    )


def test_a_claim_and_a_cancel_do_not_wait_for_each_other(
    database_url: str, owner: Connection, batches: Batches, clock: Clock, start: Start
) -> None:
    update_settings(owner, lookups_per_second=None)
    job_id = batches.create(4)
    claim(batches, 2)
    clock.advance(minutes=10)
    with locked(database_url, "select from public.lookup_leases where organization_id = %s for update", batches.organization_id):
        claiming = start("select api.claim_lookups(%s, 'next worker', 10)", batches.organization_id)
        cancelling = start("select api.cancel_batch_lookup(%s, %s)", batches.organization_id, job_id)
    claiming.result()
    cancelling.result()
    owner.execute("select api.run_maintenance()")
    check_invariants(owner)
    assert batches.counts() == {"failed": 2, "processing": 2}


def test_a_cancel_is_dated_after_what_it_waited_for(
    database_url: str, owner: Connection, batches: Batches, clock: Clock, start: Start
) -> None:
    job_id = batches.create(2)
    job = "select from public.batch_lookup_jobs where organization_id = %s and id = %s for update"
    with locked(database_url, job, batches.organization_id, job_id):
        cancelling = start("select api.cancel_batch_lookup(%s, %s)", batches.organization_id, job_id)
        clock.advance(minutes=1)
    cancelling.result()
    assert fetch_value(owner, "select completed_at = app.clock() from public.batch_lookup_jobs where id = %s", job_id) is True


def test_maintenance_does_not_wait_for_an_outcome_that_is_being_recorded(
    database_url: str, batches: Batches, clock: Clock, start: Start
) -> None:
    update_settings(batches.owner, lookups_per_second=None)
    batches.create(2)
    [(_, _, token)] = claim(batches, 1)
    claim(batches, 1)
    clock.advance(minutes=10)
    with locked(
        database_url,
        "select from public.lookup_leases where organization_id = %s and lease_token = %s for update",
        batches.organization_id,
        token,
    ):
        assert start("select api.run_maintenance()").done()
    assert batches.counts() == {"pending": 1, "processing": 1}


@pytest.mark.parametrize(
    ("table", "passed_over"), [("app.organization_queue_state", "pending"), ("public.batch_lookup_jobs", "processing")]
)
def test_a_row_that_is_locked_for_long_delays_no_other_organization(
    database_url: str, owner: Connection, clock: Clock, start: Start, table: str, passed_over: str
) -> None:
    update_settings(owner, lookups_per_second=None)
    many = [Batches(owner) for _ in range(5)]
    for batches in many:
        batches.create(2)
        claim(batches, 2)
    clock.advance(minutes=10)
    with locked(database_url, f"select from {table} where organization_id = %s for update", many[2].organization_id):
        start("select api.run_maintenance()").result(timeout=10)
        assert [batches.counts() for batches in many] == [{"pending": 2}] * 2 + [{passed_over: 2}] + [{"pending": 2}] * 2
        assert all(len(claim(batches, 2)) == 2 for batches in many if batches is not many[2])
    owner.execute("select api.run_maintenance()")
    assert many[2].counts() == {"pending": 2}


def test_maintenance_and_a_request_repeated_after_a_week_do_not_wait_for_each_other(
    owner: Connection, database_url: str, batches: Batches, clock: Clock, start: Start
) -> None:
    submit = "select api.submit_batch_lookup(%s, %s, false, p_idempotency_key => 'key', p_fingerprint => '\\x00')"
    request = json.dumps({"items": [site("site-1")]})
    owner.execute(submit, [batches.organization_id, request])
    clock.advance(days=8)
    with psycopg.connect(database_url) as connection:
        connection.execute("select app.start_request(%s, 'POST /batch-lookups', 'key', '\\x00')", [batches.organization_id])
        maintaining = start("select app.run_maintenance()")
        connection.execute("select app.mark_ready(%s, app.clock())", [batches.organization_id])
    maintaining.result()
    assert fetch_value(owner, "select count(*) from app.idempotency_keys") == 1


def test_what_is_released_during_a_claim_comes_next(database_url: str, owner: Connection, batches: Batches, start: Start) -> None:
    let_everything_wait(owner)
    update_settings(owner, lookups_per_second=None)
    batches.create(6)
    [(job_id, first, token), (_, second, _)] = claim(batches, 2)
    with locked(
        database_url,
        "select api.release_lookups(%s, array[%s, %s]::uuid[], array[%s, %s]::integer[], array[%s, %s]::uuid[])",
        batches.organization_id, job_id, job_id, first, second, token, token,
    ):  # fmt: skip
        claiming = start("select api.claim_lookups(%s, 'next worker', 2)", batches.organization_id)
    claiming.result()
    assert len(claim(batches, 6)) == 4
    check_invariants(owner)
    assert batches.counts() == {"processing": 6}


def test_the_first_two_claims_of_an_organization_come_one_after_the_other(database_url: str, owner: Connection, batches: Batches) -> None:
    """The row that they hold is made by the first of them."""
    hold = "select app.hold_queue(%s)"
    with (
        ThreadPoolExecutor() as threads,
        psycopg.connect(database_url) as first,
        psycopg.connect(database_url, application_name="the second claim") as second,
    ):
        first.execute(hold, [batches.organization_id])
        waiting = threads.submit(second.execute, hold, [batches.organization_id])
        wait_until(lambda: waiting_for_locks(owner, "the second claim"))
        first.commit()
        waiting.result()
        third = owner.execute(
            "select from app.organization_queue_state where organization_id = %s for update skip locked", [batches.organization_id]
        )
        assert third.fetchall() == []


def test_a_batch_that_is_being_cancelled_is_skipped(database_url: str, owner: Connection, batches: Batches, start: Start) -> None:
    update_settings(owner, lookups_per_second=None)
    cancelled, other = batches.create(4), batches.create(["other-1", "other-2"])
    claim(batches, 2)
    with locked(database_url, "select api.cancel_batch_lookup(%s, %s)", batches.organization_id, cancelled):
        start("select api.claim_lookups(%s, 'next worker', 10)", batches.organization_id).result(timeout=10)
    check_invariants(owner)
    assert batches.counts() == {"failed": 3, "processing": 3}
    assert (batches.status(cancelled), batches.status(other)) == ("cancelled", "processing")


def test_a_failure_that_is_recorded_twice_at_the_same_time_counts_once(
    database_url: str, owner: Connection, batches: Batches, start: Start
) -> None:
    """A worker that lost its connection records again what may be recorded already, or just now."""
    let_everything_wait(owner)
    update_settings(owner, lookups_per_second=None)
    batches.create(2)
    [(job_id, position, token), _] = claim(batches, 2)
    record = """select api.record_lookups(%s, array[%s]::uuid[], array[%s]::integer[], array[%s]::uuid[], array[500],
                                          array[null]::text[], array[null]::text[], array[null]::float8[])"""
    with locked(database_url, record, batches.organization_id, job_id, position, token):
        again = start(record, batches.organization_id, job_id, position, token)
    again.result()
    assert owner.execute("select retry_count from public.lookup_queue_items order by position").fetchall() == [(1,), (0,)]
    check_invariants(owner)


def test_an_item_that_is_released_twice_at_the_same_time_is_uncounted_once(
    database_url: str, owner: Connection, batches: Batches, start: Start
) -> None:
    """A worker that lost its connection releases again what may be released just now."""
    update_settings(owner, lookups_per_second=None)
    let_everything_wait(owner)
    batches.create(3)
    claimed = claim(batches, 3)[:2]
    release = "select api.release_lookups(%s, %s, %s, %s)"
    arguments = (batches.organization_id, *map(list, zip(*claimed, strict=True)))
    with locked(database_url, release, *arguments):
        again = start(release, *arguments)
        assert not again.done()
    again.result()
    assert fetch_value(owner, "select sum(lookups) from public.lookup_usage") == 1
    check_invariants(owner)


def test_a_late_answer_and_the_one_that_replaced_it_do_not_deadlock(
    database_url: str, owner: Connection, batches: Batches, clock: Clock, start: Start
) -> None:
    """Both workers have outcomes for the same two items, in another order."""
    let_everything_wait(owner)
    update_settings(owner, lookups_per_second=None)
    job_id = batches.create(2)
    early = claim(batches, 2)
    clock.advance(minutes=10)
    late = claim(batches, 2)
    record = """select api.record_lookups(%s, array[%s, %s]::uuid[], array[%s, %s]::integer[], array[%s, %s]::uuid[],
                                          array[200, 200], array[null, null]::text[], array['{}', '{}'], array[null, null]::float8[])"""
    with locked(database_url, FIRST_ITEM, batches.organization_id):
        recording = [
            start(record + "--" * number, batches.organization_id, job_id, job_id, one[1], other[1], one[2], other[2])
            for number, (one, other) in enumerate([early, list(reversed(late))])
        ]
    for each in recording:
        each.result()
    check_invariants(owner)
    assert batches.counts() == {"completed": 2}
    assert batches.status(job_id) == "completed"


def test_two_deletions_of_a_report_do_not_deadlock(database_url: str, owner: Connection, batches: Batches, start: Start) -> None:
    """One of the report alone, the other together with its batch."""
    update_settings(owner, lookups_per_second=None)
    job_id = batches.create(1)
    [(_, position, token)] = claim(batches, 1)
    record = """select api.record_lookups(%s, array[%s]::uuid[], array[%s]::integer[], array[%s]::uuid[], array[200], array[null]::text[],
                                          array['{}'], array[null]::float8[])"""
    owner.execute(record.encode(), [batches.organization_id, job_id, position, token])
    report_id = fetch_value(owner, "select id from public.incentive_reports")
    with psycopg.connect(database_url) as connection:
        connection.execute("select app.lock_report(%s, %s)", [batches.organization_id, report_id])
        with_batch = start("select api.delete_batch_lookup(%s, %s, true)", batches.organization_id, job_id)
        connection.execute("select api.delete_incentive_report(%s, %s)", [batches.organization_id, report_id])
    with_batch.result()
    for table in ("batch_lookup_jobs", "incentive_reports", "incentive_report_sites"):
        assert fetch_value(owner, f"select count(*) from public.{table}") == 0
    check_invariants(owner)


@pytest.mark.parametrize("deduplicates", [False, True], ids=["looked up each", "deduplicated"])
def test_a_cancel_and_late_answers_do_not_deadlock(
    database_url: str, owner: Connection, batches: Batches, clock: Clock, start: Start, deduplicates: bool
) -> None:
    """The late answer has locked the item and wants the job; the cancel has locked the job and skips the item."""
    update_settings(owner, lookups_per_second=None, deduplicate_seconds=60 if deduplicates else None)
    job_id = batches.create(2)
    early = claim(batches, 2)
    clock.advance(minutes=10)
    owner.execute("select app.expire_leases(%s, app.clock())", [batches.organization_id])
    assert batches.counts() == {"pending": 2}
    record = """select api.record_lookups(%s, array[%s]::uuid[], array[%s]::integer[], array[%s]::uuid[], array[200], array[null]::text[],
                                          array['{}'], array[null]::float8[])"""
    with locked(
        database_url,
        "select from public.batch_lookup_jobs where organization_id = %s and id = %s for update",
        batches.organization_id,
        job_id,
    ):
        cancelling = start("select api.cancel_batch_lookup(%s, %s)", batches.organization_id, job_id)
        with psycopg.connect(database_url) as late:
            late.execute(FIRST_ITEM, [batches.organization_id])
            late.commit()
        recording = start(record, batches.organization_id, *early[0])
    cancelling.result()
    with suppress(psycopg.errors.LockNotAvailable):
        recording.result()
    owner.execute(record.encode(), [batches.organization_id, *early[0]])
    check_invariants(owner)
    assert batches.status(job_id) == "cancelled"


def test_an_item_whose_outcome_is_being_recorded_during_a_cancel_is_not_tried_again(
    database_url: str, owner: Connection, batches: Batches, start: Start
) -> None:
    update_settings(owner, lookups_per_second=None)
    job_id = batches.create(2)
    [(_, position, token), _] = claim(batches, 2)
    record = """select api.record_lookups(%s, array[%s]::uuid[], array[%s]::integer[], array[%s]::uuid[], array[500], array[null]::text[],
                                          array[null]::text[], array[null]::float8[])"""
    with locked(database_url, record, batches.organization_id, job_id, position, token):
        cancelling = start("select api.cancel_batch_lookup(%s, %s)", batches.organization_id, job_id)
    cancelling.result()
    check_invariants(owner)
    assert batches.counts() == {"failed": 1, "processing": 1}


def test_times_written_before_the_clock_was_set_back_are_corrected(owner: Connection, batches: Batches, clock: Clock) -> None:
    update_settings(owner, lookups_per_second=10)
    batches.create(30)
    clock.freeze()
    owner.execute("select api.heartbeat('worker')")
    owner.execute("select api.run_maintenance()")
    [(_, _, _), *_] = claim(batches, 5)
    claimed = claim(batches, 2)
    record = """select api.record_lookups(%s, array[%s]::uuid[], array[%s]::integer[], array[%s]::uuid[], array[429], array[null]::text[],
                                          array[null]::text[], array[600]::float8[])"""
    owner.execute(record.encode(), [batches.organization_id, *claimed[0]])
    clock.advance(hours=-1)
    assert fetch_value(owner, "select maintenance_due from api.heartbeat('worker')"), "the last run lies in the future"
    owner.execute("select api.run_maintenance()")
    assert fetch_value(owner, "select cardinality(organization_ids) from api.heartbeat('worker')") == 1
    assert fetch_value(owner, "select paused_for from api.heartbeat('worker')") <= 1
    clock.advance(seconds=2)
    assert claim(batches, 5)
    seen = "select count(*) from app.workers where seen_at between app.clock() - interval '5 seconds' and app.clock()"
    assert fetch_value(owner, seen) == 1
    clock.advance(minutes=3)
    owner.execute("select api.run_maintenance()")
    assert fetch_value(owner, "select count(*) from public.lookup_leases where expires_at > app.clock() + interval '2 minutes'") == 0


def test_no_lease_expires_before_its_worker_could_have_renewed_it(owner: Connection, batches: Batches, clock: Clock) -> None:
    update_settings(owner, lookups_per_second=None, lease_seconds=10)
    batches.create(1)
    clock.advance(hours=1)  # long after the server started
    owner.execute("select api.heartbeat('worker')")
    claim(batches, 1)
    clock.advance(seconds=60)  # no worker could write
    owner.execute("select api.heartbeat('worker')")
    assert fetch_value(owner, "select app.expire_leases(%s, app.clock())", batches.organization_id) == 0
    for expired in (0, 0, 1):
        # The lease is overdue now: its worker has some seconds to renew it before it expires.
        for _ in range(2):
            clock.advance(seconds=3)
            owner.execute("select api.heartbeat('worker')")
        assert fetch_value(owner, "select app.expire_leases(%s, app.clock())", batches.organization_id) == expired


def test_a_late_success_replaces_the_failure_of_a_lease_that_expired(owner: Connection, batches: Batches, clock: Clock) -> None:
    update_settings(owner, lookups_per_second=None, max_retries=0)
    job_id = batches.create(2)
    [first, second] = claim(batches, 2)
    clock.advance(minutes=10)
    assert fetch_value(owner, "select app.expire_leases(%s, app.clock())", batches.organization_id) == 2
    assert batches.status(job_id) == "failed"
    record = """select verdict from api.record_lookups(%s, array[%s]::uuid[], array[%s]::integer[], array[%s]::uuid[], array[%s],
                                                       array[null]::text[], array['{}'], array[null]::float8[])"""
    assert fetch_value(owner, record, batches.organization_id, *second, 500) == "stale"
    assert fetch_value(owner, record, batches.organization_id, *first, 200) == "accepted"
    assert fetch_value(owner, record, batches.organization_id, *first, 200) == "stale"
    check_invariants(owner)
    assert batches.counts() == {"completed": 1, "failed": 1}
    assert batches.status(job_id) == "completed"


def test_workers_together_keep_to_a_limit_smaller_than_their_number(owner: Connection) -> None:
    update_settings(owner, max_in_flight=3)
    for _ in range(2):
        for number in range(8):
            owner.execute("select api.heartbeat(%s)", [f"worker-{number}"])
    shares = [fetch_value(owner, "select max_in_flight from api.heartbeat(%s)", f"worker-{number}") for number in range(8)]
    assert sorted(shares) == [0] * 5 + [1] * 3


def test_a_rate_limit_that_no_interval_can_hold_is_refused(owner: Connection) -> None:
    with pytest.raises(psycopg.Error) as refused:
        update_settings(owner, lookups_per_second=1e-300)
    assert refused.value.diag.constraint_name == "invalid_settings"


def test_leases_are_renewed_while_one_of_them_is_locked(database_url: str, owner: Connection, batches: Batches, clock: Clock) -> None:
    update_settings(owner, lookups_per_second=None, lease_seconds=60)
    batches.create(2)
    clock.freeze()
    [held], [free] = claim(batches, 1), claim(batches, 1)
    clock.advance(seconds=30)
    jobs, positions, tokens = map(list, zip(held, free, strict=True))
    lease = "select from public.lookup_leases where organization_id = %s and lease_token = %s for update"
    with locked(database_url, lease, batches.organization_id, held[2]):
        renewed = owner.execute(
            "select position, expires_in from api.extend_leases(%s, %s, %s, %s)", [batches.organization_id, jobs, positions, tokens]
        )
        assert sorted(renewed) == [(held[1], 30), (free[1], 60)]


def test_a_lease_that_was_locked_when_its_job_ended_is_deleted_with_the_job(
    database_url: str, owner: Connection, batches: Batches, clock: Clock
) -> None:
    update_settings(owner, lookups_per_second=None)
    job_id = batches.create(2)
    claimed = claim(batches, 2)
    with locked(database_url, "select from public.lookup_leases where organization_id = %s for key share", batches.organization_id):
        record_all(batches, claimed)
    owner.execute("select api.delete_batch_lookup(%s, %s)", [batches.organization_id, job_id])
    clock.advance(minutes=10)
    claim(batches, 2)
    assert fetch_value(owner, "select count(*) from api.ready_organizations()") == 0


def test_an_open_upload_does_not_lock_other_batches_with_the_same_sites(database_url: str, owner: Connection, batches: Batches) -> None:
    update_settings(owner, lookups_per_second=None, deduplicate_seconds=60)
    batches.create(2)
    claimed = claim(batches, 1)
    upload = "select api.create_batch_lookup(p_organization_id => %s, p_request => %s, p_check_devices => false)"
    with locked(database_url, upload, batches.organization_id, json.dumps({"items": [site("site-0")]})):
        record_all(batches, claimed)
    check_invariants(owner)
    assert batches.counts() == {"completed": 2, "pending": 1}


def test_a_cancel_ends_a_duplicate_that_a_claim_has_just_made_due(
    database_url: str, owner: Connection, batches: Batches, clock: Clock, start: Start
) -> None:
    update_settings(owner, lookups_per_second=None, deduplicate_seconds=60)
    batches.create(1)
    claim(batches, 1)
    job_id = batches.create(2)
    clock.advance(minutes=10)
    with psycopg.connect(database_url) as claiming:
        claiming.execute("select app.hold_queue(%s)", [batches.organization_id])
        claiming.execute("select app.take_due_items(%s, 1, app.clock())", [batches.organization_id])
        cancelling = start("select api.cancel_batch_lookup(%s, %s)", batches.organization_id, job_id)
    cancelling.result()
    assert batches.counts() == {"failed": 2, "processing": 1}


def test_a_limit_that_is_raised_during_a_claim_is_effective_at_once(
    database_url: str, owner: Connection, batches: Batches, start: Start
) -> None:
    let_everything_wait(owner)
    update_settings(owner, lookups_per_second=None)
    owner.execute("select api.set_monthly_lookups(%s, 0)", [batches.organization_id])
    request = json.dumps({"items": [site("waiting")], "when_limit_reached": "wait"})
    owner.execute("select api.create_batch_lookup(%s, %s, false)", [batches.organization_id, request])
    failing = batches.create(1)
    job = "select from public.batch_lookup_jobs where organization_id = %s and id = %s for update"
    with locked(database_url, job, batches.organization_id, failing):
        claiming = start("select api.claim_lookups(%s, 'worker', 1)", batches.organization_id)
        owner.execute("select api.set_monthly_lookups(%s, 10)", [batches.organization_id])
    claiming.result()
    assert fetch_value(owner, "select count(*) from api.ready_organizations()") == 1
    assert len(claim(batches, 2)) == 1


@pytest.mark.parametrize("what", ["a delivery", "a link to its report"])
def test_maintenance_skips_an_organization_whose_expired_rows_are_locked(
    database_url: str, owner: Connection, clock: Clock, start: Start, what: str
) -> None:
    update_settings(owner, lookups_per_second=None, job_retention_days=1, report_retention_days=1)
    many = [Batches(owner) for _ in range(3)]
    for batches in many:
        owner.execute("""select api.set_webhook_config(%s, '{"url": "https://example.com/"}')""", [batches.organization_id])
        batches.create(1)
        record_all(batches, claim(batches, 1))
        report_id = fetch_value(owner, "select id from public.incentive_reports where organization_id = %s", batches.organization_id)
        owner.execute("select api.share_incentive_report(%s, %s, sha256(%s))", [batches.organization_id, report_id, report_id.bytes])
    clock.advance(days=3)
    table = {"a delivery": "app.webhook_deliveries", "a link to its report": "app.report_shares"}[what]
    left = "select count(distinct organization_id) from public.batch_lookup_jobs natural full join public.incentive_reports"
    with locked(database_url, f"select from {table} where organization_id = %s for update", many[1].organization_id):
        start("select api.run_maintenance()").result(timeout=10)
        assert fetch_value(owner, left) == 1
    owner.execute("select api.run_maintenance()")
    assert fetch_value(owner, left) == 0


def test_maintenance_does_not_wait_for_an_organization_that_is_being_deleted(
    database_url: str, owner: Connection, clock: Clock, start: Start
) -> None:
    update_settings(owner, lookups_per_second=None)
    deleted, other = Batches(owner), Batches(owner)
    work = "select sum(items) from app.work_totals where kind = 'lookup'"
    for number in (1, 2):
        for batches in (deleted, other):
            batches.create(1)
            record_all(batches, claim(batches, 1))
        clock.advance(minutes=2)
        if number == 1:
            owner.execute("select api.run_maintenance()")
    waiting = other.create(1)
    claim(other, 1)
    clock.advance(minutes=10)
    with locked(database_url, "select api.delete_organization(%s)", deleted.organization_id):
        start("select api.run_maintenance()").result(timeout=10)
        assert other.counts() == {"completed": 2, "pending": 1}
        assert fetch_value(owner, work) == 2
    owner.execute("select api.run_maintenance()")
    assert fetch_value(owner, work) == 4
    assert other.status(waiting) == "processing"
    check_invariants(owner)


def test_the_maintenance_adds_nothing_to_an_organization_that_is_being_deleted(
    database_url: str, owner: Connection, batches: Batches, start: Start
) -> None:
    update_settings(owner, lookups_per_second=None)
    batches.create(1)
    record_all(batches, claim(batches, 1))
    owner.execute("update app.maintenance_state set counts_from = '-infinity'")
    with locked(database_url, "select api.delete_organization(%s)", batches.organization_id):
        start("select api.run_maintenance()").result(timeout=10)
    assert not fetch_value(owner, "select exists (select from app.organizations where id = %s)", batches.organization_id)
    tables = fetch_value(owner, "select app.tables_of_organizations()")
    rows = "select count(*) from {} where organization_id = %s"
    assert {table: n for table in tables if (n := fetch_value(owner, rows.format(table), batches.organization_id))} == {}


def test_a_delivery_claimed_while_its_organization_is_deleted_does_not_stop_maintenance(
    database_url: str, owner: Connection, batches: Batches, clock: Clock, start: Start
) -> None:
    update_settings(owner, lookups_per_second=None)
    owner.execute("""select api.set_webhook_config(%s, '{"url": "https://example.com/"}')""", [batches.organization_id])
    batches.create(1)
    record_all(batches, claim(batches, 1))
    take = """
        update app.webhook_deliveries
           set status = 'sending', next_attempt_at = null, lease_token = %s, lease_expires_at = %s
         where organization_id = %s and job_id is null"""
    owner.execute("update app.webhook_deliveries set job_id = null, data = '[]', item_ids = null, positions = null")
    with locked(database_url, take, uuid4(), fetch_value(owner, "select app.clock()"), batches.organization_id):
        deleting = start("select api.delete_organization(%s)", batches.organization_id)
    deleting.result()
    clock.advance(minutes=5)
    owner.execute("select api.run_maintenance()")
    again = "select api.delete_organization(%s)"
    assert fetch_value(owner, again, batches.organization_id)["deleted"]
    assert fetch_value(owner, "select count(*) from app.webhook_deliveries") == 0


@pytest.mark.parametrize("change", ["api.rename_organization(%s, 'Initech')", "api.set_monthly_lookups(%s, 5)"])
def test_an_organization_that_is_being_deleted_is_not_changed(
    database_url: str, owner: Connection, batches: Batches, start: Start, change: str
) -> None:
    let_everything_wait(owner)
    with locked(database_url, "select api.delete_organization(%s)", batches.organization_id):
        changing = start(f"select {change}", batches.organization_id)
        assert not changing.done()
    with pytest.raises(psycopg.Error, match="Organization not found"):
        changing.result()


def test_a_late_success_of_a_job_that_is_being_deleted_is_stale(
    database_url: str, owner: Connection, batches: Batches, clock: Clock, start: Start
) -> None:
    let_everything_wait(owner)
    update_settings(owner, lookups_per_second=None, max_retries=0)
    owner.execute("""select api.set_webhook_config(%s, '{"url": "https://example.com/"}')""", [batches.organization_id])
    job_id = batches.create(1)
    [(_, position, token)] = claim(batches, 1)
    clock.advance(minutes=10)
    owner.execute("select app.expire_leases(%s, app.clock())", [batches.organization_id])
    record = """select api.record_lookups(%s, array[%s]::uuid[], array[%s]::integer[], array[%s]::uuid[], array[200], array[null]::text[],
                                          array['{}'], array[null]::float8[])"""
    with locked(database_url, "select api.delete_batch_lookup(%s, %s)", batches.organization_id, job_id):
        recording = start(record, batches.organization_id, job_id, position, token)
    recording.result()
    check_invariants(owner)


def test_a_report_that_is_deleted_while_a_success_is_recorded_leaves_no_sites(
    database_url: str, owner: Connection, batches: Batches, start: Start
) -> None:
    let_everything_wait(owner)
    update_settings(owner, lookups_per_second=None)
    organization, job_id = batches.organization_id, batches.create(1)
    [(_, position, token)] = claim(batches, 1)
    owner.execute("select api.cancel_batch_lookup(%s, %s)", [organization, job_id])
    record = """select api.record_lookups(%s, array[%s]::uuid[], array[%s]::integer[], array[%s]::uuid[], array[200], array[null]::text[],
                                          array['{}'], array[null]::float8[])"""
    job = "select from public.batch_lookup_jobs where organization_id = %s and id = %s for update"
    with locked(database_url, job, organization, job_id):
        recording = start(record, organization, job_id, position, token)
        assert not fetch_value(owner, "select api.delete_organization(%s, true)", organization)["deleted"]
    recording.result()
    assert fetch_value(owner, "select count(*) from public.incentive_report_sites") == 0
    check_invariants(owner)
    assert fetch_value(owner, "select api.delete_organization(%s)", organization)["deleted"]


def test_the_deletion_of_an_organization_passes_over_a_batch_that_has_just_been_deleted(
    database_url: str, owner: Connection, batches: Batches, start: Start
) -> None:
    let_everything_wait(owner)
    job_id = batches.create(1)
    with locked(database_url, "select api.cancel_batch_lookup(%s, %s)", batches.organization_id, job_id) as connection:
        deleting = start("select api.delete_organization(%s, true)", batches.organization_id)
        connection.execute("select api.delete_batch_lookup(%s, %s)", [batches.organization_id, job_id])
    deleting.result()
    assert not fetch_value(owner, "select exists (select from app.organizations where id = %s)", batches.organization_id)


BEFORE_A_DELETION = {
    "a draft that is being started": (
        "select app.lock_draft(%(organization)s, %(upload)s)",
        "select api.start_upload(%(organization)s, %(upload)s)",
    ),
    "a sample that is being continued": (
        "select app.hold_queue(%(organization)s)",
        "select api.continue_batch_lookup(%(organization)s, %(job)s)",
    ),
    "a batch that is being retried": (
        "select api.cancel_batch_lookup(%(organization)s, %(job)s)",
        "select api.retry_batch_lookup(%(organization)s, %(job)s)",
    ),
    "a key that is being rotated": (
        "select from app.api_keys where organization_id = %(organization)s for update",
        """select api.rotate_api_key(organization_id, id, sha256(key_hash), last_four)
             from app.api_keys where organization_id = %(organization)s""",
    ),
    "a config of webhooks that is being changed": (
        "select from app.webhook_configs where organization_id = %(organization)s for update",
        "insert into app.webhook_wakeups (organization_id, id, ready_at) values (%(organization)s, gen_random_uuid(), app.clock())",
    ),
}


@pytest.mark.parametrize("what", BEFORE_A_DELETION)
def test_the_deletion_of_an_organization_does_not_wait_in_a_circle(
    database_url: str, owner: Connection, batches: Batches, start: Start, what: str
) -> None:
    """Others lock a row of the organization before they lock the organization itself, by a foreign key."""
    update_settings(owner, lookups_per_second=None)
    organization = batches.organization_id
    owner.execute("""select api.set_webhook_config(%s, '{"url": "https://example.com/"}')""", [organization])
    owner.execute("select api.create_api_key(%s, sha256('a key'), 'leap_live_', 'abcd')", [organization])
    request = json.dumps({"items": [site("first"), site("second")], "sample": 1})
    upload = fetch_value(owner, "select api.create_upload(%s, %s, false)", organization, request.replace(', "sample": 1', ""))["id"]
    job = None
    if "batch" in what or "sample" in what:
        job = fetch_value(owner, "select api.create_batch_lookup(%s, %s, false)", organization, request)["job_id"]
        record_all(batches, claim(batches, 1))
    names = {"organization": organization, "job": job, "upload": upload}
    holding, going_on = BEFORE_A_DELETION[what]
    with psycopg.connect(database_url) as connection:
        connection.execute(holding.encode(), names)
        deleting = start("select api.delete_organization(%s, true)", organization)
        connection.execute(going_on.encode(), names)
    deleting.result()
    while fetch_value(owner, "select exists (select from app.organizations where id = %s)", organization):
        owner.execute("select api.delete_organization(%s, true)", [organization])


def test_a_locked_report_does_not_keep_leases_of_another_batch_from_expiring(
    database_url: str, owner: Connection, batches: Batches, clock: Clock
) -> None:
    update_settings(owner, lookups_per_second=None, max_retries=0)
    held, free = batches.create(1), batches.create(["free"])
    claim(batches, 2)
    clock.advance(minutes=10)
    with locked(database_url, REPORT, batches.organization_id, held):
        claim(batches, 1)
        assert (batches.status(held), batches.status(free)) == ("processing", "failed")
    owner.execute("select api.run_maintenance()")
    assert batches.status(held) == "failed"
    check_invariants(owner)


def test_an_answer_is_recorded_while_the_report_of_a_duplicate_is_locked(database_url: str, owner: Connection, batches: Batches) -> None:
    update_settings(owner, lookups_per_second=None, deduplicate_seconds=60)
    batches.create(1)
    claimed = claim(batches, 1)
    duplicate = batches.create(1)
    with locked(database_url, REPORT, batches.organization_id, duplicate):
        record_all(batches, claimed)
    assert batches.counts() == {"completed": 1, "pending": 1}
