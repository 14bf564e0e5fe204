"""Two hundred exports as people have them: from CRMs and spreadsheets, in three languages, with the usual damage.

Each must be read without options as the sites in it, or be refused, but never silently misread.
"""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openpyxl
import orjson
import pytest

from pyshell.api.uploads.files import read_file
from tests.conftest import Connection
from tests.workbooks import saved

FIELDS = (
    "reference_id",
    "street_1",
    "street_2",
    "city",
    "state_or_province_code",
    "postal_code",
    "country_code",
    "building_type",
    "device_ids",
)
HEADERS = {
    "Salesforce report": (
        "Opportunity ID", "Billing Street", None, "Billing City", "Billing State/Province", "Billing Zip/Postal Code", "Billing Country",
        "Building Type", "Device IDs",
    ),
    "Salesforce API": (
        "Id", "MailingStreet", None, "MailingCity", "MailingState", "MailingPostalCode", "MailingCountry", "Building_Type__c",
        "Device_IDs__c",
    ),
    "HubSpot": (
        "Record ID", "Street Address", "Street Address 2", "City", "State/Region", "Postal Code", "Country/Region", "Property Type",
        "Devices",
    ),
    "Excel": ("Deal ID", "Address 1", "Address 2", "City", "State", "ZIP Code", "Country", "Building type", "Device ID(s)"),
    "Sheets": ("Project ID", "Site Address", "Apt/Suite", "Town", "ST", "Zip", None, "Bldg Type", "Equipment"),
    "Numbers": (
        "Site ID", "Service Street", "Unit Number", "Service City", "Service State", "ZIP+4", "Country Code", "Home Type",
        "Device",
    ),
    "French": ("Référence", "Adresse 1", "Adresse 2", "Ville", "Province", "Code postal", "Pays", "Type de bâtiment", "Appareils"),
    "German": ("Referenz", "Straße", "Adresszusatz", "Ort", "Bundesstaat", "PLZ", "Land", "Gebäudetyp", "Geräte"),
    "Spanish": (
        "Referencia", "Dirección física", "Apartamento", "Municipio", "Estado/región", "Código postal", "País/región", "Tipo de propiedad",
        "Dispositivos",
    ),
}  # fmt: skip
PLACES = [
    ("12 Elm St", "", "Boston", "MA", "02134", "US"),
    ("301 Congress Ave", "Suite 4", "Austin", "TX", "78701", "US"),
    ("1 F St", "", "Washington", "DC", "20001-1234", "US"),
    ("100 Calle Sol", "Apt 2", "San Juan", "PR", "00901", "US"),
    ("5 Rue d'Été", "", "Montréal", "QC", "H2Y 1C6", "CA"),
    ("200 King St W", "Unit 9, rear", "Toronto", "ON", "M5H 3T4", "CA"),
]
STATES = {
    "MA": ("Massachusetts", "ma", "US-MA", "Mass."),
    "TX": ("Texas", "tx", "Tex.", "Tejas"),
    "DC": ("D.C.", "District of Columbia"),
    "PR": ("Puerto Rico",),
    "QC": ("Québec", "Quebec", "CA-QC"),
    "ON": ("Ontario", "Ont."),
}
COUNTRIES = {"US": ("US", "USA", "United States", "U.S.A.", "EE. UU."), "CA": ("CA", "Canada", "CAN", "Kanada")}
TYPES = {
    "RESIDENTIAL": ("RESIDENTIAL", "Residential", "Single Family", "Single-family home", "Residencial"),
    "MULTIFAMILY": ("Multi-family", "Multi Family", "Apartment", "MULTIFAMILY"),
    "MANUFACTURED_HOME": ("Mobile Home", "Manufactured Home", "Casa móvil"),
    "COMMERCIAL": ("Commercial", "Office"),
}


FOOTERS: list[list[list[str]]] = [[], [], [[]], [[], ["Open Deals"], ["Copyright (c) 2000-2026 the CRM, inc."]], [["Total: 4"]]]


@dataclass
class Export:
    """A file, and the sites in it."""

    data: bytes
    sites: list[dict[str, Any]]


