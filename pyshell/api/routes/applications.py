"""Applications: list them, read them, change their status."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pyshell.api.errors import ApiError
from pyshell.api.routes.consistency import reader
from pyshell.api.routes.parameters import boolean_param, json_body, json_response, page_params, page_response, text_param
from pyshell.postgres.calls import call

MAX_DIGITS = 18


async def list_applications(request: Request) -> Response:
    body = await call(
        reader(request),
        "list_applications",
        organization_id=request.user.organization_id,
        reference_id=text_param(request, "refId"),
        application_status=text_param(request, "application_status"),
        **page_params(request),
    )
    return page_response(request, body)


async def get_application(request: Request) -> Response:
    return json_response(await call(reader(request), "get_application", **_application(request)))


async def update_application(request: Request) -> Response:
    return json_response(
        await call(
            request.app.state.pool,
            "update_application",
            **_application(request),
            changes=await json_body(request),
            dry_run=boolean_param(request, "dryRun"),
        )
    )


def _application(request: Request) -> dict[str, object]:
    number = request.path_params["application_id"]
    if not (number.isascii() and number.isdecimal() and len(number) <= MAX_DIGITS):
        raise ApiError(404, "application_not_found", "Application not found")
    return {"organization_id": request.user.organization_id, "application_id": int(number)}
