"""`python -m bench.scale`: what each call costs with five million finished items, with only the same open work, and with neither."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from bench.history import RECORD, SHORT_ANSWER, add_history, add_open, claim, look_up, make_pattern, outcomes
from bench.nginx import RESULT
from bench.system import Connection, batch, empty_databases
from pyshell.deploy import migrations
from pyshell.local.private_postgres import PrivatePostgres

Cost = tuple[float, int]
Costs = dict[str, Cost]
NAMED = '{"name": "Rebates of district 1000, November 28"}'
# The calls in this order: first those that only read, then those that write.
CALLS = {
    "status of a new batch": "select api.get_batch_lookup(%(organization)s, %(open_job)s)",
    "status of an old batch": "select api.get_batch_lookup(%(organization)s, %(job)s)",
    "list": "select api.list_batch_lookups(%(organization)s)",
    "list, next page": "select api.list_batch_lookups(%(organization)s, p_cursor => %(jobs_cursor)s)",
    "list by status": "select api.list_batch_lookups(%(organization)s, 'processing')",
    "list by label": """select api.list_batch_lookups(%(organization)s, p_labels => '{"team": "pattern"}')""",
    "list by a name that none has": "select api.list_batch_lookups(%(organization)s, p_name => 'zz')",
    "list by a name that few have": "select api.list_batch_lookups(%(organization)s, p_name => 'district 77, ')",
    "list by a name that all have": "select api.list_batch_lookups(%(organization)s, p_name => 'rebates')",
    "list of a day": "select api.list_batch_lookups(%(organization)s, p_created_from => now() - interval '1 day')",
    "items, first page": "select api.list_batch_lookup_items(%(organization)s, %(job)s)",
    "items, last page": "select api.list_batch_lookup_items(%(organization)s, %(job)s, p_offset => 9950)",
    "reports": "select api.list_incentive_reports(%(organization)s)",
    "reports with errors only": "select api.list_incentive_reports(%(organization)s, 'error')",
    "report, first page": "select api.get_incentive_report(%(organization)s, %(report)s)",
    "report, last page": "select api.get_incentive_report(%(organization)s, %(report)s, p_offset => 9900)",
    "summary of a report": "select api.get_incentive_report_summary(%(organization)s, %(report)s)",
    "CSV of a report": "select api.get_incentive_report_csv(%(organization)s, %(report)s)",
    "usage": "select api.get_usage(%(organization)s)",
    "audit": "select api.list_audit_events(%(organization)s)",
    "ready list": "select api.ready_organizations(100)",
    "/metrics": "select api.get_metrics()",
    "/operations": "select api.get_operations()",
    "maintenance, each minute": "select api.run_maintenance()",
    "check of what changed": "select app.count_violations(checked_at + interval '11 minutes') from app.maintenance_state",
    "retention, nothing to delete": "select api.prune_expired()",
    "create 1": f"select api.create_batch_lookup(%(organization)s, %(site)s, false, '{NAMED}')",
}
REPEATS = 11
STATES = ("never analyzed", "vacuumed and analyzed")


class Meter:
    """What the statements of one connection cost: milliseconds of its backend's CPU time, and pages read from disk or found in memory."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._seen: dict[str, tuple[list[float], list[int]]] = defaultdict(lambda: ([], []))

    def time(self, name: str, query: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        before = self._cpu()
        rows = self._connection.execute(query.encode(), parameters).fetchall()
        self._seen[name][0].append(self._cpu() - before)
        return rows

    def count(self, name: str, query: str, parameters: dict[str, Any]) -> None:
        row = self._connection.execute(f"explain (analyze, buffers, timing off, format json) {query}".encode(), parameters).fetchone()
        assert row is not None
        plan = row[0][0]["Plan"]
        self._seen[name][1].append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    def total(self, name: str) -> float:
        return sum(self._seen[name][0])

    def costs(self) -> Costs:
        return {name: (statistics.median(times), round(statistics.median(pages))) for name, (times, pages) in self._seen.items()}

    def _cpu(self) -> float:
        return int(Path(f"/proc/{self._connection.info.backend_pid}/schedstat").read_text().split()[0]) / 1e6


class Subject:
    """An organization with a finished batch of 10,000, and what its calls cost."""

    def __init__(self, url: str, organization: object, job: object) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.meter = Meter(self.connection)
        self.parameters: dict[str, Any] = {"organization": organization, "job": job}
        self.parameters |= {"body": batch(10_000, 1).decode(), "site": batch(1, 1).decode()}

    def create(self) -> None:
        query = f"select api.create_batch_lookup(%(organization)s, %(body)s, false, '{NAMED}')"
        [(created,)] = self.meter.time("create 10,000", query, self.parameters)
        self.meter.count("create 10,000", query, self.parameters)
        self.parameters["open_job"] = created["job_id"]

    def claim_and_record(self) -> None:
        organization = self.parameters["organization"]
        query = "select job_id, position, lease_token from api.claim_lookups(%(organization)s, 'bench', 500)"
        claimed = self.meter.time("claim 500", query, self.parameters)
        self.meter.time("record 500", RECORD, outcomes(organization, claimed))
        self.meter.count("record 500", RECORD, outcomes(organization, claim(self.connection, organization, 500)))
        self.meter.count("claim 500", query, self.parameters)

    def find_pages(self) -> None:
        row = self.connection.execute(
            """select report_id, api.list_batch_lookups(organization_id, p_limit => 1) ->> 'next_cursor'
                 from public.batch_lookup_jobs where organization_id = %(organization)s and id = %(job)s""",
            self.parameters,
        ).fetchone()
        assert row is not None
        self.parameters["report"], self.parameters["jobs_cursor"] = row

    def call(self, name: str) -> None:
        self.meter.time(name, CALLS[name], self.parameters)
        self.meter.count(name, CALLS[name], self.parameters)

    def finish(self) -> None:
        organization = self.parameters["organization"]
        while look_up(self.connection, organization, 500):
            pass
        self.connection.execute("select app.expire_leases(%s, now() + interval '1 hour')", [organization])
        while look_up(self.connection, organization, 500):
            pass
        self.connection.close()


def measure(targets: dict[str, tuple[str, str, str]]) -> dict[str, Costs]:
    """The databases take turns call by call, so that other work on the machine disturbs all alike."""
    subjects = {name: Subject(*target) for name, target in targets.items()}
    steps: list[tuple[int, Callable[[Subject], None]]] = [
        (3, Subject.create),
        (8, Subject.claim_and_record),
        (1, Subject.find_pages),
        *((REPEATS, partial(Subject.call, name=name)) for name in CALLS),
        (1, Subject.finish),
    ]
    for repeats, step in steps:
        for _ in range(repeats):
            for subject in subjects.values():
                step(subject)
    return {name: subject.meter.costs() for name, subject in subjects.items()}


def bytes_of_an_item(connection: Connection) -> dict[str, float]:
    """Bytes of each table per item, including indexes and TOAST."""
    rows = connection.execute(
        """select format('%I.%I', n.nspname, c.relname),
                  pg_total_relation_size(c.oid)::float8 / (select count(*) from public.lookup_queue_items)
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname in ('app', 'public') and c.relkind = 'r'"""
    ).fetchall()
    return {name: round(size, 1) for name, size in rows if size >= 1}


@contextmanager
def server(folder: Path, keep: bool = False) -> Iterator[PrivatePostgres]:
    """A PostgreSQL that vacuums, analyzes and deletes nothing by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    postgres = PrivatePostgres(folder / "postgres", extensions=())
    postgres.start()
    try:
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute("alter system set autovacuum = off")
            connection.execute("alter system set max_wal_size = '8GB'")
            connection.execute("select pg_reload_conf()")
        yield postgres
    finally:
        if keep:
            postgres.stop()
        else:
            postgres.delete()


def fill(
    url: str, items: int, open_items: int, jobs: int, organizations: int, answer: dict[str, Any], say: Callable[[str], None]
) -> tuple[str, str, str]:
    """Fills a database without waiting for the disk at each commit. Returns it, its largest organization and its batch of 10,000."""
    migrations.migrate(url, lookups_per_second=float("inf"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        organization, job = make_pattern(connection, answer)
        if not items:
            connection.execute("select api.create_organization('Organization ' || n) from generate_series(2, %s) n", [organizations])
        else:
            # Each copy refers to the copies of its job and report, so foreign keys need not be checked row by row.
            connection.execute("set session_replication_role = replica")
            connection.execute("set work_mem = '256MB'")
            add_history(connection, organization, job, items, jobs, organizations, say)
            connection.execute("reset session_replication_role")
        if open_items:
            add_open(connection, open_items)
        connection.execute("checkpoint")
        return url, str(organization), str(job)


def count(url: str) -> None:
    """Counts every organization, as maintenance does within some minutes."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("update app.maintenance_state set counts_from = '-infinity'")
        connection.execute(
            "insert into app.ended_changes (organization_id, id, change) select id, gen_random_uuid(), 0 from app.organizations"
        )
        while connection.execute("select 1 from app.ended_changes limit 1").fetchone():
            connection.execute("select app.add_up_counts(app.clock())")


def violations(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("select count(*) from api.check_invariants()").fetchone()
        assert row is not None
        return int(row[0])


def table(costs: dict[str, Costs]) -> str:
    """What each call costs in each database, and the ratio of the first one to each of the others."""
    first, *others = costs
    lines = [
        f"{'':<34}{'CPU time [ms]':>{12 * len(costs)}}{'ratio to':>{10 * len(others)}}{'pages':>{11 * len(costs)}}",
        f"{'':<34}{''.join(f'{name:>12}' for name in costs)}{''.join(f'{name:>10}' for name in others)}"
        f"{''.join(f'{name:>11}' for name in costs)}",
    ]
    for name, (milliseconds, _) in costs[first].items():
        lines.append(
            f"{name:<34}{''.join(f'{costs[of][name][0]:>12.2f}' for of in costs)}"
            f"{''.join(f'{milliseconds / costs[of][name][0]:>10.2f}' for of in others)}"
            f"{''.join(f'{costs[of][name][1]:>11,}' for of in costs)}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--items", type=int, default=5_000_000, help="finished items; a million takes 2.6 GB")
    parser.add_argument("--open-items", type=int, default=200_000, help="open items, in batches of 1,000")
    parser.add_argument("--jobs", type=int, default=20_000, help="finished jobs of the largest organization")
    parser.add_argument("--organizations", type=int, default=1000)
    parser.add_argument("--short-answers", action="store_true", help="responses of 0.2 KB instead of 1 KB; a million items take 1.3 GB")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "batch-lookups-scale", help="for the server's data, deleted in the end"
    )
    parser.add_argument("--json", type=Path, help="the file to write the figures to")
    parser.add_argument("--keep", action="store_true", help="keep the data in the folder, for another run")
    parser.add_argument("--states", nargs="*", default=STATES, choices=STATES)
    parser.add_argument("--no-invariants", action="store_true", help="skip the check of every item")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with server(arguments.folder, arguments.keep) as postgres:
        filled = arguments.folder / "filled.json"
        if not filled.exists():
            # None of them is the database in which pg_cron runs maintenance.
            new_database = empty_databases(postgres.url())
            started = time.monotonic()
            answer = SHORT_ANSWER if arguments.short_answers else RESULT
            targets = {
                "full": fill(new_database(), arguments.items, arguments.open_items, arguments.jobs, arguments.organizations, answer, say),
                "open only": fill(new_database(), 0, arguments.open_items, 0, arguments.organizations, answer, say),
                "empty": fill(new_database(), 0, 0, 0, 1, answer, say),
            }
            say(f"filled in {time.monotonic() - started:,.0f} s")
            filled.write_text(json.dumps(targets))
        targets = json.loads(filled.read_text())
        for url, *_ in targets.values():
            migrations.migrate(url)
            count(url)
        for state in arguments.states:
            if state != STATES[0]:
                for url, *_ in targets.values():
                    with psycopg.connect(url, autocommit=True) as connection:
                        connection.execute("vacuum analyze")
            figures[state] = measure(targets)
            say(f"\n{state}\n{table(figures[state])}")
        with psycopg.connect(targets["full"][0], autocommit=True) as connection:
            figures["bytes of an item"] = bytes_of_an_item(connection)
        say("\nbytes of an item\n" + "\n".join(f"{name:<50}{size:>10,.1f}" for name, size in figures["bytes of an item"].items()))
        if not arguments.no_invariants:
            figures["violations"] = violations(targets["full"][0])
            say(f"\nviolated invariants: {figures['violations']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
