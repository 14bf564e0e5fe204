"""The worker's lookups at our own API: neither side reveals its secret, and another process on the API's port gains nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import httpx
import pytest

from pyshell.local.machine import free_port
from pyshell.settings import Settings
from pyshell.worker import signatures
from pyshell.worker.upstream import Answer, Upstream
from tests.conftest import Connection
from tests.http_fixtures import UNKNOWN_ID, OrganizationClient, running_server, site
from tests.test_http_headers import EVERY_ROUTE
from tests.timed import wait_until
from tests.upstream import FakeUpstream, fake_upstream

KEY = "the internal key of these tests, long enough to be one"


@pytest.fixture
def settings(http_settings: Settings) -> Settings:
    return replace(http_settings, service_role_key=KEY)


@pytest.fixture
def api(settings: Settings) -> Iterator[str]:
    with running_server(settings) as url:
        yield url


@pytest.fixture
def squatter() -> Iterator[FakeUpstream]:
    with fake_upstream() as server:
        yield server


@pytest.fixture
def organization_id(client: OrganizationClient, database: Connection) -> UUID:
    [row] = database.execute("select id from app.organizations where name = %s", [client.organization]).fetchall()
    return UUID(str(row[0]))


async def look_up(url: str, organization_id: UUID, *reference_ids: str, key: str = KEY, upstream: Upstream | None = None) -> list[Answer]:
    ours = upstream or Upstream(f"{url}/incentives", {}, internal_key=key)
    requests = [json.dumps(site(reference_id)).encode() for reference_id in reference_ids]
    answers = await asyncio.gather(*[ours.look_up(organization_id.bytes, request, 20, 1_000_000) for request in requests])
    if upstream is None:
        ours.close()
    return list(answers)


def send(url: str, method: str, path: str, headers: dict[str, str], body: bytes) -> int:
    names = ("authorization", "x-organization-id", "content-type")
    return httpx.request(method, url + path, headers={name: headers[name] for name in names if name in headers}, content=body).status_code


async def test_our_own_api_answers_signed_lookups(api: str, organization_id: UUID, client: OrganizationClient) -> None:
    [answer] = await look_up(api, organization_id, "deal-001")
    assert (answer.http_status, json.loads(answer.text or b"")) == (200, client.post("/incentives", json=site()).json())
    [refused] = await look_up(api, UUID(UNKNOWN_ID), "deal-001")
    assert (refused.http_status, json.loads(refused.text or b"")["code"]) == (404, "organization_not_found")


async def test_another_process_on_the_port_learns_no_address_and_no_key(squatter: FakeUpstream, organization_id: UUID) -> None:
    url = f"http://127.0.0.1:{squatter.port}"
    answers = await look_up(url, organization_id, *(f"deal-{number:03}" for number in range(50)))
    assert {answer.error_class for answer in answers} == {"unreachable"}
    assert [seen.body for seen in squatter.requests] == [{}] * len(squatter.requests)
    told = repr(squatter.requests)
    assert squatter.requests
    assert KEY not in told
    assert str(organization_id) not in told


async def test_requests_that_it_collected_give_no_access(squatter: FakeUpstream, organization_id: UUID, api: str) -> None:
    await look_up(f"http://127.0.0.1:{squatter.port}", organization_id, "deal-001")
    [collected] = squatter.requests
    for method, path in EVERY_ROUTE:
        without = send(api, method, path, {}, b"{}")
        for headers in (collected.headers, collected.headers | {"x-organization-id": str(organization_id)}):
            status = send(api, method, path, headers, b"{}")
            # Public routes are open to it, too, and so is the same lookup again, which gains nothing.
            is_same = (method, path) == ("POST", "/incentives") and headers is collected.headers
            assert status == 400 if is_same else status in (401, 403) or status == without != 401, (method, path)


async def test_a_lookup_that_it_collected_cannot_be_used_for_anything_else(api: str, organization_id: UUID, database: Connection) -> None:
    """As when it takes the port of an API that the worker has just recognized."""
    body = json.dumps(site("deal-001")).encode()
    headers = {"authorization": signatures.sign_request(KEY.encode(), str(organization_id), body, time.time())}
    organization = {"x-organization-id": str(organization_id)}
    assert send(api, "POST", "/incentives", headers | organization, body) == 200
    assert send(api, "POST", "/incentives", headers | organization, json.dumps(site("deal-002")).encode()) == 401
    assert send(api, "POST", "/incentives", headers, body) == 401
    assert send(api, "POST", "/incentives", headers | {"x-organization-id": UNKNOWN_ID}, body) == 401
    assert send(api, "POST", "/batch-lookups-worker", headers | organization, body) == 403
    for seconds in (-signatures.VALID_SECONDS - 5, signatures.VALID_SECONDS + 5):
        other_time = {"authorization": signatures.sign_request(KEY.encode(), str(organization_id), body, time.time() + seconds)}
        assert send(api, "POST", "/incentives", other_time | organization, body) == 401


async def test_a_process_that_takes_the_port_later_is_not_trusted(
    settings: Settings, organization_id: UUID, squatter: FakeUpstream
) -> None:
    port = free_port()
    ours = Upstream(f"http://127.0.0.1:{port}/incentives", {}, internal_key=KEY)
    with running_server(settings, port):
        [answer] = await look_up("", organization_id, "deal-001", upstream=ours)
        assert answer.http_status == 200

    async def squat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await squatter.handle(reader, writer)

    async with await asyncio.start_server(squat, "127.0.0.1", port, reuse_address=True):
        for number in range(2, 12):
            [answer] = await look_up("", organization_id, f"deal-{number:03}", upstream=ours)
            assert answer.error_class == "unreachable"
    # One lookup was under way when it took over; from then on, it must prove that it knows the key.
    assert [seen.reference_id for seen in squatter.requests if seen.reference_id] in ([], ["deal-002"])
    with running_server(settings, port):
        [answer] = await look_up("", organization_id, "deal-012", upstream=ours)
        assert answer.http_status == 200
    ours.close()


async def test_an_answer_that_was_changed_on_the_way_is_refused(api: str, organization_id: UUID, squatter: FakeUpstream) -> None:
    squatter.internal_key = KEY.encode()
    url = f"http://127.0.0.1:{squatter.port}"
    assert (await look_up(url, organization_id, "deal-001"))[0].http_status == 200
    ours = Upstream(f"{url}/incentives", {}, internal_key=KEY)
    await look_up(url, organization_id, "deal-001", upstream=ours)
    squatter.improvise = lambda _: replace(squatter.usual, body=b'{"incentives": {"total_incentive_amount": 1000000}}')
    [answer] = await look_up(url, organization_id, "deal-002", upstream=ours)
    assert (answer.error_class, answer.text) == ("unreachable", None)
    ours.close()


async def test_a_worker_with_another_key_says_so(api: str, organization_id: UUID, caplog: pytest.LogCaptureFixture) -> None:
    [answer] = await look_up(api, organization_id, "deal-001", key="another key")
    assert answer.error_class == "unreachable"
    assert "does not know our internal key" in caplog.text


async def test_successful_lookups_and_probes_are_not_logged(api: str, organization_id: UUID, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await look_up(api, organization_id, "deal-001")
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert (await asyncio.to_thread(httpx.get, f"{api}{path}")).status_code == 200
    await look_up(api, UUID(UNKNOWN_ID), "deal-001")

    def lines() -> list[str]:
        logged = [record.getMessage() for record in caplog.records if record.name == "pyshell.access"]
        # A worker's connection begins with a request that reveals nothing.
        return [line for line in logged if line != "POST /incentives 400"]

    # The last one comes after its answer.
    await asyncio.to_thread(wait_until, lambda: "POST /incentives 404" in lines())
    assert lines() == ["GET /openapi.json 200", "POST /incentives 404"]
