from __future__ import annotations

import math
import re
from ipaddress import ip_network
from pathlib import Path

import certifi
import pytest

from pyshell import settings
from pyshell.settings import ROOT, Settings, SettingsError
from tests.clerk_fixtures import public_pem


def test_an_empty_environment_suffices() -> None:
    assert Settings.from_environment({}) == Settings()


# For every variable a value, and what it is read as, which differs from the default.
VARIABLES: dict[str, tuple[str, object]] = {
    "DATABASE_URL": ("postgresql://localhost/lookups", "postgresql://localhost/lookups"),
    "DATABASE_REPLICA_URL": ("postgresql://standby/lookups", "postgresql://standby/lookups"),
    "DATABASE_REPLICA_MAX_LAG_SECONDS": ("2.5", 2.5),
    "HOST": ("0.0.0.0", "0.0.0.0"),
    "PORT": ("9000", 9000),
    "API_PROCESSES": ("4", 4),
    "ROOT_PATH": ("/alpha/", "/alpha"),
    "FORWARDED_ALLOW_IPS": ("10.0.0.0/8, 203.0.113.7", "10.0.0.0/8, 203.0.113.7"),
    "STATE_DIR": ("/var/lib/lookups", Path("/var/lib/lookups")),
    "INCENTIVES_API_URL": ("https://incentives.example.com/lookup", "https://incentives.example.com/lookup"),
    "INCENTIVES_API_KEY": ("key", "key"),
    "INCENTIVES_API_CA_FILE": (certifi.where(), Path(certifi.where())),
    "HTTP_PROXY": ("http://proxy.example.com:3128", "http://proxy.example.com:3128"),
    "HTTPS_PROXY": ("proxy.example.com:3128", "http://proxy.example.com:3128"),
    "NO_PROXY": ("localhost, .example.com", "localhost, .example.com"),
    "SERVICE_ROLE_KEY": ("s" * 32, "s" * 32),
    "SERVICE_ROLE_KEY_PREVIOUS": ("secret", "secret"),
    "API_KEY_PEPPER": ("p" * 32, "p" * 32),
    "API_KEY_PEPPER_PREVIOUS": ("none", "none"),
    "CONNECT_URL_BASE": ("https://connect.example.com", "https://connect.example.com"),
    "LOOKUPS_PER_SECOND": ("2.5", 2.5),
    "CLERK_ISSUER": ("https://clerk.example.com/", "https://clerk.example.com"),
    "CLERK_JWT_KEY": (public_pem("settings"), public_pem("settings").strip()),
    "CLERK_AUTHORIZED_PARTIES": ("https://a.example.com, https://b.example.com", ("https://a.example.com", "https://b.example.com")),
    "CORS_ORIGINS": ("https://a.example.com, http://localhost:5173", ("https://a.example.com", "http://localhost:5173")),
    "WEBHOOKS_ALLOW_PRIVATE_NETWORKS": ("true", True),
    "WEBHOOKS_REFUSED_NETWORKS": ("203.0.113.0/24, 2001:db8::/32", (ip_network("203.0.113.0/24"), ip_network("2001:db8::/32"))),
    "METRICS_TOKEN": ("m" * 32, "m" * 32),
    "METRICS_PORT": ("9464", 9464),
    "LOG_LEVEL": ("DEBUG", "debug"),
    "LOG_FORMAT": ("JSON", "json"),
    "LOG_SLOW_SECONDS": ("0.5", 0.5),
}


def test_every_variable_is_read() -> None:
    assert VARIABLES.keys() == {name.upper() for name in Settings.__dataclass_fields__}
    read = Settings.from_environment({name: text for name, (text, _) in VARIABLES.items()})
    assert {name: getattr(read, name.lower()) for name in VARIABLES} == {name: value for name, (_, value) in VARIABLES.items()}
    assert [name for name in VARIABLES if getattr(read, name.lower()) == getattr(Settings(), name.lower())] == []


def test_an_empty_variable_counts_as_unset() -> None:
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


