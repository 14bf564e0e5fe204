"""The amounts of lookups and of the batches that they are made for, with catalogues made at random."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Connection
from tests.worker_fixtures import check_invariants, fetch_value

PROGRAMS = 4
DEVICES = {9001: "pump", 9002: "pump", 9003: "lamp", 9004: "lamp"}
COSTS = {"pump": Decimal(1000), "lamp": Decimal("333.33")}
INCOME_LIMIT = 50_000
ADDRESS = {"street_1": "1 Main St", "city": "Cheyenne", "state_or_province_code": "WY", "postal_code": "82007", "country_code": "US"}

Offer = dict[str, Any]

optional = partial(st.one_of, st.none())


def some_offers(programs: int) -> st.SearchStrategy[list[Offer]]:
    offer = st.fixed_dictionaries(
        {
            "program": st.integers(0, programs - 1),
            "category_keys": st.sampled_from(["pump", "lamp", "pump lamp"]),
            "amount": st.sampled_from(
                [("flat", "0"), ("flat", "99.995"), ("flat", "250"), ("flat", "400"), ("percent", "33.3333"), ("per_unit", "50")]
            ),
            "cap": optional(st.sampled_from(["50", "250.5", "600"])),
            "cap_percent": optional(st.sampled_from(["10", "33.3"])),
            "shared_cap": optional(st.sampled_from(["75.5", "300"])),
            "excludes": st.sets(st.integers(0, PROGRAMS - 1), max_size=2),
            "is_conditional": st.booleans(),
        }
    )
    return st.lists(offer, min_size=1, max_size=2 * programs)


device_ids = st.lists(st.sampled_from(sorted(DEVICES)), min_size=1, max_size=5)


def catalogue(offers: list[Offer], *, with_exclusions: bool) -> dict[str, Any]:
    """A program excludes those after it only, so that there is no circle."""
    tiers = []
    for number, offer in enumerate(offers):
        amount_type, amount = offer["amount"]
        excluded = [f"wy-{program}" for program in sorted(offer["excludes"]) if with_exclusions and program > offer["program"]]
        tiers.append(
            {
                "program_id": f"wy-{offer['program']}",
                "id": f"offer-{number}",
                "name": f"Offer {number}",
                "category_keys": offer["category_keys"],
                "amount_type": amount_type,
                "amount": amount,
                "unit": "ton" if amount_type == "per_unit" else None,
                "cap": offer["cap"],
                "cap_percent": offer["cap_percent"],
                "shared_cap": offer["shared_cap"],
                "excludes": " ".join(excluded) or None,
                "income_requirement": "Poor" if offer["is_conditional"] else None,
                "income_limits": f"1:{INCOME_LIMIT}" if offer["is_conditional"] else None,
            }
        )
    place = {"country_code": "US", "region_code": "WY", "source": "test"}
    return {
        "catalogue": "test",
        "device_categories": [{"key": key, "name": key, "typical_cost": str(cost), "basis": "test"} for key, cost in COSTS.items()],
        "device_category_sizes": [{"category_key": key, "unit": "ton", "typical_size": "2.5", "basis": "test"} for key in COSTS],
        "devices": [{"id": str(device), "category_key": key, "name": f"Device {device}"} for device, key in DEVICES.items()],
        "utilities": [{"key": "wy-plains", "eiaid": "90001", "name": "Plains Electric"} | place],
        "utility_service_areas": [{"prefix": "82", "utility_key": "wy-plains", "rank": "1"}],
        "programs": [
            {"id": f"wy-{n}", "name": f"Program {n}", "authority": "Wyoming", "authority_type": "state", "scope": "state"} | place
            for n in range(PROGRAMS)
        ],
        "program_utilities": [],
        "program_tiers": tiers,
    }


@contextmanager
def imported(owner: Connection, rows: dict[str, Any]) -> Iterator[str]:
    """With this catalogue alone; the id of an organization."""
    with owner.transaction(force_rollback=True):
        fetch_value(owner, "select api.import_catalogue(%s)", json.dumps(rows))
        yield fetch_value(owner, "select api.create_organization('Acme')")


def read(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def look_up(owner: Connection, organization_id: str, device_ids: list[int], income: int | None = None) -> Any:
    request: dict[str, Any] = {"reference_id": "home-1", "address": ADDRESS, "building_type": "RESIDENTIAL", "device_ids": device_ids}
    if income is not None:
        request["household"] = {"income": income, "size": 1}
    return read(fetch_value(owner, "select api.lookup_incentives(%s, %s)::text", organization_id, json.dumps(request)))["incentives"]


def paid_offers(incentives: Any) -> dict[tuple[str, str, int], Decimal]:
    return {
        (program["program_id"], result["tier_id"], int(result["device_id"])): result["incentive_amount"]
        for program in incentives["by_program"]
        for result in program["device_tier_results"]
        if result["incentive_amount"]
    }


@given(offers=some_offers(PROGRAMS), device_ids=device_ids)
def test_what_is_paid_keeps_to_caps_and_exclusions(shared_owner: Connection, offers: list[Offer], device_ids: list[int]) -> None:
    rows = catalogue(offers, with_exclusions=True)
    tiers = {(tier["program_id"], tier["id"]): tier for tier in rows["program_tiers"]}
    with imported(shared_owner, rows) as organization_id:
        answers = [look_up(shared_owner, organization_id, device_ids, income) for income in (None, 0, INCOME_LIMIT + 1)]
    assert answers[0]["total_incentive_amount"] == answers[2]["total_incentive_amount"], "certain is what is paid if no condition is met"
    for incentives in answers:
        paid = paid_offers(incentives)
        assert sum(paid.values()) == incentives["total_incentive_amount"]
        assert sum(program["total_incentive"] for program in incentives["by_program"]) == incentives["total_incentive_amount"]
        by_tier: dict[Any, Decimal] = defaultdict(Decimal)
        by_shared_cap: dict[Any, Decimal] = defaultdict(Decimal)
        for (program_id, tier_id, device_id), amount in paid.items():
            tier = tiers[program_id, tier_id]
            by_tier[program_id, tier_id] += amount
            by_shared_cap[program_id, tier["shared_cap"]] += amount
            if tier["cap_percent"]:
                cost = COSTS[DEVICES[device_id]] * device_ids.count(device_id)
                assert amount <= round(cost * Decimal(tier["cap_percent"]) / 100, 2) + Decimal("0.01")
            for excluded in (tier["excludes"] or "").split():
                assert not [key for key in paid if (key[0], key[2]) == (excluded, device_id)]
        assert len({(program_id, device_id) for program_id, _, device_id in paid}) == len(paid), "offers of a program are alternatives"
        assert all(amount <= Decimal(tiers[key]["cap"] or "infinity") for key, amount in by_tier.items())
        assert all(amount <= Decimal(cap or "infinity") for (_, cap), amount in by_shared_cap.items())


@settings(derandomize=True)
@given(offers=some_offers(2), device_ids=device_ids)
def test_what_is_conditional_is_paid_if_the_conditions_are_met(
    shared_owner: Connection, offers: list[Offer], device_ids: list[int]
) -> None:
    """Without exclusions: a household would choose not to apply for what excludes more than it pays. Always the same examples: caps are
    used in the order of the request, so that a device may leave less to the next one than it could."""
    with imported(shared_owner, catalogue(offers, with_exclusions=False)) as organization_id:
        before, met = (look_up(shared_owner, organization_id, device_ids, income) for income in (None, 0))
    conditional = before.get("conditional_incentive_amount", Decimal(0))
    assert conditional == sum(program.get("conditional_incentive_amount", Decimal(0)) for program in before["by_program"])
    assert met["total_incentive_amount"] >= before["total_incentive_amount"] + conditional
    assert "conditional_incentive_amount" not in met


def answer_claims(owner: Connection, organization_id: str, failing: set[int]) -> None:
    """As a worker does, but that items of these positions fail for the time being."""
    claims = owner.execute(
        "select job_id, position, lease_token, request from api.claim_lookups(%s, 'tester', 100) order by position", [organization_id]
    ).fetchall()
    fails = [position in failing for _, position, _, _ in claims]
    answers = [
        fetch_value(owner, "select api.lookup_incentives(%s, %s, 'https://example.com', true)::text", organization_id, request)
        for _, _, _, request in claims
    ]
    owner.execute(
        """select api.record_lookups(%s, %s::uuid[], %s::integer[], %s::uuid[], %s::integer[], %s::text[], %s::text[], %s::float8[])""",
        [
            organization_id,
            [claim[0] for claim in claims],
            [claim[1] for claim in claims],
            [claim[2] for claim in claims],
            [400 if fail else 200 for fail in fails],
            [None] * len(claims),
            ['{"error": "No"}' if fail else answer for fail, answer in zip(fails, answers, strict=True)],
            [None] * len(claims),
        ],
    )


def cells(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def check_sums(owner: Connection, organization_id: str, job: Any) -> Any:
    """Every account of a batch's amounts is the same; returns its report."""

    def total(rows: list[Any], name: str) -> Decimal:
        return sum((Decimal(str(row[name])) for row in rows), Decimal(0))

    def fetch(query: str, *parameters: object) -> Any:
        return read(fetch_value(owner, query, organization_id, *parameters))

    report = fetch("select api.get_incentive_report(%s, %s)::text", job["report"]["id"])
    summary = fetch("select api.get_incentive_report_summary(%s, %s)::text", job["report"]["id"])
    items = fetch("select api.list_batch_lookup_items(%s, %s)::text", job["job_id"])["items"]
    results = [item["result"]["incentives"] for item in items if item["status"] == "completed"]
    report_cells = cells(fetch_value(owner, "select lines from api.get_incentive_report_csv(%s, %s)", organization_id, job["report"]["id"]))
    item_cells = cells(fetch_value(owner, "select lines from api.get_batch_lookup_results(%s, %s)", organization_id, job["job_id"]))
    item_cells = [row for row in item_cells if row["status"] == "completed"]

    value = report["total_incentive_value"]
    assert total(report["sites"], "total_incentive_amount") == value
    assert total([program for site in report["sites"] for program in site["programs"]], "total_incentive") == value
    assert total(results, "total_incentive_amount") == value
    assert total(report_cells, "total_incentive_amount") == value
    assert total(item_cells, "total_incentive_amount") == value
    for part in ("by_state", "by_utility", "by_program", "by_device_category"):
        assert total(summary[part], "total_incentive_value") == value, part
    assert summary["report"]["total_incentive_value"] == value

    conditional = report["conditional_incentive_amount"]
    assert total(report["sites"], "conditional_incentive_amount") == conditional
    assert total([result for result in results if "conditional_incentive_amount" in result], "conditional_incentive_amount") == conditional
    assert total(report_cells, "conditional_incentive_amount") == conditional
    assert total(item_cells, "conditional_incentive_amount") == conditional

    eligible = report["eligible_sites"]
    assert [len(report["sites"]), len(results)] == [report["total_sites"]] * 2
    assert sum(site["eligible"] for site in report["sites"]) == eligible
    assert [row["eligible"] for row in report_cells].count("true") == eligible
    assert sum(state["eligible_sites"] for state in summary["by_state"]) == eligible
    return report


