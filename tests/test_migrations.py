from __future__ import annotations

import gzip
import math
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyshell.deploy import drift, files, migrations
from pyshell.deploy.migrations import MigrationError, Sources, migrate
from pyshell.deploy.supabase_sql import installation
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.local.throw_away import throw_away_postgres
from pyshell.settings import ROOT
from tests.conftest import Connection
from tests.timed import timed


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """A release of one migration and one function."""
    made = Sources(tmp_path / "migrations", tmp_path / "functions", tmp_path / "catalogue")
    made.migrations.mkdir()
    made.functions.mkdir()
    (made.migrations / "0001_initial.sql").write_text("create table app.things (id integer primary key);\n")
    (made.functions / "10_things.sql").write_text(
        "create or replace function app.count_things() returns bigint language sql stable return (select count(*) from app.things);\n"
    )
    return made


@pytest.fixture
def empty_database_url(new_database: Callable[..., str]) -> str:
    return new_database(empty=True)


def value(database_url: str, query: str) -> object:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_a_new_database_gets_migrations_and_functions(empty_database_url: str, sources: Sources) -> None:
    migrate(empty_database_url, sources)
    assert value(empty_database_url, "select app.count_things()") == 0
    assert value(empty_database_url, "select array_agg(name) from app.schema_migrations") == ["0001_initial.sql"]


def test_only_pending_migrations_are_applied(empty_database_url: str, sources: Sources) -> None:
    lines: list[str] = []
    migrate(empty_database_url, sources, report=lines.append)
    (sources.migrations / "0002_more.sql").write_text("insert into app.things values (1);\n")
    migrate(empty_database_url, sources, report=lines.append)
    migrate(empty_database_url, sources, report=lines.append)
    assert value(empty_database_url, "select app.count_things()") == 1
    assert [line for line in lines if "migration" in line] == [
        "making the tables by all migrations up to 0001_initial.sql",
        "applying the migration 0002_more.sql",
    ]


def test_all_functions_are_applied_at_each_deploy(empty_database_url: str, sources: Sources) -> None:
    migrate(empty_database_url, sources)
    file = sources.functions / "10_things.sql"
    file.write_text(file.read_text().replace("count(*)", "count(*) + 42"))
    migrate(empty_database_url, sources)
    assert value(empty_database_url, "select app.count_things()") == 42


def test_an_edited_migration_is_refused(empty_database_url: str, sources: Sources) -> None:
    migrate(empty_database_url, sources)
    (sources.migrations / "0001_initial.sql").write_text("create table app.things (id bigint primary key);\n")
    with pytest.raises(MigrationError, match=r"Edited after it was applied: 0001_initial\.sql"):
        migrate(empty_database_url, sources)


def test_other_line_ends_do_not_count_as_an_edit(empty_database_url: str, sources: Sources) -> None:
    migrate(empty_database_url, sources)
    file = sources.migrations / "0001_initial.sql"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    migrate(empty_database_url, sources)


def test_a_missing_migration_is_refused(empty_database_url: str, sources: Sources) -> None:
    migrate(empty_database_url, sources)
    (sources.migrations / "0001_initial.sql").unlink()
    with pytest.raises(MigrationError, match=r"this release lacks: 0001_initial\.sql\. .* see Rollback in docs"):
        migrate(empty_database_url, sources)


def test_a_migration_before_an_applied_one_is_refused(empty_database_url: str, sources: Sources) -> None:
    migrate(empty_database_url, sources)
    (sources.migrations / "0000_late.sql").write_text("select 1;\n")
    with pytest.raises(MigrationError, match=r"0000_late\.sql would come before 0001_initial\.sql"):
        migrate(empty_database_url, sources)


