from __future__ import annotations

import calendar
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from pyshell.local import machine, private_postgres
from pyshell.local.installations import Installation, PostgresError, newest_installation
from pyshell.local.machine import LENT_PORTS, free_port
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.local.throw_away import throw_away_postgres
from pyshell.settings import ROOT
from tests.conftest import MakeCluster, folder_for_postgres, needs_extension
from tests.timed import wait_until


@pytest.fixture
def folder(cluster: PrivatePostgres) -> Iterator[Path]:
    with folder_for_postgres(cluster) as folder:
        yield folder


@pytest.fixture
def new_postgres(folder: Path) -> Iterator[PrivatePostgres]:
    """A server whose first start creates its data."""
    server = PrivatePostgres(folder / "postgres", throw_away=True)
    yield server
    PrivatePostgres(next(folder.iterdir())).stop(immediately=True)


@pytest.fixture
def postgres(new_postgres: PrivatePostgres, make_cluster: MakeCluster) -> PrivatePostgres:
    """A server that is not running, but has its data."""
    make_cluster(new_postgres.folder)
    return new_postgres


def ask(postgres: PrivatePostgres, query: str) -> object:
    with psycopg.connect(postgres.url()) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_its_log_is_a_file_for_each_day_of_the_week(new_postgres: PrivatePostgres, make_cluster: MakeCluster) -> None:
    make_cluster(new_postgres.folder)
    postgres = PrivatePostgres(new_postgres.folder)
    with postgres.running():
        ask(postgres, "select 1")
        assert [file.stem for file in (postgres.data / "log").iterdir()] in [[f"postgresql-{day}"] for day in calendar.day_abbr]
        assert (ask(postgres, "show log_truncate_on_rotation"), ask(postgres, "show log_rotation_age")) == ("on", "1d")
    assert "database system is shut down" in postgres.log()


def test_it_starts_and_leaves_nothing_running(new_postgres: PrivatePostgres) -> None:
    with new_postgres.running():
        assert ask(new_postgres, "select 1") == 1
        pid = new_postgres.pid
    assert new_postgres.pid is None
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()


def test_data_and_port_survive_a_restart(postgres: PrivatePostgres) -> None:
    with postgres.running():
        with psycopg.connect(postgres.url()) as connection:
            connection.execute("create table kept ()")
        port = postgres.port
    with postgres.running():
        assert ask(postgres, "select count(*) from kept") == 0
        assert postgres.port == port


def test_a_taken_port_is_replaced(postgres: PrivatePostgres) -> None:
    with postgres.running():
        port = postgres.port
    with socket.create_server(("127.0.0.1", port)), postgres.running():
        assert postgres.port != port
        assert ask(postgres, "select 1") == 1


def test_concurrent_starts_share_one_server(new_postgres: PrivatePostgres) -> None:
    with ThreadPoolExecutor(5) as pool:
        for start in [pool.submit(PrivatePostgres(new_postgres.folder).start) for _ in range(5)]:
            start.result()
    assert ask(new_postgres, "select 1") == 1
    assert new_postgres.stop()
    assert not new_postgres.stop()


def test_the_last_user_stops_it(postgres: PrivatePostgres) -> None:
    with postgres.running():
        with PrivatePostgres(postgres.folder).running():
            pass
        assert ask(postgres, "select 1") == 1
    assert postgres.pid is None


def test_a_server_started_by_hand_keeps_running(postgres: PrivatePostgres) -> None:
    postgres.keep_running()
    with postgres.running():
        pass
    assert postgres.pid is not None


def test_it_starts_again_after_being_killed(postgres: PrivatePostgres) -> None:
    postgres.start()
    with psycopg.connect(postgres.url()) as connection:
        connection.execute("create table kept ()")
    killed = postgres.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    postgres.start()
    assert postgres.pid != killed
    assert ask(postgres, "select count(*) from kept") == 0


def test_a_stale_process_id_is_no_obstacle(postgres: PrivatePostgres) -> None:
    """After a restart of the machine, the process id of the old server may be anybody's: here it is ours."""
    postgres.start()
    pid_file = postgres.data / "postmaster.pid"
    content = pid_file.read_text()
    postgres.stop()
    pid_file.write_text(content.replace(content.split("\n", 1)[0], str(os.getpid()), 1))
    assert postgres.pid is None
    postgres.start()
    assert ask(postgres, "select 1") == 1


def test_a_process_of_others_that_ends_while_it_is_looked_at_is_no_server(
    postgres: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_not_told(*_: object) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "samefile", is_not_told)
    # No process has this id: it is the limit of Linux.
    (postgres.data / "postmaster.pid").write_text("4194304\n")
    assert postgres.pid is None


