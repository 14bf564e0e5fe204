"""Login and doctor; how quickly the command starts; and that it can be installed without the server."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import IO

import pytest

import batch_lookups
from batch_lookups.cli import settings
from pyshell.local.machine import free_port
from pyshell.settings import ROOT
from tests.cli_fixtures import Cli, Service


@pytest.fixture
def stranger(cli: Cli) -> Cli:
    """The command without a key."""
    del cli.environment["BATCH_LOOKUPS_API_KEY"]
    return cli


def test_login_stores_the_key_for_its_owner_alone(stranger: Cli, service: Service) -> None:
    key = service.new_key()
    nobody = stranger.run("list")
    assert nobody.returncode == 4
    assert "batch-lookups login" in nobody.stderr

    assert stranger.run("login", service.url, stdin=b"leap_live_nonsense\n").returncode == 4
    file = stranger.folder / ".config" / "batch-lookups" / "credentials.json"
    assert not file.exists()

    done = stranger.run("login", service.url + "/", stdin=f"{key}\n".encode())
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert key not in done.stderr
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    del stranger.environment["BATCH_LOOKUPS_URL"]
    assert stranger.run("whoami", BATCH_LOOKUPS_URL=service.url.replace("//", "//me:sesame@")).stderr.count("sesame") == 0
    who = json.loads(stranger.run("whoami", "--json").stdout)
    assert (who["url"], who["source"], who["api_key"]) == (service.url, str(file), f"{key[:10]}…{key[-4:]}")
    assert who["organization"]["name"].startswith("organization ")

    file.chmod(0o640)
    refused = stranger.run("whoami")
    assert refused.returncode == 4
    assert f"chmod 600 {file}" in refused.stderr
    file.chmod(0o600)
    for damaged in (b"{", b"\xff\xfe", b"[]"):
        file.write_bytes(damaged)
        told = stranger.run("whoami")
        assert (told.returncode, told.stderr.splitlines()[-1]) == (4, "hint: Create it again: batch-lookups login URL")
    assert stranger.run("login", service.url, stdin=key.encode()).returncode == 0
    assert stranger.run("whoami").returncode == 0


def test_two_who_log_in_at_once_store_one_of_the_keys_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "dotfiles.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    settings.store("http://127.0.0.1:8000", "leap_live_before")
    settings.file().rename(elsewhere)
    settings.file().symlink_to(elsewhere)
    dump = json.dump

    def dump_meanwhile(content: object, handle: IO[str]) -> None:
        with monkeypatch.context() as other:
            other.setattr(json, "dump", dump)
            other.setattr("os.getpid", lambda: 0)
            settings.store("http://127.0.0.1:8000", "leap_live_other")
        dump(content, handle)

    monkeypatch.setattr(json, "dump", dump_meanwhile)
    settings.store("http://127.0.0.1:8000", "leap_live_mine")
    assert (settings.stored()["api_key"], json.loads(elsewhere.read_bytes())["api_key"]) == ("leap_live_mine", "leap_live_mine")
    assert [file.name for file in settings.file().parent.iterdir()] == ["credentials.json"]


def test_on_windows_the_folder_keeps_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("APPDATA", str(tmp_path))
    assert settings.file() != tmp_path / "batch-lookups" / "credentials.json"
    monkeypatch.setattr(settings, "ON_WINDOWS", True)
    settings.store("http://127.0.0.1:8000", "leap_live_mine")
    assert settings.file() == tmp_path / "batch-lookups" / "credentials.json"
    # What Windows shows of every file.
    settings.file().chmod(0o666)
    assert settings.stored()["api_key"] == "leap_live_mine"


def test_a_file_that_cannot_be_read_is_named(stranger: Cli) -> None:
    (stranger.folder / ".config").write_text("a file where a folder should be")
    done = stranger.run("whoami")
    assert (done.returncode, done.stderr) == (1, f"error: {stranger.folder}/.config/batch-lookups/credentials.json: Not a directory\n")


def test_a_key_may_come_in_any_encoding(stranger: Cli, service: Service) -> None:
    key = service.new_key()
    marked = stranger.run("login", service.url, stdin=f"\ufeff{key}\r\n".encode())
    assert marked.returncode == 0, marked.stderr
    unreadable = stranger.run("login", service.url, stdin=f"{key}\n".encode("utf-16"))
    assert (unreadable.returncode, unreadable.stderr.splitlines()[0].startswith("error: This is not an API key")) == (4, True)


def test_a_user_without_a_home_is_told_what_to_set(cli: Cli) -> None:
    program = "import pwd; pwd.getpwuid = {}.__getitem__; from batch_lookups.cli.main import main; main(['list'])"
    environment = {name: value for name, value in cli.environment.items() if name != "HOME"}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)

    assert run().returncode == 0
    del environment["BATCH_LOOKUPS_URL"]
    done = run()
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "error: This user has no home directory")


def test_login_gives_up_soon_where_nothing_answers(stranger: Cli) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    done = stranger.run("login", BATCH_LOOKUPS_URL=address, BATCH_LOOKUPS_RETRY_SECONDS="", stdin=b"leap_live_nonsense\n")
    assert (done.returncode, time.monotonic() - started < 20) == (7, True)
    assert f"error: The service at {address} cannot be reached" in done.stderr
    assert settings.DEFAULT_URL in stranger.run("login", "--help").stdout
    assert settings.DEFAULT_URL in stranger.run("--help").stdout


def test_the_address_of_a_page_is_told_from_that_of_the_service(stranger: Cli, service: Service) -> None:
    for page in ("portal", "docs"):
        refused = stranger.run("login", f"{service.url}/{page}", stdin=service.new_key().encode())
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "(route_not_found)\nhint: The address may have something extra at its end, such as /portal; " in refused.stderr
    assert not (stranger.folder / ".config").exists()


def test_a_stored_key_is_sent_nowhere_but_where_it_belongs(stranger: Cli, service: Service) -> None:
    assert stranger.run("login", service.url, stdin=service.new_key().encode(), XDG_CONFIG_HOME=str(stranger.folder / "x")).returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        elsewhere = f"http://127.0.0.1:{listener.getsockname()[1]}"
        done = stranger.run("list", BATCH_LOOKUPS_URL=elsewhere, XDG_CONFIG_HOME=str(stranger.folder / "x"))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert done.returncode == 4
    assert f"belongs to {service.url}" in done.stderr


def test_a_key_sent_unencrypted_causes_a_warning(cli: Cli) -> None:
    done = cli.run("list", BATCH_LOOKUPS_URL="http://lookups.invalid", BATCH_LOOKUPS_RETRY_SECONDS="0")
    assert done.returncode == 7
    assert "warning: http://lookups.invalid is not encrypted" in done.stderr
    assert cli.run("list", BATCH_LOOKUPS_URL="lookups.invalid").returncode == 1


def test_a_refused_key_learns_which_scope_it_lacks(cli: Cli, service: Service) -> None:
    cli.environment["BATCH_LOOKUPS_API_KEY"] = service.new_key(scopes=["webhooks:read"])
    done = cli.run("list")
    assert done.returncode == 4
    assert "jobs:read" in done.stderr
    assert "(insufficient_scope)" in done.stderr
    assert json.loads(cli.run("whoami", "--json").stdout)["organization"] is None


def test_doctor_finds_nothing_wrong_and_changes_nothing(cli: Cli, service: Service) -> None:
    counts = "select (select count(*) from public.batch_lookup_jobs), (select count(*) from public.incentive_reports)"
    before = service.owner.execute(counts).fetchone()
    done = cli.run("doctor", "--json", HTTP_PROXY="", NO_PROXY="localhost,127.0.0.1")
    findings = {finding["about"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert all(finding["ok"] for finding in findings.values())
    assert findings.keys() == {"command", "proxies", "service", "database", "clock", "versions", "key", "scopes"}
    scopes = ["applications:read", "incentives:write", "jobs:read", "jobs:write", "keys:admin", "reports:read", "reports:write"]
    assert set(scopes) <= set(findings["scopes"]["detail"].split(", "))
    assert "no: localhost,127.0.0.1" in findings["proxies"]["detail"]
    assert service.owner.execute(counts).fetchone() == before


def test_doctor_lists_the_scopes_of_a_key(cli: Cli, service: Service) -> None:
    cli.environment["BATCH_LOOKUPS_API_KEY"] = service.new_key(scopes=["jobs:read", "webhooks:write"])
    done = cli.run("doctor")
    assert done.returncode == 0
    [line] = [line for line in done.stdout.splitlines() if "scopes: " in line]
    assert line.startswith("ok    scopes: jobs:read, webhooks:write; not: jobs:write, reports:read, ")


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"BATCH_LOOKUPS_API_KEY": "leap_live_nonsense"}, 4, "FAIL  key: "),
        ({"BATCH_LOOKUPS_API_KEY": ""}, 4, "FAIL  key: There is no API key"),
        ({"BATCH_LOOKUPS_URL": "http://127.0.0.1:1"}, 7, "FAIL  service: The service at http://127.0.0.1:1 cannot be reached"),
        ({"BATCH_LOOKUPS_API_KEY": "leap_live_…abcd"}, 4, "FAIL  key: This is not an API key"),
        ({"BATCH_LOOKUPS_URL": "nonsense"}, 1, "FAIL  address: "),
        ({"BATCH_LOOKUPS_URL": "http://two words"}, 1, "FAIL  address: "),
        ({"BATCH_LOOKUPS_URL": "http://127.0.0.1:99999"}, 1, "FAIL  address: "),
        ({"BATCH_LOOKUPS_URL": "http://[::1:8000"}, 1, "FAIL  address: "),
        ({"BATCH_LOOKUPS_URL": "http://lookups..example.com"}, 1, "FAIL  address: "),
        ({"BATCH_LOOKUPS_URL": f"http://{'a' * 64}.example.com"}, 1, "FAIL  address: "),
        ({"HTTP_PROXY": "http://user:password@127.0.0.1:1"}, 7, "http://127.0.0.1:1"),
        ({"BATCH_LOOKUPS_URL": "http://user:password@127.0.0.1:1"}, 7, "The service at http://127.0.0.1:1 cannot be reached"),
    ],
)
def test_doctor_names_what_is_wrong(cli: Cli, changes: dict[str, str], code: int, said: str) -> None:
    cli.environment |= changes
    done = cli.run("doctor")
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout
    assert "password" not in done.stdout


class Stranger(BaseHTTPRequestHandler):
    """A page in place of the service, which asks people to sign in or redirects them to where they can."""

    status, says_it_is_up = 200, False

    def do_GET(self) -> None:
        is_up = self.says_it_is_up and self.path == "/healthz"
        self.send_response(200 if is_up else 302 if self.path.startswith("/old/") else self.status)
        self.send_header("Content-Type", "application/json" if is_up else "text/html")
        self.send_header("Location", "https://sso.example.com/login?state=secret")
        self.end_headers()
        self.wfile.write(b"{}" if is_up else b"<html>Sign in</html>\n")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


class Proxy(Stranger):
    """A proxy that is up, in front of a service that is not."""

    status, says_it_is_up = 502, True


class Busy(BaseHTTPRequestHandler):
    """The service, which is too busy for requests with a key."""

    def do_GET(self) -> None:
        self.send_response(429 if self.headers["x-api-key"] else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"error": "Too many requests", "info": {"version": batch_lookups.__version__}}).encode())

    def log_message(self, *arguments: object) -> None:
        pass


class StrangerWithJson(BaseHTTPRequestHandler):
    """Another server that responds in JSON."""

    body = b""
    encoding = "identity"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Encoding", self.encoding)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"ok"', b"[" * 100_000], ids=["nothing", "null", "array", "text", "nested"])
def test_json_of_another_server_is_not_taken_for_an_answer(cli: Cli, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr(StrangerWithJson, "body", body)
    with served(StrangerWithJson) as url:
        cli.environment["BATCH_LOOKUPS_URL"] = url
        done = cli.run("list")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == f"error: {url} does not answer with a JSON object; it is not Batch Lookups"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"{}", "KeyError: 'jobs'"),
        (b'{"jobs": [[]], "next_cursor": null}', "TypeError: list indices must be integers or slices, not str"),
        (b'{"jobs": 1, "next_cursor": null}', "TypeError: 'int' object is not iterable"),
    ],
    ids=["nothing", "array", "number"],
)
def test_an_answer_of_an_unexpected_form_is_reported_in_words(cli: Cli, monkeypatch: pytest.MonkeyPatch, body: bytes, what: str) -> None:
    monkeypatch.setattr(StrangerWithJson, "body", body)
    with served(StrangerWithJson) as url:
        done = cli.run("list", BATCH_LOOKUPS_URL=url)
        signed_in = cli.run("login", url, BATCH_LOOKUPS_API_KEY="", stdin=b"leap_live_key\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {url} answers in a form that this command does not know ({what}, batches.py:"), done.stderr
    assert done.stderr.count("\n") == 2, "the error and its hint"
    assert "Traceback" not in signed_in.stderr


def test_an_answer_that_expands_too_far_is_reported(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StrangerWithJson, "encoding", "gzip")
    monkeypatch.setattr(StrangerWithJson, "body", gzip.compress(b" " * (256 * 1024**2 + 1), compresslevel=1))
    with served(StrangerWithJson) as url:
        listed, examined = cli.run("list", BATCH_LOOKUPS_URL=url), cli.run("doctor", BATCH_LOOKUPS_URL=url)
    told = "The answer is longer than 256 MB, more than Batch Lookups ever sends"
    assert (listed.returncode, listed.stderr.splitlines()[0]) == (1, f"error: {told}")
    assert (examined.returncode, examined.stderr) == (1, "")
    assert f"FAIL  service: {told}" in examined.stdout


def test_doctor_copes_with_answers_of_an_unexpected_form(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StrangerWithJson, "body", b'{"info": [], "error": {}}')
    monkeypatch.setattr(StrangerWithJson, "date_time_string", lambda *_: "noon")
    with served(StrangerWithJson) as url:
        done = cli.run("doctor", BATCH_LOOKUPS_URL=url)
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  versions: the service is ?, " in done.stdout


def test_no_answer_can_control_the_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    steering = "\x1b2J\x9b2J\u202e"
    monkeypatch.setattr(
        StrangerWithJson, "body", json.dumps({"info": {"version": f"0{steering}"}, "devices": [{"id": 1, "name": steering}]}).encode()
    )
    with served(StrangerWithJson) as url:
        doctor = cli.run("doctor", BATCH_LOOKUPS_URL=url)
        devices = cli.run("devices", "--json", BATCH_LOOKUPS_URL=url)
    assert "the service is 0\ufffd2J\ufffd2J\ufffd, " in doctor.stdout
    assert json.loads(devices.stdout) == [{"id": 1, "name": steering}]
    assert not set(devices.stdout) & {"\x1b", "\x9b", "\u202e"}


def test_a_page_of_another_server_is_not_taken_for_an_answer(cli: Cli) -> None:
    kept = cli.folder / "results.csv"
    kept.write_text("what was saved before")
    job = "0193a5b2-0000-7000-8000-000000000000"
    with served(Stranger) as url:
        cli.environment["BATCH_LOOKUPS_URL"] = url
        for words in (
            ["list"],
            ["results", job, "-o", kept],
            ["results", job, "--follow"],
            ["watch", job],
            ["check", cli.sites("a.csv", 1)],
        ):
            done = cli.run(*words)
            assert (done.returncode, done.stdout) == (1, ""), words
            assert f"error: {url} answers with text/html instead of " in done.stderr
        key = cli.environment["BATCH_LOOKUPS_API_KEY"]
        assert cli.run("login", url, stdin=key.encode()).returncode == 1
        redirected = cli.run("list", BATCH_LOOKUPS_URL=f"{url}/old")
        assert redirected.returncode == 1
        assert redirected.stderr.startswith(f"error: {url} redirects to https://sso.example.com/login (302)\n")
        assert (
            f"FAIL  service: {url} redirects to https://sso.example.com/login\n" in cli.run("doctor", BATCH_LOOKUPS_URL=f"{url}/old").stdout
        )
    assert kept.read_text() == "what was saved before"
    assert not (cli.folder / ".config").exists()


class AsksToSignIn(BaseHTTPRequestHandler):
    """The service behind a proxy that asks to sign in, but for `paths`; for /app with a redirect."""

    paths = ("/healthz",)

    def do_GET(self) -> None:
        passes = self.path.removeprefix("/app") in self.paths
        self.send_response(302 if self.path.startswith("/app") and not passes else 200)
        self.send_header("Content-Type", "application/json" if passes else "text/html")
        self.send_header("Location", "https://sso.example.com/login?state=secret")
        self.end_headers()
        self.wfile.write(json.dumps({"info": {"version": batch_lookups.__version__}}).encode() if passes else b"<html>Sign in</html>")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize("paths", [("/healthz",), ("/healthz", "/readyz"), ("/healthz", "/readyz", "/openapi.json")])
def test_doctor_names_a_proxy_that_asks_to_sign_in(cli: Cli, monkeypatch: pytest.MonkeyPatch, paths: tuple[str, ...]) -> None:
    monkeypatch.setattr(AsksToSignIn, "paths", paths)
    with served(AsksToSignIn) as url:
        redirected, shown = cli.run("doctor", BATCH_LOOKUPS_URL=f"{url}/app"), cli.run("doctor", BATCH_LOOKUPS_URL=url)
    assert f"FAIL  service: {url} redirects to https://sso.example.com/login\n" in redirected.stdout
    assert f"FAIL  service: {url} answers with text/html instead of application/json; it is not Batch Lookups\n" in shown.stdout
    for done in (redirected, shown):
        assert (done.returncode, done.stderr, "ok    key" in done.stdout) == (1, "", False)
        assert (
            done.stdout.splitlines()[-1] == "      Check the address. A proxy that asks to sign in must let requests to the service pass."
        )


@pytest.mark.parametrize("body", [b'{"info": {"version": 1}}', b'{"info": "ok"}', b"[]"])
def test_doctor_copes_with_another_server(cli: Cli, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr(StrangerWithJson, "body", body)
    monkeypatch.setattr(StrangerWithJson, "date_time_string", lambda *_: "yesterday")
    with served(StrangerWithJson) as url:
        done = cli.run("doctor", BATCH_LOOKUPS_URL=url)
    assert "Traceback" not in done.stderr
    assert "FAIL  versions: " in done.stdout


def test_doctor_copes_with_a_proxy_in_front_of_a_service_that_is_down(cli: Cli) -> None:
    with served(Proxy) as url:
        done = cli.run("doctor", BATCH_LOOKUPS_URL=url)
    assert (done.returncode, done.stderr) == (7, "")
    assert "FAIL  database: The service answered with status 502\n" in done.stdout
    assert "key: " not in done.stdout, "nobody can tell"


def test_doctor_calls_no_key_valid_that_it_could_not_try(cli: Cli) -> None:
    with served(Busy) as url:
        done = cli.run("doctor", BATCH_LOOKUPS_URL=url.replace("//", "//user:password@"))
    assert (done.returncode, "password" in done.stdout) == (7, False)
    assert "FAIL  key: cannot tell whether it is valid: Too many requests\n" in done.stdout
    assert "scopes: " not in done.stdout


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "gopher://127.0.0.1:1", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_reported(cli: Cli, proxy: str) -> None:
    listed, examined = cli.run("list", ALL_PROXY=proxy, NO_PROXY=""), cli.run("doctor", ALL_PROXY=proxy, NO_PROXY="")
    told = "The proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot be used: "
    assert (listed.returncode, listed.stderr.startswith(f"error: {told}")) == (1, True), listed.stderr
    assert (examined.returncode, f"FAIL  environment: {told}" in examined.stdout) == (1, True), examined.stderr


def test_certificates_that_cannot_be_read_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    with pytest.raises(batch_lookups.BatchLookupsError, match="The certificates in SSL_CERT_FILE or SSL_CERT_DIR cannot be read"):
        batch_lookups.Client("https://lookups.example.com", "leap_live_key")


def loaded_modules(*words: str, **environment: str) -> set[str]:
    """What the command has imported when it ends."""
    program = f"""
