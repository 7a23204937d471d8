"""Messages of the Open Inference Protocol to plain requests."""

import time

import numpy as np
import pytest

from seqlens.api.grpc.convert import read_infer_request, write_infer_response
from seqlens.api.requests import AnsweredOutput, InferResponse, NamedTensor, RequestedOutput
from seqlens.api.shared_memory import SharedMemory
from seqlens.errors import InvalidRequest
from seqlens_wire.pb.open_inference_pb2 import ModelInferRequest


def message(**more: object) -> ModelInferRequest:
    request = ModelInferRequest(model_name="m", id="7", **more)  # type: ignore[arg-type]
    request.inputs.add(name="x", datatype="INT64", shape=[1, 2])
    return request


def raw() -> ModelInferRequest:
    request = message()
    request.raw_input_contents.append(np.array([3, 4], np.int64).tobytes())
    return request


def test_raw_and_typed_contents_give_the_same_array() -> None:
    typed = message()
    typed.inputs[0].contents.int64_contents.extend([3, 4])
    for request in (raw(), typed):
        (tensor,) = read_infer_request(request, None, SharedMemory(1 << 20)).inputs
        assert tensor.datatype == "INT64"
        np.testing.assert_array_equal(tensor.array, [[3, 4]])


def test_the_nearer_of_two_deadlines_counts() -> None:
    request = raw()
    request.parameters["timeout"].int64_param = 2_000_000
    request.parameters["priority"].uint64_param = 3
    for remaining, expected in ((None, 2.0), (1.0, 1.0), (60.0, 2.0)):
        urgency = read_infer_request(request, remaining, SharedMemory(1 << 20)).urgency
        assert urgency.deadline == pytest.approx(time.monotonic() + expected, abs=0.5)
        assert urgency.priority == 3
    assert read_infer_request(raw(), None, SharedMemory(1 << 20)).urgency.deadline is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: r.inputs[0].contents.int64_contents.extend([3, 4]), "inputs.x.contents"),
        (lambda r: r.raw_input_contents.append(b""), "raw_input_contents"),
        (lambda r: r.raw_input_contents.__setitem__(0, b"123"), "inputs.x"),
        (lambda r: r.inputs[0].shape.__setitem__(0, -1), "inputs.x.shape"),
        (lambda r: r.inputs[0].shape.extend([2**40, 2**40]), "inputs.x.shape"),
        (lambda r: setattr(r.inputs[0], "datatype", "INT65"), "inputs.x"),
        (lambda r: setattr(r.parameters["timeout"], "string_param", "5"), "parameters.timeout"),
        (lambda r: setattr(r.parameters["timeout"], "int64_param", -5), "parameters.timeout"),
        (lambda r: setattr(r.parameters["priority"], "bool_param", True), "parameters.priority"),
    ],
)
def test_unreadable_messages_name_the_field(change: object, field: str) -> None:
    request = raw()
    change(request)  # type: ignore[operator]
    with pytest.raises(InvalidRequest) as caught:
        read_infer_request(request, None, SharedMemory(1 << 20))
    assert caught.value.field == field


def test_forms_of_outputs_and_the_sequence_are_read() -> None:
    request = raw()
    request.parameters["sequence_id"].string_param = "talk"
    request.outputs.add(name="y").parameters["classification"].int64_param = 3
    plain = read_infer_request(request, None, SharedMemory(1 << 20))
    assert plain.sequence_id == "talk"
    assert plain.outputs == (RequestedOutput("y", classes=3),)


def test_answers_are_raw() -> None:
    output = AnsweredOutput(NamedTensor("y", "FP32", np.array([[0.5]], np.float32)))
    written = write_infer_response(InferResponse("m", "1", "7", (output,)), SharedMemory(1 << 20))
    assert (written.model_name, written.model_version, written.id) == ("m", "1", "7")
    assert written.outputs[0].shape == [1, 1]
    assert written.raw_output_contents[0] == np.float32(0.5).tobytes()
