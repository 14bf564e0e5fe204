"""ETags: a client that already has a response gets 304 instead (RFC 9110, section 13.1.2)."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from pyshell.api.routes.parameters import json_response
from pyshell.postgres.compact import PIECE_BYTES

# Apache adds this to the ETag of a response that it compresses, and never removes it from If-None-Match.
COMPRESSED: Final = re.compile(r'-(gzip|br)(?="$)')


async def response_with_etag(request: Request, body: bytes, cache_control: str) -> Response:
    """JSON with its ETag, or 304 if the header If-None-Match contains that."""
    # For a large body, in a thread, so that others need not wait.
    etag = fingerprint(body) if len(body) <= PIECE_BYTES else await asyncio.to_thread(fingerprint, body)
    headers = {"ETag": f'"{etag}"', "Cache-Control": cache_control}
    known = request.headers.get("if-none-match")
    if known is not None and lists(known, etag):
        return Response(status_code=304, headers=headers)
    response = json_response(body)
    response.headers.update(headers)
    return response


def fingerprint(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=12).hexdigest()


def is_known(body: bytes, if_none_match: str) -> bool:
    """Whether the header If-None-Match lists the ETag of this body."""
    return lists(if_none_match, fingerprint(body))


def lists(if_none_match: str, etag: str) -> bool:
    known = [COMPRESSED.sub("", tag.strip().removeprefix("W/")) for tag in if_none_match.split(",")]
    return "*" in known or f'"{etag}"' in known
