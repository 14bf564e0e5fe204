"""What operators see and do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.conftest import Connection
from tests.portal.conftest import Person


@pytest.fixture
def service_role_key(database: Connection) -> Iterator[str]:
    [key] = database.execute("select api.internal_key()").fetchone() or [None]
    yield str(key)
    database.execute("select api.resume_lookups()")


def test_operators_see_the_queue_change_settings_and_pause(person: Person, service_role_key: str, database: Connection) -> None:
    page = person.page
    person.sign_in(service_role_key)
    expect(page.get_by_role("heading", name="Operations", level=1)).to_be_visible()
    expect(page.get_by_role("link", name="Batches")).to_have_count(0)
    expect(page.get_by_text("no limit", exact=True)).to_be_visible()
    checks = page.get_by_role("region", name="Checks")
    expect(checks.get_by_role("row", name=re.compile("workers.*(Problem|Warning).*Start a worker"))).to_be_visible()
    checks.get_by_text("found no problem").click()
    for name in ("webhooks", "invariants", "vacuum_horizon", "transactions"):
        expect(checks.get_by_role("cell", name=name, exact=True)).to_be_visible()

    retries = page.get_by_role("textbox", name="max_retries", exact=True)
    retries.fill("-1")
    retries.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("max_retries must be a whole number from 0 to 20")
    retries.fill("5")
    retries.press("Enter")
    expect(page.get_by_text("max_retries is changed")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    [stored] = database.execute("select max_retries from app.settings").fetchone() or [None]
    assert stored == 5

    page.get_by_role("button", name="Pause lookups…").click()
    page.get_by_role("button", name="for 5 minutes").click()
    expect(page.get_by_text("No lookup starts, until")).to_be_visible()
    person.look("operations")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("No lookup starts")).to_have_count(0)

    # Another operator changes it meanwhile.
    database.execute("select api.update_settings('{\"max_retries\": 7}')")
    expect(retries).to_have_value("7")


def test_a_command_that_failed_is_given_again(person: Person, service_role_key: str) -> None:
    page = person.page
    person.sign_in(service_role_key)
    expect(page.get_by_role("region", name="Checks")).to_be_visible()
    page.route(re.compile("/operations/pause"), lambda route: route.abort())
    page.get_by_role("button", name="Pause lookups…").click()
    page.get_by_role("button", name="for 5 minutes").click()
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("The service cannot be reached.")
    page.unroute_all()
    problem.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("No lookup starts, until")).to_be_visible()
    expect(problem).to_have_count(0)


def test_a_setting_that_is_focused_shows_what_another_operator_sets(person: Person, service_role_key: str, database: Connection) -> None:
    person.sign_in(service_role_key)
    retries = person.page.get_by_role("textbox", name="max_retries", exact=True)
    retries.focus()
    database.execute("select api.update_settings('{\"max_retries\": 7}')")
    expect(retries).to_have_value("7")
    retries.fill("4")
    database.execute('select api.update_settings(\'{"max_retries": 6, "max_in_flight": 77}\')')
    expect(person.page.get_by_role("textbox", name="max_in_flight", exact=True)).to_have_value("77")
    expect(retries).to_have_value("4")
