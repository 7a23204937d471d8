"""Runs of a model on many changed copies of one sequence, and how many fit in a run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from seqlens.attention.questions import Cost
from seqlens.backends.padding import pad, padded_length, stack_rows
from seqlens.backends.tapped import Look, Seen, TappedModel
from seqlens.graphs.anatomy import InputAnatomy, InputRole, ModelAnatomy
from seqlens.sequences import Array, InputSequence

_MOST_ROWS = 32  # more hardly make a row cheaper, and the caller's leaving is seen later
_MOST_TOKENS = 4_096  # of one run: attention keeps the square of the length for each row
_MOST_VALUES = 8_388_608  # that a run may answer with


class CallerLeft(Exception):
    """The caller gave up; the work was dropped between two runs. Never reaches a caller."""


def never() -> bool:
    """Nobody leaves."""
    return False


@dataclass(frozen=True, slots=True)
class VectorAxes:
    """Where rows and positions lie in a tensor with one vector a position."""

    batch: int | None
    time: int


@dataclass(slots=True)
class Runs:
    """Runs a model for one question: counts, and stops when the caller has left."""

    tapped: TappedModel
    cancelled: Callable[[], bool]
    count: int = 0
    started: float = field(default_factory=time.perf_counter)

    def run(self, rows: Sequence[InputSequence], look: Look) -> Seen:
        """Run rows together. Raises ``CallerLeft`` instead where the caller has left."""
        self._begin()
        return self.tapped.run(pad(self.tapped.anatomy, rows), look)

    def gradient(self, rows: Sequence[InputSequence], output: str, weights: Array) -> Array | None:
        """The model's own gradient; see ``TappedModel.gradient``. Raises ``CallerLeft``."""
        self._begin()
        return self.tapped.gradient(pad(self.tapped.anatomy, rows), output, weights)

    def check(self) -> None:
        """Raise ``CallerLeft`` if the caller has left."""
        if self.cancelled():
            raise CallerLeft

    def _begin(self) -> None:
        self.check()
        self.count += 1

    @property
    def taken(self) -> Cost:
        """What it took up to now."""
        return Cost(self.count, time.perf_counter() - self.started)


def rows_per_run(anatomy: ModelAnatomy, length: int, width: int, *, together: bool) -> int:
    """Rows of ``length`` positions that share a run; ``width`` values are read at each.

    A model whose batch mates leak, or whose batch axis cannot be told, runs one row at a time.
    """
    if not (together and anatomy.batched):
        return 1
    if anatomy.fixed_batch is not None:
        return anatomy.fixed_batch
    padded = max(1, padded_length(anatomy, [length]))
    return max(1, min(_MOST_ROWS, _MOST_TOKENS // padded, _MOST_VALUES // (padded * width)))


def filled(anatomy: ModelAnatomy, rows: Sequence[InputSequence]) -> list[InputSequence]:
    """The rows, and copies of the first up to the only batch size that the model runs."""
    missing = (anatomy.fixed_batch or 0) - len(rows)
    return [*rows, *([rows[0]] * max(0, missing))]


def delta_of(anatomy: ModelAnatomy, changes: Array, axes: VectorAxes, length: int) -> Array:
    """Changes [rows, length, ...] of vectors in the layout of the model's embedding."""
    missing = (anatomy.fixed_batch or 0) - len(changes)
    if missing > 0:
        changes = np.concatenate([changes, np.zeros((missing, *changes.shape[1:]), changes.dtype)])
    return stack_rows(list(changes), axes.batch, axes.time, padded_length(anatomy, [length]))


def changed_input(anatomy: ModelAnatomy) -> InputAnatomy | None:
    """The input whose positions are changed: the first that callers have to give."""
    inputs = [
        one
        for one in anatomy.inputs
        if one.role is InputRole.SEQUENCE and one.time_axis is not None
    ]
    return next((one for one in inputs if one.default is None), next(iter(inputs), None))
