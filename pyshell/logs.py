"""Log lines: as text or as JSON, with context in fields, and with secrets removed, whoever wrote them.

Pass fields as `extra={"fields": {"job_id": ...}}`; those of the current request are added. Times are in UTC,
durations in seconds.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote, urlsplit

from pyshell.settings import Settings

# Of the current request, empty otherwise: its id, and its caller.
request_id: ContextVar[str] = ContextVar("request_id", default="")
caller: ContextVar[Mapping[str, str]] = ContextVar("caller", default={})  # noqa: B039 (nobody changes it)

# Of the process, if several write to the same log.
of_process: dict[str, int] = {}

# Patterns of credentials: API keys, tokens of links, webhook secrets, JSON Web Tokens; and the places of credentials in a URL or a header.
# Anybody can have a path of 64 KB logged, so none of them may read a long text again from each of many places in it.
_CREDENTIALS = re.compile(
    r"\b(leap_(?:live|test|share)_)[0-9A-Za-z]+"
    r"|\b(whsec_)[0-9A-Za-z+/=]+"
    r"|\b(eyJ)[\w-]{8,}(?:\.[\w-]*){0,4}"
    r"|((?:[?&;]|\b)(?:apikey|api_key|access_token|token|password|secret)=)[^\s&;\"'<>]+"
    r"|(\bbearer\s+)[^\s\"',<>]+"
    r"|(\bx-api-key\b[\"']?,?\s*+(?:[:=]\s*+)?b?[\"']?)[^\s\"',<>]+"
    r"|(://[^\s:/@\"']*:)[^\s/@\"']+(?=@)",
    re.IGNORECASE,
)
_LINE_ENDS = re.compile(r"(?<!\s)[^\S\r\n]*+[\r\n]\s*")
# Characters that control a terminal, end a line elsewhere, or change the order of the text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# A shorter one would be cut out of unrelated words.
_SHORTEST_SECRET = 8
REPEAT_SECONDS = 60.0
_known: set[str] = set()


class Formatter(logging.Formatter):
    """A line of text: time, level, logger, message, `name=value` for each field; then the traceback. Removes secrets.

    A message of several lines, as libpq's are, becomes one, and control characters are written as escapes.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in fields_of(record).items() if name not in ("method", "path", "status"))
        text = f"{time_of(record)} {record.levelname} {record.name} {record.getMessage().strip()}{fields}"
        return without_controls(without_secrets("\n".join([_LINE_ENDS.sub(" ", text), *trace_of(self, record)])))


class JsonFormatter(logging.Formatter):
    """A JSON object: time, level, logger, message, the fields, and `traceback` if there is one. Removes secrets."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": time_of(record), "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        line |= fields_of(record)
        if trace := trace_of(self, record):
            line["traceback"] = "\n".join(trace)
        # Before encoding: removing them afterwards could remove a quote, too.
        return json.dumps({name: without_secrets(value) if isinstance(value, str) else value for name, value in line.items()})


class FirstOfEachMinute(logging.Filter):
    """Passes a message that is logged repeatedly once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._told_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        # Not the time of the record, which may be set back.
        now = time.monotonic()
        self._told_at = {message: at for message, at in self._told_at.items() if now - at < REPEAT_SECONDS}
        message = record.getMessage()
        is_first = message not in self._told_at
        if is_first:
            self._told_at[message] = now
        return is_first


def time_of(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{record.msecs:03.0f}Z"


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a line that are known."""
    fields = {"request_id": request_id.get() or None, **caller.get(), **getattr(record, "fields", {}), **of_process}
    return {name: value if isinstance(value, int | float) else str(value) for name, value in fields.items() if value is not None}


def trace_of(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    if not record.exc_info or not record.exc_info[0]:
        return []
    return [formatter.formatException(record.exc_info)]


def configure(settings: Settings) -> None:
    """Sends the log lines of the process to standard error, from the level of the settings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else Formatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # It logs each WebSocket with its query, which contains subscribers' keys; pyshell.access logs them without.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "WebSocket %s" not in str(record.msg))
    # pyshell.api.errors has logged the reason.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "without completing response" not in str(record.msg))
    # While the database is away, it logs every connection attempt.
    logging.getLogger("psycopg.pool").addFilter(FirstOfEachMinute())
    hide(
        settings.service_role_key,
        settings.service_role_key_previous,
        settings.api_key_pepper,
        settings.api_key_pepper_previous,
        settings.incentives_api_key,
        settings.metrics_token,
        *(
            unquote(urlsplit(url).password or "")
            for url in (settings.database_url, settings.database_replica_url, settings.http_proxy, settings.https_proxy)
            if url
        ),
    )


def is_json() -> bool:
    """Whether `configure` has been called, and the lines are JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def hide(*secrets: str | None) -> None:
    """Removes these texts from all lines from now on, whatever they look like."""
    _known.update(secret for secret in secrets if secret and len(secret) >= _SHORTEST_SECRET)


def without_secrets(line: str) -> str:
    """The line with `***` in place of each secret."""
    for secret in _known:
        line = line.replace(secret, "***")
    return _CREDENTIALS.sub(lambda match: f"{match[match.lastindex or 0]}***", line)


def without_controls(line: str) -> str:
    """The line with escapes such as `\x1b` in place of control characters; line ends and tabs stay."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], line)
