"""Brings a database up to date: pending migrations, then all functions, then the starter catalogue, in one transaction.

Concurrent deploys take turns, and all but the first find nothing to do. An applied migration may neither change nor disappear.
"""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyshell.deploy.catalogue import catalogue_checksum, load_catalogue
from pyshell.deploy.files import checksum, sql_files
from pyshell.postgres.connections import OwnerConnection, connect_as_owner, is_in_transaction
from pyshell.postgres.sqlstates import ONLY_READS, DatabaseError, Kind, kind_of
from pyshell.settings import ROOT

WAIT_FOR_OTHERS = "10min"
# While a statement waits for its lock, all later ones wait, too. So wait briefly and often; and less than deadlock_timeout, so that the
# deploy gives way in a deadlock.
LOCK_TIMEOUT = "500ms"
MAX_ATTEMPTS = 60
# The errors of a first deploy if another one creates the same schema and tables concurrently.
MADE_MEANWHILE = ("23505", "42P06", "42P07")
INSUFFICIENT_PRIVILEGE = "42501"
# `create or replace view` takes no column away and changes none, as going back to an older release can mean.
INVALID_TABLE_DEFINITION = "42P16"
DEPENDENT_OBJECTS_STILL_EXIST = "2BP01"
# Checksums of earlier texts of files that were edited, without a change of effect, after databases had been created with them.
FORMER_CHECKSUMS = {"0064_counts_of_ended.sql": "1870701cf772bf95bd8fa027f372c33e705f72440543b84c2dc8d58f99f87f65"}

BOOKKEEPING = """
create schema if not exists app;
create table if not exists app.schema_migrations (
    name       text        not null,
    checksum   text        not null,
    applied_at timestamptz not null default clock_timestamp(),

    constraint schema_migrations_pkey primary key (name)
);
comment on table app.schema_migrations is 'The migrations that this database has, with the SHA-256 of their files.';
create table if not exists app.deployed_parts (
    name        text        not null,
    checksum    text        not null,
    deployed_at timestamptz not null default clock_timestamp(),

    constraint deployed_parts_pkey primary key (name)
);
comment on table app.deployed_parts is 'What a deploy loads only when it has changed, with the SHA-256 of its files.';
"""


# Whoever may create schemas in this database could have created these first, with functions that would run with the owner's rights.
CHECK_SCHEMAS = """
do $whose$
declare
    v_trusted constant oid[]  := array(select oid from pg_roles where rolsuper or rolname = current_user
                                       union
                                       select datdba from pg_database where datname = current_database());
    v_objects constant text[] := array(
        select kind || ' ' || name || case when owner <> all (v_trusted) then ' of ' || owner::regrole else '' end
          from (select 1 as number, 'the schema' as kind, nspname::text as name, nspowner as owner, oid as schema from pg_namespace
                 union all
                select 2, 'the relation', oid::regclass::text, relowner, relnamespace from pg_class
                 union all
                select 3, 'the function', oid::regprocedure::text, proowner, pronamespace from pg_proc
                 union all
                select 4, 'the type', oid::regtype::text, typowner, typnamespace from pg_type) o
         where schema in (to_regnamespace('app'), to_regnamespace('api'))
           and (owner <> all (v_trusted) or number > 1 and to_regclass('app.schema_migrations') is null)
         order by number, name);
begin
    if v_objects <> '{}' then
        raise 'This database has schemas app or api that are not those of Batch Lookups: %', array_to_string(v_objects[:5], ', ')
            using hint = 'Rename what is there, or install into another database.';
    end if;
end;
$whose$;
"""

# Before the first deploy: foreign objects in public that have names of ours.
CHECK_PUBLIC = """
do $whose$
declare
    v_taken constant text[] := array(
        select name
          from (select relname::text as name, relnamespace as schema from pg_class
                 union
                select typname::text, typnamespace from pg_type) o
         where schema = to_regnamespace('public') and name = any ('{names}') and to_regclass('app.schema_migrations') is null
         order by name);
begin
    if v_taken <> '{{}}' then
        raise 'The schema public has tables or types of others by names that Batch Lookups needs: %', array_to_string(v_taken, ', ')
            using hint = 'Rename what is there, or install into another database.';
    end if;
end;
$whose$;
"""

