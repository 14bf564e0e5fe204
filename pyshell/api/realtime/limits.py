"""How many connections, channels and refusals there may be: in all processes that serve together, of an organization, of an address."""

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
# Connections whose apikey says nothing, and that have not joined with a token yet; the others are kept for those that we know.
MAX_ANONYMOUS = 1_000
MAX_ANONYMOUS_PER_ADDRESS = 50
# Each waits so long for every one that its address has, so that an address that opens and leaves them has few turns, and not all at once.
ANONYMOUS_SECONDS = 0.02
# A refused client that comes back at once costs more than one that is served: it waits for its refusal, the longer the more wait with it.
REFUSAL_SECONDS = 0.1
MAX_REFUSAL_SECONDS = 5.0
MAX_REFUSALS = 1_000

# Of all together, in the holdings; others have names with whose they are.
CONNECTIONS, ANONYMOUS, REFUSALS = "connections", "anonymous connections", "refusals"


def is_full(holdings: Holdings) -> bool:
    """Whether there is no room for any connection."""
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
        """Counts the connection for the organization, and not as anonymous any more, unless the organization has too many."""
        if organization_id not in self._organizations:
            if not self._holdings.take(connections_of(organization_id), MAX_CONNECTIONS_PER_ORGANIZATION):
                return False
            self._organizations.add(organization_id)
            self._give_back_anonymous()
        return True

    @property
    def anonymous_seconds(self) -> float:
        """How long an anonymous connection from there waits until it is accepted."""
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
    """Lets a client wait that is to be refused, unless too many do already."""
    refusals_of = "refusals of", address
    if holdings.take(REFUSALS, MAX_REFUSALS):
        holdings.take(refusals_of, math.inf)
        try:
            # Not all at once.
            await asyncio.sleep(refusal_seconds(holdings.of(refusals_of)) * random.uniform(0.5, 1.0))
        finally:
            holdings.give_back(refusals_of)
            holdings.give_back(REFUSALS)


def refusal_seconds(waiting: int) -> float:
    """How long a client is kept waiting to be refused, as one of so many from its address."""
    return min(waiting * REFUSAL_SECONDS, MAX_REFUSAL_SECONDS)


def connections_of(organization_id: UUID) -> object:
    return "connections of", organization_id


def channels_of(organization_id: UUID) -> object:
    return "channels of", organization_id
