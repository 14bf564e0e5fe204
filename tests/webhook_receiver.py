"""A receiver of webhooks that responds as instructed, and a sender on a thread."""

from __future__ import annotations

import asyncio
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from pyshell.postgres.notifications import Notifier
from pyshell.settings import Settings
from pyshell.webhooks.sender import Sender
from tests.http_fixtures import OrganizationClient, running_server
from tests.worker_fixtures import running_until_stopped


class Names:
    """What getaddrinfo answers to the names given; each call takes the next of a name's answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, list[Sequence[str]]] = {}
        real = socket.getaddrinfo

        def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
            if host not in self.answers:
                return real(host, port, *args, **kwargs)
            answer = self.answers[host].pop(0) if len(self.answers[host]) > 1 else self.answers[host][0]
            return [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in answer]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.body)
        return message


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 200

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up in the middle do not matter to the tests."""


class FakeReceiver:
    """Responds with `status`, `body` and `headers`, after `delay` seconds or once `hurry` is set; keeps what it received."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.status = 204
        self.body = b""
        self.delay = 0.0
        self.hurry = threading.Event()
        self.headers: dict[str, str] = {}
        self.received: list[Received] = []
        self.connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                receiver.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.in_flight += 1
                receiver.most_in_flight = max(receiver.most_in_flight, receiver.in_flight)
                receiver.received.append(Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                receiver.hurry.wait(receiver.delay)
                receiver.in_flight -= 1
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                if receiver.status != 204:
                    self.send_header("content-length", str(len(receiver.body)))
                self.end_headers()
                if receiver.status != 204:
                    self.wfile.write(receiver.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hooks?source=us"
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [received.message for received in self.received]


@contextmanager
def fake_receiver(tls: ssl.SSLContext | None = None) -> Iterator[FakeReceiver]:
    receiver = FakeReceiver(tls)
    with serving(receiver.server):
        yield receiver


@contextmanager
def raw_receiver(answer: Callable[[Any], None], *, at_once: bool = False) -> Iterator[str]:
    """A server that hands the connected socket's file to `answer`, once the head of a request has come or `at_once`; its URL."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while not at_once and self.rfile.readline().strip():
                pass
            with suppress(OSError):
                answer(self.wfile)

    class RawServer(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with RawServer(("127.0.0.1", 0), Handler) as server, serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}/"


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def running_sender(settings: Settings) -> AbstractContextManager[None]:
    """A sender on a thread of its own, stopped gracefully in the end."""

    async def run(stop: asyncio.Event) -> None:
        notifier = Notifier(settings.database_url, "batch-lookups webhooks listener")
        sender = Sender(settings, notifier)
        async with notifier.running():
            await sender.run(stop)

    return running_until_stopped(run)


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with fake_receiver() as receiver:
        yield receiver


@pytest.fixture
def developer(http_settings: Settings) -> Iterator[OrganizationClient]:
    """A client of a server whose webhooks may go to this machine."""
    settings = replace(http_settings, webhooks_allow_private_networks=True)
    with running_server(settings) as url, OrganizationClient(url, settings.database_url) as client:
        yield client
