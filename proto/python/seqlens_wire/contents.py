"""Arrays from the typed fields of InferTensorContents.

Answers go out in raw form, so there is no way back: several clients read nothing else.
"""

from collections.abc import Sequence

import numpy as np

from seqlens_wire.datatypes import BYTES, Array, Datatype, TensorError, find_datatype
from seqlens_wire.pb.open_inference_pb2 import InferTensorContents
from seqlens_wire.tensors import check_range, element_count


def read_contents(
    contents: InferTensorContents, datatype: str, shape: Sequence[int], *, field: str = "contents"
) -> Array:
    """Array of the given shape from the typed field that belongs to ``datatype``.

    Raises ``TensorError`` for ``field``: another field is filled, the number of elements does
    not agree with the shape, a value does not fit INT8, UINT8, INT16 or UINT16, or the datatype
    has no typed form (FP16, BF16). For a shape that cannot be it is that of its ``.shape``.
    """
    kind = find_datatype(datatype, field=field)
    name = _field_name(contents, kind, field)
    values = getattr(contents, name)
    count = element_count(shape, field=f"{field}.shape")
    if len(values) != count:
        raise TensorError(
            field,
            got=f"{len(values)} elements in {name}",
            expected=f"{count} for shape {list(shape)}",
        )
    return _to_array(values, kind, field).reshape(shape)


def _field_name(contents: InferTensorContents, kind: Datatype, field: str) -> str:
    if kind.contents_field is None:
        raise TensorError(
            field, got=f"typed contents for {kind.name}", expected="raw contents: it has no field"
        )
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    if filled not in ([], [kind.contents_field]):
        raise TensorError(
            field, got=", ".join(filled), expected=f"only {kind.contents_field} for {kind.name}"
        )
    return kind.contents_field


def _to_array(values: Sequence[object], kind: Datatype, field: str) -> Array:
    if kind is BYTES:
        elements = np.empty(len(values), object)
        elements[:] = values
        return elements
    # Faster than np.fromiter: numpy reads the field's memory as a whole. Left to itself it makes
    # floats of integers from 2^63 on.
    array = np.array(values, np.uint64 if kind.name == "UINT64" else None)
    if kind.kind in "iu" and array.size:
        limits = np.iinfo(kind.dtype)
        check_range(int(array.min()), int(array.max()), limits.min, limits.max, field)
    return array.astype(kind.dtype, copy=False)
