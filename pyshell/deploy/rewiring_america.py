"""Reads a clone of rewiringamerica/api.rewiringamerica.org (Apache-2.0) as a catalogue.

It has a folder for each state (`data/CO/incentives.json`, `programs.json`, `authorities.json`, and for some states
`incentive_relationships.json`, which tells what excludes or needs what and which offers share a cap), and in `scripts/data` the areas that
authorities serve (`geographies.csv`) and the ZIP codes of utilities' areas (`zip-to-geography-approx.csv`). An incentive becomes a tier
of its program. What a lookup could not evaluate is skipped, and counted by reason.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, str]
Json = dict[str, Any]

SOURCE = "rewiringamerica/api.rewiringamerica.org"

# The source's names of devices: our category, and its devices unless it is for all of them (sql/catalogue/devices.csv).
ITEMS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "ducted_heat_pump": ("heat_pump", (1, 4)),
    "ductless_heat_pump": ("heat_pump", (2, 3, 4)),
    "air_to_water_heat_pump": ("heat_pump", (5,)),
    "other_heat_pump": ("heat_pump", (6,)),
    "geothermal_heating_installation": ("ground_source_heat_pump", ()),
    "heat_pump_water_heater": ("heat_pump_water_heater", ()),
    "smart_thermostat": ("smart_thermostat", ()),
    "attic_or_roof_insulation": ("insulation", (14,)),
    "wall_insulation": ("insulation", (15,)),
    "floor_insulation": ("insulation", (16,)),
    "basement_insulation": ("insulation", (17,)),
    "crawlspace_insulation": ("insulation", (17,)),
    "other_insulation": ("insulation", ()),
    "air_sealing": ("weatherization", (18,)),
    "duct_sealing": ("weatherization", (19,)),
    "duct_replacement": ("weatherization", (20,)),
    "other_weatherization": ("weatherization", (21,)),
    "rooftop_solar_installation": ("rooftop_solar", ()),
    "battery_storage_installation": ("battery_storage", ()),
    "electric_vehicle_charger": ("ev_charger", ()),
    "electric_stove": ("induction_stove", ()),
    "heat_pump_clothes_dryer": ("heat_pump_clothes_dryer", ()),
    "electric_panel": ("electrical_upgrade", (37,)),
    "electric_service_upgrades": ("electrical_upgrade", (38,)),
    "electric_wiring": ("electrical_upgrade", (39,)),
    "window_replacement": ("windows_and_doors", (41, 42)),
    "door_replacement": ("windows_and_doors", (43,)),
    "central_air_conditioner": ("air_conditioner", ()),
    "whole_house_fan": ("ventilation", (46,)),
    "evaporative_cooler": ("ventilation", (48,)),
    "energy_audit": ("energy_audit", ()),
    "electric_outdoor_equipment": ("outdoor_equipment", ()),
    "ebike": ("electric_bicycle", ()),
    "new_electric_vehicle": ("electric_vehicle", (56,)),
    "used_electric_vehicle": ("electric_vehicle", (57,)),
    "new_plugin_hybrid_vehicle": ("electric_vehicle", (58,)),
    "used_plugin_hybrid_vehicle": ("electric_vehicle", (59,)),
}
# Units by our names, and how many of the source's units make up one of ours: a ton is 12,000 BTU an hour.
UNITS: Mapping[str, tuple[str, float]] = {
    "ton": ("ton", 1),
    "btuh10k": ("ton", 1.2),
    "square_foot": ("square_foot", 1),
    "kilowatt": ("kilowatt", 1),
    "watt": ("watt", 1),
    "kilowatt_hour": ("kilowatt_hour", 1),
}
CITY = re.compile(r"(?:City|Town|Village) of ([^()]+)", re.IGNORECASE)
CITY_AND_COUNTY = re.compile(r"City and County of ([^()]+)")
INDEPENDENT_CITY = re.compile(r"([^()]+) city")
LOAN = re.compile(r"\b(?:loans?|borrow|repay)\b", re.IGNORECASE)
USE = re.compile(r"\b(?:car ?share|test drive|loaner)\b", re.IGNORECASE)
WHOLE = re.compile(r"\b100%|\bfree\b|\bno[- ]cost\b|\bat no\b|\bfull\b", re.IGNORECASE)
PER_UNIT = re.compile(r"(?:/|\bper\b) ?(?:[\d,]+ ?)?(?:ton|sq|btu|kw|kilowatt|watt)", re.IGNORECASE)
PER_DEVICE = re.compile(r"\bper (?:(?:exterior|smart|electric) )?(?:unit|system|door|window|thermostat|vehicle|charger)\b", re.IGNORECASE)
LIMITED = re.compile(r"\blimit|\bup to \d", re.IGNORECASE)
SHARE_OF_COST = re.compile(
    r"(?:\b(?:not (?:to )?|cannot )exceed|\bcapped at|\blimited to|\bup to|\bmaximum(?: of)?) (100|[1-9][0-9]?)% of (?:the )?(?:total )?"
    r"(?:(?:equipment|materials?|project|job|installation|installed|purchase|product|unit|measure) )*(?:costs?|price)\b",
    re.IGNORECASE,
)
MANUFACTURED = re.compile(r"\bmanufactured (?:\(mobile\) )?(?:home|housing)", re.IGNORECASE)
ALSO_OTHERS = re.compile(r"\b(?:single[- ]family|site[- ]built|multi-?family|rental)\b", re.IGNORECASE)
ASIDE = re.compile(r"\([^)]*\$[^)]*\)")
AUTHORITY_TYPES = ("utility", "state", "city", "county")
MAX_NAME = 300
# US dollars a year.
MIN_LIMIT = 10_000
# The source's terms for how a household files its taxes, and ours.
FILINGS: Mapping[str, str] = {
    "single": "single",
    "joint": "joint",
    "married_filing_separately": "separate",
    "hoh": "head_of_household",
    "qualifying_widower_with_dependent_child": "surviving_spouse",
}


class SkippedError(Exception):
    """Why an incentive or a whole program is skipped."""


class Area(NamedTuple):
    """A row of `geographies.csv`."""

    key: str
    type: str
    name: str
    state: str


class Reach(NamedTuple):
    """The utilities whose customers, and the cities whose inhabitants, programs are for; neither: everybody in the state."""

    utilities: list[str]
    cities: list[str]


class Equipment(NamedTuple):
    """The starter catalogue's devices: ids by category, and the units in which a category has a typical size."""

    devices: Mapping[str, list[int]]
    units: Mapping[str, set[str]]
    eia_numbers: Mapping[str, str]


