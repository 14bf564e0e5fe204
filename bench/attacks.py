"""`python -m bench.attacks`: how long a tenant waits, and how much memory the API takes, while another tenant attacks it.

One attack after the other, then all at once; `python -m bench.attacks --seconds 20 "dry runs" all` runs only those. A second API process on
the same database, which nobody attacks, shows how much of the wait is due to the machine: its tenants share only the processors and
PostgreSQL with the attack.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import http.client
import json
import multiprocessing
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from math import nan
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

import uvloop
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from bench.polls import open_loop
from bench.system import Connection, System, batch, folder_for_everyone, migrated_database
from pyshell.api import api_keys

MEGABYTE = 1024 * 1024
REQUESTS_PER_SECOND = 20
# Eight bytes, which PostgreSQL writes as a number of 131,072 digits.
HUGE = "1e131071"
ADDRESS = {"street_1": "1 Main St", "city": "Salem", "state_or_province_code": "OR", "postal_code": "97301", "country_code": "US"}


class Target(NamedTuple):
    """What an attacker knows: where the server is, and a key of an organization that has large results."""

    port: int
    api_key: str
    job_id: str

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> None:
        """One request, whatever its outcome; the response is read to its end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with suppress(OSError, http.client.HTTPException):
            connection.request(
                method, path, body, {"x-api-key": self.api_key} | {name.replace("_", "-"): text for name, text in headers.items()}
            )
            while connection.getresponse().read(65536):
                pass
        connection.close()

    def upload(self, body: bytes, path: str = "/batch-lookups", media_type: str = "application/json") -> None:
        self.send("POST", path, body, content_type=media_type, content_encoding="gzip")

    def post(self, path: str, text: str) -> None:
        self.send("POST", path, text.encode(), content_type="application/json")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def websocket(self, key: str) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/realtime/v1/websocket?apikey={key}&vsn=2.0.0", close_timeout=1)


# Bodies are made once, so that the attacker needs little CPU time.
@cache
def compressed(text: str) -> bytes:
    return gzip.compress(text.encode())


@cache
def large_upload(unknown_fields: int = 0) -> bytes:
    fields = {f"unknown field number {number} of an item": 1 for number in range(unknown_fields)}
    common = {"address": ADDRESS, "building_type": "RESIDENTIAL", "device_ids": [1], **fields}
    return compressed(json.dumps({"items": [{"reference_id": f"deal-{number:05}", **common} for number in range(10_000)]}))


@cache
def unlike_rows() -> bytes:
    rows = (f"deal-{number},1 Main St,Salem,OR,97301,{';'.join(['1'] * 2000)};{number},RESIDENTIAL" for number in range(2000))
    return compressed("reference_id,street_1,city,state,zip,device_ids,building_type\n" + "\n".join(rows))


def huge_numbers(target: Target) -> None:
    numbers = ",".join([HUGE] * 2000)
    item = '{{"items":[{{"reference_id":{},"building_type":"RESIDENTIAL","address":{{}},"device_ids":{}}}]}}'
    target.upload(compressed(item.format('"x-1"', f"[{numbers}]")))
    target.upload(compressed(item.format(f"[{numbers}]", "[1]")))
    target.post("/incentives", f'{{"reference_id":"x-1","address":{{}},"building_type":"RESIDENTIAL","device_ids":[{numbers}]}}')


def deep_bodies(target: Target) -> None:
    target.upload(compressed("[" * 500_000 + "]" * 500_000))


def many_large_items(target: Target) -> None:
    target.send("GET", f"/batch-lookups/{target.job_id}?include_items=true")
    target.send("GET", f"/batch-lookups/{target.job_id}/items?limit=500")
    target.send("GET", f"/batch-lookups/{target.job_id}/results?format=ndjson")


def pages_that_nobody_reads(target: Target) -> None:
    with target.connect() as connection, suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = f"GET /batch-lookups/{target.job_id}/items?limit=500 HTTP/1.1\r\nHost: x\r\nx-api-key: {target.api_key}\r\n\r\n"
        connection.sendall(request.encode())
        time.sleep(2)


def long_polls(target: Target) -> None:
    target.send("GET", f"/batch-lookups/{target.job_id}?wait=2")


