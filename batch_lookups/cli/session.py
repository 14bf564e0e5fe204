"""What all commands share: the client and their output. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from batch_lookups.cli import settings
from batch_lookups.cli.exits import DETACHED, ERROR, Ended

if TYPE_CHECKING:
    from batch_lookups.client import Client
    from batch_lookups.retrying import Retry

# The layout of our own texts: lines, and headings in bold.
_LAID_OUT = ("\n", "\x1b[1m", "\x1b[0m")
_LINES = re.compile(r"\n|\x1b\[[01]m|[^\n\x1b]+|\x1b")
# Characters that json.dumps does not escape, but terminals obey: C1 control characters, and those that change the text direction.
_STEERING = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

# Of the lines of a table that hold the columns for which the first line has no room.
INDENT = "    "

F = TypeVar("F", bound=Callable[..., Any])


class Session:
    """One run of the command. `output`: whether data is text for people, one JSON document or one JSON document per line.

    `url`: the URL of the service, if it was used.
    """

    def __init__(self) -> None:
        self.output = "text"
        self.url: str | None = None
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            credentials = settings.credentials()
            warn_of_clear_text(credentials.url)
            self._client = self.client_of(credentials.url, credentials.api_key)
        return self._client

    def client_of(self, url: str, api_key: str, *, retry_seconds: float | None = None) -> Client:
        """A client that retries for as long as the environment says, else for `retry_seconds`, else for the client's default."""
        from batch_lookups.client import Client
        from batch_lookups.retrying import RETRY_SECONDS

        self.url = url
        seconds = settings.retry_seconds(RETRY_SECONDS if retry_seconds is None else retry_seconds)
        return Client(url, api_key, retry_seconds=seconds, on_retry=say_retry)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def show(self, document: Any, text: str) -> None:
        """Shows a result, as JSON if requested."""
        if self.output == "text":
            click.echo(printable_lines(text))
        else:
            click.echo(as_json(document, indent=2 if self.output == "json" else None))

    def show_all(
        self,
        documents: Iterable[Any],
        columns: Sequence[str],
        row: Callable[[Any], Sequence[object]],
        none: str,
        *,
        limit: int | None = None,
    ) -> None:
        """Shows a list, or the beginning of one: as a table, as one JSON array, or as one document per line."""
        if limit is not None:
            documents = islice(documents, min(limit, sys.maxsize))
        if self.output == "ndjson":
            for document in documents:
                click.echo(as_json(document))
            return
        listed = list(documents)
        if self.output == "json":
            click.echo(as_json(listed, indent=2))
        elif listed:
            click.echo(table(columns, [row(document) for document in listed]))
        else:
            say(none)


def as_json(document: Any, *, indent: int | None = None) -> str:
    """A document that cannot control the terminal: JSON has escapes for that, and for what the locale's encoding lacks."""
    text = json.dumps(document, ensure_ascii=not sys.stdout.encoding.lower().startswith("utf"), indent=indent)
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


pass_session = click.make_pass_decorator(Session, ensure=True)


def say(text: str) -> None:
    """Writes to stderr for people, so that stdout contains only data."""
    with telling():
        click.echo(printable_lines(text), err=True)


def say_document(document: Any) -> None:
    """Writes a JSON document to stderr, such as an error."""
    with telling():
        click.echo(as_json(document), err=True)


@contextmanager
def telling() -> Iterator[None]:
    """For writing to stderr. If its disk is full, or its reader or its terminal gone, the work goes on, and its data is not lost."""
    try:
        yield
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Discards the remaining output of a stream: at exit, Python would try to write it again, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def warn_of_clear_text(url: str) -> None:
    """Warns if the key would cross a network unencrypted."""
    if settings.sends_in_clear(url):
        say(f"warning: {settings.without_password(url)} is not encrypted; others on the network can read the key. Use https://")


def say_retry(retry: Retry) -> None:
    say(f"{retry.reason}; retrying in {retry.delay:.0f} s" if retry.delay >= 1 else f"{retry.reason}; retrying")


def is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def confirm(question: str) -> None:
    """Asks before something that cannot be undone. Ends unless the answer is yes."""
    try:
        is_confirmed = click.confirm(question, err=True)
    except click.Abort:
        # Ctrl-C, or there is no input.
        say("")
        is_confirmed = False
    if not is_confirmed:
        raise Ended(DETACHED, "Not confirmed; nothing was changed", "--yes confirms without being asked.")


