"""What holds for every table and function, read from the database's own catalog."""

from __future__ import annotations

import re

import psycopg
import pytest

from pyshell.settings import ROOT
from tests.conftest import Connection

PROJECT_SCHEMAS = ["public", "app", "api"]


def expect_none(connection: Connection, query: str) -> None:
    """Fails if the query returns names: it searches for what is not allowed."""
    found = [row[0] for row in connection.execute(query.encode(), {"schemas": PROJECT_SCHEMAS})]
    assert not found, "\n" + "\n".join(found)


def test_every_security_definer_function_pins_its_search_path(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        """
        select oid::regprocedure::text from pg_proc
         where pronamespace::regnamespace::text = any (%(schemas)s)
           and prosecdef and not coalesce(proconfig, '{}') @> array['search_path=pg_catalog, pg_temp']
        """,
    )


# A search path keeps the planner from inlining a function. A body in standard SQL was bound at its creation and needs none; the others
# that take a row have only qualified names.
NEEDS_NO_SEARCH_PATH = """
    (p.prosqlbody is not null
     or p.prolang = (select oid from pg_language where lanname = 'sql') and not p.prosecdef
        and exists (select from unnest(p.proargtypes) a (type) join pg_type t on t.oid = a.type where t.typtype = 'c'))"""


def test_every_function_pins_its_search_path_unless_it_needs_none(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        f"""
        select p.oid::regprocedure::text from pg_proc p
         where p.pronamespace::regnamespace::text = any (%(schemas)s) and not {NEEDS_NO_SEARCH_PATH}
           and not coalesce(p.proconfig, '{{}}') @> array['search_path=pg_catalog, pg_temp']
        """,
    )


# They measure how long something takes, or compare with times that PostgreSQL or pg_cron wrote.
READ_THE_SERVERS_CLOCK = {
    "app.clock",
    *("app.diagnose_maintenance", "app.diagnose_server", "app.diagnose_transactions", "app.measure_database", "app.prune_cron_history"),
    *("api.delete_organization", "api.queue_health", "api.wait_for_batch"),
    *("app.add_up_counts", "app.count_violations", "app.find_violations_here", "app.prune", "app.step_ends_at"),
    *("app.delete_ended_jobs", "app.delete_ended_reports"),
}


def test_the_time_is_read_in_one_place(shared_owner: Connection) -> None:
    """So that a test can set it, and no test depends on the day on which it runs."""
    found = shared_owner.execute(
        """
        select p.pronamespace::regnamespace || '.' || p.proname
          from pg_proc p
         where p.pronamespace::regnamespace::text = any (%(schemas)s) and coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) ~* %(clock)s
         union
        select v.schemaname || '.' || v.viewname from pg_views v where v.schemaname = any (%(schemas)s) and v.definition ~* %(clock)s
        """,
        {
            "schemas": PROJECT_SCHEMAS,
            "clock": r"\m((now|(clock|statement|transaction)_timestamp|timeofday)\(\)|(current|local)_?(date|time|timestamp)\M)",
        },
    )
    assert {name for (name,) in found} == READ_THE_SERVERS_CLOCK


def test_functions_that_force_plans_do_without_jit(shared_owner: Connection) -> None:
    """Forbidding a kind of plan raises the cost of the others above the threshold of JIT."""
    expect_none(
        shared_owner,
        """
        select p.oid::regprocedure::text from pg_proc p
         where p.pronamespace = 'api'::regnamespace and has_function_privilege('authenticated', p.oid, 'execute')
           and array_to_string(p.proconfig, ' ') ~ '(plan_cache_mode|enable_[a-z]+)=' and not p.proconfig @> array['jit=off']
        """,
    )


def test_every_api_function_is_commented(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        """
        select oid::regprocedure::text from pg_proc
         where pronamespace = 'api'::regnamespace and obj_description(oid, 'pg_proc') is null
        """,
    )


def test_every_table_is_commented(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        """
        select oid::regclass::text from pg_class
         where relnamespace::regnamespace::text = any (%(schemas)s) and relkind in ('r', 'p', 'v')
           and obj_description(oid, 'pg_class') is null
        """,
    )


