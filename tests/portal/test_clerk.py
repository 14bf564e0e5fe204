"""Signing in with Clerk, against a stand-in for Clerk's API that speaks to its own client."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from pyshell.api.routes import portal
from pyshell.settings import Settings
from tests.clerk_fixtures import ClerkInstance, public_pem
from tests.http_fixtures import running_server
from tests.portal.conftest import Person

ISSUER = "https://clerk.example.com"
# A minimal client with what the portal needs of Clerk's.
STAND_IN = """
window.Clerk = (() => {
  const api = (path, method) => fetch("https://clerk.example.com/v1/" + path, {method, credentials: "include"}).then((r) => r.json());
  const clerk = {
    async load() {
      const {user, session, organization} = await api("client", "GET");
      const getToken = async ({organizationId}) => (await api("tokens/" + organizationId, "POST")).jwt;
      Object.assign(clerk, {user, organization, session: session && {getToken}});
    },
    async setActive({organization}) {
      clerk.organization = clerk.user.organizationMemberships.map((m) => m.organization).find(({id}) => id === organization);
    },
    async redirectToSignIn({signInForceRedirectUrl}) {
      location.href = "https://accounts.example.com/?redirect_url=" + encodeURIComponent(signInForceRedirectUrl);
    },
    async signOut({redirectUrl}) {
      await api("sign-out", "POST");
      location.href = redirectUrl;
    },
  };
  return clerk;
})();
"""


@pytest.fixture
def clerk_server(http_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server where Clerk is configured, and a stand-in for its client."""
    for file in portal.DIST.iterdir():
        if not re.search("clerk|^[.]", file.name):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "clerk-1.0.0.js").write_text(STAND_IN)
    monkeypatch.setattr(portal, "DIST", tmp_path)
    with running_server(replace(http_settings, clerk_issuer=ISSUER, clerk_jwt_key=public_pem("ins_first"))) as url:
        yield url


@dataclass
class Account:
    """A user's account at Clerk, with two organizations."""

    signed_in: bool = True
    is_away: bool = False
    has_organizations: bool = True
    asked: list[str] = field(default_factory=list)
    """What Clerk was asked for, in this order."""


@pytest.fixture
def account(page: Page, clerk_server: str) -> Account:
    instance = ClerkInstance()
    instance.issuer = ISSUER
    organizations = [{"id": f"org_{name}", "name": name} for name in ("north", "south")]
    account = Account()

    def answer(route: Route) -> None:
        place = urlsplit(route.request.url).path
        if account.is_away:
            route.abort()
            return
        account.asked.append(place.removeprefix("/v1/"))
        headers = {"access-control-allow-origin": clerk_server, "access-control-allow-credentials": "true"}
        body: dict[str, Any] = {}
        if place == "/v1/client":
            memberships = [{"organization": organization} for organization in organizations if account.has_organizations]
            user = {"organizationMemberships": memberships}
            body = {"user": user, "session": {}, "organization": None} if account.signed_in else {}
        elif place == "/v1/sign-out":
            account.signed_in = False
        elif place.startswith("/v1/tokens/"):
            name = place.rpartition("_")[2]
            claims: dict[str, Any] = {"o": {"id": f"org_portal{name}", "slg": name, "rol": "member"}} if account.has_organizations else {}
            body = {"jwt": instance.token(**claims, v=2, sts="active", azp=clerk_server)}
        route.fulfill(status=200, headers=headers, content_type="application/json", body=json.dumps(body))

    page.route(f"{ISSUER}/**", answer)
    return account


def test_a_user_signs_in_switches_the_organization_and_signs_out(page: Page, clerk_server: str, account: Account) -> None:
    account.signed_in = False
    page.route("https://accounts.example.com/**", lambda route: route.fulfill(status=200, content_type="text/html", body="<h1>Hosted</h1>"))
    person = Person(page, clerk_server)
    person.open("batches")
    button = page.get_by_role("button", name="Sign in with Clerk")
    expect(button).to_be_visible()
    person.look("sign-in-clerk")
    button.click()
    expect(page.get_by_role("heading", name="Hosted")).to_be_visible()

    account.signed_in = True
    person.open("batches")
    choice = page.get_by_role("combobox", name="Organization")
    expect(choice).to_have_value("org_north")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="API keys")).to_have_count(0)
    person.look("batches-clerk")
    choice.select_option("south")
    expect(choice).to_have_value("org_south")
    page.get_by_role("button", name="Sign out").click()
    expect(button).to_be_visible()
    assert not account.signed_in


