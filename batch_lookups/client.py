"""The service for Python: `Client`, and the same for asyncio, `AsyncClient`."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

import httpx

from batch_lookups import __version__, bodies, calls
from batch_lookups.errors import InvalidArgumentError, UnavailableError
from batch_lookups.paging import pages
from batch_lookups.records import RecordSplitter, ResultsFormat
from batch_lookups.retrying import (
    RETRY_SECONDS,
    Attempts,
    OnRetry,
    describe,
    error_of,
    refuse_redirect,
    refuse_redirect_async,
    require_ours,
)
from batch_lookups.types import Item, Job

P = ParamSpec("P")
T = TypeVar("T")

# A watched job is reported at least this often.
WAIT_SECONDS = 10
TIMEOUT = httpx.Timeout(90, connect=10)
# Watching a job occupies a connection nearly all the time, and must not make other calls wait for one.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None)
USER_AGENT = f"batch-lookups/{__version__} httpx/{httpx.__version__}"


class Method(Generic[P, T]):
    """A call as a method of both clients: `Client` returns the result, `AsyncClient` awaits it."""

    def __init__(self, call: Callable[P, calls.Call[T]]) -> None:
        self._call = call

    if TYPE_CHECKING:

        @overload
        def __get__(self, client: None, owner: type[Client]) -> Callable[Concatenate[Client, P], T]: ...
        @overload
        def __get__(self, client: None, owner: type[AsyncClient]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]: ...
        @overload
        def __get__(self, client: Client, owner: object) -> Callable[P, T]: ...
        @overload
        def __get__(self, client: AsyncClient, owner: object) -> Callable[P, Coroutine[Any, Any, T]]: ...
        def __get__(self, client: Any, owner: Any) -> Any: ...

    def function(self, *, is_async: bool) -> Callable[..., Any]:
        """A plain function with the name, the text and the signature of the call, for `help`, editors and mocks."""
        call = self._call

        def method(self: Client, *arguments: P.args, **options: P.kwargs) -> T:
            return self.send(call(*arguments, **options))

        async def async_method(self: AsyncClient, *arguments: P.args, **options: P.kwargs) -> T:
            return await self.send(call(*arguments, **options))

        made: Any = async_method if is_async else method
        update_wrapper(made, call, ("__name__", "__qualname__", "__doc__"))
        signature = inspect.signature(call)
        returned = signature.return_annotation.removeprefix("Call[").removesuffix("]")
        made.__annotations__ = call.__annotations__ | {"return": returned}
        client = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        made.__signature__ = signature.replace(parameters=[client, *signature.parameters.values()], return_annotation=returned)
        return cast(Callable[..., Any], made)


class _Methods:
    check_batch = Method(calls.check_batch)
    create_batch = Method(calls.create_batch)
    list_jobs = Method(calls.list_jobs)
    get_job = Method(calls.get_job)
    cancel_job = Method(calls.cancel_job)
    continue_job = Method(calls.continue_job)
    delete_job = Method(calls.delete_job)
    retry_job = Method(calls.retry_job)
    list_items = Method(calls.list_items)
    get_results_xlsx = Method(calls.get_results_xlsx)
    get_report_summary = Method(calls.get_report_summary)
    get_report_page = Method(calls.get_report_page)
    get_report_csv = Method(calls.get_report_csv)
    get_usage = Method(calls.get_usage)
    get_report_xlsx = Method(calls.get_report_xlsx)
    diff_reports = Method(calls.diff_reports)
    share_report = Method(calls.share_report)
    list_report_shares = Method(calls.list_report_shares)
    revoke_report_share = Method(calls.revoke_report_share)
    list_devices = Method(calls.list_devices)
    get_me = Method(calls.get_me)
    get_organization = Method(calls.get_organization)
    create_key = Method(calls.create_key)
    list_keys = Method(calls.list_keys)
    rotate_key = Method(calls.rotate_key)
    revoke_key = Method(calls.revoke_key)
    get_webhook_config = Method(calls.get_webhook_config)
    set_webhook_config = Method(calls.set_webhook_config)
    delete_webhook_config = Method(calls.delete_webhook_config)
    send_test_webhook = Method(calls.send_test_webhook)
    rotate_webhook_secret = Method(calls.rotate_webhook_secret)
    list_webhook_deliveries = Method(calls.list_webhook_deliveries)
    get_webhook_delivery = Method(calls.get_webhook_delivery)
    resend_webhook_delivery = Method(calls.resend_webhook_delivery)
    recover_webhook_deliveries = Method(calls.recover_webhook_deliveries)

    def __init_subclass__(cls, *, is_async: bool | None = None) -> None:
        if is_async is not None:
            for name, method in vars(_Methods).items():
                if isinstance(method, Method):
                    setattr(cls, name, method.function(is_async=is_async))

    def __init__(self, *, retry_seconds: float, on_retry: OnRetry | None) -> None:
        self._retry_seconds = retry_seconds
        self._on_retry = on_retry or (lambda retry: None)


class Client(_Methods, is_async=False):
    """A client with an API key. `retry_seconds`: how long a request is retried while the service is busy or unreachable.

    Methods raise ApiError for an unsuccessful response, UnavailableError for none, InvalidArgumentError before anything is sent.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        retry_seconds: float = RETRY_SECONDS,
        on_retry: OnRetry | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(retry_seconds=retry_seconds, on_retry=on_retry)
        with bodies.using_environment():
            self._http = httpx.Client(
                base_url=_address(url),
                headers=_headers(api_key),
                timeout=TIMEOUT,
                limits=LIMITS,
                transport=transport,
                event_hooks={"response": [refuse_redirect]},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def send(self, call: calls.Call[T]) -> T:
        """The result of a call of `batch_lookups.calls`."""
        attempts = Attempts(self._retry_seconds, repeatable=call.may_repeat)
        while True:
            try:
                response = bodies.send(self._http, call.request(self._http))
            except httpx.RequestError as error:
                retry = attempts.after_error(error)
            else:
                if response.is_success or response.status_code == 304:
                    return read(response, call)
                if call.gone and attempts.maybe_done and error_of(response).code == call.gone[0]:
                    return call.gone[1]
                retry = attempts.after_response(response)
            self._on_retry(retry)
            time.sleep(retry.delay)

    def watch(self, job_id: str) -> Generator[Job, None, None]:
        """The job now and after every change, at least every ten seconds, until it ends.

        A job that waits, after its sample or at a limit, does not end until it is continued or cancelled: `waiting_for` says so.
        """
        job, etag = self.send(calls.changed_job(job_id, None, 0))
        while job is not None:
            yield job
            if has_ended(job):
                return
            changed, etag = self.send(calls.changed_job(job_id, etag, WAIT_SECONDS))
            if changed == job:
                # A proxy may have altered its ETag, for which the service would never wait.
                etag = ""
            job = changed or job

    def items(self, job_id: str, *, status: str | None = None, error_code: str | None = None) -> Generator[Item, None, None]:
        """All items of a job, in upload order."""
        for page in pages(self.list_items, job_id, status=status, error_code=error_code, limit=500):
            yield from page["items"]

    def results(
        self,
        job_id: str,
        results_format: ResultsFormat = "csv",
        *,
        status: str | None = None,
        error_code: str | None = None,
        after: int | None = None,
    ) -> Generator[bytes, None, None]:
        """The current results of a job as records, each with its line end; for CSV first the header.

        `after`: only the items after this position, from 0, without a header. A lost connection is resumed: no record is missing
        or repeated.
        """
        download = _Download(job_id, results_format, status, error_code, after)
        attempts = Attempts(self._retry_seconds, repeatable=True)
        while True:
            try:
                with self._http.stream("GET", download.path, params=download.begin()) as response:
                    if response.is_success:
                        require_ours(response, download.media_type)
                        for piece in bodies.pieces_of(response):
                            yield from download.feed(piece)
                        if download.end(response):
                            return
                        continue
                    retry = attempts.after_response(bodies.read(response))
            except httpx.RequestError as error:
                attempts = download.attempts_after(error, attempts, self._retry_seconds)
                retry = attempts.after_error(error)
            self._on_retry(retry)
            time.sleep(retry.delay)


class AsyncClient(_Methods, is_async=True):
    """`Client` for asyncio: the same methods, awaited; `watch`, `items` and `results` with `async for`."""

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        retry_seconds: float = RETRY_SECONDS,
        on_retry: OnRetry | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(retry_seconds=retry_seconds, on_retry=on_retry)
        with bodies.using_environment():
            self._http = httpx.AsyncClient(
                base_url=_address(url),
                headers=_headers(api_key),
                timeout=TIMEOUT,
                limits=LIMITS,
                transport=transport,
                event_hooks={"response": [refuse_redirect_async]},
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def send(self, call: calls.Call[T]) -> T:
        """The result of a call of `batch_lookups.calls`."""
        attempts = Attempts(self._retry_seconds, repeatable=call.may_repeat)
        while True:
            try:
                response = await bodies.send_async(self._http, call.request(self._http))
            except httpx.RequestError as error:
                retry = attempts.after_error(error)
            else:
                if response.is_success or response.status_code == 304:
                    return read(response, call)
                if call.gone and attempts.maybe_done and error_of(response).code == call.gone[0]:
                    return call.gone[1]
                retry = attempts.after_response(response)
            self._on_retry(retry)
            await asyncio.sleep(retry.delay)

    async def watch(self, job_id: str) -> AsyncGenerator[Job, None]:
        """The job now and after every change, at least every ten seconds, until it ends.

        A job that waits, after its sample or at a limit, does not end until it is continued or cancelled: `waiting_for` says so.
        """
        job, etag = await self.send(calls.changed_job(job_id, None, 0))
        while job is not None:
            yield job
            if has_ended(job):
                return
            changed, etag = await self.send(calls.changed_job(job_id, etag, WAIT_SECONDS))
            if changed == job:
                # A proxy may have altered its ETag, for which the service would never wait.
                etag = ""
            job = changed or job

    async def items(self, job_id: str, *, status: str | None = None, error_code: str | None = None) -> AsyncGenerator[Item, None]:
        """All items of a job, in upload order."""
        cursor: str | None = None
        while True:
            page = await self.list_items(job_id, status=status, error_code=error_code, limit=500, cursor=cursor)
            for item in page["items"]:
                yield item
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def results(
        self,
        job_id: str,
        results_format: ResultsFormat = "csv",
        *,
        status: str | None = None,
        error_code: str | None = None,
        after: int | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The results of a job as records, like those of `Client.results`."""
        download = _Download(job_id, results_format, status, error_code, after)
        attempts = Attempts(self._retry_seconds, repeatable=True)
        while True:
            try:
                async with self._http.stream("GET", download.path, params=download.begin()) as response:
                    if response.is_success:
                        require_ours(response, download.media_type)
                        async for piece in bodies.pieces_of_async(response):
                            for record in download.feed(piece):
                                yield record
                        if download.end(response):
                            return
                        continue
                    retry = attempts.after_response(await bodies.read_async(response))
            except httpx.RequestError as error:
                attempts = download.attempts_after(error, attempts, self._retry_seconds)
                retry = attempts.after_error(error)
            self._on_retry(retry)
            await asyncio.sleep(retry.delay)


def read(response: httpx.Response, call: calls.Call[T]) -> T:
    """Reads a successful response. Raises BatchLookupsError if it is not the service's."""
    # A 304 has no content.
    if response.status_code != 304:
        require_ours(response, call.media_type)
    return call.read(response)


class _Download:
    """The results of a job, in as many requests as it takes: each continues after the last whole record."""

    def __init__(self, job_id: str, results_format: ResultsFormat, status: str | None, error_code: str | None, after: int | None) -> None:
        self.path = calls.path_of("batch-lookups", job_id, "results")
        self.media_type = calls.CSV if results_format == "csv" else calls.NDJSON
        self._format: ResultsFormat = results_format
        self._filter = {name: value for name, value in (("status", status), ("error_code", error_code)) if value is not None}
        self._after = -1 if after is None else after
        self._header_is_due = results_format == "csv" and after is None
        self._has_progressed = False

    def begin(self) -> dict[str, str | int]:
        """The parameters of the next request."""
        self._splitter = RecordSplitter(self._format)
        self._has_received = False
        # If only the header was received, it comes again.
        self._skips_header = self._format == "csv" and self._after < 0 and not self._header_is_due
        return {"format": self._format, **self._filter, **({"after": self._after} if self._after >= 0 else {})}

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The records that the piece completes. Raises BatchLookupsError for an endless one."""
        for record in self._splitter.feed(piece):
            if self._skips_header:
                self._skips_header = False
                continue
            if self._header_is_due:
                self._header_is_due = False
            else:
                self._after += 1
            self._has_progressed = self._has_received = True
            yield record
        bodies.require_bounded(self._splitter.rest_length)

    def end(self, response: httpx.Response) -> bool:
        """Whether these were the last records: through a proxy, a lost connection may look like an end.

        Where nothing tells the end of a response, as in HTTP/1.0, one without any record does. Raises httpx.RemoteProtocolError if the last
        record is cut off.
        """
        if self._splitter.rest_length:
            raise httpx.RemoteProtocolError("the last record is cut off", request=response.request)
        tells_its_end = not {"content-length", "transfer-encoding"}.isdisjoint(response.headers) or response.http_version == "HTTP/2"
        return tells_its_end or not self._has_received or bool(self._filter)

    def attempts_after(self, error: httpx.RequestError, attempts: Attempts, seconds: float) -> Attempts:
        """The remaining attempts: all of them, if something was received. Raises UnavailableError if it cannot be resumed.

        The matches of a filter may have changed meanwhile, so that it is unknown which ones are still to come.
        """
        if not self._has_progressed:
            return attempts
        if self._filter:
            raise UnavailableError(f"{describe(error)}; the results are incomplete") from error
        self._has_progressed = False
        return Attempts(seconds, repeatable=True)


def has_ended(job: Job) -> bool:
    """Whether nothing about the job will change any more; a cancelled one still waits for lookups in flight."""
    return job["processed_items"] == job["total_items"]


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
        # Resolving it would do the same, but would not raise an error of httpx.
        address.raw_host.decode().encode("idna")
        return address
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InvalidArgumentError(f"The address of the service is no URL: {error}") from error


def _headers(api_key: str) -> dict[str, str]:
    key = api_key.strip()
    # Checked here, because httpx's error about such a header contains the key, and would end up in a log.
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InvalidArgumentError("The API key has characters that keys don't have")
    return {"x-api-key": key, "user-agent": USER_AGENT}
