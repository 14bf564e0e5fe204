"""Pages of a large report read few more sites than they show, wherever they are. Rows are counted, not time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

import psycopg
import pytest

from tests.conftest import Connection
from tests.test_http_reports import LARGE_REPORT
from tests.test_plans import Plans, rows_of_scans, rows_scanned


@pytest.fixture(scope="module")
def large_report(shared_owner: Connection) -> tuple[UUID, UUID]:
    """A report of 10,000 sites among others; returns organization and report."""
    organizations = []
    for name in ("Large", "Other"):
        row = shared_owner.execute("select api.create_organization(%s)", (name,)).fetchone()
        assert row is not None
        organizations.append(row[0])
        shared_owner.execute(LARGE_REPORT, {"organization": row[0]})
    shared_owner.execute("analyze public.incentive_reports, public.incentive_report_sites, public.incentive_report_site_programs")
    row = shared_owner.execute("select id from public.incentive_reports where organization_id = %s", (organizations[0],)).fetchone()
    assert row is not None
    return organizations[0], row[0]


@pytest.mark.parametrize("position", [0, 5_000, 9_899])
def test_a_page_of_sites_reads_the_page_wherever_it_is(large_report: tuple[UUID, UUID], shared_owner: Connection, position: int) -> None:
    organization, report = large_report
    plans = Plans(shared_owner)
    for sort in ("position", "-position"):
        rows, seen = plans.run(
            """select api.get_incentive_report(%(organization)s, %(report)s, 100, p_sort => %(sort)s,
                      p_cursor => app.cursor(row(%(sort)s::text, %(position)s, null, null, null, null, null)))""",
            {"organization": organization, "report": report, "position": position, "sort": sort},
        )
        assert rows_scanned(seen, "incentive_report_sites") <= 101
        assert rows_scanned(seen, "incentive_report_site_programs") <= 3 * 101
        assert len(rows[0][0]["sites"]) == (0 if sort == "-position" and position == 0 else 100)


def test_a_search_for_text_reads_only_the_report(large_report: tuple[UUID, UUID], shared_owner: Connection) -> None:
    organization, report = large_report
    find = "select api.get_incentive_report(%(organization)s, %(report)s, 100, p_q => 'no such street')"
    [(page,)], seen = Plans(shared_owner).run(find, {"organization": organization, "report": report})
    assert (page["sites"], page["total"]) == ([], 0)
    assert set(rows_of_scans(seen, "incentive_report_sites")) == {10_000}
    assert rows_scanned(seen, "incentive_report_site_programs") == 0


def test_a_difference_reads_each_site_of_the_two_reports_twice(large_report: tuple[UUID, UUID], shared_owner: Connection) -> None:
    organization, report = large_report
    compare = "select api.diff_incentive_reports(%(organization)s, %(report)s, %(report)s)"
    [(diff,)], seen = Plans(shared_owner).run(compare, {"organization": organization, "report": report})
    assert diff["totals"]["unchanged"]["sites"] == 10_000
    assert rows_of_scans(seen, "incentive_report_sites") == [10_000] * 4


def test_a_sum_reads_each_site_of_the_report_and_no_other(large_report: tuple[UUID, UUID], shared_owner: Connection) -> None:
    organization, report = large_report
    _, seen = Plans(shared_owner).run(
        "select api.get_incentive_report_summary(%(organization)s, %(report)s)", {"organization": organization, "report": report}
    )
    assert set(rows_of_scans(seen, "incentive_report_sites")) == {10_000}
    assert set(rows_of_scans(seen, "incentive_report_site_programs")) == {30_000}


@pytest.fixture(scope="module")
def new_report(new_database: Callable[..., str]) -> Iterator[tuple[Connection, UUID, UUID]]:
    """The first report of a database, of 10,000 sites, before its tables were ever analyzed: connection, organization and report."""
    with psycopg.connect(new_database(), autocommit=True) as connection:
        for table in ("incentive_reports", "incentive_report_sites", "incentive_report_site_programs"):
            connection.execute(f"alter table public.{table} set (autovacuum_enabled = off)".encode())
        connection.execute("select api.create_organization('Large')")
        [(organization,)] = connection.execute("select id from app.organizations").fetchall()
        connection.execute(LARGE_REPORT, {"organization": organization})
        [(report,)] = connection.execute("select id from public.incentive_reports").fetchall()
        yield connection, organization, report


@pytest.mark.parametrize("filters", ["", ", p_state => 'CA'", ", p_program => 'program-7'"])
def test_a_file_of_a_report_that_was_never_analyzed_reads_each_site_once(new_report: tuple[Connection, UUID, UUID], filters: str) -> None:
    connection, organization, report = new_report
    [(lines, last_position)], seen = Plans(connection).run(
        f"select * from api.get_incentive_report_csv(%(organization)s, %(report)s{filters})",
        {"organization": organization, "report": report},
    )
    assert lines.count("\r\n") == 1 + {"": 10_000, ", p_state => 'CA'": 200, ", p_program => 'program-7'": 102}[filters]
    assert last_position is None
    assert rows_scanned(seen, "incentive_report_sites") <= 10_000
    # Those of the sites in the file are read twice, and all of them to find the sites of a program.
    programs = 2 * 3 * (lines.count("\r\n") - 1) + (30_000 if "p_program" in filters else 0)
    assert rows_scanned(seen, "incentive_report_site_programs") <= programs


@pytest.mark.parametrize("after", [-1, 5_000, 9_500])
def test_a_piece_of_a_file_reads_the_sites_of_the_piece(new_report: tuple[Connection, UUID, UUID], after: int) -> None:
    connection, organization, report = new_report
    [(_, last_position)], seen = Plans(connection).run(
        "select * from api.get_incentive_report_csv(%(organization)s, %(report)s, p_after => %(after)s, p_limit => 500)",
        {"organization": organization, "report": report, "after": after},
    )
    assert last_position == (None if after == 9_500 else 500 if after == -1 else after + 500)
    assert rows_scanned(seen, "incentive_report_sites") <= 501
    # Once to see how many sites fit into the piece, once for its lines.
    assert rows_scanned(seen, "incentive_report_site_programs") <= 2 * 3 * 501


def test_a_page_of_a_report_that_was_never_analyzed_reads_the_page(new_report: tuple[Connection, UUID, UUID]) -> None:
    connection, organization, report = new_report
    [(body,)], seen = Plans(connection).run(
        "select api.get_incentive_report(%(organization)s, %(report)s, 100)", {"organization": organization, "report": report}
    )
    assert len(body["sites"]) == 100
    assert rows_scanned(seen, "incentive_report_sites") <= 101
    assert rows_scanned(seen, "incentive_report_site_programs") <= 3 * 101
