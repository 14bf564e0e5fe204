"""The clients in examples/ work as they stand, with a worker beside the API."""

from __future__ import annotations

import csv
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pyshell.api import api_keys
from pyshell.settings import ROOT, Settings
from tests.http_fixtures import PEPPER, running_server
from tests.worker_fixtures import end_with_parent


@pytest.fixture(scope="module")
def environment(new_database: Callable[..., str]) -> Iterator[dict[str, str]]:
    """The settings of a client, while a server and a worker run."""
    settings = Settings(database_url=new_database(), api_key_pepper=PEPPER)
    with running_server(settings) as url:
        worker = subprocess.Popen(
            [sys.executable, "-m", "pyshell", "worker"],
            cwd=ROOT,
            env={"DATABASE_URL": settings.database_url, "PORT": str(urlsplit(url).port)},
            preexec_fn=end_with_parent,
        )
        try:
            yield {"API_URL": url, "API_KEY": api_keys.create(settings.database_url, "acme", pepper=PEPPER), "PATH": "/usr/bin:/bin"}
        finally:
            worker.terminate()
            worker.wait(30)


def test_the_python_client_uploads_a_file(environment: dict[str, str], tmp_path: Path) -> None:
    sites, results = tmp_path / "sites.csv", tmp_path / "results.csv"
    with (ROOT / "examples" / "sites.csv").open() as all_sites:
        sites.write_text("".join(islice(all_sites, 21)))

    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "upload.py", sites, results], env=environment, capture_output=True, text=True, timeout=60
    )

    assert run.returncode == 0, run.stderr
    assert "20 of 20 done" in run.stdout
    assert "(20 sites)" in run.stdout
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with sites.open(newline="") as file:
        assert [row["reference_id"] for row in rows] == [row["reference_id"] for row in csv.DictReader(file)]
    outcomes = {(row["status"], row["total_incentive_amount"] != "", row["error"] != "") for row in rows}
    assert outcomes == {("completed", True, False), ("failed", False, True)}


def test_the_python_client_says_what_is_wrong(environment: dict[str, str], tmp_path: Path) -> None:
    sites = tmp_path / "sites.csv"
    sites.write_text("reference_id,street_1,building_type,device_ids\ndeal-001,1 Main St,RESIDENTIAL,1\n")
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "upload.py", sites, tmp_path / "results.csv"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "Missing required fields: address.city" in run.stderr


