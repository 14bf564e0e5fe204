"""The database tests of sql/tests, one chapter a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pyshell.deploy.files import sql_files
from pyshell.deploy.migrations import migrate
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.settings import ROOT
from tests import pgtap
from tests.citus_fixtures import Cluster


@pytest.fixture(scope="module")
def pgtap_database_url(new_database: Callable[..., str]) -> str:
    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create schema tap; create extension pgtap schema tap")
    return url


@pytest.mark.parametrize("file", sql_files(ROOT / "sql" / "tests"), ids=lambda file: file.stem)
def test_chapter(file: Path, cluster: PrivatePostgres, pgtap_database_url: str) -> None:
    problems = pgtap.run_file(cluster.installation.bin / "psql", pgtap_database_url, file)
    assert not problems, "\n".join([file.name, *problems])


@pytest.fixture(scope="module")
def citus_pgtap_url(citus: Cluster) -> str:
    if citus.has_other_nodes:
        pytest.skip("pgTAP is at one node, and a cluster of several runs assertions about tables at the others")
    url = citus.new_database()
    migrate(url, distribute=True)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create schema tap; create extension pgtap schema tap")
    return url


# Temporary functions of a chapter are no business of other nodes, and one node has all rows, however its tables are joined.
CITUS_OPTIONS = ["citus.enable_ddl_propagation=off", "citus.allow_nested_distributed_execution=on", "citus.enable_repartition_joins=on"]

# What Citus refuses of the chapters themselves. None of it is in a function that is tested.
NOT_ON_CITUS = {
    "a helper in SQL that reads a distributed table": [
        "22_audit",
        "44_progress",
        "49_repairs",
        "49_upload_rows",
        "55_outcomes",
        "56_duplicates",
        "57_work_history",
        "58_attempts",
        "59_spending",
        "61_report_sites",
        "68_counts",
        "81_webhook_outbox",
    ],
    "an update that calls a function for the time": ["84_webhook_history", "90_maintenance", "92_invariants"],
    "a cartesian product": ["83_webhook_attempts"],
    "a function that takes rows of a view": ["93_views"],
    "xmin, which each node numbers by itself": ["65_realtime", "94_sql_users"],
    "the name of a table in a message, which is that of a shard": ["10_foundation"],
    "what is so where nothing is distributed": ["94_cluster", "94_plans"],
    "views of Citus, in the schema public": ["95_access"],
}


@pytest.mark.parametrize("file", sql_files(ROOT / "sql" / "tests"), ids=lambda file: file.stem)
def test_chapter_on_citus(file: Path, cluster: PrivatePostgres, citus_pgtap_url: str, request: pytest.FixtureRequest) -> None:
    for reason, chapters in NOT_ON_CITUS.items():
        if file.stem in chapters:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    problems = pgtap.run_file(cluster.installation.bin / "psql", citus_pgtap_url, file, *CITUS_OPTIONS)
    assert not problems, "\n".join([file.name, *problems])


def test_a_failed_assertion_is_reported_with_its_explanation() -> None:
    outcome = pgtap.read_tap("1..2\nok 1 - fine\nnot ok 2 - broken\n# Failed test 2\n#   have: 1\n#   want: 2\n")
    assert outcome.problems() == ["not ok 2 - broken\n    # Failed test 2\n    #   have: 1\n    #   want: 2"]


def test_assertions_that_did_not_run_are_a_problem() -> None:
    assert pgtap.read_tap("1..2\nok 1 - fine\n").problems() == ["2 assertions were planned, and 1 ran."]


def test_a_file_without_a_plan_is_a_problem() -> None:
    assert pgtap.read_tap("ok 1 - fine\n").problems() == ["There is no plan: the file must begin with select plan(n)."]


def test_an_assertion_marked_todo_may_fail() -> None:
    assert pgtap.read_tap("1..1\nnot ok 1 - later # TODO not built yet\n# Failed (TODO) test 1\n").problems() == []


def test_a_description_must_say_something_by_itself() -> None:
    descriptions = [
        "and counts",
        "which waited for an answer",
        "with the time that it took",
        "so is a size of nothing",
        "it fails",
        "an item that ends is counted",
    ]
    outcome = pgtap.read_tap("\n".join(f"ok {n} - {text}" for n, text in enumerate(descriptions, 1)))
    assert outcome.fragments() == descriptions[:-1]


def test_an_error_in_a_file_is_a_problem(tmp_path: Path, cluster: PrivatePostgres, pgtap_database_url: str) -> None:
    file = tmp_path / "10_broken.sql"
    file.write_text("begin;\nselect plan(1);\nselect no_such_function();\nselect * from finish();\nrollback;\n")
    problems = pgtap.run_file(cluster.installation.bin / "psql", pgtap_database_url, file)
    assert problems[0] == "1 assertions were planned, and 0 ran."
    assert "10_broken.sql:3: ERROR:  function no_such_function() does not exist" in problems[1]
