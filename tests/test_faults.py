"""Staged faults: for each, its alert fires on what /metrics shows, and `doctor` names it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from pyshell.__main__ import main
from pyshell.api import api_keys
from pyshell.api import metrics as api_metrics
from pyshell.deploy import doctor
from pyshell.local.machine import free_port
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.settings import Settings
from tests.conftest import Clock, Connection, MakeCluster
from tests.http_fixtures import running_server, site
from tests.operations_fixtures import fires, needs_promtool
from tests.standby import running_standby
from tests.test_metrics import samples_of
from tests.test_pgbouncer import PROGRAM, pgbouncer, url_of
from tests.timed import wait_until
from tests.upstream import FakeUpstream
from tests.worker_fixtures import running_worker

pytestmark = needs_promtool

SECRET = "0123456789abcdefghijklmnopqrstuvwxyz"


class Deployment:
    """An organization, a database and an API process, to break."""

    def __init__(self, settings: Settings, url: str, owner: Connection, clock: Clock) -> None:
        self.settings, self.url, self.owner, self.clock = settings, url, owner, clock
        self.api_key = api_keys.create(settings.database_url, "Acme", pepper=settings.api_key_pepper)
        [self.organization_id] = owner.execute("select id from app.organizations").fetchone() or ()
        owner.execute("select api.update_settings('{\"lookups_per_second\": null}')")

    def upload(self, count: int = 20) -> httpx.Response:
        body = {"items": [site(f"site-{n}") for n in range(count)]}
        return httpx.post(f"{self.url}/batch-lookups", json=body, headers={"x-api-key": self.api_key})

    def look_up(self, count: int, status: int | None, error_class: str | None = None) -> None:
        self.owner.execute(
            """
            with c as (select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens,
                              count(*)::integer as n
                         from api.claim_lookups(%(organization)s, 'w', %(count)s))
            select api.record_lookups(%(organization)s, jobs, positions, tokens, array_fill(%(status)s::integer, array[n]),
                                      array_fill(%(error_class)s::text, array[n]), array_fill('{}'::text, array[n]),
                                      array_fill(null::double precision, array[n])) from c
            """,
            {"organization": self.organization_id, "count": count, "status": status, "error_class": error_class},
        )

    def scrape(self) -> dict[str, float]:
        return samples_of(self.url)

    def doctor(self, **changes: object) -> dict[str, doctor.Finding]:
        """The findings that are not ok, by check."""
        return {finding.check: finding for finding in doctor.diagnose(self.settings) if finding.state != doctor.OK}


@pytest.fixture
def deployment(database_url: str, owner: Connection, clock: Clock) -> Iterator[Deployment]:
    settings = Settings(
        database_url=database_url, api_key_pepper=SECRET, service_role_key=SECRET, incentives_api_url="http://127.0.0.1:1/incentives"
    )
    with running_server(settings) as url:
        yield Deployment(settings, url, owner, clock)


@pytest.fixture(autouse=True)
def fresh_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scrape reads current values."""
    monkeypatch.setattr(api_metrics, "RENDERED_FOR_SECONDS", -1)


def beat(deployment: Deployment) -> None:
    deployment.owner.execute("select api.heartbeat('w')")


def test_doctor_finds_nothing_wrong_with_a_healthy_deployment(deployment: Deployment) -> None:
    beat(deployment)
    deployment.owner.execute("select api.run_maintenance()")
    before = deployment.scrape()
    deployment.upload()
    deployment.look_up(20, 200)
    after = deployment.scrape()
    assert [
        alert for alert in ("NoWorker", "LookupsFail", "MaintenanceStopped", "DatabaseUnreachable") if fires(alert, before, after)
    ] == []
    beat(deployment)
    # Nothing listens where the lookups would go. How full the disk is depends on this machine.
    assert deployment.doctor().keys() - {"disk"} == {"reach"}


def outage(deployment: Deployment) -> None:
    deployment.upload()
    deployment.look_up(20, None, "unreachable")


def bad_credentials(deployment: Deployment) -> None:
    deployment.upload()
    deployment.look_up(20, 401)


def no_worker(deployment: Deployment) -> None:
    deployment.upload()


def maintenance_that_stopped(deployment: Deployment) -> None:
    deployment.owner.execute("update app.maintenance_state set ran_at = now() - interval '10 minutes'")


