"""A hot standby of a private PostgreSQL, which streams from it until it is promoted."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from pyshell.local.private_postgres import PrivatePostgres
from tests.timed import wait_until


@contextmanager
def running_standby(primary: PrivatePostgres, folder: Path) -> Iterator[PrivatePostgres]:
    """A standby of a running cluster, in a folder that PostgreSQL's user may enter and that does not exist yet."""
    folder.mkdir()
    folder.chmod(0o711)
    standby = PrivatePostgres(folder, throw_away=True)
    standby.data.mkdir(mode=0o700)
    # pg_basebackup and the server refuse to run as root.
    identity = {}
    if not os.geteuid():
        identity["user"] = pwd.getpwnam("postgres").pw_uid
        os.chown(standby.data, identity["user"], -1)
    subprocess.run(
        [
            primary.installation.bin / "pg_basebackup",
            *("--dbname", primary.url("postgres"), "--pgdata", standby.data, "--checkpoint=fast", "--write-recovery-conf", "--no-sync"),
        ],
        check=True,
        cwd="/",
        **identity,  # type: ignore[call-overload]
    )
    password = standby.folder / "password"
    password.touch(mode=0o600)
    password.write_text((primary.folder / "password").read_text())
    standby.start()
    try:
        yield standby
    finally:
        standby.stop(immediately=True)


def wait_for_replay(primary: PrivatePostgres, standby: PrivatePostgres) -> None:
    """Waits until the standby shows what the primary has committed by now."""
    with psycopg.connect(primary.url(), autocommit=True) as connection, psycopg.connect(standby.url(), autocommit=True) as follower:
        [position] = connection.execute("select pg_current_wal_lsn()").fetchone() or [None]
        wait_until(lambda: follower.execute("select pg_last_wal_replay_lsn() >= %s", [position]).fetchone() == (True,))


def promote(standby: PrivatePostgres) -> None:
    """Promotes it; returns when it accepts writes."""
    with psycopg.connect(standby.url(), autocommit=True) as connection:
        assert connection.execute("select pg_promote()").fetchone() == (True,)
