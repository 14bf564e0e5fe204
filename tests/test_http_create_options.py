"""New batches in a dry run, without invalid items, with a name, or with an idempotency key."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from pyshell.api.routes.batch_lookups import fingerprint
from pyshell.api.routes.uploads import Upload
from tests.conftest import Connection, waiting_for_locks
from tests.http_fixtures import Json, NewClient, OrganizationClient, address, site
from tests.timed import wait_until

INVALID = [site("deal-002", device_ids=[]), site("deal-001"), site("deal-003", address=address(postal_code="10001"))]
NO_DEVICES = "device_ids must be an array of 1 to 100 positive integers"
REPEATED = "Duplicate reference_id deal-001, as at index 1"
ELSEWHERE = "address.postal_code 10001 does not lie in CA"
WARNING = {
    "field": "address.postal_code",
    "column": None,
    "code": "postal_code_not_in_state",
    "message": ELSEWHERE,
    "was": "10001",
    "now": "10001",
}


def problem(field: str, code: str, message: str, value: str) -> Json:
    return {"field": field, "column": None, "code": code, "message": message, "value": value, "suggestion": None}


def total(client: OrganizationClient) -> int:
    count: int = client.get("/batch-lookups").json()["total"]
    return count


@pytest.mark.parametrize("in_body", [False, True])
class TestADryRun:
    def run(self, client: OrganizationClient, in_body: bool, items: list[Json], **options: Any) -> Json:
        options["dry_run"] = True
        response = client.post("/batch-lookups", json={"items": items} | (options if in_body else {}), params={} if in_body else options)
        assert response.status_code == 200, response.text
        assert total(client) == 0
        report: Json = response.json()
        return report

    def test_says_all_that_is_wrong(self, client: OrganizationClient, in_body: bool) -> None:
        report = self.run(client, in_body, [site("deal-001"), *INVALID])
        assert report == {
            "dry_run": True,
            "valid": False,
            "total_items": 4,
            "valid_items": 3,
            "total_invalid": 1,
            "invalid_items": [
                {"index": 1, "error": NO_DEVICES, "problems": [problem("device_ids", "invalid_device_ids", NO_DEVICES, "[]")]}
            ],
            "duplicates": ["deal-001"],
            "warnings": [{"index": 3, "reference_id": "deal-003", "warnings": [ELSEWHERE], "details": [WARNING]}],
            "total_warnings": 1,
            "problem_groups": [
                {
                    "field": "device_ids",
                    "code": "invalid_device_ids",
                    "count": 1,
                    "examples": [{"position": 1, "line": None, "value": "[]", "message": NO_DEVICES}],
                }
            ],
            "warning_groups": [
                {
                    "field": "address.postal_code",
                    "code": "postal_code_not_in_state",
                    "count": 1,
                    "examples": [{"position": 3, "line": None, "value": "10001", "message": ELSEWHERE}],
                }
            ],
            "lookups": 3,
            "known_already": 0,
            "estimated_duration_seconds": report["estimated_duration_seconds"],
            "columns": [],
            "notes": [],
        }

    def test_says_which_items_would_be_left_out(self, client: OrganizationClient, in_body: bool) -> None:
        report = self.run(client, in_body, [site("deal-001"), *INVALID], on_invalid="skip")
        assert (report["valid"], report["valid_items"]) == (True, 2)
        assert [problem["index"] for problem in report["invalid_items"]] == [1, 2]

    def test_finds_nothing_wrong_with_a_good_batch(self, client: OrganizationClient, in_body: bool) -> None:
        report = self.run(client, in_body, [site(f"deal-{number:03}") for number in range(200)])
        assert (report["valid"], report["total_invalid"], report["warnings"]) == (True, 0, [])


class TestSkipping:
    def test_stores_the_valid_items_and_names_the_others(self, client: OrganizationClient) -> None:
        response = client.post("/batch-lookups", json=[*INVALID, site("deal-001")], params={"on_invalid": "skip"})
        created = response.json()
        assert response.status_code == 201
        assert list(created)[:6] == ["job_id", "status", "total_items", "created_at", "report", "message"]
        assert (created["total_items"], created["total_invalid"]) == (2, 2)
        assert created["invalid_items"] == [
            {"index": 0, "error": NO_DEVICES, "problems": [problem("device_ids", "invalid_device_ids", NO_DEVICES, "[]")]},
            {"index": 3, "error": REPEATED, "problems": [problem("reference_id", "duplicate_reference_id", REPEATED, "deal-001")]},
        ]
        items = client.get(f"/batch-lookups/{created['job_id']}/items").json()
        assert [item["reference_id"] for item in items["items"]] == ["deal-001", "deal-003"]
        second = client.get(f"/batch-lookups/{created['job_id']}/items?offset=1").json()
        assert [item["reference_id"] for item in second["items"]] == ["deal-003"]

    def test_of_all_items_is_refused(self, client: OrganizationClient) -> None:
        response = client.post("/batch-lookups", json={"items": [{}, {}], "on_invalid": "skip"})
        assert (response.status_code, response.json()["total_invalid"]) == (400, 2)
        assert total(client) == 0

    def test_is_not_the_default(self, client: OrganizationClient) -> None:
        response = client.post("/batch-lookups", json={"items": [site(), {}], "on_invalid": "reject"})
        assert (response.status_code, response.json()["code"]) == (400, "invalid_items")
        assert client.submit()["total_invalid"] == 0


def test_a_name_is_shown_with_the_job_and_its_report(client: OrganizationClient) -> None:
    created = client.post("/batch-lookups", json={"items": [site()], "name": "Spring campaign"}).json()
    assert created["report"]["name"] == "Spring campaign"
    assert client.get(f"/batch-lookups/{created['job_id']}").json()["name"] == "Spring campaign"
    assert client.post("/batch-lookups?name=Beside", json={"items": [site()], "name": "In it"}).json()["report"]["name"] == "Beside"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"name": ""}, "invalid_name"),
        ({"name": " "}, "invalid_name"),
        ({"name": "x" * 201}, "invalid_name"),
        ({"on_invalid": "ignore"}, "invalid_on_invalid"),
        ({"dry_run": "perhaps"}, "invalid_dry_run"),
    ],
)
def test_a_wrong_option_is_named(client: OrganizationClient, options: Json, code: str) -> None:
    beside = client.post("/batch-lookups", json=[site()], params=options)
    assert (beside.status_code, beside.json()["code"]) == (400, code)
    inside = client.post("/batch-lookups", json={"items": [site()]} | options)
    assert (inside.status_code, inside.json()["code"]) == (400, code)
    assert total(client) == 0


@pytest.mark.parametrize("path", ["/batch-lookups", "/uploads"])
class TestAnIdempotencyKey:
    """Of a new batch, and of a new draft."""

    def post(self, client: OrganizationClient, path: str, key: str, items: Any = None, **params: Any) -> httpx.Response:
        return client.post(path, json=[site()] if items is None else items, params=params, headers={"idempotency-key": key})

    def made(self, client: OrganizationClient, path: str) -> int:
        count: int = client.get(path).json()["total"]
        return count

    def test_makes_a_repeated_request_answer_the_same_and_do_nothing(self, client: OrganizationClient, path: str) -> None:
        first, second = self.post(client, path, "upload-1"), self.post(client, path, "upload-1")
        assert first.status_code == second.status_code == 201
        assert first.content == second.content
        assert "idempotency-replayed" not in first.headers
        assert second.headers["idempotency-replayed"] == "true"
        assert self.made(client, path) == 1
        assert self.post(client, path, "upload-2").content != first.content
        assert self.made(client, path) == 2

    def test_belongs_to_one_request(self, client: OrganizationClient, path: str) -> None:
        self.post(client, path, "upload-1")
        others = (
            self.post(client, path, "upload-1", [site("deal-002")]),
            self.post(client, path, "upload-1", name="x"),
            self.post(client, path, "upload-1", reuse_max_age_days=30),
        )
        for other in others:
            assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert self.made(client, path) == 1

    def test_belongs_to_one_route(self, client: OrganizationClient, path: str) -> None:
        [elsewhere] = {"/batch-lookups", "/uploads"} - {path}
        self.post(client, elsewhere, "upload-1")
        response = self.post(client, path, "upload-1")
        assert (response.status_code, response.headers.get("idempotency-replayed")) == (201, None)
        assert self.made(client, path) == 1

    def test_belongs_to_one_organization(self, new_client: NewClient, path: str) -> None:
        one, other = new_client(), new_client()
        first, second = self.post(one, path, "upload-1"), self.post(other, path, "upload-1")
        assert (second.status_code, second.headers.get("idempotency-replayed")) == (201, None)
        assert first.content != second.content
        assert self.made(one, path) == self.made(other, path) == 1

    def test_of_a_refused_request_can_be_used_again(self, client: OrganizationClient, path: str) -> None:
        assert self.post(client, path, "upload-1", []).status_code == 400
        assert self.post(client, path, "upload-1").status_code == 201

    def test_is_forgotten_after_a_week(self, client: OrganizationClient, database: Connection, path: str) -> None:
        first = self.post(client, path, "upload-1")
        age = "update app.idempotency_keys set created_at = now() - interval '7 days 1 second' where organization_id = %s"
        organization_id = client.get("/organization").json()["id"]
        database.execute(age, [organization_id])
        assert self.post(client, path, "upload-1").content != first.content
        database.execute(age, [organization_id])
        database.execute("select app.run_maintenance()")
        assert database.execute("select from app.idempotency_keys where organization_id = %s", [organization_id]).fetchone() is None

    @pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\x80\xff"])
    def test_has_a_form(self, client: OrganizationClient, path: str, key: str) -> None:
        response = client.post(path, json=[site()], headers={b"idempotency-key": key.encode("latin-1")})
        assert (response.status_code, response.json()["code"]) == (400, "invalid_idempotency_key")
        assert self.made(client, path) == 0

    def test_is_given_once(self, client: OrganizationClient, path: str) -> None:
        """A proxy that adds one of its own must not decide which of them counts."""
        response = client.post(path, json=[site()], headers=[("idempotency-key", "upload-1"), ("idempotency-key", "upload-2")])
        assert (response.status_code, response.json()["code"]) == (400, "invalid_idempotency_key")
        assert self.made(client, path) == 0

    def test_of_many_requests_at_once_creates_one_batch(self, client: OrganizationClient, path: str) -> None:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: self.post(client, path, "upload-1"), range(16)))
        assert {answer.status_code for answer in answers} <= {201, 409}
        assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
        assert self.made(client, path) == 1

    def test_of_a_request_in_progress_is_a_conflict(
        self, client: OrganizationClient, new_client: NewClient, held: Connection, database: Connection, path: str
    ) -> None:
        table = {"/batch-lookups": "batch_lookup_jobs", "/uploads": "lookup_uploads"}[path]
        held.execute(f"lock table public.{table} in share row exclusive mode")
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(self.post, client, path, "upload-1")
            wait_until(lambda: len(waiting_for_locks(database, 'api."submit_')) == 1)
            second = self.post(client, path, "upload-1")
            assert (second.status_code, second.json()["code"]) == (409, "request_in_progress")
            # The key of another organization is another one: its request comes as far as the first.
            other = pool.submit(self.post, new_client(), path, "upload-1")
            wait_until(lambda: len(waiting_for_locks(database, 'api."submit_')) == 2)
            held.rollback()
            answers = [first.result(), other.result(), self.post(client, path, "upload-1")]
        assert [answer.status_code for answer in answers] == [201, 201, 201]
        assert answers[0].content == answers[2].content != answers[1].content
        assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, None, "true"]
        assert self.made(client, path) == 1

    @pytest.fixture
    def held(self, database: Connection) -> Iterator[Connection]:
        """A connection whose transaction is not committed."""
        with psycopg.connect(database.info.dsn, password=database.info.password) as connection:
            yield connection
            connection.rollback()


def test_an_idempotency_key_is_free_after_a_dry_run(client: OrganizationClient) -> None:
    def post(**params: Any) -> httpx.Response:
        return client.post("/batch-lookups", json=[site()], params=params, headers={"idempotency-key": "upload-1"})

    assert post(dry_run=True).status_code == 200
    assert "idempotency-replayed" not in post(dry_run=True).headers
    assert post().status_code == 201


def test_hashing_a_large_file_does_not_copy_it() -> None:
    upload = Upload(None, json.dumps([["Straße", "Zürich"]] * 100_000, ensure_ascii=False))
    whole = "\0".join([json.dumps({"name": "x"}), "", upload.file or ""]).encode()
    tracemalloc.start()
    try:
        hashed = fingerprint({"name": "x"}, upload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert hashed == hashlib.sha256(whole).digest(), "a request from before a new release is known"
    assert peak < len(whole) / 4
