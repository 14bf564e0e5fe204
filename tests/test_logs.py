"""No log line contains a secret, whichever library wrote it; and the lines say who did what."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote

import httpx
import psycopg
import pytest

from pyshell import logs
from pyshell.api import api_keys
from pyshell.local.machine import free_port
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.settings import ROOT, Settings
from tests.clerk_fixtures import clerk_instance
from tests.conftest import MakeCluster, folder_for_postgres
from tests.http_fixtures import OrganizationClient, is_ready, site
from tests.realtime_fixtures import bare_socket
from tests.timed import set_monotonic, wait_until

KEY = api_keys.generate()
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1c2VyXzEifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"GET /api-keys/{KEY} 404", "GET /api-keys/leap_live_*** 404"),
        (f"/shared-reports/{api_keys.generate(api_keys.SHARE)}/csv", "/shared-reports/leap_share_***/csv"),
        (f"{KEY[:10]}{KEY[10:40]} is cut short", "leap_live_*** is cut short"),
        (f"/realtime/v1/websocket?apikey={TOKEN}&vsn=2.0.0", "/realtime/v1/websocket?apikey=***&vsn=2.0.0"),
        ("/x?vsn=1&access_token=abc HTTP/1.1", "/x?vsn=1&access_token=*** HTTP/1.1"),
        (f"claims of {TOKEN}", "claims of eyJ***"),
        (f"claims of {TOKEN[:20]} are cut short", "claims of eyJ*** are cut short"),
        ("{'authorization': 'Bearer abc123'}", "{'authorization': 'Bearer ***'}"),
        ("(b'x-api-key', b'abc123')", "(b'x-api-key', b'***')"),
        ("> x-api-key: abc123", "> x-api-key: ***"),
        ("postgresql://owner:pa%40ss@db:5432/x failed", "postgresql://owner:***@db:5432/x failed"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_***"),
        ("2 bearer tokens of organization 018f3f6e-0000-7000-8000-000000000001 were refused", None),
        ("http://127.0.0.1:8000/batch-lookups?cursor=eyJh took 3 ms", None),
    ],
    # Without the key, which is another one in every process.
    ids=range(14),
)
def test_secrets_are_cut_out_and_nothing_else(line: str, expected: str | None) -> None:
    assert logs.without_secrets(line) == (line.replace("bearer tokens", "bearer ***") if expected is None else expected)


@pytest.mark.parametrize("piece", ["eyJ-", "eyJ.", "a+", "a:", "a://", "x://a:", "bearer ", "token=", "whsec_", " "], ids=range(10))
def test_a_long_text_is_read_once(piece: str) -> None:
    """Whoever sends a path of 64 KB must not occupy the process with the line about it: time would grow with the square."""
    program = f"""
