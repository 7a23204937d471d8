"""How much an answer depends on each position of its sequence: one pair of measures for all.

Occlusion tells what the answer depends on, the Jacobian norm how steeply it changes with a
position's embedding. Both mean the same for RNN, LSTM, GRU and Transformer in every format.
"""

from collections.abc import Callable, Sequence

import numpy as np

from seqlens.attention.distance import by_distance
from seqlens.attention.jacobian import measure_autograd, measure_differences
from seqlens.attention.occlusion import measure_occlusion
from seqlens.attention.parts import Part
from seqlens.attention.questions import (
    Cost,
    InfluenceAnswer,
    InfluenceMap,
    InfluenceQuestion,
    Measure,
    Method,
)
from seqlens.attention.recurrent_jacobian import Stack, measure_stack
from seqlens.attention.runs import Runs, never
from seqlens.attention.subject import (
    Subject,
    check_lengths,
    has_gradient,
    stack_between,
    understand,
    wants_exact,
)
from seqlens.backends.tapped import TappedModel
from seqlens.errors import InvalidRequest
from seqlens.sequences import Array, InputSequence

Measured = tuple[Array, Array, Method]  # values [rows, columns], floors [rows]


def measure(
    tapped: TappedModel,
    sequences: Sequence[InputSequence],
    question: InfluenceQuestion,
    *,
    together: bool,
    cost: Cost,
    cancelled: Callable[[], bool] = never,
) -> InfluenceAnswer:
    """Influence maps of all sequences, one for each measure, and summaries if asked for.

    What is wrong with a sequence, such as a position that it does not have, costs the others
    nothing: it is among the answer's errors, and no maps are. ``together``: rows of equal length
    may share a run. ``cost`` is what was predicted. ``cancelled`` is asked before every run; when
    it says so ``CallerLeft`` is raised. Raises what ``predict`` does.
    """
    check_lengths([one.length for one in sequences])
    runs = Runs(tapped, cancelled)
    subject = understand(tapped, question, sequences[0], together=together)
    gradient = wants_exact(question) and has_gradient(subject, sequences[0])
    maps: list[InfluenceMap] = []
    errors: dict[int, InvalidRequest] = {}
    for number, sequence in enumerate(sequences):
        try:
            part = subject.part(runs, sequence)
            maps += [
                _map(subject, name, part, number, gradient=gradient) for name in question.measures
            ]
        except InvalidRequest as error:
            errors[number] = error
    lengths = [one.length for one in sequences]
    summaries = [
        by_distance(tapped.anatomy, name, maps, lengths)
        for name in question.measures
        if question.by_distance
    ]
    return InfluenceAnswer(
        subject.aim.target, tuple(maps), tuple(summaries), cost, runs.taken, errors
    )


def shares_of(values: Array, floors: Array) -> Array:
    """Values [rows, columns] in parts of their row's sum, those not above its floor as 0.

    A row without anything above its floor is all zeros. Float64.
    """
    known = np.where(values > floors[:, None], values, 0).astype(np.float64)
    # Scaled first: a sum of the smallest numbers there are would not be exact.
    largest = known.max(axis=1, keepdims=True, initial=0.0)
    scaled = np.divide(known, largest, out=np.zeros_like(known), where=largest > 0)
    sums = scaled.sum(axis=1, keepdims=True)
    shares: Array = np.divide(scaled, sums, out=np.zeros_like(known), where=sums > 0)
    return shares


def _map(
    subject: Subject, name: Measure, part: Part, number: int, *, gradient: bool
) -> InfluenceMap:
    values, floors, method = _measured(subject, name, part, gradient=gradient)
    return InfluenceMap(
        number,
        name,
        method,
        part.rows,
        part.columns,
        values.astype(np.float32),
        shares_of(values, floors).astype(np.float32),
        floors.astype(np.float32),
    )


def _measured(subject: Subject, name: Measure, part: Part, *, gradient: bool) -> Measured:
    question = subject.question
    if name == "occlusion":
        return (*measure_occlusion(part, question), "replacement")
    if gradient:
        return (*measure_autograd(part), "autograd")
    found = stack_between(subject, part) if question.exact else None
    if found is not None:
        return (*_closed_form(subject, part, *found), "closed_form")
    return (*measure_differences(part, question), "central_differences")


def _closed_form(subject: Subject, part: Part, stack: Stack, answer: Array) -> tuple[Array, Array]:
    targets = subject.targets(part, part.read(answer))
    rows = len(part.places)
    values = measure_stack(stack, targets, rows, part.length, part.runs.check)
    return values[:, list(part.columns)], np.zeros(rows)