import sys
from batch_lookups.cli.main import main
try:
    main({list(words)!r})
except SystemExit:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_a_proxy_that_cannot_be_reached_is_named(cli: Cli) -> None:
    cli.environment |= {"HTTP_PROXY": "http://name:secret@127.0.0.1:1", "BATCH_LOOKUPS_RETRY_SECONDS": "0"}
    done = cli.run("whoami")
    assert (done.returncode, done.stdout) == (7, "")
    assert (
        f"error: The service at {cli.environment['BATCH_LOOKUPS_URL']} cannot be reached through the proxy at 127.0.0.1:1 (" in done.stderr
    )
    assert "secret" not in done.stderr
    assert cli.run("whoami", NO_PROXY="127.0.0.1").returncode == 0
    nowhere = cli.run("whoami", NO_PROXY="127.0.0.1", BATCH_LOOKUPS_URL="http://127.0.0.1:2")
    assert "The service at http://127.0.0.1:2 cannot be reached (" in nowhere.stderr


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["run", "--help"], ["completion", "zsh"]])
def test_modules_are_imported_only_when_they_are_used(words: list[str]) -> None:
    loaded = loaded_modules(*words)
    assert "batch_lookups.cli.batches" in loaded
    slow = {
        "asyncio",
        "dataclasses",
        "email.utils",
        "hashlib",
        "httpx",
        "importlib.metadata",
        "psycopg",
        "pyshell",
        "rich",
        "ssl",
        "subprocess",
    }
    assert loaded & slow == set(), "a command starts in the time that its imports take"


