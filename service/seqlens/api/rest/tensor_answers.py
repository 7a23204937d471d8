"""Plain answers to bodies: JSON, or JSON with the bytes of tensors behind it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from seqlens.api.requests import AnsweredOutput, InferResponse
from seqlens.api.shared_memory import SharedMemory, SharedWrite
from seqlens.errors import AnswerTooLarge, InvalidRequest
from seqlens.sequences import Array
from seqlens_wire.tensors import encode


@dataclass(frozen=True, slots=True)
class TensorAnswer:
    """The parts of a body; ``header_length`` is that of the JSON where bytes follow it."""

    parts: list[bytes]
    header_length: int | None


def write_infer_response(
    response: InferResponse, binary: Iterable[str], memory: SharedMemory, most: int
) -> TensorAnswer:
    """The body of an answer, whose outputs named in ``binary`` go as bytes behind the JSON.

    In JSON numbers are one flat list in row-major order, and NaN is null. Outputs with a place
    in shared memory are put there. Raises ``InvalidRequest`` for what has no JSON form or no
    room, and ``AnswerTooLarge`` for bodies of more than ``most`` bytes.
    """
    tail: list[bytes] = []
    writes: list[SharedWrite] = []
    outputs = [_written(output, binary, tail, writes) for output in response.outputs]
    message = {
        "model_name": response.model,
        "model_version": response.version,
        "id": response.id,
        "outputs": outputs,
    }
    text = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    size = len(text) + sum(map(len, tail))
    if size > most:
        raise AnswerTooLarge(size, most)
    memory.write_all(writes)
    in_tail = any("parameters" in output for output in outputs)
    return TensorAnswer([text, *tail], len(text) if in_tail else None)


def _written(
    output: AnsweredOutput, binary: Iterable[str], tail: list[bytes], writes: list[SharedWrite]
) -> dict[str, Any]:
    tensor, place = output.tensor, output.place
    field = f"outputs.{tensor.name}"
    written: dict[str, Any] = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": tensor.array.shape,
    }
    if place is None and tensor.name not in binary:
        return written | {"data": _data(tensor.array, field)}
    data = encode(tensor.array, tensor.datatype, field=field)
    if place is None:
        tail.append(data)
        return written | {"parameters": {"binary_data_size": len(data)}}
    # Nothing tells of the place, which the caller knows: the C++ clients of the reference server
    # refuse an output whose parameters have no binary_data_size.
    writes.append(SharedWrite(place, data, field))
    return written


def _data(array: Array, field: str) -> Array | list[str]:
    """What orjson writes as one flat list. Of NaN it makes null, which numpy reads as NaN."""
    flat = array.ravel()
    if flat.dtype.kind == "O":
        return _texts(flat, field)
    # orjson would make null of infinity as well: another number, without a word.
    if flat.dtype.kind == "f" and np.isinf(flat).any():
        raise InvalidRequest(
            field,
            got="infinity, which is not JSON",
            expected="a request for the output in binary (binary_data: true)",
        )
    return np.ascontiguousarray(flat)


def _texts(flat: Array, field: str) -> list[str]:
    try:
        return [element.decode() for element in flat.tolist()]
    except UnicodeDecodeError:
        raise InvalidRequest(
            field,
            got="bytes that are not UTF-8",
            expected="a request for the output in binary (binary_data: true)",
        ) from None
