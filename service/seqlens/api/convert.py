"""Messages of the Open Inference Protocol to plain requests, and plain answers to messages."""

import time
from collections.abc import Mapping

from seqlens.api.message_bounds import check_tensor_names
from seqlens.api.requests import InferRequest, InferResponse, NamedTensor, Urgency
from seqlens.errors import InvalidRequest, NotOffered
from seqlens.sequences import Array
from seqlens_wire.contents import read_contents
from seqlens_wire.pb.open_inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
)
from seqlens_wire.tensors import TensorError, decode, encode

Parameters = Mapping[str, InferParameter]

# Parameters of extensions that would change the answer: to ignore them would be to answer wrongly.
_REFUSED_OF_REQUESTS = ("sequence_id",)
_REFUSED_OF_INPUTS = ("shared_memory_region",)
_REFUSED_OF_OUTPUTS = ("shared_memory_region", "classification")


def read_infer_request(message: ModelInferRequest, time_remaining: float | None) -> InferRequest:
    """Plain request from a message.

    Arrays of raw contents are views of the message's bytes. ``time_remaining`` is that of the
    caller's own deadline, in seconds. Raises ``InvalidRequest``, and ``NotOffered`` for
    parameters of extensions that this server does not have.
    """
    check_tensor_names("inputs", (tensor.name for tensor in message.inputs))
    check_tensor_names("outputs", (output.name for output in message.outputs))
    _refuse(message.parameters, _REFUSED_OF_REQUESTS, "parameters")
    for output in message.outputs:
        _refuse(output.parameters, _REFUSED_OF_OUTPUTS, f"outputs.{output.name}.parameters")
    return InferRequest(
        inputs=_read_inputs(message),
        outputs=tuple(output.name for output in message.outputs),
        id=message.id,
        urgency=Urgency(
            deadline=_deadline(message.parameters, time_remaining),
            priority=_integer(message.parameters, "priority"),
        ),
    )


def write_infer_response(response: InferResponse) -> ModelInferResponse:
    """Message from a plain answer. Tensors go raw: several clients read nothing else."""
    message = ModelInferResponse(
        model_name=response.model, model_version=response.version, id=response.id
    )
    for output in response.outputs:
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.array.shape)
        message.raw_output_contents.append(
            encode(output.array, output.datatype, field=f"outputs.{output.name}")
        )
    return message


def invalid(error: TensorError) -> InvalidRequest:
    """The same complaint as an error of ours."""
    return InvalidRequest(error.field, got=error.got, expected=error.expected)


def deadline_in(seconds: float | None) -> float | None:
    """A time allowed from now on as a point on the monotonic clock."""
    return None if seconds is None else time.monotonic() + seconds


def _read_inputs(message: ModelInferRequest) -> tuple[NamedTensor, ...]:
    raw = message.raw_input_contents
    for tensor in message.inputs:
        _refuse(tensor.parameters, _REFUSED_OF_INPUTS, f"inputs.{tensor.name}.parameters")
        if raw and tensor.HasField("contents"):
            raise InvalidRequest(
                f"inputs.{tensor.name}.contents",
                got="typed contents beside raw_input_contents",
                expected="one form for all inputs of a request",
            )
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(
            "raw_input_contents", got=f"{len(raw)} entries", expected=f"{len(message.inputs)}"
        )
    return tuple(
        NamedTensor(tensor.name, tensor.datatype, _read_input(tensor, raw[index] if raw else None))
        for index, tensor in enumerate(message.inputs)
    )


def _read_input(tensor: ModelInferRequest.InferInputTensor, raw: bytes | None) -> Array:
    field = f"inputs.{tensor.name}"
    try:
        if raw is None:
            return read_contents(tensor.contents, tensor.datatype, tensor.shape, field=field)
        return decode(raw, tensor.datatype, tensor.shape, field=field)
    except TensorError as error:
        raise invalid(error) from None


def _refuse(parameters: Parameters, names: tuple[str, ...], field: str) -> None:
    for name in names:
        # Zero, empty and false stand for "not used".
        if name in parameters and _value(parameters[name]):
            raise NotOffered(f"{field}.{name}: this server does not offer that extension")


def _value(parameter: InferParameter) -> bool | int | str | float | None:
    choice = parameter.WhichOneof("parameter_choice")
    return None if choice is None else getattr(parameter, choice)


def _integer(parameters: Parameters, name: str) -> int:
    if name not in parameters:
        return 0
    value = _value(parameters[name])
    # Python's bool is an int as well.
    if type(value) is int and value >= 0:
        return value
    raise InvalidRequest(
        f"parameters.{name}", got=repr(value), expected="an integer that is not negative"
    )


def _deadline(parameters: Parameters, time_remaining: float | None) -> float | None:
    microseconds = _integer(parameters, "timeout")
    allowed = [seconds for seconds in (time_remaining,) if seconds is not None]
    if microseconds:
        allowed.append(microseconds / 1e6)
    return deadline_in(min(allowed, default=None))