def open_browser(url: str) -> None:
    """Opens a URL in a browser. Ends if there is none."""
    import webbrowser

    if not webbrowser.open(url):
        raise Ended(ERROR, "No browser was found", f"Open this address in one: {url}")


def with_output(command: F) -> F:
    """Adds --json and --ndjson."""

    def choose(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            session = context.ensure_object(Session)
            if session.output != "text":
                raise click.UsageError("--json and --ndjson cannot be combined.", context)
            session.output = str(parameter.name).removeprefix("as_")

    options: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": choose}
    command = click.option("--ndjson", "as_ndjson", help="One JSON document per line.", **options)(command)
    return click.option("--json", "as_json", help="One JSON document.", **options)(command)


def counted(number: int, noun: str) -> str:
    """Such as: 1 site, 2,000 sites."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def minute(time: str | None) -> str | None:
    """A time of the service for people, in UTC, such as 2026-11-28 17:46."""
    return time and time[:16].replace("T", " ")


class Dollars(float):
    """An amount, for people: $6,750.00 or -$9,825.00."""

    def __str__(self) -> str:
        return f"{'-' if self < 0 else ''}${abs(self):,.2f}"


def conditional_amount(amount: float | None) -> Dollars | None:
    """What depends on facts that the lookup did not give; for most sites, nothing does."""
    return Dollars(amount) if amount else None


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns for people: numbers to the right, the last column of any width. Those that a terminal has no room for follow below."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(width_of(line[n]) for line in [list(columns), *cells]) for n in range(len(columns))]
    numeric = [_are_numbers([row[n] for row in rows if row[n] is not None]) for n in range(len(columns))]
    room = terminal_width()
    folds = _folds(widths, room)

    def line(values: Sequence[str]) -> str:
        padded = []
        for value, width, right in zip(values, widths, numeric, strict=True):
            space = " " * (width - width_of(value))
            padded.append(space + value if right else value + space)
        lines = ["  ".join(padded[fold]).rstrip() for fold in folds]
        return "\n".join([lines[0], *(wrapped for below in lines[1:] for wrapped in _wrapped(below, room))])

    return "\n".join([click.style(line([name.upper() for name in columns]), bold=True), *map(line, cells)])


def terminal_width() -> int | None:
    """The columns of the terminal that shows the data; None: it goes elsewhere, where lines have any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _folds(widths: Sequence[int], room: int | None) -> list[slice]:
    """Which columns go on which line, each line but the first being indented."""
    first, taken, folds = 0, 0, []
    for number, width in enumerate(widths):
        if room is not None and number > first and taken + width > room:
            folds.append(slice(first, number))
            first, taken = number, len(INDENT)
        taken += width + 2
    return [*folds, slice(first, len(widths))]


def _wrapped(line: str, room: int | None) -> list[str]:
    """A line below the first, which may be wider than the terminal if it is a single column, such as the scopes of a key."""
    if room is None or width_of(line) + len(INDENT) <= room:
        return [INDENT + line]
    width = max(room, 2 * len(INDENT))
    return textwrap.wrap(line, width, initial_indent=INDENT, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes: two for each character of Chinese, Japanese or Korean, none for an accent by itself."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(character) else 2 if east_asian_width(character) in "WF" else 1 for character in text)


def _are_numbers(values: Sequence[object]) -> bool:
    """Whether a column has numbers, and only numbers, not counting `yes` and `no`."""
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def facts(lines: Sequence[tuple[str, object]]) -> str:
    """Names and values for people, a line each."""
    return "\n".join(f"{name:9} {value}" for name, value in lines)


def printable(text: str) -> str:
    """A text that may contain anything, made safe for the terminal. Spaces of any width are safe, though not printable to Python."""
    if text.isprintable():
        return text
    from unicodedata import category

    return "".join(character if character.isprintable() or category(character) == "Zs" else "�" for character in text)


def printable_lines(text: str) -> str:
    """The same for lines, which may have headings."""
    return _LINES.sub(lambda found: found[0] if found[0] in _LAID_OUT else printable(found[0]), text)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:,}" if isinstance(value, int | float) and not isinstance(value, Dollars) else str(value)
    return printable(text)
