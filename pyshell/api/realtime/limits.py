"""Limits on connections, channels and refusals: of all processes that serve together, of an organization, of an address."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Self
from uuid import UUID

from pyshell.api.counts import Holdings

MAX_CONNECTIONS_PER_ORGANIZATION = 1_000
MAX_CHANNELS_PER_ORGANIZATION = 1_000
MAX_CONNECTIONS = 5_000
# Connections whose apikey is unknown, and that have not joined with a token yet; the rest are reserved for known clients.
MAX_ANONYMOUS = 1_000
MAX_ANONYMOUS_PER_ADDRESS = 50
# The wait per open connection of the address, so that one that opens many slows down itself only.
ANONYMOUS_SECONDS = 0.02
# A refused client that reconnects immediately costs more than a served one: it waits for its refusal, longer the more others wait.
REFUSAL_SECONDS = 0.1
MAX_REFUSAL_SECONDS = 5.0
MAX_REFUSALS = 1_000

# Names in the holdings of all together; names of others include an owner.
CONNECTIONS, ANONYMOUS, REFUSALS = "connections", "anonymous connections", "refusals"


def is_full(holdings: Holdings) -> bool:
    """Whether the limit of connections is reached."""
    return holdings.of(CONNECTIONS) >= MAX_CONNECTIONS


class Place:
    """What one connection holds: it counts as anonymous, or for each organization that it has been used for, and has channels of these."""

    def __init__(self, holdings: Holdings, address: str | None) -> None:
        self.address = address
        self.is_anonymous = False
        self._holdings = holdings
        self._anonymous_at = "anonymous at", address
        self._organizations: set[UUID] = set()

    @classmethod
    def take(cls, holdings: Holdings, address: str | None, organization_id: UUID | None) -> Self | None:
        """A place for one more connection, of an organization or anonymous, unless there are too many."""
        place = cls(holdings, address)
        if not (place._take_anonymous() if organization_id is None else place.count_for(organization_id)):
            return None
        holdings.take(CONNECTIONS, math.inf)
        return place

    def give_back(self) -> None:
        for organization_id in self._organizations:
            self._holdings.give_back(connections_of(organization_id))
        self._give_back_anonymous()
        self._holdings.give_back(CONNECTIONS)

    def count_for(self, organization_id: UUID) -> bool:
        """Counts the connection for the organization instead of as anonymous, unless the organization has too many."""
        if organization_id not in self._organizations:
            if not self._holdings.take(connections_of(organization_id), MAX_CONNECTIONS_PER_ORGANIZATION):
                return False
            self._organizations.add(organization_id)
            self._give_back_anonymous()
        return True

    @property
    def anonymous_seconds(self) -> float:
        """How long an anonymous connection from that address waits until it is accepted."""
        return self._holdings.of(self._anonymous_at) * ANONYMOUS_SECONDS

    def take_channel(self, organization_id: UUID) -> bool:
        """One more channel for the organization, unless it has too many."""
        return self._holdings.take(channels_of(organization_id), MAX_CHANNELS_PER_ORGANIZATION)

    def give_back_channel(self, organization_id: UUID) -> None:
        self._holdings.give_back(channels_of(organization_id))

    def move_channel(self, organization_id: UUID, to: UUID) -> None:
        self.give_back_channel(organization_id)
        self._holdings.take(channels_of(to), math.inf)

    def _take_anonymous(self) -> bool:
        if self._holdings.take(self._anonymous_at, MAX_ANONYMOUS_PER_ADDRESS):
            self.is_anonymous = self._holdings.take(ANONYMOUS, MAX_ANONYMOUS)
            if not self.is_anonymous:
                self._holdings.give_back(self._anonymous_at)
        return self.is_anonymous

    def _give_back_anonymous(self) -> None:
        if self.is_anonymous:
            self.is_anonymous = False
            self._holdings.give_back(self._anonymous_at)
            self._holdings.give_back(ANONYMOUS)


async def wait_to_be_refused(holdings: Holdings, address: str | None) -> None:
    """Delays the refusal of a client, unless too many are waiting already."""
    refusals_of = "refusals of", address
    if holdings.take(REFUSALS, MAX_REFUSALS):
        holdings.take(refusals_of, math.inf)
        try:
            # Spread them out.
            await asyncio.sleep(refusal_seconds(holdings.of(refusals_of)) * random.uniform(0.5, 1.0))
        finally:
            holdings.give_back(refusals_of)
            holdings.give_back(REFUSALS)


def refusal_seconds(waiting: int) -> float:
    """How long a refusal is delayed, given how many from its address are waiting."""
    return min(waiting * REFUSAL_SECONDS, MAX_REFUSAL_SECONDS)


def connections_of(organization_id: UUID) -> object:
    return "connections of", organization_id


def channels_of(organization_id: UUID) -> object:
    return "channels of", organization_id
