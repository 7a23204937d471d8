"""Health, reflection, bursts, and what the server says as a whole."""

import asyncio
import contextlib
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)

from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb import sequences_pb2
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub
from seqlens_wire.services import OPEN_INFERENCE, SEQUENCES, method_names

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def channel(target: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target) as opened:
        yield opened


@pytest.mark.parametrize(
    "service",
    ["", "inference.GRPCInferenceService", "seqlens.v1.SequenceService", "transformer-torchscript"],
)
def test_health_of_the_server_its_services_and_models(service: str, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING


def test_health_of_what_does_not_exist_is_not_found(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_and_describes_the_services(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) >= {
        "inference.GRPCInferenceService",
        "seqlens.v1.SequenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    assert service.methods_by_name["ModelInfer"].input_type.full_name == (
        "inference.ModelInferRequest"
    )
    assert "ProcessStream" in pool.FindServiceByName("seqlens.v1.SequenceService").methods_by_name


@pytest.mark.parametrize("service", ["inference.GRPCInferenceService", "lstm-onnx", "nobody"])
def test_health_can_be_watched(service: str, channel: grpc.Channel) -> None:
    """One that is not known may come later, so watching it is no error."""
    request = health_pb2.HealthCheckRequest(service=service)
    watching = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=10)
    expected = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN if service == "nobody" else SERVING
    assert next(watching).status == expected
    watching.cancel()


def test_every_published_method_is_described(channel: grpc.Channel) -> None:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    for name in (OPEN_INFERENCE, SEQUENCES):
        described = pool.FindServiceByName(name).methods_by_name
        assert list(described) == method_names(name)
    response = pool.FindMessageTypeByName("inference.ModelConfigResponse")
    assert response.fields_by_name["config"].message_type.full_name == "inference.ModelConfig"


def test_a_client_that_knows_nothing_can_infer_by_reflection(channel: grpc.Channel) -> None:
    """As grpcurl does."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    method = pool.FindServiceByName(OPEN_INFERENCE).methods_by_name["ModelInfer"]
    call = channel.unary_unary(
        f"/{OPEN_INFERENCE}/{method.name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    request = json_format.Parse(
        """{"modelName": "lstm-onnx", "inputs": [{"name": "tokens", "datatype": "INT64",
        "shape": [1, 2], "contents": {"int64Contents": [2, 3]}}]}""",
        GetMessageClass(method.input_type)(),
        descriptor_pool=pool,
    )
    answer = json_format.MessageToDict(call(request), descriptor_pool=pool)
    assert answer["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": ["1", "40"]}]


def metrics(server: Any, accept: str) -> tuple[str, str]:
    """Content type and text of the metrics, for who accepts this."""
    asked = urllib.request.Request(f"http://{server.metrics}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(asked) as response:
        return response.headers["Content-Type"], response.read().decode()


def test_metrics_come_in_the_form_that_is_asked_for(server: Any) -> None:
    kind, text = metrics(server, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    families = {family.name for family in parse_openmetrics(text)}
    assert {"seqlens_requests", "seqlens_queue_tokens"} <= families
    kind, text = metrics(server, "text/plain")
    assert kind.startswith("text/plain; version=0.0.4")
    assert "# EOF" not in text


def test_names_that_clients_make_up_have_no_series(server: Any, channel: grpc.Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    sequences = SequenceServiceStub(channel)
    messages = [sequences_pb2.ProcessStreamRequest(options={"model_name": "made-up"})]
    for version in ("", "7", "made-up"):
        request = pb.ModelInferRequest(model_name="made-up", model_version=version)
        for call in (
            lambda request=request: stub.ModelInfer(request),
            lambda request=request: list(stub.ModelStreamInfer(iter([request]))),
            lambda: sequences.ProcessBatch(sequences_pb2.ProcessBatchRequest(model_name="made-up")),
            lambda: list(sequences.ProcessStream(iter(messages))),
        ):
            with contextlib.suppress(grpc.RpcError):
                call()
        known = pb.ModelInferRequest(model_name="lstm-onnx", model_version="made-up")
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(known)
    assert "made-up" not in metrics(server, "text/plain")[1]


async def test_a_burst_of_calls_is_answered_to_the_last(target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = GRPCInferenceServiceStub(channel)
        calls = [stub.ServerReady(pb.ServerReadyRequest()) for _ in range(5_000)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [one for one in outcomes if isinstance(one, BaseException)] == []