class Incomes(NamedTuple):
    """Income limits by the names that incentives refer to, and the federal poverty levels of AK, HI and all others."""

    thresholds: Mapping[str, Json]
    poverty_levels: Mapping[str, Json]

    def requirement(self, name: str | None, state: str) -> Row:
        """The cells of an offer that depends on the household's income; none if it does not.

        A limit by the area's median income gets no table: the source does not have these incomes.
        """
        if name is None:
            return {}
        threshold = self.thresholds[name]
        kind, values = threshold["type"], threshold["thresholds"]
        words = " ".join(str(threshold.get("description") or name).split())
        limits: dict[str, tuple[float, float]] = {}
        match kind:
            case "hhsize":
                limits = {size: (limit, limit) for size, limit in values.items()}
            case "county-hhsize":
                for by_size in values.values():
                    for size, limit in by_size.items():
                        least, most = limits.get(size, (limit, limit))
                        limits[size] = min(least, limit), max(most, limit)
            case "filing-status":
                limits = {FILINGS[filing]: (most, most) for filing, (least, most) in values.items() if filing in FILINGS and least == 0}
            case "fpl-percentage":
                levels = self.poverty_levels.get(state, self.poverty_levels["other"])["levels_by_hhsize"]
                for size, level in enumerate(levels[1:], 1):
                    limit = level * values["percentage"] / 100
                    limits[str(size)] = limit, limit
            case "ami-percentage":
                words = f"{values['percentage']:g}% of the area's median income" + (f" ({words})" if words != name else "")
        row = {"income_requirement": words[:2000]}
        # 0 is not a limit: the program asks for other proof, or the household is larger than the largest that it lists.
        limits = {key: limit for key, limit in limits.items() if limit[1] > 0}
        # Less is a monthly income, not a yearly one.
        if limits and min(least for least, _ in limits.values()) >= MIN_LIMIT:
            row["income_limits"] = " ".join(f"{key}:{between(*limit)}" for key, limit in limits.items())
        return row


