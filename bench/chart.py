"""The chart of the figures: horizontal bars in an SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

WIDTH, LABEL, BAR, GAP = 720, 190, 22, 10


def bars(title: str, values: Mapping[str, float], emphasized: str) -> str:
    """A bar for each value, the longest first; the emphasized one stands out."""
    longest = max(values.values())
    rows = []
    for place, (name, value) in enumerate(sorted(values.items(), key=lambda item: -item[1])):
        top = 44 + place * (BAR + GAP)
        width = (WIDTH - LABEL - 90) * value / longest
        color = "#1b7f5c" if name == emphasized else "#9aa5b1"
        rows.append(
            f'<text x="{LABEL - 10}" y="{top + 16}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{LABEL}" y="{top}" width="{width:.0f}" height="{BAR}" rx="3" fill="{color}"/>'
            f'<text x="{LABEL + width + 8:.0f}" y="{top + 16}">{value:,.0f}</text>'
        )
    height = 44 + len(values) * (BAR + GAP) + 6
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="14">'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="12" y="26" font-weight="600">{escape(title)}</text>{"".join(rows)}</svg>\n'
    )
