"""Traces: one contains the upload, its lookups and its webhooks, with OpenTelemetry and without; and none contains secrets."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from pyshell import logs, traces
from pyshell.local.machine import free_port
from pyshell.settings import ROOT, Settings
from pyshell.traces import spans as recorder_of_spans
from pyshell.traces.spans import recording
from tests.conftest import Connection
from tests.http_fixtures import PEPPER, Json, OrganizationClient, is_ready, running_server, site
from tests.timed import wait_until
from tests.upstream import FakeUpstream, Reply
from tests.webhook_receiver import FakeReceiver, fake_receiver, running_sender
from tests.worker_fixtures import end_with_parent, running_worker, update_settings

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


def test_the_trace_of_an_upload_continues_with_its_lookups_and_webhooks(service: Service) -> None:
    expected = [("lookup", traceparent(1)), ("batch.completed", traceparent(1)), ("lookup.completed", traceparent(1))]
    assert service.sent(service.upload("json", traceparent(1)), "json") == expected

    response = service.client.post(
        "/batch-lookups", content=CSV.format("file"), headers={"content-type": "text/csv", "traceparent": traceparent(2)}
    )
    assert {sent for _, sent in service.sent(response.json(), "file")} == {traceparent(2)}

    # A draft belongs to no trace; the batch that it becomes does.
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


def test_an_invalid_trace_context_is_ignored(service: Service) -> None:
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


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What is recorded in this process, which is the API, the worker and the sender."""
    exporter = InMemorySpanExporter()
    with recording(SimpleSpanProcessor(exporter)):
        yield exporter


def trace_of(spans: InMemorySpanExporter, trace: int) -> dict[str, list[ReadableSpan]]:
    """The spans of a trace by their names."""
    found: dict[str, list[ReadableSpan]] = {}
    for span in spans.get_finished_spans():
        if context(span).trace_id == trace:
            found.setdefault(span.name, []).append(span)
    return found


def context(span: ReadableSpan) -> SpanContext:
    found: SpanContext | None = span.get_span_context()
    assert found is not None
    return found


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent and span.parent.span_id


def as_traceparent(span: ReadableSpan) -> str:
    return f"00-{context(span).trace_id:032x}-{context(span).span_id:016x}-01"


