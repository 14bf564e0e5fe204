"""What is measured: a private PostgreSQL with everyday settings (fsync on), the API, workers and batches."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pyshell.api import api_keys
from pyshell.deploy import migrations
from pyshell.local.machine import free_port
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.settings import ROOT

Connection = psycopg.Connection[tuple[Any, ...]]


@contextmanager
def folder_for_everyone() -> Iterator[Path]:
    """A temporary folder that the user postgres may enter, too. SIGTERM, as from `timeout`, also ends what runs in it and deletes it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="batch-lookups-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@contextmanager
def migrated_database(folder: Path) -> Iterator[str]:
    """The URL of a fresh database, without a rate limit, on a server of its own."""
    postgres = PrivatePostgres(folder / "postgres")
    postgres.start()
    try:
        migrations.migrate(postgres.url(), lookups_per_second=float("inf"))
        yield postgres.url()
    finally:
        postgres.delete()


def empty_databases(database_url: str) -> Callable[[], str]:
    """A function that creates an empty database on the same server and returns its URL."""
    server, _, name = database_url.rpartition("/")
    numbers = itertools.count(1)

    def create() -> str:
        other = f"{name}_{next(numbers)}"
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"create database {other}".encode())
        return f"{server}/{other}"

    return create


class System:
    """The API and the workers as processes."""

    def __init__(self, database_url: str, upstream_url: str) -> None:
        self.connection: Connection = psycopg.connect(database_url, autocommit=True)
        self.port = free_port()
        self._environment = os.environ | {
            "DATABASE_URL": database_url,
            "INCENTIVES_API_URL": upstream_url,
            "PORT": str(self.port),
            "LOG_LEVEL": "warning",
        }
        self.headers = {"x-api-key": api_keys.create(database_url, "Benchmark")}

    @contextmanager
    def api(self, processes: int = 1) -> Iterator[subprocess.Popen[bytes]]:
        with self._process("serve", f"--processes={processes}") as process:
            while True:
                try:
                    self.request("GET", "/readyz")
                except OSError:
                    time.sleep(0.05)
                else:
                    break
            yield process

    @contextmanager
    def workers(self, count: int = 1) -> Iterator[list[subprocess.Popen[bytes]]]:
        """So many workers, once all have sent a heartbeat."""
        self.connection.execute("delete from app.workers")
        with ExitStack() as processes:
            started = [processes.enter_context(self._process("worker")) for _ in range(count)]
            while self.value("select count(*) from app.workers") < count:
                time.sleep(0.05)
            time.sleep(0.5)
            yield started

    @contextmanager
    def _process(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen([sys.executable, "-m", "pyshell", *words], cwd=ROOT, env=self._environment)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()

    def request(self, method: str, path: str, body: bytes | None = None, media_type: str = "application/json") -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, self.headers | {"content-type": media_type})
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        connection.close()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {answer}")
        return answer

    def raw_request(self, method: str, path: str) -> bytes:
        """A request as bytes to send."""
        headers = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}\r\n".encode()

    def cancel(self, job_id: str) -> None:
        """Ends a batch, if it has not ended."""
        try:
            self.request("POST", f"/batch-lookups/{job_id}/cancel")
        except RuntimeError as error:
            if "job_ended" not in str(error):
                raise
        self.wait_for_report(job_id)

    def post_batch(self, items: int) -> tuple[str, float]:
        """Uploads a batch. Returns the job's id, and the seconds from the first byte sent to the response."""
        body = batch(items, self.device_id())
        started = time.perf_counter()
        answer = self.request("POST", "/batch-lookups", body)
        return answer["job_id"], time.perf_counter() - started

    def device_id(self) -> int:
        answer: int = self.value("select coalesce(min(id), 1) from app.devices")
        return answer

    def wait_for_report(self, job_id: str) -> None:
        while self.value("select status from public.incentive_reports where job_id = %s", job_id) == "processing":
            time.sleep(0.005)

    def value(self, query: str, *parameters: object) -> Any:
        row = self.connection.execute(query.encode(), parameters).fetchone()
        assert row is not None
        return row[0]


def batch(items: int, device_id: int) -> bytes:
    """The body of an upload."""
    address = {"city": "Mountain View", "state_or_province_code": "CA", "postal_code": "94043", "country_code": "US"}
    return json.dumps(
        {
            "items": [
                {
                    "reference_id": f"site-{n:05}",
                    "address": {"street_1": f"{n} Amphitheatre Parkway", **address},
                    "building_type": "RESIDENTIAL",
                    "device_ids": [device_id],
                }
                for n in range(items)
            ]
        }
    ).encode()
