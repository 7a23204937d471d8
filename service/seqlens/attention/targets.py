"""What of a model's answer is looked at: understood once, then read off every run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from seqlens.attention.questions import HIDDEN, Target
from seqlens.attention.runs import VectorAxes
from seqlens.backends.padding import padded_length, split_rows
from seqlens.backends.tapped import Look, Seen
from seqlens.errors import InvalidRequest
from seqlens.graphs.anatomy import ModelAnatomy, OutputAnatomy
from seqlens.sequences import Array

# How finely a model of this precision computes, relative to its numbers.
_STEPS = {"fp64": 2.0**-52, "fp32": 2.0**-23, "fp16": 2.0**-10, "bf16": 2.0**-7}
_QUANTISED_STEP = 2.0**-8


@dataclass(frozen=True, slots=True)
class Aim:
    """A target of one model, and how to read it."""

    anatomy: ModelAnatomy
    target: Target  # with the output's name
    output: OutputAnatomy | None  # None: the hidden vectors
    hidden_axes: VectorAxes | None = None

    @property
    def has_positions(self) -> bool:
        """Whether there is a row for each position, instead of one for the whole sequence."""
        return self.output is None or bool(self.output.time_axes)

    @property
    def one_element(self) -> bool:
        """Whether one element is looked at, instead of the whole vector."""
        return self.target.class_index is not None or self.target.predicted_class

    def look(self, delta: Array | None = None) -> Look:
        """What a run has to show."""
        return Look(hidden=self.output is None, delta=delta)

    def whole(self, seen: Seen) -> Array:
        """The tensor that holds the target, in the model's layout."""
        if self.output is not None:
            return seen.outputs[self.output.name]
        assert seen.hidden is not None
        return seen.hidden

    def rows(self, seen: Seen, length: int) -> list[Array]:
        """Of each row of the run, all of length ``length``: the target [positions or 1, width]."""
        tensor = self.whole(seen)
        batch, times = self.layout
        count = 1 if batch is None else tensor.shape[batch]
        padded = padded_length(self.anatomy, [length])
        rows = split_rows(tensor, batch, times, [length] * count, padded)
        return [row.reshape(len(row) if times else 1, -1) for row in rows]

    @property
    def layout(self) -> tuple[int | None, tuple[int, ...]]:
        """Batch axis and time axes of the tensor that holds the target."""
        if self.output is not None:
            return self.output.batch_axis, self.output.time_axes
        assert self.hidden_axes is not None
        return self.hidden_axes.batch, (self.hidden_axes.time,)

    def elements(self, rows: Array) -> Array | None:
        """Which element of each row [rows, width] is looked at; None: all of them."""
        if self.target.predicted_class:
            largest: Array = np.argmax(rows, axis=1)
            return largest
        if self.target.class_index is not None:
            return np.full(len(rows), self.target.class_index)
        return None


def find_output(anatomy: ModelAnatomy, target: Target) -> tuple[Target, OutputAnatomy | None]:
    """The target with the name of its output, and that output; None: the hidden vectors.

    Raises ``InvalidRequest`` for a name that no output has, an output of whole numbers and two
    elements at once.
    """
    if target.class_index is not None and target.predicted_class:
        raise InvalidRequest("target", got="class_index and predicted_class", expected="one")
    named = replace(target, output=target.output or anatomy.outputs[0].name)
    if named.output == HIDDEN and anatomy.output(HIDDEN) is None:
        return named, None
    output = anatomy.output(named.output)
    if output is None:
        names = ", ".join(repr(name) for name in (*anatomy.output_names, HIDDEN))
        raise InvalidRequest("target.output", got=repr(named.output), expected=f"one of {names}")
    if not output.datatype.startswith(("FP", "BF")):
        raise InvalidRequest(
            "target.output",
            got=f"{named.output!r} of {output.datatype}",
            expected="an output of floating point numbers",
        )
    return named, output


def check_width(target: Target, width: int) -> None:
    """Raise ``InvalidRequest`` for an element beyond the ``width`` that a row has."""
    if target.class_index is not None and not 0 <= target.class_index < width:
        raise InvalidRequest(
            "target.class_index",
            got=str(target.class_index),
            expected=f"from 0 to {width - 1}, as many as {target.output!r} has",
        )


def choose_positions(field: str, asked: Sequence[int], length: int) -> tuple[int, ...]:
    """Positions asked for, each once, counted from the start; all of them if none is named.

    Raises ``InvalidRequest`` for one that a sequence of this length does not have.
    """
    for position in asked:
        if not -length <= position < length:
            raise InvalidRequest(
                field, got=str(position), expected=f"from {-length} to {length - 1}"
            )
    chosen = dict.fromkeys(position % length for position in asked)
    return tuple(chosen) or tuple(range(length))


def output_positions(aim: Aim, asked: Sequence[int], length: int) -> tuple[int, ...]:
    """Rows asked for; empty for a target without positions.

    Raises ``InvalidRequest`` for some out of bounds.
    """
    return choose_positions("output_positions", asked, length) if aim.has_positions else ()


def check_rows(aim: Aim, asked: Sequence[int]) -> None:
    """Raise ``InvalidRequest`` where rows of a target without positions are asked for."""
    if asked and not aim.has_positions:
        raise InvalidRequest(
            "output_positions",
            got=f"{len(asked)} positions",
            expected=f"none: {aim.target.output!r} has one answer for the whole sequence",
        )


def movement(before: Array, after: Array, elements: Array | None) -> Array:
    """How far each row [rows, width] moved: one element of it, or as a vector. Float64 [rows]."""
    first, second = before.astype(np.float64), after.astype(np.float64)
    if elements is not None:
        places = np.arange(len(first))
        first, second = first[places, elements][:, None], second[places, elements][:, None]
    # Equal ones do not move, infinite ones such as masked logits included.
    moved = np.subtract(second, first, out=np.zeros_like(first), where=first != second)
    distances: Array = np.linalg.norm(moved, axis=1)
    if not np.isfinite(distances).all():
        raise InvalidRequest(
            "target", got="answers that are not finite", expected="a target of finite numbers"
        )
    return distances


def rounding(anatomy: ModelAnatomy, rows: Array, elements: Array | None) -> Array:
    """What rounding may move of each row [rows, width] by the model's precision. Float64 [rows]."""
    step = _STEPS.get(anatomy.precision, _QUANTISED_STEP)
    if rows.dtype.kind == "f":
        step = max(step, float(np.finfo(rows.dtype).eps))
    finite = np.where(np.isfinite(rows), rows, 0).astype(np.float64)
    # A logit is a sum that may nearly cancel: the largest of its mates tells what went into it.
    size = np.linalg.norm(finite, axis=1) if elements is None else np.abs(finite).max(axis=1)
    scaled: Array = step * size
    return scaled


def width_of(aim: Aim, seen: Seen) -> int:
    """How many numbers each row of the target has."""
    batch, times = aim.layout
    others = (batch, *times[:1])
    return prod(n for axis, n in enumerate(aim.whole(seen).shape) if axis not in others)