# The chapter that says where the rows of each table are.
DISTRIBUTION = "08_distribution.sql"
# Separately at each node: what the nodes create for themselves later does not see what the deploy creates.
PREPARE_NODES = """
select format('%s:%s: %s', nodename, nodeport, result)
  from run_command_on_workers('set citus.enable_ddl_propagation = off; create schema if not exists app')
 where not success
"""

# Deploys take turns with a lock that only the owner can take. If several find no table, one creates it and the others try again.
TAKE_TURN = "lock table app.schema_migrations in share row exclusive mode;\n"

# Whatever a statement in a string creates has at least a comment.
_CREATES = re.compile(
    r"^(?:create (?:or replace )?(?:unlogged )?|comment on )(?:table|view|function)(?: if not exists)? ((?:app|api)\.\w+)", re.MULTILINE
)
_CREATES_IN_PUBLIC = re.compile(r"^create table public\.(\w+)", re.MULTILINE)


class MigrationError(RuntimeError):
    """The database cannot be brought up to date; the message says which file, where and why. Nothing was changed."""


@dataclass(frozen=True)
class Sources:
    """The folders that a database is created from."""

    migrations: Path = ROOT / "migrations"
    functions: Path = ROOT / "sql" / "functions"
    catalogue: Path = ROOT / "sql" / "catalogue"