def violated_invariant(deployment: Deployment) -> None:
    deployment.upload()
    deployment.owner.execute("delete from app.queued_jobs")
    deployment.owner.execute("select api.run_maintenance()")


def late_webhooks(deployment: Deployment) -> None:
    configured = httpx.put(
        f"{deployment.url}/webhook-config",
        json={"url": "https://8.8.8.8/", "events": ["batch.completed"]},
        headers={"x-api-key": deployment.api_key},
    )
    assert configured.status_code == 200
    deployment.upload(1)
    deployment.look_up(1, 200)
    deployment.owner.execute("update app.webhook_deliveries set next_attempt_at = now() - interval '1 hour'")


def failing_receiver(deployment: Deployment) -> None:
    late_webhooks(deployment)
    deployment.owner.execute(
        """
        with c as (select array_agg(delivery_id) as ids, array_agg(lease_token) as tokens from api.claim_webhooks(%(id)s, 's', 10))
        select api.record_webhooks(%(id)s, ids, tokens, array[null::integer], '{timeout}', '{15}', array[null], array[null::float8]) from c
        """,
        {"id": deployment.organization_id},
    )


def full_disk(deployment: Deployment) -> None:
    deployment.owner.execute(
        """create or replace function app.enqueue_items(p_organization_id uuid, p_job_id uuid, p_items app.batch_item[], p_now timestamptz)
           returns void language plpgsql as $$ begin raise disk_full; end $$"""
    )
    assert deployment.upload().status_code == 503


def missing_migration(deployment: Deployment) -> None:
    deployment.owner.execute("alter function api.list_batch_lookups rename to list_batch_lookups_away")
    deployment.owner.execute("delete from app.schema_migrations where name = (select max(name) from app.schema_migrations)")
    answer = httpx.get(f"{deployment.url}/batch-lookups", headers={"x-api-key": deployment.api_key})
    assert answer.json()["code"] == "migrations_pending"