def test_one_trace_has_the_upload_its_lookups_and_its_webhooks(
    spans: InMemorySpanExporter, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sent = dict(service.sent(service.upload("traced", traceparent(7)), "traced"))
    wait_until(lambda: {"flush", "webhook batch.completed"} <= trace_of(spans, 7).keys())
    found = {name: some[0] for name, some in trace_of(spans, 7).items()}
    upload, lookup, flush, webhook = (found[name] for name in ("POST /batch-lookups", "lookup", "flush", "webhook batch.completed"))
    assert parent_of(upload) == int("b7ad6b7169203331", 16)
    assert {parent_of(span) for span in (lookup, webhook, found["api.submit_batch_lookup"])} == {context(upload).span_id}
    assert parent_of(flush) == context(lookup).span_id
    assert parent_of(found["record_lookups"]) == context(flush).span_id
    assert sent["lookup"] == as_traceparent(lookup)
    assert sent["batch.completed"] == as_traceparent(webhook)
    assert dict(upload.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/batch-lookups",
        "http.response.status_code": 201,
    }
    [line] = [line for line in caplog.records if line.getMessage() == "POST /batch-lookups 201"]
    assert vars(line)["fields"]["trace_id"] == f"{7:032x}"
    assert dict(flush.attributes or {}).keys() == {"batch_lookups.organization_id", "batch_lookups.outcomes"}
    assert (lookup.attributes or {})["http.response.status_code"] == 200


def test_lookups_of_our_own_api_are_in_the_trace(spans: InMemorySpanExporter, worker_settings: Settings, owner: Connection) -> None:
    settings = replace(worker_settings, incentives_api_url=None, service_role_key="internal key", api_key_pepper=PEPPER, port=free_port())
    with running_server(settings, settings.port) as url, OrganizationClient(url, settings.database_url) as client, running_worker(settings):
        job = client.post("/batch-lookups", json=[site("ours"), site("ours-too")], headers={"traceparent": traceparent(11)}).json()
        query = "select status from public.batch_lookup_jobs where id = %s"
        wait_until(lambda: owner.execute(query, [job["job_id"]]).fetchone() == ("completed",))
        wait_until(lambda: {"POST /incentives", "flush"} <= trace_of(spans, 11).keys())
    [lookup] = trace_of(spans, 11)["lookup"]
    # The other lookup was not chosen, so our API records nothing of it either.
    [answered] = trace_of(spans, 11)["POST /incentives"]
    assert parent_of(answered) == context(lookup).span_id
    [asked] = trace_of(spans, 11)["api.lookup_incentives"]
    assert parent_of(asked) == context(answered).span_id


def test_an_upload_without_a_trace_begins_one(spans: InMemorySpanExporter, service: Service) -> None:
    sent = dict(service.sent(service.upload("new"), "new"))
    [upload] = [span for span in spans.get_finished_spans() if span.name == "POST /batch-lookups"]
    assert upload.parent is None
    assert {value[3:35] for value in sent.values() if value} == {f"{context(upload).trace_id:032x}"}
    assert None not in sent.values()


def test_of_a_large_batch_every_hundredth_lookup_is_recorded(spans: InMemorySpanExporter, service: Service) -> None:
    given = {"traceparent": traceparent(8)}
    job = service.client.post("/batch-lookups", json=[site(f"site-{n}") for n in range(201)], headers=given).json()
    query = "select status from public.batch_lookup_jobs where id = %s"
    wait_until(lambda: service.owner.execute(query, [job["job_id"]]).fetchone() == ("completed",))
    wait_until(lambda: len(trace_of(spans, 8).get("lookup", [])) == 3)
    lookups = {(span.attributes or {})["batch_lookups.position"]: span for span in trace_of(spans, 8)["lookup"]}
    assert lookups.keys() == {0, 100, 200}
    sent = {seen.reference_id: seen.headers["traceparent"] for seen in service.upstream.requests}
    assert sent["site-100"] == as_traceparent(lookups[100])
    # The others belong to the trace, but their servers need not record them.
    assert sent["site-101"][:36] == traceparent(8)[:36]
    assert {value[-2:] for name, value in sent.items() if name not in ("site-0", "site-100", "site-200")} == {"00"}


def test_a_trace_that_is_not_recorded_elsewhere_is_not_recorded_here(spans: InMemorySpanExporter, service: Service) -> None:
    sent = service.sent(service.upload("quiet", traceparent(9)[:-2] + "00"), "quiet")
    assert {(value or "")[:36] for _, value in sent} == {traceparent(9)[:36]}
    assert {(value or "")[-2:] for _, value in sent} == {"00"}
    assert trace_of(spans, 9) == {}


def test_spans_contain_nothing_of_requests_and_responses(
    spans: InMemorySpanExporter, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.upstream.plan("deal-404", Reply(404, '{"error": "nothing at 200 N Spring St"}'))
    service.upstream.plan("deal-500", Reply(reset=True), Reply(500, "Los Angeles"), Reply())
    service.receiver.body = b"the answer of a receiver"
    service.receiver.status = 200
    items = [site("deal-404", webhook_custom_fields={"token": "custom field"}), site("deal-500"), site("deal-200")]
    job = service.client.post("/batch-lookups?name=north-side", json=items, headers={"x-request-id": "their-request"}).json()
    query = "select status from public.batch_lookup_jobs where id = %s"
    wait_until(lambda: service.owner.execute(query, [job["job_id"]]).fetchone() == ("completed",))
    share = service.client.post(f"/incentive-reports/{job['report']['id']}/share").json()
    service.client.get(share["url"])
    service.client.get("/no-such-path/200-n-spring-st?api_key=leap_live_wrong")
    service.client.request("PROPFIND", "/batch-lookups")
    # The error of a failed database call contains its arguments.
    service.client.get(f"/batch-lookups/{job['job_id']}/items?cursor=spoilt-cursor")
    service.client.post("/batch-lookups", json=[site("deal-500"), site("deal-500")])
    wait_until(lambda: len([span for span in spans.get_finished_spans() if span.name.startswith("webhook batch")]) == 1)
    service.client.get("/healthz")
    told = " ".join(span.to_json() for span in spans.get_finished_spans())
    for secret in (
        *(service.client.api_key, service.client.organization, share["url"].rpartition("/")[2], "leap_", "PROPFIND", "their-request"),
        *(
            "Spring",
            "spring",
            "Los Angeles",
            "deal-",
            "90012",
            "custom field",
            "north-side",
            "no-such-path",
            "spoilt",
            "receiver",
            "nothing at",
        ),
        *("key of the provider", "internal key", "source=", "127.0.0.1", "password", PEPPER),
    ):
        assert secret not in told
    names = {span.name for span in spans.get_finished_spans()}
    assert {"GET", "other /batch-lookups", "GET /shared-reports/{token}", "lookup", "POST /batch-lookups"} <= names
    assert "GET /healthz" not in names
    failures = {str((span.attributes or {}).get("error.type")) for span in spans.get_finished_spans() if span.name == "lookup"}
    assert failures <= {"None", "404"}
    assert all(not span.events for span in spans.get_finished_spans())


def test_a_flush_for_several_traces_is_in_one_and_linked_to_the_others(spans: InMemorySpanExporter) -> None:
    assert traces.recorder is not None
    with traces.recorder.work("flush", [traceparent(1), traceparent(2), traceparent(1)], {}):
        pass
    [flush] = spans.get_finished_spans()
    assert context(flush).trace_id == 1
    assert [link.context.trace_id for link in flush.links] == [2]


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, False),
    ],
)
def test_the_variables_of_opentelemetry_ask_for_traces(environment: dict[str, str], asked: bool) -> None:
    assert traces.is_asked_for(environment) is asked


