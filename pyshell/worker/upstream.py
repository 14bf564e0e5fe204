"""The client of the incentives API: sends a request and returns an Answer, whatever happens in between.

`docs/incentives-api.md` describes requests and responses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from codecs import BOM_UTF8
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit
from uuid import UUID

from pyreqwest.client import ClientBuilder
from pyreqwest.http import Url

from pyshell.http_client import Clients, ExchangeError, Response, client_builder, exchange, is_success
from pyshell.settings import Settings, SettingsError
from pyshell.worker.answers import AnswerCheck, foreign_reference_id
from pyshell.worker.signatures import ANSWER_HEADER, is_answer_signed, sign_request

logger = logging.getLogger(__name__)

USER_AGENT: Final = "Batch-Lookups/1.0"
# The number of organizations whose connections are kept; each costs some 100 KB.
MAX_CLIENTS: Final = 200
# After a response to the wrong request, each connection is used only once, for this many seconds.
DISTRUST_SECONDS: Final = 300.0
# The longest one that an upload may have; a response may have any.
MAX_REFERENCE_ID: Final = 256


class Answer(NamedTuple):
    """The outcome of a lookup, as `api.record_lookups` takes it: status and text of the response, or the class of the error.

    `retry_after` is in seconds.
    """

    http_status: int | None
    error_class: str | None
    text: bytes | None
    retry_after: float | None

    @property
    def succeeded(self) -> bool:
        return is_success(self.http_status)

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.text or b"")


def failure(error_class: str) -> Answer:
    return Answer(None, error_class, None, None)


class Upstream:
    """POSTs lookups to one URL.

    `internal_key`: the URL is our own API, which has the same key. It gets the organization in a header, shares its connections between
    all, and is reached without a proxy. Requests and responses are signed, and no address is sent before the API has answered a signed
    request without one, so that another process on the API's port learns nothing and is not trusted.

    An external server does not learn the organization, and each organization has its own connections to it: should a response be taken for
    another request's in spite of everything, it is never another organization's.
    """

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        *,
        internal_key: str | None = None,
        proxy: str | None = None,
        no_proxy: str | None = None,
        ca_file: bytes | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http or https URL: {url}")
        if any(character in value for value in headers.values() for character in "\r\n"):
            raise ValueError("a header contains a line break")
        self._url = Url(url)
        self._is_https = parts.scheme == "https"
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", **headers}
        self._internal_key = internal_key.encode() if internal_key is not None else None
        self._recognition: asyncio.Task[Response] | None = None
        self._proxy = proxy
        self._no_proxy = no_proxy
        self._ca_file = ca_file
        self._uses_tls = self._is_https or proxy is not None
        self._clients = Clients(MAX_CLIENTS, tls=self._uses_tls)
        self._distrusted_until: float | None = None
        self._check = AnswerCheck()

    @classmethod
    def from_settings(cls, settings: Settings, internal_key: str) -> Self:
        """The provider that the settings name, else our own `/incentives`, which has `internal_key`. Raises SettingsError."""
        if not settings.incentives_api_url:
            return cls(f"{settings.server_url}{settings.root_path}/incentives", {}, internal_key=internal_key)
        try:
            return cls(
                settings.incentives_api_url,
                {"Authorization": f"Bearer {settings.incentives_api_key}"} if settings.incentives_api_key else {},
                proxy=settings.proxy_for(settings.incentives_api_url),
                no_proxy=settings.no_proxy,
                ca_file=settings.incentives_api_ca_file.read_bytes() if settings.incentives_api_ca_file else None,
            )
        except ValueError as error:
            raise SettingsError(f"INCENTIVES_API_URL with INCENTIVES_API_KEY cannot be asked: {str(error).splitlines()[0]}") from None

    async def look_up(
        self, organization_id: bytes, request: bytes, seconds: float, max_bytes: int, traceparent: str | None = None
    ) -> Answer:
        """One lookup of an organization (the 16 bytes of its id), within `seconds`. Raises nothing but cancellation."""
        trace = {"traceparent": traceparent} if traceparent else {}
        if self._distrusted_until is not None and asyncio.get_running_loop().time() >= self._distrusted_until:
            self._distrusted_until = None
            self._clients.drop()
        try:
            if self._internal_key is None:
                client = await self._clients.get(organization_id, self._builder)
                response = await exchange(client.post(self._url).body_bytes(request), trace, seconds, max_bytes)
            else:
                response = await self._ask_our_api(self._internal_key, organization_id, request, seconds, max_bytes, trace)
        except ExchangeError as error:
            return failure(error.error_class)
        body = response.body.removeprefix(BOM_UTF8)
        foreign = foreign_reference_id(body, request)
        if foreign is not None:
            self._distrust(organization_id, foreign)
            return failure("invalid_response")
        if await self._check.is_storable(body):
            return Answer(response.status, None, body, response.retry_after)
        return failure("invalid_response") if response.status < 300 else Answer(response.status, None, None, response.retry_after)

    async def _ask_our_api(
        self, key: bytes, organization_id: bytes, request: bytes, seconds: float, max_bytes: int, trace: dict[str, str]
    ) -> Response:
        """Raises ExchangeError: unreachable if another process listens in the API's place."""
        began = asyncio.get_running_loop().time()
        try:
            if self._recognition is None:
                self._recognition = asyncio.create_task(self._post_signed(key, "", b"{}", seconds, max_bytes, {}))
            # All wait for the same response, whoever is cancelled meanwhile.
            await asyncio.shield(self._recognition)
            left = max(began + seconds - asyncio.get_running_loop().time(), 0.0)
            return await self._post_signed(key, str(UUID(bytes=organization_id)), request, left, max_bytes, trace)
        except Exception:
            # The next connection may lead to another process.
            self._recognition = None
            raise

    async def _post_signed(
        self, key: bytes, organization_id: str, body: bytes, seconds: float, max_bytes: int, trace: dict[str, str]
    ) -> Response:
        authorization = sign_request(key, organization_id, body, time.time())
        headers = {"Authorization": authorization, "x-organization-id": organization_id, **trace}
        client = await self._clients.get(None, self._builder)
        request = client.post(self._url).body_bytes(body)
        response = await exchange(request, headers, seconds, max_bytes, signature_header=ANSWER_HEADER)
        if not is_answer_signed(key, authorization, response.status, response.body, response.signature):
            # An impostor must not keep the connection.
            self._clients.drop()
            logger.error(
                "what answers at %s (status %d) does not know our internal key, so no lookup is sent there: another process listens on "
                "the port, or the API has another SERVICE_ROLE_KEY, another clock or an older version",
                self._url,
                response.status,
            )
            raise ExchangeError("unreachable")
        return response

    def close(self) -> None:
        """Closes the connections that are not in use."""
        self._clients.drop()

    def _builder(self) -> ClientBuilder:
        builder = client_builder(tls=self._uses_tls, proxy=self._proxy, no_proxy=self._no_proxy)
        builder = builder.user_agent(USER_AGENT).default_headers(self._headers)
        if self._ca_file is not None:
            builder = builder.add_root_certificate_pem(self._ca_file)
        if self._distrusted_until is not None:
            builder = builder.pool_max_idle_per_host(0)
        return builder

    def _distrust(self, organization_id: bytes, reference_id: str) -> None:
        """Closes all connections and keeps none for a while, because late responses may arrive on others, too. Logs only the first time."""
        if self._distrusted_until is None:
            logger.warning(
                "the incentives API answered a lookup of organization %s with an answer to %r: it is not used, nor is any further one, and "
                "until %s s after the last one no connection is used twice",
                UUID(bytes=organization_id),
                reference_id[:MAX_REFERENCE_ID],
                DISTRUST_SECONDS,
            )
        self._distrusted_until = asyncio.get_running_loop().time() + DISTRUST_SECONDS
        self._clients.drop()
