"""The address, the key and the organization: log in, see who one is, what was used and what is wrong; and shell completion."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from batch_lookups import __version__
from batch_lookups.cli import exits, settings
from batch_lookups.cli.exits import Ended
from batch_lookups.cli.session import Session, counted, open_browser, pass_session, printable, say, warn_of_clear_text, with_output
from batch_lookups.errors import ApiError
from batch_lookups.paging import pages

if TYPE_CHECKING:
    import httpx

    from batch_lookups.types import Organization

# With a larger difference, signatures of webhooks look outdated.
CLOCK_SECONDS = 30
# Whoever logs in waits for the response, and may have mistyped the address.
LOGIN_SECONDS = 3.0
NOTHING = "00000000-0000-0000-0000-000000000000"
# A request for each scope that changes nothing: it reads one row, is a dry run, or refers to something that does not exist.
PROBES: dict[str, tuple[str, str, Any]] = {
    "jobs:read": ("GET", "/batch-lookups?limit=1", None),
    "jobs:write": ("POST", "/batch-lookups?dry_run=true", {"items": []}),
    "reports:read": ("GET", "/incentive-reports?limit=1", None),
    "reports:write": ("DELETE", f"/incentive-reports/{NOTHING}", None),
    "incentives:write": ("POST", "/incentives", {}),
    "applications:read": ("GET", "/applications?limit=1", None),
    "applications:write": ("PATCH", f"/applications/{NOTHING}?dryRun=true", {}),
    "webhooks:read": ("GET", "/webhook-config", None),
    "webhooks:write": ("POST", f"/webhook-deliveries/{NOTHING}/resend", None),
    "keys:admin": ("GET", "/api-keys?limit=1", None),
}


@click.command(short_help="Store the address of the service and an API key.")
@click.argument("url", required=False)
@pass_session
def login(session: Session, url: str | None) -> None:
    """Store the address of the service and an API key, after trying them.

    \b
    Examples:
      batch-lookups login https://lookups.example.com
      pass show lookups | batch-lookups login https://lookups.example.com

    Without URL, the address is asked for; if input is not a terminal, it is the one in use, by default http://127.0.0.1:8000.

    The key is asked for, or read from standard input; it is never an argument, which others could see. Only you can read the file.
    """
    terminal = sys.stdin.isatty()
    if url is None:
        known = settings.configured_url()
        url = click.prompt("Address", default=known, err=True) if terminal else known
    url = settings.read_url(url)
    warn_of_clear_text(url)
    # A file with the key may be in any encoding; one with a byte order mark is in UTF-8.
    api_key = settings.read_key(
        click.prompt("API key", hide_input=True, err=True) if terminal else sys.stdin.buffer.readline().decode("utf-8-sig", "replace")
    )
    if not api_key:
        raise Ended(exits.AUTHENTICATION, "No key was given", "Type it when asked, or pass it on standard input.")
    with session.client_of(url, api_key, retry_seconds=LOGIN_SECONDS) as client:
        organization = try_key(client)
    settings.store(url, api_key)
    name = organization["name"] if organization else "an organization whose name the key may not read"
    say(f"Logged in to {settings.without_password(url)} as {name}; stored in {settings.file()}")
    if os.environ.get(settings.API_KEY):
        say(f"note: {settings.API_KEY} is set, and overrides the stored key")


def try_key(client: Any) -> Organization | None:
    """The organization of the key; None if the key may not read it. Raises ApiError if it is invalid."""
    try:
        organization: Organization = client.get_organization()
    except ApiError as error:
        if error.code != "insufficient_scope":
            raise
        return None
    return organization


@click.command()
@with_output
@pass_session
def whoami(session: Session) -> None:
    """Show the address, the organization and the key in use.

    \b
    Example:
      batch-lookups whoami --json | jq -r .organization.name
    """
    credentials = settings.credentials()
    organization = try_key(session.client)
    name = f"{organization['name']} ({organization['id']})" if organization else "- (the key lacks the scope jobs:read)"
    url = settings.without_password(credentials.url)
    session.show(
        {"url": url, "organization": organization, "api_key": credentials.masked_key, "source": credentials.source},
        f"address       {url}\norganization  {name}\nkey           {credentials.masked_key}, from {credentials.source}",
    )


class Finding(NamedTuple):
    """A finding of `doctor`. `hint`: how to fix it; `code`: the exit code of the command then."""

    about: str
    ok: bool
    detail: str
    hint: str = ""
    code: int = exits.ERROR


@click.command(short_help="Find out why something doesn't work.")
@with_output
@pass_session
def doctor(session: Session) -> int:
    """Find out why something doesn't work: address, key, scopes, clock, versions, proxies.

    \b
    Examples:
      batch-lookups doctor
      batch-lookups doctor --json | jq '.[] | select(.ok | not)'
    """
    findings = []
    for finding in examine():
        findings.append(finding)
        if session.output == "text":
            verdict = click.style("ok  ", fg="green") if finding.ok else click.style("FAIL", fg="red")
            click.echo(f"{verdict}  {finding.about}: {printable(finding.detail)}")
            if finding.hint and not finding.ok:
                click.echo(f"      {printable(finding.hint)}")
    if session.output != "text":
        session.show([{"about": f.about, "ok": f.ok, "detail": f.detail, "hint": f.hint or None} for f in findings], "")
    return next((finding.code for finding in findings if not finding.ok), exits.ALL)


def examine() -> Iterator[Finding]:
    from urllib.request import getproxies

    import httpx

    from batch_lookups.bodies import using_environment
    from batch_lookups.errors import BatchLookupsError
    from batch_lookups.retrying import describe, refuse_redirect

    yield Finding("command", True, f"batch-lookups {__version__}, Python {sys.version.split()[0]}, httpx {httpx.__version__}")
    proxies = {name: url for name, url in getproxies().items() if name in ("http", "https", "all", "no")}
    yield Finding("proxies", True, ", ".join(f"{name}: {settings.without_password(url)}" for name, url in proxies.items()) or "none")
    try:
        url = settings.configured_url()
    except Ended as ended:
        yield Finding("address", False, str(ended), ended.hint, ended.code)
        return
    try:
        with using_environment():
            client = httpx.Client(base_url=url, timeout=10, event_hooks={"response": [refuse_redirect]})
    except BatchLookupsError as error:
        yield Finding("environment", False, str(error), "Correct these variables, or unset them.")
        return
    with client as http:
        try:
            yield from examine_service(http, url)
        except httpx.RequestError as error:
            hint = f"Is this the right address ({settings.URL}, `batch-lookups login`)? Is a proxy or a firewall in the way?"
            yield Finding("service", False, describe(error), hint, exits.UNAVAILABLE)
        except BatchLookupsError as error:
            yield Finding(
                "service", False, str(error), "Check the address. A proxy that asks to sign in must let requests to the service pass."
            )


def ask(http: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """The response. Raises BatchLookupsError if it is not the service's: a redirect or a page, as of a proxy that asks to sign in."""
    from batch_lookups.bodies import send
    from batch_lookups.calls import JSON
    from batch_lookups.retrying import require_ours

    response = send(http, http.build_request(method, path, **options))
    if response.is_success:
        require_ours(response, JSON)
    return response


