"""The client of the incentives API: sends a request and returns an Answer, whatever happens in between.

`docs/incentives-api.md` has what is sent and what may come back.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit
from uuid import UUID

from pyreqwest.client import ClientBuilder
from pyreqwest.proxy import ProxyBuilder

from pyshell.http_client import Clients, ExchangeError, client_builder, post
from pyshell.settings import Settings
from pyshell.worker.answers import foreign_reference_id, is_storable

logger = logging.getLogger(__name__)

USER_AGENT: Final = "Batch-Lookups/1.0"
# Organizations whose connections are kept; each costs some 100 KB.
MAX_CLIENTS: Final = 200
# After an answer to another request, each connection is used only once, for so many seconds.
DISTRUST_SECONDS: Final = 300.0


class Answer(NamedTuple):
    """The outcome of a lookup, as `api.record_lookups` takes it: status and text of the answer, or the class of the error.

    `retry_after` is in seconds.
    """

    http_status: int | None
    error_class: str | None
    text: bytes | None
    retry_after: float | None


def failure(error_class: str) -> Answer:
    return Answer(None, error_class, None, None)


class Upstream:
    """POSTs lookups to one URL.

    `is_ours`: the URL is our own API. It is told which organization asks, shares its connections between all, and is reached without a
    proxy. Somebody else's server is told no organization, and each organization has its own connections to it: should an answer be
    taken for another request's in spite of everything, it never is another organization's.
    """

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        *,
        is_ours: bool,
        proxy: str | None = None,
        no_proxy: str | None = None,
        ca_file: bytes | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http or https URL: {url}")
        if any(character in value for value in headers.values() for character in "\r\n"):
            raise ValueError("a header contains a line break")
        self._url = url
        self._is_https = parts.scheme == "https"
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", **headers}
        self._is_ours = is_ours
        self._proxy = proxy
        self._no_proxy = no_proxy
        self._ca_file = ca_file
        self._clients = Clients(MAX_CLIENTS)
        self._distrusted_until: float | None = None

    @classmethod
    def from_settings(cls, settings: Settings, internal_key: str) -> Self:
        """The provider that the settings name, else our own `/incentives`, which trusts `internal_key`."""
        if not settings.incentives_api_url:
            headers = {"Authorization": f"Bearer {internal_key}", "x-supabase-internal": "true"}
            return cls(f"{settings.server_url}{settings.root_path}/incentives", headers, is_ours=True)
        return cls(
            settings.incentives_api_url,
            {"Authorization": f"Bearer {settings.incentives_api_key}"} if settings.incentives_api_key else {},
            is_ours=False,
            proxy=settings.proxy_for(settings.incentives_api_url),
            no_proxy=settings.no_proxy,
            ca_file=settings.incentives_api_ca_file.read_bytes() if settings.incentives_api_ca_file else None,
        )

    async def look_up(self, organization_id: bytes, request: bytes, seconds: float, max_bytes: int) -> Answer:
        """One lookup of an organization (the 16 bytes of its id); within `seconds`. Raises nothing but cancellation."""
        headers = {"x-organization-id": str(UUID(bytes=organization_id))} if self._is_ours else None
        if self._distrusted_until is not None and asyncio.get_running_loop().time() >= self._distrusted_until:
            self._distrusted_until = None
            self._clients.keep([])
        try:
            client = await self._clients.get(None if self._is_ours else organization_id, self._builder)
            response = await post(client, self._url, request, headers, seconds, max_bytes)
        except ExchangeError as error:
            return failure(error.error_class)
        foreign = foreign_reference_id(response.body, request)
        if foreign is not None:
            self._distrust(organization_id, foreign)
            return failure("invalid_response")
        if is_storable(response.body):
            return Answer(response.status, None, response.body, response.retry_after)
        return failure("invalid_response") if response.status < 300 else Answer(response.status, None, None, response.retry_after)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._clients.keep([])

    def _builder(self) -> ClientBuilder:
        builder = client_builder(tls=self._is_https or self._proxy is not None).user_agent(USER_AGENT).default_headers(self._headers)
        if self._proxy is not None:
            builder = builder.proxy(ProxyBuilder.all(self._proxy).no_proxy(self._no_proxy))
        if self._ca_file is not None:
            builder = builder.add_root_certificate_pem(self._ca_file)
        if self._distrusted_until is not None:
            builder = builder.pool_max_idle_per_host(0)
        return builder

    def _distrust(self, organization_id: bytes, reference_id: str) -> None:
        """Close all connections and keep none for a while, because late answers may arrive on others, too."""
        logger.warning(
            "the incentives API answered a lookup of organization %s with an answer to %r: it is not used, and for %s s no connection is "
            "used twice",
            UUID(bytes=organization_id),
            reference_id,
            DISTRUST_SECONDS,
        )
        self._distrusted_until = asyncio.get_running_loop().time() + DISTRUST_SECONDS
        self._clients.keep([])
