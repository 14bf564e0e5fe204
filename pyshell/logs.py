"""Log lines: one form for all, the id of the request that they belong to, and no secret in any of them, whoever wrote it."""

from __future__ import annotations

import logging
import re
from contextvars import ContextVar
from urllib.parse import unquote, urlsplit

from pyshell.settings import Settings

# Of the request that is under way, empty otherwise.
request_id: ContextVar[str] = ContextVar("request_id", default="")

# What looks like a credential: API keys, tokens of links, webhook secrets, JSON Web Tokens; and what stands where one does, in a URL
# or a header.
_CREDENTIALS = re.compile(
    r"\b(leap_(?:live|test|share)_)[0-9A-Za-z]+"
    r"|\b(whsec_)[0-9A-Za-z+/=]+"
    r"|\b(eyJ)[\w-]{8,}(?:\.[\w-]*){1,4}"
    r"|((?:[?&;]|\b)(?:apikey|api_key|access_token|token|password|secret)=)[^\s&;\"'<>]+"
    r"|(\bbearer\s+)[^\s\"',<>]+"
    r"|(\bx-api-key\b[\"']?,?\s*[:=]?\s*b?[\"']?)[^\s\"',<>]+"
    r"|(\b[a-z][a-z+]*://[^\s:/@\"']*:)[^\s/@\"']+(?=@)",
    re.IGNORECASE,
)
# A shorter one would be cut out of words that have nothing to do with it.
_SHORTEST_SECRET = 8
_known: set[str] = set()


class Formatter(logging.Formatter):
    """Formats a line, its traceback included, and takes the secrets out of it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if request_id.get() and request_id.get() not in line:
            line += f" (request {request_id.get()})"
        return without_secrets(line)


def configure(settings: Settings) -> None:
    """Sends the lines of the process to its standard error, from the level of the settings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # It logs each WebSocket with its query, where subscribers' keys are: ours is in pyshell.access.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "WebSocket %s" not in str(record.msg))
    hide(
        settings.service_role_key,
        settings.service_role_key_previous,
        settings.api_key_pepper,
        settings.api_key_pepper_previous,
        settings.incentives_api_key,
        settings.metrics_token,
        *(unquote(urlsplit(url).password or "") for url in (settings.database_url, settings.http_proxy, settings.https_proxy) if url),
    )


def hide(*secrets: str | None) -> None:
    """Takes these out of all lines from now on, whatever they look like."""
    _known.update(secret for secret in secrets if secret and len(secret) >= _SHORTEST_SECRET)


def without_secrets(line: str) -> str:
    """The line with `***` in place of each secret."""
    for secret in _known:
        line = line.replace(secret, "***")
    return _CREDENTIALS.sub(lambda match: f"{match[match.lastindex or 0]}***", line)
