"""How much memory the attacks of a penetration test take, all at once. `make attacks` measures how long others wait."""

from __future__ import annotations

from bench.attacks import MEGABYTE, RUNS, measure, prepare
from bench.system import System

SECONDS = 5.0
API_MEGABYTES = 400
BACKEND_MEGABYTES = 200


def test_attacks_take_a_bounded_amount_of_memory(database_url: str) -> None:
    system = System(database_url, "http://127.0.0.1:9/")
    with system.connection, system.api() as process:
        target = prepare(system, database_url)
        seen = measure(system, process.pid, RUNS["all"], target, SECONDS)
    # The attacks had an effect: at rest, the API has some 50 MB.
    assert 60 < seen.api_bytes / MEGABYTE < API_MEGABYTES
    assert seen.backend_bytes / MEGABYTE < BACKEND_MEGABYTES
