"""Finding jobs by their labels, their names and when they were created."""

from __future__ import annotations

import pytest

from tests.conftest import Connection
from tests.http_fixtures import Json, NewClient, OrganizationClient, look_up, site

CSV = "reference_id,street,city,state,zip,building_type,device_ids\ndeal-001,200 N Spring St,Los Angeles,CA,90012,RESIDENTIAL,1\n"


def upload(client: OrganizationClient, name: str, **labels: str) -> str:
    response = client.post("/batch-lookups", json={"items": [site()], "name": name, "labels": labels})
    assert response.status_code == 201, response.text
    job_id: str = response.json()["job_id"]
    return job_id


def found(client: OrganizationClient, query: str) -> list[str]:
    page = client.get(f"/batch-lookups?{query}").json()
    assert page["total"] == len(page["jobs"])
    return [job["name"] for job in page["jobs"]]


def test_labels_are_given_in_json_and_shown(client: OrganizationClient, database: Connection) -> None:
    job_id = upload(client, "March", team="north", quarter="Q4: late")
    labels = {"quarter": "Q4: late", "team": "north"}
    assert client.get(f"/batch-lookups/{job_id}").json()["labels"] == labels
    [job] = client.get("/batch-lookups").json()["jobs"]
    assert (list(job)[-3:], job["labels"]) == (["labels", "waiting_for", "waiting_until"], labels)

    look_up(database, {"job_id": job_id}, 1, status=404)
    again = client.post(f"/batch-lookups/{job_id}/retry").json()["job_id"]
    assert client.get(f"/batch-lookups/{again}").json()["labels"] == labels


def test_labels_are_given_with_a_file_as_parameters(client: OrganizationClient) -> None:
    headers = {"content-type": "text/csv"}
    created = client.post("/batch-lookups?label=team:north&label=quarter:Q4:%20late", content=CSV, headers=headers)
    assert created.status_code == 201, created.text
    assert client.get(f"/batch-lookups/{created.json()['job_id']}").json()["labels"] == {"team": "north", "quarter": "Q4: late"}


def test_jobs_are_found_by_labels_name_and_day(client: OrganizationClient, new_client: NewClient) -> None:
    upload(client, "April", team="north")
    upload(client, "March 2", team="south", kind="pilot")
    upload(client, "March 1", team="north", kind="pilot")
    upload(new_client(), "Others", team="north")

    assert found(client, "label=team:north") == ["March 1", "April"]
    assert found(client, "label=team:north&label=kind:pilot") == ["March 1"]
    assert found(client, "label=team:nort") == []
    assert found(client, "name=MARCH") == ["March 1", "March 2"]
    assert found(client, "name=mar%25") == []
    assert found(client, "name=march&label=team:south&status=pending") == ["March 2"]
    assert found(client, "created_from=2100-01-01") == []
    assert found(client, "created_from=2020-01-01&created_before=2100-01-01T00:00:00Z") == ["March 1", "March 2", "April"]

    response = client.get("/batch-lookups?label=team:north&label=kind:pilot&label=kind2:x&limit=1")
    assert response.json()["jobs"] == []
    response = client.get("/batch-lookups?label=kind:pilot&limit=1")
    assert [job["name"] for job in client.get(response.links["next"]["url"]).json()["jobs"]] == ["March 2"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("label=north", "invalid_label"),
        ("label=team:a&label=team:b", "invalid_label"),
        ("label=a%20b:c", "invalid_labels"),
        ("label=team:", "invalid_labels"),
        ("&".join(f"label=k{n}:v" for n in range(17)), "invalid_labels"),
    ],
)
def test_labels_of_another_form_are_refused(client: OrganizationClient, query: str, code: str) -> None:
    for response in (client.get(f"/batch-lookups?{query}"), client.post(f"/batch-lookups?{query}", json={"items": [site()]})):
        assert (response.status_code, response.json()["code"]) == (400, code)


@pytest.mark.parametrize("labels", [["team"], {"team": 1}, {"": "x"}, {"k" * 65: "x"}, {"k": "x" * 257}])
def test_labels_of_another_form_in_json_are_refused(client: OrganizationClient, labels: Json) -> None:
    response = client.post("/batch-lookups", json={"items": [site()], "labels": labels})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_labels")
    assert client.get("/batch-lookups").json()["total"] == 0


@pytest.mark.parametrize(("query", "code"), [("name=" + "x" * 201, "invalid_name"), ("created_from=yesterday", "invalid_created_from")])
def test_labels_to_search_for_have_a_form(client: OrganizationClient, query: str, code: str) -> None:
    response = client.get(f"/batch-lookups?{query}")
    assert (response.status_code, response.json()["code"]) == (400, code)