@dataclass
class Source:
    """The catalogue being built: rows by file, and the number of skipped incentives by reason."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    skipped: Counter[str] = field(default_factory=Counter)


def read(directory: Path, starter: Path) -> Source:
    """The repository as a catalogue based on the starter catalogue's devices. Raises OSError or ValueError: not such a repository."""
    areas = read_areas(directory / "scripts" / "data" / "geographies.csv")
    equipment = read_equipment(starter)
    source = Source()
    add_utilities(source, areas, directory / "scripts" / "data" / "zip-to-geography-approx.csv", equipment)
    incomes = read_incomes(directory / "data")
    states = sorted(path for path in (directory / "data").iterdir() if (path / "incentives.json").exists())
    if not states:
        raise ValueError(f"{directory} has no data/STATE/incentives.json")
    for state in states:
        add_state(source, state, areas, equipment, incomes)
    return source


def read_equipment(starter: Path) -> Equipment:
    devices, units = defaultdict(list), defaultdict(set)
    for row in read_csv(starter / "devices.csv"):
        devices[row["category_key"]].append(int(row["id"]))
    for row in read_csv(starter / "device_category_sizes.csv"):
        units[row["category_key"]].add(row["unit"])
    return Equipment(devices, units, {row["key"]: row["eiaid"] for row in read_csv(starter / "utilities.csv") if row["eiaid"]})


def read_incomes(data: Path) -> Incomes:
    names = ("low_income_thresholds.json", "federal_poverty_levels.json")
    return Incomes(*(read_json(data / name) if (data / name).exists() else {} for name in names))


def between(least: float, most: float) -> str:
    return f"{least:.0f}" if least == most else f"{least:.0f}-{most:.0f}"


def read_areas(path: Path) -> dict[str, Area]:
    return {row["id"]: Area(row["key"], row["type"], row["name"], row["state"]) for row in read_csv(path)}


def read_csv(path: Path) -> Iterator[Row]:
    usual_limit = csv.field_size_limit(sys.maxsize)  # a cell may be the outline of a city
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file)
    finally:
        csv.field_size_limit(usual_limit)


def add_utilities(source: Source, areas: Mapping[str, Area], zips: Path, equipment: Equipment) -> None:
    for area in areas.values():
        if area.type == "electric_territory":
            row = {"key": area.key, "name": area.name, "country_code": "US", "region_code": area.state, "source": SOURCE}
            source.rows["utilities"].append(row | ({"eiaid": number} if (number := equipment.eia_numbers.get(area.key)) else {}))
    serving: dict[str, list[tuple[bool, str, str]]] = defaultdict(list)
    for row in read_csv(zips):
        if (utility := areas.get(row["geography_id"])) and utility.type == "electric_territory":
            serving[row["zip"]].append((row["predominant"] != "1", utility.name, utility.key))
    for zip_code, utilities in sorted(serving.items()):
        for rank, (_, _, key) in enumerate(sorted(utilities), start=1):
            source.rows["utility_service_areas"].append({"prefix": zip_code, "utility_key": key, "rank": str(rank)})


def add_state(source: Source, directory: Path, areas: Mapping[str, Area], equipment: Equipment, incomes: Incomes) -> None:
    programs = read_json(directory / "programs.json")
    authorities = {key: authority for group in read_json(directory / "authorities.json").values() for key, authority in group.items()}
    offers: dict[str, list[Row]] = defaultdict(list)
    incentives = read_json(directory / "incentives.json")
    for incentive in incentives:
        try:
            program = programs[incentive["program"]]
            reach_of(authorities[program["authority"]], areas, directory.name)
            offer = tier(incentive, equipment) | incomes.requirement(incentive.get("low_income"), directory.name)
            offers[incentive["program"]].append(offer)
        except SkippedError as reason:
            source.skipped[str(reason)] += 1
        except KeyError as error:
            source.skipped[f"refers to {error}, which is not there"] += 1
    path = directory / "incentive_relationships.json"
    relationships = read_json(path) if path.exists() else {}
    by_id = {incentive["id"]: incentive for incentive in incentives}
    excluded = excluded_programs(relationships.get("exclusions", {}), by_id)
    needed = relationships.get("prerequisites", {})
    shared = {number: group["max_value"] for group in relationships.get("combinations", []) for number in group["ids"]}
    for program_id, tiers in offers.items():
        add_program(source, program_id, programs, authorities, areas, directory.name)
        for row in tiers:
            excludes = sorted(key_of(other, programs) for other in excluded[row["id"]] if other in offers)
            row |= {"program_id": key_of(program_id, programs), "excludes": " ".join(excludes)}
            if row["id"] in shared:
                row["shared_cap"] = decimal(shared[row["id"]])
            if needs := needs_of(needed.get(row["id"], {}), by_id):
                row["other_requirements"] = f"only together with {needs}"[:2000]
            source.rows["program_tiers"].append(row)