def endless_heads(target: Target) -> None:
    """Headers without end, one header without end, and a URL without end."""
    for beginning, piece in (
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a:b\r\n" * 13_000),
        (b"GET / HTTP/1.1\r\na: ", b"b" * 65_000),
        (b"GET /", b"a" * 65_000),
    ):
        with target.connect() as connection, suppress(OSError):
            connection.sendall(beginning)
            for _ in range(500):
                connection.sendall(piece)


def names_of_routes(target: Target) -> None:
    for number in range(200):
        target.send("GET", f"/{number}-{time.monotonic_ns()}/batch-lookups/a")
    target.send("GET", "/metrics")


def websockets_without_a_key(target: Target) -> None:
    with suppress(OSError, WebSocketException), target.websocket("x"):
        time.sleep(1)


def half_sent_heads(target: Target) -> None:
    with target.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        time.sleep(2)


def slow_uploads(target: Target) -> None:
    with target.connect() as connection, suppress(OSError):
        head = f"POST /batch-lookups HTTP/1.1\r\nHost: x\r\nx-api-key: {target.api_key}\r\ncontent-length: 16000000\r\n\r\n"
        connection.sendall(head.encode() + b" " * 8_000_000)
        time.sleep(2)


def wide_rows(target: Target) -> None:
    target.upload(compressed("reference_id,street_1\n" + "a,b" + ",x" * 400_000), media_type="text/csv")


def unlike_cells(target: Target) -> None:
    target.upload(unlike_rows(), "/batch-lookups?dry_run=true", "text/csv")


def unknown_fields(target: Target) -> None:
    target.upload(large_upload(unknown_fields=8))


def dry_runs(target: Target) -> None:
    target.upload(large_upload(), "/batch-lookups?dry_run=true")


def unknown_keys(target: Target) -> None:
    for _ in range(50):
        target._replace(api_key=api_keys.generate()).send("GET", "/batch-lookups")


def keys_without_end(target: Target) -> None:
    for _ in range(20):
        target.post("/api-keys", "{}")


def many_channels(target: Target) -> None:
    watches = [{"schema": "public", "table": "batch_lookup_jobs", "event": "*"}] * 20
    with suppress(OSError, WebSocketException), target.websocket(target.api_key) as websocket:
        for number in range(100):
            websocket.send(json.dumps(["1", str(number), f"realtime:{number}", "phx_join", {"config": {"postgres_changes": watches}}]))
        ends_at = time.monotonic() + 3
        while (left := ends_at - time.monotonic()) > 0:
            websocket.recv(timeout=left)


class Attack(NamedTuple):
    act: Callable[[Target], None]
    at_once: int


# As many at once as in the report of the penetration test, or as its machine could bear.
ATTACKS = {
    attack.act.__name__.replace("_", " "): attack
    for attack in (
        Attack(huge_numbers, 10),
        Attack(deep_bodies, 4),
        Attack(many_large_items, 4),
        Attack(pages_that_nobody_reads, 20),
        Attack(long_polls, 40),
        Attack(endless_heads, 4),
        Attack(names_of_routes, 6),
        Attack(websockets_without_a_key, 200),
        Attack(half_sent_heads, 200),
        Attack(slow_uploads, 60),
        Attack(wide_rows, 2),
        Attack(unlike_cells, 2),
        Attack(unknown_fields, 4),
        Attack(dry_runs, 40),
        Attack(unknown_keys, 4),
        Attack(keys_without_end, 4),
        Attack(many_channels, 20),
    )
}