def test_every_column_of_the_views_is_commented(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        """
        select c.relname || '.' || a.attname
          from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
         where c.relnamespace = 'api'::regnamespace and c.relkind = 'v' and col_description(c.oid, a.attnum) is null
        """,
    )


def test_views_for_members_run_with_the_rights_of_the_caller(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        """
        select c.oid::regclass::text from pg_class c
         where c.relnamespace::regnamespace::text = any (%(schemas)s) and c.relkind = 'v'
           and has_table_privilege('authenticated', c.oid, 'select') and not coalesce(c.reloptions, '{}') @> array['security_invoker=true']
        """,
    )


def test_no_function_is_for_everyone(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        """
        select p.oid::regprocedure::text
          from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
         where p.pronamespace::regnamespace::text in ('app', 'api') and a.grantee = 0
        """,
    )


def test_the_shell_may_call_every_api_function(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        """
        select oid::regprocedure::text from pg_proc
         where pronamespace = 'api'::regnamespace and not has_function_privilege('batch_lookups_shell', oid, 'execute')
        """,
    )


@pytest.mark.parametrize("role", ["batch_lookups_shell", "anon"])
def test_no_table_is_open_to(role: str, shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        f"""
        select oid::regclass::text from pg_class
         where relnamespace::regnamespace::text = any (%(schemas)s) and relkind in ('r', 'p', 'v', 'm', 'f')
           and (has_table_privilege('{role}', oid, 'select, insert, update, delete, truncate, references, trigger')
                or has_any_column_privilege('{role}', oid, 'select, insert, update, references'))
        """,
    )


def test_members_may_read_and_nothing_else(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        """
        select oid::regclass::text from pg_class
         where relnamespace::regnamespace::text = any (%(schemas)s) and relkind in ('r', 'p', 'v', 'm', 'f')
           and (has_table_privilege('authenticated', oid, 'insert, update, delete, truncate, references, trigger')
                or relnamespace = 'app'::regnamespace and has_table_privilege('authenticated', oid, 'select') and not relrowsecurity)
        """,
    )


def test_members_may_omit_their_organization(shared_owner: Connection) -> None:
    """PostgREST responds with PGRST202 if an argument without a default is missing."""
    expect_none(
        shared_owner,
        """
        select p.oid::regprocedure::text
          from pg_proc p
         where p.pronamespace = 'api'::regnamespace and has_function_privilege('authenticated', p.oid, 'execute')
           and 'p_organization_id' = any (p.proargnames)
           and pg_get_function_arguments(p.oid) !~ 'p_organization_id uuid DEFAULT app.claimed_organization_id\\(\\)'
        """,
    )


def test_functions_that_only_read_may_be_called_with_get(shared_owner: Connection) -> None:
    """PostgREST accepts GET only for stable functions."""
    expect_none(
        shared_owner,
        """
        select p.oid::regprocedure::text
          from pg_proc p
         where p.pronamespace = 'api'::regnamespace and p.provolatile = 'v' and p.proname ~ '^(get|list|find)_'
        """,
    )


def test_dashboards_read_the_views_and_nothing_else(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        """
        select c.oid::regclass::text
          from pg_class c
         where c.relnamespace::regnamespace::text = any (%(schemas)s) and c.relkind in ('r', 'p', 'v', 'm', 'f')
           and (has_table_privilege('batch_lookups_readonly', c.oid, 'insert, update, delete, truncate, references, trigger')
                or has_table_privilege('batch_lookups_readonly', c.oid, 'select')
                <> (c.relkind = 'v' and c.relnamespace = 'api'::regnamespace))
         union all
        select c.oid::regclass || '.' || a.attname
          from pg_class c
          join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
         where (c.oid::regclass::text, a.attname) in (('lookup_leases', 'lease_token'), ('lookup_queue_items', 'webhook_custom_fields'))
           and has_column_privilege('batch_lookups_readonly', c.oid, a.attnum, 'select')
         union all
        select p.oid::regprocedure::text
          from pg_proc p
         where p.pronamespace::regnamespace::text in ('app', 'api') and has_function_privilege('batch_lookups_readonly', p.oid, 'execute')
           -- api.queue_health calls it.
           and p.oid <> 'app.clock()'::regprocedure
        """,
    )