def test_a_session_is_resumed_once_clerk_is_back(page: Page, clerk_server: str, account: Account) -> None:
    page.clock.install()
    account.is_away = True
    Person(page, clerk_server).open("batches")
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("Clerk cannot be reached.")
    account.is_away = False
    page.clock.run_for(11_000)
    expect(page.get_by_role("heading", name="Batches", exact=True)).to_be_visible()

    # Without a token nothing can be requested; once there is one, the screen loads by itself.
    account.is_away = True
    page.get_by_role("link", name="Reports").click()
    for _ in range(8):
        page.clock.run_for(1000)
    expect(problem).to_contain_text("The service cannot be reached.")
    account.is_away = False
    page.clock.run_for(11_000)
    expect(page.get_by_text("No reports yet.")).to_be_visible()
    expect(problem).to_have_count(0)


def test_a_user_may_sign_in_once_clerk_is_back(page: Page, clerk_server: str, account: Account) -> None:
    page.clock.install()
    account.is_away, account.signed_in = True, False
    Person(page, clerk_server).open("batches")
    expect(page.get_by_role("alert")).to_contain_text("Clerk cannot be reached.")
    account.is_away = False
    page.clock.run_for(11_000)
    expect(page.get_by_role("button", name="Sign in with Clerk")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_an_organization_that_cannot_be_switched_to_is_not_shown_as_switched_to(page: Page, clerk_server: str, account: Account) -> None:
    page.clock.install()
    Person(page, clerk_server).open("batches")
    choice = page.get_by_role("combobox", name="Organization")
    expect(choice).to_have_value("org_north")
    page.evaluate("void (Clerk.setActive = () => Promise.reject(new Error('no network')))")
    choice.select_option("south")
    expect(page.get_by_text("The organization was not switched, because Clerk cannot be reached.")).to_be_visible()
    expect(choice).to_have_value("org_north")
    page.reload()
    expect(choice).to_have_value("org_north")

    # Or the service is unavailable just then: nobody continues with half a session.
    page.route(re.compile("/me$"), lambda route: route.abort())
    choice.select_option("south")
    for _ in range(8):
        page.clock.run_for(1000)
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    page.unroute(re.compile("/me$"))
    page.clock.run_for(11_000)
    expect(choice).to_have_value("org_south")


def test_what_is_done_before_the_switch_concerns_the_organization_that_is_shown(page: Page, clerk_server: str, account: Account) -> None:
    Person(page, clerk_server).open("upload")
    choice = page.get_by_role("combobox", name="Organization")
    expect(choice).to_have_value("org_north")
    held: list[Route] = []
    page.route(re.compile("/me$"), lambda route: held.append(route))
    with page.expect_request(re.compile("/me$")):
        choice.select_option("south")
    with page.expect_response(re.compile(r"/uploads\?name")) as answer:
        page.locator("input[type=file]").set_input_files({"name": "sites.csv", "mimeType": "text/csv", "buffer": b"Deal ID\n1\n"})
    assert answer.value.status == 201
    expect(page.get_by_role("heading", name="sites.csv")).to_be_visible()
    held[0].continue_()
    expect(choice).to_have_value("org_south")
    expect(page.get_by_role("alert")).to_contain_text("Upload not found")


def test_a_user_without_an_organization_may_sign_out_of_clerk(page: Page, clerk_server: str, account: Account) -> None:
    account.has_organizations = False
    person = Person(page, clerk_server)
    person.open("batches")
    expect(page.get_by_role("alert")).to_contain_text("organization")
    person.look("sign-in-without-organization")
    leave = page.get_by_role("button", name="Sign out of Clerk")
    leave.click()
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_role("button", name="Sign in with Clerk")).to_be_visible()
    expect(leave).to_have_count(0)
    assert not account.signed_in


