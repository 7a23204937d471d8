"""What a question about influence will take, told before it is measured."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from seqlens.attention.jacobian import difference_runs
from seqlens.attention.occlusion import occlusion_runs
from seqlens.attention.probes import probe_sequences
from seqlens.attention.questions import Cost, InfluenceQuestion, Measure
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
_GRADIENT = 3.0  # a run forward and backward, at least, in runs forward
_TRIES = 2  # a run that something else held up says little


@dataclass(frozen=True, slots=True)
class _Exact:
    """How a Jacobian is had without differences; neither: it is not."""

    stack: Stack | None = None  # in closed form
    gradient: tuple[float, int, int] | None = None  # by autograd: one run, see _gradient_run

    def runs(self, forward_seconds: ForwardSeconds) -> float:
        """How many runs forward one with its gradient takes.

        20 in TorchScript, where autograd takes recurrent layers apart into their steps.
        """
        assert self.gradient is not None
        taken, length, rows = self.gradient
        return max(_GRADIENT, taken / forward_seconds(length, rows))


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
    exact = _exact_way(subject, probe)

    def forecast(forward_seconds: ForwardSeconds, columns: int | None) -> Cost:
        cost = Cost(0, 0.0)
        for length in lengths:
            one = subject if columns is None else _narrowed(subject, min(columns, length))
            for measure in question.measures:
                with suppress(InvalidRequest):  # measuring tells it of its sequence
                    more = _cost(one, measure, exact, length, forward_seconds)
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


def _exact_way(subject: Subject, probe: InputSequence) -> _Exact:
    """How the Jacobian will be had, as far as a probe tells."""
    if not wants_exact(subject.question):
        return _Exact()
    if has_gradient(subject, probe):
        return _Exact(gradient=_gradient_run(subject, probe))
    # The probe need not have the positions that are asked for.
    whole = replace(subject.question, input_positions=(), output_positions=())
    part = replace(subject, question=whole).part(Runs(subject.tapped, never), probe)
    found = stack_between(subject, part)
    return _Exact(stack=None if found is None else found[0])


def _gradient_run(subject: Subject, probe: InputSequence) -> tuple[float, int, int]:
    """Seconds of a run with its gradient, its length and its rows."""
    anatomy, aim = subject.aim.anatomy, subject.aim
    rows = filled(anatomy, [probe] * subject.batch(probe.length))
    inputs = pad(anatomy, rows)
    weights = aim.whole(subject.tapped.run(inputs, aim.look())) * 0
    started = time.perf_counter()
    subject.tapped.gradient(inputs, aim.target.output, weights)
    taken = time.perf_counter() - started
    return taken, padded_length(anatomy, [probe.length]), len(rows)


def _cost(
    subject: Subject,
    name: Measure,
    exact: _Exact,
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
    if name == "jacobian" and exact.stack is not None:
        return Cost(looks, looks * single + exact.stack.seconds(length, targets))
    if name == "jacobian" and exact.gradient is not None:
        runs = -(-targets // batch)
        return Cost(looks + runs, looks * single + runs * exact.runs(forward_seconds) * full)
    columns = len(subject.columns(length))
    if name == "occlusion":
        runs = occlusion_runs(subject.question, subject.changed, columns, batch)
    else:
        runs = difference_runs(subject.question, columns, batch)
    looks += name == "jacobian" and wants_exact(subject.question)  # it found no exact way
    return Cost(looks + runs, looks * single + runs * full)
