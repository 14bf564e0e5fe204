"""The worker's HTTP client against a real server."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import subprocess
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from pyshell.worker.upstream import Answer, Upstream, retry_after
from pyshell.worker.upstream_connections import IDLE_TIMEOUT
from tests.upstream import FakeUpstream, Reply, fake_upstream

ORGANIZATION = bytes(16)


async def look_up(client: Upstream, reference_id: str = "site", seconds: float = 5) -> Answer:
    return await client.look_up(ORGANIZATION, json.dumps({"reference_id": reference_id}).encode(), seconds, 100_000)


def client_of(url: str) -> Upstream:
    return Upstream(url, {}, names_organization=False)


async def test_connections_are_kept_and_used_again(upstream: FakeUpstream) -> None:
    client = client_of(upstream.url)
    for _ in range(20):
        await look_up(client)
    assert upstream.connections == 1
    await asyncio.gather(*[look_up(client) for _ in range(10)])
    assert upstream.connections == 10
    client.close()


async def test_a_connection_that_the_server_closes_is_not_used_again(upstream: FakeUpstream) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(headers={"Connection": "close"}, close=True)
    assert [(await look_up(client)).http_status for _ in range(3)] == [200, 200, 200]
    assert upstream.connections == 3
    client.close()


async def test_a_connection_that_was_idle_for_long_is_not_used_again(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyshell.worker.upstream_connections.IDLE_TIMEOUT", IDLE_TIMEOUT / 100)
    client = client_of(upstream.url)
    await look_up(client)
    await asyncio.sleep(IDLE_TIMEOUT / 50)
    await look_up(client)
    assert upstream.connections == 2
    client.close()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body='{"a": 1}'),
        Reply(body=gzip.compress(b'{"a": 1}'), headers={"Content-Encoding": "gzip"}),
        Reply(raw=b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n'),
        Reply(raw=b'HTTP/1.1 200 OK\r\n\r\n{"a": 1}', close=True),
        Reply(raw=b'HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}', close=True),
        Reply(raw=b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}'),
    ],
    ids=["length", "gzip", "chunked", "until the connection ends", "HTTP/1.0", "after 100 Continue"],
)
async def test_an_answer_is_read_however_it_is_framed(upstream: FakeUpstream, reply: Reply) -> None:
    client = client_of(upstream.url)
    upstream.usual = reply
    for _ in range(2):
        assert await look_up(client) == Answer(200, None, b'{"a": 1}', None)
    client.close()


async def test_a_lookup_ends_in_time_whatever_the_server_does(upstream: FakeUpstream) -> None:
    client = client_of(upstream.url)
    upstream.usual = Reply(delay=60)
    started = time.monotonic()
    assert (await look_up(client, seconds=0.2)).error_class == "timeout"
    assert time.monotonic() - started < 2
    client.close()


async def test_a_server_that_cannot_be_reached_is_named_by_the_cause() -> None:
    assert (await look_up(client_of("http://127.0.0.1:1/"))).error_class == "unreachable"
    assert (await look_up(client_of("http://host.invalid/"))).error_class == "dns"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for localhost, signed by itself, and its key, in one file."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    file = tmp_path / "certificate.pem"
    subprocess.run([*command.split(), "-keyout", tmp_path / "key.pem", "-out", file], check=True, capture_output=True)
    file.write_text(file.read_text() + (tmp_path / "key.pem").read_text())
    return file


async def test_a_provider_is_trusted_only_with_a_valid_certificate(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    with fake_upstream(tls) as upstream:
        url = f"https://localhost:{upstream.port}/"
        assert (await look_up(client_of(url))).error_class == "tls"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        client = client_of(url)
        assert [(await look_up(client)).http_status for _ in range(2)] == [200, 200]
        assert upstream.connections == 1
        client.close()
        assert (await look_up(client_of(f"https://127.0.0.1:{upstream.port}/"))).error_class == "tls"


@pytest.mark.parametrize("url", ["ftp://example.com", "http://", "example.com/incentives"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not an http or https URL"):
        client_of(url)


def test_a_header_cannot_smuggle_another() -> None:
    client = Upstream("http://127.0.0.1/", {"Authorization": "Bearer a\r\nX-Other: b"}, names_organization=False)
    with pytest.raises(ValueError, match="line break"):
        asyncio.run(look_up(client))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), (" 120 ", 120), ("0", 0), ("-5", None), ("soon", None), ("", None), ("9" * 40, 999_999_999), ("Wed, 99 Nov", None)],
)
def test_retry_after_in_seconds(header: str, seconds: float | None) -> None:
    assert retry_after(header.encode()) == seconds


def test_retry_after_as_a_date_counts_from_the_servers_clock() -> None:
    now = 1_800_000_000
    until, date = (formatdate(at, usegmt=True).encode() for at in (now + 30, now))
    assert retry_after(until, date) == 30
    assert retry_after(date, until) == 0
    assert retry_after(formatdate(time.time() + 30, usegmt=True).encode()) == pytest.approx(30, abs=2)
