"""The Dockerfile and docker-compose.yml, as far as they can be tried without an engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import sql

from pyshell.local.machine import free_port
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.settings import ROOT, Settings
from tests.conftest import Connection
from tests.http_fixtures import is_ready
from tests.timed import wait_until

DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = ("migrate", "api", "worker")
UNPRIVILEGED = (*OURS, "network")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder with what the image has in /app, and nothing else of the project."""
    for source, target in re.findall(r"^COPY (?!--from)(\S+) (\./\S*)$", DOCKERFILE.split("\nFROM ")[-1], re.MULTILINE):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, tmp_path / target)
    return tmp_path


def test_the_image_has_all_that_it_takes_to_migrate_and_to_serve(image: Path, new_database: Callable[..., str]) -> None:
    port = str(free_port())
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": new_database(empty=True), "PORT": port, "PYTHONDONTWRITEBYTECODE": "1"}
    before = sorted(image.rglob("*"))
    command = [sys.executable, "-m", "pyshell"]
    subprocess.run([*command, "migrate"], cwd=image, env=environment, check=True, capture_output=True)
    with subprocess.Popen([*command, "serve"], cwd=image, env=environment, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: is_ready(f"http://127.0.0.1:{port}") or server.poll() is not None)
            assert server.poll() is None
        finally:
            server.terminate()
    assert sorted(image.rglob("*")) == before, "the root file system is read-only"


def test_the_build_gets_every_file_that_it_copies() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for names in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in names.split():
            assert (ROOT / name).exists()
            assert f"!{name}" in ignored


def test_our_containers_run_with_little_power(services: dict[str, Any]) -> None:
    assert re.search(r"^USER \d{4,}$", DOCKERFILE, re.MULTILINE)
    for name in UNPRIVILEGED:
        assert services[name]["read_only"]
        assert services[name]["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in services[name]["security_opt"]


def test_the_services_start_in_order(services: dict[str, Any]) -> None:
    waits = {name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()} for name, service in services.items()}
    assert waits["migrate"] == {"db": "service_healthy"}
    assert waits["api"] == {"network": "service_started", "migrate": "service_completed_successfully"}
    assert waits["worker"] == {"network": "service_started", "api": "service_healthy"}
    for name, others in waits.items():
        for other, condition in others.items():
            assert condition != "service_healthy" or services[other]["healthcheck"]["test"], f"{name} waits for the health of {other}"


def test_no_container_loses_its_network_when_another_starts_again(services: dict[str, Any]) -> None:
    for name in ("api", "worker"):
        assert services[name]["network_mode"] == "service:network"
        assert "ports" not in services[name]
    holder = services["network"]
    assert (holder["entrypoint"], holder["ports"]) == (["sleep", "infinity"], ["127.0.0.1:${PORT:-8000}:8000"])
    assert not holder["environment"]


def test_images_are_pinned_and_mounted_files_exist(services: dict[str, Any]) -> None:
    for service in services.values():
        assert "build" in service or re.search(r":v?\d+\.\d+", service["image"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).is_file()


def test_what_builds_is_pinned() -> None:
    actions = [line for file in (ROOT / ".github" / "workflows").iterdir() for line in file.read_text().splitlines() if "uses:" in line]
    assert [line for line in actions if not re.search(r"@[0-9a-f]{40} # v\d", line)] == []
    # What `make lock` chooses libraries with; the libraries themselves have hashes.
    installed = re.findall(r"pip install --quiet (\S+)", (ROOT / "Makefile").read_text())
    assert [name for name in installed if "==" not in name] == []


def test_our_containers_get_every_setting(services: dict[str, Any]) -> None:
    """But those that the image and its ports decide; and those that libraries read."""
    settings = {name.upper() for name in Settings.__dataclass_fields__} - {"HOST", "PORT", "STATE_DIR"}
    for name in OURS:
        environment = services[name]["environment"]
        assert environment.keys() == settings | {"PGPASSWORD", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"}
        assert [variable for variable in settings - {"DATABASE_URL"} if f"${{{variable}:-" not in environment[variable]] == []


@pytest.mark.parametrize("password", ["postgres", "p@ss/w:rd?#%41&=é 'x\\\""])
def test_any_password_opens_the_database(
    services: dict[str, Any], password: str, cluster: PrivatePostgres, administrator: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {
        name: value.replace("${POSTGRES_PASSWORD:-postgres}", password) for name, value in services["migrate"]["environment"].items()
    }
    monkeypatch.setenv("PGPASSWORD", environment["PGPASSWORD"])
    administrator.execute(sql.SQL("create role container login password {}").format(sql.Literal(password)))
    try:
        psycopg.connect(environment["DATABASE_URL"].replace("postgres@db:5432", f"container@127.0.0.1:{cluster.port}")).close()
    finally:
        administrator.execute("drop role container")


def test_every_port_is_on_this_machine_alone(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize(
    ("jwt_secret", "key_base", "status"), [("", "", 1), ("x" * 31, "x" * 64, 1), ("x" * 32, "x" * 63, 1), ("x" * 32, "x" * 64, 0)]
)
def test_realtime_starts_with_secrets_of_the_deployment_only(services: dict[str, Any], jwt_secret: str, key_base: str, status: int) -> None:
    check = services["realtime-secrets"]
    assert services["realtime"]["depends_on"]["realtime-secrets"] == {"condition": "service_completed_successfully"}
    # No secret is in the file: compose takes them from its environment, or leaves them empty.
    assert set(re.findall(r"\$\{(?:JWT_SECRET|SECRET_KEY_BASE)[^}]*\}", (ROOT / "docker-compose.yml").read_text())) == {
        "${JWT_SECRET:-}",
        "${SECRET_KEY_BASE:-}",
    }
    [script] = check["command"]
    ended = subprocess.run(
        [*check["entrypoint"], script.replace("$$", "$")],
        env={"PATH": os.environ["PATH"], "JWT_SECRET": jwt_secret, "SECRET_KEY_BASE": key_base},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == status


def test_only_the_deploy_is_given_the_owners_password(services: dict[str, Any]) -> None:
    for name in ("api", "worker"):
        assert "postgresql://batch_lookups_app@" in services[name]["environment"]["DATABASE_URL"]
        assert not any("${POSTGRES_PASSWORD" in value for value in services[name]["environment"].values())
