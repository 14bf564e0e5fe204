"""Rules for SQL that runs on a single PostgreSQL and, distributed by organization, on Citus, checked in the catalog.

Citus plans a statement for the node of the organization, or for all nodes, and rewrites it for the shards there. Each rule below forbids a
pattern that Citus refuses or executes differently. Functions excepted from a rule are listed with it, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import psycopg
import pytest

from pyshell.deploy.files import sql_files
from pyshell.settings import ROOT
from tests.conftest import Connection
from tests.sql_statements import Reference, Statement, closure, statements


@dataclass(frozen=True)
class Function:
    signature: str
    name: str
    language: str
    statements: list[Statement]
    has_row_type: bool
    has_bound_body: bool
    settings: list[str]
    source: str


@dataclass(frozen=True)
class Source:
    """All functions, the kind of each table (a view has that of its tables), types that are made of columns, and what is not immutable."""

    functions: list[Function]
    kinds: dict[str, str]
    row_types: set[str]
    varying: set[str]

    @property
    def names(self) -> set[str]:
        return {function.name for function in self.functions}

    def tables(self, statement: Statement, *kinds: str) -> set[str]:
        return {reference.table for reference in statement.references(self.kinds) if self.kinds[reference.table] in kinds}

    def that_touch(self, *kinds: str) -> set[str]:
        """Names of the functions that read or write a table of these kinds, or call one that does."""
        touching = {f.name for f in self.functions if any(self.tables(statement, *kinds) for statement in f.statements)}
        return closure(self.calls(), touching)

    def calls(self) -> dict[str, set[str]]:
        names = self.names
        calls: dict[str, set[str]] = {name: set() for name in names}
        for function in self.functions:
            for statement in function.statements:
                calls[function.name] |= statement.calls(names)
        return calls

    def each(self) -> Iterator[tuple[Function, Statement]]:
        for function in self.functions:
            for statement in function.statements:
                yield function, statement


@pytest.fixture(scope="module")
def source(shared_database_url: str) -> Source:
    with psycopg.connect(shared_database_url, autocommit=True) as connection:
        # So that a body in standard SQL is shown with qualified names.
        connection.execute("set search_path = pg_catalog")
        functions = [
            Function(signature, name, language, statements(body), has_row_type, has_bound_body, settings, body)
            for signature, name, language, body, has_row_type, has_bound_body, settings in connection.execute(FUNCTIONS)
        ]
        kinds: dict[str, str] = dict(
            connection.execute("select name, kind from app.distribution() union all select * from (" + KINDS_OF_VIEWS + ") v")
        )
        row_types = {name for (name,) in connection.execute(ROW_TYPES)}
        varying = {name for (name,) in connection.execute(VARYING)}
    return Source(functions, kinds, row_types, varying)


FUNCTIONS = """
    select p.oid::regprocedure::text, p.pronamespace::regnamespace || '.' || p.proname, l.lanname,
           coalesce(pg_get_function_sqlbody(p.oid), p.prosrc),
           exists (select
                     from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype) a (type)
                     join pg_type t on t.oid = a.type
                     left join pg_type e on e.oid = t.typelem
                     join pg_class c on c.oid in (t.typrelid, e.typrelid)),
           p.prosqlbody is not null, coalesce(p.proconfig, '{}')
      from pg_proc p
      join pg_language l on l.oid = p.prolang
     where p.pronamespace in ('app'::regnamespace, 'api'::regnamespace) and l.lanname in ('sql', 'plpgsql')
     order by 1"""
KINDS_OF_VIEWS = """
    select c.relnamespace::regnamespace || '.' || c.relname, min(d.kind)
      from pg_class c
      join pg_rewrite r on r.ev_class = c.oid
      join pg_depend p on p.classid = 'pg_rewrite'::regclass and p.objid = r.oid
      join app.distribution() d on d.name::regclass = p.refobjid
     where c.relkind = 'v'
     group by c.oid"""
ROW_TYPES = """
    select relnamespace::regnamespace || '.' || relname
      from pg_class
     where relnamespace in ('app'::regnamespace, 'api'::regnamespace, 'public'::regnamespace) and relkind in ('r', 'p', 'v', 'c')"""

VARYING = """
    select case when pronamespace = 'pg_catalog'::regnamespace then '' else pronamespace::regnamespace || '.' end || proname
      from pg_proc
     where pronamespace in ('pg_catalog'::regnamespace, 'app'::regnamespace, 'api'::regnamespace)
     group by 1
    having bool_and(provolatile <> 'i')"""


def expect(found: Iterable[tuple[Function, str]], but_for: Mapping[str, str]) -> None:
    """Fails unless something was found in each of the listed functions, and in no other."""
    seen: dict[str, list[str]] = {}
    for function, what in found:
        seen.setdefault(function.name, []).append(f"{function.name}: {what}")
    wrong = [line for name, lines in seen.items() if name not in but_for for line in lines]
    assert not wrong, "\n" + "\n".join(wrong)
    assert set(but_for) <= set(seen), f"these need no exception any more: {set(but_for) - set(seen)}"


def test_functions_that_take_or_return_a_row_have_a_body_in_quotes(source: Source) -> None:
    """Refused: "Citus can not handle circular dependencies between distributed objects". A bound body depends on the table of the type."""
    expect(
        ((f, "has a bound body") for f in source.functions if f.has_row_type and f.has_bound_body),
        but_for={},
    )


def test_functions_without_a_search_path_have_qualified_names(source: Source, shared_owner: Connection) -> None:
    """Of functions in SQL that take a row: a caller's search path must not matter to them."""
    known = {
        name
        for (name,) in shared_owner.execute(
            "select proname from pg_proc where pronamespace = 'pg_catalog'::regnamespace union select word from pg_get_keywords()"
        )
    }
    expect(
        (
            (f, "".join(name))
            for f in source.functions
            if f.language == "sql" and not f.has_bound_body and not f.settings
            for statement in f.statements
            # Not the columns of an alias, and not extract(epoch from p_time).
            for name in re.findall(r"(?<!\) )(?<!ordinality )(?<![\w.])(\w+) \(|(?:from|join) (?!p_)(\w+) ", statement.text)
            if not known.issuperset(filter(None, name))
        ),
        but_for={},
    )


