"""Authentication by the API key of an integration, the Clerk session token of a user, or an internal credential or signature."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import wraps
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from pyshell import logs
from pyshell.api import api_keys
from pyshell.api.error_responses import error_response, from_database
from pyshell.api.errors import ApiError
from pyshell.api.limits import UNKNOWN_KEYS_PER_MINUTE, RequestLimiter
from pyshell.postgres import calls as db
from pyshell.postgres.pool import Pool
from pyshell.postgres.sqlstates import DatabaseError
from pyshell.settings import Settings
from pyshell.worker.signatures import ANSWER_HEADER, SCHEME, body_digest, sign_answer

if TYPE_CHECKING:
    from pyshell.api import clerk

Endpoint = Callable[[Request], Awaitable[Response]]

# If the database's notifications do not arrive, a revoked key keeps working for as long as its caller is cached.
CACHE_SECONDS = 2.0
# The payload is the id of the organization whose API keys have changed.
CREDENTIALS_CHANNEL = "batch_lookups_credentials"
MAX_CACHED = 10_000

INTERNAL_SCOPES = frozenset({"incentives:write", "operations:write", "worker:run"})
SIGNED_SCOPES = frozenset({"incentives:write"})
# The scope of every caller.
ANY_SCOPE = "any"


class Signature(NamedTuple):
    """A valid signature: the key that it was created with, the complete header, and the SHA-256 (hex) that the body must have."""

    key: bytes
    authorization: str
    body_digest: str


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller and its scopes; `organization` is None for an internal call that names none.

    `requests_per_minute` limits all callers with the same `name` together, `organization_requests_per_minute` all of the organization;
    None: no limit. `signature` is there if the request is signed, as the worker's are, instead of carrying a credential.
    """

    organization: UUID | None
    scopes: frozenset[str]
    name: str = ""
    requests_per_minute: int | None = None
    organization_requests_per_minute: int | None = None
    signature: Signature | None = None

    def log_fields(self) -> dict[str, str]:
        """The caller, for log lines: `key_id` of an API key, `user` of a signed-in user."""
        try:
            who = {"key_id": str(UUID(self.name))}
        except ValueError:
            who = {"user": self.name or "internal"}
        return who | ({"organization_id": str(self.organization)} if self.organization else {})

    @property
    def is_internal(self) -> bool:
        """Whether it is the worker, or an operator with its credential."""
        return self.scopes is INTERNAL_SCOPES or self.signature is not None

    @property
    def organization_id(self) -> UUID:
        if self.organization is None:
            raise ApiError(400, "organization_missing", "The header x-organization-id must be the id of an organization")
        return self.organization


