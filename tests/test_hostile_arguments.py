"""No function of `api` fails unexpectedly on any argument: it returns a result or one of our errors, which its comment names."""

from __future__ import annotations

import json
import re
from itertools import product

import psycopg

from tests.conftest import Connection, is_cluster
from tests.http_fixtures import site

FUNCTIONS = """
select p.oid::regprocedure::text, p.proname,
       array(select format_type(t, null) from unnest(p.proargtypes) with ordinality a (t, n) order by n),
       p.proargnames[:p.pronargs]
  from pg_proc p
 where p.pronamespace = 'api'::regnamespace
 order by 1
"""
# Called only by workers, the sender and the API server, never with arguments of a caller.
INTERNAL = {
    "authenticate_clerk_member",
    "heartbeat",
    "log_refused_lookup",
    "ready_organizations",
    "ready_webhooks",
    "realtime_record",
    "record_lookups",
    "record_webhooks",
}
HOSTILE = ("null", "''", "'x'", "'{}'", "'[]'", "'null'", "'{\"items\": null}'", "'[null]'", "'\"x\"'", "-1", "2147483647")
# The id of nothing; workers claim only for organizations that exist.
NOBODYS = "'00000000-0000-4000-8000-000000000009'"


def usual(name: str, data_type: str, organization_id: str) -> str:
    """A literal that the function can work with."""
    if name == "p_organization_id":
        return f"'{organization_id}'"
    return {
        "uuid": "'00000000-0000-4000-8000-000000000000'",
        "jsonb": "'" + json.dumps([site()]) + "'" if name == "p_request" else "'{}'",
        "text": {"p_prefix": "'leap_live_'", "p_last_four": "'abcd'"}.get(name, "'text'"),
        "bytea": "sha256('')",
        "interval": "'0 seconds'",
        "timestamp with time zone": "'2999-01-01'",
        "regclass": "'api.sites'",
        "inet": "'127.0.0.1'",
        "boolean": "false",
        "integer": "1",
        "bigint": "1",
        "double precision": "1",
    }.get(data_type, "null")


def is_for_one_postgresql(name: str, types: list[str]) -> bool:
    """What ties the views to one another for PostgREST, and what records for several organizations at once."""
    return name == "record_for_organizations" or types[:1] in (["api.jobs"], ["api.reports"], ["api.report_sites"], ["api.report_programs"])


def test_null_and_nonsense_are_refused_with_our_own_messages(shared_owner: Connection) -> None:
    [organization_id] = shared_owner.execute("select api.create_organization('Hostile')").fetchone() or [None]
    shared_owner.execute("set statement_timeout = '5s'")
    comments: dict[str, str] = dict(
        shared_owner.execute(
            "select proname, coalesce(obj_description(oid), '') from pg_proc where pronamespace = 'api'::regnamespace"
        ).fetchall()
    )
    stumbles = []
    unsaid = set()
    on_cluster = is_cluster(shared_owner)
    functions = shared_owner.execute(FUNCTIONS).fetchall()
    assert {name for _, name, _, _ in functions} >= INTERNAL
    for signature, name, types, names in functions:
        if name in INTERNAL or (on_cluster and is_for_one_postgresql(name, types)):
            continue
        for position, value in product(range(len(types)), HOSTILE if name.startswith("claim_") else (*HOSTILE, NOBODYS)):
            arguments = [usual(names[n], types[n], str(organization_id)) for n in range(len(types))]
            try:
                shared_owner.execute(f"select {value}::{types[position]}".encode())
            except psycopg.Error:
                continue  # PostgreSQL itself refuses it, before the function is called
            arguments[position] = value
            typed = ", ".join(f"{argument}::{data_type}" for argument, data_type in zip(arguments, types, strict=True))
            try:
                with shared_owner.transaction(force_rollback=True):
                    shared_owner.execute(f"select * from api.{name}({typed})".encode())
            except psycopg.Error as error:
                if (error.sqlstate or "").startswith("PT"):
                    if error.diag.constraint_name != "organization_missing" and (error.sqlstate or "")[2:] not in errors_in(name, comments):
                        unsaid.add(f"{name}: {error.sqlstate} {error.diag.constraint_name}")
                else:
                    stumbles.append(f"{signature}: {names[position]} => {value}: {error.sqlstate} {str(error).splitlines()[0]}")
    assert not stumbles, "\n".join(stumbles)
    assert not unsaid, "\n".join(sorted(unsaid))


def errors_in(name: str, comments: dict[str, str]) -> set[str]:
    """The statuses of errors in the comment of a function, and in those of the functions whose errors it says it has."""
    said = comments[name]
    phrases = re.findall(r"^api\.\w+ for HTTP|errors are those of (?:(?:, | and )?api\.\w+)+", said)
    others = re.findall(r"api\.(\w+)", " ".join(phrases))
    return set(re.findall(r"\b[45]\d\d\b", said)).union(*(errors_in(other, comments) for other in others))
