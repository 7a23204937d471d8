"""Tensors in system shared memory, by tritonclient's own means and a real server."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from numpy.typing import NDArray
from tests.support.protocol_models import save_protocol_models

from seqlens_wire.errors import from_metadata
from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seqlens_wire.tensors import datatype_of, encode

NewRegion = Callable[..., Any]
X = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
TOTAL = X.sum(axis=1) * 2


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, serve_for_module: Callable[..., Any]) -> str:
    folder = tmp_path_factory.mktemp("shared-memory")
    save_protocol_models(folder)
    return str(serve_for_module(folder).grpc)


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address) as client:
        yield client
        client.unregister_system_shared_memory()


@pytest.fixture
def stub(address: str) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(address) as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.fixture
def new_region(client: Any) -> Iterator[NewRegion]:
    """Make and register a region: ``new_region(name, byte_size)`` gives tritonclient's handle."""
    handles = []

    def make(name: str, byte_size: int) -> Any:
        key = f"/seqlens-test-{uuid4()}"
        handles.append(shm.create_shared_memory_region(name, key, byte_size))
        client.register_system_shared_memory(name, key, byte_size)
        return handles[-1]

    yield make
    for handle in handles:
        shm.destroy_shared_memory_region(handle)


def shared_input(name: str, array: NDArray[Any], region: str, offset: int = 0) -> Any:
    tensor = triton.InferInput(name, list(array.shape), datatype_of(array))
    tensor.set_shared_memory(region, len(encode(array, datatype_of(array))), offset)
    return tensor


def sent_input(name: str, array: NDArray[Any]) -> Any:
    tensor = triton.InferInput(name, list(array.shape), datatype_of(array))
    tensor.set_data_from_numpy(array)
    return tensor


def shared_output(name: str, region: str, byte_size: int, offset: int = 0) -> Any:
    output = triton.InferRequestedOutput(name)
    output.set_shared_memory(region, byte_size, offset)
    return output


def test_inputs_and_outputs_share_a_region(client: Any, new_region: NewRegion) -> None:
    handle = new_region("both", 200)
    shm.set_shared_memory_region(handle, [X], offset=16)
    outputs = [shared_output("y", "both", X.nbytes, 64), shared_output("total", "both", 40, 112)]
    result = client.infer("steps", [shared_input("x", X, "both", 16)], outputs=outputs)
    y = shm.get_contents_as_numpy(handle, np.float32, X.shape, 64)
    total = shm.get_contents_as_numpy(handle, np.float32, TOTAL.shape, 112)
    np.testing.assert_array_equal(y, X * 2)
    np.testing.assert_array_equal(total, TOTAL)
    answered = result.get_output("total")
    assert (answered.datatype, list(answered.shape)) == ("FP32", [2, 2])
    assert answered.parameters["shared_memory_region"].string_param == "both"
    assert answered.parameters["shared_memory_offset"].int64_param == 112
    assert answered.parameters["shared_memory_byte_size"].int64_param == TOTAL.nbytes


@pytest.mark.parametrize("shared", ["y", "total"])
def test_one_output_goes_to_a_region_and_one_into_the_answer(
    shared: str, client: Any, new_region: NewRegion
) -> None:
    handle = new_region("out", 100)
    expected = {"y": X * 2, "total": TOTAL}
    outputs = [
        shared_output(name, "out", 100) if name == shared else triton.InferRequestedOutput(name)
        for name in expected
    ]
    result = client.infer("steps", [sent_input("x", X)], outputs=outputs)
    other = "total" if shared == "y" else "y"
    np.testing.assert_array_equal(result.as_numpy(other), expected[other])
    array = shm.get_contents_as_numpy(handle, np.float32, expected[shared].shape)
    np.testing.assert_array_equal(array, expected[shared])


