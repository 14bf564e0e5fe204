"""The Python client: which requests it repeats, and that a lost connection loses no record."""

from __future__ import annotations

import asyncio
import copy
import gzip
import inspect
import io
import json
import pickle
import pydoc
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, get_type_hints
from unittest.mock import create_autospec
from urllib.parse import urlsplit

import httpx
import pytest

from batch_lookups import ApiError, AsyncClient, BatchLookupsError, Client, InvalidArgumentError, UnavailableError, calls, retrying
from batch_lookups.calls import FileOptions
from batch_lookups.records import Reader, RecordSplitter, ResultsFormat, whole_records
from batch_lookups.retrying import Retry
from batch_lookups.types import Job
from batch_lookups.webhooks import SecretError, sign, why_not_genuine
from pyshell.settings import ROOT
from tests.certificates import authority
from tests.cli_fixtures import Cli, Service
from tests.tcp_proxy import running_proxy
from tests.timed import set_monotonic
from tests.webhook_receiver import serving

JOB = "5a8b54ab-0b0c-4d3e-9d8c-3f1f6e0f3c11"
BUSY = httpx.Response(503, headers={"retry-after": "0"}, json={"error": "The service is busy", "code": "busy"})


class Script:
    """Responds to requests one after the other, or raises an error; records the requests."""

    def __init__(self, *answers: httpx.Response | httpx.TransportError) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, httpx.TransportError):
            raise answer
        return answer


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client waited, without waiting."""
    taken: list[float] = []
    monkeypatch.setattr("batch_lookups.client.time.sleep", taken.append)
    return taken


def client_of(script: Script, **options: Any) -> Client:
    return Client("http://service", "key", transport=httpx.MockTransport(script), **options)


def test_a_proxy_that_removes_etags_does_not_make_watching_a_hot_loop() -> None:
    job = {"id": JOB, "total_items": 2}
    script = Script(*(httpx.Response(200, json=job | {"processed_items": processed}) for processed in (0, 1, 2)))
    assert [seen["processed_items"] for seen in client_of(script).watch(JOB)] == [0, 1, 2]
    assert [request.url.params.get("wait") for request in script.requests] == [None, "10", "10"]


async def test_a_proxy_that_alters_etags_does_not_make_watching_a_hot_loop() -> None:
    job = {"id": JOB, "total_items": 2}

    def script() -> Script:
        return Script(
            *(httpx.Response(200, json=job | {"processed_items": done}, headers={"etag": f'"{done} altered"'}) for done in (0, 0, 1, 2))
        )

    sync, other = script(), script()
    assert [seen["processed_items"] for seen in client_of(sync).watch(JOB)] == [0, 0, 1, 2]
    async with AsyncClient("http://service", "key", transport=httpx.MockTransport(other)) as client:
        assert [seen["processed_items"] async for seen in client.watch(JOB)] == [0, 0, 1, 2]
    for requests in (sync.requests, other.requests):
        assert [request.headers.get("if-none-match") for request in requests] == [None, '"0 altered"', None, '"1 altered"']


def test_a_busy_service_is_asked_again_at_the_time_that_it_gives(naps: list[float]) -> None:
    limited = httpx.Response(429, headers={"retry-after": "7"}, json={"error": "Too many requests", "code": "too_many_requests"})
    script, told = Script(limited, BUSY, httpx.Response(200, json={"id": JOB})), list[Retry]()
    assert client_of(script, on_retry=told.append).get_job(JOB)["id"] == JOB
    assert 7 <= naps[0] < 8
    assert 0.7 <= naps[1] <= 1.3, "twice as long as the first time, had that not been told"
    assert [retry.reason for retry in told] == ["Too many requests", "The service is busy"]
    assert script.requests[0].headers["x-api-key"] == "key"
    assert script.requests[0].headers["user-agent"].startswith("batch-lookups/")


async def test_the_client_for_asyncio_waits_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    naps = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    monkeypatch.setattr("batch_lookups.client.asyncio.sleep", nap)
    limited = httpx.Response(429, headers={"retry-after": "7"}, json={"code": "too_many_requests"})
    results = httpx.Response(200, headers={"content-type": "text/csv"}, content=b"reference_id\n")
    script = Script(limited, httpx.Response(200, json={"id": JOB}), limited, results)
    async with AsyncClient("http://service", "key", transport=httpx.MockTransport(script)) as client:
        assert (await client.get_job(JOB))["id"] == JOB
        assert [record async for record in client.results(JOB)] == [b"reference_id\n"]
    assert [int(seconds) for seconds in naps] == [7, 7]


@pytest.mark.parametrize(
    ("retry_after", "date", "least", "most"),
    [
        ("Mon, 30 Nov 2026 12:00:07 GMT", "Mon, 30 Nov 2026 12:00:00 GMT", 7, 8),
        ("Mon, 30 Nov 2026 12:00:07 -0000", "Mon, 30 Nov 2026 12:00:00 GMT", 7, 8),
        ("Mon, 30 Nov 2026 12:00:00 GMT", "Mon, 30 Nov 2026 12:00:07 GMT", 0.3, 1),
        ("Mon, 30 Nov 2026 12:00:07 GMT", "noon", 7, 8),
        (" 7 ", "", 7, 8),
        ("soon", "Mon, 30 Nov 2026 12:00:00 GMT", 0.3, 1),
        ("-7", "", 0.3, 1),
        ("Mon, 30 Nov 99999 12:00:07 GMT", "", 0.3, 1),
    ],
)
def test_the_time_to_try_again_may_be_a_date_of_the_servers_clock(
    naps: list[float], monkeypatch: pytest.MonkeyPatch, retry_after: str, date: str, least: float, most: float
) -> None:
    monkeypatch.setattr("batch_lookups.retrying.time.time", lambda: datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp())
    busy = httpx.Response(503, headers={"retry-after": retry_after, "date": date}, json={"error": "The service is busy", "code": "busy"})
    client_of(Script(busy, httpx.Response(200, json={"id": JOB}))).get_job(JOB)
    assert least <= naps[0] <= most


def test_clients_that_are_refused_at_once_do_not_come_back_at_once(naps: list[float]) -> None:
    for _ in range(10):
        limited = httpx.Response(429, headers={"retry-after": "7"}, json={"error": "Too many requests", "code": "too_many_requests"})
        client_of(Script(limited, httpx.Response(200, json={"id": JOB}))).get_job(JOB)
    assert len(set(naps)) == 10


@pytest.mark.parametrize("retry_after", [{}, {"retry-after": "Sat, 28 Nov 2026 12:00:00 GMT"}])
def test_a_service_that_stays_busy_is_asked_less_often_but_often_enough(naps: list[float], retry_after: dict[str, str]) -> None:
    busy = httpx.Response(503, headers=retry_after, json={"error": "The service is busy", "code": "busy"})
    client_of(Script(*[busy] * 1100, httpx.Response(200, json={"id": JOB}))).get_job(JOB)
    assert naps[0] <= 0.65
    assert all(7 <= nap <= 13 for nap in naps[5:])


def test_attempts_end_when_the_time_is_over(naps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    slow = httpx.Response(503, headers={"retry-after": "61"}, json={"error": "The service is busy", "code": "busy"})
    with pytest.raises(ApiError, match="The service is busy") as refused:
        client_of(Script(slow)).get_job(JOB)
    assert (refused.value.status, refused.value.code, naps) == (503, "busy", [])
    with pytest.raises(UnavailableError, match="cannot be reached"):
        client_of(Script(httpx.ConnectError("refused")), retry_seconds=0).get_job(JOB)
    set_monotonic(monkeypatch, retrying, lambda: sum(naps))
    script = Script(*[BUSY] * 100)
    with pytest.raises(ApiError, match="The service is busy"):
        client_of(script, retry_seconds=30).get_job(JOB)
    assert len(naps) == len(script.requests) - 1
    assert 17 <= sum(naps) < 30


@pytest.mark.parametrize("trouble", [httpx.ProxyError("403 Forbidden"), httpx.UnsupportedProtocol("no address")])
def test_errors_that_time_does_not_change_are_raised_immediately(naps: list[float], trouble: httpx.TransportError) -> None:
    for call in (create, share):
        script = Script(trouble)
        with pytest.raises(UnavailableError) as raised:
            call(client_of(script))
        assert (raised.value.maybe_done, len(script.requests), naps) == (False, 1, [])


@pytest.mark.parametrize(("tls", "reason"), [(True, "CERTIFICATE_VERIFY_FAILED"), (False, "WRONG_VERSION_NUMBER")])
def test_a_tls_error_is_raised_immediately(naps: list[float], tmp_path: Path, tls: bool, reason: str) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    if tls:
        server.socket = authority("localhost", tmp_path).server.wrap_socket(server.socket, server_side=True, suppress_ragged_eofs=True)
    with serving(server), pytest.raises(UnavailableError, match=reason):
        Client(f"https://localhost:{server.server_port}", "key").get_job(JOB)
    assert naps == []


def test_the_target_of_a_redirect_is_given_without_possible_secrets() -> None:
    elsewhere = httpx.Response(302, headers={"location": "https://user:password@sso.example/login?state=secret#part"})
    with pytest.raises(ApiError) as refused:
        client_of(Script(elsewhere)).get_job(JOB)
    assert str(refused.value) == "http://service redirects to https://sso.example/login"


@pytest.mark.parametrize("target", ["mailto:help@example.com", "javascript:alert(1)", "http://xn--/", "http://a:b/"])
async def test_a_redirect_to_no_web_address_is_refused_like_any_other(target: str) -> None:
    def script() -> Script:
        return Script(httpx.Response(302, headers={"location": target}))

    calls_of: list[Callable[[Client], object]] = [lambda client: client.get_job(JOB), lambda client: list(client.results(JOB))]
    for call in calls_of:
        with pytest.raises(ApiError, match=r"^http://service redirects to ") as refused:
            call(client_of(script()))
        assert refused.value.status == 302
    async with AsyncClient("http://service", "key", transport=httpx.MockTransport(script())) as client:
        with pytest.raises(ApiError, match=r"^http://service redirects to "):
            await client.get_job(JOB)


def test_a_header_of_a_proxy_may_have_any_characters() -> None:
    answer = httpx.Response(200, headers=[(b"x-user", "Jörg".encode("latin-1")), (b"x-place", "Köln".encode())], json={"id": JOB})
    assert client_of(Script(answer)).get_job(JOB)["id"] == JOB


def test_a_proxy_that_asks_for_a_password_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"^The proxy does not connect to the service at http://service \(407 "):
        client_of(Script(httpx.ProxyError("407 Proxy Authentication Required"))).get_job(JOB)
    with pytest.raises(ApiError, match=r"^The proxy asks for a user name and a password$") as refused:
        client_of(Script(httpx.Response(407, text="<html>Sign in</html>"))).get_job(JOB)
    assert "HTTPS_PROXY=http://name:password@" in refused.value.hint


def test_an_answer_that_cannot_be_decoded_is_an_error() -> None:
    def garbled() -> httpx.Response:
        stream = httpx.ByteStream(gzip.compress(b'{"status": "completed"}')[:10] + b"no block of deflate")
        return httpx.Response(200, headers={"content-type": "text/csv", "content-encoding": "gzip"}, stream=stream)

    def results(client: Client) -> list[bytes]:
        return list(client.results(JOB))

    for ask in (lambda client: client.get_job(JOB), results, share):
        script = Script(garbled())
        with pytest.raises(UnavailableError, match="The answer of the service at http://service is not compressed as it says"):
            ask(client_of(script))
        assert len(script.requests) == 1


def create(client: Client) -> str:
    return client.create_batch(b"...", FileOptions(name="x", device_ids=[1, 20]))["job_id"]


def retry(client: Client) -> str:
    return client.retry_job(JOB)["job_id"]


def share(client: Client) -> str:
    client.share_report(JOB)
    return JOB


def set_up_webhooks(client: Client) -> str:
    client.set_webhook_config({"url": "https://crm.example.com/hooks"})
    return JOB


CREATED = httpx.Response(201, json={"job_id": JOB})


@pytest.mark.parametrize(
    ("trouble", "call", "is_repeated"),
    [
        (httpx.ReadError("lost"), create, True),
        (httpx.RemoteProtocolError("lost"), create, True),
        (httpx.ReadTimeout("slow"), create, True),
        (httpx.Response(408), create, True),
        (httpx.Response(502), create, True),
        (httpx.Response(504), create, True),
        (httpx.Response(503, json={"code": "outcome_unknown"}), create, True),
        (httpx.Response(409, json={"code": "request_in_progress"}), create, True),
        (httpx.Response(409, json={"code": "job_ended"}), create, False),
        (httpx.Response(500, json={"code": "internal_error"}), create, False),
        (httpx.ReadError("lost"), retry, True),
        (httpx.Response(502), retry, True),
        (httpx.Response(503, json={"code": "outcome_unknown"}), retry, True),
        (httpx.Response(409, json={"code": "request_in_progress"}), retry, True),
        (httpx.Response(409, json={"code": "retry_in_progress"}), retry, False),
        (httpx.ConnectError("refused"), share, True),
        (httpx.ConnectTimeout("slow"), share, True),
        (httpx.PoolTimeout("slow"), share, True),
        (httpx.Response(503, json={"code": "busy"}), share, True),
        (httpx.ReadError("lost"), share, False),
        (httpx.ReadTimeout("slow"), share, False),
        (httpx.Response(408), share, False),
        (httpx.Response(502), share, False),
        (httpx.Response(504), share, False),
        (httpx.Response(503, html="<h1>503 Service Unavailable</h1>"), share, False),
        (httpx.Response(503, html="<h1>503 Service Unavailable</h1>"), create, True),
        (httpx.Response(520), share, False),
        (httpx.Response(524, html="<h1>A timeout occurred</h1>"), create, True),
        (httpx.Response(503, json={"code": "outcome_unknown"}), share, False),
        (httpx.ConnectError("refused"), set_up_webhooks, True),
        (httpx.ReadError("lost"), set_up_webhooks, False),
    ],
)
def test_only_what_cannot_happen_twice_is_sent_again(
    naps: list[float], trouble: httpx.Response | httpx.TransportError, call: Callable[[Client], str], is_repeated: bool
) -> None:
    script = Script(trouble, CREATED)
    if is_repeated:
        assert call(client_of(script)) == JOB
        keys = {request.headers.get("idempotency-key") for request in script.requests}
        assert len(keys) == 1, "a repeated request has the same key"
        assert (keys == {None}) == (call in (share, set_up_webhooks))
    else:
        with pytest.raises((ApiError, UnavailableError)) as raised:
            call(client_of(script))
        assert not isinstance(raised.value, UnavailableError) or raised.value.maybe_done
        assert len(script.requests) == 1


def gone(code: str) -> httpx.Response:
    return httpx.Response(404, json={"error": "There is none", "code": code})


@pytest.mark.parametrize(
    "trouble",
    [lambda: httpx.ReadError("lost"), lambda: httpx.Response(502), lambda: httpx.Response(503, json={"code": "outcome_unknown"})],
)
async def test_a_repeated_deletion_succeeds_if_the_lost_one_may_have_deleted_it(
    naps: list[float], monkeypatch: pytest.MonkeyPatch, trouble: Callable[[], httpx.Response | httpx.TransportError]
) -> None:
    monkeypatch.setattr(retrying, "FIRST_DELAY", 0)
    deleted = {"message": "Job deleted successfully", "job_id": JOB}
    assert client_of(Script(trouble(), BUSY, gone("job_not_found"))).delete_job(JOB) == deleted
    assert client_of(Script(trouble(), gone("share_not_found"))).revoke_report_share(JOB, "1")["id"] == "1"
    assert client_of(Script(trouble(), gone("webhook_config_not_found"))).delete_webhook_config()["message"] == "Webhook config deleted"
    script = Script(trouble(), gone("job_not_found"))
    async with AsyncClient("http://service", "key", transport=httpx.MockTransport(script)) as client:
        assert await client.delete_job(JOB) == deleted


@pytest.mark.parametrize(
    "answers",
    [
        [gone("job_not_found")],
        [BUSY, gone("job_not_found")],
        [httpx.ConnectError("refused"), gone("job_not_found")],
        [httpx.ReadError("lost"), gone("route_not_found")],
        [httpx.ReadError("lost"), httpx.Response(404)],
    ],
)
def test_a_deletion_fails_if_no_attempt_can_have_deleted_it(
    naps: list[float], answers: list[httpx.Response | httpx.TransportError]
) -> None:
    with pytest.raises(ApiError) as refused:
        client_of(Script(*answers)).delete_job(JOB)
    assert refused.value.status == 404


@pytest.mark.parametrize("job_id", ["", ".", "..", f"{JOB}/items", "../api-keys"])
def test_an_id_that_leads_elsewhere_is_not_sent(job_id: str) -> None:
    script = Script()
    client = client_of(script)
    for ask in (client.get_job, client.delete_job, client.list_items, lambda job_id: next(client.watch(job_id))):
        with pytest.raises(InvalidArgumentError, match="id"):
            ask(job_id)
    with pytest.raises(InvalidArgumentError):
        next(client.results(job_id))
    assert script.requests == []


@pytest.mark.parametrize("key", ["schl\xfcssel", "leap_live_\nsecret", "leap_live_ secret"])
def test_a_key_that_cannot_be_one_is_told_without_showing_it(key: str) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(InvalidArgumentError) as refused:
            make("http://service", key)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidArgumentError, match="This cannot be sent"):
        client_of(Script()).rotate_key("id", grace_seconds=seconds)


@pytest.mark.parametrize("text", ["", "März", "a\nb", "text/csv\r\nx-other: value", " a", "a\x7f"])
@pytest.mark.parametrize("option", ["idempotency_key", "media_type"])
def test_a_value_that_no_header_can_have_is_refused_and_not_sent(option: str, text: str) -> None:
    script = Script()
    options: Any = {option: text}
    with pytest.raises(InvalidArgumentError, match=r"^(Idempotency-Key|Content-Type) must be ASCII, without line breaks, and not empty"):
        client_of(script).create_batch(b"x", **options)
    assert script.requests == []


def test_an_address_that_is_not_a_url_is_refused() -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(InvalidArgumentError, match="no URL"):
            make("http://[::1", "key")
        with pytest.raises(InvalidArgumentError, match="no URL"):
            make("http://lookups..example.com", "key")


def test_empty_scopes_or_networks_are_sent_and_not_taken_for_all_of_them() -> None:
    script = Script(httpx.Response(200, json={}), httpx.Response(200, json={}))
    client = client_of(script)
    client.create_key(name="CRM", scopes=[], allowed_networks=[])
    client.create_key()
    assert [json.loads(request.content) for request in script.requests] == [{"name": "CRM", "scopes": [], "allowed_networks": []}, {}]


def test_errors_survive_copying_and_pickling() -> None:
    refused = ApiError(404, {"error": "Batch job not found", "code": "job_not_found", "hint": "Look for it"})
    lost = UnavailableError("The connection was lost", maybe_done=True)
    for error in (refused, lost):
        for made in (copy.copy(error), pickle.loads(pickle.dumps(error))):
            assert (type(made), str(made), vars(made)) == (type(error), str(error), vars(error))


def test_methods_describe_themselves() -> None:
    for client in (client_of(Script()), AsyncClient("http://service", "key")):
        assert client.cancel_job.__doc__ == calls.cancel_job.__doc__
        assert client.cancel_job.__name__ == "cancel_job"
        assert list(inspect.signature(client.cancel_job).parameters) == ["job_id"]
        assert inspect.signature(client.create_batch).return_annotation == "CreatedBatch"
        assert get_type_hints(type(client).get_job)["return"] is Job
        described = pydoc.plain(pydoc.render_doc(type(client)))
        # Python 3.13 adds the module.
        assert re.search(r" cancel_job\(self, job_id: 'str'\) -> 'dict\[str, Any\]'( from batch_lookups\.client)?\n", described)


class OwnAsyncClient(AsyncClient):
    pass


@pytest.mark.parametrize("kind", [Client, AsyncClient, OwnAsyncClient])
async def test_mocks_have_the_methods_of_a_client(kind: type[Client | AsyncClient]) -> None:
    is_async = kind is not Client
    mocked: Any = create_autospec(kind, instance=True)
    mocked.get_job.return_value = {"id": JOB}
    assert (await mocked.get_job(JOB) if is_async else mocked.get_job(JOB)) == {"id": JOB}
    with pytest.raises(TypeError, match="job_id"):
        mocked.get_job()
    assert inspect.iscoroutinefunction(kind.get_job) == is_async


def test_programs_with_strict_types_start_tasks_and_close_what_they_iterate(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


PROGRAM = """
import asyncio
from contextlib import aclosing, closing

