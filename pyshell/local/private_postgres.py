"""A PostgreSQL server of the project's own, for `make up`, `make demo` and the tests. No other server is touched.

A cluster is one folder with `data/`, `password`, `port` and `postgres.log`, and a log for each day of the week in `data/log`. The server
listens on 127.0.0.1 only and asks for the password, which keeps other users of the machine out. PostgreSQL refuses to run as root, so root
runs it as the user `postgres`, who owns `data/` and nothing else in the folder. Files in `data/` are written as that user, so that root
never follows a link of theirs.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pyshell.local.installations import Installation, PostgresError, chosen_installation, newest_installation
from pyshell.local.machine import ends_with_parent, free_port, why_taken
from pyshell.postgres.connections import Backoff, connect_as_owner
from pyshell.postgres.sqlstates import DatabaseError
from pyshell.settings import ROOT

DATABASE = "batch_lookups"
# Created by chapter 05, without LOGIN.
APP_ROLE = "batch_lookups_app"
UNPRIVILEGED_USERS = ("postgres", "nobody")
START_SECONDS = 60.0
START_ATTEMPTS = 5
STOP_SECONDS = 30.0

SETTINGS = {
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",
    "password_encryption": "'scram-sha-256'",
    "max_connections": "100",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    # Supabase Realtime reads the changes of the published tables by logical decoding.
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_worker_processes": "20",
    "log_line_prefix": "'%m [%p] %q%d '",
}
# pg_cron runs its jobs in background workers, which need no password.
CRON_SETTINGS = {
    "shared_preload_libraries": "'pg_cron'",
    "cron.database_name": f"'{DATABASE}'",
    "cron.use_background_workers": "on",
}
# Settings that only some builds have.
OPTIONAL_SETTINGS = {
    "default_toast_compression": "lz4",
    "output_plugin_libraries": "pgoutput, test_decoding, wal2json",
}
# A file for each day of the week, truncated when the day comes round again. Until the logging collector runs, postgres.log is used.
ROTATED_LOG_SETTINGS = {
    "logging_collector": "on",
    "log_filename": "'postgresql-%a.log'",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
}
# For disposable databases: a crash of the machine may lose everything, but killing a server loses nothing.
THROW_AWAY_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "256MB",
}


class PrivatePostgres:
    """One cluster in one folder.

    `throw_away` makes it fast and unsafe, and ends the server with the process that started it. A new cluster is created by the newest
    installed version that has the `extensions`.
    """

    def __init__(self, folder: Path, *, throw_away: bool = False, extensions: Sequence[str] = ("pg_cron",)) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._throw_away = throw_away
        self._extensions = extensions
        self._account = _account()
        self._identity: dict[str, Any] = {}
        if self._account:
            self._identity = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}

    @classmethod
    def of_project(cls, state_dir: Path | None = None) -> PrivatePostgres:
        """The cluster of this checkout, in `state_dir` or in `default_state_dir()`."""
        return cls((state_dir or default_state_dir()) / "postgres")

    @property
    def installation(self) -> Installation:
        """The version that created the data, or the newest one if there is none. Raises PostgresError if it is not installed."""
        version_file = self.data / "PG_VERSION"
        if not version_file.exists():
            return newest_installation(self._extensions)
        installation = Installation(int(version_file.read_text()))
        if (chosen := chosen_installation()) and chosen.version == installation.version:
            return chosen
        if not installation.has_extensions(["pg_cron"]):
            raise PostgresError(
                f"The data in {self.data} need PostgreSQL {installation.version} with pg_cron, which is no longer installed.\n"
                "Install it again, or begin anew after `python -m pyshell postgres delete`."
            )
        return installation

    @property
    def port(self) -> int:
        """The TCP port of the last start. Raises FileNotFoundError before the first."""
        return int((self.folder / "port").read_text())

    def url(self, database: str = DATABASE) -> str:
        """The superuser's connection URL, with the password, for a database of the cluster."""
        password = (self.folder / "password").read_text()
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{database}"

    def app_url(self) -> str:
        """The connection URL for the API and the worker, whose role owns nothing. The database must have been migrated."""
        with self._lock():
            if not (self.folder / "app_password").exists():
                self._write("app_password", secrets.token_urlsafe(24))
            password = (self.folder / "app_password").read_text()
            with connect_as_owner(self.url()) as connection:
                connection.execute(f"alter role {APP_ROLE} login password '{password}'".encode())
        return f"postgresql://{APP_ROLE}:{password}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None if it is not running, even if a crash has left `postmaster.pid` behind."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._is_server(pid) else None

    @property
    def is_made(self) -> bool:
        """Whether the cluster has data. The first `start` creates it."""
        return (self.data / "PG_VERSION").exists()

    def start(self, attempts: int = START_ATTEMPTS) -> None:
        """Starts the server unless it is running, and returns once it accepts connections. The first start creates the cluster.

        Raises PostgresError, with the end of the log, if it has not started after several attempts.
        """
        with self._lock():
            pid = self.pid
            if pid is not None and self._becomes_ready(pid):
                return
            if not self.is_made:
                self._create()
            # The port may have just been taken, and the remains of a killed server take a moment to end.
            backoff = Backoff(first=0.5)
            for attempt in range(1, attempts + 1):
                (self.data / "postmaster.pid").unlink(missing_ok=True)
                self._write_settings()
                pid = self._launch()
                try:
                    if self._becomes_ready(pid):
                        self._create_database()
                        return
                except DatabaseError:
                    # It ended again, right after it was ready.
                    pass
                except BaseException:
                    os.kill(pid, signal.SIGQUIT)
                    raise
                if attempt < attempts:
                    time.sleep(backoff.delay())
        log = self.log().splitlines()
        raise PostgresError("PostgreSQL did not start. The end of its log:\n" + "\n".join(f"    {line}" for line in log[-10:]))

    def log(self) -> str:
        """What the server has logged in the last week, by file, the newest last."""
        texts = []
        for file in sorted([self.folder / "postgres.log", *(self.data / "log").glob("*.log")], key=lambda file: file.lstat().st_mtime):
            with open(file, errors="replace", opener=_open_no_link) as log:
                texts.append(log.read())
        return "".join(texts)

    def stop(self, *, immediately: bool = False) -> bool:
        """Stops the server, closing open connections, and waits for its end. Returns whether it was running.

        `immediately`: without a checkpoint, as in a crash. Raises PostgresError if it does not end.
        """
        if not self.folder.exists():
            return False
        with self._lock():
            pid = self.pid
            if pid is None:
                return False
            for sent in (signal.SIGQUIT,) if immediately else (signal.SIGINT, signal.SIGQUIT):
                with suppress(ProcessLookupError):
                    os.kill(pid, sent)
                if _ended(pid, STOP_SECONDS):
                    return True
            raise PostgresError(f"PostgreSQL (process {pid}) does not stop; see {self.data / 'log'}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keeps the server running while the context lasts. The last of the processes that use it stops it.

        A server that was already running, such as after `keep_running`, keeps running.
        """
        self._prepare_folder()
        with open(self.folder / "users.lock", "a", opener=_open_no_link) as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            started = self.folder / "started_on_demand"
            if self.pid is None:
                started.touch(mode=0o600)
            try:
                self.start()
                yield
            finally:
                with suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if started.exists():
                        self.stop()
                        started.unlink()

    def keep_running(self) -> None:
        """Starts the server and keeps it running until `stop` is called, whatever the users of `running` do."""
        self.start()
        (self.folder / "started_on_demand").unlink(missing_ok=True)

    def delete(self) -> None:
        """Stops the server and deletes the whole folder."""
        self.stop(immediately=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _create(self) -> None:
        password = secrets.token_urlsafe(24)
        self._write("password", password)
        shutil.rmtree(self.data, ignore_errors=True)
        # Under another name until it is complete, so that a killed initdb leaves nothing that looks like a cluster.
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._give(unfinished)
        for_initdb = self._write("password.initdb", password)
        self._give(for_initdb)
        self._run(
            self.installation.bin / "initdb",
            *("--pgdata", unfinished, "--username", "postgres", "--pwfile", for_initdb),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
            *(["--no-sync"] if self._throw_away else []),
        )
        for_initdb.unlink()
        self._run("sh", "-c", 'echo "include \'project.conf\'" >> "$0"', unfinished / "postgresql.conf")
        unfinished.rename(self.data)

    def _write_settings(self) -> None:
        settings = SETTINGS | (THROW_AWAY_SETTINGS if self._throw_away else ROTATED_LOG_SETTINGS)
        if self.installation.has_extensions(["pg_cron"]):
            settings |= CRON_SETTINGS
        self._write_project_conf({})
        for name, value in OPTIONAL_SETTINGS.items():
            if self._knows(name, value):
                settings[name] = f"'{value}'"
        port_file = self.folder / "port"
        port = int(port_file.read_text()) if port_file.exists() else None
        if port is None or why_taken("127.0.0.1", port):
            port = free_port()
            self._write("port", str(port))
        settings["port"] = str(port)
        self._write_project_conf(settings)

    def _write_project_conf(self, settings: Mapping[str, str]) -> None:
        text = "# Written anew at every start.\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
        self._run("sh", "-c", 'umask 077; printf %s "$1" > "$0.new" && mv -f "$0.new" "$0"', self.data / "project.conf", text)

    def _knows(self, name: str, value: str) -> bool:
        answer = self._popen(
            [self.installation.bin / "postgres", "-D", self.data, "-C", name, "-c", f"{name}={value}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return answer.wait() == 0

    def _launch(self) -> int:
        log_file = self.folder / "postgres.log"
        if log_file.exists() and log_file.stat().st_size > 10_000_000:
            log_file.unlink()
        with open(log_file, "a", opener=_open_no_link) as log:
            os.fchmod(log.fileno(), 0o600)
            process = self._popen(
                [self.installation.bin / "postgres", "-D", self.data], stdout=log, stderr=log, with_parent=self._throw_away
            )
        # It is not waited for as a child: it may outlive this process, and is watched by its id.
        process.returncode = 0
        return process.pid

    def _becomes_ready(self, pid: int) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while not _ended(pid, 0):
            try:
                connect_as_owner(self.url("postgres"), connect_timeout=2).close()
            except (DatabaseError, FileNotFoundError):
                if time.monotonic() > deadline:
                    raise PostgresError(f"PostgreSQL was not ready within {START_SECONDS:.0f} s; see {self.data / 'log'}") from None
                time.sleep(0.03)
            else:
                return True
        return False

    def _create_database(self) -> None:
        with connect_as_owner(self.url("postgres"), autocommit=True) as connection:
            if connection.execute("select from pg_database where datname = %s", [DATABASE]).fetchone() is None:
                connection.execute(f"create database {DATABASE}")

    def _is_server(self, pid: int) -> bool:
        process = Path(f"/proc/{pid}")
        with suppress(FileNotFoundError, ProcessLookupError):
            try:
                return (process / "cwd").samefile(self.data)
            except PermissionError:
                return str(self.data).encode() in (process / "cmdline").read_bytes().split(b"\0")
        return False

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._prepare_folder()
        with open(self.folder / "lock", "a", opener=_open_no_link) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _prepare_folder(self) -> None:
        if self.folder.exists():
            # Earlier releases gave the whole folder to the user who runs the server.
            if self._account and self.folder.stat().st_uid == self._account.pw_uid:
                self._take_back()
            return
        make_enterable(self.folder)
        if self._account and subprocess.run(["test", "-x", self.folder], **self._identity).returncode:
            self.folder.rmdir()
            raise PostgresError(
                f"PostgreSQL runs as the user {self._account.pw_name}, who cannot enter {self.folder}.\n"
                "Choose a folder that everyone may enter with STATE_DIR, such as /var/lib/batch-lookups."
            )

    def _take_back(self) -> None:
        if self.folder.is_symlink():
            raise PostgresError(f"{self.folder} is a link. Name the folder itself with STATE_DIR.")
        os.chown(self.folder, 0, 0)
        for path in self.folder.iterdir():
            if path.is_symlink():
                path.unlink()
            elif path.name != self.data.name:
                os.chown(path, 0, 0, follow_symlinks=False)

    def _write(self, name: str, text: str) -> Path:
        """Writes a file in the folder that only this user may read."""
        path = self.folder / name
        new = path.with_name(path.name + ".new")
        new.unlink(missing_ok=True)
        with open(new, "x", opener=_open_no_link) as file:
            file.write(text)
        new.rename(path)
        return path

    def _give(self, path: Path) -> None:
        if self._account:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _run(self, *command: str | Path) -> None:
        process = self._popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            output = process.communicate()[0]
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if process.returncode:
            raise PostgresError(f"{Path(command[0]).name} failed:\n{output.decode(errors='replace')}")

    def _popen(
        self, command: Sequence[str | Path], *, stdout: int | IO[str], stderr: int | IO[str], with_parent: bool = False
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd="/",
            env={name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C.UTF-8"},
            start_new_session=True,
            preexec_fn=ends_with_parent(signal.SIGQUIT) if with_parent else None,
            **self._identity,
        )


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def make_enterable(folder: Path) -> None:
    """Creates a folder, and those above it that are missing, which the user who runs the server can enter, whatever the umask."""
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        missing.mkdir(exist_ok=True)
        missing.chmod(0o711)


def default_state_dir() -> Path:
    """Where this checkout keeps its cluster: in `.state`, or for root in /var/lib, which the user postgres can access."""
    inside = ROOT / ".state"
    if os.geteuid() != 0:
        return inside
    # An id in the checkout names the folder. It moves with the checkout, and a copy of the checkout gets a new one.
    inside.mkdir(exist_ok=True)
    id_file = inside / "id"
    own_id = str(ROOT.stat().st_ino)
    known = id_file.read_text().split() if id_file.exists() else []
    if not known or known[0] != own_id:
        known = [own_id, secrets.token_hex(4)]
        id_file.write_text(" ".join(known))
    return Path("/var/lib/batch-lookups") / known[1]


def _account() -> pwd.struct_passwd | None:
    """The user to run PostgreSQL as; None means the current one. Raises PostgresError if root finds none."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED_USERS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise PostgresError(f"PostgreSQL does not run as root, and there is no user {' or '.join(UNPRIVILEGED_USERS)}.")


def _ended(pid: int, timeout: float) -> bool:
    """Waits up to `timeout` seconds for a process to end, and returns whether it has. Reaps it if it is a child of this one."""
    deadline = time.monotonic() + timeout
    while True:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        try:
            state = re.sub(r".*\) ", "", Path(f"/proc/{pid}/stat").read_text())[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
