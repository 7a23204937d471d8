"""What a question about influence will take, told before it is measured."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from seqlens.attention.jacobian import difference_runs
from seqlens.attention.occlusion import occlusion_runs
from seqlens.attention.probes import probe_sequences
from seqlens.attention.questions import Cost, InfluenceQuestion, Measure, Method
from seqlens.attention.recurrent_jacobian import Stack
from seqlens.attention.runs import Runs, filled, never
from seqlens.attention.subject import (
    Subject,
    check_lengths,
    has_gradient,
    stack_between,
    understand,
    wants_exact,
)
from seqlens.backends.padding import pad, padded_length
from seqlens.backends.tapped import Look, TappedModel
from seqlens.errors import InvalidRequest
from seqlens.sequences import InputSequence

ForwardSeconds = Callable[[int, int], float]  # of a run of this length and batch size
_GRADIENT = 3  # a run forward and backward, in runs forward
_TRIES = 2  # a run that something else held up says little


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
    return _forecast(tapped, question, lengths, together=together)(forward_seconds, None)


def fitting_columns(
    tapped: TappedModel,
    question: InfluenceQuestion,
    lengths: Sequence[int],
    forward_seconds: ForwardSeconds,
    seconds: float,
    *,
    together: bool = True,
) -> int:
    """Input positions of each sequence that take at most so many seconds; 0: not even one."""
    forecast = _forecast(tapped, question, lengths, together=together)
    least, most = 0, max(lengths)
    while least < most:
        middle = (least + most + 1) // 2
        if forecast(forward_seconds, middle).seconds <= seconds:
            least = middle
        else:
            most = middle - 1
    return least


def watched(
    tapped: TappedModel,
    question: InfluenceQuestion,
    length: int,
    forward_seconds: ForwardSeconds,
    *,
    together: bool = True,
) -> ForwardSeconds:
    """The same with what looking in takes beside each run, whatever its length.

    Small TorchScript models take 20 times as long while each of their operators is watched. Runs
    the model on sequences of ``length``, a short one is enough.
    """
    check_lengths([length])
    anatomy = tapped.anatomy
    probe = probe_sequences(anatomy, {}, [length])[0]
    subject = understand(tapped, question, probe, together=together)
    rows = filled(anatomy, [probe] * subject.batch(length))
    taken = min(_seconds(tapped, rows, subject.aim.look()) for _ in range(_TRIES))
    told = forward_seconds(padded_length(anatomy, [length]), len(rows))
    beside = max(0.0, taken - told)
    return lambda length, batch: forward_seconds(length, batch) + beside


def timed(
    tapped: TappedModel,
    question: InfluenceQuestion,
    length: int,
    forward_seconds: ForwardSeconds,
    *,
    together: bool = True,
) -> ForwardSeconds:
    """The same put right by a run of this length: what short runs foretell may be far off."""
    anatomy = tapped.anatomy
    probe = probe_sequences(anatomy, {}, [length])[0]
    # Understanding it runs it, so that the run that is timed is no first one.
    aim = understand(tapped, question, probe, together=together).aim
    taken = _seconds(tapped, filled(anatomy, [probe]), aim.look())
    told = forward_seconds(padded_length(anatomy, [length]), anatomy.fixed_batch or 1)
    return lambda length, batch: forward_seconds(length, batch) * taken / told


def _seconds(tapped: TappedModel, rows: Sequence[InputSequence], look: Look) -> float:
    inputs = pad(tapped.anatomy, rows)
    started = time.perf_counter()
    tapped.run(inputs, look)
    return time.perf_counter() - started


def _forecast(
    tapped: TappedModel, question: InfluenceQuestion, lengths: Sequence[int], *, together: bool
) -> Callable[[ForwardSeconds, int | None], Cost]:
    """What the question takes, by the seconds of runs and how many columns there are."""
    check_lengths(lengths)
    probe = probe_sequences(tapped.anatomy, {}, [min(lengths)])[0]
    subject = understand(tapped, question, probe, together=together)
    method, stack = _exact_method(subject, probe)

    def forecast(forward_seconds: ForwardSeconds, columns: int | None) -> Cost:
        cost = Cost(0, 0.0)
        for length in lengths:
            one = subject if columns is None else _narrowed(subject, min(columns, length))
            for measure in question.measures:
                with suppress(InvalidRequest):  # measuring tells it of its sequence
                    more = _cost(one, measure, method, stack, length, forward_seconds)
                    size = cost.bytes + _bytes(one, length)
                    cost = Cost(cost.runs + more.runs, cost.seconds + more.seconds, size)
        return cost

    return forecast


def _bytes(subject: Subject, length: int) -> int:
    """Of the map of one sequence: values, shares and floors, float32."""
    rows = len(subject.rows(max(1, length + subject.more_rows))) or 1
    return 4 * rows * (2 * len(subject.columns(length)) + 1)


def _narrowed(subject: Subject, columns: int) -> Subject:
    """The same for the first columns only."""
    few = replace(subject.question, input_positions=tuple(range(columns)))
    return replace(subject, question=few)


def _exact_method(subject: Subject, probe: InputSequence) -> tuple[Method, Stack | None]:
    """How the Jacobian will be had, as far as a probe tells."""
    if not wants_exact(subject.question):
        return "central_differences", None
    if has_gradient(subject, probe):
        return "autograd", None
    # The probe need not have the positions that are asked for.
    whole = replace(subject.question, input_positions=(), output_positions=())
    part = replace(subject, question=whole).part(Runs(subject.tapped, never), probe)
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
    looks += name == "jacobian" and wants_exact(subject.question)  # it found no exact way
    return Cost(looks + runs, looks * single + runs * full)
