"""The exact Jacobian of a stack of RNN, LSTM and GRU layers, from the weights, in float64.

Holds where nothing but recurrent layers lies between the embedding and the target, which is
found by comparing values: what goes into a layer must be what came out of the one below.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from seqlens.attention.recurrent_cells import Steps, recompute, step_back, supported
from seqlens.backends.tapped import RecurrentTrace
from seqlens.sequences import Array

_SAME = 1e-6  # relative: copies of a tensor, perhaps through another datatype
_TARGETS = 64  # elements of rows that walk back together
_OPERATIONS_PER_SECOND = 1e10  # float64 on one thread
_STEP_SECONDS = 1e-4  # of one step of one layer in numpy, however small


@dataclass(frozen=True, slots=True)
class Stack:
    """Recurrent layers one above the other, for one row of the batch."""

    layers: tuple[tuple[RecurrentTrace, ...], ...]  # from below; both directions of a layer
    row: int

    @property
    def width(self) -> int:
        """Elements of its hidden vectors."""
        return sum(trace.hidden.shape[2] for trace in self.layers[-1])

    @property
    def operations(self) -> int:
        """Multiplications and additions for one element and one step."""
        weights = [
            trace.input_weights.size + trace.recurrent_weights.size
            for layer in self.layers
            for trace in layer
        ]
        return 2 * sum(weights)

    def seconds(self, length: int, targets: int) -> float:
        """What ``measure_stack`` takes for so many elements of rows, about."""
        steps = sum(len(layer) for layer in self.layers) * length * -(-targets // _TARGETS)
        computed = self.operations * length * targets / _OPERATIONS_PER_SECOND
        return computed + steps * _STEP_SECONDS


def find_stack(
    traces: Sequence[RecurrentTrace], row: int, embedding: Array, hidden: Array
) -> Stack | None:
    """The stack from the embedding to the hidden vectors, each [positions, width], of a row.

    None where anything else lies between, or a layer has activations that are not known.
    """
    numbers = sorted({trace.layer for trace in traces})
    layers = tuple(
        tuple(sorted((t for t in traces if t.layer == number), key=lambda t: t.reverse))
        for number in numbers
    )
    if not layers or not all(supported(trace) for trace in traces):
        return None
    count, below = len(embedding), embedding
    for layer in layers:
        directions = [trace.reverse for trace in layer]
        if len(set(directions)) != len(directions):
            return None
        if not all(_same(trace.inputs[row, :count], below) for trace in layer):
            return None
        below = np.concatenate([trace.hidden[row, :count] for trace in layer], axis=1)
    return Stack(layers, row) if _same(below, hidden) else None


def measure_stack(
    stack: Stack,
    targets: Sequence[tuple[int, int, int]],
    rows: int,
    length: int,
    check: Callable[[], None],
) -> Array:
    """Norms of derivatives by the embedding of each position, float64 [rows, length].

    Each target is a row of the answer, the position that it stands for and an element of the
    hidden vector there; the squares of elements of one row add up. ``check`` is called between
    groups of targets, and may raise.
    """
    steps = [[recompute(trace, stack.row) for trace in layer] for layer in stack.layers]
    squares = np.zeros((rows, length))
    for start in range(0, len(targets), _TARGETS):
        check()
        some = targets[start : start + _TARGETS]
        reached = _walk_back(stack, steps, some)[:length]
        np.add.at(squares, [row for row, _, _ in some], np.square(reached).sum(axis=2).T)
    return np.sqrt(squares)


def _walk_back(
    stack: Stack, steps: Sequence[Sequence[Steps]], targets: Sequence[tuple[int, int, int]]
) -> Array:
    """Derivatives of targets by all positions of the embedding, [positions, targets, width]."""
    positions = stack.layers[0][0].inputs.shape[1]
    adjoint = np.zeros((positions, len(targets), stack.width))
    for number, (_, position, element) in enumerate(targets):
        adjoint[position, number, element] = 1
    for layer, layer_steps in zip(reversed(stack.layers), reversed(steps), strict=True):
        below = np.zeros((positions, len(targets), layer[0].inputs.shape[2]))
        ends = np.cumsum([trace.hidden.shape[2] for trace in layer])[:-1]
        for trace, one, part in zip(
            layer, layer_steps, np.split(adjoint, ends, axis=2), strict=True
        ):
            _add_layer(trace, one, part, below)
        adjoint = below
    return adjoint


def _add_layer(trace: RecurrentTrace, steps: Steps, adjoint: Array, below: Array) -> None:
    """Add to ``below`` what reaches a layer's inputs from ``adjoint``, by its hidden states."""
    count = len(steps.hidden)
    order = range(count - 1, -1, -1) if trace.reverse else range(count)  # of computation
    hidden = np.zeros(adjoint.shape[1:])
    cell = None
    started = False
    for step, position in reversed(list(enumerate(order))):
        started = started or bool(adjoint[position].any())
        if not started:
            continue
        reached = step_back(trace, steps, step, hidden + adjoint[position], cell)
        below[position] += reached.inputs
        hidden, cell = reached.hidden, reached.cell


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    size = float(np.abs(other).max(initial=0.0))
    return bool(np.abs(one.astype(np.float64) - other).max(initial=0.0) <= _SAME * size)
