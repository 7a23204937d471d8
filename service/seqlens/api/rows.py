"""A request of several rows, taken apart into its sequences and put together again."""

from collections.abc import Mapping, Sequence

import numpy as np

from seqlens.api.padding_marks import before, row_lengths
from seqlens.api.requests import LengthLimits, NamedTensor, Rows
from seqlens.api.validation import (
    check_length,
    check_names,
    check_tensor,
    refuse_values,
    show_shape,
    with_defaults,
    wrong_values,
)
from seqlens.errors import BackendFailed, InvalidRequest
from seqlens.graphs.anatomy import InputAnatomy, InputRole, ModelAnatomy, OutputAnatomy
from seqlens.sequences import Array, InputSequence, Tensors


def split(
    anatomy: ModelAnatomy, tensors: Sequence[NamedTensor], limits: LengthLimits
) -> tuple[list[InputSequence], Rows]:
    """Check whole tensors and cut them into one sequence for each row, without padding.

    Padding is what the caller's lengths or mask say; without either every position is real.
    The sequences hold views of the caller's arrays. Raises ``InvalidRequest``.
    """
    check_names(anatomy, [tensor.name for tensor in tensors])
    arrays: dict[str, Array] = {}
    for tensor in tensors:
        spec = input_named(anatomy, tensor.name)
        exported = _as_exported(spec, tensor)
        check_tensor(spec, exported)
        arrays[tensor.name] = exported.array
    rows, time = _row_count(anatomy, arrays), _time_size(anatomy, arrays)
    lengths = [0] * rows
    if time is not None:
        lengths = _checked_lengths(anatomy, arrays, rows, time, limits)
    _check_all_values(anatomy, arrays, lengths, time)
    sequences = [_row(anatomy, arrays, row, time, length) for row, length in enumerate(lengths)]
    return sequences, Rows(time, tuple(lengths))


def _as_exported(spec: InputAnatomy, tensor: NamedTensor) -> NamedTensor:
    """The tensor without the axis of size one that clients of batching models have to add.

    ``max_batch_size`` takes the batch axis away, and no input may be left without any, so one
    value a row, such as a length, is published as [batch, 1].
    """
    array = tensor.array
    if spec.batch_axis == 0 and len(spec.shape) == 1 and array.shape[1:] == (1,):
        return NamedTensor(tensor.name, tensor.datatype, array.reshape(-1))
    return tensor


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


def _row_count(anatomy: ModelAnatomy, arrays: Mapping[str, Array]) -> int:
    sizes = {
        spec.name: arrays[spec.name].shape[spec.batch_axis]
        for spec in anatomy.sequence_inputs + anatomy.inputs
        if spec.batch_axis is not None and spec.name in arrays
    }
    return _one_size(sizes, "row") if sizes else 1


def _time_size(anatomy: ModelAnatomy, arrays: Mapping[str, Array]) -> int | None:
    """Positions of the sequence inputs and of what marks them; None without a time axis."""
    sizes = {
        spec.name: arrays[spec.name].shape[spec.time_axis]
        for spec in anatomy.sequence_inputs + anatomy.inputs
        if spec.time_axis is not None
        and spec.name in arrays
        # Any other input may have a time axis of its own.
        and (spec.role is InputRole.SEQUENCE or spec.made_by_server)
    }
    return _one_size(sizes, "position") if sizes else None


def _one_size(sizes: Mapping[str, int], unit: str) -> int:
    first, size = next(iter(sizes.items()))
    for name, found in sizes.items():
        if found != size:
            raise InvalidRequest(
                f"inputs.{name}.shape",
                got=f"{found} {unit}s",
                expected=f"{size}, as in {first!r}",
            )
    if size == 0:
        raise InvalidRequest(
            f"inputs.{first}.shape", got=f"0 {unit}s", expected=f"at least one {unit}"
        )
    return size


