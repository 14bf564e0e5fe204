"""Everything goes wrong again and again for CHAOS_SECONDS (`make chaos`: ten minutes); then every item must have ended exactly once, with
its own answer.

Workers are killed, and frozen past their leases. PostgreSQL crashes, its backends are terminated, it reports a full disk, its clock
differs from the workers'; it is replaced by a standby, and by a database restored from its dump. One worker is behind PgBouncer, and one
behind a network that goes silent. Transactions lock rows of the queue, and hold back vacuum. Batches are uploaded and cancelled. One
organization uploads only what fails, and tries to access others' jobs. And the upstream misbehaves most of the time. A trigger records the
history of every lease, and the upstream which request each of its responses was for.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pyshell.local.private_postgres import DATABASE, PrivatePostgres
from tests.conftest import Connection
from tests.standby import promote, running_standby, wait_for_replay
from tests.tcp_proxy import running_proxy
from tests.test_neighbours import HELD_BY_A_NEIGHBOUR, HELD_BY_AN_OPERATOR
from tests.test_pgbouncer import PROGRAM, pgbouncer, url_of
from tests.timed import wait_until
from tests.upstream import FakeUpstream, Reply, result
from tests.worker_fixtures import Batches, check_invariants, fetch_value, leases, start_worker_process, update_settings

SECONDS = float(os.environ.get("CHAOS_SECONDS", "10"))
# The first organization's reference ids.
HOSTILE = "hostile-"
IS_LONG = SECONDS >= 60
# What the upstream is like. Where it is well, many organizations have small batches, and what came of them is recorded together.
WEATHERS = {"odd": [1, 10, 1000, 5000], "well": [10, 100, 1000]} if IS_LONG else {"odd": [1, 10, 50, 200]}
ORGANIZATIONS = {"odd": 4, "well": 40}
# Nothing listens there.
NOWHERE = 1
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
        late boolean, at timestamptz default app.clock());
    create function public.remember() returns trigger language plpgsql as $$
    declare
        v_callers text;
    begin
        get diagnostics v_callers = pg_context;
        insert into public.history (item_id, old_status, new_status, lease_expires_at, has_expired, late)
        values (new.id, old.status, new.status,
                (select l.expires_at from public.lookup_leases l where l.job_id = new.job_id and new.position <@ l.positions),
                v_callers like '%app.expire_leases%',
                old.status = 'failed' and old.error_code in ('lease_expired', 'job_cancelled') and new.status = 'completed');
        return null;
    end $$;
    create trigger remember after update on public.lookup_queue_items for each row execute function public.remember();
    create or replace function app.clock() returns timestamptz language sql volatile return clock_timestamp() + interval '37 minutes';
"""
TERMINATE = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'batch-lookups worker' and random() < %s"
DISK_FULL = """
    create function public.disk_full() returns trigger language plpgsql as $$
    begin raise sqlstate '53100' using message = 'could not extend file: No space left on device'; end $$;
    create trigger disk_full before insert on public.incentive_report_sites execute function public.disk_full()"""
# What the history must not contain.
RULES = {
    "a lease expired before its time": "has_expired and at < lease_expires_at",
    "an item that had ended changed": "old_status in ('completed', 'failed') and not late",
}


class Provider:
    """The upstream. `good` is the share of its good responses, of which the hostile organization gets none until it `is_well`.

    `given` has the reference id that each response was for, by the number that is its `customer_id`; `seen` counts the requests.
    """

    def __init__(self, chance: random.Random, is_well: bool) -> None:
        self.is_well = is_well
        self.good = 0.5
        self.given: dict[int, str] = {}
        self.seen: Counter[str] = Counter()
        self._chance = chance

    def answer(self, request: dict[str, Any]) -> Reply:
        reference_id = request["reference_id"]
        self.seen[reference_id] += 1
        if self.is_well:
            return Reply(body=self._body(request))
        if self._chance.random() < self.good and not reference_id.startswith(HOSTILE):
            return Reply(body=self._body(request), delay=self._chance.choice([0, 0, 0.01, 0.2]))
        if self._chance.random() < 0.05:
            return self._chance.choice(
                [
                    Reply(429, headers={"Retry-After": "1"}),
                    Reply(429, headers={"Retry-After": formatdate(time.time() + 1, usegmt=True)}),
                    Reply(delay=30),
                    Reply(body=b'{"x": "' + b"x" * 10_000_000 + b'"}'),
                ]
            )
        return self._chance.choice(
            [
                Reply(500),
                Reply(503, "<html>Service Unavailable</html>"),
                Reply(404, '{"error": "Program lookup failed - no utility found"}'),
                Reply(reset=True),
                Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", close=True),
                Reply(raw=b"\x16\x03\x01 this is not HTTP\r\n\r\n", close=True),
                Reply(body='{"incentives": '),
                Reply(body="[1, 2]"),
                Reply(body='{"nul": "\\u0000"}'),
                Reply(body=b"\xff\xfe"),
                Reply(body=self._body(request, incentives={"total_incentive_amount": "lots", "by_program": 7}, utility=[])),
                Reply(body=self._body(request), again=self._chance.random() * 0.02),
                Reply(body=self._body({"reference_id": "of-somebody-else"})),
                Reply(body=self._body(request, without="reference_id")),
            ]
        )

    def _body(self, request: dict[str, Any], without: str | None = None, **odd: Any) -> str:
        number = len(self.given)
        self.given[number] = request["reference_id"]
        return json.dumps({name: value for name, value in (result(request) | {"customer_id": number} | odd).items() if name != without})


