"""What grpcurl does: learn services and messages from the server alone, and call them."""

from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from numpy.typing import NDArray

OPEN_INFERENCE = "inference.GRPCInferenceService"
SEQUENCES = "seqlens.v1.SequenceService"


class Reflected:
    """The services of a server, known from its own description of them."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.database)

    def call(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        """Call SERVICE/METHOD with a request given as JSON."""
        service, name = path.split("/")
        method = self.pool.FindServiceByName(service).FindMethodByName(name)
        sent = ParseDict(request, GetMessageClass(method.input_type)())
        called = self._channel.unary_unary(
            f"/{path}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=self._reader(method),
        )
        return MessageToDict(called(sent), preserving_proto_field_name=True)

    @staticmethod
    def _reader(method: MethodDescriptor) -> Any:
        return GetMessageClass(method.output_type).FromString


@pytest.fixture
def reflected(target: str) -> Iterator[Reflected]:
    with grpc.insecure_channel(target) as channel:
        yield Reflected(channel)


def test_services_are_listed_and_described(reflected: Reflected) -> None:
    services = set(reflected.database.get_services())
    assert {OPEN_INFERENCE, SEQUENCES, "grpc.health.v1.Health"} <= services
    for name in services:
        described = reflected.pool.FindServiceByName(name)
        assert described.full_name == name
        assert described.methods
    methods = reflected.pool.FindServiceByName(OPEN_INFERENCE).methods_by_name
    assert {"ModelInfer", "ModelStreamInfer", "ModelConfig", "TraceSetting"} <= set(methods)
    assert methods["ModelStreamInfer"].client_streaming
    assert methods["ModelStreamInfer"].server_streaming


def test_a_request_made_from_the_description_is_answered(
    reflected: Reflected, sequences: list[list[int]], expected: dict[str, NDArray[np.float32]]
) -> None:
    row = sequences[0]
    tokens = {
        "name": "tokens",
        "datatype": "INT64",
        "shape": [1, len(row)],
        "contents": {"int64_contents": row},
    }
    request = {"model_name": "lstm-onnx", "id": "reflected", "inputs": [tokens]}
    told = reflected.call(f"{OPEN_INFERENCE}/ModelInfer", request)
    assert told["id"] == "reflected"
    [output] = told["outputs"]
    assert (output["name"], output["shape"]) == ("logits", ["1", "40"])
    logits = np.frombuffer(b64decode(told["raw_output_contents"][0]), np.float32)
    np.testing.assert_allclose(logits, expected["lstm"][0], atol=1e-5)


def test_every_service_answers_to_its_description(reflected: Reflected) -> None:
    named = {"name": "lstm-onnx"}
    assert reflected.call(f"{OPEN_INFERENCE}/ModelReady", named) == {"ready": True}
    config = reflected.call(f"{OPEN_INFERENCE}/ModelConfig", named)["config"]
    assert config["max_batch_size"] > 0
    described = reflected.call(f"{SEQUENCES}/DescribeModel", {"model_name": "lstm-onnx"})
    assert described["name"] == "lstm-onnx"
    assert reflected.call("grpc.health.v1.Health/Check", {}) == {"status": "SERVING"}
