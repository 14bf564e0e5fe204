"""docs/operations: the alert rules do what they say, and every metric mentioned there is served."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pyshell.postgres.notifications import Notifier
from pyshell.settings import Settings
from pyshell.webhooks.sender import Sender
from pyshell.worker.process import Worker
from tests.operations_fixtures import FOLDER, needs_promtool, promtool

DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
METRIC = re.compile(r"\b(?:batch_lookups|http_server|process)_\w+")
SUFFIX = re.compile(r"_(total|bucket|count|sum)$")


def test_every_alert_says_what_is_wrong_and_links_to_help() -> None:
    runbook = (FOLDER / "runbook.md").read_text()
    headings = {re.sub(r"[^\w-]", "", line[4:].lower()) for line in runbook.splitlines() if line.startswith("### ")}
    assert len(RULES) > 20
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert re.fullmatch(r"[A-Z].*\.", rule["annotations"]["summary"])
        assert rule["annotations"]["runbook_url"] == f"runbook.md#{rule['alert'].lower()}"
    assert headings == {rule["alert"].lower() for rule in RULES}


@needs_promtool
def test_the_rules_pass_their_tests() -> None:
    for what, name in (("check", "alerts.yml"), ("test", "alerts_test.yml")):
        answer = promtool(what, "rules", FOLDER / name)
        assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_alert_is_tested() -> None:
    tested = (FOLDER / "alerts_test.yml").read_text()
    assert [rule["alert"] for rule in RULES if f'alertname="{rule["alert"]}"' not in tested] == []


async def test_every_metric_that_is_named_is_served(server: str) -> None:
    async with httpx.AsyncClient() as client:
        served = {family.name for family in text_string_to_metric_families((await client.get(f"{server}/metrics")).text)}
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing")
    notifier = Notifier(settings.database_url, "test")
    worker = Worker(settings, "key", notifier)
    served |= {metric.name for metric in [*worker.metrics(), *Sender(settings, notifier).metrics()]}
    named = {
        name
        for file in ("alerts.yml", "alerts_test.yml", "dashboard.json", "runbook.md")
        for name in METRIC.findall((FOLDER / file).read_text())
    }
    assert {name for name in named if name not in served and SUFFIX.sub("", name) not in served} == set()


async def test_counters_of_alerts_are_served_before_they_increase(server: str) -> None:
    """Prometheus sees no increase in a series that starts with its first events."""
    async with httpx.AsyncClient() as client:
        families = text_string_to_metric_families((await client.get(f"{server}/metrics")).text)
    served = [sample for family in families for sample in family.samples]
    watched = [
        (name, dict(re.findall(r'(\w+)="(\w+)"', labels)))
        for rule in RULES
        for name, labels in re.findall(r"increase\((\w+)\{(.*?)\}", rule["expr"])
        if "=~" not in labels
    ]
    assert len(watched) == 4
    for name, labels in watched:
        assert [sample for sample in served if sample.name == name and labels.items() <= sample.labels.items()], (name, labels)


def test_grafana_accepts_the_dashboard() -> None:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(taken)) == len(taken)
    for panel in panels:
        assert panel["title"]
        assert panel["targets"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


@needs_promtool
def test_the_expressions_of_the_dashboard_are_promql(tmp_path: Any) -> None:
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 40
    rules = [{"record": f"panel:{n}", "expr": expression.replace("$__rate_interval", "5m")} for n, expression in enumerate(expressions)]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    answer = promtool("check", "rules", file)
    assert answer.returncode == 0, answer.stdout + answer.stderr
