"""The catalogue's files, their import, and lookups of the example sites in it."""

from __future__ import annotations

import csv
import errno
import json
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pyshell.__main__ import main
from pyshell.deploy.catalogue import (
    CatalogueError,
    Differences,
    catalogue_checksum,
    export,
    load_catalogue,
    read_folder,
    try_rows,
)
from tests.conftest import Clock, Connection
from tests.rows_read import catalogue_rows_read
from tests.test_plans import Plans, rows_handled

ROOT = Path(__file__).parent.parent
STARTER = ROOT / "sql" / "catalogue"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the starter catalogue that a test may change."""
    for path in STARTER.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")


@pytest.fixture
def organization(owner: Connection) -> str:
    row = owner.execute("select api.create_organization('Acme')").fetchone()
    assert row is not None
    return str(row[0])


def look_up(connection: Connection, organization: str, item: dict[str, Any]) -> dict[str, Any]:
    row = connection.execute("select api.lookup_incentives(%s, %s::jsonb)", (organization, json.dumps(item))).fetchone()
    assert row is not None
    answer: dict[str, Any] = row[0]
    return answer


def example_items() -> list[dict[str, Any]]:
    with (ROOT / "examples" / "sites.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    address = ["street_1", "street_2", "city", "state_or_province_code", "postal_code", "country_code"]
    return [
        {
            "reference_id": row["reference_id"],
            "address": {column: row[column] for column in address if row[column]},
            "building_type": row["building_type"],
            "device_ids": [int(device_id) for device_id in row["device_ids"].split(";")],
        }
        for row in rows
    ]


def test_the_starter_catalogue_is_loaded_by_a_deploy(owner: Connection) -> None:
    summary = load_catalogue(owner, STARTER)
    assert {(counts["changed"], counts["retired"]) for counts in summary.values()} == {(0, 0)}
    assert summary.keys() == {path.stem for path in STARTER.glob("*.csv")}
    assert summary["programs"]["rows"] >= 46


def test_the_starter_catalogue_has_no_warnings(owner: Connection, clock: Clock) -> None:
    """At the end of November 2026: many of its offers end with that year, which is a warning from then on."""
    clock.freeze("2026-11-30 12:00:00+00")
    assert owner.execute("select api.find_catalogue_warnings()").fetchone() == ([],)


def test_a_changed_row_is_imported(owner: Connection, folder: Path) -> None:
    append(folder / "devices.csv", "9001,heat_pump,Pump of the future")
    assert load_catalogue(owner, folder)["devices"]["changed"] == 1
    assert load_catalogue(owner, STARTER)["devices"]["retired"] == 1


def test_a_file_whose_name_ends_in_capitals_is_imported(owner: Connection, folder: Path) -> None:
    (folder / "devices.csv").rename(folder / "devices.CSV")
    assert load_catalogue(owner, folder) == load_catalogue(owner, STARTER)


def test_a_bad_row_is_named_and_nothing_is_imported(owner: Connection, folder: Path) -> None:
    append(folder / "devices.csv", "9001,heat_pump,Pump of the future")
    append(folder / "utilities.csv", "wy-plains,none,Plains Electric,US,WY,test,")
    with pytest.raises(psycopg.Error, match=r'utilities\.csv, line 112: eiaid "none" is not a positive integer') as caught:
        load_catalogue(owner, folder)
    assert caught.value.sqlstate == "PT400"
    assert owner.execute("select from app.devices where id = 9001").fetchone() is None


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("id,name\n1,a,b\n", "line 2: 3 cells, but the header has 2; cell 3 is 'b'"),
        ("id,name\n1\n", "line 2: 1 cells, but the header has 2"),
        ("id,,name\n1,a,b\n", "line 1: column 2 has no name"),
        ("id,id\n1,2\n", "line 1: the column id occurs twice"),
        ('id,name\n1,"a\n', "line 2: unexpected end of data"),
        ("id,name\n1,a\n2,Café\n", "devices.csv is not UTF-8: line 3 has other bytes"),
        ("id,name\n1,a\0\n", "line 2: a NUL character"),
        ("\n , \n", "devices.csv is empty"),
        ("id,name\n\n", "devices.csv has no rows, so every row that the catalogue has of it would be retired"),
    ],
)
def test_a_file_that_is_no_table_is_refused(owner: Connection, tmp_path: Path, content: str, error: str) -> None:
    (tmp_path / "devices.csv").write_text(content, encoding="latin-1")
    with pytest.raises(CatalogueError, match=error):
        load_catalogue(owner, tmp_path)


def test_an_empty_folder_is_no_catalogue(owner: Connection, tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="has no CSV files"):
        load_catalogue(owner, tmp_path)


def test_empty_rows_at_the_end_of_a_file_are_ignored(owner: Connection, folder: Path) -> None:
    append(folder / "devices.csv", "\n,,\n , ,")
    assert load_catalogue(owner, folder)["devices"] == load_catalogue(owner, STARTER)["devices"]


@pytest.mark.parametrize(
    "saved",
    [
        lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: "\n" + text.replace("\n", ",,\n,,,,\n"),
        lambda text: re.sub("(?m)^([^,]+),([^,]+),", "\\1 , \\2\u00a0,", text),
    ],
    ids=["BOM and CRLF", "UTF-16", "empty columns and rows", "blanks around cells"],
)
def test_a_file_is_read_as_a_spreadsheet_saves_it(owner: Connection, folder: Path, saved: Callable[[str], str | bytes]) -> None:
    before = load_catalogue(owner, STARTER)["devices"]
    content = saved((folder / "devices.csv").read_text(encoding="utf-8"))
    (folder / "devices.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert load_catalogue(owner, folder)["devices"] == before


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_any_usual_delimiter_and_order_of_columns_is_read(owner: Connection, folder: Path, delimiter: str) -> None:
    with (folder / "devices.csv").open(encoding="utf-8", newline="") as file:
        rows = [row[::-1] for row in csv.reader(file)]
    with (folder / "devices.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert load_catalogue(owner, folder) == load_catalogue(owner, STARTER)


def test_an_error_names_the_line_of_the_file_even_after_cells_of_several_lines(owner: Connection, folder: Path) -> None:
    lines = (folder / "devices.csv").read_text(encoding="utf-8").count("\n")
    append(folder / "devices.csv", '9001,heat_pump,"Pump of\nthe future"\n\n9002,boat,Boat')
    with pytest.raises(psycopg.Error, match=rf'devices\.csv, line {lines + 4}: category_key "boat" is not in device_categories'):
        load_catalogue(owner, folder)


def test_a_misspelled_column_is_refused_even_if_it_is_empty(owner: Connection, folder: Path) -> None:
    path = folder / "program_tiers.csv"
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([f"{header},shared cap", *(f"{row}," for row in rows)]), encoding="utf-8")
    with pytest.raises(
        psycopg.Error, match=r'program_tiers\.csv, line 1: unknown column "shared cap"; the columns are program_id, id, name'
    ):
        load_catalogue(owner, folder)


def test_a_file_without_rows_retires_its_rows_only_if_confirmed(database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    main(["catalogue", "import", str(folder), "--name", "ours"])
    header = (folder / "program_utilities.csv").read_text(encoding="utf-8").splitlines()[0]
    for path in folder.glob("*.csv"):
        path.unlink()
    (folder / "program_utilities.csv").write_text(header + "\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="add --allow-empty"):
        main(["catalogue", "import", str(folder), "--name", "ours"])
    main(["catalogue", "import", str(folder), "--name", "ours", "--allow-empty"])
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select count(*) from app.program_utilities").fetchone() == (0,)


def test_all_errors_of_a_catalogue_are_reported(database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(folder / "devices.csv", "9001,heat_pump,Pump of the future\n9002,boat,Boat\nten,heat_pump,Tenth")
    monkeypatch.setenv("DATABASE_URL", database_url)
    with pytest.raises(SystemExit) as ended:
        main(["catalogue", "import", str(folder), "--name", "ours"])
    assert str(ended.value).splitlines() == [
        'error: The catalogue has 2 errors, the first in devices.csv, line 62: category_key "boat" is not in device_categories',
        'devices.csv, line 62: category_key "boat" is not in device_categories',
        'devices.csv, line 63: id "ten" is not a positive integer',
    ]


def test_the_checksum_tells_catalogues_apart(folder: Path) -> None:
    assert catalogue_checksum(folder) == catalogue_checksum(STARTER)
    append(folder / "devices.csv", "9001,heat_pump,Pump of the future")
    assert catalogue_checksum(folder) != catalogue_checksum(STARTER)


def test_the_columns_of_the_files_are_the_documented_ones(owner: Connection) -> None:
    documented = owner.execute("select file, array_agg(name) from app.catalogue_columns() group by file").fetchall()
    for file, columns in documented:
        with (STARTER / f"{file}.csv").open(encoding="utf-8") as opened:
            assert next(csv.reader(opened)) == columns


def test_imports_at_the_same_time_end_well(database_url: str, owner: Connection, folder: Path) -> None:
    append(folder / "devices.csv", "9001,heat_pump,Pump of the future")

    def load(_: int) -> int:
        with psycopg.connect(database_url) as connection:
            return load_catalogue(connection, folder)["devices"]["changed"]

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(load, range(8))) == 1


def test_a_customer_looked_up_many_times_at_once_is_made_once(database_url: str, organization: str) -> None:
    item = example_items()[0]

    def customer(_: int) -> int:
        with psycopg.connect(database_url, autocommit=True) as connection:
            return int(look_up(connection, organization, item)["customer_id"])

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(customer, range(32)))) == 1


def test_most_example_sites_are_eligible(owner: Connection, organization: str, clock: Clock) -> None:
    clock.freeze("2026-11-24 12:00:00+00")
    items = example_items()
    assert len({item["reference_id"] for item in items}) == len(items)

    eligible = 0
    failures: list[str | None] = []
    for item in items:
        try:
            eligible += look_up(owner, organization, item)["incentives"]["total_eligible_combinations"] > 0
        except psycopg.Error as error:
            failures.append(error.diag.message_primary)
    assert eligible > len(items) * 0.7
    assert set(failures) == {"Program lookup failed - no utility found"}
    assert len(failures) < 15


LARGE_CATALOGUE = """
    insert into app.utilities (key, name, country_code, region_code, source, catalogue)
    select 'tx-' || n, 'Utility ' || n, 'US', 'TX', 'test', 'test' from generate_series(1, 3000) n;

    insert into app.utility_service_areas (prefix, utility_key, rank)
    select lpad(n::text, 5, '0'), 'tx-' || n % 3000 + 1, 2 from generate_series(1, 60000) n;

    insert into app.programs (id, name, authority, authority_type, country_code, region_code, scope, source, catalogue)
    select 'tx-' || n, 'Program ' || n, 'Utility', 'utility', 'US', 'TX', 'utility', 'test', 'test' from generate_series(1, 3000) n;

    insert into app.program_utilities (program_id, utility_key)
    select 'tx-' || n, 'tx-' || n from generate_series(1, 3000) n;

    insert into app.program_tiers (program_id, id, name, category_keys, amount_type, amount)
    select 'tx-' || n, tier, tier, '{heat_pump}', 'flat', 100 from generate_series(1, 3000) n cross join unnest('{a,b,c}'::text[]) tier;

    analyze app.utilities, app.utility_service_areas, app.programs, app.program_utilities, app.program_tiers;
