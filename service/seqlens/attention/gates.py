"""Gates of LSTM and GRU layers at every step, recomputed from what the layers read."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from seqlens.attention.questions import GateLayer, GateQuestion, GateReading
from seqlens.attention.recurrent_cells import Steps, recompute, supported
from seqlens.attention.runs import CallerLeft, filled, never
from seqlens.backends.padding import pad
from seqlens.backends.tapped import Look, RecurrentTrace, TappedModel
from seqlens.errors import InvalidRequest, NotInModel
from seqlens.graphs.anatomy import Cell, ModelAnatomy
from seqlens.sequences import Array, InputSequence

# The gate whose product says how much of the state is kept, and how that product is called.
_KEEPING = {"lstm": ("forget", "forget_product"), "gru": ("update", "update_product")}
_READINGS: Mapping[Cell, int] = {"lstm": 5, "gru": 4, "rnn": 0}
_KEPT = 3  # vectors of a layer at a step: what it reads, its hidden state and its cell
_MOST_ROWS = 32  # sequences of one length that share a run

Traced = tuple[RecurrentTrace, int]  # a layer at work, and a row of its batch


def read_gates(
    tapped: TappedModel,
    sequences: Sequence[InputSequence],
    question: GateQuestion,
    *,
    together: bool,
    cancelled: Callable[[], bool] = never,
) -> Iterator[GateLayer]:
    """The gates of each chosen layer and direction, in order of execution.

    Steps stand in the order of the sequence. A product runs in the order of computation: the
    share of what its first step left in the state that is there after each step, 1 at the first.
    ``together``: sequences of equal length may share a run. ``cancelled`` is asked before every
    run and sequence; when it says so ``CallerLeft`` is raised. Raises ``InvalidRequest`` for
    unknown layers and quantiles outside [0, 1], ``NotInModel`` for layers without gates.
    """
    _check_quantiles(question.quantiles)
    traced = _trace(tapped, sequences, cancelled, together=together)
    first = [trace for trace, _ in traced[0]]
    for place in _chosen(tapped, first, question.layers):
        yield _layer(place, [one[place] for one in traced], sequences, question, cancelled)


def predicted_gate_bytes(
    anatomy: ModelAnatomy, question: GateQuestion, lengths: Sequence[int]
) -> int:
    """Bytes of the arrays of all readings, as far as the anatomy tells.

    Layers whose number of units is not known count as summaries.
    """
    sizes = _layer_sizes(anatomy)
    wanted = set(question.layers)
    total = 0
    for number, (readings, units) in enumerate(sizes):
        if wanted and not wanted & {number, number - len(sizes)}:
            continue
        total += readings * (1 + len(question.quantiles) + (units if question.full else 0))
    return 4 * total * sum(lengths)


def held_gate_bytes(anatomy: ModelAnatomy, lengths: Sequence[int]) -> int:
    """Bytes of what all layers read and hold at every step: kept until the last is read."""
    units = sum(
        one.layers * (one.hidden_size or 0) * (2 if one.direction == "bidirectional" else 1)
        for one in anatomy.recurrent_layers
    )
    return 4 * _KEPT * units * sum(lengths)


def _layer_sizes(anatomy: ModelAnatomy) -> list[tuple[int, int]]:
    """Readings of each layer, both directions together, and units of a direction."""
    return [
        (_READINGS[one.cell] * (2 if one.direction == "bidirectional" else 1), one.hidden_size or 0)
        for one in anatomy.recurrent_layers
        for _ in range(one.layers)
    ]


def _check_quantiles(quantiles: Sequence[float]) -> None:
    for quantile in quantiles:
        if not 0 <= quantile <= 1:
            raise InvalidRequest("quantiles", got=str(quantile), expected="from 0 to 1")


def _trace(
    tapped: TappedModel,
    sequences: Sequence[InputSequence],
    cancelled: Callable[[], bool],
    *,
    together: bool,
) -> list[list[Traced]]:
    """Of each sequence all layers at work."""
    anatomy = tapped.anatomy
    alone = not together or not anatomy.batched or anatomy.fixed_batch is not None
    found: dict[int, list[Traced]] = {}
    for numbers in _groups([one.length for one in sequences], 1 if alone else _MOST_ROWS):
        _stay(cancelled)
        rows = filled(anatomy, [sequences[number] for number in numbers])
        traces = _looked(tapped, rows)
        for row, number in enumerate(numbers):
            found[number] = [(trace, row) for trace in traces]
    return [found[number] for number in range(len(sequences))]


def _groups(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Numbers of sequences that share a run: of equal length, at most so many."""
    by_length: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        by_length.setdefault(length, []).append(number)
    for numbers in by_length.values():
        yield from (numbers[start : start + most] for start in range(0, len(numbers), most))