@given(offers=some_offers(PROGRAMS), sites=st.lists(device_ids, min_size=1, max_size=5), failing=st.sets(st.integers(0, 4), max_size=2))
def test_all_sums_of_a_batch_agree(shared_owner: Connection, offers: list[Offer], sites: list[list[int]], failing: set[int]) -> None:
    items = [
        {
            "reference_id": f"site-{number}",
            "address": ADDRESS | {"street_1": f"{number} Main St"},
            "building_type": "RESIDENTIAL",
            "device_ids": ids,
            "create_application": True,
        }
        for number, ids in enumerate(sites)
    ]
    with imported(shared_owner, catalogue(offers, with_exclusions=True)) as organization_id:
        fetch_value(shared_owner, "select api.update_settings('{\"lookups_per_second\": null}')")
        reports = []
        for failing_now in (failing, set[int]()):
            job = fetch_value(shared_owner, "select api.create_batch_lookup(%s, %s)", organization_id, json.dumps({"items": items}))
            answer_claims(shared_owner, organization_id, failing_now)
            reports.append(check_sums(shared_owner, organization_id, job))
        check_invariants(shared_owner)
        difference = read(
            fetch_value(
                shared_owner,
                "select api.diff_incentive_reports(%s, %s, %s)::text",
                organization_id,
                *[report["id"] for report in reports],
            )
        )
        filed = fetch_value(
            shared_owner, "select coalesce(sum(total_incentive), 0) from public.applications where organization_id = %s", organization_id
        )
    totals = difference["totals"]
    for amount, more in (("total_incentive_value", "difference"), ("conditional_incentive_amount", "conditional_difference")):
        before, after = (report[amount] for report in reports)
        assert totals[more] == after - before == sum(totals[change][more] for change in ("added", "removed", "changed", "unchanged"))
        assert sum(row[more] for row in difference["differences"]) == totals[more]
    assert totals["added"]["sites"] == len([n for n in failing if n < len(sites)])
    assert filed == reports[1]["total_incentive_value"]
