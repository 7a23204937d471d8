"""From ragged sequences to the model's own layout and back.

Pure functions of plain values: batch and time axis may stand in either order, or the batch axis
may be missing; lengths, masks and positions are made here because only here the padded length
is known.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from seqlens.datatypes import NUMPY_TYPES
from seqlens.graphs.anatomy import InputAnatomy, InputRole, ModelAnatomy
from seqlens.sequences import Array, InputSequence

Fill = float | Mapping[str, float]


def pad(
    anatomy: ModelAnatomy,
    sequences: Sequence[InputSequence],
    *,
    length: int | None = None,
    fill: Fill = 0.0,
) -> dict[str, Array]:
    """Build all inputs of one run.

    Rows are padded on the right to ``length`` positions; None means the longest of them, or the
    only length that the model runs. ``fill`` is what stands in the padding of sequence inputs,
    one value or one per input name. Lengths, masks and positions are made, recurrent state that
    no sequence brings starts at zero, an input without batch axis is taken from the first
    sequence. Raises ``ValueError`` when the sequences cannot share one run.
    """
    if len(sequences) != 1 and not anatomy.batched:
        raise ValueError(f"{len(sequences)} sequences for a model without a batch axis")
    target = padded_length(anatomy, [one.length for one in sequences], length)
    return {one.name: _build(one, sequences, target, fill) for one in anatomy.inputs}


def unpad(
    anatomy: ModelAnatomy,
    outputs: Mapping[str, Array],
    lengths: Sequence[int],
    *,
    length: int | None = None,
) -> list[dict[str, Array]]:
    """Take the outputs of one run apart: one mapping per sequence.

    The batch axis is removed, the first time axis moved to the front and every time axis cut to
    the sequence's own length. A time axis that does not have the padded length (the model
    pools, or adds positions) is left whole. Pass the ``length`` that ``pad`` was given. The
    arrays are views.
    """
    target = padded_length(anatomy, lengths, length)
    answers: list[dict[str, Array]] = [{} for _ in lengths]
    for one in anatomy.outputs:
        rows = split_rows(outputs[one.name], one.batch_axis, one.time_axes, lengths, target)
        for answer, row in zip(answers, rows, strict=True):
            answer[one.name] = row
    return answers


def with_zero_states(anatomy: ModelAnatomy, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs of a run as they came, and zeros for recurrent state that did not."""
    missing = [i for i in anatomy.inputs if i.role is InputRole.STATE and i.name not in inputs]
    if not missing:
        return dict(inputs)
    rows = (
        inputs[one.name].shape[one.batch_axis]
        for one in anatomy.inputs
        if one.name in inputs and one.batch_axis is not None
    )
    batch = next(rows, 1)
    return {**inputs, **{one.name: _zero_state(one, batch) for one in missing}}


def padded_length(anatomy: ModelAnatomy, lengths: Sequence[int], length: int | None = None) -> int:
    """Positions that each row of a run takes. Raises ``ValueError`` if a sequence has more."""
    longest = max(lengths)
    target = length or anatomy.fixed_length or longest
    if longest > target:
        raise ValueError(f"a sequence of length {longest} does not fit in {target} positions")
    return target


def sharing_key(anatomy: ModelAnatomy, sequence: InputSequence) -> Hashable:
    """What two sequences must have in common to share a run, apart from their lengths.

    That is the values of inputs without batch axis, and the sizes of all axes that are not
    padded.
    """
    parts: list[Hashable] = []
    for one in anatomy.inputs:
        array = sequence.inputs.get(one.name)
        if array is None:
            continue
        padded = one.time_axis is not None and len(array) == sequence.length
        value = array.tobytes() if one.batch_axis is None else b""
        parts.append((one.name, array.shape[1:] if padded else array.shape, array.dtype, value))
    return tuple(parts)


def stack_rows(
    rows: Sequence[Array],
    batch_axis: int | None,
    time_axis: int | None,
    length: int,
    fill: float = 0.0,
) -> Array:
    """Stack rows (no batch axis, time first) into one array in the model's order of axes.

    Rows shorter than ``length`` positions are filled up on the right. Without batch axis there
    is a single row.
    """
    if time_axis is not None and any(len(row) != length for row in rows):
        stacked = np.full((len(rows), length, *rows[0].shape[1:]), fill, rows[0].dtype)
        for place, row in zip(stacked, rows, strict=True):
            place[: len(row)] = row
    elif len(rows) == 1:
        stacked = rows[0][np.newaxis]
    elif time_axis is not None:  # a third of what np.stack takes for the same
        stacked = np.concatenate(rows).reshape(len(rows), length, *rows[0].shape[1:])
    else:
        stacked = np.stack(rows)
    return _to_model_order(stacked, batch_axis, time_axis)


