"""Benchmarks leave nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from pyshell.settings import ROOT

PROGRAM = """
import sys, time
from bench.system import folder_for_everyone
from pyshell.local.private_postgres import PrivatePostgres
with folder_for_everyone() as folder:
    postgres = PrivatePostgres(folder / "postgres")
    postgres.start()
    try:
        print(folder, postgres.pid, flush=True)
        time.sleep(60)
    finally:
        postgres.delete()
"""


def test_a_benchmark_that_is_terminated_stops_its_servers() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, text=True) as bench:
        assert bench.stdout
        folder, pid = bench.stdout.readline().split()
        assert Path("/proc", pid).exists()
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(30) == 128 + signal.SIGTERM
    assert not Path("/proc", pid).exists()
    assert not Path(folder).exists()
