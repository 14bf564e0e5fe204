"""Judges metrics by the alert rules of docs/operations, with Prometheus's own promtool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from pyshell.settings import ROOT

FOLDER = ROOT / "docs" / "operations"
PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def fires(alert: str, before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Whether an alert fires within two hours after two scrapes, if gauges stay the same and counters keep growing at their rate."""
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    # promtool evaluates every rule that it has for every minute.
    groups = [group | {"rules": [rule for rule in group["rules"] if rule["alert"] == alert]} for group in groups]
    series = []
    for name, value in after.items():
        labelled = name if "{" in name else f"{name}{{}}"
        labelled = labelled.replace("{", '{instance="a",', 1).replace(",}", "}")
        grown = value - before.get(name, 0) if re.match(r"\w+_(total|count|sum|bucket)\b", name) else 0
        series.append({"series": labelled, "values": f"{value:f}+{grown:f}x120"})
    test = {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [
            {"expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})', "eval_time": "2h", "exp_samples": [{"value": 1}]}
        ],
    }
    with tempfile.TemporaryDirectory() as name:
        # JSON is YAML.
        rules, file = Path(name) / "rules.yml", Path(name) / "test.yml"
        rules.write_text(json.dumps({"groups": groups}))
        file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]}))
        answer = promtool("test", "rules", file)
    assert answer.returncode == 0 or "expr:" in answer.stderr + answer.stdout, answer.stderr + answer.stdout
    return answer.returncode == 0
