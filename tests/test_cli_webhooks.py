"""`batch-lookups webhooks` and `batch-lookups keys`."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import standardwebhooks

from batch_lookups import Client
from batch_lookups.cli import webhooks
from tests.cli_fixtures import Cli, Service
from tests.conftest import Connection
from tests.webhook_receiver import FakeReceiver, fake_receiver


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with fake_receiver() as receiver:
        yield receiver


def set_up(cli: Cli, receiver: FakeReceiver) -> str:
    """The signing secret of webhooks that go to the receiver."""
    done = cli.run("webhooks", "set", "--url", receiver.url, "--event", "batch.completed", "--event", "lookup.failed", "--bundle")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_webhooks_are_set_up_tested_and_resent(cli: Cli, receiver: FakeReceiver) -> None:
    assert "No webhooks are sent" in cli.run("webhooks", "show").stdout
    secret = set_up(cli, receiver)
    assert secret.startswith("whsec_")
    config = json.loads(cli.run("webhooks", "show", "--json").stdout)
    assert (config["url"], sorted(config["events"]), config["bundle_items"]) == (receiver.url, ["batch.completed", "lookup.failed"], True)
    assert secret not in cli.run("webhooks", "show").stdout
    assert cli.run("webhooks", "set").returncode == 2

    tried = cli.run("webhooks", "test")
    assert (tried.returncode, tried.stdout.split(",")[0]) == (0, "delivered: HTTP 204")
    receiver.status = 500
    assert cli.run("webhooks", "test").returncode == 1
    deliveries = json.loads(cli.run("webhooks", "deliveries", "--json").stdout)
    assert [delivery["last_http_status"] for delivery in deliveries] == [500, 204]
    assert cli.run("webhooks", "resend", deliveries[1]["id"]).stdout == "webhook.test is pending again\n"
    assert "(webhook_delivery_not_found)" in cli.run("webhooks", "resend", "5a8b54ab-0b0c-4d3e-9d8c-3f1f6e0f3c11").stderr
    assert cli.run("webhooks", "recover", "2020-01-01T00:00:00Z").stdout.endswith("pending again\n")

    rotated = cli.run("webhooks", "secret", "--overlap", "60")
    assert rotated.stdout.startswith("whsec_")
    assert rotated.stdout.strip() != secret
    assert cli.run("webhooks", "set", "--disable", "--json").returncode == 0
    assert json.loads(cli.run("webhooks", "show", "--json").stdout)["enabled"] is False


def test_the_outcome_of_a_message_is_given_in_words(cli: Cli, receiver: FakeReceiver) -> None:
    set_up(cli, receiver)
    receiver.status, receiver.body = 500, b"out of\n  \x1b[31morder"
    failed = cli.run("webhooks", "test")
    assert failed.stdout.startswith("not delivered: HTTP 500, ")
    assert failed.stderr == "response: out of \ufffd[31morder\n"
    assert json.loads(cli.run("webhooks", "test", "--json").stdout)["http_status"] == 500
    cli.run("webhooks", "set", "--url", "http://127.0.0.1:1/")
    assert cli.run("webhooks", "test").stdout.startswith("not delivered: no connection, or it was lost, ")
    first, _, third = cli.run("webhooks", "deliveries").stdout.splitlines()[1:]
    assert first.endswith("  no connection, or it was lost")
    assert third.endswith("  HTTP 500")


def test_more_deliveries_are_listed_than_the_service_gives_at_once(cli: Cli, receiver: FakeReceiver, shared_owner: Connection) -> None:
    set_up(cli, receiver)
    cli.run("webhooks", "test")
    shared_owner.execute(
        """
        insert into app.webhook_deliveries (organization_id, id, event, status, data, created_at, ended_at)
        select organization_id, gen_random_uuid(), event, status, data, created_at - make_interval(secs => n), ended_at
          from (select * from app.webhook_deliveries order by created_at desc limit 1) as last, generate_series(1, 249) as n
        """
    )
    for asked, came in ((230, 230), (300, 250), (3, 3)):
        lines = cli.run("webhooks", "deliveries", "--limit", str(asked), "--ndjson").stdout.splitlines()
        assert len({json.loads(line)["id"] for line in lines}) == len(lines) == came


def test_a_delivery_is_shown_with_its_attempts_and_their_answers(cli: Cli, receiver: FakeReceiver) -> None:
    set_up(cli, receiver)
    receiver.status, receiver.body = 500, b"out of\n  \x1b[31morder"
    cli.run("webhooks", "test")
    [found] = json.loads(cli.run("webhooks", "deliveries", "--json").stdout)
    told = cli.run("webhooks", "delivery", found["id"]).stdout
    assert "\nevent     webhook.test\nstatus    failed\njob       -\n" in told
    header, attempt = told.splitlines()[-2:]
    assert header.split() == ["ATTEMPT", "TRIED", "(UTC)", "MS", "ANSWER", "TEXT"]
    assert attempt.split()[0] == "1"
    assert attempt.endswith("  HTTP 500  out of \ufffd[31morder")
    assert json.loads(cli.run("webhooks", "delivery", found["id"], "--json").stdout)["body"]["type"] == "webhook.test"
    assert "(webhook_delivery_not_found)" in cli.run("webhooks", "delivery", "5a8b54ab-0b0c-4d3e-9d8c-3f1f6e0f3c11").stderr


def test_webhooks_are_deleted_and_their_fields_reset(cli: Cli, receiver: FakeReceiver) -> None:
    set_up(cli, receiver)

    def fields(*options: str) -> object:
        return json.loads(cli.run("webhooks", "set", *options, "--json").stdout)["field_names"]

    assert fields("--field", "deal_id", "--field", "owner") == ["deal_id", "owner"]
    assert fields("--all-fields") is None
    assert cli.run("webhooks", "set", "--all-fields", "--field", "owner").returncode == 2
    assert cli.run("webhooks", "delete", stdin=b"n\n").returncode == 130
    assert cli.run("webhooks", "delete", "--yes").stdout == "Webhook config deleted\n"
    assert "No webhooks are sent" in cli.run("webhooks", "show").stdout


def test_hints_are_about_the_command(cli: Cli, receiver: FakeReceiver) -> None:
    for words in (("test",), ("recover", "2020-01-01"), ("secret",)):
        hint = cli.run("webhooks", *words).stderr.splitlines()[-1]
        assert "batch-lookups webhooks set " in hint
        assert "PUT" not in hint
    set_up(cli, receiver)
    assert "error: --url must be an HTTPS URL " in cli.run("webhooks", "set", "--url", "crm.example.com").stderr
    header, row = cli.run("webhooks", "show").stdout.splitlines()
    assert header.index("FAILING SINCE (UTC)") == row.index("-  "), "a column without a value begins where its name does"


def test_verify_says_whether_a_message_is_genuine(cli: Cli, receiver: FakeReceiver) -> None:
    secret = set_up(cli, receiver)
    cli.run("webhooks", "test")
    [received] = receiver.received
    headers = [word for name in ("id", "timestamp", "signature") for word in (f"--{name}", received.headers[f"webhook-{name}"])]
    genuine = cli.run("webhooks", "verify", "-", *headers, stdin=received.body, BATCH_LOOKUPS_WEBHOOK_SECRET=secret)
    assert (genuine.returncode, genuine.stderr) == (0, "Genuine\n")
    forged = cli.run("webhooks", "verify", "-", *headers, stdin=received.body + b" ", BATCH_LOOKUPS_WEBHOOK_SECRET=secret)
    assert forged.returncode == 1
    assert "Not genuine" in forged.stderr
    assert cli.run("webhooks", "verify", "-", *headers, stdin=received.body).returncode == 4
    assert cli.run("webhooks", "verify", "-", *headers, stdin=b"", BATCH_LOOKUPS_WEBHOOK_SECRET="whsec_!").returncode == 4


def test_listen_prints_messages_and_forwards_them_signed(cli: Cli, receiver: FakeReceiver) -> None:
    secret = set_up(cli, receiver)
    cli.run("webhooks", "test")
    with fake_receiver() as local:
        cli.environment["BATCH_LOOKUPS_WEBHOOK_SECRET"] = secret
        listening = cli.start("webhooks", "listen", "--forward", local.url)
        assert listening.stderr is not None
        assert b"Listening" in listening.stderr.readline()
        cli.run("webhooks", "test")
        said = listening.stderr.readline()
        listening.send_signal(signal.SIGINT)
        stdout, stderr = listening.communicate(timeout=30)
    assert listening.returncode == 0, stderr
    [line] = stdout.decode().splitlines()
    assert json.loads(line)["body"]["type"] == "webhook.test"
    [forwarded] = local.received
    assert json.loads(line)["id"] == forwarded.headers["webhook-id"] == receiver.received[1].headers["webhook-id"]
    assert standardwebhooks.Webhook(secret).verify(forwarded.body, forwarded.headers) == forwarded.message
    assert said.startswith(b"webhook.test ")
    assert said.endswith(b": status 204\n")


class Deliveries:
    """What a service responds that has these deliveries, newest first, in pages of two."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)
        self.deleted: list[str] = []
        self.client = Client("http://service", "key", transport=httpx.MockTransport(self.respond))

    def respond(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/webhook-deliveries":
            at = int(request.url.params.get("cursor", 0))
            told = [{"id": f"d-{number}", "created_at": f"2026-11-30T00:00:{number:02}.000Z"} for number in self.numbers[at : at + 2]]
            return httpx.Response(200, json={"deliveries": told, "next_cursor": str(at + 2) if at + 2 < len(self.numbers) else None})
        delivery_id = request.url.path.removeprefix("/webhook-deliveries/")
        if delivery_id in self.deleted:
            return httpx.Response(404, json={"error": "Webhook delivery not found", "code": "webhook_delivery_not_found"})
        return httpx.Response(200, json={"id": delivery_id})

    def heard(self, seen: webhooks.Seen) -> list[str]:
        return [delivery["id"] for delivery in webhooks.unheard(self.client, None, seen)]


def test_listening_goes_on_if_an_endpoint_redirects_to_no_web_address(receiver: FakeReceiver) -> None:
    receiver.status, receiver.headers = 302, {"Location": "mailto:help@example.com"}
    delivery: Any = {"id": "d-1", "body": {"type": "test"}}
    assert webhooks.forward(receiver.url, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", delivery) == (
        "redirected to something that is not a web address"
    )


def test_listening_remembers_few_ids_and_hears_nothing_twice() -> None:
    seen, kept = webhooks.Seen(limit=3), Deliveries(6, 5, 4, 3, 2, 1)
    assert kept.heard(seen) == ["d-1", "d-2", "d-3", "d-4", "d-5", "d-6"]
    assert len(vars(seen)["_ids"]) == 3
    # Deleted with their batch: none of those left is known by its id.
    kept.numbers = [3, 2, 1]
    assert kept.heard(seen) == []
    kept.numbers = [7, 3, 2, 1]
    assert kept.heard(seen) == ["d-7"]


def test_listening_goes_on_if_a_message_is_deleted_before_it_is_read() -> None:
    kept = Deliveries(3, 2, 1)
    kept.deleted.append("d-2")
    assert kept.heard(webhooks.Seen()) == ["d-1", "d-3"]


def test_listening_begins_with_what_comes_even_if_what_was_there_is_deleted() -> None:
    seen, kept = webhooks.Seen(), Deliveries(6, 5, 4, 3, 2, 1)
    seen.add_all(kept.client.list_webhook_deliveries())
    kept.numbers = [7, 4, 3, 2, 1]
    assert kept.heard(seen) == ["d-7"]
    alone = webhooks.Seen()
    alone.add_all(Deliveries(6).client.list_webhook_deliveries())
    # Stored before, but visible later.
    assert Deliveries(6, 5).heard(alone) == ["d-5"]


def test_keys_are_made_listed_rotated_and_revoked(cli: Cli, service: Service) -> None:
    made = cli.run("keys", "create", "--name", "nightly", "--scope", "jobs:read", "--test", "--expires", "2040-01-01T00:00:00Z")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("leap_test_")
    assert key not in made.stderr
    assert cli.run("list", BATCH_LOOKUPS_API_KEY=key).returncode == 0
    forbidden = cli.run("keys", "list", BATCH_LOOKUPS_API_KEY=key)
    assert (forbidden.returncode, "(insufficient_scope)" in forbidden.stderr) == (4, True)

    keys = json.loads(cli.run("keys", "list", "--json").stdout)
    [listed] = [one for one in keys if one["name"] == "nightly"]
    assert listed["scopes"] == ["jobs:read"]
    table = cli.run("keys", "list").stdout
    assert key not in table
    assert "EXPIRES (UTC)" in table
    assert "  2040-01-01 00:00  " in table
    rotated = cli.run("keys", "rotate", listed["id"], "--grace", "60", "--json")
    new = json.loads(rotated.stdout)
    assert cli.run("list", BATCH_LOOKUPS_API_KEY=new["key"]).returncode == 0
    assert cli.run("keys", "revoke", new["id"], stdin=b"n\n").returncode == 130
    assert cli.run("keys", "revoke", new["id"], "--yes").returncode == 0
    assert cli.run("list", BATCH_LOOKUPS_API_KEY=new["key"]).returncode == 4
    assert cli.run("keys", "create", "--scope", "everything").returncode == 1


def test_columns_are_aligned_beside_characters_of_any_width(cli: Cli) -> None:
    for name in ("nightly", "夜間バッチ", "ナイトリー", "Nuit d'e\u0301te\u0301"):
        assert cli.run("keys", "create", "--name", name).returncode == 0
    _, *rows = cli.run("keys", "list").stdout.splitlines()
    before = [row.partition("leap_live_")[0] for row in rows]
    wide = [sum(character >= "\u3000" for character in text) - text.count("\u0301") for text in before]
    assert len({len(text) + more for text, more in zip(before, wide, strict=True)}) == 1
    assert sorted(wide) == [-2, 0, 0, 5, 5]
