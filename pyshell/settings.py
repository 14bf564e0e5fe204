"""Settings that differ between deployments, read once from the environment. Those that operators change at run time are in the database."""

from __future__ import annotations

import math
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

ROOT = Path(__file__).resolve().parent.parent
OPENAPI_FILE = ROOT / "openapi.json"
MIN_KEY_BITS = 2048
MIN_SECRET_LENGTH = 32
MAX_PROCESSES = 32
MAX_PORT = 65_535
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


class SettingsError(ValueError):
    """An environment variable has an invalid value; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Each field is the environment variable of the same name in capitals.

    `database_url` is empty if none is set: then commands that can start a private PostgreSQL. `database_replica_url` leads to standbys of
    it, which answer reads that allow for their lag, as long as that is at most `database_replica_max_lag_seconds`.
    `api_processes` serve the API together, behind its one port.
    `lookups_per_second` is the rate limit of a new database: None leaves its default, infinity is no limit.
    The `..._previous` of the two secrets are accepted beside them while they are rotated; a pepper `none` stands for keys made without any.
    Clerk tokens are accepted if `clerk_issuer` is set. Its keys are fetched from there, unless `clerk_jwt_key` holds the key (PEM);
    `clerk_authorized_parties` (separated by commas) are the origins that a token may have been issued for, empty: any.
    `cors_origins` (separated by commas) are the origins whose pages may call the API from a browser, `*`: all; default: those of Clerk.
    `http_proxy` and `https_proxy` (also in lower case) lead to an `incentives_api_url` or the keys of a `clerk_issuer` of that scheme
    unless `no_proxy` (separated by commas) has its host; `incentives_api_ca_file` (PEM) is trusted for the former
    as well as the system's certificates. Nothing else uses them.
    `forwarded_allow_ips` (addresses or networks, separated by commas, `*`: all) are the proxies whose X-Forwarded-For and
    X-Forwarded-Proto are trusted; empty: none.
    `metrics_token` is the bearer token that a scrape of /metrics needs. A worker serves its own metrics at `metrics_port`, if set.
    `log_format` is text or json; calls of the database that take longer than `log_slow_seconds` are logged.
    `webhooks_allow_private_networks` is for development: webhooks may go anywhere, also over http, except to
    `webhooks_refused_networks` (separated by commas).
    """

    database_url: str = ""
    database_replica_url: str | None = None
    database_replica_max_lag_seconds: float = 30.0
    host: str = "127.0.0.1"
    port: int = 8000
    api_processes: int = 1
    root_path: str = ""
    forwarded_allow_ips: str = ""
    state_dir: Path | None = None
    incentives_api_url: str | None = None
    incentives_api_key: str | None = None
    incentives_api_ca_file: Path | None = None
    http_proxy: str | None = None
    https_proxy: str | None = None
    no_proxy: str | None = None
    service_role_key: str | None = None
    service_role_key_previous: str | None = None
    api_key_pepper: str | None = None
    api_key_pepper_previous: str | None = None
    connect_url_base: str | None = None
    lookups_per_second: float | None = None
    clerk_issuer: str | None = None
    clerk_jwt_key: str | None = None
    clerk_authorized_parties: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    webhooks_allow_private_networks: bool = False
    webhooks_refused_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    metrics_token: str | None = None
    metrics_port: int | None = None
    log_level: str = "info"
    log_format: str = "text"
    log_slow_seconds: float = 1.0

    @property
    def server_url(self) -> str:
        """The URL of the API on this machine, without `root_path`."""
        host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def proxy_for(self, url: str) -> str | None:
        """The proxy for a URL by its scheme; None if there is none, or `no_proxy` is `*`."""
        if self.no_proxy and "*" in _list(self.no_proxy):
            return None
        return self.https_proxy if urlsplit(url).scheme == "https" else self.http_proxy

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Settings from the given variables; default: the environment, then the file `.env`. Raises SettingsError."""
        values = read_environment() if environment is None else environment
        given = {name: value.strip() for name, value in values.items() if value.strip()}
        state_dir = given.get("STATE_DIR")
        return cls(
            database_url=_with_scheme(given, "DATABASE_URL", "postgresql", "postgres") or "",
            database_replica_url=_with_scheme(given, "DATABASE_REPLICA_URL", "postgresql", "postgres"),
            database_replica_max_lag_seconds=_seconds(given, "DATABASE_REPLICA_MAX_LAG_SECONDS", 30.0),
            host=given.get("HOST", "127.0.0.1"),
            port=_whole_number(given, "PORT", MAX_PORT) or 8000,
            api_processes=_whole_number(given, "API_PROCESSES", MAX_PROCESSES) or 1,
            root_path=_root_path(given.get("ROOT_PATH", "")),
            forwarded_allow_ips=_proxies(given, "FORWARDED_ALLOW_IPS"),
            state_dir=Path(state_dir).expanduser().absolute() if state_dir else None,
            incentives_api_url=_encrypted_url(given, "INCENTIVES_API_URL", secret="INCENTIVES_API_KEY"),
            incentives_api_key=_in_a_header(given, "INCENTIVES_API_KEY"),
            incentives_api_ca_file=_ca_file(given, "INCENTIVES_API_CA_FILE"),
            http_proxy=_proxy(given, "HTTP_PROXY"),
            https_proxy=_proxy(given, "HTTPS_PROXY"),
            no_proxy=given.get("NO_PROXY", given.get("no_proxy")),
            service_role_key=_in_a_header(given, "SERVICE_ROLE_KEY") and _secret(given, "SERVICE_ROLE_KEY"),
            service_role_key_previous=_in_a_header(given, "SERVICE_ROLE_KEY_PREVIOUS"),
            api_key_pepper=_secret(given, "API_KEY_PEPPER"),
            api_key_pepper_previous=given.get("API_KEY_PEPPER_PREVIOUS"),
            connect_url_base=_url(given, "CONNECT_URL_BASE", "https", "http"),
            lookups_per_second=_pace(given.get("LOOKUPS_PER_SECOND")),
            clerk_issuer=(_encrypted_url(given, "CLERK_ISSUER") or "").rstrip("/") or None,
            clerk_jwt_key=_clerk_jwt_key(given),
            clerk_authorized_parties=_parties(given, "CLERK_AUTHORIZED_PARTIES"),
            cors_origins=_cors_origins(given),
            webhooks_allow_private_networks=_flag(given, "WEBHOOKS_ALLOW_PRIVATE_NETWORKS"),
            webhooks_refused_networks=_networks(given, "WEBHOOKS_REFUSED_NETWORKS"),
            metrics_token=_in_a_header(given, "METRICS_TOKEN"),
            metrics_port=_whole_number(given, "METRICS_PORT", MAX_PORT),
            log_level=_choice(given, "LOG_LEVEL", *LOG_LEVELS) or "info",
            log_format=_choice(given, "LOG_FORMAT", "text", "json") or "text",
            log_slow_seconds=_seconds(given, "LOG_SLOW_SECONDS", 1.0),
        )


def read_environment() -> dict[str, str]:
    """The environment variables, and those of the project's `.env` that the environment does not set."""
    from_file = {name: value for name, value in dotenv_values(ROOT / ".env").items() if value is not None}
    return from_file | dict(os.environ)


