"""`batch-lookups run` and its parts: from a file to its results, with interruptions."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

import openpyxl
import pytest

from batch_lookups.bodies import MAX_BYTES
from batch_lookups.cli import runs, settings
from pyshell.local.machine import free_port
from tests.cli_fixtures import COLUMNS, Cli, Service
from tests.timed import wait_until
from tests.upstream import Reply

# A job that there isn't.
JOB = "5a8b54ab-0b0c-4d3e-9d8c-3f1f6e0f3c11"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_run_saves_what_was_found(cli: Cli) -> None:
    sites = cli.sites("sites.csv", 30)
    done = cli.run("run", sites, "-o", "results.csv", "--report", "report.html")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "30 of 30 looked up" in done.stderr
    assert "Saved results.csv and report.html" in done.stderr
    results = rows_of(cli.folder / "results.csv")
    assert [row["reference_id"] for row in results] == [row["reference_id"] for row in rows_of(sites)]
    assert {row["total_incentive_amount"] for row in results} == {"1000.00"}
    assert "sites.csv" in (cli.folder / "report.html").read_text()
    assert sorted(path.name for path in cli.folder.iterdir()) == ["report.html", "results.csv", "sites.csv"]


def test_without_an_output_file_only_results_go_to_stdout(cli: Cli) -> None:
    done = cli.run("run", cli.sites("sites.csv", 3))
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in csv.DictReader(done.stdout.splitlines())] == ["completed"] * 3


def test_some_failed(cli: Cli, service: Service) -> None:
    service.upstream.plan("some-1", Reply(status=404))
    done = cli.run("run", cli.sites("sites.csv", ["some-1", "some-2"]), "-o", "results.csv")
    assert done.returncode == 3
    assert "1 of 2 looked up, 1 failed (1 not_found)" in done.stderr
    # Another lookup would have the same result.
    assert "--status failed" in done.stderr
    assert "retry" not in done.stderr
    assert [row["status"] for row in rows_of(cli.folder / "results.csv")] == ["failed", "completed"]


def test_all_failed(cli: Cli, service: Service) -> None:
    service.upstream.usual = Reply(status=404)
    done = cli.run("run", cli.sites("sites.csv", 2), "-o", "results.csv")
    assert done.returncode == 5
    assert len(rows_of(cli.folder / "results.csv")) == 2


def test_cancelled(cli: Cli, service: Service) -> None:
    service.upstream.usual = Reply(delay=60)
    job = cli.run("submit", cli.sites("sites.csv", 40)).stdout.strip()
    watching = cli.start("watch", job)
    assert cli.run("cancel", job).returncode == 0
    service.upstream.usual = Reply()
    service.release()
    _, stderr = watching.communicate(timeout=30)
    assert watching.returncode == 6, stderr
    assert cli.run("run", "sites.csv", "-o", "results.csv").returncode == 6
    assert {row["error_code"] for row in rows_of(cli.folder / "results.csv")} >= {"job_cancelled"}
    report = cli.run("report", job).stdout
    assert re.match(r"sites.csv: cancelled\nCancelled: (\d+) of 40 looked up, (\d+) failed \(\2 job_cancelled\)\n", report), report
    again = cli.run("cancel", job)
    assert again.returncode == 1
    assert "(job_ended)" in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "x.csv", "-o", "missing/results.csv"], "/missing does not exist."),
        (["run", "x.csv", "-o", "x.csv/results.csv"], "/x.csv does not exist."),
        (["run", "x.csv", "-o", "folder"], "File 'folder' is a directory."),
        (["run", "x.csv", "-o", "results.pdf"], "results.pdf must end with .csv, .xlsx, .ndjson or .jsonl."),
        (["run", "x.csv", "--report", "missing/report.html"], "/missing does not exist."),
        (["run", "x.csv", "--report", "report.txt"], "report.txt must end with .html or .htm."),
        (["run", "x.csv", "-o", "./x.csv"], "x.csv is the input file"),
        (["run", "pages", "--report", "pages"], "pages is the input file"),
        (["run", "x.csv", "-o", ""], "The name of the file is empty."),
        (["run", "x.csv", "--report", ""], "The name of the file is empty."),
        (["run", "x.csv", "--report", "-"], "would go to the same place"),
        (["run", "x.csv", "-o", "found", "--report", "./found"], "would go to the same place"),
        (["watch", JOB, "-o", "-", "--report", "-"], "would go to the same place"),
        (["watch", JOB, "-o", "found", "--report", "found"], "would go to the same place"),
        (["watch", JOB, "-o", "results.xls"], "results.xls must end with "),
        (["watch", JOB, "--report", "missing/report.html"], "/missing does not exist."),
        (["results", JOB, "-o", "missing/results.csv"], "/missing does not exist."),
        (["results", JOB, "-o", "missing/results", "--ndjson", "--follow"], "/missing does not exist."),
        (["results", JOB, "-o", "results.pdf"], "results.pdf must end with "),
        (["results", JOB, "--follow", "-o", "results.xlsx"], "--follow writes CSV or NDJSON"),
        (["report", JOB, "-o", "missing/report.html"], "/missing does not exist."),
        (["report", JOB, "-o", "report.pdf"], "report.pdf must end with .html, .htm, .csv, .xlsx or .json."),
    ],
)
def test_a_file_that_cannot_be_saved_is_refused_before_anything_is_submitted(cli: Cli, words: list[str], said: str) -> None:
    cli.sites("x.csv", 1)
    (cli.folder / "pages").symlink_to("x.csv")
    (cli.folder / "folder").mkdir()
    done = cli.run(*words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr
    assert cli.run("list", "--json").stdout == "[]\n"


def test_the_file_that_standard_input_reads_is_not_written_over(cli: Cli) -> None:
    sites = cli.sites("sites.csv", 1).read_bytes()
    refused = run_in_bash(cli, '"$@" < sites.csv', "run", "-", "-o", "sites.csv")
    assert (refused.returncode, b"sites.csv is the input file" in refused.stderr) == (2, True), refused.stderr
    assert (cli.folder / "sites.csv").read_bytes() == sites


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "missing.csv"],
        ["run", "x.csv", "--map", "x"],
        ["run", "x.csv", "--devices", "one"],
        ["run", "x.csv", "--map", "city=1", "--map", "city=2"],
        ["run", "x.csv", "--label", "team=north", "--label", "team=south"],
        ["list", "--label", "team=north", "--label", "team=south"],
        ["webhooks", "listen", "--forward", "localhost:3000/hooks"],
        ["webhooks", "listen", "--forward", "http://[localhost/hooks"],
        ["unknown"],
    ],
)
def test_wrong_usage(cli: Cli, words: list[str]) -> None:
    cli.sites("x.csv", 1)
    done = cli.run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(
    ("words", "error", "command"),
    [
        (["list", "--json", "--limit", "many"], "Invalid value for '--limit'", "list"),
        (["list", "--limit", "many", "--ndjson"], "Invalid value for '--limit'", "list"),
        (["list", "--unknown", "--json"], "No such option", "list"),
        (["list", "--json", "--ndjson"], "cannot be combined", "list"),
        (["status", "--json"], "Missing argument", "status"),
        (["check", "missing.csv", "--json"], "does not exist", "check"),
        (["webhooks", "set", "--json"], "Nothing to set", "webhooks set"),
        (["unknown", "--json"], "No such command", ""),
    ],
)
def test_scripts_are_told_wrong_usage_as_json(cli: Cli, words: list[str], error: str, command: str) -> None:
    done = cli.run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    told = json.loads(done.stderr)
    assert error in told["error"]
    assert told["hint"] == " ".join(filter(None, ["batch-lookups", command, "--help"]))


def test_a_name_that_looks_like_an_option_asks_for_nothing(cli: Cli) -> None:
    assert "Usage:" in cli.run("status", "--", "one", "--json").stderr


def test_invalid_rows_are_listed_by_line_and_grouped_by_fault(cli: Cli, service: Service) -> None:
    name = "invalid-rows.csv"
    lines = cli.sites(name, 30).read_text().splitlines()
    for number in range(2, 27):
        lines[number] = lines[number].replace("Oakland", "" if number % 2 else "Oakland").replace("94601", "94601" if number % 2 else "x")
    (cli.folder / name).write_text("\n".join(lines))
    refused = cli.run("run", name, "-o", "results.csv")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "25 of 30 rows are invalid:" in refused.stderr
    assert "  lines 4, 6, 8, 10, 12, 14, 16, 18, 20, 22: column city: the cell is empty" in refused.stderr
    assert "  lines 3, 5, 7, 9, 11, 13, 15, 17, 19, 21: column postal_code: x is not a ZIP code" in refused.stderr
    assert "  and 5 more\nAll of them by error:\n     13 rows  " in refused.stderr
    assert "     13 rows  postal_code: invalid postal code\n     12 rows  city: missing\n" in refused.stderr
    assert "--skip-invalid" in refused.stderr
    assert service.count_jobs(name) == 0
    assert not (cli.folder / "results.csv").exists()
    assert cli.run("check", name).returncode == 3

    skipped = cli.run("run", name, "-o", "results.csv", "--skip-invalid")
    assert skipped.returncode == 0, skipped.stderr
    assert "25 invalid rows were left out:" in skipped.stderr
    assert len(rows_of(cli.folder / "results.csv")) == 5


def test_scripts_get_the_invalid_rows_as_json(cli: Cli) -> None:
    lines = cli.sites("sites.csv", 3).read_text().splitlines()
    (cli.folder / "sites.csv").write_text("\n".join([*lines[:3], lines[3].replace("94601", "x")]))
    refused = cli.run("submit", "sites.csv", "--json")
    assert (refused.returncode, refused.stdout) == (1, "")
    error = json.loads(refused.stderr)
    assert error["error"] == "The file has invalid rows; nothing was submitted"
    assert (error["total_items"], error["total_invalid"]) == (3, 1)
    assert [(item["line"], item["problems"][0]["field"]) for item in error["invalid_items"]] == [(4, "address.postal_code")]
    nothing = cli.run("submit", cli.sites("nothing.csv", 2, city=""), "--json")
    assert (nothing.returncode, json.loads(nothing.stderr)["total_invalid"]) == (5, 2)
    twice = json.loads(cli.run("submit", cli.sites("twice.csv", ["deal-1", "deal-1"]), "--ndjson").stderr)
    assert twice["duplicates"] == ["deal-1"]


def test_scripts_get_the_values_of_invalid_rows_unchanged(cli: Cli) -> None:
    lines = cli.sites("sites.csv", 1).read_text().splitlines()
    (cli.folder / "sites.csv").write_text("\n".join([lines[0], lines[1].replace(",CA,", ",C\u200bX,")]))
    checked, refused = (
        json.loads(text) for text in (cli.run("check", "sites.csv", "--json").stdout, cli.run("submit", "sites.csv", "--json").stderr)
    )
    assert refused["invalid_items"] == checked["invalid_items"]
    assert "\u200b" in checked["invalid_items"][0]["problems"][0]["value"]


def test_a_file_may_have_a_name_of_another_encoding(cli: Cli) -> None:
    name = os.fsdecode("März.csv".encode("latin-1"))
    cli.sites("sites.csv", 1).rename(cli.folder / name)
    done = cli.run("run", name, "-o", f"results-{name}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("Saved results-M�rz.csv\n")
    assert len(rows_of(cli.folder / f"results-{name}")) == 1
    assert json.loads(cli.run("list", "--json").stdout)[0]["name"] == "M�rz.csv"


@pytest.mark.parametrize(("words", "shown"), [(["list"], "M?rz ä"), (["list", "--json"], '"name": "M\\u2192rz \\u00e4"')])
def test_what_the_locale_cannot_show_does_not_end_the_command(cli: Cli, words: list[str], shown: str) -> None:
    cli.run("submit", cli.sites("sites.csv", 1), "--name", "M→rz ä")
    cli.environment["PYTHONIOENCODING"] = "latin-1"
    done = cli.start(*words)
    data, messages = done.communicate(timeout=30)
    assert (done.returncode, messages) == (0, b"")
    assert shown in data.decode("latin-1")


@pytest.mark.parametrize("words", [["list", "--name"], ["status"], ["keys", "create", "--name"]])
def test_a_word_of_another_encoding_is_wrong_usage(cli: Cli, words: list[str]) -> None:
    done = cli.run(*words, os.fsdecode(b"M\xe4rz"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: A text is not in UTF-8: ")


def test_no_more_duplicates_are_counted_than_are_known(cli: Cli) -> None:
    few = cli.run("check", cli.sites("few.csv", [f"deal-{number // 2}" for number in range(60)]))
    assert "deal-19, and 10 more\n" in few.stderr
    many = cli.run("check", cli.sites("many.csv", [f"deal-{number // 2}" for number in range(300)]))
    assert "deal-19, and at least 80 more\n" in many.stderr


def test_a_repeated_reference_id_is_not_told_as_valid(cli: Cli) -> None:
    name = cli.sites("sites.csv", ["deal-1", "deal-1", "deal-2"]).name
    checked, refused = cli.run("check", name), cli.run("run", name)
    assert (checked.returncode, checked.stdout) == (3, "3 of 3 rows are valid, but some repeat a reference_id\n")
    assert (refused.returncode, refused.stderr.splitlines()[-2:]) == (
        1,
        [
            "error: The file repeats reference_ids; nothing was submitted",
            "hint: Correct these reference_ids, or keep the first row of each with --skip-invalid.",
        ],
    )
    assert cli.run("check", name, "--skip-invalid").stdout.startswith("2 of 3 rows are valid")
    assert "2 of 2 looked up" in cli.run("run", name, "--skip-invalid").stderr


@pytest.mark.parametrize("verb", ["run", "check", "submit"])
def test_nothing_valid(cli: Cli, verb: str) -> None:
    done = cli.run(verb, cli.sites("sites.csv", 3, city=""))
    assert done.returncode == 5
    assert "lines 2, 3, 4: column city: the cell is empty" in done.stderr


def test_a_file_of_any_length_is_not_read_to_its_end(cli: Cli) -> None:
    with (cli.folder / "sites.csv").open("wb") as file:
        file.truncate(MAX_BYTES + 2)
    done = cli.run("check", "sites.csv")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: sites.csv is larger than 256 MB\n")


def test_a_file_that_is_no_table_is_refused_in_the_words_of_the_service(cli: Cli) -> None:
    (cli.folder / "sites.csv").write_bytes(b"%PDF-1.7 ...")
    done = cli.run("run", "sites.csv")
    assert done.returncode == 1
    assert done.stderr == "error: This is a PDF document (unsupported_file)\nhint: Send the table as CSV or as an Excel workbook.\n"
    as_json = cli.run("check", "sites.csv", "--json")
    assert (as_json.returncode, as_json.stdout) == (1, "")
    assert json.loads(as_json.stderr)["code"] == "unsupported_file"


@pytest.mark.parametrize(("words", "said"), [((), True), (("--sheet", "Sites"), False), (("--sheet", "1"), False)])
def test_the_sheet_that_was_read_is_told_unless_it_was_chosen(cli: Cli, words: tuple[str, ...], said: bool) -> None:
    book = openpyxl.Workbook()
    for title in ("Sites", "Old sites"):
        sheet = book.create_sheet(title)
        for line in cli.sites("sites.csv", ["deal-1"]).read_text().splitlines():
            sheet.append(line.split(","))
    del book["Sheet"]
    book.save(cli.folder / "book.xlsx")
    done = cli.run("check", "book.xlsx", *words)
    assert done.returncode == 0
    assert ("note: The sheet Sites was read; --sheet chooses another: Old sites\n" in done.stderr) is said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["usage", "--from", "yesterday"], "error: --from must be a date such as"),
        (["usage", "--before", "yesterday"], "error: --before must be a date such as"),
        (["keys", "create", "--expires", "tomorrow"], "error: --expires must be a date such as"),
        (["keys", "create", "--network", "x"], "error: --network must be "),
        (["webhooks", "recover", "yesterday"], "error: TIME must be a date such as"),
        (["webhooks", "deliveries", "--job", "x"], "error: --job must be "),
        (["check", "sites.csv", "--country", "DE"], "  line 2: --country: DE is not a country"),
        (["check", "bare.csv", "--devices", "0", "--building-type", "RESIDENTIAL"], "  line 2: --devices: "),
        (["check", "bare.csv", "--building-type", "Igloo", "--devices", "1"], "  line 2: --building-type: Igloo is not "),
        (
            ["check", "headers.csv"],
            "city, zip. Name it with --map FIELD=COLUMN, or set it for all rows: --devices, --building-type.",
        ),
        (["check", "twice.csv"], "hint: Say which one is meant with --map FIELD=COLUMN.\n"),
        (["check", "bytes.csv"], "hint: Save the file as CSV UTF-8.\n"),
        (["check", "large.csv"], "this one has 10,001 (invalid_item_count)\nhint: Split a larger file. With 0, the file names "),
        (["check", "wide.csv"], "  line 2: the row has 8 cells, the header 7\n"),
        (["check", "book.xlsx", "--sheet", "Owners"], "The sheet Owners was read; --sheet chooses another: Sites (missing_columns)\n"),
    ],
)
def test_messages_name_what_was_typed(cli: Cli, words: list[str], said: str) -> None:
    header, row = cli.sites("sites.csv", ["deal-1"]).read_text().splitlines()
    cli.sites("large.csv", 10_001)
    book = openpyxl.Workbook()
    for title, lines in {"Sites": [header, row], "Owners": ["Owner", "Kim"]}.items():
        sheet = book.create_sheet(title)
        for line in lines:
            sheet.append(line.split(","))
    book.save(cli.folder / "book.xlsx")
    for name, lines in {
        "bare.csv": [line.rsplit(",", 2)[0] for line in (header, row)],
        "headers.csv": ["reference_id,street,city,zip", "deal-1,1 Main St,Oakland,94601"],
        "twice.csv": [header.replace("city", "billing city,shipping city"), row.replace("Oakland", "Oakland,Berkeley")],
        "bytes.csv": [header, row + "\x81"],
        "wide.csv": [header, row + ",more"],
    }.items():
        (cli.folder / name).write_text("\n".join(lines), encoding="latin-1")
    done = cli.run(*words)
    assert done.returncode != 0
    assert said in done.stderr
    assert not re.search(r"\w_\w+ must|default_|\?\w+=|Content-Type", done.stderr)


@pytest.mark.parametrize(
    ("valid", "invalid", "said"),
    [
        (1, 0, "1 of 1 row is valid, less than a second\n"),
        (2, 1, "2 of 3 rows are valid, less than a second\n"),
        (1, 2, "1 of 3 rows is valid, less than a second\n"),
        (0, 1, "0 of 1 row is valid\n"),
        (200, 0, "200 of 200 rows are valid, about 4 s\n"),
    ],
)
def test_check_says_how_many_rows_are_valid_and_how_long_they_take(cli: Cli, service: Service, valid: int, invalid: int, said: str) -> None:
    lines = [
        *cli.sites("valid.csv", valid).read_text().splitlines(),
        *cli.sites("invalid.csv", invalid, city="").read_text().splitlines()[1:],
    ]
    (cli.folder / "sites.csv").write_text("\n".join(lines))
    service.owner.execute("select api.update_settings('{\"lookups_per_second\": 50}')")
    try:
        done = cli.run("check", "sites.csv")
    finally:
        service.owner.execute("select api.update_settings('{\"lookups_per_second\": null}')")
    assert done.stdout == said
    assert ("1 of 1 row is invalid:" in done.stderr) == ((valid, invalid) == (0, 1))


def test_one_is_singular(cli: Cli) -> None:
    done = cli.run("run", cli.sites("sites.csv", 1, building_type="House"), "-o", "results.csv")
    assert "note: 1 row has warnings, such as: " in done.stderr
    assert re.search(r"^Job \S+: 1 site$", done.stderr, re.MULTILINE)
    assert "1 lookup in " in cli.run("usage").stderr


def test_check_stores_nothing_and_says_which_fields_the_columns_have(cli: Cli, service: Service) -> None:
    sites = cli.sites("only-checked.csv", 4)
    sites.write_text(sites.read_text().replace("reference_id", "Key"))
    refused = cli.run("check", sites)
    assert refused.returncode == 1
    assert "--map" in refused.stderr
    done = cli.run("check", sites, "--map", "reference_id=Key")
    assert (done.returncode, done.stdout.strip()) == (0, "4 of 4 rows are valid")
    checked = json.loads(cli.run("check", sites, "--map", "reference_id=1", "--json").stdout)
    assert (checked["valid_items"], checked["columns"][0]["how"]) == (4, "given")
    assert service.count_jobs("only-checked.csv") == 0


@pytest.mark.parametrize("name", ["sites.csv.gz", "sites.tsv", "sites.xlsx", "sites.ndjson", "sites.json", "-"])
def test_any_file_that_the_service_reads(cli: Cli, name: str) -> None:
    rows = rows_of(cli.sites("original.csv", 3))
    items = [
        {
            "reference_id": row["reference_id"],
            "building_type": row["building_type"],
            "device_ids": [1],
            "address": {name: row[name] for name in COLUMNS[1:5]} | {"country_code": "US"},
        }
        for row in rows
    ]
    original, path = (cli.folder / "original.csv").read_bytes(), cli.folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(original))
    elif name.endswith(".tsv"):
        path.write_bytes(original.replace(b",", b"\t"))
    elif name.endswith(".xlsx"):
        workbook = openpyxl.Workbook()
        assert workbook.active is not None
        for line in original.decode().splitlines():
            workbook.active.append(line.split(","))
        workbook.save(path)
    elif name.endswith(".ndjson"):
        # A single line looks like JSON; the file name says what it is.
        items, rows = items[:1], rows[:1]
        path.write_text(json.dumps(items[0]) + "\n")
    elif name.endswith(".json"):
        path.write_text(json.dumps({"items": items}))
    done = cli.run("run", name, "-o", "results.ndjson", stdin=original)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in (cli.folder / "results.ndjson").read_text().splitlines()]
    assert [result["reference_id"] for result in results] == [row["reference_id"] for row in rows]


def test_defaults_apply_to_empty_cells(cli: Cli) -> None:
    cli.sites("sites.csv", ["default-1"], building_type="", device_ids="")
    done = cli.run(
        "run", "sites.csv", "-o", "results.csv", "--devices", "1,20", "--building-type", "MULTIFAMILY", "--country", "US", "--name", "March"
    )
    assert done.returncode == 0, done.stderr
    [row] = rows_of(cli.folder / "results.csv")
    assert (row["building_type"], row["device_ids"], row["country_code"]) == ("MULTIFAMILY", "1;20", "US")
    assert json.loads(cli.run("list", "--json").stdout)[0]["name"] == "March"


def test_rows_without_an_id_can_be_numbered(cli: Cli) -> None:
    cli.sites("sites.csv", ["", "site-2", ""])
    assert "lines 2, 4: column reference_id: the cell is empty" in cli.run("check", "sites.csv").stderr
    done = cli.run("run", "sites.csv", "-o", "results.csv", "--number-rows")
    assert done.returncode == 0, done.stderr
    assert [row["reference_id"] for row in rows_of(cli.folder / "results.csv")] == ["row-2", "site-2", "row-4"]


def test_a_pipe_does_not_name_a_job(cli: Cli) -> None:
    cli.sites("sites.csv", 1)
    done = run_in_bash(cli, '"$@" <(cat sites.csv)', "submit")
    assert done.returncode == 0, done.stderr
    assert json.loads(cli.run("status", done.stdout.decode().strip(), "--json").stdout)["name"] is None


def test_the_same_command_finds_its_job_and_with_again_creates_another(cli: Cli, service: Service) -> None:
    sites = cli.sites("same.csv", 3)
    first = cli.run("submit", sites)
    second = cli.run("submit", sites)
    assert (first.returncode, second.returncode, second.stdout) == (0, 0, first.stdout)
    assert "submitted before" in second.stderr
    again = cli.run("submit", sites, "--again", "1")
    assert again.stdout != first.stdout
    assert cli.run("submit", sites, "--again", "1").stdout == again.stdout
    assert cli.run("submit", sites, "--devices", "2").stdout != first.stdout
    assert service.count_jobs("same.csv") == 3


def test_a_job_that_was_deleted_is_created_again_on_request(cli: Cli) -> None:
    sites = cli.sites("deleted.csv", 1)
    assert cli.run("run", sites).returncode == 0
    assert cli.run("delete", json.loads(cli.run("list", "--json").stdout)[0]["id"], "--yes").returncode == 0
    gone = cli.run("run", sites)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "--again WORD" in gone.stderr
    assert cli.run("run", sites, "--again", "2").returncode == 0


# Seconds after the start of the command; and what has happened by then, where a time alone would not hit it.
MOMENTS = ["0.2", "0.6", "submitted", "half", "ended"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_continues_the_same_file_with_the_same_job(cli: Cli, service: Service, moment: str) -> None:
    name = f"killed-{moment}.csv"
    cli.sites(name, 60)
    service.upstream.usual = Reply(delay=0.05)
    before = len(service.upstream.requests)
    command = ("run", name, "-o", "results.csv", "--report", "report.html")

    def ended() -> bool:
        query = "select 1 from public.batch_lookup_jobs where name = %s and status = 'completed'"
        return service.owner.execute(query, [name]).fetchone() is not None

    running = cli.start(*command)
    if moment == "submitted":
        wait_until(lambda: service.count_jobs(name))
    elif moment == "half":
        wait_until(lambda: len(service.upstream.requests) - before >= 30)
    elif moment == "ended":
        wait_until(ended)
    else:
        time.sleep(float(moment))
    running.kill()
    running.communicate()

    done = cli.run(*command)
    assert done.returncode == 0, done.stderr
    results = (cli.folder / "results.csv").read_bytes()
    job = cli.run("submit", name).stdout.strip()
    assert service.count_jobs(name) == 1
    assert results == cli.run("results", job).stdout.encode()
    assert len(rows_of(cli.folder / "results.csv")) == 60
    # And it can be repeated once more.
    assert cli.run(*command).returncode == 0
    assert (cli.folder / "results.csv").read_bytes() == results


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_detaches_and_says_how_to_continue(cli: Cli, service: Service, number: signal.Signals, code: int) -> None:
    name = f"detached-{code}.csv"
    service.hold("detached-39")
    cli.sites(name, [f"detached-{number}" for number in range(40)])
    running = cli.start("run", name, "-o", "results of March.csv")
    wait_until(lambda: service.count_jobs(name))
    assert running.stderr is not None
    while b" done" not in running.stderr.readline():
        pass
    running.send_signal(number)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == code
    assert b"Traceback" not in stderr
    assert stderr.decode().splitlines()[-2] == "Detached; the job continues"
    service.release()
    command = stderr.decode().strip().splitlines()[-1].removeprefix("Watch it again: batch-lookups ")
    assert command.endswith("-o 'results of March.csv'")
    assert cli.run(*shlex.split(command)).returncode == 0
    assert len(rows_of(cli.folder / "results of March.csv")) == 40


@pytest.mark.parametrize(("name", "unix", "windows"), [
    ("results.csv", "results.csv", "results.csv"),
    ("results of March.csv", "'results of March.csv'", '"results of March.csv"'),
    (r"C:\Users\kim\results.csv", r"'C:\Users\kim\results.csv'", r"C:\Users\kim\results.csv"),
    ("kim's (new).csv", "'kim'\"'\"'s (new).csv'", '"kim\'s (new).csv"'),
])  # fmt: skip
def test_paths_are_quoted_for_the_shell_of_the_system(monkeypatch: pytest.MonkeyPatch, name: str, unix: str, windows: str) -> None:
    assert runs.quoted(Path(name)) == unix
    monkeypatch.setattr(settings, "ON_WINDOWS", True)
    assert runs.quoted(Path(name)) == windows


def test_an_error_amid_a_job_says_how_to_continue(cli: Cli, service: Service) -> None:
    service.hold("revoked-3")
    cli.sites("sites.csv", [f"revoked-{number}" for number in range(4)])
    [own] = json.loads(cli.run("keys", "list", "--json").stdout)
    another = json.loads(cli.run("keys", "create", "--json").stdout)["key"]
    running = cli.start("run", "sites.csv", "-o", "results.csv")
    assert running.stderr is not None
    while b"3 of 4 done" not in running.stderr.readline():
        pass
    assert cli.run("keys", "revoke", own["id"], "--yes").returncode == 0
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == 4
    *_, store, again = stderr.decode().splitlines()
    assert store == "hint: Store a valid key: batch-lookups login"
    assert re.fullmatch(r"hint: Nothing is lost\. Watch it again: batch-lookups watch [0-9a-f-]{36} -o results\.csv", again)
    service.release()
    cli.environment["BATCH_LOOKUPS_API_KEY"] = another
    assert cli.run(*shlex.split(again.partition("batch-lookups ")[2])).returncode == 0
    assert len(rows_of(cli.folder / "results.csv")) == 4


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["submit", "run"])
def test_a_signal_before_the_job_is_known_says_how_to_find_it(cli: Cli, command: str, number: signal.Signals, code: int) -> None:
    cli.sites("sites.csv", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cli.environment["BATCH_LOOKUPS_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        running = cli.start(command, "sites.csv")
        connection, _ = silent.accept()
        with connection:
            connection.recv(65536)
            running.send_signal(number)
            _, stderr = running.communicate(timeout=30)
    assert running.returncode == code
    assert stderr.decode().splitlines() == ["Interrupted before the job was known", "The same command finds it, if it was created."]


def test_a_service_that_cannot_be_reached(cli: Cli) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    done = cli.run("run", cli.sites("sites.csv", 1), BATCH_LOOKUPS_URL=address, BATCH_LOOKUPS_RETRY_SECONDS="1.5")
    assert done.returncode == 7
    assert f"The service at {address} cannot be reached" in done.stderr
    assert "retrying" in done.stderr
    assert "batch-lookups doctor" in done.stderr
    assert "Traceback" not in done.stderr


NO_ID = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (["check", "sites.csv", "--map", f"city={'9' * 5000}"], 1),
        (["check", "sites.csv", "--devices", "9" * 5000], 2),
        (["keys", "rotate", NO_ID, "--grace", "nan"], 2),
        (["webhooks", "secret", "--overlap", "inf"], 2),
        (["list", "--limit", "9" * 30], 0),
        (["items", NO_ID, "--limit", "9" * 30], 1),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_number_out_of_range_causes_no_traceback(words: list[str], exit_code: int, cli: Cli) -> None:
    cli.sites("sites.csv", 1)
    done = cli.run(*words)
    assert "Traceback" not in done.stderr
    assert done.returncode == exit_code, done.stderr


def test_too_many_open_items_stop_it(cli: Cli, service: Service) -> None:
    service.owner.execute("select api.update_settings('{\"max_open_items\": 5}')")
    try:
        done = cli.run("run", cli.sites("sites.csv", 6), BATCH_LOOKUPS_RETRY_SECONDS="0")
    finally:
        service.owner.execute("select api.update_settings('{\"max_open_items\": 200000}')")
    assert done.returncode == 6, done.stderr
    assert "(too_many_open_items)" in done.stderr


def run_in_bash(cli: Cli, line: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a line of bash, where it is "$@"."""
    command = ["/bin/bash", "-o", "pipefail", "-c", line, "bash", *cli.command, *words]
    return subprocess.run(command, cwd=cli.folder, env=cli.environment, capture_output=True, check=False)


