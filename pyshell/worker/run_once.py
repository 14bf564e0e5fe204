"""One run of at most `items_per_run` lookups, started by a request."""

import asyncio
import json
import logging
import time
from functools import partial

from pyshell import logs
from pyshell.postgres.calls import call
from pyshell.postgres.pool import Pool
from pyshell.postgres.retries import RECORD_SECONDS, until_recorded
from pyshell.postgres.sqlstates import DatabaseError, Kind, is_away, kind_of
from pyshell.settings import Settings
from pyshell.worker import lookups
from pyshell.worker.calls import Lease, Outcome, by_organization, claim_lookups, ready_organizations, record_lookups
from pyshell.worker.claims import fair_shares
from pyshell.worker.upstream import Upstream

logger = logging.getLogger(__name__)

WORKER = "manual run"


async def run_once(pool: Pool, settings: Settings) -> dict[str, int]:
    """Claims, looks up and records; returns how many items were `claimed`, and how many of their outcomes `accepted`.

    It obeys the rate limit like any worker: if that is used up, it claims nothing. Raises DatabaseError, once all others are recorded,
    if rows of an organization stay locked for long, or the database stays away.
    """
    limits = json.loads(await call(pool, "get_settings"))
    # Nothing may fail between the claim and the record: leases would be left to expire.
    key = settings.service_role_key or (await call(pool, "internal_key")).decode()
    logs.hide(key)
    upstream = Upstream.from_settings(settings, key)
    leases = await claim(pool, limits)
    accepted = 0
    if leases:
        outcomes = await asyncio.gather(*[look_up(upstream, lease, limits) for lease in leases])
        upstream.close()
        recording = [
            _record(pool, organization_id, [outcome for outcome in outcomes if outcome.lease in some])
            for organization_id, some in by_organization(leases).items()
        ]
        for recorded in await asyncio.gather(*recording, return_exceptions=True):
            if isinstance(recorded, BaseException):
                raise recorded
            accepted += recorded
    return {"claimed": len(leases), "accepted": accepted}


async def _record(pool: Pool, organization_id: bytes, outcomes: list[Outcome]) -> int:
    """Returns how many were accepted."""

    record = partial(record_lookups, organization_id=organization_id, outcomes=outcomes)
    recorded = await until_recorded(partial(pool.run, "record_lookups", record), RECORD_SECONDS)
    return recorded.get("accepted", 0)


async def claim(pool: Pool, limits: dict[str, int]) -> list[Lease]:
    """Raises DatabaseError if nothing could be claimed, unless rows were locked by other transactions."""
    organization_ids = await pool.run("ready_organizations", partial(ready_organizations, limit=limits["items_per_run"]))
    if not organization_ids:
        return []
    paced = limits["lookups_per_second"] is not None
    leases: list[Lease] = []
    failures: list[DatabaseError] = []
    for organization_id, share in fair_shares(organization_ids, limits["items_per_run"]).items():
        try:
            claim_some = partial(
                claim_lookups,
                worker=WORKER,
                organization_id=organization_id,
                limit=share,
                lease_seconds=limits["lease_seconds"],
                paced=paced,
            )
            # Each in its own transaction, also behind a connection pooler.
            leases += await pool.run("claim_lookups", claim_some)
        except DatabaseError as error:
            if kind_of(error) is not Kind.BUSY:
                failures.append(error)
                if is_away(error):
                    break
    if failures and not leases:
        raise failures[0]
    for one in failures:
        logger.warning("a manual run could not claim for all organizations: %s", one)
    return leases


async def look_up(upstream: Upstream, lease: Lease, limits: dict[str, int]) -> Outcome:
    if lease.slot is not None:
        await asyncio.sleep(lease.slot - asyncio.get_running_loop().time())
    started = time.monotonic()
    answer = await lookups.look_up(upstream, lease, limits["lookup_timeout_seconds"], limits["max_response_bytes"])
    return Outcome(lease, answer, time.monotonic() - started)
