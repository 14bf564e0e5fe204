"""Batches are found by a part of their name without reading all names, even before all names are indexed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import Connection
from tests.test_plans import Plans, rows_scanned
from tests.worker_fixtures import fetch_value

BATCHES = 3_000
SMALL_ORGANIZATIONS = 300
# How many batches of the large organization have it in their names.
FOUND = {"zz": 0, "district 2999": 1, "DISTRICT 299": 11, "zz district": 0}
NAMED_BATCHES = """
    insert into public.batch_lookup_jobs
           (organization_id, id, name, status, total_items, processed_items, report_id, created_at, started_at, completed_at, updated_at)
    select o.id, app.uuid_v7(at), 'Rebates of district ' || n, 'completed', 1, 1, gen_random_uuid(), at, at, at, at
      from app.organizations o, generate_series(1, case o.name when 'Large' then %s else 2 end) n,
           lateral (select now() - n * interval '12 minutes' as at) t"""


@pytest.fixture(scope="module", params=["fresh statistics", "no statistics", "statistics of an empty table"])
def named(request: pytest.FixtureRequest, new_database: Callable[..., str]) -> Iterator[Connection]:
    """A database with an organization of many batches, and many of two, all with names, which maintenance has kept."""
    with psycopg.connect(new_database(), autocommit=True) as connection:
        for table in ("public.batch_lookup_jobs", "app.job_names"):
            connection.execute(f"alter table {table} set (autovacuum_enabled = off)".encode())
        if request.param == "statistics of an empty table":
            connection.execute("vacuum analyze public.batch_lookup_jobs, app.job_names")
        connection.execute("select api.create_organization('Large')")
        connection.execute("select api.create_organization('Small ' || n) from generate_series(1, %s) n", [SMALL_ORGANIZATIONS])
        connection.execute(NAMED_BATCHES, [BATCHES])
        connection.execute("select app.keep_names(id) from app.organizations")
        if request.param == "fresh statistics":
            connection.execute("vacuum analyze public.batch_lookup_jobs, app.job_names")
        yield connection


def plans_of_a_search(connection: Connection, name: str) -> list[dict[str, Any]]:
    organization = fetch_value(connection, "select id from app.organizations where name = 'Large'")
    plans = Plans(connection)
    for _ in range(6):  # beyond the fifth call PL/pgSQL may change to a generic plan
        _, seen = plans.run(
            "select api.list_batch_lookups(%(organization)s, p_name => %(name)s)", {"organization": organization, "name": name}
        )
    return seen


@pytest.mark.parametrize(("name", "found"), [*FOUND.items(), ("district", BATCHES)])
def test_a_search_by_name_finds_all_that_have_it(named: Connection, name: str, found: int) -> None:
    page = fetch_value(named, "select api.list_batch_lookups((select id from app.organizations where name = 'Large'), p_name => %s)", name)
    assert (page["total"], len(page["jobs"])) == (found, min(found, 20))
    assert all(name.lower() in job["name"].lower() for job in page["jobs"])


@pytest.mark.parametrize(("name", "found"), FOUND.items())
def test_a_search_by_name_reads_few_more_batches_than_it_finds(named: Connection, name: str, found: int) -> None:
    seen = plans_of_a_search(named, name)
    candidates = fetch_value(
        named,
        """select count(*) from app.job_names n join app.organizations o on o.id = n.organization_id
            where o.name = 'Large' and n.parts @> app.name_parts(o.id, %s)""",
        name,
    )
    assert candidates <= 2 * found + 10
    assert rows_scanned(seen, "job_names") <= candidates + 1
    # The newest 50 show whether many have the name.
    assert rows_scanned(seen, "batch_lookup_jobs") <= 50 + 2 * candidates


def test_a_search_for_a_common_name_reads_no_indexed_names(named: Connection) -> None:
    """Matches are counted in the batches, and those of the page are found first."""
    seen = plans_of_a_search(named, "district")
    assert rows_scanned(seen, "job_names") <= 1


def test_names_that_are_kept_are_not_looked_at_again(named: Connection) -> None:
    organization = fetch_value(named, "select id from app.organizations where name = 'Large'")
    _, seen = Plans(named).run("select app.keep_names(%(organization)s)", {"organization": organization})
    assert rows_scanned(seen, "batch_lookup_jobs") == 0
