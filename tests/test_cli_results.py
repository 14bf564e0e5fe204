"""Results while they arrive, jobs and their items, reports, and the progress bar."""

from __future__ import annotations

import csv
import errno
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from batch_lookups.cli import errors, saving
from pyshell.settings import ROOT
from tests.cli_fixtures import Cli, Service, begin_child
from tests.timed import wait_until
from tests.upstream import Reply

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d"


def submit(cli: Cli, references: list[str] | int, **changes: str) -> str:
    done = cli.run("submit", cli.sites("sites.csv", references, **changes))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_follow_continues_after_the_last_complete_row(cli: Cli, service: Service, suffix: str) -> None:
    service.hold("row-40")
    # A line break or a quote within a cell does not end the row.
    job = submit(cli, [f"row-{number}" for number in range(60)], street_1='1 Main St\n"Rear", 2')
    output = cli.folder / f"results.{suffix}"
    running = cli.start("results", job, "--follow", "-o", output)
    wait_until(lambda: output.exists() and b"row-39" in output.read_bytes())
    running.kill()
    running.communicate()
    assert b"row-40" not in output.read_bytes()
    service.release()
    content = output.read_bytes()
    output.write_bytes(content[: len(content) - 7])
    done = cli.run("results", job, "--follow", "-o", output)
    assert done.returncode == 0, done.stderr
    assert "60 of 60 looked up" in done.stderr
    whole = cli.run("results", job, *(["--ndjson"] if suffix == "ndjson" else [])).stdout.encode()
    assert output.read_bytes() == whole

    for cut in (0, 1, 100, whole.index(b"\n") + 1, len(whole) - 1, len(whole)):
        output.write_bytes(whole[:cut])
        assert cli.run("results", job, "--follow", "-o", output).returncode == 0, cut
        assert output.read_bytes() == whole, cut


def test_follow_leaves_the_file_of_another_job_alone(cli: Cli) -> None:
    first, second = submit(cli, 3), submit(cli, 3)
    assert cli.run("results", first, "-o", "results.csv").returncode == 0
    before = (cli.folder / "results.csv").read_bytes()
    done = cli.run("results", second, "--follow", "-o", "results.csv")
    assert done.returncode == 1
    assert "results.csv holds something other than results of this job" in done.stderr
    assert (cli.folder / "results.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content"),
    [("results.ndjson", b'{"sites": []}'), ("results.csv", b"name,email"), ("results.csv", b'5" pipes\nand 3 elbows\n')],
)
def test_follow_leaves_alone_a_foreign_file_without_a_complete_row(cli: Cli, name: str, content: bytes) -> None:
    (cli.folder / name).write_bytes(content)
    done = cli.run("results", submit(cli, 1), "--follow", "-o", name)
    assert (done.returncode, f"{name} holds something other than results of this job" in done.stderr) == (1, True)
    assert (cli.folder / name).read_bytes() == content


def test_follow_of_a_job_that_does_not_exist_leaves_no_file_behind(cli: Cli) -> None:
    (cli.folder / "empty.csv").touch()
    for name in ("results.csv", "empty.csv"):
        done = cli.run("results", "0193a5b2-0000-7000-8000-000000000000", "--follow", "-o", name)
        assert (done.returncode, "(job_not_found)" in done.stderr) == (1, True)
    assert (cli.folder / "empty.csv").exists()
    assert not (cli.folder / "results.csv").exists()


def test_follow_writes_rows_to_stdout_as_they_arrive(cli: Cli, service: Service) -> None:
    service.hold("slow")
    job = submit(cli, ["quick", "slow"])
    running = cli.start("results", job, "--follow", "--ndjson")
    assert running.stdout is not None
    assert json.loads(running.stdout.readline())["reference_id"] == "quick"
    assert json.loads(cli.run("status", job, "--json").stdout)["processed_items"] == 1
    detached = cli.start("results", job, "--follow", "--ndjson", "-o", "results")
    wait_until(lambda: (cli.folder / "results").exists() and b"quick" in (cli.folder / "results").read_bytes())
    detached.send_signal(signal.SIGINT)
    assert f"Watch it again: batch-lookups results {job} --follow --ndjson -o results\n" in detached.communicate(timeout=30)[1].decode()
    service.release()
    stdout, stderr = running.communicate(timeout=30)
    assert (running.returncode, json.loads(stdout)["reference_id"]) == (0, "slow"), stderr


