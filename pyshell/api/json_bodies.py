"""What a JSON body may not hold, found before anything makes values of it: a few bytes can stand for megabytes."""

from __future__ import annotations

import re

from pyshell.api.errors import ApiError
from pyshell.worker.answers import MAX_DEPTH, is_nested_deeper, outside_strings

# Numbers from 1e16 on, and those below 1e-30: PostgreSQL writes 1e131071, eight bytes here, with 131,072 digits.
OUT_OF_RANGE = re.compile(rb"[0-9][eE](?:\+?0*(?:1[6-9]|[2-9][0-9]|[1-9][0-9]{2})|-0*(?:[3-9][0-9]|[1-9][0-9]{2}))")


def check_json(body: bytes) -> None:
    """Raises ApiError 400 for a number that is out of range, or for more than MAX_DEPTH levels. Whether it is JSON is not its business."""
    outside = outside_strings(body)
    if OUT_OF_RANGE.search(outside):
        raise ApiError(400, "number_out_of_range", "The body contains a number that is out of range")
    if is_nested_deeper(outside, MAX_DEPTH):
        raise ApiError(400, "body_too_complex", f"The body is nested more than {MAX_DEPTH} levels deep")