def test_a_rate_limit_of_none_means_no_limit() -> None:
    assert Settings.from_environment({"LOOKUPS_PER_SECOND": "none"}).lookups_per_second == math.inf


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://localhost/lookups"),
        ("DATABASE_REPLICA_URL", "standby.example.com"),
        ("DATABASE_REPLICA_MAX_LAG_SECONDS", "-1"),
        ("CORS_ORIGINS", "https://portal.example.com/"),
        ("CORS_ORIGINS", "portal.example.com"),
        ("DATABASE_URL", "postgresql://[::1/lookups"),
        ("DATABASE_URL", "postgresql:owner:password@localhost/lookups"),
        ("DATABASE_REPLICA_URL", "postgresql:/localhost/lookups"),
        ("INCENTIVES_API_URL", "https:incentives.example.com"),
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
        ("LOG_FORMAT", "xml"),
        ("LOG_SLOW_SECONDS", "-1"),
        ("LOG_SLOW_SECONDS", "nan"),
        ("METRICS_PORT", "0"),
        ("SERVICE_ROLE_KEY", "x"),
        ("SERVICE_ROLE_KEY", "x" * 31),
        ("API_KEY_PEPPER", "x" * 31),
        ("CLERK_ISSUER", "http://clerk.example.com"),
        ("CLERK_ISSUER", "http://127.example.com"),
        ("HTTPS_PROXY", "ftp://proxy.example.com"),
        ("WEBHOOKS_REFUSED_NETWORKS", "203.0.113.7/24"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.0/33"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1/8"),
        ("FORWARDED_ALLOW_IPS", "proxy.example.com"),
        ("FORWARDED_ALLOW_IPS", "*, 10.0.0.0/8"),
        ("INCENTIVES_API_URL", "https:///lookup"),
        ("INCENTIVES_API_URL", "https://incentives.example.com:99999/lookup"),
        ("INCENTIVES_API_URL", "https://incentives.example.com:0/lookup"),
        ("INCENTIVES_API_URL", "https://incentives example.com/lookup"),
        ("CONNECT_URL_BASE", "https://"),
        ("CLERK_ISSUER", "https://"),
        ("HTTPS_PROXY", "http://"),
        ("INCENTIVES_API_KEY", "two\nlines"),
        ("INCENTIVES_API_KEY", "schl\u00fcssel"),
        ("SERVICE_ROLE_KEY", "\u00fc" * 32),
        ("SERVICE_ROLE_KEY_PREVIOUS", "of two\nlines"),
        ("METRICS_TOKEN", "\u00e9"),
        ("CLERK_AUTHORIZED_PARTIES", "https://portal.example.com/"),
        ("CLERK_AUTHORIZED_PARTIES", "portal.example.com"),
        ("ROOT_PATH", "/al pha"),
        ("ROOT_PATH", "/alpha?beta"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({name: value})


def test_proxies_may_be_separated_by_spaces() -> None:
    assert Settings.from_environment({"FORWARDED_ALLOW_IPS": "10.0.0.0/8 ::1"}).forwarded_allow_ips == "10.0.0.0/8, ::1"
    assert Settings.from_environment({"FORWARDED_ALLOW_IPS": "*"}).forwarded_allow_ips == "*"


def test_an_app_may_be_an_authorized_party() -> None:
    parties = {"CLERK_AUTHORIZED_PARTIES": "chrome-extension://abcdef, https://portal.example.com:8443"}
    assert Settings.from_environment(parties).clerk_authorized_parties == ("chrome-extension://abcdef", "https://portal.example.com:8443")


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PORT=9001\nAPI_KEY_PEPPER='from the file, and long enough to be one'\n")
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    monkeypatch.setenv("PORT", "9002")
    read = Settings.from_environment()
    assert (read.port, read.api_key_pepper) == (9002, "from the file, and long enough to be one")


def test_the_example_names_every_variable() -> None:
    named = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert named == {name.upper() for name in Settings.__dataclass_fields__}


def test_a_key_is_sent_encrypted_or_not_at_all() -> None:
    url = "http://incentives.example.com/lookup"
    assert Settings.from_environment({"INCENTIVES_API_URL": url}).incentives_api_url == url
    with pytest.raises(SettingsError, match=r"INCENTIVES_API_URL must begin with https:// when INCENTIVES_API_KEY is set"):
        Settings.from_environment({"INCENTIVES_API_URL": url, "INCENTIVES_API_KEY": "secret"})
    for host in ("127.0.0.1:9000", "[::1]:9000", "localhost"):
        environment = {"INCENTIVES_API_URL": f"http://{host}/", "INCENTIVES_API_KEY": "secret", "CLERK_ISSUER": f"http://{host}"}
        assert Settings.from_environment(environment).clerk_issuer == f"http://{host}"
