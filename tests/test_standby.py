"""On a hot standby, everything can be read, nothing is written or looked up, and a promotion needs no restart."""

from __future__ import annotations

import time

import psycopg

from pyshell.local.private_postgres import PrivatePostgres
from pyshell.settings import Settings
from tests.http_fixtures import PEPPER, OrganizationClient, running_server, site
from tests.standby import promote, running_standby, wait_for_replay
from tests.timed import wait_until
from tests.upstream import FakeUpstream
from tests.worker_fixtures import fetch_value, running_worker

READ = ["/batch-lookups", "/batch-lookups/{job}", "/batch-lookups/{job}/items", "/batch-lookups/{job}/results", "/incentive-reports", "/me"]


def test_a_standby_is_read_and_takes_writes_once_it_is_promoted(own_postgres: PrivatePostgres, upstream: FakeUpstream) -> None:
    with running_standby(own_postgres, own_postgres.folder.parent / "standby") as standby:
        settings = Settings(database_url=standby.url(), api_key_pepper=PEPPER, incentives_api_url=upstream.url)
        with running_server(settings) as url, OrganizationClient(url, own_postgres.url()) as client:
            with running_server(Settings(database_url=own_postgres.url(), api_key_pepper=PEPPER)) as primary:
                client.base_url = primary
                job = client.submit()["job_id"]
            client.base_url = url
            wait_for_replay(own_postgres, standby)

            assert {path: client.get(path.format(job=job)).status_code for path in READ} == dict.fromkeys(READ, 200)
            writes = [
                client.post("/batch-lookups", json=[site()]),
                client.post(f"/batch-lookups/{job}/cancel"),
                client.post("/api-keys", json={"name": "another"}),
                client.put("/webhook-config", json={"url": "https://example.com/"}),
                client.get("/readyz"),
            ]
            for response in writes:
                assert (response.status_code, response.json()["code"]) == (503, "database_read_only"), response.url
                assert response.headers["retry-after"] == "1"

            with running_worker(settings):
                time.sleep(0.5)
                assert (upstream.requests, client.get(f"/batch-lookups/{job}").json()["status"]) == ([], "pending")
                own_postgres.stop(immediately=True)
                promote(standby)
                wait_until(lambda: client.get(f"/batch-lookups/{job}").json()["status"] == "completed")
            assert client.post("/batch-lookups", json=[site()]).status_code == 201
            assert client.get("/readyz").status_code == 200
        with psycopg.connect(standby.url(), autocommit=True) as connection:
            assert fetch_value(connection, "select count(*) from api.check_invariants()") == 0
