"""The Dockerfile and docker-compose.yml, as far as they can be tested without Docker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import yaml
from psycopg import sql

from pyshell.local.machine import free_port
from pyshell.local.private_postgres import PrivatePostgres
from pyshell.local.throw_away import throw_away_postgres
from pyshell.settings import ROOT, Settings
from tests.conftest import Connection
from tests.http_fixtures import is_ready
from tests.timed import wait_until
from tests.worker_fixtures import Batches

DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = ("migrate", "api", "worker", "citus-migrate", "citus-api", "citus-worker")
UNPRIVILEGED = (*OURS, "network", "citus-network")
NODES = ("citus-coordinator", "citus-node-1", "citus-node-2")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder with the files that the image has in /app, and nothing else of the project."""
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


def test_our_containers_run_with_few_privileges(services: dict[str, Any]) -> None:
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
    assert waits["citus-nodes"] == dict.fromkeys(NODES, "service_healthy")
    assert waits["citus-migrate"] == {"citus-nodes": "service_completed_successfully"}
    assert waits["citus-api"] == {"citus-network": "service_started", "citus-migrate": "service_completed_successfully"}
    assert waits["citus-worker"] == {"citus-network": "service_started", "citus-api": "service_healthy"}
    for name, others in waits.items():
        for other, condition in others.items():
            assert condition != "service_healthy" or services[other]["healthcheck"]["test"], f"{name} waits for the health of {other}"


def test_no_container_loses_its_network_when_another_starts_again(services: dict[str, Any]) -> None:
    for prefix, port in ("", "${PORT:-8000}"), ("citus-", "${CITUS_PORT:-8002}"):
        for name in ("api", "worker"):
            assert services[prefix + name]["network_mode"] == f"service:{prefix}network"
            assert "ports" not in services[prefix + name]
        holder = services[f"{prefix}network"]
        assert (holder["entrypoint"], holder["ports"]) == (["sleep", "infinity"], [f"127.0.0.1:{port}:8000"])
        assert not holder["environment"]


def test_images_are_pinned_and_mounted_files_exist(services: dict[str, Any]) -> None:
    for service in services.values():
        assert "build" in service or re.search(r":v?\d+\.\d+", service["image"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).is_file()


def test_the_tools_of_the_build_are_pinned() -> None:
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
    assert len(ports) == 4
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
    for name in ("api", "worker", "citus-api", "citus-worker"):
        assert "postgresql://batch_lookups_app@" in services[name]["environment"]["DATABASE_URL"]
        assert not any("${POSTGRES_PASSWORD" in value for value in services[name]["environment"].values())


# A quote, a backslash and a space mean something in a connection string.
NODE_ENVIRONMENT = {"POSTGRES_PASSWORD": "p'o\\w ner", "APP_PASSWORD": "a'p\\p"}


@pytest.fixture
def nodes(services: dict[str, Any], cluster: PrivatePostgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Servers with the settings of the nodes and what their scripts have made: the port of each."""
    if not cluster.installation.has_extensions(["citus"]):
        pytest.skip("Citus is not installed, which no registry has")
    # A node looks there for a certificate of its own, and may not enter root's.
    monkeypatch.setenv("HOME", "/nonexistent")
    with ExitStack() as stack:
        ports = {}
        for name in NODES:
            postgres = stack.enter_context(throw_away_postgres(["citus"]))
            settings = dict(word.split("=") for word in services[name]["command"] if "=" in word)
            set_up_node(postgres, settings, [volume for volume in services[name]["volumes"] if volume.startswith(".")])
            ports[name] = postgres.port
        yield ports


def set_up_node(postgres: PrivatePostgres, settings: dict[str, str], scripts: list[str]) -> None:
    of_citus = {name: value for name, value in settings.items() if name.startswith("citus.")}
    configure(postgres, {name: value for name, value in settings.items() if name not in of_citus})
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as owner:
        owner.execute(sql.SQL("alter role postgres password {}").format(NODE_ENVIRONMENT["POSTGRES_PASSWORD"]))
    postgres.stop()
    (postgres.folder / "password").write_text(quote(NODE_ENVIRONMENT["POSTGRES_PASSWORD"]))
    postgres.start()
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as owner:
        # As the image's own script does, 001.
        owner.execute("create extension citus")
    configure(postgres, of_citus)
    psql = [str(postgres.installation.bin / "psql"), "-Xqv", "ON_ERROR_STOP=1", postgres.url("postgres")]
    names = [script.split(":")[1] for script in scripts]
    assert names == ["/docker-entrypoint-initdb.d/002-app-role.sql", "/docker-entrypoint-initdb.d/003-node.sql"]
    for script in scripts:
        subprocess.run([*psql, "-f", str(ROOT / script.split(":")[0])], env=os.environ | NODE_ENVIRONMENT, check=True)


def configure(postgres: PrivatePostgres, settings: dict[str, str]) -> None:
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as owner:
        for name, value in settings.items():
            owner.execute(sql.SQL("alter system set {} = {}").format(sql.Identifier(name), value))


def test_the_cluster_of_the_containers_looks_sites_up(services: dict[str, Any], nodes: dict[str, int]) -> None:
    def here(text: str) -> str:
        """With the addresses of the servers here."""
        text = re.sub("'(citus-[^']+)', 5432", lambda match: f"'127.0.0.1', {nodes[match[1]]}", text)
        return re.sub("(citus-[^:]+):5432", lambda match: f"127.0.0.1:{nodes[match[1]]}", text)

    owner = os.environ | {"PGPASSWORD": NODE_ENVIRONMENT["POSTGRES_PASSWORD"]}
    add = services["citus-nodes"]
    subprocess.run([here(word) for word in (*add["entrypoint"], *add["command"])], env=owner, check=True, stdout=subprocess.DEVNULL)
    pyshell = [sys.executable, "-m", "pyshell"]
    database_url = {name: here(services[name]["environment"]["DATABASE_URL"]) for name in ("citus-migrate", "citus-api", "citus-worker")}
    distribute = services["citus-migrate"]["command"]
    subprocess.run(
        [*pyshell, *distribute], cwd=ROOT, env=owner | {"DATABASE_URL": database_url["citus-migrate"]}, check=True, capture_output=True
    )
    app = os.environ | {"PGPASSWORD": NODE_ENVIRONMENT["APP_PASSWORD"], "PORT": str(free_port())}
    url = f"http://127.0.0.1:{app['PORT']}"
    with ExitStack() as running:
        for name in ("citus-api", "citus-worker"):
            process = subprocess.Popen(
                [*pyshell, *services[name]["command"]], cwd=ROOT, env=app | {"DATABASE_URL": database_url[name]}, stderr=subprocess.DEVNULL
            )
            running.enter_context(process)
            running.callback(process.terminate)
            wait_until(lambda: is_ready(url))
        with psycopg.connect(database_url["citus-migrate"], password=owner["PGPASSWORD"], autocommit=True) as connection:
            organizations = [Batches(connection) for _ in range(4)]
            jobs = [batches.create(1) for batches in organizations]
            for batches, job in zip(organizations, jobs, strict=True):
                assert batches.wait(job) == "completed"
                assert batches.counts() == {"completed": 1}
            places = connection.execute(
                "select count(distinct nodeport) from citus_shards where table_name = 'public.batch_lookup_jobs'::regclass"
            )
            assert places.fetchone() == (2,)
            assert connection.execute("select * from api.check_distribution()").fetchall() == []
