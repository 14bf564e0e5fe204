"""What `make demo` shows."""

from __future__ import annotations

import pytest

from pyshell.local import progress_bar
from pyshell.local.demo import client_of, progress, report_text


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever needs one to install what is missing has it set."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    for name in ("http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with client_of(server, "key") as client:
        assert client.get("/healthz").status_code == 200


def test_the_progress_is_told_in_a_line() -> None:
    job = {"total_items": 250, "processed_items": 130, "failed_items": 2}
    assert progress(job, 6.5) == "130/250 done, 2 failed, 20.0/s"
    assert progress(job, 0) == "130/250 done, 2 failed, 0.0/s"


def test_the_report_names_what_pays_and_what_failed() -> None:
    report = {"name": "Batch", "status": "complete", "total_sites": 1236, "eligible_sites": 130, "total_incentive_value": 85850.5}
    program = {"program_name": "Heat pumps", "eligible_sites": 12, "total_incentive_value": 9600}
    text = report_text({"errors_by_code": {"not_found": 9}}, {"report": report, "by_program": [program]})
    assert text == (
        "Batch: complete\n"
        "  Sites looked up          1,236\n"
        "  Eligible sites             130\n"
        "  Incentives found    $85,850.50\n"
        "\n"
        "Top programs\n"
        "      $9,600    12 sites  Heat pumps\n"
        "\n"
        "Not looked up\n"
        "     9  not_found\n"
    )
    nothing = report_text({"errors_by_code": {}}, {"report": report, "by_program": []})
    assert nothing.endswith("$85,850.50\n")


def test_without_a_terminal_a_bar_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar.shown(line_every=60) as show:
        show(0.5, "half")
        show(0.6, "more")
    assert capsys.readouterr().err == f"{'█' * 15}{'░' * 15}  50% half\n"
    with progress_bar.shown() as show:
        show(0.5, "half")
    assert capsys.readouterr().err == ""
