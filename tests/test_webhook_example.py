"""The example of a receiver, with a real worker that sends to it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx

from pyshell.settings import ROOT, Settings
from tests.http_fixtures import PEPPER, OrganizationClient, running_server, site
from tests.timed import wait_until


def test_a_receiver_gets_what_a_worker_looked_up(new_database: Callable[..., str]) -> None:
    settings = Settings(database_url=new_database(), api_key_pepper=PEPPER, webhooks_allow_private_networks=True)
    with running_server(settings) as url, OrganizationClient(url, settings.database_url) as client:
        secret = client.put(
            "/webhook-config", json={"url": "http://127.0.0.1:1/", "events": ["lookup.completed", "batch.completed"]}
        ).json()
        environment = {"DATABASE_URL": settings.database_url, "PORT": str(urlsplit(url).port), "WEBHOOKS_ALLOW_PRIVATE_NETWORKS": "true"}
        receiver = [sys.executable, str(ROOT / "examples" / "receive_webhooks.py"), "0"]
        with (
            running(receiver, {"WEBHOOK_SECRET": secret["signing_secret"]}) as heard,
            running([sys.executable, "-m", "pyshell", "worker"], environment),
        ):
            address = next(heard).split()[-1]
            client.put("/webhook-config", json={"url": address})
            assert httpx.post(address, content=b"{}").status_code == 401, "nobody else is believed"
            odd = {"webhook-id": "1", "webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,\xe9\xff"}
            assert answer_to(address, {"content-length": "2"} | odd, b"{}") == 401, "whatever the signature holds"
            assert answer_to(address, {"content-length": "99999999999"}, b"") == 413, "too much is not even read"
            job = client.submit(site("deal-001", webhook_custom_fields={"deal": 7}))
            lines = sorted([next(heard), next(heard)])
            wait_until(lambda: client.get("/webhook-deliveries", params={"status": "delivered"}).json()["total"] == 2)
        assert lines[0] == f"batch.completed {job['job_id']}\n"
        assert lines[1].startswith("lookup.completed deal-001 $")
        assert lines[1].endswith(" {'deal': 7}\n")


def answer_to(address: str, headers: dict[str, str], body: bytes) -> int:
    """The status of the answer to a POST, with whatever headers."""
    with closing(HTTPConnection(urlsplit(address).netloc, timeout=20)) as connection:
        connection.putrequest("POST", "/")
        for name, value in headers.items():
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(body)
        with connection.getresponse() as response:
            return response.status


@contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[Iterator[str]]:
    """A process, and the lines that it prints."""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout
        finally:
            process.terminate()
