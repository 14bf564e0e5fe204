"""The whole system on one machine: PostgreSQL (a private one without DATABASE_URL), migrations, the API and a worker."""

from __future__ import annotations

import asyncio
import fcntl
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from pyshell.deploy import migrations
from pyshell.local.installations import PostgresError
from pyshell.local.machine import ends_with_parent, free_port, why_taken
from pyshell.local.private_postgres import PrivatePostgres, default_state_dir, make_enterable
from pyshell.local.stopping import Stopping, until_stopped
from pyshell.postgres.connections import Backoff, require_sessions
from pyshell.settings import ROOT, Settings, read_environment

READY_SECONDS = 60.0
STOP_SECONDS = 30.0
RESTART_SECONDS = 1.0
LONGEST_PAUSE = 30.0

Report = Callable[[str], None]


class StackError(RuntimeError):
    """The system cannot run; the message says why."""


class Stack:
    """The API and the worker as child processes, which always end with this one."""

    def __init__(self, settings: Settings, postgres: PrivatePostgres | None, log: IO[Any] | None, report: Report) -> None:
        self.settings = settings
        self.url = settings.server_url
        self._postgres = postgres
        self._log = log
        self._report = report
        self._backoff = Backoff(first=1.0, longest=LONGEST_PAUSE)
        self._start_postgres_at = 0.0
        self._api = self._spawn("serve")
        self._worker = self._spawn("worker")

    def wait_until_ready(self, stopping: Stopping) -> None:
        """Waits until requests are served. Raises StackError if they are not, and Stopped."""
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            stopping.check()
            if self._api.poll() is not None:
                raise StackError(f"The API ended with status {self._api.returncode} before it was ready.")
            if time.monotonic() > deadline:
                raise StackError(f"The API was not ready within {READY_SECONDS:.0f} s.")
            time.sleep(0.05)

    def watch(self, stopping: Stopping) -> None:
        """Keeps everything running until Stopped is raised. Raises StackError when the API ends."""
        while True:
            stopping.check()
            if self._api.poll() is not None:
                raise StackError(f"The API ended with status {self._api.returncode}.")
            if self._worker.poll() is not None:
                self._report(f"the worker ended with status {self._worker.returncode}; starting it again")
                time.sleep(RESTART_SECONDS)
                self._worker = self._spawn("worker")
            if self._postgres and self._postgres.pid is None and time.monotonic() >= self._start_postgres_at:
                self._start_again(self._postgres)
            time.sleep(0.1)

    def _start_again(self, postgres: PrivatePostgres) -> None:
        """Tries once. After a failure the system stays as it is, and the next try comes later each time."""
        self._report("PostgreSQL ended; starting it again")
        try:
            postgres.start(attempts=1)
            self._backoff.reset()
        except PostgresError as error:
            delay = self._backoff.delay()
            self._start_postgres_at = time.monotonic() + delay
            self._report(f"{error}\ntrying again in {delay:.0f} s")

    def stop(self) -> None:
        """Stops everything; the worker first, because its lookups in flight may need the API."""
        for process in (self._worker, self._api):
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _spawn(self, command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "pyshell", command],
            cwd=ROOT,
            env=read_environment() | {"DATABASE_URL": self.settings.database_url, "PORT": str(self.settings.port)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # Ctrl-C signals the whole process group of the terminal; we stop these processes ourselves, in order.
            start_new_session=True,
            preexec_fn=ends_with_parent(signal.SIGTERM),
        )

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=5)
        try:
            connection.request("GET", f"{self.settings.root_path}/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@contextmanager
def running(
    settings: Settings, stopping: Stopping, *, log: IO[Any] | None = None, report: Report = lambda line: None, any_port: bool = False
) -> Iterator[Stack]:
    """The system, ready for requests, for as long as the context lasts. `log` gets the output of its processes. With `any_port`, it takes
    another port if that of the settings is taken.

    Raises Stopped while it starts, StackError, and what the migrations and the private PostgreSQL raise.
    """
    if not any_port:
        _check_port(settings)
    with ExitStack() as context:
        context.enter_context(_registered(settings))
        if not settings.database_url and PrivatePostgres.of_project(settings.state_dir).pid is not None:
            report("using the PostgreSQL that is already running")
        with_database, postgres = context.enter_context(database(settings, create=True))
        if not postgres:
            asyncio.run(require_sessions(with_database.database_url))
        with stopping.interruptible():
            migrations.migrate(with_database.database_url, lookups_per_second=settings.lookups_per_second, report=report)
        # What starts at the same time may have taken the port meanwhile, and would answer in our place.
        if not any_port:
            _check_port(settings)
        elif why_taken(settings.host, settings.port):
            with_database = replace(with_database, port=free_port(settings.host))
        running_as = replace(with_database, database_url=postgres.app_url()) if postgres else with_database
        stack = Stack(running_as, postgres, log, report)
        context.callback(stack.stop)
        stack.wait_until_ready(stopping)
        yield stack


@contextmanager
def database(settings: Settings, *, create: bool = False) -> Iterator[tuple[Settings, PrivatePostgres | None]]:
    """The settings with a database: the one that they name, else that of the private PostgreSQL, kept running meanwhile.

    Raises StackError if that does not exist, unless it may `create` it.
    """
    if settings.database_url:
        yield settings, None
        return
    postgres = PrivatePostgres.of_project(settings.state_dir)
    if not create and not postgres.is_made:
        raise StackError(
            f"There is no database in {postgres.folder}. Is STATE_DIR that of `make up`? Where there is none yet, `make up` makes one."
        )
    with postgres.running():
        yield replace(settings, database_url=postgres.url()), postgres


def up(settings: Settings) -> None:
    """Runs the system in the foreground until a signal. Nothing is left running."""

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with until_stopped() as stopping, running(settings, stopping, report=report) as stack:
        address = stack.url + settings.root_path
        print(f"ready {address}\nportal {address}/portal", flush=True)
        if sys.stdout.isatty():
            report("An API key to sign in with: .venv/bin/python -m pyshell keys create --organization Acme")
        stack.watch(stopping)


def down(settings: Settings) -> bool:
    """Stops everything that uses the private cluster, and the cluster. Returns whether anything was running."""
    stopped = False
    for marker in _stacks_folder(settings).glob("*"):
        with suppress(FileNotFoundError), marker.open() as file:
            if _is_locked(file):
                with suppress(ProcessLookupError):
                    os.kill(int(marker.name), signal.SIGTERM)
                fcntl.flock(file, fcntl.LOCK_EX)
                stopped = True
            else:
                marker.unlink()
    return PrivatePostgres.of_project(settings.state_dir).stop() or stopped


@contextmanager
def _registered(settings: Settings) -> Iterator[None]:
    """A locked file named after our process id, by which `down` finds us."""
    folder = _stacks_folder(settings)
    make_enterable(folder)
    marker = folder / str(os.getpid())
    with ExitStack() as registered:
        while True:
            file = registered.enter_context(marker.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
            # `down` may have taken the file for that of a killed process, and removed it, before it was locked.
            if marker.exists():
                break
        registered.callback(marker.unlink)
        yield


def _stacks_folder(settings: Settings) -> Path:
    return (settings.state_dir or default_state_dir()) / "stacks"


def _is_locked(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _check_port(settings: Settings) -> None:
    reason = why_taken(settings.host, settings.port)
    if reason:
        raise StackError(f"Port {settings.port} of {settings.host} cannot be used: {reason}. PORT chooses another.")