import logging
from pyshell import logs
text = "x-api-key" + {piece!r} * {400_000 // len(piece)} + '"'
logs.Formatter().format(logging.LogRecord("name", logging.INFO, "", 0, text, (), None))
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_named_secrets_are_hidden_in_tracebacks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_known", set())
    logs.hide("a secret without a form", "short", None)
    try:
        raise ValueError("a secret without a form is not short")
    except ValueError:
        record = logging.LogRecord("name", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    assert "ValueError: *** is not short" in logs.Formatter().format(record)


def test_what_is_logged_again_and_again_appears_each_minute_though_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    set_monotonic(monkeypatch, logs, lambda: now)
    passes = logs.FirstOfEachMinute().filter
    record = logging.LogRecord("name", logging.WARNING, "", 0, "cannot connect", (), None)
    assert [passes(record), passes(record)] == [True, False]
    now += logs.REPEAT_SECONDS
    record.created -= 3600
    assert [passes(record), passes(record)] == [True, False]


def test_a_log_line_names_its_request() -> None:
    record = logging.LogRecord("name", logging.ERROR, "", 0, "failed", (), None)
    request = logs.request_id.set("client-7")
    try:
        assert logs.Formatter().format(record).endswith("failed request_id=client-7")
    finally:
        logs.request_id.reset(request)
    assert logs.Formatter().format(record).endswith("failed")


def test_a_message_of_several_lines_is_logged_as_one() -> None:
    record = logging.LogRecord("name", logging.WARNING, "", 0, "refused\n\tIs the server running?\r\n", (), None)
    record.fields = {"reason": "a\nb"}
    assert logs.Formatter().format(record).endswith("WARNING name refused Is the server running? reason=a b")


def test_a_log_line_has_no_control_characters() -> None:
    try:
        raise ValueError("\x1b[2Jgone")
    except ValueError:
        record = logging.LogRecord("name", logging.ERROR, "", 0, "a\x1b]0;title\x07\tb\x00\x85\u202e", (), sys.exc_info())
    line, *trace = logs.Formatter().format(record).split("\n")
    assert line.endswith(r"ERROR name a\x1b]0;title\x07" + "\t" + r"b\x00\x85\u202e")
    assert trace[-1] == r"ValueError: \x1b[2Jgone"


def test_a_path_cannot_forge_fields_of_the_access_log(server: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    httpx.get(f"{server}/x%20200%20client=203.0.113.9%1b%e2%80%a8", headers={"x-request-id": "forged"})
    [record] = [record for record in caplog.records if "forged" in logs.JsonFormatter().format(record)]
    assert record.getMessage() == "GET /x%20200%20client=203.0.113.9%1B%E2%80%A8 404"
    assert json.loads(logs.JsonFormatter().format(record))["path"] == "/x 200 client=203.0.113.9\x1b\u2028"


def test_an_api_without_a_database_logs_each_failure_to_connect_once_a_minute() -> None:
    environment = os.environ | {"DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/nothing", "PORT": str(free_port())}
    api = subprocess.Popen([sys.executable, "-m", "pyshell", "serve"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert api.stderr
        # For two connections, several times, until the pool gives up.
        lines = list(takewhile(lambda line: "reconnection attempt in pool 'the database' failed" not in line, api.stderr))
    finally:
        api.terminate()
        api.communicate()
    assert len([line for line in lines if "error connecting in 'the database'" in line]) == 1


def test_the_access_log_says_who_and_from_where(client: OrganizationClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    mine = client.get("/api-keys", headers={"x-request-id": "who"}).json()["api_keys"][0]
    made = client.post("/api-keys", headers={"x-request-id": "makes"}).json()
    client.delete(f"/api-keys/{made['id']}")
    formatter = logs.JsonFormatter()
    lines = {
        name: [json.loads(formatter.format(r)) for r in caplog.records if r.name == name] for name in ("pyshell.access", "pyshell.audit")
    }
    [line] = [line for line in lines["pyshell.access"] if line["request_id"] == "who"]
    assert (line["client"], line["organization_id"], line["key_id"]) == ("127.0.0.1", mine["organization_id"], mine["id"])
    assert [(line["what"], line["organization_id"], line["key_id"], line["api_key_id"]) for line in lines["pyshell.audit"]] == [
        (what, mine["organization_id"], mine["id"], made["id"]) for what in ("request_api_key", "revoke_api_key")
    ]


def test_a_request_is_not_logged_with_the_previous_caller(client: OrganizationClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    head = "GET /me HTTP/1.1\r\nHost: x\r\nx-request-id: "
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), 20) as connection:
        # The second one waits for the answer to the first, and begins where that ends.
        connection.sendall(f"{head}known\r\nx-api-key: {client.api_key}\r\n\r\n{head}unknown\r\nConnection: close\r\n\r\n".encode())
        assert b"missing_credentials" in b"".join(iter(lambda: connection.recv(65536), b""))

    def lines() -> dict[str, dict[str, object]]:
        return {record.fields["request_id"]: record.fields for record in caplog.records if record.name == "pyshell.access"}  # type: ignore[attr-defined]

    # The last one is written after its response has been sent.
    wait_until(lambda: lines().keys() >= {"known", "unknown"})
    assert ("key_id" in lines()["known"], "key_id" in lines()["unknown"]) == (True, False)


def test_a_running_stack_logs_no_secret_that_it_made(cluster: PrivatePostgres, make_cluster: MakeCluster, tmp_path: Path) -> None:
    with folder_for_postgres(cluster) as folder, clerk_instance() as clerk, (tmp_path / "log").open("w+") as log:
        postgres = PrivatePostgres.of_project(folder)
        make_cluster(postgres.folder)
        port = free_port()
        settings = {
            "API_KEY_PEPPER": "the pepper of this deployment, long enough",
            "CLERK_ISSUER": clerk.issuer,
            "METRICS_TOKEN": "the token of this deployment's scrapes",
            "METRICS_PORT": str(free_port()),
            "LOG_LEVEL": "debug",
            "LOG_FORMAT": "json",
            "LOG_SLOW_SECONDS": "0",
        }
        environment = os.environ | {"PORT": str(port), "STATE_DIR": str(folder), "DATABASE_URL": "", "ROOT_PATH": ""} | settings
        url = f"http://127.0.0.1:{port}"
        stack = subprocess.Popen([sys.executable, "-m", "pyshell", "up"], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: is_ready(url), patience=60)
            key = api_keys.create(postgres.url(), "Acme", pepper=settings["API_KEY_PEPPER"])
            with psycopg.connect(postgres.url()) as connection:
                [internal_key] = connection.execute("select api.internal_key()").fetchone() or [""]
            token = clerk.token(org_id="org_1", org_role="org:admin")
            with httpx.Client(base_url=url, headers={"x-api-key": key}) as client:
                made = client.post("/api-keys").json()
                rotated = client.post(f"/api-keys/{made['id']}/rotate").json()["key"]
                webhook = client.put("/webhook-config", json={"url": "https://8.8.8.8/"}).json()["signing_secret"]
                client.get(f"/api-keys/{rotated}?token={rotated}")
                items = [site(address=site()["address"] | {"street_1": STREET})]
                report = client.post("/batch-lookups", json={"items": items}).json()["report"]["id"]
                share = client.post(f"/incentive-reports/{report}/share").json()["token"]
                assert client.get(f"/shared-reports/{share}").status_code == 200
                client.get("/batch-lookups", headers={"x-api-key": rotated[:-1]})
            httpx.get(f"{url}/batch-lookups", headers={"authorization": f"Bearer {token}"})
            httpx.get(f"{url}/batch-lookups", headers={"authorization": f"Bearer {internal_key}"})
            for credential in (key, rotated, token, internal_key):
                with bare_socket(url, quote(credential)) as bare:
                    bare.join({})
            refused = httpx.get(f"{url}/realtime/v1/websocket", params={"apikey": key, "vsn": "9"}, headers=UPGRADE)
            assert refused.status_code == 400
            for query in ("", f"?token={key}"):
                httpx.get(f"{url}/metrics{query}", headers={"authorization": f"Bearer {settings['METRICS_TOKEN']}"})
            wait_until(lambda: "a job has ended" in (tmp_path / "log").read_text())
            scraped = httpx.get(
                f"http://127.0.0.1:{settings['METRICS_PORT']}/metrics", headers={"authorization": f"Bearer {settings['METRICS_TOKEN']}"}
            )
            assert "batch_lookups_worker_lookups_total 1.0" in scraped.text
        finally:
            stack.send_signal(signal.SIGTERM)
            stack.wait(60)
        log.seek(0)
        lines = log.read()
        told = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in told)
        assert "/realtime/v1/websocket" in [line.get("path") for line in told]
        [started] = [line for line in told if line["message"] == "a job has started"]
        [ended] = [line for line in told if line["message"].startswith("a job has ended: ")]
        assert (ended["job_id"], ended["organization_id"], ended["total_items"]) == (started["job_id"], started["organization_id"], 1)
        assert any(line["message"].startswith("slow call of the database: api.") and line["duration"] >= 0 for line in told)
        everything = lines + postgres.log()
        password = (postgres.folder / "password").read_text()
        secrets = [key, made["key"], rotated, token, internal_key, webhook, share, password, settings["API_KEY_PEPPER"]]
        secrets += [settings["METRICS_TOKEN"], STREET]
        for secret in secrets:
            assert len(secret) >= 16
            assert secret not in everything
            assert re.sub("^leap_[a-z]+_", "", secret)[:30] not in everything


# The address of the site in the batch, which no line may contain.
STREET = "1500 Unmistakable Street"

UPGRADE = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}


def test_the_process_hides_what_its_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_known", set())
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    logs.configure(
        Settings(
            database_url="postgresql://owner:pa%40ssword@db/x", incentives_api_key="upstream key", http_proxy="http://u:proxy-password@p"
        )
    )
    assert logs.without_secrets("pa@ssword, upstream key, proxy-password") == "***, ***, ***"


def test_why_a_process_ends_is_the_last_line_of_its_log() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = os.environ | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "HOST": "127.0.0.1", "PORT": str(port)}
        command = [sys.executable, "-m", "pyshell", "serve"]
        ended = {
            style: subprocess.run(command, cwd=ROOT, env=environment | {"LOG_FORMAT": style}, capture_output=True, text=True, check=False)
            for style in ("text", "json")
        }
    reason = f"PORT {port} of HOST 127.0.0.1 cannot be used: Address already in use."
    assert {style: process.returncode for style, process in ended.items()} == {"text": 1, "json": 1}
    assert ended["text"].stderr.splitlines()[-1] == f"error: {reason}"
    lines = [json.loads(line) for line in ended["json"].stderr.splitlines()]
    assert (lines[-1]["level"], lines[-1]["message"]) == ("critical", reason)
