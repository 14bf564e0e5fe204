"""Traces: what an upload's traceparent is kept for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from pyshell.settings import Settings
from tests.conftest import Connection
from tests.http_fixtures import PEPPER, Json, OrganizationClient, running_server, site
from tests.timed import wait_until
from tests.upstream import FakeUpstream, Reply
from tests.webhook_receiver import FakeReceiver, fake_receiver, running_sender
from tests.worker_fixtures import running_worker

CSV = (
    "reference_id,street_1,city,state_or_province_code,postal_code,country_code,building_type,device_ids\n"
    "{},200 N Spring St,Los Angeles,CA,90012,US,RESIDENTIAL,1\n"
)


def traceparent(trace: int) -> str:
    return f"00-{trace:032x}-b7ad6b7169203331-01"


class Service:
    """The API, a worker and a sender, with an organization whose webhooks go to `receiver`."""

    def __init__(self, client: OrganizationClient, owner: Connection, upstream: FakeUpstream, receiver: FakeReceiver) -> None:
        self.client = client
        self.owner = owner
        self.upstream = upstream
        self.receiver = receiver

    def upload(self, reference_id: str, *traceparents: str) -> Json:
        given = [(b"traceparent", value.encode("latin-1")) for value in traceparents]
        response = self.client.post("/batch-lookups", json=[site(reference_id)], headers=given)
        assert response.status_code == 201, response.text
        created: Json = response.json()
        return created

    def wait(self, job: Json) -> None:
        """Until the job has ended and its webhooks were delivered."""
        query = "select count(*) from app.webhook_deliveries where job_id = %s and status = 'delivered'"
        wait_until(lambda: self.owner.execute(query, [job["job_id"]]).fetchone() == (2,))

    def sent(self, job: Json, reference_id: str) -> list[tuple[str, str | None]]:
        """The trace contexts that were sent of a job of one item: to the incentives API, and with each webhook by its event."""
        self.wait(job)
        lookups = [("lookup", seen.headers.get("traceparent")) for seen in self.upstream.requests if seen.reference_id == reference_id]
        webhooks = [
            (received.message["type"], received.headers.get("traceparent"))
            for received in self.receiver.received
            if job_of(received.message) == job["job_id"]
        ]
        return lookups + sorted(webhooks)


def job_of(message: dict[str, Any]) -> Any:
    return message["data"].get("job_id") or message["data"]["id"]


@pytest.fixture
def service(worker_settings: Settings, owner: Connection, upstream: FakeUpstream) -> Iterator[Service]:
    settings = replace(worker_settings, webhooks_allow_private_networks=True, api_key_pepper=PEPPER)
    with ExitStack() as stack:
        receiver = stack.enter_context(fake_receiver())
        url = stack.enter_context(running_server(settings))
        client = stack.enter_context(OrganizationClient(url, settings.database_url))
        config = {"url": receiver.url, "events": ["lookup.completed", "lookup.failed", "batch.completed", "batch.failed"]}
        assert client.put("/webhook-config", json=config).status_code == 200
        stack.enter_context(running_worker(settings))
        stack.enter_context(running_sender(settings))
        yield Service(client, owner, upstream, receiver)


def test_the_trace_of_an_upload_goes_on_with_its_lookups_and_webhooks(service: Service) -> None:
    expected = [("lookup", traceparent(1)), ("batch.completed", traceparent(1)), ("lookup.completed", traceparent(1))]
    assert service.sent(service.upload("json", traceparent(1)), "json") == expected

    response = service.client.post(
        "/batch-lookups", content=CSV.format("file"), headers={"content-type": "text/csv", "traceparent": traceparent(2)}
    )
    assert {sent for _, sent in service.sent(response.json(), "file")} == {traceparent(2)}

    # A draft belongs to no trace; the batch that is made of it does.
    draft = service.client.post(
        "/uploads", content=CSV.format("draft"), headers={"content-type": "text/csv", "traceparent": traceparent(3)}
    ).json()
    started = service.client.post(f"/uploads/{draft['id']}/start", headers={"traceparent": traceparent(4)})
    assert {sent for _, sent in service.sent(started.json(), "draft")} == {traceparent(4)}

    service.upstream.plan("retried", Reply(404), Reply())
    failed = service.upload("retried", traceparent(5))
    service.wait(failed)
    retry = service.client.post(f"/batch-lookups/{failed['job_id']}/retry", headers={"traceparent": traceparent(6)}).json()
    assert service.sent(retry, "retried") == [
        ("lookup", traceparent(5)),
        ("lookup", traceparent(6)),
        ("batch.completed", traceparent(6)),
        ("lookup.completed", traceparent(6)),
    ]


def test_what_is_no_trace_context_is_ignored(service: Service) -> None:
    for number, given in enumerate([[], ["nonsense"], [traceparent(0)], [traceparent(1), traceparent(2)], ["é" * 55]]):
        assert {sent for _, sent in service.sent(service.upload(f"site-{number}", *given), f"site-{number}")} == {None}, given


def test_a_request_that_is_repeated_in_another_trace_is_the_same(service: Service) -> None:
    first, again = (
        service.client.post(
            "/batch-lookups", json=[site("once")], headers={"idempotency-key": "upload-1", "traceparent": traceparent(trace)}
        )
        for trace in (1, 2)
    )
    assert (again.status_code, again.json()) == (201, first.json())
    assert {sent for _, sent in service.sent(first.json(), "once")} == {traceparent(1)}
