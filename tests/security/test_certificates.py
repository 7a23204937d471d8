"""Who is trusted, and what ends the start."""

import asyncio
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from tests.conftest import RunningServer
from tests.support.authority import KEY, MODEL, Authority, Files, get

import seqlens_client as sdk
from seqlens_client import tls

ROOT = Path(__file__).parents[2]


def code_of(call: Callable[[], Any]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    code: grpc.StatusCode = caught.value.code()
    return code


def test_a_server_of_another_authority_is_not_trusted(
    secured: RunningServer, ours: Authority, other: Authority
) -> None:
    credentials = tls(other.ca, *ours.client)
    with (
        sdk.Client(secured.grpc, credentials=credentials, token=KEY, retries=0) as client,
        pytest.raises(sdk.Unavailable),
    ):
        client.infer(MODEL, [1])
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"https://{secured.rest}/v2", verify=str(other.ca), timeout=10)


@pytest.mark.parametrize("shown", ["nothing", "of another authority"])
def test_a_client_without_a_certificate_of_ours_is_refused(
    secured: RunningServer, ours: Authority, other: Authority, shown: str
) -> None:
    pair = None if shown == "nothing" else other.client
    credentials = tls(ours.ca, *(pair or ()))
    with (
        sdk.Client(secured.grpc, credentials=credentials, token=KEY, retries=0) as client,
        pytest.raises(sdk.Unavailable),
    ):
        client.infer(MODEL, [1])
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(
            f"https://{secured.rest}/v2/health/live",
            verify=str(ours.ca),
            cert=pair and tuple(map(str, pair)),
            timeout=10,
        )


def test_nothing_is_served_in_plain_text(secured: RunningServer) -> None:
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"http://{secured.rest}/v2/health/live", timeout=10)
    with grpc.insecure_channel(secured.grpc) as channel:
        check = HealthStub(channel).Check
        assert code_of(lambda: check(HealthCheckRequest())) is grpc.StatusCode.UNAVAILABLE


def test_the_health_check_of_the_container_speaks_tls(
    secured: RunningServer, files: Files, other: Authority
) -> None:
    def check(certificate: Path, key: Path) -> int:
        environment = {
            "SEQLENS_SECURITY_CERTIFICATE": str(certificate),
            "SEQLENS_SECURITY_PRIVATE_KEY": str(key),
            "SEQLENS_SECURITY_CLIENT_CA": str(files.client_ca),
        }
        command = [sys.executable, str(ROOT / "service" / "healthcheck.py"), secured.grpc]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    assert check(files.certificate, files.private_key) == 0
    assert check(*other.server) == 1


async def test_no_key_is_ever_logged(secured: RunningServer, ours: Authority) -> None:
    for key in (KEY, "nonsense-that-came"):
        await asyncio.to_thread(get, secured, "/v2", ours, authorization=f"Bearer {key}")
    log = secured.log.read_text()
    assert log
    assert KEY not in log
    assert "nonsense-that-came" not in log


def test_a_file_that_cannot_be_used_ends_the_start_in_one_line(
    seqlens: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    path.write_text("two words")
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    run = seqlens("serve", "--repository", str(tmp_path), *ports, "--security.keys", str(path))
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr == (
        f"seqlens: security.keys: {path}: line 1: expected printable ASCII characters without "
        "spaces, at most 4096\n"
    )
