"""A report as one self-contained HTML page: to read, to print, to forward. `page.html` is its template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyshell.api.reports.charts import shade, state_tiles
from pyshell.words import counted, plural

if TYPE_CHECKING:
    from jinja2 import Template

Row = dict[str, Any]
MAX_BARS = 12

# The default description of a new report; it means nothing once the batch has ended.
USUAL_DESCRIPTION = re.compile(r"Batch lookup job with \d+ items\. Sites will be added as processing completes\.")


def report_page(summary: Row, sites: Sequence[Row], job: Row | None = None, failed_items: Sequence[Row] = ()) -> str:
    """The page for a result of `get_incentive_report_summary`.

    `sites` are those with the largest amounts, for the table. `job` is the result of `get_batch_lookup` for the report's job, None once
    it has been deleted; `failed_items` are the first of its items that failed.
    """
    report = summary["report"]
    return _template().render(
        report=report,
        description="" if USUAL_DESCRIPTION.fullmatch(report["description"]) else report["description"],
        job=job,
        status=_status(report, job),
        total_items=job["total_items"] if job else report["total_sites"],
        failed_count=job["failed_items"] if job else 0,
        reasons=_reasons(job["errors_by_code"], failed_items) if job else [],
        failed_items=failed_items,
        states=summary["by_state"],
        tiles=list(state_tiles(_american(summary["by_state"]))),
        largest_state=max(_american(summary["by_state"]).values(), default=0),
        programs=summary["by_program"],
        utilities=summary["by_utility"],
        categories=summary["by_device_category"],
        sites=sites,
        generated_at=datetime.now(UTC),
    )


def _status(report: Row, job: Row | None) -> str:
    """The outcome of the batch; it is completed only if most of its sites were looked up."""
    if job and job["status"] == "cancelled":
        return "cancelled"
    status = {"complete": "completed", "error": "failed"}.get(report["status"], "processing")
    return "incomplete" if status == "completed" and job and job["failed_items"] * 2 > job["total_items"] else status


def _reasons(errors_by_code: dict[str, int], failed_items: Sequence[Row]) -> list[Row]:
    """Why items failed, most frequent reason first, worded as for the first item that failed for it."""
    messages = {item["error_code"]: item["error_message"] for item in reversed(failed_items)}
    return [
        {"code": code, "count": count, "message": messages.get(code) or code.replace("_", " ").capitalize()}
        for code, count in sorted(errors_by_code.items(), key=lambda entry: (-entry[1], entry[0]))
    ]


def _american(states: Sequence[Row]) -> dict[str, float]:
    """The value of each US state with sites."""
    return {row["state_or_province_code"]: row["total_incentive_value"] for row in states if row["country_code"] == "US"}


def dollars(amount: float) -> str:
    """Such as $1,235 for 1234.50: halves are rounded up, as in the portal."""
    return f"${int(amount + 0.5):,}"


def number(count: int) -> str:
    """Such as 1,204."""
    return f"{count:,}"


def percent(share: float) -> str:
    """Such as 79% for a share from 0 to 1; 100% only for all, 0% only for none, as in the portal."""
    return f"{share:.0%}" if share in (0, 1) else f"{min(max(int(share * 100 + 0.5), 1), 99)}%"


def day(timestamp: str) -> str:
    """Such as November 27, 2026."""
    time = datetime.fromisoformat(timestamp)
    return f"{time:%B} {time.day}, {time.year}"


def one_line(address: Row) -> str:
    return ", ".join(address[part] for part in ("street_1", "city", "state_or_province_code") if address.get(part))


def program_names(programs: Sequence[Row]) -> str:
    """The first three, and how many more."""
    names = [program["program_name"] or program["program_id"] for program in programs]
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@cache
def _template() -> Template:
    # Processes that render no report never load the library.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        dollars=dollars,
        number=number,
        percent=percent,
        day=day,
        counted=counted,
        plural=plural,
        one_line=one_line,
        program_names=program_names,
    )
    environment.globals.update(max_bars=MAX_BARS, shade=shade)
    return environment.get_template("page.html")
