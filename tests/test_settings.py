from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from pyshell import settings
from pyshell.settings import ROOT, Settings, SettingsError


def test_an_empty_environment_will_do() -> None:
    assert Settings.from_environment({}) == Settings()


def test_every_variable_is_read() -> None:
    assert Settings.from_environment(
        {
            "DATABASE_URL": "postgresql://localhost/lookups",
            "HOST": "0.0.0.0",
            "PORT": "9000",
            "ROOT_PATH": "/alpha/",
            "STATE_DIR": "/var/lib/lookups",
            "INCENTIVES_API_URL": "https://incentives.example.com/lookup",
            "INCENTIVES_API_KEY": "key",
            "SERVICE_ROLE_KEY": "secret",
            "API_KEY_PEPPER": "pepper",
            "LOOKUPS_PER_SECOND": "2.5",
            "CLERK_ISSUER": "https://clerk.example.com/",
            "CLERK_AUTHORIZED_PARTIES": "https://portal.example.com, https://other.example.com",
            "CORS_ORIGINS": "https://portal.example.com, http://localhost:5173",
            "LOG_LEVEL": "DEBUG",
        }
    ) == Settings(
        database_url="postgresql://localhost/lookups",
        host="0.0.0.0",
        port=9000,
        root_path="/alpha",
        state_dir=Path("/var/lib/lookups"),
        incentives_api_url="https://incentives.example.com/lookup",
        incentives_api_key="key",
        service_role_key="secret",
        api_key_pepper="pepper",
        lookups_per_second=2.5,
        clerk_issuer="https://clerk.example.com",
        clerk_authorized_parties=("https://portal.example.com", "https://other.example.com"),
        cors_origins=("https://portal.example.com", "http://localhost:5173"),
        log_level="debug",
    )


def test_an_empty_variable_is_as_none() -> None:
    assert Settings.from_environment({"PORT": "", "INCENTIVES_API_URL": " "}) == Settings()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8001"),
        ("::", "http://127.0.0.1:8001"),
        ("127.0.0.2", "http://127.0.0.2:8001"),
        ("::1", "http://[::1]:8001"),
    ],
)
def test_the_worker_reaches_the_api_where_it_listens(host: str, url: str) -> None:
    assert Settings(host=host, port=8001).server_url == url


def test_pages_that_tokens_are_made_for_may_call_the_api_from_a_browser() -> None:
    parties = {"CLERK_AUTHORIZED_PARTIES": "https://portal.example.com"}
    assert Settings.from_environment(parties).cors_origins == ("https://portal.example.com",)
    assert Settings.from_environment(parties | {"CORS_ORIGINS": "*"}).cors_origins == ("*",)


def test_a_pace_of_none_is_no_limit() -> None:
    assert Settings.from_environment({"LOOKUPS_PER_SECOND": "none"}).lookups_per_second == math.inf


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://localhost/lookups"),
        ("CORS_ORIGINS", "https://portal.example.com/"),
        ("CORS_ORIGINS", "portal.example.com"),
        ("DATABASE_URL", "postgresql://[::1/lookups"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("PORT", "-1"),
        ("ROOT_PATH", "alpha"),
        ("INCENTIVES_API_URL", "incentives.example.com"),
        ("LOOKUPS_PER_SECOND", "0"),
        ("LOOKUPS_PER_SECOND", "nan"),
        ("LOOKUPS_PER_SECOND", "inf"),
        ("LOOKUPS_PER_SECOND", "fast"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({name: value})


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PORT=9001\nAPI_KEY_PEPPER='from the file'\n")
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    monkeypatch.setenv("PORT", "9002")
    read = Settings.from_environment()
    assert (read.port, read.api_key_pepper) == (9002, "from the file")


def test_the_example_names_every_variable() -> None:
    named = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert named == {name.upper() for name in Settings.__dataclass_fields__}
