"""Turns errors into responses, in this one place: {"error", "code", "request_id", "hint"?, further members}."""

from __future__ import annotations

import json
import logging
import re
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ExceptionHandler

from pyshell.api.errors import ApiError
from pyshell.postgres.sqlstates import DatabaseError, Kind, is_inside_function, kind_of

logger = logging.getLogger("pyshell.api.errors")


class Meaning(NamedTuple):
    """The response to an error of the database."""

    status: int
    code: str
    message: str


INVALID_JSON = Meaning(400, "invalid_json", "The body is not valid JSON")
UNAVAILABLE = Meaning(503, "database_unavailable", "The database is unavailable; please try again")
BUSY = Meaning(503, "busy", "The service is busy; please try again")
INTERNAL = Meaning(500, "internal_error", "Internal server error")

# Errors of Kind.DATA, by SQLSTATE. All others are bugs of ours.
ABOUT_THE_DATA = {
    "22P02": INVALID_JSON,
    "22P05": Meaning(400, "unsupported_character", "The body contains a character that cannot be stored"),
    "22021": Meaning(400, "unsupported_character", "The body contains a character that cannot be stored"),
    "22003": Meaning(400, "number_out_of_range", "The body contains a number that is out of range"),
    "54000": Meaning(400, "body_too_complex", "The body is too complex"),
    "54001": Meaning(400, "body_too_complex", "The body is nested too deeply"),
    "23505": Meaning(409, "already_exists", "It already exists"),
    "23503": Meaning(409, "in_use", "It is still in use, or refers to something that does not exist"),
    "23514": Meaning(400, "invalid_value", "A value is not allowed"),
    "23502": Meaning(400, "invalid_value", "A required value is missing"),
}
# What PostgreSQL says of the place of an error in JSON, in its language, where the first line is empty.
NOTHING_OF_LINE_1 = re.compile(r"[^:\"{[]*JSON[^:\"{[]*1[^:\"{[]*:?")
# In the names of the foreign keys to the organization.
OF_ORGANIZATION = "_organization_id_fkey"
DELETED_MEANWHILE = Meaning(404, "organization_not_found", "Organization not found")
KINDS = {
    Kind.CONFLICT: BUSY,
    Kind.BUSY: BUSY,
    Kind.TIMEOUT: Meaning(503, "timeout", "The request took too long; please try again"),
    Kind.LOST: UNAVAILABLE,
    Kind.UNAVAILABLE: UNAVAILABLE,
    Kind.OUTCOME_UNKNOWN: Meaning(503, "outcome_unknown", "The database did not respond: the request may or may not have been carried out"),
    Kind.READ_ONLY: Meaning(503, "database_read_only", "The database is read-only at the moment; please try again"),
    Kind.NOT_MIGRATED: Meaning(503, "migrations_pending", "The database lacks migrations"),
}


def error_response(request: Request, error: ApiError) -> Response:
    body: dict[str, Any] = {"error": error.message, "code": error.code, "request_id": request.state.request_id}
    if error.hint:
        body["hint"] = error.hint
    return JSONResponse(body | dict(error.members), error.status, dict(error.headers))


def from_database(error: DatabaseError) -> ApiError:
    """The response to a database error. Logs errors that are bugs of ours."""
    kind, state = kind_of(error), error.sqlstate or ""
    if kind is Kind.REFUSED:
        return _raised_by_us(error, int(state[2:]))
    meaning = KINDS.get(kind) or ABOUT_THE_DATA.get(state, INTERNAL)
    if state == "23503" and OF_ORGANIZATION in (error.diag.message_primary or ""):
        # It was deleted after the function had found it. A node of a cluster passes on the name of the key in the message alone.
        meaning = DELETED_MEANWHILE
    if meaning.status == 400 and state[:2] == "22" and is_inside_function(error):
        # The arguments were well-formed, so one of our functions is at fault.
        meaning = INTERNAL
    if meaning.status >= 500:
        # The context helps only with our own bugs.
        logger.error("%s: %s", f"database error {state}".strip(), error, exc_info=error if meaning is INTERNAL else None)
    return ApiError(
        meaning.status,
        meaning.code,
        meaning.message,
        hint=_where_json_is_wrong(error) if meaning is INVALID_JSON else None,
        headers={"Retry-After": "1"} if meaning.status == 503 else None,
    )


def _raised_by_us(error: DatabaseError, status: int) -> ApiError:
    diag = error.diag
    members = json.loads(diag.message_detail) if diag.message_detail else {}
    # A node of a cluster that passes on another node's error omits the name of the constraint.
    code = diag.constraint_name or members.get("code") or INTERNAL.code
    members.pop("code", None)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if "retry_after" in members:
        headers["Retry-After"] = str(members.pop("retry_after"))
    return ApiError(
        status,
        code,
        diag.message_primary or "",
        hint=diag.message_hint,
        members=members,
        headers=headers,
    )


def _where_json_is_wrong(error: DatabaseError) -> str:
    """Such as: Token "}" is invalid. JSON data, line 3: ..."device_ids":}"""
    context = (error.diag.context or "").split("\n")[0].strip()
    if NOTHING_OF_LINE_1.fullmatch(context):
        return "The body is empty."
    return f"{error.diag.message_detail or ''} {context}".strip()


async def on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(request, error)


async def on_database_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DatabaseError)
    return error_response(request, from_database(error))


async def on_routing_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(request, ApiError(404, "route_not_found", "No such route"))
    assert error.status_code == 405
    allowed = ", ".join(allowed_methods(request))
    problem = f"{request.method} is not allowed here"
    return error_response(
        request, ApiError(405, "method_not_allowed", problem, headers={"Allow": allowed}, hint=f"This route has {allowed}.")
    )


def allowed_methods(request: Request) -> list[str]:
    """The methods of the routes that match the path; if routes have exactly this path, only theirs."""
    routes: list[BaseRoute] = request.app.routes
    matching = [route for route in routes if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE]
    exact = [route for route in matching if not route.param_convertors]
    return sorted({method for route in exact or matching for method in route.methods or ()})


async def on_disconnect(request: Request, error: Exception) -> Response:
    return error_response(request, ApiError(408, "incomplete_body", "The body arrived incomplete"))


exception_handlers: dict[Any, ExceptionHandler] = {
    ApiError: on_api_error,
    DatabaseError: on_database_error,
    HTTPException: on_routing_error,
    ClientDisconnect: on_disconnect,
}