class World:
    """The environment of the workers, and what happens to it wherever the database is. `ways` are the URLs by which workers reach it."""

    # Errors that an event may get because of another one, or of itself.
    trouble: tuple[type[Exception], ...] = (psycopg.OperationalError,)

    def __init__(self, folder: Path, upstream: FakeUpstream, provider: Provider, chance: random.Random, weather: str) -> None:
        self.chance = chance
        self.weather = weather
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.ways: dict[str, str] = {}
        self.batches: list[Batches] = []
        self.jobs: list[tuple[Batches, UUID]] = []
        self._folder = folder
        self._upstream = upstream
        self._provider = provider

    def url(self) -> str:
        raise NotImplementedError

    def events(self) -> list[Callable[[], None]]:
        return [
            self.kill_a_worker,
            self.freeze_a_worker,
            self.terminate_backends,
            self.hold_back_vacuum,
            self.hold_rows,
            self.get_at_anothers_job,
        ]

    def connect(self) -> Connection:
        return psycopg.connect(self.url(), autocommit=True, options="-c lock_timeout=2s")

    def prepare(self, owner: Connection) -> None:
        update_settings(
            owner,
            lookups_per_second=None,
            max_in_flight=100 if IS_LONG else 20,
            lease_seconds=1,
            max_retries=8,
            retry_backoff_seconds=0.01,
            lookup_timeout_seconds=0.7,
            max_response_bytes=65536,
            max_open_items=15_000,
        )
        self.batches = [Batches(owner, f"organization {n}") for n in range(ORGANIZATIONS[self.weather])]

    def start_workers(self) -> None:
        for way in self.ways:
            self._start_worker(way)

    def stop_workers(self) -> None:
        for worker in self.workers.values():
            worker.kill()
            worker.wait()

    def _start_worker(self, way: str) -> None:
        self.workers[way] = start_worker_process(self.ways[way], self._upstream, self._folder / "worker.log")

    def kill_a_worker(self) -> None:
        way = self.chance.choice(list(self.workers))
        self.workers[way].kill()
        self.workers[way].wait()
        self._start_worker(way)

    def freeze_a_worker(self) -> None:
        worker = self.chance.choice(list(self.workers.values()))
        worker.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(1.2, 2.5))
        worker.send_signal(signal.SIGCONT)

    def terminate_backends(self) -> None:
        with self.connect() as connection:
            connection.execute(TERMINATE, [0.7])

    def hold_back_vacuum(self) -> None:
        with self.connect() as connection, connection.transaction():
            connection.execute("set transaction isolation level repeatable read")
            connection.execute("select count(*) from public.lookup_queue_items")
            time.sleep(self.chance.uniform(0.5, 2))

    def hold_rows(self) -> None:
        """As a transaction does that was left open."""
        query = self.chance.choice([*HELD_BY_A_NEIGHBOUR.values(), *HELD_BY_AN_OPERATOR.values()])
        with psycopg.connect(self.url(), options="-c lock_timeout=2s") as connection:
            with suppress(psycopg.ProgrammingError):
                connection.execute(query.encode(), {"organization": self.chance.choice(self.batches).organization_id})
            time.sleep(self.chance.uniform(0.5, 2))
            connection.rollback()

    def create_a_batch(self) -> None:
        batches = self.chance.choice(self.batches)
        with self.connect() as batches.owner:
            count = self.chance.choice(WEATHERS[self.weather])
            prefix = HOSTILE if batches is self.batches[0] else "site-"
            try:
                job = batches.create([f"{prefix}{uuid.uuid4().hex[:12]}-{n}" for n in range(count)])
            except psycopg.DatabaseError as refusal:
                # As callers are asked to, it leaves the existing work some time.
                if "too_many_open_items" not in (refusal.diag.message_detail or ""):
                    raise
            else:
                self.jobs.append((batches, job))

    def get_at_anothers_job(self) -> None:
        hostile = self.batches[0].organization_id
        others = [job for batches, job in self.jobs if batches.organization_id != hostile]
        with self.connect() as connection:
            for job in self.chance.sample(others, min(len(others), 5)):
                for function in ("cancel_batch_lookup", "get_batch_lookup", "retry_batch_lookup"):
                    with pytest.raises(psycopg.DatabaseError) as refusal:
                        connection.execute(f"select api.{function}(%s, %s)".encode(), [hostile, job])
                    if isinstance(refusal.value, self.trouble):
                        raise refusal.value
                    assert "Batch job not found" in str(refusal.value)

    def cancel_a_batch(self) -> None:
        batches, job = self.chance.choice(self.jobs)
        with self.connect() as connection, suppress(psycopg.DatabaseError):
            connection.execute("select api.cancel_batch_lookup(%s, %s)", (batches.organization_id, job))

    def go_wrong(self) -> None:
        """Every event happens once, in random order, with more work in between."""
        events = self.events()
        self.chance.shuffle(events)
        for event in events:
            self._provider.good = self.chance.choice([0.5, 0.9, 0.99, 1])
            with suppress(*self.trouble):
                event()
            with suppress(*self.trouble):
                for _ in range(ORGANIZATIONS[self.weather] // 4):
                    self.create_a_batch()
                if self.chance.random() < 0.2:
                    self.cancel_a_batch()

    def go_wrong_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.go_wrong()
            # They are counted; an hour of them would fill the memory.
            self._upstream.requests.clear()

    def stop_workers_gracefully(self, names: Callable[[], Iterable[str]]) -> None:
        """`names`: those of the workers that have sent a heartbeat. One that has just started does not handle signals yet."""
        workers = list(self.workers.values())
        pids = {str(worker.pid) for worker in workers}
        wait_until(lambda: pids <= {name.split("-")[-2] for name in names()})
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        assert [worker.wait(30) for worker in workers] == [0] * len(workers)


class Chaos(World):
    """The world where one PostgreSQL has everything. `postgres`: the one that the workers work on now."""

    def __init__(
        self,
        postgres: PrivatePostgres,
        folder: Path,
        upstream: FakeUpstream,
        provider: Provider,
        chance: random.Random,
        weather: str,
        resources: ExitStack,
    ) -> None:
        super().__init__(folder, upstream, provider, chance, weather)
        self.postgres = postgres
        self._resources = resources
        self._standbys = 0
        # Whichever cluster takes its place, workers find it at the same port.
        self._front, self._network = (resources.enter_context(running_proxy(postgres.port)) for _ in range(2))
        self.ways = {"directly": self._url_at(self._front.port), "by the network": self._url_at(self._network.port)}
        if PROGRAM is not None:
            pooler = resources.enter_context(pgbouncer(postgres, self.ways["directly"], "session"))
            self.ways["through a pooler"] = url_of(pooler)

    def _url_at(self, port: int) -> str:
        return self.postgres.url().replace(f":{self.postgres.port}/", f":{port}/")

    def url(self) -> str:
        return self.postgres.url()

    def events(self) -> list[Callable[[], None]]:
        replacements = [self.promote_a_standby, self.restore_a_dump]
        return [
            *super().events(),
            self.silence_connections,
            self.fill_the_disk,
            self.crash_postgresql,
            # Each takes some seconds.
            *(replacements if IS_LONG else [self.chance.choice(replacements)]),
        ]

    def crash_postgresql(self) -> None:
        self.postgres.stop(immediately=True)
        time.sleep(self.chance.uniform(0, 0.5))
        self.postgres.start()

    def promote_a_standby(self) -> None:
        """PostgreSQL crashes permanently, and a synchronous standby takes its place."""
        self._standbys += 1
        folder = self.postgres.folder.with_name(f"standby {self._standbys}")
        standby = self._resources.enter_context(running_standby(self.postgres, folder))
        with self.connect() as connection:
            connection.execute("alter system set synchronous_standby_names = '*'")
            connection.execute("select pg_reload_conf()")
        self.create_a_batch()
        wait_for_replay(self.postgres, standby)
        self.postgres.stop(immediately=True)
        promote(standby)
        # Its files are in memory, and an hour has hundreds of them.
        shutil.rmtree(self.postgres.data)
        self.postgres = standby
        with self.connect() as connection:
            # It has no standby itself, but may have the setting from its primary.
            connection.execute("alter system reset synchronous_standby_names")
            connection.execute("select pg_reload_conf()")
        self._turn_to(standby.port)

    def restore_a_dump(self) -> None:
        """The database is replaced by one restored from its dump."""
        self._turn_to(NOWHERE)
        dump = self._folder / "dump"
        programs = self.postgres.installation.bin
        subprocess.run([programs / "pg_dump", "--format=custom", "--file", dump, self.postgres.url()], check=True)
        with psycopg.connect(self.postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(f"drop database {DATABASE} with (force)")
            connection.execute(f"create database {DATABASE} template template0")
        subprocess.run([programs / "pg_restore", "--dbname", self.postgres.url(), dump], check=True)
        self._turn_to(self.postgres.port)

    def _turn_to(self, port: int) -> None:
        for proxy in (self._front, self._network):
            proxy.target = port
            proxy.cut()
        with self.connect() as connection:
            connection.execute(TERMINATE, [1])

    def silence_connections(self) -> None:
        self._network.fall_silent()
        time.sleep(self.chance.uniform(0.5, 2.5))
        self._network.recover()

    def fill_the_disk(self) -> None:
        with self.connect() as connection:
            connection.execute(DISK_FULL)
        time.sleep(self.chance.uniform(0.2, 1))
        while True:
            with suppress(psycopg.OperationalError), self.connect() as connection:
                connection.execute("drop function public.disk_full cascade")
                return


@contextmanager
def chaos(
    postgres: PrivatePostgres, folder: Path, upstream: FakeUpstream, provider: Provider, chance: random.Random, weather: str
) -> Iterator[Chaos]:
    with ExitStack() as resources:
        world = Chaos(postgres, folder, upstream, provider, chance, weather, resources)
        with world.connect() as owner:
            world.prepare(owner)
            owner.execute(HISTORY.encode())
        world.start_workers()
        resources.callback(world.stop_workers)
        yield world


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.long
@pytest.mark.parametrize("weather", WEATHERS)
def test_whatever_happens_every_item_ends_exactly_once(
    own_postgres: PrivatePostgres, tmp_path: Path, upstream: FakeUpstream, weather: str
) -> None:
    print(f"CHAOS_SEED={SEED}")
    chance = random.Random(SEED)
    provider = Provider(random.Random(SEED), is_well=weather == "well")
    upstream.improvise = provider.answer
    with chaos(own_postgres, tmp_path, upstream, provider, chance, weather) as world:
        world.go_wrong_for(SECONDS)
        amid_faults = provider.seen.total()
        provider.is_well = True

        with world.connect() as owner:
            wait_for_the_end(owner)
            world.stop_workers_gracefully(lambda: [name for (name,) in owner.execute("select id from app.workers")])
            check_invariants(owner)
            assert leases(owner) == 0
            check_history(owner, provider)
            lookups = f"{provider.seen.total()} lookups, {amid_faults} of them amid faults"
            print(f"{lookups}, of {len(provider.seen)} items in {len(world.jobs)} batches")


def wait_for_the_end(owner: Connection, patience: float = 60) -> None:
    """However long it takes, as long as items end."""
    open_items = "select coalesce(sum(total_items - processed_items), 0) from public.batch_lookup_jobs where completed_at is null"
    left = fetch_value(owner, open_items)
    while left or leases(owner):
        wait_until(
            lambda: fetch_value(owner, open_items) < left or not (left or leases(owner)),  # noqa: B023
            lambda: fetch_value(owner, "select api.get_queue_health()"),
            patience=patience,
        )
        left = fetch_value(owner, open_items)


def check_history(owner: Connection, provider: Provider) -> None:
    assert owner.execute("select * from public.claims where overlapping").fetchall() == [], "a lease began while another one was there"
    for rule, query in RULES.items():
        assert owner.execute(f"select * from public.history where {query}".encode()).fetchall() == [], rule
    ends = (
        "select item_id from public.history where new_status in ('completed', 'failed') and not late group by item_id having count(*) <> 1"
    )
    assert owner.execute(ends.encode()).fetchall() == [], "an item ended twice"
    claims: dict[str, int] = dict(
        owner.execute(
            """with claimed as (
                   select c.job_id, n.position, count(*) as times
                     from public.claims c, unnest(c.positions) r, generate_series(lower(r), upper(r) - 1) n (position)
                    group by 1, 2)
               select i.reference_id, coalesce(sum(c.times), 0)
                 from public.lookup_queue_items i left join claimed c on c.job_id = i.job_id and c.position = i.position
                group by 1"""
        ).fetchall()
    )
    assert {name: seen for name, seen in provider.seen.items() if seen > claims[name]} == {}, "looked up without a claim"
    check_answers(owner, provider)


def check_answers(owner: Connection, provider: Provider) -> None:
    numbers = (
        "select i.reference_id, (app.item_result(row(i.*)::public.lookup_queue_items) ->> 'customer_id')::integer"
        " from public.lookup_queue_items i where i.status = 'completed'"
    )
    answers = owner.execute(numbers.encode()).fetchall()
    assert [name for name, number in answers if provider.given[number] != name] == [], "an item has another's answer"
