"""The worker's HTTP client against a real server."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import random
import resource
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from pyshell import http_client
from pyshell.http_client import CONNECT_SECONDS, IDLE_SECONDS, retry_after
from pyshell.postgres.compact import PIECE_BYTES
from pyshell.settings import Settings, SettingsError
from pyshell.worker import upstream as worker_upstream
from pyshell.worker.answers import AnswerCheck, foreign_reference_id
from pyshell.worker.upstream import Answer, Upstream
from tests.certificates import authority
from tests.conftest import Connection
from tests.timed import counted_turns, wait_until
from tests.upstream import FakeUpstream, Reply, fake_upstream, render
from tests.webhook_receiver import raw_receiver
from tests.worker_fixtures import Batches, running_worker

ORGANIZATION = bytes(16)
OTHER_ORGANIZATION = bytes(15) + b"\1"


async def look_up(
    client: Upstream, reference_id: str = "site", seconds: float = 5, organization_id: bytes = ORGANIZATION, max_bytes: int = 100_000
) -> Answer:
    return await client.look_up(organization_id, json.dumps({"reference_id": reference_id}).encode(), seconds, max_bytes)


def client_of(url: str, *, internal_key: str | None = None) -> Upstream:
    return Upstream(url, {}, internal_key=internal_key)


async def test_connections_are_kept_and_used_again(upstream: FakeUpstream) -> None:
    client = client_of(upstream.url)
    for _ in range(20):
        await look_up(client)
    assert upstream.connections == 1
    upstream.usual = Reply(delay=0.1)
    await asyncio.gather(*[look_up(client) for _ in range(10)])
    assert upstream.connections == 10
    client.close()


@pytest.mark.parametrize("internal_key", [None, "key"])
async def test_a_client_that_could_not_be_created_is_created_again(internal_key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client = client_of("https://127.0.0.1:1", internal_key=internal_key)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await look_up(client)
    assert (await look_up(client)).error_class == "unreachable"


async def test_no_connection_to_a_provider_is_shared_by_two_organizations(upstream: FakeUpstream) -> None:
    client = client_of(upstream.url)
    for _ in range(3):
        for organization_id in (ORGANIZATION, OTHER_ORGANIZATION):
            assert (await look_up(client, organization_id=organization_id)).http_status == 200
    assert upstream.connections == 2
    assert "x-organization-id" not in upstream.requests[0].headers
    client.close()


async def test_our_own_api_is_told_the_organization_and_reached_over_shared_connections(upstream: FakeUpstream) -> None:
    upstream.internal_key = b"internal key"
    client = client_of(upstream.url, internal_key="internal key")
    for organization_id in (ORGANIZATION, OTHER_ORGANIZATION):
        await look_up(client, organization_id=organization_id)
    assert upstream.connections == 1
    assert [seen.headers["x-organization-id"][-1:] for seen in upstream.requests] == ["", "0", "1"]
    client.close()


async def test_connections_are_closed_with_the_client(upstream: FakeUpstream) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(delay=0.1)
    await asyncio.gather(*[look_up(client) for _ in range(5)])
    assert upstream.open_connections == 5
    client.close()
    await until(lambda: upstream.open_connections == 0)


async def test_clients_of_the_longest_idle_organizations_are_dropped(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_upstream, "MAX_CLIENTS", 3)
    client = client_of(upstream.url)
    for n in range(10):
        assert (await look_up(client, organization_id=bytes([n]) * 16)).http_status == 200
    await until(lambda: upstream.open_connections == 3)
    client.close()


async def test_without_tls_an_organization_needs_no_thread(upstream: FakeUpstream) -> None:
    """A client that reads no certificates is made in 8 µs; by way of a thread it took ten times as long."""
    client = client_of(upstream.url)
    threads = {thread.ident for thread in threading.enumerate() if thread.name.startswith("asyncio_")}
    for number in range(20):
        assert (await look_up(client, organization_id=bytes([number] * 16))).succeeded
    assert {thread.ident for thread in threading.enumerate() if thread.name.startswith("asyncio_")} == threads
    client.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (true on another thread)
            await asyncio.sleep(0.01)


async def test_a_connection_that_the_server_closes_is_not_used_again(upstream: FakeUpstream) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(headers={"Connection": "close"}, close=True)
    assert [(await look_up(client)).http_status for _ in range(3)] == [200, 200, 200]
    assert upstream.connections == 3
    client.close()


async def test_a_connection_that_was_idle_for_long_is_not_used_again(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "IDLE_SECONDS", IDLE_SECONDS / 100)
    client = client_of(upstream.url)
    await look_up(client)
    await asyncio.sleep(IDLE_SECONDS / 50)
    await look_up(client)
    assert upstream.connections == 2
    client.close()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body='{"a": 1}'),
        Reply(body=gzip.compress(b'{"a": 1}'), headers={"Content-Encoding": "gzip"}),
        Reply(body='{"a": 1}', headers={"Content-Encoding": "identity"}),
        Reply(raw=b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n'),
        Reply(raw=b'HTTP/1.1 200 OK\r\n\r\n{"a": 1}', close=True),
        Reply(raw=b'HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}', close=True),
        Reply(raw=b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}'),
        Reply(raw=b'HTTP/1.1 200 OK\r\nRetry-After: \xff\r\nContent-Length: 8\r\n\r\n{"a": 1}'),
    ],
    ids=[
        "length",
        "gzip",
        "identity",
        "chunked",
        "until the connection ends",
        "HTTP/1.0",
        "after 100 Continue",
        "a header that is no text",
    ],
)
async def test_an_answer_is_read_however_it_is_framed(upstream: FakeUpstream, reply: Reply) -> None:
    client = client_of(upstream.url)
    upstream.usual = reply
    for _ in range(2):
        assert await look_up(client) == Answer(200, None, b'{"a": 1}', None)
    client.close()


@pytest.mark.parametrize(
    ("reply", "error_class"),
    [
        (Reply(raw=b"hello\r\n\r\n", close=True), "invalid_response"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} "), "invalid_response"),
        (Reply(raw=b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", close=True), "invalid_response"),
        (Reply(body=b"no gzip", headers={"Content-Encoding": "gzip"}), "invalid_response"),
        (Reply(body=gzip.compress(b"x" * 1000)[:20], headers={"Content-Encoding": "gzip"}), "invalid_response"),
        (Reply(body=b"{}", headers={"Content-Encoding": "br"}), "invalid_response"),
        (Reply(headers={f"x-{n}": "x" for n in range(101)}), "invalid_response"),
        (Reply(body=b" " * 100_001), "response_too_large"),
        (Reply(body=gzip.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"}), "response_too_large"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", close=True), "connection"),
        (Reply(raw=b"", close=True), "connection"),
        (Reply(reset=True), "connection"),
        (Reply(delay=60), "timeout"),
    ],
    ids=[
        *("no HTTP", "two lengths", "an upgrade", "no gzip", "half a gzip", "an encoding nobody asked for", "101 headers"),
        *("too large", "too large when unpacked", "cut off", "closed", "reset", "silent"),
    ],
)
async def test_a_lookup_without_an_answer_has_an_error_class(upstream: FakeUpstream, reply: Reply, error_class: str) -> None:
    client = client_of(upstream.url)
    upstream.usual = reply
    assert await look_up(client, seconds=0.5) == Answer(None, error_class, None, None)
    assert len(upstream.requests) == 1, "a request is never sent again"
    client.close()


def test_a_url_or_key_that_cannot_be_sent_is_a_wrong_setting() -> None:
    for given in (
        Settings(incentives_api_url="https://a%zz.example.com/"),
        Settings(incentives_api_url="https://x/", incentives_api_key="a\nb"),
    ):
        with pytest.raises(SettingsError, match="INCENTIVES_API_URL") as refused:
            Upstream.from_settings(given, "internal key")
        assert "\n" not in str(refused.value)


async def test_an_error_status_counts_even_with_an_unknown_content_encoding(upstream: FakeUpstream) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(status=429, body=b"?", headers={"Content-Encoding": "br", "Retry-After": "7"})
    assert await look_up(client) == Answer(429, None, b"", 7.0)
    client.close()


async def test_a_request_on_a_connection_that_is_just_being_closed_is_not_sent_twice(upstream: FakeUpstream) -> None:
    """However the close and the request meet: each lookup is one request at most."""
    client = client_of(upstream.url)
    upstream.usual = Reply(close=True)
    answers = [await look_up(client, f"site-{n}") for n in range(200)]
    assert upstream.times_seen().most_common(1)[0][1] == 1
    assert all(answer.http_status == 200 or answer.error_class == "connection" for answer in answers)
    client.close()


async def test_endless_headers_take_no_memory() -> None:
    def endless(file: Any) -> None:
        file.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(200_000):
            file.write(b"x-name: " + b"x" * 1000 + b"\r\n")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with raw_receiver(endless) as url:
        client = client_of(url)
        assert (await look_up(client)).error_class == "invalid_response"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000, "in KB, of the 200 MB that were offered"


async def test_a_redirect_is_an_answer_and_not_followed(upstream: FakeUpstream) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(307, "{}", {"Location": upstream.url})
    assert await look_up(client) == Answer(307, None, b"{}", None)
    assert len(upstream.requests) == 1
    client.close()


async def test_no_cookie_is_kept(upstream: FakeUpstream) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(headers={"Set-Cookie": "session=1; Path=/"})
    for _ in range(2):
        await look_up(client)
    assert "cookie" not in upstream.requests[1].headers
    client.close()


async def test_a_lookup_ends_in_time_whatever_the_server_does() -> None:
    def drip(file: Any) -> None:
        file.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            file.write(b"x")
            time.sleep(0.02)

    def delay(file: Any) -> None:
        while True:
            file.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.02)

    for answer in (drip, delay):
        with raw_receiver(answer) as url:
            started = time.monotonic()
            assert (await look_up(client_of(url), seconds=0.2)).error_class == "timeout"
            assert time.monotonic() - started < 10


async def test_a_server_that_cannot_be_reached_is_named_by_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await look_up(client_of("http://127.0.0.1:1/"))).error_class == "unreachable"
    assert (await look_up(client_of("http://host.invalid/"))).error_class == "dns"
    assert CONNECT_SECONDS == 5.0
    monkeypatch.setattr(http_client, "CONNECT_SECONDS", 0.2)
    with deaf_server() as port:
        assert (await look_up(client_of(f"http://127.0.0.1:{port}/"))).error_class == "unreachable"


@contextmanager
def deaf_server() -> Iterator[int]:
    """A port that accepts no connections any more, because its backlog is full."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


