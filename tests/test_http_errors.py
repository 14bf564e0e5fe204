"""Which responses errors of the database become."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from pyshell.api.error_responses import from_database
from pyshell.api.errors import ApiError
from pyshell.settings import Settings
from tests.conftest import Connection, waiting_for_locks
from tests.http_fixtures import Json, OrganizationClient, site
from tests.timed import wait_until


def answer_to(database: Connection, statement: str) -> ApiError:
    with pytest.raises(psycopg.Error) as raised:
        database.execute(statement.encode())
    return from_database(raised.value)


@pytest.mark.parametrize(
    ("state", "status", "code"),
    [
        ("23505", 409, "already_exists"),
        ("23503", 409, "in_use"),
        ("23514", 400, "invalid_value"),
        ("23502", 400, "invalid_value"),
        ("40001", 503, "busy"),
        ("40P01", 503, "busy"),
        ("55P03", 503, "busy"),
        ("53300", 503, "database_unavailable"),
        ("57014", 503, "timeout"),
        ("57P01", 503, "database_unavailable"),
        ("57P03", 503, "database_unavailable"),
        ("08006", 503, "database_unavailable"),
        ("42P01", 500, "internal_error"),
        ("XX000", 500, "internal_error"),
        ("P0001", 500, "internal_error"),
    ],
)
def test_an_sqlstate_becomes_an_error_that_reveals_nothing(shared_owner: Connection, state: str, status: int, code: str) -> None:
    error = answer_to(
        shared_owner, f"do $$ begin raise sqlstate '{state}' using message = 'secret', detail = 'secret', hint = 'secret'; end $$"
    )
    assert (error.status, error.code, error.hint) == (status, code, None)
    assert "secret" not in error.message
    assert dict(error.headers) == ({"Retry-After": "1"} if status == 503 else {})


def test_what_our_functions_raise_is_passed_on(shared_owner: Connection) -> None:
    error = answer_to(
        shared_owner,
        """do $$ begin raise sqlstate 'PT409' using
           message = 'Taken', hint = 'Wait', detail = '{"by": [1]}', constraint = 'is_free'; end $$""",
    )
    assert (error.status, error.message, error.code, error.hint, error.members) == (409, "Taken", "is_free", "Wait", {"by": [1]})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"a":', "invalid_json"),
        ('"\\u0000"', "unsupported_character"),
        ("1e999999", "number_out_of_range"),
        ("[" * 100_000, "body_too_complex"),
    ],
)
def test_a_body_that_postgresql_cannot_read_is_a_client_error(shared_owner: Connection, text: str, code: str) -> None:
    error = answer_to(shared_owner, f"select '{text}'::jsonb")
    assert (error.status, error.code) == (400, code)


def test_a_wrong_value_within_a_function_is_a_server_error(shared_owner: Connection) -> None:
    error = answer_to(shared_owner, "do $$ begin perform 'x'::integer; end $$")
    assert (error.status, error.code) == (500, "internal_error")


def test_a_refusal_that_a_node_passed_on_keeps_its_code(shared_owner: Connection) -> None:
    """Citus passes on the detail of another node's error, but not the name of the constraint."""
    detail = '{"code": "job_not_found", "job": 1}'
    error = answer_to(
        shared_owner, f"do $$ begin raise sqlstate 'PT404' using message = 'Batch job not found', detail = '{detail}'; end $$"
    )
    assert (error.status, error.code, error.message, error.members) == (404, "job_not_found", "Batch job not found", {"job": 1})


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param("POST", "/batch-lookups", {"items": [site()]}, id="batch"),
        pytest.param("POST", "/uploads", [site()], id="draft"),
        pytest.param("POST", "/incentives", site() | {"operation_type": "lookup"}, id="lookup"),
        pytest.param("PUT", "/webhook-config", {"url": "https://example.com/hook"}, id="webhooks"),
    ],
)
def test_an_organization_that_is_deleted_while_a_request_runs_is_not_found(
    client: OrganizationClient, database: Connection, http_settings: Settings, method: str, path: str, body: Json
) -> None:
    with ThreadPoolExecutor(1) as executor, psycopg.connect(http_settings.database_url) as other:
        other.execute("select api.delete_organization(id) from app.organizations where name = %s", [client.organization])
        request = executor.submit(
            httpx.request, method, client.base_url.join(path), json=body, headers={"x-api-key": client.api_key}, timeout=30
        )
        wait_until(lambda: request.done() or waiting_for_locks(database, "batch-lookups"))
        other.commit()
        answer = request.result()
    assert (answer.status_code, answer.json()["code"]) == (404, "organization_not_found"), answer.text
