"""Webhooks: where they are sent, what was sent, and how to receive them on this machine."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch_lookups.cli import exits, settings
from batch_lookups.cli.exits import Ended
from batch_lookups.cli.session import Session, as_json, confirm, facts, minute, pass_session, printable, say, table, with_output
from batch_lookups.errors import ApiError
from batch_lookups.paging import pages

if TYPE_CHECKING:
    from batch_lookups.client import Client
    from batch_lookups.types import WebhookConfig, WebhookDelivery, WebhookDeliveryList

SECRET = "BATCH_LOOKUPS_WEBHOOK_SECRET"
SHOWN_CHARACTERS = 200
POLL_SECONDS = 2.0
SEEN_LIMIT = 10_000
FORWARD_SECONDS = 15.0
EVENTS = ["lookup.completed", "lookup.failed", "batch.completed", "batch.failed", "batch.cancelled"]


@click.group(short_help="Set up and test webhooks, and see what was sent.")
def webhooks() -> None:
    """Set up and test webhooks, see what was sent, and send it again."""


@webhooks.command()
@with_output
@pass_session
def show(session: Session) -> None:
    """Show where webhooks go, and whether they arrive.

    \b
    Example:
      batch-lookups webhooks show --json | jq .failing_since
    """
    config = session.client.get_webhook_config()
    session.show(config, told(config))


@webhooks.command("set")
@click.option("--url", help="Your endpoint, an https:// address.")
@click.option("--event", "events", multiple=True, type=click.Choice(EVENTS), help="An event to send; repeatable.")
@click.option("--field", "field_names", multiple=True, help="A member of webhook_custom_fields to send; repeatable.")
@click.option("--all-fields", is_flag=True, help="Send all members of webhook_custom_fields, as by default.")
@click.option("--bundle/--no-bundle", "bundle_items", default=None, help="Up to 100 lookups in one message.")
@click.option("--enable/--disable", "enabled", default=None, help="Resume or stop sending.")
@with_output
@pass_session
def set_config(session: Session, /, all_fields: bool, **options: Any) -> None:
    """Set up webhooks, or change what is given. The first time, print the signing secret, which is not shown again.

    \b
    Examples:
      batch-lookups webhooks set --url https://crm.example.com/hooks --event batch.completed --event batch.failed
      batch-lookups webhooks set --enable
    """
    changes = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items() if value not in (None, ())}
    if all_fields:
        if "field_names" in changes:
            raise click.UsageError("Give --field or --all-fields, not both.")
        changes["field_names"] = None
    if not changes:
        raise click.UsageError("Nothing to set: give --url, --event, --field, --all-fields, --bundle or --enable.")
    show_config(session, session.client.set_webhook_config(changes))


@webhooks.command(short_help="Stop sending webhooks, and delete the address.")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@with_output
@pass_session
def delete(session: Session, yes: bool) -> None:
    """Stop sending webhooks, and delete the address and the signing secrets. Pending deliveries fail.

    \b
    Example:
      batch-lookups webhooks delete --yes
    """
    if not yes:
        confirm("Delete the webhooks with their signing secrets?")
    answer = session.client.delete_webhook_config()
    session.show(answer, answer["message"])


@webhooks.command()
@with_output
@pass_session
def test(session: Session) -> int:
    """Send a test message now, and show the result.

    \b
    Example:
      batch-lookups webhooks test
    """
    came = session.client.send_test_webhook()
    answer = answered(came["http_status"], came["error_class"])
    session.show(came, f"{'delivered' if came['delivered'] else 'not delivered'}: {answer}, {came['latency_ms']:,} ms")
    if session.output == "text" and not came["delivered"] and came["response_body"]:
        say(f"response: {printable(beginning(came['response_body']))}")
    return exits.ALL if came["delivered"] else exits.ERROR


@webhooks.command()
@click.option("--status", type=click.Choice(["pending", "sending", "delivered", "failed"]), help="Only deliveries with this status.")
@click.option("--event", type=click.Choice([*EVENTS, "webhook.test"]), help="Only those of this event.")
@click.option("--job", "job_id", help="Only those of this job.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", default=20, show_default=True, help="How many.")
@with_output
@pass_session
def deliveries(session: Session, status: str | None, event: str | None, job_id: str | None, limit: int) -> None:
    """List what was sent, newest first.

    \b
    Example:
      batch-lookups webhooks deliveries --status failed
    """
    found = pages(session.client.list_webhook_deliveries, status=status, event=event, job_id=job_id, limit=min(limit, 200))
    session.show_all(
        (one for page in found for one in page["deliveries"]),
        ["id", "event", "status", "attempts", "created (UTC)", "answer"],
        lambda one: (
            one["id"],
            one["event"],
            one["status"],
            one["attempts"],
            minute(one["created_at"]),
            answered(one["last_http_status"], one["last_error"]),
        ),
        "There are no deliveries.",
        limit=limit,
    )


@webhooks.command(short_help="Show a delivery with each attempt and its response.")
@click.argument("delivery", metavar="ID")
@with_output
@pass_session
def delivery(session: Session, delivery: str) -> None:
    """Show a delivery with each attempt and its response; as JSON, also with its body.

    \b
    Examples:
      batch-lookups webhooks delivery 0193a5b2-...
      batch-lookups webhooks delivery 0193a5b2-... --json | jq .body
    """
    found = session.client.get_webhook_delivery(delivery)
    lines = [
        ("delivery", found["id"]),
        ("event", found["event"]),
        ("status", found["status"]),
        ("job", found["job_id"] or "-"),
        ("created", f"{minute(found['created_at'])} UTC"),
        ("next try", f"{minute(found['next_attempt_at'])} UTC" if found["next_attempt_at"] else "-"),
    ]
    attempts = [
        (
            one["attempt"],
            minute(one["attempted_at"]),
            one["latency_ms"],
            answered(one["http_status"], one["error_class"]),
            beginning(one["response_body"]),
        )
        for one in found["attempt_log"]
    ]
    text = facts(lines)
    if attempts:
        text += f"\n\n{table(['attempt', 'tried (UTC)', 'ms', 'answer', 'text'], attempts)}"
    session.show(found, text)


@webhooks.command()
@click.argument("delivery", metavar="ID")
@with_output
@pass_session
def resend(session: Session, delivery: str) -> None:
    """Send a delivery again, with the same webhook-id.

    \b
    Example:
      batch-lookups webhooks resend 0193a5b2-...
    """
    again = session.client.resend_webhook_delivery(delivery)
    session.show(again, f"{again['event']} is {again['status']} again")


@webhooks.command()
@click.argument("since", metavar="TIME")
@with_output
@pass_session
def recover(session: Session, since: str) -> None:
    """Send all deliveries that failed since a time again.

    \b
    Example:
      batch-lookups webhooks recover 2026-11-20T08:00:00Z
    """
    came = session.client.recover_webhook_deliveries(since)
    session.show(came, f"{came['recovered']:,} {'delivery is' if came['recovered'] == 1 else 'deliveries are'} pending again")


@webhooks.command()
@click.option(
    "--overlap",
    "overlap_seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long the old secret signs, too; by default a day.",
)
@with_output
@pass_session
def secret(session: Session, overlap_seconds: float | None) -> None:
    """Create a new signing secret, and print it. It is not shown again.

    \b
    Example:
      batch-lookups webhooks secret --overlap 3600
    """
    made = session.client.rotate_webhook_secret(overlap_seconds=overlap_seconds)
    say("The new signing secret, which is not shown again:")
    session.show(made, made["signing_secret"])


@webhooks.command()
@click.argument("body", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--id", "message_id", required=True, help="The header webhook-id.")
@click.option("--timestamp", required=True, help="The header webhook-timestamp.")
@click.option("--signature", required=True, help="The header webhook-signature.")
@click.option(
    "--seconds-off", type=click.FloatRange(min=0), metavar="SECONDS", default=300.0, show_default=True, help="How old the message may be."
)
def verify(body: str, message_id: str, timestamp: str, signature: str, seconds_off: float) -> None:
    """Check whether a received message is genuine. BODY is a file with its body exactly as received; - is standard input.

    \b
    Example:
      BATCH_LOOKUPS_WEBHOOK_SECRET=whsec_... batch-lookups webhooks verify body.json \\
          --id 0193a5b2-... --timestamp 1795768200 --signature v1,...
    """
    from batch_lookups.webhooks import why_not_genuine

    data = sys.stdin.buffer.read() if body == "-" else Path(body).read_bytes()
    reason = why_not_genuine(
        webhook_secret(), data, message_id=message_id, timestamp=timestamp, signature=signature, seconds_off=seconds_off
    )
    if reason:
        raise Ended(exits.ERROR, f"Not genuine: {reason}", "The body must be as received, byte for byte: not parsed and serialized again.")
    say("Genuine")


@webhooks.command(short_help="Print each webhook message as it is created.")
@click.option("--forward", "forward_url", metavar="URL", help="Forward each message to this address, signed with the secret.")
@click.option("--event", type=click.Choice([*EVENTS, "webhook.test"]), help="Only those of this event.")
@click.option("--all", "all_kept", is_flag=True, help="Begin with the messages of the last thirty days.")
@pass_session
def listen(session: Session, forward_url: str | None, event: str | None, all_kept: bool) -> None:
    """Print each webhook message as it is created, one JSON document per line, until Ctrl-C; no tunnel is needed.

    \b
    Examples:
      batch-lookups webhooks listen | jq .body.type
      BATCH_LOOKUPS_WEBHOOK_SECRET=whsec_... batch-lookups webhooks listen --forward http://localhost:3000/hooks

    Messages are read from the service, whether they reach their receiver or not. --forward signs them again with the secret, as the service
    does, so that your receiver can check them.
    """
    if forward_url is not None and not settings.is_url(forward_url):
        raise click.UsageError("--forward must be an address such as http://localhost:3000/hooks.")
    key = webhook_secret() if forward_url else ""
    client = session.client
    seen = Seen()
    if not all_kept:
        seen.add_all(client.list_webhook_deliveries(event=event, limit=200))
    say(f"Listening for webhook messages{f', forwarding to {forward_url}' if forward_url else ''}; Ctrl-C to stop")
    with suppress(KeyboardInterrupt):
        while True:
            for message in unheard(client, event, seen):
                click.echo(as_json({"id": message["id"], "created_at": message["created_at"], "body": message["body"]}))
                if forward_url:
                    say(f"{message['body']['type']} {message['id']}: {forward(forward_url, key, message)}")
            sys.stdout.flush()
            time.sleep(POLL_SECONDS)


def answered(http_status: int | None, error: str | None) -> str | None:
    """The result of an attempt, in words; None: there was none."""
    from batch_lookups.webhooks import why_not_delivered

    if error:
        return why_not_delivered(error)
    return None if http_status is None else f"HTTP {http_status}"


def beginning(answer: str | None) -> str:
    """The beginning of a response that fits into a line."""
    return " ".join((answer or "").split())[:SHOWN_CHARACTERS]


class Seen:
    """Deliveries that were printed, or that are older than the first to print: the last ones by their ids, the others by their time."""

    def __init__(self, *, limit: int = SEEN_LIMIT) -> None:
        self._limit = limit
        self._ids: dict[str, str] = {}
        self._all_until = ""

    def add(self, delivery: WebhookDelivery) -> None:
        self._ids[delivery["id"]] = delivery["created_at"]
        if len(self._ids) > self._limit:
            self._all_until = max(self._all_until, self._ids.pop(next(iter(self._ids))))

    def add_all(self, page: WebhookDeliveryList) -> None:
        """Adds the newest deliveries, and all that are older."""
        for delivery in reversed(page["deliveries"]):
            self.add(delivery)
        if page["next_cursor"] is not None:
            self._all_until = page["deliveries"][-1]["created_at"]

    def __contains__(self, delivery: WebhookDelivery) -> bool:
        return delivery["id"] in self._ids or delivery["created_at"] <= self._all_until


def unheard(client: Client, event: str | None, seen: Seen) -> Iterator[WebhookDelivery]:
    """The unseen deliveries with their bodies, oldest first."""
    for delivery in reversed(list(newest(client, event, seen))):
        seen.add(delivery)
        try:
            yield client.get_webhook_delivery(delivery["id"])
        except ApiError as error:
            # Deleted with its batch meanwhile.
            if error.code != "webhook_delivery_not_found":
                raise


def newest(client: Client, event: str | None, seen: Seen) -> Iterator[WebhookDelivery]:
    """Unseen deliveries, newest first, back to the first page with a seen one.

    That page is read completely: deliveries stored at the same time may become visible slightly later.
    """
    for page in pages(client.list_webhook_deliveries, event=event, limit=200):
        unseen = [delivery for delivery in page["deliveries"] if delivery not in seen]
        yield from unseen
        if len(unseen) < len(page["deliveries"]):
            return


def forward(url: str, key: str, delivery: WebhookDelivery) -> str:
    """Forwards a message as the service would send it, and reports the result."""
    import httpx

    from batch_lookups.webhooks import sign

    body = json.dumps(delivery["body"], ensure_ascii=False, separators=(",", ":")).encode()
    timestamp = int(time.time())
    headers = {
        "content-type": "application/json",
        "webhook-id": delivery["id"],
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(key, delivery["id"], timestamp, body),
    }
    try:
        with httpx.stream("POST", url, content=body, headers=headers, timeout=FORWARD_SECONDS) as response:
            return f"status {response.status_code}"
    except httpx.HTTPError as error:
        return f"not received ({error})"
    except (httpx.InvalidURL, UnicodeError):
        # httpx reads the target of a redirect, although it does not follow it.
        return "redirected to something that is not a web address"


def webhook_secret() -> str:
    """The signing secret, from the environment or a prompt."""
    from batch_lookups.webhooks import SecretError, sign

    found = os.environ.get(SECRET, "").strip()
    if not found and sys.stdin.isatty():
        found = click.prompt("Signing secret", hide_input=True, err=True).strip()
    if not found:
        raise Ended(exits.AUTHENTICATION, "There is no signing secret", f"Set {SECRET}. `batch-lookups webhooks secret` creates a new one.")
    try:
        sign(found, "", 0, b"")
    except SecretError as error:
        raise Ended(exits.AUTHENTICATION, str(error)) from error
    return found


def show_config(session: Session, config: WebhookConfig) -> None:
    if session.output == "text" and "signing_secret" in config:
        say(told(config))
        say("The signing secret, which is not shown again:")
        click.echo(printable(config["signing_secret"]))
    else:
        session.show(config, told(config))


def told(config: WebhookConfig) -> str:
    if config["url"] is None:
        return "No webhooks are sent; batch-lookups webhooks set --url https://..."
    state = "enabled" if config["enabled"] else f"disabled since {minute(config['disabled_at'])} UTC ({config['disabled_reason']})"
    return table(
        ["url", "state", "failing since (UTC)", "bundled", "fields", "events"],
        [
            (
                config["url"],
                state,
                minute(config["failing_since"]),
                config["bundle_items"],
                "all" if config["field_names"] is None else " ".join(config["field_names"]),
                " ".join(config["events"]),
            )
        ],
    )
