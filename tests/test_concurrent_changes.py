"""What two changes of an organization at the same time do to each other: none undoes the other, and none slips past it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pytest

from tests.conftest import Connection, waiting_for_locks
from tests.timed import wait_until
from tests.worker_fixtures import fetch_value

During = Callable[..., None]

NAME = "the second change"


@pytest.fixture
def during(database_url: str, owner: Connection) -> During:
    """Runs a second statement while the transaction of the first one is open, and lets it end once the second waits for it."""

    def run(first: str, second: str, **parameters: object) -> None:
        # The threads are outermost: whatever fails, both connections are closed before the second statement is waited for.
        with (
            ThreadPoolExecutor() as threads,
            psycopg.connect(database_url) as early,
            psycopg.connect(database_url, autocommit=True, application_name=NAME) as late,
        ):
            early.execute(first.encode(), parameters)
            waiting: Future[object] = threads.submit(late.execute, second.encode(), parameters)
            wait_until(lambda: waiting.done() or waiting_for_locks(owner, NAME))
            early.commit()
            waiting.result()

    return run


@pytest.fixture
def organization_id(owner: Connection) -> object:
    return fetch_value(owner, "select api.create_organization('Acme')")


def test_two_changes_of_a_profile_keep_each_other(owner: Connection, organization_id: object, during: During) -> None:
    owner.execute('select api.update_organization(%s, \'{"company": "acme"}\')', [organization_id])
    device_id = fetch_value(owner, "select min(id) from app.devices")
    during(
        'select api.update_organization(%(id)s, \'{"company": "globex"}\')',
        "select api.update_organization(%(id)s, jsonb_build_object('device_names', jsonb_build_object('split', %(device)s::integer)))",
        id=organization_id,
        device=device_id,
    )
    profile = fetch_value(owner, "select api.get_organization(%s)", organization_id)
    assert (profile["company"], profile["device_names"]) == ("globex", {"split": device_id})