def test_rich_is_for_terminals(cli: Cli) -> None:
    loaded = loaded_modules("list", **cli.environment)
    assert "httpx" in loaded
    assert loaded & {"rich", "pygments"} == set()


def test_the_version_is_that_of_the_package(cli: Cli) -> None:
    assert cli.run("--version").stdout == f"batch-lookups, version {batch_lookups.__version__}\n"


@pytest.mark.parametrize(
    "words", [[], *[[word] for word in ("run", "check", "webhooks", "keys")], ["keys", "rotate"], ["webhooks", "listen"]]
)
def test_help_has_examples(cli: Cli, words: list[str]) -> None:
    done = cli.run(*words, "--help")
    assert done.returncode == 0
    assert ("Example" in done.stdout) == (words not in (["webhooks"], ["keys"]))
    assert max(map(len, done.stdout.splitlines())) <= 110


def test_help_says_what_a_number_is_of(cli: Cli) -> None:
    pages = [
        cli.run(*words, "--help").stdout
        for words in (["list"], ["items"], ["usage"], ["report", "share"], ["webhooks", "deliveries"], ["webhooks", "verify"])
    ]
    assert [page for page in pages if " RANGE " in page] == []
    assert "standard output unless given" in cli.run("run", "--help", COLUMNS="200").stdout
    # Without -o, watch saves nothing.
    assert "not at all unless given" in cli.run("watch", "--help", COLUMNS="200").stdout