def test_requests_write_nothing_that_every_node_has(source: Source) -> None:
    """A table replicated to all nodes cannot be written while any node is down."""
    seldom = dict.fromkeys(["app.adopt_source", *(f.name for f in source.functions if f.name.startswith("app.import_"))], "a new catalogue")
    seldom |= dict.fromkeys(["api.update_settings", "api.set_monthly_lookups", "api.delete_organization"], "an operator does it")
    seldom |= dict.fromkeys(["api.create_organization", "app.link_organization", "api.rename_organization"], "an operator does it")
    seldom |= dict.fromkeys(["app.create_clerk_organization"], "the first request of an organization")
    seldom |= dict.fromkeys(["api.create_api_key", "api.rotate_api_key", "api.revoke_api_key"], "its subject is a key")
    seldom |= dict.fromkeys(["api.authenticate_api_key"], "once for each key after a change of the pepper")
    seldom |= dict.fromkeys(
        ["api.share_incentive_report", "api.revoke_incentive_report_share", "app.delete_reports"], "its subject is a link"
    )
    expect(
        (
            (f, f"{reference.verb} {reference.table}")
            for f, statement in source.each()
            for reference in statement.references(source.kinds)
            if source.kinds[reference.table] == "reference" and reference.verb in ("into", "update", "delete")
        ),
        but_for=seldom,
    )


