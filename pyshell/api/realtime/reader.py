"""Calls functions with the claims of subscribers, as PostgREST would, so that each sees what it may."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from math import inf
from typing import Any, TypeVar

from pyshell.postgres.calls import call_with_claims
from pyshell.postgres.pool import Pool
from pyshell.postgres.sqlstates import DatabaseError, Kind, kind_of

logger = logging.getLogger("pyshell.api.realtime")

# Errors that a subscriber's claims can cause, by their content or by the work that they cause a policy. All others are transient.
CLAIMS_AT_FAULT = (Kind.DATA, Kind.REFUSED, Kind.TIMEOUT, Kind.INTERNAL)

# Claims, as JSON, and the arguments of the function.
Read = TypeVar("Read", bound=tuple[str, tuple[Any, ...]])


async def read_all(
    pool: Pool, function: str, reads: Iterable[Read], sharer: object = None, alone_seconds: float = inf
) -> tuple[dict[Read, bytes], list[Read]]:
    """The results of `api.<function>`, without nulls, and the reads that fail because of their content, which affect no others.

    If all together fail, each is tried alone; those not tried within `alone_seconds` fail, too.
    """
    # Grouped by claims, so that each are set only once.
    ordered = sorted(reads, key=lambda read: read[0])
    try:
        return await _read(pool, function, ordered, sharer), []
    except DatabaseError as error:
        if kind_of(error) not in CLAIMS_AT_FAULT:
            raise
    found: dict[Read, bytes] = {}
    failed: list[Read] = []
    ends_at = time.monotonic() + alone_seconds
    for read in ordered:
        if time.monotonic() > ends_at:
            failed.append(read)
            continue
        try:
            found |= await _read(pool, function, [read], sharer)
        except DatabaseError as error:
            if kind_of(error) not in CLAIMS_AT_FAULT:
                raise
            logger.warning("realtime: a subscriber's read failed: %s", error)
            failed.append(read)
    return found, failed


async def _read(pool: Pool, function: str, reads: list[Read], sharer: object) -> dict[Read, bytes]:
    if not reads:
        return {}
    answers = await call_with_claims(pool, function, reads, sharer)
    return {read: answer for read, answer in zip(reads, answers, strict=True) if answer is not None}
