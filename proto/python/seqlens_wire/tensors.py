"""Arrays to bytes on the wire and back: the raw form of the Open Inference Protocol.

Little-endian, row-major, no gaps; BYTES elements each behind their length as uint32. In Python
BF16 is float32 and BYTES is an object array of ``bytes``.
"""

import math
from collections.abc import Sequence

import numpy as np

from seqlens_wire.datatypes import (
    BF16,
    BOOL,
    BYTES,
    Array,
    Datatype,
    TensorError,
    datatype_of,
    find_datatype,
    is_bfloat16,
)

__all__ = ["TensorError", "conform", "datatype_of", "decode", "element_count", "encode"]

MAX_RANK = 32  # of numpy before 2.0
MAX_ELEMENTS = 2**59  # numpy counts an array's bytes in an int64


def encode(array: Array, datatype: str, *, field: str = "array") -> bytes:
    """Bytes of an array in raw form.

    ``array`` is first made to fit ``datatype`` as ``conform`` does; BF16 rounds to the nearest
    value, ties to even. Raises ``TensorError`` for ``field``.
    """
    kind = find_datatype(datatype, field=field)
    values = conform(array, datatype, field=field)
    if kind is BYTES:
        return _encode_bytes(values, field)
    if kind is BF16:
        values = _round_to_bfloat16(values)
    return values.astype(kind.wire_dtype, copy=False).tobytes()


def decode(
    data: bytes | memoryview, datatype: str, shape: Sequence[int], *, field: str = "data"
) -> Array:
    """Array of the given shape from its raw form.

    A read-only view of ``data`` where bytes and array are the same (all datatypes but BF16 and
    BYTES). Sizes are checked before anything is allocated. Raises ``TensorError`` for ``field``,
    or its ``.shape``.
    """
    kind = find_datatype(datatype, field=field)
    count = element_count(shape, field=f"{field}.shape")
    if kind is BYTES:
        return _decode_bytes(data, count, field).reshape(shape)
    _check_size(len(data), count * kind.wire_dtype.itemsize, kind, shape, field)
    raw = np.frombuffer(data, kind.wire_dtype)
    if kind is BOOL:
        _check_booleans(raw, field)
    if kind is BF16:
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.reshape(shape)


def element_count(shape: Sequence[int], *, field: str = "shape") -> int:
    """Number of elements of a shape from the wire.

    Raises ``TensorError`` for negative sizes, more than 32 axes, and counts that do not fit.
    """
    if len(shape) > MAX_RANK:
        raise TensorError(field, got=f"{len(shape)} axes", expected=f"at most {MAX_RANK}")
    if min(shape, default=0) < 0:
        raise TensorError(field, got=f"shape {list(shape)}", expected="no negative sizes")
    count = math.prod(shape)
    # A zero does not excuse the other sizes: numpy multiplies them as well.
    if (count or math.prod(size or 1 for size in shape)) > MAX_ELEMENTS:
        raise TensorError(field, got=f"shape {list(shape)}", expected="fewer elements")
    return count


def conform(array: Array, datatype: str, *, field: str = "array") -> Array:
    """The same values as the array type of ``datatype``; no copy if they are that already.

    Integers become other integers if each value fits, integers and floats become floats if none
    turns infinite (precision may be lost), and strings become BYTES. Anything else, such as
    floats for an integer datatype, raises ``TensorError`` for ``field``.
    """
    kind = find_datatype(datatype, field=field)
    if array.dtype == kind.dtype:
        return array
    if is_bfloat16(array):
        return conform(array.astype(np.float32), datatype, field=field)
    if kind is BYTES and array.dtype.kind in "SU":
        return array.astype(object)
    if kind.kind in "iu" and array.dtype.kind in "iu":
        return _narrow(array, kind, field)
    if kind.kind == "f" and array.dtype.kind in "iuf":
        return _to_float(array, kind, field)
    got = f"values of {datatype_of(array, field=field)}"
    raise TensorError(field, got=got, expected=f"values for {datatype}")


def _narrow(array: Array, kind: Datatype, field: str) -> Array:
    limits = np.iinfo(kind.dtype)
    if array.size:
        check_range(int(array.min()), int(array.max()), limits.min, limits.max, field)
    return array.astype(kind.dtype)


def check_range(smallest: int, largest: int, lower: int, upper: int, field: str) -> None:
    """Raise ``TensorError`` for ``field`` unless lower <= smallest and largest <= upper."""
    if smallest < lower or largest > upper:
        wrong = smallest if smallest < lower else largest
        raise TensorError(field, got=f"value {wrong}", expected=f"from {lower} to {upper}")


def _to_float(array: Array, kind: Datatype, field: str) -> Array:
    with np.errstate(over="ignore"):
        values = array.astype(kind.dtype)
    overflown = np.isinf(values) & np.isfinite(array)
    if overflown.any():
        largest = np.finfo(kind.dtype).max
        raise TensorError(field, got=f"value {array[overflown][0]}", expected=f"at most {largest}")
    return values


def _round_to_bfloat16(values: Array) -> Array:
    """Upper halves of float32 values as uint16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # Rounding could carry a NaN into an infinity or around to zero.
    quiet_nan = (bits >> 16) & 0x8000 | 0x7FC0
    return np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16)


def _encode_bytes(values: Array, field: str) -> bytes:
    parts: list[bytes] = []
    for value in values.ravel().tolist():
        data = value.encode() if isinstance(value, str) else value
        if not isinstance(data, bytes):
            raise TensorError(field, got=type(value).__name__, expected="bytes or str elements")
        parts += (len(data).to_bytes(4, "little"), data)
    return b"".join(parts)


def _decode_bytes(data: bytes | memoryview, count: int, field: str) -> Array:
    if len(data) < 4 * count:
        raise TensorError(
            field, got=f"{len(data)} bytes", expected=f"at least {4 * count} for {count} elements"
        )
    elements = np.empty(count, object)
    end = 0
    for index in range(count):
        start = end + 4
        end = start + int.from_bytes(data[end:start], "little")
        if end > len(data):
            raise TensorError(
                field,
                got=f"{len(data)} bytes",
                expected=f"element {index} of {count} to end at byte {end}",
            )
        elements[index] = bytes(data[start:end])
    if end != len(data):
        raise TensorError(
            field, got=f"{len(data)} bytes", expected=f"{end} bytes for {count} elements"
        )
    return elements


def _check_size(got: int, expected: int, kind: Datatype, shape: Sequence[int], field: str) -> None:
    if got != expected:
        raise TensorError(
            field,
            got=f"{got} bytes",
            expected=f"{expected} bytes for {kind.name} of shape {list(shape)}",
        )


def _check_booleans(values: Array, field: str) -> None:
    numbers = values.view(np.uint8)
    if numbers.size and numbers.max() > 1:
        raise TensorError(field, got=f"byte {numbers.max()}", expected="0 or 1 for BOOL")
