"""Outcomes of ragged sequences as JSON."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson

from seqlens.api.batch import output_of
from seqlens.api.outcomes import Outcome
from seqlens.errors import InvalidRequest, Overloaded, SeqLensError
from seqlens.graphs.anatomy import OutputRole
from seqlens.repository.loading import LoadedModel
from seqlens.sequences import Array, SequenceAnswer

Json = dict[str, Any]

# Writing JSON takes as long as copying so many times the bytes of its arrays.
JSON_COST = 8


def to_json(value: object) -> bytes:
    """JSON of plain values and arrays; NaN becomes null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def write_outcome(model: LoadedModel | None, outcome: Outcome, names: Iterable[str]) -> Json:
    """What is told of one sequence: its outputs as nested lists, or its error.

    ``model`` is None where none could be found, ``names`` are the outputs that were asked for.
    Raises ``InvalidRequest`` for outputs that have no JSON form.
    """
    if isinstance(outcome, SeqLensError):
        return {"error": write_error(outcome)}
    assert model is not None  # only errors come without one
    return _write_answer(model, outcome, names)


def write_error(error: SeqLensError) -> Json:
    """What is told of an error that concerns a single sequence."""
    written: Json = {
        "code": error.grpc_code,
        "message": _text(str(error)),
        "field": _text(error.field),
        "got": _text(error.got),
        "expected": _text(error.expected),
    }
    if isinstance(error, Overloaded):
        written["retry_after_seconds"] = error.retry_after_seconds
    return written


def _write_answer(model: LoadedModel, answer: SequenceAnswer, names: Iterable[str]) -> Json:
    written: Json = {
        "length": answer.length,
        "queue_seconds": answer.queue_seconds,
        "compute_seconds": answer.compute_seconds,
        "batch_size": answer.batch_size,
        "padded_length": answer.padded_length,
    }
    outputs: Json = {}
    for spec in model.anatomy.outputs:
        if spec.name in names:
            array = output_of(model, spec, answer)
            outputs[spec.name] = _values(array, f"outputs.{spec.name}")
            if spec.role is OutputRole.PER_SEQUENCE and array.shape == (len(model.labels),):
                written.setdefault("label", model.labels[int(array.argmax())])
    return written | {"outputs": outputs}


def _values(array: Array, field: str) -> Any:
    """What orjson writes as nested lists. Of NaN it makes null, which numpy reads as NaN."""
    if array.dtype.kind == "O":
        return _texts(array.tolist(), field)
    # orjson would make null of infinity as well: another number, without a word.
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise InvalidRequest(
            field,
            got="infinity, which is not JSON",
            expected="a request over gRPC, or for the output in binary at /v2",
        )
    return np.ascontiguousarray(array) if array.ndim else array.item()


def _texts(value: Any, field: str) -> Any:
    if isinstance(value, list):
        return [_texts(one, field) for one in value]
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise InvalidRequest(
            field,
            got="bytes that are not UTF-8",
            expected="a request over gRPC, or for the output in binary at /v2",
        ) from None


def _text(text: str) -> str:
    """Half of a surrogate pair, which clients may send, has no place in JSON."""
    return text.encode("utf-8", "replace").decode()
