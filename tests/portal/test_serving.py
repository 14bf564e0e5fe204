"""How the portal's files are served."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import httpx
import pytest

from pyshell.api.routes import portal

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
MOST_KILOBYTES = 90


def test_a_first_visit_loads_little_and_may_keep_it(server: str) -> None:
    page = httpx.get(f"{server}/portal")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "private, no-cache"
    assert page.headers["content-security-policy"] == POLICY
    files = re.findall(r"(?:src|href)=\"(portal/[^\"]+)\"", page.text)
    assert len(files) == 2
    loaded = len(gzip.compress(page.content))
    for name in files:
        response = httpx.get(f"{server}/{name}", headers={"accept-encoding": "gzip"})
        assert response.headers["content-encoding"] == "gzip"
        assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert response.headers["vary"] == "Accept-Encoding"
        loaded += int(response.headers["content-length"])
        assert httpx.get(f"{server}/{name}", headers={"accept-encoding": "identity"}).text == response.text
    assert loaded <= MOST_KILOBYTES * 1024


@pytest.mark.parametrize("file", ["index.html", ".built", "main.js", "..%2findex.html", "%00", "x.js.gz", "a" * 300 + ".js"])
def test_no_other_file_is_served(server: str, file: str) -> None:
    assert httpx.get(f"{server}/portal/{file}").status_code == 404


def test_where_it_is_not_built_it_says_why(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal, "DIST", tmp_path)
    response = httpx.get(f"{server}/portal")
    assert response.status_code == 503
    assert "<code>make portal</code>" in response.text
    assert httpx.get(f"{server}/healthz").status_code == 200


def test_a_slash_at_the_end_leads_to_the_page(server: str) -> None:
    assert httpx.get(f"{server}/portal/", follow_redirects=True).url == f"{server}/portal"
