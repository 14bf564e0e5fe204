"""Applications under concurrency: one for each customer and program, whoever is faster."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg

from tests.conftest import Connection


def test_an_application_filed_by_many_at_once_is_filed_once(database_url: str, owner: Connection) -> None:
    row = owner.execute("select api.create_organization('Acme')").fetchone()
    assert row is not None
    lookup = """select api.lookup_incentives(%s, jsonb_build_object('reference_id', 'home-' || %s, 'building_type', 'RESIDENTIAL',
                'device_ids', '[1, 9]'::jsonb, 'create_application', true, 'address', '{"street_1": "1 Congress Ave", "city": "Austin",
                "state_or_province_code": "TX", "postal_code": "78701", "country_code": "US"}'::jsonb), p_for_item => true)"""

    def file(number: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(lookup, (row[0], number % 3))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(file, range(48)))
    counts = owner.execute(
        "select count(*), count(distinct (customer_id, program_id)), count(distinct customer_id) from public.applications"
    ).fetchone()
    assert counts is not None
    assert counts[0] == counts[1] >= counts[2] == 3
