"""Reads rows with the claims of subscribers, as PostgREST would, so that each sees what it may."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pyshell.api.row_changes import Row
from pyshell.postgres.calls import call_with_claims
from pyshell.postgres.pool import Pool
from pyshell.postgres.sqlstates import DatabaseError, Kind, kind_of

logger = logging.getLogger("pyshell.api.realtime")

# Errors that a subscriber's claims can cause, by their content or by the work that they give a policy. All others are transient.
CLAIMS_AT_FAULT = (Kind.DATA, Kind.REFUSED, Kind.TIMEOUT, Kind.INTERNAL)

# Claims, as JSON, and the row to read with them.
Read = tuple[str, Row]


async def read_records(pool: Pool, reads: Iterable[Read]) -> tuple[dict[Read, bytes], list[Read]]:
    """The records (JSON) of the visible rows, and the reads whose claims make them fail; those fail alone."""
    # Grouped by claims, so that each are set once.
    ordered = sorted(reads, key=lambda read: read[0])
    try:
        return await _read(pool, ordered), []
    except DatabaseError as error:
        if kind_of(error) not in CLAIMS_AT_FAULT:
            raise
    found: dict[Read, bytes] = {}
    failed: list[Read] = []
    for read in ordered:
        try:
            found |= await _read(pool, [read])
        except DatabaseError as error:
            if kind_of(error) not in CLAIMS_AT_FAULT:
                raise
            logger.warning("realtime: a subscriber's read failed: %s", error)
            failed.append(read)
    return found, failed


async def _read(pool: Pool, reads: list[Read]) -> dict[Read, bytes]:
    if not reads:
        return {}
    answers = await call_with_claims(pool, "realtime_record", [(claims, row) for claims, row in reads])
    return {read: record for read, record in zip(reads, answers, strict=True) if record is not None}
