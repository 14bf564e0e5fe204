"""Drafts: files that are kept, inspected and repaired before they become a batch."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pyshell.api.errors import ApiError
from pyshell.api.heavy_work import heavy_turn
from pyshell.api.routes.batch_lookups import checks_devices, created_response, once, reuse_param
from pyshell.api.routes.parameters import (
    boolean_param,
    idempotency_key,
    json_body,
    json_response,
    page_params,
    page_response,
    text_param,
    text_params,
    traceparent_of,
    uuid_param,
)
from pyshell.api.routes.uploads import one_upload, share_if_large
from pyshell.postgres.calls import call, call_row

# 10,000 edits of usual length take 1 MB.
MAX_CHANGES_BYTES = 4 * 1024 * 1024


async def create_upload(request: Request) -> Response:
    name, reuse = text_param(request, "name"), reuse_param(request)
    async with one_upload(request) as upload:
        name = upload.name if name is None else name
        status, replayed, answer = await call_row(
            request.app.state.pool,
            "submit_upload",
            organization_id=request.user.organization_id,
            request=upload.request,
            check_devices=checks_devices(request),
            name=name,
            file=upload.file,
            reuse_results=json.dumps(reuse) if reuse else None,
            **await once(request, {"name": name, "reuse_results": reuse}, upload),
        )
    return created_response(status, replayed, answer)


async def list_uploads(request: Request) -> Response:
    body = await call(
        request.app.state.pool,
        "list_uploads",
        organization_id=request.user.organization_id,
        status=text_param(request, "status"),
        **page_params(request),
    )
    return page_response(request, body)


async def get_upload(request: Request) -> Response:
    return json_response(await call(request.app.state.pool, "get_upload", **_upload(request)))


async def get_upload_rows(request: Request) -> Response:
    skipped = boolean_param(request, "skipped") if "skipped" in request.query_params else None
    body = await call(
        request.app.state.pool,
        "get_upload_rows",
        **_upload(request),
        skipped=skipped,
        **text_params(request, "problem", "warning", "field", "q"),
        **page_params(request),
    )
    return page_response(request, body)


async def update_upload(request: Request) -> Response:
    async with share_if_large(request):
        changes = await json_body(request, MAX_CHANGES_BYTES)
        async with heavy_turn(request):
            return json_response(await call(request.app.state.pool, "update_upload", **_upload(request), changes=changes))


async def start_upload(request: Request) -> Response:
    """Creates a batch from the draft; without a body, with no options."""
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    options = await json_body(request) if has_body else "{}"
    async with heavy_turn(request):
        status, replayed, answer = await call_row(
            request.app.state.pool,
            "start_upload",
            **_upload(request),
            options=options,
            idempotency_key=idempotency_key(request),
            traceparent=traceparent_of(request),
        )
    return created_response(status, replayed, answer)


async def delete_upload(request: Request) -> Response:
    return json_response(await call(request.app.state.pool, "delete_upload", **_upload(request)))


def _upload(request: Request) -> dict[str, Any]:
    otherwise = ApiError(404, "upload_not_found", "Upload not found")
    return {"organization_id": request.user.organization_id, "upload_id": uuid_param(request, "upload_id", otherwise=otherwise)}
