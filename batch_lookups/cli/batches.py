"""Jobs: which there are, how far they are, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batch_lookups.cli import progress
from batch_lookups.cli.session import Dollars, Session, conditional_amount, confirm, counted, facts, minute, pass_session, say, with_output
from batch_lookups.cli.uploads import with_labels
from batch_lookups.errors import ApiError
from batch_lookups.paging import pages

if TYPE_CHECKING:
    from batch_lookups.types import Item

F = TypeVar("F", bound=Callable[..., Any])

WAITS = {None: "", "continue": ", waits after its sample", "lookup_limit": ", waits at its lookup limit"}
CONTINUED = {
    None: "-",
    "continue": "batch-lookups continue JOB, after its sample",
    "lookup_limit": "batch-lookups continue JOB --max-lookups N, at its lookup limit",
}

with_job = click.argument("job", metavar="JOB")


def with_item_filter(command: F) -> F:
    statuses = click.Choice(["pending", "processing", "completed", "failed"])
    command = click.option("--error", "error_code", metavar="CODE", help="Only items that failed with this code.")(command)
    return click.option("--status", type=statuses, help="Only items with this status.")(command)


@click.command("list")
@click.option(
    "--status", type=click.Choice(["pending", "processing", "completed", "failed", "cancelled"]), help="Only jobs with this status."
)
@click.option("--name", metavar="TEXT", help="Only jobs with this text in their name.")
@with_labels(help="Only jobs with this label. Repeatable; a job must have all of them.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", default=20, show_default=True, help="How many.")
@with_output
@pass_session
def list_jobs(session: Session, status: str | None, name: str | None, labels: tuple[tuple[str, str], ...], limit: int) -> None:
    """List jobs, newest first.

    \b
    Examples:
      batch-lookups list --status processing
      batch-lookups list --label team=north --name march
      batch-lookups list --json | jq -r '.[].id'
    """
    found = pages(session.client.list_jobs, status=status, name=name, labels=dict(labels), limit=min(limit, 200))
    session.show_all(
        (job for page in found for job in page["jobs"]),
        ["id", "status", "done", "of", "failed", "created (UTC)", "name"],
        lambda job: (
            job["id"],
            f"{job['status']}, waits until {minute(job['waiting_until'])}"
            if job["waiting_until"]
            else job["status"] + WAITS[job["waiting_for"]],
            job["processed_items"],
            job["total_items"],
            job["failed_items"],
            minute(job["created_at"]),
            job["name"],
        ),
        "There are no jobs.",
        limit=limit,
    )


@click.command()
@with_job
@with_output
@pass_session
def status(session: Session, job: str) -> None:
    """Show a job and its progress, as it is now.

    \b
    Example:
      batch-lookups status 0193a5b2-... --json | jq .errors_by_code
    """
    found = session.client.get_job(job)
    lines = [
        ("job", found["id"]),
        ("name", found["name"] or "-"),
        ("labels", ", ".join(f"{key}={value}" for key, value in found["labels"].items()) or "-"),
        ("status", found["status"]),
        ("progress", progress.told(found)),
        ("failed", ", ".join(f"{count:,} {code}" for code, count in found["errors_by_code"].items()) or "-"),
        ("report", found["report_id"]),
        ("created", f"{minute(found['created_at'])} UTC"),
        ("ended", f"{minute(found['completed_at'])} UTC" if found["completed_at"] else "-"),
        ("retry of", found["retry_of_job_id"] or "-"),
        ("lookups", f"{found['lookups']:,}"),
        (
            "waits for",
            f"the month to end, {minute(found['waiting_until'])} UTC" if found["waiting_until"] else CONTINUED[found["waiting_for"]],
        ),
    ]
    session.show(found, facts(lines))


@click.command()
@with_job
@with_output
@pass_session
def cancel(session: Session, job: str) -> None:
    """Cancel a job. Lookups in flight finish and count.

    \b
    Example:
      batch-lookups cancel 0193a5b2-...
    """
    answer = session.client.cancel_job(job)
    session.show(answer, answer["message"])


@click.command("continue", short_help="Continue a job after its sample, or at its lookup limit.")
@with_job
@click.option("--max-lookups", type=click.IntRange(min=1), metavar="N", help="A new limit, which includes what the job has already used.")
@with_output
@pass_session
def continue_job(session: Session, job: str, max_lookups: int | None) -> None:
    """Continue a job that waits after its sample, or at its lookup limit.

    \b
    Examples:
      batch-lookups run sites.csv --sample 20 -o sample.csv; batch-lookups continue 0193a5b2-...
      batch-lookups continue 0193a5b2-... --max-lookups 5000
    """
    continued = session.client.continue_job(job, max_lookups=max_lookups)
    say(f"The job continues; batch-lookups watch {job}")
    session.show(continued, continued["id"])


@click.command(short_help="Retry the failed items of a job that has ended.")
@with_job
@click.option("--error", "error_code", metavar="CODE", help="Only the items that failed with this code.")
@with_output
@pass_session
def retry(session: Session, job: str, error_code: str | None) -> None:
    """Retry the failed items of a job that has ended, and print the id of the new job.

    \b
    Examples:
      batch-lookups retry 0193a5b2-...
      batch-lookups watch $(batch-lookups retry 0193a5b2-... --error upstream_timeout) -o again.csv
    """
    try:
        created = session.client.retry_job(job, error_code=error_code)
    except ApiError as error:
        if error.code != "retry_in_progress":
            raise
        say(f"They are already being retried, by job {error.body['job_id']}")
        session.show({"job_id": error.body["job_id"], "retry_of_job_id": job}, error.body["job_id"])
        return
    say(f"{counted(created['total_items'], 'site')}; batch-lookups watch {created['job_id']}")
    session.show(created, created["job_id"])


@click.command(short_help="Delete a job that has ended, with its items.")
@with_job
@click.option("--with-report", is_flag=True, help="Also delete its report.")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@with_output
@pass_session
def delete(session: Session, job: str, with_report: bool, yes: bool) -> None:
    """Delete a job that has ended, with its items; its report is kept unless --with-report is given.

    \b
    Example:
      batch-lookups delete 0193a5b2-... --with-report --yes
    """
    if not yes:
        confirm(f"Delete job {job} with all its items{' and its report' if with_report else ''}?")
    answer = session.client.delete_job(job, include_report=with_report)
    session.show(answer, answer["message"])


@click.command()
@with_job
@with_item_filter
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="How many; all unless given.")
@with_output
@pass_session
def items(session: Session, job: str, status: str | None, error_code: str | None, limit: int | None) -> None:
    """List the items of a job, in upload order.

    \b
    Examples:
      batch-lookups items 0193a5b2-... --status failed
      batch-lookups items 0193a5b2-... --error not_found --ndjson
    """
    session.show_all(
        session.client.items(job, status=status, error_code=error_code),
        ["reference_id", "status", "amount", "conditional", "error", "message"],
        lambda item: (item["reference_id"], item["status"], *amounts_of(item), item["error_code"], item["error_message"]),
        "There are no such items.",
        limit=limit,
    )


def amounts_of(item: Item) -> tuple[Dollars | None, Dollars | None]:
    """What the site gets, and what it would get under conditions."""
    incentives = (item["result"] or {}).get("incentives") or {}
    amount: float | None = incentives.get("total_incentive_amount")
    return None if amount is None else Dollars(amount), conditional_amount(incentives.get("conditional_incentive_amount"))


COMMANDS = [list_jobs, status, continue_job, cancel, retry, delete, items]
