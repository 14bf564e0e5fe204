"""Users with only psql: the reference is current, and the five lines of the README run a batch of a CSV file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from pyshell.deploy.sql_reference import FILE, reference
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.settings import ROOT
from tests.conftest import Connection
from tests.http_fixtures import look_up, site
from tests.test_plans import Plans, nodes


def test_the_reference_is_current(shared_owner: Connection) -> None:
    assert FILE.read_text() == reference(shared_owner), "docs/sql.md is out of date: `make docs` writes it anew"


def test_the_five_lines_of_the_readme_run_a_batch_of_a_file(cluster: PrivatePostgres, database_url: str, owner: Connection) -> None:
    [lines] = re.findall(r"```sql\n(select api\.create_organization.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(lines.strip().splitlines()) == 5
    owner.execute("""select api.update_settings('{"lookups_per_second": null}')""")
    done = threading.Event()
    worker = threading.Thread(target=play_the_worker, args=(database_url, done))
    worker.start()
    try:
        answer = run_psql(cluster, database_url, lines)
    finally:
        done.set()
        worker.join()
    job = json.loads(answer)
    sites = len((ROOT / "examples" / "sites.csv").read_text().splitlines()) - 1
    assert (job["status"], job["processed_items"]) == ("completed", sites)


@pytest.mark.parametrize(
    ("page", "statement", "index"),
    [
        ("README.md", "select reference_id, utility", "lookup_queue_items_pkey"),
        ("docs/operations/runbook.md", "with refused", "lookup_queue_items_failed_idx"),
    ],
)
def test_statements_of_the_pages_read_items_by_an_index(page: str, statement: str, index: str, owner: Connection) -> None:
    [query] = re.findall(rf"```sql\n({re.escape(statement)}.*?);\n```", (ROOT / page).read_text(), re.DOTALL)
    query = re.sub(r":'\w+'", "'00000000-0000-4000-8000-000000000000'", query)
    with owner.transaction():
        owner.execute("set local enable_seqscan = off; set local enable_bitmapscan = off")
        [(plan,)] = owner.execute(f"explain (format json) {query}".encode()).fetchall()
    [scan] = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == "lookup_queue_items"]
    assert scan["Index Name"] == index
    assert "job_id" not in scan["Index Cond"] or "organization_id" in scan["Index Cond"], "it goes through the items of all organizations"


def test_the_statement_of_the_runbook_retries_each_batch_once(owner: Connection) -> None:
    """A batch that its organization is retrying itself is passed over: retrying it again is refused, and would undo the others."""
    [query] = re.findall(r"```sql\n(with refused.*?);\n```", (ROOT / "docs/operations/runbook.md").read_text(), re.DOTALL)
    [organization] = owner.execute("select api.create_organization('Retries')").fetchone() or [None]
    jobs = []
    for name in ("retried", "second", "third"):
        items = json.dumps({"items": [site(f"{name}-site")]})
        [job] = owner.execute("select api.create_batch_lookup(%s, %s)", [organization, items]).fetchone() or ()
        look_up(owner, job, 1, status=401)
        jobs.append(job["job_id"])
    owner.execute("select api.retry_batch_lookup(%s, %s)", [organization, jobs[0]])
    assert len(owner.execute(query.encode()).fetchall()) == 2
    assert owner.execute(query.encode()).fetchall() == []
    retried = owner.execute("select retry_of_job_id::text from public.batch_lookup_jobs where retry_of_job_id is not null").fetchall()
    assert sorted(retried) == sorted((job,) for job in jobs)


def test_the_statements_of_the_runbook_end_the_batches_of_an_organization(owner: Connection) -> None:
    [statements] = re.findall(
        r"```sql\n(select api\.set_monthly_lookups.*?)```", (ROOT / "docs/operations/runbook.md").read_text(), re.DOTALL
    )
    organizations = []
    for name in ("sends too much", "another"):
        [organization] = owner.execute("select api.create_organization(%s)", [name]).fetchone() or ()
        for number in range(2):
            items = json.dumps({"items": [site(f"site-{number}")]})
            owner.execute("select api.create_batch_lookup(%s, %s)", [organization, items])
        organizations.append(organization)
    owner.execute(statements.replace("ORGANIZATION", f"'{organizations[0]}'").encode())
    ended = owner.execute("select organization_id, count(*) from api.jobs where completed_at is not null group by 1").fetchall()
    assert ended == [(organizations[0], 2)]


def test_the_query_of_the_rotation_lists_the_keys_that_would_stop_working(owner: Connection) -> None:
    page = (ROOT / "docs/operations/security.md").read_text()
    [query] = re.findall(r"```sql\n(select k\.organization_id.*?);\n```", page, re.DOTALL)
    [organization] = owner.execute("select api.create_organization('Rotates')").fetchone() or ()
    for name in ("used", "idle", "revoked", "expired"):
        owner.execute(
            "select api.create_api_key(%s, sha256(%s), 'leap_live_', right(%s, 4), p_name => %s,"
            " p_expires_at => case when %s = 'expired' then now() + interval '1 second' end)",
            [organization, name.encode(), name, name, name],
        )
        if name != "idle":
            owner.execute("select api.authenticate_api_key(sha256(%s))", [name.encode()])
    owner.execute("update app.api_keys set revoked_at = now() where name = 'revoked'")
    owner.execute(
        "update app.api_keys set expires_at = now() - interval '1 day', created_at = now() - interval '2 days' where name = 'expired'"
    )
    for end, listed in (("-infinity", ["idle"]), ("infinity", ["idle", "used"])):
        rows = owner.execute(query.replace("END OF STEP 2", end).encode()).fetchall()
        assert sorted(row[1] for row in rows) == listed


def test_waiting_without_an_organization_looks_for_it_once(owner: Connection) -> None:
    [organization] = owner.execute("select api.create_organization('Waits')").fetchone() or [None]
    items = json.dumps([site("waits")])
    [job] = owner.execute("select api.create_batch_lookup(%s, %s) ->> 'job_id'", (organization, items)).fetchone() or [None]
    plans = Plans(owner)
    owner.execute("set enable_seqscan = off; set enable_bitmapscan = off")
    _, seen = plans.run("select api.wait_for_batch(%(job)s, '0.2 seconds')", {"job": job})
    conditions = [node["Index Cond"] for plan in seen for node in nodes(plan["Plan"]) if node.get("Relation Name") == "batch_lookup_jobs"]
    assert len(conditions) > 3
    assert ["organization_id" in condition for condition in conditions] == [False] + [True] * (len(conditions) - 1)


def test_an_error_in_psql_ends_with_its_hint(database_url: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "pyshell", "psql", "--", "--no-psqlrc", "--command", "select api.get_batch_lookup()"],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.stderr.splitlines() == [
        "ERROR:  No organization is given",
        'DETAIL:  {"code" : "organization_missing"}',
        "HINT:  Pass p_organization_id, or a token with the claim organization_id.",
    ]


def test_a_callers_own_types_run_no_code_as_the_owner(database_url: str) -> None:
    """A type of pg_temp, with code in its constraint, under the name of one that the functions use."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("""
            set role authenticated;
            select set_config('request.jwt.claims', '{"organization_id": "00000000-0000-4000-8000-000000000000"}', false);
            create function pg_temp.note() returns bool language sql as $$ select set_config('test.ran_as', current_user, false) <> '' $$;
            create domain pg_temp.timestamptz as pg_catalog.timestamptz check (pg_temp.note());
            create domain pg_temp.text as pg_catalog.text check (pg_temp.note());
            create domain pg_temp.jsonb as pg_catalog.jsonb check (pg_temp.note());
        """)
        connection.execute("select api.list_batch_lookups()")
        connection.execute("select api.list_applications()")
        with pytest.raises(psycopg.Error, match="Organization not found"):
            connection.execute("select api.create_batch_lookup('00000000-0000-4000-8000-000000000000', '[{}]')")
        assert connection.execute("select current_setting('test.ran_as', true)").fetchone() == (None,)


def run_psql(cluster: PrivatePostgres, database_url: str, text: str) -> str:
    psql: Path = cluster.installation.bin / "psql"
    process = subprocess.run(
        [psql, database_url, "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"],
        input=text,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def play_the_worker(database_url: str, done: threading.Event) -> None:
    """Looks up items with our own provider, entirely in SQL."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        while not done.wait(0.05):
            for (organization_id,) in connection.execute("select unnest(organization_ids) from api.heartbeat('test')").fetchall():
                for job_id, position, token, request in connection.execute(
                    "select job_id, position, lease_token, request from api.claim_lookups(%s, 'test', 100)", [organization_id]
                ).fetchall():
                    try:
                        answer = connection.execute("select api.lookup_incentives(%s, %s)::text", [organization_id, request]).fetchone()
                        outcome = (200, None, answer[0] if answer else None)
                    except psycopg.Error as error:
                        outcome = (int((error.sqlstate or "PT500")[2:]), None, "{}")
                    connection.execute(
                        "select api.record_lookups(%s, array[%s]::uuid[], array[%s]::int[], array[%s]::uuid[], array[%s]::int[],"
                        " array[%s]::text[], array[%s]::text[], array[null]::double precision[])",
                        [organization_id, job_id, position, token, *outcome],
                    )
