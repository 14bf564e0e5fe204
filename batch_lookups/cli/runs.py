"""From a file to results: check, submit, run, watch, results."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batch_lookups.cli import errors, exits, progress, saving, settings, uploads
from batch_lookups.cli.batches import with_item_filter, with_job
from batch_lookups.cli.exits import Ended
from batch_lookups.cli.session import Session, counted, minute, pass_session, say, with_output
from batch_lookups.cli.uploads import Upload, with_again, with_file_options
from batch_lookups.errors import ApiError, BatchLookupsError

if TYPE_CHECKING:
    from batch_lookups.client import Client
    from batch_lookups.records import ResultsFormat
    from batch_lookups.types import Job

F = TypeVar("F", bound=Callable[..., Any])

# Codes for the site itself, which another lookup does not change.
CODES_OF_SITES = {"not_found", "upstream_rejected"}


def with_saving(default: str) -> Callable[[F], F]:
    """Adds --output and --report. `default`: where the results go unless --output is given."""

    def add(command: F) -> F:
        command = click.option("--report", type=saving.PAGE, help="Also save the report as an HTML page.")(command)
        saved = f"Where to save the results: x.csv, x.xlsx or x.ndjson; {default}."
        return click.option("-o", "--output", type=saving.RESULTS, help=saved)(command)

    return add


@click.command()
@with_file_options
@with_output
@pass_session
def check(session: Session, /, file: str, **options: Any) -> int:
    """Check a file for errors, and estimate how long it would take.

    \b
    Examples:
      batch-lookups check sites.csv
      batch-lookups check crm.xlsx --sheet Deals --map reference_id="Deal number" --devices 1,20

    FILE is CSV, TSV, an Excel workbook (xlsx, xls, xlsb), ods, NDJSON or JSON, also gzipped; - is standard input.

    Nothing is stored. Exits with 3 if some rows are invalid, with 5 if all are.
    """
    upload = Upload(file, **options)
    checked = uploads.check(session, upload)
    say_whole = session.output == "text"
    if say_whole:
        uploads.say_notes(checked, upload)
        uploads.say_problems(checked)
    session.show(checked, summary_of_check(checked))
    if checked["valid_items"] == 0:
        return exits.NOTHING
    return exits.ALL if checked["valid"] and not checked["total_invalid"] else exits.SOME_FAILED


def summary_of_check(checked: Any) -> str:
    known = f", {checked['known_already']:,} of them already known" if checked["known_already"] else ""
    # A row that repeats one counts as invalid only where invalid rows are skipped.
    repeated = ", but some repeat a reference_id" if checked["duplicates"] and checked["valid_items"] and not checked["valid"] else ""
    return f"{uploads.rows_are(checked['valid_items'], checked['total_items'])} valid{repeated}{known}{estimate_of(checked)}"


def estimate_of(checked: Any) -> str:
    """How long a file would take; nothing if that is unknown, or there is nothing to do."""
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

    FILE is CSV, TSV, an Excel workbook (xlsx, xls, xlsb), ods, NDJSON or JSON, also gzipped; - is standard input.

    The same file with the same options is submitted only once in seven days: repeating the command finds its job.
    """
    with uploads.until_known():
        created = uploads.submit(session, Upload(file, **options), again)
    say(f"{counted(created['total_items'], 'site')}; batch-lookups watch {created['job_id']}")
    session.show(created, created["job_id"])
    return exits.ALL


@click.command()
@with_file_options
@with_again
@with_saving("standard output unless given")
@pass_session
def run(session: Session, /, file: str, output: Path | None, report: Path | None, again: str | None, **options: Any) -> int:
    """Check and submit a file, watch its job, and save the results.

    \b
    Examples:
      batch-lookups run sites.csv -o results.csv
      batch-lookups run sites.xlsx -o results.xlsx --report report.html --skip-invalid

    FILE is CSV, TSV, an Excel workbook (xlsx, xls, xlsb), ods, NDJSON or JSON, also gzipped; - is standard input.

    If it is interrupted, the same command picks up where it stopped: same job, same file. Ctrl-C detaches; the job continues.
    """
    output = saving.none_if_dash(output)
    if report is not None:
        saving.require_two_places(output, saving.none_if_dash(report))
    source = os.fstat(sys.stdin.fileno()) if file == "-" else Path(file).stat()
    for path in (output, saving.none_if_dash(report)):
        # If the file were replaced, the same command would find another file, and submit that.
        if path is not None and path.is_file() and os.path.samestat(path.stat(), source):
            raise click.UsageError(f"{path} is the input file; save to another one.")
    with uploads.until_known():
        upload = Upload(file, **options)
        checked = uploads.check(session, upload)
        uploads.say_notes(checked, upload)
        if not checked["valid"]:
            uploads.say_problems(checked)
            raise uploads.refusal(checked)
        created = uploads.submit(session, upload, again)
    if not created["replayed"]:
        say(f"Job {created['job_id']}: {counted(created['total_items'], 'site')}{estimate_of(checked)}")
    try:
        return finish(session, created["job_id"], output, report)
    except ApiError as error:
        if error.code != "job_not_found" or not created["replayed"]:
            raise
        raise Ended(exits.ERROR, "This file was submitted before, and its job was deleted", "--again WORD creates a new job.") from error