def state_request(**forms: str) -> pb.ModelInferRequest:
    """``x`` and ``h_in``, each ``raw``, ``typed`` or in the region ``in``: at 0 and at 16."""
    message = pb.ModelInferRequest(model_name="stateful")
    for place, (name, form) in enumerate(forms.items()):
        array = np.array([[1, 2], [3, 4]], np.float32) * 10**place
        tensor = message.inputs.add(name=name, datatype="FP32", shape=[2, 2])
        if form == "raw":
            message.raw_input_contents.append(array.tobytes())
        elif form == "typed":
            tensor.contents.fp32_contents.extend(array.ravel().tolist())
        else:
            tensor.parameters["shared_memory_region"].string_param = "in"
            tensor.parameters["shared_memory_byte_size"].int64_param = array.nbytes
            tensor.parameters["shared_memory_offset"].uint64_param = 16 * place
    return message


@pytest.mark.parametrize("other", ["raw", "typed", "shared"])
@pytest.mark.parametrize("shared", ["x", "h_in"])
def test_other_inputs_of_the_request_may_have_any_form(
    shared: str, other: str, stub: GRPCInferenceServiceStub, new_region: NewRegion
) -> None:
    x = np.array([[1, 2], [3, 4]], np.float32)
    shm.set_shared_memory_region(new_region("in", 32), [x, x * 10])
    forms = {name: "shared" if name == shared else other for name in ("x", "h_in")}
    answer = stub.ModelInfer(state_request(**forms))
    assert np.frombuffer(answer.raw_output_contents[1], np.float32).tolist() == [11, 22, 33, 44]


def echo_inputs(**texts: NDArray[Any]) -> list[Any]:
    arrays = {
        "small": np.array([[-128, 127]], np.int8),
        "byte": np.array([[0, 255]], np.uint8),
        "short": np.array([[-(2**15), 2**15 - 1]], np.int16),
        "word": np.array([[0, 2**16 - 1]], np.uint16),
        "long": np.array([[0, 2**64 - 1]], np.uint64),
        "half": np.array([[0.5, 65504]], np.float16),
        "flag": np.array([[True, False]]),
    }
    return [sent_input(name, array) for name, array in arrays.items()]


def test_texts_in_shared_memory(client: Any, new_region: NewRegion) -> None:
    texts = np.array([["naïve".encode(), b""]], object)
    handle = new_region("texts", 100)
    shm.set_shared_memory_region(handle, [np.array(encode(texts, "BYTES"), object)])
    inputs = [*echo_inputs(), shared_input("text", texts, "texts")]
    output = shared_output("text_back", "texts", 50, 50)
    client.infer("echo", inputs, outputs=[output])
    back = shm.get_contents_as_numpy(handle, np.object_, [1, 2], 50)
    assert back.tolist() == texts.tolist()


