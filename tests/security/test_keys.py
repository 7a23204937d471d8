"""What needs a key, over both wires, and what those get who have none."""

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import requests
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from openapi_spec_validator import validate
from tests.conftest import RunningServer
from tests.support.authority import BEARER, MODEL, Authority, get

import seqlens_client as sdk
from seqlens.api.rest import openapi
from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub


def code_of(call: Callable[[], Any]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    code: grpc.StatusCode = caught.value.code()
    return code


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer nonsense"}])
def test_rest_asks_for_a_key(
    secured: RunningServer, ours: Authority, headers: dict[str, str]
) -> None:
    for path in ("/v2", f"/v2/models/{MODEL}", "/v1/models", "/v2/health/livex", "/nothing"):
        answer = get(secured, path, ours, **headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["error"].startswith("authorization: got ")
    assert get(secured, "/v2", ours, **BEARER).status_code == 200
    assert get(secured, "/nothing", ours, **BEARER).status_code == 404


def test_health_and_documentation_are_open_over_rest(
    secured: RunningServer, ours: Authority
) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/openapi.json", "/docs", "/docs/start.js"):
        assert get(secured, path, ours).status_code == 200
        url = f"https://{secured.rest}{path}"
        assert requests.head(url, timeout=10, **ours.of_requests()).status_code == 200
    described = get(secured, "/openapi.json", ours).json()
    assert described == openapi.with_key(openapi.document())


def test_the_description_tells_what_needs_a_key() -> None:
    described = openapi.with_key(openapi.document())
    validate(described)
    open_paths = {
        path
        for path, methods in described["paths"].items()
        if not any("security" in operation for operation in methods.values())
    }
    health = {"/v2/health/live", "/v2/health/ready"}
    assert open_paths == health | {"/openapi.json", "/docs", "/docs/{file}"}
    assert "security" not in str(openapi.document())


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer nonsense"),)])
def test_every_kind_of_method_asks_for_a_key(
    channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]
) -> None:
    def never() -> Iterator[bytes]:
        time.sleep(3)  # a stream is refused before its first message
        yield b""

    methods: list[Callable[[], Any]] = [
        lambda: channel.unary_unary("/a/b")(b"", timeout=2, metadata=metadata),
        lambda: next(channel.unary_stream("/a/b")(b"", timeout=2, metadata=metadata)),
        lambda: channel.stream_unary("/a/b")(never(), timeout=2, metadata=metadata),
        lambda: next(channel.stream_stream("/a/b")(never(), timeout=2, metadata=metadata)),
    ]
    for method in methods:
        assert code_of(method) is grpc.StatusCode.UNAUTHENTICATED


def test_a_refused_call_says_why_and_where(secured: RunningServer, ours: Authority) -> None:
    with (
        sdk.Client(secured.grpc, credentials=ours.credentials(), token="nonsense") as client,
        pytest.raises(sdk.NotAuthenticated, match="a key that is not known") as caught,
    ):
        client.infer(MODEL, [1])
    assert caught.value.field == "authorization"
    assert "nonsense" not in str(caught.value)


def test_calls_with_a_key_reach_their_method(channel: grpc.Channel) -> None:
    metadata = tuple(BEARER.items())
    stub = GRPCInferenceServiceStub(channel)
    assert stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=metadata).name == "seqlens"
    unknown = channel.unary_unary("/a/b")
    assert code_of(lambda: unknown(b"", metadata=metadata)) is grpc.StatusCode.UNIMPLEMENTED
    request = pb.ModelInferRequest(model_name="nobody", id="7")
    (answer,) = stub.ModelStreamInfer(iter([request]), metadata=metadata)
    assert "nobody" in answer.error_message


def test_health_is_open_over_grpc_and_reflection_is_not(channel: grpc.Channel) -> None:
    health, inference = HealthStub(channel), GRPCInferenceServiceStub(channel)
    assert health.Check(HealthCheckRequest()).status == HealthCheckResponse.SERVING
    watching = health.Watch(HealthCheckRequest(), timeout=5)
    assert next(watching).status == HealthCheckResponse.SERVING
    watching.cancel()
    assert inference.ServerLive(pb.ServerLiveRequest()).live
    assert inference.ServerReady(pb.ServerReadyRequest()).ready
    ready = pb.ModelReadyRequest(name=MODEL)
    assert code_of(lambda: inference.ModelReady(ready)) is grpc.StatusCode.UNAUTHENTICATED
    described = ProtoReflectionDescriptorDatabase(channel).get_services
    assert code_of(described) is grpc.StatusCode.UNAUTHENTICATED


def test_no_other_service_is_open_by_the_look_of_its_name(channel: grpc.Channel) -> None:
    for method in ("/grpc.health.v1.Healthy/Check", "/inference.GRPCInferenceService/ServerLive/"):
        call = channel.unary_unary(method, Empty.SerializeToString)
        assert code_of(lambda call=call: call(Empty())) is grpc.StatusCode.UNAUTHENTICATED


def requests_counted(server: RunningServer) -> dict[str, str]:
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as answer:
        text = answer.read().decode()
    return dict(re.findall(r"^(seqlens_requests\S*) (\S+)$", text, re.MULTILINE))


def test_refused_requests_count_nowhere(
    secured: RunningServer, ours: Authority, channel: grpc.Channel
) -> None:
    before = requests_counted(secured)
    stub = GRPCInferenceServiceStub(channel)
    request = pb.ModelInferRequest(model_name=MODEL)
    assert code_of(lambda: stub.ModelInfer(request)) is grpc.StatusCode.UNAUTHENTICATED
    url = f"https://{secured.rest}/v2/models/{MODEL}/infer"
    assert requests.post(url, timeout=10, **ours.of_requests()).status_code == 401
    assert requests_counted(secured) == before
