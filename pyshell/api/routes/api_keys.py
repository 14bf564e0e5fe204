"""API keys of an organization: create, list, rotate, revoke."""

from __future__ import annotations

import json
import logging
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyshell.api import api_keys
from pyshell.api.authentication import Authenticator
from pyshell.api.errors import ApiError
from pyshell.api.routes.parameters import boolean_param, json_response, optional_json_body, page_params, page_response, uuid_param
from pyshell.postgres.calls import call

audit_log = logging.getLogger("pyshell.audit")


async def create_api_key(request: Request) -> Response:
    body = await optional_json_body(request)
    prefix = read_prefix(body)
    return await answer_with_key(request, api_keys.generate(prefix), "request_api_key", prefix=prefix, request=body)


async def rotate_api_key(request: Request) -> Response:
    body = await optional_json_body(request)
    arguments = {"organization_id": request.user.organization_id, "api_key_id": api_key_id(request)}
    current = json.loads(await call(request.app.state.pool, "get_api_key", **arguments, granted_scopes=granted_scopes(request)))
    return await answer_with_key(
        request,
        api_keys.generate(current["prefix"]),
        "rotate_api_key",
        api_key_id=arguments["api_key_id"],
        request=body,
    )


async def answer_with_key(request: Request, key: str, function: str, /, **arguments: object) -> Response:
    """The only response that contains the key itself."""
    authenticator: Authenticator = request.app.state.authenticator
    stored = json.loads(
        await call(
            request.app.state.pool,
            function,
            organization_id=request.user.organization_id,
            key_hash=authenticator.hash_key(key),
            last_four=key[-4:],
            granted_scopes=granted_scopes(request),
            created_by=request.user.name,
            **arguments,
        )
    )
    authenticator.forget()
    audit(request, function, stored)
    return JSONResponse({"key": key} | stored, 201)


async def list_api_keys(request: Request) -> Response:
    body = await call(
        request.app.state.pool,
        "list_api_keys",
        organization_id=request.user.organization_id,
        granted_scopes=granted_scopes(request),
        **page_params(request),
    )
    return page_response(request, body)


async def get_api_key(request: Request) -> Response:
    return json_response(
        await call(
            request.app.state.pool,
            "get_api_key",
            organization_id=request.user.organization_id,
            api_key_id=api_key_id(request),
            granted_scopes=granted_scopes(request),
        )
    )


async def revoke_api_key(request: Request) -> Response:
    revoked = await call(
        request.app.state.pool,
        "revoke_api_key",
        organization_id=request.user.organization_id,
        api_key_id=api_key_id(request),
        granted_scopes=granted_scopes(request),
        include_created=boolean_param(request, "include_created"),
        actor=request.user.name,
    )
    request.app.state.authenticator.forget()
    audit(request, "revoke_api_key", json.loads(revoked))
    return json_response(revoked)


def audit(request: Request, what: str, key: dict[str, Any]) -> None:
    """Logs who changed which key, by ids; the access log has more about the request."""
    fields = {"request_id": request.state.request_id, **request.user.log_fields()}
    fields |= {"what": what, "api_key_id": key["id"], "organization_id": key["organization_id"]}
    audit_log.info("%s %s", what, key["id"], extra={"fields": fields})


def granted_scopes(request: Request) -> list[str]:
    """The granted scopes: callers can only see, change or create keys that may do no more than they may."""
    return sorted(request.user.scopes)


def api_key_id(request: Request) -> UUID:
    return uuid_param(request, "api_key_id", otherwise=ApiError(404, "api_key_not_found", "API key not found"))


def read_prefix(body: str) -> str:
    """The prefix of the key, by `mode` in the body. The database checks the rest, and refuses anything but a JSON object."""
    try:
        mode = json.loads(body).get("mode")
    except (ValueError, RecursionError, AttributeError):
        mode = None
    if mode not in (None, "live", "test"):
        raise ApiError(400, "invalid_mode", "mode must be one of live, test")
    return api_keys.TEST if mode == "test" else api_keys.LIVE
