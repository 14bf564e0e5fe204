"""Batches from the file to the results: check, submit, run, watch, and what to do with jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batch_lookups.cli import exits, progress, saving, uploads
from batch_lookups.cli.exits import Ended
from batch_lookups.cli.session import Dollars, Session, counted, facts, minute, pass_session, say, with_output
from batch_lookups.cli.uploads import Upload, with_again, with_file_options, with_labels
from batch_lookups.errors import ApiError
from batch_lookups.paging import pages

if TYPE_CHECKING:
    from batch_lookups.client import Client
    from batch_lookups.records import ResultsFormat
    from batch_lookups.types import Item, Job

F = TypeVar("F", bound=Callable[..., Any])

WAITS = {None: "", "continue": ", waits after its sample", "lookup_limit": ", waits at its limit of lookups"}

with_job = click.argument("job", metavar="JOB")
# Of the site itself, which another lookup does not change.
CODES_OF_SITES = {"not_found", "upstream_rejected"}


def with_item_filter(command: F) -> F:
    statuses = click.Choice(["pending", "processing", "completed", "failed"])
    command = click.option("--error", "error_code", metavar="CODE", help="Only items that failed with this code.")(command)
    return click.option("--status", type=statuses, help="Only such items.")(command)


def with_saving(command: F) -> F:
    command = click.option("--report", type=saving.PAGE, help="Also save the report as a page of HTML.")(command)
    saved = "Where to save the results: x.csv, x.xlsx or x.ndjson; standard output unless given."
    return click.option("-o", "--output", type=saving.RESULTS, help=saved)(command)


@click.command()
@with_file_options
@with_output
@pass_session
def check(session: Session, /, file: str, **options: Any) -> int:
    """Say what is wrong with a file, and how long it would take.

    \b
    Examples:
      batch-lookups check sites.csv
      batch-lookups check crm.xlsx --sheet Deals --map reference_id="Deal number" --devices 1,20

    FILE is CSV, TSV, an Excel workbook (xlsx, xls, xlsb), ods, NDJSON or JSON, also with gzip; - is standard input.

    Nothing is stored. Ends with 3 where some rows are invalid, with 5 where all are.
    """
    checked = uploads.check(session, Upload(file, **options))
    say_whole = session.output == "text"
    if say_whole:
        uploads.say_notes(checked)
        uploads.say_problems(checked)
    session.show(checked, summary_of_check(checked))
    if checked["valid_items"] == 0:
        return exits.NOTHING
    return exits.ALL if checked["valid"] and not checked["total_invalid"] else exits.SOME_FAILED


def summary_of_check(checked: Any) -> str:
    known = f", {checked['known_already']:,} of them known already" if checked["known_already"] else ""
    return f"{uploads.rows_are(checked['valid_items'], checked['total_items'])} valid{known}{estimate_of(checked)}"


def estimate_of(checked: Any) -> str:
    """How long a file would take; nothing where that is not known, or nothing is to be done."""
    seconds = checked["estimated_duration_seconds"]
    if seconds is None or not checked["valid_items"]:
        return ""
    return f", about {progress.duration(seconds)}" if seconds >= 1 else ", less than a second"


@click.command()
@with_file_options
@with_again
@with_output
@pass_session
def submit(session: Session, /, file: str, again: str | None, **options: Any) -> int:
    """Submit a file, and print the id of its job.

    \b
    Examples:
      batch-lookups submit sites.csv
      job=$(batch-lookups submit sites.csv --skip-invalid)
      zcat sites.csv.gz | batch-lookups submit - --name March

    FILE is CSV, TSV, an Excel workbook (xlsx, xls, xlsb), ods, NDJSON or JSON, also with gzip; - is standard input.

    The same file with the same options is submitted once in seven days: repeating the command finds its job.
    """
    created = uploads.submit(session, Upload(file, **options), again)
    say(f"{counted(created['total_items'], 'site')}; batch-lookups watch {created['job_id']}")
    session.show(created, created["job_id"])
    return exits.ALL


@click.command()
@with_file_options
@with_again
@with_saving
@pass_session
def run(session: Session, /, file: str, output: Path | None, report: Path | None, again: str | None, **options: Any) -> int:
    """Check and submit a file, watch its job, and save the results.

    \b
    Examples:
      batch-lookups run sites.csv -o results.csv
      batch-lookups run sites.xlsx -o results.xlsx --report report.html --skip-invalid

    FILE is CSV, TSV, an Excel workbook (xlsx, xls, xlsb), ods, NDJSON or JSON, also with gzip; - is standard input.

    Whatever interrupts it, the same command goes on where it was: with the same job, to the same file. Ctrl-C detaches; the job goes on.
    """
    output = none_if_dash(output)
    try:
        upload = Upload(file, **options)
        checked = uploads.check(session, upload)
        uploads.say_notes(checked)
        if not checked["valid"]:
            uploads.say_problems(checked)
            raise uploads.refusal(checked)
        created = uploads.submit(session, upload, again)
    except KeyboardInterrupt:
        raise Ended(exits.DETACHED, "Interrupted before the job was known", "The same command finds it, if it was made.") from None
    if not created["replayed"]:
        say(f"Job {created['job_id']}: {counted(created['total_items'], 'site')}{estimate_of(checked)}")
    try:
        return finish(session, created["job_id"], output, report)
    except ApiError as error:
        if error.code != "job_not_found" or not created["replayed"]:
            raise
        raise Ended(exits.ERROR, "This file was submitted before, and its job was deleted", "--again WORD makes a new job.") from error


@click.command()
@with_job
@with_saving
@with_output
@pass_session
def watch(session: Session, job: str, output: Path | None, report: Path | None) -> int:
    """Watch a job to its end, and save its results where told.

    \b
    Examples:
      batch-lookups watch 0193a5b2-... && notify-send done
      batch-lookups watch 0193a5b2-... -o results.csv --report report.html
      batch-lookups watch 0193a5b2-... --ndjson | jq .processed_items

    Ends with what came of the job: 0 all, 3 some failed, 5 all failed, 6 cancelled or stopped by a limit, also where it waits after its
    sample or at a limit. --ndjson prints the job at every change.
    """
    if output is None and report is None:
        ended = follow_job(session, job, f"batch-lookups watch {job}")
        if session.output != "ndjson":
            session.show(ended, summary_of(ended))
        return exits.of_job(ended)
    if session.output != "text":
        raise click.UsageError("--json and --ndjson print the job; leave out -o and --report, or them.")
    return finish(session, job, none_if_dash(output), report, save_results=output is not None)


def finish(session: Session, job_id: str, output: Path | None, report: Path | None, *, save_results: bool = True) -> int:
    """Watches a job, saves its results and its report, and answers what came of it."""
    saved = [f"-o {quoted(output)}"] if output else ["-o -"] if save_results else []
    saved += [f"--report {quoted(report)}"] if report else []
    command = " ".join(["batch-lookups watch", job_id, *saved])
    ended = follow_job(session, job_id, command)
    with detaching(command):
        if save_results:
            write_results(session.client, job_id, output, saving.format_of(output))
        if report is not None:
            saving.save(none_if_dash(report), [session.client.get_report_page(ended["report_id"]).encode()])
    places = [str(path) for path in (output, none_if_dash(report)) if path is not None]
    say(summary_of(ended) + (f"\nSaved {' and '.join(places)}" if places else ""))
    return exits.of_job(ended)


def follow_job(session: Session, job_id: str, command: str) -> Job:
    """The job once it has ended, or waits to be continued; `command` is what goes on after Ctrl-C."""
    with detaching(command), progress.shown() as show:
        for job in session.client.watch(job_id):
            show(job)
            if session.output == "ndjson":
                session.show(job, "")
            if job["waiting_for"]:
                break
    return job


@contextmanager
def detaching(command: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Ended(exits.DETACHED, "Detached; the job goes on", f"Watch it again: {command}") from None


def summary_of(job: Job) -> str:
    """Such as: 243 of 250 looked up, 7 failed (5 not_found, 2 upstream_timeout)."""
    completed = job["processed_items"] - job["failed_items"]
    text = f"{completed:,} of {job['total_items']:,} looked up"
    if job["failed_items"]:
        codes = ", ".join(f"{count:,} {code}" for code, count in sorted(job["errors_by_code"].items(), key=lambda entry: -entry[1]))
        text += f", {job['failed_items']:,} failed ({codes})"
        if not job["errors_by_code"].keys() - CODES_OF_SITES:
            text += f"\nSee which: batch-lookups items {job['id']} --status failed"
        elif job["status"] not in ("cancelled", "processing"):
            text += f"\nTry the failed ones again: batch-lookups retry {job['id']}"
    if job["waiting_for"] == "continue":
        text += f"\nThe sample is done. Go on: batch-lookups continue {job['id']}"
    elif job["waiting_for"] == "lookup_limit":
        text += f"\nThe limit of lookups is reached. Go on with a greater one: batch-lookups continue {job['id']} --max-lookups N"
    if job["waiting_for"]:
        text += f"\nOr leave it at that: batch-lookups cancel {job['id']}"
    return f"Cancelled: {text}" if job["status"] == "cancelled" else text


@click.command("list")
@click.option("--status", type=click.Choice(["pending", "processing", "completed", "failed", "cancelled"]), help="Only such jobs.")
@click.option("--name", metavar="TEXT", help="Only jobs with this text in their name.")
@with_labels(help="Only jobs with this label. Repeatable: with all of them.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
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
            job["status"] + WAITS[job["waiting_for"]],
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
        ("waits for", found["waiting_for"] or "-"),
    ]
    session.show(found, facts(lines))


@click.command()
@with_job
@with_output
@pass_session
def cancel(session: Session, job: str) -> None:
    """Cancel a job. What is being looked up finishes and counts.

    \b
    Example:
      batch-lookups cancel 0193a5b2-...
    """
    answer = session.client.cancel_job(job)
    session.show(answer, answer["message"])


@click.command("continue")
@with_job
@click.option("--max-lookups", type=click.IntRange(min=1), metavar="N", help="A new limit; what the job has used before counts.")
@with_output
@pass_session
def continue_job(session: Session, job: str, max_lookups: int | None) -> None:
    """Go on with a job that waits after its sample, or at its limit of lookups.

    \b
    Examples:
      batch-lookups run sites.csv --sample 20 -o sample.csv; batch-lookups continue 0193a5b2-...
      batch-lookups continue 0193a5b2-... --max-lookups 5000
    """
    continued = session.client.continue_job(job, max_lookups=max_lookups)
    say(f"It goes on; batch-lookups watch {job}")
    session.show(continued, continued["id"])


@click.command()
@click.option("--from", "created_from", metavar="DAY", help="From this day on, such as 2026-11-01.")
@click.option("--before", "created_before", metavar="DAY", help="Only days before this one.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many rows.")
@with_output
@pass_session
def usage(session: Session, created_from: str | None, created_before: str | None, limit: int) -> int:
    """Count the lookups by day and job, newest first, and those of this month.

    \b
    Examples:
      batch-lookups usage --from 2026-11-01
      batch-lookups usage --json | jq '[.[].lookups] | add'

    Ends with 6 where the month's limit is reached.
    """
    rest = pages(session.client.get_usage, created_from=created_from, created_before=created_before, limit=min(limit, 500))
    first = next(rest)
    month = first["month"]
    used, allowed = month["lookups"], month["limit"]
    lookups = counted(used, "lookup") if allowed is None else f"{used:,} of {counted(allowed, 'lookup')}"
    say(f"{lookups} in {month['month']}")
    session.show_all(
        (row for page in chain([first], rest) for row in page["usage"]),
        ["day", "lookups", "job", "name"],
        lambda row: (row["day"], row["lookups"], row["job_id"], row["name"]),
        "There are no lookups.",
        limit=limit,
    )
    return exits.ALL if allowed is None or used < allowed else exits.STOPPED


@click.command()
@with_job
@click.option("--error", "error_code", metavar="CODE", help="Only the items that failed with this code.")
@with_output
@pass_session
def retry(session: Session, job: str, error_code: str | None) -> None:
    """Try the failed items of an ended job again, and print the id of the new job.

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
        say(f"They are being tried again already, by the job {error.body['job_id']}")
        session.show({"job_id": error.body["job_id"], "retry_of_job_id": job}, error.body["job_id"])
        return
    say(f"{counted(created['total_items'], 'site')}; batch-lookups watch {created['job_id']}")
    session.show(created, created["job_id"])