from batch_lookups import AsyncClient, Client
from batch_lookups.types import Item, Job


async def with_tasks(client: AsyncClient) -> Job:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(client.get_job("a"))
    async with aclosing(client.watch("a")) as jobs, aclosing(client.items("a")) as items, aclosing(client.results("a")) as records:
        await anext(jobs), await anext(items), await anext(records)
    return task.result()


def with_generators(client: Client) -> Item:
    with closing(client.watch("a")) as jobs, closing(client.items("a")) as items, closing(client.results("a")) as records:
        next(jobs), next(records)
        return next(items)
"""


def test_white_space_around_a_key_is_no_part_of_it() -> None:
    script = Script(httpx.Response(200, json={}))
    Client("http://service", " key\n", transport=httpx.MockTransport(script)).get_me()
    assert script.requests[0].headers["x-api-key"] == "key"


@pytest.mark.parametrize("file", ["sites.csv", Path("sites.csv"), [{"reference_id": "deal-001"}]])
def test_only_the_content_of_a_file_is_accepted_for_an_upload(file: Any) -> None:
    script = Script()
    for upload in (client_of(script).create_batch, client_of(script).check_batch):
        with pytest.raises(TypeError, match=r"read_bytes\(\), not "):
            upload(file)
    assert script.requests == []


def test_a_large_file_is_sent_compressed_unless_it_is_already() -> None:
    script = Script(*[CREATED] * 4)
    client = client_of(script)
    rows = b"reference_id,street_1\n" + b"deal-001,1 Main St\n" * 10_000
    for file in (rows[:1000], rows, gzip.compress(rows) + bytes(10**6), b"PK\x03\x04" + bytes(10**6)):
        client.create_batch(file, media_type="text/csv")
        request = script.requests[-1]
        assert request.headers["content-type"] == "text/csv"
        if file is rows:
            assert request.headers["content-encoding"] == "gzip"
            assert len(request.content) < len(file) / 3
            assert gzip.decompress(request.content) == file
        else:
            assert "content-encoding" not in request.headers
            assert request.content == file


def test_each_batch_and_retry_has_a_key_of_its_own() -> None:
    script = Script(*[CREATED] * 5)
    client = client_of(script)
    for call in (create, create, retry, retry):
        call(client)
    assert len({request.headers["idempotency-key"] for request in script.requests}) == 4
    client.retry_job(JOB, idempotency_key="mine")
    assert script.requests[-1].headers["idempotency-key"] == "mine"
    assert dict(script.requests[0].url.params) == {"name": "x", "default_device_ids": "1,20"}


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_records_are_cut_where_they_end(size: int) -> None:
    records = [b"a,b\r\n", b'1,"two\r\nlines, ""quoted"""\r\n', b'"\n",x\n', b"2,\r\n"]
    file = b"".join(records) + b'3,"unfini\r\n'
    splitter = RecordSplitter("csv")
    assert [record for start in range(0, len(file), size) for record in splitter.feed(file[start : start + size])] == records
    assert list(whole_records(io.BytesIO(file), "csv")) == records
    assert list(whole_records(io.BytesIO(b'{"a":"\\""}\n{}\n{'), "ndjson")) == [b'{"a":"\\""}\n', b"{}\n"]


