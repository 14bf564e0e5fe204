"""`python -m bench.realtime`: how much 200 subscribers of a batch slow down its drain, and how soon they see a change."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
from websockets.asyncio.client import ClientConnection, connect

from bench.nginx import NginxError, running_nginx
from bench.system import System, folder_for_everyone, migrated_database

# The latency is measured at these; the others only read what arrives, so that they need little CPU time.
READERS = 5


async def subscribe(port: int, path: str, database_url: str, subscribers: int) -> None:
    """Joins, prints `subscribed`, then prints for every change of a job how many ms after its commit each reader has seen it."""
    changes = [{"event": "UPDATE", "schema": "public", "table": "batch_lookup_jobs"}]
    join = json.dumps(["1", "1", "realtime:bench", "phx_join", {"config": {"postgres_changes": changes}}])
    async with AsyncExitStack() as stack, await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("listen batch_lookups_changes")
        readers = [await stack.enter_async_context(connect(f"ws://127.0.0.1:{port}{path}", compression=None)) for _ in range(READERS)]
        unseen: list[list[float]] = [[] for _ in readers]
        for reader in readers:
            await reader.send(join)
            await reader.recv()
            await reader.recv()
        others = [await only_read(port, path, join) for _ in range(subscribers - READERS)]
        print("subscribed", flush=True)
        await asyncio.gather(
            note_commits(connection, unseen),
            *[note_messages(reader, waiting) for reader, waiting in zip(readers, unseen, strict=True)],
            *[discard(other) for other in others],
        )


async def note_commits(connection: psycopg.AsyncConnection[Any], unseen: list[list[float]]) -> None:
    async for notification in connection.notifies():
        if notification.payload.startswith("UPDATE batch_lookup_jobs"):
            for waiting in unseen:
                waiting.append(time.perf_counter())


async def note_messages(reader: ClientConnection, waiting: list[float]) -> None:
    async for message in reader:
        if '"postgres_changes"' in str(message)[:80]:
            now = time.perf_counter()
            for committed_at in waiting:
                print((now - committed_at) * 1000, flush=True)
            waiting.clear()


async def only_read(port: int, path: str, join: str) -> asyncio.StreamReader:
    """A WebSocket (RFC 6455) that has joined, with one masked frame."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    # A mask of zeros leaves the text as it is.
    writer.write(b"\x81\xfe" + len(join).to_bytes(2, "big") + bytes(4) + join.encode())
    await reader.readuntil(b"Subscribed to PostgreSQL")
    return reader


async def discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


def measure(runs: int, items: int, subscribers: int) -> tuple[list[float], list[float], list[float], list[float]]:
    """Drains [items/s] without and with subscribers, alternating; the latencies [ms]; the API's CPU time for them [s per s of drain]."""
    without, watched, latencies, cpu = [], [], [], []
    with folder_for_everyone() as folder, migrated_database(folder) as database_url, running_nginx(folder / "upstream") as upstream:
        system = System(database_url, upstream.url)
        path = f"/realtime/v1/websocket?vsn=2.0.0&apikey={system.headers['x-api-key']}"
        with system.api() as api, system.workers():
            for run in range(runs + 1):
                alone, alone_cpu = drain(system, items, api.pid)
                command = [sys.executable, "-m", "bench.realtime", "--subscribers", str(subscribers)]
                command += ["--subscribe", str(system.port), path, database_url]
                with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as clients:
                    assert clients.stdout is not None
                    assert clients.stdout.readline() == "subscribed\n"
                    slowed, slowed_cpu = drain(system, items, api.pid)
                    time.sleep(0.5)
                    clients.terminate()
                    seen = [float(line) for line in clients.stdout]
                print(f"run {run}: {alone:,.0f} items/s alone, {slowed:,.0f} watched", file=sys.stderr, flush=True)
                if run:  # the first is a warm-up
                    without.append(alone)
                    watched.append(slowed)
                    latencies += seen
                    cpu.append(slowed_cpu - alone_cpu)
    return without, watched, latencies, cpu


def drain(system: System, items: int, api_pid: int) -> tuple[float, float]:
    job_id, _ = system.post_batch(items)
    answered, used = time.perf_counter(), cpu_seconds(api_pid)
    system.wait_for_report(job_id)
    seconds = time.perf_counter() - answered
    spent = (cpu_seconds(api_pid) - used) / seconds
    time.sleep(0.5)
    return items / seconds, spent


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.realtime", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="number of pairs of drains, whose medians are reported")
    parser.add_argument("--items", type=int, default=10_000, help="items of a batch, at most 10,000")
    parser.add_argument("--subscribers", type=int, default=200)
    parser.add_argument("--subscribe", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.subscribe:
        port, path, database_url = arguments.subscribe
        asyncio.run(subscribe(int(port), path, database_url, arguments.subscribers))
        return
    try:
        without, watched, latencies, cpu = measure(arguments.runs, arguments.items, arguments.subscribers)
    except NginxError as error:
        raise SystemExit(str(error)) from None
    slowed = statistics.median(1 - slow / fast for slow, fast in zip(watched, without, strict=True))
    latencies.sort()
    print(f"drain alone [items/s]          {statistics.median(without):>8,.0f}")
    print(f"drain watched [items/s]        {statistics.median(watched):>8,.0f}")
    print(f"slowed by                      {slowed:>8.0%}")
    print(f"a change is seen after [ms]    {statistics.median(latencies):>8,.0f} (p95 {latencies[len(latencies) * 95 // 100]:,.0f})")
    print(f"the API's CPU time for them    {statistics.mean(cpu):>8.1%} of a core")


if __name__ == "__main__":
    main()
