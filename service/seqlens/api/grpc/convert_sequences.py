"""Ragged sequences of ``seqlens.v1`` to plain requests, and their outcomes to messages."""

from collections.abc import Mapping, Sequence

from seqlens.api.batch import output_of
from seqlens.api.failures import invalid
from seqlens.api.message_bounds import check_count, check_tensor_names
from seqlens.api.outcomes import Outcome
from seqlens.api.requests import NamedTensor, SequenceRequest
from seqlens.errors import InvalidRequest, Overloaded, SeqLensError
from seqlens.repository.loading import LoadedModel
from seqlens.sequences import Array, SequenceAnswer
from seqlens_wire.pb.sequences_pb2 import Answers, SequenceError, SequenceResult, Sequences
from seqlens_wire.ragged import pack, unpack
from seqlens_wire.tensors import TensorError


def read_sequences(message: Sequences, most: int) -> list[SequenceRequest]:
    """One plain request for each of at most ``most`` sequences of a message.

    Raises ``InvalidRequest``.
    """
    check_tensor_names("inputs", (tensor.name for tensor in message.inputs))
    count = max([len(message.texts), *(tensor.rows for tensor in message.inputs)])
    check_count("sequences", count, most)
    if message.texts and message.inputs:
        raise InvalidRequest("sequences", got="texts and inputs", expected="one of them")
    if message.texts:
        return [SequenceRequest(text=text) for text in message.texts]
    columns: dict[str, tuple[str, list[Array]]] = {}
    for tensor in message.inputs:
        if tensor.name in columns:
            raise InvalidRequest(f"inputs.{tensor.name}", got="twice", expected="once")
        try:
            rows = unpack(tensor, field=f"inputs.{tensor.name}")
        except TensorError as error:
            raise invalid(error) from None
        columns[tensor.name] = tensor.datatype, rows
    return _requests(columns)


def _requests(columns: Mapping[str, tuple[str, list[Array]]]) -> list[SequenceRequest]:
    counts = {name: len(rows) for name, (_, rows) in columns.items()}
    first = next(iter(counts), "")
    for name, count in counts.items():
        if count != counts[first]:
            raise InvalidRequest(
                f"inputs.{name}.rows", got=str(count), expected=f"{counts[first]}, as in {first!r}"
            )
    tensors = (
        [NamedTensor(name, kind, row) for row in rows] for name, (kind, rows) in columns.items()
    )
    return [SequenceRequest(inputs) for inputs in zip(*tensors, strict=True)]


def write_answers(
    model: LoadedModel | None, outcomes: Sequence[Outcome], names: Sequence[str]
) -> Answers:
    """Message with a result for each sequence and the outputs of those without an error.

    ``model`` is None where none could be found, ``names`` are the outputs that were asked for.
    """
    answers = [one for one in outcomes if isinstance(one, SequenceAnswer)]
    message = Answers(results=[_write_result(one) for one in outcomes])
    if model is None or not answers:
        return message
    for spec in model.anatomy.outputs:
        if spec.name in names:
            arrays = [output_of(model, spec, answer) for answer in answers]
            message.outputs.append(pack(spec.name, spec.datatype, arrays))
    return message


def _write_result(outcome: Outcome) -> SequenceResult:
    if isinstance(outcome, SeqLensError):
        return SequenceResult(error=write_error(outcome))
    return SequenceResult(
        length=outcome.length,
        queue_seconds=outcome.queue_seconds,
        compute_seconds=outcome.compute_seconds,
        batch_size=outcome.batch_size,
        padded_length=outcome.padded_length,
    )


def write_error(error: SeqLensError) -> SequenceError:
    """Message of an error that concerns a single sequence."""
    return SequenceError(
        code=error.grpc_code,
        message=str(error),
        field=error.field,
        got=error.got,
        expected=error.expected,
        retry_after_seconds=error.retry_after_seconds if isinstance(error, Overloaded) else None,
    )
