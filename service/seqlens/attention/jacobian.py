"""The Jacobian norm: how steeply an answer changes with the embedding of a position.

Tells how a gradient finds its way, not what an answer depends on: a saturated net recalls what
its gradient no longer reaches. Central differences work on every model that takes a delta on its
embedding; autograd is exact where the backend has it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from seqlens.attention.parts import Part
from seqlens.attention.questions import InfluenceQuestion
from seqlens.attention.runs import delta_of, filled
from seqlens.attention.targets import movement, rounding
from seqlens.backends.padding import padded_length, split_rows, stack_rows
from seqlens.backends.tapped import Seen
from seqlens.sequences import Array

_SEED = 0
# In parts of the embedding's root mean square: smaller ones drown in float32 rounding, larger
# ones meet the curvature. 7e-4 at worst off autograd on RNN, LSTM, GRU and Transformer.
_STEP = 3e-2
_FLOOR = 6.0  # times what rounding gives on average: errors up to 4 times that were seen


def measure_differences(part: Part, question: InfluenceQuestion) -> tuple[Array, Array]:
    """Values [rows, columns] and floors [rows], float64, by central differences.

    A value estimates the Frobenius norm of the derivative of the target's row by the column's
    vector, from ``question.directions`` random orthonormal directions.
    """
    seen = part.look(replace(part.aim.look(), embedding=part.vectors is not None))
    answer = part.read(part.aim.rows(seen, part.length)[0])
    elements = part.aim.elements(answer)
    own = own_vectors(part, seen)
    flat = own.reshape(len(own), -1)
    width = flat.shape[1]
    ways = orthonormal(question.directions, width)
    step = _STEP * (float(np.sqrt(np.mean(np.square(flat, dtype=np.float64)))) or 1.0)
    squares = np.zeros((len(answer), len(part.columns)))
    pairs = [(column, way) for column in range(len(part.columns)) for way in ways]
    for some in (pairs[one] for one in _parts_of(len(pairs), max(1, part.batch // 2))):
        moves = [(part.columns[column], step * way) for column, way in some]
        answers = _moved(part, _deltas(own, moves))
        for (column, _), up, down in zip(some, answers[::2], answers[1::2], strict=True):
            squares[:, column] += np.square(movement(down, up, elements))
    values = np.sqrt(squares * width / len(ways)) / (2 * step)
    noise = rounding(part.aim.anatomy, answer, elements)
    return values, _FLOOR * noise * np.sqrt(width / 2) / step


def measure_autograd(part: Part) -> tuple[Array, Array]:
    """The same by the backend's own gradient, of every element.

    The floors are 0, but in float16, among whose smallest numbers a gradient that fades is lost.
    """
    seen = part.look()
    answer = part.read(part.aim.rows(seen, part.length)[0])
    picks = chosen_elements(part.places, part.aim.elements(answer), answer.shape[1])
    squares = np.zeros((len(answer), len(part.columns)))
    lost = np.zeros(len(answer))
    for some in (picks[one] for one in _parts_of(len(picks), part.batch)):
        together = filled(part.aim.anatomy, [part.sequence] * len(some))
        weights = _one_hot(part, seen, len(together), some)
        gradient = part.runs.gradient(together, part.aim.target.output, weights)
        assert gradient is not None
        for (row, _, _), one in zip(some, part.split(gradient, len(together)), strict=False):
            flat = one.reshape(len(one), -1).astype(np.float64)
            squares[row] += np.square(flat[list(part.columns)]).sum(axis=1)
            lost[row] += flat.shape[1] * _spacing(gradient) ** 2
    return np.sqrt(squares), np.sqrt(lost)


def _spacing(gradient: Array) -> float:
    """How far apart the smallest numbers are; as good as nothing but in half precision."""
    halves = gradient.dtype == np.float16
    return float(np.finfo(np.float16).smallest_subnormal) if halves else 0.0


def chosen_elements(
    places: Sequence[int], elements: Array | None, width: int
) -> list[tuple[int, int, int]]:
    """Number of the row, its place in the target and an element: all elements, or those named."""
    return [
        (number, place, int(element))
        for number, place in enumerate(places)
        for element in (range(width) if elements is None else (elements[number],))
    ]


def difference_runs(question: InfluenceQuestion, columns: int, batch: int) -> int:
    """Runs of ``batch`` rows that central differences take, beside one of a single row."""
    pairs = columns * question.directions
    return 2 * pairs if batch == 1 else -(-pairs // (batch // 2))


def orthonormal(count: int, width: int) -> Array:
    """Random orthonormal directions, float64 [at most count, width], the same in every process."""
    random = np.random.default_rng(_SEED).standard_normal((width, min(count, width)))
    return np.linalg.qr(random)[0].T


def own_vectors(part: Part, seen: Seen) -> Array:
    """The vectors [positions, ...] of the sequence itself, from a run that looked at them."""
    if part.vectors is None:
        return part.sequence.inputs[part.changed.name]
    assert seen.embedding is not None
    return part.split(seen.embedding, 1)[0]


def _moved(part: Part, deltas: Array) -> list[Array]:
    """Targets with each of ``deltas`` [rows, positions, ...] added to the vectors."""
    # A pair of a model that runs one row at a time takes two runs.
    size = len(deltas) if part.batch > 1 else 1
    answers: list[Array] = []
    for some in (deltas[one] for one in _parts_of(len(deltas), size)):
        if part.vectors is None:
            values = part.sequence.inputs[part.changed.name]
            answers += part.answers([part.changed_to(values + delta) for delta in some])
        else:
            delta = delta_of(part.aim.anatomy, some, part.vectors, part.length)
            answers += part.answers([part.sequence] * len(some), delta)
    return answers


def _deltas(own: Array, moves: Sequence[tuple[int, Array]]) -> Array:
    """Each move there and back, [2 * moves, positions, ...], in the vectors' datatype."""
    deltas = np.zeros((len(moves), 2, *own.shape), own.dtype)
    for pair, (position, move) in zip(deltas, moves, strict=True):
        shaped = move.reshape(own.shape[1:]).astype(own.dtype)
        pair[0, position], pair[1, position] = shaped, -shaped
    return deltas.reshape(-1, *own.shape)


def _one_hot(part: Part, seen: Seen, count: int, picks: Sequence[tuple[int, int, int]]) -> Array:
    """Weights in the layout of the target: in each row of the run a 1 at its place and element."""
    batch, times = part.aim.layout
    tensor = part.aim.whole(seen)
    padded = padded_length(part.aim.anatomy, [part.length])
    first = split_rows(tensor, batch, times, [padded], padded)[0]
    copies = np.zeros((count, *first.shape), tensor.dtype)
    for copy, (_, place, element) in zip(copies, picks, strict=False):
        copy.reshape(len(first) if times else 1, -1)[place, element] = 1
    time, steps = (times[0], len(first)) if times else (None, 0)
    return stack_rows(list(copies), batch, time, steps)


def _parts_of(count: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover so many."""
    return (slice(start, start + size) for start in range(0, count, size))
