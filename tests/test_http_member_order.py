"""Members in the documented order, numbers digit for digit, and one style of white space, wherever an answer holds JSON."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pyshell.postgres.compact import compact
from tests.conftest import Connection
from tests.http_fixtures import Json, OrganizationClient, address, look_up, site

ADDRESS = ["street_1", "street_2", "city", "state_or_province_code", "postal_code", "country_code"]
UTILITY = ["eiaid", "name"]
RESULT = ["customer_id", "reference_id", "address", "building_type", "utility", "possible_utilities", "programs_evaluated", "incentives"]
INCENTIVES = ["total_incentive_amount", "total_eligible_combinations", "by_program"]
PROGRAM = ["program_id", "program_name", "total_incentive", "eligible_combinations", "device_tier_results"]
TIER = [
    "device_id",
    "device_name",
    "tier_id",
    "tier_name",
    "eligible",
    "incentive_amount",
    "calculation_details",
    "failed_requirements",
    "ignored_requirements",
    "completed_requirements",
]
JOB = ["id", "organization_id", "status", "total_items", "processed_items", "failed_items", "report_id", "created_at", "started_at"]

# In an order that our code would not produce, with numbers that our libraries would write differently.
ANSWER = r"""{"zeta" : 1.50, "incentives":{"by_program":[], "total_incentive_amount" : 1250.0,
  "total_eligible_combinations": 1}, "utility": {"name": "U : \" , x", "eiaid": "0017"},
  "customer_id": 12345678901234567890123, "a": null}"""


def assert_compact(text: str) -> None:
    assert not re.search(r"\s", re.sub(r'"(?:[^"\\]|\\.)*"', '""', text.rstrip("\n"))), text


def item_of(client: OrganizationClient, job_id: str) -> list[tuple[str, Json]]:
    """For each place that shows the first item of a job: the raw text, and the item."""
    places = []
    for path in (f"/batch-lookups/{job_id}/items", f"/batch-lookups/{job_id}?include_items=true"):
        response = client.get(path)
        places.append((response.text, response.json()["items"][0]))
    lines = client.get(f"/batch-lookups/{job_id}/results?format=ndjson").text
    assert lines.count("\n") == 1
    places.append((lines, json.loads(lines)))
    [delivery] = client.get("/webhook-deliveries", params={"event": "lookup.completed"}).json()["deliveries"]
    response = client.get(f"/webhook-deliveries/{delivery['id']}")
    places.append((response.text, response.json()["body"]["data"]))
    return places


def test_an_answer_keeps_its_members_and_numbers_as_they_came(client: OrganizationClient, database: Connection) -> None:
    client.put("/webhook-config", json={"url": "https://example.com/", "events": ["lookup.completed", "batch.completed"]})
    job = client.submit(site(address=dict(reversed(address(street_2="Apt 5").items()))))
    look_up(database, job, 1, ANSWER)

    for text, item in item_of(client, job["job_id"]):
        assert compact(ANSWER.encode()).decode() in text
        assert list(item["address"]) == ADDRESS
        assert_compact(text)


def test_a_lookup_of_our_own_has_the_documented_order_everywhere(client: OrganizationClient, database: Connection) -> None:
    client.put("/webhook-config", json={"url": "https://example.com/", "events": ["lookup.completed", "batch.completed"]})
    single = client.post("/incentives", json=site(device_ids=[1, 28]))
    [delivery] = client.get("/webhook-deliveries").json()["deliveries"]
    results = [single.json(), client.get(f"/webhook-deliveries/{delivery['id']}").json()["body"]["data"]["result"]]
    database.execute("delete from app.webhook_deliveries where id = %s", [delivery["id"]])
    job = client.submit()
    look_up(database, job, 1, single.text)
    results += [item["result"] for _, item in item_of(client, job["job_id"])]

    for result in results:
        assert list(result) == RESULT
        assert list(result["address"]) == [name for name in ADDRESS if name != "street_2"]
        assert list(result["utility"]) == list(result["possible_utilities"][0]) == UTILITY
        assert list(result["incentives"]) == INCENTIVES
        assert result["incentives"]["total_incentive_amount"] > 0
        for program in result["incentives"]["by_program"]:
            assert list(program) == PROGRAM
            assert [list(tier) for tier in program["device_tier_results"]] == [TIER] * len(program["device_tier_results"])


def test_the_end_of_a_batch_is_reported_with_the_members_in_order(client: OrganizationClient, database: Connection) -> None:
    client.put("/webhook-config", json={"url": "https://example.com/", "events": ["batch.completed"]})
    job = client.submit()
    look_up(database, job, 1)
    [delivery] = client.get("/webhook-deliveries").json()["deliveries"]
    body = client.get(f"/webhook-deliveries/{delivery['id']}").json()["body"]
    assert list(body) == ["type", "timestamp", "data"]
    assert list(body["data"])[: len(JOB)] == JOB
    assert list(body["data"]["item_counts"]) == ["pending", "processing", "completed", "failed"]
    answer = client.get(f"/batch-lookups/{job['job_id']}").json()
    assert list(body["data"]) == [name for name in answer if name in body["data"]]


def test_answers_stored_before_the_order_was_kept_can_still_be_read(client: OrganizationClient, database: Connection) -> None:
    job = client.submit()
    look_up(database, job, 1, ANSWER)
    database.execute("update public.lookup_queue_items set parsed_result = result::jsonb, result = null where job_id = %s", [job["job_id"]])
    path = f"/batch-lookups/{job['job_id']}"
    [item] = client.get(f"{path}/items").json()["items"]
    assert item["result"] == json.loads(ANSWER)
    assert ",1250.00," in client.get(f"{path}/results").text
    [row] = database.execute("select result, utility from api.items where job_id = %s", [job["job_id"]]).fetchall()
    assert row == (json.loads(ANSWER), 'U : " , x')


def test_a_view_has_the_documented_order_too(client: OrganizationClient, database: Connection) -> None:
    job = client.submit(site(address=dict(reversed(address().items()))))
    look_up(database, job, 1, ANSWER)
    [[text]] = database.execute("select to_json(i)::text from api.items i where job_id = %s", [job["job_id"]]).fetchall()
    item = json.loads(text)
    assert list(item["address"]) == [name for name in ADDRESS if name != "street_2"]
    assert list(item["result"]) == list(json.loads(ANSWER))


def test_every_answer_has_one_style_of_white_space(client: OrganizationClient, database: Connection) -> None:
    created = client.post("/batch-lookups", json={"items": [site("deal-001"), site("deal-002")]})
    job, report = created.json()["job_id"], created.json()["report"]["id"]
    look_up(database, created.json(), 1, ANSWER)
    look_up(database, created.json(), 1, status=404)
    client.put("/webhook-config", json={"url": "https://example.com/"})
    assert_compact(created.text)
    job_paths = ["", f"/{job}", f"/{job}?include_items=true", f"/{job}/items", "/1"]
    report_paths = ["", f"/{report}", f"/{report}/summary"]
    others = ["/organization", "/api-keys", "/applications", "/webhook-config", "/webhook-deliveries", "/openapi.json"]
    for path in [*(f"/batch-lookups{path}" for path in job_paths), *(f"/incentive-reports{path}" for path in report_paths), *others]:
        assert_compact(client.get(path).text)
    for line in client.get(f"/batch-lookups/{job}/events").text.splitlines():
        if line.startswith("data: "):
            assert_compact(line.removeprefix("data: "))


def amounts(value: Any, name: str = "") -> list[tuple[str, str]]:
    """The amounts in an answer, as they are written."""
    if isinstance(value, dict):
        return [found for key, member in value.items() for found in amounts(member, key)]
    if isinstance(value, list):
        return [found for member in value for found in amounts(member, name)]
    return [(name, value)] if re.search(r"amount|value|total_incentive$", name) else []


def test_amounts_have_two_decimals_and_utilities_a_number(client: OrganizationClient, database: Connection) -> None:
    single = client.post("/incentives", json=site(device_ids=[1, 28, 40]))
    created = client.submit(site("deal-001", device_ids=[1, 40]), site("deal-002"))
    report = f"/incentive-reports/{created['report']['id']}"
    texts = [single.text, client.get(report).text, client.get(f"{report}/summary").text]
    look_up(database, created, 1, single.text)
    look_up(database, created, 1, '{"utility": {"eiaid": "77", "name": "U"}}')
    texts += [client.get(report).text, client.get(f"{report}/summary").text, client.get("/incentive-reports").text]

    found = [amount for text in texts for amount in amounts(json.loads(text, parse_float=str, parse_int=str))]
    assert len(found) > 20
    assert [amount for amount in found if not re.fullmatch(r"\d+\.\d\d", amount[1])] == []
    sites = client.get(report).json()["sites"]
    assert [found["utility"]["eiaid"] for found in sites] == [single.json()["utility"]["eiaid"], 77]
    assert {utility["eiaid"] for utility in client.get(f"{report}/summary").json()["by_utility"]} == {11208, 77}


@pytest.mark.parametrize("text", [b"[" * 3000 + b"]" * 3000])
def test_what_is_nested_too_deeply_to_be_compacted_stays_as_it_is(text: bytes) -> None:
    assert compact(text) == text
