"""Databases for the tests, on a PostgreSQL server that each run (with `-n 4`: each of its processes) starts and deletes.

- `database_url`, `owner`: a fresh, migrated database for one test, and the owner's autocommit connection to it.
- `shared_database_url`, `shared_owner`: the same, for all tests of a module together.
- `clock`: stands in for `app.clock()` in the database of `owner`.
- `cron_database_url`: the one migrated database that pg_cron serves, for all tests together.
- `new_database()`: further databases; `new_database(empty=True)` has nothing in it.
- `make_cluster(folder)`: a migrated cluster that is not running; `own_postgres`: a running one, for a test that stops or kills it.
"""

from __future__ import annotations

import base64
import fcntl
import gc
import hashlib
import hmac
import itertools
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pyshell.deploy import migrations
from pyshell.local.installations import newest_installation
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.local.throw_away import throw_away_folder
from pyshell.settings import ROOT

Connection = psycopg.Connection[tuple[Any, ...]]
TEMPLATE = "migrated"
UUID_PATTERN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

pytest_plugins = [
    "tests.browser_fixtures",
    "tests.http_fixtures",
    "tests.realtime_fixtures",
    "tests.worker_fixtures",
    "tests.webhook_receiver",
    "tests.cli_fixtures",
    "tests.citus_fixtures",
]


