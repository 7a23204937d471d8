"""A request of several rows, taken apart into its sequences and put together again."""

from collections.abc import Mapping, Sequence

import numpy as np

from seqlens.api.padding_marks import Lengths, before, row_lengths
from seqlens.api.requests import NamedTensor, Rows
from seqlens.api.validation import (
    check_length,
    check_names,
    check_tensor,
    refuse_values,
    show_shape,
    wrong_values,
)
from seqlens.errors import BackendFailed, InvalidRequest
from seqlens.graphs.anatomy import InputAnatomy, ModelAnatomy, OutputAnatomy
from seqlens.sequences import Array, InputSequence, Tensors


def split(
    anatomy: ModelAnatomy, tensors: Sequence[NamedTensor], *, max_length: int
) -> tuple[list[InputSequence], Rows]:
    """Check whole tensors and cut them into one sequence for each row, without padding.

    Padding is what the caller's lengths or mask say; without either every position is real.
    The sequences hold views of the caller's arrays. Raises ``InvalidRequest``.
    """
    check_names(anatomy, [tensor.name for tensor in tensors])
    arrays: dict[str, Array] = {}
    for tensor in tensors:
        spec = input_named(anatomy, tensor.name)
        check_tensor(spec, tensor)
        arrays[tensor.name] = tensor.array
    count = _common_size(anatomy, arrays, "batch")
    time = _common_size(anatomy, arrays, "time")
    rows = 1 if count is None else count
    lengths = np.zeros(rows, dtype=np.int64)
    if time is not None:
        lengths = _checked_lengths(anatomy, arrays, rows, time, max_length)
    _check_all_values(anatomy, arrays, lengths, time)
    sequences = [_row(anatomy, arrays, row, int(lengths[row])) for row in range(rows)]
    return sequences, Rows(rows, time, tuple(int(length) for length in lengths))


def join(
    anatomy: ModelAnatomy, answers: Sequence[Tensors], rows: Rows, names: Sequence[str]
) -> dict[str, Array]:
    """Put the rows' answers together in the caller's order and shape.

    Outputs with a time axis are padded with zeros to the caller's own padded length.
    """
    specs = [spec for spec in anatomy.outputs if spec.name in names]
    return {spec.name: _join_output(spec, answers, rows) for spec in specs}


def input_named(anatomy: ModelAnatomy, name: str) -> InputAnatomy:
    """The input of a name that ``check_names`` has let through."""
    spec = anatomy.input(name)
    assert spec is not None
    return spec


def _common_size(anatomy: ModelAnatomy, arrays: Mapping[str, Array], axis: str) -> int | None:
    """The one size that all inputs have along their batch or time axis; None without such axis."""
    first: tuple[str, int] | None = None
    for spec in anatomy.sequence_inputs + anatomy.inputs:
        place = spec.batch_axis if axis == "batch" else spec.time_axis
        if place is None or spec.name not in arrays:
            continue
        size = arrays[spec.name].shape[place]
        if first is None:
            first = spec.name, size
        elif size != first[1]:
            raise InvalidRequest(
                f"inputs.{spec.name}.shape",
                got=f"{size} along the {axis} axis ({show_shape(arrays[spec.name].shape)})",
                expected=f"{first[1]}, as in {first[0]!r}",
            )
    if first is not None and first[1] == 0:
        what = "row" if axis == "batch" else "position"
        raise InvalidRequest(
            f"inputs.{first[0]}.shape",
            got=f"{show_shape(arrays[first[0]].shape)}, length 0 along the {axis} axis",
            expected=f"at least one {what}",
        )
    return None if first is None else first[1]


def _checked_lengths(
    anatomy: ModelAnatomy, arrays: Mapping[str, Array], rows: int, time: int, max_length: int
) -> Lengths:
    lengths = row_lengths(anatomy, arrays, rows, time)
    name = next(spec.name for spec in anatomy.inputs if spec.time_axis is not None)
    longest, shortest = int(lengths.argmax()), int(lengths.argmin())
    for row in (longest, shortest):
        check_length(
            f"inputs.{name}[{row}]",
            int(lengths[row]),
            limit=max_length,
            fixed=anatomy.fixed_length,
        )
    return lengths


def _check_all_values(
    anatomy: ModelAnatomy, arrays: Mapping[str, Array], lengths: Lengths, time: int | None
) -> None:
    for spec in anatomy.inputs:
        if spec.name not in arrays or spec.made_by_server:
            continue
        array = arrays[spec.name]
        wrong = wrong_values(spec, array)
        if wrong is not None and spec.time_axis is not None and time is not None:
            wrong &= _spread(spec, before(lengths, time), array.ndim)
        refuse_values(spec, array, wrong)


def _spread(spec: InputAnatomy, real: Array, rank: int) -> Array:
    """Shape a [rows, time] mark so that it broadcasts over an input's own axes."""
    assert spec.time_axis is not None
    shape = [1] * rank
    shape[spec.time_axis] = real.shape[1]
    if spec.batch_axis is None:
        return real[0].reshape(shape)
    shape[spec.batch_axis] = real.shape[0]
    if spec.batch_axis > spec.time_axis:
        real = real.T
    return np.asarray(real.reshape(shape))


def _row(
    anatomy: ModelAnatomy, arrays: Mapping[str, Array], row: int, length: int
) -> InputSequence:
    specs = [s for s in anatomy.inputs if s.name in arrays and not s.made_by_server]
    cut = {spec.name: _cut(spec, arrays[spec.name], row, length) for spec in specs}
    return InputSequence(cut, length)


def _cut(spec: InputAnatomy, array: Array, row: int, length: int) -> Array:
    """One row of an input: batch axis removed, time axis first, padding cut."""
    if spec.time_axis is None:
        return array if spec.batch_axis is None else np.moveaxis(array, spec.batch_axis, 0)[row]
    if spec.batch_axis is None:
        return np.moveaxis(array, spec.time_axis, 0)[:length]
    return np.moveaxis(array, (spec.batch_axis, spec.time_axis), (0, 1))[row, :length]


def _join_output(spec: OutputAnatomy, answers: Sequence[Tensors], rows: Rows) -> Array:
    arrays = [_restore(spec, answer[spec.name], rows.time) for answer in answers]
    if len(arrays) == 1:
        only = arrays[0]
        return only if spec.batch_axis is None else np.expand_dims(only, spec.batch_axis)
    if len({array.shape for array in arrays}) > 1:
        shapes = ", ".join(sorted({show_shape(array.shape) for array in arrays}))
        raise BackendFailed(f"output {spec.name!r}: rows of shapes {shapes} make no tensor")
    if spec.batch_axis is not None:
        return np.stack(arrays, axis=spec.batch_axis)
    if all(np.array_equal(array, arrays[0]) for array in arrays):
        return arrays[0]
    raise InvalidRequest(
        "inputs",
        got=f"{len(arrays)} rows",
        expected=f"one row a request: output {spec.name!r} has no batch axis",
    )


def _restore(spec: OutputAnatomy, array: Array, time: int | None) -> Array:
    """One row's answer with its time axes padded and where the model has them, no batch axis."""
    if not spec.time_axes or time is None:
        return array
    # Places among the axes that remain once the batch axis is gone.
    places = [a - (spec.batch_axis is not None and spec.batch_axis < a) for a in spec.time_axes]
    restored = np.moveaxis(array, 0, places[0])
    missing = [(0, 0)] * restored.ndim
    for place in places:
        missing[place] = (0, max(0, time - restored.shape[place]))
    return np.pad(restored, missing) if any(after for _, after in missing) else restored