def _checked_lengths(
    anatomy: ModelAnatomy, arrays: Mapping[str, Array], rows: int, time: int, limits: LengthLimits
) -> list[int]:
    if anatomy.mark_names.isdisjoint(arrays):  # nothing tells of padding: all is real
        lengths = [time] * rows
    else:
        lengths = row_lengths(anatomy, arrays, rows, time).tolist()
    name = next(
        s.name for s in anatomy.sequence_inputs if s.time_axis is not None and s.name in arrays
    )
    for length in {max(lengths), min(lengths)}:
        check_length(f"inputs.{name}[{lengths.index(length)}]", length, limits)
    return lengths


def _check_all_values(
    anatomy: ModelAnatomy, arrays: Mapping[str, Array], lengths: Sequence[int], time: int | None
) -> None:
    for spec in anatomy.inputs:
        if spec.name not in arrays or spec.made_by_server:
            continue
        array = arrays[spec.name]
        wrong = wrong_values(spec, array)
        if wrong is not None and time is not None and _has_padding(spec, array, time):
            wrong &= _spread(spec, before(np.array(lengths), time), array.ndim)
        refuse_values(spec, array, wrong)


def _has_padding(spec: InputAnatomy, array: Array, time: int) -> bool:
    """Whether the input's time axis is that of the sequence, and not one of its own."""
    return spec.time_axis is not None and array.shape[spec.time_axis] == time


def _spread(spec: InputAnatomy, real: Array, rank: int) -> Array:
    """Shape a [rows, time] mark so that it broadcasts over an input's own axes."""
    assert spec.time_axis is not None
    shape = [1] * rank
    shape[spec.time_axis] = real.shape[1]
    if spec.batch_axis is not None:
        shape[spec.batch_axis] = real.shape[0]
        real = real if spec.batch_axis < spec.time_axis else real.T
    spread: Array = real.reshape(shape)
    return spread


def _row(
    anatomy: ModelAnatomy, arrays: Mapping[str, Array], row: int, time: int | None, length: int
) -> InputSequence:
    specs = [s for s in anatomy.inputs if s.name in arrays and not s.made_by_server]
    cut = {}
    for spec in specs:
        array = arrays[spec.name]
        padded = time is not None and _has_padding(spec, array, time)
        one = _one_row(spec, array, row)
        cut[spec.name] = one[:length] if padded else one
    return InputSequence(with_defaults(anatomy, cut, length), length)


def _one_row(spec: InputAnatomy, array: Array, row: int) -> Array:
    """One row of an input: batch axis removed, time axis first."""
    axes = [axis for axis in (spec.batch_axis, spec.time_axis) if axis is not None]
    ordered = array
    if axes != [0, 1][: len(axes)]:  # np.moveaxis takes its time even when there is nothing to do
        ordered = np.moveaxis(array, axes, range(len(axes)))
    one: Array = ordered if spec.batch_axis is None else ordered[row]
    return one


def _join_output(spec: OutputAnatomy, answers: Sequence[Tensors], rows: Rows) -> Array:
    arrays = [
        _restore(spec, answer[spec.name], length, rows.time)
        for answer, length in zip(answers, rows.lengths, strict=True)
    ]
    if len(arrays) == 1:
        only = arrays[0]
        if spec.batch_axis == 0:
            return only[np.newaxis]  # a tenth of what numpy takes for any axis
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


def _restore(spec: OutputAnatomy, array: Array, length: int, time: int | None) -> Array:
    """One row's answer with its time axes padded and where the model has them, no batch axis.

    A time axis that is not as long as the sequence (the model pools) stays as it is.
    """
    if not spec.time_axes or time is None:
        return array
    # Places among the axes that remain once the batch axis is gone.
    places = [a - (spec.batch_axis is not None and spec.batch_axis < a) for a in spec.time_axes]
    restored = np.moveaxis(array, 0, places[0])
    missing = [(0, 0)] * restored.ndim
    for place in places:
        if restored.shape[place] == length:
            missing[place] = (0, time - length)
    return np.pad(restored, missing) if any(after for _, after in missing) else restored