def _with_scheme(given: Mapping[str, str], name: str, *schemes: str) -> str | None:
    value = given.get(name)
    if value is None:
        return None
    try:
        scheme = urlsplit(value).scheme
    except ValueError:
        scheme = ""
    # Without the slashes, libraries misread it, and show it in their errors, password included.
    valid = scheme in schemes and value[len(scheme) :].startswith("://")
    if not valid:
        raise SettingsError(f"{name} must be a URL that begins with {schemes[0]}://")
    return value


def _url(given: Mapping[str, str], name: str, *schemes: str) -> str | None:
    value = _with_scheme(given, name, *schemes)
    if value is None:
        return None
    parts = urlsplit(value)
    try:
        valid = bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", value)
    except ValueError:
        valid = False
    if not valid:
        raise SettingsError(f"{name} must be a URL with a host, such as {schemes[0]}://host.example.com, and a port from 1 to 65535 if any")
    return value


def _encrypted_url(given: Mapping[str, str], name: str, *, secret: str | None = None) -> str | None:
    """An https URL; http is allowed for this machine, and anywhere if `secret` is named but not given."""
    value = _url(given, name, "https", "http")
    if (
        value
        and urlsplit(value).scheme == "http"
        and (secret is None or secret in given)
        and not _is_loopback(urlsplit(value).hostname or "")
    ):
        raise SettingsError(f"{name} must begin with https://{f' when {secret} is set' if secret else ''}, but to this machine itself")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_a_header(given: Mapping[str, str], name: str) -> str | None:
    """A header value: no characters that would be altered on the way."""
    value = given.get(name)
    if value is not None and not re.fullmatch(r"[ -~]+", value):
        raise SettingsError(f"{name} must consist of ASCII characters, without line breaks")
    return value


def _secret(given: Mapping[str, str], name: str) -> str | None:
    value = given.get(name)
    if value is not None and len(value) < MIN_SECRET_LENGTH:
        raise SettingsError(f"{name} must have {MIN_SECRET_LENGTH} characters or more, such as: openssl rand -hex 32")
    return value


def _proxy(given: Mapping[str, str], name: str) -> str | None:
    value = given.get(name, given.get(name.lower()))
    if value is None:
        return None
    url = value if "://" in value else f"http://{value}"
    return _url({name: url}, name, "http", "https", "socks5", "socks5h")


