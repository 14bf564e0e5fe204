"""One lookup, made now."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pyshell.db import call
from pyshell.routes.parameters import json_body, json_response

MAX_LOOKUP_BYTES = 1024 * 1024


async def lookup_incentives(request: Request) -> Response:
    return json_response(
        await call(
            request.app.state.pool,
            "lookup_incentives",
            organization_id=request.user.organization_id,
            request=await json_body(request, MAX_LOOKUP_BYTES),
        )
    )
