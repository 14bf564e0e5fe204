"""Runs a file of pgTAP assertions with psql and reads what it says, which is the Test Anything Protocol."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

PLAN = re.compile(r"1\.\.(\d+)")
ASSERTION = re.compile(r"(?P<failed>not )?ok (?P<number>\d+)(?P<description>.*)")
# A failed assertion is read by itself: one that starts like this, or has fewer than four words, says too little.
FRAGMENT = re.compile(
    r"(and|or|nor|but|so|which|whose|then|unless|until|too|also|it|its|they|them|their|these|those|not|with|of|as|once)\b"
)
ANY_MESSAGE = re.compile(r"'PT\d{3}',\s*null")
EXCUSED = re.compile(r"# (TODO|SKIP)\b", re.IGNORECASE)


@dataclass
class Outcome:
    """The outcome of a run of assertions. `failures` has each failed assertion with pgTAP's explanation."""

    planned: int | None = None
    passed: int = 0
    failures: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)

    def fragments(self) -> list[str]:
        return [text for text in self.descriptions if len(text.split()) < 4 or FRAGMENT.match(text)]

    def problems(self) -> list[str]:
        """The failures, and whatever makes the run itself doubtful; empty if there are none."""
        problems = list(self.failures)
        ran = self.passed + len(self.failures)
        if self.planned is None:
            problems.append("There is no plan: the file must begin with select plan(n).")
        elif self.planned != ran:
            problems.append(f"{self.planned} assertions were planned, and {ran} ran.")
        return problems


def run_file(psql: Path, database_url: str, file: Path, *options: str) -> list[str]:
    """The problems of one file, run in `database_url` with pgTAP in schema `tap`. `options` are settings, such as `jit=off`."""
    settings = ["search_path=public,tap", "client_min_messages=warning", *options]
    process = subprocess.run(
        [psql, database_url, "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", f"--file={file}"],
        env=os.environ | {"PGOPTIONS": " ".join(f"-c {setting}" for setting in settings)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    outcome = read_tap(process.stdout)
    problems = outcome.problems()
    problems += [f"This says nothing by itself: {text!r}" for text in outcome.fragments()]
    if process.returncode or process.stderr:
        problems.append(process.stderr.strip() or f"psql ended with status {process.returncode}.")
    if not re.search(r"^select \* from finish\(\);\s+rollback;\s*\Z", file.read_text(), re.MULTILINE):
        problems.append("The file must end with select * from finish(); and rollback;")
    if ANY_MESSAGE.search(file.read_text()):
        problems.append("A refusal must be asserted with its message.")
    return problems


def read_tap(output: str) -> Outcome:
    outcome = Outcome()
    explained = False
    for line in output.splitlines():
        if plan := PLAN.fullmatch(line):
            outcome.planned = int(plan[1])
        elif assertion := ASSERTION.match(line):
            outcome.descriptions.append(assertion["description"].strip(" -"))
            explained = bool(assertion["failed"]) and not EXCUSED.search(line)
            if explained:
                outcome.failures.append(line)
            else:
                outcome.passed += 1
        elif explained and line.startswith("#"):
            outcome.failures[-1] += f"\n    {line}"
    return outcome