def test_an_unfinished_initdb_is_no_obstacle(new_postgres: PrivatePostgres) -> None:
    (new_postgres.folder / "data.unfinished").mkdir(parents=True)
    new_postgres.folder.chmod(0o777)
    (new_postgres.folder / "data.unfinished" / "PG_VERSION").write_text("15")
    new_postgres.start()
    assert ask(new_postgres, "select 1") == 1


def test_its_folder_may_move(postgres: PrivatePostgres, folder: Path) -> None:
    with postgres.running(), psycopg.connect(postgres.url()) as connection:
        connection.execute("create table kept ()")
    moved = PrivatePostgres(postgres.folder.rename(folder / "moved"), throw_away=True)
    with moved.running():
        assert ask(moved, "select count(*) from kept") == 0


def test_nobody_can_connect_without_the_password(postgres: PrivatePostgres) -> None:
    postgres.start()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres:guessed@127.0.0.1:{postgres.port}/postgres")
    assert (postgres.folder / "password").stat().st_mode & 0o077 == 0
    assert postgres.data.stat().st_mode & 0o077 == 0


def test_realtime_finds_what_it_needs(postgres: PrivatePostgres) -> None:
    postgres.start()
    assert ask(postgres, "select current_setting('wal_level')") == "logical"


def test_pg_cron_finds_what_it_needs(postgres: PrivatePostgres) -> None:
    needs_extension(postgres, "pg_cron")
    postgres.start()
    assert ask(postgres, "select current_setting('cron.use_background_workers')") == "on"
    assert ask(postgres, "select current_setting('cron.database_name') = current_database()") is True


