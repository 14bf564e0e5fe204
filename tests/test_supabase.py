"""Installing into a Supabase project by SQL alone, and what its Realtime server would read there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from pyshell.deploy import migrations, supabase_sql
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.settings import ROOT
from tests.conftest import Connection
from tests.http_fixtures import site

Databases = Callable[..., str]


@pytest.fixture
def project_url(cluster: PrivatePostgres, new_database: Databases) -> str:
    """A database like that of a Supabase project: its roles exist, and its owner is no superuser."""
    url = new_database(empty=True)
    parts = psycopg.conninfo.conninfo_to_dict(url)
    with psycopg.connect(url, autocommit=True) as administrator:
        if administrator.execute("select from pg_roles where rolname = 'project_owner'").fetchone() is None:
            administrator.execute("create role project_owner login createrole createdb replication password 'secret'")
            administrator.execute("grant anon, authenticated, service_role, batch_lookups_shell to project_owner with admin option")
        administrator.execute(sql.SQL("alter database {} owner to project_owner").format(sql.Identifier(str(parts["dbname"]))))
        administrator.execute("grant all on schema public to project_owner")
        for kind in ("tables", "sequences"):
            administrator.execute(
                f"alter default privileges for role project_owner in schema public grant all on {kind} to anon, authenticated".encode()
            )
    return psycopg.conninfo.make_conninfo(url, user="project_owner", password="secret")


def install(cluster: PrivatePostgres, url: str, text: str) -> None:
    psql = cluster.installation.bin / "psql"
    command = [str(psql), url, "--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1"]
    process = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""


def test_one_file_installs_everything_without_a_superuser(cluster: PrivatePostgres, project_url: str) -> None:
    text = supabase_sql.installation()
    install(cluster, project_url, text)
    with psycopg.connect(project_url, autocommit=True) as owner:
        [organization_id] = owner.execute("select api.create_organization('Acme')").fetchone() or [None]
        request = json.dumps([site()])
        owner.execute("select api.create_batch_lookup(%s, %s)", [organization_id, request])
        assert owner.execute(
            """select array_agg(distinct c.oid::regclass::text)
                 from pg_class c, unnest(array['anon', 'authenticated']) role
                where c.relkind = 'S' and c.relnamespace in ('public'::regnamespace, 'app'::regnamespace)
                  and has_sequence_privilege(role, c.oid, 'usage, select, update')"""
        ).fetchone() == (None,)
        owner.execute("set role authenticated")
        owner.execute("select set_config('request.jwt.claims', %s, false)", [json.dumps({"organization_id": str(organization_id)})])
        assert owner.execute("select count(*) from public.batch_lookup_jobs").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute("delete from public.batch_lookup_jobs")


def test_default_privileges_of_a_project_do_not_apply_to_our_objects(project_url: str, new_database: Databases) -> None:
    defaults = """
        select defaclobjtype, privilege
          from pg_default_acl, unnest(defaclacl::text[]) privilege
         where defaclnamespace = 0
         order by 1, 2"""
    privileges = """
        select role, array_agg(p.oid::regprocedure::text order by p.oid::regprocedure::text)
          from unnest(array['anon', 'authenticated', 'public']) role
          join pg_proc p on p.pronamespace in ('app'::regnamespace, 'api'::regnamespace) and has_function_privilege(role, p.oid, 'execute')
         group by role
         union all
        select role || ' ' || privilege, array_agg(c.oid::regclass::text order by c.oid::regclass::text)
          from unnest(array['anon', 'authenticated', 'public']) role, unnest(array['select', 'insert', 'update']) privilege, pg_class c
         where c.relkind in ('r', 'v') and c.relnamespace in ('app'::regnamespace, 'api'::regnamespace)
           and has_table_privilege(role, c.oid, privilege)
         group by role, privilege
         order by 1"""
    with psycopg.connect(project_url, autocommit=True) as owner:
        owner.execute("alter default privileges grant execute on functions to anon, authenticated")
        owner.execute("alter default privileges grant select on tables to public")
        owner.execute("alter default privileges grant all on tables to authenticated with grant option")
        before = owner.execute(defaults).fetchall()
    migrations.migrate(project_url)
    with psycopg.connect(project_url) as owner, psycopg.connect(new_database()) as usual:
        assert owner.execute(privileges).fetchall() == usual.execute(privileges).fetchall()
        assert owner.execute(defaults).fetchall() == before


def test_the_file_can_be_run_again_and_the_command_can_take_over(cluster: PrivatePostgres, project_url: str) -> None:
    text = supabase_sql.installation()
    for _ in range(2):
        install(cluster, project_url, text)
    reports: list[str] = []
    migrations.migrate(project_url, report=reports.append)
    assert not [line for line in reports if "migration" in line or "catalogue" in line]


def refusal_of(cluster: PrivatePostgres, url: str, text: str) -> str:
    command = [str(cluster.installation.bin / "psql"), url, "--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1"]
    process = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert process.returncode == 3
    return process.stderr


def test_an_older_file_changes_nothing_of_a_newer_database(cluster: PrivatePostgres, project_url: str) -> None:
    text = supabase_sql.installation()
    install(cluster, project_url, text)
    with psycopg.connect(project_url, autocommit=True) as owner:
        comment = "select obj_description('api.list_devices'::regproc)"
        owner.execute("comment on function api.list_devices is 'newer'")
        owner.execute("insert into app.schema_migrations (name, checksum) values ('9999_newer.sql', 'x')")
        refused = refusal_of(cluster, project_url, text)
        assert "ERROR:  The database has migrations that this file lacks: 9999_newer.sql\n" in refused
        assert "HINT:  A newer release made it: run the file of that one, or of a later one. Nothing was changed.\n" in refused
        assert owner.execute(comment.encode()).fetchone() == ("newer",)

        # A newer release without a migration of its own.
        owner.execute("delete from app.schema_migrations where name = '9999_newer.sql'")
        definition = owner.execute("select pg_get_viewdef('api.jobs'::regclass)").fetchone() or [""]
        query = definition[0].replace("AS labels", "AS labels, 1 AS newer")
        newer = f"create or replace view api.jobs with (security_invoker = true) as {query}"
        owner.execute(newer.encode())
        refused = refusal_of(cluster, project_url, text)
        assert "ERROR:  A newer release made the view api.jobs, which has other columns: cannot drop columns from view\n" in refused
        assert "HINT:  Run the newer release, or `python -m pyshell migrate` of this one" in refused
        assert owner.execute(comment.encode()).fetchone() == ("newer",)
        migrations.migrate(project_url)
        assert owner.execute(comment.encode()).fetchone() != ("newer",)
        install(cluster, project_url, text)


def test_a_database_with_the_former_text_of_an_edited_migration_is_taken_further(cluster: PrivatePostgres, project_url: str) -> None:
    install(cluster, project_url, supabase_sql.installation())
    with psycopg.connect(project_url, autocommit=True) as connection:
        for name, former in migrations.FORMER_CHECKSUMS.items():
            row = connection.execute("select checksum from app.schema_migrations where name = %s", [name]).fetchone()
            assert row is not None
            assert row[0] != former
            connection.execute("update app.schema_migrations set checksum = %s where name = %s", [former, name])
    install(cluster, project_url, supabase_sql.installation())
    migrations.migrate(project_url)


def test_the_file_says_what_the_command_does(cluster: PrivatePostgres, new_database: Databases) -> None:
    by_file, by_command = new_database(empty=True), new_database()
    install(cluster, by_file, supabase_sql.installation())

    def dump(url: str) -> list[str]:
        command = [str(cluster.installation.bin / "pg_dump"), "--schema-only", url]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        return [line for line in lines if not line.startswith(("--", "\\"))]

    assert dump(by_file) == dump(by_command)


def test_the_uninstallation_removes_what_the_file_made_and_nothing_else(cluster: PrivatePostgres, project_url: str) -> None:
    def schema() -> list[str]:
        command = [str(cluster.installation.bin / "pg_dump"), "--schema-only", project_url]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        return [line for line in lines if line and not line.startswith(("--", "\\")) and "PUBLICATION supabase_realtime" not in line]

    def uninstall() -> subprocess.CompletedProcess[str]:
        psql = cluster.installation.bin / "psql"
        command = [str(psql), project_url, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={ROOT / 'sql' / 'uninstall.sql'}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with psycopg.connect(project_url, autocommit=True) as owner:
        owner.execute("create table public.sites_of_mine (organization_id uuid, reference_id text)")
    before = schema()
    install(cluster, project_url, supabase_sql.installation())
    assert schema() != before
    with psycopg.connect(project_url, autocommit=True) as owner:
        owner.execute("select api.create_batch_lookup(api.create_organization('Acme'), %s)", [json.dumps([site()])])
        for mine, drop in {
            "create view public.mine as select name from api.jobs": "drop view public.mine",
            "alter table public.sites_of_mine enable row level security;"
            " create policy mine on public.sites_of_mine using (organization_id = app.claimed_organization_id())": (
                "drop policy mine on public.sites_of_mine; alter table public.sites_of_mine disable row level security"
            ),
            "create function public.mine(api.jobs) returns text language sql return 'x'": "drop function public.mine(api.jobs)",
        }.items():
            owner.execute(mine)
            refused = uninstall()
            assert refused.returncode != 0
            assert "Objects of your own refer to Batch Lookups" in refused.stderr
            assert "mine" in refused.stderr
            owner.execute(drop)
    done = uninstall()
    assert done.returncode == 0, done.stderr
    assert schema() == before
    assert "is not installed" in uninstall().stderr


@pytest.fixture
def postgrest(database_url: str, owner: Connection) -> Iterator[Callable[..., Any]]:
    """Calls as PostgREST does: logged in as authenticator, in the role and with the claims of the token, for one transaction."""
    owner.execute("alter role authenticator login password 'secret'")
    with psycopg.connect(psycopg.conninfo.make_conninfo(database_url, user="authenticator", password="secret")) as connection:

        def call(role: str | None, claims: dict[str, object], query: LiteralString, *arguments: object) -> Any:
            with connection.transaction(force_rollback=False):
                if role:
                    connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
                connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims | {"role": role})])
                return (connection.execute(query, arguments).fetchone() or [None])[0]

        yield call
    owner.execute("alter role authenticator nologin password null")


def test_rpc_through_postgrest_works_for_ones_own_organization(postgrest: Callable[..., Any], owner: Connection) -> None:
    clerk, other = "org_2abCdEf", "org_2xyZ"
    for organization in (clerk, other):
        owner.execute("select api.authenticate_clerk_member(%s, null, 'admin')", [organization])
    mine, theirs = (owner.execute("select app.organization_id_of_clerk(%s)", [name]).fetchone()[0] for name in (clerk, other))  # type: ignore[index]
    create, items = "select api.create_batch_lookup(%s, %s)", json.dumps([site()])
    session = {"sid": "sess_1", "org_role": "org:member"}
    for claims in (
        session | {"org_id": clerk},
        {"sid": "sess_1", "v": 2, "o": {"id": clerk, "rol": "member"}},
        {"organization_id": str(mine)},
    ):
        assert postgrest("authenticated", claims, create, mine, items)["total_items"] == 1
        with pytest.raises(psycopg.errors.DatabaseError) as refused:
            postgrest("authenticated", claims, create, theirs, items)
        assert refused.value.sqlstate == "PT403"
        assert json.loads(refused.value.diag.message_detail or "")["code"] == "organization_not_allowed"
    assert postgrest("authenticated", session | {"org_id": clerk}, "select api.list_batch_lookups()")["total"] == 3
    assert postgrest("authenticated", session | {"org_id": other}, "select count(*) from public.batch_lookup_jobs") == 0
    assert postgrest("service_role", {}, "select count(*) from public.batch_lookup_jobs") == 3
    assert postgrest("service_role", {}, create, theirs, items)["total_items"] == 1
    for role in ("anon", None):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            postgrest(role, session | {"org_id": clerk}, create, mine, items)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        postgrest("authenticated", session | {"org_id": clerk}, "select api.internal_key()")


def test_supabase_realtime_would_read_jobs_and_reports_and_no_items(owner: Connection) -> None:
    if not has_wal2json(owner):
        pytest.skip("wal2json is not installed: what Supabase's server reads cannot be shown")
    published = owner.execute(
        "select schemaname || '.' || tablename from pg_publication_tables where pubname = 'supabase_realtime'"
    ).fetchall()
    [organization_id] = owner.execute("select api.create_organization('Acme')").fetchone() or [None]
    owner.execute("select pg_create_logical_replication_slot('realtime', 'wal2json', true)")
    owner.execute("select api.create_batch_lookup(%s, %s)", [organization_id, json.dumps([site()])])
    owner.execute(
        "select api.record_lookups(%s, array[job_id], array[position], array[lease_token], array[200], array[null], array['{}'],"
        " array[null]::double precision[])"
        " from api.claim_lookups(%s, 'w', 1)",
        [organization_id, organization_id],
    )
    changes = owner.execute(
        "select data::json from pg_logical_slot_get_changes('realtime', null, null, 'format-version', '2', 'include-transaction', 'false',"
        " 'add-tables', %s)",
        [",".join(sorted(table for (table,) in published))],
    ).fetchall()
    owner.execute("select pg_drop_replication_slot('realtime')")
    read = [(change["action"], change["table"]) for (change,) in changes]
    assert read[:2] == [("I", "batch_lookup_jobs"), ("I", "incentive_reports")]
    assert set(read[2:]) == {("U", "batch_lookup_jobs"), ("U", "incentive_reports")}
    last = [change for (change,) in changes if change["table"] == "batch_lookup_jobs"][-1]
    assert {"status": "completed"}.items() <= {column["name"]: column["value"] for column in last["columns"]}.items()
    assert [column["name"] for column in last["identity"]] == ["organization_id", "id"]


def has_wal2json(owner: Connection) -> bool:
    [folder] = owner.execute("select setting from pg_config where name = 'PKGLIBDIR'").fetchone() or [""]
    return (Path(folder) / "wal2json.so").exists()