def _ca_file(given: Mapping[str, str], name: str) -> Path | None:
    if name not in given:
        return None
    path = Path(given[name]).expanduser().absolute()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:
        raise SettingsError(f"{name} must name a file of certificates in PEM form: {error}") from None
    return path


def _networks(given: Mapping[str, str], name: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(network) for network in _list(given.get(name, "")))
    except ValueError as error:
        raise SettingsError(f"{name} must be networks such as 203.0.113.0/24, separated by commas: {error}") from None


def _proxies(given: Mapping[str, str], name: str) -> str:
    proxies = _list(given.get(name, ""))
    if proxies == ("*",):
        return "*"
    try:
        # The server would take anything else for the name of a socket, and trust nobody.
        return ", ".join(str(ip_network(proxy)) if "/" in proxy else str(ip_address(proxy)) for proxy in proxies)
    except ValueError as error:
        raise SettingsError(f"{name} must be addresses or networks such as 10.0.0.0/8, separated by commas, or *: {error}") from None


def _flag(given: Mapping[str, str], name: str) -> bool:
    value = given.get(name, "false").lower()
    if value not in ("true", "1", "false", "0"):
        raise SettingsError(f"{name} must be true or false, not {value!r}")
    return value in ("true", "1")


def _whole_number(given: Mapping[str, str], name: str, most: int) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if not value.isdecimal() or not 1 <= int(value) <= most:
        raise SettingsError(f"{name} must be a number from 1 to {most}, not {value!r}")
    return int(value)


def _root_path(value: str) -> str:
    path = value.rstrip("/")
    if path and not re.fullmatch(r"(/[\w.~-]+)+", path, re.ASCII):
        raise SettingsError(f"ROOT_PATH must begin with a slash and be a plain path, such as /alpha, not {value!r}")
    return path


def _pace(value: str | None) -> float | None:
    if value is None:
        return None
    if value.lower() == "none":
        return math.inf
    pace = _number(value)
    if not 0 < pace <= 100_000:
        raise SettingsError(f"LOOKUPS_PER_SECOND must be a number above 0 and up to 100000, or none, not {value!r}")
    return pace


def _number(value: str) -> float:
    """NaN if it is not a number."""
    try:
        return float(value)
    except ValueError:
        return math.nan


def _list(value: str) -> tuple[str, ...]:
    return tuple(value.replace(",", " ").split())


def _parties(given: Mapping[str, str], name: str) -> tuple[str, ...]:
    parties = _list(given.get(name, ""))
    for party in parties:
        # The form that tokens contain. Apps and browser extensions have schemes of their own.
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/A-Z]+", party):
            raise SettingsError(f"{name} must be origins such as https://portal.example.com, not {party!r}")
    return parties


def _cors_origins(given: Mapping[str, str]) -> tuple[str, ...]:
    origins = _list(given.get("CORS_ORIGINS", given.get("CLERK_AUTHORIZED_PARTIES", "")))
    for origin in _list(given.get("CORS_ORIGINS", "")):
        # In the form that browsers send, or it would never match.
        if origin != "*" and not re.fullmatch(r"https?://[a-z0-9.-]+(:[0-9]+)?|https?://\[[0-9a-f:]+\](:[0-9]+)?", origin):
            raise SettingsError(f"CORS_ORIGINS must be origins such as https://portal.example.com, or *, not {origin!r}")
    return origins


def _clerk_jwt_key(given: Mapping[str, str]) -> str | None:
    pem = given.get("CLERK_JWT_KEY")
    if pem is None:
        return None
    if "CLERK_ISSUER" not in given:
        raise SettingsError("CLERK_JWT_KEY needs CLERK_ISSUER beside it, the issuer of the tokens that the key signs")
    try:
        read_pem(pem)
    except ValueError as error:
        raise SettingsError("CLERK_JWT_KEY must be an RSA public key in PEM form, from -----BEGIN to the end") from error
    return pem


def read_pem(pem: str) -> RSAPublicKey:
    """A public key in PEM form; line ends may be written as \\n. Raises ValueError."""
    # Only those who configure a key have to import the library.
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key(pem.replace("\\n", "\n").encode())
    if not isinstance(key, RSAPublicKey) or key.key_size < MIN_KEY_BITS:
        raise ValueError(f"the key must be an RSA key of {MIN_KEY_BITS} bits or more")
    return key


def _choice(given: Mapping[str, str], name: str, *choices: str) -> str | None:
    value = given.get(name)
    if value is not None and value.lower() not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value.lower() if value else None


def _seconds(given: Mapping[str, str], name: str, default: float) -> float:
    value = given.get(name)
    if value is None:
        return default
    seconds = _number(value)
    if not 0 <= seconds < math.inf:
        raise SettingsError(f"{name} must be a number of seconds, not {value!r}")
    return seconds
