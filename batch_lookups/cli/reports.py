"""Reports: shown, saved, compared and shared; and the devices in them."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch_lookups.cli import saving
from batch_lookups.cli.runs import summary_of
from batch_lookups.cli.session import Dollars, Session, conditional_amount, counted, minute, open_browser, pass_session, say, with_output
from batch_lookups.errors import ApiError
from batch_lookups.paging import pages

if TYPE_CHECKING:
    from batch_lookups.types import ComparedSite, Job


class ReportGroup(click.Group):
    """Takes an argument that is not a command of the group for a job or a report to show."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=ReportGroup, short_help="Show, save, compare or share what a batch found.")
def report() -> None:
    """Show what a batch found, save its report, compare it with another one, or share it by a link.

    \b
    Examples:
      batch-lookups report 0193a5b2-...
      batch-lookups report 0193a5b2-... -o report.html --open
      batch-lookups report diff 0193a5b2-... 0193b7c4-...
      batch-lookups report share 0193a5b2-...
    """


@report.command()
@click.argument("job_or_report", metavar="JOB|REPORT")
@click.option("-o", "--output", type=saving.REPORT, help="Save it: x.html is a page, x.csv and x.xlsx the sites, x.json the sums.")
@click.option("--open", "opens", is_flag=True, help="Show the page in a browser.")
@with_output
@pass_session
def show(session: Session, job_or_report: str, output: Path | None, opens: bool) -> None:
    """Show what a batch found, or save its report.

    \b
    Examples:
      batch-lookups report 0193a5b2-...
      batch-lookups report 0193a5b2-... -o report.html --open
      batch-lookups report 0193a5b2-... -o sites.csv
    """
    import json

    client = session.client
    report_id = report_of(session, job_or_report)
    output = saving.none_if_dash(output)
    suffix = output.suffix.lower() if output else ""
    if output is None and not opens:
        summary = client.get_report_summary(report_id)
        session.show(summary, told_report(summary, job_of(session, summary["report"]["job_id"])) if session.output == "text" else "")
        return
    if opens and suffix in (".csv", ".xlsx", ".json"):
        raise click.UsageError("--open shows the page; save that as x.html.")
    if output is None:
        import tempfile

        output = Path(tempfile.mkdtemp(prefix="batch-lookups-")) / f"report-{report_id}.html"
    if suffix == ".csv":
        saving.save(output, [client.get_report_csv(report_id)])
    elif suffix == ".xlsx":
        saving.save(output, [client.get_report_xlsx(report_id)])
    elif suffix == ".json":
        saving.save(output, [json.dumps(client.get_report_summary(report_id), ensure_ascii=False, indent=2).encode() + b"\n"])
    else:
        saving.save(output, [client.get_report_page(report_id).encode()])
    say(f"Saved {output}")
    if opens:
        open_browser(output.resolve().as_uri())


@report.command(short_help="List the sites that differ between two reports.")
@click.argument("first", metavar="JOB|REPORT")
@click.argument("second", metavar="JOB|REPORT")
@click.option("--change", type=click.Choice(["added", "removed", "changed"]), help="Only differences of this kind.")
@with_output
@pass_session
def diff(session: Session, first: str, second: str, change: str | None) -> None:
    """List the sites that were added, removed or changed from the first to the second.

    \b
    Examples:
      batch-lookups report diff 0193a5b2-... 0193b7c4-...
      batch-lookups report diff 0193a5b2-... 0193b7c4-... --change removed --ndjson
    """
    rest = pages(session.client.diff_reports, report_of(session, first), report_of(session, second), change=change, limit=500)
    shown = next(rest)
    totals = shown["totals"]
    counts = ", ".join(f"{totals[kind]['sites']:,} {kind}" for kind in ("added", "removed", "changed", "unchanged"))
    conditional = f", and {Dollars(totals['conditional_difference'])} conditional" if totals["conditional_difference"] else ""
    say(f"{counts}; the difference is {Dollars(totals['difference'])}{conditional}")
    session.show_all(
        (difference for page in chain([shown], rest) for difference in page["differences"]),
        ["change", "reference_id", "from", "to", "difference", "conditional"],
        lambda entry: (
            entry["change"],
            entry["reference_id"],
            *map(amount_of, (entry["from"], entry["to"])),
            Dollars(entry["difference"]),
            conditional_amount(entry["conditional_difference"]),
        ),
        "There are no such differences.",
    )


