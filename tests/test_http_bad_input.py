"""Bad input gets a 4xx in the documented form immediately, and nothing is stored."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyshell.api.routes import uploads
from tests.conftest import Connection
from tests.http_fixtures import OPENAPI, Json, OrganizationClient, address, site
from tests.test_plans import Plans, rows_handled


def post(client: OrganizationClient, content: bytes, content_type: str = "application/json") -> httpx.Response:
    return client.post("/batch-lookups", content=content, headers={"content-type": content_type})


def refused(client: OrganizationClient, content: bytes, status: int = 400, content_type: str = "application/json") -> Json:
    """The body of the refusal, after which nothing is stored."""
    response = post(client, content, content_type)
    assert response.status_code == status, response.text
    body: Json = response.json()
    assert isinstance(body["error"], str)
    assert body["request_id"] == response.headers["x-request-id"]
    assert client.get("/batch-lookups").json()["total"] == 0
    assert client.get("/incentive-reports").json()["total"] == 0
    return body


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"{'items': []}", "invalid_json"),
        (b'{"items": [}', "invalid_json"),
        (b'{"items": []} x', "invalid_json"),
        (b'{"items": [NaN]}', "invalid_json"),
        (b'{"items": "\0"}', "invalid_json"),
        (b'{"items": ["\\ud800"]}', "invalid_json"),
        (b'{"items": ["\\udc00\\ud800"]}', "invalid_json"),
        (b'{"items": ["\\u0000"]}', "unsupported_character"),
        (b'{"items": ["\xff"]}', "invalid_encoding"),
        (b'{"items": ["\xed\xa0\x80"]}', "invalid_encoding"),
        ('{"items": []}'.encode("utf-16"), "invalid_json"),
        (b"[1e400000]", "number_out_of_range"),
        (b"[" + b"9" * 200_000 + b"]", "number_out_of_range"),
        (b"[" * 1_000_000, "body_too_complex"),
        (b'{"a":' * 100_000, "body_too_complex"),
        (b"null", "items_missing"),
        (b"17", "items_missing"),
        (b'"items"', "items_missing"),
        (b"{}", "items_missing"),
        (b'{"items": null}', "items_missing"),
        (b'{"items": {"0": {}}}', "items_missing"),
        (b'{"items": "[]"}', "items_missing"),
        (b'{"items": []}', "invalid_item_count"),
        (b"[]", "invalid_item_count"),
        (json.dumps([site(f"deal-{number:05}") for number in range(10_001)]).encode(), "invalid_item_count"),
        (json.dumps({"items": [site()], "title": "x"}).encode(), "unknown_fields"),
    ],
    ids=lambda value: value[:30].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_a_body_that_is_not_a_batch_is_refused(client: OrganizationClient, content: bytes, code: str) -> None:
    assert refused(client, content)["code"] == code


def test_a_mistake_in_json_is_located(client: OrganizationClient) -> None:
    body = refused(client, b'{"items": [\n  {"reference_id": "deal-001"},\n  {"reference_id": }\n]}')
    assert body["error"] == "The body is not valid JSON"
    assert "line 3" in body["hint"]
    for content in (b"", b" "):
        assert refused(client, content)["hint"] == "The body is empty."


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (site(address=address(city="")), "Missing required fields: address.city"),
        (site(address=address(city="  ")), "Missing required fields: address.city"),
        (site(address=address(city=None)), "Missing required fields: address.city"),
        (site(address=[]), "address must be an object"),
        (site(device_ids=[-1]), "device_ids must be an array of 1 to 100 positive integers"),
        (site(device_ids=[1, 999_999_999]), "Unknown device_ids: 999999999"),
        (site(address=address(county="x")), "Unknown fields: address.county"),
    ],
)  # fmt: skip
def test_an_invalid_item_is_named(client: OrganizationClient, item: Any, error: str) -> None:
    body = refused(client, json.dumps({"items": [site("good"), item]}).encode())
    assert body["error"] == "1 item(s) failed validation"
    assert [(item["index"], item["error"]) for item in body["invalid_items"]] == [(1, error)]
    assert body["total_invalid"] == 1


@pytest.mark.parametrize("reference_id", ["a/b", "änne", "abc\n", "ab", "a" * 257, "a" * 501, 17, True, ["abc"], {}])
def test_a_reference_id_has_a_form(client: OrganizationClient, reference_id: Any) -> None:
    body = refused(client, json.dumps([site(reference_id)]).encode())
    rule = "reference_id must be a string of 3 to 256 characters and use only A-Z, a-z, 0-9 and . _ ~ -"
    assert [(item["index"], item["error"]) for item in body["invalid_items"]] == [(0, rule)]


def test_the_first_hundred_invalid_items_are_named(client: OrganizationClient) -> None:
    body = refused(client, json.dumps([{}] * 10_000).encode())
    assert body["error"] == "10000 item(s) failed validation"
    assert body["total_invalid"] == 10_000
    assert [item["index"] for item in body["invalid_items"]] == list(range(100))


@pytest.mark.parametrize("options", ["", "?dry_run=true", "?on_invalid=skip"])
def test_a_small_request_has_no_large_answer(options: str, client: OrganizationClient) -> None:
    unknown = {f"{number}{'x' * 20}": 1 for number in range(30)}
    items = [site("deal-ok"), *(site(f"deal-{number % 4_000}", **unknown) for number in range(9_999))]
    response = client.post(f"/batch-lookups{options}", json=items)
    assert response.json()["total_invalid"] == 9_999
    assert len(response.json()["invalid_items"]) == 100
    assert len(response.content) < 200_000


BOMB = b"1e131071"


@pytest.mark.parametrize(
    "members",
    [
        b'"device_ids":[%s]' % b",".join([BOMB] * 2_000),
        b'"device_ids":[1],"reference_id":[%s]' % b",".join([BOMB] * 2_000),
        b'"device_ids":[1],"address":{"city":[%s]}' % b",".join([BOMB] * 2_000),
        b'"device_ids":[1],"webhook_custom_fields":{"a":[%s]}' % b",".join([BOMB] * 2_000),
        b'"device_ids":[1],"webhook_custom_fields":{"a":1e16}',
        b'"device_ids":[1],"webhook_custom_fields":{"a":-1E+99}',
        b'"device_ids":[1],"webhook_custom_fields":{"a":1e-00099}',
        b'"device_ids":[1],"webhook_custom_fields":{"a\\\\":1e99,"b":"\\""}',
    ],
    ids=["devices", "reference_id", "city", "custom", "1e16", "-1E+99", "1e-00099", "escapes"],
)
def test_numbers_that_would_be_long_as_text_are_refused(members: bytes, client: OrganizationClient) -> None:
    item = b'{"reference_id":"x-1","building_type":"RESIDENTIAL",%s}' % members
    headers = {"content-encoding": "gzip"}
    for content_type, body in (("application/json", b'{"items":[%s]}' % item), ("application/x-ndjson", item + b"\n" + item)):
        response = client.post("/batch-lookups", content=gzip.compress(body), headers=headers | {"content-type": content_type})
        assert (response.status_code, response.json()["code"]) == (400, "number_out_of_range")
    for method, path in (("POST", "/incentives"), ("PATCH", "/organization"), ("PUT", "/webhook-config"), ("POST", "/api-keys")):
        response = client.request(method, path, content=item, headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["code"]) == (400, "number_out_of_range")


def test_digits_in_a_text_do_not_count_as_a_number(client: OrganizationClient) -> None:
    texts = {"a": "1e131071", "b": '"1e131071', "c": "\\\\", "1e131071": 0, "d": "[" * 100, "e": [0.5, 1e15, 1e-20, -17]}
    client.submit(site(webhook_custom_fields=texts))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_bodies_are_not_nested_deeply(opening: str, closing: str, client: OrganizationClient) -> None:
    def item(depth: int) -> str:
        fields = json.dumps(site(webhook_custom_fields={"a": "HERE"}))
        return fields.replace('"HERE"', opening * depth + "1" + closing * depth)

    # Within the body, the array of items, the item and its field.
    assert post(client, f'{{"items":[{item(60)}]}}'.encode()).status_code == 201
    for body in (f'{{"items":[{item(61)}]}}', f'{{"items":[{item(3_000)}]}}', "[" * 65):
        response = post(client, body.encode())
        assert (response.status_code, response.json()["code"]) == (400, "body_too_complex")
    assert post(client, b'{"items":[' + b"[]," * 100 + b"[]]}").json()["code"] == "invalid_items"


def test_repeated_reference_ids_are_refused(client: OrganizationClient) -> None:
    ids = ["deal-001", "deal-002", "deal-001", "deal-003", "deal-003"]
    body = refused(client, json.dumps([site(reference_id) for reference_id in ids]).encode())
    assert body["error"] == "Duplicate reference_ids found in batch"
    assert body["duplicates"] == ["deal-001", "deal-003"]


def test_repeated_reference_ids_are_told_together_with_other_faults(client: OrganizationClient) -> None:
    body = refused(client, json.dumps([site("deal-001"), site("deal-001"), site("deal-002", device_ids=[])]).encode())
    assert (body["code"], body["total_invalid"], body["duplicates"]) == ("invalid_items", 1, ["deal-001"])
    assert [item["index"] for item in body["invalid_items"]] == [2]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"building_type": 17}, "building_type must be one of RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL"),
        ({"address": address(country_code=True)}, "address.country_code must be US or CA"),
        ({"address": address(state_or_province_code=["CA"])}, 'address.state_or_province_code ["CA"] is not a state or province of US'),
        ({"address": address(postal_code=90012)}, "address.postal_code must be a string of at most 500 characters"),
        ({"address": address(city=17)}, "address.city must be a string of at most 500 characters"),
    ],
)
def test_a_value_of_the_wrong_type_causes_one_error(client: OrganizationClient, changes: Json, error: str) -> None:
    body = refused(client, json.dumps([site(**changes)]).encode())
    assert [(item["index"], item["error"]) for item in body["invalid_items"]] == [(0, error)]


def test_a_body_over_the_limit_is_refused(client: OrganizationClient) -> None:
    assert refused(client, b" " * (20 * 1024 * 1024 + 1), status=413)["code"] == "body_too_large"


def test_a_body_over_the_limit_is_refused_while_it_streams(client: OrganizationClient) -> None:
    response = client.post("/batch-lookups", content=(b" " * 1024 * 1024 for _ in range(24)), headers={"content-type": "application/json"})
    assert response.status_code == 413


@pytest.mark.parametrize("headers", [{}, {"content-encoding": "gzip"}])
def test_a_body_over_the_limit_is_refused_while_it_expands(
    client: OrganizationClient, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_FILE_BYTES", 1000)
    response = client.post("/batch-lookups", content=gzip.compress(b"x" * 1001), headers={"content-type": "text/csv"} | headers)
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b" " * (128 * 1024 + 1), {}, 413, "body_too_large"),
        ([b" " * 64 * 1024] * 3, {}, 413, "body_too_large"),
        (b"{}", {"content-type": "application/json; charset=latin1"}, 415, "unsupported_charset"),
        (gzip.compress(b"{}", mtime=0), {"content-type": "application/json", "content-encoding": "gzip"}, 415, "unsupported_encoding"),
        (b'{"name": "\0"}', {}, 400, "invalid_json"),
    ],
)
def test_a_body_that_is_not_an_upload_must_be_short_and_uncompressed(
    client: OrganizationClient, content: bytes | list[bytes], headers: dict[str, str], status: int, code: str
) -> None:
    response = client.patch("/organization", content=content, headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize("content_type", ["text/html", "application/json; charset=latin1", "text/plain; charset=latin1", "x"])
def test_only_json_is_accepted(client: OrganizationClient, content_type: str) -> None:
    refused(client, json.dumps([site()]).encode(), status=415, content_type=content_type)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("content", [b"items=1", b' \n"a"', b"\xef\xbb\xbf 1", b"\xff"])
def test_text_that_does_not_begin_as_json_is_taken_for_a_file(client: OrganizationClient, content_type: str, content: bytes) -> None:
    # `curl -d` removes the line ends of a file.
    code = "empty_file" if "urlencoded" in content_type and b"\n" not in content else "missing_columns"
    assert refused(client, content, content_type=content_type)["code"] == code


@pytest.mark.parametrize("content_type", [None, "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\r\n\t "])
def test_what_fetch_and_curl_send_by_default_is_json(client: OrganizationClient, content_type: str | None, before: bytes) -> None:
    for body in ([site()], {"items": [site()]}):
        content = before + json.dumps(body).encode()
        response = client.post("/batch-lookups", content=content, headers={"content-type": content_type} if content_type else {})
        assert response.status_code == 201, response.text


def test_a_compressed_body_without_a_content_type_is_json(client: OrganizationClient) -> None:
    content = gzip.compress(b" " * 70_000 + json.dumps([site()]).encode())
    headers = {"content-encoding": "gzip", "content-type": "text/plain"}
    assert client.post("/batch-lookups", content=content, headers=headers).status_code == 201


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, path)
        for path, operations in OPENAPI["paths"].items()
        for method, operation in operations.items()
        if method != "parameters" and "application/json" in operation.get("requestBody", {}).get("content", {})
    ],
)
def test_every_route_accepts_json_without_a_content_type(
    client: OrganizationClient, method: str, path: str, content_type: str | None
) -> None:
    path = re.sub(r"\{\w+\}", "1", path)
    declared = client.request(method, path, content=b'{"no such member": 1}', headers={"content-type": "application/json"})
    undeclared = client.request(
        method, path, content=b' \n{"no such member": 1}', headers={"content-type": content_type} if content_type else {}
    )
    assert undeclared.status_code != 415
    assert (undeclared.status_code, undeclared.json()["code"]) == (declared.status_code, declared.json()["code"])


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd"])
def test_only_gzip_is_expanded(client: OrganizationClient, encoding: str) -> None:
    response = client.post("/batch-lookups", content=b"x", headers={"content-type": "application/json", "content-encoding": encoding})
    assert response.status_code == 415


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["deal-001", "US", "CA", "ON", "90012", "M5V 3L9", "RESIDENTIAL", "\u2028", "'", "\\", "{}", "\U0001f3e0"]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
nearly_addresses = st.fixed_dictionaries({}, optional={name: st.just(value) | anything for name, value in address(street_2="x").items()})
nearly_items = st.fixed_dictionaries(
    {},
    optional={
        name: st.just(value) | anything
        for name, value in site(create_application=True, webhook_custom_fields={"a": 1}).items()
        if name != "address"
    }
    | {"address": nearly_addresses | anything, "note": anything},
)
nearly_batches = st.fixed_dictionaries({"items": st.lists(nearly_items | anything, max_size=3) | anything}) | anything


def never_fails(client: OrganizationClient, database: Connection, content: bytes) -> None:
    """A batch is stored whole or refused with a 4xx, and then nothing of it is stored."""
    count = "select (select count(*) from public.batch_lookup_jobs), (select count(*) from public.lookup_queue_items)"
    before = database.execute(count).fetchone()
    response = post(client, content)
    if response.status_code != 201:
        assert 400 <= response.status_code < 500, response.text
        assert isinstance(response.json()["error"], str)
        assert database.execute(count).fetchone() == before


@given(nearly_batches)
def test_no_json_makes_the_validator_fail(client: OrganizationClient, database: Connection, batch: Any) -> None:
    never_fails(client, database, json.dumps(batch).encode())


@given(st.binary(max_size=200))
def test_no_bytes_make_the_server_fail(client: OrganizationClient, database: Connection, content: bytes) -> None:
    never_fails(client, database, content)


@given(st.text(st.characters(), max_size=50), st.sampled_from(["reference_id", "building_type", "note"]))
def test_no_text_makes_the_validator_fail(client: OrganizationClient, database: Connection, text: str, field: str) -> None:
    never_fails(client, database, json.dumps([site(**{field: text})]).encode())


@given(anything, st.sampled_from(sorted(address(street_2="x"))))
def test_no_url_makes_the_validator_fail(client: OrganizationClient, database: Connection, value: Any, field: str) -> None:
    never_fails(client, database, json.dumps([site(address=address(**{field: value}))]).encode())


@given(st.integers(1, 9000), st.sampled_from([b"[", b'{"a":', b'[{"webhook_custom_fields":', b'[{"device_ids":']))
def test_no_depth_makes_the_server_fail(client: OrganizationClient, database: Connection, depth: int, opening: bytes) -> None:
    closing = {b"[": b"]", b"{": b"}"}
    ends = b"".join(closing[opening[place : place + 1]] for place in reversed(range(len(opening))) if opening[place : place + 1] in closing)
    never_fails(client, database, opening * depth + b"1" + ends * depth)


@given(anything)
def test_nothing_makes_a_lookup_fail(client: OrganizationClient, request_body: Any) -> None:
    response = client.post("/incentives", json=request_body)
    assert response.status_code < 500, response.text


def test_problems_are_scanned_once_and_not_for_each_group(shared_owner: Connection) -> None:
    def rows(fields: int) -> float:
        query = """
            select app.problem_groups(i.items, false, null, null)
              from (select array_agg(row(n, null, null, null, null, null, null, null, p.problems, null, null)::app.batch_item) as items
                      from generate_series(1, 1000) n,
                           (select array_agg(app.problem('f' || mod(k, %(fields)s), 'unknown_field', '1')) as problems
                              from generate_series(1, 100) k) p) i"""
        [(groups,)], plans = Plans(shared_owner).run(query, {"fields": fields})
        assert len(groups) == fields
        return rows_handled(plans)

    assert rows(100) < 2 * rows(1)
