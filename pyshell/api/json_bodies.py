"""Refuses JSON bodies that a few bytes would expand to megabytes, before any values are created from them."""

from __future__ import annotations

import re

from pyshell.api.errors import ApiError
from pyshell.postgres.json_text import MAX_DEPTH, pieces_of_numbers_and_depth

# Numbers from 1e16 on, and those below 1e-30: PostgreSQL writes 1e131071, eight bytes here, with 131,072 digits.
OUT_OF_RANGE = re.compile(rb"[0-9][eE](?:\+?0*(?:1[6-9]|[2-9][0-9]|[1-9][0-9]{2})|-0*(?:[3-9][0-9]|[1-9][0-9]{2}))")

# PostgreSQL needs a hundred bytes or more for each while it reads them. A full batch has a million, with a hundred devices a site.
MAX_VALUES = 2_000_000


def check_json(body: bytes) -> None:
    """Raises ApiError 400 for a number that is out of range, or for more than MAX_DEPTH levels or MAX_VALUES values.

    It does not check whether the body is valid JSON.
    """
    values = 1
    for piece, numbers, depth in pieces_of_numbers_and_depth(body):
        if OUT_OF_RANGE.search(numbers):
            raise ApiError(400, "number_out_of_range", "The body contains a number that is out of range")
        values += piece.count(b",")
        if values > MAX_VALUES:
            raise ApiError(400, "body_too_complex", f"The body has more than {MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            raise ApiError(400, "body_too_complex", f"The body is nested more than {MAX_DEPTH} levels deep")
