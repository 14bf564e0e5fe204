"""Several API processes behind one port: limits that count together, metrics of all, and processes that are killed or stopped."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import math
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from prometheus_client.core import Metric
from websockets.exceptions import InvalidStatus

from pyshell.api import api_keys
from pyshell.api.counts import OwnHoldings, OwnWindows
from pyshell.api.limits import UPLOADS_PER_ORGANIZATION
from pyshell.api.processes import shared_memory
from pyshell.api.processes.exchange import Exchange
from pyshell.api.processes.parent import Parent, listening
from pyshell.api.processes.serving import SharesOfAll
from pyshell.api.processes.shared_memory import LOCK_SECONDS, NEAR, SharedHoldings, SharedWindows, Table
from pyshell.local.machine import free_port, why_taken
from pyshell.postgres.shares import TakenError
from pyshell.settings import ROOT, Settings
from pyshell.worker import metrics
from tests.conftest import Connection, waiting_for_locks
from tests.http_fixtures import PEPPER, OrganizationClient, is_ready, look_up, site
from tests.realtime_fixtures import BareSocket, bare_socket
from tests.test_http_database import nobody_gets_at_jobs
from tests.test_metrics import scrape
from tests.timed import PATIENCE, wait_until
from tests.worker_fixtures import end_with_parent

PROCESSES = 3
LIMIT = 6
MAX_CONNECTIONS = 60
ESTABLISHED = "01"
SERVICE_ROLE_KEY = "service role key of many processes"
REQUESTS = "http_server_request_duration_seconds_count"
# With limits that are soon reached. Forked processes have them, too.
SERVE = f"""
from pyshell.api import authentication, http_protocol, limits
from pyshell.api.realtime import limits as realtime_limits
authentication.UNKNOWN_KEYS_PER_MINUTE = {LIMIT}
http_protocol.MAX_CONNECTIONS = {MAX_CONNECTIONS}
limits.UPLOAD_WAIT_SECONDS = 0.5
realtime_limits.MAX_CONNECTIONS_PER_ORGANIZATION = {LIMIT}
from pyshell.__main__ import main
main(["serve", "--processes", "{PROCESSES}"])
"""


class Server:
    """`serve --processes 3` on a port of its own, with a log in JSON."""

    def __init__(self, database_url: str, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        # A short path, for sockets. A killed process leaves it full.
        self.temporary = Path(tempfile.mkdtemp(prefix="serve-"))
        settings = {
            "TMPDIR": str(self.temporary),
            "DATABASE_URL": database_url,
            "API_KEY_PEPPER": PEPPER,
            "SERVICE_ROLE_KEY": SERVICE_ROLE_KEY,
            "FORWARDED_ALLOW_IPS": "127.0.0.1",
            "PORT": str(self.port),
            "LOG_FORMAT": "json",
            # With the probes, too.
            "LOG_LEVEL": "debug",
        }
        with log.open("w") as file:
            self.parent = subprocess.Popen(
                [sys.executable, "-c", SERVE], cwd=ROOT, env=os.environ | settings, stderr=file, preexec_fn=end_with_parent
            )
        wait_until(lambda: is_ready(self.url) and len(self.processes()) == PROCESSES, log.read_text)

    def processes(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children").read_text().split()]

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def answers(self) -> Counter[object]:
        """How many requests each process has answered."""
        return Counter(line["pid"] for line in self.lines() if line["logger"] == "pyshell.access")

    def stop(self) -> None:
        self.parent.terminate()
        self.parent.wait(40)
        shutil.rmtree(self.temporary)


@pytest.fixture(scope="module")
def server(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    served = Server(shared_database_url, tmp_path_factory.mktemp("server") / "log")
    yield served
    served.stop()


@pytest.fixture
def own_server(shared_database_url: str, tmp_path: Path) -> Iterator[Server]:
    """For a test that stops the server."""
    served = Server(shared_database_url, tmp_path / "log")
    yield served
    served.stop()


@pytest.fixture
def client(server: Server, shared_database_url: str) -> Iterator[OrganizationClient]:
    with OrganizationClient(server.url, shared_database_url) as client:
        yield client


def is_refused(port: int) -> bool:
    """Whether nothing listens there any more."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def get(client: OrganizationClient, path: str) -> httpx.Response:
    """On a connection of its own, which any of the processes may accept."""
    return httpx.get(f"{client.base_url}{path}", headers={"x-api-key": client.api_key}, timeout=40)


