"""Fixtures and helpers of the HTTP tests: a running server, and clients of organizations that check every response against openapi.json."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn
from jsonschema import Draft202012Validator, FormatChecker
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyshell.api import api_keys
from pyshell.api.app import create_app, server_config
from pyshell.deploy import error_reference
from pyshell.settings import Settings
from tests.conftest import Connection
from tests.timed import wait_until

OPENAPI = json.loads((Path(__file__).parents[1] / "openapi.json").read_text())
PEPPER = "pepper of the tests, long enough to be one"
# An id that does not exist. It is not random, because test names must be the same in all processes of a run.
UNKNOWN_ID = "5a8b54ab-0b0c-4d3e-9d8c-3f1f6e0f3c11"

Json = dict[str, Any]


ERRORS = error_reference.listed()


def with_listed_errors(app: ASGIApp, others: list[tuple[str, int]]) -> ASGIApp:
    """The application; errors that docs/errors.md does not list are added to `others`."""

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        status = 0
        headers = Headers()

        async def note_and_send(message: Message) -> None:
            nonlocal status, headers
            if message["type"].endswith("http.response.start"):
                status = message["status"]
                headers = Headers(raw=message["headers"])
            elif (
                message["type"].endswith("http.response.body")
                and status >= 400
                and not headers.get("content-type", "").startswith("text/html")
                and scope.get("method") not in ("HEAD", "OPTIONS")
            ):
                body = gzip.decompress(message["body"]) if "content-encoding" in headers else message["body"]
                error = (json.loads(body)["code"], status)
                if error not in ERRORS:
                    others.append(error)
            await send(message)

        await app(scope, receive, note_and_send)

    return watched


@contextmanager
def running_server(settings: Settings, port: int = 0) -> Iterator[str]:
    """The URL of a server on a thread, on the given port or a free one. Fails in the end if a response had an unlisted error."""
    listener = socket.create_server(("127.0.0.1", port))
    settings = replace(settings, port=listener.getsockname()[1])
    others: list[tuple[str, int]] = []
    app = with_listed_errors(create_app(settings, lambda: serving.should_exit), others)
    serving = uvicorn.Server(server_config(app, settings))
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: serving.started or not thread.is_alive())
        yield f"http://127.0.0.1:{settings.port}"
    finally:
        serving.should_exit = True
        thread.join()
    assert not others, "errors that no source raises"


def is_ready(url: str) -> bool:
    """Whether an API in another process serves requests at this URL."""
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def http_settings(new_database: Callable[..., str]) -> Settings:
    settings = Settings(database_url=new_database(), api_key_pepper=PEPPER, forwarded_allow_ips="127.0.0.1")
    with psycopg.connect(settings.database_url) as connection:
        connection.execute("select api.update_settings('{\"lookups_per_second\": null}')")
    return settings


@pytest.fixture(scope="session")
def server(http_settings: Settings) -> Iterator[str]:
    with running_server(http_settings) as url:
        yield url


@pytest.fixture
def database(http_settings: Settings) -> Iterator[Connection]:
    """A connection as owner, to see what is stored and to act as the worker. Settings that a test changes are restored after it."""
    settings = "select api.get_settings()::jsonb - 'updated_at'"
    with psycopg.connect(http_settings.database_url, autocommit=True) as connection:
        before = connection.execute(settings).fetchone()
        yield connection
        if connection.execute(settings).fetchone() != before:
            connection.execute("select api.update_settings(%s)", [json.dumps((before or [None])[0])])


NewClient = Callable[[], "OrganizationClient"]


@pytest.fixture
def new_client(server: str, http_settings: Settings) -> Iterator[NewClient]:
    """Makes clients, each with the key of a new organization."""
    clients: list[OrganizationClient] = []

    def make() -> OrganizationClient:
        clients.append(OrganizationClient(server, http_settings.database_url))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(new_client: NewClient) -> OrganizationClient:
    return new_client()


class OrganizationClient(httpx.Client):
    """An HTTP client with the API key of its own organization, which checks every response against openapi.json."""

    def __init__(self, server: str, database_url: str) -> None:
        self.organization = f"organization {uuid.uuid4()}"
        self.api_key = api_keys.create(database_url, self.organization, pepper=PEPPER)
        super().__init__(
            base_url=server,
            headers={"x-api-key": self.api_key},
            timeout=30,
            event_hooks={"response": [check_against_openapi]},
        )

    def submit(self, *items: Json) -> Json:
        """The response to a new batch, with one usual item by default."""
        response = self.post("/batch-lookups", json={"items": list(items or [site()])})
        assert response.status_code == 201, response.text
        created: Json = response.json()
        return created

    def upload(self, lines: str, **query: str) -> Json:
        """A new draft of these lines of CSV."""
        response = self.post("/uploads", params=query, content=lines, headers={"content-type": "text/csv"})
        assert response.status_code == 201, response.text
        made: Json = response.json()
        return made


def site(reference_id: str = "deal-001", **changes: Any) -> Json:
    """A valid item, with these changes."""
    return {"reference_id": reference_id, "address": address(), "building_type": "RESIDENTIAL", "device_ids": [1]} | changes


def address(**changes: Any) -> Json:
    return {
        "street_1": "200 N Spring St",
        "city": "Los Angeles",
        "state_or_province_code": "CA",
        "postal_code": "90012",
        "country_code": "US",
    } | changes


def organization_of(database: Connection, job: Json) -> object:
    [organization_id] = database.execute(
        "select organization_id from public.batch_lookup_jobs where id = %s", [job["job_id"]]
    ).fetchone() or [None]
    return organization_id


def look_up(database: Connection, job: Json, count: int, answer: Json | str | None = None, status: int = 200) -> None:
    """Acts as the worker: claims up to `count` items of the job's organization, and records the same response for each."""
    organization_id = organization_of(database, job)
    database.execute(
        """select api.record_lookups(%s, array_agg(job_id), array_agg(position), array_agg(lease_token), array_agg(%s::integer),
                                     array_agg(null::text), array_agg(%s::text), array_agg(null::double precision))
             from api.claim_lookups(%s, 'test', %s)""",
        [organization_id, status, answer if isinstance(answer, str) else json.dumps(answer or {}), organization_id, count],
    )


