"""Samples, limits and usage on the command line."""

from __future__ import annotations

import csv
import json

from batch_lookups import Client
from batch_lookups.calls import FileOptions
from tests.cli_fixtures import Cli, Service


def test_a_sample_is_saved_and_continued(cli: Cli) -> None:
    sites = cli.sites("sites.csv", 30)
    sampled = cli.run("run", sites, "--sample", "4", "-o", "results.csv")
    assert sampled.returncode == 6, sampled.stderr
    assert "4 of 30 looked up" in sampled.stderr
    job = sampled.stderr.split("batch-lookups continue ")[1].split()[0]
    with (cli.folder / "results.csv").open(newline="") as file:
        statuses = [row["status"] for row in csv.DictReader(file)]
    assert (statuses.count("completed"), statuses.count("pending")) == (4, 26)
    assert f"Or stop here: batch-lookups cancel {job}" in sampled.stderr
    assert f"{job}  processing, waits after its sample  " in cli.run("list").stdout
    status = cli.run("status", job).stdout
    assert "waits for batch-lookups continue JOB, after its sample\n" in status
    assert "progress  4 of 30 done, waiting to be continued or cancelled\n" in status, "without a rate, and without a time left"

    assert cli.run("continue", job).stdout.strip() == job
    watched = cli.run("watch", job)
    assert watched.returncode == 0, watched.stderr
    again = cli.run("continue", job)
    assert again.returncode == 1
    assert again.stderr.endswith("(job_not_waiting)\nhint: batch-lookups status JOB shows what it waits for.\n")


def test_a_limit_stops_the_command(cli: Cli, service: Service) -> None:
    stopped = cli.run("run", cli.sites("sites.csv", 10), "--max-lookups", "3", "-o", "results.csv")
    assert stopped.returncode == 6, stopped.stderr
    assert "7 failed (7 lookup_limit_reached)" in stopped.stderr
    assert "Retry the failed ones: batch-lookups retry" in stopped.stderr

    listed = cli.run("usage", "--json")
    assert listed.returncode == 0, listed.stderr
    assert [(row["lookups"], row["name"]) for row in json.loads(listed.stdout)] == [(3, "sites.csv")]
    assert "3 lookups in " in listed.stderr
    [organization] = service.owner.execute("select organization_id from public.lookup_usage where lookups = 3").fetchone() or [None]
    service.owner.execute("select api.set_monthly_lookups(%s, 3)", [organization])
    spent = cli.run("usage")
    assert spent.returncode == 6
    assert "3 of 3 lookups in " in spent.stderr


def test_a_job_that_waits_at_its_limit_names_both_ways_to_continue(cli: Cli, service: Service) -> None:
    file = cli.sites("sites.csv", 10).read_bytes()
    with Client(service.url, cli.environment["BATCH_LOOKUPS_API_KEY"]) as client:
        job = client.create_batch(file, FileOptions(max_lookups=3, when_limit_reached="wait"))["job_id"]
    watched = cli.run("watch", job)
    assert watched.returncode == 6, watched.stderr
    assert f"Continue with a higher one: batch-lookups continue {job} --max-lookups N\n" in watched.stdout
    assert f"Or stop here: batch-lookups cancel {job}\n" in watched.stdout


def test_a_job_that_waits_for_the_next_month_says_until_when(cli: Cli, service: Service) -> None:
    file = cli.sites("sites.csv", 4).read_bytes()
    with Client(service.url, cli.environment["BATCH_LOOKUPS_API_KEY"]) as client:
        created = client.create_batch(file, FileOptions(sample=1))
        organization = client.get_job(created["job_id"])["organization_id"]
        assert cli.run("watch", created["job_id"]).returncode == 6
        service.owner.execute("select api.set_monthly_lookups(%s, 3)", [organization])
        job = client.create_batch(file, FileOptions(when_limit_reached="wait"))["job_id"]
    [until] = service.owner.execute("select to_char(app.next_month(app.clock()) at time zone 'UTC', 'YYYY-MM-DD HH24:MI')").fetchone() or [
        None
    ]
    watched = cli.run("watch", job)
    assert watched.returncode == 6, watched.stderr
    assert watched.stdout == (
        "2 of 4 looked up\n"
        f"The organization has used up this month's lookups. The job continues by itself at {until} UTC\n"
        f"Or stop here: batch-lookups cancel {job}\n"
    )
    assert f"{job}  processing, waits until {until}  " in cli.run("list").stdout
    assert f"waits for the month to end, {until} UTC\n" in (status := cli.run("status", job).stdout)
    assert f"2 of 4 done, waiting until {until} UTC, when the organization has lookups again\n" in status
    refused = cli.run("continue", job, "--max-lookups", "100")
    assert refused.returncode == 1
    assert "the job continues by itself next month" in refused.stderr
    assert refused.stderr.endswith("(job_not_waiting)\nhint: batch-lookups status JOB shows what it waits for.\n")


def test_results_are_followed_until_the_job_waits_and_then_continued(cli: Cli, service: Service) -> None:
    file = cli.sites("sites.csv", 10).read_bytes()
    with Client(service.url, cli.environment["BATCH_LOOKUPS_API_KEY"]) as client:
        job = client.create_batch(file, FileOptions(max_lookups=3, when_limit_reached="wait"))["job_id"]
    waiting = cli.run("results", job, "--follow", "-o", "results.csv")
    assert (waiting.returncode, f"batch-lookups continue {job} --max-lookups N\n" in waiting.stderr) == (6, True)
    begun = (cli.folder / "results.csv").read_bytes()
    assert cli.run("continue", job, "--max-lookups", "10").returncode == 0
    assert cli.run("results", job, "--follow", "-o", "results.csv").returncode == 0
    whole = (cli.folder / "results.csv").read_bytes()
    assert whole.startswith(begun)
    assert len(whole.splitlines()) == 11


def test_what_is_known_is_not_looked_up(cli: Cli) -> None:
    assert cli.run("run", cli.sites("first.csv", ["first-1"]), "-o", "results.csv").returncode == 0
    second = cli.sites("second.csv", ["second-1"])
    checked = cli.run("check", second, "--reuse", "7")
    assert "1 of them already known" in checked.stdout + checked.stderr
    assert cli.run("run", second, "--reuse", "7", "-o", "results.csv").returncode == 0
    assert sum(row["lookups"] for row in json.loads(cli.run("usage", "--json").stdout)) == 1
