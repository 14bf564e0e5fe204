"""What the lookups are about: one lookup, and the reports of many."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pyshell.db import call
from pyshell.errors import ApiError
from pyshell.routes.parameters import json_body, json_response, page_params, status_param, uuid_param

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


async def list_incentive_reports(request: Request) -> Response:
    return json_response(
        await call(
            request.app.state.pool,
            "list_incentive_reports",
            organization_id=request.user.organization_id,
            status=status_param(request),
            **page_params(request),
        )
    )


async def get_incentive_report(request: Request) -> Response:
    return json_response(
        await call(
            request.app.state.pool,
            "get_incentive_report",
            organization_id=request.user.organization_id,
            report_id=uuid_param(request, "report_id", otherwise=ApiError(404, "report_exists", "Report not found")),
            **page_params(request),
        )
    )