# Node refuses to connect to port 1.
NOWHERE = {"API_URL": "http://127.0.0.1:2", "API_KEY": "leap_live_nonsense"}
WEBHOOKS = {"WEBHOOK_SECRET": "whsec_c2VjcmV0"}


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["upload.py"], NOWHERE, "usage: API_KEY=leap_live_... python upload.py SITES.csv RESULTS.csv"),
        (["upload.py", "sites.csv", "results.csv"], {}, "usage: API_KEY=leap_live_... python upload.py SITES.csv RESULTS.csv"),
        (["upload.py", "sites.csv", "results.csv"], NOWHERE, "http://127.0.0.1:2 cannot be reached: [Errno 111] Connection refused"),
        (
            ["upload.py", "nowhere.csv", "results.csv"],
            NOWHERE,
            "nowhere.csv cannot be read: [Errno 2] No such file or directory: 'nowhere.csv'",
        ),
        (["upload.py", "odd.csv", "results.csv"], NOWHERE, "odd.csv cannot be read: invalid literal for int() with base 10: 'heat pump'"),
        (["upload.py", "bare.csv", "results.csv"], NOWHERE, "bare.csv lacks these columns: building_type, device_ids, reference_id"),
        (["upload.mjs", "sites.csv", "results.csv"], {}, "usage: API_KEY=leap_live_... node upload.mjs SITES.csv RESULTS.csv"),
        (["upload.mjs", "sites.csv", "results.csv"], NOWHERE, "http://127.0.0.1:2 cannot be reached: ECONNREFUSED"),
        (["receive_webhooks.py"], {}, "usage: WEBHOOK_SECRET=whsec_... python3 receive_webhooks.py [PORT]"),
        (["receive_webhooks.py"], {"WEBHOOK_SECRET": ""}, "usage: WEBHOOK_SECRET=whsec_... python3 receive_webhooks.py [PORT]"),
        (["receive_webhooks.py", "http://127.0.0.1:9000/"], WEBHOOKS, "usage: WEBHOOK_SECRET=whsec_... python3 receive_webhooks.py [PORT]"),
        (["receive_webhooks.py", "70000"], WEBHOOKS, "Port 70000 cannot be used: bind(): port must be 0-65535."),
        (
            ["receive_webhooks.py", "0"],
            {"WEBHOOK_SECRET": "secret"},
            "WEBHOOK_SECRET is not a signing secret: one begins with whsec_, then base64",
        ),
        (["curl.sh"], {"PATH": "/usr/bin:/bin"}, "curl.sh: line 4: API_KEY: is missing. Usage: API_KEY=leap_live_... examples/curl.sh"),
    ],
)
def test_the_examples_say_in_a_sentence_what_is_wrong(words: list[str], environment: dict[str, str], said: str, tmp_path: Path) -> None:
    program, *arguments = words
    interpreter = node() if program.endswith(".mjs") else "bash" if program.endswith(".sh") else sys.executable
    (tmp_path / "sites.csv").write_text("reference_id,street_1,building_type,device_ids\n")
    (tmp_path / "bare.csv").write_text("street_1\n1 Main St\n")
    (tmp_path / "odd.csv").write_text("reference_id,street_1,building_type,device_ids\ndeal-001,1 Main St,RESIDENTIAL,heat pump\n")
    command = [interpreter, str(ROOT / "examples" / program), *arguments]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    # bash puts the script's path before what it says.
    assert (run.returncode in (1, 2), run.stderr.removeprefix(f"{ROOT}/examples/")) == (True, f"{said}\n")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"])
def test_the_python_client_says_in_a_sentence_that_the_connection_was_lost(answer: bytes, tmp_path: Path) -> None:
    (tmp_path / "sites.csv").write_text("reference_id,street_1,building_type,device_ids\n")
    with socket.create_server(("127.0.0.1", 0)) as restarting:
        url = f"http://127.0.0.1:{restarting.getsockname()[1]}"
        run = subprocess.Popen(
            [sys.executable, ROOT / "examples" / "upload.py", "sites.csv", "results.csv"],
            cwd=tmp_path,
            env={"API_URL": url, "API_KEY": "leap_live_nonsense"},
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = restarting.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            said = run.communicate(timeout=30)[1]
    assert (run.returncode, said.startswith(f"The connection to {url} was lost: "), said.count("\n")) == (1, True, 1), said


def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no node here")
    return found


def test_the_javascript_client_uploads_a_file_as_it_is(environment: dict[str, str], tmp_path: Path) -> None:
    sites, results = tmp_path / "sites.csv", tmp_path / "results.csv"
    with (ROOT / "examples" / "sites.csv").open() as all_sites:
        sites.write_text("".join(islice(all_sites, 21)))

    run = subprocess.run(
        [node(), ROOT / "examples" / "upload.mjs", sites, results], env=environment, capture_output=True, text=True, timeout=60
    )

    assert run.returncode == 0, run.stderr
    assert "20 of 20 done" in run.stdout
    assert "of 18 eligible" in run.stdout
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with sites.open(newline="") as file:
        assert [row["reference_id"] for row in rows] == [row["reference_id"] for row in csv.DictReader(file)]
    assert {row["status"] for row in rows} == {"completed", "failed"}

    sites.write_text("reference_id,street_1,building_type,device_ids\ndeal-001,1 Main St,RESIDENTIAL,1\n")
    run = subprocess.run([node(), ROOT / "examples" / "upload.mjs", sites, results], env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert "400" in run.stderr


def test_curl_is_enough(environment: dict[str, str]) -> None:
    run = subprocess.run([ROOT / "examples" / "curl.sh"], env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count('"completed"') == 2
    assert '"total_sites":2' in run.stdout
