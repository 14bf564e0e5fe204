"""Files that are written completely or not at all, and results that are appended to an existing file."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from batch_lookups.cli import exits, progress
from batch_lookups.cli.exits import Ended

if TYPE_CHECKING:
    from batch_lookups.client import Client
    from batch_lookups.records import ResultsFormat
    from batch_lookups.types import Job

# A running job is not asked for new results more often.
FOLLOW_SECONDS = 1.0


class OutputFile(click.Path):
    """A file to save, or - for standard output. A file that could not be written is refused before anything is done.

    `endings`: the extensions of its possible formats; a name without one may have any of them.
    """

    def __init__(self, *endings: str) -> None:
        super().__init__(dir_okay=False, writable=True, allow_dash=True, path_type=Path)
        self._endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if str(path) == "-":
            return path
        if self._endings and path.suffix.lower() not in ("", *self._endings):
            self.fail(f"{path.name} must end with {', '.join(self._endings[:-1])} or {self._endings[-1]}.", param, ctx)
        # An empty name, as from an unset variable, is the current folder.
        if path.is_dir():
            self.fail("The name of the file is empty.", param, ctx)
        if is_special(path):
            return path
        folder = path.resolve().parent
        if not folder.is_dir():
            self.fail(f"The folder {folder} does not exist.", param, ctx)
        if not os.access(folder, os.W_OK):
            self.fail(f"The folder {folder} is not writable.", param, ctx)
        return path


RESULTS = OutputFile(".csv", ".xlsx", ".ndjson", ".jsonl")
PAGE = OutputFile(".html", ".htm")
REPORT = OutputFile(".html", ".htm", ".csv", ".xlsx", ".json")


def require_two_places(output: Path | None, report: Path | None) -> None:
    """Ends if the report and the results would be written to the same place; None: standard output."""
    one = output is report if output is None or report is None else output.resolve() == report.resolve() and not is_special(output)
    if one:
        raise click.UsageError("The results and the report would go to the same place; choose two.")


def none_if_dash(path: Path | None) -> Path | None:
    """The file; None: standard output."""
    return None if path is None or str(path) == "-" else path


def save(path: Path | None, pieces: Iterable[bytes]) -> None:
    """Writes a file next to its destination and then moves it there: readers find the old file or the complete new one.

    A device or a pipe is written to directly, and a link stays one. None: to standard output.
    """
    if path is None:
        with naming("standard output"):
            sys.stdout.buffer.writelines(pieces)
            sys.stdout.buffer.flush()
        return
    # Before the link is followed: /dev/stdout leads to a pipe that has no name.
    if is_special(path):
        with naming(path), path.open("wb") as target:
            target.writelines(pieces)
        return
    path = path.resolve()
    # Unique to this process: two that watch the same job save it at the same moment. No longer than a name may be.
    part = path.with_name(f".{path.name[:50]}.{os.getpid()}.part")
    try:
        with naming(path):
            with part.open("wb") as file:
                # Whoever may read the existing file may read its replacement, and nobody else.
                if path.exists():
                    part.chmod(stat.S_IMODE(path.stat().st_mode))
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Errors name this file: those of writing name none, and others may name a temporary one."""
    try:
        yield
    except OSError as error:
        error.filename = os.fspath(path)
        raise


def is_special(path: Path) -> bool:
    """Whether it is a device or a pipe."""
    return path.exists() and not path.is_file()


def is_workbook(path: Path | None) -> bool:
    return path is not None and path.suffix.lower() == ".xlsx"


def format_of(path: Path | None) -> ResultsFormat:
    """By the extension; CSV without one."""
    return "ndjson" if path and path.suffix.lower() in (".ndjson", ".jsonl") else "csv"


def follow(client: Client, job_id: str, path: Path | None, results_format: ResultsFormat) -> Job:
    """Writes each result as soon as it and all before it are final, until the job ends, and returns the job.

    An existing file is continued after its last whole record; a partial one is cut off. A device or a pipe gets everything.
    """
    if path is None:
        return _follow(client, job_id, sys.stdout.buffer, results_format, b"", 0)
    if is_special(path):
        with naming(path), path.open("wb") as file:
            return _follow(client, job_id, file, results_format, b"", 0)
    is_new = not path.exists()
    try:
        with naming(path), path.open("w+b" if is_new else "r+b") as file:
            header, count = _resume(client, job_id, file, results_format)
            return _follow(client, job_id, file, results_format, header, count)
    except BaseException:
        # Such as for a job that does not exist.
        if is_new and path.is_file() and path.stat().st_size == 0:
            path.unlink()
        raise


def _follow(client: Client, job_id: str, file: BinaryIO, results_format: ResultsFormat, header: bytes, count: int) -> Job:
    from batch_lookups.client import has_ended
    from batch_lookups.records import Reader

    with progress.shown(beside_data=file.isatty()) as show:
        for job in client.watch(job_id):
            show(job)
            with closing(client.results(job_id, results_format, after=count - 1 if count else None)) as records:
                if results_format == "csv" and count == 0:
                    first = next(records)
                    if not header:
                        header = first
                        file.write(header)
                reader = Reader(results_format, header)
                for record in takewhile(reader.is_final, records):
                    file.write(record)
                    count += 1
            file.flush()
            if job["waiting_for"]:
                break
            if not has_ended(job):
                time.sleep(FOLLOW_SECONDS)
    return job


def _resume(client: Client, job_id: str, file: BinaryIO, results_format: ResultsFormat) -> tuple[bytes, int]:
    """Cuts off a partial record; returns the header and the number of records. Ends if the file has other contents."""
    from batch_lookups.records import whole_records

    header, last, count, length = b"", b"", 0, 0
    for record in whole_records(file, results_format):
        length += len(record)
        if results_format == "csv" and not header:
            header = record
        else:
            last, count = record, count + 1
    file.seek(length)
    begun = b"" if length else file.read()
    # The file must belong to this job: compare its last record, whole or partial, with the service's.
    place = max(count - 1, 0)
    with closing(client.results(job_id, results_format, after=place - 1 if place else None)) as records:
        expected = [header] if header and not place else []
        expected += [last] if count else []
        if list(islice(records, len(expected))) != expected or (begun and not next(records, b"").startswith(begun)):
            raise Ended(
                exits.ERROR,
                f"{file.name} holds something other than results of this job",
                "Choose another file, or save the results again without --follow.",
            )
    file.truncate(length)
    file.seek(length)
    return header, count
