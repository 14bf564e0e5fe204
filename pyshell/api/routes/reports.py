"""Reports with their sites and sums, as JSON, as CSV and as a page to print."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from pyshell.api.errors import ApiError
from pyshell.api.heavy_work import heavy_turn
from pyshell.api.large_answers import PiecewiseResponse, bounded
from pyshell.api.media_types import WORKBOOK
from pyshell.api.reports.page import report_page
from pyshell.api.routes.consistency import reader
from pyshell.api.routes.files import Check, Piece, file_response
from pyshell.api.routes.parameters import (
    boolean_param,
    created_params,
    json_body,
    json_response,
    page_params,
    page_response,
    read_uuid,
    text_params,
    uuid_param,
)
from pyshell.postgres.calls import Runner, call, call_row
from pyshell.postgres.compact import PIECE_BYTES
from pyshell.postgres.sqlstates import DatabaseError

SITES_ON_PAGE = 200
FAILED_ITEMS_ON_PAGE = 50
SITE_FILTERS = ("eligible", "state", "utility", "program", "q")
MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "xlsx": WORKBOOK}
# The page loads nothing, has its icon in itself, and runs no script that a provider may have put into a name.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}


@dataclass(frozen=True, slots=True)
class Report:
    """The report that a request is about."""

    organization_id: UUID
    report_id: UUID

    @property
    def arguments(self) -> dict[str, Any]:
        return {"organization_id": self.organization_id, "report_id": self.report_id}


async def list_incentive_reports(request: Request) -> Response:
    body = await call(
        reader(request),
        "list_incentive_reports",
        organization_id=request.user.organization_id,
        **text_params(request, "status", "report_type"),
        **created_params(request),
        **page_params(request),
    )
    return page_response(request, body)


async def get_incentive_report(request: Request) -> Response:
    report = report_of(request)
    return await bounded(request, report.organization_id, partial(page_of_sites, request, report))


async def page_of_sites(request: Request, report: Report) -> Response:
    async with heavy_turn(request):
        body = await call(
            reader(request),
            "get_incentive_report",
            **report.arguments,
            **text_params(request, "sort"),
            **_site_filters(request),
            **page_params(request),
        )
        return page_response(request, body)


async def get_incentive_report_summary(request: Request) -> Response:
    return json_response(await call(reader(request), "get_incentive_report_summary", **report_of(request).arguments))


async def get_incentive_report_csv(request: Request) -> Response:
    return await report_file(request, report_of(request), "csv")


async def get_incentive_report_xlsx(request: Request) -> Response:
    return await report_file(request, report_of(request), "xlsx")


async def get_incentive_report_page(request: Request) -> Response:
    return await report_html(request, report_of(request))


async def report_file(request: Request, report: Report, file_format: str, check: Check | None = None) -> Response:
    """The sites of the report that pass the filters of the request, as CSV or as a workbook."""
    filters = _site_filters(request)
    source = reader(request)

    async def read_piece(after: int, limit: int) -> Piece:
        async with heavy_turn(request, report.organization_id):
            lines, last_position = await call_row(
                source,
                "get_incentive_report_csv",
                **report.arguments,
                **filters,
                format=file_format,
                after=after,
                limit=limit,
            )
        return lines, last_position

    name = f"incentive-report-{report.report_id}.{file_format}"
    return await file_response(request, report.organization_id, name, MEDIA_TYPES[file_format], read_piece, check)


async def report_html(request: Request, report: Report) -> Response:
    """The page about the report. Its names come from the provider, and may be long."""
    return await bounded(request, report.organization_id, partial(page_of_report, request, report))


async def page_of_report(request: Request, report: Report) -> Response:
    source = reader(request)
    async with heavy_turn(request, report.organization_id):
        summary = json.loads(await call(source, "get_incentive_report_summary", **report.arguments))
        sites = json.loads(await call(source, "get_incentive_report", **report.arguments, sort="-amount", limit=SITES_ON_PAGE))
        job, failed_items = await _job_and_failed_items(source, report.organization_id, summary["report"]["job_id"])
    page = report_page(summary, sites["sites"], job, failed_items).encode()
    kind = PiecewiseResponse if len(page) > PIECE_BYTES else Response
    return kind(page, headers=PAGE_HEADERS, media_type="text/html")


async def _job_and_failed_items(
    source: Runner, organization_id: UUID, job_id: str | None
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The job of a report and the first of its failed items; None if the job has been deleted."""
    if job_id is None:
        return None, []
    job = {"organization_id": organization_id, "job_id": UUID(job_id)}
    try:
        progress, items = await asyncio.gather(
            call(source, "get_batch_lookup", **job),
            call(source, "list_batch_lookup_items", **job, status="failed", limit=FAILED_ITEMS_ON_PAGE),
        )
    except DatabaseError as error:
        if error.sqlstate != "PT404":
            raise
        return None, []
    return json.loads(progress), json.loads(items)["items"]


async def diff_incentive_reports(request: Request) -> Response:
    async with heavy_turn(request):
        body = await call(
            reader(request),
            "diff_incentive_reports",
            organization_id=request.user.organization_id,
            from_report_id=_report_param(request, "from"),
            to_report_id=_report_param(request, "to"),
            **text_params(request, "change"),
            **page_params(request),
        )
        return page_response(request, body)


async def update_incentive_report(request: Request) -> Response:
    changes = await json_body(request)
    return json_response(await call(request.app.state.pool, "update_incentive_report", **report_of(request).arguments, changes=changes))


async def delete_incentive_report(request: Request) -> Response:
    return json_response(await call(request.app.state.pool, "delete_incentive_report", **report_of(request).arguments))


def report_of(request: Request) -> Report:
    """The report in the path, of the calling organization."""
    report_id = uuid_param(request, "report_id", ApiError(404, "report_not_found", "Report not found"))
    return Report(request.user.organization_id, report_id)


def _report_param(request: Request, name: str) -> UUID:
    if name not in request.query_params:
        raise ApiError(400, f"invalid_{name}", f"{name} must be the id of a report")
    return read_uuid(request.query_params[name], ApiError(404, "report_not_found", "Report not found"))


def _site_filters(request: Request) -> dict[str, object]:
    filters: dict[str, object] = dict(text_params(request, *SITE_FILTERS[1:]))
    if "eligible" in request.query_params:
        filters["eligible"] = boolean_param(request, "eligible")
    return filters
