"""JSON bodies are checked piece by piece; the boundaries of the pieces make no difference."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyshell.api.errors import ApiError
from pyshell.api.json_bodies import check_json
from pyshell.postgres import json_text
from pyshell.postgres.compact import PIECE_BYTES
from pyshell.postgres.json_text import pieces_outside_strings

LEAVES = st.sampled_from(
    ["1", "1e15", "-3E15", "1e16", "1E+0016", "2e-29", "2e-30", "7.5e-0100", "1e000", "10000000000000000000000"]
) | st.text('e"\\[]{}1é', max_size=6).map(json.dumps)
BODIES = st.recursive(LEAVES, lambda values: st.lists(values, max_size=4).map(lambda texts: f"[{','.join(texts)}]"))


def verdict(body: bytes, piece_bytes: int) -> str | None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(json_text, "PIECE_BYTES", piece_bytes)
        try:
            check_json(body)
        except ApiError as error:
            return error.code
    return None


@given(BODIES, st.integers(2, 9))
@example("[1e0000000000000000000000000016]", 2)
@example('["\\\\\\"1e16"]', 3)
@example("[-1E-0000000000000030]", 5)
def test_the_size_of_the_pieces_does_not_affect_the_verdict(text: str, piece_bytes: int) -> None:
    body = text.encode()
    numbers: list[float] = []

    def note(number: str) -> float:
        numbers.append(abs(float(number)))
        return numbers[-1]

    json.loads(body, parse_float=note)
    is_out_of_range = any(number >= 1e16 or 0 < number < 1e-29 for number in numbers)
    assert verdict(body, piece_bytes) == verdict(body, 1_000_000) == ("number_out_of_range" if is_out_of_range else None)


@pytest.mark.parametrize("piece_bytes", [2, 7, 64, 1_000_000])
def test_levels_are_counted_across_pieces(piece_bytes: int) -> None:
    def nested(levels: int) -> bytes:
        return b'[{"a":[]},' * (levels - 2) + b'{"b":[]}' + b"]" * (levels - 2)

    assert verdict(nested(64), piece_bytes) is None
    assert verdict(nested(65), piece_bytes) == "body_too_complex"
    assert verdict(b"[" * 65, piece_bytes) == "body_too_complex"


def test_values_are_limited_to_more_than_a_full_batch_needs() -> None:
    full_batch = b"[%s1]" % (b"1," * 1_200_000)
    assert verdict(full_batch, PIECE_BYTES) is None
    assert verdict(b"[%s1]" % (b"1," * 1_999_999), PIECE_BYTES) is None
    assert verdict(b"[%s1]" % (b"1," * 2_000_000), PIECE_BYTES) == "body_too_complex"
    assert verdict(b'["%s"]' % (b"1," * 2_000_000), PIECE_BYTES) is None, "in a text, they are none"


@pytest.mark.parametrize("value", ["a" * 1_000_000, "\\" * 300_000, '"' * 300_000, list(range(200_000))])
def test_no_call_gets_more_than_a_piece(value: Any) -> None:
    pieces = list(pieces_outside_strings(json.dumps([value, 1]).encode()))
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert len(pieces) > 9
    assert json.loads(b"".join(pieces) if isinstance(value, list) else b"".join(pieces).replace(b"[,", b"[")) == (
        [value, 1] if isinstance(value, list) else [1]
    )
