"""Reports shared by links: readable without a credential, but not without the link, and not after it has expired or was revoked."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from python_calamine import CalamineWorkbook

from pyshell import logs
from pyshell.api import api_keys
from pyshell.api.routes import shares
from tests.conftest import Connection
from tests.http_fixtures import UNKNOWN_ID, Json, NewClient, OrganizationClient, check_against_openapi, lines_until_the_end, look_up, site
from tests.test_http_reports import answer

FILES = ("", "/csv", "/xlsx")
addresses = (f"10.0.{n // 250}.{n % 250 + 1}" for n in itertools.count())


@pytest.fixture
def stranger(server: str) -> Iterator[httpx.Client]:
    """A client without a credential, at an address of its own."""
    hooks: dict[str, list[Any]] = {"response": [check_against_openapi]}
    with httpx.Client(base_url=server, event_hooks=hooks, headers={"x-forwarded-for": next(addresses)}, timeout=30) as client:
        yield client


@pytest.fixture
def report(client: OrganizationClient, database: Connection) -> str:
    """The path of a report of two sites, one of which failed."""
    created = client.submit(site("deal-001"), site("deal-002"))
    look_up(database, created, 1, answer(1234.5))
    look_up(database, created, 1, {"error": "No program covers this address"}, status=404)
    return f"/incentive-reports/{created['report']['id']}"


def shared(client: OrganizationClient, report: str, **options: object) -> Json:
    response = client.post(f"{report}/share", json=options)
    assert response.status_code == 201, response.text
    made: Json = response.json()
    return made


def test_a_link_leads_to_the_page_and_the_files_without_a_credential(
    client: OrganizationClient, report: str, stranger: httpx.Client
) -> None:
    link = shared(client, report)
    assert list(link) == ["id", "report_id", "created_by", "created_at", "expires_at", "token", "url"]
    assert link["report_id"] in report
    assert link["url"] == str(client.base_url.join(f"/shared-reports/{link['token']}"))
    lasts = datetime.fromisoformat(link["expires_at"]) - datetime.fromisoformat(link["created_at"])
    assert lasts == timedelta(days=30)

    page = stranger.get(link["url"])
    assert page.status_code == 200
    assert "$1,234" in page.text or "$1,235" in page.text
    assert "No program covers this address" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]

    [row] = csv.DictReader(io.StringIO(stranger.get(f"{link['url']}/csv").text, newline=""))
    assert (row["reference_id"], row["total_incentive_amount"]) == ("deal-001", "1234.50")
    [header, cells] = (
        CalamineWorkbook.from_filelike(io.BytesIO(stranger.get(f"{link['url']}/xlsx").content)).get_sheet_by_index(0).to_python()
    )
    assert dict(zip(header, cells, strict=True))["total_incentive_amount"] == 1234.5
    assert dict(zip(header, cells, strict=True))["postal_code"] == "90012"


@pytest.mark.parametrize("file", FILES)
def test_shared_pages_are_kept_out_of_search_engines_and_caches(
    client: OrganizationClient, report: str, stranger: httpx.Client, file: str
) -> None:
    path = f"/shared-reports/{shared(client, report)['token']}{file}"
    for response in (stranger.get(path), stranger.get(f"/shared-reports/x{file}")):
        assert response.headers["x-robots-tag"] == "noindex, nofollow"
        assert response.headers.get_list("referrer-policy") == ["no-referrer"]
        assert response.headers["cache-control"] == "private, no-store"


@pytest.mark.parametrize("file", FILES)
def test_no_answer_reveals_why_a_link_does_not_work(
    client: OrganizationClient, report: str, stranger: httpx.Client, database: Connection, file: str
) -> None:
    expired, revoked = shared(client, report), shared(client, report)
    database.execute(
        "update app.report_shares set created_at = now() - interval '2 days', expires_at = now() - interval '1 second' where id = %s",
        [expired["id"]],
    )
    assert client.delete(f"{report}/share/{revoked['id']}").json() == {"message": "Link revoked successfully", "id": revoked["id"]}
    tokens = [expired["token"], revoked["token"], api_keys.generate(api_keys.SHARE), api_keys.generate(), "x", client.api_key]
    answers = [stranger.get(f"/shared-reports/{token}{file}", headers={"x-request-id": "the-same"}) for token in tokens]
    assert {(response.status_code, response.content) for response in answers} == {(404, answers[0].content)}
    assert answers[0].json()["code"] == "shared_report_not_found"
    assert len({tuple(sorted(set(response.headers) - {"date"})) for response in answers}) == 1


def test_links_are_listed_without_their_tokens_until_they_end(client: OrganizationClient, report: str) -> None:
    links = [shared(client, report, expires_in_days=days) for days in (1, 365)]
    listed = client.get(f"{report}/share").json()["shares"]
    assert listed == [{name: link[name] for name in link.keys() - {"token", "url"}} for link in reversed(links)]
    assert listed[0]["created_by"] == client.get("/me").json()["caller"]["id"]
    client.delete(f"{report}/share/{links[0]['id']}")
    assert [link["id"] for link in client.get(f"{report}/share").json()["shares"]] == [links[1]["id"]]
    again = client.delete(f"{report}/share/{links[0]['id']}")
    assert (again.status_code, again.json()["code"]) == (404, "share_not_found")
    assert client.delete(f"{report}/share/x").status_code == 404


def test_the_links_of_a_report_are_deleted_with_it(client: OrganizationClient, report: str, stranger: httpx.Client) -> None:
    link = shared(client, report)
    assert stranger.get(link["url"]).status_code == 200
    client.delete(report)
    assert stranger.get(link["url"]).status_code == 404


def test_a_link_outlives_the_job(client: OrganizationClient, report: str, stranger: httpx.Client) -> None:
    link = shared(client, report)
    client.delete(f"/batch-lookups/{client.get(report).json()['job_id']}")
    assert stranger.get(link["url"]).status_code == 200


def test_a_download_ends_when_its_link_is_revoked(client: OrganizationClient, database: Connection, stranger: httpx.Client) -> None:
    created = client.submit(site())
    look_up(database, created, 1, answer(5))
    report = created["report"]["id"]
    # As many sites as possible, with texts so long that the download is still going on when the link ends.
    database.execute(
        """insert into public.incentive_report_sites
           select (jsonb_populate_record(s, jsonb_build_object('position', n, 'item_id', gen_random_uuid(), 'reference_id', r.long))).*
             from public.incentive_report_sites s, generate_series(1, 9999) n, repeat('x', 5000) r (long)
            where s.report_id = %s""",
        [report],
    )
    link = shared(client, f"/incentive-reports/{report}")
    revoke = partial(client.delete, f"/incentive-reports/{report}/share/{link['id']}")
    assert 0 < lines_until_the_end(stranger, f"/shared-reports/{link['token']}/csv", revoke) < 10_000


@pytest.mark.parametrize("body", [{"expires_in_days": 0}, {"expires_in_days": 366}, {"expires_in_days": "7"}, {"days": 7}, []])
def test_a_link_needs_a_valid_expiry(client: OrganizationClient, report: str, body: Any) -> None:
    assert client.post(f"{report}/share", json=body).status_code == 400
    assert client.get(f"{report}/share").json() == {"shares": []}


def test_no_other_organization_creates_sees_or_revokes_links(client: OrganizationClient, report: str, new_client: NewClient) -> None:
    other, link = new_client(), shared(client, report)
    for response in (
        other.post(f"{report}/share"),
        other.get(f"{report}/share"),
        other.delete(f"{report}/share/{link['id']}"),
        client.post(f"/incentive-reports/{UNKNOWN_ID}/share"),
    ):
        assert (response.status_code, response.json()["code"]) == (404, "report_not_found")
    mine = f"/incentive-reports/{other.submit()['report']['id']}"
    assert other.delete(f"{mine}/share/{link['id']}").json()["code"] == "share_not_found"
    assert len(client.get(f"{report}/share").json()["shares"]) == 1


def test_reading_does_not_include_sharing(client: OrganizationClient, report: str) -> None:
    reader = {"x-api-key": client.post("/api-keys", json={"scopes": ["reports:read"]}).json()["key"]}
    assert client.get(f"{report}/share", headers=reader).status_code == 200
    refused = client.post(f"{report}/share", headers=reader)
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")


def test_followers_of_links_are_limited_by_their_address(client: OrganizationClient, report: str, stranger: httpx.Client) -> None:
    path = f"/shared-reports/{shared(client, report)['token']}/csv"
    first = stranger.get(path)
    assert first.headers["ratelimit-policy"] == f'"requests";q={shares.REQUESTS_PER_MINUTE};w=60'
    answers = [stranger.get("/shared-reports/x") for _ in range(shares.REQUESTS_PER_MINUTE)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) <= 60
    assert stranger.get(path, headers={"x-forwarded-for": next(addresses)}).status_code == 200


def test_a_link_followed_from_many_addresses_is_limited_too(
    client: OrganizationClient, report: str, stranger: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "REQUESTS_PER_MINUTE_OF_A_LINK", 3)
    path = f"/shared-reports/{shared(client, report)['token']}"
    statuses = [stranger.get(path, headers={"x-forwarded-for": next(addresses)}).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]


def test_the_database_stores_no_token(client: OrganizationClient, report: str, database: Connection) -> None:
    token = shared(client, report)["token"]
    [(row,)] = database.execute("select to_jsonb(s)::text from app.report_shares s order by created_at desc limit 1").fetchall()
    assert token not in row
    assert shares.hash_token(token).hex() in row
    assert logs.without_secrets(f'{{"path": "/shared-reports/{token}/csv"}}') == '{"path": "/shared-reports/leap_share_***/csv"}'
