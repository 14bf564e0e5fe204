"""What holds for all routes: pages and cursors, query parameters, the forms of numbers and times, URLs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from pyshell.api.errors import ApiError
from pyshell.api.routes.parameters import time_param
from pyshell.settings import ROOT, Settings
from tests.conftest import Connection
from tests.http_fixtures import OPENAPI, Json, NewClient, OrganizationClient, look_up, running_server, site

SECRET = "the internal credential of the tests"
ANSWER = {"incentives": {"by_program": [{"program_id": "p", "program_name": "P", "total_incentive": 1, "eligible_combinations": 1}]}}


def operations() -> Iterator[tuple[str, str, list[str]]]:
    """Method, path and query parameters of everything in openapi.json, except static files."""
    for path, described in OPENAPI["paths"].items():
        for method, operation in described.items():
            if method != "parameters" and not path.startswith(("/openapi.json", "/docs", "/portal")):
                parameters = [resolved(parameter) for parameter in operation.get("parameters", [])]
                yield method, path, [parameter["name"] for parameter in parameters if parameter["in"] == "query"]


def resolved(parameter: Json) -> Json:
    if "$ref" in parameter:
        found: Json = OPENAPI["components"]["parameters"][parameter["$ref"].rpartition("/")[2]]
        return found
    return parameter


# A difference needs two reports: tests/test_http_report_differences.py follows its pages.
LISTS = [
    path for method, path, parameters in operations() if method == "get" and "cursor" in parameters and path != "/incentive-reports/diff"
]


@pytest.fixture
def filled(client: OrganizationClient, database: Connection) -> dict[str, str]:
    """The URL of each list, with five of everything in it."""
    client.put("/webhook-config", json={"url": "https://example.com/hook"})
    for _ in range(4):
        client.post("/api-keys", json={})
        client.submit()
    for _ in range(5):
        upload = client.post("/uploads", json=[site(f"deal-{number}") for number in range(5)]).json()
    created = client.submit(*(site(f"deal-{number}", create_application=True) for number in range(5)))
    look_up(database, created, 100, ANSWER)
    database.execute("update public.batch_lookup_jobs set created_at = now()")
    ids = {"{job_id}": created["job_id"], "{report_id}": created["report"]["id"], "{upload_id}": upload["id"]}
    return {path: re.sub(r"{\w+}", lambda found: ids[found[0]], path) for path in LISTS}


def test_all_lists_have_cursors() -> None:
    assert sorted(LISTS) == [
        "/api-keys",
        "/applications",
        "/audit-events",
        "/batch-lookups",
        "/batch-lookups/{job_id}/items",
        "/incentive-reports",
        "/incentive-reports/{report_id}",
        "/uploads",
        "/uploads/{upload_id}/rows",
        "/usage",
        "/webhook-deliveries",
    ]


@pytest.mark.parametrize("path", LISTS)
def test_a_list_is_followed_by_its_cursor_and_by_its_link(client: OrganizationClient, filled: dict[str, str], path: str) -> None:
    def entries(page: Json) -> list[Json]:
        [found] = [value for value in page.values() if isinstance(value, list)]
        return found

    everything = client.get(filled[path]).json()
    assert everything["total"] == len(entries(everything)) >= 5
    assert (everything["offset"], everything["next_cursor"]) == (0, None)

    by_cursor, by_link, url = [], [], f"{filled[path]}?limit=2"
    query: dict[str, Any] = {"limit": 2}
    while True:
        response, linked = client.get(filled[path], params=query), client.get(url)
        page = response.json()
        by_cursor += entries(page)
        by_link += entries(linked.json())
        assert page["total"] == everything["total"]
        assert (page["next_cursor"] is None) == ("link" not in response.headers)
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
        assert linked.links["next"]["url"].startswith(filled[path] + "?")
        url = linked.links["next"]["url"]
    assert by_cursor == by_link == entries(everything)


@pytest.mark.parametrize("path", LISTS)
def test_a_cursor_belongs_to_one_list_and_excludes_an_offset(client: OrganizationClient, filled: dict[str, str], path: str) -> None:
    other = next(other for other in LISTS if other != path)
    foreign = client.get(filled[other], params={"limit": 1}).json()["next_cursor"]
    own = client.get(filled[path], params={"limit": 1}).json()["next_cursor"]
    for query, code in [
        ({"cursor": foreign}, "invalid_cursor"),
        ({"cursor": "x"}, "invalid_cursor"),
        ({"cursor": ""}, "invalid_cursor"),
        ({"cursor": own, "offset": 1}, "cursor_with_offset"),
    ]:
        response = client.get(filled[path], params=query)
        assert (response.status_code, response.json()["code"]) == (400, code)
    for wrong in ("0", "x", "1.5", "99999999999", ""):
        response = client.get(filled[path], params={"limit": wrong})
        assert (response.status_code, response.json()["code"]) == (400, "invalid_limit")
        assert re.fullmatch(r"limit must be a whole number from 1 to \d00", response.json()["error"])
        response = client.get(filled[path], params={"offset": "-1"})
        assert (response.status_code, response.json()["code"]) == (400, "invalid_offset")
        assert response.json()["error"] == "offset must be a whole number from 0 to 2147483647"


def test_a_cursor_through_a_prefix_links_below_it(http_settings: Settings, new_client: NewClient) -> None:
    client = new_client()
    client.submit()
    client.submit()
    with running_server(replace(http_settings, root_path="/alpha")) as server:
        for path in ("/batch-lookups", "/alpha/batch-lookups"):
            response = httpx.get(server + path, params={"limit": 1, "offset": 0}, headers={"x-api-key": client.api_key})
            assert response.links["next"]["url"] == f"/alpha/batch-lookups?limit=1&cursor={response.json()['next_cursor']}"


def test_every_route_refuses_parameters_that_its_description_lacks(http_settings: Settings, client: OrganizationClient) -> None:
    ids = {"application_id": "1"}
    with running_server(replace(http_settings, service_role_key=SECRET)) as server:
        for method, path, known in operations():
            if path == "/realtime/v1/websocket":
                continue  # supabase-js chooses its own parameters
            internal = {"Authorization": f"Bearer {SECRET}", "x-supabase-internal": "true"}
            headers = internal if "batch-lookups-worker" in path or path.startswith("/operations") else {"x-api-key": client.api_key}
            url = server + re.sub(r"{(\w+)}", lambda found: ids.get(found[1], "00000000-0000-4000-8000-000000000000"), path)
            response = httpx.request(method, url, params={"colour": "1", "limits": "2"}, headers=headers)
            assert (response.status_code, response.json()["code"]) == (400, "unknown_parameter"), (method, path)
            assert response.json()["error"] == "Unknown query parameters: colour, limits"
            named = re.findall(r"\w+", response.json()["hint"].removeprefix("This route knows").replace("none", ""))
            assert sorted(named) == sorted(known), (method, path)


def test_a_refused_parameter_leaves_nothing_behind(client: OrganizationClient) -> None:
    response = client.post("/batch-lookups", params={"dryrun": "true"}, json=[site()])
    assert (response.status_code, response.json()["code"]) == (400, "unknown_parameter")
    assert client.get("/batch-lookups").json()["total"] == 0


def test_a_parameter_given_twice_is_refused(client: OrganizationClient) -> None:
    response = client.get("/batch-lookups?limit=1&limit=2")
    assert (response.status_code, response.json()["code"]) == (400, "repeated_parameter")
    assert response.json()["error"] == "Query parameters given more than once: limit"


def test_many_parameters_are_counted_once() -> None:
    """For each of them, time would grow with the square: with those of one long URL, the process would be occupied for seconds."""
    program = """
