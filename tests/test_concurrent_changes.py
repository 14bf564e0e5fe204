"""Concurrent changes of an organization: none undoes the other, and none misses it."""

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
        # The threads are outermost, so that after a failure both connections are closed before waiting for the second statement.
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


def test_two_concurrent_changes_of_a_profile_both_take_effect(owner: Connection, organization_id: object, during: During) -> None:
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


def test_two_concurrent_changes_of_device_names_both_take_effect(owner: Connection, organization_id: object, during: During) -> None:
    owner.execute('select api.update_organization(%s, \'{"company": "acme"}\')', [organization_id])
    device_id = fetch_value(owner, "select min(id) from app.devices")
    change = (
        "select api.update_organization(%(id)s, jsonb_build_object('device_name_changes', jsonb_build_object('{}', %(device)s::integer)))"
    )
    during(change.format("split"), change.format("hut"), id=organization_id, device=device_id)
    assert fetch_value(owner, "select api.get_organization(%s) -> 'device_names'", organization_id) == {
        "split": device_id,
        "hut": device_id,
    }


def test_two_concurrent_changes_of_the_settings_are_audited_separately(owner: Connection, during: During) -> None:
    during(
        "select api.update_settings('{\"max_retries\": 7}')",
        "select api.update_settings('{\"max_in_flight\": 70}')",
    )
    changes = owner.execute("select details from app.audit_events where action = 'settings.changed' order by id").fetchall()
    assert changes == [({"max_retries": {"from": 3, "to": 7}},), ({"max_in_flight": {"from": 50, "to": 70}},)]


def make_key(owner: Connection, organization_id: object, secret: str, maker: object = None) -> object:
    create = "select api.create_api_key(%s, sha256(%s), 'leap_live_', 'cret', p_created_by => %s) ->> 'id'"
    return fetch_value(owner, create, organization_id, secret.encode(), maker)


REVOKE = "select api.revoke_api_key(%(id)s, %(key)s::uuid, p_include_created => true)"
MAKE = {
    "create": "select api.create_api_key(%(id)s, sha256('made'), 'leap_live_', 'made', p_created_by => %(key)s::text)",
    "rotate": "select api.rotate_api_key(%(id)s, %(other)s::uuid, sha256('made'), 'made', p_created_by => %(key)s::text)",
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())
def test_a_key_that_is_created_while_its_creator_is_revoked_is_revoked_too(
    owner: Connection, organization_id: object, during: During, make: str
) -> None:
    other, key = (make_key(owner, organization_id, secret) for secret in ("other", "maker"))
    during(make, REVOKE, id=organization_id, key=key, other=other)
    assert owner.execute("select created_by, revoked_at is null from app.api_keys where id <> %s order by id", [other]).fetchall() == [
        (None, False),
        (key, False),
    ]


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())
def test_a_key_that_is_being_revoked_creates_no_other_key(owner: Connection, organization_id: object, during: During, make: str) -> None:
    other, key = (make_key(owner, organization_id, secret) for secret in ("other", "maker"))
    with pytest.raises(psycopg.DatabaseError, match="Invalid API key"):
        during(REVOKE, make, id=organization_id, key=key, other=other)
    assert owner.execute("select id::text, revoked_at is null from app.api_keys order by id").fetchall() == [(other, True), (key, False)]


def test_a_key_that_rotates_a_key_it_created_and_its_own_revocation_do_not_deadlock(
    owner: Connection, organization_id: object, during: During
) -> None:
    key = make_key(owner, organization_id, "maker")
    made = make_key(owner, organization_id, "x", key)
    during(MAKE["rotate"], REVOKE, id=organization_id, key=key, other=made)
    assert owner.execute("select revoked_at is null, count(*) from app.api_keys group by 1").fetchall() == [(False, 3)]


ADD_DELIVERY = "select app.add_webhook(%s, 'batch.completed', null, '{}', app.clock())"


def make_delivery(owner: Connection, organization_id: object) -> None:
    owner.execute('select api.set_webhook_config(%s, \'{"url": "https://example.com/"}\')', [organization_id])
    owner.execute(ADD_DELIVERY.encode(), [organization_id])


def test_a_delivery_that_is_released_while_the_ready_list_is_settled_is_due_at_once(
    database_url: str, owner: Connection, organization_id: object
) -> None:
    make_delivery(owner, organization_id)
    assert fetch_value(owner, "select count(*) from api.claim_webhooks(%s, 'sender', 10)", organization_id) == 1
    with psycopg.connect(database_url) as settling:
        settling.execute("select app.settle_webhooks(%s)", [organization_id])
        assert fetch_value(owner, "select api.release_lost_webhooks(%s, 'sender', '{}')", organization_id) == 1
    assert fetch_value(owner, "select (api.ready_webhooks()).organization_ids") == [organization_id]


def test_a_key_created_by_a_created_one_while_the_first_is_revoked_is_revoked_too(
    owner: Connection, organization_id: object, during: During
) -> None:
    key = make_key(owner, organization_id, "maker")
    made = make_key(owner, organization_id, "x", key)
    during(MAKE["create"].replace("%(key)s", "%(made)s"), REVOKE, id=organization_id, key=key, made=made)
    assert owner.execute("select revoked_at is null, count(*) from app.api_keys group by 1").fetchall() == [(False, 3)]


def test_deliveries_of_a_claim_that_continues_without_its_sender_are_released(
    database_url: str, owner: Connection, organization_id: object
) -> None:
    make_delivery(owner, organization_id)
    release = "select api.release_lost_webhooks(%s, 'sender', '{}')"
    with psycopg.connect(database_url) as claiming:
        claiming.execute("select from api.claim_webhooks(%s, 'sender', 10)", [organization_id])
        with pytest.raises(psycopg.errors.LockNotAvailable):
            owner.execute(release.encode(), [organization_id])
    assert fetch_value(owner, release, organization_id) == 1


def test_a_delivery_that_is_sent_or_made_while_the_config_is_deleted_waits_for_no_other_receiver(
    database_url: str, owner: Connection, organization_id: object
) -> None:
    make_delivery(owner, organization_id)
    [(sent, token)] = owner.execute("select delivery_id, lease_token from api.claim_webhooks(%s, 'sender', 10)", [organization_id])
    with psycopg.connect(database_url) as flushing:
        flushing.execute(ADD_DELIVERY.encode(), [organization_id])
        owner.execute("select api.delete_webhook_config(%s)", [organization_id])
    owner.execute("select api.record_webhooks(%s, %s, %s, '{500}', '{null}', '{1}', '{}', '{null}')", [organization_id, [sent], [token]])
    assert owner.execute("select from api.claim_webhooks(%s, 'sender', 10)", [organization_id]).fetchall() == []
    assert owner.execute("select distinct status, last_error from app.webhook_deliveries").fetchall() == [
        ("failed", "The webhook config was deleted")
    ]