def test_a_temporary_server_ends_with_its_process() -> None:
    program = (
        "import time\n"
        "from pyshell.local.throw_away import throw_away_postgres\n"
        "with throw_away_postgres() as postgres:\n"
        "    print(postgres.pid, postgres.folder.parent, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid, folder = process.stdout.readline().split()
    process.kill()
    process.communicate()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    with throw_away_postgres():
        assert not Path(folder).exists()


def test_a_server_that_does_not_start_says_why(postgres: PrivatePostgres) -> None:
    postgres.start()
    postgres.stop()
    with (postgres.data / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(PostgresError, match='unrecognized configuration parameter "no_such_setting"'):
        postgres.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as another user")
def test_a_folder_that_its_user_cannot_enter_is_refused(folder: Path) -> None:
    folder.chmod(0o700)
    with pytest.raises(PostgresError, match="Choose a folder that everyone may enter with STATE_DIR"):
        PrivatePostgres(folder / "postgres").start()


def test_a_checkout_keeps_its_cluster_when_it_moves_and_shares_it_with_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state_dir_of(checkout: Path) -> Path:
        monkeypatch.setattr(private_postgres, "ROOT", checkout)
        return private_postgres.default_state_dir()

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    before = state_dir_of(checkout)
    copy = shutil.copytree(checkout, tmp_path / "copy")
    assert state_dir_of(checkout.rename(tmp_path / "moved")) == before
    assert state_dir_of(copy) != before


def test_a_missing_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTGRES_HOME", raising=False)
    with pytest.raises(PostgresError, match="No PostgreSQL 15 or later with no_such_extension is installed"):
        newest_installation(["no_such_extension"])


def test_another_build_can_be_named(cluster: PrivatePostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used whatever extensions it has, and also for data of its version."""
    there = cluster.installation
    (tmp_path / "bin").symlink_to(there.bin)
    (tmp_path / "share").mkdir()
    (tmp_path / "share/extension").symlink_to(there.extensions)
    named = Installation(there.version, tmp_path)
    monkeypatch.setenv("POSTGRES_HOME", str(tmp_path))
    assert newest_installation(["no_such_extension"]) == named
    assert cluster.installation == named
    assert named.has_extensions(["plpgsql"])
    assert not named.has_extensions(["no_such_extension"])


def test_a_folder_without_a_postgresql_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_HOME", str(tmp_path))
    with pytest.raises(PostgresError, match="where no PostgreSQL is"):
        newest_installation()


@pytest.mark.parametrize(("version", "is_taken"), [("14.19 (Debian 14.19-1)", False), ("9.6.24", False), ("15.0", True), ("18beta1", True)])
def test_a_version_that_is_too_old_is_refused(version: str, is_taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/postgres"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("POSTGRES_HOME", str(tmp_path))
    major = int(re.findall(r"\d+", version)[0])
    if is_taken:
        assert newest_installation() == Installation(major, tmp_path)
    else:
        with pytest.raises(PostgresError, match=f"which has PostgreSQL {major}. This needs 15 or later."):
            newest_installation()


def test_pg_cron_runs_the_maintenance(own_postgres: PrivatePostgres) -> None:
    """Every minute; and so that nobody waits for a full one, when the server starts again."""
    needs_extension(own_postgres, "pg_cron")
    jobs = "select jsonb_agg(jsonb_build_array(jobname, schedule) order by jobname) from cron.job"
    assert ask(own_postgres, jobs) == [["batch-lookups-maintenance", "* * * * *"], ["batch-lookups-retention", "* * * * *"]]
    with psycopg.connect(own_postgres.url()) as connection:
        connection.execute("select cron.alter_job(jobid, schedule => '@reboot') from cron.job")
    own_postgres.stop()
    own_postgres.start()
    runs = """select case when count(*) = 2 then jsonb_agg(jsonb_build_array(jobname, status) order by jobname) end
                from cron.job_run_details join cron.job using (jobid)
                where end_time is not null and start_time >= pg_postmaster_start_time()"""
    wait_until(lambda: ask(own_postgres, runs))
    assert ask(own_postgres, runs) == [["batch-lookups-maintenance", "succeeded"], ["batch-lookups-retention", "succeeded"]]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has anything to give away")
class TestRootAmongOthers:
    def test_only_the_data_belong_to_the_servers_user(self, postgres: PrivatePostgres) -> None:
        account = pwd.getpwnam("postgres")
        owners = {path.name: path.lstat().st_uid for path in (postgres.folder, *postgres.folder.iterdir())}
        assert {name for name, owner in owners.items() if owner == account.pw_uid} == {"data"}
        readable = [path.name for path in postgres.folder.iterdir() if path.lstat().st_mode & 0o077]
        assert readable == []
        for command in ("rm postgres.log", "ln -s /etc/passwd links", "cat password", "cat postgres.log"):
            ended = subprocess.run(["sh", "-c", command], cwd=postgres.folder, user=account.pw_uid, capture_output=True, check=False)
            assert ended.returncode, command

    def test_root_writes_through_no_link(self, own_postgres: PrivatePostgres, tmp_path: Path) -> None:
        own_postgres.stop(immediately=True)
        victim = tmp_path / "victim"
        victim.write_text("root's own")
        links = [own_postgres.folder / name for name in ("postgres.log", "data/project.conf", "data/project.conf.new")]
        for link in links:
            link.unlink(missing_ok=True)
            link.symlink_to(victim)
        for link in reversed(links):
            with pytest.raises((OSError, PostgresError), match=r"symbolic links|cannot create|did not start"):
                own_postgres.start(attempts=1)
            link.unlink()
        own_postgres.start()
        assert victim.read_text() == "root's own"

    def test_a_folder_of_an_earlier_release_is_made_safe(self, own_postgres: PrivatePostgres, tmp_path: Path) -> None:
        own_postgres.stop(immediately=True)
        account = pwd.getpwnam("postgres")
        victim = tmp_path / "victim"
        victim.write_text("root's own")
        (own_postgres.folder / "postgres.log").unlink()
        (own_postgres.folder / "postgres.log").symlink_to(victim)
        for path in (own_postgres.folder, *own_postgres.folder.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
        own_postgres.start()
        assert victim.read_text() == "root's own"
        assert own_postgres.folder.stat().st_uid == (own_postgres.folder / "password").stat().st_uid == 0


def test_the_api_and_the_worker_log_in_as_a_role_that_owns_nothing(own_postgres: PrivatePostgres) -> None:
    url = own_postgres.app_url()
    assert own_postgres.app_url() == url
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set role batch_lookups_shell")
        connection.execute("select api.get_settings()")
        connection.execute("reset role")
        refused = [
            "select * from app.api_keys",
            "create table public.mine ()",
            "create role mine",
            "set role postgres",
            "set role service_role",
        ]
        for statement in refused:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
    assert (own_postgres.folder / "app_password").stat().st_mode & 0o077 == 0


def test_a_free_port_is_outside_the_range_for_outgoing_connections() -> None:
    first_lent = int(LENT_PORTS.read_text().split()[0])
    ports = {free_port() for _ in range(20)}
    assert max(ports) < first_lent
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_free_port_is_found_even_if_that_range_has_all_ports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "range").write_text("1024\t65535\n")
    monkeypatch.setattr(machine, "LENT_PORTS", tmp_path / "range")
    socket.create_server(("127.0.0.1", free_port())).close()
