"""The description of the API as a page to read and to try, with Swagger UI from its package: nothing comes from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from pyshell.api.errors import ApiError

# We want the files of this package, not its code.
PACKAGE = "flask-swagger-ui"
MEDIA_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon-32x32.png": "image/png"}

START = "SwaggerUIBundle({ url: 'openapi.json', dom_id: '#ui', deepLinking: true, tryItOutEnabled: true, persistAuthorization: true })"
PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Batch Lookups</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>{START}</script>
</body>
</html>
"""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    f"frame-ancestors 'none'; script-src 'self' 'sha256-{base64.b64encode(hashlib.sha256(START.encode()).digest()).decode()}'"
)


async def docs(request: Request) -> Response:
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY, "X-Content-Type-Options": "nosniff"})


async def docs_file(request: Request) -> Response:
    name = request.path_params["file"]
    if name not in MEDIA_TYPES:
        raise ApiError(404, "route_not_found", "There is nothing at this address")
    return FileResponse(
        packaged_file(name), media_type=MEDIA_TYPES[name], headers={"Cache-Control": "max-age=86400", "X-Content-Type-Options": "nosniff"}
    )


def packaged_file(name: str) -> Path:
    [file] = [file for file in files(PACKAGE) or [] if file.match(f"dist/{name}")]
    return Path(str(file.locate()))