def test_every_public_table_has_row_level_security(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        """
        select oid::regclass::text from pg_class
         where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relrowsecurity
        """,
    )


def test_every_constraint_is_named_after_its_table_and_kind(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        r"""
        select c.conname || ' of ' || t.oid::regclass
          from pg_constraint c join pg_class t on t.oid = c.conrelid
         where t.relnamespace::regnamespace::text = any (%(schemas)s)
           and c.contype in ('p', 'u', 'f', 'c')
           and c.conname !~ format('^%%s_(.+_)?%%s$', t.relname,
                                   case c.contype when 'p' then 'pkey' when 'u' then 'key' when 'f' then 'fkey' else 'check' end)
        """,
    )


def test_every_index_is_named_after_its_table_and_purpose(shared_owner: Connection) -> None:
    expect_none(
        shared_owner,
        """
        select i.indexrelid::regclass::text
          from pg_index i join pg_class t on t.oid = i.indrelid join pg_class n on n.oid = i.indexrelid
         where t.relnamespace::regnamespace::text = any (%(schemas)s)
           and not exists (select from pg_constraint c where c.conindid = i.indexrelid and c.contype in ('p', 'u', 'x'))
           and n.relname !~ format('^%%s_.+_(idx|key)$', t.relname)
        """,
    )


def test_every_foreign_key_begins_an_index(shared_owner: Connection) -> None:
    """Without an index, a change of the referenced table reads the whole referring one."""
    expect_none(
        shared_owner,
        """
        select c.conname::text
          from pg_constraint c
         where c.contype = 'f' and c.connamespace::regnamespace::text = any (%(schemas)s)
           and not exists (select from pg_index i
                            where i.indrelid = c.conrelid
                              and (i.indkey::int2[])[0:array_length(c.conkey, 1) - 1] @> c.conkey)
        """,
    )


def test_every_parameter_is_used(shared_owner: Connection) -> None:
    """For functions in SQL; plpgsql_check covers the others."""
    expect_none(
        shared_owner,
        r"""
        select p.oid::regprocedure || ': ' || a.name
          from pg_proc p
          join pg_language l on l.oid = p.prolang and l.lanname = 'sql'
         cross join unnest(p.proargnames[:p.pronargs]) a (name)
         where p.pronamespace::regnamespace::text in ('app', 'api')
           and coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) !~ format('\m%%s\M', a.name)
        """,
    )


def test_every_function_chapter_has_its_tests_and_every_schema_chapter_its_functions() -> None:
    schema, functions, tests = ({file.stem for file in (ROOT / "sql" / part).glob("*.sql")} for part in ("schema", "functions", "tests"))
    assert functions <= tests
    assert tests <= functions
    assert schema <= functions


def test_plpgsql_check_finds_nothing(cron_database_url: str) -> None:
    # It also checks strings, and functions of Citus do not exist here.
    with psycopg.connect(cron_database_url) as connection:
        connection.execute("create extension if not exists plpgsql_check")
        # What the functions call on Supabase.
        connection.execute("create schema net; create schema vault")
        connection.execute((ROOT / "sql" / "tests" / "supabase.psql").read_bytes())
        expect_none(
            connection,
            r"""
            select p.oid::regprocedure || coalesce(':' || f.lineno, '') || ': ' || f.level || ': ' || f.message
              from pg_proc p
              join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql',
                   plpgsql_check_function_tb(p.oid, other_warnings => false, performance_warnings => false, security_warnings => true) f
             where p.pronamespace::regnamespace::text in ('app', 'api') and f.message <> 'unused parameter "p_worker"'
               and f.message !~ '"pg_catalog.pg_dist_'
               and f.message !~ 'function (run_command_on_\w+|create_distributed_function|master_get_table_ddl_events)'
            """,
        )
        connection.rollback()