def test_an_error_names_file_and_line_and_changes_nothing(empty_database_url: str, sources: Sources) -> None:
    migrate(empty_database_url, sources)
    (sources.migrations / "0002_more.sql").write_text(
        "insert into app.things values (1);\n\nalter table app.thinks add column name text;\n"
    )
    (sources.migrations / "0003_typo.sql").write_text("-- Ünïcode before the error\n\ncraete table app.x ();\n")
    with pytest.raises(MigrationError, match=r'0002_more\.sql: relation "app\.thinks" does not exist'):
        migrate(empty_database_url, sources)
    (sources.migrations / "0002_more.sql").write_text("insert into app.things values (1);\n")
    with pytest.raises(MigrationError, match=r'0003_typo\.sql:3: syntax error at or near "craete"\n    craete table app\.x \(\);'):
        migrate(empty_database_url, sources)
    (sources.migrations / "0003_typo.sql").write_text("create table app.x (\n    id integer\n")
    with pytest.raises(MigrationError, match=r"0003_typo\.sql:3: syntax error at end of input"):
        migrate(empty_database_url, sources)
    assert value(empty_database_url, "select app.count_things()") == 0


def test_a_migration_that_ends_the_transaction_is_refused(empty_database_url: str, sources: Sources) -> None:
    (sources.migrations / "0002_commit.sql").write_text("commit;\n")
    with pytest.raises(MigrationError, match="must not contain commit"):
        migrate(empty_database_url, sources)


def test_pending_names_what_a_database_lacks(sources: Sources) -> None:
    file = sources.migrations / "0001_initial.sql"
    assert migrations.pending([], migrations.read_release(sources)) == ["0001_initial.sql"]
    assert migrations.pending([{"name": file.name, "checksum": files.checksum([file])}], migrations.read_release(sources)) == []
    assert migrations.pending([{"name": file.name, "checksum": "another"}], migrations.read_release(sources)) == ["0001_initial.sql"]


def test_a_migration_that_was_applied_in_its_former_text_is_not_pending() -> None:
    applied = [{"name": file.name, "checksum": files.checksum([file])} for file in files.sql_files(Sources().migrations)]
    former = [entry | {"checksum": migrations.FORMER_CHECKSUMS.get(entry["name"], entry["checksum"])} for entry in applied]
    assert former != applied
    assert migrations.pending(former, migrations.read_release()) == []


def test_the_release_itself_is_not_pending_after_a_deploy(owner: Connection) -> None:
    applied = owner.execute("select api.applied_migrations()").fetchone()
    assert applied is not None
    assert migrations.pending(applied[0], migrations.read_release()) == []


@pytest.mark.parametrize(("preset", "pace"), [(None, 20), (50, 50), (math.inf, None)])
def test_a_new_database_gets_the_preset_rate_limit(preset: float | None, pace: float | None, empty_database_url: str) -> None:
    migrate(empty_database_url, lookups_per_second=preset)
    assert value(empty_database_url, "select api.get_settings() ->> 'lookups_per_second'") == (None if pace is None else str(pace))


def test_a_deploy_keeps_a_rate_limit_that_was_set(database_url: str) -> None:
    migrate(database_url, lookups_per_second=50)
    assert value(database_url, "select api.get_settings() ->> 'lookups_per_second'") == "20"


def test_a_deploy_again_changes_nothing(database_url: str) -> None:
    rows = "select jsonb_agg(to_jsonb(t) order by name) from app.schema_migrations t"
    before = value(database_url, rows), value(database_url, "select deployed_at from app.deployed_parts")
    migrate(database_url)
    assert before == (value(database_url, rows), value(database_url, "select deployed_at from app.deployed_parts"))