from starlette.requests import Request
from pyshell.api.errors import ApiError
from pyshell.api.routes.parameters import check_parameters
request = Request({"type": "http", "headers": [], "query_string": b"&".join([b"limit="] * 200_000)})
try:
    check_parameters(request, ("limit",))
except ApiError as error:
    assert error.code == "repeated_parameter"
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("path", ["/batch-lookups/", "//batch-lookups", "/batch-lookups/{job_id}/", "/batch-lookups//{job_id}///items//"])
def test_extra_slashes_change_nothing(server: str, client: OrganizationClient, path: str) -> None:
    path = path.format(job_id=client.submit()["job_id"])
    tidy = re.sub("/+", "/", path).rstrip("/")
    assert httpx.get(server + path, headers={"x-api-key": client.api_key}).json() == client.get(tidy).json()


def test_the_page_of_the_docs_is_found_with_a_slash(server: str) -> None:
    assert httpx.get(f"{server}/docs/", follow_redirects=True).url == f"{server}/docs"


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("2026-05-31", True),
        ("2026-05-31T08:00:00Z", True),
        ("2026-05-31T08:00:00.123456Z", True),
        ("2026-05-31t08:00:00z", True),
        ("2026-05-31T08:00:00+02:00", True),
        ("2026-05-31T08:00:00-14:59", True),
        ("2026-05-31 08:00:00Z", True),
        ("9999-12-31T23:59:59-14:00", True),
        ("2026-02-30", False),
        ("2026-05-31T08:00", False),
        ("2026-05-31T08:00:00", False),
        ("2026-05-31T24:00:00Z", False),
        ("2026-05-31T08:00:60Z", False),
        ("2026-05-31T08:00:00+24:00", False),
        ("0000-01-01", False),
        ("20260531", False),
        ("2026-W22-7", False),
        ("٢٠٢٦-05-31", False),
        ("tomorrow", False),
        ("infinity", False),
        ("", False),
    ],
)
def test_times_have_one_grammar(shared_owner: Connection, text: str, valid: bool) -> None:
    shared_owner.execute("set timezone to 'UTC'")
    [in_body] = shared_owner.execute("select app.parse_timestamp(%s)::text", [text]).fetchone() or [None]
    request = Request({"type": "http", "query_string": str(httpx.QueryParams({"at": text})).encode(), "headers": []})
    if not valid:
        assert in_body is None
        with pytest.raises(ApiError, match=r"at must be a date such as 2026-05-31 or a time such as 2026-05-31T08:00:00Z"):
            time_param(request, "at")
        return
    [in_query] = shared_owner.execute("select %s::timestamptz::text", [time_param(request, "at")]).fetchone() or [None]
    assert in_query == in_body is not None


def test_a_wrong_time_in_a_body_gets_the_same_error(client: OrganizationClient) -> None:
    form = "must be a date such as 2026-05-31 or a time such as 2026-05-31T08:00:00Z"
    for wrong in ("tomorrow", "", 17, None):
        response = client.post("/webhook-deliveries/recover", json={"since": wrong})
        assert (response.status_code, response.json()["code"], response.json()["error"]) == (400, "invalid_since", f"since {form}")
    response = client.post("/api-keys", json={"expires_at": "tomorrow"})
    assert (response.status_code, response.json()["code"], response.json()["error"]) == (400, "invalid_expires_at", f"expires_at {form}")
    assert client.post("/api-keys", json={"expires_at": None}).status_code == 201
