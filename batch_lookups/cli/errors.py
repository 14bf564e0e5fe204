"""Errors of the service in terms of the command line: the names of its options, and what to do."""

from __future__ import annotations

import os
import re

from batch_lookups.errors import ApiError

# Names of the options here.
WORDS = {
    "allowed_networks": "--network",
    "created_before": "--before",
    "created_from": "--from",
    "default_building_type": "--building-type",
    "default_country_code": "--country",
    "default_device_ids": "--devices",
    "default_reference_id": "--number-rows",
    "expires_at": "--expires",
    "grace_seconds": "--grace",
    "job_id": "--job",
    "labels": "--label",
    "max_lookups": "--max-lookups",
    "name": "--name",
    "overlap_seconds": "--overlap",
    "reuse_max_age_days": "--reuse",
    "sheet": "--sheet",
    "since": "TIME",
    "url": "--url",
}
# The options that set a column for all rows.
FOR_ALL_ROWS = {
    "reference_id": "--number-rows",
    "device_ids": "--devices",
    "building_type": "--building-type",
    "country_code": "--country",
}
# What to do here about an error, by its code.
HINTS = {
    "route_not_found": "The address may have something extra at its end, such as /portal; batch-lookups doctor shows it.",
    "job_not_waiting": "batch-lookups status JOB shows what it waits for.",
    "invalid_api_key": "Store a valid key: batch-lookups login",
    "job_not_found": "batch-lookups list shows all jobs.",
    "api_key_not_found": "batch-lookups keys list shows all keys.",
    "webhook_delivery_not_found": "batch-lookups webhooks deliveries lists them.",
    "webhook_config_not_found": "Set one: batch-lookups webhooks set --url https://...",
    "webhook_url_missing": "Set one: batch-lookups webhooks set --url https://...",
    "webhooks_disabled": "Enable them: batch-lookups webhooks set --enable, with --url https://... where none is set.",
    "insufficient_scope": "Use a key that has this scope; `batch-lookups doctor` shows which this one has.",
    "ambiguous_columns": "Say which one is meant with --map FIELD=COLUMN.",
    "sheet_not_found": "Name one with --sheet.",
    "invalid_encoding": "Save the file as CSV UTF-8.",
    "invalid_item_count": "Split a larger file. With 0, the file names its columns, but has no row below them.",
    "lookup_limit_reached": "Give a higher number with --max-lookups.",
    "too_many_open_items": "Wait until earlier jobs have ended, or cancel one; batch-lookups list shows them.",
    "idempotency_key_reused": "The service reads this file differently than before. To submit it again: --again WORD",
}
# Of Windows, where a file that is open elsewhere is neither replaced nor read.
ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION = 5, 32


def in_words_of_the_command(message: str) -> str:
    """A message of the service about an option, with the option's name here."""
    named = re.sub(r"^([a-z_]+)(?= must |:)|(?<=^the port of )(url)\b", lambda name: WORDS.get(name[0], name[0]), message)
    named = re.sub("`([a-z_]+)`", lambda name: WORDS.get(name[1], name[0]), named)
    # No option is null.
    return re.sub(r" must be null or ", " must be ", named)


def hint_of(error: ApiError) -> str:
    """What to do about an error: the service's hint without its sentences about HTTP, and how to do that here."""
    said = " ".join(
        sentence
        for sentence in re.split(r"(?<=\.) ", error.hint)
        if not re.search(r"\?\w+=|Content-Type:|(GET|PUT) /|^Its waiting_", sentence)
    )
    told = name_columns(str(error)) if error.code == "missing_columns" else HINTS.get(error.code)
    return " ".join(filter(None, (said, told)))


def name_columns(message: str) -> str:
    """What to do about columns that a message says are missing: only some can be set for all rows."""
    missing = set(re.findall(r"\w+", message))
    options = [option for field, option in FOR_ALL_ROWS.items() if field in missing]
    alternative = f", or set it for all rows: {', '.join(options)}" if options else ""
    return f"Name it with --map FIELD=COLUMN{alternative}."


def told_of_file(error: OSError) -> str:
    """Such as: results.csv: Permission denied."""
    reason = error.strerror or str(error)
    if getattr(error, "winerror", None) in (ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION):
        reason += "; another program, such as Excel, may have it open"
    return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, str | bytes) else reason