def test_classes_go_to_shared_memory_too(
    stub: GRPCInferenceServiceStub, new_region: NewRegion
) -> None:
    """tritonclient itself refuses to ask for that."""
    handle = new_region("out", 200)
    message = pb.ModelInferRequest(model_name="steps", raw_input_contents=[X.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=X.shape)
    output = message.outputs.add(name="total")
    output.parameters["classification"].int64_param = 1
    output.parameters["shared_memory_region"].string_param = "out"
    output.parameters["shared_memory_byte_size"].int64_param = 200
    answer = stub.ModelInfer(message)
    assert (answer.outputs[0].datatype, answer.outputs[0].shape) == ("BYTES", [2, 1])
    classes = shm.get_contents_as_numpy(handle, np.object_, [2, 1])
    assert classes.tolist() == [[b"18.000000:1:down"], [b"54.000000:1:down"]]


@pytest.mark.parametrize(
    ("change", "field", "got"),
    [
        ({"byte_size": 44}, "inputs.x", "44 bytes"),
        ({"byte_size": 52}, "inputs.x", "52 bytes"),
        ({"byte_size": 0}, "inputs.x", "0 bytes"),
        ({"byte_size": 101}, "inputs.x.parameters.shared_memory_byte_size", "bytes 0 to 101"),
        ({"offset": 60}, "inputs.x.parameters.shared_memory_byte_size", "bytes 60 to 108"),
        ({"offset": -1}, "inputs.x.parameters.shared_memory_offset", "-1"),
        (
            {"offset": 2**63 - 1},
            "inputs.x.parameters.shared_memory_byte_size",
            f"bytes {2**63 - 1} to {2**63 + 47}",
        ),
        ({"region_name": "nobody"}, "inputs.x.parameters.shared_memory_region", "'nobody'"),
    ],
)
def test_an_input_that_is_not_all_there_is_refused(
    change: dict[str, Any], field: str, got: str, client: Any, new_region: NewRegion
) -> None:
    new_region("in", 100)
    tensor = triton.InferInput("x", [2, 3, 2], "FP32")
    tensor.set_shared_memory(**{"region_name": "in", "byte_size": 48, "offset": 0} | change)
    with pytest.raises(triton.InferenceServerException) as caught:
        client.infer("steps", [tensor])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    details = from_metadata(caught.value.__context__.trailing_metadata())  # type: ignore[union-attr]
    assert (details.field, got in details.got) == (field, True)


def test_an_output_without_room_fails_the_request_and_nothing_is_written(
    client: Any, new_region: NewRegion
) -> None:
    handle = new_region("out", 200)
    outputs = [shared_output("y", "out", 48), shared_output("total", "out", 15, 48)]
    with pytest.raises(triton.InferenceServerException, match="at least the 16 bytes"):
        client.infer("steps", [sent_input("x", X)], outputs=outputs)
    assert not shm.get_contents_as_numpy(handle, np.uint8, [200]).any()


def test_a_region_that_shrinks_costs_a_request_and_not_the_server(
    client: Any, new_region: NewRegion
) -> None:
    new_region("in", X.nbytes)
    key = client.get_system_shared_memory_status("in").regions["in"].key
    os.truncate(Path("/dev/shm") / key.strip("/"), 10)
    for _ in range(3):
        with pytest.raises(triton.InferenceServerException, match="become smaller"):
            client.infer("steps", [shared_input("x", X, "in")])
    result = client.infer("steps", [sent_input("x", X)])
    np.testing.assert_array_equal(result.as_numpy("total"), TOTAL)


def test_regions_are_listed_and_forgotten(client: Any, new_region: NewRegion) -> None:
    for name in ("a", "b"):
        new_region(name, 64)
    regions = client.get_system_shared_memory_status().regions
    assert {name: region.byte_size for name, region in regions.items()} == {"a": 64, "b": 64}
    one = client.get_system_shared_memory_status("b").regions
    assert {name: region.name for name, region in one.items()} == {"b": "b"}
    client.unregister_system_shared_memory("a")
    client.unregister_system_shared_memory("a")
    assert set(client.get_system_shared_memory_status().regions) == {"b"}
    client.unregister_system_shared_memory()
    assert not client.get_system_shared_memory_status().regions


@pytest.mark.parametrize(
    ("register", "code"),
    [
        (("a", "/seqlens-test-nothing", 8), "INVALID_ARGUMENT"),
        (("a", "/../etc/hostname", 8), "INVALID_ARGUMENT"),
        (("", "/x", 8), "INVALID_ARGUMENT"),
        (("taken", "/x", 8), "ALREADY_EXISTS"),
    ],
)
def test_regions_that_cannot_be_are_not_registered(
    register: tuple[str, str, int], code: str, client: Any, new_region: NewRegion
) -> None:
    new_region("taken", 8)
    with pytest.raises(triton.InferenceServerException) as caught:
        client.register_system_shared_memory(*register)
    assert caught.value.status() == f"StatusCode.{code}"
    assert set(client.get_system_shared_memory_status().regions) == {"taken"}


def test_the_state_of_a_region_that_is_not_known_is_not_found(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException) as caught:
        client.get_system_shared_memory_status("nobody")
    assert caught.value.status() == "StatusCode.NOT_FOUND"
