"""The API's documentation as a page, with Swagger UI from a Python package: nothing is loaded from other servers."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

OURS = Path(__file__).parents[1] / "docs"
FILES = {
    "start.js": (OURS / "start.js", "text/javascript"),
    "swagger-ui-bundle.js": (swagger_ui_path / "swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": (swagger_ui_path / "swagger-ui.css", "text/css"),
    "favicon-32x32.png": (swagger_ui_path / "favicon-32x32.png", "image/png"),
}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def docs(request: Request) -> Response:
    if request.scope.get("raw_path", b"").endswith(b"/"):
        # Links in the page are relative to the path without the slash.
        return RedirectResponse("../docs")
    return _file(OURS / "index.html", "text/html", {"Content-Security-Policy": CONTENT_SECURITY_POLICY})


async def docs_file(request: Request) -> Response:
    name = request.path_params["file"]
    if name not in FILES:
        raise HTTPException(404)
    return _file(*FILES[name], {"Cache-Control": "max-age=86400"})


def _file(path: Path, media_type: str, headers: dict[str, str]) -> Response:
    return FileResponse(path, media_type=media_type, headers={"X-Content-Type-Options": "nosniff"} | headers)