def test_whoever_has_read_enough_ends_it_quietly(cli: Cli) -> None:
    job = cli.run("submit", cli.sites("sites.csv", 2000)).stdout.strip()
    piped = run_in_bash(cli, '"$@" | head -n 1', "results", job)
    assert (piped.returncode, piped.stderr) == (141, b"")
    assert piped.stdout.startswith(b"reference_id,")
    unread = run_in_bash(cli, '"$@" | head -n 0', "--help")
    assert (unread.returncode, unread.stderr) == (141, b"")


def test_closed_streams_cause_no_traceback(cli: Cli) -> None:
    job = cli.run("submit", cli.sites("sites.csv", 2)).stdout.strip()
    assert cli.run("watch", job).returncode == 0
    saved = run_in_bash(cli, '"$@" <&- >&- 2>&-', "results", job, "-o", "results.csv")
    assert (saved.returncode, len(rows_of(cli.folder / "results.csv"))) == (0, 2)
    for words, what in ((["list"], b""), (["results", job], b"standard output: "), (["--help"], b"")):
        lost = run_in_bash(cli, '"$@" >&-', *words)
        assert (lost.returncode, lost.stderr) == (1, b"error: " + what + b"Bad file descriptor\n"), words
    for messages in ("2> /dev/full", "2> >(head -n 0)"):
        heard = run_in_bash(cli, f'"$@" {messages}', "run", "sites.csv", "-o", "again.csv")
        assert (heard.returncode, len(rows_of(cli.folder / "again.csv"))) == (0, 2), messages
        (cli.folder / "again.csv").unlink()
    for words, code in ((["status", "none"], 1), (["status", "none", "--json"], 1), (["status"], 2), (["status", "--json"], 2)):
        assert run_in_bash(cli, '"$@" 2> /dev/full', *words).returncode == code, words
    empty = run_in_bash(cli, '"$@" <&-', "check", "-")
    assert (empty.returncode, empty.stderr.splitlines()[0]) == (1, b"error: The file is empty (empty_file)")