def test_values_hold_no_query(source: Source) -> None:
    """Refused: "subqueries are not supported within INSERT queries"."""
    expect(
        (
            (f, statement.text)
            for f, statement in source.each()
            if source.tables(statement, "distributed", "reference")
            and re.search(r"insert into \S+ (?:as \w+ )?(?:\([^()]*\) )?values .*\( select ", statement.text)
        ),
        but_for={},
    )


def test_rows_of_tables_are_taken_column_by_column(source: Source) -> None:
    """`select t from t` has the type of the shard there; `row(t.*)::app.t` has ours everywhere, and the planner takes both alike."""

    def whole_rows(statement: Statement) -> Iterator[str]:
        tokens = statement.tokens
        aliases = {r.alias for r in statement.references(source.kinds) if source.kinds[r.table] != "local"}
        for place, token in enumerate(tokens):
            is_argument_of = tokens[place - 2] if tokens[place - 1] == "(" else ""
            if (
                token in aliases
                and tokens[place - 1] in ("(", ",", "select", "returning", "distinct", "then", "else", "=")
                and tokens[place + 1 : place + 2] != ("(",)
                and is_argument_of not in ("to_json", "to_jsonb", "row_to_json")
            ):
                yield " ".join(tokens[max(place - 6, 0) : place + 4])

    expect(
        ((f, found) for f, statement in source.each() for found in whole_rows(statement)),
        but_for={},
    )


def test_arrays_of_rows_are_aggregated(source: Source) -> None:
    """Refused: "could not determine data type of parameter", where a variable of such a type is given `array(select ..)`."""
    expect(
        (
            (f, statement.text)
            for f, statement in source.each()
            for variable in re.findall(r"(\w+)(?: \S+ \[ \])? :?= array \( select", statement.text)
            if source.tables(statement, "distributed", "reference")
            and re.search(rf"\b{variable} +(?:constant +)?({'|'.join(map(re.escape, source.row_types))})\[\]", f.source)
        ),
        but_for={},
    )


def test_no_with_query_changes_rows(source: Source) -> None:
    """It costs eight times as much there. `for .. in update .. returning` with a variable does the same."""
    expect(
        (
            (f, found)
            for f, statement in source.each()
            for found in re.findall(r"as (?:materialized )?\( (?:insert|update|delete) .*", statement.text)
        ),
        but_for={},
    )


def test_changes_call_immutable_functions_only(source: Source) -> None:
    """Refused: "non-IMMUTABLE functions are not allowed in CASE", "STABLE functions .. cannot be called with column references"."""
    expect(
        (
            (f, ", ".join(called))
            for f, statement in source.each()
            if any(r.verb in ("update", "delete") and source.kinds[r.table] != "local" for r in statement.references(source.kinds))
            and (called := statement.calls(source.varying))
        ),
        but_for={},
    )


def test_updates_of_assertions_call_no_volatile_function(source: Source, shared_owner: Connection) -> None:
    """Refused: "functions used in UPDATE queries on distributed tables must not be VOLATILE"."""
    volatile = {name for (name,) in shared_owner.execute("select proname from pg_proc where provolatile = 'v'")}
    found = [
        f"{file.name}: {', '.join(called)}"
        for file in sql_files(ROOT / "sql" / "tests")
        for update in re.finditer(r"^update (\w+\.\w+)[^;]*", file.read_text(), re.MULTILINE)
        if source.kinds.get(update[1], "local") != "local" and (called := sorted(volatile.intersection(re.findall(r"(\w+)\(", update[0]))))
    ]
    assert found == []


def test_a_query_of_a_table_of_organizations_calls_no_function_that_reads_one(source: Source) -> None:
    """Refused: "cannot execute a distributed query from a query on a shard". What a function answers goes into a variable first."""
    any_table, distributed = source.that_touch("distributed", "reference"), source.that_touch("distributed")
    expect(
        (
            (f, f"{', '.join(called)}: {statement.text[:120]}")
            for f, statement in source.each()
            if (called := statement.calls(any_table) if source.tables(statement, "distributed") else set())
            or (called := statement.calls(distributed) if source.tables(statement, "reference") else set())
        ),
        but_for={},
    )


