"""Calls functions with the claims of subscribers, as PostgREST would, so that each sees what it may."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, TypeVar

from pyshell.postgres.calls import call_with_claims
from pyshell.postgres.pool import Pool
from pyshell.postgres.sqlstates import DatabaseError, Kind, kind_of

logger = logging.getLogger("pyshell.api.realtime")

# Errors that a subscriber's claims can cause, by their content or by the work that they give a policy. All others are transient.
CLAIMS_AT_FAULT = (Kind.DATA, Kind.REFUSED, Kind.TIMEOUT, Kind.INTERNAL)

# Claims, as JSON, and the arguments of the function.
Read = TypeVar("Read", bound=tuple[str, tuple[Any, ...]])


async def read_all(pool: Pool, function: str, reads: Iterable[Read]) -> tuple[dict[Read, bytes], list[Read]]:
    """The answers of `api.<function>`, without the null ones, and the reads that fail by what is in them; those fail alone."""
    # Grouped by claims, so that each are set once.
    ordered = sorted(reads, key=lambda read: read[0])
    try:
        return await _read(pool, function, ordered), []
    except DatabaseError as error:
        if kind_of(error) not in CLAIMS_AT_FAULT:
            raise
    found: dict[Read, bytes] = {}
    failed: list[Read] = []
    for read in ordered:
        try:
            found |= await _read(pool, function, [read])
        except DatabaseError as error:
            if kind_of(error) not in CLAIMS_AT_FAULT:
                raise
            logger.warning("realtime: a subscriber's read failed: %s", error)
            failed.append(read)
    return found, failed


async def _read(pool: Pool, function: str, reads: list[Read]) -> dict[Read, bytes]:
    if not reads:
        return {}
    answers = await call_with_claims(pool, function, reads)
    return {read: answer for read, answer in zip(reads, answers, strict=True) if answer is not None}
