"""`python -m bench.processes`: requests a second and CPU time per request, with one API process and several behind one port, in turns."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench.polls import closed_loop
from bench.realtime import cpu_seconds
from bench.system import System, folder_for_everyone, migrated_database

CONNECTIONS = 16
BACKENDS = "select pid from pg_stat_activity where datname = current_database() and application_name = 'batch-lookups'"


class Figures(NamedTuple):
    """Requests a second; microseconds of CPU time per request, by who spent them; the busiest process's share of the API's."""

    per_second: float
    api: float
    database: float
    client: float
    busiest: float


def measure(system: System, processes: int, seconds: float) -> Figures:
    request = system.raw_request("GET", "/batch-lookups?limit=1")
    with system.api(processes) as parent:
        uvloop.run(closed_loop(system.port, request, CONNECTIONS, 2))
        serving = children(parent.pid) if processes > 1 else [parent.pid]
        backends = [pid for (pid,) in system.connection.execute(BACKENDS).fetchall()]
        before, client = list(map(cpu_seconds, [*serving, *backends])), time.process_time()
        per_second = uvloop.run(closed_loop(system.port, request, CONNECTIONS, seconds))
        client = time.process_time() - client
        used = [now - then for now, then in zip(map(cpu_seconds, [*serving, *backends]), before, strict=True)]
    requests = per_second * seconds / 1e6
    api = used[: len(serving)]
    return Figures(per_second, sum(api) / requests, sum(used[len(serving) :]) / requests, client / requests, max(api) / sum(api))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.processes", description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    arguments = parser.parse_args(words)
    runs: dict[int, list[Figures]] = {processes: [] for processes in arguments.processes}
    with folder_for_everyone() as folder, migrated_database(folder) as database_url:
        system = System(database_url, "http://127.0.0.1:1")
        # Far above what the machine can do, so that requests are counted but never refused.
        system.value("""select api.update_settings('{"requests_per_minute": 100000000}')::text""")
        with system.api():
            system.post_batch(100)
        for _ in range(arguments.rounds):
            for processes in arguments.processes:
                runs[processes].append(measure(system, processes, arguments.seconds))
    print("processes  requests/s   API  PostgreSQL  client [µs/request]  busiest process")
    for processes, figures in runs.items():
        per_second, api, database, client, busiest = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"{processes:>9}  {per_second:>10.0f} {api:>5.0f} {database:>11.0f} {client:>7.0f} {busiest:>29.0%}")


if __name__ == "__main__":
    main()