def test_conditions_of_a_conflict_compare_columns(source: Source) -> None:
    """Refused: "could not determine data type of parameter" in `insert .. select`, and sums of times in any."""
    expect(
        (
            (f, condition)
            for f, statement in source.each()
            for condition in re.findall(r"do update .* where (.*)", statement.text)
            if source.tables(statement, "distributed", "reference")
            and re.search(r"[-+] interval" if " values " in statement.text else r"[-+] interval|\b[pv]_\w+", condition)
        ),
        but_for={},
    )


def test_a_function_that_catches_errors_is_not_called_within_an_insert(source: Source) -> None:
    """Refused in `insert .. select`: "another command is already in progress", because of the savepoint."""
    catching = closure(source.calls(), {f.name for f in source.functions if re.search(r"\bexception\s+when\b", f.source)})
    expect(
        (
            (f, ", ".join(called))
            for f, statement in source.each()
            if re.search(r"insert into (?!.* values )", statement.text)
            and source.tables(statement, "distributed", "reference")
            and (called := statement.calls(catching))
        ),
        but_for={},
    )


def test_rows_of_an_upsert_are_not_counted_by_the_statement(source: Source) -> None:
    """`insert .. select .. on conflict` counts there what was selected, whether or not it changed anything."""
    expect(
        (
            (f, before.text[:120])
            for f in source.functions
            for before, statement in zip(f.statements, f.statements[1:], strict=False)
            if "row_count" in statement.tokens
            and source.tables(before, "distributed", "reference")
            and re.search(r"insert into (?!.* values ).* on conflict", before.text)
        ),
        but_for={},
    )


def test_rows_are_locked_and_named_by_place_within_an_organization(source: Source) -> None:
    """Refused: "could not run distributed query with FOR UPDATE/SHARE commands"; and a ctid is another row's in another shard."""
    expect(
        (
            (f, statement.level(reference.place))
            for f, statement in source.each()
            for reference in statement.references(source.kinds)
            if source.kinds[reference.table] == "distributed"
            and re.search(r"\bfor (?:no key )?(?:update|share)\b|\bctid\b", statement.level(reference.place))
            and not names_its_organization(statement, reference)
        ),
        but_for={},
    )


ALL_ORGANIZATIONS = {
    "the ready list, which a node has for its organizations": [
        "api.ready_webhooks",
        "app.call_worker",
        "app.estimated_seconds",
        "app.find_ready",
        "app.is_served_alone",
        "app.record_sample",
        "app.waits_for_claim",
    ],
    "figures of the installation": [
        "api.get_metrics",
        "api.get_queue_health",
        "app.diagnose_lookups",
        "app.measure_waits",
        "app.measure_webhooks",
        "app.oldest_ready_since",
        "app.sum_work",
    ],
    "maintenance": [
        "app.add_up_counts",
        "app.learn_results_in_turn",
        "app.maintain_webhooks",
        "app.prune_audit_events",
        "app.prune_deleted_rows",
        "app.prune_idempotency_keys",
        "app.prune_uploads",
        "app.count_violations",
        "app.run_maintenance",
    ],
    "its row has it": ["app.store_upload"],
    "the organization of a batch whose id alone was given": ["api.wait_for_batch"],
}


def test_statements_name_their_organization(source: Source) -> None:
    """Such a statement runs only on the node of the organization, and reads nothing of another one."""
    expect(
        (
            (f, f"{reference.table}: {statement.level(reference.place)[:160]}")
            for f, statement in source.each()
            for reference in statement.references(source.kinds)
            if source.kinds[reference.table] == "distributed" and not names_its_organization(statement, reference)
        ),
        but_for={name: reason for reason, names in ALL_ORGANIZATIONS.items() for name in names},
    )


