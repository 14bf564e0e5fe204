"""Writes docs/sql.md: what SQL users may select from and call, according to the catalog of a deployed database."""

from __future__ import annotations

from pyshell.postgres.connections import OwnerConnection
from pyshell.settings import ROOT

FILE = ROOT / "docs" / "sql.md"

INTRODUCTION = """\
# SQL reference

Written by `make docs` from the comments in the database; `\\df+ api.*` and `\\d+ api.*` in psql say the same.

Pass arguments by name, such as `api.list_batch_lookups(p_organization_id => '...', p_status => 'failed')`; those with a default may be
left out. Errors carry the SQLSTATE `PTnnn`, where nnn is the HTTP status that PostgREST makes of it, and a stable code, as the name of
the constraint and in the detail; [Error codes](errors.md) lists them all. The hint says what to do. In psql, `\\set SHOW_CONTEXT never`
leaves out PostgreSQL's trace through our functions, as `make psql` does, and `\\errverbose` shows it afterwards. If the organization is
deleted while a call for it runs, PostgreSQL's own 23503 may say so, with a constraint whose name ends in `_organization_id_fkey`.

The owner and `service_role` work for any organization. `authenticated` works for the organization that the claims of its
token name (`organization_id`, or Clerk's `o.id` or `org_id`), which is then also the default of `p_organization_id`; in psql,
`set request.jwt.claims = '{"organization_id": "..."}'` gives an owner the same default. `anon` may do nothing.

The indexes begin with the organization. So name it in every query where you know it: `where organization_id = '...' and job_id = '...'`
reads one batch, and `job_id` alone looks through the batches of all organizations.

## For dashboards

Grant `batch_lookups_readonly` to the login of a BI tool: it selects from the views, of all organizations, and can do nothing else.

```sql
create role dashboard login password '...' in role batch_lookups_readonly;
```

The programs that paid most last month:

```sql
select program_name, sum(total_incentive), count(*) as sites
  from api.report_programs
 where created_at >= date_trunc('month', now()) - interval '1 month' and created_at < date_trunc('month', now())
 group by program_name order by 2 desc limit 10;
```

PostgREST embeds related rows, such as `/reports?select=name,jobs(status),report_programs(program_name,total_incentive)`: `items` and
`jobs` by their foreign key, the others by the functions under *Relationships*.

## Notifications

`listen batch_lookups_changes;` notifies a session, at the commit, of each batch and report that was inserted, updated or deleted. The
payload is text, with spaces between its parts: `INSERT`, `UPDATE` or `DELETE`; the table (`batch_lookup_jobs` or `incentive_reports`);
the id of the organization; the id of the row. Parts may be added at the end. Read the row for its new values: notifications that come
while nobody listens are lost. Whoever can connect to the database can listen, and can send notifications: the API takes them as hints to
look, never as facts. Where others share the server: `revoke connect on database ... from public`.
"""

VIEWS = """
select c.relname, obj_description(c.oid, 'pg_class'), has_table_privilege('authenticated', c.oid, 'select'),
       string_agg(format(E'- `%s` %s: %s\n', a.attname, format_type(a.atttypid, a.atttypmod), col_description(c.oid, a.attnum)),
                  '' order by a.attnum)
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
 where c.relnamespace = 'api'::regnamespace and c.relkind = 'v'
 group by c.oid
 order by 3 desc, c.relname
"""

FUNCTIONS = """
select name, arguments, result, comment, audience
  from (select p.proname as name, pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result,
               obj_description(p.oid, 'pg_proc') as comment,
               case when p.proargtypes[0] in (select reltype from pg_class where relnamespace = 'api'::regnamespace) then 'Relationships'
                    when has_function_privilege('authenticated', p.oid, 'execute') then 'For one organization'
                    when pg_get_function_arguments(p.oid) ~ '\\mp_worker\\M' then 'For workers'
                    else 'For operators' end as audience
          from pg_proc p
         where p.pronamespace = 'api'::regnamespace) f
 order by array_position(array['For one organization', 'For operators', 'For workers', 'Relationships'], audience), name, arguments
"""


def reference(connection: OwnerConnection) -> str:
    """The whole page, for a database with this release deployed."""
    connection.execute("set search_path = pg_catalog")
    parts = [INTRODUCTION, "## Views\n"]
    for name, comment, for_members, columns in connection.execute(VIEWS).fetchall():
        parts.append(f"### api.{name}\n\n{comment}{'' if for_members else ' Not for `authenticated`.'}\n\n{columns}")
    heading = ""
    for name, arguments, result, comment, audience in connection.execute(FUNCTIONS.encode()).fetchall():
        if audience != heading:
            heading = audience
            parts.append(f"## {heading}\n")
        listed = "".join(f"\n    {argument}," for argument in arguments.split(", ")).rstrip(",") if arguments else ""
        call = f"api.{name}({listed}\n) returns {result}" if listed else f"api.{name}() returns {result}"
        parts.append(f"### api.{name}\n\n```sql\n{call}\n```\n\n{comment}\n")
    connection.execute("reset search_path")
    return "\n".join(parts)