def needs_of(needed: Json | str, incentives: Mapping[str, Json]) -> str:
    """Describes what is required of one incentive, or of all or any of several; missing ones are omitted."""
    if isinstance(needed, str):
        return english(incentives[needed]["short_description"]) if needed in incentives else ""
    joint, several = ("; ", needed["allOf"]) if "allOf" in needed else (" or ", needed.get("anyOf", []))
    return joint.join(filter(None, (needs_of(other, incentives) for other in several)))


def excluded_programs(exclusions: Mapping[str, Json], incentives: Mapping[str, Json]) -> dict[str, set[str]]:
    """By incentive: the other programs that pay nothing for a device that it pays for.

    Offers of its own program are not listed, as they are alternatives anyway.
    """
    excluded: dict[str, set[str]] = defaultdict(set)
    for number, exclusion in exclusions.items():
        for other in (incentives[other] for other in exclusion["ids"] if number in incentives and other in incentives):
            if other["program"] != incentives[number]["program"] and set(other["items"]) & set(incentives[number]["items"]):
                excluded[number].add(other["program"])
    return excluded


def add_program(
    source: Source, program_id: str, programs: Mapping[str, Json], authorities: Mapping[str, Json], areas: Mapping[str, Area], state: str
) -> None:
    program, key = programs[program_id], key_of(program_id, programs)
    authority = authorities[program["authority"]]
    reach = reach_of(authority, areas, state)
    kind = program["authority_type"]
    source.rows["programs"].append(
        {
            "id": key,
            "name": english(program["name"]),
            "authority": authority["name"][:MAX_NAME],
            "authority_type": kind if kind in AUTHORITY_TYPES else "other",
            "country_code": "US",
            "region_code": state,
            "scope": "utility" if reach.utilities else "state",
            "cities": " ".join(city.replace(" ", "_") for city in reach.cities),
            "url": english(program.get("url"), 2000),
            "source": SOURCE,
            "source_id": program_id,
        }
    )
    source.rows["program_utilities"] += [{"program_id": key, "utility_key": utility} for utility in reach.utilities]


def reach_of(authority: Json, areas: Mapping[str, Area], state: str) -> Reach:
    """Who an authority's programs are for. Raises SkippedError."""
    served = [areas[str(number)] for number in authority["geography_ids"] if str(number) in areas]
    if any(area.type == "state" and area.state == state for area in served):
        return Reach([], [])
    if utilities := sorted({area.key for area in served if area.type == "electric_territory"}):
        return Reach(utilities, [])
    if any(area.type == "gas_territory" for area in served):
        raise SkippedError("for customers of a gas utility, which a lookup doesn't know")
    # A lookup cannot judge areas other than cities: it knows neither counties nor outlines.
    if cities := sorted({city for area in served if (city := city_of(area, authority["name"]))}):
        return Reach([], cities)
    raise SkippedError("for a county or a part of an area, which a lookup doesn't know")


def city_of(area: Area, authority: str) -> str | None:
    """The city that an area is, by its name; a city may be a county of its own, like Denver and those of Virginia."""
    if area.type == "custom":
        found = CITY.fullmatch(area.name.strip())
    else:
        found = INDEPENDENT_CITY.fullmatch(area.name.strip()) or CITY_AND_COUNTY.fullmatch(authority.strip())
    return found[1] if found else None


def tier(incentive: Json, equipment: Equipment) -> Row:
    """Raises SkippedError."""
    if incentive.get("paused"):
        raise SkippedError("paused")
    if incentive.get("payment_methods") == ["assistance_program"]:
        description = english(incentive["short_description"])
        if LOAN.search(description):
            raise SkippedError("a loan")
        if USE.search(description):
            raise SkippedError("the use of what stays somebody else's")
    if incentive.get("eligible_geo_group"):
        raise SkippedError("for a part of the authority's area that the source doesn't tell")
    start, end = incentive.get("start_date") or "", incentive.get("end_date") or ""
    # A date may be a month or a year: 2026-03-01 is not after 2026.
    if start and end and start[: len(end)] > end:
        raise SkippedError("ends before it starts")
    pay = amount(incentive["amount"], english(incentive["short_description"]))
    is_whole = pay["amount_type"] == "percent" and pay["amount"] == "100" and "cap" not in pay
    if is_whole and "assistance_program" not in incentive["payment_methods"] and not WHOLE.search(english(incentive["short_description"])):
        raise SkippedError("a rebate whose amount the source doesn't tell")
    categories, devices = devices_of(incentive["items"], pay.get("unit"), equipment)
    return {
        "id": incentive["id"],
        "name": english(incentive["short_description"]),
        "category_keys": " ".join(categories),
        "device_ids": " ".join(map(str, devices)),
        "building_types": building_types(english(incentive["short_description"])),
        "owner_statuses": " ".join(sorted(incentive["owner_status"])),
        "start_date": start,
        "end_date": end,
        **pay,
        **share_of_cost(pay, english(incentive["short_description"])),
    }


