"""Applications under concurrency: one for each customer and program."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg

from tests.conftest import Connection, waiting_for_locks
from tests.timed import wait_until

LOOKUP = """
    select api.lookup_incentives(%s, jsonb_build_object('reference_id', 'home-' || %s, 'building_type', 'RESIDENTIAL',
           'device_ids', '[1, 9]'::jsonb, 'create_application', true, 'address', '{"street_1": "1 Congress Ave", "city": "Austin",
           "state_or_province_code": "TX", "postal_code": "78701", "country_code": "US"}'::jsonb), p_for_item => true)"""


def test_an_application_filed_by_many_at_once_is_filed_once(database_url: str, owner: Connection) -> None:
    row = owner.execute("select api.create_organization('Acme')").fetchone()
    assert row is not None

    def file(number: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(LOOKUP, (row[0], number % 3))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(file, range(48)))
    counts = owner.execute(
        "select count(*), count(distinct (customer_id, program_id)), count(distinct customer_id) from public.applications"
    ).fetchone()
    assert counts is not None
    assert counts[0] == counts[1] >= counts[2] == 3


def test_a_move_that_waited_for_another_is_dated_after_it(database_url: str, owner: Connection) -> None:
    [organization] = owner.execute("select api.create_organization('Acme')").fetchone() or [None]
    owner.execute(LOOKUP, (organization, 1))
    [application] = owner.execute("select min(id) from public.applications").fetchone() or [None]
    move = "select (api.update_application(%s, %s, jsonb_build_object('application_status', %s::text)) ->> 'updated_at')::timestamptz"

    def move_on() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(move, (organization, application, "awaiting_partner"))

    with ThreadPoolExecutor(1) as thread, psycopg.connect(database_url) as first:
        first.execute("select from public.applications where organization_id = %s and id = %s for update", [organization, application])
        second = thread.submit(move_on)
        wait_until(lambda: waiting_for_locks(owner, "update_application"))
        [moved_at] = first.execute(move, (organization, application, "in_progress")).fetchone() or [None]
        first.commit()
        second.result()
    assert owner.execute(
        "select application_status, updated_at > %s from public.applications where id = %s", [moved_at, application]
    ).fetchone() == ("awaiting_partner", True)
