"""A worker's own metrics at METRICS_PORT, for Prometheus: what this process does. Totals of all workers are at the API's /metrics."""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from pyshell import metrics
from pyshell.settings import Settings

logger = logging.getLogger(__name__)

MAX_CLIENTS: Final = 16


@contextmanager
def served(settings: Settings, collect: Callable[[], Iterable[Metric]]) -> Iterator[None]:
    """Serves the metrics in a separate thread while the context lasts, if there is a port. Raises OSError if it is taken."""
    if settings.metrics_port is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(metrics.Collected(collect))

    def respond(environment: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environment["PATH_INFO"] != "/metrics":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"the metrics are at /metrics\n"]
        if not metrics.is_allowed(settings.metrics_token, environment.get("HTTP_AUTHORIZATION", "")):
            start_response("401 Unauthorized", [("Content-Type", "text/plain"), ("WWW-Authenticate", "Bearer")])
            return [b"metrics are for those who have their token\n"]
        start_response("200 OK", [("Content-Type", CONTENT_TYPE_LATEST)])
        return [generate_latest(metrics.PROCESS), generate_latest(registry)]

    try:
        server_class = ServerOfIPv6 if ":" in settings.host else Server
        server = make_server(settings.host, settings.metrics_port, respond, server_class, Handler)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"METRICS_PORT {settings.metrics_port} of HOST {settings.host} cannot be used: {reason}. Each worker needs a port of its own."
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    logger.info("metrics of this worker are at http://%s:%s/metrics", settings.host, settings.metrics_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class Server(ThreadingMixIn, WSGIServer):
    """Serves each client in a thread, so that a slow one delays neither others nor the end; beyond MAX_CLIENTS, the oldest is cut off."""

    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._clients: deque[socket.socket] = deque()

    def server_bind(self) -> None:
        # HTTPServer would ask for the name of the address, and the worker would wait until the name servers have timed out.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._clients.append(request)
        if len(self._clients) > MAX_CLIENTS:
            with suppress(OSError):
                self._clients.popleft().shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with suppress(ValueError):
            self._clients.remove(request)
        super().shutdown_request(request)


class ServerOfIPv6(Server):
    address_family = socket.AF_INET6


class Handler(WSGIRequestHandler):
    # For each read.
    timeout = 5

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (the base class calls it so)
        """Does not log scrapes."""
