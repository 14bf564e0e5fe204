"""What operators see and do with the service role key: the queue, its settings, pauses."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pyshell.api.routes.parameters import integer_param, json_body, json_response
from pyshell.postgres.calls import call


async def get_operations(request: Request) -> Response:
    return json_response(await call(request.app.state.pool, "get_operations"))


async def update_settings(request: Request) -> Response:
    await call(request.app.state.pool, "update_settings", changes=await json_body(request))
    return await get_operations(request)


async def pause_lookups(request: Request) -> Response:
    seconds = {"seconds": integer_param(request, "seconds")} if "seconds" in request.query_params else {}
    await call(request.app.state.pool, "pause_lookups", **seconds)
    return await get_operations(request)


async def resume_lookups(request: Request) -> Response:
    await call(request.app.state.pool, "resume_lookups")
    return await get_operations(request)