"""


def test_a_lookup_in_a_large_catalogue_reads_few_rows(owner: Connection, organization: str) -> None:
    owner.execute(LARGE_CATALOGUE)
    austin = {"street_1": "1 Congress Ave", "city": "Austin", "state_or_province_code": "TX", "postal_code": "78701", "country_code": "US"}
    item = {"reference_id": "site-1", "address": austin, "building_type": "RESIDENTIAL", "device_ids": [1, 9, 28]}

    before = catalogue_rows_read(owner)
    assert look_up(owner, organization, item)["utility"]["name"] == "Austin Energy"
    assert catalogue_rows_read(owner) - before < 100


def test_an_exported_catalogue_is_imported_again_without_a_change(database_url: str, tmp_path: Path) -> None:
    with psycopg.connect(database_url) as connection:
        assert export(connection, tmp_path / "new", "starter") == {
            path.stem: len(path.read_text(encoding="utf-8").splitlines()) - 1 for path in STARTER.glob("*.csv")
        }
        _, differences = try_rows(connection, read_folder(tmp_path / "new", "starter"))
        assert differences == Differences(0, [])


def test_an_export_overwrites_no_files_and_needs_a_catalogue(owner: Connection, folder: Path) -> None:
    with pytest.raises(CatalogueError, match="already has CSV files"):
        export(owner, folder, "starter")
    with pytest.raises(psycopg.Error, match="There is no catalogue with this name") as caught:
        export(owner, folder / "new", "none")
    assert caught.value.sqlstate == "PT404"
    assert not (folder / "new").exists()


def test_an_export_that_breaks_off_leaves_nothing_and_can_be_done_again(
    owner: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = csv.DictWriter.writerows, iter([True, True])

    def write_while_there_is_room(self: csv.DictWriter[str], rows: Iterable[dict[str, str]]) -> None:
        if not next(written, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, rows)

    monkeypatch.setattr(csv.DictWriter, "writerows", write_while_there_is_room)
    with pytest.raises(OSError, match="No space left"):
        export(owner, tmp_path, "starter")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    export(owner, tmp_path, "starter")


def test_the_commands_count_one_row_as_one_row(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    (tmp_path / "device_categories.csv").write_text("key,name,typical_cost,basis\nmine,Mine,100,A guess\n", encoding="utf-8")
    main(["catalogue", "import", str(tmp_path), "--name", "ours"])
    main(["catalogue", "list"])
    main(["catalogue", "export", str(tmp_path / "export"), "--name", "ours"])
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "device_categories: 1 row, 1 new or changed, 0 retired"
    assert told[1:3] == ["ours:", "  device_categories: 1 row"]
    assert told[-1].endswith("device_categories.csv: 1 row")


def test_a_mistake_is_seen_in_a_dry_run_and_undone_by_an_export(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    main(["catalogue", "import", str(STARTER), "--name", "ours"])
    main(["catalogue", "export", str(tmp_path / "before"), "--name", "ours"])
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    devices = tmp_path / "after" / "devices.csv"
    lines = devices.read_text(encoding="utf-8").splitlines()
    lines = [line.replace("ductless, one zone", "one zone") for line in lines if not line.startswith("59,")]
    devices.write_text("\n".join([*lines, "900,ev_charger,New"]), encoding="utf-8")
    capsys.readouterr()

    main(["catalogue", "import", str(tmp_path / "after"), "--name", "ours", "--dry-run"])
    told = capsys.readouterr().out.splitlines()
    assert told[:4] == [
        "devices 2: name Air-source heat pump, ductless, one zone -> Air-source heat pump, one zone",
        "devices 59: retired",
        "devices 900: added: id 900; name New; catalogue ours; category_key ev_charger",
        "devices: 59 rows, 2 new or changed, 1 retired",
    ]
    assert told[-1] == "A dry run: nothing was imported."
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select from app.devices where id = 900").fetchone() is None

    main(["catalogue", "import", str(tmp_path / "after"), "--name", "ours"])
    main(["catalogue", "import", str(tmp_path / "before"), "--name", "ours"])
    capsys.readouterr()
    main(["catalogue", "list"])
    assert capsys.readouterr().out.splitlines()[:3] == ["ours:", "  device_categories: 19 rows", "  devices: 59 rows, 1 retired"]
    with psycopg.connect(database_url) as connection:
        assert try_rows(connection, read_folder(STARTER, "ours"))[1].total == 0


def test_the_checks_of_a_catalogue_scale_linearly_with_its_rows(owner: Connection) -> None:
    program = {"authority": "X", "authority_type": "state", "country_code": "US", "region_code": "WY", "scope": "state", "source": "test"}
    tier = {"id": "a", "name": "Pumps", "category_keys": "heat_pump", "amount_type": "flat", "amount": "100"}

    def handled(programs: int) -> float:
        rows = {
            "catalogue": "large",
            "programs": [program | {"id": f"large-{n}", "name": f"Program {n}"} for n in range(programs)],
            "program_tiers": [tier | {"program_id": f"large-{n}"} for n in range(programs)],
        }
        query = "select count(*) from app.catalogue_row_errors(%(rows)s::jsonb)"
        [(errors,)], plans = Plans(owner).run(query, {"rows": json.dumps(rows)})
        assert errors == 0
        return rows_handled(plans)

    assert handled(5000) < 12 * handled(500)


def test_warnings_are_counted_by_kind_and_listed_by_choice(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    today = datetime.now(UTC).date()
    tiers = [f"wy-mine,a,Pump,heat_pump,flat,100,{today + timedelta(30)}", "wy-mine,b,Pump,heat_pump,flat,0,"]
    header = "program_id,id,name,category_keys,amount_type,amount,end_date"
    (tmp_path / "program_tiers.csv").write_text("\n".join([header, *tiers]), encoding="utf-8")
    (tmp_path / "programs.csv").write_text(
        "id,name,authority,authority_type,country_code,region_code,scope,source\nwy-mine,Mine,Wyoming,state,US,WY,state,test\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("DATABASE_URL", database_url)
    main(["catalogue", "import", str(tmp_path), "--name", "ours"])
    capsys.readouterr()
    counts = ["      1  ends soon", "      1  pays nothing", "2 warnings"]
    ends = f"ends soon: wy-mine a: on {today + timedelta(30)}"
    main(["catalogue", "check", "--name", "ours"])
    assert capsys.readouterr().out.splitlines() == [ends, "pays nothing: wy-mine b: the amount is 0", *counts]
    main(["catalogue", "check", "--name", "ours", "--warning", "ends soon"])
    assert capsys.readouterr().out.splitlines() == [ends, *counts]
    main(["catalogue", "check", "--name", "ours", "--days", "0"])
    assert capsys.readouterr().out.splitlines() == ["pays nothing: wy-mine b: the amount is 0", "      1  pays nothing", "1 warning"]


def test_another_folder_is_not_imported_as_the_starter_catalogue(database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    with pytest.raises(SystemExit, match="the starter catalogue is sql/catalogue"):
        main(["catalogue", "import", str(folder), "--name", "starter"])