def test_a_search_in_all_organizations_selects_a_column(source: Source) -> None:
    """Refused: "a column definition list is required for functions returning record", where `exists (select from ..)` is of all shards."""
    expect(
        (
            (f, statement.level(reference.place)[:160])
            for f, statement in source.each()
            for reference in statement.references(source.kinds)
            if source.kinds[reference.table] == "distributed"
            and not names_its_organization(statement, reference)
            and re.search(r"\bselect from\b", statement.level(reference.place))
        ),
        but_for={"app.run_maintenance": "what it looks for is of the organization of a row"},
    )


# What claims and flushes call occasionally.
SELDOM = {
    "limits": ["app.keep_limits", "app.within_budgets", "app.slots_of_node"],
    "failures": ["app.apply_outcomes", "app.judge_failures", "app.is_served_alone", "app.record_attempts", "app.cancel_retries"],
    "late answers": ["app.leases_in_flight", "app.complete_expired_items", "app.judge_outcomes", "app.expire_leases"],
    "what some have": ["app.enqueue_item_webhooks", "app.enqueue_job_webhooks", "app.file_applications", "app.answer_duplicates"],
}


def test_every_claim_and_flush_names_one_table_in_a_statement(source: Source) -> None:
    """Such a statement is planned in a third of the time there, and planning is most of its cost."""
    calls, seldom = source.calls(), {name for names in SELDOM.values() for name in names}
    reached, found = set[str](), {"api.claim_lookups", "api.record_lookups"}
    while found:
        reached |= found
        found = {called for name in found for called in calls[name]} - reached - seldom
    expect(
        (
            (f, statement.text[:120])
            for f, statement in source.each()
            if f.name in reached
            and source.tables(statement, "distributed")
            and (len(statement.references(source.kinds)) > 1 or re.search(JOINED, statement.text))
        ),
        but_for={"app.insert_report_sites": "as many rows as items: by themselves they would cost more"},
    )


JOINED = r"\( select |\bwith\b|\bjoin\b|\bunnest\b|insert into (?!.* values )"


def test_no_column_is_set_to_an_element_of_an_array(source: Source) -> None:
    """Crashes the server there, where that is all that the column is set to: Citus takes it for a change of an element of the column."""
    expect(
        (
            (f, statement.text)
            for f, statement in source.each()
            if source.tables(statement, "distributed", "reference")
            and re.search(r"update .*(?: set|,) \w+ = [\w.]+ \[ [^=]* \] (?:,|where|from|returning)", statement.text)
        ),
        but_for={},
    )


def names_its_organization(statement: Statement, reference: Reference) -> bool:
    """Compares the organization of a table with something, or inserts it."""
    column = rf"(?<![\w.])(?:{reference.alias}\.)?organization_id"
    level = statement.level(reference.place)
    if reference.verb == "into":
        return re.search(r"\( (?:\w+ , )*organization_id\b", level) is not None
    compared = rf"{column} =|= {column}\b|\( {column} (?:, \S+ )+\) (?:=|in|<|>)"
    return re.search(compared, level) is not None