def test_the_limit_of_a_key_is_one_for_all_processes(server: Server, client: OrganizationClient, shared_owner: Connection) -> None:
    shared_owner.execute("""select api.update_settings('{"requests_per_minute": 50}')""")
    before = server.answers()
    try:
        with ThreadPoolExecutor(12) as executor:
            answers = list(executor.map(lambda _: get(client, "/batch-lookups"), range(150)))
    finally:
        shared_owner.execute("""select api.update_settings('{"requests_per_minute": 120000}')""")
    assert Counter(answer.status_code for answer in answers) == {200: 50, 429: 100}
    left = [int(re.findall(r"r=(\d+)", answer.headers["ratelimit"])[0]) for answer in answers if answer.status_code == 200]
    assert sorted(left) == list(range(50))
    assert len(server.answers() - before) == PROCESSES


def websockets(stack: ExitStack, url: str, key: str, number: int) -> list[BareSocket]:
    """Opens so many connections; the next one is refused."""
    sockets = [stack.enter_context(bare_socket(url, key)) for _ in range(number)]
    with pytest.raises(InvalidStatus) as refused, bare_socket(url, key):
        pass
    assert refused.value.response.status_code == 429
    return sockets


def test_websockets_of_an_organization_are_counted_together_and_a_killed_process_releases_its_own(
    server: Server, client: OrganizationClient
) -> None:
    with ExitStack() as stack:
        sockets = websockets(stack, server.url, client.api_key, LIMIT)
        assert all(bare.join({})["status"] == "ok" for bare in sockets)
        of_process = Counter(process_of(server, bare) for bare in sockets)
        killed, had = of_process.most_common(1)[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(server.processes()) == PROCESSES and killed not in server.processes())
        wait_until(lambda: scrape(server.url)["batch_lookups_realtime_connections"] == LIMIT - had)
        websockets(stack, server.url, client.api_key, had)
    assert any(f"process {killed} has ended with SIGKILL" in str(line["message"]) for line in server.lines())


def process_of(server: Server, bare: BareSocket) -> int:
    """The process that has the other end of the connection."""
    local = bare.connection.socket.getsockname()[1]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # A list that changes while it is read may have a line twice.
    [remote] = {
        line[9]
        for line in lines
        if line[1].endswith(f":{server.port:04X}") and line[2].endswith(f":{local:04X}") and line[3] == ESTABLISHED
    }
    [process] = [
        pid
        for pid in server.processes()
        if any(str(file.readlink()) == f"socket:[{remote}]" for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink())
    ]
    return process


