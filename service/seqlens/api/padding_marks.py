"""What lengths, masks and positions sent by a caller say about the padding of its rows."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from seqlens.api.validation import show_shape
from seqlens.errors import InvalidRequest
from seqlens.graphs.anatomy import InputAnatomy, InputRole, ModelAnatomy
from seqlens.sequences import Array

Lengths = NDArray[np.int64]  # real positions of each row, shape [rows]


def row_lengths(
    anatomy: ModelAnatomy, arrays: Mapping[str, Array], rows: int, time: int
) -> Lengths:
    """Real positions of each row, from the caller's lengths and mask; all of them without either.

    Raises ``InvalidRequest`` where lengths disagree with the data or each other, where a mask
    is not one run of real positions from the start, and where positions do not count 0, 1, 2.
    """
    lengths = np.full(rows, time, dtype=np.int64)
    source = ""
    for spec in anatomy.inputs:
        if spec.name not in arrays or spec.role not in (InputRole.LENGTHS, InputRole.MASK):
            continue
        found = _marked_lengths(spec, arrays[spec.name], rows, time)
        if source:
            _check_agreement(spec.name, found, source, lengths)
        lengths, source = found, spec.name
    for spec in anatomy.inputs:
        if spec.role is InputRole.POSITIONS and spec.name in arrays:
            _check_positions(spec, arrays[spec.name], lengths, time)
    return lengths


def _marked_lengths(spec: InputAnatomy, array: Array, rows: int, time: int) -> Lengths:
    if spec.role is InputRole.MASK:
        return _mask_lengths(spec, array, rows, time)
    return _stated_lengths(spec, array, rows, time)


def _stated_lengths(spec: InputAnatomy, array: Array, rows: int, time: int) -> Lengths:
    if array.size != rows:
        raise InvalidRequest(
            f"inputs.{spec.name}", got=f"{array.size} lengths", expected=f"{rows}, one for each row"
        )
    lengths = array.reshape(rows).astype(np.int64)
    wrong = np.flatnonzero((lengths < 1) | (lengths > time))
    if wrong.size:
        row = int(wrong[0])
        raise InvalidRequest(
            f"inputs.{spec.name}[{row}]",
            got=f"length {lengths[row]}",
            expected=f"from 1 to {time}, the positions that were sent",
        )
    return lengths


def _mask_lengths(spec: InputAnatomy, array: Array, rows: int, time: int) -> Lengths:
    real = batch_by_time(spec, array, rows, time) != 0
    if spec.mask_marks == "padding":
        real = ~real
    lengths: Lengths = real.sum(axis=1, dtype=np.int64)
    wrong = np.flatnonzero((real != before(lengths, time)).any(axis=1) | (lengths == 0))
    if wrong.size:
        row = int(wrong[0])
        raise InvalidRequest(
            f"inputs.{spec.name}[{row}]",
            got=_show_mask(real[row]),
            expected="at least one real position, then padding to the end",
        )
    return lengths


def _show_mask(real: NDArray[np.bool_]) -> str:
    if not real.any():
        return "no real position"
    first = int(np.argmax(real))
    if first:
        return f"padding before position {first}, which is real"
    return f"padding at position {int(np.argmin(real))} with real positions after it"


def _check_agreement(name: str, found: Lengths, source: str, lengths: Lengths) -> None:
    wrong = np.flatnonzero(found != lengths)
    if wrong.size:
        row = int(wrong[0])
        raise InvalidRequest(
            f"inputs.{name}[{row}]",
            got=f"length {found[row]}",
            expected=f"length {lengths[row]}, as {source!r} says",
        )


def _check_positions(spec: InputAnatomy, array: Array, lengths: Lengths, time: int) -> None:
    # The server counts positions itself, so others than these would be silently replaced.
    positions = batch_by_time(spec, array, len(lengths), time)
    wrong = (positions != np.arange(time)) & before(lengths, time)
    if wrong.any():
        row, step = (int(i) for i in np.argwhere(wrong)[0])
        raise InvalidRequest(
            f"inputs.{spec.name}[{row}, {step}]",
            got=str(positions[row, step]),
            expected=f"{step}: positions count 0, 1, 2, ...",
        )


def batch_by_time(spec: InputAnatomy, array: Array, rows: int, time: int) -> Array:
    """A mask or positions as [rows, time], whatever their axis order and axes of size one."""
    if array.size != rows * time:
        raise InvalidRequest(
            f"inputs.{spec.name}.shape",
            got=show_shape(array.shape),
            expected=f"{rows} rows of {time} positions",
        )
    if spec.batch_axis is not None and spec.time_axis is not None:
        array = np.moveaxis(array, (spec.batch_axis, spec.time_axis), (0, 1))
    return array.reshape(rows, time)


def before(lengths: Lengths, time: int) -> NDArray[np.bool_]:
    """Which of ``time`` positions are real, shape [rows, time]."""
    return np.asarray(np.arange(time) < lengths[:, None])
