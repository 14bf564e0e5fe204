"""The caller, and the lists that requests refer to: devices, states and provinces, utilities."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pyshell.api.routes.etags import response_with_etag
from pyshell.api.routes.parameters import json_response, text_params
from pyshell.postgres.calls import call

# Regions change with a release. The catalogue changes with an import, after which old lists may be shown for a few minutes.
REGIONS_MAY_BE_KEPT = "private, max-age=86400"
CATALOGUE_MAY_BE_KEPT = "private, max-age=300"


async def get_me(request: Request) -> Response:
    caller = request.user
    return json_response(
        await call(
            request.app.state.pool, "get_me", organization_id=caller.organization_id, scopes=sorted(caller.scopes), caller=caller.name
        )
    )


async def list_devices(request: Request) -> Response:
    body = await call(request.app.state.pool, "list_devices", request.user.organization, **text_params(request, "category"))
    return await response_with_etag(request, body, CATALOGUE_MAY_BE_KEPT)


async def list_device_categories(request: Request) -> Response:
    body = await call(request.app.state.pool, "list_device_categories", request.user.organization)
    return await response_with_etag(request, body, CATALOGUE_MAY_BE_KEPT)


async def list_regions(request: Request) -> Response:
    body = await call(request.app.state.pool, "list_regions", request.user.organization, **text_params(request, "country_code"))
    return await response_with_etag(request, body, REGIONS_MAY_BE_KEPT)


async def find_utilities(request: Request) -> Response:
    body = await call(request.app.state.pool, "find_utilities", request.user.organization, **text_params(request, "postal_code"))
    return await response_with_etag(request, body, CATALOGUE_MAY_BE_KEPT)