@pytest.mark.parametrize("group", [[], ["report"], ["webhooks"], ["keys"]])
def test_summaries_of_commands_fit_into_eighty_columns(cli: Cli, group: list[str]) -> None:
    summaries = cli.run(*group, "--help", COLUMNS="80").stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(summaries) >= 3
    assert [line for line in summaries if not line.endswith(".") or line.endswith("...") or len(line) > 80] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_words(cli: Cli, shell: str) -> None:
    assert "_BATCH_LOOKUPS_COMPLETE" in cli.run("completion", shell).stdout
    completed = cli.run(_BATCH_LOOKUPS_COMPLETE="bash_complete", COMP_WORDS="batch-lookups webhooks re", COMP_CWORD="2")
    assert {line.rpartition(",")[2] for line in completed.stdout.split()} == {"resend", "recover"}


def test_it_installs_without_the_server_and_runs_by_its_name(tmp_path: Path, service: Service) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*command, "--target", site, ROOT], check=True, capture_output=True)
    assert sorted(path.name for path in site.iterdir() if not path.name.endswith(".dist-info")) == ["batch_lookups", "bin"]
    environment = {
        "PATH": f"{site / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "BATCH_LOOKUPS_URL": service.url,
        "BATCH_LOOKUPS_API_KEY": service.new_key(),
    }
    done = subprocess.run(["batch-lookups", "list", "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)) == (0, []), done.stderr
    program = "import sys; from batch_lookups import AsyncClient, Client; import batch_lookups; print(batch_lookups.__file__, *sys.modules)"
    imported = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    file, *modules = imported.stdout.split()
    assert Path(file).is_relative_to(site)
    assert {name.split(".")[0] for name in modules} & {"pyshell", "psycopg", "starlette"} == set()
