"""Batches: upload, list, cancel."""

from __future__ import annotations

from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from pyshell.db import call
from pyshell.errors import ApiError
from pyshell.routes.parameters import json_body, json_response, page_params, status_param, uuid_param

# 10,000 items of the usual size take 3 MB; webhook_custom_fields may add to that.
MAX_BATCH_BYTES = 16 * 1024 * 1024


async def create_batch_lookup(request: Request) -> Response:
    body = await call(
        request.app.state.pool,
        "create_batch_lookup",
        organization_id=request.user.organization_id,
        request=await json_body(request, MAX_BATCH_BYTES),
        # Only the embedded provider is known to look devices up in our catalogue.
        check_devices=request.app.state.settings.incentives_api_url is None,
    )
    return json_response(body, 201)


async def list_batch_lookups(request: Request) -> Response:
    return json_response(
        await call(
            request.app.state.pool,
            "list_batch_lookups",
            organization_id=request.user.organization_id,
            status=status_param(request),
            **page_params(request),
        )
    )


async def cancel_batch_lookup(request: Request) -> Response:
    return json_response(
        await call(
            request.app.state.pool,
            "cancel_batch_lookup",
            organization_id=request.user.organization_id,
            job_id=job_id(request),
        )
    )


def job_id(request: Request) -> UUID:
    return uuid_param(request, "job_id", otherwise=ApiError(404, "job_exists", "Batch job not found"))