@pytest.mark.parametrize(
    ("stage", "alert", "check", "named"),
    [
        (outage, "UpstreamUnavailable", "upstream", "has not answered since"),
        (outage, "UpstreamUnavailable", "reach", "cannot be reached at 127.0.0.1:1"),
        (bad_credentials, "UpstreamRefusesCredentials", "lookups", "refused our credentials for 20 items"),
        (no_worker, "NoWorker", "workers", "1 organization has work, and no worker runs"),
        (maintenance_that_stopped, "MaintenanceStopped", "maintenance", "maintenance last ran at"),
        (violated_invariant, "InvariantsViolated", "invariants", "1 invariant is violated"),
        (late_webhooks, "WebhooksLate", "webhooks", "1 delivery is due"),
        (failing_receiver, "ReceiversFail", "receivers", "has accepted no webhook since"),
        (full_disk, "DatabaseOutOfResources", "disk", "0.1 of 10.0 GB are free"),
        (missing_migration, "MigrationsMissing", "migrations", "the database lacks"),
    ],
)
def test_a_fault_raises_its_alert_and_doctor_names_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, stage: Callable[[Deployment], None], alert: str, check: str, named: str
) -> None:
    before = deployment.scrape()
    stage(deployment)
    after = deployment.scrape()
    assert fires(alert, before, after)
    assert not fires(alert, before, before)
    if check == "disk":
        monkeypatch.setattr("pyshell.deploy.doctor.disk_usage", lambda path: (10 * 2**30, 0, 2**30 // 10))
    finding = deployment.doctor()[check]
    assert named in finding.finding
    assert finding.advice


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A folder on a file system of its own, which only root can create, and not everywhere."""
    with tempfile.TemporaryDirectory(prefix="small disk ") as name:
        Path(name).chmod(0o711)
        mounted = subprocess.run(
            ["mount", "--types", "tmpfs", "--options", f"size={megabytes}m,mode=0711", "tmpfs", name], capture_output=True, text=True
        )
        if mounted.returncode:
            pytest.skip(f"a small file system cannot be made here: {mounted.stderr.strip()}")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def test_a_disk_that_is_full_is_named_and_loses_nothing(
    make_cluster: MakeCluster, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """A running PostgreSQL loses its last free block while a worker records outcomes; then there is room again."""
    with small_disk(400) as disk:
        make_cluster(disk / "postgres")
        postgres = PrivatePostgres(disk / "postgres", throw_away=True)
        postgres.start()
        settings = Settings(
            database_url=postgres.url(),
            api_key_pepper=SECRET,
            service_role_key=SECRET,
            incentives_api_url=upstream.url,
            log_level="critical",
        )
        try:
            with psycopg.connect(postgres.url(), autocommit=True) as owner, running_server(settings) as url:
                deployment = Deployment(settings, url, owner, Clock(owner))
                owner.execute("select api.update_settings('{\"lookups_per_second\": 200}')")
                job_id = deployment.upload(1000).json()["job_id"]
                before = deployment.scrape()
                with running_worker(settings):
                    wait_until(lambda: completed(owner, job_id) > 100)
                    # What follows finds room in a new segment of the log: one that is full as well would stop the server.
                    owner.execute("select pg_switch_wal()")
                    owner.execute("checkpoint")
                    fill(disk / "filler")
                    assert deployment.upload(3000).status_code == 503
                    wait_until(lambda: [log for log in caplog.records if "worker" in log.name and "No space left" in log.getMessage()])
                    assert fires("DatabaseOutOfResources", before, deployment.scrape())
                    assert "0.0 of 0.4 GB are free" in deployment.doctor()["disk"].finding
                    assert completed(owner, job_id) < 1000
                    (disk / "filler").unlink()
                    wait_until(lambda: completed(owner, job_id) == 1000, lambda: completed(owner, job_id))
                assert len(upstream.requests) == 1000
                assert deployment.upload(3000).status_code == 201
                assert "disk" not in deployment.doctor()
        finally:
            postgres.stop(immediately=True)


def fill(file: Path) -> None:
    """Fills a disk."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass


def completed(owner: Connection, job_id: str) -> int:
    [[processed, failed]] = owner.execute("select processed_items, failed_items from api.jobs where id = %s", [job_id]).fetchall()
    assert failed == 0
    return int(processed)


def test_a_held_transaction_is_named_with_its_process(deployment: Deployment) -> None:
    deployment.upload()
    beat(deployment)
    with psycopg.connect(deployment.settings.database_url, application_name="a report of hours") as holder:
        holder.execute("update public.batch_lookup_jobs set name = 'held'")
        time.sleep(1.1)
        after = deployment.scrape()
        assert fires("TransactionHoldsQueue", {}, after)
        finding = deployment.doctor()["transactions"]
        assert f"process {holder.info.backend_pid} (" in finding.finding
        assert "a report of hours" in finding.finding
        assert f"pg_terminate_backend({holder.info.backend_pid})" in (finding.advice or "")


def test_a_prepared_transaction_that_was_forgotten_is_named(own_postgres: PrivatePostgres) -> None:
    with psycopg.connect(own_postgres.url(), autocommit=True) as owner:
        owner.execute("alter system set max_prepared_transactions = 2")
    own_postgres.stop()
    own_postgres.start()
    settings = Settings(database_url=own_postgres.url(), api_key_pepper=SECRET, service_role_key=SECRET)
    with psycopg.connect(own_postgres.url(), autocommit=True) as owner, running_server(settings) as url:
        deployment = Deployment(settings, url, owner, Clock(owner))
        deployment.upload()
        owner.execute("begin; update public.batch_lookup_jobs set name = 'held'; prepare transaction 'it''s forgotten'")
        wait_until(lambda: "transactions" in deployment.doctor())
        finding = deployment.doctor()["transactions"]
        assert re.fullmatch(
            r"a transaction \(.*, prepared\) holds rows of the queue since \S+: prepare transaction 'it''s forgotten'", finding.finding
        )
        assert finding.advice == "Commit it, or: rollback prepared 'it''s forgotten'."
        assert fires("TransactionHoldsQueue", {}, deployment.scrape())
        owner.execute("rollback prepared 'it''s forgotten'")
        assert "transactions" not in deployment.doctor()


def test_a_slot_that_was_forgotten_is_named_while_it_keeps_wal_and_once_it_has_lost_it(own_postgres: PrivatePostgres) -> None:
    """The slot of a standby that is gone: it keeps no transactions, so nothing else shows before the disk is full."""
    settings = Settings(database_url=own_postgres.url(), api_key_pepper=SECRET, service_role_key=SECRET)

    def finding() -> doctor.Finding:
        [found] = [finding for finding in doctor.diagnose(settings) if finding.check == "wal"]
        return found

    def is_small() -> bool:
        """Whether new sessions have the setting."""
        with psycopg.connect(own_postgres.url()) as connection:
            return connection.execute("show max_wal_size").fetchone() == ("32MB",)

    def is_lost() -> bool:
        owner.execute("checkpoint")
        return finding().state == doctor.WARNING

    def write_wal() -> None:
        for _ in range(3):
            owner.execute("select pg_logical_emit_message(false, 'test', 'something to switch from'), pg_switch_wal()")

    with psycopg.connect(own_postgres.url(), autocommit=True) as owner:
        owner.execute("alter system set max_wal_size = '32MB'")
        owner.execute("select pg_reload_conf()")
        owner.execute("select pg_create_physical_replication_slot('standby_2', true)")
        wait_until(is_small)
        assert finding() == doctor.Finding("wal", doctor.OK, "no replication slot keeps more WAL than max_wal_size")
        write_wal()
        assert re.fullmatch(r"the replication slot standby_2, which has no reader, keeps [34][0-9] MB of WAL", finding().finding)
        assert (finding().state, finding().advice) == (
            doctor.PROBLEM,
            "If its reader is gone: select pg_drop_replication_slot('standby_2').",
        )
        owner.execute("alter system set max_slot_wal_keep_size = '16MB'")
        owner.execute("select pg_reload_conf()")
        wait_until(is_lost)
        assert finding().finding == "the replication slot standby_2 has lost WAL that its reader lacks"
        assert finding().advice == "Recreate the reader, and: select pg_drop_replication_slot('standby_2')."
        owner.execute("select pg_drop_replication_slot('standby_2')")
        assert finding().state == doctor.OK


@pytest.mark.long
def test_a_query_at_a_replica_that_keeps_dead_rows_is_named(own_postgres: PrivatePostgres) -> None:
    def finding() -> str:
        [(found,)] = owner.execute(
            "select concat_ws('. ', finding, advice) from api.diagnose() where \"check\" = 'vacuum_horizon'"
        ).fetchall()
        return str(found)

    with (
        running_standby(own_postgres, own_postgres.folder.parent / "standby") as standby,
        psycopg.connect(own_postgres.url(), autocommit=True) as owner,
        psycopg.connect(standby.url(), autocommit=True) as follower,
    ):
        follower.execute("alter system set hot_standby_feedback = on")
        follower.execute("alter system set wal_receiver_status_interval = '1s'")
        follower.execute("select pg_reload_conf()")
        follower.execute("begin isolation level repeatable read")
        follower.execute("select count(*) from app.organizations")
        wait_until(lambda: owner.execute("select count(backend_xmin) from pg_stat_replication").fetchone() == (1,))
        assert finding().startswith("nothing keeps VACUUM from removing dead rows")
        owner.execute("do $$ begin for n in 1..1000010 loop perform pg_current_xact_id(); commit; end loop; end $$")
        kept = r"has kept 10000\d\d transactions, and keeps VACUUM from removing dead rows\. .*pg_stat_activity.*"
        assert re.fullmatch(rf"the replica walreceiver at 127\.0\.0\.1 {kept}", finding())
        # The same query, once the replica has a slot.
        owner.execute("select pg_create_physical_replication_slot('standby_2')")
        with psycopg.connect(standby.url(), autocommit=True) as administrator:
            administrator.execute("alter system set primary_slot_name = standby_2")
            administrator.execute("select pg_reload_conf()")
        wait_until(lambda: owner.execute("select count(xmin) from pg_replication_slots").fetchone() == (1,))
        assert re.fullmatch(rf"the replication slot standby_2 {kept}", finding())


def test_a_table_that_nobody_may_read_is_named_with_its_process(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOCK_SECONDS", 0.1)
    with psycopg.connect(deployment.settings.database_url, application_name="an alter table") as holder:
        holder.execute("lock table public.lookup_queue_items, app.workers in access exclusive mode")
        finding, pid = deployment.doctor()["locks"], holder.info.backend_pid
    process = f"process {pid} (postgres, an alter table)"
    tables = "app.workers, public.lookup_queue_items"
    assert finding.finding == f"{process} keeps everybody from reading {tables}, so nothing more can be checked"
    assert f"pg_terminate_backend({pid})" in (finding.advice or "")


def test_a_synchronous_standby_that_is_away_is_named_and_keeps_nobody_waiting_for_ever(
    own_postgres: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time limit of PostgreSQL ends the wait of a commit."""
    monkeypatch.setattr("pyshell.postgres.pool.ANSWER_SECONDS", 1)
    settings = Settings(database_url=own_postgres.url(), api_key_pepper=SECRET, service_role_key=SECRET)
    with psycopg.connect(own_postgres.url(), autocommit=True) as owner, running_server(settings) as url:
        deployment = Deployment(settings, url, owner, Clock(owner))
        job_id = deployment.upload(1).json()["job_id"]
        owner.execute("update app.api_key_uses set used_at = used_at - interval '1 hour'")
        owner.execute("alter system set synchronous_standby_names = 'away'")
        owner.execute("select pg_reload_conf()")
        wait_until(lambda: owner.execute("show synchronous_standby_names").fetchone() == ("away",))
        refused = deployment.upload(2)
        assert (refused.status_code, refused.json()["code"]) == (503, "outcome_unknown")
        read = httpx.get(f"{url}/batch-lookups/{job_id}", headers={"x-api-key": deployment.api_key})
        assert (read.status_code, read.json()["total_items"]) == (200, 1)
        with psycopg.connect(own_postgres.url(), autocommit=True) as waiting, ThreadPoolExecutor() as threads:
            renamed = threads.submit(waiting.execute, "update public.batch_lookup_jobs set name = 'renamed'")
            wait_until(lambda: "commits" in deployment.doctor())
            finding = deployment.doctor()["commits"]
            assert finding.finding == "1 commit waits for a synchronous standby"
            assert "synchronous_standby_names (away)" in (finding.advice or "")
            # Ending its process would not undo it.
            assert "transactions" not in deployment.doctor()
            owner.execute("alter system reset synchronous_standby_names")
            owner.execute("select pg_reload_conf()")
            renamed.result()
        assert deployment.upload(1).status_code == 201


def test_a_read_only_database_is_named(deployment: Deployment, database_url: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    deployment.owner.execute(f"alter database {name} set default_transaction_read_only = on".encode())
    with running_server(deployment.settings) as url:
        assert fires("DatabaseReadOnly", {}, samples_of(url))
    assert "read-only" in deployment.doctor()["read_only"].finding


def test_a_database_that_is_gone_is_named() -> None:
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing", api_key_pepper=SECRET)
    with running_server(settings) as url:
        assert fires("DatabaseUnreachable", {}, samples_of(url))
    findings = {finding.check: finding for finding in doctor.diagnose(settings)}
    assert findings["database"].state == doctor.PROBLEM


def test_a_wrong_clock_is_named(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    late = SimpleNamespace(time=lambda: time.time() + 60, monotonic=time.monotonic)
    monkeypatch.setattr(api_metrics, "time", late)
    monkeypatch.setattr(doctor, "time", late)
    assert fires("ClockWrong", {}, deployment.scrape())
    assert "the clock of the database is -60 s off" in deployment.doctor()["clocks"].finding


def test_a_clock_that_was_set_back_is_named(deployment: Deployment) -> None:
    deployment.owner.execute("update app.maintenance_state set ran_at = now() + interval '1 hour'")
    assert "the clock was set back" in deployment.doctor()["clock"].finding


@pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")
def test_a_pooler_in_transaction_mode_is_named(cluster: PrivatePostgres, database_url: str) -> None:
    with pgbouncer(cluster, database_url, "transaction") as pooled:
        findings = {finding.check: finding for finding in doctor.diagnose(Settings(database_url=url_of(pooled)))}
    assert findings["pooler"].state == doctor.WARNING


@contextmanager
def switched_off(connection: Connection) -> Iterator[None]:
    update = "update cron.job set active = %s where jobname = 'batch-lookups-maintenance'"
    connection.execute(update, [False])
    try:
        yield
    finally:
        connection.execute(update, [True])


def test_a_schedule_that_was_switched_off_is_named(cron_database_url: str) -> None:
    with psycopg.connect(cron_database_url, autocommit=True) as connection, switched_off(connection):
        findings = {finding.check: finding for finding in doctor.diagnose(Settings(database_url=cron_database_url))}
    assert findings["pg_cron"].state == doctor.PROBLEM
    assert "batch-lookups-maintenance" in findings["pg_cron"].finding


def test_a_schedule_that_is_not_run_is_named(cron_database_url: str) -> None:
    with psycopg.connect(cron_database_url) as connection:
        connection.execute("update app.maintenance_state set ran_at = now() - interval '10 minutes'")
        found = connection.execute("select state, finding from api.diagnose() where \"check\" = 'pg_cron'").fetchall()
        assert found == [("warning", "pg_cron has our schedule, but maintenance does not run")]
        connection.rollback()


def test_a_schedule_that_is_gone_is_named(cron_database_url: str) -> None:
    with psycopg.connect(cron_database_url) as connection:
        connection.execute("delete from cron.job where jobname = 'batch-lookups-retention'")
        found = connection.execute("select state, finding from api.diagnose() where \"check\" = 'pg_cron'").fetchall()
        assert found == [("problem", "missing from pg_cron: batch-lookups-retention")]
        connection.rollback()


def test_a_pg_cron_that_the_owner_may_not_use_is_not_said_to_run_anything(cron_database_url: str) -> None:
    found = "select state, finding from app.diagnose_maintenance() where \"check\" = 'pg_cron'"
    with psycopg.connect(cron_database_url) as connection:
        connection.execute("create role no_cron_owner")
        connection.execute("grant usage on schema app to no_cron_owner")
        connection.execute("grant select on all tables in schema app to no_cron_owner")
        connection.execute("grant execute on all functions in schema app to no_cron_owner")
        connection.execute("set local role no_cron_owner")
        assert connection.execute(found.encode()).fetchall() == [("ok", "no_cron_owner may not use pg_cron: workers run the maintenance")]
        connection.execute("reset role")
        connection.execute("grant usage on schema cron to no_cron_owner")
        connection.execute("set local role no_cron_owner")
        missing = "pg_cron is installed, but has no schedule of ours: workers run the maintenance"
        assert connection.execute(found.encode()).fetchall() == [("warning", missing)]
        connection.rollback()


def test_the_owner_switches_schedules_on_as_the_advice_says(cron_database_url: str) -> None:
    """Only a superuser may update cron.job, which the owner of a deployment need not be."""
    with psycopg.connect(cron_database_url) as connection:
        connection.execute("create role cron_owner")
        connection.execute("grant usage on schema cron to cron_owner")
        connection.execute("grant select on cron.job to cron_owner")
        connection.execute("grant execute on all functions in schema cron to cron_owner")
        connection.execute("select cron.alter_job(jobid, active => false) from cron.job where jobname like 'batch-lookups-%'")
        [[advice]] = connection.execute("select advice from api.diagnose() where \"check\" = 'pg_cron'").fetchall()
        connection.execute("set role cron_owner")
        connection.execute("select cron.schedule('batch-lookups-test', '0 0 1 1 *', 'select 1')")
        connection.execute("select cron.alter_job(jobid, active => false) from cron.job")
        connection.execute(advice.removesuffix("."))
        assert connection.execute("select active from cron.job").fetchall() == [(True,)]
        connection.rollback()


def test_an_owner_who_may_not_switch_schedules_on_is_told_who_may(cron_database_url: str) -> None:
    """Usage of the schema, which docs/operations/deploy.md grants the owner, lets nobody call cron.alter_job."""
    with psycopg.connect(cron_database_url) as connection:
        connection.execute("create role usual_owner")
        for schema in ("app", "cron"):
            connection.execute(SQL("grant usage on schema {} to usual_owner").format(Identifier(schema)))
        connection.execute("grant select on all tables in schema app to usual_owner")
        connection.execute("grant execute on all functions in schema app to usual_owner")
        connection.execute("set local role usual_owner")
        for name in ("batch-lookups-maintenance", "batch-lookups-retention"):
            connection.execute("select cron.schedule(%s, '0 0 1 1 *', 'select 1')", [name])
        connection.execute("reset role")
        connection.execute("select cron.alter_job(jobid, active => false) from cron.job")
        connection.execute("set local role usual_owner")
        [[advice]] = connection.execute("select advice from app.diagnose_maintenance() where \"check\" = 'pg_cron'").fetchall()
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute("select cron.alter_job(jobid, active => true) from cron.job")
        assert advice.startswith("As a superuser: select cron.alter_job(")
        connection.execute("reset role")
        connection.execute(advice.removeprefix("As a superuser: ").removesuffix("."))
        assert connection.execute("select distinct active from cron.job").fetchall() == [(True,)]
        connection.rollback()


def test_many_missing_migrations_are_counted(new_database: Callable[..., str]) -> None:
    findings = {finding.check: finding for finding in doctor.diagnose(Settings(database_url=new_database(empty=True)))}
    assert re.fullmatch(r"the database lacks \d+ migrations, 0001_initial\.sql to \d{4}_\w+\.sql", findings["migrations"].finding)


def test_weak_secrets_are_named() -> None:
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing", service_role_key="a" * 40, metrics_token="short")
    findings = {finding.check: finding for finding in doctor.diagnose(settings)}
    assert findings["secrets"].finding == "easy to guess: SERVICE_ROLE_KEY, METRICS_TOKEN"
    assert findings["secrets"].advice is not None
    assert "docs/operations/security.md" in findings["secrets"].advice


def test_a_missing_service_role_key_is_named() -> None:
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing")
    findings = {finding.check: finding for finding in doctor.check_secrets(settings)}
    assert findings["service_role_key"].state == doctor.WARNING
    assert findings["service_role_key"].finding.startswith("SERVICE_ROLE_KEY is not set")
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing", service_role_key="0123456789abcdef" * 4)
    findings = {finding.check: finding for finding in doctor.check_secrets(settings)}
    assert findings["service_role_key"].state == doctor.OK


def test_an_organization_that_was_linked_to_another_one_is_named(deployment: Deployment) -> None:
    deployment.owner.execute("select api.create_organization('Globex', 'org_former')")
    deployment.owner.execute("update app.organizations set clerk_organization_id = 'org_latter' where clerk_organization_id = 'org_former'")
    assert "belong to another Clerk organization" in deployment.doctor()["clerk_links"].finding


def test_the_exit_code_and_json_are_for_programs(deployment: Deployment) -> None:
    lines: list[str] = []
    assert doctor.run(deployment.settings, as_json=True, write=lines.append) == 1
    findings = json.loads(lines[0])
    assert {finding["state"] for finding in findings} >= {"ok", "problem"}
    assert findings[0] == {
        "check": "reach",
        "state": "problem",
        "finding": "the incentives API cannot be reached at 127.0.0.1:1: Connection refused",
        "advice": "Check INCENTIVES_API_URL, the proxy, the firewall and the name service.",
    }


def test_the_command_writes_the_findings_and_ends_with_the_exit_code(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", deployment.settings.database_url)
    monkeypatch.setenv("INCENTIVES_API_URL", "http://127.0.0.1:1/incentives")
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "problem  reach: the incentives API cannot be reached at 127.0.0.1:1: Connection refused"
    assert lines[1].startswith("         -> ")
    assert "ok       database: the database answers" in lines


def test_an_incentives_api_that_speaks_no_tls_is_not_said_to_have_a_bad_certificate() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        answered = pool.submit(answer)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/incentives"
        [finding] = doctor.check_upstream(Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing", incentives_api_url=url))
        answered.result()
    assert (finding.state, "does not speak TLS" in finding.finding, "certificate" in finding.finding) == ("problem", True, False)


@pytest.mark.parametrize("host", ["incentives..example.com", f"{'a' * 64}.example.com"])
def test_a_host_name_that_cannot_be_one_is_named(host: str) -> None:
    [finding] = doctor.check_upstream(Settings(incentives_api_url=f"https://{host}/incentives"))
    assert finding.finding == f"the incentives API cannot be reached at {host}:443: this is no host name"


def test_a_local_api_that_is_down_is_named() -> None:
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing", port=free_port())
    [finding] = doctor.check_upstream(settings)
    assert finding.advice == "Start it: python -m pyshell serve."
