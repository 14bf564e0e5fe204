"""Differences between two reports: sites that were added or removed, or whose amounts changed."""

from __future__ import annotations

import httpx
import pytest

from tests.conftest import Connection
from tests.http_fixtures import UNKNOWN_ID, Json, NewClient, OrganizationClient, address, look_up, site
from tests.test_http_reports import answer

DIFF = "/incentive-reports/diff"


def report_of(client: OrganizationClient, database: Connection, **amounts: float) -> str:
    """The id of a new report with these sites, each with its amount."""
    created = client.submit(*(site(name.replace("_", "-")) for name in amounts))
    for amount in amounts.values():
        look_up(database, created, 1, answer(amount))
    report_id: str = created["report"]["id"]
    return report_id


@pytest.fixture
def query(client: OrganizationClient, database: Connection) -> Json:
    before = report_of(client, database, deal_1=100, deal_2=200, deal_3=300, deal_4=0)
    after = report_of(client, database, deal_5=50.5, deal_4=0, deal_3=250.25, deal_2=200, deal_6=0)
    return {"from": before, "to": after}


def test_sites_appear_disappear_and_change(client: OrganizationClient, query: Json) -> None:
    diff = client.get(DIFF, params=query).json()
    assert list(diff) == ["from", "to", "totals", "differences", "total", "limit", "offset", "next_cursor"]
    assert (diff["from"]["id"], diff["to"]["id"]) == (query["from"], query["to"])
    assert diff["totals"] == {
        "added": {"sites": 2, "difference": 50.5, "conditional_difference": 0},
        "removed": {"sites": 1, "difference": -100, "conditional_difference": 0},
        "changed": {"sites": 1, "difference": -49.75, "conditional_difference": 0},
        "unchanged": {"sites": 2, "difference": 0, "conditional_difference": 0},
        "difference": -99.25,
        "conditional_difference": 0,
    }
    assert diff["totals"]["difference"] == diff["to"]["total_incentive_value"] - diff["from"]["total_incentive_value"]

    def side(amount: float) -> Json:
        return {"eligible": amount > 0, "total_incentive_amount": amount, "conditional_incentive_amount": 0}

    assert diff["differences"] == [
        {
            "reference_id": name,
            "change": change,
            "address": address(),
            "from": before,
            "to": after,
            "difference": difference,
            "conditional_difference": 0,
        }
        for name, change, before, after, difference in (
            ("deal-1", "removed", side(100), None, -100),
            ("deal-3", "changed", side(300), side(250.25), -49.75),
            ("deal-5", "added", None, side(50.5), 50.5),
            ("deal-6", "added", None, side(0), 0),
        )
    ]


def test_differences_come_in_pages_and_by_kind(client: OrganizationClient, query: Json) -> None:
    followed: list[str] = []
    response = client.get(DIFF, params=query | {"limit": 3})
    while True:
        followed += [difference["reference_id"] for difference in response.json()["differences"]]
        assert response.json()["total"] == 4
        if "next" not in response.links:
            break
        response = client.get(response.links["next"]["url"])
    assert followed == ["deal-1", "deal-3", "deal-5", "deal-6"]
    page = client.get(DIFF, params=query | {"change": "added", "limit": 1, "offset": 1}).json()
    assert ([difference["reference_id"] for difference in page["differences"]], page["total"]) == (["deal-6"], 2)
    assert page["totals"]["removed"] == {"sites": 1, "difference": -100, "conditional_difference": 0}


def test_a_report_does_not_differ_from_itself(client: OrganizationClient, query: Json) -> None:
    diff = client.get(DIFF, params={"from": query["from"], "to": query["from"]}).json()
    assert (diff["differences"], diff["total"], diff["totals"]["unchanged"]["sites"]) == ([], 0, 4)
    assert diff["totals"]["changed"] == {"sites": 0, "difference": 0, "conditional_difference": 0}


def test_a_site_that_changed_only_under_conditions_has_changed(client: OrganizationClient, database: Connection) -> None:
    reports = []
    for conditional in (801, 1200.5):
        created = client.submit(site("deal-1"))
        look_up(database, created, 1, {"incentives": {"total_incentive_amount": 100, "conditional_incentive_amount": conditional}})
        reports.append(created["report"]["id"])
    diff = client.get(DIFF, params={"from": reports[0], "to": reports[1]}).json()
    [changed] = diff["differences"]
    sides = [changed["from"]["conditional_incentive_amount"], changed["to"]["conditional_incentive_amount"]]
    assert (changed["change"], sides) == ("changed", [801, 1200.5])
    assert (changed["difference"], changed["conditional_difference"]) == (0, 399.5)
    assert diff["totals"]["changed"] == {"sites": 1, "difference": 0, "conditional_difference": 399.5}
    assert (diff["totals"]["difference"], diff["totals"]["conditional_difference"]) == (0, 399.5)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"from": None}, 400, "invalid_from"),
        ({"to": None}, 400, "invalid_to"),
        ({"to": "x"}, 404, "report_not_found"),
        ({"from": UNKNOWN_ID}, 404, "report_not_found"),
        ({"change": "unchanged"}, 400, "invalid_change"),
        ({"limit": 501}, 400, "invalid_limit"),
        ({"cursor": "x"}, 400, "invalid_cursor"),
    ],
)
def test_a_wrong_query_is_refused(client: OrganizationClient, query: Json, changes: Json, status: int, code: str) -> None:
    asked = {name: value for name, value in (query | changes).items() if value is not None}
    response = client.get(DIFF, params=asked)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_another_organizations_report_is_not_compared(
    server: str, client: OrganizationClient, new_client: NewClient, database: Connection, query: Json
) -> None:
    theirs = report_of(new_client(), database, deal_1=1)
    for changes in ({"from": theirs}, {"to": theirs}):
        response = client.get(DIFF, params=query | changes)
        assert (response.status_code, response.json()["code"]) == (404, "report_not_found")
    assert httpx.get(server + DIFF, params=query).status_code == 401
