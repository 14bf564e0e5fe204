"""The command line: `python -m pyshell COMMAND`. Settings come from the environment, see `.env.example`."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pyshell.settings import MAX_PROCESSES, OPENAPI_FILE, Settings, SettingsError
from pyshell.words import counted

if TYPE_CHECKING:
    from pyshell.postgres.connections import OwnerConnection

# Each command imports its libraries when it runs, so that others start fast.


def up(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.local import stack

    stack.up(settings)


def down(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.local import stack

    print("stopped" if stack.down(settings) else "nothing was running")


def demo(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.local import demo

    demo.run(settings)


def serve(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.api import app

    app.serve(_with_database_url(replace(settings, api_processes=arguments.processes or settings.api_processes)))


def worker(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.worker import process

    process.run_worker(_with_database_url(settings))


def migrate(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.deploy import migrations
    from pyshell.local import stack

    with stack.database(settings, create=True) as (with_database, _):
        migrations.migrate(with_database.database_url, lookups_per_second=settings.lookups_per_second, report=print)


def distribute(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.deploy import migrations

    migrations.migrate(
        _with_database_url(settings).database_url, lookups_per_second=settings.lookups_per_second, distribute=True, report=print
    )


def drift(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.deploy import drift
    from pyshell.local.throw_away import throw_away_postgres

    with throw_away_postgres() as postgres:
        difference = drift.difference(postgres)
    if difference:
        print(difference)
        raise SystemExit("The migrations and sql/schema differ: `-` is only in sql/schema, `+` only in the result of the migrations.")
    print("no drift: the migrations and sql/schema make the same database")


def docs(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.deploy import error_reference, migrations, sql_reference
    from pyshell.local.throw_away import throw_away_postgres
    from pyshell.postgres.connections import connect_as_owner

    with throw_away_postgres() as postgres:
        migrations.migrate(postgres.url())
        with connect_as_owner(postgres.url()) as connection:
            sql_reference.FILE.write_text(sql_reference.reference(connection))
    error_reference.FILE.write_text(error_reference.page())
    OPENAPI_FILE.write_text(error_reference.description())
    print(f"wrote {sql_reference.FILE}, {error_reference.FILE} and the codes in {OPENAPI_FILE}")


def diagnose(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.deploy import doctor
    from pyshell.local import stack

    with stack.database(settings) as (with_database, _):
        status = doctor.run(with_database, as_json=arguments.json)
    raise SystemExit(status)


def supabase_sql(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.deploy import supabase_sql

    supabase_sql.FILE.parent.mkdir(exist_ok=True)
    supabase_sql.FILE.write_text(supabase_sql.installation(), encoding="utf-8")
    print(f"wrote {supabase_sql.FILE}")


def create_key(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.api import api_keys
    from pyshell.local import stack

    if bool(arguments.organization) == bool(arguments.organization_id) or (arguments.organization_id and arguments.clerk_organization):
        raise SystemExit("error: give --organization, with --clerk-organization if there is one, or --organization-id")
    with stack.database(settings) as (with_database, _):
        print(
            api_keys.create(
                with_database.database_url,
                arguments.organization or arguments.organization_id,
                clerk_organization_id=arguments.clerk_organization,
                pepper=settings.api_key_pepper,
                name=arguments.name,
                prefix=api_keys.TEST if arguments.test else api_keys.LIVE,
                scopes=arguments.scope,
                expires_at=arguments.expires,
            )
        )


@contextmanager
def owner_connection(settings: Settings) -> Iterator[OwnerConnection]:
    from pyshell.local import stack
    from pyshell.postgres.connections import connect_as_owner

    with stack.database(settings) as (with_database, _), connect_as_owner(with_database.database_url) as connection:
        yield connection


def import_catalogue(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.deploy import catalogue
    from pyshell.local import progress_bar
    from pyshell.postgres.sqlstates import DatabaseError

    is_starter = arguments.folder.resolve() == catalogue.STARTER
    if bool(arguments.name) == arguments.rewiring_america and not is_starter:
        raise SystemExit("error: give either --name, the name of this catalogue, or --rewiring-america")
    if arguments.name == "starter" and not is_starter:
        raise SystemExit(
            "error: the starter catalogue is sql/catalogue, which a release may change. Choose another --name for yours: it takes over the"
            " rows that it has, too"
        )
    differences: list[str] = []
    with owner_connection(settings) as connection:
        try:
            if arguments.rewiring_america and not arguments.dry_run:
                with progress_bar.shown() as show:
                    summary, skipped = catalogue.load_rewiring_america(connection, arguments.folder, show)
            else:
                rows, skipped = (
                    catalogue.read_rewiring_america(arguments.folder)
                    if arguments.rewiring_america
                    else (catalogue.read_folder(arguments.folder, arguments.name or "starter", arguments.allow_empty), Counter[str]())
                )
                if arguments.dry_run:
                    summary, found = catalogue.try_rows(connection, rows)
                    differences = catalogue.describe(found)
                else:
                    summary = catalogue.import_rows(connection, rows)
        except DatabaseError as error:
            raise SystemExit(f"error: {catalogue.explain(error)}") from error
    for line in differences:
        print(line)
    for file, counts in summary.items():
        print(f"{file}: {counted(counts['rows'], 'row')}, {counts['changed']:,} new or changed, {counts['retired']:,} retired")
    if total := sum(skipped.values()):
        print(f"{counted(total, 'incentive')} {'was' if total == 1 else 'were'} skipped:")
        for reason, count in sorted(skipped.items(), key=lambda entry: (-entry[1], entry[0])):
            print(f"{count:7,}  {reason}")
    if arguments.dry_run:
        print("A dry run: nothing was imported.")


def export_catalogue(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.deploy import catalogue

    with owner_connection(settings) as connection:
        for file, rows in catalogue.export(connection, arguments.folder, arguments.name).items():
            print(f"{arguments.folder / file}.csv: {counted(rows, 'row')}")


def list_catalogues(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.deploy import catalogue

    with owner_connection(settings) as connection:
        for found in catalogue.find_catalogues(connection):
            print(f"{found['catalogue']}:")
            for file, counts in found["files"].items():
                retired = f", {counts['retired']:,} retired" if counts["retired"] else ""
                print(f"  {file}: {counted(counts['rows'], 'row')}{retired}")


def check_catalogue(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.deploy import catalogue

    with owner_connection(settings) as connection:
        warnings = catalogue.find_warnings(connection, arguments.days, arguments.name)
    kinds = Counter(warning["warning"] for warning in warnings)
    for warning in warnings:
        if arguments.warning in (None, warning["warning"]):
            print(f"{warning['warning']}: {' '.join(filter(None, (warning['program_id'], warning['tier_id'])))}: {warning['explanation']}")
    for kind, count in sorted(kinds.items()):
        print(f"{count:7,}  {kind}")
    print(counted(len(warnings), "warning"))


def psql(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.local import stack
    from pyshell.local.installations import newest_installation
    from pyshell.local.stopping import until_stopped
    from pyshell.postgres.connections import password_apart

    with until_stopped(), stack.database(settings) as (with_database, postgres):
        address, password = password_apart(with_database.database_url)
        client = postgres.installation if postgres else newest_installation([])
        status = subprocess.call(
            # An error ends with its hint, not with PostgreSQL's trace through the functions; \errverbose shows that.
            [client.bin / "psql", "--set=SHOW_CONTEXT=never", address, *arguments.arguments],
            env=os.environ | ({"PGPASSWORD": password} if password else {}),
        )
    raise SystemExit(status)


def start_postgres(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.local.private_postgres import PrivatePostgres

    postgres = PrivatePostgres.of_project(settings.state_dir)
    postgres.keep_running()
    print(postgres.url())


def stop_postgres(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.local.private_postgres import PrivatePostgres

    print("stopped" if PrivatePostgres.of_project(settings.state_dir).stop() else "was not running")


def delete_postgres(settings: Settings, arguments: argparse.Namespace) -> None:
    from pyshell.local.private_postgres import PrivatePostgres

    postgres = PrivatePostgres.of_project(settings.state_dir)
    if not arguments.yes:
        raise SystemExit(f"This deletes all data in {postgres.folder}. Add --yes to confirm.")
    postgres.delete()
    print(f"deleted {postgres.folder}")


def time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Command:
    """A command: its name (one or two words), the function to run, and its options for argparse."""

    name: str
    run: Callable[[Settings, argparse.Namespace], None]
    help: str
    options: Sequence[tuple[str, dict[str, Any]]] = field(default=())


COMMANDS = [
    Command("up", up, "run everything in the foreground: PostgreSQL, migrations, the API, a worker"),
    Command("down", down, "stop what `up` runs"),
    Command("demo", demo, "run a batch of real sites from upload to report"),
    Command(
        "serve",
        serve,
        "run the API on DATABASE_URL",
        [
            (
                "--processes",
                {
                    "type": int,
                    "choices": range(1, MAX_PROCESSES + 1),
                    "metavar": "N",
                    "help": "how many processes serve the port, with limits that count together; default: API_PROCESSES, or 1",
                },
            )
        ],
    ),
    Command("worker", worker, "run a worker on DATABASE_URL"),
    Command("migrate", migrate, "bring the database up to date"),
    Command("distribute", distribute, "bring the database up to date and spread it over the nodes of a cluster of Citus"),
    Command(
        "doctor",
        diagnose,
        "show what is wrong with the deployment, and what to do; exits with 1 if there is a problem",
        [("--json", {"action": "store_true", "help": "write the findings as JSON"})],
    ),
    Command("drift", drift, "check that sql/schema and the migrations make the same database"),
    Command("supabase-sql", supabase_sql, "write dist/supabase.sql, which installs everything into a Supabase project"),
    Command("docs", docs, "generate docs/sql.md, docs/errors.md and the error codes in openapi.json"),
    Command(
        "keys create",
        create_key,
        "create an API key and print it; a new organization is created",
        [
            (
                "--organization",
                {"metavar": "NAME", "help": "name of the organization; for one of Clerk, use --organization-id"},
            ),
            ("--clerk-organization", {"metavar": "ID", "help": "the Clerk organization that the named one is for, such as org_2ab..."}),
            ("--organization-id", {"type": UUID, "metavar": "ID", "help": "the id of an existing one, instead of its name"}),
            ("--name", {"help": "name of the key, such as what it is for"}),
            ("--test", {"action": "store_true", "help": "a key that begins with leap_test_"}),
            ("--scope", {"action": "append", "help": "a permission, such as jobs:read; repeat it for several; default: all"}),
            ("--expires", {"type": time, "metavar": "TIME", "help": "when it expires, such as 2030-01-31 (in UTC); default: never"}),
        ],
    ),
    Command(
        "catalogue import",
        import_catalogue,
        "import a folder of CSV files, or with --rewiring-america a clone of that public repository",
        [
            ("folder", {"type": Path}),
            (
                "--name",
                {"help": "name of the catalogue, unless it is sql/catalogue; its rows that the files lack are retired"},
            ),
            ("--rewiring-america", {"action": "store_true", "help": "the folder is a clone of rewiringamerica/api.rewiringamerica.org"}),
            ("--dry-run", {"action": "store_true", "help": "show what would change, without changing it"}),
            ("--allow-empty", {"action": "store_true", "help": "a file without rows retires all rows that the catalogue has of it"}),
        ],
    ),
    Command(
        "catalogue export",
        export_catalogue,
        "write a catalogue to a folder of CSV files, to edit them or to undo a later import",
        [("folder", {"type": Path}), ("--name", {"required": True, "help": "name of the catalogue; `catalogue list` lists them"})],
    ),
    Command("catalogue list", list_catalogues, "list the catalogues that were imported, and how many rows they have"),
    Command(
        "catalogue check",
        check_catalogue,
        "list programs that have ended or soon will, and offers that look wrong",
        [
            (
                "--days",
                {"type": int, "default": 60, "metavar": "N", "help": "also offers that end within N days; default: 60, 0: none"},
            ),
            ("--name", {"help": "only what this catalogue has"}),
            ("--warning", {"help": 'list only warnings of this kind, such as "ends soon"; all are counted'}),
        ],
    ),
    Command("psql", psql, "open psql on the database", [("arguments", {"nargs": "*", "help": "arguments for psql, after --"})]),
    Command("postgres start", start_postgres, "start the private PostgreSQL and print its URL; it runs until it is stopped"),
    Command("postgres stop", stop_postgres, "stop the private PostgreSQL"),
    Command("postgres delete", delete_postgres, "delete the private PostgreSQL with all its data", [("--yes", {"action": "store_true"})]),
]


# A description of the first word of two-word commands, with an example.
GROUPS = {
    "keys": ("create API keys, including the first one of an organization", "keys create --organization Acme --scope jobs:read"),
    "catalogue": ("import and export the programs that lookups find, and check them", "catalogue import FOLDER --name ours --dry-run"),
    "postgres": ("start, stop or delete the private PostgreSQL", "postgres start"),
}


def main(words: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(words)
    try:
        arguments.run(_with_readable_urls(Settings.from_environment()), arguments)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(141) from None
    except (RuntimeError, SettingsError, OSError) as error:
        raise _failed(str(error)) from error
    except Exception as error:
        from pyshell.postgres.sqlstates import DatabaseError, explain

        if not isinstance(error, DatabaseError):
            raise
        raise _failed(explain(error)) from error


def _failed(reason: str) -> SystemExit:
    """Ends the process with the reason on standard error: as a line of its log where that is JSON."""
    from pyshell import logs

    if not logs.is_json():
        return SystemExit(f"error: {reason}")
    logging.getLogger(__package__).critical(reason)
    return SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pyshell", description=__doc__)
    groups: dict[str, Any] = {"": parser.add_subparsers(required=True, metavar="COMMAND")}
    for command in COMMANDS:
        group, _, word = command.name.rpartition(" ")
        if group not in groups:
            about, example = GROUPS[group]
            group_parser = groups[""].add_parser(group, help=about, description=about, epilog=f"such as: python -m pyshell {example}")
            groups[group] = group_parser.add_subparsers(required=True, metavar="COMMAND")
        command_parser = groups[group].add_parser(word, help=command.help, description=command.help)
        command_parser.set_defaults(run=command.run)
        for name, options in command.options:
            command_parser.add_argument(name, **options)
    return parser


def _with_readable_urls(settings: Settings) -> Settings:
    for name, url in (("DATABASE_URL", settings.database_url), ("DATABASE_REPLICA_URL", settings.database_replica_url)):
        if not url:
            continue
        from pyshell.postgres.connections import is_readable, refused_option

        if not is_readable(url):
            raise SettingsError(
                f"{name} is not a URL that PostgreSQL's libraries can read. In its password, write % as %25, / as %2F and @ as %40;"
                " the port is a number, and after a ? come parameters of libpq, such as sslmode=verify-full."
            )
        if refused := refused_option(url):
            raise SettingsError(f"{name}: {refused}")
    return settings


def _with_database_url(settings: Settings) -> Settings:
    if not settings.database_url:
        raise SettingsError("DATABASE_URL is not set. `make up` runs everything with a PostgreSQL of its own.")
    return settings


if __name__ == "__main__":
    main()