@contextmanager
def unfinished_upload(server: Server, client: OrganizationClient) -> Iterator[socket.socket]:
    """A batch whose body does not end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=40) as connection:
        head = f"POST /batch-lookups HTTP/1.1\r\nHost: x\r\nx-api-key: {client.api_key}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n[".encode())
        yield connection


def test_the_uploads_of_an_organization_are_counted_together(server: Server, client: OrganizationClient, shared_database_url: str) -> None:
    with ExitStack() as stack, OrganizationClient(server.url, shared_database_url) as other:
        uploads = [stack.enter_context(unfinished_upload(server, client)) for _ in range(UPLOADS_PER_ORGANIZATION + 3)]
        wait_until(lambda: len(select.select(uploads, [], [], 0)[0]) == 3)
        assert all(b" 429 " in connection.recv(40) for connection in select.select(uploads, [], [], 0)[0])
        other.submit()
        # Those of a killed process are free at once.
        for pid in server.processes():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: is_ready(server.url))
        client.submit()


def test_unknown_keys_of_an_address_are_counted_together(server: Server, client: OrganizationClient) -> None:
    def status(key: str, address: str = "198.51.100.1") -> int:
        return httpx.get(f"{server.url}/batch-lookups", headers={"x-api-key": key, "x-forwarded-for": address}).status_code

    assert [status(api_keys.generate()) for _ in range(LIMIT + 4)] == [401] * LIMIT + [429] * 4
    assert status(client.api_key, "198.51.100.2") == 200


def test_connections_are_counted_together(server: Server) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(MAX_CONNECTIONS + 5)]
        # Nothing was requested on any of them: only a refused one gets a response.
        wait_until(lambda: len(select.select(idle, [], [], 0)[0]) >= 5)
        refused = select.select(idle, [], [], 0)[0]
        assert all(connection.recv(20).startswith(b"HTTP/1.1 503") for connection in refused)
        assert MAX_CONNECTIONS - PROCESSES <= len(idle) - len(refused) <= MAX_CONNECTIONS
    wait_until(lambda: is_ready(server.url))


def test_all_processes_together_have_one_manual_run_of_the_worker(server: Server, shared_database_url: str) -> None:
    headers = {"authorization": f"Bearer {SERVICE_ROLE_KEY}", "x-supabase-internal": "true", "prefer": "respond-async"}

    def start() -> str:
        return str(httpx.post(f"{server.url}/batch-lookups-worker", headers=headers, json={}, timeout=40).json()["status"])

    with psycopg.connect(shared_database_url) as held:
        held.execute("lock table app.rate_limit, app.organization_queue_state in access exclusive mode")
        assert Counter(start() for _ in range(12)) == {"started": 1, "running": 11}
    wait_until(lambda: start() == "started")


def test_metrics_are_those_of_all_processes_and_never_fall(server: Server) -> None:
    with ThreadPoolExecutor(12) as executor:
        list(executor.map(lambda _: httpx.get(f"{server.url}/healthz"), range(120)))
    assert len({line["pid"] for line in server.lines() if line.get("path") == "/healthz"}) == PROCESSES
    series = f'{REQUESTS}{{method="GET",route="/healthz",status="200"}}'
    before = scrape(server.url)
    assert before[series] == 120
    assert before['http_server_request_duration_seconds_bucket{le="+Inf",method="GET",route="/healthz",status="200"}'] == 120
    started = {name for name in before if name.startswith("process_start_time_seconds")}
    assert started == {f'process_start_time_seconds{{process="{number}"}}' for number in range(PROCESSES)}
    assert before["batch_lookups_db_up"] == 1
    assert before["batch_lookups_db_pool_max"] == 15
    killed = server.processes()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(server.processes()) == PROCESSES and not set(killed) & set(server.processes()) and is_ready(server.url))
    httpx.get(f"{server.url}/healthz")
    after = scrape(server.url)
    assert after[series] == 121
    assert [
        name for name, value in before.items() if name.startswith("http_server") and "_created" not in name and after[name] < value
    ] == []


def test_long_polls_and_realtime_work_in_every_process(server: Server, client: OrganizationClient, shared_owner: Connection) -> None:
    job = client.submit()
    path = f"/batch-lookups/{job['job_id']}?wait=30"
    with ExitStack() as stack, ThreadPoolExecutor(12) as executor:
        sockets = [stack.enter_context(bare_socket(server.url, client.api_key)) for _ in range(LIMIT)]
        for bare in sockets:
            assert bare.join({"event": "UPDATE"})["status"] == "ok"
            assert bare.receive()[4]["message"] == "Subscribed to PostgreSQL"
        began = time.monotonic()
        waiting = [executor.submit(get, client, path) for _ in range(12)]
        time.sleep(1)
        look_up(shared_owner, job, 1)
        changes = [bare.receive(20)[4]["data"]["record"] for bare in sockets]
        assert {future.result().json()["status"] for future in waiting} == {"completed"}
        assert time.monotonic() - began < 25
    assert {change["id"] for change in changes} == {job["job_id"]}
    waited = {line["pid"] for line in server.lines() if line["logger"] == "pyshell.access" and line.get("path") == path.partition("?")[0]}
    assert len(waited) > 1


def test_a_stopped_server_finishes_the_requests_of_all_processes(own_server: Server, shared_database_url: str) -> None:
    server, processes = own_server, own_server.processes()
    with (
        OrganizationClient(server.url, shared_database_url) as client,
        ThreadPoolExecutor(4) as executor,
        psycopg.connect(shared_database_url, autocommit=True) as owner,
    ):
        with nobody_gets_at_jobs(shared_database_url):
            answers = [executor.submit(client.post, "/batch-lookups", json=[site()]) for _ in range(4)]
            # Of one organization, no process has more than two statements under way.
            wait_until(lambda: len(waiting_for_locks(owner, "batch-lookups")) >= 2)
            time.sleep(0.3)
            server.parent.terminate()
            # One process that logs its stop is not all of them.
            wait_until(lambda: is_refused(server.port))
        assert [answer.result().status_code for answer in answers] == [201] * 4
    assert server.parent.wait(30) == 0
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]
    assert list(server.temporary.iterdir()) == []


def test_a_server_whose_terminal_ends_finishes_its_requests(shared_database_url: str, tmp_path: Path, not_ignoring_hangups: None) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {"DATABASE_URL": shared_database_url, "API_KEY_PEPPER": PEPPER, "PORT": str(port)}
    with (tmp_path / "log").open("w") as log:
        served = subprocess.Popen(
            [sys.executable, "-m", "pyshell", "serve"], cwd=ROOT, env=environment, stderr=log, preexec_fn=end_with_parent
        )
    wait_until(lambda: is_ready(url))
    with (
        OrganizationClient(url, shared_database_url) as client,
        ThreadPoolExecutor(1) as executor,
        psycopg.connect(shared_database_url, autocommit=True) as owner,
    ):
        with nobody_gets_at_jobs(shared_database_url):
            answer = executor.submit(client.post, "/batch-lookups", json=[site()])
            wait_until(lambda: waiting_for_locks(owner, "batch-lookups"))
            served.send_signal(signal.SIGHUP)
            wait_until(lambda: is_refused(port))
        assert answer.result().status_code == 201
    assert served.wait(30) == 0


def test_processes_end_with_a_parent_that_is_killed(own_server: Server) -> None:
    processes = own_server.processes()
    own_server.parent.kill()
    wait_until(
        lambda: not [pid for pid in processes if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()]
    )


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize(("host", "reason"), [("127.0.0.1", "Address already in use"), ("192.0.2.1", "Cannot assign requested address")])
def test_an_address_that_cannot_be_used_is_reported(shared_database_url: str, processes: str, host: str, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        run = subprocess.run(
            [sys.executable, "-m", "pyshell", "serve", "--processes", processes],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": shared_database_url, "HOST": host, "PORT": str(port)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert run.returncode == 1
    assert run.stderr.endswith(f"error: PORT {port} of HOST {host} cannot be used: {reason}.\n")


@pytest.fixture
def needs_ipv6() -> None:
    if why_taken("::1", 0) is not None:
        pytest.skip("this machine has no IPv6")


@pytest.mark.usefixtures("needs_ipv6")
def test_the_server_can_listen_on_every_address_of_the_machine() -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(listener) for listener in listening("::", free_port("::"))]
        for listener in sockets:
            listener.listen()
        [port] = {listener.getsockname()[1] for listener in sockets}
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port)).close()


@pytest.mark.usefixtures("needs_ipv6")
@pytest.mark.parametrize(("host", "at"), [("::", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")])
def test_a_worker_serves_its_metrics_over_ipv6(host: str, at: str) -> None:
    settings = Settings(host=host, metrics_port=free_port(host))
    with metrics.served(settings, list):
        assert httpx.get(f"http://{at}:{settings.metrics_port}/metrics").status_code == 200


def in_processes(count: int, do: Callable[[int], None]) -> list[int]:
    """Runs it in processes of their own, which share memory with this one. Answers how each has ended."""
    pids = []
    for number in range(count):
        pid = os.fork()
        if not pid:
            try:
                do(number)
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


async def test_whoever_finds_all_shares_taken_gets_the_next_one_of_any_process() -> None:
    holdings = SharedHoldings(2)
    shares = SharesOfAll("uploads of", 1, PATIENCE, holdings)
    held: list[str] = []
    ended = asyncio.Event()

    async def hold(name: str) -> None:
        async with shares.one_of("organization"):
            held.append(name)
            await ended.wait()

    # The other process has the only one, and gives it back.
    holdings.process = 1
    assert holdings.take(("uploads of", "organization"), 1)
    holdings.process = 0
    holding = [asyncio.create_task(hold(name)) for name in ("first", "second")]
    await asyncio.sleep(0.1)
    assert held == []
    holdings.forget(1)
    await asyncio.to_thread(wait_until, lambda: held)
    # In this process, one after the other; none for long.
    shares.seconds = 0.1
    with pytest.raises(TakenError):
        await hold("third")
    assert held == ["first"]
    ended.set()
    await asyncio.gather(*holding)
    assert held == ["first", "second"]
    assert holdings.of(("uploads of", "organization")) == 0


def test_no_count_of_a_window_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that the machine stops for longer while it has the lock may cost a count.
    monkeypatch.setattr(shared_memory, "LOCK_SECONDS", PATIENCE)
    windows = SharedWindows()
    counts = SharedHoldings(4)

    def count(number: int) -> None:
        counts.process = number
        for _ in range(3000):
            if windows.count("key", 1.0, 60).requests <= 5000:
                counts.take("admitted", math.inf)

    assert in_processes(4, count) == [0] * 4
    window = windows.window("key", 2.0)
    assert window is not None
    assert (window.requests, window.ends_at, counts.of("admitted")) == (12_000, 61.0, 5_000)


def test_a_killed_process_holds_neither_a_lock_nor_a_share() -> None:
    holdings = SharedHoldings(2)

    def take_and_die(number: int) -> None:
        holdings.process = 1
        assert holdings.take("organization", 3)
        assert holdings.take("organization", 3)
        with holdings._table.lock:
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_processes(1, take_and_die) == [-signal.SIGKILL]
    assert [holdings.take("organization", 3) for _ in range(2)] == [True, False]
    holdings.forget(1)
    assert [holdings.take("organization", 3) for _ in range(3)] == [True, True, False]


def test_a_process_that_is_stopped_while_it_holds_the_lock_delays_nobody() -> None:
    windows = SharedWindows()
    reader, writer = os.pipe()

    def stop(number: int) -> None:
        with windows._table.lock:
            os.write(writer, b".")
            time.sleep(PATIENCE)
        os._exit(0)

    pid = os.fork()
    if not pid:
        stop(0)
    try:
        os.read(reader, 1)
        began = time.monotonic()
        assert windows.count("key", 1.0, 60).requests == 1
        assert time.monotonic() - began >= LOCK_SECONDS
        assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, "it still holds the lock"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_process_that_cannot_be_started_is_tried_again_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = Parent(2, lambda number: None, lambda number: None, [])
    pids = iter([11])

    def fork() -> int:
        try:
            return next(pids)
        except StopIteration:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable") from None

    monkeypatch.setattr(os, "fork", fork)
    now = time.monotonic()
    parent._start_due()
    assert [number for number, _ in parent._running.values()] == [0]
    assert parent._due.keys() == {1}
    assert parent._due[1] > now


@pytest.mark.parametrize("ignored", [signal.SIGCHLD, signal.SIGHUP])
def test_a_process_is_replaced_whatever_signals_were_ignored_before(ignored: signal.Signals) -> None:
    """As nohup ignores the end of the terminal, which ends nothing then."""
    program = f"""
