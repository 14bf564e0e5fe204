"""`/realtime/v1/websocket`: which clients are admitted, and all their connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from uuid import UUID

from prometheus_client.core import Metric
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from pyshell.api import api_keys
from pyshell.api.authentication import Authenticator, client_address
from pyshell.api.counts import Holdings
from pyshell.api.error_responses import from_database
from pyshell.api.errors import ApiError
from pyshell.api.realtime.connection import Connection
from pyshell.api.realtime.credentials import identify
from pyshell.api.realtime.feed import Feed
from pyshell.api.realtime.limits import Place, is_full, wait_to_be_refused
from pyshell.api.realtime.outbox import Outbox, Traffic
from pyshell.api.realtime.protocol import ProtocolError, version_of
from pyshell.metrics import gauge
from pyshell.postgres.sqlstates import DatabaseError

logger = logging.getLogger("pyshell.api.realtime")

SWEEP_SECONDS = 1.0


class Realtime:
    """All connections of this process; `holdings` has those of every process that serves with it."""

    def __init__(self, feed: Feed, authenticator: Authenticator, holdings: Holdings) -> None:
        self.feed = feed
        self.authenticator = authenticator
        self.connections: set[Connection] = set()
        self._holdings = holdings
        self._traffic = Traffic()
        self._sweeper: asyncio.Task[None] | None = None
        # Organizations whose credentials have changed since the last sweep; None: any may have.
        self._changed: set[UUID | None] = set()

    def metrics(self) -> Iterable[Metric]:
        yield gauge("realtime_connections", "Open WebSockets", len(self.connections))
        channels = sum(connection.channel_count for connection in self.connections)
        yield gauge("realtime_channels", "Joined channels", channels)
        yield from self._traffic.metrics()

    def on_credentials_changed(self, payload: str | None) -> None:
        """Makes the next sweep check the channels of the organization (None: of all organizations)."""
        try:
            organization_id = None if payload is None else UUID(payload)
        except ValueError:
            return
        self.authenticator.forget(organization_id)
        self._changed.add(organization_id)

    async def stop(self) -> None:
        if self._sweeper:
            self._sweeper.cancel()
        await self.feed.stop()

    async def serve(self, websocket: WebSocket) -> None:
        """One connection, from its opening to its end."""
        try:
            connection, place = await self._admit(websocket)
        except (ApiError, DatabaseError) as error:
            await self._refuse(websocket, from_database(error) if isinstance(error, DatabaseError) else error)
            return
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)
            place.give_back()

    async def _admit(self, websocket: WebSocket) -> tuple[Connection, Place]:
        """Raises ApiError and DatabaseError, before anything runs for the client."""
        key = websocket.query_params.get("apikey")
        if not key:
            raise ApiError(401, "missing_credentials", "apikey is missing")
        try:
            version = version_of(websocket.query_params.get("vsn"))
        except ProtocolError as error:
            raise ApiError(400, "invalid_vsn", str(error)) from error
        too_many = ApiError(503, "busy", "Too many connections", headers={"Retry-After": "5"})
        if is_full(self._holdings):
            raise too_many
        address = client_address(websocket)
        organization_id = None
        if api_keys.is_well_formed(key):
            organization_id = (await identify(self.authenticator, key, address)).organization_id
        place = Place.take(self._holdings, address, organization_id)
        if place is None:
            if organization_id is None:
                raise too_many
            raise ApiError(429, "too_many_connections", "The organization has too many connections")
        outbox = Outbox(self._traffic, organization_id)
        return Connection(websocket, version, key, place, outbox, self.feed, self.authenticator), place

    async def _refuse(self, websocket: WebSocket, error: ApiError) -> None:
        await wait_to_be_refused(self._holdings, client_address(websocket))
        body = {"error": error.message, "code": error.code}
        await websocket.send_denial_response(JSONResponse(body, error.status, error.headers))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            changed, self._changed = self._changed, set()
            for connection in tuple(self.connections):
                try:
                    await connection.sweep(changed)
                except Exception:
                    logger.exception("realtime: sweeping a connection failed")


async def realtime(websocket: WebSocket) -> None:
    served: Realtime = websocket.app.state.realtime
    await served.serve(websocket)
