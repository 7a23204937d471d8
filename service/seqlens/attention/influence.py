"""How much an answer depends on each position of its sequence: one pair of measures for all.

Occlusion tells what the answer depends on, the Jacobian norm how steeply it changes with a
position's embedding. Both mean the same for RNN, LSTM, GRU and Transformer in every format.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from seqlens.attention.distance import by_distance
from seqlens.attention.jacobian import difference_runs, measure_autograd, measure_differences
from seqlens.attention.occlusion import measure_occlusion, occlusion_runs
from seqlens.attention.parts import Part
from seqlens.attention.probes import probe_sequences
from seqlens.attention.questions import (
    Cost,
    InfluenceAnswer,
    InfluenceMap,
    InfluenceQuestion,
    Measure,
    Method,
)
from seqlens.attention.recurrent_jacobian import Stack, measure_stack
from seqlens.attention.runs import Runs
from seqlens.attention.subject import Subject, has_gradient, stack_between, understand
from seqlens.backends.padding import padded_length
from seqlens.backends.tapped import TappedModel
from seqlens.errors import InvalidRequest
from seqlens.sequences import Array, InputSequence

ForwardSeconds = Callable[[int, int], float]  # of a run of this length and batch size
_GRADIENT = 3  # a run forward and backward, in runs forward

Measured = tuple[Array, Array, Method]  # values [rows, columns], floors [rows]


def _never() -> bool:
    return False


def predict(
    tapped: TappedModel,
    question: InfluenceQuestion,
    lengths: Sequence[int],
    forward_seconds: ForwardSeconds,
    *,
    together: bool = True,
) -> Cost:
    """What the question will take for sequences of these lengths.

    Runs the model once or twice on a random sequence as short as the shortest, to see what it
    has. Sequences without the positions that are asked for take nothing. Raises
    ``InvalidRequest`` for what is wrong with the question whatever the sequence, and
    ``NotInModel`` for what the model does not have.
    """
    _check_lengths(lengths)
    probe = probe_sequences(tapped.anatomy, {}, [min(lengths)])[0]
    subject = understand(tapped, question, probe, together=together)
    method, stack = _exact_method(subject, probe)
    cost = Cost(0, 0.0)
    for length in lengths:
        for measure_name in question.measures:
            with suppress(InvalidRequest):  # measuring tells it of its sequence
                more = _cost(subject, measure_name, method, stack, length, forward_seconds)
                cost = Cost(cost.runs + more.runs, cost.seconds + more.seconds)
    return cost


def measure(
    tapped: TappedModel,
    sequences: Sequence[InputSequence],
    question: InfluenceQuestion,
    *,
    together: bool,
    cost: Cost,
    cancelled: Callable[[], bool] = _never,
) -> InfluenceAnswer:
    """Influence maps of all sequences, one for each measure, and summaries if asked for.

    What is wrong with a sequence, such as a position that it does not have, costs the others
    nothing: it is among the answer's errors, and no maps are. ``together``: rows of equal length
    may share a run. ``cost`` is what was predicted. ``cancelled`` is asked before every run; when
    it says so ``CallerLeft`` is raised. Raises what ``predict`` does.
    """
    _check_lengths([one.length for one in sequences])
    runs = Runs(tapped, cancelled)
    subject = understand(tapped, question, sequences[0], together=together)
    gradient = _wants_exact(question) and has_gradient(subject, sequences[0])
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


def _wants_exact(question: InfluenceQuestion) -> bool:
    return question.exact and "jacobian" in question.measures


def _exact_method(subject: Subject, probe: InputSequence) -> tuple[Method, Stack | None]:
    """How the Jacobian will be had, as far as a probe tells."""
    if not _wants_exact(subject.question):
        return "central_differences", None
    if has_gradient(subject, probe):
        return "autograd", None
    # The probe need not have the positions that are asked for.
    whole = replace(subject.question, input_positions=(), output_positions=())
    part = replace(subject, question=whole).part(Runs(subject.tapped, _never), probe)
    found = stack_between(subject, part)
    return ("central_differences", None) if found is None else ("closed_form", found[0])


def _cost(
    subject: Subject,
    name: Measure,
    method: Method,
    stack: Stack | None,
    length: int,
    forward_seconds: ForwardSeconds,
) -> Cost:
    """Of one measure of one sequence."""
    anatomy = subject.aim.anatomy
    padded, batch = padded_length(anatomy, [length]), subject.batch(length)
    single = forward_seconds(padded, anatomy.fixed_batch or 1)
    full = forward_seconds(padded, max(batch, anatomy.fixed_batch or 1))
    looks = 2 if subject.more_rows else 1
    rows = len(subject.rows(max(1, length + subject.more_rows))) or 1
    targets = rows if subject.aim.one_element else rows * subject.width
    if name == "jacobian" and stack is not None:
        return Cost(looks, looks * single + stack.seconds(length, targets))
    if name == "jacobian" and method == "autograd":
        runs = -(-targets // batch)
        return Cost(looks + runs, looks * single + runs * _GRADIENT * full)
    columns = len(subject.columns(length))
    if name == "occlusion":
        runs = occlusion_runs(subject.question, subject.changed, columns, batch)
    else:
        runs = difference_runs(subject.question, columns, batch)
    looks += name == "jacobian" and _wants_exact(subject.question)  # it found no exact way
    return Cost(looks + runs, looks * single + runs * full)


def _check_lengths(lengths: Sequence[int]) -> None:
    if not lengths or min(lengths) < 1:
        raise InvalidRequest("sequences", got="no positions", expected="at least one in each")
