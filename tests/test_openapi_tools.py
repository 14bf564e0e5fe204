"""openapi.json with its users' tools: linters find nothing, and generated clients have every operation and work.

Tools in JavaScript need Node.js; `scripts/setup test` installs them into tests/openapi/node_modules.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pyshell.settings import ROOT
from tests.http_fixtures import OPENAPI, OrganizationClient, site

TOOLS = Path(__file__).with_name("openapi")
OPERATIONS = {operation["operationId"] for path in OPENAPI["paths"].values() for name, operation in path.items() if name != "parameters"}


def run(program: Path | str, *arguments: Path | str, folder: Path = ROOT) -> str:
    """The output of the program; fails if the program failed."""
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of the programs in JavaScript."""
    if shutil.which("node") is None or not (TOOLS / "node_modules").is_dir():
        pytest.skip("Node.js 20 or later, or what scripts/setup test installs with npm, is not here")
    return TOOLS / "node_modules" / ".bin"


def test_redocly_finds_nothing_to_say(programs: Path) -> None:
    run(programs / "redocly", "lint", "--config", TOOLS / "redocly.yaml", "--max-problems", "1000", "openapi.json")


def test_spectral_finds_nothing_to_say(programs: Path) -> None:
    run(programs / "spectral", "lint", "--ruleset", TOOLS / "spectral.yaml", "--fail-severity", "hint", "openapi.json")


def test_routes_and_events_share_no_tag() -> None:
    # OpenAPI Generator writes a file for each tag, and that of an event in place of that of routes.
    of_routes, of_events = (
        {tag for path in OPENAPI[part].values() for name, operation in path.items() if name != "parameters" for tag in operation["tags"]}
        for part in ("paths", "webhooks")
    )
    assert of_events
    assert of_routes & of_events == set()


def test_every_object_has_a_name() -> None:
    """Generators would make up a name. `allOf` adds members to a schema that has one."""

    def unnamed(schema: Any, place: str) -> list[str]:
        if isinstance(schema, list):
            return [found for number, part in enumerate(schema) for found in unnamed(part, f"{place}/{number}")]
        if not isinstance(schema, dict):
            return []
        variants = [variant for variant in schema.get("oneOf") or schema.get("anyOf") or [] if variant != {"type": "null"}]
        here = [place] if place.count("/") > 1 and (schema.get("properties") or len(variants) > 1) else []
        return here + [
            found
            for name, part in schema.items()
            if name not in ("example", "examples")
            for found in (
                [f for p in part for f in unnamed(p.get("properties", {}), place)] if name == "allOf" else unnamed(part, f"{place}/{name}")
            )
        ]

    schemas = OPENAPI["components"]["schemas"]
    assert [found for name, schema in schemas.items() for found in unnamed(schema, f"/{name}")] == []
    assert unnamed({"properties": {"a": {"properties": {"b": {}}}}}, "/A") == ["/A/properties/a"]


def test_no_schema_is_named_like_the_constructor_of_another() -> None:
    # In Go, NewKey() makes a Key.
    schemas = OPENAPI["components"]["schemas"].keys()
    assert [name for name in schemas if name.removeprefix("New") in schemas and name.startswith("New")] == []


def test_a_client_in_typescript_compiles_strictly_and_works(programs: Path, client: OrganizationClient, tmp_path: Path) -> None:
    for name in ("client.ts", "tsconfig.json", "package.json"):
        shutil.copy(TOOLS / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(TOOLS / "node_modules")
    run(programs / "openapi-typescript", ROOT / "openapi.json", "--output", tmp_path / "schema.d.ts")
    types = (tmp_path / "schema.d.ts").read_text()
    assert set(re.findall(r"^    (\w+): \{$", types.partition("export interface operations {")[2], re.MULTILINE)) >= OPERATIONS
    run(programs / "tsc", "--project", tmp_path)
    assert json.loads(run("node", tmp_path / "client.js", str(client.base_url), client.api_key)) == {
        "status": "pending",
        "uploaded": 1,
        "streets": ["200 N Spring St"],
        "sites": 0,
        "message": "Job cancelled successfully",
        "code": "job_ended",
        "utility": "Los Angeles Department of Water and Power",
    }


def unreadable(operation: Any) -> list[str]:
    """The media types that the generator has no word for: bodies other than JSON, and answers that are workbooks alone."""
    bodies = set(operation.get("requestBody", {}).get("content", {})) - {"application/json"}
    answer = list(operation["responses"].get("200", {}).get("content", {}))
    return [*bodies, *(media_type for media_type in answer if answer[1:] == [] and "spreadsheetml" in media_type)]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The package that openapi-python-client makes. It warns of what it cannot read, and of nothing else."""
    folder = tmp_path_factory.mktemp("generated")
    generator = Path(sys.executable).with_name("openapi-python-client")
    config = folder / "config.yaml"
    config.write_text("post_hooks: []\n")
    output = folder / "generated_client"
    said = run(generator, "generate", "--path", ROOT / "openapi.json", "--output-path", output, "--meta", "none", "--config", config)
    assert Counter(re.findall(r"WARNING (.*)", said)) == Counter(
        f"parsing {method.upper()} {path} within {operation['tags'][0].lower().replace(' ', '_')}."
        for path, operations in OPENAPI["paths"].items()
        for method, operation in operations.items()
        if method != "parameters"
        for _ in unreadable(operation)
    )
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("generated_client")
    finally:
        sys.path.remove(str(folder))


def test_a_client_in_python_has_every_operation_under_a_good_name(generated: ModuleType) -> None:
    [folder] = generated.__path__
    modules = {module.stem for module in Path(folder).glob("api/*/*.py")} - {"__init__"}
    assert modules == {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in OPERATIONS}
    models = {module.stem for module in Path(folder).glob("models/*.py")}
    assert [name for name in models if re.search(r"_type_\d|_response_\d|property", name)] == []


def test_a_client_in_python_works(generated: ModuleType, client: OrganizationClient) -> None:
    def api(name: str) -> ModuleType:
        return importlib.import_module(f"generated_client.api.{name}")

    models = importlib.import_module("generated_client.models")
    caller = generated.AuthenticatedClient(base_url=str(client.base_url), token=client.api_key, prefix="", auth_header_name="x-api-key")
    with caller:
        body = models.BatchLookupRequest.from_dict({"items": [site()]})
        created = api("batch_lookups.create_batch_lookup").sync(client=caller, body=body)
        job = api("batch_lookups.get_batch_lookup").sync(client=caller, job_id=created.job_id)
        assert (job.status, job.total_items, job.item_counts.pending) == (models.JobStatus.PENDING, 1, 1)
        items = api("batch_lookups.list_batch_lookup_items").sync(client=caller, job_id=created.job_id, status=models.ItemStatus.PENDING)
        assert items.items[0].address.street_1 == site()["address"]["street_1"]
        report = api("reports.get_incentive_report").sync(client=caller, report_id=created.report.id)
        assert (report.job_id, report.sites) == (created.job_id, [])
        lookup = models.LookupRequest.from_dict(site())
        assert api("incentives.lookup_incentives").sync(client=caller, body=lookup).incentives.total_incentive_amount > 0
        api("batch_lookups.cancel_batch_lookup").sync(client=caller, job_id=created.job_id)
        refused = api("batch_lookups.cancel_batch_lookup").sync(client=caller, job_id=created.job_id)
        assert isinstance(refused, models.Error)
        assert refused.code == "job_ended"
