"""Responses in gzip for clients that accept it: a page of sites has a tenth of its size."""

from __future__ import annotations

import gzip

import httpx
import pytest

from pyshell.api.app import GZIP
from tests.conftest import Connection
from tests.http_fixtures import Json, OrganizationClient, look_up, site

ANSWER = {"incentives": [{"name": f"Rebate {number}", "amount": 100 * number} for number in range(20)]}


@pytest.fixture
def job(client: OrganizationClient, database: Connection) -> Json:
    """A batch of 60 items, all of them looked up."""
    job = client.submit(*(site(f"deal-{number:03}") for number in range(60)))
    look_up(database, job, 60, ANSWER)
    return job


def paths(job: Json) -> list[str]:
    batch, report = f"/batch-lookups/{job['job_id']}", f"/incentive-reports/{job['report']['id']}"
    return [f"{batch}/items", f"{batch}/results", f"{batch}/results?format=csv", report, f"{report}/csv", f"{report}/html", "/openapi.json"]


def sent(client: OrganizationClient, path: str, accepted: str) -> tuple[httpx.Response, bytes]:
    """The response, and the bytes of its body as they were sent."""
    headers = {"x-api-key": client.api_key, "accept-encoding": accepted}
    with httpx.stream("GET", client.base_url.join(path), headers=headers) as response:
        return response, next(response.iter_raw()) if is_endless(response) else b"".join(response.iter_raw())


def is_endless(response: httpx.Response) -> bool:
    return response.headers["content-type"].startswith("text/event-stream")


def test_large_responses_are_compressed_on_request(client: OrganizationClient, job: Json) -> None:
    for path in paths(job):
        plain, whole = sent(client, path, "identity")
        assert (plain.status_code, plain.headers.get("content-encoding")) == (200, None), path
        response, compressed = sent(client, path, "br, gzip")
        assert (response.status_code, response.headers.get("content-encoding")) == (200, "gzip"), path
        assert gzip.decompress(compressed) == whole, path
        assert len(compressed) < len(whole) / 3, path
        for answer in (plain, response):
            assert "accept-encoding" in answer.headers["vary"].lower(), path


def test_small_responses_workbooks_and_event_streams_are_not_compressed(client: OrganizationClient, job: Json) -> None:
    report = f"/incentive-reports/{job['report']['id']}"
    for path in ("/me", f"{report}/xlsx", f"/batch-lookups/{job['job_id']}/events"):
        response, body = sent(client, path, "gzip")
        assert (response.status_code, response.headers.get("content-encoding")) == (200, None), path
        assert body, path
    assert len(sent(client, "/me", "gzip")[1]) < GZIP["minimum_size"]


def test_the_etag_of_a_compressed_response_is_recognized(client: OrganizationClient) -> None:
    response, _ = sent(client, "/devices", "gzip")
    assert response.headers["content-encoding"] == "gzip"
    assert client.get("/devices", headers={"if-none-match": response.headers["etag"]}).status_code == 304
