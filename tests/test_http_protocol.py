"""What a client may cost before its request reaches the application: raw bytes to a server."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pyshell.api import app, http_protocol, limits
from pyshell.api.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS
from pyshell.settings import Settings
from tests.http_fixtures import OrganizationClient, running_server, site
from tests.timed import wait_until

HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def address(server: str) -> tuple[str, int]:
    url = httpx.URL(server)
    return url.host, url.port or 80


@pytest.fixture
def connection(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=20) as made:
        yield made


def answer(connection: socket.socket) -> tuple[int, str]:
    """Status and code of the response, after which the server has closed the connection."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["code"] if body else ""


def send_until_refused(connection: socket.socket, pieces: Iterator[bytes]) -> int:
    """How many bytes the server accepted."""
    sent = 0
    try:
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
    except OSError:
        pass
    return sent


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        pytest.param(HEAD, b"a:b\r\n" * 1000, id="many headers"),
        pytest.param(HEAD + b"a: ", b"b" * 5000, id="a long header"),
        pytest.param(HEAD, b"b" * 5000, id="a long name"),
        pytest.param(b"GET /", b"a" * 5000, id="a long address"),
        pytest.param(b"", b"\r\n" * 2500, id="empty lines"),
    ],
)
def test_a_head_has_a_limit(beginning: bytes, piece: bytes, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 0.5)
    pieces = [beginning] + [piece] * (4 * MAX_HEAD_BYTES // 5000)
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"".join(pieces))
        assert answer(connection) == (431, "headers_too_large")


