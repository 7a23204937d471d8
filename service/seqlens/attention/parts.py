"""One sequence's part of a question about influence: what is changed, and what is read."""

from collections.abc import Sequence
from dataclasses import dataclass

from seqlens.attention.runs import Runs, VectorAxes, filled
from seqlens.attention.targets import Aim
from seqlens.backends.padding import padded_length, split_rows
from seqlens.backends.tapped import Look, Seen
from seqlens.graphs.anatomy import InputAnatomy
from seqlens.sequences import Array, InputSequence


@dataclass(frozen=True, slots=True)
class Part:
    """What to measure of one sequence."""

    runs: Runs
    aim: Aim
    changed: InputAnatomy  # the input whose positions are changed
    vectors: VectorAxes | None  # of the embedding; None: the input holds features, its own vectors
    sequence: InputSequence
    columns: tuple[int, ...]  # input positions
    rows: tuple[int, ...]  # output positions; empty: a target without positions
    batch: int  # rows of one run

    @property
    def length(self) -> int:
        """Positions of the sequence."""
        return self.sequence.length

    @property
    def places(self) -> tuple[int, ...]:
        """The rows as the target has them: the only one where it has no positions."""
        return self.rows or (0,)

    def look(self, look: Look | None = None) -> Seen:
        """Run the sequence as it is, by itself."""
        return self.runs.run(filled(self.aim.anatomy, [self.sequence]), look or self.aim.look())

    def answers(self, copies: Sequence[InputSequence], delta: Array | None = None) -> list[Array]:
        """The target [rows, width] of each of these changed copies, run together."""
        seen = self.runs.run(filled(self.aim.anatomy, copies), self.aim.look(delta))
        return [self.read(answer) for answer in self.aim.rows(seen, self.length)[: len(copies)]]

    def read(self, answer: Array) -> Array:
        """The rows asked for, of all that a target has."""
        return answer[list(self.places)]

    def changed_to(self, values: Array) -> InputSequence:
        """The sequence with other values in the input that is changed."""
        return InputSequence({**self.sequence.inputs, self.changed.name: values}, self.length)

    def split(self, tensor: Array, count: int) -> list[Array]:
        """Vectors [positions, ...] of each row of a tensor in the layout of the embedding."""
        axes, changed = self.vectors, self.changed
        batch = changed.batch_axis if axes is None else axes.batch
        time = changed.time_axis if axes is None else axes.time
        assert time is not None
        padded = padded_length(self.aim.anatomy, [self.length])
        return split_rows(tensor, batch, (time,), [self.length] * count, padded)