def test_a_queue_in_use_continues_after_the_migration_to_leases_by_job(empty_database_url: str, tmp_path: Path) -> None:
    """Of a job's eight items two have ended, three are in flight under two leases, one waits for its retry, two were never claimed."""
    before = tmp_path / "before"
    before.mkdir()
    for file in files.sql_files(Sources().migrations)[:3]:
        (before / file.name).write_bytes(file.read_bytes())
    (tmp_path / "functions").mkdir()
    migrate(empty_database_url, Sources(before, tmp_path / "functions", tmp_path / "catalogue"))
    with psycopg.connect(empty_database_url, autocommit=True) as owner:
        owner.execute(
            """
            insert into app.organizations (id, name) values (gen_random_uuid(), 'Acme');
            insert into public.batch_lookup_jobs
                   (organization_id, id, status, total_items, processed_items, failed_items, report_id, created_at, started_at, updated_at)
            select id, gen_random_uuid(), 'processing', 8, 2, 2, gen_random_uuid(), now(), now(), now() from app.organizations;
            insert into public.incentive_reports (organization_id, id, job_id, name, description, created_at, updated_at)
            select organization_id, report_id, id, 'report', '', now(), now() from public.batch_lookup_jobs;
            insert into public.lookup_queue_items
                   (organization_id, id, job_id, position, queue_rank, status, lease_token, lease_expires_at, leased_by, retry_at,
                    error_code, error_message, processed_at, reference_id, address, building_type, device_ids, created_at)
            select j.organization_id, gen_random_uuid(), j.id, n, 100 + n,
                   case when n < 2 then 'failed' when n < 5 then 'processing' else 'pending' end,
                   case when n in (2, 3) then j.id when n = 4 then j.report_id end,
                   case when n between 2 and 4 then now() + interval '1 minute' end,
                   case when n between 2 and 4 then 'worker' end,
                   case when n = 5 then now() end,
                   case when n < 2 then 'x' end, case when n < 2 then 'x' end, case when n < 2 then now() end,
                   'site-' || n, '{}', 'RESIDENTIAL', '{1}', now()
              from public.batch_lookup_jobs j, generate_series(0, 7) n;
            insert into app.organization_queue_state (organization_id, ready_at) select id, now() from app.organizations"""
        )
        migrate(empty_database_url)
        owner.execute("select api.update_settings('{\"lookups_per_second\": null}')")
        assert owner.execute("select positions::text from public.lookup_leases order by 1").fetchall() == [("{[2,4)}",), ("{[4,5)}",)]
        assert owner.execute("select * from api.check_invariants()").fetchall() == []
        claimed = owner.execute("select c.position from app.organizations, api.claim_lookups(id, 'worker', 10) c").fetchall()
        assert claimed == [(5,), (6,), (7,)]
        verdict = owner.execute(
            """select r.verdict
                 from public.batch_lookup_jobs j,
                      api.record_lookups(j.organization_id, array[j.id], array[4], array[j.report_id], array[200],
                                         array[null], array['{}'], array[null::float8]) r"""
        ).fetchall()
        assert verdict == [("accepted",)]


