"""The service itself: health, routing, request ids, the prefix, the loss of the database."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
from starlette.routing import Route

from pyshell import logs
from pyshell.api.routes import routes, service
from pyshell.api.routes.service import Readiness
from pyshell.deploy import migrations
from pyshell.postgres.pool import Pool
from pyshell.settings import Settings
from tests.conftest import Connection
from tests.http_fixtures import OPENAPI, UNKNOWN_ID, Json, OrganizationClient, running_server, validator
from tests.timed import wait_until


def test_it_is_up_and_ready(server: str) -> None:
    assert httpx.get(f"{server}/healthz").json() == {"status": "up"}
    assert httpx.get(f"{server}/readyz").json() == {"status": "ready"}


def test_without_a_database_it_is_up_but_not_ready(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with running_server(Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing")) as url:
        assert httpx.get(f"{url}/healthz").status_code == 200
        response = httpx.get(f"{url}/readyz", timeout=20)
        assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
        assert "nobody" not in response.text
    # A successful probe is not logged.
    assert [record.getMessage() for record in caplog.records if record.name == "pyshell.access"] == ["GET /readyz 503"]


def test_a_database_without_migrations_is_not_ready(new_database: Callable[..., str]) -> None:
    with running_server(Settings(database_url=new_database(empty=True))) as url:
        response = httpx.get(f"{url}/readyz", timeout=20)
        assert response.status_code == 503


async def test_probes_at_the_same_time_share_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def ask(*_: object) -> bytes:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        raise TimeoutError

    monkeypatch.setattr(service, "call", ask)
    readiness = Readiness(cast(Pool, None))
    problems = await asyncio.gather(*(readiness.problem() for _ in range(50)))
    assert [problem and problem.code for problem in problems] == ["database_unavailable"] * 50
    assert asked == 1
    await readiness.problem()
    assert asked == 2, "the next one is a check of its own"


async def test_the_release_of_a_process_is_the_one_that_it_was_started_from(monkeypatch: pytest.MonkeyPatch) -> None:
    class Writable:
        async def is_read_only(self) -> bool:
            return False

    async def applied(*_: object) -> bytes:
        return json.dumps([{"name": name, "checksum": checksums[0]} for name, checksums in release.items()]).encode()

    release = migrations.read_release()
    monkeypatch.setattr(service, "call", applied)
    readiness = Readiness(cast(Pool, Writable()))
    monkeypatch.setattr(migrations, "sql_files", lambda folder: [folder / "9999_of_the_next_release.sql"])
    assert await readiness.problem() is None


def test_the_description_is_valid_and_complete(server: str) -> None:
    description = httpx.get(f"{server}/openapi.json").json()
    assert description["paths"] == OPENAPI["paths"]
    served = {
        (route.path, method.lower()) for route in routes if isinstance(route, Route) for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(path, method) for path, operations in OPENAPI["paths"].items() for method in operations if method != "parameters"}
    assert served == described


def test_the_examples_of_the_description_are_as_described() -> None:
    contents = list(find_contents(OPENAPI))
    assert len(contents) > 20
    for content in contents:
        examples = [example["value"] for example in content.get("examples", {}).values()] + [
            content[key] for key in {"example"} & set(content)
        ]
        for example in examples:
            validator(json.dumps(content["schema"])).validate(example)


def test_members_that_are_not_described_fail_the_validation() -> None:
    assert [path for path, schema in find_objects(OPENAPI) if schema.keys().isdisjoint({"properties", "additionalProperties"})] == []


def find_objects(part: Any, path: str = "") -> Iterator[tuple[str, Json]]:
    """The schemas of objects in a part of the description, each with its place."""
    if isinstance(part, dict) and "object" in (part.get("type") or ()):
        yield path, part
    for name, inner in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        yield from find_objects(inner, f"{path}/{name}")


def find_contents(part: Any) -> Iterator[Json]:
    """The bodies, each with schema and examples, in a part of the description."""
    if isinstance(part, dict):
        yield from part.get("content", {}).values()
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from find_contents(inner)


def test_an_unknown_address_is_not_found(server: str) -> None:
    for path in ["/batch-lookup", "/batch-lookups/x/y", "/functions/v1/batch-lookups"]:
        response = httpx.get(server + path)
        assert response.status_code == 404
        assert response.json()["code"] == "route_not_found"
        assert response.json()["request_id"] == response.headers["x-request-id"]


def test_a_method_that_is_not_allowed_is_named(server: str) -> None:
    response = httpx.delete(f"{server}/batch-lookups")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, POST")
    assert (response.json()["code"], response.json()["hint"]) == ("method_not_allowed", "This route has GET, HEAD, POST.")
    # Not an id for the route beside it, which has other methods.
    assert httpx.delete(f"{server}/incentive-reports/diff").headers["allow"] == "GET, HEAD"
    assert httpx.put(f"{server}/batch-lookups/{UNKNOWN_ID}").headers["allow"] == "DELETE, GET, HEAD"


def test_a_request_keeps_its_id(server: str) -> None:
    response = httpx.get(f"{server}/batch-lookups", headers={"x-request-id": "client-7.a_b~c"})
    assert response.headers["x-request-id"] == response.json()["request_id"] == "client-7.a_b~c"


@pytest.mark.parametrize("request_id", ["", "a" * 129, 'a"b', "a b", "<script>"])
def test_an_invalid_request_id_is_replaced(server: str, request_id: str) -> None:
    response = httpx.get(f"{server}/batch-lookups", headers={"x-request-id": request_id})
    assert response.headers["x-request-id"] == response.json()["request_id"] != request_id


def test_a_request_is_one_line_in_the_log(client: OrganizationClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client.get("/batch-lookups", headers={"x-request-id": "logged-once"})

    def logged() -> list[Json]:
        lines = [json.loads(logs.JsonFormatter().format(record)) for record in caplog.records if record.name == "pyshell.access"]
        return [line for line in lines if line["request_id"] == "logged-once"]

    # It is written after the response has been sent.
    wait_until(logged)
    [line] = logged()
    assert (line["method"], line["path"], line["status"]) == ("GET", "/batch-lookups", 200)


def test_it_can_be_mounted_under_a_prefix(http_settings: Settings, client: OrganizationClient) -> None:
    settings = Settings(database_url=http_settings.database_url, api_key_pepper=http_settings.api_key_pepper, root_path="/alpha")
    with running_server(settings) as url:
        headers = {"x-api-key": client.api_key}
        assert httpx.get(f"{url}/alpha/batch-lookups", headers=headers).status_code == 200
        assert httpx.get(f"{url}/batch-lookups", headers=headers).status_code == 200
        assert httpx.get(f"{url}/alphabet/batch-lookups", headers=headers).status_code == 404
        assert httpx.delete(f"{url}/alpha/batch-lookups").headers["allow"] == "GET, HEAD, POST"
        assert httpx.get(f"{url}/alpha/openapi.json").json()["servers"] == [{"url": "/alpha"}]


@pytest.mark.parametrize("root_path", ["", "/alpha"])
def test_paths_that_a_proxy_may_block_have_one_spelling(http_settings: Settings, root_path: str) -> None:
    """As `location = /metrics` of nginx matches it."""
    with running_server(replace(http_settings, root_path=root_path)) as url, httpx.Client(base_url=url) as client:
        for name in ("metrics", "readyz", "healthz"):
            assert client.get(f"{root_path}/{name}").status_code == 200
            for other in (f"/{name}/", f"//{name}", f"/{name}%2F", f"/%{ord(name[0]):x}{name[1:]}"):
                assert client.get(f"{root_path}{other}" if root_path else f"{url}{other}").status_code == 404, other


def test_a_server_error_reveals_nothing(server: str, client: OrganizationClient, database: Connection) -> None:
    database.execute("alter function app.check_choice rename to check_choice_away")
    try:
        response = httpx.get(f"{server}/incentive-reports", headers={"x-api-key": client.api_key})
    finally:
        database.execute("alter function app.check_choice_away rename to check_choice")
    assert response.status_code == 500
    assert response.json() == {
        "error": "Internal server error",
        "code": "internal_error",
        "request_id": response.headers["x-request-id"],
    }


def test_a_missing_function_means_pending_migrations(server: str, client: OrganizationClient, database: Connection) -> None:
    database.execute("alter function api.list_incentive_reports rename to list_incentive_reports_away")
    try:
        response = client.get("/incentive-reports")
    finally:
        database.execute("alter function api.list_incentive_reports_away rename to list_incentive_reports")
    assert (response.status_code, response.json()["code"]) == (503, "migrations_pending")