def split_rows(
    array: Array,
    batch_axis: int | None,
    time_axes: Sequence[int],
    lengths: Sequence[int],
    padded: int,
) -> list[Array]:
    """Undo ``stack_rows``: one view per row, batch axis removed, first time axis in front.

    Every time axis of ``padded`` positions is cut to the row's own length. Without batch axis
    each row is the whole array, cut.
    """
    if batch_axis == 0 and not time_axes:  # class scores, final states: nothing to cut or move
        # With the dots a number stays an array of rank 0.
        return [array[number, ...] for number in range(len(lengths))]
    cut = [axis for axis in time_axes if array.shape[axis] == padded]
    whole: list[slice | int] = [slice(None)] * array.ndim
    rows = []
    for number, length in enumerate(lengths):
        index = list(whole)
        for axis in cut:
            index[axis] = slice(0, length)
        if batch_axis is not None:
            index[batch_axis] = number
        rows.append(_time_first(array[(*index, ...)], batch_axis, time_axes))
    return rows


def _build(one: InputAnatomy, sequences: Sequence[InputSequence], length: int, fill: Fill) -> Array:
    if one.made_by_server and one.name not in sequences[0].inputs:
        return _made(one, [sequence.length for sequence in sequences], length)
    if one.role is InputRole.STATE and one.name not in sequences[0].inputs:
        return _zero_state(one, len(sequences))
    rows = [sequence.inputs[one.name] for sequence in sequences]
    if one.batch_axis is None:
        rows = rows[:1]  # sequences with different values here never share a batch
    if one.time_axis is not None and len(rows[0]) != sequences[0].length:
        # A time axis of its own (a decoder's prefix) is not filled up to another input's length.
        length = len(rows[0])
    value = fill if isinstance(fill, float | int) else fill.get(one.name, 0.0)
    return stack_rows(
        rows,
        one.batch_axis,
        one.time_axis,
        length,
        value if one.role is InputRole.SEQUENCE else 0.0,
    )


def _made(one: InputAnatomy, lengths: Sequence[int], padded: int) -> Array:
    """Lengths, mask or positions in the datatype and rank of the input."""
    datatype = NUMPY_TYPES[one.datatype]
    if one.role is InputRole.LENGTHS:
        counts = np.array(lengths).astype(datatype)
        plain = one.batch_axis == 0 and len(one.shape) == 1
        return counts if plain else _in_shape_of(one, counts[:, np.newaxis])
    steps = np.arange(padded)
    if one.role is InputRole.POSITIONS:
        values: Array = np.broadcast_to(steps, (len(lengths), padded))
    else:
        ends = np.array(lengths)[:, np.newaxis]
        values = (steps >= ends) if one.mask_marks == "padding" else (steps < ends)
    return _in_shape_of(one, values.astype(datatype))


def _in_shape_of(one: InputAnatomy, values: Array) -> Array:
    """Give [batch, time or 1] the input's rank, with size 1 on all axes that are neither."""
    sizes = {one.batch_axis: values.shape[0], one.time_axis: values.shape[1]}
    shape = [sizes.get(axis, 1) for axis in range(len(one.shape))]
    if one.batch_axis is not None and one.time_axis is not None and one.time_axis < one.batch_axis:
        values = values.T
    return np.ascontiguousarray(values).reshape(shape)


def _zero_state(one: InputAnatomy, batch: int) -> Array:
    shape = list(one.shape)
    if one.batch_axis is not None:
        shape[one.batch_axis] = batch
    if min(shape, default=1) < 0:
        raise ValueError(f"the size of state {one.name!r} is not known: {one.shape}")
    return np.zeros(shape, NUMPY_TYPES[one.datatype])


def _to_model_order(stacked: Array, batch_axis: int | None, time_axis: int | None) -> Array:
    """[batch, time, ...] or [batch, ...] to the model's order, the batch axis dropped if None."""
    if batch_axis == 0 and time_axis in (None, 1):  # most models: nothing to move
        return _contiguous(stacked)
    if batch_axis is None:
        single = stacked[0, ...]  # a number stays an array of rank 0
        return single if time_axis is None else _contiguous(np.moveaxis(single, 0, time_axis))
    if time_axis is None:
        return _contiguous(np.moveaxis(stacked, 0, batch_axis))
    return _contiguous(np.moveaxis(stacked, (0, 1), (batch_axis, time_axis)))


def _contiguous(array: Array) -> Array:
    # numpy turns a scalar into [1] here, which would change the rank that the model sees.
    return np.ascontiguousarray(array) if array.ndim else array


def _time_first(row: Array, batch_axis: int | None, time_axes: Sequence[int]) -> Array:
    if not time_axes:
        return row
    removed_before = batch_axis is not None and batch_axis < time_axes[0]
    place = time_axes[0] - removed_before
    return row if place == 0 else np.moveaxis(row, place, 0)
