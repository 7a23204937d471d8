"""The last tensor with one vector a position that a model's answer is computed from.

Candidates are met walking back from the outputs; which of them has a vector a position, and on
which axes, only running the graph on two shapes can tell.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from seqlens.errors import BackendFailed
from seqlens.graphs.anatomy import ModelAnatomy, OutputRole
from seqlens.graphs.onnx_flow import Flow, Step
from seqlens.graphs.onnx_recurrence import is_recurrent
from seqlens.graphs.onnx_walks import PRODUCTS
from seqlens.sequences import Array

Shapes = Mapping[str, tuple[int, ...]]  # of float values
Run = Callable[[Sequence[str], int, int], Shapes]  # of these values, for so many rows and positions
Try = tuple[tuple[int, int], Shapes]
# Primes, so that no axis has the size of another by chance; long ones for models of samples.
_LENGTHS = ((11, 13), (5, 7), (67, 269), (512, 1_024))
_MOST_CANDIDATES = 100  # values met walking back; real heads are much shorter
# Between an output and the product that is its head, these keep positions apart.
_HEAD_PASSES = frozenset(
    {"Identity", "Cast", "Softmax", "LogSoftmax", "Sigmoid", "Exp", "Transpose", "Reshape"}
    | {"Squeeze", "Unsqueeze", "Slice", "Add", "Mul", "Div", "Sub", "Clip", "Where"}
)
_WEIGHS = frozenset({"Mul", "Where"})  # which hide positions, or weigh them before a sum


@dataclass(frozen=True, slots=True)
class HiddenPlace:
    """A value with one vector a position, and where its axes are; None: it has no such axis."""

    value: str
    batch_axis: int | None
    time_axis: int

    def arranged(self, array: Array) -> Array:
        """The vectors as [batch, time, width]."""
        moved = np.moveaxis(array, self.time_axis, 0)
        if self.batch_axis is None:
            return moved.reshape(1, moved.shape[0], -1)
        batch = self.batch_axis + (self.batch_axis < self.time_axis)
        moved = np.moveaxis(moved, batch, 0)
        return moved.reshape(*moved.shape[:2], -1)


def find_hidden(
    flow: Flow,
    anatomy: ModelAnatomy,
    main: frozenset[str],
    sources: Sequence[str],
    run: Run,
) -> HiddenPlace | None:
    """Find it by running the graph on two shapes.

    ``main`` are the values that the main graph makes, ``sources`` those in which the sequence
    enters it. ``run(values, rows, length)`` gives the shapes of those that hold floats.
    """
    reached = frozenset[str]().union(*(flow.descendants(name) for name in sources))
    for output in _starts(flow, anatomy):
        names = [name for name in _candidates(flow, output) if name in reached & main]
        names = names[:_MOST_CANDIDATES]
        tries = _tries(names, anatomy, run)
        for name in names if tries else ():
            if (place := _place(name, tries, anatomy)) is not None:
                return _behind_weighing(flow, place, tries, anatomy, reached & main)
    return None


def _tries(names: Sequence[str], anatomy: ModelAnatomy, run: Run) -> list[Try]:
    """Shapes at two sizes, the first ones that the model takes; none if it refuses all."""
    fixed, most = anatomy.fixed_length, anatomy.max_length
    rows = (2, 3) if anatomy.batched else (1, 1)
    for lengths in _LENGTHS:
        if fixed is None and most is not None and most < lengths[1]:
            continue
        sizes = [
            (anatomy.fixed_batch or each, fixed or length)
            for each, length in zip(rows, lengths, strict=True)
        ]
        with suppress(BackendFailed):
            return [(size, run(names, *size)) for size in sizes]
    return []


def _starts(flow: Flow, anatomy: ModelAnatomy) -> Iterator[str]:
    """Values to walk back from: outputs that answer, those a position before their heads."""
    for output in anatomy.outputs:
        if output.role is OutputRole.PER_STEP:
            yield _before_head(flow, output.name)
        elif output.role is OutputRole.PER_SEQUENCE:
            yield output.name


def _before_head(flow: Flow, output: str) -> str:
    """What the last product with weights reads, if nothing but such a head lies behind it."""
    name = output
    while (step := flow.producers.get(name)) is not None:
        data = [i for i in step.inputs if i in flow.data]
        if len(data) != 1:
            return output
        if step.operator in PRODUCTS:
            return data[0]
        if step.operator not in _HEAD_PASSES:
            return output
        name = data[0]
    return output


def _candidates(flow: Flow, start: str) -> Iterator[str]:
    """Values that ``start`` is computed from, nearest first, of equally near ones the latest."""
    order = {name: place for place, step in enumerate(flow.steps) for name in step.outputs}
    front, seen = [start], {start}
    while front:
        yield from sorted(front, key=lambda name: order.get(name, -1), reverse=True)
        steps = [step for name in front if (step := flow.producers.get(name)) is not None]
        sources = dict.fromkeys(source for step in steps for source in _sources(step))
        front = [name for name in sources if name in flow.data and name not in seen]
        seen.update(front)


def _sources(step: Step) -> tuple[str, ...]:
    # A final state is the last of the steps: the operator's hidden states come before its inputs.
    return (step.outputs[0], *step.inputs) if is_recurrent(step.operator) else step.inputs


def _place(
    name: str,
    tries: Sequence[Try],
    anatomy: ModelAnatomy,
) -> HiddenPlace | None:
    sizes = [size for size, _ in tries]
    shapes = [shapes.get(name) for _, shapes in tries]
    if None in shapes or len({len(shape or ()) for shape in shapes}) > 1:
        return None
    axes = list(zip(*(shape or () for shape in shapes), strict=True))
    batch = _axis_of(axes, tuple(rows for rows, _ in sizes)) if anatomy.batched else None
    times = tuple(length for _, length in sizes)
    time = next((a for a, size in enumerate(axes) if size == times and a != batch), None)
    if time is None or (anatomy.batched and batch is None):
        return None
    rest = [size for axis, size in enumerate(axes) if axis not in (batch, time)]
    constant = (
        all(len(set(size)) == 1 for size in rest) and max((s[0] for s in rest), default=0) > 1
    )
    return HiddenPlace(name, batch, time) if constant and len(axes) <= 4 else None


def _axis_of(axes: Sequence[tuple[int, ...]], sizes: tuple[int, ...]) -> int | None:
    return next((axis for axis, size in enumerate(axes) if size == sizes), None)


def _behind_weighing(
    flow: Flow,
    place: HiddenPlace,
    tries: Sequence[Try],
    anatomy: ModelAnatomy,
    usable: frozenset[str],
) -> HiddenPlace:
    """The vectors themselves, where what was found is them with padding hidden, or weighed."""
    while (step := flow.producers.get(place.value)) is not None and step.operator in _WEIGHS:
        found = [_place(name, tries, anatomy) for name in step.inputs if name in usable]
        vectors = [each for each in found if each is not None]
        if len(vectors) != 1:
            return place
        place = vectors[0]
    return place
