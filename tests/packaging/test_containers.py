"""Image and Compose file as far as they can be checked without a Docker engine."""

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from seqlens.settings import ServerSettings

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCKERFILE = (ROOT / "service" / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)


def test_compose_accepts_the_file() -> None:
    check = run(BIN / "docker-compose", "-f", "docker-compose.yml", "config", "-q")
    assert (check.returncode, check.stderr) == (0, "")


def test_hadolint_finds_nothing_to_say() -> None:
    check = run(BIN / "hadolint", "service/Dockerfile")
    assert (check.returncode, check.stdout) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_may_do_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert service["healthcheck"]["test"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_images_of_others_are_pinned(name: str) -> None:
    assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_the_image_is_pinned_and_does_not_run_as_root() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["1000:1000"] == [SERVICES["seqlens"]["user"]]


def test_image_and_compose_ask_for_health_in_the_same_way() -> None:
    (command,) = re.findall(r"^HEALTHCHECK .*\\\n\s+CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert yaml.safe_load(command) == SERVICES["seqlens"]["healthcheck"]["test"][1:]


def test_the_environment_of_the_image_is_made_of_settings() -> None:
    known = {f"SEQLENS_{field.name.upper()}" for field in fields(ServerSettings)}
    given = re.findall(r"\b(SEQLENS_\w+)=", DOCKERFILE)
    assert given
    assert set(given) <= known


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    lines = re.findall(r"^COPY (?!--)(.*)$", DOCKERFILE, re.MULTILINE)
    sources = [source for line in lines for source in line.split()[:-1]]
    assert len(sources) > len(lines)
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


@contextmanager
def health_server() -> Iterator[tuple[str, health.HealthServicer]]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        server.stop(None).wait()


def check_health(address: str) -> int:
    return run(sys.executable, "service/healthcheck.py", address).returncode


def test_health_follows_the_server() -> None:
    with health_server() as (address, servicer):
        servicer.set("", SERVING)
        assert check_health(address) == 0
        servicer.set("", NOT_SERVING)
        assert check_health(address) == 1
    assert check_health(address) == 1
