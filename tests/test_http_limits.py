"""How many requests a credential may make, and how much an organization may have open."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import psycopg
import pytest

from pyshell.api import api_keys, authentication, limits
from pyshell.api.counts import MAX_WINDOWS, OwnWindows
from pyshell.api.limits import RequestLimiter
from pyshell.postgres.pool import MAX_CONNECTIONS, statements_per_organization
from pyshell.settings import Settings
from tests.conftest import Connection, waiting_for_locks
from tests.http_fixtures import PEPPER, NewClient, OrganizationClient, organization_of, running_server, site
from tests.timed import set_monotonic, wait_until


@pytest.fixture
def change_settings(database: Connection) -> Callable[..., None]:
    def change(**changes: object) -> None:
        database.execute("select api.update_settings(%s)", [json.dumps(changes)])

    return change


def test_an_answer_says_how_many_requests_are_left(client: OrganizationClient) -> None:
    for number in range(1, 4):
        response = client.get("/batch-lookups")
        assert response.headers["ratelimit-policy"] == '"requests";q=120000;w=60'
        remaining = re.fullmatch(r'"requests";r=(\d+);t=(\d+)', response.headers["ratelimit"])
        assert remaining
        assert int(remaining[1]) == 120_000 - number
        assert 0 < int(remaining[2]) <= 60
    # Errors too.
    assert "ratelimit" in client.get("/batch-lookups?limit=0").headers


def test_too_many_requests_are_refused(server: str, change_settings: Callable[..., None], client: OrganizationClient) -> None:
    change_settings(requests_per_minute=3)
    assert [client.get("/batch-lookups").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    response = client.get("/batch-lookups")
    assert response.json()["code"] == "too_many_requests"
    assert 0 < int(response.headers["retry-after"]) <= 60
    assert response.headers["ratelimit"].startswith('"requests";r=0;t=')
    # Unknown credentials are not counted.
    assert httpx.get(f"{server}/batch-lookups").status_code == 401
    assert "ratelimit" not in httpx.get(f"{server}/healthz").headers


def test_without_a_limit_no_headers_are_sent(change_settings: Callable[..., None], client: OrganizationClient) -> None:
    change_settings(requests_per_minute=None)
    assert "ratelimit" not in client.get("/batch-lookups").headers


def test_a_limit_concerns_one_credential() -> None:
    limiter = RequestLimiter()
    assert limiter.count("a", 1)[1] is None
    assert limiter.count("a", 1)[1] is not None
    assert limiter.count("b", 1)[1] is None


@pytest.mark.parametrize(("settings", "allowed"), [({}, 12), ({"organization_requests_per_minute": 4}, 4)])
def test_a_limit_concerns_an_organization_too(
    change_settings: Callable[..., None],
    client: OrganizationClient,
    new_client: NewClient,
    http_settings: Settings,
    settings: dict[str, int],
    allowed: int,
) -> None:
    keys = [client.post("/api-keys", json={"name": str(number)}).json()["key"] for number in range(6)]
    # Another process, which has not counted anything yet.
    with running_server(http_settings) as url:
        change_settings(requests_per_minute=3, **settings)
        statuses = [httpx.get(f"{url}/batch-lookups", headers={"x-api-key": key}).status_code for key in keys for _ in range(3)]
        other = httpx.get(f"{url}/batch-lookups", headers={"x-api-key": new_client().api_key})
    assert sorted(statuses) == [200] * allowed + [429] * (len(statuses) - allowed)
    assert other.status_code == 200


def test_an_organization_can_have_a_limit_where_its_keys_have_none(
    change_settings: Callable[..., None], client: OrganizationClient, http_settings: Settings
) -> None:
    with running_server(http_settings) as url:
        change_settings(requests_per_minute=None, organization_requests_per_minute=2)
        answers = [httpx.get(f"{url}/batch-lookups", headers={"x-api-key": client.api_key}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"requests";q=2;w=60'


def test_unknown_keys_of_an_address_have_a_limit(
    database: Connection, http_settings: Settings, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "UNKNOWN_KEYS_PER_MINUTE", 3)
    known, new = new_client(), new_client()
    with running_server(http_settings) as url:

        def status(key: str, address: str = "198.51.100.1") -> int:
            return httpx.get(f"{url}/batch-lookups", headers={"x-api-key": key, "x-forwarded-for": address}).status_code

        assert status(known.api_key) == 200
        assert [status(api_keys.generate()) for _ in range(5)] == [401, 401, 401, 429, 429]
        # Known keys still work; other keys are looked up only from another address.
        assert (status(known.api_key), status(new.api_key), status(new.api_key, "198.51.100.2")) == (200, 429, 200)
        assert status(api_keys.generate(), "198.51.100.2") == 401
        # A key that is no longer valid counts as unknown.
        [organization_id] = database.execute("select id from app.organizations where name = %s", [known.organization]).fetchone() or [None]
        revoke = "select api.revoke_api_key(organization_id, id) from app.api_keys where organization_id = %s"
        assert database.execute(revoke, [organization_id]).rowcount == 1
        wait_until(lambda: status(known.api_key) == 401)
        assert status(known.api_key) == 429


def test_an_organization_has_a_share_of_the_connections(
    database: Connection, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = new_client(), new_client()
    job = one.submit()
    calls = 2 * statements_per_organization(MAX_CONNECTIONS)
    with database.transaction(), ThreadPoolExecutor(calls) as executor:
        database.execute(
            "select from public.batch_lookup_jobs where organization_id = %s and id = %s for update",
            [organization_of(database, job), job["job_id"]],
        )
        waiting: list[Future[httpx.Response]] = []

        def blocked() -> int:
            with psycopg.connect(database.info.dsn, password=database.info.password, autocommit=True) as observer:
                return len(waiting_for_locks(observer, "cancel_batch_lookup"))

        def all_are_blocked() -> bool:
            # On a busy machine, the server may not open as many connections before the first calls give up.
            waiting[:] = [call for call in waiting if not call.done()]
            waiting.extend(executor.submit(one.post, f"/batch-lookups/{job['job_id']}/cancel") for _ in range(calls - len(waiting)))
            return blocked() == statements_per_organization(MAX_CONNECTIONS)

        wait_until(all_are_blocked)
        assert other.get("/batch-lookups").status_code == 200
        assert 0 < blocked() <= statements_per_organization(MAX_CONNECTIONS)
        database.execute("rollback")
    assert sorted(future.result().status_code for future in waiting)[0] == 200


def test_a_minute_later_the_counts_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = RequestLimiter()
    limiter.count("a", 1)
    now = time.monotonic()
    set_monotonic(monkeypatch, limits, lambda: now + 61)
    assert limiter.count("a", 1)[1] is None


def test_the_limiter_keeps_a_bounded_number_of_counts() -> None:
    windows = OwnWindows()
    limiter = RequestLimiter(windows)
    for who in range(MAX_WINDOWS + 100):
        limiter.count(who, 1)
    assert len(windows) == MAX_WINDOWS
    assert limiter.count(MAX_WINDOWS, 1)[1] is not None


def test_an_organization_may_have_so_many_items_open(change_settings: Callable[..., None], client: OrganizationClient) -> None:
    change_settings(max_open_items=5)
    first = client.submit(*(site(f"deal-{number}") for number in range(3)))
    response = client.post("/batch-lookups", json=[site(f"deal-{number}") for number in range(3)])
    assert (response.status_code, response.json()["code"]) == (429, "too_many_open_items")
    assert response.json()["error"] == "With this batch, the organization would have 6 unfinished items; the limit is 5"
    assert (response.json()["open_items"], response.json()["max_open_items"]) == (6, 5)
    assert response.headers["retry-after"] == "60"
    client.submit(site("deal-1"), site("deal-2"))
    client.post(f"/batch-lookups/{first['job_id']}/cancel")
    client.submit(*(site(f"deal-{number}") for number in range(3)))


def test_the_cap_holds_against_many_uploads_at_once(new_database: Callable[..., str]) -> None:
    database_url = new_database()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("""select api.update_settings('{"max_open_items": 100}')""")
    with running_server(Settings(database_url=database_url, api_key_pepper=PEPPER)) as url, OrganizationClient(url, database_url) as client:
        batch = [site(f"deal-{number}") for number in range(30)]
        with ThreadPoolExecutor(8) as executor:
            statuses = list(executor.map(lambda _: client.post("/batch-lookups", json=batch).status_code, range(12)))
    assert sorted(statuses) == [201] * 3 + [429] * 9
