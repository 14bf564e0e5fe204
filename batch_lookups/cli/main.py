"""The command line: its commands, and how it ends."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import click

from batch_lookups import __version__
from batch_lookups.cli import account, batches, errors, exits, keys, reports, runs, settings, webhooks
from batch_lookups.cli.session import Session, discard, say, say_document, telling
from batch_lookups.errors import ApiError, BatchLookupsError, InvalidArgumentError, UnavailableError

# httpx has a command line of its own, and would import it with rich and pygments if they are installed; it works without.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

END_SECONDS = 3.0
REPEAT_SECONDS = 0.1
# The exit codes of signals begin above this.
SIGNALS = 128
OTHER_FORM = "It may be another service or version: batch-lookups doctor tells. If it is neither, report this line as a bug."


class Group(click.Group):
    """Lists its commands in the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        with ending_with_its_reader():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with ending_with_its_reader():
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code


@contextmanager
def ending_with_its_reader() -> Iterator[None]:
    """Ends the command quietly if its reader has closed the pipe, which click would treat as an error."""
    try:
        yield
    except BrokenPipeError as error:
        discard(sys.stdout)
        raise click.exceptions.Exit(exits.BROKEN_PIPE) from error


def open_closed_streams() -> None:
    """Replaces standard streams that the caller has closed: no input, messages discarded, data an error."""
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)


def show_any_character() -> None:
    """Shows `?` for characters that the locale's encoding lacks, instead of ending amid the data."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


@click.group(cls=Group, epilog=exits.EXPLANATION, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="batch-lookups")
@click.pass_context
def batch_lookups(context: click.Context) -> None:
    """Look up the energy incentives of many sites: upload a file, watch its job, save the results.

    \b
    Examples:
      batch-lookups login https://lookups.example.com
      batch-lookups run sites.csv -o results.csv --report report.html

    Data goes to standard output, everything else to standard error. BATCH_LOOKUPS_URL and BATCH_LOOKUPS_API_KEY override what `login`
    stored; the default address is http://127.0.0.1:8000. NO_COLOR is respected.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False
    context.call_on_close(context.ensure_object(Session).close)


for command in (account.login, *runs.COMMANDS, *batches.COMMANDS, *reports.COMMANDS, webhooks.webhooks, keys.keys, *account.COMMANDS):
    batch_lookups.add_command(command)


def main(words: Sequence[str] | None = None) -> None:
    open_closed_streams()
    show_any_character()
    session = Session()
    end_in_order(session)
    try:
        code = batch_lookups.main(words, prog_name="batch-lookups", standalone_mode=False, obj=session)
    except exits.Ended as ended:
        code = fail(session, ended.code, str(ended), ended.hint, details=ended.details)
    except click.ClickException as error:
        code = exits.USAGE if isinstance(error, click.UsageError) else exits.ERROR
        if session.output == "text" and not wants_json(words):
            with telling():
                error.show()
        else:
            session.output = "json"
            context = getattr(error, "ctx", None)
            fail(session, code, error.format_message(), f"{context.command_path} --help" if context else "")
    except (click.Abort, KeyboardInterrupt):
        code = fail(session, exits.DETACHED, "Interrupted")
    except ApiError as error:
        if session.output == "text":
            # If the response says nothing, the message is its status.
            code_or_status = error.code or (error.status if error.body.get("error") else "")
            details = errors.in_words_of_the_command(str(error)).rstrip(".") + (f" ({code_or_status})" if code_or_status else "")
            hint = with_notes(errors.hint_of(error), error)
            code = fail(session, exits.of_error(error), details, hint, error.request_id if error.status >= 500 else "")
        else:
            say_document(error.body or {"error": str(error)})
            code = exits.of_error(error)
    except InvalidArgumentError as error:
        code = fail(session, exits.USAGE, str(error))
    except BatchLookupsError as error:
        hint = (
            "Check whether it took effect before you repeat the command."
            if isinstance(error, UnavailableError) and error.maybe_done
            else ""
        )
        hint = with_notes(hint or "Run batch-lookups doctor to find out what is wrong with the connection.", error)
        code = fail(session, exits.of_error(error), str(error), hint)
    except OSError as error:
        code = fail(session, exits.ERROR, errors.told_of_file(error))
        try:
            sys.stdout.flush()
        except OSError:
            discard(sys.stdout)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        # Responses are used as openapi.json describes them: a missing member, or one of another type, fails where it is used.
        if session.url is None or isinstance(error, UnicodeError):
            raise
        who = settings.without_password(session.url)
        code = fail(session, exits.ERROR, f"{who} answers in a form that this command does not know ({told_of_form(error)})", OTHER_FORM)
    sys.exit(code if isinstance(code, int) else exits.ALL)


def wants_json(words: Sequence[str] | None) -> bool:
    """Whether JSON was requested by a command line that could not be read up to there."""
    options = takewhile(lambda word: word != "--", sys.argv[1:] if words is None else words)
    return not {"--json", "--ndjson"}.isdisjoint(options)


def end_in_order(session: Session) -> None:
    """On Ctrl-C, SIGTERM, or when the terminal goes away: shows the cursor again, and leaves no partial file behind."""

    received: list[int] = []

    def end(number: int, _: object) -> None:
        received.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(SIGNALS + number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # A signal that the caller ignores, as nohup does, stays ignored.
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, end)
    end_soon(session, received)


def end_soon(session: Session, received: Sequence[int]) -> None:
    """After the first signal: interrupts what the command waits for until the handler has put the signal into `received`, and ends
    a command that takes longer than some seconds to end.

    Python runs handlers between its instructions. A signal that comes just before a system call would be noticed only when the
    call is over, which may take as long as the service does; the next one interrupts the call. On Windows, no signal does. Closing the
    connection does it there. The handler may also run while the HTTP client holds a lock that the cleanup needs, and never gets it.
    """
    reader, writer = os.pipe()
    # Windows can do without, and has the function since Python 3.12.
    if hasattr(os, "set_blocking"):
        os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    command = threading.get_ident()

    def watch() -> None:
        [number] = os.read(reader, 1)
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until:
            time.sleep(REPEAT_SECONDS)
            if not received:
                if settings.ON_WINDOWS:
                    session.close()
                else:
                    signal.pthread_kill(command, number)
        os._exit(SIGNALS + number)

    threading.Thread(target=watch, daemon=True).start()


def with_notes(hint: str, error: BaseException) -> str:
    """The hint, and what the command noted about the error, each on a line of its own."""
    return "\n".join(filter(None, (hint, *getattr(error, "__notes__", ()))))


def told_of_form(error: Exception) -> str:
    """Such as: KeyError: 'jobs', batches.py:241."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return f"{type(error).__name__}: {error}, {Path(frame.f_code.co_filename).name}:{line}"


def fail(
    session: Session, code: int, message: str, hint: str = "", request_id: str = "", *, details: Mapping[str, Any] | None = None
) -> int:
    """Reports what went wrong and what to do about it; as a single JSON document if JSON was requested."""
    if session.output == "text":
        # After Ctrl-C or a signal, nothing is wrong.
        is_error = code <= SIGNALS
        say(f"{'error: ' if is_error else ''}{message}")
        for name, text in (*(("hint", line) for line in hint.splitlines()), ("request id", request_id)):
            if text:
                say(f"{name}: {text}" if is_error else text)
    else:
        say_document({"error": message, "hint": hint or None, **(details or {})})
    return code