def test_a_record_is_final_when_its_item_has_ended() -> None:
    assert Reader("csv", b"x,status\r\n").is_final(b'"a,\r\npending",completed\r\n')
    assert not Reader("csv", b"status,x\r\n").is_final(b"processing,failed\r\n")
    assert not Reader("ndjson").is_final(b'{"status":"pending"}')


@pytest.mark.parametrize(("encoding", "cuts"), [("identity", (10, 400, 0, 40_000, 100_001)), ("gzip", (10, 400, 0, 1_000, 2_001))])
@pytest.mark.parametrize("results_format", ["csv", "ndjson"])
def test_a_lost_connection_costs_no_record_and_repeats_none(
    cli: Cli, service: Service, results_format: ResultsFormat, encoding: str, cuts: tuple[int, ...]
) -> None:
    job = cli.run("submit", cli.sites("sites.csv", 700)).stdout.strip()
    key = cli.environment["BATCH_LOOKUPS_API_KEY"]
    with Client(service.url, key) as client:
        assert [job["status"] for job in client.watch(job)][-1] == "completed"
        whole = list(client.results(job, results_format))
        assert len(whole) == 700 + (results_format == "csv")
        assert list(client.results(job, results_format, after=697)) == whole[-2:]
    # Within the header, within the first record, before the first piece, and later.
    transport = CuttingTransport(encoding, cuts)
    with Client(service.url, key, transport=transport) as client:
        assert list(client.results(job, results_format)) == whole
        assert transport.cuts == []
        transport.cuts = [cuts[3]]
        with pytest.raises(UnavailableError, match="incomplete"):
            list(client.results(job, results_format, status="completed"))


