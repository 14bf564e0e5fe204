"""The kinds of errors, as the database raises them."""

from __future__ import annotations

import gettext
import io
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from pyshell.api.error_responses import NOTHING_OF_LINE_1
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.postgres.sqlstates import (
    FUNCTION_IN_CONTEXT,
    MOVED_SHARD,
    Kind,
    OutcomeUnknownError,
    StaleConnectionError,
    for_log,
    had_no_effect,
    is_about_the_data,
    kind_of,
)
from tests.conftest import Connection


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("select 'x'::integer", Kind.DATA),
        ("select 1 / 0", Kind.DATA),
        ("select jsonb(repeat('[', 100000))", Kind.DATA),
        ("insert into app.organizations (name) values (null)", Kind.DATA),
        ("select (select n from (values (1), (2)) as two (n))", Kind.DATA),
        ("do $$ begin raise sqlstate 'PT409' using message = 'Taken'; end $$", Kind.REFUSED),
        ("set statement_timeout = '1ms'; select pg_sleep(10)", Kind.TIMEOUT),
        ("begin read only; insert into app.organizations (name) values ('x')", Kind.READ_ONLY),
        ("select * from api.no_such_function()", Kind.NOT_MIGRATED),
        ("select no_such_column from api.applied_migrations()", Kind.NOT_MIGRATED),
        ("select no_such_schema.f()", Kind.NOT_MIGRATED),
        ("do $$ begin perform no_such_function(); end $$", Kind.INTERNAL),
        ("select pg_terminate_backend(pg_backend_pid())", Kind.LOST),
        ("execute no_such_statement", Kind.STALE_STATEMENT),
        ("select 'a' collate \"no_such\"", Kind.NOT_MIGRATED),
        ("set role no_such_role", Kind.DATA),
        ("select from", Kind.INTERNAL),
        # The error of Citus for a plan that was made before a shard moved to another node.
        ("do $$ begin raise sqlstate 'XX000' using message = 'could not find valid entry for shard 102060'; end $$", Kind.CONFLICT),
        ("do $$ begin perform from public.lookup_queue_items_102060; end $$", Kind.CONFLICT),
        ("do $$ begin raise sqlstate 'XX000' using message = 'could not find what it wanted'; end $$", Kind.INTERNAL),
    ],
)
def test_an_error_has_a_kind(shared_database_url: str, statement: str, kind: Kind) -> None:
    with psycopg.connect(shared_database_url, autocommit=True) as connection:
        with pytest.raises(psycopg.Error) as raised:
            connection.execute(statement.encode())
        assert kind_of(raised.value) is kind
        assert is_about_the_data(raised.value) is (kind in (Kind.DATA, Kind.REFUSED))


@pytest.fixture
def translations(cluster: PrivatePostgres) -> dict[str, list[gettext.GNUTranslations]]:
    """Of the messages of PostgreSQL and of PL/pgSQL."""
    folder = subprocess.run([cluster.installation.bin / "pg_config", "--localedir"], capture_output=True, text=True, check=True).stdout
    found = {}
    for domain in ("postgres", "plpgsql"):
        files = Path(folder.strip()).glob(f"*/LC_MESSAGES/{domain}-*.mo")
        found[domain] = [gettext.GNUTranslations(io.BytesIO(file.read_bytes())) for file in files]
    if not all(found.values()):
        pytest.skip("this PostgreSQL speaks English only")
    return found


def test_texts_of_errors_are_understood_in_every_language(translations: dict[str, list[gettext.GNUTranslations]]) -> None:
    for language in translations["plpgsql"]:
        line = language.gettext("PL/pgSQL function %s line %d at %s")
        assert FUNCTION_IN_CONTEXT.search(f"JSON, 1: PL/pgSQL\n{line}"), line
    for language in translations["postgres"]:
        line = language.gettext('SQL function "%s" statement %d')
        assert FUNCTION_IN_CONTEXT.search(line), line
        line = language.gettext("JSON data, line %d: %s%s%s")
        assert not FUNCTION_IN_CONTEXT.search(line % (1, "", "SQL", "")), line
        assert NOTHING_OF_LINE_1.fullmatch((line % (1, "", "", "")).strip()), line
        assert not NOTHING_OF_LINE_1.fullmatch((line % (1, "", '{"a":', "")).strip()), line
        assert not NOTHING_OF_LINE_1.fullmatch((line % (2, "", "", "")).strip()), line
        line = language.gettext('relation "%s" does not exist')
        assert MOVED_SHARD.search(line % "public.lookup_queue_items_102060"), line
        assert not MOVED_SHARD.search(line % "public.lookup_queue_items"), line


def test_a_lock_timeout_means_busy(shared_database_url: str) -> None:
    with psycopg.connect(shared_database_url) as holder, psycopg.connect(shared_database_url) as other:
        holder.execute("lock table app.organizations in access exclusive mode")
        with pytest.raises(psycopg.Error) as raised:
            other.execute("set lock_timeout = '1ms'; do $$ begin perform from app.organizations; end $$")
        assert kind_of(raised.value) is Kind.BUSY
        assert "\n" in str(raised.value)
        assert for_log(raised.value) == "canceling statement due to lock timeout (api.queue_health names blocking transactions)"


def test_rows_that_changed_under_a_prepared_statement_make_it_stale(shared_database_url: str, shared_owner: Connection) -> None:
    shared_owner.execute("create table app.growing (a integer)")
    with psycopg.connect(shared_database_url, autocommit=True) as connection:
        connection.execute("select * from app.growing", prepare=True)
        shared_owner.execute("alter table app.growing add column b integer")
        with pytest.raises(errors.FeatureNotSupported) as raised:
            connection.execute("select * from app.growing", prepare=True)
        assert kind_of(raised.value) is Kind.STALE_STATEMENT
        assert had_no_effect(raised.value)
    shared_owner.execute("drop table app.growing")


def test_what_psycopg_raises_by_itself_has_a_kind(shared_database_url: str) -> None:
    connection = psycopg.connect(shared_database_url)
    with pytest.raises(psycopg.Error) as raised:
        connection.execute("select %s", ["\0"])
    assert kind_of(raised.value) is Kind.DATA
    connection.close()
    with pytest.raises(psycopg.Error) as raised:
        connection.execute("select 1")
    assert kind_of(raised.value) is Kind.LOST
    with pytest.raises(psycopg.Error) as raised:
        psycopg.connect("postgresql://127.0.0.1:1/none")
    assert kind_of(raised.value) is Kind.LOST


@pytest.mark.parametrize(
    ("error", "kind", "without_effect"),
    [
        (errors.DeadlockDetected(), Kind.CONFLICT, True),
        (errors.SerializationFailure(), Kind.CONFLICT, True),
        (errors.AdminShutdown(), Kind.LOST, True),
        (errors.CrashShutdown(), Kind.LOST, False),
        (errors.ConnectionFailure(), Kind.LOST, False),
        (errors.ReadOnlySqlTransaction(), Kind.READ_ONLY, False),
        (errors.DiskFull(), Kind.UNAVAILABLE, False),
        (errors.IoError(), Kind.UNAVAILABLE, False),
        (errors.LockNotAvailable(), Kind.BUSY, False),
        (StaleConnectionError(), Kind.LOST, True),
        (OutcomeUnknownError(), Kind.OUTCOME_UNKNOWN, False),
        (errors.InternalError_(), Kind.INTERNAL, False),
    ],
)
def test_the_error_says_whether_the_call_may_be_repeated(error: psycopg.Error, kind: Kind, without_effect: bool) -> None:
    assert (kind_of(error), had_no_effect(error)) == (kind, without_effect)