@click.command()
@with_job
@click.option("--with-report", is_flag=True, help="Its report too.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@with_output
@pass_session
def delete(session: Session, job: str, with_report: bool, yes: bool) -> None:
    """Delete an ended job with its items; its report stays, unless told.

    \b
    Example:
      batch-lookups delete 0193a5b2-... --with-report --yes
    """
    if not yes:
        click.confirm(f"Delete job {job} with all its items{' and its report' if with_report else ''}?", abort=True, err=True)
    answer = session.client.delete_job(job, include_report=with_report)
    session.show(answer, answer["message"])


@click.command()
@with_job
@with_item_filter
@click.option("--limit", type=click.IntRange(min=1), help="How many; all unless given.")
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
        ["reference_id", "status", "amount", "error", "message"],
        lambda item: (item["reference_id"], item["status"], amount_of(item), item["error_code"], item["error_message"]),
        "There are no such items.",
        limit=limit,
    )


def amount_of(item: Item) -> Dollars | None:
    incentives = (item["result"] or {}).get("incentives") or {}
    amount: float | None = incentives.get("total_incentive_amount")
    return None if amount is None else Dollars(amount)


@click.command()
@with_job
@click.option(
    "-o", "--output", type=saving.OutputFile(), help="Where to save them: x.csv, x.xlsx or x.ndjson; CSV on standard output unless given."
)
@click.option("--follow", is_flag=True, help="Write each row once it is final, to the end of the job; go on where the file ends.")
@with_item_filter
@click.option("--ndjson", is_flag=True, help="NDJSON, whatever the file is called.")
@pass_session
def results(session: Session, job: str, output: Path | None, follow: bool, status: str | None, error_code: str | None, ndjson: bool) -> int:
    """Save the results of a job, as they are now or as they come.

    \b
    Examples:
      batch-lookups results 0193a5b2-... -o results.csv
      batch-lookups results 0193a5b2-... --status failed > failed.csv
      batch-lookups results 0193a5b2-... --follow -o results.ndjson

    --follow may be interrupted and repeated: it goes on behind the last whole row of the file.
    """
    if output and not ndjson:
        saving.RESULTS.convert(output, None, None)
    output = none_if_dash(output)
    results_format = "ndjson" if ndjson else saving.format_of(output)
    if follow:
        if status or error_code:
            raise click.UsageError("--follow writes all items; leave out --status and --error.")
        if saving.is_workbook(output) and not ndjson:
            raise click.UsageError("--follow writes CSV or NDJSON; a workbook is saved whole.")
        options = [*(["--ndjson"] if ndjson else []), *([f"-o {quoted(output)}"] if output else [])]
        with detaching(" ".join(["batch-lookups results", job, "--follow", *options])):
            ended = saving.follow(session.client, job, output, results_format)
        say(summary_of(ended))
        return exits.of_job(ended)
    write_results(session.client, job, output, results_format, status=status, error_code=error_code)
    if output is not None:
        say(f"Saved {output}")
    return exits.ALL


def write_results(
    client: Client,
    job_id: str,
    output: Path | None,
    results_format: ResultsFormat,
    *,
    status: str | None = None,
    error_code: str | None = None,
) -> None:
    """Saves the results as they are now, or writes them to standard output."""
    if results_format == "csv" and saving.is_workbook(output):
        saving.save(output, [client.get_results_xlsx(job_id, status=status, error_code=error_code)])
    else:
        saving.save(output, client.results(job_id, results_format, status=status, error_code=error_code))


def quoted(path: Path) -> str:
    """A path as a word for the shell."""
    import shlex

    return shlex.quote(str(path))


def none_if_dash(path: Path | None) -> Path | None:
    return None if path is None or str(path) == "-" else path


COMMANDS = [run, check, submit, list_jobs, status, watch, continue_job, cancel, retry, delete, items, results, usage]