def export(seed: int) -> Export:
    chance = random.Random(seed)
    header = HEADERS[chance.choice(list(HEADERS))]
    sites, rows = [], []
    for number in range(chance.randint(1, 6)):
        street, unit, city, state, postal_code, country = chance.choice(PLACES)
        building_type = chance.choice(list(TYPES))
        devices = chance.sample(range(1, 11), chance.randint(1, 3))
        cells: dict[str, str] = {
            "reference_id": f"006-{seed}-{number}",
            "street_1": street,
            "street_2": unit,
            "city": city,
            "state_or_province_code": chance.choice((state, *STATES[state])),
            "postal_code": spoil(postal_code, country, chance),
            "country_code": chance.choice(COUNTRIES[country]),
            "building_type": chance.choice(TYPES[building_type]),
            "device_ids": chance.choice((";", "; ", "|", " ")).join(map(str, devices)),
        }
        if state == "PR" and chance.random() < 0.5:
            cells |= {"state_or_province_code": "", "country_code": "PR"} if header[6] else {}
        rows.append(
            [adorn(cells[field], chance) for field, name in zip(FIELDS, header, strict=True) if name]
            + [chance.choice(("", "call first", "2026-03-01"))]
        )
        address = {"street_1": street, "city": city, "state_or_province_code": state, "postal_code": postal_code, "country_code": country}
        if unit and header[2]:
            address["street_2"] = unit
        sites.append({"reference_id": cells["reference_id"], "address": address, "building_type": building_type, "device_ids": devices})
    names = [chance.choice((name, name.upper(), f" {name} ")) for name in header if name] + ["Notes"]
    above: list[list[str]] = chance.choice(([], [], [["Sites for March"]], [[], ["Sites for March"], []]))
    below = chance.choice(FOOTERS)
    return Export(chance.choice(WRITERS)([*above, names, *rows, *below], chance), sites)


def spoil(postal_code: str, country: str, chance: random.Random) -> str:
    if country == "CA":
        return chance.choice((postal_code, postal_code.lower(), postal_code.replace(" ", "-")))
    return chance.choice(
        (
            postal_code,
            postal_code.lstrip("0"),
            postal_code.replace("-", ""),
            postal_code.replace("-", " "),
            f"{postal_code}-"[: 10 if "-" in postal_code else 6],
        )
    )


def adorn(cell: str, chance: random.Random) -> str:
    """Sometimes adds what a spreadsheet or a web page leaves around a cell."""
    if cell and chance.random() < 0.1:
        return chance.choice((f'="{cell}"', f"'{cell}", f"{cell}\u200b", f"\u00a0{cell}", f"{cell} "))
    return cell


def as_csv(delimiter: str, encoding: str, end: str = "\r\n") -> Callable[[list[list[str]], random.Random], bytes]:
    def write(rows: list[list[str]], chance: random.Random) -> bytes:
        width = max(map(len, rows))
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=chance.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
        writer.writerows([*row, *[""] * (width - len(row))] if chance.random() < 0.5 else row for row in rows)
        return text.getvalue().encode(encoding, "ignore" if encoding == "cp1252" else "strict")

    return write


def as_workbook(rows: list[list[str]], chance: random.Random) -> bytes:
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    for row in rows:
        # A ZIP typed into Excel becomes a number, unless the cell was formatted as text before.
        sheet.append(
            [int(cell) if cell.isdecimal() and len(cell) > 1 and chance.random() < 0.5 else re.sub(r'="(.*)"', r"\1", cell) for cell in row]
        )
    return saved(book)


WRITERS: list[Callable[[list[list[str]], random.Random], bytes]] = [
    as_csv(",", "utf-8"),
    as_csv(",", "utf-8-sig", "\n"),
    as_csv(";", "utf-8-sig"),
    as_csv("\t", "utf-16"),
    as_csv(";", "cp1252"),
    as_workbook,
    as_workbook,
]


@pytest.mark.long
def test_two_hundred_exports_are_understood_and_none_is_misread(shared_owner: Connection) -> None:
    understood, wrong, refused = 0, [], []
    for seed in range(200):
        made = export(seed)
        table = read_file(made.data)
        file = orjson.dumps(table.members()).decode()
        row = shared_owner.execute(
            """
            select to_jsonb(f.items), array(select app.problems_text(i.problems)
                                             from app.parse_batch_items(f.items, true, f.item_notes) i where i.problems is not null)
              from app.read_file(null, %s::jsonb) f
            """,
            [file],
        ).fetchone()
        assert row is not None
        items, errors = row
        if errors:
            refused.append(f"{seed}: {errors}")
            continue
        understood += 1
        if items != made.sites:
            wrong += [f"{seed}: {found}\n    is not {site}" for found, site in zip(items, made.sites, strict=False) if found != site][:1]
    assert not wrong, "\n".join(wrong)
    assert understood >= 195, "\n".join(refused)
