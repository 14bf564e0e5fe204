"""The commands that people run, as they run them: as processes."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pyshell.__main__ import COMMANDS, main
from pyshell.local import stack
from pyshell.local.machine import free_port
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.local.stopping import until_stopped
from pyshell.settings import ROOT, Settings
from tests.conftest import MakeCluster, folder_for_postgres
from tests.http_fixtures import is_ready
from tests.timed import wait_until
from tests.webhook_receiver import serving

Environment = dict[str, str]


@pytest.fixture
def new_environment(cluster: PrivatePostgres) -> Iterator[Environment]:
    """A free port, a folder for a new private cluster, and none of the caller's settings."""
    with folder_for_postgres(cluster) as folder:
        port = free_port()
        yield os.environ | {"PORT": str(port), "STATE_DIR": str(folder), "DATABASE_URL": "", "ROOT_PATH": "", "LOG_LEVEL": "warning"}
        PrivatePostgres.of_project(folder).stop(immediately=True)


@pytest.fixture
def environment(new_environment: Environment, make_cluster: MakeCluster) -> Environment:
    """The same, with an existing cluster."""
    make_cluster(PrivatePostgres.of_project(Path(new_environment["STATE_DIR"])).folder)
    return new_environment


def run(environment: Environment, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyshell", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def url_of(environment: Environment) -> str:
    return f"http://127.0.0.1:{environment['PORT']}{environment['ROOT_PATH']}"


@contextmanager
def up(environment: Environment) -> Iterator[subprocess.Popen[str]]:
    """`up`, as soon as it says that it is ready."""
    with starting(environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"ready {url_of(environment)}\n", line + process.communicate()[1]
        yield process


@contextmanager
def starting(environment: Environment, command: str = "up") -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "pyshell", command]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def another_api(port: int) -> Iterator[None]:
    """Something at this port that says that it is ready."""

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_request(self, code: object = "-", size: object = "-") -> None:
            pass

    with HTTPServer(("127.0.0.1", port), Ready) as server, serving(server):
        yield


def processes_of(environment: Environment) -> dict[str, int]:
    """The processes that belong to the folder of the private cluster: what they run, and their ids."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
            mine = f"STATE_DIR={environment['STATE_DIR']}" in (process / "environ").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if mine and words[1:3] == ["-m", "pyshell"]:
            found[words[3]] = int(process.name)
    postgres = PrivatePostgres.of_project(Path(environment["STATE_DIR"])).pid
    return found | ({"postgres": postgres} if postgres else {})


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]])
def test_up_serves_until_a_signal_and_leaves_nothing_running(environment: Environment, signals: list[signal.Signals]) -> None:
    with up(environment) as process:
        assert is_ready(url_of(environment))
        assert processes_of(environment).keys() == {"up", "serve", "worker", "postgres"}
        for number in signals:
            os.killpg(process.pid, number)
        assert process.wait(30) == 0
        assert processes_of(environment) == {}


def test_up_may_be_stopped_while_it_starts(new_environment: Environment) -> None:
    with starting(new_environment) as process:
        wait_until(lambda: "postgres" in processes_of(new_environment))
        process.terminate()
        assert process.wait(30) == 0
    assert processes_of(new_environment) == {}


@pytest.mark.parametrize("command", ["up", "demo"])
def test_the_server_may_enter_a_new_folder_whatever_the_umask(new_environment: Environment, command: str) -> None:
    environment = new_environment | {"STATE_DIR": new_environment["STATE_DIR"] + "/new/state"}
    before = os.umask(0o077)
    try:
        with starting(environment, command) as process:
            wait_until(lambda: "postgres" in processes_of(environment) or process.poll() is not None)
            process.terminate()
            process.wait(30)
    finally:
        os.umask(before)
    assert process.returncode == 0


@pytest.mark.parametrize(("ignored", "stops"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)], ids=["terminal", "nohup"])
def test_the_end_of_the_terminal_stops_what_nohup_has_not_started(ignored: signal.Handlers, stops: bool) -> None:
    before = signal.signal(signal.SIGHUP, ignored)
    went_on = False
    try:
        with until_stopped() as stopping:
            signal.raise_signal(signal.SIGHUP)
            stopping.check()
            went_on = True
        assert signal.getsignal(signal.SIGHUP) is ignored
    finally:
        signal.signal(signal.SIGHUP, before)
    assert went_on is not stops


def test_down_stops_what_up_runs(new_environment: Environment) -> None:
    with up(new_environment | {"ROOT_PATH": "/alpha"}) as process:
        assert run(new_environment, "down").stdout == "stopped\n"
        assert process.wait(30) == 0
        assert processes_of(new_environment) == {}
        assert run(new_environment, "down").stdout == "nothing was running\n"


def test_down_stops_what_a_killed_up_left(environment: Environment) -> None:
    with up(environment) as process:
        process.kill()
        process.communicate()
        wait_until(lambda: processes_of(environment).keys() == {"postgres"})
        assert run(environment, "down").stdout == "stopped\n"
        assert processes_of(environment) == {}


def test_down_finds_an_up_that_it_met_while_that_registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(database_url="", state_dir=tmp_path)
    lock = fcntl.flock

    def lock_after_down(file: Any, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        assert not stack.down(settings)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_after_down)
    with stack._registered(settings):
        [marker] = (tmp_path / "stacks").iterdir()
        with marker.open() as file, pytest.raises(BlockingIOError):
            lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert list((tmp_path / "stacks").iterdir()) == []


def test_a_killed_worker_and_a_killed_postgres_come_back(environment: Environment) -> None:
    with up(environment) as process:
        before = processes_of(environment)
        os.kill(before["worker"], signal.SIGKILL)
        wait_until(lambda: processes_of(environment).get("worker", before["worker"]) != before["worker"])
        os.kill(before["postgres"], signal.SIGKILL)
        wait_until(lambda: processes_of(environment).get("postgres", before["postgres"]) != before["postgres"])
        wait_until(lambda: is_ready(url_of(environment)))
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.long
def test_a_postgres_that_cannot_start_at_once_is_tried_until_it_can(environment: Environment) -> None:
    with up(environment) as process:
        postgres = PrivatePostgres.of_project(Path(environment["STATE_DIR"]))
        busy = "do $$ begin while clock_timestamp() < now() + interval '3 s' loop end loop; end $$"
        with psycopg.connect(postgres.url(), autocommit=True) as connection, ThreadPoolExecutor(1) as thread:
            # A backend that is too busy to notice that its server was killed keeps the next one from starting.
            statement = thread.submit(connection.execute, busy)
            wait_until(lambda: connection.info.transaction_status.name == "ACTIVE")
            os.kill(processes_of(environment)["postgres"], signal.SIGKILL)
            statement.result()
        wait_until(lambda: is_ready(url_of(environment)))
        process.terminate()
        log = process.communicate(timeout=30)[1]
        assert process.returncode == 0
    assert "PostgreSQL did not start." in log
    assert "trying again in" in log


def test_a_postgres_that_is_already_running_is_used_and_named(environment: Environment) -> None:
    with PrivatePostgres.of_project(Path(environment["STATE_DIR"])).running(), up(environment) as process:
        process.terminate()
        assert "using the PostgreSQL that is already running" in process.communicate(timeout=30)[1]


def test_up_says_why_it_ends_when_the_api_dies(environment: Environment) -> None:
    with up(environment) as process:
        os.kill(processes_of(environment)["serve"], signal.SIGKILL)
        assert "error: The API ended with status -9." in process.communicate(timeout=30)[1]
        assert process.returncode == 1
        assert processes_of(environment) == {}


def test_a_taken_port_is_named(new_environment: Environment) -> None:
    with socket.create_server(("127.0.0.1", int(new_environment["PORT"]))):
        ended = run(new_environment, "up")
    assert ended.returncode == 1
    assert f"error: Port {new_environment['PORT']} of 127.0.0.1 cannot be used: Address already in use." in ended.stderr


def test_a_port_that_is_taken_during_the_start_is_named(new_environment: Environment) -> None:
    with starting(new_environment) as process:
        wait_until(lambda: "postgres" in processes_of(new_environment))
        with another_api(int(new_environment["PORT"])):
            out, log = process.communicate(timeout=60)
    assert out == ""
    assert process.returncode == 1
    assert log.endswith(
        f"error: Port {new_environment['PORT']} of 127.0.0.1 cannot be used: Address already in use. PORT chooses another.\n"
    )


def test_a_demo_uses_another_port_if_its_own_is_taken_and_says_when_the_api_ends(new_environment: Environment) -> None:
    with starting(new_environment, "demo") as process:
        wait_until(lambda: "postgres" in processes_of(new_environment))
        with another_api(int(new_environment["PORT"])):
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            os.kill(processes_of(new_environment)["serve"], signal.SIGKILL)
            log = process.communicate(timeout=60)[1]
    assert lines[1].startswith("In the browser: http://127.0.0.1:")
    assert url_of(new_environment) not in lines[1]
    assert lines[2].startswith("Uploaded 245 sites")
    assert process.returncode == 1
    assert "error: The API no longer answers: " in log
    assert "Traceback" not in log


def test_a_given_database_is_used_and_not_stopped(new_environment: Environment, database_url: str) -> None:
    new_environment |= {"DATABASE_URL": database_url, "ROOT_PATH": "/alpha"}
    with up(new_environment) as process:
        assert processes_of(new_environment).keys() == {"up", "serve", "worker"}
        process.terminate()
        assert process.wait(30) == 0
        with psycopg.connect(database_url) as connection:
            connection.execute("select 1")


def test_a_database_without_migrations_is_named(new_environment: Environment, new_database: Callable[..., str]) -> None:
    ended = run(new_environment | {"DATABASE_URL": new_database(empty=True)}, "keys", "create", "--organization", "Acme")
    assert ended.returncode == 1
    assert "`python -m pyshell migrate` applies them" in ended.stderr


def test_creating_a_key_does_not_create_a_database(new_environment: Environment) -> None:
    ended = run(new_environment, "keys", "create", "--organization", "Acme")
    assert ended.returncode == 1
    assert re.fullmatch(r"error: There is no database in .*\. Is STATE_DIR that of `make up`\? .*\n", ended.stderr)
    assert list(Path(new_environment["STATE_DIR"]).iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keys", "create", "--organization", "Acme", "--scope", "bogus"], "bogus"),
        (["catalogue", "import", "--name", "ours", "/nonexistent"], "/nonexistent is not a folder"),
        (["catalogue", "import", "/nonexistent"], "give either --name"),
        (["catalogue", "import", "--name", "ours", "--rewiring-america", "/nonexistent"], "give either --name"),
        (["catalogue", "import", "--rewiring-america", "/nonexistent"], "/nonexistent cannot be read"),
    ],
)
def test_a_command_that_fails_says_why_and_no_more(new_environment: Environment, database_url: str, words: list[str], message: str) -> None:
    ended = run(new_environment | {"DATABASE_URL": database_url}, *words)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "CONTEXT" not in ended.stderr


@pytest.mark.parametrize("words", [["migrate"], ["keys", "create", "--organization", "Acme"]])
def test_a_read_only_database_is_named_at_the_start(new_environment: Environment, database_url: str, words: list[str]) -> None:
    assert "?" not in database_url
    ended = run(new_environment | {"DATABASE_URL": f"{database_url}?options=-c%20default_transaction_read_only%3Don"}, *words)
    assert ended.returncode == 1
    assert ended.stderr.endswith(": DATABASE_URL must lead to the primary: this database is a standby, or lets nobody write.\n")


def test_a_worker_names_missing_migrations(new_environment: Environment, new_database: Callable[..., str]) -> None:
    environment = new_environment | {"DATABASE_URL": new_database(empty=True)}
    with subprocess.Popen(
        [sys.executable, "-m", "pyshell", "worker"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stderr is not None
        line = worker.stderr.readline()
        worker.terminate()
    assert "the database lacks the migrations of this release; `python -m pyshell migrate` applies them" in line


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_single_process_needs_a_database(command: str, new_environment: Environment) -> None:
    assert "error: DATABASE_URL is not set." in run(new_environment, command).stderr


def test_a_bad_setting_is_named(new_environment: Environment) -> None:
    ended = run(new_environment | {"PORT": "http"}, "serve")
    assert (ended.returncode, ended.stderr) == (1, "error: PORT must be a number from 1 to 65535, not 'http'\n")


def test_a_taken_port_of_metrics_is_named(new_environment: Environment, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = new_environment | {"DATABASE_URL": database_url, "METRICS_PORT": str(port)}
        ended = run(environment, "worker")
    expected = (
        f"error: METRICS_PORT {port} of HOST 127.0.0.1 cannot be used: Address already in use. Each worker needs a port of its own.\n"
    )
    assert (ended.returncode, ended.stderr) == (1, expected)


@pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_REPLICA_URL"])
@pytest.mark.parametrize(
    "rest",
    [
        "lookups:hunter%zz@db.example.com/lookups",
        "lookups:hunter@2@db.example.com/lookups",
        "lookups:hunter/2@db.example.com/lookups",
        "lookups:hunter2@db.example.com:54x2/lookups",
        "lookups:hunter2@db.example.com:65536/lookups",
        "lookups:hunter2@db.example.com/lookups?sslmod=verify-full",
    ],
)
def test_an_unreadable_url_of_a_database_is_named_without_its_password(name: str, rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://db.example.com:5432,standby.example.com/lookups")
    monkeypatch.setenv(name, f"postgresql://{rest}")
    with pytest.raises(SystemExit, match=f"^error: {name} is not a URL that PostgreSQL's libraries can read") as ended:
        main(["serve"])
    assert "hunter" not in str(ended.value)


@pytest.mark.parametrize(
    ("option", "refusal"),
    [
        ("sslmode=verify_full", 'invalid sslmode value: "verify_full"'),
        ("target_session_attrs=rw", 'invalid target_session_attrs value: "rw"'),
    ],
)
def test_an_option_that_no_connection_can_have_is_refused_at_once(option: str, refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://lookups:hunter2@db.example.com/lookups?{option}")
    with pytest.raises(SystemExit) as ended:
        main(["worker"])
    assert str(ended.value) == f"error: DATABASE_URL: {refusal}"


@pytest.mark.parametrize("group", sorted({command.name.partition(" ")[0] for command in COMMANDS if " " in command.name}))
def test_help_says_what_commands_of_two_words_are_for(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([group, "--help"])
    said = capsys.readouterr().out
    assert f"such as: python -m pyshell {group} " in said
    with pytest.raises(SystemExit):
        main(["--help"])
    [about] = re.findall(rf"^    {group} +(.+)$", capsys.readouterr().out, re.MULTILINE)
    assert about in said


def test_make_help_lists_every_command() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^  make ([\w-]+) +\w", listed, re.MULTILINE) == commands
    assert len(commands) > 10
