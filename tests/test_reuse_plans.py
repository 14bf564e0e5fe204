"""Uploads read earlier results once: the first one reads the newest, and maintenance the rest. Rows are counted, not time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from tests.conftest import Connection
from tests.test_plans import Plans, most_rows_compared, nodes, rows_scanned

# Of the items that a job counts, only some are there: what bounds the reading is the count.
JOBS, COUNTED, ITEMS = 5, 8_000, 200
ONE_OF_EACH = [f"7 {job} st." for job in range(1, JOBS + 1)]
HISTORY = """
    with job as (
        insert into public.batch_lookup_jobs
               (organization_id, id, status, total_items, processed_items, report_id, created_at, started_at, completed_at, updated_at)
        select %(organization)s, app.uuid_v7(app.clock() - make_interval(hours => n)), 'completed', %(counted)s, %(counted)s, app.uuid_v7(),
               now(), now(), now(), now()
          from generate_series(1, %(jobs)s) n
        returning *
    )
    insert into public.lookup_queue_items
           (organization_id, id, job_id, position, reference_id, address, building_type, device_ids, created_at,
            status, result, processed_at)
    select j.organization_id, app.uuid_v7(), j.id, n - 1, 'site-' || n, jsonb_build_object(
               'street_1', format('%%s %%s St', n, row_number() over (partition by n order by j.id)), 'city', 'Boston',
               'state_or_province_code', 'MA', 'postal_code', '02134', 'country_code', 'US'),
           'RESIDENTIAL', '{1}', now(), 'completed', '{"total_incentive_amount": 1}', now()
      from job j, generate_series(1, %(items)s) n
