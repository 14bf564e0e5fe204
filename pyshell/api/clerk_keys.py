"""The public keys of Clerk's session tokens: fetched from the issuer and cached, or configured."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from pyshell.http_client import Clients, ExchangeError, client_builder, exchange, is_success
from pyshell.settings import MIN_KEY_BITS, read_pem

logger = logging.getLogger("pyshell.api.clerk")

FETCH_TIMEOUT_SECONDS = 3.0
MAX_KEY_SET_BYTES = 1024 * 1024
# A token may name any key id: unknown ones cause a request only this often.
REFETCH_SECONDS = 30.0
# Without any key nobody can sign in, so the wait after a failure is shorter.
FIRST_KEY_RETRY_SECONDS = 3.0
# Older keys are renewed in the background and used meanwhile. After the second period without Clerk, they are no longer used.
RENEW_AFTER_SECONDS = 3600.0
KEEP_SECONDS = 86_400.0


class KeysUnavailableError(Exception):
    """There is no key to verify a token with, because the issuer cannot be reached."""


class Keys(Protocol):
    async def find(self, key_id: object) -> RSAPublicKey | None:
        """The key with that id; None: there is none. Raises KeysUnavailableError."""


class ConfiguredKey:
    """One key for every token, with no network."""

    def __init__(self, pem: str) -> None:
        self._key = read_pem(pem)

    async def find(self, key_id: object) -> RSAPublicKey | None:
        return self._key


class FetchedKeys:
    """The key set at a URL (RFC 7517). Concurrent callers share one request; callers whose key is cached do not wait."""

    def __init__(self, url: str, *, proxy: str | None = None, no_proxy: str | None = None) -> None:
        self._url = url
        uses_tls = urlsplit(url).scheme == "https" or proxy is not None
        self._clients = Clients(1, tls=uses_tls)
        self._builder = partial(client_builder, tls=uses_tls, proxy=proxy, no_proxy=no_proxy)
        self._keys: dict[str, RSAPublicKey] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetch: asyncio.Task[None] | None = None

    async def find(self, key_id: object) -> RSAPublicKey | None:
        if not isinstance(key_id, str):
            return None
        age = time.monotonic() - self._fetched_at
        if age > KEEP_SECONDS:
            self._keys = {}
        if key_id not in self._keys:
            await self._refetch(REFETCH_SECONDS if self._keys else FIRST_KEY_RETRY_SECONDS)
            if not self._keys:
                raise KeysUnavailableError
        elif age > RENEW_AFTER_SECONDS:
            self._start_fetch(REFETCH_SECONDS)
        return self._keys.get(key_id)

    async def _refetch(self, least_wait: float) -> None:
        fetch = self._start_fetch(least_wait)
        if fetch is not None:
            # A cancelled caller must not cancel the request of the others.
            await asyncio.shield(fetch)

    def _start_fetch(self, least_wait: float) -> asyncio.Task[None] | None:
        """The fetch in progress, else a new one unless the last was less than `least_wait` seconds ago."""
        if self._fetch is not None and not self._fetch.done():
            return self._fetch
        now = time.monotonic()
        if now - self._tried_at < least_wait:
            return None
        self._tried_at = now
        self._fetch = asyncio.create_task(self._fetch_keys())
        return self._fetch

    async def _fetch_keys(self) -> None:
        try:
            client = await self._clients.get(self._url, self._builder)
            response = await exchange(client.get(self._url), {"Accept": "application/json"}, FETCH_TIMEOUT_SECONDS, MAX_KEY_SET_BYTES)
            if not is_success(response.status):
                raise ValueError(f"status {response.status}")
            keys = read_key_set(json.loads(response.body))
        except (ExchangeError, ValueError, RecursionError) as error:
            logger.warning("The keys at %s could not be fetched: %s", self._url, error)
        else:
            self._keys = keys
            self._fetched_at = time.monotonic()


def read_key_set(key_set: Any) -> dict[str, RSAPublicKey]:
    """The keys for RS256, by id. Raises ValueError if there is none."""
    members = key_set.get("keys") if isinstance(key_set, Mapping) else None
    keys = {}
    for member in members if isinstance(members, list) else []:
        if not isinstance(member, Mapping) or not isinstance(member.get("kid"), str):
            continue
        if member.get("use", "sig") != "sig" or member.get("alg", "RS256") != "RS256":
            continue
        try:
            key = jwt.PyJWK(dict(member), algorithm="RS256").key
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if isinstance(key, RSAPublicKey) and key.key_size >= MIN_KEY_BITS:
            keys[member["kid"]] = key
    if not keys:
        raise ValueError("the key set has no key fit for RS256")
    return keys