RUNS: dict[str, dict[str, int]] = {
    "at rest": {},
    **{name: {name: one.at_once} for name, one in ATTACKS.items()},
    "all": {name: -(-one.at_once // 4) for name, one in ATTACKS.items()},
}


class Figures(NamedTuple):
    """Waits in milliseconds; peaks of private memory in bytes, of the API's process and of the largest backend."""

    p50: float
    p99: float
    longest: float
    p99_elsewhere: float
    api_bytes: int
    backend_bytes: int


@contextmanager
def under(attacks: Mapping[str, int], target: Target) -> Iterator[None]:
    """Runs each attack in so many threads, in a separate process, from before the context is entered until it ends."""
    spawning = multiprocessing.get_context("spawn")
    begun, stop = spawning.Event(), spawning.Event()
    process = spawning.Process(target=attack, args=[dict(attacks), target, begun, stop])
    process.start()
    try:
        begun.wait()
        yield
    finally:
        stop.set()
        process.join()


def attack(attacks: Mapping[str, int], target: Target, begun: Event, stop: Event) -> None:
    def go_on(name: str) -> None:
        while not stop.is_set():
            with suppress(OSError, TimeoutError):
                ATTACKS[name].act(target)

    threads = [threading.Thread(target=go_on, args=[name]) for name, count in attacks.items() for _ in range(count)]
    for thread in threads:
        thread.start()
    begun.set()
    for thread in threads:
        thread.join()


class Memory:
    """Watches the memory of the API and of its backends, from a thread."""

    def __init__(self, api: int, database: Connection) -> None:
        self._api = api
        self._database = database
        self._stop = threading.Event()
        self.api_bytes = self.backend_bytes = 0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.api_bytes = max(self.api_bytes, private_bytes(self._api))
            backends = self._database.execute("select pid from pg_stat_activity where application_name like 'batch-lookups%'").fetchall()
            self.backend_bytes = max(self.backend_bytes, *(private_bytes(pid) for (pid,) in backends), 0)


def private_bytes(pid: int) -> int:
    """The private memory of a process; 0: it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def measure(
    system: System, api: int, attacks: Mapping[str, int], target: Target, seconds: float, elsewhere: System | None = None
) -> Figures:
    """The tenant of `system` is the one that waits; `elsewhere` is another process, which nobody attacks."""

    async def ask() -> list[list[float]]:
        return await asyncio.gather(
            *(
                open_loop(asked.port, asked.raw_request("GET", "/batch-lookups?limit=1"), REQUESTS_PER_SECOND, seconds)
                for asked in (system, elsewhere)
                if asked
            )
        )

    # Its key is known before others try unknown ones from its address, which would otherwise be refused there.
    system.request("GET", "/batch-lookups?limit=1")
    with Memory(api, system.connection) as memory, under(attacks, target):
        # Nothing is measured before the attack is under way.
        time.sleep(2)
        waits, *others = uvloop.run(ask())
    percentiles, *at_others = (statistics.quantiles(times, n=100, method="inclusive") for times in (waits, *others))
    return Figures(
        percentiles[49], percentiles[98], max(waits), at_others[0][98] if at_others else nan, memory.api_bytes, memory.backend_bytes
    )


def prepare(system: System, database_url: str, items: int = 2000, result_bytes: int = 100_000) -> Target:
    """An organization with a batch of large results, which stays open because its last item never ends."""
    key = api_keys.create(database_url, "Hostile")
    hostile = Target(system.port, key, "")
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=60)
    connection.request("POST", "/batch-lookups", batch(items, system.device_id()), {"x-api-key": key, "content-type": "application/json"})
    job_id = json.loads(connection.getresponse().read())["job_id"]
    connection.close()
    texts = [os.urandom(result_bytes // 4).hex(), "x" * (result_bytes // 2)]
    system.connection.execute(
        "update public.lookup_queue_items set status = 'completed', result = %s::json, processed_at = now()"
        " where job_id = %s and position < %s",
        [json.dumps({"incentives": {"total_incentive_amount": 1}, "texts": texts}), job_id, items - 1],
    )
    return hostile._replace(job_id=job_id)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.attacks")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each attack")
    parser.add_argument("attacks", nargs="*", choices=[*RUNS, []], metavar="attack", help=", ".join(RUNS))
    arguments = parser.parse_args()
    with folder_for_everyone() as folder, migrated_database(folder) as database_url:
        system, elsewhere = (System(database_url, "http://127.0.0.1:9/") for _ in range(2))
        with system.api() as process, elsewhere.api():
            target = prepare(system, database_url)
            print(f"{'':<26}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'elsewhere p99':>15}{'API MB':>9}{'backend MB':>12}{'load':>7}")
            for name in arguments.attacks or RUNS:
                told = measure(system, process.pid, RUNS[name], target, arguments.seconds, elsewhere)
                print(
                    f"{name:<26}{told.p50:>9.1f}{told.p99:>9.1f}{told.longest:>9.1f}{told.p99_elsewhere:>15.1f}"
                    f"{told.api_bytes / MEGABYTE:>9.0f}{told.backend_bytes / MEGABYTE:>12.0f}{os.getloadavg()[0]:>7.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
