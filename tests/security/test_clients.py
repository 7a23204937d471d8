"""Every kind of client, with a certificate and a key."""

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import requests
import tritonclient.grpc
import tritonclient.http
from tests.conftest import RunningServer
from tests.support.authority import BEARER, KEY, MODEL, Authority

import seqlens_client as sdk


def test_the_sdk(secured: RunningServer, ours: Authority) -> None:
    with sdk.Client(secured.grpc, credentials=ours.credentials(), token=KEY) as client:
        assert client.infer(MODEL, [4, 8, 15]).output.shape == (40,)
        lengths = [result.length for result in client.stream(MODEL, [[4], [8, 15]])]
    assert lengths == [1, 2]


async def test_the_asynchronous_sdk(secured: RunningServer, ours: Authority) -> None:
    credentials = ours.credentials()
    async with sdk.AsyncClient(secured.grpc, credentials=credentials, token=KEY) as client:
        assert (await client.infer(MODEL, [4, 8, 15])).length == 3


def test_the_command_line(
    secured: RunningServer, ours: Authority, seqlens: Callable[..., Any]
) -> None:
    certificate, key = map(str, ours.client)
    shown = ["--certificate", certificate, "--private-key", key, "--ca", str(ours.ca)]
    arguments = ["infer", MODEL, "the kitten", "--target", secured.grpc, *shown]
    run = seqlens(*arguments, env={"SEQLENS_TOKEN": KEY})
    assert (run.returncode, run.stderr) == (0, "")
    run = seqlens(*arguments)
    assert run.returncode == 1
    assert "authorization: got nothing, expected 'Bearer KEY'" in run.stderr


def test_tritonclient_over_grpc(secured: RunningServer, ours: Authority) -> None:
    certificate, key = map(str, ours.client)
    with tritonclient.grpc.InferenceServerClient(
        secured.grpc,
        ssl=True,
        root_certificates=str(ours.ca),
        private_key=key,
        certificate_chain=certificate,
    ) as client:
        tokens = tritonclient.grpc.InferInput("tokens", [1, 3], "INT64")
        tokens.set_data_from_numpy(np.array([[4, 8, 15]]))
        result = client.infer(MODEL, [tokens], headers=dict(BEARER))
        assert result.as_numpy("logits").shape == (1, 40)
        assert client.is_server_live()


def test_tritonclient_over_http(secured: RunningServer, ours: Authority) -> None:
    with tritonclient.http.InferenceServerClient(
        secured.rest, ssl=True, ssl_context_factory=ours.context
    ) as client:
        tokens = tritonclient.http.InferInput("tokens", [1, 3], "INT64")
        tokens.set_data_from_numpy(np.array([[4, 8, 15]]))
        result = client.infer(MODEL, [tokens], headers=dict(BEARER))
        assert result.as_numpy("logits").shape == (1, 40)
        assert client.is_server_live()


def curl(server: RunningServer, path: str, authority: Authority, *options: str) -> str:
    certificate, key = map(str, authority.client)
    shown = ["--cacert", str(authority.ca), "--cert", certificate, "--key", key]
    command = ["curl", "-s", "-w", "\n%{http_code}", *shown, *options]
    done = subprocess.run(
        [*command, f"https://{server.rest}{path}"], capture_output=True, text=True, check=False
    )
    return done.stdout


def test_curl(secured: RunningServer, ours: Authority) -> None:
    header = ["-H", f"authorization: bearer {KEY}"]
    body = ["-d", '{"sequence": [4, 8]}']
    said = curl(secured, f"/v1/models/{MODEL}/process", ours, *header, *body)
    assert said.endswith("\n200")
    # A body that curl offers first and then never sends.
    body = ["-H", "expect: 100-continue", "-d", "x" * 10_000]
    said = curl(secured, f"/v1/models/{MODEL}/process", ours, *body)
    assert said.endswith("\n401")


def test_a_large_tensor_comes_and_goes_whole(secured: RunningServer, ours: Authority) -> None:
    text = "the kitten " * 100
    body = {"sequences": [text] * 400}
    url = f"https://{secured.rest}/v1/models/{MODEL}/process"
    answer = requests.post(url, json=body, headers=BEARER, timeout=60, **ours.of_requests())
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == 400