@pytest.mark.parametrize(("results_format", "media_type"), [("csv", "text/csv"), ("ndjson", "application/x-ndjson")])
def test_an_answer_that_ends_amid_a_record_is_not_taken_for_whole(
    naps: list[float], results_format: ResultsFormat, media_type: str
) -> None:
    records = [b'{"a": 1}\n', b'{"a": 2}\n', b'{"a": 3}\n']
    headers = {"content-type": media_type}
    cut = httpx.Response(200, headers=headers, content=b"".join(records)[:-4])
    script = Script(cut, httpx.Response(200, headers=headers, content=records[2]))
    assert list(client_of(script).results(JOB, results_format)) == records
    # The first record of CSV is the header.
    assert [request.url.params.get("after") for request in script.requests] == [None, "0" if results_format == "csv" else "1"]
    with pytest.raises(UnavailableError, match="the results are incomplete"):
        list(client_of(Script(cut)).results(JOB, results_format, status="failed"))


def flushed(*pieces: bytes) -> bytes:
    """Compressed with gzip, without its end."""
    compressor = zlib.compressobj(wbits=31)
    return b"".join(compressor.compress(piece) + compressor.flush(zlib.Z_FULL_FLUSH) for piece in pieces)


async def test_a_compressed_answer_that_is_cut_off_after_a_record_is_not_taken_for_whole(naps: list[float]) -> None:
    records = [b"reference_id\n", b"d-0\n", b"d-1\n"]
    headers = {"content-type": "text/csv", "content-encoding": "gzip", "transfer-encoding": "chunked"}

    def answer(body: bytes) -> httpx.Response:
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(body))

    def cut_then_whole(whole: bytes) -> Script:
        return Script(answer(flushed(*records[:2])), answer(gzip.compress(whole)))

    script = cut_then_whole(records[2])
    assert list(client_of(script).results(JOB)) == records
    assert [request.url.params.get("after") for request in script.requests] == [None, "0"]
    with pytest.raises(UnavailableError, match="the results are incomplete"):
        list(client_of(cut_then_whole(b"")).results(JOB, status="failed"))
    assert client_of(cut_then_whole(b"".join(records))).get_report_csv(JOB) == b"".join(records)
    nothing = Script(httpx.Response(200, headers=headers, stream=httpx.ByteStream(b"")))
    assert client_of(nothing).get_report_csv(JOB) == b""

    script = cut_then_whole(records[2])
    async with AsyncClient("http://service", "key", transport=httpx.MockTransport(script)) as client:
        assert [record async for record in client.results(JOB)] == records


