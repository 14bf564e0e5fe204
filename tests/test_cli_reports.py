"""Reports on the command line: compared and shared; labels, and the list of devices."""

from __future__ import annotations

import csv
import io
import json
import re

import httpx

from tests.cli_fixtures import COLUMNS, Cli, Service
from tests.upstream import Reply


def sites(*names: str) -> str:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([COLUMNS, *([name, "1 Main St", "Austin", "TX", "78701", "RESIDENTIAL", "1"] for name in names)])
    return file.getvalue()


def looked_up(cli: Cli, *names: str) -> str:
    """The id of an ended job with these sites."""
    (cli.folder / "sites.csv").write_text(sites(*names))
    submitted = cli.run("submit", "sites.csv", "--again", "-".join(names))
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    assert cli.run("watch", job).returncode == 0
    return job


def test_two_reports_are_compared(cli: Cli) -> None:
    before, after = looked_up(cli, "deal-1", "deal-2"), looked_up(cli, "deal-2", "deal-3")
    done = cli.run("report", "diff", before, after)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert rows == [["removed", "deal-1", "$1,000.00", "-", "-$1,000.00", "-"], ["added", "deal-3", "-", "$1,000.00", "$1,000.00", "-"]]
    assert "1 added, 1 removed, 0 changed, 1 unchanged; the difference is $0.00" in done.stderr
    [removed] = json.loads(cli.run("report", "diff", before, after, "--change", "removed", "--json").stdout)
    assert (removed["reference_id"], removed["to"]) == ("deal-1", None)
    assert cli.run("report", "diff", before, "x").returncode == 1


def test_what_depends_on_the_household_is_told_separately(cli: Cli, service: Service) -> None:
    jobs: list[str] = []
    for conditional in (801, 1200):
        body = {"incentives": {"total_incentive_amount": 100, "conditional_incentive_amount": conditional}}
        service.upstream.usual = Reply(body=json.dumps(body))
        jobs.append(looked_up(cli, *["depends", "depends-2"][: len(jobs) + 1]))
    done = cli.run("report", "diff", *jobs)
    rows = [re.split("  +", line) for line in done.stdout.splitlines()[1:]]
    assert rows == [
        ["changed", "depends", "$100.00", "$100.00", "$0.00", "$399.00"],
        ["added", "depends-2", "-", "$100.00", "$100.00", "$1,200.00"],
    ]
    assert "the difference is $100.00, and $1,599.00 conditional" in done.stderr
    assert re.search(r"conditional +\$801\.00, depending on facts about the households", cli.run("report", jobs[0]).stdout)
    [item] = cli.run("items", jobs[0]).stdout.splitlines()[1:]
    assert item.split() == ["depends", "completed", "$100.00", "$801.00", "-", "-"]


def test_a_report_is_shared_until_that_is_revoked(cli: Cli) -> None:
    job = looked_up(cli, "deal-1")
    shared = cli.run("report", "share", job, "--days", "7")
    url = shared.stdout.strip()
    assert httpx.get(url).status_code == 200
    assert httpx.get(f"{url}/csv").text.count("deal-1") == 1
    [link] = json.loads(cli.run("report", "share", job, "--list", "--json").stdout)
    assert link["id"] in shared.stderr
    assert cli.run("report", "share", job, "--revoke", link["id"]).returncode == 0
    assert httpx.get(url).status_code == 404
    assert cli.run("report", "share", job, "--list", "--days", "7").returncode == 2


def test_a_report_is_saved_as_a_workbook(cli: Cli) -> None:
    assert cli.run("report", looked_up(cli, "deal-1"), "-o", "sites.xlsx").returncode == 0
    assert (cli.folder / "sites.xlsx").read_bytes()[:2] == b"PK"


def test_jobs_are_labelled_and_found_by_labels(cli: Cli) -> None:
    (cli.folder / "sites.csv").write_text(sites("deal-1"))
    job = cli.run("submit", "sites.csv", "--label", "team=north", "--label", "kind=a=b").stdout.strip()
    assert cli.run("submit", "sites.csv").stdout.strip() != job
    for words in (["--label", "team=north"], ["--label", "team=north", "--label", "kind=a=b"], ["--label", "kind=a=b", "--name", "SITES"]):
        assert [found["id"] for found in json.loads(cli.run("list", *words, "--json").stdout)] == [job]
    assert "team=north" in cli.run("status", job).stdout
    assert cli.run("submit", "sites.csv", "--label", "north").returncode == 2


def test_devices_are_listed(cli: Cli, service: Service) -> None:
    assert cli.run("devices").stdout.splitlines()[1].split()[0] == "1"
    found = json.loads(cli.run("devices", "--category", "heat_pump", "--json").stdout)
    assert found
    assert {device["category_key"] for device in found} == {"heat_pump"}
