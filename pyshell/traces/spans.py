"""Spans: the only module that knows OpenTelemetry.

Spans have names, ids, counts and statuses: never the content of a request or response, nor error messages, which may quote it.
Attributes follow https://opentelemetry.io/docs/specs/semconv/; our own begin with `batch_lookups`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pyshell import traces
from pyshell.metrics import version

# How long a process that ends waits for the collector.
LAST_CALLS_SECONDS: Final = 5.0
MAX_LINKS: Final = 20

Attributes = Mapping[str, Any]

_propagator: Final = TraceContextTextMapPropagator()


def sender() -> SpanProcessor:
    """Sends spans in batches, from its own thread, where and as often as the environment says."""
    return BatchSpanProcessor(OTLPSpanExporter())


@contextmanager
def recording(processor: SpanProcessor) -> Iterator[None]:
    """Sets `traces.recorder` within the context, and sends its spans to `processor`."""
    provider = TracerProvider(resource=Resource.create({"service.version": version()}), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    traces.recorder = Recorder(provider.get_tracer("batch-lookups", version()))
    try:
        yield
    finally:
        traces.recorder = None
        # Its default wait is half a minute.
        last_calls = threading.Thread(target=provider.shutdown, daemon=True)
        last_calls.start()
        last_calls.join(LAST_CALLS_SECONDS)


class Recorded:
    """What is being recorded, or would be if its trace were."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{self.trace_id}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end_request(self, method: str, route: str | None, status: int) -> None:
        """`route` is the template that matched, never the path, which may contain an id or a token; `status` 0: there was no response."""
        if route is not None:
            self._span.update_name(f"{method} {route}")
            self._span.set_attribute("http.route", route)
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self.fail(str(status))

    def end_call(self, status: int | None, error_class: str | None) -> None:
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if status is None or status >= 400:
            self.fail(error_class or str(status))

    def fail(self, error_type: str) -> None:
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(Status(StatusCode.ERROR))


class Recorder:
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def request(self, method: str, traceparents: Sequence[str]) -> Iterator[Recorded]:
        """A request to us, in the trace that it names; several traces count as none."""
        parent = context_of(traceparents[0] if len(traceparents) == 1 else None)
        with self._span(method, SpanKind.SERVER, parent, {"http.request.method": method}) as span:
            yield span

    @contextmanager
    def call_out(self, name: str, traceparent: str | None, attributes: Attributes) -> Iterator[Recorded]:
        """One of our POSTs, in the given trace or in a new one."""
        with self._span(name, SpanKind.CLIENT, context_of(traceparent), {"http.request.method": "POST", **attributes}) as span:
            yield span

    @contextmanager
    def work(self, name: str, traceparents: Iterable[str], attributes: Attributes) -> Iterator[None]:
        """Work for several traces: in the first of them, with links to the others."""
        first, *others = {parent[3:35]: context_of(parent) for parent in traceparents}.values()
        links = [Link(get_current_span(parent).get_span_context()) for parent in others[:MAX_LINKS]]
        with self._span(name, SpanKind.INTERNAL, first, attributes, links):
            yield

    @contextmanager
    def database_call(self, name: str) -> Iterator[None]:
        """A call that belongs to what is being recorded; others, such as those of an idle worker, are not recorded."""
        if not get_current_span().is_recording():
            yield
            return
        with self._span(name, SpanKind.CLIENT, None, {"db.system.name": "postgresql"}):
            yield

    def current_traceparent(self) -> str:
        """The traceparent of the current request."""
        return Recorded(get_current_span()).traceparent

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, parent: Context | None, attributes: Attributes, links: Sequence[Link] = ()
    ) -> Iterator[Recorded]:
        """`parent` None: the current span."""
        with self._tracer.start_as_current_span(
            name, parent, kind, attributes, links, record_exception=False, set_status_on_exception=False
        ) as span:
            recorded = Recorded(span)
            try:
                yield recorded
            except BaseException as error:
                recorded.fail(type(error).__qualname__)
                raise


def context_of(traceparent: str | None) -> Context:
    return _propagator.extract({"traceparent": traceparent} if traceparent else {}, Context())
