"""The statements of the hot path read few more rows than they return, however large the tables. Rows are counted, not time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import Connection
from tests.worker_fixtures import site

FINISHED, WAITING, READY = 20_000, 2_000, 7_000
TOTAL = FINISHED + WAITING + READY
ENDED_JOBS = 2_000
TABLES = (
    "public.lookup_queue_items, public.batch_lookup_jobs, public.incentive_reports, public.incentive_report_sites, "
    "public.lookup_leases, app.queued_jobs"
)
STATISTICS = ["fresh statistics", "statistics of an empty table", "no statistics", "plans of an empty table"]
# Without statistics, a planner guesses the number of rows from how wide one is: no plan may depend on that.
WIDER = ", and a column more"


class Plans:
    """Runs a query and returns the plans of the statements in its functions, with actual rows as from EXPLAIN ANALYZE."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._plans: list[dict[str, Any]] = []
        connection.execute("load 'auto_explain'")
        for name, value in {
            "auto_explain.log_analyze": "on",
            "auto_explain.log_timing": "off",
            "auto_explain.log_nested_statements": "on",
            "auto_explain.log_format": "json",
            "client_min_messages": "log",
        }.items():
            connection.execute("select set_config(%s, %s, false)", (name, value))

    def run(self, query: str, parameters: dict[str, Any]) -> tuple[list[tuple[Any, ...]], list[dict[str, Any]]]:
        self._plans.clear()
        self.connection.add_notice_handler(self._keep)
        self.connection.execute("set auto_explain.log_min_duration = 0")
        rows = self.connection.execute(query, parameters).fetchall()
        self.connection.execute("set auto_explain.log_min_duration = -1")
        self.connection.remove_notice_handler(self._keep)
        return rows, list(self._plans)

    def _keep(self, notice: psycopg.errors.Diagnostic) -> None:
        message = notice.message_primary or ""
        if "plan:\n" in message:
            self._plans.append(json.loads(message.split("plan:\n", 1)[1]))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def rows_of_scans(plans: list[dict[str, Any]], relation: str) -> list[float]:
    """Rows that scans of a table read, including those that a filter then dropped."""
    return [
        float(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0))
        * node["Actual Loops"]
        for plan in plans
        for node in nodes(plan["Plan"])
        if node.get("Relation Name") == relation and "Scan" in node["Node Type"]
    ]


def rows_scanned(plans: list[dict[str, Any]], relation: str) -> float:
    return sum(rows_of_scans(plans, relation))


def most_rows_compared(plans: list[dict[str, Any]]) -> float:
    """The most rows that one step compared in vain, over all its loops: those that a filter or the condition of a join dropped."""
    compared: float = max(
        float(node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0)) * node["Actual Loops"]
        for plan in plans
        for node in nodes(plan["Plan"])
    )
    return compared


def rows_handled(plans: list[dict[str, Any]]) -> float:
    """A measure of time: the rows that all steps produced, and those that they compared in vain."""
    handled: float = sum(
        float(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0))
        * node["Actual Loops"]
        for plan in plans
        for node in nodes(plan["Plan"])
    )
    return handled


def rows_written(plans: list[dict[str, Any]], relation: str) -> float:
    written: float = sum(
        child["Actual Rows"] * child["Actual Loops"]
        for plan in plans
        for node in nodes(plan["Plan"])
        if node["Node Type"] == "ModifyTable" and node["Relation Name"] == relation
        for child in node["Plans"]
    )
    return written


@pytest.fixture(scope="module", params=[*STATISTICS, *(statistics + WIDER for statistics in STATISTICS[1:])])
def owner(request: pytest.FixtureRequest, new_database: Callable[..., str]) -> Iterator[Connection]:
    """A database with a large queue, and statistics that say so, or not; the tables as they are, or each with a column of text more."""
    statistics = request.param.removesuffix(WIDER)
    with psycopg.connect(new_database(), autocommit=True) as connection:
        for table in TABLES.split(", "):
            connection.execute(f"alter table {table} set (autovacuum_enabled = off)".encode())
            if request.param.endswith(WIDER):
                connection.execute(f"alter table {table} add column one_more text".encode())
        if request.param.endswith(WIDER):
            # As a release does that adds a column to the items.
            [(definition,)] = connection.execute("select pg_get_functiondef('app.with_parsed_result'::regproc)")
            connection.execute(definition.replace("(p_item).household)", "(p_item).household, null)"))
        if statistics == "statistics of an empty table":
            connection.execute(f"vacuum analyze {TABLES}".encode())
        if statistics == "plans of an empty table":
            work_on_nearly_nothing(connection)
        fill(connection)
        if statistics == "fresh statistics":
            connection.execute(f"vacuum analyze {TABLES}".encode())
        yield connection