class OfHttp10(BaseHTTPRequestHandler):
    """A proxy of HTTP/1.0, which closes the connection at the end, and breaks off after two records each time."""

    records: ClassVar[list[bytes]] = [b"reference_id\n", *(b"d-%d\n" % number for number in range(5))]
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(urlsplit(self.path).query)
        after = re.search("after=(\\d+)", self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/csv")
        self.end_headers()
        start = int(after[1]) + 2 if after else 0
        self.wfile.write(b"".join(self.records[start : start + 2]))

    def log_message(self, *_: object) -> None:
        pass


async def test_an_answer_that_does_not_tell_its_end_is_not_taken_for_whole() -> None:
    OfHttp10.asked.clear()
    with HTTPServer(("127.0.0.1", 0), OfHttp10) as server, serving(server):
        url = f"http://127.0.0.1:{server.server_port}"
        with Client(url, "key") as client:
            assert await asyncio.to_thread(lambda: list(client.results(JOB))) == OfHttp10.records
        assert OfHttp10.asked == ["format=csv", *(f"format=csv&after={after}" for after in (0, 2, 4))]
        async with AsyncClient(url, "key") as other:
            assert [record async for record in other.results(JOB)] == OfHttp10.records


def test_a_connection_that_no_longer_responds_is_replaced(cli: Cli, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a night's sleep, or where a router has forgotten it. That is noticed later than all attempts may take together."""
    monkeypatch.setattr("batch_lookups.client.TIMEOUT", httpx.Timeout(1))
    key = cli.environment["BATCH_LOOKUPS_API_KEY"]
    retries: list[Retry] = []
    with (
        running_proxy(urlsplit(service.url).port or 0) as proxy,
        Client(f"http://127.0.0.1:{proxy.port}", key, retry_seconds=0.9, on_retry=retries.append) as client,
    ):
        organization = client.get_me()["organization"]
        proxy.strand()
        assert client.get_me()["organization"] == organization
        [retry] = retries
        assert retry.reason.endswith("did not answer in time (timed out)")
        # A service that does not respond at all is given up.
        proxy.fall_silent()
        with pytest.raises(UnavailableError, match="did not answer in time"):
            client.get_me()


class CuttingTransport(httpx.BaseTransport):
    """Loses the connection of one download of results after the other, after so many bytes as they are sent in that encoding."""

    def __init__(self, encoding: str, cuts: tuple[int, ...]) -> None:
        self.cuts = list(cuts)
        self._encoding = encoding
        self._transport = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["accept-encoding"] = self._encoding
        response = self._transport.handle_request(request)
        if not request.url.path.endswith("/results") or not self.cuts:
            return response
        assert response.headers.get("content-encoding", "identity") == self._encoding
        assert isinstance(response.stream, httpx.SyncByteStream)
        return httpx.Response(response.status_code, headers=response.headers, stream=CutStream(response.stream, self.cuts.pop(0)))

    def close(self) -> None:
        self._transport.close()


class CutStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, length: int) -> None:
        self._stream, self._length = stream, length

    def __iter__(self) -> Iterator[bytes]:
        left = self._length
        for piece in self._stream:
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                raise httpx.ReadError("lost")

    def close(self) -> None:
        self._stream.close()


async def test_the_asynchronous_client_does_the_same(cli: Cli, service: Service) -> None:
    file = cli.sites("sites.csv", 12).read_bytes()
    async with AsyncClient(service.url, cli.environment["BATCH_LOOKUPS_API_KEY"]) as client:
        assert (await client.check_batch(file))["valid"]
        assert (await client.check_batch(cli.sites("large.csv", 2000).read_bytes()))["total_items"] == 2000
        created = await client.create_batch(file, idempotency_key="mine")
        assert (await client.create_batch(file, idempotency_key="mine"))["replayed"]
        jobs = [job async for job in client.watch(created["job_id"])]
        assert jobs[-1]["processed_items"] == 12
        assert len([item async for item in client.items(created["job_id"], status="completed")]) == 12
        assert len([record async for record in client.results(created["job_id"])]) == 13
        assert "12" in await client.get_report_page(jobs[-1]["report_id"])
        with pytest.raises(ApiError) as refused:
            await client.get_job(JOB)
        assert (refused.value.status, refused.value.code) == (404, "job_not_found")
        assert refused.value.request_id


async def test_watching_many_jobs_makes_no_other_call_wait(cli: Cli, service: Service) -> None:
    file = cli.sites("sites.csv", 2).read_bytes()
    async with AsyncClient(service.url, cli.environment["BATCH_LOOKUPS_API_KEY"]) as client:
        created = await client.create_batch(file, FileOptions(sample=1))
        async for job in client.watch(created["job_id"]):
            if job["waiting_for"]:
                break
        _, etag = await client.send(calls.changed_job(created["job_id"], None, 0))
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(client.send(calls.changed_job(created["job_id"], etag, 60))) for _ in range(120)]
            await asyncio.sleep(0)
            async with asyncio.timeout(20):
                assert (await client.get_me())["organization"]
                await client.continue_job(created["job_id"])
        assert all(task.result()[0] for task in watching)


