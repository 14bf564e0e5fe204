"""Fixtures and helpers of the command line's tests: a service with a worker, and the command as a process of its own."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pyshell.api import api_keys
from pyshell.settings import ROOT, Settings
from tests.conftest import Connection
from tests.http_fixtures import PEPPER, running_server
from tests.upstream import FakeUpstream, Reply, fake_upstream
from tests.worker_fixtures import end_with_parent, running_worker, update_settings

COLUMNS = ["reference_id", "street_1", "city", "state_or_province_code", "postal_code", "building_type", "device_ids"]


@dataclass
class Service:
    """An API and a worker that asks `upstream`; `owner` sees what is stored."""

    url: str
    settings: Settings
    upstream: FakeUpstream
    owner: Connection
    held: list[str] = field(default_factory=list)

    def new_key(self, **options: Any) -> str:
        """The key of a new organization."""
        return api_keys.create(self.settings.database_url, f"organization {uuid.uuid4()}", pepper=PEPPER, **options)

    def hold(self, reference_id: str) -> None:
        """The upstream does not respond to the lookup of this item until `release`."""
        self.upstream.plan(reference_id, Reply(delay=60), Reply())
        self.held.append(reference_id)

    def release(self) -> None:
        """Responds to the held lookup at its next attempt, or at its first one if that has not come yet."""
        while self.held:
            self.upstream.plan(self.held.pop(), Reply())
        self.upstream.disconnect()

    def count_jobs(self, name: str) -> int:
        [count] = self.owner.execute("select count(*) from public.batch_lookup_jobs where name = %s", [name]).fetchone() or [0]
        return int(count)


@pytest.fixture(scope="module")
def module_service(shared_database_url: str, shared_owner: Connection) -> Iterator[Service]:
    with fake_upstream() as upstream:
        update_settings(shared_owner, lookups_per_second=None, max_in_flight=10, retry_backoff_seconds=0.01)
        settings = Settings(
            database_url=shared_database_url,
            api_key_pepper=PEPPER,
            incentives_api_url=upstream.url,
            incentives_api_key="key of the provider",
            webhooks_allow_private_networks=True,
        )
        with running_server(settings) as url, running_worker(settings):
            yield Service(url, settings, upstream, shared_owner)


@pytest.fixture
def service(module_service: Service) -> Service:
    """The service of the module, with an upstream that responds normally again."""
    module_service.upstream.usual = Reply()
    return module_service


def begin_child() -> None:
    """In a child: it ends with its parent, and Ctrl-C reaches it also where a shell in the background has the tests ignore that."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# A process that has imported the command and forks for each call: it receives words, folder, environment and the files for the standard
# streams, and sends the exit code. It has read the machine's certificates, which takes longer than most calls.
FORKS = """
import functools, json, os, signal, sys
import encodings.idna, httpx, httpx._transports.default as transports, batch_lookups.client
from batch_lookups.cli.main import main
transports.create_ssl_context = functools.cache(transports.create_ssl_context)
httpx.Client().close()
calls, ended = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
for call in map(json.loads, calls):
    if not (child := os.fork()):
        signal.alarm(60)
        calls.close()
        ended.close()
        for descriptor, name in enumerate(call["streams"]):
            os.dup2(os.open(name, os.O_RDWR), descriptor)
        os.chdir(call["folder"])
        os.environ.clear()
        os.environ.update(call["environment"])
        main(call["words"])
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=ended, flush=True)
calls.close()
ended.close()
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run_in_fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs the command as a separate process, without the cost of starting Python."""
    streams = [tmp_path_factory.mktemp("streams") / name for name in ("stdin", "stdout", "stderr")]
    command = [sys.executable, "-W", "error", "-c", FORKS]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forks:
        exit_codes = iter(forks.stdout or [])

        def run(words: Sequence[str], folder: Path, environment: dict[str, str], stdin: bytes) -> subprocess.CompletedProcess[str]:
            for stream, content in zip(streams, (stdin, b"", b""), strict=True):
                stream.write_bytes(content)
            call = {"words": words, "folder": str(folder), "environment": environment, "streams": [str(stream) for stream in streams]}
            print(json.dumps(call), file=forks.stdin, flush=True)
            exit_code = int(next(exit_codes))
            return subprocess.CompletedProcess(words, exit_code, *(stream.read_bytes().decode() for stream in streams[1:]))

        yield run
        assert forks.stdin is not None
        forks.stdin.close()


class Cli:
    """Runs the command in a folder of its own, without the caller's settings."""

    def __init__(self, folder: Path, url: str, api_key: str, run_in_fork: Run) -> None:
        self.folder = folder
        self._run_in_fork = run_in_fork
        self.command = [sys.executable, "-W", "error", "-m", "batch_lookups"]
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "BATCH_LOOKUPS_URL": url,
            "BATCH_LOOKUPS_API_KEY": api_key,
            "BATCH_LOOKUPS_RETRY_SECONDS": "20",
        }

    def run(self, *words: str | Path, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
        """The finished command, whose output is text; with these variables of the environment."""
        return self._run_in_fork([str(word) for word in words], self.folder, self.environment | environment, stdin)

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.command, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=begin_child,
        )

    def sites(self, name: str, references: Sequence[str] | int, **changes: str) -> Path:
        """A CSV file of sites with these reference ids, or of so many sites; `changes` are values for all rows."""
        path = self.folder / name
        row = dict(zip(COLUMNS[1:], ["1 Main St", "Oakland", "CA", "94601", "RESIDENTIAL", "1"], strict=True)) | changes
        if isinstance(references, int):
            prefix = f"{Path(name).stem}-{uuid.uuid4().hex[:6]}"
            references = [f"{prefix}-{number}" for number in range(references)]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows({"reference_id": reference, **row} for reference in references)
        return path


@pytest.fixture
def cli(service: Service, tmp_path: Path, run_in_fork: Run) -> Cli:
    """The command with the key of a new organization."""
    return Cli(tmp_path, service.url, service.new_key(), run_in_fork)