def examine_service(http: httpx.Client, url: str) -> Iterator[Finding]:
    from batch_lookups.retrying import document_of, error_of, http_date

    address = settings.without_password(url)
    began = time.time()
    up = ask(http, "GET", "/healthz")
    took = time.time() - began
    if up.status_code != 200:
        yield Finding("service", False, f"{address} answers with status {up.status_code}; it is not Batch Lookups", "Check the address.")
        return
    yield Finding("service", True, f"{address} answers in {took * 1000:.0f} ms")
    ready = ask(http, "GET", "/readyz")
    reason = "" if ready.status_code == 200 else str(error_of(ready))
    yield Finding("database", not reason, reason or "ready", "Ask the operator to fix this.", exits.UNAVAILABLE)
    if (date := http_date(up.headers.get("date", ""))) is not None:
        # The header has whole seconds, truncated.
        off = began + took / 2 - date - 0.5
        hint = "Set this machine's clock, for example with NTP: webhook signatures are checked against it."
        yield Finding("clock", abs(off) < CLOCK_SECONDS, f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the service's", hint)
    info = (document_of(ask(http, "GET", "/openapi.json")) or {}).get("info")
    version = str(info.get("version", "?")) if isinstance(info, dict) else "?"
    same = version.split(".")[0] == __version__.split(".")[0]
    yield Finding("versions", same, f"the service is {version}, this is {__version__}", "Install the same version as the service.")
    # Without the database, the service cannot check any key.
    if not reason:
        yield from examine_key(http)


def examine_key(http: httpx.Client) -> Iterator[Finding]:
    from batch_lookups.retrying import error_of

    try:
        credentials = settings.credentials()
    except Ended as ended:
        yield Finding("key", False, str(ended), ended.hint, ended.code)
        return
    scopes = []
    for scope, (method, path, body) in PROBES.items():
        response = ask(http, method, path, json=body, headers={"x-api-key": credentials.api_key})
        if response.status_code == 401 or (response.status_code == 403 and error_of(response).code != "insufficient_scope"):
            detail = f"{credentials.masked_key} from {credentials.source}: {error_of(response)}"
            yield Finding("key", False, detail, "Store a valid key: batch-lookups login", exits.AUTHENTICATION)
            return
        if response.status_code == 429 or response.status_code >= 500:
            yield Finding("key", False, f"cannot tell whether it is valid: {error_of(response)}", "Try again later.", exits.UNAVAILABLE)
            return
        if response.status_code != 403:
            scopes.append(scope)
    yield Finding("key", True, f"{credentials.masked_key} from {credentials.source} is valid")
    lacking = [scope for scope in PROBES if scope not in scopes]
    detail = (", ".join(scopes) or "none") + (f"; not: {', '.join(lacking)}" if lacking else "")
    yield Finding("scopes", bool(scopes), detail, "Use a key that has a scope.", exits.AUTHENTICATION)


@click.command("open")
def open_service() -> None:
    """Open the service in a browser.

    \b
    Example:
      batch-lookups open
    """
    url = settings.configured_url()
    say(settings.without_password(url))
    open_browser(url)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that makes the shell complete this command.

    \b
    Examples:
      batch-lookups completion bash > ~/.local/share/bash-completion/completions/batch-lookups
      batch-lookups completion zsh > ~/.zfunc/_batch-lookups
      batch-lookups completion fish > ~/.config/fish/completions/batch-lookups.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    root = click.get_current_context().find_root()
    click.echo(found(root.command, {}, "batch-lookups", "_BATCH_LOOKUPS_COMPLETE").source())


@click.command(short_help="Count the lookups by day and job, and those of this month.")
@click.option("--from", "created_from", metavar="DAY", help="From this day on, such as 2026-11-01.")
@click.option("--before", "created_before", metavar="DAY", help="Only days before this one.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", default=50, show_default=True, help="How many rows.")
@with_output
@pass_session
def usage(session: Session, created_from: str | None, created_before: str | None, limit: int) -> int:
    """Count the lookups by day and job, newest first, and those of this month.

    \b
    Examples:
      batch-lookups usage --from 2026-11-01
      batch-lookups usage --json | jq '[.[].lookups] | add'

    Exits with 6 if the month's limit is reached.
    """
    rest = pages(session.client.get_usage, created_from=created_from, created_before=created_before, limit=min(limit, 500))
    first = next(rest)
    month = first["month"]
    used, allowed = month["lookups"], month["limit"]
    lookups = counted(used, "lookup") if allowed is None else f"{used:,} of {counted(allowed, 'lookup')}"
    say(f"{lookups} in {month['month']}")
    session.show_all(
        (row for page in chain([first], rest) for row in page["usage"]),
        ["day", "lookups", "job", "name"],
        lambda row: (row["day"], row["lookups"], row["job_id"], row["name"]),
        "There are no lookups.",
        limit=limit,
    )
    return exits.ALL if allowed is None or used < allowed else exits.STOPPED


COMMANDS = [usage, whoami, doctor, open_service, completion]