def test_the_example_of_the_documentation_works_as_it_stands(cli: Cli, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "cli.md").read_text(), re.DOTALL)
    cli.sites("sites.csv", 3)
    monkeypatch.chdir(cli.folder)
    exec(example.replace("https://lookups.example.com", service.url), {"api_key": cli.environment["BATCH_LOOKUPS_API_KEY"]})
    assert len((cli.folder / "results.csv").read_bytes().splitlines()) == 4


class Endless(BaseHTTPRequestHandler):
    """Sends `first` and then `piece` again and again, until nobody listens."""

    status = 200
    headers_sent: ClassVar[dict[str, str]] = {}
    first = b""
    piece = b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(self.first)
            while True:
                self.wfile.write(self.piece)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("batch_lookups.bodies.MAX_BYTES", 10 * 1024**2)
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server, serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def megabyte(compressor: Any) -> bytes:
    """A megabyte of spaces, of which the second is what all further ones are."""
    compressed: bytes = compressor.compress(b" " * 1024**2) + compressor.flush(zlib.Z_FULL_FLUSH)
    return compressed


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_an_endless_answer_is_not_kept_in_memory(endless: str, monkeypatch: pytest.MonkeyPatch, status: int, encoding: str) -> None:
    piece = b" " * 65536
    if encoding == "gzip":
        gzip = zlib.compressobj(wbits=31)
        monkeypatch.setattr(Endless, "first", megabyte(gzip))
        piece = megabyte(gzip)
    monkeypatch.setattr(Endless, "status", status)
    monkeypatch.setattr(Endless, "headers_sent", {"Content-Type": "application/json", "Content-Encoding": encoding})
    monkeypatch.setattr(Endless, "piece", piece)
    with Client(endless, "key") as client, pytest.raises(BatchLookupsError, match="longer than 10 MB"):
        await asyncio.to_thread(client.get_job, JOB)
    async with AsyncClient(endless, "key") as client:
        with pytest.raises(BatchLookupsError, match="longer than 10 MB"):
            await client.get_job(JOB)


