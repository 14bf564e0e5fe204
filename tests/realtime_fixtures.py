"""Subscribers for Realtime: the real supabase-js under Node, and a bare WebSocket for what that would never send."""

from __future__ import annotations

import fcntl
import json
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from websockets.sync.client import ClientConnection, connect

from pyshell.settings import ROOT
from tests.http_fixtures import Json
from tests.timed import PATIENCE

SCRIPT = Path(__file__).with_name("watch_with_supabase.mjs")
PACKAGES = ("@supabase/supabase-js@2.119.1", "ws@8")


@pytest.fixture(scope="session")
def supabase_js() -> Path:
    """A folder with supabase-js in its node_modules; it stays, for the next run."""
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("Node.js is not installed: supabase-js cannot be tried")
    folder = ROOT / ".state" / f"supabase-js-{PACKAGES[0].rpartition('@')[2]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            command = ["npm", "install", "--silent", "--no-audit", "--no-fund", *PACKAGES]
            if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode:
                pytest.skip("supabase-js cannot be installed from npm")
            (folder / "done").touch()
    return folder


class Watcher:
    """Clients of supabase-js, and everything that they have received so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.Queue[Json] = queue.Queue()
        self.heard: list[Json] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))

    def until(self, enough: Callable[[list[Json]], bool], seconds: float = PATIENCE) -> list[Json]:
        """Everything received, once it is enough."""
        deadline = time.monotonic() + seconds
        while not enough(self.heard):
            try:
                self.heard.append(self._lines.get(timeout=max(deadline - time.monotonic(), 0)))
            except queue.Empty:
                raise AssertionError(f"not heard within {seconds} s; only {self.heard[-20:]}") from None
            # All that is there, before it is looked through again.
            while not self._lines.empty():
                self.heard.append(self._lines.get())
        return self.heard

    def subscribed(self, times: int = 1) -> Self:
        """Returns once every client (or one, so many times) has confirmed its subscription."""
        self.until(lambda heard: sum(line.get("system", {}).get("message") == "Subscribed to PostgreSQL" for line in heard) >= times)
        return self

    def changes(self, seconds: float = 0) -> list[Json]:
        """The changes received so far, after a while."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 or not self._lines.empty():
            try:
                self.heard.append(self._lines.get(timeout=max(left, 0.01)))
            except queue.Empty:
                break
        return [line["change"] for line in self.heard if "change" in line]

    def set_token(self, token: str) -> None:
        self._tell(token=token)

    def broadcast(self, message: str) -> None:
        self._tell(broadcast=message)

    def _tell(self, **order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()


Watch = Callable[..., Watcher]


@pytest.fixture
def watch(supabase_js: Path) -> Iterator[Watch]:
    """Starts clients: `watch(url, key, {event, table, filter}, token=..., clients=...)`."""
    processes = []

    def start(url: str, key: str, *watches: Json, token: str | None = None, clients: int = 1) -> Watcher:
        watching = [{"schema": "public", "table": "batch_lookup_jobs", "event": "UPDATE"} | entry for entry in watches or ({},)]
        options = {"url": url, "key": key, "token": token, "clients": clients, "watches": watching}
        processes.append(
            subprocess.Popen(
                ["node", SCRIPT, json.dumps(options)], cwd=supabase_js, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        return Watcher(processes[-1])

    yield start
    for process in processes:
        process.communicate()


class BareSocket:
    """A WebSocket that speaks frames of vsn 2.0.0."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, event: str, payload: Any = None, *, topic: str = "realtime:jobs", join_ref: str | None = "1", ref: str = "2") -> None:
        self.connection.send(json.dumps([join_ref, ref, topic, event, payload or {}]))

    def receive(self, seconds: float = PATIENCE) -> list[Any]:
        frame: list[Any] = json.loads(self.connection.recv(timeout=seconds))
        return frame

    def ask(self, event: str, payload: Any = None, **frame: Any) -> Json:
        """The payload of the next reply."""
        self.send(event, payload, **frame)
        answer: Json = self.receive()[4]
        return answer

    def join(self, *entries: Json, **payload: Any) -> Json:
        watches = [{"schema": "public", "table": "batch_lookup_jobs", "event": "UPDATE"} | entry for entry in entries]
        return self.ask("phx_join", {"config": {"postgres_changes": watches}} | payload)


@contextmanager
def bare_socket(url: str, key: str, path: str = "/realtime/v1/websocket") -> Iterator[BareSocket]:
    with connect(f"{url.replace('http', 'ws')}{path}?apikey={key}&vsn=2.0.0", close_timeout=1, compression=None) as connection:
        yield BareSocket(connection)