def test_a_tab_stays_with_its_organization_when_another_tab_switches(page: Page, clerk_server: str, account: Account) -> None:
    Person(page, clerk_server).open("batches")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    page.evaluate("Clerk.organization = Clerk.user.organizationMemberships[1].organization")
    page.get_by_role("link", name="Reports").click()
    expect(page.get_by_text("No reports yet.")).to_be_visible()
    assert {place for place in account.asked if place.startswith("tokens/")} == {"tokens/org_north"}


def test_clerks_own_client_resumes_a_session(page: Page, http_settings: Settings) -> None:
    if not list(portal.DIST.glob("clerk-*.js")):
        pytest.skip("Clerk's client is not built: scripts/setup test")
    instance = ClerkInstance()
    instance.issuer = ISSUER
    now = int(time.time() * 1000)
    organization = {
        "object": "organization",
        "id": "org_portalnorth",
        "name": "North",
        "slug": "north",
        "created_at": now,
        "updated_at": now,
    }
    membership = {
        "object": "organization_membership",
        "id": "orgmem_1",
        "organization": organization,
        "role": "org:member",
        "permissions": [],
    }
    session = {
        "object": "session",
        "id": "sess_1",
        "status": "active",
        "expire_at": now + 10**8,
        "abandon_at": now + 10**9,
        "last_active_at": now,
        "last_active_organization_id": organization["id"],
        "user": {"object": "user", "id": "user_1", "organization_memberships": [membership], "created_at": now, "updated_at": now},
        "last_active_token": {
            "object": "token",
            "jwt": instance.token(o={"id": organization["id"], "slg": "north", "rol": "member"}, v=2, sts="active"),
        },
        "created_at": now,
        "updated_at": now,
    }
    client = {"object": "client", "id": "client_1", "sessions": [session], "last_active_session_id": "sess_1"}
    environment = {
        "auth_config": {"object": "auth_config", "single_session_mode": True},
        "display_config": {"object": "display_config", "instance_environment_type": "production"},
        "user_settings": {},
        "organization_settings": {"enabled": True},
    }
    bodies = {"/v1/environment": environment, "/v1/client": {"response": client, "client": None}}
    bodies["/v1/client/sessions/sess_1/tokens"] = session["last_active_token"]
    with running_server(replace(http_settings, clerk_issuer=ISSUER, clerk_jwt_key=public_pem("ins_first"))) as url:

        def answer(route: Route) -> None:
            headers = {"access-control-allow-origin": url, "access-control-allow-credentials": "true"}
            if "_method=DELETE" in route.request.url:
                bodies["/v1/client"] = {"response": client | {"sessions": [], "last_active_session_id": None}, "client": None}
            body = bodies.get(urlsplit(route.request.url).path, {"response": session, "client": client})
            route.fulfill(status=200, headers=headers, content_type="application/json", body=json.dumps(body))

        page.route(f"{ISSUER}/**", answer)
        page.context.add_cookies([{"name": "__client_uat", "value": str(now // 1000), "url": url}])
        page.goto(f"{url}/portal")
        expect(page.get_by_role("heading", name="Batches", exact=True)).to_be_visible(timeout=20_000)
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        # Outside the portal's prefix there may be another application.
        page.route(f"{url}/", lambda route: route.fulfill(status=404, body="Nothing here"))
        with page.expect_navigation():
            page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("button", name="Sign in with Clerk")).to_be_visible()


def test_clerk_is_let_in_only_where_it_is_configured(server: str, clerk_server: str) -> None:
    config = httpx.get(f"{clerk_server}/portal/config.json").json()
    assert config == {"clerk": {"publishable_key": "pk_live_Y2xlcmsuZXhhbXBsZS5jb20k", "script": "clerk-1.0.0.js"}}
    assert ISSUER in httpx.get(f"{clerk_server}/portal").headers["content-security-policy"]
    assert httpx.get(f"{server}/portal/config.json").json() == {"clerk": None}
    assert "clerk" not in httpx.get(f"{server}/portal").headers["content-security-policy"]
