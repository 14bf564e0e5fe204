"""Everything goes wrong, again and again for CHAOS_SECONDS (`make chaos`: ten minutes); then every item has ended, exactly once.

Workers are killed, and frozen past their leases; PostgreSQL crashes, its backends are terminated, it says that the disk is full, its
clock is another one than the workers'; connections go silent; a transaction holds back vacuum; batches come and are cancelled; and the
upstream misbehaves. A trigger keeps the history of every lease.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from pyshell.local.private_postgres import PrivatePostgres
from tests.conftest import Connection
from tests.tcp_proxy import Proxy, running_proxy
from tests.timed import wait_until
from tests.upstream import FakeUpstream, Reply
from tests.worker_fixtures import Batches, check_invariants, fetch_value, leases, start_worker_process, update_settings

SECONDS = float(os.environ.get("CHAOS_SECONDS", "10"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.randrange(1_000_000))))

HISTORY = """
    create table public.claims (job_id uuid, positions int4multirange, overlapping boolean);
    create function public.remember_claim() returns trigger language plpgsql as $$
    begin
        insert into public.claims
        select new.job_id, new.positions,
               exists (select from public.lookup_leases l
                        where l.job_id = new.job_id and l.lease_token <> new.lease_token and l.positions && new.positions);
        return null;
    end $$;
    create trigger remember after insert on public.lookup_leases for each row execute function public.remember_claim();
    create table public.history (item_id uuid, old_status text, new_status text, lease_expires_at timestamptz, has_expired boolean,
        mends boolean, at timestamptz default app.clock());
    create function public.remember() returns trigger language plpgsql as $$
    declare
        v_callers text;
    begin
        get diagnostics v_callers = pg_context;
        insert into public.history (item_id, old_status, new_status, lease_expires_at, has_expired, mends)
        values (new.id, old.status, new.status,
                (select l.expires_at from public.lookup_leases l where l.job_id = new.job_id and new.position <@ l.positions),
                v_callers like '%app.expire_leases%',
                old.status = 'failed' and old.error_code = 'lease_expired' and new.status = 'completed');
        return null;
    end $$;
    create trigger remember after update on public.lookup_queue_items for each row execute function public.remember();
    create or replace function app.clock() returns timestamptz language sql volatile return clock_timestamp() + interval '37 minutes';
