"""Pages of a large report read about the sites that they show, wherever they are: counted, not timed."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.conftest import Connection
from tests.test_http_reports import LARGE_REPORT
from tests.test_plans import Plans, rows_of_scans, rows_scanned


@pytest.fixture(scope="module")
def large_report(shared_owner: Connection) -> tuple[UUID, UUID]:
    """A report of 10,000 sites among others; answers organization and report."""
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


def test_a_sum_reads_each_site_of_the_report_and_no_other(large_report: tuple[UUID, UUID], shared_owner: Connection) -> None:
    organization, report = large_report
    _, seen = Plans(shared_owner).run(
        "select api.get_incentive_report_summary(%(organization)s, %(report)s)", {"organization": organization, "report": report}
    )
    assert set(rows_of_scans(seen, "incentive_report_sites")) == {10_000}
    assert set(rows_of_scans(seen, "incentive_report_site_programs")) == {30_000}