def test_deploys_at_once_into_a_new_database_all_end_well(empty_database_url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        for deploy in [pool.submit(migrate, empty_database_url) for _ in range(6)]:
            deploy.result()
    assert value(empty_database_url, "select count(*) from app.schema_migrations") == len(files.sql_files(Sources().migrations))


def test_deploys_into_several_databases_of_a_server_end_well(new_database: Callable[..., str]) -> None:
    """All databases share roles, where deploys could conflict."""
    urls = [new_database(empty=True) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        for deploy in [pool.submit(migrate, url) for url in urls * 2]:
            deploy.result()


@pytest.mark.long
def test_deploys_end_well_while_others_use_the_tables(database_url: str) -> None:
    ended = threading.Event()
    served = []

    def use() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            organization = connection.execute("select api.create_organization('Acme')").fetchone()
            while not ended.is_set():
                connection.execute("select api.list_batch_lookups(%s)", organization)
                with connection.transaction():
                    connection.execute("select count(*) from public.lookup_queue_items")
                    connection.execute("select pg_sleep(0.05)")
                    connection.execute("select count(*) from public.batch_lookup_jobs")
                served.append(1)

    with ThreadPoolExecutor(10) as pool:
        users = [pool.submit(use) for _ in range(4)]
        try:
            for deploy in [pool.submit(migrate, database_url) for _ in range(6)]:
                deploy.result()
        finally:
            ended.set()
    assert all(user.exception() is None for user in users)
    assert served


def test_a_deploy_waits_for_a_long_transaction_only_briefly_at_a_time(
    database_url: str, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(migrations, "MAX_ATTEMPTS", 2)
    lines: list[str] = []
    with psycopg.connect(database_url) as reader:
        reader.execute("select count(*) from public.batch_lookup_jobs")
        blocked = replace(Sources(), functions=sources.functions)
        (sources.functions / "10_things.sql").write_text("lock table public.batch_lookup_jobs;\n")
        with pytest.raises(MigrationError, match=r"10_things\.sql: canceling statement due to lock timeout"):
            migrate(database_url, blocked, report=lines.append)
    migrate(database_url, blocked)
    assert any("others use the database" in line for line in lines)


def test_a_deploy_does_not_wait_for_readers_of_a_view(database_url: str) -> None:
    """Replacing a view would wait for its readers, and everybody after that would wait for the deploy."""
    lines: list[str] = []
    with psycopg.connect(database_url) as reader:
        views = reader.execute(
            "select oid::regclass::text from pg_class where relnamespace = 'api'::regnamespace and relkind = 'v'"
        ).fetchall()
        for (view,) in views:
            reader.execute(sql.SQL("select * from {}").format(sql.Identifier(*view.split("."))))
        migrate(database_url, report=lines.append)
    assert len(views) > 5
    assert not any("others use the database" in line for line in lines)


def test_a_deploy_replaces_a_view_that_differs(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("alter view api.jobs reset (security_invoker)")
        connection.execute("drop view api.sites cascade; create view api.sites as select 'other'::text as reference_id")
        migrate(database_url)
        options = connection.execute("select reloptions from pg_class where oid = 'api.jobs'::regclass").fetchone()
        assert options == (["security_invoker=true"],)
        assert connection.execute("select * from api.sites").fetchall() == []


def test_owners_without_superuser_rights_can_deploy_or_learn_what_they_lack() -> None:
    with throw_away_postgres() as postgres, psycopg.connect(postgres.url("postgres"), autocommit=True) as administrator:

        def database_of(owner: str) -> str:
            administrator.execute(sql.SQL("create role {} login password 'secret'").format(sql.Identifier(owner)))
            administrator.execute(sql.SQL("create database {0} owner {0}").format(sql.Identifier(owner)))
            return psycopg.conninfo.make_conninfo(postgres.url(owner), user=owner, password="secret")

        first = database_of("first")
        with pytest.raises(MigrationError, match=r"first may not create the role anon\n.*alter role first createrole"):
            migrate(first)
        administrator.execute("alter role first createrole")
        migrate(first)
        migrate(first)
        with psycopg.connect(first) as connection:
            connection.execute("set role batch_lookups_shell")
            connection.execute("select api.get_settings()")

        second = database_of("second")
        with pytest.raises(
            MigrationError, match=r"second is not a member of batch_lookups_shell.*\n +As a superuser: grant batch_lookups_shell to second$"
        ):
            migrate(second)
        administrator.execute("grant batch_lookups_shell to second")
        migrate(second)
        migrate(second)


def test_migrations_create_the_same_database_as_the_schema(cluster: PrivatePostgres) -> None:
    assert drift.difference(cluster) == ""


def test_drift_is_shown(cluster: PrivatePostgres, sources: Sources, tmp_path: Path) -> None:
    schema = tmp_path / "schema"
    schema.mkdir()
    (schema / "10_things.sql").write_text("create table app.things (id integer primary key, name text);\n")
    difference = drift.difference(cluster, sources, schema)
    assert "-    name text" in difference


def test_drift_of_rows_is_shown(cluster: PrivatePostgres, sources: Sources) -> None:
    (sources.migrations / "0002_more.sql").write_text("insert into app.things values (1);\n")
    schema = sources.functions.with_name("schema")
    schema.mkdir()
    (schema / "10_things.sql").write_text((sources.migrations / "0001_initial.sql").read_text())
    assert "+INSERT INTO app.things VALUES (1);" in drift.difference(cluster, sources, schema)


def test_a_role_that_is_not_the_owner_is_refused_with_the_reason(owner: Connection, database_url: str) -> None:
    owner.execute("create role no_owner login password 'secret'")
    with pytest.raises(MigrationError, match=r"^permission denied for schema app\. For this, DATABASE_URL must name the owner"):
        migrate(psycopg.conninfo.make_conninfo(database_url, user="no_owner", password="secret"))
    owner.execute("drop role no_owner")


@pytest.mark.parametrize(("made", "problem"), [
    ("encoding 'LATIN1' locale 'C'", "must be encoded in UTF8; this one is LATIN1"),
    ("encoding 'SQL_ASCII' locale 'C'", "must be encoded in UTF8; this one is SQL_ASCII"),
    ("locale_provider icu icu_locale 'tr'", "has a locale in which I is not the capital of i"),
])  # fmt: skip
def test_a_database_whose_texts_are_others_is_refused(administrator: Connection, cluster: PrivatePostgres, made: str, problem: str) -> None:
    name = f"refused_{uuid.uuid4().hex}"
    try:
        administrator.execute(f"create database {name} template template0 {made}")
    except psycopg.errors.FeatureNotSupported as error:
        pytest.skip(str(error))
    with pytest.raises(MigrationError, match=f"^The database {problem}"):
        migrate(cluster.url(name))
    assert value(cluster.url(name), "select count(*) from pg_namespace where nspname in ('app', 'api')") == 0


def differences(cluster: PrivatePostgres, *urls: str) -> set[str]:
    """Lines that only one of two databases has in its dump, without their rows."""
    one, other = (set(drift.dump(cluster, url)) for url in urls)
    return {line for line in one ^ other if not line.startswith("INSERT ")}


def test_a_database_of_an_earlier_release_is_upgraded_with_its_functions_and_its_work(
    empty_database_url: str, new_database: Callable[..., str], cluster: PrivatePostgres
) -> None:
    """tests/data holds a database that the release up to migration 0005 made, with a job of which some items are in flight."""
    dump = gzip.decompress((ROOT / "tests" / "data" / "release_0005.sql.gz").read_bytes())
    psql: list[str | Path] = [
        cluster.installation.bin / "psql",
        empty_database_url,
        "--quiet",
        "--set=ON_ERROR_STOP=1",
        "--single-transaction",
    ]
    dump = dump.replace(b"CREATE SCHEMA public;", b"")
    subprocess.run(psql, input=dump, check=True, stdout=subprocess.DEVNULL)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("update public.lookup_leases set expires_at = now() + interval '10 minutes'")
    migrate(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        assert connection.execute("select * from api.check_invariants()").fetchall() == []
        [job] = connection.execute("select status, processed_items, failed_items from api.jobs").fetchall()
        assert job == ("processing", 2, 1)
        items = connection.execute("select status, utility, total_incentive_amount from api.items order by position").fetchall()
        assert [item[0] for item in items] == ["completed", "failed", "processing", "processing", "pending", "pending"]
        assert (items[0][1], str(items[0][2])) == ("U", "5")
    assert differences(cluster, empty_database_url, new_database()) == set()


@pytest.fixture
def earlier(tmp_path: Path) -> Sources:
    """What made databases fifty commits ago, or after the last commit since then that edited a migration."""

    def git(*arguments: str) -> bytes:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"needs the history of this checkout: {done.stderr.decode().strip()}")
        return done.stdout

    edited = git("log", "-1", "--format=%H", "--diff-filter=MDR", "HEAD~50..HEAD", "--", "migrations").decode().strip()
    archive = git("archive", edited or "HEAD~50", "migrations", "sql")
    subprocess.run(["tar", "--extract", "--directory", tmp_path], input=archive, check=True)
    return Sources(tmp_path / "migrations", tmp_path / "sql" / "functions", tmp_path / "sql" / "catalogue")


def test_a_database_of_some_commits_ago_is_upgraded(
    empty_database_url: str, earlier: Sources, new_database: Callable[..., str], cluster: PrivatePostgres
) -> None:
    # A function whose result or names of parameters changed, too, needs a migration that drops it.
    migrate(empty_database_url, earlier)
    migrate(empty_database_url)
    assert differences(cluster, empty_database_url, new_database()) == set()


def test_organizations_named_by_clerk_users_give_up_names_reserved_for_operators(owner: Connection) -> None:
    owner.execute(
        "insert into app.organizations (id, name, clerk_organization_id)"
        " values (app.organization_id_of_clerk('org_1'), 'initech', 'org_1'), (app.organization_id_of_clerk('org_2'), %s, 'org_2'),"
        " (app.uuid_v7(app.clock()), 'linked', 'org_3'), (app.uuid_v7(app.clock()), 'plain', null)",
        ["x" * 200],
    )
    owner.execute((ROOT / "migrations" / "0016_clerk_names.sql").read_bytes())
    names = [name for (name,) in owner.execute("select name from app.organizations order by name").fetchall()]
    assert sorted(names) == ["clerk:initech", "clerk:org_2", "linked", "plain"]


def test_settings_beyond_their_maximum_are_lowered_to_it(owner: Connection) -> None:
    names = ["max_open_items", "requests_per_minute", "organization_requests_per_minute", "job_retention_days", "report_retention_days"]
    for name in names:
        owner.execute(
            f"alter table app.settings drop constraint settings_{name}_check, add constraint settings_{name}_check check ({name} > 0)"
        )
    owner.execute(
        "update app.settings set max_open_items = 2147483647, requests_per_minute = 2147483647, organization_requests_per_minute = null,"
        " job_retention_days = 10000000, report_retention_days = null, audit_retention_days = 730"
    )
    owner.execute((ROOT / "migrations" / "0082_greatest_settings.sql").read_bytes())
    settings = owner.execute(f"select {', '.join([*names, 'audit_retention_days'])} from app.settings").fetchone()
    assert settings == (1_000_000_000, 100_000_000, None, 36_500, None, 730)


class TestWhoseObjects:
    """A role that may only connect and create schemas gains nothing by creating objects first."""

    @pytest.fixture
    def stranger(self, empty_database_url: str, administrator: Connection) -> Iterator[Connection]:
        name = conninfo_to_dict(empty_database_url)["dbname"]
        administrator.execute("create role stranger login password 'stranger'")
        administrator.execute(sql.SQL("grant create on database {} to stranger").format(sql.Identifier(str(name))))
        with psycopg.connect(make_conninfo(empty_database_url, user="stranger", password="stranger"), autocommit=True) as connection:
            yield connection
        with psycopg.connect(empty_database_url, autocommit=True) as owner:
            owner.execute("drop owned by stranger cascade")
        administrator.execute("drop role stranger")

    @pytest.mark.parametrize(
        "statements",
        [
            "create schema app",
            "create schema api",
            "create schema app; create function app.clock() returns timestamptz language sql as 'select now()'",
            "create schema app; create table app.schema_migrations (name text primary key, checksum text not null)",
        ],
    )
    def test_a_schema_of_somebody_else_is_refused(self, stranger: Connection, empty_database_url: str, statements: str) -> None:
        stranger.execute(statements.encode())
        with pytest.raises(MigrationError, match=r"the schema ap[ip] of stranger.*Rename what is there"):
            migrate(empty_database_url)

    def test_objects_that_were_there_before_are_refused(self, empty_database_url: str) -> None:
        with psycopg.connect(empty_database_url, autocommit=True) as owner:
            owner.execute(
                "create schema api; create function api.mine() returns integer language sql return 1;"
                "create view api.seen as select 1 as one"
            )
            with pytest.raises(MigrationError, match=r"the relation api.seen, the function api.mine\(\)"):
                migrate(empty_database_url)
            owner.execute("drop view api.seen; drop function api.mine")
        migrate(empty_database_url)

    @pytest.mark.parametrize("statement", ["create table public.applications (id integer)", "create type public.applications as enum ()"])
    def test_a_table_or_a_type_by_a_name_of_ours_is_refused_at_once(self, empty_database_url: str, statement: str) -> None:
        lines: list[str] = []
        with psycopg.connect(empty_database_url, autocommit=True) as owner:
            owner.execute(statement.encode())
            with pytest.raises(MigrationError, match=r"by names that Batch Lookups needs: applications\. Rename what is there"):
                migrate(empty_database_url, report=lines.append)
            with pytest.raises(psycopg.errors.RaiseException, match="by names that Batch Lookups needs: applications"):
                owner.execute(installation().encode())
            owner.execute("rollback; drop table if exists public.applications; drop type if exists public.applications")
        assert not lines
        migrate(empty_database_url)

    def test_an_object_that_a_stranger_put_there_later_is_refused(self, stranger: Connection, empty_database_url: str) -> None:
        migrate(empty_database_url)
        with psycopg.connect(empty_database_url, autocommit=True) as owner:
            owner.execute("grant create on schema app to stranger")
            stranger.execute("create function app.trap() returns integer language sql return 1")
            with pytest.raises(MigrationError, match=r"the function app.trap\(\) of stranger"):
                migrate(empty_database_url)
            owner.execute("drop function app.trap")
        migrate(empty_database_url)

    def test_what_an_operator_added_keeps_its_grants(self, empty_database_url: str) -> None:
        migrate(empty_database_url)
        with psycopg.connect(empty_database_url, autocommit=True) as owner:
            owner.execute(
                "create function api.mine() returns integer language sql set search_path = '' return 1;"
                "grant execute on function api.mine() to anon;"
                "create view api.seen as select 1 as one; grant select on api.seen to authenticated;"
                "create function api.private() returns integer language sql return 1; revoke all on function api.private() from public"
            )
            grants = (
                "select (select array[proacl::text, proconfig::text] from pg_proc where oid = 'api.mine()'::regprocedure),"
                " (select relacl::text from pg_class where oid = 'api.seen'::regclass),"
                " (select proacl::text from pg_proc where oid = 'api.private()'::regprocedure)"
            )
            before = owner.execute(grants).fetchone()
            migrate(empty_database_url)
            assert owner.execute(grants).fetchone() == before

    @timed
    def test_sessions_of_others_delay_no_deploy(self, stranger: Connection, empty_database_url: str) -> None:
        migrate(empty_database_url)
        # The key by which earlier releases took turns.
        stranger.execute("select pg_advisory_lock(x'6261746368'::bigint)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute("begin; lock table app.schema_migrations in access share mode")
        started_at = time.monotonic()
        migrate(empty_database_url)
        assert time.monotonic() - started_at < 60

    def test_a_schema_with_the_name_of_an_extension_runs_nothing_as_owner(self, stranger: Connection, empty_database_url: str) -> None:
        migrate(empty_database_url)
        stranger.execute(
            "create schema cron; create table cron.job (jobid bigint, jobname text);"
            "create table cron.job_run_details (jobid bigint, end_time timestamptz);"
            "insert into cron.job values (1, 'batch-lookups-worker'); insert into cron.job_run_details values (1, '2000-01-01');"
            "grant usage on schema cron to public; grant all on all tables in schema cron to public;"
            "create function cron.take() returns trigger language plpgsql as"
            " $$ begin execute 'alter role stranger superuser'; return old; end $$;"
            "create trigger take before delete on cron.job_run_details for each row execute function cron.take()"
        )
        with psycopg.connect(empty_database_url, autocommit=True) as owner:
            owner.execute("select api.run_maintenance()")
            assert owner.execute("select rolsuper from pg_roles where rolname = 'stranger'").fetchone() == (False,)


def test_only_the_history_of_our_own_jobs_is_pruned(cron_database_url: str) -> None:
    with psycopg.connect(cron_database_url, autocommit=True) as owner:
        assert owner.execute("select app.has_extension('pg_cron', 'cron')").fetchone() == (True,)
        owner.execute("select cron.schedule('nightly', '0 0 1 1 *', 'select 1')")
        owner.execute(
            "insert into cron.job_run_details (jobid, runid, command, start_time, end_time)"
            " select jobid, 900000 + jobid, jobname, now() - interval '3 days', now() - interval '3 days' from cron.job"
        )
        owner.execute("select app.prune_cron_history()")
        kept = owner.execute("select command from cron.job_run_details where runid > 900000").fetchall()
        owner.execute("select cron.unschedule('nightly')")
        assert kept == [("nightly",)]


@pytest.mark.parametrize(
    "body",
    [
        "(p_thing app.things) returns integer language sql return (p_thing).id",
        "(p_thing app.things default null) returns integer language sql as 'select 1'",
    ],
)
def test_a_table_can_change_although_older_functions_take_its_rows(empty_database_url: str, sources: Sources, body: str) -> None:
    (sources.functions / "20_rows.sql").write_text(f"create or replace function app.of_row{body};\n")
    migrate(empty_database_url, sources)
    (sources.migrations / "0002_more.sql").write_text("alter table app.things add column size integer not null default 7;\n")
    migrate(empty_database_url, sources)
    assert value(empty_database_url, "select app.of_row(row(1, 2)::app.things)") == 1


def views_with(columns: str) -> str:
    return f"""
        create schema if not exists api;
        create or replace view app.parts as select {columns};
        create or replace view api.wholes as select * from app.parts;
        create or replace function api.name_of(api.wholes) returns text language sql stable return ($1).name;
    """


def test_an_older_release_takes_columns_of_views_away(empty_database_url: str, sources: Sources) -> None:
    views = sources.functions / "20_views.sql"
    for columns in ("'a' as name, 1 as size", "'b' as name", "'c' as name, 1 as size, 2 as weight"):
        views.write_text(views_with(columns))
        migrate(empty_database_url, sources)
        assert value(empty_database_url, "select api.name_of(w) from api.wholes w") == columns[1]
        assert value(empty_database_url, "select count(*) from information_schema.columns where table_name = 'parts'") == columns.count(
            " as "
        )


def test_a_view_of_somebody_else_is_not_dropped_with_ours(empty_database_url: str, sources: Sources) -> None:
    views = sources.functions / "20_views.sql"
    views.write_text(views_with("'a' as name, 1 as size"))
    migrate(empty_database_url, sources)
    with psycopg.connect(empty_database_url, autocommit=True) as owner:
        owner.execute("create view public.theirs as select size from api.wholes")
    views.write_text(views_with("'b' as name"))
    with pytest.raises(
        MigrationError, match=r"something of yours depends on them: view theirs depends on view api\.wholes\. Drop it first"
    ):
        migrate(empty_database_url, sources)
    assert value(empty_database_url, "select size from public.theirs") == 1


def test_only_old_overloads_of_changed_functions_are_dropped(database_url: str) -> None:
    def functions() -> list[str]:
        with psycopg.connect(database_url) as connection:
            query = "select oid::regprocedure::text from pg_proc where pronamespace in ('app'::regnamespace, 'api'::regnamespace)"
            return sorted(name for (name,) in connection.execute(query))

    ours = functions()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(
            "create function app.file_columns(p_headers text[], p_lenient boolean default false) returns integer language sql return 1"
        )
        owner.execute("create function api.device_count(p_category text default null) returns integer language sql return 1")
    migrate(database_url)
    assert functions() == sorted([*ours, "api.device_count(text)"])


def test_each_migration_has_a_number_of_its_own() -> None:
    assert [file.name[:4] for file in files.sql_files(ROOT / "migrations")] == [
        f"{number:04}" for number, _ in enumerate(files.sql_files(ROOT / "migrations"), 1)
    ]