"""
DISK_FULL = """
    create function public.disk_full() returns trigger language plpgsql as $$
    begin raise sqlstate '53100' using message = 'could not extend file: No space left on device'; end $$;
    create trigger disk_full before insert on public.incentive_report_sites execute function public.disk_full()"""
# What the history must not hold.
RULES = {
    "a lease expired before its time": "has_expired and at < lease_expires_at",
    "an item that had ended changed": "old_status in ('completed', 'failed') and not mends",
}


def misbehave(chance: random.Random) -> Reply:
    """Half of the answers are good."""
    if chance.random() < 0.5:
        return Reply(delay=chance.choice([0, 0, 0.01, 0.2]))
    return chance.choice(
        [
            Reply(500),
            Reply(503, "<html>Service Unavailable</html>"),
            Reply(429, headers={"Retry-After": "1"}),
            Reply(429, headers={"Retry-After": formatdate(time.time() + 1, usegmt=True)}),
            Reply(404, '{"error": "Program lookup failed - no utility found"}'),
            Reply(reset=True),
            Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", close=True),
            Reply(body='{"incentives": '),
            Reply(body="[1, 2]"),
            Reply(body='{"incentives": {"total_incentive_amount": "lots", "by_program": 7}, "utility": []}'),
            Reply(body='{"nul": "\\u0000"}'),
            Reply(body=b"\xff\xfe"),
            Reply(again=chance.random() * 0.02),
            Reply(delay=30),
            Reply(body=b'{"x": "' + b"x" * 10_000_000 + b'"}'),
        ]
    )


class Chaos:
    """The world of the workers, and everything that happens to it."""

    def __init__(self, postgres: PrivatePostgres, proxy: Proxy, folder: Path, upstream: FakeUpstream, chance: random.Random) -> None:
        self.postgres = postgres
        self.proxy = proxy
        self.chance = chance
        self.workers: list[subprocess.Popen[bytes]] = []
        self.batches: list[Batches] = []
        self.jobs: list[tuple[Batches, UUID]] = []
        self._folder = folder
        self._upstream = upstream

    def connect(self) -> Connection:
        return psycopg.connect(self.postgres.url(), autocommit=True, options="-c lock_timeout=2s")

    def start_worker(self) -> None:
        """The first one talks to PostgreSQL through the proxy."""
        url = self.postgres.url()
        if not self.workers:
            url = url.replace(f":{self.postgres.port}/", f":{self.proxy.port}/")
        self.workers.append(start_worker_process(url, self._upstream, self._folder / "worker.log"))

    def kill_a_worker(self) -> None:
        worker = self.workers.pop(self.chance.randrange(1, len(self.workers)))
        worker.kill()
        worker.wait()
        self.start_worker()

    def freeze_a_worker(self) -> None:
        worker = self.chance.choice(self.workers)
        worker.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(1.2, 2.5))
        worker.send_signal(signal.SIGCONT)

    def crash_postgresql(self) -> None:
        self.postgres.stop(immediately=True)
        time.sleep(self.chance.uniform(0, 0.5))
        self.postgres.start()

    def terminate_backends(self) -> None:
        with self.connect() as connection:
            connection.execute(
                """select pg_terminate_backend(pid) from pg_stat_activity
                    where application_name = 'batch-lookups worker' and random() < 0.7"""
            )

    def silence_connections(self) -> None:
        self.proxy.fall_silent()
        time.sleep(self.chance.uniform(0.5, 2.5))
        self.proxy.recover()

    def fill_the_disk(self) -> None:
        with self.connect() as connection:
            connection.execute(DISK_FULL)
        time.sleep(self.chance.uniform(0.2, 1))
        while True:
            with suppress(psycopg.OperationalError), self.connect() as connection:
                connection.execute("drop function public.disk_full cascade")
                return

    def hold_back_vacuum(self) -> None:
        with self.connect() as connection, connection.transaction():
            connection.execute("set transaction isolation level repeatable read")
            connection.execute("select count(*) from public.lookup_queue_items")
            time.sleep(self.chance.uniform(0.5, 2))

    def create_a_batch(self) -> None:
        batches = self.chance.choice(self.batches)
        with self.connect() as batches.owner:
            count = self.chance.choice([1, 10, 50, 200])
            self.jobs.append((batches, batches.create([f"batch-{len(self.jobs)}-{n}" for n in range(count)])))

    def cancel_a_batch(self) -> None:
        batches, job = self.chance.choice(self.jobs)
        with self.connect() as connection, suppress(psycopg.DatabaseError):
            connection.execute("select api.cancel_batch_lookup(%s, %s)", (batches.organization_id, job))

    def go_wrong(self) -> None:
        """Everything happens once, in any order, with more work in between."""
        events: list[Callable[[], None]] = [
            self.kill_a_worker,
            self.freeze_a_worker,
            self.terminate_backends,
            self.silence_connections,
            self.fill_the_disk,
            self.hold_back_vacuum,
            self.crash_postgresql,
        ]
        self.chance.shuffle(events)
        for event in events:
            with suppress(psycopg.OperationalError):
                event()
            with suppress(psycopg.OperationalError):
                self.create_a_batch()
                if self.chance.random() < 0.2:
                    self.cancel_a_batch()


@contextmanager
def chaos(postgres: PrivatePostgres, folder: Path, upstream: FakeUpstream, chance: random.Random) -> Iterator[Chaos]:
    with running_proxy(postgres.port) as proxy:
        world = Chaos(postgres, proxy, folder, upstream, chance)
        with world.connect() as owner:
            update_settings(
                owner,
                lookups_per_second=None,
                max_in_flight=20,
                lease_seconds=1,
                max_retries=8,
                retry_backoff_seconds=0.01,
                lookup_timeout_seconds=0.7,
                max_response_bytes=65536,
            )
            owner.execute(HISTORY.encode())
            world.batches = [Batches(owner, f"organization {n}") for n in range(3)]
        for _ in range(3):
            world.start_worker()
        try:
            yield world
        finally:
            for worker in world.workers:
                worker.kill()
                worker.wait()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.long
def test_whatever_happens_every_item_ends_exactly_once(own_postgres: PrivatePostgres, tmp_path: Path, upstream: FakeUpstream) -> None:
    print(f"CHAOS_SEED={SEED}")
    chance = random.Random(SEED)
    upstream.improvise = lambda: misbehave(chance)
    with chaos(own_postgres, tmp_path, upstream, chance) as world:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            world.go_wrong()
        upstream.improvise = None

        with world.connect() as owner:
            open_jobs = "select count(*) from public.batch_lookup_jobs where completed_at is null"
            wait_until(
                lambda: fetch_value(owner, open_jobs) == 0 and leases(owner) == 0,
                lambda: owner.execute("select status, count(*) from api.items group by 1").fetchall(),
                patience=60,
            )
            # One that was started a moment ago does not listen to signals yet.
            names = "select id from app.workers"
            pids = {str(worker.pid) for worker in world.workers}
            wait_until(lambda: pids <= {name.split("-")[-2] for (name,) in owner.execute(names)})
            for worker in world.workers:
                worker.send_signal(signal.SIGTERM)
            assert [worker.wait(30) for worker in world.workers] == [0] * len(world.workers)
            check_invariants(owner)
            assert leases(owner) == 0
            check_history(owner, upstream)


def check_history(owner: Connection, upstream: FakeUpstream) -> None:
    assert owner.execute("select * from public.claims where overlapping").fetchall() == [], "a lease began while another one was there"
    for rule, query in RULES.items():
        assert owner.execute(f"select * from public.history where {query}".encode()).fetchall() == [], rule
    ends = (
        "select item_id from public.history where new_status in ('completed', 'failed') and not mends group by item_id having count(*) <> 1"
    )
    assert owner.execute(ends.encode()).fetchall() == [], "an item ended twice"
    claims: dict[str, int] = dict(
        owner.execute(
            """select i.reference_id, count(c.job_id)
                 from public.lookup_queue_items i left join public.claims c on c.job_id = i.job_id and i.position <@ c.positions
                group by 1"""
        ).fetchall()
    )
    assert {name: seen for name, seen in upstream.times_seen().items() if seen > claims[name]} == {}, "looked up without a claim"
