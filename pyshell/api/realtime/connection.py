"""One WebSocket: the channels that its client joins, and the messages that it gets."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import chain
from typing import Any
from uuid import UUID

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from pyshell.api.authentication import Authenticator
from pyshell.api.errors import ApiError
from pyshell.api.realtime import limits
from pyshell.api.realtime.credentials import Subscriber
from pyshell.api.realtime.feed import Change, Feed
from pyshell.api.realtime.filters import FilterError, Question, Subscription, parse_subscriptions
from pyshell.api.realtime.joins import JoinError, check_scopes, earliest_since, postgres_changes, subscriber_of
from pyshell.api.realtime.limits import Place
from pyshell.api.realtime.outbox import Outbox
from pyshell.api.realtime.protocol import Frame, ProtocolError, Version, decode, decode_binary, encode
from pyshell.postgres.sqlstates import DatabaseError, Kind, kind_of
from pyshell.tasks import cancel_all

logger = logging.getLogger("pyshell.api.realtime")

MAX_CHANNELS = 100
STUCK_SECONDS = 30.0
# Clients send a heartbeat every 25 s.
SILENT_SECONDS = 75.0
# A connection without a channel is closed.
CHANNELLESS_SECONDS = 60.0

DATABASE_UNAVAILABLE = "DatabaseLackOfConnections: The database cannot be reached at the moment. Try again in a few seconds."

TRY_AGAIN_LATER, UNSUPPORTED_DATA, GOING_AWAY = 1013, 1003, 1001


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
        # A newer token, received while the database was away.
        self.unchecked_token: str | None = None

    @property
    def latest_token(self) -> str:
        return self.subscriber.token if self.unchecked_token is None else self.unchecked_token

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
    """One WebSocket, and the channels that its client has joined on it. `key`: the credential of joins that bring none."""

    def __init__(
        self, websocket: WebSocket, version: Version, key: str, place: Place, outbox: Outbox, feed: Feed, authenticator: Authenticator
    ) -> None:
        self.version = version
        self._websocket = websocket
        self._key = key
        self._place = place
        self._outbox = outbox
        self._feed = feed
        self._authenticator = authenticator
        self._channels: dict[str, Channel] = {}
        self._something_waits = asyncio.Event()
        self._heard_at = self._sent_at = self._in_use_at = time.monotonic()
        self._closing: tuple[int, str] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        tasks: list[asyncio.Task[None]] = []
        try:
            if self._place.is_anonymous:
                await asyncio.sleep(self._place.anonymous_seconds * random.uniform(0.5, 1.0))
            await self._websocket.accept()
            tasks = self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for channel in tuple(self._channels.values()):
                self._forget(channel)
            self._outbox.clear()
            for outcome in await cancel_all(tasks):
                if isinstance(outcome, Exception):
                    logger.error("realtime: a connection failed", exc_info=outcome)

    async def _read(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if self._closing:
                # Keep reading: a client that must send before it reads would never learn the reason.
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
        return self._outbox.is_behind

    def has(self, channel: Channel) -> bool:
        return self._channels.get(channel.topic) is channel

    def send(self, key: object, frame: str) -> None:
        """Queues a frame for the client; a waiting frame with the same key is superseded."""
        if self._closing:
            return
        self._outbox.put(key, frame)
        self._something_waits.set()
        if self._outbox.has_too_much:
            self._outbox.traffic.dropped["too_slow"] += 1
            self.close(TRY_AGAIN_LATER, "the client reads too slowly")

    def close(self, code: int, reason: str) -> None:
        self._closing = self._closing or (code, reason)
        self._outbox.clear()
        self._something_waits.set()

    def close_channel(self, channel: Channel, reason: str) -> None:
        """Closes a channel and sends the client the reason."""
        if self._forget(channel):
            self._system(channel, "system", "error", reason)
            self._reply(channel.join_ref, channel.join_ref, channel.topic, "phx_close", {})

    async def sweep(self, changed: Set[UUID | None] = frozenset()) -> None:
        """Closes channels whose credential has ended, and connections whose client is silent or reads nothing.

        Credentials are checked every RECHECK_SECONDS, those of organizations in `changed` (None: all) immediately.
        """
        now = time.monotonic()
        if now - self._heard_at > SILENT_SECONDS and not self._closing:
            self._outbox.traffic.dropped["silent"] += 1
            self.close(GOING_AWAY, "no heartbeat")
        if self._channels:
            self._in_use_at = now
        elif now - self._in_use_at > CHANNELLESS_SECONDS:
            self.close(GOING_AWAY, "no channel")
        if (self._outbox or self._closing) and now - self._sent_at > STUCK_SECONDS:
            self._outbox.traffic.dropped["stuck"] += 1
            for task in self._tasks:
                task.cancel()
        for channel in tuple(self._channels.values()):
            if channel.unchecked_token is not None:
                await self._identify_again(channel, channel.unchecked_token, is_new=False)
            elif channel.subscriber.has_expired:
                self.close_channel(channel, "Token has expired")
            elif channel.subscriber.recheck_at <= now or changed & {None, channel.organization_id}:
                await self._identify_again(channel, channel.subscriber.token, is_new=False)

    async def _write(self) -> None:
        while True:
            await self._something_waits.wait()
            if self._closing:
                if self._websocket.application_state is WebSocketState.CONNECTED:
                    with suppress(RuntimeError, WebSocketDisconnect):
                        await self._websocket.close(*self._closing)
                return
            if not self._outbox:
                self._something_waits.clear()
                self._sent_at = time.monotonic()
                continue
            text = self._outbox.take_first()
            try:
                await self._websocket.send({"type": "websocket.send", "text": text})
            except (OSError, RuntimeError, WebSocketDisconnect):
                return
            self._sent_at = time.monotonic()
            self._outbox.traffic.sent += 1

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
                    await self._identify_again(channel, token, is_new=True)
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
            config, entries = postgres_changes(frame)
            subscriber, position = await self._new_subscriber(frame)
            try:
                subscriptions = await self._subscriptions(entries, subscriber.organization_id)
                since, fault = earliest_since([config, *entries]), None
            except FilterError as error:
                subscriptions, since, fault = [], None, str(error)
            check_scopes(subscriber, subscriptions)
            self._count(subscriber.organization_id)
            if not self._place.take_channel(subscriber.organization_id):
                raise JoinError(f"ChannelRateLimitReached: An organization can have {limits.MAX_CHANNELS_PER_ORGANIZATION} channels")
        except (JoinError, ApiError, DatabaseError) as error:
            reason = str(error) if isinstance(error, JoinError) else DATABASE_UNAVAILABLE
            if isinstance(error, DatabaseError) and kind_of(error) is Kind.REFUSED:
                reason = error.diag.message_primary or reason
            self._reply(frame.join_ref, frame.ref, frame.topic, "phx_reply", {"status": "error", "response": {"reason": reason}})
            return
        # Changes reach the channel from here on; the reply is sent before them.
        answer = {"status": "ok", "response": {"postgres_changes": [entry | {"id": number} for number, entry in enumerate(entries, 1)]}}
        self._reply(frame.join_ref, frame.ref, frame.topic, "phx_reply", answer)
        channel = self._channels[frame.topic] = Channel(self, frame.topic, frame.join_ref, subscriber, subscriptions, position)
        if subscriptions:
            self._feed.add(channel, since)
        if fault:
            # As Supabase does: the join succeeds, so that the client does not repeat what cannot succeed.
            self._system(channel, "postgres_changes", "error", fault)
        elif entries:
            self._system(channel, "postgres_changes", "ok", "Subscribed to PostgreSQL")

    async def _new_subscriber(self, frame: Frame) -> tuple[Subscriber, int]:
        """The subscriber and its position in the feed; changes are noticed from then on."""
        if len(self._channels) >= MAX_CHANNELS:
            raise JoinError(f"ChannelRateLimitReached: A connection can have {MAX_CHANNELS} channels")
        if not frame.topic.startswith("realtime:"):
            raise JoinError("TopicNameRequired: A topic must begin with realtime:")
        subscriber = await self._subscriber(frame.payload.get("access_token") or self._key)
        self._websocket.scope["user"] = subscriber.caller
        try:
            await self._feed.ready()
        except TimeoutError as error:
            raise JoinError(DATABASE_UNAVAILABLE) from error
        return subscriber, await self._feed.position()

    async def _subscriptions(self, entries: list[dict[str, Any]], organization_id: UUID) -> list[Subscription]:
        subscriptions = parse_subscriptions(entries, self._feed.tables)
        await self._feed.check(subscriptions, organization_id)
        return subscriptions

    async def _subscriber(self, token: object) -> Subscriber:
        return await subscriber_of(token, self._authenticator, self._place.address)

    def _count(self, organization_id: UUID) -> None:
        """Raises JoinError when the organization has too many connections."""
        if not self._place.count_for(organization_id):
            limit = limits.MAX_CONNECTIONS_PER_ORGANIZATION
            raise JoinError(f"ConnectionRateLimitReached: An organization can have {limit} connections")

    async def _identify_again(self, channel: Channel, token: str, *, is_new: bool) -> None:
        """Checks a token that is new or that the channel has already, unless the client sends another one meanwhile."""
        try:
            subscriber = await self._subscriber(token)
            if not is_new and token != channel.latest_token:
                return
            check_scopes(subscriber, channel.subscriptions)
            if self.has(channel):
                self._count(subscriber.organization_id)
        except JoinError as error:
            if not is_new and token != channel.latest_token:
                return
            if not error.transient:
                self.close_channel(channel, str(error))
            elif isinstance(error.__cause__, DatabaseError) and token != channel.subscriber.token:
                # Its signature was valid, and clients send each token once.
                channel.unchecked_token = token
            return
        if self.has(channel):
            # What was read for one organization is not for the other.
            is_same = subscriber.organization_id == channel.organization_id
            if not is_same:
                self._feed.remove(channel)
                self._place.move_channel(channel.organization_id, subscriber.organization_id)
            channel.subscriber = subscriber
            channel.unchecked_token = None
            if not is_same:
                self._feed.add(channel)

    def _forget(self, channel: Channel) -> bool:
        if not self.has(channel):
            return False
        del self._channels[channel.topic]
        self._place.give_back_channel(channel.organization_id)
        self._feed.remove(channel)
        self._outbox.drop_changes(channel.topic)
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