def test_a_variable_of_opentelemetry_that_cannot_be_used_keeps_nothing_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "SERVICE_NAME": "us", "SPAN_ATTRIBUTE_COUNT_LIMIT": "many"}.items():
        monkeypatch.setenv(f"OTEL_{name}", value)
    with traces.sent_by("us"):
        assert traces.recorder is None
    assert "no traces are sent" in caplog.text
    assert "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT" in caplog.text


def test_processes_send_their_traces_to_a_collector(database_url: str, owner: Connection, upstream: FakeUpstream, tmp_path: Path) -> None:
    update_settings(owner, lookups_per_second=None)
    with fake_receiver() as collector, ExitStack() as stack:
        collector.status = 200
        environment = {
            "DATABASE_URL": database_url,
            "API_KEY_PEPPER": PEPPER,
            "INCENTIVES_API_URL": upstream.url,
            "PORT": str(free_port()),
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret-of-the-collector",
        }
        processes = []
        for command in ("serve", "worker"):
            log = stack.enter_context((tmp_path / command).open("wb"))
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "pyshell", command],
                    cwd=ROOT,
                    env=os.environ | environment,
                    stderr=log,
                    preexec_fn=end_with_parent,
                )
            )
        url = f"http://127.0.0.1:{environment['PORT']}"
        wait_until(lambda: is_ready(url))
        with OrganizationClient(url, database_url) as client:
            job = client.post("/batch-lookups", json=[site("far")], headers={"traceparent": traceparent(10)}).json()
        query = "select status from public.batch_lookup_jobs where id = %s"
        wait_until(lambda: owner.execute(query, [job["job_id"]]).fetchone() == ("completed",))
        # Long before the next batch of spans is due: waiting spans are sent when the process ends.
        for process in processes:
            process.terminate()
        assert [process.wait(30) for process in processes] == [-signal.SIGTERM, 0]
    sent: dict[str, set[str]] = {}
    for received in collector.received:
        assert received.headers["authorization"] == "secret-of-the-collector"
        for resource in ExportTraceServiceRequest.FromString(received.body).resource_spans:
            [service_name] = [one.value.string_value for one in resource.resource.attributes if one.key == "service.name"]
            of_trace = [span for scope in resource.scope_spans for span in scope.spans if int.from_bytes(span.trace_id) == 10]
            sent.setdefault(service_name, set()).update(span.name for span in of_trace)
    assert sent["batch-lookups-api"] >= {"POST /batch-lookups", "api.submit_batch_lookup"}
    assert sent["batch-lookups-worker"] == {"lookup", "flush", "record_lookups"}


def test_a_collector_that_does_not_respond_does_not_delay_the_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_of_spans, "LAST_CALLS_SECONDS", 0.1)
    with fake_receiver() as collector:
        collector.delay = 60
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20a-token-of-the-collector,x-tenant=some-tenant")
        with traces.sent_by("a test"):
            assert traces.recorder is not None
            with traces.recorder.call_out("lookup", None, {}):
                pass
        # It has ended, although its spans were not accepted.
        assert not collector.hurry.is_set()
        assert logs.without_secrets("Bearer%20a-token-of-the-collector, Bearer a-token-of-the-collector") == "***, ***"
        collector.hurry.set()
        wait_until(lambda: collector.in_flight == 0)


@pytest.mark.parametrize("headers", ["x-team: a-key-of-the-team==", "x-team=a-part,a-key-of-the-team", "x-team a-key-of-the-team"])
def test_headers_that_the_sdk_cannot_read_are_not_quoted_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, headers: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    with traces.sent_by("a test"):
        [line] = [logs.Formatter().format(record) for record in caplog.records if "Header format invalid" in record.getMessage()]
    assert line.endswith("***")
    assert "a-key-of-the-team" not in line


def test_without_opentelemetry_there_is_a_warning_and_no_trace() -> None:
    program = """
import logging, sys
logging.basicConfig()
sys.modules["opentelemetry"] = None
import pyshell.api.app, pyshell.worker.process
from pyshell import traces
with traces.sent_by("a test"):
    assert traces.recorder is None
"""
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "pip install '.[otel]'" in ended.stderr


def test_without_traces_nothing_of_opentelemetry_is_loaded() -> None:
    program = (
        "import sys, pyshell.api.app, pyshell.worker.process; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
