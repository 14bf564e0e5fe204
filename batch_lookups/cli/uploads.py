"""A file to upload, with the options for reading it, and the idempotency key computed from both."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batch_lookups.cli import errors, exits
from batch_lookups.cli.exits import Ended
from batch_lookups.cli.session import Session, counted, say
from batch_lookups.errors import ApiError

if TYPE_CHECKING:
    from batch_lookups.calls import FileOptions
    from batch_lookups.types import Checked, CreatedBatch, ItemProblem

F = TypeVar("F", bound=Callable[..., Any])

SHOWN = 20
# The service names no more repeated reference_ids.
MOST_DUPLICATES = 100
MOST_DIGITS = 10
LINES_OF_JSON = (".ndjson", ".jsonl")


def is_number(text: str) -> bool:
    """Whether it is a number of a column or the id of a device, which are no larger."""
    return text.isdecimal() and len(text) <= MOST_DIGITS


class ColumnMap(click.ParamType[tuple[str, str | int]]):
    name = "field=column"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[str, str | int]:
        if isinstance(value, tuple):
            return value
        field, equals, column = str(value).partition("=")
        if not (field and equals and column):
            self.fail(f"{value!r} is not FIELD=COLUMN, such as reference_id='Deal number' or city=4", parameter, context)
        return field, int(column) if is_number(column) else column


class Label(click.ParamType[tuple[str, str]]):
    name = "key=value"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not (key and equals and text):
            self.fail(f"{value!r} is not KEY=VALUE, such as team=north", parameter, context)
        return key, text


class DeviceIds(click.ParamType[tuple[int, ...]]):
    name = "ids"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        numbers = [text.strip() for text in str(value).split(",")]
        if not all(map(is_number, numbers)):
            self.fail(f"{value!r} is not a list of device ids such as 1,20", parameter, context)
        return tuple(map(int, numbers))


def each_once(context: click.Context, parameter: click.Parameter, pairs: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """Refuses a second value for a name, as the first would be dropped."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise click.BadParameter(f"{name} has more than one value", context, parameter)
    return pairs


with_labels = partial(click.option, "--label", "labels", type=Label(), multiple=True, callback=each_once)