import os, signal
from pyshell.api.processes.parent import Parent
ended = []
def serve(number):
    if ended:
        os.kill(os.getppid(), signal.SIGTERM)
    else:
        os.kill(os.getppid(), {ignored.value})
        os._exit(7)
raise SystemExit(Parent(1, serve, ended.append, []).run())
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(ignored, signal.SIG_IGN),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "ended with status 7; another takes its place" in run.stderr
    assert run.returncode == 0


async def test_metrics_are_served_though_the_disk_is_full(tmp_path: Path) -> None:
    exchange = Exchange(1, tmp_path / "gone")
    told = Metric("things", "Things", "gauge")
    told.add_sample("things", {}, 3)
    [metric] = await exchange.of_all([told])
    assert [sample.value for sample in metric.samples] == [3]


def test_shared_counts_count_as_those_of_one_process_do() -> None:
    """Random operations, with few names and a moving clock."""
    draw = random.Random(7)
    alone, together, now = (OwnWindows(), OwnHoldings()), (SharedWindows(), SharedHoldings(3)), 100.0
    held: Counter[int] = Counter()
    for _ in range(5000):
        now += draw.random()
        who = draw.randrange(20)
        assert alone[0].window(who, now) == together[0].window(who, now)
        assert alone[0].count(who, now, 7) == together[0].count(who, now, 7)
        if draw.random() < 0.5:
            taken = {holdings.take(who, 4) for holdings in (alone[1], together[1])}
            assert len(taken) == 1
            held[who] += taken.pop()
        elif held[who]:
            held[who] -= 1
            for holdings in (alone[1], together[1]):
                holdings.give_back(who)
        assert alone[1].of(who) == together[1].of(who) == held[who]


def test_a_full_table_forgets_the_window_that_ends_first_but_no_share_in_use() -> None:
    table, windows, holdings = Table("names", 1), SharedWindows(), SharedHoldings(1)
    crowd = list(itertools.islice((name for name in itertools.count() if table.near(name) == table.near("home")), NEAR))
    for at, name in enumerate(crowd):
        windows.count(name, at, 60)
        assert holdings.take(name, 1)
    windows.count("home", 50.0, 60)
    assert windows.window(crowd[0], 50.0) is None
    assert all(windows.window(name, 50.0) for name in [*crowd[1:], "home"])
    assert not holdings.take("home", 1)
    holdings.give_back(crowd[5])
    assert holdings.take("home", 1)
    assert [holdings.of(name) for name in crowd] == [name != crowd[5] for name in crowd]
