"""In which format a body is: as its Content-Type declares, or, where that says nothing, as the body begins."""

from __future__ import annotations

import codecs
import re

from pyshell.api.errors import ApiError

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
ALIASES = {"application/ndjson": NDJSON, "application/jsonl": NDJSON, "application/x-jsonlines": NDJSON, "application/csv": CSV}
# What `fetch` with a string and `curl -d` send of themselves, whatever the body is.
UNDECLARED = ("text/plain", "application/x-www-form-urlencoded")

_WHITE_SPACE = b" \t\r\n"
_CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)


def recognize(content_type: str | None, beginning: bytes) -> str:
    """JSON, NDJSON, CSV, or the media type as it was declared, in lower case. No Content-Type: JSON.

    `beginning` is the body up to at least its first byte that is neither white space nor a byte order mark.
    """
    declared = (content_type or "").partition(";")[0].strip().lower()
    if not declared or (declared in UNDECLARED and begins_as_json(beginning)):
        return JSON
    if declared.startswith("application/") and declared.endswith("+json"):
        return JSON
    return ALIASES.get(declared, declared)


def begins_as_json(beginning: bytes) -> bool:
    """Whether an object or an array may follow. Nothing at all is no other format either."""
    return content_of(beginning)[:1] in (b"{", b"[", b"")


def content_of(beginning: bytes) -> bytes:
    """What stands behind a byte order mark and white space."""
    return beginning.removeprefix(codecs.BOM_UTF8).lstrip(_WHITE_SPACE)


def check_charset(content_type: str | None, *charsets: str) -> None:
    """Raises ApiError 415 when a charset is declared that is neither UTF-8 nor one of `charsets`."""
    declared = _CHARSET.search(content_type or "")
    if declared and declared[1].lower() not in ("utf-8", "utf8", "us-ascii", *charsets):
        also = ", or in UTF-16 with a byte order mark" if "utf-16" in charsets else ""
        raise ApiError(415, "unsupported_charset", f"The body must be encoded in UTF-8{also}")
