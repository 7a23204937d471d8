"""Raw and typed contents of every datatype over gRPC, against a real server."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tests.support.protocol_models import save_protocol_models

from seqlens_wire.datatypes import DATATYPES
from seqlens_wire.errors import from_metadata
from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seqlens_wire.tensors import decode, encode

Infer = Callable[[pb.ModelInferRequest], pb.ModelInferResponse]

# Datatype and the ends of its range for each input of ``echo``.
ECHO: dict[str, tuple[str, list[Any]]] = {
    "small": ("INT8", [-128, 127]),
    "byte": ("UINT8", [0, 255]),
    "short": ("INT16", [-(2**15), 2**15 - 1]),
    "word": ("UINT16", [0, 2**16 - 1]),
    "long": ("UINT64", [0, 2**64 - 1]),
    "half": ("FP16", [0.5, 65504]),
    "flag": ("BOOL", [True, False]),
    "text": ("BYTES", ["naïve".encode(), b""]),
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, serve_for_module: Callable[..., Any]) -> str:
    folder = tmp_path_factory.mktemp("contents")
    save_protocol_models(folder)
    return str(serve_for_module(folder).grpc)


@pytest.fixture
def infer(address: str) -> Iterator[Infer]:
    with grpc.insecure_channel(address) as channel:
        yield GRPCInferenceServiceStub(channel).ModelInfer


def echo() -> pb.ModelInferRequest:
    """All inputs raw, at the ends of their ranges."""
    message = pb.ModelInferRequest(model_name="echo")
    for name, (datatype, values) in ECHO.items():
        message.inputs.add(name=name, datatype=datatype, shape=[1, 2])
        array = np.array([values], DATATYPES[datatype].dtype)
        message.raw_input_contents.append(encode(array, datatype))
    return message


def typed(name: str, datatype: str, values: list[Any]) -> pb.ModelInferRequest:
    """One typed input of two elements: it is read before others are missed."""
    message = pb.ModelInferRequest(model_name="echo")
    tensor = message.inputs.add(name=name, datatype=datatype, shape=[1, 2])
    field = DATATYPES[datatype].contents_field
    if field is not None:
        getattr(tensor.contents, field).extend(values)
    return message


def refusal(infer: Infer, message: pb.ModelInferRequest) -> tuple[str, str, str]:
    """Field, got and expected of a request that is refused with INVALID_ARGUMENT."""
    with pytest.raises(grpc.RpcError) as caught:
        infer(message)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = from_metadata(caught.value.trailing_metadata())
    return details.field, details.got, details.expected


def test_every_datatype_comes_back_as_it_went(infer: Infer) -> None:
    answer = infer(echo())
    assert not any(output.HasField("contents") for output in answer.outputs)
    back = {
        output.name: (output.datatype, decode(raw, output.datatype, output.shape).tolist())
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }
    assert back == {f"{name}_back": (kind, [values]) for name, (kind, values) in ECHO.items()}


@pytest.mark.parametrize(
    ("name", "values", "got"),
    [
        ("small", [0, 128], "value 128"),
        ("small", [-129, 0], "value -129"),
        ("byte", [0, 256], "value 256"),
        ("short", [0, 2**15], f"value {2**15}"),
        ("word", [2**16, 0], f"value {2**16}"),
        ("text", [b"one"], "1 elements in bytes_contents"),
        ("flag", [], "0 elements in bool_contents"),
        ("long", [1, 2, 3], "3 elements in uint64_contents"),
    ],
)
def test_typed_contents_fit_datatype_and_shape(
    name: str, values: list[Any], got: str, infer: Infer
) -> None:
    message = typed(name, ECHO[name][0], values)
    assert refusal(infer, message)[:2] == (f"inputs.{name}", got)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_has_no_typed_form(datatype: str, infer: Infer) -> None:
    field, got, expected = refusal(infer, typed("half", datatype, []))
    assert (field, got) == ("inputs.half", f"typed contents for {datatype}")
    assert "raw contents" in expected


def test_typed_contents_in_a_field_of_another_datatype_are_refused(infer: Infer) -> None:
    message = typed("small", "INT8", [1, 2])
    message.inputs[0].contents.fp32_contents.extend([1, 2])
    field, got, _ = refusal(infer, message)
    assert (field, got) == ("inputs.small", "int_contents, fp32_contents")


@pytest.mark.parametrize(
    ("raw", "got"),
    [
        (b"", "0 bytes"),
        (b"\1\0\0\0a\1\0\0", "8 bytes"),
        (b"\1\0\0\0a\2\0\0\0b", "10 bytes"),
        (b"\1\0\0\0a\xff\xff\xff\xffb", "10 bytes"),
        (b"\1\0\0\0a\1\0\0\0bc", "11 bytes"),
    ],
    ids=["none", "cut prefix", "cut element", "endless element", "rest"],
)
def test_texts_take_exactly_their_bytes(raw: bytes, got: str, infer: Infer) -> None:
    message = echo()
    message.raw_input_contents[-1] = raw
    assert refusal(infer, message)[:2] == ("inputs.text", got)


def test_texts_for_a_model_of_texts_are_utf8(infer: Infer) -> None:
    message = echo()
    message.raw_input_contents[-1] = b"\1\0\0\0\xff\0\0\0\0"
    field, got, _ = refusal(infer, message)
    assert (field, "no UTF-8" in got) == ("inputs.text", True)


@pytest.mark.parametrize("count", [0, 1, 7, 9])
def test_there_are_as_many_raw_contents_as_inputs(count: int, infer: Infer) -> None:
    message = echo()
    raw = [*message.raw_input_contents, b""][:count]
    del message.raw_input_contents[:]
    message.raw_input_contents.extend(raw)
    field, got, _ = refusal(infer, message)
    if count:
        assert (field, got) == ("raw_input_contents", f"{count} entries")
    else:  # no raw contents at all: typed ones are looked for
        assert (field, got) == ("inputs.small", "0 elements in int_contents")


def test_contents_that_are_there_and_empty_are_no_typed_contents(infer: Infer) -> None:
    message = echo()
    for tensor in message.inputs:
        tensor.contents.SetInParent()
    assert len(infer(message).outputs) == len(ECHO)


@pytest.mark.parametrize(
    "shape",
    [
        [2**62, 4, 2],
        [2**40, 2**40, 2],  # comes to 0 in 64 bits
        [2**32 + 1, 2],  # comes to what is there in 32 bits
        [2**63 - 1, 2],  # comes to -2 in 64 bits
        [-1, 2],
        [-1, -2],
        [0, 2**60, 2**60],
        [1] * 40,
    ],
)
def test_element_counts_do_not_wrap(shape: list[int], infer: Infer) -> None:
    message = echo()
    message.inputs[0].shape[:] = shape
    # Where the count itself can be, it is the data that does not agree.
    assert refusal(infer, message)[0] in ("inputs.small", "inputs.small.shape")


@pytest.mark.parametrize("output", ["small_back", "long_back", "half_back", "flag_back"])
def test_classes_of_other_numbers(output: str, infer: Infer) -> None:
    message = echo()
    message.outputs.add(name=output).parameters["classification"].int64_param = 1
    (raw,) = infer(message).raw_output_contents
    best = {"small": "127:1", "long": f"{2**64 - 1}:1", "half": "65504.000000:1", "flag": "1:0"}
    assert decode(raw, "BYTES", [1, 1]).tolist() == [[best[output.removesuffix("_back")].encode()]]


def test_texts_have_no_classes(infer: Infer) -> None:
    message = echo()
    message.outputs.add(name="text_back").parameters["classification"].int64_param = 1
    field, got, _ = refusal(infer, message)
    assert field == "outputs.text_back.parameters.classification"
    assert "BYTES" in got
