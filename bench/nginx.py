"""An upstream that responds immediately: nginx on loopback, with one canned result for every request."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyshell.local.machine import free_port

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    log_format arrival '$msec';
    access_log {access_log};
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        default_type application/json;
        location / {{ return 200 '{body}'; }}
    }}
}}
"""

RESULT = {
    "customer_id": 4711,
    "address": {
        "street_1": "1600 Amphitheatre Parkway",
        "city": "Mountain View",
        "state_or_province_code": "CA",
        "postal_code": "94043",
        "country_code": "US",
    },
    "building_type": "RESIDENTIAL",
    "utility": {"eiaid": 14328, "name": "Pacific Gas and Electric Company"},
    "possible_utilities": [{"eiaid": 14328, "name": "Pacific Gas and Electric Company"}],
    "programs_evaluated": 1,
    "incentives": {
        "total_incentive_amount": 1000,
        "total_eligible_combinations": 1,
        "by_program": [
            {
                "program_id": 101,
                "program_name": "Heat Pump Water Heater Rebate",
                "total_incentive": 1000,
                "eligible_combinations": 1,
                "device_tier_results": [
                    {
                        "device_id": 3,
                        "device_name": "Heat pump water heater, 50 gallons",
                        "tier_id": 202,
                        "tier_name": "Standard",
                        "eligible": True,
                        "incentive_amount": 1000,
                        "calculation_details": "flat amount of 1000.00 USD",
                        "failed_requirements": [],
                        "ignored_requirements": ["income level not given"],
                        "completed_requirements": ["building type RESIDENTIAL", "device category water heater"],
                    }
                ],
            }
        ],
    },
}


class NginxError(RuntimeError):
    """nginx cannot run; the message says why."""


@dataclass
class Nginx:
    url: str
    access_log: Path

    def arrivals(self) -> list[float]:
        """Unix times of the requests so far, to the millisecond."""
        return [float(line) for line in self.access_log.read_text().split()]


@contextmanager
def running_nginx(folder: Path, *, logs_arrivals: bool = False) -> Iterator[Nginx]:
    """nginx as long as the context lasts. `folder` must not exist yet; `logs_arrivals` costs nginx a little time."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        raise NginxError("nginx is not installed: apt-get install nginx-light")
    folder.mkdir()
    port = free_port()
    access_log = folder / "arrivals"
    configuration = folder / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder, port=port, body=json.dumps(RESULT), access_log=f"{access_log} arrival" if logs_arrivals else "off"
        )
    )
    process = subprocess.Popen([program, "-c", configuration, "-p", folder, "-e", "stderr"], stderr=subprocess.PIPE)
    try:
        wait_for_port(port, process)
        yield Nginx(f"http://127.0.0.1:{port}/incentives", access_log)
    finally:
        process.terminate()
        process.communicate()


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr
            raise NginxError(f"nginx did not start: {process.stderr.read().decode(errors='replace')}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise NginxError("nginx did not start within 10 s")
