"""The portal: a page in the browser that is a client of the public API. `make portal` builds its files."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

from pyshell.settings import ROOT, Settings

DIST = ROOT / "portal" / "dist"
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css"}

NOT_BUILT = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Batch Lookups</title>
<h1>The portal has not been built here</h1>
<p>The API runs without it. In the folder of the project, <code>make portal</code> builds it, and says what is missing if it cannot;
then reload this page.</p>
<p><a href="docs">Documentation of the API</a></p>
</html>
"""

# A longer one is an error of the file system.
_FILE_NAME = re.compile(r"[\w-][\w.-]{0,99}", re.ASCII)


async def portal_page(request: Request) -> Response:
    if request.scope.get("raw_path", b"").endswith(b"/"):
        # Links in the page are relative to the path without the slash.
        return RedirectResponse("../portal")
    headers = {"Content-Security-Policy": content_security_policy(request.app.state.settings)}
    if not (DIST / "index.html").is_file():
        return HTMLResponse(NOT_BUILT, 503, headers)
    return _file(request, DIST / "index.html", "text/html", headers)


async def portal_file(request: Request) -> Response:
    """A file of the build; its name contains a hash of its content, so that it can be cached forever."""
    path = DIST / request.path_params["file"]
    if not _FILE_NAME.fullmatch(path.name) or path.suffix not in MEDIA_TYPES or not path.is_file():
        raise HTTPException(404)
    return _file(request, path, MEDIA_TYPES[path.suffix], {"Cache-Control": "public, max-age=31536000, immutable"})


async def portal_config(request: Request) -> Response:
    """What the page needs to know about this deployment."""
    issuer = request.app.state.settings.clerk_issuer
    scripts = sorted(DIST.glob("clerk-*.js"))
    clerk = {"publishable_key": publishable_key(issuer), "script": scripts[-1].name} if issuer and scripts else None
    return JSONResponse({"clerk": clerk})


def content_security_policy(settings: Settings) -> str:
    """Allows nothing from other origins; if Clerk is configured, what its client needs.

    https://clerk.com/docs/guides/secure/best-practices/csp-headers
    """
    policy: dict[str, Any] = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "form-action": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }
    if settings.clerk_issuer:
        policy["connect-src"] += f" {settings.clerk_issuer} https://*.protect.clerk.com:*"
        policy["img-src"] += " https://img.clerk.com"
        policy["worker-src"] = "blob:"
        # Clerk's client loads its parts as scripts by URL.
        del policy["require-trusted-types-for"]
    return "; ".join(f"{name} {value}" for name, value in policy.items())


def publishable_key(issuer: str) -> str:
    """Clerk's publishable key: the host of its frontend API in Base64; development instances are on accounts.dev."""
    host = urlsplit(issuer).netloc
    kind = "test" if host.endswith(".accounts.dev") else "live"
    return f"pk_{kind}_{base64.b64encode(f'{host}$'.encode()).decode()}"


def _file(request: Request, path: Path, media_type: str, headers: dict[str, str]) -> Response:
    compressed = path.with_name(f"{path.name}.gz")
    if "gzip" in request.headers.get("accept-encoding", "") and compressed.is_file():
        path, headers = compressed, headers | {"Content-Encoding": "gzip"}
    return FileResponse(path, media_type=media_type, headers=headers | {"Vary": "Accept-Encoding"})