TENANT_TABLES = "select name::regclass from app.distribution() where kind = 'distributed'"


def test_foreign_keys_between_tables_of_organizations_begin_with_the_organization(shared_owner: Connection) -> None:
    """When distributed by organization, rows that refer to each other are on the same node."""
    expect_none(
        shared_owner,
        f"""
        select c.conname::text
          from pg_constraint c
         where c.contype = 'f' and c.conrelid in ({TENANT_TABLES}) and c.confrelid in ({TENANT_TABLES})
           and (c.conrelid, c.confrelid, 'organization_id', 'organization_id')
               <> (select f.attrelid, t.attrelid, f.attname, t.attname
                     from pg_attribute f, pg_attribute t
                    where f.attrelid = c.conrelid and f.attnum = c.conkey[1] and t.attrelid = c.confrelid and t.attnum = c.confkey[1])
        """,
    )


def test_tables_of_organizations_have_no_triggers_and_no_foreign_keys_that_set_null(shared_owner: Connection) -> None:
    """Distributed tables cannot have triggers, nor foreign keys that change a part of themselves."""
    expect_none(
        shared_owner,
        f"""
        select t.tgname::text from pg_trigger t where not t.tgisinternal and t.tgrelid in ({TENANT_TABLES})
         union all
        select c.conname::text
          from pg_constraint c
         where c.contype = 'f' and c.confdeltype in ('n', 'd') and c.conrelid in ({TENANT_TABLES})
        """,
    )


def test_set_calls_immutable_functions_only(shared_owner: Connection) -> None:
    """Distributed tables allow no others there. A variable that is computed before is the same for all rows, too.

    The sum of a time and an interval is not immutable, because the interval may have days; app.time_after takes none.
    """
    sources = shared_owner.execute(
        "select oid::regprocedure::text, prosrc from pg_proc where pronamespace in ('app'::regnamespace, 'api'::regnamespace)"
    )
    changing = shared_owner.execute(
        """
        select proname
          from pg_proc
         where pronamespace in ('pg_catalog'::regnamespace, 'app'::regnamespace, 'api'::regnamespace)
         group by proname
        having bool_and(provolatile <> 'i')
        """
    )
    names = {name for (name,) in changing}
    found = [
        f"{function}: {name}"
        for function, source in sources
        for assignments in assignments_of(source)
        for name in [
            *sorted(names.intersection(re.findall(r"\w+(?=\()", assignments))),
            *re.findall(r"\w+_(?:at|until|now) *[-+]|[-+] *interval\b", assignments),
        ]
    ]
    assert not found, "\n" + "\n".join(found)


def assignments_of(source: str) -> list[str]:
    """What follows SET in the UPDATEs and the ON CONFLICT DO UPDATEs of a function, without strings and comments."""
    text = re.sub(r"--[^\n]*|'(?:[^']|'')*'", " ", source).lower()
    found = []
    for update in re.finditer(r"\bupdate\s+(?:(?!set\b)[\w.%]+\s+){0,3}set\b", text):
        depth, end = 0, len(text)
        for token in re.finditer(r"[();]|\b(?:where|from|returning)\b", text[update.end() :]):
            depth += {"(": 1, ")": -1}.get(token[0], 0)
            if depth < 0 or (depth == 0 and token[0] not in "()"):
                end = update.end() + token.start()
                break
        found.append(text[update.end() : end])
    return found


def test_arrays_grow_by_elements_not_by_arrays(shared_owner: Connection) -> None:
    """An element is appended in place; appending an array copies everything, 20,000 times for 20,000 rows."""
    found = shared_owner.execute(
        r"""
        select p.oid::regprocedure::text, m.assignment[1]
          from pg_proc p
         cross join regexp_matches(p.prosrc, '(\m(v_\w+) := \2 \|\| (?:array\[|''\{)[^;]*)', 'g') m (assignment)
         where p.pronamespace in ('app'::regnamespace, 'api'::regnamespace)
        """
    ).fetchall()
    assert found == []
