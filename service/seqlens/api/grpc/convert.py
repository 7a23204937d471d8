"""Messages of the Open Inference Protocol to plain requests, and plain answers to messages."""

from collections.abc import Mapping

from seqlens.api.failures import invalid
from seqlens.api.message_bounds import check_tensor_names
from seqlens.api.parameters import (
    Parameters,
    read_output,
    read_place,
    read_sequence_id,
    read_urgency,
)
from seqlens.api.requests import (
    AnsweredOutput,
    InferRequest,
    InferResponse,
    NamedTensor,
    RequestedOutput,
    SharedPlace,
)
from seqlens.api.shared_memory import SharedMemory, SharedWrite
from seqlens.errors import InvalidRequest
from seqlens.sequences import Array
from seqlens_wire.contents import read_contents
from seqlens_wire.pb.open_inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
)
from seqlens_wire.tensors import TensorError, decode, encode

_SIZE = "shared_memory_byte_size"


def read_infer_request(
    message: ModelInferRequest, time_remaining: float | None, memory: SharedMemory
) -> InferRequest:
    """Plain request from a message.

    Arrays of raw contents are views of the message's bytes. ``time_remaining`` is that of the
    caller's own deadline, in seconds. Raises ``InvalidRequest``.
    """
    check_tensor_names("inputs", (tensor.name for tensor in message.inputs))
    check_tensor_names("outputs", (output.name for output in message.outputs))
    parameters = plain_parameters(message.parameters)
    return InferRequest(
        inputs=_read_inputs(message, memory),
        outputs=_read_outputs(message, memory),
        id=message.id,
        urgency=read_urgency(parameters, time_remaining),
        sequence_id=read_sequence_id(parameters),
    )


def request_bytes(message: ModelInferRequest) -> int:
    """How much there is to read: the message, and what it has in shared memory."""
    shared = (_value(t.parameters[_SIZE]) for t in message.inputs if _SIZE in t.parameters)
    return message.ByteSize() + sum(size for size in shared if isinstance(size, int))


def plain_parameters(parameters: Mapping[str, InferParameter]) -> Parameters:
    """Parameters by name; None for one without a value."""
    return {name: _value(parameter) for name, parameter in parameters.items()}


def write_infer_response(response: InferResponse, memory: SharedMemory) -> ModelInferResponse:
    """Message from a plain answer. Tensors go raw: several clients read nothing else.

    Those with a place in shared memory are put there instead, and have raw contents without a
    byte: clients count the outputs to find theirs. Raises ``InvalidRequest``, with nothing
    written, where one does not fit.
    """
    message = ModelInferResponse(
        model_name=response.model, model_version=response.version, id=response.id
    )
    writes = []
    for output in response.outputs:
        tensor, field = output.tensor, f"outputs.{output.tensor.name}"
        data = encode(tensor.array, tensor.datatype, field=field)
        if output.place is not None:
            writes.append(SharedWrite(output.place, data, field))
        _write_output(message, output, data)
    memory.write_all(writes)
    return message


def _write_output(message: ModelInferResponse, output: AnsweredOutput, data: bytes) -> None:
    tensor, place = output.tensor, output.place
    written = message.outputs.add(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape
    )
    message.raw_output_contents.append(data if place is None else b"")
    if place is not None:
        written.parameters["shared_memory_region"].string_param = place.region
        written.parameters["shared_memory_offset"].int64_param = place.offset
        written.parameters[_SIZE].int64_param = len(data)


def _read_outputs(message: ModelInferRequest, memory: SharedMemory) -> tuple[RequestedOutput, ...]:
    outputs = []
    for tensor in message.outputs:
        output = read_output(tensor.name, plain_parameters(tensor.parameters))
        if output.place is not None:
            memory.check(output.place, f"outputs.{output.name}")
        outputs.append(output)
    return tuple(outputs)


def _read_inputs(message: ModelInferRequest, memory: SharedMemory) -> tuple[NamedTensor, ...]:
    places = [_input_place(tensor) for tensor in message.inputs]
    _check_forms(message, places)
    shared = [
        (place, f"inputs.{tensor.name}")
        for place, tensor in zip(places, message.inputs, strict=True)
        if place
    ]
    # Raw contents belong to the inputs in order, but for those in shared memory.
    copied, raw = iter(memory.read_all(shared)), iter(message.raw_input_contents)
    return tuple(
        NamedTensor(
            tensor.name,
            tensor.datatype,
            _read_input(tensor, next(copied) if place else next(raw, None)),
        )
        for tensor, place in zip(message.inputs, places, strict=True)
    )


def _input_place(tensor: ModelInferRequest.InferInputTensor) -> SharedPlace | None:
    if not tensor.parameters:
        return None
    return read_place(plain_parameters(tensor.parameters), f"inputs.{tensor.name}.parameters")


def _check_forms(message: ModelInferRequest, places: list[SharedPlace | None]) -> None:
    raw = message.raw_input_contents
    for tensor, place in zip(message.inputs, places, strict=True):
        # Contents that are there and empty are those of clients that always make them.
        if (raw or place) and tensor.HasField("contents") and tensor.contents.ListFields():
            raise InvalidRequest(
                f"inputs.{tensor.name}.contents",
                got="typed contents beside another form",
                expected="one form for all inputs of a request, or shared memory for this one",
            )
    in_message = places.count(None)
    if raw and len(raw) != in_message:
        raise InvalidRequest(
            "raw_input_contents", got=f"{len(raw)} entries", expected=f"{in_message}"
        )


def _read_input(tensor: ModelInferRequest.InferInputTensor, raw: bytes | None) -> Array:
    field = f"inputs.{tensor.name}"
    try:
        if raw is None:
            return read_contents(tensor.contents, tensor.datatype, tensor.shape, field=field)
        return decode(raw, tensor.datatype, tensor.shape, field=field)
    except TensorError as error:
        raise invalid(error) from None


def _value(parameter: InferParameter) -> bool | int | str | float | None:
    choice = parameter.WhichOneof("parameter_choice")
    return None if choice is None else getattr(parameter, choice)
