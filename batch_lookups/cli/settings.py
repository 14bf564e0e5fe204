"""Where the service is, and the key for it: from the environment, else from the file that `login` writes."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from batch_lookups.cli.exits import AUTHENTICATION, ERROR, Ended

URL, API_KEY, RETRY_SECONDS = "BATCH_LOOKUPS_URL", "BATCH_LOOKUPS_API_KEY", "BATCH_LOOKUPS_RETRY_SECONDS"
DEFAULT_URL = "http://127.0.0.1:8000"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ON_WINDOWS = os.name == "nt"


class Credentials(NamedTuple):
    """`source`: where the key comes from, for people."""

    url: str
    api_key: str
    source: str

    @property
    def masked_key(self) -> str:
        """The key as the service lists it: its beginning and its end."""
        return f"{self.api_key[:10]}…{self.api_key[-4:]}" if len(self.api_key) > 20 else "…"


def file() -> Path:
    """batch-lookups/credentials.json in $XDG_CONFIG_HOME; if that is not set, in %APPDATA% on Windows and in ~/.config elsewhere."""
    configured = os.environ.get("XDG_CONFIG_HOME") or (os.environ.get("APPDATA") if ON_WINDOWS else None)
    try:
        folder = Path(configured) if configured else Path.home() / ".config"
    except RuntimeError as error:
        # As in a container with an arbitrary user id.
        raise Ended(ERROR, "This user has no home directory", f"Set HOME, or {URL} and {API_KEY}.") from error
    return folder / "batch-lookups" / "credentials.json"


def stored() -> dict[str, str]:
    """What `login` stored, if anything. A file that others may read is refused, as its key is no longer secret."""
    try:
        mode = file().stat().st_mode
        text = file().read_bytes()
    except FileNotFoundError:
        return {}
    # On Windows the mode says nothing about others: the access list of the user's folder keeps them out.
    if stat.S_IMODE(mode) & 0o077 and not ON_WINDOWS:
        raise Ended(
            AUTHENTICATION,
            f"{file()} can be read by others",
            f"If nobody did: chmod 600 {file()}. Otherwise rotate the key, and store the new one: batch-lookups login URL",
        )
    try:
        content = json.loads(text)
        return {"url": str(content["url"]), "api_key": str(content["api_key"])}
    except (ValueError, TypeError, KeyError) as error:
        raise Ended(AUTHENTICATION, f"{file()} is damaged", "Create it again: batch-lookups login URL") from error


def store(url: str, api_key: str) -> None:
    """Writes the file, readable only by its owner from the first byte on. A link stays one."""
    target = file().resolve()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Unique to this process: two may log in at the same moment.
    new = target.with_name(f"{target.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
            json.dump({"url": url, "api_key": api_key}, handle)
        new.replace(target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def configured_url() -> str:
    """The address from the environment, else the stored one, else that of a service on this machine."""
    return read_url(os.environ.get(URL) or stored().get("url") or DEFAULT_URL)


def read_url(text: str) -> str:
    """The address without a trailing slash. Ends if it is invalid."""
    url = text.strip().rstrip("/")
    if not is_url(url):
        raise Ended(
            1,
            f"{without_password(text)!r} is not the address of a service",
            f"An address looks like https://lookups.example.com; {URL} or `batch-lookups login URL` sets it.",
        )
    return url


def is_url(text: str) -> bool:
    """Whether it is an http:// or https:// address."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and is_host(parts.hostname or "") and parts.port != 0
    except ValueError:
        return False


def without_password(url: str) -> str:
    """The address for display: without user name and password, which are for a proxy in front of the service."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def is_host(text: str) -> bool:
    # Names with longer or empty parts, as with two dots, are not even looked up.
    return re.fullmatch(r"[\w.:-]+", text) is not None and all(0 < len(part) < 64 for part in text.removesuffix(".").split("."))


def read_key(text: str) -> str:
    """The key without white space around it. Ends if it cannot be a key, such as a part of one pasted with an ellipsis."""
    key = text.strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise Ended(AUTHENTICATION, "This is not an API key: it has characters that keys don't have", "Copy the whole key as it was shown.")
    return key


def sends_in_clear(url: str) -> bool:
    """Whether a key would cross a network unencrypted."""
    from urllib.parse import urlsplit

    return urlsplit(url).scheme == "http" and urlsplit(url).hostname not in LOOPBACK


def credentials() -> Credentials:
    """The address and the key. A stored key is only sent to the address that it was stored with."""
    url, api_key = configured_url(), read_key(os.environ.get(API_KEY, ""))
    if api_key:
        return Credentials(url, api_key, API_KEY)
    known = stored()
    if not known:
        raise Ended(AUTHENTICATION, "There is no API key", f"Store one with `batch-lookups login`, or set {API_KEY}.")
    if read_url(known["url"]) != url:
        raise Ended(
            AUTHENTICATION,
            f"The stored key belongs to {without_password(known['url'])}, not to {without_password(url)}",
            f"Set {API_KEY} beside {URL}, or log in there: batch-lookups login {without_password(url)}",
        )
    return Credentials(url, read_key(known["api_key"]), str(file()))


def retry_seconds(usual: float) -> float:
    """How long requests are retried: as the environment says, else the default."""
    try:
        return float(os.environ.get(RETRY_SECONDS) or usual)
    except ValueError as error:
        raise Ended(2, f"{RETRY_SECONDS} must be a number of seconds") from error