"""


@pytest.fixture
def organization(owner: Connection) -> str:
    """An organization with five ended jobs that count 8,000 items; those of the oldest are in `1 St`, and so on."""
    row = owner.execute("select api.create_organization('Large')").fetchone()
    assert row is not None
    owner.execute(HISTORY, {"organization": row[0], "counted": COUNTED, "items": ITEMS, "jobs": JOBS})
    owner.execute("analyze public.lookup_queue_items, public.batch_lookup_jobs")
    return str(row[0])


def upload(streets: Iterable[str], **options: Any) -> str:
    address: dict[str, Any] = {"city": "Boston", "state_or_province_code": "MA", "postal_code": "02134", "country_code": "US"}
    items = [
        {"reference_id": f"new-{n}", "address": address | {"street_1": street}, "building_type": "RESIDENTIAL", "device_ids": [1]}
        for n, street in enumerate(streets)
    ]
    return json.dumps({"items": items, **options})


def checked(
    plans: Plans,
    organization: str,
    streets: Iterable[str] = ONE_OF_EACH,
    table: str = "lookup_queue_items",
) -> tuple[dict[str, Any], float]:
    """The dry run of a site of each job, and how many items it read; or one of other sites, and the rows of another table."""
    request = upload(streets, dry_run=True, reuse_results={"max_age_days": 30})
    [(answer,)], seen = plans.run(
        "select api.create_batch_lookup(%(organization)s, %(request)s, false)", {"organization": organization, "request": request}
    )
    return answer, rows_scanned(seen, table)


def test_the_first_upload_reads_the_newest_results_and_maintenance_the_others(owner: Connection, organization: str) -> None:
    plans = Plans(owner)
    first, read = checked(plans, organization)
    assert read == 2 * ITEMS
    assert first["known_already"] == 2
    assert [note["code"] for note in first["notes"]] == ["results_unread"]

    for known in (4, 5):
        owner.execute("select api.run_maintenance()")
        assert owner.execute("select count(*) from app.known_jobs").fetchone() == (known,)
    second, read = checked(plans, organization)
    assert (second["known_already"], second["notes"], read) == (JOBS, [], 0)
    assert owner.execute("select count(*) from app.known_results").fetchone() == (JOBS * ITEMS,)


def test_a_question_of_many_sites_is_searched_for_once(owner: Connection, organization: str) -> None:
    owner.execute("""update public.lookup_queue_items set address = address || '{"street_1": "7 Elm St"}'""")
    plans = Plans(owner)
    checked(plans, organization)
    for _ in range(2):
        owner.execute("select api.run_maintenance()")
    owner.execute("analyze app.known_results")
    answer, read = checked(plans, organization, ["7 elm st."] * 50, "known_results")
    assert (answer["known_already"], answer["notes"]) == (50, [])
    assert read == JOBS * ITEMS, "as often as it was answered, and not 50 times that"


def test_maintenance_reads_nothing_for_organizations_that_never_reused_a_result(owner: Connection, organization: str) -> None:
    owner.execute("select api.run_maintenance()")
    assert owner.execute("select count(*) from app.known_jobs").fetchone() == (0,)


@pytest.mark.parametrize("plan", ["auto", "force_generic_plan"])
def test_an_answer_that_is_too_old_is_read_once_for_all_items_with_the_same_question(
    owner: Connection, organization: str, plan: str
) -> None:
    """With deduplicate_seconds, those who ask the same wait for the first of them; none is compared with all that ever asked it."""
    owner.execute("select api.update_settings('{\"deduplicate_seconds\": 60}')")
    owner.execute("""update public.lookup_queue_items
                        set address = address || '{"street_1": "7 Elm St"}', processed_at = now() - interval '1 hour'""")
    owner.execute("""update public.lookup_queue_items i
                        set deduplication_key = app.dedup_key(app.uploaded_item(row(i.*)::public.lookup_queue_items, 0))""")
    owner.execute("select set_config('plan_cache_mode', %s, false)", (plan,))
    plans = Plans(owner)
    [(created,)], seen = plans.run(
        "select api.create_batch_lookup(%(organization)s, %(request)s, false)",
        {"organization": organization, "request": upload(["7 elm st."] * 50)},
    )
    assert owner.execute(
        "select count(*), count(retry_at), min(position) filter (where retry_at is null) from public.lookup_queue_items where job_id = %s",
        (created["job_id"],),
    ).fetchone() == (50, 49, 0)
    assert rows_scanned(seen, "lookup_queue_items") <= 6 * (JOBS * ITEMS + 50), "and not 50 times that"


@pytest.mark.parametrize("options", [{}, {"reuse_results": {"max_age_days": 30}}], ids=["deduplicated", "reused"])
def test_large_answers_are_copied_in_pieces(owner: Connection, organization: str, options: dict[str, Any]) -> None:
    """What comes of an answer takes a dozen times its bytes, and 10,000 sites may ask the same: 13 GB for one of 100 KB."""
    if not options:
        owner.execute("select api.update_settings('{\"deduplicate_seconds\": 3600}')")
    owner.execute("delete from public.lookup_queue_items where position > 0")
    owner.execute("""update public.lookup_queue_items i
                        set address = address || '{"street_1": "7 Elm St"}',
                            result = json_build_object('note', repeat('x', 1024 * 1024))""")
    owner.execute("""update public.lookup_queue_items i
                        set deduplication_key = app.dedup_key(app.uploaded_item(row(i.*)::public.lookup_queue_items, 0))""")
    plans = Plans(owner)
    [(created,)], seen = plans.run(
        "select api.create_batch_lookup(%(organization)s, %(request)s, false)",
        {"organization": organization, "request": upload(["7 elm st."] * 20, **options)},
    )
    assert owner.execute("select processed_items from public.batch_lookup_jobs where id = %s", (created["job_id"],)).fetchone() == (20,)
    copies = [plan for plan in seen if "update public.lookup_queue_items" in plan["Query Text"]]
    copied = [node["Actual Rows"] for plan in copies for node in nodes(plan["Plan"]) if node.get("CTE Name") == "known"]
    assert (sum(copied), max(copied)) == (20, 8)


def test_each_of_many_sites_is_not_compared_with_the_answers_to_all_others(owner: Connection, organization: str) -> None:
    owner.execute("select api.update_settings('{\"deduplicate_seconds\": 3600}')")
    owner.execute("""update public.lookup_queue_items i
                        set deduplication_key = app.dedup_key(app.uploaded_item(row(i.*)::public.lookup_queue_items, 0))""")
    plans = Plans(owner)
    [(created,)], seen = plans.run(
        "select api.create_batch_lookup(%(organization)s, %(request)s, false)",
        {"organization": organization, "request": upload([f"{n} 5 st." for n in range(1, ITEMS + 1)])},
    )
    assert owner.execute("select processed_items from public.batch_lookup_jobs where id = %s", (created["job_id"],)).fetchone() == (ITEMS,)
    assert most_rows_compared(seen) <= 10 * ITEMS
