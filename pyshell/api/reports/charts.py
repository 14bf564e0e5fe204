"""Geometry and colours of the report's charts; page.html draws them as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

ACCENT, ACCENT_LIGHT = (11, 110, 95), (205, 231, 224)
NO_SITES, NO_INCENTIVES, INK, SOFT_INK = "#e8ecef", "#ffffff", "#1d2b36", "#5c6b77"

# Each state as a tile, near its place on the map: column and row.
STATE_TILES = {
    code: (column, row)
    for row, line in enumerate(
        (
            "AK .. .. .. .. .. .. .. .. .. .. ME",
            ".. .. .. .. .. .. .. .. .. .. VT NH",
            ".. WA ID MT ND MN WI .. MI NY MA RI",
            ".. OR NV WY SD IA IL IN OH PA NJ CT",
            ".. CA UT CO NE MO KY WV VA MD DE ..",
            ".. .. AZ NM KS AR TN NC SC DC .. ..",
            ".. .. .. .. OK LA MS AL GA .. .. ..",
            "HI .. .. .. TX .. .. .. .. FL .. PR",
        )
    )
    for column, code in enumerate(line.split())
    if code != ".."
}


@dataclass(frozen=True, slots=True)
class Tile:
    """A state on the map: its place, in tiles, and its colours."""

    code: str
    column: int
    row: int
    fill: str
    ink: str


def state_tiles(values: Mapping[str, float]) -> Iterator[Tile]:
    """The map of the states: the larger the value, the darker; white for none, grey for no sites."""
    largest = max(values.values(), default=0)
    for code, (column, row) in STATE_TILES.items():
        value = values.get(code)
        if value is None:
            yield Tile(code, column, row, NO_SITES, SOFT_INK)
        elif value <= 0:
            yield Tile(code, column, row, NO_INCENTIVES, INK)
        else:
            # The square root of the value: a state with a hundredth of the largest value is still visible.
            strength = sqrt(value / largest)
            yield Tile(code, column, row, shade(strength), "#ffffff" if strength > 0.7 else INK)


def shade(strength: float) -> str:
    """From light (0) to the full colour (1)."""
    return "#" + "".join(f"{round(light + (dark - light) * strength):02x}" for light, dark in zip(ACCENT_LIGHT, ACCENT, strict=True))