class TestTls:
    """A provider is trusted only with a valid certificate."""

    @pytest.fixture
    def ca_file(self, tmp_path: Path) -> Iterator[Path]:
        made = authority("localhost", tmp_path)
        with fake_upstream(made.server) as self.upstream:
            self.url = f"https://localhost:{self.upstream.port}/"
            yield made.file

    def settings(self, **changes: Any) -> Settings:
        return Settings(incentives_api_url=self.url, **changes)

    async def test_an_unknown_authority_is_refused(self, ca_file: Path) -> None:
        assert (await look_up(Upstream.from_settings(self.settings(), ""))).error_class == "tls"
        assert not self.upstream.requests

    async def test_the_certificates_of_the_settings_are_trusted(self, ca_file: Path) -> None:
        client = Upstream.from_settings(self.settings(incentives_api_ca_file=ca_file), "")
        assert [(await look_up(client)).http_status for _ in range(2)] == [200, 200]
        assert self.upstream.connections == 1
        client.close()

    async def test_the_certificates_of_the_machine_are_trusted(self, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
        assert (await look_up(Upstream.from_settings(self.settings(), ""))).http_status == 200

    async def test_a_certificate_for_another_name_is_refused(self, ca_file: Path) -> None:
        self.url = f"https://127.0.0.1:{self.upstream.port}/"
        assert (await look_up(Upstream.from_settings(self.settings(incentives_api_ca_file=ca_file), ""))).error_class == "tls"

    async def test_a_server_without_tls_is_a_tls_error(self) -> None:
        with raw_receiver(lambda file: file.write(b"HTTP/1.1 400 Bad Request\r\n\r\n"), at_once=True) as url:
            assert (await look_up(client_of(url.replace("http:", "https:")))).error_class == "tls"

    @pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n"])
    def test_a_file_without_certificates_is_refused_at_the_start(self, content: str | None, tmp_path: Path) -> None:
        file = tmp_path / "authority.pem"
        if content is not None:
            file.write_text(content)
        with pytest.raises(SettingsError, match="INCENTIVES_API_CA_FILE must name a file of certificates"):
            Settings.from_environment({"INCENTIVES_API_CA_FILE": str(file)})


class TestProxy:
    """`HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` apply to the incentives API, and to nothing else."""

    @pytest.fixture
    def proxy(self) -> Iterator[FakeUpstream]:
        with fake_upstream() as proxy:
            yield proxy

    async def look_up(self, **environment: str) -> Answer:
        client = Upstream.from_settings(Settings.from_environment(environment), "internal key")
        answer = await look_up(client)
        client.close()
        return answer

    @pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
    async def test_a_request_for_http_goes_to_the_proxy(self, proxy: FakeUpstream, name: str) -> None:
        url = "http://incentives.invalid/v1/incentives?source=batch"
        assert (await self.look_up(INCENTIVES_API_URL=url, **{name: f"127.0.0.1:{proxy.port}"})).http_status == 200
        assert [seen.target for seen in proxy.requests] == [url]

    async def test_a_request_for_https_is_tunnelled(self, tmp_path: Path) -> None:
        made = authority("incentives.invalid", tmp_path)
        with fake_upstream(made.server) as upstream, tunnel(upstream.port) as (port, asked_for):
            environment = {
                "INCENTIVES_API_URL": "https://incentives.invalid/v1",
                "INCENTIVES_API_CA_FILE": str(made.file),
                "HTTPS_PROXY": f"http://user:secret@127.0.0.1:{port}",
            }
            assert (await self.look_up(**environment)).http_status == 200
            assert [seen.headers["host"] for seen in upstream.requests] == ["incentives.invalid"]
            assert asked_for == ["CONNECT incentives.invalid:443 HTTP/1.1", "Basic dXNlcjpzZWNyZXQ="]

    async def test_a_proxy_for_the_other_scheme_is_not_used(self, proxy: FakeUpstream, upstream: FakeUpstream) -> None:
        answer = await self.look_up(INCENTIVES_API_URL=upstream.url, HTTPS_PROXY=f"http://127.0.0.1:{proxy.port}")
        assert (answer.http_status, len(upstream.requests), len(proxy.requests)) == (200, 1, 0)

    @pytest.mark.parametrize("exempt", ["127.0.0.1", "example.com, 127.0.0.0/8", "*"])
    async def test_a_host_in_no_proxy_is_reached_without_one(self, proxy: FakeUpstream, upstream: FakeUpstream, exempt: str) -> None:
        answer = await self.look_up(INCENTIVES_API_URL=upstream.url, HTTP_PROXY=f"http://127.0.0.1:{proxy.port}", NO_PROXY=exempt)
        assert (answer.http_status, len(upstream.requests), len(proxy.requests)) == (200, 1, 0)

    async def test_our_own_api_is_reached_directly(
        self, proxy: FakeUpstream, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        upstream.internal_key = b"internal key"
        assert (await self.look_up(PORT=str(upstream.port), HTTP_PROXY=f"http://127.0.0.1:{proxy.port}")).http_status == 200
        assert (len(upstream.requests), len(proxy.requests)) == (2, 0)

    async def test_a_proxy_that_is_away_or_refuses_is_an_error(self) -> None:
        answer = await self.look_up(INCENTIVES_API_URL="https://incentives.invalid/", HTTPS_PROXY="http://127.0.0.1:1")
        assert answer.error_class == "unreachable"
        with raw_receiver(lambda file: file.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")) as url:
            answer = await self.look_up(INCENTIVES_API_URL="https://incentives.invalid/", HTTPS_PROXY=url)
        assert answer.error_class == "unreachable"

    def test_a_proxy_that_is_not_a_url_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="HTTPS_PROXY must be a URL"):
            Settings.from_environment({"HTTPS_PROXY": "ftp://proxy.example"})


@contextmanager
def tunnel(target: int) -> Iterator[tuple[int, list[str]]]:
    """A proxy that connects everybody to a port of this machine; yields its own port and the request lines that it received."""
    asked_for: list[str] = []

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with server.accept()[0] as client, client.makefile("rb") as file:
            asked_for.append(file.readline().decode().strip())
            while line := file.readline().decode().strip():
                name, _, value = line.partition(": ")
                asked_for.extend([value] if name.lower() == "proxy-authorization" else [])
            client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            with socket.create_connection(("127.0.0.1", target)) as upstream:
                back = threading.Thread(target=copy, args=(upstream, client))
                back.start()
                copy(client, upstream)
                back.join()

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], asked_for
        thread.join()


SURPLUS = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"b": 2}'


