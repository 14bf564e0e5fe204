"""Traces for OpenTelemetry (https://opentelemetry.io), where it is installed (`pip install .[otel]`) and its variables ask for them.

Otherwise `recorder` is None, and the `traceparent` of an upload is passed on unchanged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from pyshell import logs
from pyshell.settings import read_environment

if TYPE_CHECKING:
    from pyshell.traces.spans import Recorder

logger = logging.getLogger(__name__)

# One in this many items of a batch, and in this many webhooks of items, is recorded.
ONE_IN: Final = 100

recorder: Recorder | None = None


@contextmanager
def sent_by(service: str) -> Iterator[None]:
    """Sends what is recorded within, if the environment or `.env` asks for it, under this name unless they give another."""
    for name, value in read_environment().items():
        # The SDK reads the environment itself, but not .env.
        if name.startswith("OTEL_"):
            os.environ.setdefault(name, value)
    if not is_asked_for(os.environ):
        yield
        return
    try:
        from pyshell.traces.spans import recording, sender
    except ImportError:
        logger.warning("OTEL_... asks for traces, but OpenTelemetry is not installed: pip install '.[otel]'")
        yield
        return
    hide_headers(os.environ)
    if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        os.environ.setdefault("OTEL_SERVICE_NAME", service)
    with ExitStack() as stack:
        try:
            stack.enter_context(recording(sender()))
        except ValueError as error:
            # The SDK reports most invalid variables itself and continues.
            logger.warning("no traces are sent, because a variable of OpenTelemetry cannot be used: %s", error)
        yield


def is_asked_for(environment: Mapping[str, str]) -> bool:
    """Whether an endpoint or the exporter otlp is set, and traces are not disabled.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    """
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or not (exporter or endpoint) or exporter == "none":
        return False
    if exporter not in ("", "otlp") or protocol.strip().lower() != "http/protobuf":
        logger.warning("no traces are sent: the only exporter is otlp, and its only protocol http/protobuf (see OTEL_TRACES_EXPORTER)")
        return False
    return True


def hide_headers(environment: Mapping[str, str]) -> None:
    """Removes the collector's credentials from all log lines."""
    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        for pair in environment.get(name, "").split(","):
            value = pair.partition("=")[2].strip()
            # The whole value, too: the SDK quotes what it cannot parse, such as a name followed by a colon, or the rest after a comma.
            logs.hide(value, unquote(value), pair.strip())


def is_recorded(traceparent: str) -> bool:
    """Whether the trace is recorded."""
    return bool(int(traceparent[53:], 16) & 1)


def not_recorded(traceparent: str | None) -> str | None:
    """The same trace context, marked as not recorded."""
    return traceparent and f"{traceparent[:53]}{int(traceparent[53:], 16) & ~1:02x}"