class Authenticator:
    """Finds the caller of a request by its headers."""

    def __init__(self, pool: Pool, settings: Settings, clerk: clerk.Clerk | None, unknown_keys: RequestLimiter) -> None:
        self._pool = pool
        self._clerk = clerk
        self._internal_keys = [key.encode() for key in (settings.service_role_key, settings.service_role_key_previous) if key]
        self._has_internal_key = settings.service_role_key is not None
        self._pepper = settings.api_key_pepper
        self._previous_pepper = "" if settings.api_key_pepper_previous == api_keys.NO_PEPPER else settings.api_key_pepper_previous
        self._cache: dict[object, tuple[float, Caller]] = {}
        # How often a credential has changed: responses of the database from before the last change are not cached.
        self._changes = 0
        # Keys known to be valid can still be looked up when others try unknown ones from their address.
        self._good_keys: set[object] = set()
        self._unknown_keys = unknown_keys

    async def authenticate(self, headers: Headers, address: str | None = None) -> Caller:
        """The caller. Raises ApiError: 400 two credentials, 401 none or a bad one, 403 not from this address."""
        for name in ("x-api-key", "authorization"):
            if len(headers.getlist(name)) > 1:
                # If there are two, a proxy may have judged by the other one.
                raise ApiError(400, "two_credentials", f"The header {name} must be given once")
        key, authorization = headers.get("x-api-key"), headers.get("authorization")
        if key and authorization:
            raise ApiError(400, "two_credentials", "Provide either x-api-key OR Authorization, not both.")
        if key:
            return await self._api_key(key, address)
        if authorization:
            return await self._bearer(authorization, headers)
        raise unauthorized(
            "missing_credentials",
            "Missing authentication. Provide either x-api-key or Authorization: Bearer token.",
            # What a browser's EventSource requests. It cannot send a header, and a key in the URL would end up in logs.
            hint="EventSource cannot send a credential: read the events with fetch, or subscribe with supabase-js."
            if headers.get("accept") == "text/event-stream"
            else None,
        )

    async def _api_key(self, key: str, address: str | None) -> Caller:
        if not api_keys.is_well_formed(key):
            raise unauthorized("invalid_api_key", "Invalid API key")
        key_hash = self.hash_key(key)
        previous = None if self._previous_pepper is None else api_keys.hash_key(key, self._previous_pepper)
        if key_hash not in self._good_keys:
            self._unknown_keys.check(address, UNKNOWN_KEYS_PER_MINUTE)
        try:
            caller = await self._identify(
                (key_hash, address), "authenticate_api_key", key_hash=key_hash, client_address=address, previous_key_hash=previous
            )
        except DatabaseError as error:
            if error.sqlstate == "PT401":
                self._good_keys.discard(key_hash)
                self._unknown_keys.count(address, UNKNOWN_KEYS_PER_MINUTE)
            raise
        if len(self._good_keys) >= MAX_CACHED:
            self._good_keys.clear()
        self._good_keys.add(key_hash)
        return caller

    def hash_key(self, key: str) -> bytes:
        return api_keys.hash_key(key, self._pepper)

    def forget(self, organization_id: UUID | None = None) -> None:
        """Forgets the callers of an organization (None: all), because one of its credentials has changed in the database."""
        self._changes += 1
        for credential, (_, caller) in tuple(self._cache.items()):
            if organization_id in (None, caller.organization):
                del self._cache[credential]

    async def _identify(self, credential: object, function: str, **arguments: object) -> Caller:
        """Looks up the caller of a credential with a function of the database; caches it for a while."""
        now = time.monotonic()
        expires_at, caller = self._cache.get(credential, (0.0, None))
        if caller is None or expires_at < now:
            changes = self._changes
            identity = json.loads(await db.call(self._pool, function, **arguments))
            caller = Caller(
                UUID(identity["organization_id"]),
                frozenset(identity["scopes"]),
                identity.get("api_key_id", ""),
                identity["requests_per_minute"],
                identity["organization_requests_per_minute"],
            )
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            if changes == self._changes:
                self._cache[credential] = (now + CACHE_SECONDS, caller)
        return caller

    async def _bearer(self, authorization: str, headers: Headers) -> Caller:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme == SCHEME:
            return await self._signed(authorization, token, headers)
        if scheme.lower() != "bearer" or not token:
            raise unauthorized("invalid_token", "Invalid token", hint="Send the header Authorization: Bearer <token>.")
        if await self._is_internal(token):
            if headers.get("x-supabase-internal") == "true":
                return Caller(_organization(headers), INTERNAL_SCOPES)
            raise unauthorized("not_internal", "An internal call must carry the header x-supabase-internal: true")
        if self._clerk is None:
            raise unauthorized("invalid_token", "Invalid token", hint="Session tokens are not configured here; send API keys in x-api-key.")
        return await self._session(self._clerk, token)

    async def _session(self, clerk_instance: clerk.Clerk, token: str) -> Caller:
        from pyshell.api import clerk

        try:
            claims = await clerk_instance.verify(token)
        except clerk.InvalidTokenError as error:
            raise unauthorized("invalid_token", "Invalid token", hint=f"{error}.") from error
        except clerk.KeysUnavailableError as error:
            raise ApiError(
                503,
                "token_keys_unavailable",
                "The keys that verify the token cannot be fetched; please try again",
                headers={"Retry-After": "3"},
            ) from error
        member = clerk.membership(claims)
        if member is None:
            raise ApiError(
                403, "no_active_organization", "The session has no active organization", hint="Choose an organization in Clerk first."
            )
        caller = await self._identify(
            member,
            "authenticate_clerk_member",
            clerk_organization_id=member.clerk_organization_id,
            slug=member.slug,
            role=member.role,
        )
        return replace(caller, name=str(claims["sub"]))

    async def _signed(self, authorization: str, credentials: str, headers: Headers) -> Caller:
        organization_id = headers.get("x-organization-id", "")
        for key in await self._known_internal_keys():
            if digest := body_digest(key, credentials, organization_id, time.time()):
                return Caller(_organization(headers), SIGNED_SCOPES, signature=Signature(key, authorization, digest))
        raise unauthorized("invalid_signature", "The signature is invalid, or more than a minute old")

    async def _is_internal(self, token: str) -> bool:
        keys = await self._known_internal_keys()
        return any(hmac.compare_digest(token.encode(), key) for key in keys)

    async def _known_internal_keys(self) -> list[bytes]:
        if not self._has_internal_key:
            key = await db.call(self._pool, "internal_key")
            logs.hide(key.decode())
            self._internal_keys.append(key)
            self._has_internal_key = True
        return self._internal_keys


