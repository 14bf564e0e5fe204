"""The service about itself: is it up, is it ready, what can it do; and the manual run of the worker."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path

import psycopg
from psycopg import errors
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyshell import migrations, worker
from pyshell.db import call
from pyshell.errors import ApiError
from pyshell.routes.parameters import json_response

OPENAPI_FILE = Path(__file__).parents[2] / "openapi.json"
READY_WITHIN_SECONDS = 3


async def healthz(request: Request) -> Response:
    """The process is up, whatever the state of the database."""
    return JSONResponse({"status": "up"})


async def readyz(request: Request) -> Response:
    """Requests can be served: the database answers, and has all the migrations of this release."""
    try:
        async with asyncio.timeout(READY_WITHIN_SECONDS):
            applied = json.loads(await call(request.app.state.pool, "applied_migrations"))
    except (errors.UndefinedFunction, errors.InvalidSchemaName):
        applied = []
    except (psycopg.OperationalError, TimeoutError) as error:
        raise ApiError(503, "database_unavailable", "The database is not reachable", headers={"Retry-After": "1"}) from error
    pending = migrations.pending(applied)
    if pending:
        raise ApiError(503, "migrations_pending", "The database lacks migrations", members={"pending": pending})
    return JSONResponse({"status": "ready"})


async def run_worker(request: Request) -> Response:
    """One run over at most `items_per_run` items, in this process."""
    return JSONResponse(await worker.run_once(request.app.state.pool, request.app.state.settings))


async def openapi(request: Request) -> Response:
    return json_response(openapi_text(request.scope["root_path"]))


@cache
def openapi_text(root_path: str) -> bytes:
    """The description of the API, for the prefix that it is mounted under."""
    description = json.loads(OPENAPI_FILE.read_text())
    return json.dumps(description | {"servers": [{"url": root_path or "/"}]}).encode()
