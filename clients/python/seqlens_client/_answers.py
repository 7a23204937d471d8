"""From the server's messages to results and errors."""

import itertools
from collections.abc import Mapping, Sequence

from seqlens_client._errors import SeqLensError, error_of_sequence, unreadable_answer
from seqlens_client._results import Result
from seqlens_wire.contents import read_contents
from seqlens_wire.datatypes import Array, TensorError
from seqlens_wire.pb.open_inference_pb2 import ModelInferResponse
from seqlens_wire.pb.sequences_pb2 import Answers, SequenceResult
from seqlens_wire.ragged import unpack
from seqlens_wire.tensors import decode

Outcome = Result | SeqLensError


def checked(outcome: Outcome) -> Result:
    """The result, or its error raised."""
    if isinstance(outcome, SeqLensError):
        raise outcome
    return outcome


def read_answers(answers: Answers, version: str, indices: Sequence[int | None]) -> list[Outcome]:
    """What became of the sequences with these indices, in the message's order.

    Raises ``ServerError`` for a message that does not agree with itself.
    """
    if len(answers.results) != len(indices):
        raise unreadable_answer(f"{len(answers.results)} results for {len(indices)} sequences")
    answered = sum(not result.HasField("error") for result in answers.results)
    rows = iter(_read_rows(answers, answered))
    return [
        error_of_sequence(result.error, index)
        if result.HasField("error")
        else _result(result, next(rows), version)
        for result, index in zip(answers.results, indices, strict=True)
    ]


def _read_rows(answers: Answers, count: int) -> list[dict[str, Array]]:
    """The outputs of each sequence that has any."""
    columns: dict[str, list[Array]] = {}
    for tensor in answers.outputs:
        try:
            columns[tensor.name] = unpack(tensor)
        except TensorError as error:
            raise unreadable_answer(str(error)) from error
        if tensor.rows != count:
            raise unreadable_answer(f"{tensor.name} has {tensor.rows} rows for {count} sequences")
    return [{name: column[row] for name, column in columns.items()} for row in range(count)]


def _result(result: SequenceResult, outputs: Mapping[str, Array], version: str) -> Result:
    return Result(
        # Rows are read-only views that would keep the whole message alive.
        outputs={name: array.copy() for name, array in outputs.items()},
        length=result.length,
        queue_seconds=result.queue_seconds,
        compute_seconds=result.compute_seconds,
        batch_size=result.batch_size,
        padded_length=result.padded_length,
        model_version=version,
    )


def read_tensors(response: ModelInferResponse) -> dict[str, Array]:
    """Outputs of a plain inference by name, from their raw or their typed form."""
    raw = itertools.chain(response.raw_output_contents, itertools.repeat(None))
    try:
        return {
            output.name: _read_tensor(output, data)
            for output, data in zip(response.outputs, raw, strict=False)
        }
    except TensorError as error:
        raise unreadable_answer(str(error)) from error


def _read_tensor(output: ModelInferResponse.InferOutputTensor, data: bytes | None) -> Array:
    if data is None:
        return read_contents(output.contents, output.datatype, output.shape, field=output.name)
    return decode(data, output.datatype, output.shape, field=output.name).copy()
