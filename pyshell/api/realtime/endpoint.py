"""`/realtime/v1/websocket`: the connections, the channels that clients join on them, and the messages that they are sent."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from typing import Any
from uuid import UUID

from prometheus_client.core import Metric
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from pyshell.api import api_keys
from pyshell.api.authentication import Authenticator, client_address
from pyshell.api.counts import Holdings
from pyshell.api.error_responses import from_database
from pyshell.api.errors import ApiError
from pyshell.api.realtime.credentials import Subscriber, identify
from pyshell.api.realtime.feed import Change, Feed
from pyshell.api.realtime.filters import FilterError, Question, Subscription, parse_subscription, read_time
from pyshell.api.realtime.protocol import Frame, ProtocolError, Version, decode, decode_binary, encode, version_of
from pyshell.metrics import counters, gauge
from pyshell.postgres.sqlstates import DatabaseError, Kind, kind_of
from pyshell.tasks import cancel_all

logger = logging.getLogger("pyshell.api.realtime")

MAX_CHANNELS = 100
MAX_SUBSCRIPTIONS = 20
MAX_CONNECTIONS_PER_ORGANIZATION = 1_000
MAX_CHANNELS_PER_ORGANIZATION = 1_000
MAX_CONNECTIONS = 5_000
# Connections whose apikey says nothing, and that have not joined with a token yet; the others are kept for those that we know.
MAX_ANONYMOUS = 1_000
MAX_ANONYMOUS_PER_ADDRESS = 50
# Each waits so long for every one that its address has, so that an address that opens and leaves them has few turns, and not all at once.
ANONYMOUS_SECONDS = 0.02
# Messages that wait for a slow client; a newer state of a row replaces the one that waits.
MAX_WAITING = 1_000
# Their characters, with room for what is on its way to a client that is behind; and those of all connections of an organization, or of
# all that began as anonymous, beyond what each may have anyway.
MAX_WAITING_LENGTH = 16 * 1024 * 1024
MAX_WAITING_LENGTH_TOGETHER = 64 * 1024 * 1024
FREE_LENGTH = 64 * 1024
STUCK_SECONDS = 30.0
# Clients send a heartbeat every 25 s.
SILENT_SECONDS = 75.0
# A connection without a channel is closed.
CHANNELLESS_SECONDS = 60.0
SWEEP_SECONDS = 1.0
# A refused client that comes back at once costs more than one that is served: it waits for its refusal, the longer the more wait with it.
REFUSAL_SECONDS = 0.1
MAX_REFUSAL_SECONDS = 5.0
MAX_REFUSALS = 1_000

# Of all together, in the holdings; who else has some of them is named below.
CONNECTIONS, ANONYMOUS, REFUSALS = "connections", "anonymous connections", "refusals"

# No row is older, and the feed looks somewhat further back than it is told to, where there may be no times.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)

SCOPES = {"batch_lookup_jobs": "jobs:read", "incentive_reports": "reports:read"}

DATABASE_UNAVAILABLE = "DatabaseLackOfConnections: The database cannot be reached at the moment. Try again in a few seconds."

TRY_AGAIN_LATER, POLICY_VIOLATION, UNSUPPORTED_DATA, GOING_AWAY = 1013, 1008, 1003, 1001


class JoinError(Exception):
    """A refused join; the client reads `Code: message` and tries again. `transient`: a fault of the server, a new attempt may succeed."""

    def __init__(self, reason: str, *, transient: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient


class Realtime:
    """All connections of this process; `holdings` has those of every process that serves with it."""

    def __init__(self, feed: Feed, authenticator: Authenticator, holdings: Holdings) -> None:
        self.feed = feed
        self.authenticator = authenticator
        self.connections: set[Connection] = set()
        self.holdings = holdings
        self._sweeper: asyncio.Task[None] | None = None
        # Organizations whose credentials have changed since the last sweep; None: any may have.
        self._changed: set[UUID | None] = set()
        # Characters that wait for the connections of an organization; None: of those that began as anonymous.
        self.waiting: Counter[UUID | None] = Counter()
        self.sent = 0
        self.dropped: Counter[str] = Counter({"superseded": 0, "too_slow": 0, "silent": 0, "stuck": 0})

    def metrics(self) -> Iterable[Metric]:
        yield gauge("realtime_connections", "Open WebSockets", len(self.connections))
        channels = sum(connection.channel_count for connection in self.connections)
        yield gauge("realtime_channels", "Joined channels", channels)
        yield counters("realtime_messages", "Messages that clients have taken", {(): self.sent})
        yield counters(
            "realtime_dropped",
            "superseded: messages that a newer state of the row replaced before the client took them; connections that were closed because "
            "the client took its messages too slowly (too_slow), was silent, or took nothing (stuck)",
            {(reason,): count for reason, count in self.dropped.items()},
            "reason",
        )

    def on_credentials_changed(self, payload: str | None) -> None:
        """Lets the next sweep check the channels of the organization again; None: of all organizations."""
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
            connection = await self._admit(websocket)
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
            self.holdings.give_back(CONNECTIONS)

    async def _admit(self, websocket: WebSocket) -> Connection:
        """Raises ApiError and DatabaseError, before anything runs for the client."""
        key = websocket.query_params.get("apikey")
        if not key:
            raise ApiError(401, "missing_credentials", "apikey is missing")
        try:
            version = version_of(websocket.query_params.get("vsn"))
        except ProtocolError as error:
            raise ApiError(400, "invalid_vsn", str(error)) from error
        too_many = ApiError(503, "busy", "Too many connections", headers={"Retry-After": "5"})
        if self.holdings.of(CONNECTIONS) >= MAX_CONNECTIONS:
            raise too_many
        address = client_address(websocket)
        organization_id = None
        if api_keys.is_well_formed(key):
            organization_id = (await identify(self.authenticator, key, address)).organization_id
            if not self.holdings.take(connections_of(organization_id), MAX_CONNECTIONS_PER_ORGANIZATION):
                raise ApiError(429, "too_many_connections", "The organization has too many connections")
        elif not self.take_anonymous(address):
            raise too_many
        self.holdings.take(CONNECTIONS, math.inf)
        return Connection(self, websocket, version, key, organization_id)

    async def _refuse(self, websocket: WebSocket, error: ApiError) -> None:
        address = client_address(websocket)
        if self.holdings.take(REFUSALS, MAX_REFUSALS):
            self.holdings.take(refusals_of(address), math.inf)
            try:
                # Not all at once.
                await asyncio.sleep(refusal_seconds(self.holdings.of(refusals_of(address))) * random.uniform(0.5, 1.0))
            finally:
                self.holdings.give_back(refusals_of(address))
                self.holdings.give_back(REFUSALS)
        body = {"error": error.message, "code": error.code}
        await websocket.send_denial_response(JSONResponse(body, error.status, error.headers))

    def take_anonymous(self, address: str | None) -> bool:
        """One more anonymous connection from there, unless there are too many."""
        if not self.holdings.take(anonymous_at(address), MAX_ANONYMOUS_PER_ADDRESS):
            return False
        if not self.holdings.take(ANONYMOUS, MAX_ANONYMOUS):
            self.holdings.give_back(anonymous_at(address))
            return False
        return True

    def give_back_anonymous(self, address: str | None) -> None:
        self.holdings.give_back(anonymous_at(address))
        self.holdings.give_back(ANONYMOUS)

    def anonymous_seconds(self, address: str | None) -> float:
        """How long an anonymous connection from there waits until it is accepted."""
        return self.holdings.of(anonymous_at(address)) * ANONYMOUS_SECONDS

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            changed, self._changed = self._changed, set()
            for connection in tuple(self.connections):
                try:
                    await connection.sweep(changed)
                except Exception:
                    logger.exception("realtime: sweeping a connection failed")


def refusal_seconds(waiting: int) -> float:
    """How long a client is kept waiting to be refused, as one of so many from its address."""
    return min(waiting * REFUSAL_SECONDS, MAX_REFUSAL_SECONDS)


def connections_of(organization_id: UUID) -> object:
    return "connections of", organization_id


def channels_of(organization_id: UUID) -> object:
    return "channels of", organization_id


def anonymous_at(address: str | None) -> object:
    return "anonymous at", address


def refusals_of(address: str | None) -> object:
    return "refusals of", address


class Channel:
    """A topic that a client has joined, with the credential it joined with and its subscriptions."""

    def __init__(
        self,
        connection: Connection,
        topic: str,
        join_ref: str | None,
        subscriber: Subscriber,
        subscriptions: Sequence[Subscription],
        position: int,
    ) -> None:
        self.connection = connection
        self.topic = topic
        self.join_ref = join_ref
        self.subscriber = subscriber
        self.subscriptions = subscriptions
        self.position = position

    @property
    def organization_id(self) -> UUID:
        return self.subscriber.organization_id

    @property
    def claims(self) -> str:
        return self.subscriber.claims

    def may_want(self, table: str, row_id: str) -> bool:
        return any(subscription.may_want(table, row_id) for subscription in self.subscriptions)

    @property
    def is_behind(self) -> bool:
        return self.connection.is_behind

    def questions(self, table: str, record: Mapping[str, Any]) -> Iterator[Question]:
        return chain.from_iterable(subscription.questions(table, record) for subscription in self.subscriptions)

    def deliver(self, change: Change) -> None:
        if not self.connection.has(self):
            return
        by_columns: dict[frozenset[str] | None, list[int]] = {}
        for subscription in self.subscriptions:
            if subscription.wants(change.event, change.row.table, change.record, change.answers):
                by_columns.setdefault(subscription.columns, []).append(subscription.id)
        for columns, ids in by_columns.items():
            likeness = (self.connection.version, self.topic, columns, *ids)
            frame = change.frames.get(likeness)
            if frame is None:
                payload = f'{{"ids":{json.dumps(ids)},"data":{change.data(columns)}}}'
                frame = encode(self.connection.version, None, None, self.topic, "postgres_changes", payload)
                change.frames[likeness] = frame
            self.connection.send((self.topic, change.event, change.row, columns), frame)

    def fail(self, reason: str) -> None:
        self.connection.close_channel(self, reason)


class Connection:
    """One WebSocket. Frames wait in `_waiting`, keyed by what they are about, until the client takes them."""

    def __init__(self, realtime: Realtime, websocket: WebSocket, version: Version, key: str, organization_id: UUID | None) -> None:
        self.version = version
        self._realtime = realtime
        self._websocket = websocket
        self._address = client_address(websocket)
        self._key = key
        self._channels: dict[str, Channel] = {}
        # The organizations that it has been counted for; none: it is anonymous.
        self._counted: set[UUID] = set() if organization_id is None else {organization_id}
        self._waiting: dict[object, str] = {}
        self._waiting_length = 0
        self._owner = organization_id
        self._something_waits = asyncio.Event()
        self._heard_at = self._sent_at = self._in_use_at = time.monotonic()
        self._closing: tuple[int, str] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        tasks: list[asyncio.Task[None]] = []
        try:
            if not self._counted:
                await asyncio.sleep(self._realtime.anonymous_seconds(self._address) * random.uniform(0.5, 1.0))
            await self._websocket.accept()
            tasks = self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for channel in tuple(self._channels.values()):
                self._forget(channel)
            self._drop_waiting()
            for organization_id in self._counted:
                self._realtime.holdings.give_back(connections_of(organization_id))
            if not self._counted:
                self._realtime.give_back_anonymous(self._address)
            for outcome in await cancel_all(tasks):
                if isinstance(outcome, Exception):
                    logger.error("realtime: a connection failed", exc_info=outcome)

    async def _read(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if self._closing:
                # Keep reading: a client that must send before it reads would never learn why.
                continue
            self._heard_at = time.monotonic()
            try:
                text, data = message.get("text"), message.get("bytes")
                frame = decode_binary(data or b"") if text is None else decode(text, self.version)
                if frame:
                    await self._handle(frame)
            except ProtocolError as error:
                self.close(UNSUPPORTED_DATA, str(error))

    @property
    def channel_count(self) -> int:
        return len(self._channels)

    @property
    def is_behind(self) -> bool:
        return len(self._waiting) > MAX_WAITING // 4 or self._waiting_length > MAX_WAITING_LENGTH // 16

    def has(self, channel: Channel) -> bool:
        return self._channels.get(channel.topic) is channel

    def send(self, key: object, frame: str) -> None:
        """Sends a frame when the client takes it; one that waits under the same key is superseded."""
        if self._closing:
            return
        if self._take(key) is not None:
            self._realtime.dropped["superseded"] += 1
        self._waiting[key] = frame
        self._count_waiting(len(frame))
        self._something_waits.set()
        if self._has_too_much_waiting:
            self._realtime.dropped["too_slow"] += 1
            self.close(TRY_AGAIN_LATER, "the client reads too slowly")

    @property
    def _has_too_much_waiting(self) -> bool:
        length = self._waiting_length
        together = self._realtime.waiting[self._owner]
        return (
            len(self._waiting) > MAX_WAITING
            or length > MAX_WAITING_LENGTH
            or (length > FREE_LENGTH and together > MAX_WAITING_LENGTH_TOGETHER)
        )

    def _take(self, key: object) -> str | None:
        frame = self._waiting.pop(key, None)
        if frame is not None:
            self._count_waiting(-len(frame))
        return frame

    def _drop_waiting(self) -> None:
        self._waiting.clear()
        self._count_waiting(-self._waiting_length)

    def _count_waiting(self, length: int) -> None:
        self._waiting_length += length
        self._realtime.waiting[self._owner] += length
        if not self._realtime.waiting[self._owner]:
            del self._realtime.waiting[self._owner]

    def close(self, code: int, reason: str) -> None:
        self._closing = self._closing or (code, reason)
        self._drop_waiting()
        self._something_waits.set()

    def close_channel(self, channel: Channel, reason: str) -> None:
        """Closes a channel and tells the client why."""
        if self._forget(channel):
            self._system(channel, "system", "error", reason)
            self._reply(channel.join_ref, channel.join_ref, channel.topic, "phx_close", {})

    async def sweep(self, changed: Set[UUID | None] = frozenset()) -> None:
        """Closes channels whose credential has ended, and connections whose client is silent or takes nothing.

        Credentials are checked every RECHECK_SECONDS, and those of organizations in `changed` (None: all) at once.
        """
        now = time.monotonic()
        if now - self._heard_at > SILENT_SECONDS and not self._closing:
            self._realtime.dropped["silent"] += 1
            self.close(GOING_AWAY, "no heartbeat")
        if self._channels:
            self._in_use_at = now
        elif now - self._in_use_at > CHANNELLESS_SECONDS:
            self.close(GOING_AWAY, "no channel")
        if (self._waiting or self._closing) and now - self._sent_at > STUCK_SECONDS:
            self._realtime.dropped["stuck"] += 1
            for task in self._tasks:
                task.cancel()
        for channel in tuple(self._channels.values()):
            if channel.subscriber.expires_at <= time.time():
                self.close_channel(channel, "Token has expired")
            elif channel.subscriber.recheck_at <= time.time() or changed & {None, channel.organization_id}:
                await self._identify_again(channel, channel.subscriber.token)

    async def _write(self) -> None:
        while True:
            await self._something_waits.wait()
            if self._closing:
                if self._websocket.application_state is WebSocketState.CONNECTED:
                    with suppress(RuntimeError, WebSocketDisconnect):
                        await self._websocket.close(*self._closing)
                return
            if not self._waiting:
                self._something_waits.clear()
                self._sent_at = time.monotonic()
                continue
            text = self._take(next(iter(self._waiting)))
            try:
                await self._websocket.send({"type": "websocket.send", "text": text})
            except (OSError, RuntimeError, WebSocketDisconnect):
                return
            self._sent_at = time.monotonic()
            self._realtime.sent += 1

    async def _handle(self, frame: Frame) -> None:
        channel = self._channels.get(frame.topic)
        match frame.event:
            case "heartbeat" if frame.topic == "phoenix":
                self._reply(None, frame.ref, "phoenix", "phx_reply", {"status": "ok", "response": {}})
            case "phx_join":
                await self._join(frame)
            case "access_token" if channel:
                token = frame.payload.get("access_token")
                if isinstance(token, str) and token != channel.subscriber.token:
                    await self._identify_again(channel, token)
            case "access_token":
                pass
            case "phx_leave":
                if channel:
                    self._forget(channel)
                self._reply(frame.join_ref, frame.ref, frame.topic, "phx_reply", {"status": "ok", "response": {}})
                self._reply(frame.join_ref, frame.join_ref, frame.topic, "phx_close", {})
            case _ if frame.ref is not None:
                reason = "UnknownEvent: This server offers postgres_changes, but neither broadcast nor presence"
                self._reply(frame.join_ref, frame.ref, frame.topic, "phx_reply", {"status": "error", "response": {"reason": reason}})

    async def _join(self, frame: Frame) -> None:
        if known := self._channels.get(frame.topic):
            self._forget(known)
        try:
            config, entries = _postgres_changes(frame)
            subscriber, position = await self._new_subscriber(frame)
            try:
                subscriptions = await self._subscriptions(entries, subscriber.organization_id)
                since, fault = _since([config, *entries]), None
            except FilterError as error:
                subscriptions, since, fault = [], None, str(error)
            self._check_scopes(subscriber, subscriptions)
            self._count(subscriber.organization_id)
            if not self._realtime.holdings.take(channels_of(subscriber.organization_id), MAX_CHANNELS_PER_ORGANIZATION):
                raise JoinError(f"ChannelRateLimitReached: An organization can have {MAX_CHANNELS_PER_ORGANIZATION} channels")
        except (JoinError, ApiError, DatabaseError) as error:
            reason = str(error) if isinstance(error, JoinError) else DATABASE_UNAVAILABLE
            if isinstance(error, DatabaseError) and kind_of(error) is Kind.REFUSED:
                reason = error.diag.message_primary or reason
            self._reply(frame.join_ref, frame.ref, frame.topic, "phx_reply", {"status": "error", "response": {"reason": reason}})
            return
        # Changes reach the channel from here on; the answer goes out before them.
        answer = {"status": "ok", "response": {"postgres_changes": [entry | {"id": number} for number, entry in enumerate(entries, 1)]}}
        self._reply(frame.join_ref, frame.ref, frame.topic, "phx_reply", answer)
        channel = self._channels[frame.topic] = Channel(self, frame.topic, frame.join_ref, subscriber, subscriptions, position)
        if subscriptions:
            self._realtime.feed.add(channel, since)
        if fault:
            # As Supabase does: the join stands, so that the client does not repeat what cannot succeed.
            self._system(channel, "postgres_changes", "error", fault)
        elif entries:
            self._system(channel, "postgres_changes", "ok", "Subscribed to PostgreSQL")

    async def _new_subscriber(self, frame: Frame) -> tuple[Subscriber, int]:
        """The subscriber, and its position among the changes; from then on changes are noticed."""
        if len(self._channels) >= MAX_CHANNELS:
            raise JoinError(f"ChannelRateLimitReached: A connection can have {MAX_CHANNELS} channels")
        if not frame.topic.startswith("realtime:"):
            raise JoinError("TopicNameRequired: A topic must begin with realtime:")
        subscriber = await self._subscriber(frame.payload.get("access_token") or self._key)
        self._websocket.scope["user"] = subscriber.caller
        try:
            await self._realtime.feed.ready()
        except TimeoutError as error:
            raise JoinError(DATABASE_UNAVAILABLE) from error
        return subscriber, await self._realtime.feed.position()

    async def _subscriptions(self, entries: list[dict[str, Any]], organization_id: UUID) -> list[Subscription]:
        subscriptions = [parse_subscription(entry, number, self._realtime.feed.tables) for number, entry in enumerate(entries, 1)]
        await self._realtime.feed.check(subscriptions, organization_id)
        return subscriptions

    async def _subscriber(self, token: object) -> Subscriber:
        if not isinstance(token, str):
            raise JoinError("MalformedJWT: access_token must be a string")
        try:
            subscriber = await identify(self._realtime.authenticator, token, self._address)
        except (ApiError, DatabaseError) as error:
            reason = from_database(error) if isinstance(error, DatabaseError) else error
            raise JoinError(f"Unauthorized: {reason.message}", transient=reason.status >= 500) from error
        if subscriber.expires_at <= time.time():
            raise JoinError("InvalidJWTToken: The token has expired")
        return subscriber

    def _check_scopes(self, subscriber: Subscriber, subscriptions: Sequence[Subscription]) -> None:
        for table in sorted({table for subscription in subscriptions for table in subscription.tables}):
            if SCOPES[table] not in subscriber.scopes:
                raise JoinError(f"Unauthorized: This credential lacks the scope {SCOPES[table]}")

    def _count(self, organization_id: UUID) -> None:
        """Raises JoinError when the organization has too many connections."""
        if organization_id not in self._counted:
            if not self._realtime.holdings.take(connections_of(organization_id), MAX_CONNECTIONS_PER_ORGANIZATION):
                raise JoinError(f"ConnectionRateLimitReached: An organization can have {MAX_CONNECTIONS_PER_ORGANIZATION} connections")
            if not self._counted:
                # Not anonymous any more.
                self._realtime.give_back_anonymous(self._address)
            self._counted.add(organization_id)

    async def _identify_again(self, channel: Channel, token: str) -> None:
        try:
            subscriber = await self._subscriber(token)
            self._check_scopes(subscriber, channel.subscriptions)
            if self.has(channel):
                self._count(subscriber.organization_id)
        except JoinError as error:
            if not error.transient:
                self.close_channel(channel, str(error))
            return
        if self.has(channel):
            # What was read for the one organization is not for the other.
            is_same = subscriber.organization_id == channel.organization_id
            if not is_same:
                self._realtime.feed.remove(channel)
                self._realtime.holdings.give_back(channels_of(channel.organization_id))
                self._realtime.holdings.take(channels_of(subscriber.organization_id), math.inf)
            channel.subscriber = subscriber
            if not is_same:
                self._realtime.feed.add(channel)

    def _forget(self, channel: Channel) -> bool:
        if not self.has(channel):
            return False
        del self._channels[channel.topic]
        self._realtime.holdings.give_back(channels_of(channel.organization_id))
        self._realtime.feed.remove(channel)
        for key in [key for key in self._waiting if isinstance(key, tuple) and key[0] == channel.topic]:
            self._take(key)
        return True

    def _system(self, channel: Channel, extension: str, status: str, message: str) -> None:
        payload = {
            "extension": extension,
            "status": status,
            "message": message,
            "channel": channel.topic.removeprefix("realtime:"),
        }
        self._reply(channel.join_ref, None, channel.topic, "system", payload)

    def _reply(self, join_ref: str | None, ref: str | None, topic: str, event: str, payload: dict[str, Any]) -> None:
        self.send(object(), encode(self.version, join_ref, ref, topic, event, json.dumps(payload)))


def _postgres_changes(frame: Frame) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The config of a join and its entries of postgres_changes. Raises JoinError."""
    config = frame.payload.get("config")
    config = config if isinstance(config, dict) else {}
    entries = config.get("postgres_changes")
    entries = [entry for entry in entries if entry is not None] if isinstance(entries, list) else []
    if len(entries) > MAX_SUBSCRIPTIONS:
        raise JoinError(f"TooManyChanges: A channel can have {MAX_SUBSCRIPTIONS} entries in postgres_changes")
    if not all(isinstance(entry, dict) for entry in entries):
        raise JoinError("InvalidPostgresChanges: An entry of postgres_changes must be an object")
    return config, entries


def _since(places: Iterable[Mapping[str, Any]]) -> datetime | None:
    """The earliest `since`: RFC 3339, or milliseconds since 1970 as in JavaScript. Raises FilterError."""
    moments = []
    for value in (place["since"] for place in places if place.get("since") is not None):
        try:
            moment = datetime.fromtimestamp(value / 1000, UTC) if isinstance(value, (int, float)) else read_time(value)
            moments.append(max(moment, EARLIEST))
        except (ValueError, TypeError, OverflowError, OSError) as error:
            raise FilterError("since must be a time such as 2026-01-31T12:00:00Z, or milliseconds since 1970") from error
    return min(moments, default=None)


async def realtime(websocket: WebSocket) -> None:
    served: Realtime = websocket.app.state.realtime
    await served.serve(websocket)
