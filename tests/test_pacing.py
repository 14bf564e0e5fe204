"""The rate limit that all workers share, and how batches and organizations share it."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from pyshell.settings import Settings
from tests.conftest import Connection, is_cluster
from tests.timed import timed, wait_until
from tests.upstream import FakeUpstream, Reply
from tests.worker_fixtures import Batches, fetch_value, running_worker, update_settings


def most_in_a_second(arrivals: list[float]) -> int:
    return max(sum(start <= at < start + 1 for at in arrivals) for start in arrivals)


@pytest.mark.parametrize("rate", [10, 40])
@timed
def test_three_workers_together_keep_to_the_rate_limit_and_use_it(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection, rate: int
) -> None:
    update_settings(owner, lookups_per_second=rate)
    batches.create(rate * 6)
    with ExitStack() as workers:
        for _ in range(3):
            workers.enter_context(running_worker(worker_settings))
        wait_until(lambda: upstream.requests)
        time.sleep(3.6)
    arrivals = sorted(seen.at for seen in upstream.requests)
    # In any second at most the rate plus one start. They arrive on a thread that shares its interpreter with the three workers.
    assert most_in_a_second(arrivals) <= rate * 1.1 + 1
    used = sum(arrivals[0] + 0.5 <= at < arrivals[0] + 3.5 for at in arrivals)
    # Slots are given out at 0.985 of the rate. Those that a stalled process misses stay unused.
    assert used >= 0.8 * rate * 3


def test_slots_keep_their_times_however_long_the_claim_takes(batches: Batches, owner: Connection) -> None:
    update_settings(owner, lookups_per_second=10)
    batches.create(3)
    owner.execute("""
        create or replace function app.start_jobs(p_organization_id uuid, p_job_ids uuid[], p_now timestamptz)
        returns void
        language sql volatile return (select pg_sleep(0.5))""")
    claimed = "select start_in from api.claim_lookups(%s, 'slow', 3) order by start_in"
    starts = [start_in for (start_in,) in owner.execute(claimed, [batches.organization_id]).fetchall()]
    # The slots of a cluster's node start a moment after they are given to it.
    lead = fetch_value(owner, "select extract(epoch from app.block_lead())::float") if is_cluster(owner) else 0
    assert starts[0] <= lead - 0.5
    assert [starts[1] - starts[0], starts[2] - starts[0]] == pytest.approx([0.1 / 0.985, 0.2 / 0.985], rel=1e-3)


@timed
def test_retry_after_pauses_all_workers_and_all_organizations(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    update_settings(owner, lookups_per_second=50, max_in_flight=4, max_retries=0)
    upstream.usual = Reply(delay=0.01)
    upstream.plan("site-30", Reply(429, headers={"Retry-After": "2"}), Reply())
    others = Batches(owner)
    jobs = [batches.create(50), others.create([f"other-{n}" for n in range(50)])]
    with running_worker(worker_settings), running_worker(worker_settings):
        assert [batches.wait(jobs[0]), others.wait(jobs[1])] == ["completed", "completed"]
    refused = next(seen.at for seen in upstream.requests if seen.reference_id == "site-30")
    # Some time for the response to reach the database and all workers.
    assert [seen.reference_id for seen in upstream.requests if refused + 0.3 < seen.at < refused + 1.9] == []
    assert upstream.times_seen()["site-30"] == 2
    assert fetch_value(owner, "select max(retry_count) from public.lookup_queue_items") == 0


@timed
def test_a_small_batch_starts_within_two_seconds_and_gets_its_fair_share(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    update_settings(owner, lookups_per_second=20)
    others = Batches(owner)
    batches.create(10_000)
    with running_worker(worker_settings):
        wait_until(lambda: len(upstream.requests) >= 20)
        for small in (batches, others):
            started = time.monotonic()
            job = small.create([f"small-{n}" for n in range(10)])
            wait_until(lambda: small.status(job) == "completed")  # noqa: B023
            first = min(seen.at for seen in upstream.requests if seen.reference_id.startswith("small") and seen.at > started)
            assert first - started < 2
            # At half of the rate, ten lookups take a second.
            assert time.monotonic() - started < 2


def test_a_hundred_organizations_get_equal_shares(owner: Connection) -> None:
    update_settings(owner, lookups_per_second=None)
    organizations = [Batches(owner, f"organization {n}") for n in range(100)]
    for number, batches in enumerate(organizations):
        batches.create([f"site-{n}" for n in range(60 + number * 2)])
    claimed = {batches.organization_id: 0 for batches in organizations}
    while sum(claimed.values()) < 100 * 50:
        for (organization_id,) in owner.execute("select api.ready_organizations(30)").fetchall():
            query = "select count(*) from api.claim_lookups(%s, 'fair', 5)"
            claimed[organization_id] += fetch_value(owner, query, organization_id)
    assert max(claimed.values()) - min(claimed.values()) <= 5