def with_file_options(command: F) -> F:
    """Adds FILE and the options that say how to read it."""
    options = [
        click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True)),
        click.option(
            "--map",
            "columns",
            type=ColumnMap(),
            multiple=True,
            callback=each_once,
            help="The column of a field, by its name or number. Repeatable.",
        ),
        click.option(
            "--number-rows",
            "reference_id",
            flag_value="row-{line}",
            help="Name rows without an id by their line in the file, such as row-2.",
        ),
        click.option("--devices", "device_ids", type=DeviceIds(), default=(), help="Device ids for rows without any, such as 1,20."),
        click.option("--building-type", metavar="TYPE", help="Building type for rows without one, such as RESIDENTIAL."),
        click.option("--country", "country_code", metavar="CODE", help="Country for rows without one: US or CA."),
        click.option("--sheet", metavar="NAME", help="The sheet of a workbook, by its name or number."),
        click.option("--skip-invalid", is_flag=True, help="Skip invalid rows instead of refusing the file."),
        click.option(
            "--reuse",
            "reuse_max_age_days",
            type=click.IntRange(1, 3650),
            metavar="DAYS",
            help="Reuse results up to DAYS days old.",
        ),
        click.option("--sample", type=click.IntRange(1, 10_000), metavar="N", help="Look up N rows first, chosen at random, then wait."),
        click.option("--max-lookups", type=click.IntRange(1, 1_000_000), metavar="N", help="Make no more lookups; the other rows fail."),
        click.option("--name", help="Name of the job and its report; by default the file's name."),
        with_labels(help="A label to find the job by. Repeatable, up to 16 times."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


with_again = click.option("--again", metavar="WORD", help="Create a new job even if the same file was submitted before; one for each WORD.")


class Upload:
    """The bytes of a file and how to read them."""

    def __init__(
        self, file: str, *, columns: Sequence[tuple[str, str | int]], labels: Sequence[tuple[str, str]], name: str | None, **options: Any
    ) -> None:
        from batch_lookups.bodies import MAX_BYTES
        from batch_lookups.calls import ANY_FILE, NDJSON, FileOptions

        path = None if file == "-" else Path(file)
        if path is None and sys.stdin.isatty():
            say("Reading the sites from the terminal, to Ctrl-D")
        with nullcontext(sys.stdin.buffer) if path is None else path.open("rb") as opened:
            self.data = opened.read(MAX_BYTES + 1)
        if len(self.data) > MAX_BYTES:
            # Or it has no end, such as /dev/zero.
            raise Ended(exits.ERROR, f"{file} is larger than {MAX_BYTES // 1024**2} MB", "Split it: a batch has at most 10,000 sites.")
        suffix = "" if path is None else Path(path.name.removesuffix(".gz")).suffix.lower()
        self.media_type = NDJSON if suffix in LINES_OF_JSON else ANY_FILE
        self.options: FileOptions = FileOptions(
            # A pipe, as of <(...), has only a number.
            name=name or (name_of(path) if path and path.is_file() else None),
            columns=dict(columns),
            labels=dict(labels),
            **options,
        )

    def idempotency_key(self, again: str | None) -> str:
        """The same for the same file and options, so that a repeated command finds its job."""
        import hashlib

        options = json.dumps([self.options.params(), again or ""], sort_keys=True).encode()
        return f"batch-lookups-{hashlib.sha256(hashlib.sha256(self.data).digest() + options).hexdigest()}"


def name_of(path: Path) -> str:
    """The name of a file as text, with undecodable bytes replaced."""
    return os.fsencode(path.name).decode(errors="replace")[:200]


def check(session: Session, upload: Upload) -> Checked:
    return session.client.check_batch(upload.data, upload.options, media_type=upload.media_type)


@contextmanager
def until_known() -> Iterator[None]:
    """What Ctrl-C or SIGTERM means before the job is known, whether it was created or not."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        code = exits.interrupted(error)
        raise Ended(code, "Interrupted before the job was known", "The same command finds it, if it was created.") from None


def submit(session: Session, upload: Upload, again: str | None) -> CreatedBatch:
    """Stores the batch, or finds the one that the same command stored. Ends if the file is refused, saying which rows and why."""
    try:
        created = session.client.create_batch(
            upload.data, upload.options, media_type=upload.media_type, idempotency_key=upload.idempotency_key(again)
        )
    except ApiError as error:
        if error.code in ("invalid_items", "duplicate_reference_ids"):
            checked = check(session, upload)
            if session.output == "text":
                say_problems(checked)
            raise refusal(checked) from error
        raise
    if created["replayed"]:
        say(f"This file was submitted before, as job {created['job_id']}; continuing with it (--again WORD creates a new job)")
    elif created["total_invalid"]:
        say(f"{counted(created['total_invalid'], 'invalid row')} {'was' if created['total_invalid'] == 1 else 'were'} left out:")
        say_invalid(created["invalid_items"], created["total_invalid"])
    return created


def refusal(checked: Checked) -> Ended:
    problems = {name: checked[name] for name in ("total_items", "total_invalid", "invalid_items", "duplicates")}
    if checked["valid_items"] == 0:
        hint = "Correct the file, or name its columns with --map."
        return Ended(exits.NOTHING, "No row is valid; nothing was submitted", hint, problems)
    if not checked["total_invalid"]:
        hint = "Correct these reference_ids, or keep the first row of each with --skip-invalid."
        return Ended(exits.ERROR, "The file repeats reference_ids; nothing was submitted", hint, problems)
    hint = "Correct these rows, or skip them with --skip-invalid."
    return Ended(exits.ERROR, "The file has invalid rows; nothing was submitted", hint, problems)


def say_problems(checked: Checked) -> None:
    if checked["total_invalid"]:
        say(f"{rows_are(checked['total_invalid'], checked['total_items'])} invalid:")
        say_invalid(checked["invalid_items"], checked["total_invalid"])
        if checked["total_invalid"] > SHOWN:
            say_faults(checked["problem_groups"])
    if duplicates := checked["duplicates"]:
        at_least = "at least " if len(duplicates) == MOST_DUPLICATES else ""
        more = f", and {at_least}{len(duplicates) - SHOWN:,} more" if len(duplicates) > SHOWN else ""
        say(f"Repeated reference_ids: {', '.join(duplicates[:SHOWN])}{more}")


def say_faults(groups: Sequence[Mapping[str, Any]]) -> None:
    """Says how many rows have which fault, if not all of them are shown."""
    say("All of them by error:")
    for group in groups:
        field = str(group["field"] or "row").removeprefix("address.")
        say(f"  {counted(group['count'], 'row'):>10}  {field}: {group['code'].replace('_', ' ')}")


def rows_are(number: int, total: int) -> str:
    """Such as: 3 of 4 rows are, 1 of 4 rows is."""
    return f"{number:,} of {counted(total, 'row')} {'is' if 1 in (number, total) else 'are'}"


def say_invalid(problems: Sequence[ItemProblem], total: int) -> None:
    """Says what is wrong with the first invalid rows, grouping equal faults."""
    kind = "line" if "line" in problems[0] else "item"
    groups: dict[str, list[str]] = {}
    for problem in problems[:SHOWN]:
        place = str(problem.get("line", problem["index"] + 1))
        for message in [cell["message"] for cell in problem["problems"]] or [problem["error"]]:
            told = message.replace(f", row {place}:", ":", 1).removeprefix(f"row {place}: ")
            groups.setdefault(errors.in_words_of_the_command(told), []).append(place)
    for message, places in groups.items():
        say(f"  {kind}{'s' if len(places) > 1 else ''} {', '.join(places)}: {message}")
    if total > SHOWN:
        say(f"  and {total - SHOWN:,} more")


def say_notes(checked: Checked, upload: Upload) -> None:
    """Says what was assumed about the file, and what was corrected in it."""
    for note in checked["notes"]:
        if note["code"] == "sheet_chosen" and upload.options.sheet is not None:
            continue
        say(f"note: {errors.in_words_of_the_command(note['message'])}")
    unused = [column["header"] for column in checked["columns"] if column["field"] is None]
    if unused:
        say(f"note: unused columns: {', '.join(unused[:SHOWN])}{', ...' if len(unused) > SHOWN else ''}")
    if checked["warnings"]:
        have = "has" if checked["total_warnings"] == 1 else "have"
        say(f"note: {counted(checked['total_warnings'], 'row')} {have} warnings, such as: {checked['warnings'][0]['warnings'][0]}")