def share_of_cost(pay: Row, description: str) -> Row:
    """The cap of an amount in percent of the cost, which only the description gives: "Not to exceed 50% of equipment cost"."""
    found = SHARE_OF_COST.search(description) if pay["amount_type"] != "percent" else None
    return {"cap_percent": found[1]} if found else {}


def building_types(description: str) -> str:
    """Residential ones, unless the words say that the offer is for manufactured homes; another amount for them, in parentheses, doesn't."""
    if not MANUFACTURED.search(ASIDE.sub("", description)):
        return "RESIDENTIAL"
    return "RESIDENTIAL MANUFACTURED_HOME" if ALSO_OTHERS.search(description) else "MANUFACTURED_HOME"


def amount(pay: Json, description: str = "") -> Row:
    """The amount, its unit and its cap. Raises SkippedError.

    For an amount per unit, a maximum of at most one unit's amount is the limit per unit if the description names one: "Up to $10 per
    square foot" does not cap a window. For an amount per device, a maximum of as much does not cap several: "Up to $50 per door".
    """
    number, least, cap = pay["number"], pay.get("minimum"), pay.get("maximum")
    is_for_unit = pay["type"] == "dollars_per_unit" and PER_UNIT.search(description)
    is_for_device = pay["type"] == "dollar_amount" and PER_DEVICE.search(description) and not LIMITED.search(description)
    if cap is not None and ((is_for_unit and cap <= number) or (is_for_device and cap == number)):
        least = cap = None
    if cap is not None and (cap <= 0 or (least is not None and least > cap)):
        raise SkippedError("contradictory caps")
    capped = {"cap": decimal(cap)} if cap is not None else {}
    match pay["type"]:
        case "dollar_amount":
            if cap is not None and number > cap:
                raise SkippedError("contradictory caps")
            return {"amount_type": "flat", "amount": decimal(number), **capped}
        case "percent":
            if not 0 <= number <= 1:
                raise SkippedError("a share above 100%")
            return {"amount_type": "percent", "amount": decimal(number * 100), **capped}
        case "dollars_per_unit" if pay.get("unit") in UNITS:
            unit, factor = UNITS[pay["unit"]]
            return {"amount_type": "per_unit", "amount": decimal(number * factor), "unit": unit, **capped}
        case "dollars_per_unit":
            raise SkippedError(f"unknown unit: {pay.get('unit')}")
        case other:
            raise SkippedError(f"unknown kind of amount: {other}")


def devices_of(items: list[str], unit: str | None, equipment: Equipment) -> tuple[list[str], list[int]]:
    """Our categories and devices for the source's items; no devices: all of the categories. Raises SkippedError."""
    known = [ITEMS[item] for item in items if item in ITEMS]
    if not known:
        raise SkippedError(f"no device of ours: {', '.join(sorted(items))}" if len(items) == 1 else "no device of ours: several others")
    sized = [(category, devices) for category, devices in known if unit is None or unit in equipment.units.get(category, ())]
    if not sized:
        raise SkippedError(f"no typical size in the unit: {known[0][0]} in {unit}")
    chosen = {device for category, devices in sized for device in devices or equipment.devices.get(category, [])}
    categories = sorted({category for category, _ in sized})
    whole = {device for category in categories for device in equipment.devices.get(category, [])}
    return categories, [] if chosen == whole else sorted(chosen)


def decimal(number: float) -> str:
    return f"{number:.6f}".rstrip("0").rstrip(".")


def key_of(program_id: str, programs: Mapping[str, Json]) -> str:
    """The id without characters that would need quoting in a URL; if another program has that id, with dashes in their place."""
    unsafe = re.compile(r"[^A-Za-z0-9._~-]")
    key = unsafe.sub("", program_id)
    return key if key == program_id or key not in programs else unsafe.sub("-", program_id)


def english(texts: Json | None, length: int = MAX_NAME) -> str:
    text = " ".join((texts or {}).get("en", "").split())
    return text if len(text) <= length else text[: length - 1] + "…"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
