"""Batches: upload, list, cancel, retry, delete."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from pyshell.api.authentication import insufficient_scope
from pyshell.api.errors import ApiError
from pyshell.api.heavy_work import heavy_turn
from pyshell.api.routes.consistency import reader
from pyshell.api.routes.parameters import (
    MAX_INTEGER,
    boolean_param,
    created_params,
    idempotency_key,
    integer_param,
    json_response,
    label_params,
    page_params,
    page_response,
    text_param,
    text_params,
    traceparent_of,
    uuid_param,
)
from pyshell.api.routes.uploads import Upload, one_upload
from pyshell.postgres.calls import call, call_row
from pyshell.postgres.compact import PIECE_BYTES


async def create_batch_lookup(request: Request) -> Response:
    options = option_params(request)
    async with one_upload(request) as upload:
        status, replayed, answer = await call_row(
            request.app.state.pool,
            "submit_batch_lookup",
            organization_id=request.user.organization_id,
            request=upload.request,
            check_devices=checks_devices(request),
            options=json.dumps(options),
            file=upload.file,
            **await once(request, options, upload),
            traceparent=traceparent_of(request),
        )
    return created_response(status, replayed, answer)


def checks_devices(request: Request) -> bool:
    """Whether devices are checked: only the embedded provider is known to use our catalogue of devices."""
    return request.app.state.settings.incentives_api_url is None


def created_response(status: bytes | None, replayed: bytes | None, answer: bytes | None) -> Response:
    """The response of a function that may be repeated with an idempotency key."""
    response = json_response(answer or b"null", int(status or 201))
    if replayed == b"t":
        response.headers["Idempotency-Replayed"] = "true"
    return response


async def once(request: Request, options: dict[str, object], upload: Upload) -> dict[str, object]:
    """The arguments that identify a repeated upload: the request's idempotency key and fingerprint."""
    key = idempotency_key(request)
    if key is None:
        return {}
    # In a thread, so that other requests continue meanwhile.
    return {"idempotency_key": key, "fingerprint": await asyncio.to_thread(fingerprint, options, upload)}


def fingerprint(options: dict[str, object], upload: Upload) -> bytes:
    """A hash that identifies a repeated request. A file may be large: its text is copied one piece at a time."""
    hashed = hashlib.sha256(json.dumps(options).encode())
    for text in (upload.request or "", upload.file or ""):
        hashed.update(b"\0")
        for start in range(0, len(text), PIECE_BYTES):
            hashed.update(text[start : start + PIECE_BYTES].encode())
    return hashed.digest()


def reuse_param(request: Request) -> dict[str, object] | None:
    if "reuse_max_age_days" not in request.query_params:
        return None
    return {"max_age_days": integer_param(request, "reuse_max_age_days")}


def option_params(request: Request) -> dict[str, object]:
    """The options in the query, which take precedence over those in the body; the database validates them."""
    options: dict[str, object] = dict(text_params(request, "name", "on_invalid"))
    if "dry_run" in request.query_params:
        options["dry_run"] = boolean_param(request, "dry_run")
    if reuse := reuse_param(request):
        options["reuse_results"] = reuse
    for name in ("sample", "max_lookups"):
        if name in request.query_params:
            # If it is not a number, the database refuses the text.
            options[name] = integer_param(request, name) or text_param(request, name)
    options |= text_params(request, "when_limit_reached")
    if labels := label_params(request):
        options["labels"] = labels
    return options


async def list_batch_lookups(request: Request) -> Response:
    body = await call(
        reader(request),
        "list_batch_lookups",
        organization_id=request.user.organization_id,
        labels=json.dumps(label_params(request)),
        **text_params(request, "status", "name"),
        **created_params(request),
        **page_params(request),
    )
    return page_response(request, body)


async def cancel_batch_lookup(request: Request) -> Response:
    return json_response(
        await call(
            request.app.state.pool,
            "cancel_batch_lookup",
            organization_id=request.user.organization_id,
            job_id=job_id(request),
        )
    )


async def continue_batch_lookup(request: Request) -> Response:
    """Continues after a sample, or with a higher limit of lookups."""
    limits = {}
    if "max_lookups" in request.query_params:
        limits["max_lookups"] = integer_param(request, "max_lookups")
        if limits["max_lookups"] is None:
            raise ApiError(400, "invalid_max_lookups", f"max_lookups must be a whole number from 1 to {MAX_INTEGER}")
    return json_response(
        await call(
            request.app.state.pool,
            "continue_batch_lookup",
            organization_id=request.user.organization_id,
            job_id=job_id(request),
            **limits,
        )
    )


async def get_usage(request: Request) -> Response:
    """Lookups by day and batch, and how much of this month's limit is used."""
    body = await call(
        reader(request),
        "get_usage",
        organization_id=request.user.organization_id,
        **created_params(request),
        **page_params(request),
    )
    return page_response(request, body)


async def retry_batch_lookup(request: Request) -> Response:
    """Creates a new job from the failed items of an ended one."""
    async with heavy_turn(request):
        status, replayed, answer = await call_row(
            request.app.state.pool,
            "submit_retry",
            organization_id=request.user.organization_id,
            job_id=job_id(request),
            error_code=text_param(request, "error_code"),
            idempotency_key=idempotency_key(request),
            traceparent=traceparent_of(request),
        )
    return created_response(status, replayed, answer)


async def get_batch_lookup_item(request: Request) -> Response:
    """One item with its attempts, and what it waits for."""
    position = request.path_params["position"]
    return json_response(
        await call(
            reader(request),
            "explain_item",
            organization_id=request.user.organization_id,
            job_id=job_id(request),
            position=int(position) if re.fullmatch("[0-9]{1,9}", position, re.ASCII) else None,
        )
    )


async def delete_batch_lookup(request: Request) -> Response:
    include_report = boolean_param(request, "include_report")
    # Deleting a report requires this scope, here as well.
    if include_report and "reports:write" not in request.user.scopes:
        raise insufficient_scope("reports:write")
    return json_response(
        await call(
            request.app.state.pool,
            "delete_batch_lookup",
            organization_id=request.user.organization_id,
            job_id=job_id(request),
            include_report=include_report,
        )
    )


def job_id(request: Request) -> UUID:
    return uuid_param(request, "job_id", otherwise=ApiError(404, "job_not_found", "Batch job not found"))