def test_pipes_and_devices_are_written_to_and_a_link_stays_a_link(cli: Cli) -> None:
    job = submit(cli, 2)
    assert cli.run("watch", job).returncode == 0
    pipe, link = cli.folder / "pipe", cli.folder / "link.csv"
    os.mkfifo(pipe)
    to_pipe = cli.start("results", job, "-o", pipe)
    assert len(pipe.read_bytes().splitlines()) == 3
    to_pipe.communicate(timeout=30)
    assert to_pipe.returncode == 0
    assert pipe.is_fifo()
    stdout = cli.start("results", job, "-o", "/dev/stdout")
    assert len(stdout.communicate(timeout=30)[0].splitlines()) == 3
    assert stdout.returncode == 0
    (cli.folder / "target.csv").write_text("")
    link.symlink_to("target.csv")
    assert cli.run("results", job, "-o", link).returncode == 0
    assert link.is_symlink()
    assert len((cli.folder / "target.csv").read_bytes().splitlines()) == 3


def test_what_went_to_standard_output_is_not_called_saved(cli: Cli) -> None:
    done = cli.run("watch", submit(cli, 1), "-o", "results.csv", "--report", "-")
    assert done.stdout.lstrip().startswith("<!DOCTYPE html>")
    assert done.stderr.endswith("\nSaved results.csv\n")


def test_results_are_saved_as_a_workbook(cli: Cli, service: Service) -> None:
    service.upstream.plan("deal-002", Reply(status=404))
    cli.sites("sites.csv", ["deal-001", "deal-002"])
    assert cli.run("run", "sites.csv", "-o", "results.xlsx").returncode == 3
    job = cli.run("submit", "sites.csv").stdout.strip()
    assert cli.run("results", job, "-o", "failed.XLSX", "--status", "failed").returncode == 0

    def references(name: str) -> list[Any]:
        header, *rows = openpyxl.load_workbook(cli.folder / name).worksheets[0].iter_rows(values_only=True)
        return [row[header.index("reference_id")] for row in rows]

    assert references("results.xlsx") == ["deal-001", "deal-002"]
    assert references("failed.XLSX") == ["deal-002"]


def test_a_file_that_is_saved_anew_keeps_its_permissions(cli: Cli) -> None:
    job = submit(cli, 2)
    assert cli.run("watch", job).returncode == 0
    results = cli.folder / "results.csv"
    results.touch(mode=0o600)
    assert cli.run("results", job, "-o", results).returncode == 0
    assert (len(results.read_bytes().splitlines()), results.stat().st_mode & 0o777) == (3, 0o600)


def test_an_error_of_writing_names_the_file(cli: Cli) -> None:
    job = submit(cli, 2)
    assert cli.run("watch", job).returncode == 0
    for words in (["results", job], ["results", job, "--follow"], ["watch", job, "--report", cli.folder / "report.html"]):
        refused = cli.run(*words, "-o", "/dev/full")
        assert refused.returncode == 1
        assert "error: /dev/full: No space left on device" in refused.stderr.splitlines()[-2:]
    # After minutes of lookups, people want to know what to do.
    report = cli.folder / "report.html"
    keeps = f"hint: The service keeps the results. Save them again, or elsewhere: batch-lookups watch {job} -o /dev/full --report {report}"
    assert refused.stderr.splitlines()[-1] == keeps
    command = [*cli.command, "results", job]
    with Path("/dev/full").open("wb") as full:
        to_stdout = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=cli.environment, text=True, timeout=30, check=False)
    assert (to_stdout.returncode, to_stdout.stderr) == (1, "error: standard output: No space left on device\n")


def fail_after(piece: bytes) -> Iterator[bytes]:
    yield piece
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_that_cannot_be_written_whole_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("before")
    with pytest.raises(OSError, match="No space left"):
        saving.save(path, fail_after(b"half"))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("results.csv", "before")]


