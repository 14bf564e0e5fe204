"""Links to a report: created, listed and revoked by its organization, followed by anybody who has one."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from pyshell.api import api_keys
from pyshell.api.authentication import client_address
from pyshell.api.errors import ApiError
from pyshell.api.limits import RequestLimiter
from pyshell.api.routes.parameters import json_response, optional_json_body, uuid_param
from pyshell.api.routes.reports import Report, report_file, report_html, report_of
from pyshell.postgres.calls import call

MAX_REQUEST_BYTES = 4096
# Per address; per link, whoever follows it.
REQUESTS_PER_MINUTE = 60
REQUESTS_PER_MINUTE_OF_A_LINK = 300
# The URL is a secret: neither search engines nor other sites may learn it.
SHARED_HEADERS = {"X-Robots-Tag": "noindex, nofollow", "Referrer-Policy": "no-referrer"}


async def share_incentive_report(request: Request) -> Response:
    """Creates a link. Only this response contains its token."""
    report = report_of(request)
    token = api_keys.generate(api_keys.SHARE)
    share = await call(
        request.app.state.pool,
        "share_incentive_report",
        **report.arguments,
        token_hash=hash_token(token),
        request=await optional_json_body(request, MAX_REQUEST_BYTES),
        created_by=request.user.name,
    )
    url = f"{str(request.base_url).rstrip('/')}/shared-reports/{token}"
    return json_response(json.dumps(json.loads(share) | {"token": token, "url": url}).encode(), 201)


async def list_incentive_report_shares(request: Request) -> Response:
    return json_response(await call(request.app.state.pool, "list_incentive_report_shares", **report_of(request).arguments))


async def revoke_incentive_report_share(request: Request) -> Response:
    share_id = uuid_param(request, "share_id", ApiError(404, "share_not_found", "Link not found"))
    return json_response(
        await call(
            request.app.state.pool,
            "revoke_incentive_report_share",
            **report_of(request).arguments,
            share_id=share_id,
            actor=request.user.name,
        )
    )


async def get_shared_report_page(request: Request) -> Response:
    return await report_html(request, await shared_report(request))


async def get_shared_report_csv(request: Request) -> Response:
    return await report_file(request, await shared_report(request), "csv", partial(linked_report, request))


async def get_shared_report_xlsx(request: Request) -> Response:
    return await report_file(request, await shared_report(request), "xlsx", partial(linked_report, request))


async def shared_report(request: Request) -> Report:
    """The report that the link leads to. Raises ApiError as `linked_report` does, and 429."""
    limiter: RequestLimiter = request.app.state.request_limiter
    token, address = request.path_params["token"], client_address(request)
    headers, too_many = limiter.count(("shared reports", address), REQUESTS_PER_MINUTE)
    request.state.headers = headers | SHARED_HEADERS
    if too_many:
        raise too_many
    report = await linked_report(request)
    _, too_many = limiter.count(("shared report", hash_token(token)), REQUESTS_PER_MINUTE_OF_A_LINK)
    if too_many:
        raise too_many
    return report


async def linked_report(request: Request) -> Report:
    """The report that the link currently leads to. Raises ApiError 404: unknown, expired or revoked, indistinguishably."""
    token, address = request.path_params["token"], client_address(request)
    found = None
    if api_keys.is_well_formed(token, (api_keys.SHARE,)):
        answer = await call(request.app.state.pool, "open_shared_report", ("shared reports", address), token_hash=hash_token(token))
        found = json.loads(answer)
    if found is None:
        raise ApiError(
            404, "shared_report_not_found", "This link does not work, or no longer works", hint="Ask whoever gave it to you for a new one."
        )
    return Report(UUID(found["organization_id"]), UUID(found["report_id"]))


def hash_token(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
