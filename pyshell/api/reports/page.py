"""A report as one self-contained HTML page: to read, to print, to forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from pyshell.api.reports.charts import Bar, bar_chart, donut, state_map

Row = dict[str, Any]
MAX_BARS = 12

STYLE = """
:root { color-scheme: light; --ink: #1d2b36; --soft: #5c6b77; --line: #dfe5e9; --accent: #0b6e5f; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f7; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 48px; }
header { border-left: 6px solid var(--accent); padding-left: 18px; margin-bottom: 24px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 14px; }
header p, .note { color: var(--soft); margin: 0; }
.note { font-size: 13px; margin-top: 10px; }
.grid { display: grid; gap: 16px; margin-bottom: 16px; }
.figures { grid-template-columns: repeat(4, 1fr); }
.pair { grid-template-columns: 1fr 2fr; }
.halves { grid-template-columns: 1fr 1fr; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  break-inside: avoid; margin-bottom: 16px; }
.grid > .card { margin: 0; }
.card strong { display: block; font-size: 27px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card > span { color: var(--soft); font-size: 13px; }
svg { display: block; width: 100%; height: auto; font: 13px system-ui, "Segoe UI", Roboto, Arial, sans-serif; }
svg .figure { fill: #5c6b77; } svg .big { font-size: 30px; font-weight: 700; fill: #1d2b36; }
.donut svg { max-width: 230px; margin: 0 auto; } .map svg { max-width: 560px; margin: 0 auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); padding: 6px 8px; }
td { border-bottom: 1px solid var(--line); padding: 6px 8px; vertical-align: top; overflow-wrap: anywhere; }
tr { break-inside: avoid; } thead { display: table-header-group; }
td small { color: var(--soft); display: block; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
@media (max-width: 760px) { .figures { grid-template-columns: 1fr 1fr; } .pair, .halves { grid-template-columns: 1fr; } }
@media print {
  @page { margin: 14mm; }
  body { background: #fff; font-size: 12px; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  .sites { break-inside: auto; border: 0; padding: 0; }
}
"""


def report_page(summary: Row, sites: Sequence[Row]) -> str:
    """The page of what `get_incentive_report_summary` answers, with the sites given as its table."""
    report = summary["report"]
    total, eligible, value = report["total_sites"], report["eligible_sites"], report["total_incentive_value"]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report["name"])}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>{escape(report["name"])}</h1>
<p>{escape(report["description"])} · {_when(report)}</p>
</header>
<div class="grid figures">
{_figure(dollars(value), "incentives in total")}
{_figure(f"{total:,}", "sites looked up")}
{_figure(f"{eligible:,}", "sites eligible")}
{_figure(dollars(value / eligible if eligible else 0), "on average for an eligible site")}
</div>
<div class="grid pair">
<section class="card donut"><h2>Eligible sites</h2>{donut(eligible / total if total else 0, f"of {total:,} sites")}</section>
<section class="card map"><h2>Incentives by state</h2>{_map(summary["by_state"])}</section>
</div>
{_bars("Programs that pay the most", summary["by_program"], lambda row: row["program_name"] or row["program_id"], "programs", 1000)}
<div class="grid halves">
{_bars("Utilities", summary["by_utility"], lambda row: row["name"] or "Not known", "utilities", 480)}
{_bars("Devices", summary["by_device_category"], lambda row: row["name"] or row["key"], "categories", 480)}
</div>
{_states_table(summary["by_state"])}
{_sites_table(sites, total)}
<p class="note">Estimates from published program rules, in US dollars. Programs change: ask the authority before you count on an amount.</p>
</main>
</body>
</html>
"""


def dollars(amount: float) -> str:
    return f"${amount:,.0f}"


def _when(report: Row) -> str:
    if report["completed_at"]:
        return f"completed on {report['completed_at'][:10]}"
    return f"under way since {report['created_at'][:10]}: the figures are those of the sites so far"


def _figure(figure: str, caption: str) -> str:
    return f'<div class="card"><strong>{figure}</strong><span>{caption}</span></div>'


def _map(states: Sequence[Row]) -> str:
    american = {row["state_or_province_code"]: row for row in states if row["country_code"] == "US"}
    return state_map(
        {code: row["total_incentive_value"] for code, row in american.items()},
        {code: f"{row['name'] or code}: {dollars(row['total_incentive_value'])}, {row['sites']:,} sites" for code, row in american.items()},
    )


def _bars(title: str, rows: Sequence[Row], label: Callable[[Row], str], plural: str, width: int) -> str:
    shown = [row for row in rows if row["total_incentive_value"] > 0][:MAX_BARS]
    chart = bar_chart(
        (
            Bar(label(row), row["total_incentive_value"], f"{dollars(row['total_incentive_value'])} · {row['eligible_sites']:,} sites")
            for row in shown
        ),
        width=width,
    )
    rest = rows[len(shown) :]
    more = f'<p class="note">{len(rest):,} more {plural} with {_sum(rest)}.</p>' if rest else ""
    return f'<section class="card"><h2>{title}</h2>{chart if shown else ""}{more}</section>'


def _sum(rows: Sequence[Row]) -> str:
    return dollars(sum(row["total_incentive_value"] for row in rows))


def _states_table(states: Sequence[Row]) -> str:
    lines = "".join(
        f"<tr><td>{escape(row['name'] or row['state_or_province_code'] or 'Not known')}</td>"
        f'<td class="number">{row["sites"]:,}</td><td class="number">{row["eligible_sites"]:,}</td>'
        f'<td class="number">{dollars(row["total_incentive_value"])}</td></tr>'
        for row in states
    )
    return f"""<section class="card"><h2>States and provinces</h2>
<table><thead><tr><th>State</th><th class="number">Sites</th><th class="number">Eligible</th><th class="number">Incentives</th></tr></thead>
<tbody>{lines}</tbody></table></section>"""


def _sites_table(sites: Sequence[Row], total: int) -> str:
    title = "Sites" if len(sites) == total else f"The {len(sites):,} sites with the largest incentives, of {total:,}"
    lines = "".join(
        f"<tr><td>{escape(site['reference_id'])}<small>{escape(_address(site['address']))}</small></td>"
        f"<td>{escape(site['utility']['name'] or '')}</td>"
        f"<td>{escape(_programs(site['programs']))}</td>"
        f'<td class="number">{dollars(site["total_incentive_amount"])}</td></tr>'
        for site in sites
    )
    return f"""<section class="card sites"><h2>{title}</h2>
<table><thead><tr><th>Site</th><th>Utility</th><th>Programs</th><th class="number">Incentives</th></tr></thead>
<tbody>{lines}</tbody></table></section>"""


def _address(address: Row) -> str:
    return ", ".join(address[part] for part in ("street_1", "city", "state_or_province_code") if address.get(part))


def _programs(programs: Sequence[Row]) -> str:
    named = [program["program_name"] or program["program_id"] for program in programs[:3]]
    return "; ".join(named) + (f" and {len(programs) - 3} more" if len(programs) > 3 else "")