@pytest.fixture(autouse=True)
def as_it_was(owner: Connection) -> Iterator[None]:
    """Every test starts with a full queue, whatever ran before it."""
    with owner.transaction(force_rollback=True):
        yield


@pytest.fixture(scope="module")
def large_queue(owner: Connection) -> str:
    """An organization with many items in every state; returns its id."""
    row = owner.execute("select api.create_organization('Large')").fetchone()
    assert row is not None
    return str(row[0])


def work_on_nearly_nothing(connection: Connection) -> None:
    """Does what a worker does with a batch of three, one of which fails at first, so that the connection has plans."""
    connection.execute("select api.update_settings('{\"lookups_per_second\": null}')")
    connection.execute("select api.create_organization('Tiny')")
    sites = json.dumps({"items": [site(f"site-{n}") for n in range(3)]})
    connection.execute("select api.create_batch_lookup(id, %s, false) from app.organizations", [sites])
    connection.execute(
        """create temporary view claim as
           select o.id as organization_id, array_agg(c.job_id) as jobs, array_agg(c.position) as positions,
                  array_agg(c.lease_token) as tokens
             from app.organizations o, api.claim_lookups(o.id, 'plans', 3) c
            group by o.id"""
    )
    record = """select api.record_lookups(organization_id, jobs[:1], positions[:1], tokens[:1], array[%s], array[null],
                                          array['{}'], array[null::float8])
                  from claim"""
    connection.execute("select api.extend_leases(organization_id, jobs, positions, tokens) from claim")
    connection.execute("select app.expire_leases(id, now() + interval '1 hour') from app.organizations")
    connection.execute("select api.release_lookups(organization_id, jobs, positions, tokens) from claim")
    connection.execute(record, [500])
    connection.execute(record, [200])


def fill(connection: Connection) -> None:
    connection.execute("select api.update_settings('{\"lookups_per_second\": null}')")
    connection.execute(
        """
        with job as (
            insert into public.batch_lookup_jobs
                   (organization_id, id, status, total_items, processed_items, report_id, created_at, started_at, updated_at)
            values (api.create_organization('Large'), app.uuid_v7(), 'processing', %(total)s, %(finished)s, app.uuid_v7(),
                    now(), now(), now())
            returning *
        ), ended_job as (
            insert into public.batch_lookup_jobs
                   (organization_id, id, status, total_items, processed_items, report_id, created_at, started_at, completed_at, updated_at)
            select organization_id, app.uuid_v7(), 'completed', 1, 1, app.uuid_v7(), now(), now(), now(), now()
              from job, generate_series(1, %(ended_jobs)s)
            returning *
        ), report as (
            insert into public.incentive_reports (organization_id, id, job_id, name, description, created_at, updated_at)
            select organization_id, report_id, id, 'report', '', created_at, updated_at from (table job union all table ended_job) j
        ), queued as (
            insert into app.queued_jobs (organization_id, job_id, next_position, end_position, next_rank)
            select organization_id, id, %(waited)s, %(total)s, 0 from job
        )
        insert into public.lookup_queue_items
               (organization_id, id, job_id, position, reference_id, address, building_type, device_ids, created_at,
                status, retry_at, retry_count, result, processed_at)
        select j.organization_id, app.uuid_v7(), j.id, n - 1, 'site-' || n, '{"city": "Austin"}', 'RESIDENTIAL', '{1}', now(),
               case when n <= %(finished)s then 'completed' else 'pending' end,
               case when n > %(finished)s and n <= %(waited)s then now() + interval '1 hour' end,
               case when n > %(finished)s and n <= %(waited)s then 1 else 0 end,
               case when n <= %(finished)s then '{}'::jsonb end,
               case when n <= %(finished)s then now() end
          from job j, generate_series(1, %(total)s) n
        """,
        {"finished": FINISHED, "waited": FINISHED + WAITING, "total": TOTAL, "ended_jobs": ENDED_JOBS},
    )
    connection.execute("select app.mark_ready(id, now()) from app.organizations")


def test_a_claim_reads_the_items_it_returns_and_writes_none(large_queue: str, owner: Connection) -> None:
    plans = Plans(owner)
    claim = "select * from api.claim_lookups(%(organization)s, 'plans', 500)"
    for number in range(8):  # beyond the fifth call PL/pgSQL may change to a generic plan
        rows, seen = plans.run(claim, {"organization": large_queue})
        assert len(rows) == 500
        assert rows_scanned(seen, "lookup_queue_items") <= len(rows)
        assert rows_scanned(seen, "queued_jobs") <= 5
        assert rows_scanned(seen, "lookup_leases") <= (1 if number == 0 else 0)
        assert rows_scanned(seen, "batch_lookup_jobs") <= 2
        assert rows_written(seen, "lookup_queue_items") == 0
        assert rows_written(seen, "lookup_leases") == 1


