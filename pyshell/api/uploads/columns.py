"""Which column of a file holds what: by the names that people give them, or as the request says."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence

from pyshell.api.errors import ApiError

# Names as `plain` leaves them; the earlier one wins where two columns fit.
NAMES: dict[str, tuple[str, ...]] = {
    "reference_id": (
        "reference id", "reference", "ref id", "ref", "deal id", "deal", "external id", "opportunity id", "project id", "site id",
        "record id", "customer id", "account id", "id",
    ),
    "street_1": (
        "street 1", "street", "street address", "address line 1", "address 1", "street line 1", "service address", "site address",
        "property address", "mailing street", "address",
    ),
    "street_2": ("street 2", "address line 2", "address 2", "street line 2", "unit", "apartment", "apt", "suite"),
    "city": ("city", "town", "city town", "municipality", "locality"),
    "state_or_province_code": (
        "state or province code", "state or province", "state province", "state code", "province code", "state", "province", "region", "st",
    ),
    "postal_code": ("postal code", "zip code", "zip", "zipcode", "zip postal code", "postal zip code", "zip postal", "postcode", "postal"),
    "country_code": ("country code", "country"),
    "building_type": ("building type", "property type", "type of building", "building"),
    "device_ids": ("device ids", "device id", "devices", "device"),
    "create_application": ("create application",),
}  # fmt: skip
REQUIRED = ("reference_id", "street_1", "city", "state_or_province_code", "postal_code", "building_type", "device_ids")
DELIMITERS = ",;\t|"

_FIELDS = {name: (field, rank) for field, names in NAMES.items() for rank, name in enumerate(names)}


def plain(name: str) -> str:
    """Small letters, with one space for whatever else stands between: `Street_1` and ` street #1 ` are `street 1`."""
    words = " ".join(re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z0-9])", " ", name).lower()))
    shorter = words.removeprefix("address ")
    return shorter if shorter in _FIELDS and words not in _FIELDS else words


def detect_delimiter(header: str) -> str:
    """The delimiter by which most columns have a name that we know, else by which there are most."""

    def fitness(delimiter: str) -> tuple[int, int]:
        try:
            columns = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            return -1, 0
        return sum(plain(column) in _FIELDS for column in columns), len(columns)

    return max(DELIMITERS, key=fitness)


def find_columns(header: Sequence[str], given: Mapping[str, str], defaults: Mapping[str, object]) -> dict[str, int]:
    """The place of each field's column. `given` says which column a field is in, by its name in the header.

    Raises ApiError 400: a column that is named is not there, two fit equally well, one that is needed is missing.
    """
    places: dict[str, int] = {}
    ranks: dict[str, int] = {}
    for field, column in given.items():
        field = field.removeprefix("address.")
        if field not in NAMES:
            raise ApiError(400, "invalid_columns", f"Unknown field {field[:100]}", hint=f"The fields are {', '.join(NAMES)}.")
        matching = [place for place, name in enumerate(header) if name.strip() == column.strip()]
        if len(matching) != 1:
            raise ApiError(
                400, "invalid_columns", f"{'No' if not matching else 'More than one'} column is called {column[:100]}", hint=_found(header)
            )
        places[field] = matching[0]
    taken = set(places.values())
    for place, name in enumerate(header):
        field, rank = _FIELDS.get(plain(name), ("", 0))
        if not field or place in taken or (field in places and field not in ranks):
            continue
        if rank == ranks.get(field):
            raise ApiError(
                400,
                "ambiguous_columns",
                f"More than one column is called {name.strip()[:100]}",
                hint='Say which one is meant: ?columns={"' + field + '": "..."}',
            )
        if rank < ranks.get(field, len(NAMES[field])):
            places[field], ranks[field] = place, rank
    missing = [field for field in REQUIRED if field not in places and field not in defaults]
    if missing:
        raise ApiError(400, "missing_columns", f"Columns are missing: {', '.join(missing)}", hint=_found(header))
    return places


def _found(header: Sequence[str]) -> str:
    return f"The header has {', '.join(name.strip()[:50] for name in header[:50]) or 'no columns'}."