def amount_of(site: ComparedSite | None) -> Dollars | None:
    return None if site is None else Dollars(site["total_incentive_amount"])


@report.command()
@click.argument("job_or_report", metavar="JOB|REPORT")
@click.option("--days", type=click.IntRange(1, 365), metavar="DAYS", help="How many days the link works; by default 30.")
@click.option("--list", "lists", is_flag=True, help="List the valid links instead.")
@click.option("--revoke", metavar="ID", help="Revoke the link with this id instead.")
@with_output
@pass_session
def share(session: Session, job_or_report: str, days: int | None, lists: bool, revoke: str | None) -> None:
    """Create a link to a report for people without a key, and print it. It is not shown again.

    \b
    Examples:
      batch-lookups report share 0193a5b2-... --days 7
      batch-lookups report share 0193a5b2-... --list
      batch-lookups report share 0193a5b2-... --revoke 0193a5b2-...

    With /csv or /xlsx appended, the link downloads the sites as a file.
    """
    if (days is not None) + lists + (revoke is not None) > 1:
        raise click.UsageError("Use one of --days, --list and --revoke.")
    report_id = report_of(session, job_or_report)
    if revoke is not None:
        answer = session.client.revoke_report_share(report_id, revoke)
        session.show(answer, answer["message"])
    elif lists:
        session.show_all(
            session.client.list_report_shares(report_id)["shares"],
            ["id", "created (UTC)", "expires (UTC)", "by"],
            lambda link: (link["id"], minute(link["created_at"]), minute(link["expires_at"]), link["created_by"]),
            "There are no links to this report.",
        )
    else:
        made = session.client.share_report(report_id, expires_in_days=days)
        say(f"Valid until {minute(made['expires_at'])} UTC; revoke it with --revoke {made['id']}")
        session.show(made, made["url"])


@click.command()
@click.option("--category", metavar="KEY", help="Only devices of this category, such as heat_pump.")
@with_output
@pass_session
def devices(session: Session, category: str | None) -> None:
    """List the devices that sites may ask about, with their ids.

    \b
    Examples:
      batch-lookups devices --category heat_pump
      batch-lookups devices --json | jq -r '.[] | select(.name | test("ductless")) | .id'
    """
    session.show_all(
        session.client.list_devices(category=category)["devices"],
        ["id", "device", "category"],
        lambda device: (device["id"], device["name"], f"{device['category_name']} ({device['category_key']})"),
        "There are no such devices.",
    )


def report_of(session: Session, job_or_report: str) -> str:
    """The report's id, from its own or from that of its job."""
    try:
        return session.client.get_job(job_or_report)["report_id"]
    except ApiError as error:
        if error.code != "job_not_found":
            raise
        return job_or_report


def job_of(session: Session, job_id: str | None) -> Job | None:
    """The job of a report; None if it was deleted."""
    try:
        return session.client.get_job(job_id) if job_id else None
    except ApiError as error:
        if error.code != "job_not_found":
            raise
        return None


def told_report(summary: Any, job: Job | None) -> str:
    """The sums of a report, and what its job skipped: the report itself counts only the sites that were looked up."""
    report = summary["report"]
    lines = [
        f"{report['name']}: {job['status'] if job else report['status']}",
        *([summary_of(job)] if job and job["item_counts"]["completed"] < job["total_items"] else []),
        f"  sites looked up {report['total_sites']:>12,}",
        f"  eligible sites  {report['eligible_sites']:>12,}",
        f"  incentives      {Dollars(report['total_incentive_value'])!s:>12}",
    ]
    if report["conditional_incentive_amount"]:
        conditional = Dollars(report["conditional_incentive_amount"])
        lines.append(f"  conditional     {conditional!s:>12}, depending on facts about the households")
    if summary["by_program"]:
        lines.append("The largest programs:")
        lines += [
            f"  {Dollars(total['total_incentive_value'])!s:>14}  {counted(total['eligible_sites'], 'site'):>12}  {total['program_name']}"
            for total in summary["by_program"][:10]
        ]
    return "\n".join(lines)


COMMANDS = [report, devices]
