"""The format of a body: by its Content-Type or, if that is not specific, by how the body begins."""

from __future__ import annotations

import codecs
import json
import re

import msgspec

from pyshell.api.errors import ApiError

JSON, NDJSON, MULTIPART = "application/json", "application/x-ndjson", "multipart/form-data"
WORKBOOK = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
# CSV or a workbook: browsers on Windows name both after the installed program.
FILE = "text/csv"
ALIASES = (
    {"text/json": JSON}
    | dict.fromkeys(
        (
            "application/ndjson",
            "application/jsonl",
            "application/x-jsonl",
            "application/jsonlines",
            "application/x-jsonlines",
            "application/json-lines",
            "text/x-ndjson",
        ),
        NDJSON,
    )
    | dict.fromkeys(
        (
            "application/csv",
            "application/x-csv",
            "text/x-csv",
            "text/comma-separated-values",
            "text/x-comma-separated-values",
            "text/tab-separated-values",
            "application/gzip",
            "application/x-gzip",
            "application/excel",
            "application/vnd.ms-excel",
            "application/vnd.ms-excel.sheet.binary.macroenabled.12",
            "application/vnd.ms-excel.sheet.macroenabled.12",
            WORKBOOK,
            "application/vnd.oasis.opendocument.spreadsheet",
        ),
        FILE,
    )
)
# Defaults of `fetch` with a string and of `curl -d`, whatever the body is.
UNDECLARED = ("", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded")

# Bytes of a line that are examined to tell a site from a whole request; far more than a site has.
_LONGEST_SITE = 65_536
_WHITE_SPACE = b" \t\r\n"
_CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)


def recognize(content_type: str | None, beginning: bytes) -> str:
    """JSON, NDJSON, FILE, or the declared media type in lower case. No Content-Type: JSON.

    `beginning` is the body up to at least its first byte that is neither white space nor a byte order mark.
    """
    declared = declared_type(content_type)
    if not declared or (declared in UNDECLARED and begins_as_json(beginning)):
        return JSON
    if declared.startswith("application/") and declared.endswith("+json"):
        return JSON
    return ALIASES.get(declared, declared)


def recognize_upload(content_type: str | None, data: bytes) -> str:
    """JSON, NDJSON or FILE; without a specific Content-Type, by how `data` begins. Raises ApiError 415 for any other type."""
    declared = declared_type(content_type)
    if declared in UNDECLARED:
        # An empty file is sent as application/octet-stream, and a request without a body without any type.
        if not begins_as_json(data[:1000]) or (declared and not _content_of(data)):
            return FILE
        return NDJSON if _is_ndjson(data) else JSON
    kind = recognize(content_type, b"")
    if kind not in (JSON, NDJSON, FILE):
        raise ApiError(
            415,
            "unsupported_media_type",
            f"A body of type {kind[:100]} cannot be read",
            hint="Send JSON, NDJSON, CSV or an Excel workbook, with a Content-Type such as text/csv.",
        )
    return kind


def declared_type(content_type: str | None) -> str:
    """The declared media type in lower case without parameters; empty: none was declared."""
    return (content_type or "").partition(";")[0].strip().lower()


def begins_as_json(beginning: bytes) -> bool:
    """Whether the body may be an object or an array, or is empty."""
    return _content_of(beginning)[:1] in (b"{", b"[", b"")


def _is_ndjson(data: bytes) -> bool:
    """Whether the first line is a complete JSON object, and more lines follow or it is a site."""
    first, _, rest = _content_of(data).partition(b"\n")
    is_alone = not rest.strip()
    if not first.startswith(b"{") or (is_alone and len(first) > _LONGEST_SITE):
        return False
    try:
        # Values of a long line would take twenty times its memory, and nothing else would run until they are there.
        document = json.loads(first) if len(first) <= _LONGEST_SITE else msgspec.json.decode(first, type=msgspec.Raw)
    except (ValueError, RecursionError):
        return False
    return not is_alone or ("reference_id" in document and "items" not in document)


def _content_of(beginning: bytes) -> bytes:
    """The body after a byte order mark and white space."""
    return beginning.removeprefix(codecs.BOM_UTF8).lstrip(_WHITE_SPACE)


def charset_of(content_type: str | None) -> str | None:
    """The declared charset in lower case."""
    declared = _CHARSET.search(content_type or "")
    return declared[1].lower() if declared else None


def check_charset(content_type: str | None) -> None:
    """Raises ApiError 415 if the declared charset is not UTF-8."""
    if charset_of(content_type) not in (None, "utf-8", "utf8", "us-ascii"):
        raise ApiError(415, "unsupported_charset", "The body must be encoded in UTF-8")
