"""Many ragged sequences in one request, answered together, whatever the protocol."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from seqlens.api.calls import Call
from seqlens.api.core import Core
from seqlens.api.message_bounds import check_tensor_names
from seqlens.api.outcomes import Outcome, outcomes
from seqlens.api.requests import SequenceRequest, Urgency
from seqlens.api.validation import check_outputs
from seqlens.errors import SeqLensError
from seqlens.graphs.anatomy import OutputAnatomy
from seqlens.repository.loading import LoadedModel
from seqlens.scheduling.strategy import Strategy
from seqlens.sequences import Array, SequenceAnswer

# Sequences of a message, made when they are needed; errors stand for those that cannot be read.
ReadSequences = Callable[[], Awaitable[Sequence[SequenceRequest | SeqLensError]]]


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What is asked of a model; an empty version lets the server choose, no outputs means all."""

    model: str
    version: str
    outputs: Sequence[str]
    urgency: Urgency


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """An answer or an error for each sequence, in order, and the outputs to answer with."""

    model: LoadedModel
    outputs: Sequence[str]
    outcomes: Sequence[Outcome]


async def answer_batch(
    core: Core, call: Call, request: BatchRequest, read: ReadSequences
) -> BatchAnswer:
    """Answer each sequence by itself. Raises ``SeqLensError`` where nothing can be answered."""
    served = core.models.find(request.model, request.version)
    model, call.labels = served.model, served.model.metric_labels
    check_tensor_names("outputs", request.outputs)
    names = check_outputs(model.anatomy, request.outputs)
    with call.decoding():
        sequences = await read()
    checked = await core.inference.check(model, sequences)
    results = await outcomes(core.inference.start(served, checked, request.urgency))
    core.calls.note(call, results)
    return BatchAnswer(model, names, results)


def output_of(model: LoadedModel, spec: OutputAnatomy, answer: SequenceAnswer) -> Array:
    """One output of one sequence, without batch axis."""
    array = np.asarray(answer.outputs[spec.name])
    # A model that runs requests as they come has run a batch of one.
    if model.decision.strategy is Strategy.WHOLE and spec.batch_axis is not None:
        return np.asarray(np.take(array, 0, spec.batch_axis))
    return array
