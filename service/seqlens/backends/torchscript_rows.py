"""Modules that put the rows of their batch in another order while they work.

Sorting by length before packing is the usual reason, and equal lengths come in no given order.
What is seen inside would belong to another row than its place says, so that such a module is
looked into one row at a time. What torch's own packing does is followed instead.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from seqlens.backends.tapped import Look, RecurrentTrace, Seen
from seqlens.backends.torchscript_calls import Call
from seqlens.backends.torchscript_recording import Record, Recorder
from seqlens.backends.torchscript_traces import FLOAT_LAYERS
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.sequences import Array, Tensors

_PACKED, _UNPACKED = "aten::_pack_padded_sequence", "aten::_pad_packed_sequence"


def rearranges_rows(first: Recorder, second: Recorder) -> bool:
    """Whether two runs of different sizes show that rows change places, but for packing."""
    packed = [r.call.get("input") for r in second.records if r.call.name == _PACKED]
    unpacked = [
        tensor
        for r in second.records
        if r.call.name == _UNPACKED or r.call.name in FLOAT_LAYERS
        for tensor in r.results
    ]
    for record in second.records:
        other = first.by_place.get(record.place)
        if other is None or not _moves(record, second.rows) or not _moves(other, first.rows):
            continue
        own = record.call.name == "aten::index_select" and (
            any(record.results[0] is one for one in packed)
            or any(record.call.get("self") is one for one in unpacked)
        )
        if not own:
            return True
    return False


def axis_of_rows(before: Sequence[int], after: Sequence[int], rows: tuple[int, int]) -> int | None:
    """The axis that grows with the rows, given a tensor's shapes in runs of so many each."""
    for axis, (one, other) in enumerate(zip(before, after, strict=False)):
        if one != other and one * rows[1] == other * rows[0]:
            return axis
    return None


def _moves(record: Record, rows: int) -> bool:
    """Whether the call takes rows of vectors in an order of its own."""
    call = record.call
    vectors = call.get("self")
    if not isinstance(vectors, Tensor) or vectors.dim() < 2:
        return False
    if not any(vectors is tensor for tensor in record.data):
        return False
    return any(vectors.shape[axis] == rows for axis in _axes(call, rows))


def _axes(call: Call, rows: int) -> Iterator[int]:
    if call.name == "aten::index_select" and call.get("index").numel() == rows:
        yield call.get("dim")
    elif call.name == "aten::flip":
        yield from call.get("dims")
    elif call.name == "aten::index":
        given = [(a, index) for a, index in enumerate(call.get("indices")) if index is not None]
        if len(given) == 1 and tuple(given[0][1].shape) == (rows,):
            yield given[0][0]


@dataclass(frozen=True, slots=True)
class RowAxes:
    """Where the rows lie in what goes in and in what is seen."""

    anatomy: ModelAnatomy
    embedding: int | None
    weights: Mapping[str, int | None]  # by site

    def looks(self, inputs: Tensors, look: Look) -> list[tuple[Tensors, Look]]:
        """One look for each row."""
        axes = {one.name: one.batch_axis for one in self.anatomy.inputs}
        rows = max(
            (inputs[name].shape[axis] for name, axis in axes.items() if axis is not None), default=1
        )
        return [
            (
                {name: _taken(array, axes[name], row, rows) for name, array in inputs.items()},
                replace(
                    look,
                    delta=_row(look.delta, self.embedding, row, rows),
                    replaced={
                        site: _taken(array, self.weights[site], row, rows)
                        for site, array in look.replaced.items()
                    },
                ),
            )
            for row in range(rows)
        ]

    def targets(self, output: str, weights: Array) -> list[Array]:
        """Weights of an output, or of the hidden vectors, for each row."""
        found = self.anatomy.output(output)
        axis = 0 if found is None else found.batch_axis
        rows = 1 if axis is None else weights.shape[axis]
        return [_taken(weights, axis, row, rows) for row in range(rows)]

    def gradient(self, rows: Sequence[Array | None]) -> Array | None:
        """The rows' derivatives by their embedding in one; None where one of them has none."""
        found = [one for one in rows if one is not None]
        return _together(found, self.embedding) if len(found) == len(rows) else None

    def joined(self, seen: Sequence[Seen]) -> Seen:
        """What was seen of each row, in one."""
        outputs = {one.name: one.batch_axis for one in self.anatomy.outputs}
        first = seen[0]
        return Seen(
            {n: _together([s.outputs[n] for s in seen], outputs.get(n)) for n in first.outputs},
            {n: _together([s.weights[n] for s in seen], self.weights[n]) for n in first.weights},
            _optional([s.embedding for s in seen], self.embedding),
            _optional([s.hidden for s in seen], 0),
            tuple(map(_trace, zip(*(s.recurrences for s in seen), strict=True))),
        )


def _row(array: Array | None, axis: int | None, row: int, rows: int) -> Array | None:
    return None if array is None else _taken(array, axis, row, rows)


def _taken(array: Array, axis: int | None, row: int, rows: int) -> Array:
    """A row's part of an array, in which heads may be folded into the rows' axis."""
    if axis is None:
        return array
    size = array.shape[axis] // rows
    return array.take(range(row * size, (row + 1) * size), axis=axis)


def _optional(arrays: Sequence[Array | None], axis: int | None) -> Array | None:
    found = [array for array in arrays if array is not None]
    return _together(found, axis) if found else None


def _together(arrays: Sequence[Array], axis: int | None) -> Array:
    """Rows one below the other, those that are shorter filled up with zeros."""
    if axis is None:
        return arrays[0]
    largest = np.max([array.shape for array in arrays], axis=0)
    largest[axis] = 0
    missing = [np.maximum(largest - array.shape, 0) for array in arrays]
    return np.concatenate(
        [np.pad(a, [(0, n) for n in more]) for a, more in zip(arrays, missing, strict=True)], axis
    )


def _trace(rows: tuple[RecurrentTrace, ...]) -> RecurrentTrace:
    arrays: dict[str, Any] = {
        name: _optional([getattr(one, name) for one in rows], 0)
        for name in ("inputs", "hidden", "initial_hidden", "initial_cell")
    }
    return replace(rows[0], lengths=tuple(n for one in rows for n in one.lengths), **arrays)
