"""Large responses to clients that do not read them: how many there may be, and how much of each is buffered."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb
from starlette.types import Message

from pyshell.api import http_protocol, large_answers
from pyshell.api.http_protocol import MIN_TAKEN_BYTES, BoundedProtocol
from pyshell.api.large_answers import LARGE_BYTES, PiecewiseResponse
from pyshell.api.pieces import in_pieces
from pyshell.api.routes import reports
from pyshell.postgres.compact import PIECE_BYTES, compact_lines
from pyshell.settings import Settings
from tests.http_fixtures import OrganizationClient, running_server, site
from tests.timed import counted_turns, wait_until

# More than the buffers of the two sockets.
ITEMS, RESULT_BYTES = 80, 100_000


@pytest.fixture
def server(http_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with limits of its own."""
    monkeypatch.setattr(large_answers, "LARGE_ANSWERS_PER_ORGANIZATION", 2)
    monkeypatch.setattr(large_answers, "MAX_LARGE_ANSWERS", 3)
    monkeypatch.setattr(large_answers, "SHARE_SECONDS", 0.2)
    with running_server(http_settings) as url:
        yield url


class Hoarder:
    """An organization with large results that does not read the responses to its requests."""

    def __init__(self, url: str, http_settings: Settings, stack: ExitStack) -> None:
        self.client = stack.enter_context(OrganizationClient(url, http_settings.database_url))
        job = self.client.submit(*(site(f"deal-{number}") for number in range(ITEMS)))
        self.job_id, self.report_id = job["job_id"], job["report"]["id"]
        with psycopg.connect(http_settings.database_url) as owner:
            owner.execute(
                "update public.lookup_queue_items set status = 'completed', processed_at = now(), result = %s where job_id = %s",
                [Jsonb({"text": "x" * RESULT_BYTES}), self.job_id],
            )
        self._url = httpx.URL(url)
        self._stack = stack

    def ask(self, path: str) -> socket.socket:
        connection = self._stack.enter_context(socket.socket())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect((self._url.host, self._url.port or 80))
        connection.sendall(f"GET {self.path(path)} HTTP/1.1\r\nHost: x\r\nx-api-key: {self.client.api_key}\r\n\r\n".encode())
        assert connection.recv(17) == b"HTTP/1.1 200 OK\r\n"
        return connection

    def status(self, path: str) -> int:
        return self.client.get(self.path(path)).status_code

    def path(self, path: str) -> str:
        return f"/incentive-reports/{self.report_id}{path}" if path == "/html" else f"/batch-lookups/{self.job_id}{path}"


@pytest.fixture
def hoard(server: str, http_settings: Settings) -> Iterator[Callable[[], Hoarder]]:
    with ExitStack() as stack:
        yield lambda: Hoarder(server, http_settings, stack)


@pytest.mark.parametrize("path", ["/items?limit=80", "?include_items=true", "/results?format=ndjson", "/html"])
def test_an_organization_has_its_share_of_large_answers(path: str, hoard: Callable[[], Hoarder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "report_page", lambda *_: "x" * ITEMS * RESULT_BYTES)
    one, other = hoard(), hoard()
    kept = [one.ask(path) for _ in range(2)]
    refused = one.client.get(one.path(path))
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "busy", "5")
    # Small responses need no share, and others have their own.
    assert (one.status(""), other.status("/items?limit=1")) == (200, 200)
    kept[0].close()
    wait_until(lambda: one.status(path) == 200)


def test_all_organizations_together_have_a_limited_number_of_large_answers(hoard: Callable[[], Hoarder]) -> None:
    one, other = hoard(), hoard()
    for hoarder in (one, one, other):
        hoarder.ask("/items?limit=80")
    assert (other.status("/items?limit=80"), other.status("")) == (503, 200)


def test_a_small_answer_returns_its_share_immediately(hoard: Callable[[], Hoarder]) -> None:
    one = hoard()
    for _ in range(4):
        one.ask("/items?limit=2")
    assert one.status("/items?limit=80") == 200


def test_a_client_that_reads_nothing_is_dropped(hoard: Callable[[], Hoarder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "TAKE_SECONDS", 0.3)
    one = hoard()
    asked = [one.ask("/items?limit=80") for _ in range(2)]
    wait_until(lambda: one.status("/items?limit=80") == 200)
    received = 0
    with suppress(ConnectionResetError):
        while piece := asked[0].recv(65536):
            received += len(piece)
    assert received < ITEMS * RESULT_BYTES


class Transport:
    """With so many bytes that wait for the client."""

    def __init__(self) -> None:
        self.waiting = 100_000
        self.is_aborted = False

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def abort(self) -> None:
        self.is_aborted = True


async def test_a_client_that_reads_slowly_is_kept() -> None:
    protocol = BoundedProtocol.__new__(BoundedProtocol)
    transport = Transport()
    vars(protocol).update(transport=transport, loop=asyncio.get_running_loop())
    for taken, is_aborted in ((MIN_TAKEN_BYTES, False), (MIN_TAKEN_BYTES - 1, True)):
        before = transport.waiting
        transport.waiting -= taken
        protocol._check_client(before)
        assert transport.is_aborted == is_aborted
    protocol._stop_watching()


async def test_compacting_lines_of_results_yields_to_other_requests() -> None:
    text = "x" * (PIECE_BYTES // 4)
    async with counted_turns() as turns:
        compacted = await compact_lines(f'{{"text" : "{text}", "n": [1, 2]}}\n'.encode() * 400)
    assert turns() >= 99
    assert compacted == f'{{"text":"{text}","n":[1,2]}}\n'.encode() * 400
    assert await compact_lines(b"") == b""


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, LARGE_BYTES])
async def test_a_body_sent_in_pieces_arrives_complete(size: int) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    await PiecewiseResponse(body)({"type": "http"}, receive, send)
    assert dict(sent[0]["headers"])[b"content-length"] == str(size).encode()
    assert b"".join(message["body"] for message in sent[1:]) == body
    assert [message["more_body"] for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
    assert all(len(message["body"]) <= PIECE_BYTES for message in sent[1:])
    assert [piece async for piece in in_pieces(body)] == [message["body"] for message in sent[1:-1]]