def test_headers_are_limited_in_number(connection: socket.socket, server: str) -> None:
    lines = HEAD.count(b"\r\n") - 1
    connection.sendall(HEAD + b"a:b\r\n" * (MAX_HEADERS - lines) + b"\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    connection.sendall(HEAD + b"a:b\r\n" * (MAX_HEADERS - lines + 1) + b"\r\n")
    assert answer(connection) == (431, "headers_too_large")


def test_query_parameters_are_limited_in_number(connection: socket.socket, server: str) -> None:
    request = HEAD.replace(b" HTTP/1.1", b"?a%s HTTP/1.1", 1)
    others = HEAD.count(b"\r\n") - 1
    connection.sendall(request % (b"&a" * (MAX_HEADERS - others)) + b"\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 400"), "the route knows none"
    connection.sendall(request % (b"&a" * (MAX_HEADERS - others + 1)) + b"\r\n")
    assert answer(connection) == (431, "headers_too_large")


@pytest.mark.parametrize("piece", [b"a:b\r\n" * 1000, b"b" * 5000])
def test_trailers_have_a_limit(piece: bytes, connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
    assert send_until_refused(connection, (piece for _ in range(20_000))) < 20_000 * 5000


def test_what_a_refused_client_still_sends_is_dropped_then_the_connection(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 0.2)
    connection.sendall(HEAD)
    sent = send_until_refused(connection, (b"a:b\r\n" * 13_000 for _ in range(100_000)))
    assert MAX_HEAD_BYTES < sent < 100_000 * 65_000


def test_a_refused_client_cannot_make_the_server_read(connection: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "DROP_SECONDS", 60)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    connection.sendall(HEAD)
    sent = send_until_refused(connection, (b"a:b\r\n" * 13_000 for _ in range(100_000)))
    # What the two sockets hold, and one reading or two.
    assert sent < 16 * 1024 * 1024


def test_a_head_within_the_limit_is_read(server: str) -> None:
    assert httpx.get(f"{server}/healthz", headers={"x-long": "a" * (MAX_HEAD_BYTES - 1000)}).status_code == 200


def test_headers_of_several_requests_do_not_add_up(server: str) -> None:
    with httpx.Client(headers={"x-long": "a" * 20_000}) as client:
        assert [client.get(f"{server}/healthz").status_code for _ in range(5)] == [200] * 5
    with httpx.Client(headers={"x-long": "a" * 20_000}) as client:
        assert [client.post(f"{server}/healthz", content=b"b" * 20_000).status_code for _ in range(5)] == [405] * 5


@pytest.mark.parametrize("beginning", [b"", b"\r\n", b"GET / HT", HEAD + b"a: b"])
def test_headers_have_to_be_complete_in_time(beginning: bytes, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(beginning)
        assert answer(connection) == (408, "incomplete_headers")


def test_the_next_request_of_a_connection_has_to_be_complete_in_time_too(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    connection.sendall(HEAD + b"\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    # Longer than that, it may be idle.
    time.sleep(0.6)
    connection.sendall(HEAD + b"\r\n" + HEAD)
    received = b""
    while piece := connection.recv(65536):
        received += piece
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"408"]


def test_waiting_for_an_answer_is_not_waiting_for_headers(client: OrganizationClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    job = client.submit()
    assert client.get(f"/batch-lookups/{job['job_id']}?wait=1").status_code == 200


def upload_head(client: OrganizationClient, length: int) -> bytes:
    lines = [
        "POST /batch-lookups HTTP/1.1",
        "Host: x",
        f"x-api-key: {client.api_key}",
        "Content-Type: text/csv",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


# A fast start does not excuse slowness for long.
@pytest.mark.parametrize(("begun", "drips"), [(13, 0), (13, 200), (50_000, 0)])
def test_a_body_must_keep_arriving(
    begun: int, drips: int, connection: socket.socket, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.5)
    connection.sendall(upload_head(client, 100_000) + b"reference_id,".ljust(begun, b"a"))
    send_until_refused(connection, drip(b"a", drips))
    assert answer(connection) == (408, "incomplete_body")


def drip(piece: bytes, count: int) -> Iterator[bytes]:
    for _ in range(count):
        time.sleep(0.01)
        yield piece


def test_a_slow_body_is_read_to_its_end(connection: socket.socket, client: OrganizationClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(limits, "MIN_BODY_BYTES_PER_SECOND", 1)
    connection.sendall(upload_head(client, 103).replace(b"Host: x", b"Host: x\r\nConnection: close") + b"abc")
    assert send_until_refused(connection, drip(b"a", 100)) == 100
    assert answer(connection) == (400, "missing_columns")


def test_a_body_that_nobody_reads_is_not_waited_for(connection: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    connection.sendall(b"POST /batch-lookups HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    received = b""
    while piece := connection.recv(65536):
        received += piece
    assert received.startswith(b"HTTP/1.1 401")


def test_connections_have_a_limit(address: tuple[str, int], server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "MAX_CONNECTIONS", 0)
    with socket.create_connection(address, timeout=20) as connection:
        assert answer(connection) == (503, "busy")
    monkeypatch.undo()
    assert httpx.get(f"{server}/healthz").status_code == 200


def test_an_organization_has_its_share_of_uploads(http_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "UPLOAD_WAIT_SECONDS", 2.0)
    with (
        running_server(http_settings) as url,
        OrganizationClient(url, http_settings.database_url) as one,
        OrganizationClient(url, http_settings.database_url) as other,
    ):
        hold_the_share(one, other, httpx.URL(url).port or 80)


def hold_the_share(one: OrganizationClient, other: OrganizationClient, port: int) -> None:
    unfinished = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(limits.UPLOADS_PER_ORGANIZATION)]
    for connection in unfinished:
        connection.sendall(upload_head(one, 10_000))
    # Until all of them have begun, there is a place for this one.
    while (refusal := one.post("/batch-lookups", json=[site()])).status_code == 201:
        pass
    assert (refusal.json()["code"], refusal.headers["retry-after"]) == ("too_many_uploads", "5")
    assert other.post("/batch-lookups", json=[site()]).status_code == 201
    # A waiting request takes the place of one that ends.
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(one.post, "/batch-lookups", json=[site()])
        for connection in unfinished:
            connection.close()
        assert waiting.result().status_code == 201


def test_a_trailer_is_not_taken_for_a_header(client: OrganizationClient, address: tuple[str, int]) -> None:
    """The server of the tests trusts this machine as a proxy, which has said where the request comes from."""
    key = client.post("/api-keys", json={"allowed_networks": ["198.51.100.0/24"]}).json()["key"]

    def status(forwarded_for: str, trailer: str) -> int:
        head = f"GET /me HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Api-Key: {key}\r\nX-Forwarded-For: {forwarded_for}\r\n"
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n0\r\n{trailer}\r\n".encode())
            return int(connection.recv(65536).split()[1])

    assert status("198.51.100.7", "") == 200
    assert status("203.0.113.7", "X-Forwarded-For: 198.51.100.7\r\n") == 403
    assert status("198.51.100.7", "X-Api-Key: another\r\n") == 200


@pytest.mark.parametrize("path", ["/incentives", "/batch-lookups"])
def test_a_content_length_may_begin_with_zeros(path: str, client: OrganizationClient, connection: socket.socket) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Api-Key: {client.api_key}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {'0' * 5000}2\r\n\r\n{{}}".encode())
    assert answer(connection)[0] == 400


def test_a_client_that_disconnects_with_requests_queued_causes_no_error(
    client: OrganizationClient, connection: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    head = f"Host: x\r\nX-Api-Key: {client.api_key}\r\nX-Request-Id: left\r\n\r\n"
    connection.sendall((f"GET /openapi.json HTTP/1.1\r\n{head}" * 100).encode())
    connection.close()
    wait_until(lambda: any(record.name == "pyshell.access" for record in caplog.records))
    assert client.get("/me").status_code == 200
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


UPGRADES = [
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n",
    "Connection: upgrade\r\nUpgrade: TLS/1.0\r\n",
]


def statuses(connection: socket.socket) -> list[int]:
    """Of all answers, up to the end of the connection."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d{3}) ", received)]


@pytest.mark.parametrize("upgrade", UPGRADES, ids=["h2c", "TLS"])
@pytest.mark.parametrize("framing", ["Content-Length", "Transfer-Encoding"])
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_an_upgrade_to_another_protocol_is_ignored(
    upgrade: str, framing: str, piece: int, client: OrganizationClient, connection: socket.socket
) -> None:
    """As the HTTP client of Java offers it with each request without TLS."""
    body = json.dumps({"items": [site(reference_id="GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")]}).encode()
    length, sent = f"Content-Length: {len(body)}", body
    if framing == "Transfer-Encoding":
        length, sent = "Transfer-Encoding: chunked", f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\nTrailer: 1\r\n\r\n"
    head = f"POST /batch-lookups?dry_run=true HTTP/1.1\r\nHost: x\r\nX-Api-Key: {client.api_key}\r\n{upgrade}{length}\r\n\r\n"
    last = b"GET /me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    request = head.encode() + sent
    for start in range(0, len(request), piece):
        connection.sendall(request[start : start + piece])
        if start > len(head):
            time.sleep(0.0001)
    connection.sendall(last)
    # The body was read, and is no request.
    assert statuses(connection) == [200, 401]


def test_a_body_after_an_upgrade_is_no_request(connection: socket.socket) -> None:
    smuggled = HEAD + b"\r\n"
    head = f"POST /healthz HTTP/1.1\r\nHost: x\r\n{UPGRADES[0]}Content-Length: {len(smuggled)}\r\n\r\n".encode()
    connection.sendall(head)
    # The answer does not wait for the body.
    assert connection.recv(65536).startswith(b"HTTP/1.1 405")
    connection.sendall(smuggled + b"GET /me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert statuses(connection) == [401]


def test_many_upgrades_at_once_are_ignored(connection: socket.socket) -> None:
    one = f"GET /healthz HTTP/1.1\r\nHost: x\r\n{UPGRADES[1]}\r\n".encode()
    connection.sendall(one * 3000 + b"GET /me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert statuses(connection) == [200] * 3000 + [401]


@pytest.mark.parametrize("portion", [200_000, 4000])
def test_requests_that_arrive_at_once_are_parsed_as_they_are_answered(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    waiting = []
    start = http_protocol.BoundedProtocol._start_asgi_task

    def note(self: http_protocol.BoundedProtocol, cycle: Any, app: Any) -> None:
        waiting.append(len(self.pipeline))
        start(self, cycle, app)

    monkeypatch.setattr(http_protocol.BoundedProtocol, "_start_asgi_task", note)
    requests = b"GET / HTTP/1.1\r\n\r\n" * 1200 + HEAD + b"Connection: close\r\n\r\n"
    for start_at in range(0, len(requests), portion):
        connection.sendall(requests[start_at : start_at + portion])
        time.sleep(0.001)
    assert statuses(connection) == [200] * 1201
    assert max(waiting) < 500


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of what is parsed in one go."""
    lengths: list[int] = []
    parse = HttpToolsProtocol.data_received

    def note(self: HttpToolsProtocol, data: bytes) -> None:
        lengths.append(len(data))
        parse(self, data)

    monkeypatch.setattr(HttpToolsProtocol, "data_received", note)
    return lengths


def test_other_requests_are_served_while_one_arrives(address: tuple[str, int], pieces: list[int]) -> None:
    """Each chunk of a body is an event of the parser: those of one reading would occupy the process."""
    body = b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n"
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        connection.sendall(HEAD + b"Connection: close\r\n\r\n")
        assert statuses(connection) == [405, 200]
    assert max(pieces) < 10_000
    assert sum(pieces) > len(body)


def test_a_body_of_known_length_is_parsed_in_one_go(address: tuple[str, int], pieces: list[int]) -> None:
    """An upload has megabytes, each piece of which wakes whoever waits for it."""
    size = 1_000_000
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(f"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode() + b"a" * size)
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n" * 1000 + HEAD + b"Connection: close\r\n\r\n")
        assert statuses(connection) == [405, *[200] * 1001]
    # The requests after it are not.
    assert len([piece for piece in pieces if piece > http_protocol.PIECE_BYTES]) < 100
    assert 1000 * 18 // http_protocol.PIECE_BYTES <= len([piece for piece in pieces if piece <= http_protocol.PIECE_BYTES]) < 100


def test_a_connection_becomes_no_websocket_while_a_request_is_answered(client: OrganizationClient, connection: socket.socket) -> None:
    job = client.submit()["job_id"]
    connection.sendall(f"GET /batch-lookups/{job}?wait=60 HTTP/1.1\r\nHost: x\r\nX-Api-Key: {client.api_key}\r\n\r\n".encode())
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    connection.sendall(f"GET /realtime/v1/websocket?apikey={client.api_key} HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n\r\n".encode())
    assert connection.recv(65536) == b""