def migrate(
    database_url: str,
    sources: Sources | None = None,
    *,
    lookups_per_second: float | None = None,
    distribute: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Brings the database up to date, or changes nothing and raises MigrationError.

    `lookups_per_second` is the rate limit of a new database (infinity: no limit; None: its default). `distribute` spreads its tables over
    the nodes of the Citus cluster that it coordinates; a distributed database stays so without it. `report` gets a line per step.
    """
    sources = sources or Sources()
    forget_views = False
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            with connect_as_owner(database_url, "batch-lookups migrate") as connection:
                _check_database(connection)
                if distribute:
                    _check_coordinator(connection)
                if distribute or _is_distributed(connection):
                    _check_superuser(connection)
                if distribute:
                    _prepare_nodes(connection)
                is_new = _take_turn(connection, sources)
                _deploy(connection, sources, distribute, forget_views, report)
                if is_new and lookups_per_second is not None:
                    pace = None if math.isinf(lookups_per_second) else lookups_per_second
                    connection.execute("select api.update_settings(%s::jsonb)", [json.dumps({"lookups_per_second": pace})])
            return
        except (MigrationError, DatabaseError) as error:
            if isinstance(error, DatabaseError) and error.sqlstate == INSUFFICIENT_PRIVILEGE:
                raise MigrationError(
                    f"{error.diag.message_primary}. For this, DATABASE_URL must name the owner of the database, as for the first deploy:"
                    " the role of the API and the workers may not change it."
                ) from error
            if not forget_views and isinstance(error.__cause__, DatabaseError) and error.__cause__.sqlstate == INVALID_TABLE_DEFINITION:
                forget_views = True
                continue
            if attempt == MAX_ATTEMPTS or not _will_pass(error):
                raise
            report(f"waiting, others use the database: {error}")
            time.sleep(random.uniform(0.1, min(2, 0.1 + 0.1 * attempt)))


def _will_pass(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, MigrationError) else error
    if not isinstance(cause, DatabaseError):
        return False
    if cause.sqlstate in MADE_MEANWHILE:
        return True
    # Roles are shared by all databases of a server: concurrent deploys of two of them cause an internal error.
    return kind_of(cause) in (Kind.BUSY, Kind.CONFLICT) or (cause.sqlstate == "XX000" and "concurrently" in str(cause))


Release = Mapping[str, tuple[str, ...]]


def read_release(sources: Sources | None = None) -> Release:
    """The checksums that each migration of this release may have in a database."""
    return {file.name: _checksums(file) for file in sql_files((sources or Sources()).migrations)}


def pending(applied: Iterable[Mapping[str, str]], release: Release) -> list[str]:
    """Names of the migrations that a database lacks. `applied`: the result of `api.applied_migrations()`."""
    known = {entry["name"]: entry["checksum"] for entry in applied}
    return [name for name, checksums in release.items() if known.get(name) not in checksums]


def _checksums(file: Path) -> tuple[str, ...]:
    """The checksums of texts that create the same database: that of the file, and that of its earlier text, if any."""
    former = FORMER_CHECKSUMS.get(file.name)
    return (checksum([file]), former) if former else (checksum([file]),)


def run_file(connection: OwnerConnection, file: Path) -> None:
    """Runs the statements of a file in the open transaction. Raises MigrationError with file, line and reason."""
    text = file.read_text(encoding="utf-8")
    try:
        connection.execute(text.encode())
    except DatabaseError as error:
        raise MigrationError(_explain(error, file, text)) from error
    if not is_in_transaction(connection):
        raise MigrationError(f"{file}: ends the transaction of the deploy; a migration must not contain commit or rollback")


def _check_database(connection: OwnerConnection) -> None:
    if connection.execute("show transaction_read_only").fetchone() == ("on",):
        raise MigrationError(ONLY_READS)
    encoding = connection.execute("show server_encoding").fetchone()
    if encoding != ("UTF8",):
        raise MigrationError(
            f"The database must be encoded in UTF8; this one is {encoding[0] if encoding else 'unknown'}."
            " Make one with: create database NAME template template0 encoding 'UTF8'"
        )
    # As in Turkish: neither headings of columns nor addresses would be recognized.
    if connection.execute("select lower('I') = 'i'").fetchone() != (True,):
        raise MigrationError(
            "The database has a locale in which I is not the capital of i."
            " Make one with: create database NAME template template0 locale_provider libc locale 'C.UTF-8'"
        )


def _take_turn(connection: OwnerConnection, sources: Sources) -> bool:
    """Waits for other deploys. Returns whether the database is new to us."""
    connection.execute(
        f"set local lock_timeout = '{WAIT_FOR_OTHERS}'; set local statement_timeout = 0; set local client_min_messages = warning"
    )
    try:
        connection.execute(check_names(sources).encode())
    except DatabaseError as error:
        if error.sqlstate != "P0001":
            raise
        raise MigrationError(f"{error.diag.message_primary}. {error.diag.message_hint}") from error
    is_new = connection.execute("select to_regclass('app.schema_migrations') is null").fetchone() == (True,)
    if is_new:
        connection.execute(BOOKKEEPING)
    connection.execute(TAKE_TURN)
    connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
    return is_new


def check_names(sources: Sources) -> str:
    """The statements that refuse a database in which others have objects with names of ours."""
    names = {name for file in sql_files(sources.migrations) for name in _CREATES_IN_PUBLIC.findall(file.read_text(encoding="utf-8"))}
    return CHECK_SCHEMAS + CHECK_PUBLIC.format(names="{" + ",".join(sorted(names)) + "}")


def name_what_is_ours(sources: Sources) -> str:
    """The statement that tells the chapters, in this transaction, which tables, views and functions in `app` and `api` are ours."""
    files = sql_files(sources.migrations) + sql_files(sources.functions)
    names = {name for text in [BOOKKEEPING, *(file.read_text(encoding="utf-8") for file in files)] for name in _CREATES.findall(text)}
    return f"set local batch_lookups.own_names = '{','.join(sorted(names))}';\n"


def _check_coordinator(connection: OwnerConnection) -> None:
    if connection.execute("select to_regproc('citus_is_coordinator') is null").fetchone() == (True,):
        raise MigrationError(
            "This database has no Citus, so there are no nodes to distribute it to: DATABASE_URL must name the coordinator of a cluster,"
            " in whose database `create extension citus` was run."
        )
    if connection.execute("select citus_is_coordinator()").fetchone() != (True,):
        raise MigrationError(
            "This is not the coordinator of a cluster. `select citus_set_coordinator_host('ADDRESS', PORT)` makes it one;"
            " `select * from pg_dist_node where groupid = 0` names the one that there is."
        )


def _check_superuser(connection: OwnerConnection) -> None:
    # Citus records over connections of a superuser what this transaction creates at the other nodes, and connections of another role do not
    # see that before the commit.
    needed = "select current_user where exists (select from pg_dist_node where groupid <> 0) and current_setting('is_superuser') = 'off'"
    if row := connection.execute(needed).fetchone():
        raise MigrationError(
            f"On a cluster, DATABASE_URL must name a superuser for this, which {row[0]} is not: Citus lets nobody else create types at"
            " several nodes in one transaction."
        )


def _prepare_nodes(connection: OwnerConnection) -> None:
    """Creates the schema at every node."""
    errors = connection.execute(PREPARE_NODES).fetchall()
    if errors:
        raise MigrationError(f"A node of the cluster could not be prepared: {'; '.join(error for (error,) in errors)}")


def _distribute(connection: OwnerConnection, sources: Sources, report: Callable[[str], None]) -> None:
    # Only this chapter, because tables are distributed before functions and views tie them together.
    run_file(connection, sources.functions / DISTRIBUTION)
    connection.execute("select app.untie_tables() where not app.is_distributed()")
    try:
        row = connection.execute("select app.distribute_tables()").fetchone()
        connection.execute("select app.make_roles(), app.make_local_tables()")
    except DatabaseError as error:
        raise MigrationError(_explain(error, sources.functions / DISTRIBUTION, "")) from error
    if row and row[0]:
        report(f"distributed {row[0]} tables")


def _is_distributed(connection: OwnerConnection) -> bool:
    if connection.execute("select to_regprocedure('app.is_distributed()') is null").fetchone() == (True,):
        return False
    return connection.execute("select app.is_distributed()").fetchone() == (True,)


def _deploy(connection: OwnerConnection, sources: Sources, distribute: bool, forget_views: bool, report: Callable[[str], None]) -> None:
    connection.execute(name_what_is_ours(sources).encode())
    distribute = distribute or _is_distributed(connection)
    _apply_migrations(connection, sql_files(sources.migrations), report)
    if distribute:
        _distribute(connection, sources, report)
    if forget_views:
        _forget_views(connection)
    _apply_functions(connection, sql_files(sources.functions), report)
    if distribute:
        connection.execute("select app.delegate_functions(), app.close_tables_to_members()")
    _load_catalogue(connection, sources.catalogue, report)


def _apply_migrations(connection: OwnerConnection, files: list[Path], report: Callable[[str], None]) -> None:
    applied = dict(connection.execute("select name, checksum from app.schema_migrations").fetchall())
    by_name = {file.name: file for file in files}
    missing = sorted(applied.keys() - by_name.keys())
    if missing:
        raise MigrationError(
            f"The database has migrations that this release lacks: {', '.join(missing)}."
            " Run a release that has them; about going back to an older one, see Rollback in docs/operations/maintain.md."
        )
    edited = sorted(name for name, known in applied.items() if known not in _checksums(by_name[name]))
    if edited:
        raise MigrationError(
            f"Edited after it was applied: {', '.join(edited)}. Restore the file, and put the change into a new migration."
        )
    last = max(applied, default="")
    late = sorted(name for name in by_name.keys() - applied.keys() if name < last)
    if late:
        raise MigrationError(f"{', '.join(late)} would come before {last}, which the database has already. Give it a later number.")

    new = [file for file in files if file.name not in applied]
    if new and applied:
        connection.execute(FORGET_FUNCTIONS)
    elif new:
        report(f"making the tables by all migrations up to {new[-1].name}")
    for file in new:
        if applied:
            report(f"applying the migration {file.name}")
        run_file(connection, file)
        connection.execute("insert into app.schema_migrations (name, checksum) values (%s, %s)", [file.name, checksum([file])])


# A table does not change while a function with a body of standard SQL, or with defaults, takes its row type, and this release brings those
# of the last one back. Views that call them go with them. Policies, defaults and checks call none of these.
FORGET_FUNCTIONS = """
do $forget$
declare
    -- All names before the first drop, which may take others along.
    v_functions constant text[] := array(
        select p.oid::regprocedure::text
          from pg_proc p
         where p.pronamespace = 'app'::regnamespace and (p.prosqlbody is not null or p.pronargdefaults > 0)
           and exists (select from unnest(p.proargtypes) a (type) join pg_type t on t.oid = a.type left join pg_type e on e.oid = t.typelem
                        where t.typtype = 'c' or e.typtype = 'c'));
    v_function  text;
begin
    foreach v_function in array v_functions loop
        execute format('drop function if exists %s cascade', v_function);
    end loop;
end;
$forget$;
"""


# Functions that take the rows of a view go with it; this release brings both back. Views of others that stand on ours stop the deploy.
FORGET_VIEWS = """
do $forget$
declare
    v_views constant oid[] := array(
        select oid from pg_class where relkind = 'v' and relnamespace in (to_regnamespace('app'), to_regnamespace('api')));
    v_names constant text := (select string_agg(v::regclass::text, ', ') from unnest(v_views) v);
    v_function text;
begin
    foreach v_function in array array(
        select p.oid::regprocedure::text
          from pg_proc p
         where p.pronamespace in (to_regnamespace('app'), to_regnamespace('api'))
           and exists (select from pg_type t where t.typrelid = any (v_views) and t.oid = any (p.proargtypes || p.prorettype)))
    loop
        execute format('drop function %s', v_function);
    end loop;
    if v_names is not null then
        execute format('drop view %s', v_names);
    end if;
end;
$forget$;
"""


def _forget_views(connection: OwnerConnection) -> None:
    try:
        connection.execute(FORGET_VIEWS)
    except DatabaseError as error:
        if error.sqlstate != DEPENDENT_OBJECTS_STILL_EXIST:
            raise
        raise MigrationError(
            f"This release has other columns in its views, and something of yours depends on them: {error.diag.message_detail}."
            " Drop it first, and create it again afterwards."
        ) from error


def _apply_functions(connection: OwnerConnection, files: list[Path], report: Callable[[str], None]) -> None:
    for file in files:
        run_file(connection, file)
    report(f"installed the functions ({len(files)} files)")


def _load_catalogue(connection: OwnerConnection, folder: Path, report: Callable[[str], None]) -> None:
    if not folder.exists() or not _has_changed(connection, "catalogue", catalogue_checksum(folder)):
        return
    report("loading the starter catalogue")
    load_catalogue(connection, folder)


def _has_changed(connection: OwnerConnection, part: str, new: str) -> bool:
    """Whether a part differs from the last deployed one; records the new one."""
    known = connection.execute("select checksum from app.deployed_parts where name = %s", [part]).fetchone()
    if known == (new,):
        return False
    connection.execute(
        "insert into app.deployed_parts (name, checksum) values (%s, %s)"
        " on conflict (name) do update set checksum = excluded.checksum, deployed_at = excluded.deployed_at",
        [part, new],
    )
    return True


def _explain(error: DatabaseError, file: Path, text: str) -> str:
    """`file:line: message`, then the line, the context and the hint."""
    diagnostic = error.diag
    where, excerpt = str(file), ""
    if diagnostic.statement_position:
        line = text.count("\n", 0, int(diagnostic.statement_position) - 1)
        where += f":{line + 1}"
        excerpt = text.split("\n")[line].strip()
    # Errors raised by a chapter say themselves what to do.
    context = None if diagnostic.source_function == "exec_stmt_raise" else diagnostic.context
    details = [excerpt, diagnostic.message_detail, context, diagnostic.message_hint]
    return "\n    ".join([f"{where}: {diagnostic.message_primary or error}", *(line for line in details if line)])