def test_a_claim_compares_no_item_with_all_jobs(large_queue: str, owner: Connection) -> None:
    sites = json.dumps({"items": [site("site")]})
    for _ in range(30):
        owner.execute("select api.create_batch_lookup(%s, %s, false)", (large_queue, sites))
    plans = Plans(owner)
    for _ in range(6):
        owner.execute("savepoint queued")
        rows, seen = plans.run("select job_id from api.claim_lookups(%(organization)s, 'plans', 40)", {"organization": large_queue})
        owner.execute("rollback to queued")
        assert (len(rows), len(set(rows))) == (40, 31)
        assert rows_scanned(seen, "lookup_queue_items") <= len(rows)
        ordered = [plan for plan in seen if "t.rank - t.start" in plan["Query Text"]]
        assert len(ordered) == 1
        assert most_rows_compared(ordered) <= 40


def test_due_retries_are_claimed_without_reading_those_that_still_wait(large_queue: str, owner: Connection) -> None:
    plans = Plans(owner)
    due = """update public.lookup_queue_items set retry_at = now() - interval '1 second'
              where organization_id = %s and id in (select id from public.lookup_queue_items where retry_at is not null limit 100)"""
    owner.execute(due, (large_queue,))
    rows, seen = plans.run("select * from api.claim_lookups(%(organization)s, 'plans', 300)", {"organization": large_queue})
    assert len(rows) == 300
    # Those that are due are read to be locked, and again to be updated.
    assert rows_scanned(seen, "lookup_queue_items") <= 100 + 100 + 200


@pytest.mark.parametrize("webhooks", [False, True], ids=["", "with webhooks"])
def test_recording_reads_the_items_recorded(large_queue: str, owner: Connection, webhooks: bool) -> None:
    config = {"url": "https://example.com/hook", "events": ["batch.completed"], "enabled": webhooks}
    owner.execute("select api.set_webhook_config(%s, %s)", (large_queue, json.dumps(config)))
    claimed = owner.execute("select job_id, position, lease_token from api.claim_lookups(%s, 'plans', 500)", (large_queue,)).fetchall()
    [(devices,)] = owner.execute("select count(*) from app.devices").fetchall()
    plans = Plans(owner)
    count = len(claimed)
    rows, seen = plans.run(
        """select * from api.record_lookups(%(organization)s, %(jobs)s, %(positions)s::integer[], %(tokens)s, %(statuses)s,
                  %(none)s::text[], %(answers)s, %(none)s::float8[])""",
        {
            "organization": large_queue,
            "jobs": [row[0] for row in claimed],
            "positions": [row[1] for row in claimed],
            "tokens": [row[2] for row in claimed],
            "statuses": [200] * count,
            "answers": ["{}"] * count,
            "none": [None] * count,
        },
    )
    assert {row[2] for row in rows} == {"accepted"}
    assert rows_scanned(seen, "lookup_queue_items") <= 2 * count
    # Jobs and reports have a new version for every flush: whatever reads them for every item steps over all of these, each time.
    assert rows_scanned(seen, "batch_lookup_jobs") <= 10
    assert rows_scanned(seen, "incentive_reports") <= 10
    assert rows_scanned(seen, "lookup_leases") <= 10
    # Once, by whatever index; not for every item.
    assert rows_scanned(seen, "devices") <= devices
    assert most_rows_compared(seen) <= count * count / 4, "no outcome is compared with every item"


def test_leases_are_renewed_released_and_expired_by_index(large_queue: str, owner: Connection) -> None:
    claimed = owner.execute("select job_id, position, lease_token from api.claim_lookups(%s, 'plans', 300)", (large_queue,)).fetchall()
    plans = Plans(owner)
    held = {
        "organization": large_queue,
        "jobs": [row[0] for row in claimed],
        "positions": [row[1] for row in claimed],
        "tokens": [row[2] for row in claimed],
    }
    rows, seen = plans.run("select api.extend_leases(%(organization)s, %(jobs)s, %(positions)s::integer[], %(tokens)s)", held)
    assert len(rows) == 300
    assert rows_scanned(seen, "lookup_queue_items") == 0
    _, seen = plans.run("select api.release_lookups(%(organization)s, %(jobs)s, %(positions)s::integer[], %(tokens)s)", held)
    # Each twice: for its version, and to be changed.
    assert rows_scanned(seen, "lookup_queue_items") <= 2 * 300
    owner.execute("select from api.claim_lookups(%s, 'plans', 300)", (large_queue,))
    leased = owner.execute("select count(*) from api.items where status = 'processing'").fetchone()
    _, seen = plans.run("select app.expire_leases(%(organization)s, now() + interval '1 hour')", held)
    assert leased is not None
    assert 0 < rows_scanned(seen, "lookup_queue_items") <= leased[0]


