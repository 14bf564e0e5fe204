"""The import of a clone of rewiringamerica/api.rewiringamerica.org: a small one made up here, and the real one where it lies beside."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pyshell.deploy import migrations
from pyshell.deploy.catalogue import CatalogueError, find_warnings, load_rewiring_america
from pyshell.deploy.rewiring_america import Incomes, SkippedError, amount, building_types, devices_of, needs_of, read_equipment
from pyshell.settings import ROOT
from tests.conftest import Clock, Connection
from tests.rows_read import catalogue_rows_read
from tests.timed import cpu_seconds

Json = dict[str, Any]
STARTER = ROOT / "sql" / "catalogue"
REAL = ROOT.parent / "shared" / "data" / "rewiring-america"

AREAS = [
    ("1", "", "state", "Wyoming", "WY"),
    ("2", "wy-city-light", "electric_territory", "City Light", "WY"),
    ("3", "wy-plains-electric", "electric_territory", "Plains Electric", "WY"),
    ("4", "wy-gas", "gas_territory", "Wyoming Gas", "WY"),
    ("5", "", "county", "Laramie County", "WY"),
]
ZIPS = [("82001", "2", "0"), ("82001", "3", "1"), ("82002", "3", "1"), ("82001", "4", "1")]
AUTHORITIES = {
    "state": {"wy-energy-office": {"name": "Energy Office", "geography_ids": [1]}},
    "utility": {
        "wy-city-light": {"name": "City Light", "geography_ids": [2]},
        "wy-plains-electric": {"name": "Plains Electric", "geography_ids": [3]},
    },
    "gas_utility": {"wy-gas": {"name": "Wyoming Gas", "geography_ids": [4]}},
    "county": {"wy-laramie": {"name": "Laramie County", "geography_ids": [5]}},
    "other": {"wy-coop": {"name": "Cooperative", "geography_ids": [2, 3, 5]}},
}
PROGRAMS = {
    f"wy_{name}": {"name": {"en": name}, "url": {"en": "https://example.com"}, "authority": authority, "authority_type": kind}
    for name, authority, kind in [
        ("state", "wy-energy-office", "state"),
        ("city&light", "wy-city-light", "utility"),
        ("plains", "wy-plains-electric", "utility"),
        ("gas", "wy-gas", "gas_utility"),
        ("county", "wy-laramie", "county"),
        ("coop", "wy-coop", "other"),
    ]
}


def incentive(number: int, program: str, **changes: Any) -> Json:
    return {
        "id": f"WY-{number}",
        "payment_methods": ["rebate"],
        "items": ["ducted_heat_pump"],
        "program": f"wy_{program}",
        "amount": {"type": "dollar_amount", "number": 100 * number},
        "owner_status": ["homeowner"],
        "short_description": {"en": f"Offer {number}"},
    } | changes


INCENTIVES = [
    incentive(1, "state"),
    incentive(2, "city&light"),
    incentive(3, "plains", start_date="2026-01-01", end_date="2026-12-31"),
    incentive(4, "coop", amount={"type": "percent", "number": 0.1, "maximum": 700}),
    incentive(5, "gas"),
    incentive(6, "county"),
    incentive(7, "state", paused=True),
    incentive(8, "state", low_income="wy-poor"),
    incentive(9, "state", eligible_geo_group="wy-part"),
    incentive(10, "state", items=["cool_roof"]),
    incentive(11, "state", amount={"type": "dollars_per_unit", "number": 1, "unit": "cfm50"}),
    incentive(12, "state", amount={"type": "dollar_amount", "number": 500, "minimum": 600, "maximum": 550}),
    incentive(13, "nowhere"),
]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    state, data = tmp_path / "data" / "WY", tmp_path / "scripts" / "data"
    state.mkdir(parents=True)
    data.mkdir(parents=True)
    for name, content in (("authorities", AUTHORITIES), ("programs", PROGRAMS), ("incentives", INCENTIVES)):
        (state / f"{name}.json").write_text(json.dumps(content))
    write_csv(
        data / "geographies.csv",
        ["id", "key", "type", "name", "state", "county_fips", "geometry"],
        [(*area, "", "x" * 200_000) for area in AREAS],
    )
    write_csv(data / "zip-to-geography-approx.csv", ["zip", "geography_id", "predominant"], ZIPS)
    return tmp_path


def write_csv(path: Path, header: list[str], rows: list[Any]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def change_incentives(clone: Path, *incentives: Json) -> None:
    (clone / "data" / "WY" / "incentives.json").write_text(json.dumps(incentives))


class Lookups:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        row = connection.execute("select api.create_organization('Acme')").fetchone()
        assert row is not None
        self.organization = row[0]

    def amounts(self, postal_code: str = "82001", **changes: Any) -> dict[str, float]:
        """What each program gives a home in Wyoming with a ducted heat pump."""
        return {program["program_id"]: program["total_incentive"] for program in self.programs(postal_code, **changes)}

    def conditional(self, **changes: Any) -> dict[str, float]:
        """What each program would give if the household were eligible."""
        name = "conditional_incentive_amount"
        return {program["program_id"]: program[name] for program in self.programs("82001", **changes) if name in program}

    def programs(self, postal_code: str, **changes: Any) -> list[Json]:
        home = {
            "street_1": "1 Main St",
            "city": "Cheyenne",
            "state_or_province_code": "WY",
            "postal_code": postal_code,
            "country_code": "US",
        }
        request = {"reference_id": "home", "address": home, "building_type": "RESIDENTIAL", "device_ids": [1]} | changes
        answer = self.connection.execute("select api.lookup_incentives(%s, %s::jsonb)", (self.organization, json.dumps(request))).fetchone()
        assert answer is not None
        programs: list[Json] = answer[0]["incentives"]["by_program"]
        return programs


@pytest.fixture
def lookups(owner: Connection, clock: Clock) -> Lookups:
    clock.freeze("2026-11-24 12:00:00+00")
    return Lookups(owner)


def test_lookups_agree_with_the_data(owner: Connection, clone: Path, lookups: Lookups) -> None:
    load_rewiring_america(owner, clone)
    plains = {"wy_state": 100, "wy_plains": 300, "wy_coop": 700}
    assert lookups.amounts("82002") == plains
    assert lookups.amounts("82001") == plains, "the predominant utility is the one"
    assert lookups.amounts("82001", utility={"name": "City Light"}) == {"wy_state": 100, "wy_citylight": 200, "wy_coop": 700}
    assert lookups.amounts("82002", lookup_date="2025-12-31") == plains | {"wy_plains": 0}
    assert lookups.amounts("82002", lookup_date="2027-01-01") == plains | {"wy_plains": 0}
    assert lookups.amounts("82002", device_ids=[2]) == {"wy_state": 0, "wy_plains": 0, "wy_coop": 0}


def test_the_offers_of_a_city_are_for_addresses_in_it(owner: Connection, clone: Path, lookups: Lookups) -> None:
    state = clone / "data" / "WY"
    cities = {
        "town": ({"name": "Town of Fox Park", "geography_ids": [6]}, 20),
        "valley": ({"name": "Valley", "geography_ids": [5, 6, 7]}, 21),
        "capital": ({"name": "City and County of Cheyenne", "geography_ids": [5]}, 22),
    }
    authorities = AUTHORITIES | {"city": {f"wy-{name}": authority for name, (authority, _) in cities.items()}}
    programs = PROGRAMS | {f"wy_{name}": {"name": {"en": name}, "authority": f"wy-{name}", "authority_type": "city"} for name in cities}
    for name, content in (("authorities", authorities), ("programs", programs)):
        (state / f"{name}.json").write_text(json.dumps(content))
    change_incentives(clone, *(incentive(number, name) for name, (_, number) in cities.items()))
    with (clone / "scripts" / "data" / "geographies.csv").open("a", newline="") as file:
        csv.writer(file).writerows(
            [("6", "", "custom", "town of Fox Park ", "WY", "", ""), ("7", "", "custom", "CIty of St. Olaf", "WY", "", "")]
        )
    _, skipped = load_rewiring_america(owner, clone)
    assert skipped == {}

    def amounts(city: str) -> dict[str, float]:
        address = {"street_1": "1 Main St", "city": city, "state_or_province_code": "WY", "postal_code": "82001", "country_code": "US"}
        return lookups.amounts(address=address)

    assert amounts("FOX PARK") == {"wy_town": 2000, "wy_valley": 2100}
    assert amounts("St Olaf") == {"wy_valley": 2100}
    assert amounts("Cheyenne") == {"wy_capital": 2200}
    assert amounts("Laramie") == {}


def test_what_could_not_be_mapped_is_counted_by_reason(owner: Connection, clone: Path) -> None:
    summary, skipped = load_rewiring_america(owner, clone)
    assert {file: counts["rows"] for file, counts in summary.items()} == {
        "utilities": 2,
        "utility_service_areas": 3,
        "programs": 4,
        "program_utilities": 4,
        "program_tiers": 4,
    }
    assert skipped == {
        "for customers of a gas utility, which a lookup doesn't know": 1,
        "for a county or a part of an area, which a lookup doesn't know": 1,
        "paused": 1,
        "refers to 'wy-poor', which is not there": 1,
        "for a part of the authority's area that the source doesn't tell": 1,
        "no device of ours: cool_roof": 1,
        "unknown unit: cfm50": 1,
        "contradictory caps": 1,
        "refers to 'wy_nowhere', which is not there": 1,
    }


def test_loans_and_the_use_of_a_car_are_not_incentives(owner: Connection, clone: Path, lookups: Lookups) -> None:
    def aid(number: int, text: str, method: str = "assistance_program") -> Json:
        return incentive(number, "state", payment_methods=[method], short_description={"en": text})

    loans = [aid(90, "Borrow up to $15,000 for a heat pump."), aid(91, "Loans for repairs."), aid(92, "A forgivable loan.")]
    loans.append(aid(94, "No upfront cost. Repay the cost through your utility bill."))
    used = [aid(93, "A carshare, the first hour of which is free."), aid(95, "Free-Induction-Loaner-Program")]
    change_incentives(clone, *loans, *used, aid(5, "Free heat pump."), aid(3, "A rebate beside the utility's loan.", "rebate"))
    _, skipped = load_rewiring_america(owner, clone)
    assert skipped == {"a loan": 4, "the use of what stays somebody else's": 2}
    assert lookups.amounts() == {"wy_state": 500}


def test_a_rebate_of_100_percent_needs_words_that_confirm_it(owner: Connection, clone: Path, lookups: Lookups) -> None:
    whole = {"type": "percent", "number": 1}
    untold = incentive(1, "state", amount=whole, short_description={"en": "Rebate for a new heat pump."})
    told = incentive(3, "plains", amount=whole, short_description={"en": "Up to 100% rebate for a heat pump."})
    aid = incentive(4, "coop", amount=whole, payment_methods=["assistance_program"], short_description={"en": "Heat pumps for the poor."})
    change_incentives(clone, untold, told, aid)
    assert load_rewiring_america(owner, clone)[1] == {"a rebate whose amount the source doesn't tell": 1}
    assert lookups.amounts() == {"wy_plains": 15000, "wy_coop": 15000}


def test_a_program_carries_its_source_id(owner: Connection, clone: Path) -> None:
    load_rewiring_america(owner, clone)
    row = owner.execute("select source_id, source, catalogue from app.programs where id = 'wy_citylight'").fetchone()
    assert row == ("wy_city&light", "rewiringamerica/api.rewiringamerica.org", "rewiring-america")


def test_importing_again_changes_nothing_and_a_change_is_seen(owner: Connection, clone: Path, lookups: Lookups) -> None:
    load_rewiring_america(owner, clone)
    assert {(counts["changed"], counts["retired"]) for counts in load_rewiring_america(owner, clone)[0].values()} == {(0, 0)}
    change_incentives(clone, incentive(1, "state", amount={"type": "dollar_amount", "number": 150}))
    summary, _ = load_rewiring_america(owner, clone)
    assert (summary["programs"]["retired"], summary["program_tiers"]["changed"]) == (3, 1)
    assert lookups.amounts("82001") == {"wy_state": 150}


def test_an_import_that_fails_leaves_everything_as_it_was(database_url: str, clone: Path, lookups: Lookups) -> None:
    with psycopg.connect(database_url) as connection:
        load_rewiring_america(connection, clone)
    before = lookups.amounts()
    change_incentives(clone, incentive(1, "state"), incentive(1, "state"))
    with pytest.raises(psycopg.Error, match="wy_state, WY-1 is there twice"), psycopg.connect(database_url) as connection:
        load_rewiring_america(connection, clone)
    assert lookups.amounts() == before


def test_programs_of_the_same_source_count_once(database_url: str, owner: Connection, clone: Path) -> None:
    def programs() -> list[Any]:
        return owner.execute(
            "select source like 'rewiring%' as same, count(*) from app.programs where retired_at is null group by 1"
        ).fetchall()

    [(_, others), (_, starters)] = sorted(programs())
    assert starters > 40
    load_rewiring_america(owner, clone)
    assert sorted(programs()) == [(False, others), (True, 4)]
    migrations.migrate(database_url)
    assert sorted(programs()) == [(False, others), (True, 4)], "a deploy brings no starter program back that was taken over"


THRESHOLDS: Json = {
    "by-size": {"type": "hhsize", "description": "80% AMI", "thresholds": {"1": 62600, "2": 71550}},
    "by-county": {"type": "county-hhsize", "thresholds": {"56021": {"1": 50000}, "56023": {"1": 60000}}},
    "by-filing": {"type": "filing-status", "description": "Tax", "thresholds": {"joint": [0, 150000], "hoh": [0, 112500]}},
    "poverty": {"type": "fpl-percentage", "description": "Poor", "thresholds": {"percentage": 200}},
    "median": {"type": "ami-percentage", "thresholds": {"percentage": 150}},
    "a proof": {"type": "hhsize", "description": "SNAP", "thresholds": {"1": 0, "2": 0}},
    "by-month": {"type": "hhsize", "thresholds": {"1": 5938, "2": 12550, "3": 0}},
    "small homes": {"type": "hhsize", "thresholds": {"1": 31300, "2": 42300, "3": 0}},
}
POVERTY_LEVELS = {"HI": {"levels_by_hhsize": [0, 17990]}, "other": {"levels_by_hhsize": [0, 15650, 21150]}}


@pytest.mark.parametrize(
    ("name", "requirement", "limits"),
    [
        ("by-size", "80% AMI", "1:62600 2:71550"),
        ("by-county", "by-county", "1:50000-60000"),
        ("by-filing", "Tax", "joint:150000 head_of_household:112500"),
        ("poverty", "Poor", "1:31300 2:42300"),
        ("median", "150% of the area's median income", None),
        ("a proof", "SNAP", None),
        ("by-month", "by-month", None),
        ("small homes", "small homes", "1:31300 2:42300"),
    ],
)
def test_income_limits_are_read_as_far_as_they_are_given(name: str, requirement: str, limits: str | None) -> None:
    cells = Incomes(THRESHOLDS, POVERTY_LEVELS).requirement(name, "WY")
    assert cells == {"income_requirement": requirement} | ({"income_limits": limits} if limits else {})


def test_an_offer_that_depends_on_income_is_conditional_until_the_income_is_given(owner: Connection, clone: Path, lookups: Lookups) -> None:
    (clone / "data" / "low_income_thresholds.json").write_text(json.dumps(THRESHOLDS))
    (clone / "data" / "federal_poverty_levels.json").write_text(json.dumps(POVERTY_LEVELS))
    change_incentives(
        clone, incentive(1, "state"), incentive(8, "state", low_income="by-size"), incentive(9, "plains", low_income="median")
    )
    load_rewiring_america(owner, clone)
    assert lookups.amounts() == {"wy_state": 100, "wy_plains": 0}
    assert lookups.amounts(household={"income": 62600, "size": 1}) == {"wy_state": 800, "wy_plains": 0}
    assert lookups.amounts(household={"income": 62601, "size": 1}) == {"wy_state": 100, "wy_plains": 0}
    assert lookups.conditional() == {"wy_state": 700, "wy_plains": 900}, "what is more than the offer for every income"
    assert lookups.conditional(household={"income": 62600, "size": 1}) == {"wy_plains": 900}


def test_what_an_offer_excludes_is_not_added_to_it(owner: Connection, clone: Path, lookups: Lookups) -> None:
    (clone / "data" / "low_income_thresholds.json").write_text(json.dumps(THRESHOLDS))
    relationships = {
        "exclusions": {
            "WY-9": {"ids": ["WY-1", "WY-2", "WY-10", "WY-20"], "description": "The one or the other"},
            "WY-1": {"ids": ["WY-3"]},
            "WY-30": {"ids": ["WY-1"]},
        }
    }
    (clone / "data" / "WY" / "incentive_relationships.json").write_text(json.dumps(relationships))
    offers = [
        incentive(1, "state"),
        incentive(2, "city&light", items=["heat_pump_water_heater"]),
        incentive(3, "coop", paused=True),
        incentive(9, "plains", low_income="by-size", amount={"type": "dollar_amount", "number": 1100}),
        incentive(10, "plains"),
    ]
    change_incentives(clone, *offers)
    summary, _ = load_rewiring_america(owner, clone)
    assert summary["program_tiers"]["changed"] == 4
    excludes: Json = dict(owner.execute("select id, excludes from app.program_tiers where id like 'WY-%'").fetchall())
    assert excludes == {"WY-1": None, "WY-2": None, "WY-9": ["wy_state"], "WY-10": None}, (
        "of other programs with offers for the same devices"
    )
    assert lookups.amounts(household={"income": 62600, "size": 1}) == {"wy_state": 0, "wy_plains": 1100}
    assert lookups.amounts(household={"income": 62601, "size": 1}) == {"wy_state": 100, "wy_plains": 1000}


def test_the_maximum_for_a_unit_is_not_a_cap_for_the_device(owner: Connection, clone: Path, lookups: Lookups) -> None:
    pay = {"type": "dollars_per_unit", "number": 600, "unit": "ton", "minimum": 300, "maximum": 600}
    change_incentives(clone, incentive(1, "state", amount=pay, short_description={"en": "$300 to $600 per ton."}))
    load_rewiring_america(owner, clone)
    assert lookups.amounts() == {"wy_state": 1800}


def test_offers_of_a_group_share_its_cap(owner: Connection, clone: Path, lookups: Lookups) -> None:
    relationships = {"combinations": [{"ids": ["WY-5", "WY-9", "WY-7", "WY-70"], "max_value": 1200, "description": "The most for a home"}]}
    (clone / "data" / "WY" / "incentive_relationships.json").write_text(json.dumps(relationships))
    offers = [incentive(5, "plains"), incentive(9, "plains", items=["heat_pump_water_heater"]), incentive(2, "plains", items=["ebike"])]
    change_incentives(clone, *offers)
    load_rewiring_america(owner, clone)
    caps: Json = dict(owner.execute("select id, shared_cap from app.program_tiers where id like 'WY-%'").fetchall())
    assert caps == {"WY-5": 1200, "WY-9": 1200, "WY-2": None}
    assert lookups.amounts(device_ids=[1, 9, 54]) == {"wy_plains": 1400}


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("$500/ton. Not to exceed 50% of equipment cost.", 750),
        ("$500/ton (maximum 50% of material cost).", 750),
        ("$500/ton. Capped at 100% of the total project cost.", 1500),
        ("$500/ton or 50% of the cost.", 1500),
        ("$500/ton. Saves up to 50% of energy costs.", 1500),
    ],
)
def test_an_offer_pays_no_more_than_its_words_say_of_the_cost(
    owner: Connection, clone: Path, lookups: Lookups, description: str, expected: float
) -> None:
    pay = {"type": "dollars_per_unit", "number": 500, "unit": "ton"}
    change_incentives(clone, incentive(1, "state", amount=pay, short_description={"en": description}))
    load_rewiring_america(owner, clone)
    assert lookups.amounts(device_facts={"1": {"cost": 1500}}) == {"wy_state": expected}


def test_an_offer_may_begin_on_a_day_and_end_with_a_year_or_month(owner: Connection, clone: Path, lookups: Lookups) -> None:
    change_incentives(clone, incentive(1, "state", start_date="2026-03-01", end_date="2026"))
    _, skipped = load_rewiring_america(owner, clone)
    assert skipped == {}
    assert lookups.amounts(lookup_date="2026-12-31") == {"wy_state": 100}
    change_incentives(clone, incentive(1, "state", start_date="2026-03", end_date="2026-02-28"))
    assert load_rewiring_america(owner, clone)[1] == {"ends before it starts": 1}


def test_other_requirements_of_an_offer_are_listed_as_not_checked(owner: Connection, clone: Path, lookups: Lookups) -> None:
    relationships = {"prerequisites": {"WY-5": {"allOf": ["WY-9", "WY-2", "WY-70"], "description": "First the audit"}}}
    (clone / "data" / "WY" / "incentive_relationships.json").write_text(json.dumps(relationships))
    change_incentives(clone, incentive(2, "state"), incentive(5, "plains"), incentive(9, "plains", items=["energy_audit"], paused=True))
    load_rewiring_america(owner, clone)
    ignored = {
        result["tier_id"]: [requirement for requirement in result["ignored_requirements"] if requirement.startswith("Other")]
        for program in lookups.programs("82001")
        for result in program["device_tier_results"]
    }
    assert ignored == {"WY-2": [], "WY-5": ["Other requirements: only together with Offer 9; Offer 2"]}


def test_an_offer_may_require_one_or_any_of_several() -> None:
    incentives = {number: {"short_description": {"en": f"offer {number}"}} for number in "123"}
    assert needs_of("1", incentives) == "offer 1"
    assert needs_of({"anyOf": ["1", "9", "2"]}, incentives) == "offer 1 or offer 2"
    assert needs_of({"allOf": ["3", {"anyOf": ["1", "2"]}]}, incentives) == "offer 3; offer 1 or offer 2"


@pytest.mark.parametrize(
    ("pay", "expected"),
    [
        ({"type": "dollar_amount", "number": 500}, {"amount_type": "flat", "amount": "500"}),
        ({"type": "dollar_amount", "number": 450, "minimum": 450, "maximum": 900}, {"amount_type": "flat", "amount": "450", "cap": "900"}),
        ({"type": "percent", "number": 0.29, "maximum": 1000}, {"amount_type": "percent", "amount": "29", "cap": "1000"}),
        ({"type": "dollars_per_unit", "number": 1250, "unit": "ton"}, {"amount_type": "per_unit", "amount": "1250", "unit": "ton"}),
        ({"type": "dollars_per_unit", "number": 2000, "unit": "btuh10k"}, {"amount_type": "per_unit", "amount": "2400", "unit": "ton"}),
    ],
)
def test_an_amount_keeps_its_meaning(pay: Json, expected: Json) -> None:
    assert amount(pay) == expected


@pytest.mark.parametrize(
    ("number", "unit", "most", "description", "cap"),
    [
        (10, "square_foot", 10, "Up to $10 per square foot of window.", None),
        (10, "square_foot", 8, "Up to $10 per sq. foot of window.", None),
        (1.5, "square_foot", 1, "Up to $1.50/sq ft of insulation.", None),
        (1200, "btuh10k", 1200, "Up to $1,200/ 10,000 Btuh of a heat pump.", None),
        (250, "kilowatt", 250, "Up to $250 for a battery.", "250"),
        (500, "ton", 500, "Up to $500 per household.", "500"),
        (500, "ton", 1500, "$500 per ton, limit 3 tons.", "1500"),
    ],
)
def test_the_maximum_for_a_unit_is_distinguished_from_a_cap(
    number: float, unit: str, most: float, description: str, cap: str | None
) -> None:
    assert amount({"type": "dollars_per_unit", "number": number, "unit": unit, "maximum": most}, description).get("cap") == cap


@pytest.mark.parametrize(
    ("number", "most", "description", "cap"),
    [
        (50, 50, "Up to $50 rebate per door.", None),
        (140, 140, "$140 per unit for smart thermostats, up to 2.", "140"),
        (250, 750, "$250 rebate per unit.", "750"),
        (500, 500, "Up to $500 per household.", "500"),
    ],
)
def test_the_maximum_for_a_device_is_distinguished_from_a_cap(number: float, most: float, description: str, cap: str | None) -> None:
    assert amount({"type": "dollar_amount", "number": number, "maximum": most}, description).get("cap") == cap


@pytest.mark.parametrize(
    "pay",
    [
        {"type": "percent", "number": 1.5},
        {"type": "dollar_amount", "number": 600, "maximum": 500},
        {"type": "dollars_per_unit", "number": 1},
        {"type": "lottery", "number": 1},
    ],
)
def test_an_amount_without_a_clear_meaning_is_skipped(pay: Json) -> None:
    with pytest.raises(SkippedError):
        amount(pay)


@pytest.mark.parametrize(
    ("description", "types"),
    [
        ("$500 rebate for a heat pump.", "RESIDENTIAL"),
        ("$1.25 per sq ft of attic insulation for manufactured homes.", "MANUFACTURED_HOME"),
        ("Heat pumps for manufactured (mobile) homes.", "MANUFACTURED_HOME"),
        ("For an existing single family or manufactured home.", "RESIDENTIAL MANUFACTURED_HOME"),
        ("Up to $250 ($200 for manufactured homes) for duct sealing.", "RESIDENTIAL"),
    ],
)
def test_an_offer_for_manufactured_homes_is_recognized(description: str, types: str) -> None:
    assert building_types(description) == types


def test_an_offer_for_manufactured_homes_pays_no_other_home(owner: Connection, clone: Path, lookups: Lookups) -> None:
    change_incentives(clone, incentive(1, "state", short_description={"en": "For a heat pump in a manufactured home."}))
    load_rewiring_america(owner, clone)
    assert lookups.amounts() == {"wy_state": 0}
    assert lookups.amounts(building_type="MANUFACTURED_HOME") == {"wy_state": 100}


def test_an_offer_for_all_of_a_category_names_no_devices() -> None:
    equipment = read_equipment(STARTER)
    assert devices_of(["ducted_heat_pump", "cool_roof"], None, equipment) == (["heat_pump"], [1, 4])
    assert devices_of(["heat_pump_water_heater"], None, equipment) == (["heat_pump_water_heater"], [])
    assert devices_of(["ducted_heat_pump", "heat_pump_water_heater"], "ton", equipment) == (["heat_pump"], [1, 4])
    categories, devices = devices_of(["attic_or_roof_insulation", "energy_audit"], None, equipment)
    assert (categories, devices) == (["energy_audit", "insulation"], [14, 49, 50])


def test_a_folder_that_is_not_a_clone_is_refused(owner: Connection, tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"cannot be read as a clone .*: No such file or directory"):
        load_rewiring_america(owner, tmp_path)


def test_the_command_line_imports_and_checks(database_url: str, clone: Path) -> None:
    def run(*words: str) -> str:
        command = [sys.executable, "-m", "pyshell", "catalogue", *words]
        return subprocess.run(command, cwd=ROOT, env={"DATABASE_URL": database_url}, capture_output=True, text=True, check=True).stdout

    output = run("import", str(clone), "--rewiring-america")
    assert "program_tiers: 4 rows, 4 new or changed" in output
    assert "9 incentives were skipped:" in output
    assert re.fullmatch(r"\d+ warnings?", run("check").splitlines()[-1])


def test_warnings_name_what_has_ended_or_looks_wrong(owner: Connection, clone: Path, clock: Clock) -> None:
    clock.freeze("2027-02-01 12:00:00+00")
    offers = [
        incentive(3, "plains", end_date="2026-12-31"),
        incentive(4, "plains", start_date="2027-12-31"),
        incentive(5, "state", amount={"type": "percent", "number": 1}, short_description={"en": "Free heat pumps."}),
        incentive(6, "state", amount={"type": "dollar_amount", "number": 90_000}),
        incentive(7, "state", amount={"type": "dollar_amount", "number": 0}),
    ]
    change_incentives(clone, *offers)
    load_rewiring_america(owner, clone)
    warnings = {(warning["warning"], warning["tier_id"]) for warning in find_warnings(owner) if warning["catalogue"] == "rewiring-america"}
    assert warnings == {
        ("ended", "WY-3"),
        ("not started", "WY-4"),
        ("pays all without a cap", "WY-5"),
        ("pays more than the device costs", "WY-6"),
        ("pays nothing", "WY-7"),
    }


@pytest.mark.skipif(not REAL.is_dir(), reason="no clone of rewiringamerica/api.rewiringamerica.org lies beside the project")
def test_the_whole_repository_is_imported_within_a_minute_and_lookups_read_little(owner: Connection, lookups: Lookups) -> None:
    backend = owner.info.backend_pid
    before = time.process_time() + cpu_seconds(backend)
    summary, skipped = load_rewiring_america(owner, REAL)
    assert time.process_time() + cpu_seconds(backend) - before < 60
    assert summary["programs"]["rows"] > 800
    assert summary["program_tiers"]["rows"] > 3000
    columns = ("income_requirement", "income_limits", "excludes", "shared_cap", "other_requirements")
    counts = f"select {', '.join(f'count({column})' for column in columns)} from app.program_tiers"
    [(by_income, by_table, excluding, sharing, needing)] = owner.execute(counts).fetchall()
    assert by_income > 400
    assert by_table > 150
    assert excluding > 30
    assert sharing > 30
    assert needing > 80
    assert summary["program_tiers"]["rows"] + sum(skipped.values()) > 4500
    row = owner.execute("select count(distinct prefix) from app.utility_service_areas where length(prefix) = 5").fetchone()
    assert row is not None
    assert row[0] > 35_000

    with (ROOT / "examples" / "sites.csv").open(encoding="utf-8", newline="") as file:
        sites = [row for row in csv.DictReader(file) if row["country_code"] == "US"]
    found, failures, before = 0, set(), catalogue_rows_read(owner)
    for site in sites:
        request = {
            "reference_id": site["reference_id"],
            "address": {name: site[name] for name in ("street_1", "city", "state_or_province_code", "postal_code", "country_code")},
            "building_type": "RESIDENTIAL",
            "device_ids": [1, 2, 9, 14, 28],
        }
        try:
            owner.execute("select api.lookup_incentives(%s, %s::jsonb)", (lookups.organization, json.dumps(request)))
        except psycopg.Error as error:
            failures.add(error.diag.message_primary)
        else:
            found += 1
    assert failures <= {"Program lookup failed - no utility found"}
    assert found > 200
    assert (catalogue_rows_read(owner) - before) / len(sites) < 150