def unauthorized(code: str, message: str, hint: str | None = None) -> ApiError:
    return ApiError(401, code, message, hint=hint, headers={"WWW-Authenticate": "Bearer"})


def insufficient_scope(scope: str) -> ApiError:
    return ApiError(403, "insufficient_scope", f"This credential lacks the scope {scope}")


def client_address(connection: HTTPConnection) -> str | None:
    """The IP address of the caller: of the connection, or as a trusted proxy forwarded it."""
    try:
        address = ip_address(connection.client.host.partition("%")[0] if connection.client else "")
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def _organization(headers: Headers) -> UUID | None:
    try:
        return UUID(headers.get("x-organization-id"))
    except (TypeError, ValueError):
        return None


async def authenticate(request: Request) -> Caller:
    """The caller of a request; may be called again during it. Raises ApiError and DatabaseError, as `Authenticator.authenticate` does."""
    authenticator: Authenticator = request.app.state.authenticator
    return await authenticator.authenticate(request.headers, client_address(request))


def count_request(request: Request, caller: Caller) -> None:
    """Counts a request against the limits of the caller and of its organization, and reports the limit in headers. Raises ApiError 429."""
    limiter: RequestLimiter = request.app.state.request_limiter
    limits = (
        (caller.organization, caller.organization_requests_per_minute),
        ((caller.organization, caller.name), caller.requests_per_minute),
    )
    exceeded = []
    for who, quota in limits:
        if quota is not None:
            request.state.headers, error = limiter.count(who, quota)
            exceeded += [error] if error else []
    if exceeded:
        raise exceeded[0]


def secured(scope: str, endpoint: Endpoint) -> Endpoint:
    """The endpoint, for callers with the scope; `request.user` is the caller. 401: not authenticated; 403: not allowed; 429: too many."""

    @wraps(endpoint)
    async def secured_endpoint(request: Request) -> Response:
        caller = await authenticate(request)
        count_request(request, caller)
        # A signature is valid for one lookup, and only the route for lookups accepts it.
        if scope not in caller.scopes and (scope != ANY_SCOPE or caller.signature is not None):
            raise insufficient_scope(scope)
        request.scope["user"] = caller
        logs.caller.set(caller.log_fields())
        return await (endpoint(request) if caller.signature is None else signed(request, caller.signature, endpoint))

    return secured_endpoint


async def signed(request: Request, signature: Signature, endpoint: Endpoint) -> Response:
    """Signs the response to a signed request, errors included."""
    try:
        response = await endpoint(request)
    except ApiError as error:
        response = error_response(request, error)
    except DatabaseError as error:
        response = error_response(request, from_database(error))
    response.headers[ANSWER_HEADER] = sign_answer(signature.key, signature.authorization, response.status_code, bytes(response.body))
    return response
