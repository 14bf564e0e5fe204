"""Traces for OpenTelemetry (https://opentelemetry.io), where it is installed (`pip install .[otel]`) and its variables ask for them.

Otherwise `recorder` is None, and nothing but that is looked at: the `traceparent` of an upload is sent on as it came.
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

# Of so many items of a batch, and of so many webhooks of items, one is recorded.
ONE_IN: Final = 100

recorder: Recorder | None = None


@contextmanager
def sent_by(service: str) -> Iterator[None]:
    """Sends what is recorded within, if the environment or the file `.env` asks for it, under this name unless that has another."""
    for name, value in read_environment().items():
        # The SDK reads the variables by itself, and knows no .env.
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
            # Of most of its variables, the SDK says so itself and goes on.
            logger.warning("no traces are sent, because a variable of OpenTelemetry cannot be used: %s", error)
        yield


def is_asked_for(environment: Mapping[str, str]) -> bool:
    """Whether an endpoint or the exporter otlp is set, and nothing says otherwise.

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
    """Takes the credentials for the collector out of all log lines."""
    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        for pair in environment.get(name, "").split(","):
            value = pair.partition("=")[2].strip()
            # The whole as well: the SDK quotes what it cannot read, such as a name with a colon after it, or a value from a comma on.
            logs.hide(value, unquote(value), pair.strip())


def is_recorded(traceparent: str) -> bool:
    """Whether what belongs to the trace is recorded."""
    return bool(int(traceparent[53:], 16) & 1)


def not_recorded(traceparent: str | None) -> str | None:
    """The trace context of what belongs to a trace, but was not chosen to be recorded."""
    return traceparent and f"{traceparent[:53]}{int(traceparent[53:], 16) & ~1:02x}"
