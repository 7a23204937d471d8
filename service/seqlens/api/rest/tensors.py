"""Bodies of inference requests to plain requests.

A body is JSON, or JSON with the bytes of tensors behind it, or such bytes alone: the binary
tensor data extension of the Open Inference Protocol (Triton Inference Server,
docs/protocol/extension_binary_data.md).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import msgspec

from seqlens.api.failures import invalid
from seqlens.api.map_outputs import plain_names
from seqlens.api.message_bounds import check_tensor_names
from seqlens.api.parameters import (
    Parameters,
    read_flag,
    read_number,
    read_output,
    read_place,
    read_sequence_id,
    read_urgency,
)
from seqlens.api.requests import InferRequest, NamedTensor, RequestedOutput, SharedPlace
from seqlens.api.rest.infer_message import InferMessage, Input, Output, given
from seqlens.api.rest.json_data import BINARY_ONLY, read_data
from seqlens.api.rest.json_text import read_json
from seqlens.api.shared_memory import SharedMemory
from seqlens.api.validation import check_names, check_outputs, describe
from seqlens.errors import InvalidRequest
from seqlens.graphs.anatomy import InputAnatomy, ModelAnatomy
from seqlens.sequences import Array
from seqlens_wire.datatypes import BYTES, find_datatype
from seqlens_wire.tensors import TensorError, decode

HEADER = "Inference-Header-Content-Length"  # bytes of JSON in front of those of tensors

_MESSAGE = msgspec.json.Decoder(InferMessage)


@dataclass(frozen=True, slots=True)
class TensorRequest:
    """A request, and which outputs go as bytes behind the JSON of its answer."""

    request: InferRequest
    binary: frozenset[str]


def read_header_length(values: Sequence[str], body: bytes) -> int | None:
    """How much of a body is JSON, by the values of ``HEADER``; None: all. ``InvalidRequest``."""
    if not values:
        return None
    if len(set(values)) > 1:
        raise InvalidRequest(HEADER, got=f"{len(values)} values", expected="one")
    text = values[0].strip()
    # Digits of other scripts are decimal as well, and very long numbers cannot be converted.
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise InvalidRequest(HEADER, got=repr(text[:40]), expected="a number of bytes")
    if int(text) > len(body):
        raise InvalidRequest(HEADER, got=text, expected=f"at most the body's {len(body)} bytes")
    return int(text)


def read_infer_request(
    body: bytes, header_length: int | None, anatomy: ModelAnatomy, memory: SharedMemory
) -> TensorRequest:
    """Plain request to the model of an anatomy. Raises ``InvalidRequest``.

    ``header_length`` is that of the JSON; None: all of the body, 0: bytes alone.
    """
    if header_length == 0:
        return _read_bytes_alone(body, anatomy)
    text = body if header_length is None else body[:header_length]
    message = read_json(_MESSAGE, text)
    outputs = message.outputs or []
    # Before anything is made of them: how many there are is bounded by this.
    check_tensor_names("inputs", (tensor.name for tensor in message.inputs))
    check_names(anatomy, [tensor.name for tensor in message.inputs])
    check_tensor_names("outputs", (output.name for output in outputs))
    check_outputs(anatomy, plain_names(anatomy, (output.name for output in outputs)))
    parameters = given(message.parameters)
    return TensorRequest(
        InferRequest(
            inputs=_read_inputs(message.inputs, _Tail(body, len(text)), anatomy, memory),
            outputs=_read_outputs(outputs, memory),
            id=message.id or "",
            urgency=read_urgency(parameters),
            sequence_id=read_sequence_id(parameters),
        ),
        _binary_outputs(outputs, parameters, anatomy),
    )


def _offered(asked: Iterable[str], anatomy: ModelAnatomy) -> dict[str, str]:
    """Outputs to answer with, and their datatypes: those asked for, or all of the model."""
    datatypes = {spec.name: spec.datatype for spec in anatomy.outputs}
    return {name: datatypes.get(name, "FP32") for name in asked} or datatypes


def _read_outputs(outputs: Sequence[Output], memory: SharedMemory) -> tuple[RequestedOutput, ...]:
    read = tuple(read_output(output.name, given(output.parameters)) for output in outputs)
    for output in read:
        if output.place is not None:
            memory.check(output.place, f"outputs.{output.name}")
    return read


def _binary_outputs(
    outputs: Sequence[Output], parameters: Parameters, anatomy: ModelAnatomy
) -> frozenset[str]:
    """Names of the outputs to be sent as bytes. Refuses JSON for datatypes that have none."""
    default = read_flag(parameters, "binary_data_output", "parameters") or False
    asked = {output.name: given(output.parameters) for output in outputs}
    names = set()
    for name, datatype in _offered(asked, anatomy).items():
        own = asked.get(name, {})
        flag = read_flag(own, "binary_data", f"outputs.{name}.parameters")
        if default if flag is None else flag:
            names.add(name)
        elif datatype in BINARY_ONLY and not _goes_elsewhere(own):
            raise InvalidRequest(
                f"outputs.{name}.parameters.binary_data",
                got="nothing or false",
                expected=f"true: {datatype} has no JSON form",
            )
    return frozenset(names)


def _goes_elsewhere(parameters: Parameters) -> bool:
    """Whether an output is answered by the names of classes or in shared memory."""
    return bool(parameters.get("classification") or parameters.get("shared_memory_region"))


class _Tail:
    """The bytes behind the JSON of a body, taken tensor by tensor."""

    def __init__(self, body: bytes, start: int) -> None:
        self._body = body
        self._start = self._position = start

    def take(self, size: int, field: str) -> bytes:
        """The next bytes. Copied: numbers in the middle of a body would not be aligned."""
        left = len(self._body) - self._position
        if size > left:
            raise InvalidRequest(
                f"{field}.parameters.binary_data_size",
                got=f"{size} bytes",
                expected=f"at most the {left} that are left behind the JSON (its length is the "
                f"header {HEADER})",
            )
        self._position += size
        return self._body[self._position - size : self._position]

    def check_end(self) -> None:
        """Refuse bytes that belong to no tensor."""
        if self._position != len(self._body):
            raise InvalidRequest(
                "body",
                got=f"{len(self._body) - self._start} bytes behind the JSON",
                expected=f"the {self._position - self._start} that binary_data_size add up to",
            )


def _read_inputs(
    inputs: Sequence[Input], tail: _Tail, anatomy: ModelAnatomy, memory: SharedMemory
) -> tuple[NamedTensor, ...]:
    places = [_place(tensor, anatomy) for tensor in inputs]
    shared = [
        (place, f"inputs.{tensor.name}")
        for place, tensor in zip(places, inputs, strict=True)
        if place is not None
    ]
    copied = iter(memory.read_all(shared))
    tensors = []
    for tensor, place in zip(inputs, places, strict=True):
        data = _in_body(tensor, tail) if place is None else next(copied)
        tensors.append(NamedTensor(tensor.name, tensor.datatype, _read_input(tensor, data)))
    tail.check_end()
    return tuple(tensors)


def _place(tensor: Input, anatomy: ModelAnatomy) -> SharedPlace | None:
    """Where in shared memory the tensor lies. Checks what can be told before it is read."""
    spec = anatomy.input(tensor.name)
    # JSON of another datatype may be large, and costly to read.
    if spec is not None and tensor.datatype != spec.datatype:
        raise InvalidRequest(
            f"inputs.{spec.name}.datatype", got=tensor.datatype, expected=spec.datatype
        )
    parameters = given(tensor.parameters)
    place = read_place(parameters, f"inputs.{tensor.name}.parameters")
    forms = (tensor.has_data, "binary_data_size" in parameters, place is not None)
    if sum(forms) != 1:
        raise InvalidRequest(
            f"inputs.{tensor.name}.data",
            got=f"{sum(forms)} forms of the tensor",
            expected="one of data, parameters.binary_data_size and parameters.shared_memory_region",
        )
    return place


def _in_body(tensor: Input, tail: _Tail) -> bytes | None:
    """The bytes of a tensor behind the JSON; None if it is in the JSON itself."""
    if tensor.has_data:
        return None
    field = f"inputs.{tensor.name}"
    size = read_number(given(tensor.parameters), "binary_data_size", f"{field}.parameters")
    return tail.take(size, field)


def _read_input(tensor: Input, data: bytes | None) -> Array:
    field = f"inputs.{tensor.name}"
    if data is None:
        return read_data(bytes(tensor.data), tensor.datatype, tensor.shape, field)
    return _decode(data, tensor.datatype, tensor.shape, field)


def _decode(data: bytes, datatype: str, shape: Sequence[int], field: str) -> Array:
    try:
        return decode(data, datatype, shape, field=field)
    except TensorError as error:
        raise invalid(error) from None


def _read_bytes_alone(body: bytes, anatomy: ModelAnatomy) -> TensorRequest:
    """A body that is nothing but the one input of a batch of one; all outputs are bytes as well."""
    needed = [spec for spec in anatomy.inputs if not spec.optional]
    if len(needed) != 1:
        raise InvalidRequest(
            HEADER,
            got="0, a body of one input",
            expected=f"the length of JSON: the model needs {len(needed)} inputs",
        )
    spec = needed[0]
    array = _decode(
        _framed(body, spec), spec.datatype, _shape_of(body, spec), f"inputs.{spec.name}"
    )
    return TensorRequest(
        InferRequest(inputs=(NamedTensor(spec.name, spec.datatype, array),)),
        frozenset(output.name for output in anatomy.outputs),
    )


def _framed(body: bytes, spec: InputAnatomy) -> bytes:
    """A body of BYTES is one element as it is."""
    return len(body).to_bytes(4, "little") + body if spec.datatype == BYTES.name else body


def _shape_of(body: bytes, spec: InputAnatomy) -> list[int]:
    """The shape that follows from the size of the body, with one row."""
    shape = list(spec.shape)
    if spec.batch_axis is not None:
        shape[spec.batch_axis] = 1
    free = [axis for axis, size in enumerate(shape) if size < 0]
    if spec.datatype == BYTES.name:
        return [1] * len(shape)
    if len(free) > 1:
        raise InvalidRequest(
            HEADER,
            got="0, a body without a shape",
            expected=f"JSON with the shape of {describe(spec)}",
        )
    if free:
        item = find_datatype(spec.datatype).wire_dtype.itemsize
        rest = prod(size for size in shape if size >= 0) * item
        shape[free[0]] = len(body) // rest if rest else 0
    return shape
