"""/metrics: what it shows, who may see it, and that it delays nobody."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from socket import create_connection
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route

from pyshell import metrics as process_metrics
from pyshell.api.metrics import RENDERED_FOR_SECONDS, Metrics
from pyshell.api.routes import routes
from pyshell.local.machine import free_port
from pyshell.settings import Settings
from pyshell.worker.metrics import MAX_CLIENTS, served
from tests.conftest import Connection
from tests.http_fixtures import OrganizationClient, running_server
from tests.test_plans import Plans, rows_scanned
from tests.worker_fixtures import site

REQUESTS = "http_server_request_duration_seconds_count"
ORGANIZATIONS = 1_000


def scrape(url: str, **headers: str) -> dict[str, float]:
    """The samples of /metrics, once renderings from before this call have expired."""
    time.sleep(RENDERED_FOR_SECONDS + 0.1)
    return samples_of(url, **headers)


def samples_of(url: str, **headers: str) -> dict[str, float]:
    response = httpx.get(f"{url}/metrics", headers=headers, timeout=20)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert list(text_string_to_metric_families(response.text))
    samples = [line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#")]
    assert len({name for name, _ in samples}) == len(samples)
    return {name: float(value) for name, value in samples}


def test_metrics_count_requests_by_route_and_show_the_queue(server: str, client: OrganizationClient) -> None:
    client.get("/batch-lookups/01890000-0000-7000-8000-000000000000")
    client.get("/no-such-address")
    samples = scrape(server)
    assert samples[f'{REQUESTS}{{method="GET",route="/batch-lookups/{{job_id}}",status="404"}}'] >= 1
    assert samples[f'{REQUESTS}{{method="GET",route="none",status="404"}}'] >= 1
    assert samples["batch_lookups_upstream_available"] == 1
    assert samples["batch_lookups_db_up"] == 1
    assert abs(samples["batch_lookups_db_clock_offset_seconds"]) < 5
    assert not [name for name in samples if "01890000" in name]


def test_no_path_creates_a_series_of_its_own(http_settings: Settings) -> None:
    templates = [route.path for route in routes if isinstance(route, Route)]
    parts = {part for template in templates for part in re.split(r"[/{}]", template)} - {""}
    values = [*sorted(parts)[::12], *"aeo-", "%7B", "%2F", "%2e%2e", "{job_id}", "%00", "é"]
    with running_server(http_settings) as url, httpx.Client(base_url=url) as anyone:
        for template in templates:
            for value in values if "{" in template else ("",):
                anyone.request("PROPFIND" if value == "o" else "GET", re.sub(r"\{\w+\}", value, template) + value)
                anyone.get(f"/{value}{template}")
        seen = set(re.findall(r'route="([^"]*)"', " ".join(scrape(url))))
    assert seen <= {*templates, "none"}


def test_counters_are_those_of_all_processes(shared_database_url: str, shared_owner: Connection) -> None:
    [organization_id] = shared_owner.execute("select api.create_organization(%s)", [str(uuid4())]).fetchone() or ()
    shared_owner.execute("select api.update_settings('{\"lookups_per_second\": null}')")
    shared_owner.execute(
        "select api.create_batch_lookup(%s, %s)", [organization_id, json.dumps({"items": [site(f"site-{n}") for n in range(3)]})]
    )
    shared_owner.execute(
        """
        with c as (select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens
                     from api.claim_lookups(%(organization)s, 'w', 3))
        select api.record_lookups(%(organization)s, jobs, positions, tokens, '{200,200,404}', '{null,null,null}', '{"{}","{}",null}',
                                  '{null,null,null}', '{0.04,0.2,7}') from c
        """,
        {"organization": organization_id},
    )
    expected = {
        'batch_lookups_lookups_total{error_class="",outcome="completed"}': 2,
        'batch_lookups_lookups_total{error_class="not_found",outcome="failed"}': 1,
        'batch_lookups_lookup_duration_seconds_bucket{le="0.05",outcome="completed"}': 1,
        'batch_lookups_lookup_duration_seconds_bucket{le="0.25",outcome="completed"}': 2,
        'batch_lookups_lookup_duration_seconds_bucket{le="+Inf",outcome="failed"}': 1,
        'batch_lookups_lookup_duration_seconds_sum{outcome="failed"}': 7,
        "batch_lookups_queue_wait_seconds_count": 3,
        'batch_lookups_jobs_total{status="completed"}': 1,
    }
    for completes_minutes in (False, True):
        if completes_minutes:
            shared_owner.execute("select app.complete_work_minutes('infinity')")
        with running_server(Settings(database_url=shared_database_url)) as url:
            samples = scrape(url)
            assert {name: samples[name] for name in expected} == expected


def test_without_a_database_the_metrics_of_the_process_are_there() -> None:
    with running_server(Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing")) as url:
        samples = scrape(url)
        assert samples["batch_lookups_db_up"] == 0
        assert samples["process_start_time_seconds"] > 0


def test_a_slow_database_does_not_delay_metrics(shared_database_url: str, shared_owner: Connection) -> None:
    [definition] = shared_owner.execute("select pg_get_functiondef('api.get_metrics'::regproc)").fetchone() or ()
    shared_owner.execute(
        "create or replace function api.get_metrics() returns json language plpgsql stable security definer"
        " as $$ begin perform pg_sleep(60); return null; end $$"
    )
    try:
        with running_server(Settings(database_url=shared_database_url)) as url:
            assert scrape(url)["batch_lookups_db_up"] == 0
    finally:
        shared_owner.execute(definition)


def test_a_token_guards_the_metrics_where_it_is_set(shared_database_url: str) -> None:
    with running_server(Settings(database_url=shared_database_url, metrics_token="the token of the scrapes")) as url:
        for header in ({}, {"authorization": "Bearer another"}, {"authorization": "the token of the scrapes"}):
            response = httpx.get(f"{url}/metrics", headers=header)
            assert (response.status_code, response.json()["code"]) == (401, "invalid_metrics_token")
            assert response.headers["www-authenticate"] == "Bearer"
        assert scrape(url, authorization="Bearer the token of the scrapes")["batch_lookups_db_up"] == 1


async def test_scrapes_at_the_same_time_share_one_rendering() -> None:
    asked = 0

    async def ask() -> bytes:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        raise TimeoutError

    metrics = Metrics()
    texts = await asyncio.gather(*(metrics.exposition(ask) for _ in range(50)))
    assert await metrics.exposition(ask) == texts[0]
    assert (asked, len(set(texts))) == (1, 1)


@pytest.fixture
def worker_url() -> Iterator[str]:
    settings = Settings(metrics_port=free_port(), metrics_token="the token of the scrapes")
    with served(settings, lambda: [process_metrics.gauge("worker_leases", "Items that it holds", 7)]):
        yield f"http://127.0.0.1:{settings.metrics_port}"


def test_a_worker_serves_its_own_metrics(worker_url: str) -> None:
    assert httpx.get(f"{worker_url}/metrics").status_code == 401
    assert httpx.get(f"{worker_url}/elsewhere").status_code == 404
    answer = httpx.get(f"{worker_url}/metrics", headers={"authorization": "Bearer the token of the scrapes"})
    assert "batch_lookups_worker_leases 7.0" in answer.text
    assert "process_cpu_seconds_total" in answer.text


def test_slow_clients_do_not_delay_the_metrics_of_a_worker() -> None:
    port = free_port()
    with served(Settings(metrics_port=port), list), ExitStack() as stack:
        slow = [stack.enter_context(create_connection(("127.0.0.1", port))) for _ in range(MAX_CLIENTS)]
        for client in slow:
            client.sendall(b"GET /metrics HTTP/1.1\r\nX-Endless: ")
        assert httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
        assert slow[0].recv(1) == b"", "the oldest makes room"


def test_a_worker_starts_where_no_name_server_responds(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_for_name_servers(host: str) -> None:
        raise AssertionError(f"nobody needs the name of {host}")

    monkeypatch.setattr("socket.gethostbyaddr", wait_for_name_servers)
    settings = Settings(metrics_port=free_port())
    with served(settings, list):
        assert httpx.get(f"http://127.0.0.1:{settings.metrics_port}/metrics").status_code == 200


def test_a_thousand_organizations_cost_a_scrape_little(owner: Connection) -> None:
    """Each has work, was counted in the last minutes, and has much behind it: only what is open and recent is read."""
    owner.execute(
        """
        insert into app.organizations (id, name) select gen_random_uuid(), 'organization ' || n from generate_series(1, %s) n;
        """.replace("%s", str(ORGANIZATIONS)).encode()
    )
    owner.execute(
        """
        insert into app.organization_queue_state (organization_id, ready_at) select id, now() from app.organizations;
        insert into app.webhook_configs (organization_id, url, created_at, updated_at)
        select id, 'https://hooks.example.com/', now(), now() from app.organizations;
        insert into app.webhook_queue_state (organization_id, ready_at) select id, now() from app.organizations;
        insert into app.work_minutes (organization_id, minute, kind, outcome, recorder, items,
                                      latency_seconds, latency_buckets, wait_seconds, wait_buckets)
        select o.id, date_trunc('minute', now()) - n * interval '1 minute', 'lookup', 'completed', case when n < 3 then 1 else 0 end, 10, 1,
               array_fill(1, array[11]), 1, array_fill(1, array[10])
          from app.organizations o cross join generate_series(0, 30) n;
        """
    )
    plans = Plans(owner)
    started = time.perf_counter()
    rows, read = plans.run("select api.get_metrics()", {})
    seconds = time.perf_counter() - started
    [lookups] = [work for work in rows[0][0]["work"] if work["kind"] == "lookup"]
    assert (lookups["items"], lookups["latency_buckets"][0]) == (30 * ORGANIZATIONS, 3 * ORGANIZATIONS)
    assert rows_scanned(read, "work_minutes") <= 6 * ORGANIZATIONS + 1
    assert sum(rows_scanned(read, table) for table in ("webhook_deliveries", "lookup_queue_items", "batch_lookup_jobs")) <= ORGANIZATIONS
    assert seconds < 5


def test_organizations_whose_month_is_spent_cost_a_scrape_little(owner: Connection) -> None:
    """Each waits for the next month with a job, and has a month of usage behind it, which need not be read."""
    owner.execute(
        """
        insert into app.organizations (id, name, monthly_lookups)
        select gen_random_uuid(), 'organization ' || n, 0 from generate_series(1, 1000) n;
        insert into app.organization_queue_state (organization_id, ready_at) select id, now() + interval '1 day' from app.organizations;
        insert into public.batch_lookup_jobs (organization_id, id, total_items, report_id, created_at, updated_at)
        select id, gen_random_uuid(), 1, gen_random_uuid(), now() - interval '1 day', now() from app.organizations;
        insert into app.queued_jobs (organization_id, job_id, next_position, end_position, next_rank)
        select organization_id, id, 0, 1, 0 from public.batch_lookup_jobs;
        insert into public.lookup_usage (organization_id, day, job_id, lookups)
        select o.id, app.month_of(now()), gen_random_uuid(), 1 from app.organizations o cross join generate_series(1, 30) n;
        """
    )
    plans = Plans(owner)
    rows, read = plans.run("select api.get_metrics()", {})
    assert rows[0][0]["oldest_ready_age"] is None
    assert rows_scanned(read, "lookup_usage") == 0
    assert rows_scanned(read, "organizations") <= 2 * ORGANIZATIONS
    # One of them may look up more: its item is the oldest that is ready, and only its month is read.
    [served] = (
        owner.execute("update app.organizations set monthly_lookups = 31 where name = 'organization 7' returning id").fetchone() or ()
    )
    owner.execute("select app.mark_ready(%s, now())", [served])
    rows, read = plans.run("select api.get_metrics()", {})
    assert rows[0][0]["oldest_ready_age"] == pytest.approx(86400, abs=60)
    assert rows_scanned(read, "lookup_usage") == 30
