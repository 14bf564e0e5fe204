"""Single lookups, and the organization's settings for all of its lookups."""

from __future__ import annotations

import json
from contextlib import nullcontext

from starlette.requests import Request
from starlette.responses import Response

from pyshell.api.error_responses import from_database
from pyshell.api.routes.parameters import json_body, json_response
from pyshell.api.routes.uploads import share_if_large
from pyshell.postgres.calls import call
from pyshell.postgres.sqlstates import DatabaseError, Kind, kind_of

MAX_LOOKUP_BYTES = 1024 * 1024
MAX_LOGGED_LENGTH = 2_000
MAX_ORGANIZATION_BYTES = 128 * 1024


async def lookup_incentives(request: Request) -> Response:
    # The worker is limited by its own concurrency.
    async with nullcontext() if request.user.is_internal else share_if_large(request):
        return await answer_lookup(request)


async def answer_lookup(request: Request) -> Response:
    pool, organization_id = request.app.state.pool, request.user.organization_id
    body = await json_body(request, MAX_LOOKUP_BYTES)
    try:
        return json_response(
            await call(
                pool,
                "lookup_incentives",
                organization_id=organization_id,
                request=body,
                connect_url_base=request.app.state.settings.connect_url_base,
                for_item=request.user.is_internal,
            )
        )
    except DatabaseError as error:
        # The refused lookup was rolled back, so it is logged separately.
        if kind_of(error) is Kind.REFUSED:
            refusal = from_database(error)
            response = json.dumps({"error": refusal.message[:MAX_LOGGED_LENGTH], "code": refusal.code})
            await call(pool, "log_refused_lookup", organization_id=organization_id, request=body, status=refusal.status, response=response)
        raise


async def get_organization(request: Request) -> Response:
    return json_response(await call(request.app.state.pool, "get_organization", organization_id=request.user.organization_id))


async def update_organization(request: Request) -> Response:
    changes = await json_body(request, MAX_ORGANIZATION_BYTES)
    return json_response(
        await call(
            request.app.state.pool,
            "update_organization",
            organization_id=request.user.organization_id,
            changes=changes,
            actor=request.user.name,
        )
    )