def lines_until_the_end(client: httpx.Client, url: str, ends: Callable[[], object], **headers: str) -> int:
    """How many lines of a download arrive before the connection is closed. The permission to read it ends after the first."""
    count = 0
    with client.stream("GET", url, headers=headers) as response:
        try:
            for _ in response.iter_lines():
                count += 1
                if count == 1:
                    ends()
        except httpx.RemoteProtocolError:
            return count
    raise AssertionError(f"all {count} lines came")


def check_against_openapi(response: httpx.Response) -> None:
    """Fails unless openapi.json describes the response's route, status, headers and body."""
    method = response.request.method.lower()
    described = described_responses(response.request.url.path, method)
    if described is None:
        assert response.status_code in (404, 405)
        return
    assert str(response.status_code) in described, f"undocumented {response.status_code} of {method} {response.request.url.path}"
    assert response.headers["x-request-id"]
    content = described[str(response.status_code)].get("content")
    if content is None:
        response.read()
        assert response.content == b""
        return
    media_type = response.headers["content-type"].partition(";")[0]
    assert media_type in content
    if method != "head" and media_type == "application/json":
        response.read()
        validator(json.dumps(content[media_type]["schema"])).validate(response.json())


def described_responses(path: str, method: str) -> Json | None:
    for template, operations in OPENAPI["paths"].items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path) and method in operations:
            return {status: resolve(response) for status, response in operations[method]["responses"].items()}
    return None


def resolve(response: Json) -> Json:
    if "$ref" in response:
        resolved: Json = OPENAPI["components"]["responses"][response["$ref"].rpartition("/")[2]]
        return resolved
    return response


@cache
def validator(schema: str) -> Draft202012Validator:
    """Checks a response against a schema whose objects have only the described members, unless `additionalProperties` allows more."""
    return Draft202012Validator(closed(json.loads(schema)) | {"components": CLOSED_COMPONENTS}, format_checker=FormatChecker(["uuid"]))


def closed(schema: Any, *, part: bool = False) -> Any:
    """The schema with its objects closed; `part`: all but itself, because it is part of one that is closed as a whole."""
    if not isinstance(schema, dict):
        return schema
    is_object = not schema.keys().isdisjoint({"properties", "allOf"})
    copy: Json = {}
    for keyword, value in schema.items():
        if keyword in ("properties", "$defs"):
            copy[keyword] = {name: closed(member) for name, member in value.items()}
        elif keyword in ("items", "additionalProperties"):
            copy[keyword] = closed(value)
        elif keyword in ("allOf", "anyOf", "oneOf"):
            copy[keyword] = [closed(branch, part=is_object) for branch in value]
        elif keyword == "$ref" and part:
            copy[keyword] = value.replace("/schemas/", "/parts/")
        else:
            copy[keyword] = value
    if is_object and not part and "additionalProperties" not in schema:
        copy["unevaluatedProperties"] = False
    return copy


CLOSED_COMPONENTS = {
    "schemas": {name: closed(schema) for name, schema in OPENAPI["components"]["schemas"].items()},
    "parts": {name: closed(schema, part=True) for name, schema in OPENAPI["components"]["schemas"].items()},
}
