"""Flushes and releases with one item of each of many jobs: their cost grows with the jobs, not with the square. Rows are counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Connection
from tests.test_plans import Plans, rows_handled, rows_scanned
from tests.worker_fixtures import Batches, check_invariants, update_settings

FEW, MANY = 20, 100
SUCCESS = json.dumps(
    {
        "incentives": {
            "total_incentive_amount": 100,
            "total_eligible_combinations": 1,
            "by_program": [{"program_id": 1, "program_name": "Rebate", "total_incentive": 100, "eligible_combinations": 1}],
        }
    }
)
RECORD = """select job_id, verdict
              from api.record_lookups(%(organization)s, %(jobs)s, %(positions)s::integer[], %(tokens)s, %(statuses)s::integer[],
                   %(none)s::text[], %(answers)s, %(none)s::float8[], %(latencies)s::float8[])"""
RELEASE = "select api.release_lookups(%(organization)s, %(jobs)s, %(positions)s::integer[], %(tokens)s)"
EXPIRE = "select app.expire_leases(%(organization)s, app.clock() + interval '1 day')"


def claimed(batches: Batches, jobs: int, status: int) -> dict[str, Any]:
    """One item of each of so many new jobs, with responses of this status."""
    for number in range(jobs):
        batches.create([f"site-{number}"])
    rows = batches.owner.execute(
        "select job_id, position, lease_token from api.claim_lookups(%s, 'many', %s)", [batches.organization_id, jobs]
    ).fetchall()
    assert len(rows) == jobs
    return {
        "organization": batches.organization_id,
        "jobs": [row[0] for row in rows],
        "positions": [row[1] for row in rows],
        "tokens": [row[2] for row in rows],
        "statuses": [status] * jobs,
        "answers": [SUCCESS] * jobs,
        "latencies": [0.1] * jobs,
        "none": [None] * jobs,
    }


@pytest.mark.parametrize(
    ("query", "status", "meanwhile"),
    [
        pytest.param(RECORD, 200, None, id="successes"),
        pytest.param(RECORD, 500, None, id="retries"),
        pytest.param(RECORD, 404, None, id="failures"),
        pytest.param(RECORD, 200, "expired", id="late successes"),
        pytest.param(RECORD, 500, "cancelled", id="retries of cancelled jobs"),
        pytest.param(RELEASE, 200, None, id="released"),
        pytest.param(RELEASE, 200, "cancelled", id="released of cancelled jobs"),
        pytest.param(EXPIRE, 200, None, id="expired"),
        pytest.param(EXPIRE, 200, "cancelled", id="expired of cancelled jobs"),
    ],
)
def test_the_cost_of_many_jobs_grows_with_their_number(owner: Connection, query: str, status: int, meanwhile: str | None) -> None:
    # One failure of an organization that is served alone would be an outage.
    update_settings(owner, lookups_per_second=None, outage_failures=10_000)
    plans = Plans(owner)
    handled = []
    for jobs in (1, FEW, MANY):
        # Which index a planner without statistics takes is the subject of test_plans.
        owner.execute("analyze")
        organization = Batches(owner)
        parameters = claimed(organization, jobs, status)
        if meanwhile == "cancelled":
            for job in parameters["jobs"]:
                owner.execute("select api.cancel_batch_lookup(%s, %s)", [organization.organization_id, job])
        if meanwhile == "expired":
            owner.execute(EXPIRE, parameters)
            claims = "select count(*) from api.claim_lookups(%s, 'many', %s)"
            owner.execute("update public.lookup_queue_items set retry_at = app.clock() where retry_at is not null")
            assert owner.execute(claims, [organization.organization_id, jobs]).fetchone() == (jobs,)
        rows, seen = plans.run(query, parameters)
        handled.append(rows_handled(seen))
        if query == RECORD:
            assert [row[1] for row in rows] == ["accepted"] * jobs
        else:
            assert rows == [(jobs,)]
    check_invariants(owner)
    _, few, many = handled
    # The fixed cost is large where jobs are cancelled, so that a square would show late.
    slack = 1 if meanwhile == "cancelled" else 1.5
    assert many < few * MANY / FEW * slack, f"{few:,.0f} rows for {FEW} jobs, {many:,.0f} for {MANY}"


def test_the_jobs_that_a_flush_ends_are_counted_together(owner: Connection) -> None:
    update_settings(owner, lookups_per_second=None)
    plans = Plans(owner)
    _, seen = plans.run(RECORD, claimed(Batches(owner), MANY, 200))
    counted = [plan for plan in seen if "insert into app.work_minutes" in plan["Query Text"]]
    assert len(counted) == 2, "once for its lookups and once for its jobs"
    assert owner.execute("select kind, outcome, items from app.work_minutes order by kind").fetchall() == [
        ("job", "completed", MANY),
        ("lookup", "completed", MANY),
    ]


def test_a_flush_reads_the_reports_of_its_jobs_before_any_statistics(owner: Connection) -> None:
    update_settings(owner, lookups_per_second=None)
    owner.execute("alter table public.incentive_reports set (autovacuum_enabled = off)")
    owner.execute("alter table public.batch_lookup_jobs set (autovacuum_enabled = off)")
    plans = Plans(owner)
    _, seen = plans.run(RECORD, claimed(Batches(owner), MANY, 200))
    assert rows_scanned(seen, "incentive_reports") <= 3 * MANY
    assert rows_scanned(seen, "batch_lookup_jobs") <= 6 * MANY


def test_an_estimate_reads_no_jobs_of_others(owner: Connection) -> None:
    update_settings(owner, lookups_per_second=1)
    organizations = [Batches(owner) for _ in range(5)]
    for batches in organizations[:4]:
        for number in range(MANY // 4):
            batches.create([f"site-{number}"])
    owner.execute("select api.claim_lookups(%s, 'many', 1)", [organizations[1].organization_id])
    plans = Plans(owner)
    estimate = "select app.estimated_seconds(%(organization)s, 1)"
    for _ in range(7):  # beyond the fifth call PL/pgSQL may change to a generic plan
        [(seconds,)], seen = plans.run(estimate, {"organization": organizations[0].organization_id})
        assert seconds == (MANY // 4 + 1) * 4
        assert rows_scanned(seen, "batch_lookup_jobs") == MANY // 4