def _looked(tapped: TappedModel, rows: Sequence[InputSequence]) -> tuple[RecurrentTrace, ...]:
    if not tapped.anatomy.recurrent_layers:
        raise _no_gates(tapped, "no recurrent layers")
    traces = tapped.run(pad(tapped.anatomy, rows), Look(recurrences=True)).recurrences
    if not traces:
        raise _no_gates(tapped, "no recurrent layers that can be traced")
    return traces


def _chosen(
    tapped: TappedModel, traces: Sequence[RecurrentTrace], layers: Sequence[int]
) -> list[int]:
    """Which of the traces: those of the layers asked for, or else all that have gates."""
    count = max(trace.layer for trace in traces) + 1
    for layer in layers:
        if not -count <= layer < count:
            raise InvalidRequest("layers", got=str(layer), expected=f"from {-count} to {count - 1}")
    wanted = {layer % count for layer in layers}
    places = [p for p, one in enumerate(traces) if one.layer in wanted or not wanted]
    gated = [place for place in places if traces[place].cell in _KEEPING]
    if not gated or (wanted and len(gated) < len(places)):
        raise _no_gates(tapped, "RNN layers, which have no gates")
    for place in gated:
        if not supported(traces[place]):
            unknown = ", ".join(traces[place].activations)
            raise NotInModel(f"layer {traces[place].name!r} has unusual activations: {unknown}")
    return gated


def _no_gates(tapped: TappedModel, what: str) -> NotInModel:
    also = " and attention maps" if tapped.taps else ""
    return NotInModel(f"gates are not in this model: it has {what}; it offers influence{also}")


def _layer(
    place: int,
    traced: Sequence[Traced],
    sequences: Sequence[InputSequence],
    question: GateQuestion,
    cancelled: Callable[[], bool],
) -> GateLayer:
    trace = traced[0][0]
    error, readings = 0.0, []
    for number, ((one, row), sequence) in enumerate(zip(traced, sequences, strict=True)):
        _stay(cancelled)
        steps = recompute(one, row)
        error = max(error, _error(one, row, steps))
        for name, values in _gates(one, steps).items():
            own = (values[::-1] if one.reverse else values)[: sequence.length]
            readings.append(_reading(number, name, own, question))
    return GateLayer(
        trace.layer,
        trace.name,
        trace.cell,
        "reverse" if trace.reverse else "forward",
        trace.hidden.shape[2],
        error,
        tuple(readings),
    )


def _stay(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise CallerLeft


def _gates(trace: RecurrentTrace, steps: Steps) -> dict[str, Array]:
    """All gates [steps, units] and the product of the one that keeps, in order of computation."""
    keeping, product = _KEEPING[trace.cell]
    order = ("input", "forget", "output", "cell") if trace.cell == "lstm" else tuple(steps.gates)
    kept = steps.gates[keeping].copy()
    kept[:1] = 1  # what the first step itself keeps is the initial state, not what it leaves
    return {**{name: steps.gates[name] for name in order}, product: np.cumprod(kept, axis=0)}


def _error(trace: RecurrentTrace, row: int, steps: Steps) -> float:
    """Largest difference of the hidden states that the gates give to the model's own."""
    own = trace.hidden[row, : len(steps.hidden)]
    made = steps.hidden[::-1] if trace.reverse else steps.hidden
    return float(np.abs(made - own).max(initial=0.0))


def _reading(number: int, gate: str, values: Array, question: GateQuestion) -> GateReading:
    quantiles = np.quantile(values, np.array(question.quantiles, np.float64), axis=1)
    return GateReading(
        number,
        gate,
        values.mean(axis=1).astype(np.float32),
        quantiles.astype(np.float32).reshape(len(question.quantiles), len(values)),
        values.astype(np.float32) if question.full else None,
    )
