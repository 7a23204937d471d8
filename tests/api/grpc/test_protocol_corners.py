"""The least obvious points of inference over gRPC, against a real server."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.support.protocol_models import save_protocol_models

from seqlens_wire.errors import from_metadata
from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

Infer = Callable[[pb.ModelInferRequest], pb.ModelInferResponse]

X = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
# Classes of the output ``total`` for either row.
FIRST = ["18.000000:1:down", "12.000000:0:up"]
SECOND = ["54.000000:1:down", "48.000000:0:up"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, serve_for_module: Callable[..., Any]) -> str:
    folder = tmp_path_factory.mktemp("corners")
    save_protocol_models(folder)
    return str(serve_for_module(folder).grpc)


@pytest.fixture
def infer(address: str) -> Iterator[Infer]:
    with grpc.insecure_channel(address) as channel:
        yield GRPCInferenceServiceStub(channel).ModelInfer


def steps(**changes: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="steps", raw_input_contents=[X.tobytes()], **changes)
    message.inputs.add(name="x", datatype="FP32", shape=X.shape)
    return message


def refusal(infer: Infer, message: pb.ModelInferRequest) -> tuple[str, str, str]:
    """Field, got and expected of a request that is refused with INVALID_ARGUMENT."""
    with pytest.raises(grpc.RpcError) as caught:
        infer(message)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = from_metadata(caught.value.trailing_metadata())
    return details.field, details.got, details.expected


def test_a_tensor_of_no_rows_is_answered_by_one_of_no_rows(address: str) -> None:
    tensor = triton.InferInput("x", [0, 3840], "FP32")
    tensor.set_data_from_numpy(np.zeros((0, 3840), np.float32))
    with triton.InferenceServerClient(address) as client:
        assert client.infer("wide", [tensor]).as_numpy("y").shape == (0, 3840)


@pytest.mark.parametrize("request_id", ["", "r1", "заявка-№7 😀", "x" * 5_000])
def test_ids_are_echoed(request_id: str, infer: Infer) -> None:
    assert infer(steps(id=request_id)).id == request_id


def test_outputs_asked_for_twice_are_refused_by_name(infer: Infer) -> None:
    message = steps(outputs=[{"name": "total"}, {"name": "y"}, {"name": "total"}])
    assert refusal(infer, message) == ("outputs.total", "2 times", "once")


def test_outputs_come_in_the_order_asked_for(infer: Infer) -> None:
    answer = infer(steps(outputs=[{"name": "total"}, {"name": "y"}]))
    assert [output.name for output in answer.outputs] == ["total", "y"]
    np.testing.assert_array_equal(
        np.frombuffer(answer.raw_output_contents[0], np.float32), X.sum(axis=1).ravel() * 2
    )


PARAMETERS: list[dict[str, dict[str, Any]]] = [
    {"a": {"bool_param": True}, "b": {"double_param": 0.5}, "c": {"string_param": "x"}, "d": {}},
    {"headers": {"string_param": "x"}, "triton_x": {"int64_param": 1}},
    {"priority": {"int64_param": 1}, "timeout": {"int64_param": 0}},
    {"priority": {"uint64_param": 2**64 - 1}, "timeout": {"uint64_param": 2**64 - 1}},
    {"timeout": {"int64_param": 2**63 - 1}},
    {"sequence_id": {"uint64_param": 7}, "sequence_start": {"bool_param": True}},
    {"sequence_id": {"string_param": "talk"}, "sequence_end": {"bool_param": True}},
    {"sequence_id": {"int64_param": -7}, "sequence_start": {"string_param": "true"}},
]


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_parameters_that_a_model_without_state_has_no_use_for_are_harmless(
    parameters: dict[str, dict[str, Any]], infer: Infer
) -> None:
    assert infer(steps(parameters=parameters)).raw_output_contents == (
        infer(steps()).raw_output_contents
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("priority", {"int64_param": -1}),
        ("priority", {"string_param": "1"}),
        ("timeout", {"int64_param": -1}),
        ("timeout", {"string_param": "1000"}),
        ("timeout", {"double_param": 1.5}),
        ("sequence_id", {"bool_param": True}),
    ],
)
def test_parameters_with_a_meaning_have_their_type(
    name: str, value: dict[str, Any], infer: Infer
) -> None:
    assert refusal(infer, steps(parameters={name: value}))[0] == f"parameters.{name}"


ONE_ROW = np.array([1, 2], np.float32).tobytes()


def stateful(**sequence_id: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="stateful", raw_input_contents=[ONE_ROW])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    if sequence_id:
        message.parameters["sequence_id"].CopyFrom(pb.InferParameter(**sequence_id))
    return message


@pytest.mark.parametrize("none", [{}, {"uint64_param": 0}, {"string_param": ""}])
def test_no_sequence_is_none_for_a_model_with_state(none: dict[str, Any], infer: Infer) -> None:
    answer = infer(stateful(**none))
    assert [output.name for output in answer.outputs] == ["y", "h_out"]
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 4]


@pytest.mark.parametrize("one", [{"uint64_param": 1}, {"string_param": "0"}])
def test_state_between_requests_is_not_offered(one: dict[str, Any], infer: Infer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(stateful(**one))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "'stateful'" in caught.value.details()


@pytest.mark.parametrize(
    ("output", "count", "classes"),
    [
        ("total", 1, [FIRST[:1], SECOND[:1]]),
        ("y", 2, [["10.000000:5", "8.000000:4"], ["22.000000:5", "20.000000:4"]]),
        ("total", 99, [FIRST, SECOND]),
    ],
)
def test_tritonclient_reads_classes(
    output: str, count: int, classes: list[list[str]], address: str
) -> None:
    tensor = triton.InferInput("x", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X)
    asked = [triton.InferRequestedOutput(output, class_count=count)]
    with triton.InferenceServerClient(address) as client:
        result = client.infer("steps", [tensor], outputs=asked)
    assert result.get_output(output).datatype == "BYTES"
    best = result.as_numpy(output)
    assert [[one.decode() for one in row] for row in best] == classes


def test_no_class_asked_for_is_the_whole_output(infer: Infer) -> None:
    message = steps(outputs=[{"name": "total"}])
    message.outputs[0].parameters["classification"].int64_param = 0
    assert infer(message).outputs[0].datatype == "FP32"
