"""The history of an item: its attempts, and what it waits for."""

from __future__ import annotations

import pytest

from pyshell.settings import Settings
from tests.conftest import Connection, is_cluster
from tests.http_fixtures import UNKNOWN_ID, Json, NewClient, OrganizationClient, look_up, site
from tests.timed import wait_until
from tests.upstream import FakeUpstream, Reply
from tests.worker_fixtures import Batches, check_invariants, fetch_value, running_worker


def path(job: Json, position: object = 0) -> str:
    return f"/batch-lookups/{job['job_id']}/items/{position}"


def test_an_item_shows_its_history(client: OrganizationClient, database: Connection) -> None:
    job = client.submit(site("deal-0"), site("deal-1"))
    look_up(database, job, 1, status=500)
    [listed, _] = client.get(f"/batch-lookups/{job['job_id']}/items").json()["items"]

    item = client.get(path(job)).json()

    assert list(item) == [*listed, "attempts", "waiting_for", "source"]
    assert item["source"] is None
    assert {name: item[name] for name in listed} == listed
    assert item["position"] == 0
    [attempt] = item["attempts"]
    assert attempt == {
        "attempt": 1,
        "outcome": "retry",
        "worker": "test",
        "latency_ms": None,
        "http_status": 500,
        "error_code": "upstream_error",
        "error_message": "The incentives service reported an error of its own (HTTP 500)",
        "recorded_at": attempt["recorded_at"],
    }
    waiting_for = item["waiting_for"]
    assert list(waiting_for) == ["reason", "until", "message"]
    assert waiting_for["reason"] == "retry_backoff"
    assert waiting_for["until"] > attempt["recorded_at"]

    look_up(database, job, 1)
    ended = client.get(path(job, 1)).json()
    assert (ended["status"], ended["attempts"], ended["waiting_for"]) == ("completed", [], None)


def test_an_item_shows_the_metadata_of_its_upload(client: OrganizationClient) -> None:
    rows = "Customer,Deal ID,Street,City,State,ZIP,Home Type,Devices\nKim,d-1,1 N Spring St,Los Angeles,CA,90012,RESIDENTIAL,1\n"
    job = client.post("/batch-lookups", content=rows, headers={"content-type": "text/csv"}).json()
    assert list(client.get(path(job)).json()["source"].items())[:2] == [("Customer", "Kim"), ("Deal ID", "d-1")]
    assert client.get(f"/batch-lookups/{job['job_id']}/items?q=KIM").json()["total"] == 1
    assert client.get(path(client.submit(site(metadata={"Stage": {"name": "Won"}})))).json()["source"] == {"Stage": {"name": "Won"}}


@pytest.mark.parametrize("position", ["1", "-1", "1e0", "9" * 20, "first", "%00"])
def test_an_item_that_is_not_there_is_not_found(client: OrganizationClient, position: str) -> None:
    response = client.get(path(client.submit(), position))
    assert (response.status_code, response.json()["code"]) == (404, "item_not_found")


def test_items_of_others_are_not_found(client: OrganizationClient, new_client: NewClient) -> None:
    job = client.submit()
    for response in (new_client().get(path(job)), client.get(path({"job_id": UNKNOWN_ID})), client.get(path({"job_id": "first"}))):
        assert (response.status_code, response.json()["code"]) == (404, "job_not_found")
    assert client.get(path(job), headers={"x-api-key": "leap_live_" + "0" * 40}).status_code == 401


def test_a_worker_reports_how_long_an_attempt_took(
    worker_settings: Settings, upstream: FakeUpstream, batches: Batches, owner: Connection
) -> None:
    upstream.plan("site-1", Reply(500, delay=0.2), Reply())
    job = batches.create(3)
    with running_worker(worker_settings):
        assert batches.wait(job) == "completed"
    rows = owner.execute("select position, outcome, http_status, worker, latency_ms from public.lookup_attempts")
    first, second = sorted(rows.fetchall(), key=lambda row: row[1], reverse=True)
    worker = fetch_value(owner, "select id from app.workers")
    assert (first[:4], second[:4]) == ((1, "retry", 500, worker), (1, "complete", 200, worker))
    assert first[4] >= 200


def test_items_that_succeed_at_once_write_no_attempts(worker_settings: Settings, batches: Batches, owner: Connection) -> None:
    batches.create(200)
    with running_worker(worker_settings):
        wait_until(lambda: batches.counts() == {"completed": 200}, batches.counts)
    check_invariants(owner)
    owner.execute("select pg_stat_force_next_flush()")
    wait_until(lambda: rows_written(owner, "public.lookup_queue_items") == 400)
    assert rows_written(owner, "public.lookup_attempts") == 0


def rows_written(connection: Connection, table: str) -> int:
    """As far as sessions have reported it to the statistics; on a cluster, for all shards."""
    written = "select n_tup_ins + n_tup_upd + n_tup_del from pg_stat_all_tables where relid = %s::regclass"
    if is_cluster(connection):
        of_shard = written.replace("%s", "'%s'")
        return int(fetch_value(connection, "select sum(result::bigint) from run_command_on_placements(%s, %s)", table, of_shard))
    return int(fetch_value(connection, written, table))
