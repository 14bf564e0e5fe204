"""Charts as inline SVG, which scale, print and need nothing else. Every text from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from math import pi, sqrt

ACCENT, ACCENT_LIGHT, GREY, INK = (11, 110, 95), (222, 239, 234), "#e8ecef", "#1d2b36"

# Every state as a tile, about where it lies: column and row.
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
class Bar:
    """One bar: its length goes by `value`, `figure` is what stands at its end."""

    label: str
    value: float
    figure: str


def bar_chart(bars: Iterable[Bar], *, width: int) -> str:
    """Horizontal bars, one below the other, in the order given. `width` is about that of the place on the page, in pixels."""
    rows = list(bars)
    label_width = width * 3 // 8
    longest = max((bar.value for bar in rows), default=0) or 1
    room = width - label_width - 200
    parts = []
    for number, bar in enumerate(rows):
        y = number * 30
        label = escape(shortened(bar.label, label_width // 8))
        length = max(bar.value / longest * room, 2)
        parts.append(
            f"<g><title>{escape(bar.label)}: {escape(bar.figure)}</title>"
            f'<text x="{label_width - 12}" y="{y + 19}" text-anchor="end" fill="{INK}">{label}</text>'
            f'<rect x="{label_width}" y="{y + 5}" width="{length:.1f}" height="20" rx="3" fill="{shade(1)}"/>'
            f'<text x="{label_width + length + 8:.1f}" y="{y + 19}" class="figure">{escape(bar.figure)}</text></g>'
        )
    return svg(width, max(len(rows), 1) * 30, parts, "Bar chart")


def donut(share: float, caption: str) -> str:
    """A ring filled by a share from 0 to 1, with the percentage and a caption in its middle."""
    radius, circumference = 70, 2 * pi * 70
    ring = f'<circle cx="100" cy="100" r="{radius}" fill="none" stroke-width="26"'
    return svg(
        200,
        200,
        [
            f'{ring} stroke="{GREY}"/>',
            f'{ring} stroke="{shade(1)}" stroke-dasharray="{share * circumference:.2f} {circumference:.2f}" '
            'transform="rotate(-90 100 100)"/>',
            f'<text x="100" y="102" text-anchor="middle" class="big">{share:.0%}</text>',
            f'<text x="100" y="124" text-anchor="middle" class="figure">{escape(caption)}</text>',
        ],
        f"{share:.0%} {caption}",
    )


def state_map(values: Mapping[str, float], figures: Mapping[str, str]) -> str:
    """The states as tiles, the darker the larger their value. States without one are grey."""
    largest = max(values.values(), default=0) or 1
    parts = []
    for code, (column, row) in STATE_TILES.items():
        strength = sqrt(values.get(code, 0) / largest)
        fill = shade(strength) if code in values else GREY
        ink = "#fff" if strength > 0.5 else INK if code in values else "#9aa5ad"
        parts.append(
            f"<g><title>{escape(figures.get(code, code))}</title>"
            f'<rect x="{column * 40}" y="{row * 40}" width="37" height="37" rx="5" fill="{fill}"/>'
            f'<text x="{column * 40 + 18.5}" y="{row * 40 + 23}" text-anchor="middle" fill="{ink}">{code}</text></g>'
        )
    return svg(477, 317, parts, "Map of the states")


def shade(strength: float) -> str:
    """From light (0) to the full colour (1)."""
    return "#" + "".join(f"{round(light + (dark - light) * strength):02x}" for light, dark in zip(ACCENT_LIGHT, ACCENT, strict=True))


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def svg(width: int, height: int, parts: Iterable[str], label: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