@pytest.mark.parametrize("name", [f"{'x' * 251}.csv", f"{'日' * 83}.csv"])
def test_a_file_may_have_the_longest_name_there_is(tmp_path: Path, name: str) -> None:
    saving.save(tmp_path / name, [b"whole"])
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "whole")]


def test_a_command_that_is_terminated_leaves_no_partial_file(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from batch_lookups.cli import main, saving
def pieces():
    yield b"half"
    os.kill(os.getpid(), signal.SIGTERM)
main.end_in_order(main.Session())
saving.save(Path({str(tmp_path / "results.csv")!r}), pieces())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (143, b"", [])


def test_an_error_names_the_file_to_be_saved(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()

    def while_the_folder_goes() -> Iterator[bytes]:
        yield b"first"
        shutil.rmtree(folder)

    with pytest.raises(FileNotFoundError) as raised:
        saving.save(folder / "results.csv", while_the_folder_goes())
    assert errors.told_of_file(raised.value) == f"{folder}/results.csv: No such file or directory"
    # As Windows has it where Excel shows the file.
    raised.value.winerror = 5  # type: ignore[attr-defined]
    assert errors.told_of_file(raised.value).endswith(
        "/results.csv: No such file or directory; another program, such as Excel, may have it open"
    )


def test_a_file_is_saved_by_two_commands_at_once(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"

    def while_another_saves() -> Iterator[bytes]:
        yield b"first,"
        program = f"from pathlib import Path; from batch_lookups.cli import saving; saving.save(Path({str(path)!r}), [b'of the other'])"
        subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
        assert path.read_bytes() == b"of the other"
        yield b"second"

    saving.save(path, while_another_saves())
    assert path.read_bytes() == b"first,second"


def test_filters_select_the_failed_sites_for_a_file(cli: Cli, service: Service) -> None:
    service.upstream.plan("failing", Reply(status=404))
    job = submit(cli, ["working", "failing"])
    assert cli.run("watch", job).returncode == 3
    failed = cli.run("results", job, "--error", "not_found").stdout
    assert [row["reference_id"] for row in csv.DictReader(failed.splitlines())] == ["failing"]
    assert cli.run("results", job, "--follow", "--status", "failed").returncode == 2
    [item] = json.loads(cli.run("items", job, "--status", "failed", "--json").stdout)
    assert (item["reference_id"], item["error_code"]) == ("failing", "not_found")
    assert re.search(r"^working +completed +\$1,000\.00 +- +- +-$", cli.run("items", job).stdout, re.MULTILINE)

    service.upstream.plan("failing", Reply())
    retried = cli.run("retry", job, "--error", "not_found")
    assert retried.returncode == 0, retried.stderr
    assert cli.run("watch", retried.stdout.strip(), "-o", "again.csv").returncode == 0
    assert json.loads(cli.run("status", retried.stdout.strip(), "--json").stdout)["retry_of_job_id"] == job
    assert cli.run("retry", job, "--error", "other").returncode == 1


def test_a_retry_that_is_repeated_names_the_same_job(cli: Cli, service: Service) -> None:
    service.upstream.plan("twice", Reply(status=404))
    job = submit(cli, ["twice"])
    assert cli.run("watch", job).returncode == 5
    service.hold("twice")
    first = cli.run("retry", job)
    second = cli.run("retry", job)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert "already" in second.stderr
    service.release()
    assert cli.run("watch", first.stdout.strip()).returncode == 0


def test_jobs_are_listed_and_deleted(cli: Cli) -> None:
    jobs = [submit(cli, 1) for _ in range(3)]
    for job in jobs:
        assert cli.run("watch", job).returncode == 0
    assert [job["id"] for job in json.loads(cli.run("list", "--json").stdout)] == jobs[::-1]
    assert [json.loads(line)["id"] for line in cli.run("list", "--ndjson", "--limit", "2").stdout.splitlines()] == jobs[:0:-1]
    assert re.search(rf"^{jobs[0]}  completed +1 +1 +0  {TIME}  ", cli.run("list").stdout, re.MULTILINE)
    assert "CREATED (UTC)" in cli.run("list").stdout
    assert re.search(rf"^created +{TIME} UTC\nended +{TIME} UTC\n", cli.run("status", jobs[0]).stdout, re.MULTILINE)
    asked = cli.run("delete", jobs[0], stdin=b"n\n")
    assert (asked.returncode, asked.stdout) == (130, "")
    assert cli.run("delete", jobs[0], "--yes").returncode == 0
    gone = cli.run("status", jobs[0])
    assert gone.returncode == 1
    assert "(job_not_found)" in gone.stderr
    assert "batch-lookups list" in gone.stderr
    assert cli.run("list", "--status", "cancelled").stdout == ""


@pytest.mark.parametrize("answer", [b"", b"n\n"])
def test_nothing_is_deleted_without_a_yes(cli: Cli, answer: bytes) -> None:
    job = cli.run("submit", cli.sites("sites.csv", 1)).stdout.strip()
    done = cli.run("delete", job, stdin=answer)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.endswith("Not confirmed; nothing was changed\n--yes confirms without being asked.\n")
    assert cli.run("watch", job).returncode == 0
    assert cli.run("delete", job, stdin=b"y\n").returncode == 0


def test_a_report_is_shown_and_saved(cli: Cli) -> None:
    job = submit(cli, 3)
    assert cli.run("watch", job, "--report", "report.html").returncode == 0
    assert (cli.folder / "report.html").read_text().strip().startswith("<!DOCTYPE html>")
    shown = cli.run("report", job).stdout
    assert re.search(r"sites looked up +3\n", shown)
    assert "$3,000.00       3 sites  Heat pumps" in shown
    report = json.loads(cli.run("report", job, "--json").stdout)["report"]["id"]
    for words in ([job, "-o", "report.csv"], [report, "-o", "report.json"], [report, "-o", "page.html"]):
        done = cli.run("report", *words)
        assert done.returncode == 0, done.stderr
    assert len((cli.folder / "report.csv").read_text().splitlines()) == 4
    assert json.loads((cli.folder / "report.json").read_text())["report"]["total_sites"] == 3
    assert cli.run("report", job, "-o", "report.pdf").returncode == 2
    assert cli.run("results", job, "-o", "results.xls").returncode == 2


def test_the_browser_shows_the_report(cli: Cli) -> None:
    job = submit(cli, 1)
    assert cli.run("watch", job).returncode == 0
    opener = cli.folder / "browser"
    opener.write_text(f'#!/bin/sh\necho "$1" > {cli.folder}/opened\n')
    opener.chmod(0o755)
    assert cli.run("report", job, "-o", "r.html", "--open", BROWSER=str(opener)).returncode == 0
    assert (cli.folder / "opened").read_text().strip().endswith("r.html")
    cli.environment["PATH"] = str(cli.folder)
    unseen = cli.run("open")
    address = cli.environment["BATCH_LOOKUPS_URL"]
    assert (unseen.returncode, unseen.stderr.splitlines()[:2]) == (1, [address, "error: No browser was found"])
    unseen = cli.run("report", job, "-o", "unseen.html", "--open")
    assert (unseen.returncode, "error: No browser was found" in unseen.stderr) == (1, True)
    assert (cli.folder / "unseen.html").exists()


def test_watch_prints_events_as_json(cli: Cli, service: Service) -> None:
    service.hold("held-event")
    job = submit(cli, ["held-event", "other-event"])
    watching = cli.start("watch", job, "--ndjson")
    assert watching.stdout is not None
    events = [json.loads(watching.stdout.readline())]
    service.release()
    stdout, stderr = watching.communicate(timeout=30)
    assert watching.returncode == 0, stderr
    events += map(json.loads, stdout.splitlines())
    assert events[0]["processed_items"] < 2
    assert events[-1]["processed_items"] == 2
    assert json.loads(cli.run("watch", job, "--json").stdout)["status"] == "completed"
    assert cli.run("watch", job, "--json", "-o", "x.csv").returncode == 2


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, cli: Cli, *words: str, **environment: str) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            begin_child()
            os.chdir(cli.folder)
            os.execve(cli.command[0], [*cli.command, *words], cli.environment | {"TERM": "xterm", "COLUMNS": "120"} | environment)
        self.output = ""

    def read_until(self, condition: Callable[[str], object]) -> None:
        deadline = time.monotonic() + 30
        while not condition(self.output):
            assert time.monotonic() < deadline, self.output
            try:
                self.output += os.read(self.descriptor, 65536).decode()
            except OSError:
                assert condition(self.output), self.output
                return

    def read_to_end(self) -> None:
        with suppress(OSError):
            while received := os.read(self.descriptor, 65536):
                self.output += received.decode()

    def exit_code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_terminal_gets_a_bar_and_ctrl_c_detaches(cli: Cli, service: Service) -> None:
    service.hold("bar-59")
    cli.sites("sites.csv", [f"bar-{number}" for number in range(60)])
    terminal = Terminal(cli, "run", "sites.csv", "-o", "results.csv")
    terminal.read_until(lambda output: re.search(r"━.* [1-9][0-9]* of 60 done, [0-9.]+/s, [0-9]+ s left", output))
    assert "100%" not in terminal.output
    os.write(terminal.descriptor, b"\x03")
    terminal.read_until(lambda output: "Watch it again: batch-lookups watch " in output and "-o results.csv" in output)
    assert terminal.exit_code() == 130
    assert "Traceback" not in terminal.output
    # The cursor, which the bar had hidden, is shown again.
    assert terminal.output.count("\x1b[?25l") == terminal.output.count("\x1b[?25h") > 0
    assert not (cli.folder / "results.csv").exists()
    killed = Terminal(cli, "run", "sites.csv", "-o", "results.csv")
    killed.read_until(lambda output: re.search(r"━.* of 60 done", output))
    os.kill(killed.pid, signal.SIGTERM)
    killed.read_until(lambda output: "\x1b[?25h" in output)
    assert killed.exit_code() == 143
    service.release()
    again = Terminal(cli, "run", "sites.csv", "-o", "results.csv")
    again.read_until(lambda output: "Saved results.csv" in output)
    assert again.exit_code() == 0


def test_a_terminal_that_is_gone_costs_no_results(cli: Cli, service: Service) -> None:
    service.hold("gone-9")
    cli.sites("sites.csv", [f"gone-{number}" for number in range(10)])
    # As after `disown`.
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from batch_lookups.cli.main import main; main()"
    cli.command = [sys.executable, "-c", program]
    terminal = Terminal(cli, "run", "sites.csv", "-o", "results.csv", "--report", "report.html")
    terminal.read_until(lambda output: "9 of 10 done" in output)
    os.close(terminal.descriptor)
    service.release()
    assert terminal.exit_code() == 0
    assert (cli.folder / "results.csv").read_bytes().count(b"\n") == 11
    assert (cli.folder / "report.html").exists()


def test_events_go_to_standard_output_whatever_is_on_the_terminal(cli: Cli) -> None:
    job = submit(cli, 2)
    terminal = Terminal(cli, "watch", job, "--ndjson")
    terminal.read_until(lambda output: '"processed_items":2' in output.replace(" ", ""))
    assert terminal.exit_code() == 0
    assert "━" not in terminal.output
    program = "import os, sys; os.dup2(os.open('events', os.O_CREAT | os.O_WRONLY), 1); from batch_lookups.cli.main import main; main()"
    cli.command = [sys.executable, "-c", program]
    with_bar = Terminal(cli, "watch", job, "--ndjson")
    with_bar.read_until(lambda output: "2 of 2 done" in output and "\x1b[?25h" in output)
    assert with_bar.exit_code() == 0, with_bar.output
    assert json.loads((cli.folder / "events").read_text().splitlines()[-1])["processed_items"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("acquired", range(1, 5))
def test_a_signal_ends_the_command_wherever_it_meets_the_http_client(cli: Cli, number: signal.Signals, acquired: int) -> None:
    interrupted = f"""
import os, signal
from httpcore._synchronization import ThreadLock
from batch_lookups.cli.main import main
original, calls = ThreadLock.__enter__, []
def enter(self):
    # A lock that is held, and of which nobody knows.
    original(self)
    calls.append(1)
    if len(calls) == {acquired}:
        os.kill(os.getpid(), {int(number)})
    return self
ThreadLock.__enter__ = enter
main(["list"])
"""
    command = [sys.executable, "-c", interrupted]
    done = subprocess.run(command, env=cli.environment, capture_output=True, text=True, timeout=20, check=False, preexec_fn=begin_child)
    assert (done.returncode, "Traceback" in done.stderr) == (128 + number, False)


# On Windows, no signal interrupts a call; closing the connection for whose data it waits does, unless it waits for something else.
CLOSING = "main.settings.ON_WINDOWS, main.Session.close = True, lambda _: signal.pthread_kill(command, signal.SIGTERM)"
NOTHING_HELPS = "main.settings.ON_WINDOWS, main.END_SECONDS = True, 0.5"


@pytest.mark.parametrize("machine", ["", CLOSING, NOTHING_HELPS], ids=["unix", "windows", "windows, for something else"])
def test_a_signal_just_before_a_system_call_does_not_wait_for_its_end(cli: Cli, machine: str) -> None:
    # bsearch compares twice, with two calls of pause: the first signal ends the first of them, and Python learns of it after both.
    waiting = f"""
import ctypes, os, signal, threading
from batch_lookups.cli import main
command = threading.get_ident()
{machine}
main.end_in_order(main.Session())
c = ctypes.CDLL(None)
os.write(1, b"now")
c.bsearch(b"", b"", 3, 1, c.pause)
"""
    command = [sys.executable, "-c", waiting]
    with subprocess.Popen(command, env=cli.environment, stdout=subprocess.PIPE, preexec_fn=begin_child) as running:
        assert running.stdout
        assert running.stdout.read(3) == b"now"
        wait_until(lambda: ") S " in Path(f"/proc/{running.pid}/stat").read_text())
        running.send_signal(signal.SIGTERM)
        try:
            assert running.wait(20) == 128 + signal.SIGTERM
        finally:
            running.kill()


def test_a_command_that_ends_slowly_after_a_signal_has_its_exit_code(cli: Cli) -> None:
    slow = """
import os, signal, time
from batch_lookups.cli import main
class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(1)
slow, main.END_SECONDS = Slow(), 0.5
main.end_in_order(main.Session())
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", slow], env=cli.environment, capture_output=True, check=False, preexec_fn=begin_child)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, b"")


@pytest.mark.parametrize(
    "arguments", [["-m", "batch_lookups"], ["-c", "from batch_lookups.__main__ import main; main()"]], ids=["module", "script"]
)
def test_ctrl_c_before_the_command_is_there_is_quiet(cli: Cli, arguments: list[str]) -> None:
    (cli.folder / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = cli.environment | {"PYTHONPATH": f"{cli.folder}:{ROOT}"}
    command = [sys.executable, *arguments, "--version"]
    done = subprocess.run(command, env=environment, cwd=cli.folder, capture_output=True, timeout=20, check=False, preexec_fn=begin_child)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize(
    ("columns", "line"),
    [("30", r"\r *\d+% \d+ s left, [1-9]\d* of 60 done"), ("70", r"\r[━╺╸]+ +\d+% [1-9]\d* of 60 done, [\d.]+/s, \d+ s left")],
)
def test_a_narrow_terminal_has_room_for_what_is_left(cli: Cli, service: Service, columns: str, line: str) -> None:
    service.hold("narrow-59")
    job = submit(cli, [f"narrow-{number}" for number in range(60)])
    terminal = Terminal(cli, "watch", job, COLUMNS=columns, NO_COLOR="1")
    terminal.read_until(lambda output: re.search(line, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)))
    assert "…" not in terminal.output
    service.release()
    terminal.read_until(lambda output: "60 of 60 looked up" in output)
    assert terminal.exit_code() == 0


@pytest.mark.parametrize("columns", [60, 80])
def test_a_table_fits_a_narrow_terminal(cli: Cli, columns: int) -> None:
    job = submit(cli, 1)
    key_id = cli.run("keys", "create", "--name", "nightly").stderr.split()[1]
    for words, expected in (
        (["list"], (job, "1", "sites.csv")),
        (["keys", "list"], (key_id, "nightly", "never", "jobs:read", "webhooks:write", "keys:admin")),
    ):
        terminal = Terminal(cli, *words, COLUMNS=str(columns), NO_COLOR="1")
        terminal.read_to_end()
        lines = terminal.output.splitlines()
        assert terminal.exit_code() == 0
        assert max(map(len, lines)) <= columns
        # A record begins at the margin, and what there is no room for follows below.
        assert lines[0].startswith("ID ")
        assert lines[1].startswith("    ")
        assert set(expected) <= set(terminal.output.split())
        # Elsewhere, a record is a line.
        assert all(line[:1].strip() for line in cli.run(*words, COLUMNS=str(columns)).stdout.splitlines())


def test_colours_are_left_out_where_they_are_not_wanted(cli: Cli) -> None:
    submit(cli, 1)
    coloured = Terminal(cli, "list")
    coloured.read_until(lambda output: "sites.csv" in output)
    assert coloured.exit_code() == 0
    assert "\x1b[1mID" in coloured.output
    plain = Terminal(cli, "list", NO_COLOR="1")
    plain.read_until(lambda output: "sites.csv" in output)
    assert plain.exit_code() == 0
    assert "\x1b[" not in plain.output
    dumb = Terminal(cli, "list", TERM="dumb")
    dumb.read_until(lambda output: "sites.csv" in output)
    assert dumb.exit_code() == 0
    assert "\x1b[" not in dumb.output


def test_login_asks_for_the_key_without_showing_it(cli: Cli, service: Service) -> None:
    key = cli.environment.pop("BATCH_LOOKUPS_API_KEY")
    terminal = Terminal(cli, "login", service.url)
    terminal.read_until(lambda output: "API key: " in output)
    os.write(terminal.descriptor, f"{key}\n".encode())
    terminal.read_until(lambda output: "Logged in to " in output)
    assert terminal.exit_code() == 0
    assert key not in terminal.output
    assert json.loads((cli.folder / ".config/batch-lookups/credentials.json").read_text()) == {"url": service.url, "api_key": key}


@pytest.mark.parametrize(
    "words", [("status",), ("watch",), ("items",), ("results",), ("report",), ("cancel",), ("delete", "--yes"), ("retry",)]
)
def test_an_empty_id_is_wrong_usage(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli.run(words[0], "", *words[1:])
    assert (done.returncode, done.stderr) == (2, "error: The id is empty\n")


def test_names_from_files_cannot_control_the_terminal(cli: Cli) -> None:
    cli.sites("sites.csv", 1)
    submitted = cli.run("submit", "sites.csv", "--name", "red \x1b[31m")
    job = submitted.stdout.strip()
    assert cli.run("watch", job).returncode == 0
    for words in (["list"], ["status", job], ["report", job]):
        assert "red �[31m" in cli.run(*words).stdout, words
    made = cli.run("keys", "create", "--name", "\x1b]0;title\x07", "--json")
    assert "(�]0;title�) has the scopes " in made.stderr
    assert "(�]0;title�) is revoked" in cli.run("keys", "revoke", json.loads(made.stdout)["id"], "--yes").stdout


def test_names_are_shown_with_the_spaces_of_their_language(cli: Cli) -> None:
    name = "東京\u3000支店, n°\u00a05, 10\u202f000"
    job = cli.run("submit", cli.sites("sites.csv", 1), "--name", name).stdout.strip()
    for words in (["list"], ["status", job]):
        assert name in cli.run(*words).stdout, words
    broken = cli.run("keys", "create", "--name", "two\u2028lines\u200b")
    assert "(two�lines�) has the scopes " in broken.stderr


def test_without_a_terminal_there_is_a_line_now_and_then(cli: Cli, service: Service) -> None:
    service.hold("line-49")
    started = time.monotonic()
    running = cli.start("watch", submit(cli, [f"line-{number}" for number in range(50)]))
    assert running.stderr is not None
    lines = [running.stderr.readline().decode().strip()]
    service.release()
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 0
    lines += [line for line in stderr.decode().splitlines() if " of 50 done" in line]
    assert re.fullmatch(r"\d+ of 50 done.*", lines[0])
    assert lines[-1] == "50 of 50 done"
    assert len(lines) <= 2 + (time.monotonic() - started) / 10, "one at once, one in the end, and one every ten seconds meanwhile"
