"""What `make demo` shows and saves."""

from __future__ import annotations

import csv
from pathlib import Path

from pyshell.local.demo import progress_line, read_sites, write_results


def test_the_progress_line_fits_the_terminal() -> None:
    job = {"total_items": 250, "processed_items": 130, "failed_items": 2}
    line = progress_line(job, 6.5, 80)
    assert len(line) < 80
    assert line.endswith("]  52%  130/250 done  2 failed  120 left  20.0/s")
    assert line.count("#") >= line.count("-") > 0


def test_sites_are_read_as_items(tmp_path: Path) -> None:
    file = tmp_path / "sites.csv"
    file.write_text(
        "reference_id,street_1,street_2,city,state_or_province_code,postal_code,country_code,building_type,device_ids\n"
        'a-1,"1 Main St, Suite 2",,Boston,MA,02108,US,COMMERCIAL,1;1;7\n'
    )
    assert read_sites(file) == [
        {
            "reference_id": "a-1",
            "address": {
                "street_1": "1 Main St, Suite 2",
                "city": "Boston",
                "state_or_province_code": "MA",
                "postal_code": "02108",
                "country_code": "US",
            },
            "building_type": "COMMERCIAL",
            "device_ids": [1, 1, 7],
        }
    ]


def test_results_are_saved_whatever_became_of_the_site(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    site = {"reference_id": "a-1", "address": {"city": "Boston", "state_or_province_code": "MA"}, "building_type": "COMMERCIAL"}
    program = {"program_name": "Heat pumps", "eligible_combinations": 1}
    other = {"program_name": "Solar", "eligible_combinations": 0}
    found = {"utility": {"name": "Eversource"}, "incentives": {"total_incentive_amount": 800, "by_program": [program, other]}}
    write_results(
        file,
        [
            site | {"status": "completed", "result": found, "error_message": None},
            site | {"status": "failed", "result": None, "error_message": "no utility found"},
        ],
    )
    with file.open(newline="") as saved:
        rows = list(csv.DictReader(saved))
    assert [row["total_incentive_amount"] for row in rows] == ["800", ""]
    assert [row["programs"] for row in rows] == ["Heat pumps", ""]
    assert rows[1]["error"] == "no utility found"
