"""API keys of the organization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from batch_lookups.cli.session import Session, confirm, minute, pass_session, say, with_output
from batch_lookups.paging import pages

if TYPE_CHECKING:
    from batch_lookups.types import ApiKey


@click.group()
def keys() -> None:
    """Create, list, rotate and revoke API keys. Needs the scope keys:admin."""


@keys.command("list")
@with_output
@pass_session
def list_keys(session: Session) -> None:
    """List the keys, newest first, including expired and revoked ones.

    \b
    Example:
      batch-lookups keys list --json | jq -r '.[] | select(.revoked_at == null) | .id'
    """
    session.show_all(
        (key for page in pages(session.client.list_keys, limit=200) for key in page["api_keys"]),
        ["id", "name", "key", "last used (UTC)", "expires (UTC)", "revoked (UTC)", "scopes"],
        lambda key: (
            key["id"],
            key["name"],
            f"{key['prefix']}…{key['last_four']}",
            minute(key["last_used_at"]) or "never",
            minute(key["expires_at"]) or "never",
            minute(key["revoked_at"]),
            " ".join(key["scopes"]),
        ),
        "There are no keys.",
    )


@keys.command()
@click.option("--name", help="What the key is for.")
@click.option("--scope", "scopes", multiple=True, help="A scope, such as jobs:read; repeatable. By default all that your own key has.")
@click.option("--test", "is_test", is_flag=True, help="A key that begins with leap_test_.")
@click.option("--expires", "expires_at", metavar="TIME", help="When it expires, such as 2030-01-31T00:00:00Z.")
@click.option("--network", "networks", multiple=True, help="A network or address that it may be used from; repeatable. By default any.")
@with_output
@pass_session
def create(
    session: Session, name: str | None, scopes: tuple[str, ...], is_test: bool, expires_at: str | None, networks: tuple[str, ...]
) -> None:
    """Create a key, and print it. It is not shown again.

    \b
    Examples:
      batch-lookups keys create --name nightly --scope jobs:write --scope jobs:read
      batch-lookups keys create --name ci --expires 2030-01-31T00:00:00Z | gh secret set LOOKUPS_KEY
    """
    mode: Literal["test"] | None = "test" if is_test else None
    made = session.client.create_key(name=name, mode=mode, scopes=scopes or None, expires_at=expires_at, allowed_networks=networks or None)
    show_new(session, made)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option(
    "--grace",
    "grace_seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long the old key keeps working; by default a day.",
)
@with_output
@pass_session
def rotate(session: Session, key_id: str, grace_seconds: float | None) -> None:
    """Replace a key with a new one, and print it. It is not shown again.

    \b
    Example:
      batch-lookups keys rotate 0193a5b2-... --grace 3600
    """
    show_new(session, session.client.rotate_key(key_id, grace_seconds=grace_seconds))


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@with_output
@pass_session
def revoke(session: Session, key_id: str, yes: bool) -> None:
    """Revoke a key, immediately and permanently.

    \b
    Example:
      batch-lookups keys revoke 0193a5b2-... --yes
    """
    if not yes:
        confirm(f"Revoke the key {key_id}?")
    revoked = session.client.revoke_key(key_id)
    session.show(revoked, f"{revoked['prefix']}…{revoked['last_four']} ({revoked['name']}) is revoked")


def show_new(session: Session, made: ApiKey) -> None:
    say(f"Key {made['id']} ({made['name']}) has the scopes {' '.join(made['scopes'])}. It is not shown again.")
    session.show(made, made["key"])
