"""Guesses at how a model's inputs are laid out, in the order in which they are worth trying.

A *layout* gives every input a datatype, its axes and how to fill it. An axis is a fixed size or
the name of a *block*: axes with the same block have the same size in every run. Declared names
only order the guesses, because exporters name one quantity differently in each input.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Literal

import numpy as np

from seqlens.datatypes import NUMPY_TYPES
from seqlens.graphs.anatomy import AnatomyOverrides, InputOverride
from seqlens.graphs.reading import FIRST_AXIS, SECOND_AXIS, GraphReading, TensorReading
from seqlens.sequences import Array, Tensors

Axis = int | str
Sizes = Mapping[str, int]  # of each block
Fill = Literal["random", "longest"] | int  # longest: see InputLayout.longest; int: as it is

SMALL_IDS = 4  # ids that are drawn stay below it where the vocabulary is unknown
_MOST_PARTITIONS, _MOST_FILLS, _MOST_SHAPES = 64, 12, 400


@dataclass(frozen=True, slots=True)
class InputLayout:
    """A guess at one input."""

    name: str
    datatype: str
    axes: tuple[Axis, ...]
    vocabulary_size: int | None = None
    fill: Fill = "random"

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks among its axes."""
        return tuple(axis for axis in self.axes if isinstance(axis, str))

    @property
    def is_integer(self) -> bool:
        """Whether it holds whole numbers."""
        return self.datatype.startswith(("INT", "UINT"))

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Its shape when the blocks have these sizes."""
        return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self.axes)

    def build(self, sizes: Sizes, random: np.random.Generator) -> Array:
        """An array to run the model on."""
        shape, dtype = self.shape(sizes), NUMPY_TYPES[self.datatype]
        if self.fill == "longest":
            return np.full(shape, self.longest(sizes), dtype)
        if isinstance(self.fill, int):
            return np.full(shape, self.fill, dtype)
        if self.is_integer:
            return random.integers(1, self.id_limit, shape).astype(dtype)
        if dtype.kind == "f":
            return random.standard_normal(shape).astype(dtype)
        return np.ones(shape, dtype) if dtype.kind == "b" else np.full(shape, b"a", dtype)

    def longest(self, sizes: Sizes) -> int:
        """The largest block that it does not have itself: lengths [batch] tell the time."""
        others = [size for block, size in sizes.items() if block not in self.axes]
        return max(others or sizes.values(), default=1)

    @property
    def id_limit(self) -> int:
        """Ids that are drawn stay below it; at least 2, so that 1 can be drawn."""
        return max(self.vocabulary_size or SMALL_IDS, 2)


Layout = tuple[InputLayout, ...]


def blocks_of(layout: Layout) -> tuple[str, ...]:
    """All blocks in order of appearance."""
    return tuple(dict.fromkeys(block for entry in layout for block in entry.blocks))


def build(layout: Layout, sizes: Sizes, seed: int = 0) -> Tensors:
    """Arrays for all inputs, the same for the same arguments."""
    random = np.random.default_rng(seed)
    return {entry.name: entry.build(sizes, random) for entry in layout}


def guesses(reading: GraphReading, overrides: AnatomyOverrides) -> Iterator[Layout]:
    """Layouts to try, most plausible first. Fills are not chosen yet."""
    shapes = [
        list(_input_guesses(reading, tensor, overrides.inputs.get(tensor.name, InputOverride())))
        for tensor in reading.inputs
    ]
    ranked = sorted(
        islice(product(*map(enumerate, shapes)), _MOST_SHAPES),
        key=lambda choice: sum(rank for rank, _ in choice),
    )
    for choice in ranked:
        layout = tuple(entry for _, entry in choice)
        for names in islice(_partitions(layout), _MOST_PARTITIONS):
            yield tuple(_renamed(entry, names) for entry in layout)


def fills(layout: Layout, reading: GraphReading) -> Iterator[Layout]:
    """The layout with every way to fill it that is worth trying."""
    ids = _first_ids(layout)
    options = [_fill_options(e, t, ids) for e, t in zip(layout, reading.inputs, strict=True)]
    for choice in islice(product(*options), _MOST_FILLS):
        yield tuple(replace(e, fill=f) for e, f in zip(layout, choice, strict=True))


def _first_ids(layout: Layout) -> InputLayout | None:
    """The input that holds ids for sure, or else the first that may."""
    wide = [e for e in layout if e.is_integer and len(e.axes) > 1]
    return next((e for e in wide if e.vocabulary_size), wide[0] if wide else None)


def _fill_options(
    entry: InputLayout, tensor: TensorReading, ids: InputLayout | None
) -> tuple[Fill, ...]:
    if entry.datatype == "BOOL":
        return (1, 0)  # it may mark what is real or what is padding
    if entry.is_integer and len(entry.axes) > 1 and not entry.vocabulary_size and entry != ids:
        return (1,)
    if entry.is_integer and len(entry.axes) == 1 and entry.vocabulary_size is None:
        return ("longest", 1)
    if entry.is_integer and not entry.axes:
        return (*tensor.compared_with, "longest", 1, 0)
    return ("random",)


def _input_guesses(
    reading: GraphReading, tensor: TensorReading, override: InputOverride
) -> Iterator[InputLayout]:
    declared = override.shape or tensor.shape
    vocabulary = override.vocabulary_size or tensor.vocabulary_size
    datatype = override.datatype or tensor.datatype
    shapes = (
        list(_unknown_shapes(reading, tensor))
        if declared is None
        else [(datatype or "INT64", declared)]
    )
    if declared is not None and datatype is None:
        shapes = [(each, declared) for each in ("INT64", "FP32", "BOOL")]
    for guessed, shape in shapes:
        if datatype is None or _same_kind(guessed, datatype):
            axes = tuple(_axis(tensor.name, index, dim) for index, dim in enumerate(shape))
            yield InputLayout(tensor.name, datatype or guessed, axes, vocabulary)


def _same_kind(first: str, second: str) -> bool:
    return NUMPY_TYPES[first].kind == NUMPY_TYPES.get(second, NUMPY_TYPES["BYTES"]).kind


def _axis(name: str, index: int, dim: int | str | None) -> Axis:
    if isinstance(dim, str):
        return dim
    return dim if dim is not None and dim >= 0 else f"{name}.{index}"


def _unknown_shapes(
    reading: GraphReading, tensor: TensorReading
) -> Iterator[tuple[str, tuple[int | str, ...]]]:
    """What an input can be when the file tells nothing of it."""
    a, b = FIRST_AXIS, SECOND_AXIS
    if "len" in tensor.name.lower():  # lengths [batch] may broadcast, and so run, as [batch, time]
        yield "INT64", (a,)
    yield "INT64", (a, b)
    if not (reading.recurrent_layers or reading.attention_sites):
        # Dense layers alone take [batch, time, size] too, but no position meets another.
        yield from (("FP32", (a, size)) for size in reading.feature_sizes)
    for size in reading.feature_sizes:
        yield "FP32", (a, b, size)
    yield "INT64", (a,)
    yield "INT64", (b,)
    yield "BOOL", (a, b)
    yield "FP32", (a, b)
    for layer in reading.recurrent_layers:
        if layer.hidden_size is not None:
            stacked = layer.layers * (2 if layer.direction == "bidirectional" else 1)
            yield "FP32", (stacked, a, layer.hidden_size)
            yield "FP32", (stacked, b, layer.hidden_size)
    for size in reading.feature_sizes:
        yield "FP32", (a, size)
    yield "INT64", ()


def _partitions(layout: Layout) -> Iterator[dict[str, str]]:
    """Which free axes may share a size: all apart, then by place, then every other way."""
    names = blocks_of(layout)
    yield {name: name for name in names}
    if len(names) < 2:
        return
    yield _by_place(layout)
    yield from _every_partition(names)


def _by_place(layout: Layout) -> dict[str, str]:
    """First axes share a size, second axes share another: every input is batch first."""
    leaders: dict[int, str] = {}
    groups: dict[str, str] = {}
    for entry in layout:
        for place, axis in enumerate(entry.axes):
            if isinstance(axis, str):
                groups.setdefault(axis, leaders.setdefault(place, axis))
    return groups


def _every_partition(names: Sequence[str]) -> Iterator[dict[str, str]]:
    """All ways to group names, fewest groups first but never a single one."""
    found: list[dict[str, str]] = [{names[0]: names[0]}]
    for name in names[1:]:
        found = [
            {**groups, name: leader}
            for groups in islice(found, 256)
            for leader in dict.fromkeys((*groups.values(), name))
        ]
    yield from sorted(found, key=lambda groups: abs(len(set(groups.values())) - 2))


def _renamed(entry: InputLayout, names: Mapping[str, str]) -> InputLayout:
    return replace(
        entry, axes=tuple(names.get(a, a) if isinstance(a, str) else a for a in entry.axes)
    )