@pytest.mark.parametrize("surplus", [SURPLUS, SURPLUS[:20], b"\r\n\r\nx"], ids=["an answer", "half an answer", "anything"])
async def test_a_connection_that_sends_too_much_is_closed(upstream: FakeUpstream, surplus: bytes) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(raw=b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}' + surplus)
    assert [await look_up(client) for _ in range(5)] == 5 * [Answer(200, None, b'{"a": 1}', None)]
    assert upstream.connections == 5
    client.close()


async def test_a_connection_that_sends_unprompted_is_closed(upstream: FakeUpstream) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(again=0.02)
    for n in range(5):
        answer = await look_up(client, f"site-{n}")
        assert json.loads(answer.text or b"")["reference_id"] == f"site-{n}"
        await asyncio.to_thread(wait_until, lambda: not upstream.open_connections)
    assert upstream.connections == 5
    client.close()


async def test_an_answer_to_another_request_is_refused_and_its_connection_not_used_again(
    upstream: FakeUpstream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(upstream.url)
    # The answer to the former request once more, and then its own.
    upstream.plan("shifted", Reply(raw=render(Reply(), {"reference_id": "late"}) + render(Reply(), {"reference_id": "shifted"})))
    assert (await look_up(client, "late")).http_status == 200
    with caplog.at_level(logging.WARNING):
        assert await look_up(client, "shifted") == Answer(None, "invalid_response", None, None)
    [record] = caplog.records
    assert "00000000-0000-0000-0000-000000000000" in record.message
    assert "'late'" in record.message
    connections = upstream.connections
    answers = [await look_up(client, f"site-{n}") for n in range(3)]
    assert [json.loads(answer.text or b"")["reference_id"] for answer in answers] == [f"site-{n}" for n in range(3)]
    assert upstream.connections == connections + 3, "for a while, no connection is used twice"
    monkeypatch.setattr(client, "_distrusted_until", 0.0)
    connections = upstream.connections
    for _ in range(3):
        await look_up(client)
    assert upstream.connections == connections + 1, "and then they are again"
    client.close()


@pytest.mark.parametrize(
    ("body", "error_class"),
    [
        ('{"reference_id": "site", "a": {"reference_id": "other"}}', None),
        ('{"a": 1}', None),
        ('{"reference_id": null}', None),
        ("[1]", None),
        ("not JSON", None),
        ('{"reference_id": "other"}', "invalid_response"),
        ('{"a": {"reference_id": "site"}, "reference_id": "other"}', "invalid_response"),
        ('{"reference_\\u0069d": "other"}', "invalid_response"),
        ('{"reference_id": ""}', "invalid_response"),
        ('{"reference_id": 7}', "invalid_response"),
        ('{"reference_id": {"a": 1}}', "invalid_response"),
    ],
)
async def test_the_reference_id_of_an_answer_is_that_of_its_request(upstream: FakeUpstream, body: str, error_class: str | None) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(body=body)
    assert (await look_up(client)).error_class == error_class
    client.close()


async def test_a_provider_that_always_answers_another_request_is_logged_once_and_in_brief(
    upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(body=json.dumps({"reference_id": "x" * 50_000}))
    with caplog.at_level(logging.WARNING):
        assert [(await look_up(client)).error_class for _ in range(3)] == ["invalid_response"] * 3
    [record] = caplog.records
    assert len(record.message) < 1000
    client.close()


async def test_a_reference_id_of_digits_may_come_back_as_a_number(upstream: FakeUpstream) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(body='{"reference_id": 12345}')
    assert (await look_up(client, "12345")).http_status == 200
    client.close()


@pytest.mark.parametrize("rate", [0.005, 0.05, 0.5])
async def test_doubled_answers_never_reach_another_item(upstream: FakeUpstream, rate: float, caplog: pytest.LogCaptureFixture) -> None:
    """Two organizations, ten lookups each at once, while the server repeats answers up to 20 ms later."""
    chance = random.Random(rate)
    upstream.improvise = lambda _: Reply(delay=chance.choice([0, 0.002]), again=chance.random() * 0.02 if chance.random() < rate else None)
    client = client_of(upstream.url)
    results: dict[str, Answer] = {}

    async def lane(organization: int, number: int) -> None:
        for n in range(50):
            reference_id = f"{organization}-{number}-{n}"
            answer = await look_up(client, reference_id, organization_id=bytes([organization]) * 16)
            if answer.error_class:  # retried, as the queue does
                answer = await look_up(client, reference_id, organization_id=bytes([organization]) * 16)
            results[reference_id] = answer

    with caplog.at_level(logging.CRITICAL):
        await asyncio.gather(*[lane(organization, number) for organization in (1, 2) for number in range(10)])
    assert len(results) == 1000
    assert {r for r, answer in results.items() if answer.text and json.loads(answer.text)["reference_id"] != r} == set()
    assert [r for r, answer in results.items() if answer.error_class] == [], "and a second attempt gets its own"
    client.close()


def test_two_organizations_complete_with_their_own_answers_whatever_is_doubled(
    batches: Batches, worker_settings: Settings, upstream: FakeUpstream, owner: Connection
) -> None:
    chance = random.Random(1)
    upstream.improvise = lambda _: Reply(delay=chance.choice([0, 0.002]), again=chance.random() * 0.02 if chance.random() < 0.05 else None)
    others = Batches(owner)
    with running_worker(worker_settings):
        jobs = [(of, of.create([f"{name}-{n}" for n in range(300)])) for of, name in ((batches, "ours"), (others, "theirs"))]
        assert [of.wait(job) for of, job in jobs] == ["completed", "completed"]
    rows = owner.execute(
        "select reference_id, result ->> 'reference_id' from public.lookup_queue_items where status = 'completed'"
    ).fetchall()
    assert len(rows) == 600
    assert [row for row in rows if row[0] != row[1]] == []


UNSTORABLE = {
    "NUL": b'{"a": "x\0"}',
    "escaped NUL": b'{"a": "x\\u0000"}',
    "escaped NUL after a backslash": b'{"a": "\\\\\\u0000"}',
    "no UTF-8": b'{"a": "\xff"}',
    "a number of 131,072 digits": b'{"a": 1e131071}',
    "a number of 16,383 places": b'{"a": [0, -1.5E-16383]}',
    "an exponent of three digits": b"[1e+0100]",
    "65 levels": b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
    "5,000 levels": b"[" * 5000 + b"]" * 5000,
    "65 objects": b'{"a":' * 65 + b"1" + b"}" * 65,
}
STORABLE = {
    "an exponent of two digits": b'{"a": 1e99, "b": 1E-99, "c": 1e0005}',
    "what looks like a number in a string": b'{"a": "1e131071", "b": "\\"1e131071"}',
    "64 levels": b'{"a":' + b"[" * 63 + b"]" * 63 + b"}",
    "many brackets, not nested": b"[" + b",".join([b"[{}]"] * 5000) + b"]",
    "brackets in strings": b'["' + b"[" * 500 + b'", "\\"' + b"{" * 500 + b'"]',
    "a backslash and letters": b'{"a": "\\\\u0000"}',
    "backslashes between letters": b'{"a": "\\\\\\\\u00\\\\00"}',
}


@pytest.mark.parametrize("body", UNSTORABLE.values(), ids=UNSTORABLE)
async def test_an_answer_that_could_not_be_stored_or_read_is_refused(upstream: FakeUpstream, body: bytes) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(body=body)
    assert await look_up(client) == Answer(None, "invalid_response", None, None)
    upstream.usual = Reply(404, body)
    assert await look_up(client) == Answer(404, None, None, None), "a refusal counts also without its text"
    client.close()


@pytest.mark.parametrize("body", STORABLE.values(), ids=STORABLE)
async def test_an_answer_that_only_looks_like_one_for_another_request_is_accepted(upstream: FakeUpstream, body: bytes) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(body=body)
    assert await look_up(client) == Answer(200, None, body, None)
    client.close()


MEGABYTE = 1 << 20
HEAVY = {
    "63 levels, many times": b"[" + (b"[" * 63 + b"]" * 63 + b",") * (MEGABYTE // 127) + b"1]",
    "empty objects": b'{"reference_id":"site","a":[' + b"{}," * (MEGABYTE // 3) + b"1]}",
    "zeros of exponents": b"[" + b"1e0000," * (MEGABYTE // 7) + b"1]",
}


@pytest.mark.parametrize("body", HEAVY.values(), ids=HEAVY)
async def test_answers_that_take_long_to_check_let_others_run(body: bytes) -> None:
    check = AnswerCheck()
    async with counted_turns() as count:
        assert all(await asyncio.gather(check.is_storable(body), check.is_storable(body)))
        assert count() > 2 * (MEGABYTE // PIECE_BYTES), "one at a time"


def test_the_reference_id_of_an_answer_is_read_without_the_rest() -> None:
    body = HEAVY["empty objects"]
    tracemalloc.start()
    try:
        assert foreign_reference_id(body, b'{"reference_id": "other"}') == "site"
        assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("url", ["ftp://example.com", "http://", "example.com/incentives", "http://example.com:99999"])
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"not an http or https URL|invalid port number"):
        client_of(url)


def test_a_header_cannot_inject_another() -> None:
    with pytest.raises(ValueError, match="line break") as refused:
        Upstream("http://127.0.0.1/", {"Authorization": "Bearer a\r\nX-Other: b"})
    assert "Bearer" not in str(refused.value)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), (" 120 ", 120), ("0", 0), ("-5", None), ("soon", None), ("", None), ("9" * 40, 999_999_999), ("Wed, 99 Nov", None)],
)
def test_retry_after_in_seconds(header: str, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_retry_after_as_a_date_counts_from_the_servers_clock() -> None:
    now = 1_800_000_000
    until, date = (formatdate(at, usegmt=True) for at in (now + 30, now))
    assert retry_after(until, date) == 30
    assert retry_after(date, until) == 0
    assert retry_after(formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)


@pytest.mark.parametrize("until", ["Sun Nov  6 08:49:37 1994", "Sun, 06 Nov 1994 08:49:37 -0000", "Sunday, 06-Nov-94 08:49:37 GMT"])
def test_retry_after_as_a_date_does_not_depend_on_the_time_zone_of_the_worker(monkeypatch: pytest.MonkeyPatch, until: str) -> None:
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    try:
        assert retry_after(until, "Sun, 06 Nov 1994 08:49:07 GMT") == 30
    finally:
        monkeypatch.undo()
        time.tzset()
