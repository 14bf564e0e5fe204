"""Webhooks: their config and their deliveries."""

from __future__ import annotations

import json
from urllib.parse import urlsplit
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyshell.api.errors import ApiError
from pyshell.api.routes.parameters import (
    json_body,
    json_response,
    optional_json_body,
    page_params,
    page_response,
    read_uuid,
    text_param,
    uuid_param,
)
from pyshell.postgres.calls import call
from pyshell.webhooks.addresses import is_ip_address, is_public
from pyshell.webhooks.runs import send_test


async def get_webhook_config(request: Request) -> Response:
    return json_response(await call(request.app.state.pool, "get_webhook_config", organization_id=request.user.organization_id))


async def set_webhook_config(request: Request) -> Response:
    changes = await json_body(request)
    allow_private = request.app.state.settings.webhooks_allow_private_networks
    if not allow_private:
        check_host(changes)
    return json_response(
        await call(
            request.app.state.pool,
            "set_webhook_config",
            organization_id=request.user.organization_id,
            changes=changes,
            allow_http=allow_private,
            actor=request.user.name,
        )
    )


async def delete_webhook_config(request: Request) -> Response:
    return json_response(
        await call(request.app.state.pool, "delete_webhook_config", organization_id=request.user.organization_id, actor=request.user.name)
    )


async def rotate_webhook_secret(request: Request) -> Response:
    return json_response(
        await call(
            request.app.state.pool,
            "rotate_webhook_secret",
            organization_id=request.user.organization_id,
            request=await optional_json_body(request),
            actor=request.user.name,
        )
    )


async def test_webhook(request: Request) -> Response:
    return JSONResponse(await send_test(request.app.state.pool, request.app.state.settings, request.user.organization_id))


async def list_webhook_deliveries(request: Request) -> Response:
    body = await call(
        request.app.state.pool,
        "list_webhook_deliveries",
        organization_id=request.user.organization_id,
        status=text_param(request, "status"),
        event=text_param(request, "event"),
        job_id=job_id_param(request),
        **page_params(request),
    )
    return page_response(request, body)


async def get_webhook_delivery(request: Request) -> Response:
    return json_response(
        await call(
            request.app.state.pool,
            "get_webhook_delivery",
            organization_id=request.user.organization_id,
            delivery_id=delivery_id(request),
        )
    )


async def resend_webhook_delivery(request: Request) -> Response:
    body = await call(
        request.app.state.pool,
        "resend_webhook_delivery",
        organization_id=request.user.organization_id,
        delivery_id=delivery_id(request),
    )
    return json_response(body, 202)


async def recover_webhook_deliveries(request: Request) -> Response:
    body = await call(
        request.app.state.pool,
        "recover_webhook_deliveries",
        organization_id=request.user.organization_id,
        request=await optional_json_body(request),
    )
    return json_response(body, 202)


def delivery_id(request: Request) -> UUID:
    return uuid_param(request, "delivery_id", otherwise=ApiError(404, "webhook_delivery_not_found", "Webhook delivery not found"))


def job_id_param(request: Request) -> UUID | None:
    text = request.query_params.get("job_id")
    return None if text is None else read_uuid(text, otherwise=ApiError(400, "invalid_job_id", "job_id must be the id of a batch"))


def check_host(changes: str) -> None:
    """Refuses a URL that no delivery would be sent to; host names are resolved later, for each attempt."""
    try:
        host = urlsplit(json.loads(changes)["url"]).hostname
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return  # the database refuses it, or there is no url
    if host and ((is_ip_address(host) and not is_public(host)) or host.lower().rstrip(".") == "localhost"):
        raise ApiError(
            400,
            "refused_address",
            "url must not point to a private network",
            hint="It must be reachable over the internet. WEBHOOKS_ALLOW_PRIVATE_NETWORKS=true allows others, for development.",
        )
