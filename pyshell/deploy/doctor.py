"""What is wrong with a deployment, in sentences, and what to do: `python -m pyshell doctor`.

The database diagnoses itself (api.diagnose); here is what only a process can see: whether it is reached, and how, its migrations, clocks,
the disk where that is on this machine, whether the incentives API is reached, and the settings.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import disk_usage
from urllib.parse import urlsplit

from pyshell.deploy import migrations
from pyshell.postgres.connections import SHELL, OwnerConnection, SessionNeededError, connect_as_owner, require_sessions
from pyshell.postgres.sqlstates import DatabaseError, Kind, explain, kind_of
from pyshell.settings import Settings

OK, WARNING, PROBLEM = "ok", "warning", "problem"
CLOCK_SECONDS = 5.0
REACH_SECONDS = 5.0
LOCK_SECONDS = 5.0
MIGRATIONS_NAMED = 5
# The shares of free disk space below which there is a warning, or a problem.
WARNING_FREE, PROBLEM_FREE = 0.15, 0.05
NODE_MILLISECONDS = 1000
CONNECTIONS = """
    select format('%s:%s', from_nodename, from_nodeport), format('%s:%s', to_nodename, to_nodeport), result
      from citus_check_cluster_node_health()"""
NOT_CONNECTED = re.compile(r"@(\S+) failed with the following error: (.*)")
LOCKS = """
    select l.pid, a.usename, coalesce(nullif(a.application_name, ''), 'no name'),
           string_agg(distinct n.nspname || '.' || c.relname, ', ' order by n.nspname || '.' || c.relname)
      from pg_locks l
      join pg_stat_activity a on a.pid = l.pid and a.datname = current_database()
      join pg_class c on c.oid = l.relation and c.relkind in ('r', 'p')
      join pg_namespace n on n.oid = c.relnamespace and n.nspname in ('app', 'public')
     where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock' and l.granted
       and l.database = (select oid from pg_database where datname = current_database())
     group by 1, 2, 3
     order by 1"""


@dataclass(frozen=True)
class Finding:
    """A check, its state, what was found, and what to do."""

    check: str
    state: str
    finding: str
    advice: str | None = None


def diagnose(settings: Settings) -> Iterator[Finding]:
    """All findings. Raises nothing: what cannot be checked is a finding, too."""
    yield from check_secrets(settings)
    yield from check_upstream(settings)
    try:
        with connect_as_owner(settings.database_url, "batch-lookups doctor") as connection:
            yield Finding("database", OK, "the database answers")
            yield from check_clock(connection)
            yield from check_disk(connection)
        yield from check_pooler(settings)
        yield from check_migrations(settings)
        yield from check_replica(settings)
        with _connect(settings) as connection:
            for row in connection.execute('select "check", state, finding, advice from api.diagnose()').fetchall():
                yield Finding(*row)
        yield from check_nodes(settings)
    except DatabaseError as error:
        if kind_of(error) is Kind.BUSY:
            yield from check_locks(settings, error)
        # The missing migrations are already a finding.
        elif kind_of(error) is not Kind.NOT_MIGRATED:
            yield Finding(
                "database", PROBLEM, explain(error), "Check DATABASE_URL, and that PostgreSQL is running and accepts connections from here."
            )


def _connect(settings: Settings) -> OwnerConnection:
    """Connects in the role of the shell; a statement that waits for a lock fails after LOCK_SECONDS, in the first transaction."""
    connection = connect_as_owner(settings.database_url, "batch-lookups doctor", role=SHELL)
    connection.execute(f"set local lock_timeout = {round(LOCK_SECONDS * 1000)}".encode())
    return connection


def check_locks(settings: Settings, error: DatabaseError) -> Iterator[Finding]:
    """Sessions that block even readers of a table, as lock table, alter table and vacuum full do, so that nothing else can be checked."""
    with connect_as_owner(settings.database_url, "batch-lookups doctor") as connection:
        locks = connection.execute(LOCKS).fetchall()
    for pid, user, application, tables in locks:
        yield Finding(
            "locks",
            PROBLEM,
            f"process {pid} ({user}, {application}) keeps everybody from reading {tables}, so nothing more can be checked",
            f"Let it end, or: select pg_terminate_backend({pid}).",
        )
    if not locks:
        yield Finding("locks", PROBLEM, f"a lock could not be obtained: {explain(error)}", "Try again; pg_locks says who holds it.")


def check_replica(settings: Settings) -> Iterator[Finding]:
    """Whether DATABASE_REPLICA_URL, if set, leads to a standby that is close enough behind to be read."""
    if settings.database_replica_url is None:
        return
    with _connect(settings) as primary:
        position = primary.execute("select * from api.read_position(null)").fetchone()
    try:
        with connect_as_owner(settings.database_replica_url, "batch-lookups doctor", role=SHELL) as replica:
            has_written, lag, _ = replica.execute("select * from api.replica_lag(%s, %s, %s, %s)", position).fetchone() or (None,) * 3
    except DatabaseError as error:
        # A standby has what its primary has, and that has just been checked.
        if kind_of(error) is not Kind.NOT_MIGRATED:
            yield Finding(
                "replica",
                WARNING,
                f"cannot tell whether the replica is behind: {explain(error)}",
                "Check DATABASE_REPLICA_URL. The primary is read.",
            )
            return
        has_written = lag = None
    if has_written is None:
        yield Finding(
            "replica",
            WARNING,
            "DATABASE_REPLICA_URL does not lead to a standby of the database, so the primary is read",
            "Name a streaming standby of it. After a failover, one counts again once it has written out pages of the new timeline.",
        )
    elif lag is None or lag > settings.database_replica_max_lag_seconds:
        behind = "nobody knows how far" if lag is None else f"{lag:.0f} s"
        yield Finding(
            "replica", WARNING, f"the replica is behind ({behind}), so the primary is read", "Look at pg_stat_replication at the primary."
        )
    else:
        yield Finding("replica", OK, f"the replica is {lag:.1f} s behind at most")


def check_nodes(settings: Settings) -> Iterator[Finding]:
    """Whether the nodes of a cluster connect to each other in the role of the shell, as they do for calls of the API and the workers."""
    warnings: list[str] = []
    with _connect(settings) as connection:
        if connection.execute("select from api.other_nodes()").fetchone() is None:
            return
        connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
        connection.execute(f"set local citus.node_connection_timeout = {NODE_MILLISECONDS}".encode())
        connections = connection.execute(CONNECTIONS).fetchall()
    reasons = {found[1]: found[2] for found in map(NOT_CONNECTED.search, warnings) if found}
    # A node to which there is no connection from here cannot be asked about its own.
    silent = {node: f"to {node}: {reasons.get(node, 'no answer')}" for node, _, result in connections if result is None}
    others = [f"from {node} to {other}" for node, other, result in connections if result is False and other not in silent]
    for which in [*silent.values(), *others]:
        yield Finding(
            "nodes",
            PROBLEM,
            f"{SHELL} cannot connect {which}",
            f"If the node answers, let the role log in there, from every node: alter role {SHELL} login; see docs/scale.md.",
        )


def check_secrets(settings: Settings) -> Iterator[Finding]:
    """Finds secrets that are missing or easy to guess; the settings already refuse short ones."""
    named = {name: getattr(settings, name.lower()) for name in ("SERVICE_ROLE_KEY", "API_KEY_PEPPER", "METRICS_TOKEN")}
    weak = [name for name, secret in named.items() if secret is not None and (len(secret) < 16 or len(set(secret)) < 10)]
    if weak:
        yield Finding(
            "secrets",
            PROBLEM,
            f"easy to guess: {', '.join(weak)}",
            "Make another: openssl rand -hex 32. Rotation in docs/operations/security.md says how to replace the old one.",
        )
    elif settings.api_key_pepper is None:
        yield Finding(
            "secrets",
            WARNING,
            "API_KEY_PEPPER is not set: whoever can read the database can try out API keys against their hashes",
            "Set API_KEY_PEPPER to the output of openssl rand -hex 32, and API_KEY_PEPPER_PREVIOUS to none. If there is more than one API"
            " server, go by Rotation in docs/operations/security.md.",
        )
    else:
        yield Finding("secrets", OK, "the secrets are long and varied")
    if settings.service_role_key is None:
        yield Finding(
            "service_role_key",
            WARNING,
            "SERVICE_ROLE_KEY is not set: a secret in the database is used instead, so whoever can read that can make internal calls",
            "Set SERVICE_ROLE_KEY to the output of openssl rand -hex 32, the same for the API and the workers.",
        )
    else:
        yield Finding("service_role_key", OK, "the service role key is set")


def check_upstream(settings: Settings) -> Iterator[Finding]:
    """Whether the incentives API, or the proxy in front of it, can be connected to."""
    url = settings.incentives_api_url or settings.server_url
    proxy = settings.proxy_for(url) if settings.incentives_api_url else None
    parts = urlsplit(proxy or url)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    where = f"{address[0]}:{address[1]}"
    what = (
        "the proxy of the incentives API"
        if proxy
        else "the incentives API"
        if settings.incentives_api_url
        else "our own API, which answers lookups,"
    )
    try:
        with socket.create_connection(address, REACH_SECONDS) as plain:
            if parts.scheme == "https":
                context = ssl.create_default_context()
                if settings.incentives_api_ca_file:
                    context.load_verify_locations(settings.incentives_api_ca_file)
                with context.wrap_socket(plain, server_hostname=address[0]):
                    pass
    except ssl.SSLCertVerificationError as error:
        yield Finding(
            "reach",
            PROBLEM,
            f"{what} at {where} shows a certificate that is not trusted: {error.verify_message}",
            "INCENTIVES_API_CA_FILE names further certificates to trust.",
        )
    except ssl.SSLError as error:
        yield Finding(
            "reach",
            PROBLEM,
            f"{what} at {where} does not speak TLS, or not with us: {error.reason}",
            "Check scheme and port: INCENTIVES_API_URL begins with http:// where it is not encrypted.",
        )
    except (OSError, UnicodeError) as error:
        reason = "this is no host name" if isinstance(error, UnicodeError) else error.strerror or error
        advice = (
            "Check INCENTIVES_API_URL, the proxy, the firewall and the name service."
            if settings.incentives_api_url
            else "Start it: python -m pyshell serve."
        )
        yield Finding("reach", PROBLEM, f"{what} cannot be reached at {where}: {reason}", advice)
    else:
        yield Finding("reach", OK, f"{what} is reached at {where}")


def check_pooler(settings: Settings) -> Iterator[Finding]:
    try:
        asyncio.run(require_sessions(settings.database_url))
    except SessionNeededError:
        yield Finding(
            "pooler",
            WARNING,
            "DATABASE_URL leads to a connection pooler in transaction mode: a worker does not start there, and Realtime polls",
            "Give workers the address of the database itself, or of a pooler in session mode.",
        )
    else:
        yield Finding("pooler", OK, "connections are sessions")


def check_clock(connection: OwnerConnection) -> Iterator[Finding]:
    asked = time.time()
    [[there]] = connection.execute("select extract(epoch from clock_timestamp())::float8").fetchall()
    offset = there - (asked + time.time()) / 2
    if abs(offset) > CLOCK_SECONDS:
        yield Finding(
            "clocks",
            PROBLEM,
            f"the clock of the database is {offset:+.0f} s off this machine's",
            "Synchronize both with the same time servers (chrony, systemd-timesyncd).",
        )
    else:
        yield Finding("clocks", OK, f"the clocks of the database and of this machine agree ({offset:+.1f} s)")


def check_disk(connection: OwnerConnection) -> Iterator[Finding]:
    """Free space, if the database is on this machine and may be asked where its data is."""
    try:
        [[directory]] = connection.execute("select setting from pg_catalog.pg_settings where name = 'data_directory'").fetchall()
    except ValueError:
        return
    if connection.info.host not in ("", "localhost", "127.0.0.1", "::1") and not connection.info.host.startswith("/"):
        return
    try:
        total, _, free = disk_usage(directory if Path(directory).exists() else str(Path(directory).parent))
    except OSError:
        return
    state = PROBLEM if free < PROBLEM_FREE * total else WARNING if free < WARNING_FREE * total else OK
    left = f"{free / 2**30:,.1f} of {total / 2**30:,.1f} GB are free where the database keeps its data"
    yield Finding(
        "disk",
        state,
        left,
        None if state == OK else "Free some space: without any, PostgreSQL refuses all writes. job_retention_days deletes old batches.",
    )


def check_migrations(settings: Settings) -> Iterator[Finding]:
    try:
        with _connect(settings) as connection:
            [[applied]] = connection.execute("select api.applied_migrations()").fetchall()
    except DatabaseError as error:
        if kind_of(error) is not Kind.NOT_MIGRATED:
            raise
        applied = []
    pending = migrations.pending(applied, migrations.read_release())
    if pending:
        lacking = ", ".join(pending) if len(pending) <= MIGRATIONS_NAMED else f"{len(pending)} migrations, {pending[0]} to {pending[-1]}"
        yield Finding(
            "migrations",
            PROBLEM,
            f"the database lacks {lacking}",
            "Run python -m pyshell migrate, before the API and the workers of a release.",
        )
    else:
        yield Finding("migrations", OK, f"all {len(applied)} migrations are applied")


def run(settings: Settings, *, as_json: bool, write: Callable[[str], None] = print) -> int:
    """Writes the findings, problems first; returns the exit code: 1 if there is a problem."""
    order = {PROBLEM: 0, WARNING: 1, OK: 2}
    findings = sorted(diagnose(settings), key=lambda finding: order[finding.state])
    if as_json:
        write(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            write(f"{finding.state:<8} {finding.check}: {finding.finding}")
            if finding.advice:
                write(f"{'':<8} -> {finding.advice}")
    return 1 if any(finding.state == PROBLEM for finding in findings) else 0