async def test_an_endless_answer_may_have_any_number_of_records_but_no_endless_one(endless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endless, "headers_sent", {"Content-Type": "text/csv"})
    for piece in (b"x" * 65535 + b"\n", b"x" * 65536):
        monkeypatch.setattr(Endless, "piece", piece)
        with Client(endless, "key") as client, closing(client.results(JOB)) as records:
            if piece.endswith(b"\n"):
                assert sum(len(record) for record in islice(records, 320)) == 20 * 1024**2
            else:
                with pytest.raises(BatchLookupsError, match="longer than 10 MB"):
                    next(records)
    async with AsyncClient(endless, "key") as other:
        with pytest.raises(BatchLookupsError, match="longer than 10 MB"):
            async for _ in other.results(JOB):
                pass


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_signatures_are_those_of_standard_webhooks() -> None:
    # The example of the specification's reference libraries.
    body = b'{"test": 2432232314}'
    signature = sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    with pytest.raises(SecretError):
        sign("whsec_", "", 0, b"")


def cases() -> list[tuple[dict[str, Any], bool]]:
    genuine = {"message_id": "a", "timestamp": "1614265330", "signature": f"v1,x {sign(SECRET, 'a', 1614265330, b'{}')}"}
    changes = [
        *({"message_id": "b"}, {"message_id": "\udcff"}),
        *({"timestamp": "1614265331"}, {"timestamp": "now"}, {"timestamp": "9" * 5000}),
        *({"signature": "v1,é"}, {"signature": "v1,\udcff"}),
    ]
    return [(genuine, True), *((genuine | change, False) for change in changes)]


@pytest.mark.parametrize(("headers", "is_genuine"), cases())
def test_messages_that_are_not_genuine_are_recognized(headers: dict[str, Any], is_genuine: bool) -> None:
    assert (why_not_genuine(SECRET, b"{}", **headers, seconds_off=1e12) is None) == is_genuine
    assert why_not_genuine(SECRET, b"{}", **headers) is not None, "it is years old"
    assert why_not_genuine(SECRET, b"{}", **headers, seconds_off=float("nan")) is not None