def test_functions_in_sql_read_no_table_that_is_distributed(source: Source) -> None:
    """Refused: "parameterized queries for SQL functions referencing distributed tables are not supported"."""
    embedded = "PostgREST embeds by it; roles that could are refused on a cluster"
    expect(
        (
            (f, f"reads {', '.join(tables)}")
            for f, statement in source.each()
            if f.language == "sql" and (tables := source.tables(statement, "distributed", "reference"))
        ),
        but_for=dict.fromkeys(["api.jobs", "api.reports", "api.report_sites", "api.report_programs"], embedded),
    )


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        (test_requests_write_nothing_that_every_node_has, "update app.api_keys set name = p_name where organization_id = p_id;"),
        (test_values_hold_no_query, "insert into app.queued_jobs (organization_id, next_rank) values (p_id, (select max(n) from x));"),
        (test_rows_of_tables_are_taken_column_by_column, "select app.job_json(j) into v from public.batch_lookup_jobs j;"),
        (
            test_rows_of_tables_are_taken_column_by_column,
            "for v in update app.job_budgets b set sample = 1 returning b as row loop end loop;",
        ),
        (
            test_arrays_of_rows_are_aggregated,
            "declare v_jobs app.queued_jobs[] := array(select row(j.*)::app.queued_jobs from app.queued_jobs j);",
        ),
        (test_changes_call_immutable_functions_only, "update app.job_budgets set sample = 1 where lookups > random();"),
        (test_no_with_query_changes_rows, "with gone as (delete from app.queued_jobs returning job_id) select * from gone;"),
        (
            test_a_query_of_a_table_of_organizations_calls_no_function_that_reads_one,
            "perform app.next_ready_at(q.organization_id, now()) from app.queue_wakeups q;",
        ),
        (
            test_conditions_of_a_conflict_compare_columns,
            "insert into app.devices as d select * from unnest(v) on conflict (id) do update set name = 'x' where d.name <> p_name;",
        ),
        (
            test_a_function_that_catches_errors_is_not_called_within_an_insert,
            "insert into app.programs select app.catalogue_date(d) from x;",
        ),
        (
            test_rows_of_an_upsert_are_not_counted_by_the_statement,
            "insert into app.devices select * from unnest(v) on conflict do nothing; get diagnostics v_n = row_count;",
        ),
        (
            test_rows_are_locked_and_named_by_place_within_an_organization,
            "perform from app.queued_jobs j where j.job_id = p_job_id for update;",
        ),
        (
            test_statements_name_their_organization,
            "select 1 from app.queued_jobs q join app.job_budgets b on b.job_id = q.job_id where q.organization_id = p_id;",
        ),
        (test_statements_name_their_organization, "execute format('delete from app.queued_jobs where job_id = $1') using v_id;"),
        (
            test_a_search_in_all_organizations_selects_a_column,
            "if exists (select from app.queue_wakeups where ready_at <= p_now) then",
        ),
        (
            test_no_column_is_set_to_an_element_of_an_array,
            "update app.queued_jobs set end_position = v_ends[1] where organization_id = p_id;",
        ),
        (test_functions_in_sql_read_no_table_that_is_distributed, "select count(*) from app.devices"),
    ],
)
def test_each_rule_finds_what_breaks_it(rule: Callable[[Source], None], body: str, source: Source) -> None:
    language = "sql" if rule is test_functions_in_sql_read_no_table_that_is_distributed else "plpgsql"
    broken = Function("app.broken()", "app.broken", language, statements(body), False, False, [], body)
    with pytest.raises(AssertionError, match=r"app\.broken"):
        rule(replace(source, functions=[*source.functions, broken]))


def test_the_rule_about_claims_finds_a_join(source: Source) -> None:
    body = "perform from app.queued_jobs q join unnest(p_ids) i (id) on i.id = q.job_id where q.organization_id = p_id;"
    joined = Function("app.hold_queue()", "app.hold_queue", "plpgsql", statements(body), False, False, [], body)
    with pytest.raises(AssertionError, match=r"app\.hold_queue"):
        test_every_claim_and_flush_names_one_table_in_a_statement(replace(source, functions=[*source.functions, joined]))


def test_views_read_the_same_when_made_of_their_own_text(owner: Connection) -> None:
    """Citus makes them so at other nodes, and api.check_distribution compares the texts. PostgreSQL names constants without a name anew."""
    views = owner.execute(
        "select format('%s.%s', schemaname, viewname) from pg_views where schemaname in ('app', 'api', 'public')"
    ).fetchall()
    text = "select pg_get_viewdef(%s::regclass)"
    changed = []
    for number, (name,) in enumerate(views):
        [definition] = owner.execute(text, [name]).fetchone() or [""]
        owner.execute(f"create temp view again_{number} as {definition}".encode())
        if owner.execute(text, [f"again_{number}"]).fetchone() != (definition,):
            changed.append(name)
    assert changed == []