@click.command()
@with_job
@with_saving("not at all unless given")
@with_output
@pass_session
def watch(session: Session, job: str, output: Path | None, report: Path | None) -> int:
    """Watch a job until it ends, and save its results if asked to.

    \b
    Examples:
      batch-lookups watch 0193a5b2-... && notify-send done
      batch-lookups watch 0193a5b2-... -o results.csv --report report.html
      batch-lookups watch 0193a5b2-... --ndjson | jq .processed_items

    The exit code tells how the job ended: 0 all completed, 3 some failed, 5 all failed, 6 cancelled, stopped by a limit, or waiting after
    its sample or at a limit. --ndjson prints the job at every change.
    """
    if output is None and report is None:
        ended = follow_job(session, job, f"batch-lookups watch {job}")
        if session.output != "ndjson":
            session.show(ended, summary_of(ended))
        return exits.of_job(ended)
    if session.output != "text":
        raise click.UsageError("--json and --ndjson print the job; they cannot be combined with -o or --report.")
    if output is not None and report is not None:
        saving.require_two_places(saving.none_if_dash(output), saving.none_if_dash(report))
    return finish(session, job, saving.none_if_dash(output), report, save_results=output is not None)


def finish(session: Session, job_id: str, output: Path | None, report: Path | None, *, save_results: bool = True) -> int:
    """Watches a job, saves its results and its report, and returns the exit code."""
    saved = [f"-o {quoted(output)}"] if output else ["-o -"] if save_results else []
    saved += [f"--report {quoted(report)}"] if report else []
    command = " ".join(["batch-lookups watch", job_id, *saved])
    ended = follow_job(session, job_id, command)
    with detaching(command), keeping_results(command):
        if save_results:
            write_results(session.client, job_id, output, saving.format_of(output))
        if report is not None:
            saving.save(saving.none_if_dash(report), [session.client.get_report_page(ended["report_id"]).encode()])
    places = [str(path) for path in (output, saving.none_if_dash(report)) if path is not None]
    say(summary_of(ended) + (f"\nSaved {' and '.join(places)}" if places else ""))
    return exits.of_job(ended)


def follow_job(session: Session, job_id: str, command: str) -> Job:
    """The job once it has ended, or waits to be continued; `command` continues after Ctrl-C."""
    with detaching(command), progress.shown(beside_data=session.output == "ndjson" and sys.stdout.isatty()) as show:
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
    except (KeyboardInterrupt, SystemExit) as error:
        raise Ended(exits.interrupted(error), "Detached; the job continues", f"Watch it again: {command}") from None
    except BatchLookupsError as error:
        if not isinstance(error, ApiError) or error.status != 404:
            error.add_note(f"Nothing is lost. Watch it again: {command}")
        raise


@contextmanager
def keeping_results(command: str) -> Iterator[None]:
    """If a file cannot be written after the job has ended: says that nothing is lost, and the command that saves it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        hint = f"The service keeps the results. Save them again, or elsewhere: {command}"
        raise Ended(exits.ERROR, errors.told_of_file(error), hint) from error


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
            text += f"\nRetry the failed ones: batch-lookups retry {job['id']}"
    if job["waiting_until"]:
        text += f"\nThe organization has used up this month's lookups. The job continues by itself at {minute(job['waiting_until'])} UTC"
    elif job["waiting_for"] == "continue":
        text += f"\nThe sample is done. Continue: batch-lookups continue {job['id']}"
    elif job["waiting_for"] == "lookup_limit":
        text += f"\nThe lookup limit is reached. Continue with a higher one: batch-lookups continue {job['id']} --max-lookups N"
    if job["waiting_for"]:
        text += f"\nOr stop here: batch-lookups cancel {job['id']}"
    return f"Cancelled: {text}" if job["status"] == "cancelled" else text


@click.command()
@with_job
@click.option(
    "-o", "--output", type=saving.OutputFile(), help="Where to save them: x.csv, x.xlsx or x.ndjson; CSV on standard output unless given."
)
@click.option("--follow", is_flag=True, help="Write each row once it is final, until the job ends; an existing file is continued.")
@with_item_filter
@click.option("--ndjson", is_flag=True, help="NDJSON, whatever the file is called.")
@pass_session
def results(session: Session, job: str, output: Path | None, follow: bool, status: str | None, error_code: str | None, ndjson: bool) -> int:
    """Save the results of a job, as they are now or as they arrive.

    \b
    Examples:
      batch-lookups results 0193a5b2-... -o results.csv
      batch-lookups results 0193a5b2-... --status failed > failed.csv
      batch-lookups results 0193a5b2-... --follow -o results.ndjson

    --follow may be interrupted and repeated: it continues after the last complete row of the file. Its exit codes are those of
    `watch`.
    """
    if output and not ndjson:
        saving.RESULTS.convert(output, None, None)
    output = saving.none_if_dash(output)
    results_format = "ndjson" if ndjson else saving.format_of(output)
    if follow:
        if status or error_code:
            raise click.UsageError("--follow writes all items; leave out --status and --error.")
        if saving.is_workbook(output) and not ndjson:
            raise click.UsageError("--follow writes CSV or NDJSON, not a workbook.")
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
    """A path quoted for the shell; on Windows, for cmd.exe and PowerShell."""
    import shlex

    if settings.ON_WINDOWS:
        return str(path) if re.fullmatch(r"[\w.:\\/-]+", str(path)) else f'"{path}"'
    return shlex.quote(str(path))


COMMANDS = [run, check, submit, watch, results]