def test_settling_and_enqueuing_read_a_handful_of_items(large_queue: str, owner: Connection) -> None:
    plans = Plans(owner)
    _, seen = plans.run("select app.refresh_ready_at(%(organization)s, now())", {"organization": large_queue})
    assert rows_scanned(seen, "lookup_queue_items") == 0
    _, seen = plans.run(
        """select app.enqueue_items(
                  %(organization)s,
                  (select id from public.batch_lookup_jobs where organization_id = %(organization)s and total_items = 1 limit 1),
                  array[jsonb_populate_record(null::app.batch_item, '{"position": 0, "reference_id": "one-more", "address": {},
                        "building_type": "RESIDENTIAL", "device_ids": [1], "create_application": false}')], now())""",
        {"organization": large_queue},
    )
    assert rows_scanned(seen, "lookup_queue_items") == 0


def test_the_status_of_a_job_reads_no_leases_of_others(large_queue: str, owner: Connection) -> None:
    owner.execute("select api.claim_lookups(%s, 'plans', 500)", (large_queue,))
    item = {
        "reference_id": "one-more",
        "address": {
            "street_1": "1 Main St",
            "city": "Austin",
            "state_or_province_code": "TX",
            "postal_code": "78701",
            "country_code": "US",
        },
        "building_type": "RESIDENTIAL",
        "device_ids": [1],
    }
    created = owner.execute("select api.create_batch_lookup(%s, %s, false)", (large_queue, json.dumps({"items": [item]}))).fetchone()
    assert created is not None
    plans = Plans(owner)
    job = {"organization": large_queue, "job": created[0]["job_id"]}
    [(answer,)], seen = plans.run("select api.get_batch_lookup(%(organization)s, %(job)s)", job)
    assert answer["item_counts"] == {"pending": 1, "processing": 0, "completed": 0, "failed": 0}
    assert rows_scanned(seen, "lookup_queue_items") <= 2, "one item, for the page and for the total"


@pytest.mark.parametrize("offset", [0, 50_000, TOTAL - 50])
def test_a_page_of_items_reads_the_page_wherever_it_is(large_queue: str, owner: Connection, offset: int) -> None:
    plans = Plans(owner)
    job = owner.execute("select id from public.batch_lookup_jobs where organization_id = %s and total_items > 1", (large_queue,)).fetchone()
    assert job is not None
    _, seen = plans.run(
        "select api.list_batch_lookup_items(%(organization)s, %(job)s, p_offset => %(offset)s)",
        {"organization": large_queue, "job": job[0], "offset": offset},
    )
    assert rows_scanned(seen, "lookup_queue_items") <= 51


def test_a_search_for_text_reads_only_the_job(large_queue: str, owner: Connection) -> None:
    plans = Plans(owner)
    job = owner.execute(
        "select id from public.batch_lookup_jobs where organization_id = %s and total_items = 1 limit 1", (large_queue,)
    ).fetchone()
    assert job is not None
    find = "select api.list_batch_lookup_items(%(organization)s, %(job)s, p_q => 'no such street')"
    [(page,)], seen = plans.run(find, {"organization": large_queue, "job": job[0]})
    assert page["total"] == 0
    assert rows_scanned(seen, "lookup_queue_items") <= 2, "one item, for the page and for the total"


def test_jobs_are_found_by_their_labels_without_reading_the_others(large_queue: str, owner: Connection) -> None:
    label = """insert into public.batch_lookup_job_labels
               select organization_id, id, 'team', case when n <= 3 then 'north' else 'south' end
                 from (select *, row_number() over (order by id) as n from public.batch_lookup_jobs where total_items = 1) j
                   on conflict do nothing"""
    owner.execute(label)
    plans = Plans(owner)
    find = """select api.list_batch_lookups(%(organization)s, p_labels => '{"team": "north"}')"""
    for _ in range(6):
        [(page,)], seen = plans.run(find, {"organization": large_queue})
        assert page["total"] == len(page["jobs"]) == 3
        assert rows_scanned(seen, "batch_lookup_job_labels") <= 3 + 3
        assert rows_scanned(seen, "batch_lookup_jobs") <= 2 * 3
