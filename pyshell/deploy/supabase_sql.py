"""Writes one SQL file that does what `migrate` does, for databases that only accept SQL, such as those of Supabase projects.

The file runs in one transaction, in psql or in the SQL editor of Supabase, and can be repeated. `migrate` can take over at any time.
"""

from __future__ import annotations

import json
from pathlib import Path

from pyshell.deploy.catalogue import catalogue_checksum, csv_files, read_rows
from pyshell.deploy.files import checksum, sql_files
from pyshell.deploy.migrations import BOOKKEEPING, FORGET_FUNCTIONS, FORMER_CHECKSUMS, TAKE_TURN, Sources, check_names, name_what_is_ours
from pyshell.settings import ROOT

FILE = ROOT / "dist" / "supabase.sql"

HEADER = """\
-- Batch Lookups for a Supabase project: run this whole file, in the SQL editor or with psql, to install or to bring up to date.
-- Then docs/supabase.md. Made by `make supabase-sql`.
begin;
set local client_min_messages = warning;
-- Readers wait behind a deploy that waits: should it give up, run the file again.
set local lock_timeout = '2s';
"""

CHECK_MIGRATIONS = """
do $deploy$
declare
    v_names constant text := (select string_agg(name, ', ' order by name) from app.schema_migrations where name <> all ('{names}'));
begin
    if v_names is not null then
        raise 'The database has migrations that this file lacks: %', v_names
            using hint = 'A newer release made it: run the file of that one, or of a later one. Nothing was changed.';
    end if;
end;
$deploy$;
"""

MIGRATION = """
do $deploy$
declare
    v_checksum text := (select checksum from app.schema_migrations where name = '{name}');
begin
    if v_checksum is null then
        execute {forget};
        execute {text};
        insert into app.schema_migrations (name, checksum) values ('{name}', '{checksum}');
    elsif v_checksum not in ('{checksum}', '{former}') then
        raise 'The database has another version of the migration {name}';
    end if;
end;
$deploy$;
"""

CATALOGUE = """
select api.import_catalogue({catalogue}::jsonb)
 where not exists (select from app.deployed_parts where name = 'catalogue' and checksum = '{checksum}');
insert into app.deployed_parts (name, checksum) values ('catalogue', '{checksum}')
    on conflict (name) do update set checksum = excluded.checksum, deployed_at = excluded.deployed_at;
"""


def installation(sources: Sources | None = None) -> str:
    """The whole file."""
    sources = sources or Sources()
    names = ",".join(file.name for file in sql_files(sources.migrations))
    parts = [HEADER, check_names(sources), BOOKKEEPING, TAKE_TURN]
    parts += [CHECK_MIGRATIONS.format(names=f"{{{names}}}"), name_what_is_ours(sources)]
    parts += [
        MIGRATION.format(
            name=file.name,
            checksum=checksum([file]),
            former=FORMER_CHECKSUMS.get(file.name, ""),
            text=_quoted(_read(file)),
            forget=_quoted(FORGET_FUNCTIONS),
        )
        for file in sql_files(sources.migrations)
    ]
    parts += [f"\n-- {file.relative_to(sources.functions.parent)}\n{_read(file)}" for file in sql_files(sources.functions)]
    catalogue = {path.stem: read_rows(path) for path in csv_files(sources.catalogue)} | {"catalogue": "starter"}
    parts.append(CATALOGUE.format(catalogue=_quoted(json.dumps(catalogue)), checksum=catalogue_checksum(sources.catalogue)))
    return "".join(parts) + "commit;\n"


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _quoted(text: str) -> str:
    tag = next(tag for tag in ("$text$", "$whole$", "$verbatim$") if tag not in text)
    return f"{tag}{text}{tag}"