# `make fuzz` asks for more.
settings.register_profile(
    "ours",
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("ours")

# What has been imported and collected is never garbage, so garbage collection only looks at later objects.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_make_parametrize_id(val: object) -> str | None:
    """The processes of a run have to find tests of the same names: an id that is drawn at random gives way in them."""
    return UUID_PATTERN.sub("uuid", val) if isinstance(val, str) and UUID_PATTERN.search(val) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each process starts with its part of the tests marked `long`, so that none of them is left for the end.

    Those of one module stay together, because they may share fixtures that take long to create. The first process gets the first part of
    the collected tests, and so on; one that has finished its own takes over from others.
    """
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    long = [item for item in items if item.get_closest_marker("long")]
    modules = list(dict.fromkeys(item.path for item in long))
    others = [item for item in items if not item.get_closest_marker("long")]
    ordered: list[pytest.Item] = []
    for process in range(processes):
        first = [item for item in long if item.path in modules[process::processes]]
        share = max((len(items) - len(ordered)) // (processes - process) - len(first), 0)
        ordered += first + others[:share]
        others = others[share:]
    items[:] = ordered


@pytest.fixture
def not_ignoring_hangups() -> Iterator[None]:
    """What is started meanwhile does not ignore SIGHUP, whether or not the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session", autouse=True)
def certificates_are_read_once() -> Iterator[None]:
    """Each httpx client would read the machine's certificates, which takes ten times as long as a request to our server."""
    create = cache(lambda verify, cert, trust_env, *environment: httpx.create_ssl_context(verify, cert, trust_env))

    def create_once(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:
        return create(verify, cert, trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("httpx._transports.default.create_ssl_context", create_once)
        yield


EXTENSIONS = ["pg_cron", "pgtap", "plpgsql_check"]
ORIGINALS = ROOT / ".state" / "originals"


@pytest.fixture(scope="session")
def original() -> Path:
    """A migrated cluster that is not running, to be copied. It is kept until something that it depends on changes."""
    installation = newest_installation(EXTENSIONS)
    made_of = hashlib.sha256(subprocess.run([installation.bin / "postgres", "--version"], check=True, capture_output=True).stdout)
    sources = [ROOT / name for name in ("migrations", "sql/functions", "sql/catalogue", "pyshell/deploy", "pyshell/local")]
    for folder in (*sources, installation.extensions):
        for file in sorted(folder.iterdir()):
            if file.suffix in (".py", ".sql", ".csv", ".control"):
                made_of.update(file.read_bytes())
    made_of.update(Path(__file__).read_bytes())
    ORIGINALS.mkdir(parents=True, exist_ok=True)
    folder = ORIGINALS / f"{installation.version}-{os.geteuid()}"
    with folder.with_suffix(".made_of").open("a+") as known:
        fcntl.flock(known, fcntl.LOCK_EX)
        known.seek(0)
        if known.read() != made_of.hexdigest():
            # A process that is killed here leaves nothing that looks like a cluster.
            known.truncate(0)
            shutil.rmtree(folder, ignore_errors=True)
            make_original(folder)
            known.write(made_of.hexdigest())
    return folder


def make_original(folder: Path) -> None:
    with throw_away_folder() as place:
        postgres = PrivatePostgres(place / "postgres", throw_away=True, extensions=EXTENSIONS)
        with postgres.running():
            with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
                password = (postgres.folder / "password").read_text()
                connection.execute(sql.SQL("alter role postgres password {}").format(scram_of_one_iteration(password)))
                connection.execute(f"create database {TEMPLATE}")
            migrations.migrate(postgres.url(TEMPLATE))
            migrations.migrate(postgres.url())
            with psycopg.connect(postgres.url()) as connection:
                runs = "select exists (select from cron.job_run_details)"
                has_run_jobs = has_cron(postgres) and connection.execute(runs).fetchone() == (True,)
        if has_run_jobs:
            # At the turn of a minute. A cluster that is kept for long is the same each time.
            make_original(folder)
            return
        # Copies that start at the same time would all try to get it.
        (postgres.folder / "port").unlink()
        copy_cluster(postgres.folder, folder)


def scram_of_one_iteration(password: str) -> str:
    """What PostgreSQL stores of a password (RFC 5803). It usually makes clients hash 4,096 times for each connection."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return "SCRAM-SHA-256$1:{}${}:{}".format(*encoded)


def copy_cluster(original: Path, folder: Path) -> None:
    subprocess.run(["cp", "--archive", original, folder], check=True)


@pytest.fixture(scope="session")
def cluster(original: Path) -> Iterator[PrivatePostgres]:
    with throw_away_folder() as folder:
        copy_cluster(original, folder / "postgres")
        postgres = PrivatePostgres(folder / "postgres", throw_away=True)
        postgres.start()
        try:
            if has_cron(postgres):
                run_schedules(postgres, False)
            yield postgres
        finally:
            postgres.stop(immediately=True)


def has_cron(cluster: PrivatePostgres) -> bool:
    return cluster.installation.has_extensions(["pg_cron"])


def run_schedules(cluster: PrivatePostgres, active: bool) -> None:
    with psycopg.connect(cluster.url(), autocommit=True) as connection:
        connection.execute("update cron.job set active = %s", [active])


def needs_extension(cluster: PrivatePostgres, name: str) -> None:
    """Skips the test if POSTGRES_HOME names a build of PostgreSQL without the extension. Debian's build always has it."""
    if not cluster.installation.has_extensions([name]):
        pytest.skip(f"this PostgreSQL {cluster.installation.version} has no {name}")


@contextmanager
def folder_for_postgres(cluster: PrivatePostgres) -> Iterator[Path]:
    """A folder that PostgreSQL's user may enter, unlike pytest's. After a kill, it is deleted together with the cluster."""
    with tempfile.TemporaryDirectory(prefix="private postgres ", dir=cluster.folder.parent) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


MakeCluster = Callable[[Path], None]


@pytest.fixture(scope="session")
def make_cluster(original: Path) -> MakeCluster:
    """Creates a migrated cluster in the given folder, for `PrivatePostgres` to start."""
    return partial(copy_cluster, original)


@contextmanager
def running_copy(cluster: PrivatePostgres, make_cluster: MakeCluster) -> Iterator[PrivatePostgres]:
    with folder_for_postgres(cluster) as folder:
        make_cluster(folder / "postgres")
        postgres = PrivatePostgres(folder / "postgres", throw_away=True)
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.stop(immediately=True)


@pytest.fixture
def own_postgres(cluster: PrivatePostgres, make_cluster: MakeCluster) -> Iterator[PrivatePostgres]:
    with running_copy(cluster, make_cluster) as postgres:
        yield postgres


@pytest.fixture(scope="session")
def administrator(cluster: PrivatePostgres) -> Iterator[Connection]:
    """A superuser's connection, to the database `postgres`."""
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def new_database(cluster: PrivatePostgres, administrator: Connection, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Creates a database and returns its URL. All are dropped when the run ends."""
    if request.config.getoption("on_citus"):
        distributed_database: Callable[..., str] = request.getfixturevalue("citus").distributed_database
        return distributed_database
    numbers = itertools.count(1)

    def create(*, empty: bool = False) -> str:
        name = f"test_{next(numbers)}"
        template = "template0" if empty else TEMPLATE
        administrator.execute(f"create database {name} template {template} strategy file_copy")
        return cluster.url(name)

    return create


@pytest.fixture(scope="session")
def cron_database_url(cluster: PrivatePostgres) -> str:
    needs_extension(cluster, "pg_cron")
    run_schedules(cluster, True)
    return cluster.url()


@pytest.fixture(scope="session")
def drop_database(administrator: Connection, request: pytest.FixtureRequest) -> Callable[[str], None]:
    if request.config.getoption("on_citus"):
        drop_database: Callable[[str], None] = request.getfixturevalue("citus").drop_database
        return drop_database

    def drop(url: str) -> None:
        name = conninfo_to_dict(url)["dbname"]
        administrator.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(str(name))))

    return drop


@pytest.fixture
def database_url(new_database: Callable[..., str], drop_database: Callable[[str], None]) -> Iterator[str]:
    url = new_database()
    yield url
    drop_database(url)


@pytest.fixture(scope="module")
def shared_database_url(new_database: Callable[..., str], drop_database: Callable[[str], None]) -> Iterator[str]:
    url = new_database()
    yield url
    drop_database(url)


@pytest.fixture
def owner(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def shared_owner(shared_database_url: str) -> Iterator[Connection]:
    with psycopg.connect(shared_database_url, autocommit=True) as connection:
        yield connection


class Clock:
    """The time that the database's functions see. It stands still from `freeze` until `run`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def now(self) -> datetime:
        row = self._connection.execute("select app.clock()").fetchone()
        assert row is not None
        now: datetime = row[0]
        return now

    def freeze(self, at: datetime | str | None = None) -> None:
        """Stops the clock at the given time, by default at the current one."""
        self._replace(sql.SQL("{}::timestamptz").format(sql.Literal(str(at or self.now()))))

    def advance(self, **duration: float) -> None:
        """Stops the clock at a later time: `advance(seconds=90)`, with the arguments of timedelta."""
        self.freeze(self.now() + timedelta(**duration))

    def run(self) -> None:
        self._replace(sql.SQL("clock_timestamp()"))

    def _replace(self, body: sql.Composable) -> None:
        self._connection.execute(
            sql.SQL("create or replace function app.clock() returns timestamptz language sql volatile return {}").format(body)
        )


@pytest.fixture
def clock(owner: Connection) -> Clock:
    return Clock(owner)


def is_cluster(connection: Connection) -> bool:
    return connection.execute("select to_regclass('pg_catalog.citus_stat_activity') is not null").fetchone() == (True,)


def sessions(connection: Connection) -> LiteralString:
    """pg_stat_activity or, on a cluster, the same for all nodes."""
    return "citus_stat_activity" if is_cluster(connection) else "pg_stat_activity"


def waiting_for_locks(connection: Connection, name: str) -> list[int]:
    """The processes of this database that wait for a lock of a row or a table; on a cluster, also those for which a node waits. Only those
    of applications whose names start with the given text, or whose statements contain it.
    """
    here = """
        select a.pid from pg_stat_activity a
         where a.datname = current_database() and a.wait_event_type = 'Lock'
           and (starts_with(a.application_name, %(name)s) or position(%(name)s in a.query) > 0)"""
    anywhere = """
        select distinct a.pid
          from citus_stat_activity a
          join citus_stat_activity waiting on waiting.global_pid = a.global_pid
         where a.datname = current_database() and not a.is_worker_query and waiting.wait_event_type = 'Lock'
           and (starts_with(a.application_name, %(name)s) or position(%(name)s in a.query) > 0)"""
    return [pid for (pid,) in connection.execute(anywhere if is_cluster(connection) else here, {"name": name})]
