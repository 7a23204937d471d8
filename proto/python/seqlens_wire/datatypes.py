"""The datatypes of the Open Inference Protocol, and how numpy spells them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class TensorError(ValueError):
    """A tensor that cannot be what it says it is.

    ``field`` names the part of the message or the argument, ``got`` what came, ``expected`` what
    would have been right.
    """

    def __init__(self, field: str, *, got: str, expected: str) -> None:
        self.field, self.got, self.expected = field, got, expected
        super().__init__(f"{field}: got {got}, expected {expected}")


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype: its name on the wire, its arrays in Python and its bytes."""

    name: str
    dtype: np.dtype[Any]  # of arrays in Python
    wire_dtype: np.dtype[Any]  # of one element in raw form; of the length in front, for BYTES
    contents_field: str | None  # field of InferTensorContents; None: raw form only

    @property
    def kind(self) -> str:
        """numpy's letter for the family: b, i, u, f, or O for BYTES."""
        return self.dtype.kind


def _datatype(name: str, dtype: str, wire_dtype: str, contents_field: str | None) -> Datatype:
    return Datatype(name, np.dtype(dtype), np.dtype(wire_dtype), contents_field)


BYTES = _datatype("BYTES", "O", "<u4", "bytes_contents")
# numpy has no bfloat16: in Python it is the float32 that it is the upper half of.
BF16 = _datatype("BF16", "f4", "<u2", None)
BOOL = _datatype("BOOL", "?", "?", "bool_contents")

DATATYPES: dict[str, Datatype] = {
    datatype.name: datatype
    for datatype in (
        BOOL,
        _datatype("INT8", "i1", "<i1", "int_contents"),
        _datatype("INT16", "i2", "<i2", "int_contents"),
        _datatype("INT32", "i4", "<i4", "int_contents"),
        _datatype("INT64", "i8", "<i8", "int64_contents"),
        _datatype("UINT8", "u1", "<u1", "uint_contents"),
        _datatype("UINT16", "u2", "<u2", "uint_contents"),
        _datatype("UINT32", "u4", "<u4", "uint_contents"),
        _datatype("UINT64", "u8", "<u8", "uint64_contents"),
        _datatype("FP16", "f2", "<f2", None),
        BF16,
        _datatype("FP32", "f4", "<f4", "fp32_contents"),
        _datatype("FP64", "f8", "<f8", "fp64_contents"),
        BYTES,
    )
}
_BY_DTYPE = {d.dtype: d.name for d in DATATYPES.values() if d is not BF16}


def find_datatype(name: str, *, field: str = "datatype") -> Datatype:
    """The datatype of this name. Raises ``TensorError`` for ``field`` if there is none."""
    try:
        return DATATYPES[name]
    except KeyError:
        raise TensorError(field, got=f"datatype {name!r}", expected=", ".join(DATATYPES)) from None


def datatype_of(array: Array, *, field: str = "array") -> str:
    """Name of the datatype that carries this array as it is.

    Strings and objects are BYTES; float32 is FP32; arrays of ``ml_dtypes.bfloat16`` are BF16.
    Raises ``TensorError`` for complex numbers, dates and the like.
    """
    if array.dtype.kind in "SU":
        return BYTES.name
    if is_bfloat16(array):
        return BF16.name
    try:
        return _BY_DTYPE[array.dtype.newbyteorder("=")]
    except KeyError:
        raise TensorError(
            field, got=f"dtype {array.dtype}", expected="booleans, integers, floats or strings"
        ) from None


def is_bfloat16(array: Array) -> bool:
    """Whether this is an array of ``ml_dtypes.bfloat16``, told without importing ml_dtypes."""
    # The kind first: making up the name of a plain datatype takes ten times as long.
    return array.dtype.kind == "V" and bool(array.dtype.name == "bfloat16")
