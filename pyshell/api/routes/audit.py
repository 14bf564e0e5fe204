"""Who created, changed, revoked or linked what, for the admins of an organization."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pyshell.api.routes.parameters import page_params, page_response, text_params
from pyshell.postgres.calls import call


async def list_audit_events(request: Request) -> Response:
    body = await call(
        request.app.state.pool,
        "list_audit_events",
        organization_id=request.user.organization_id,
        **text_params(request, "action"),
        **page_params(request),
    )
    return page_response(request, body)
