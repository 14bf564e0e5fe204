"""The page that renders openapi.json."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from pyshell.settings import Settings
from tests.http_fixtures import running_server


def test_the_page_needs_nothing_from_elsewhere(server: str) -> None:
    page = httpx.get(f"{server}/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    addresses = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
    assert len(addresses) == 3
    for address in addresses:
        response = httpx.get(f"{server}/{address}")
        assert response.status_code == 200
        assert len(response.content) > 500
    assert "sha256-" in page.headers["content-security-policy"]


@pytest.mark.parametrize("file", ["index.html", "..%2f__init__.py", "swagger-ui.css.map", "%00"])
def test_no_other_file_is_served(server: str, file: str) -> None:
    assert httpx.get(f"{server}/docs/{file}").status_code == 404


@pytest.mark.parametrize("root_path", ["", "/alpha"])
def test_a_browser_shows_every_route(http_settings: Settings, root_path: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no chromium here")
    settings = Settings(database_url=http_settings.database_url, root_path=root_path)
    with running_server(settings) as url:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000"]
        run = subprocess.run(
            [browser, *options, "--dump-dom", f"{url}{root_path}/docs"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    shown = re.sub(r"<wbr>|\u200b", "", run.stdout)
    assert "OAS 3.1" in shown, run.stderr[-2000:]
    assert [path for path in paths if f'data-path="{path}"' not in shown] == []
