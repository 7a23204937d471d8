"""The best classes of an output, as the classification extension writes them.

Triton Inference Server, docs/protocol/extension_classification.md.
"""

import math
from collections.abc import Sequence

import numpy as np

from seqlens.api.requests import NamedTensor
from seqlens.errors import AnswerTooLarge, InvalidRequest
from seqlens.sequences import Array

# "0:0" behind its length: no class takes less.
_LEAST_BYTES = 7


def best_classes(
    tensor: NamedTensor,
    classes: int,
    labels: Sequence[str],
    batch_axis: int | None,
    max_bytes: int,
) -> NamedTensor:
    """The ``classes`` largest values of each row as BYTES ``value:index`` or ``value:index:label``.

    Shape [batch, classes], or [classes] without a batch axis; fewer where a row has fewer
    values. As in the reference server all other axes of a row count as one, a time axis as well:
    of an output [batch, time, n] the value of class c at position t has index t * n + c, and
    positions of padding, which hold zeros, take part. Floats are written with six decimals.
    Of equal values the first comes first, NaN after all others.

    Raises ``InvalidRequest`` for outputs that are not numbers, and ``AnswerTooLarge`` before
    anything is written where so many classes take more than ``max_bytes``.
    """
    array = tensor.array
    if array.dtype.kind not in "iufb":
        raise InvalidRequest(
            f"outputs.{tensor.name}.parameters.classification",
            got=f"classes of an output of datatype {tensor.datatype}",
            expected="an output of numbers",
        )
    rows = array[np.newaxis] if batch_axis is None else np.moveaxis(array, batch_axis, 0)
    # Not -1, which cannot be told where there is no row.
    rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    count = min(classes, rows.shape[1])
    if len(rows) * count * _LEAST_BYTES > max_bytes:
        raise AnswerTooLarge(len(rows) * count * _LEAST_BYTES, max_bytes)
    best = np.empty((len(rows), count), object)
    for index, row in enumerate(rows):
        best[index] = _of_row(row, count, labels)
    return NamedTensor(tensor.name, "BYTES", best[0] if batch_axis is None else best)


def _of_row(values: Array, count: int, labels: Sequence[str]) -> list[bytes]:
    # Turned around rather than sorted downwards, which would put the last of equals first; ~
    # turns integers around without the overflow that - has.
    turned = -values if values.dtype.kind == "f" else ~values
    order = np.argsort(turned, kind="stable")[:count]
    form = "%f:%d" if values.dtype.kind == "f" else "%d:%d"
    return [
        (form % (value, index) + _label(index, labels)).encode()
        for value, index in zip(values[order].tolist(), order.tolist(), strict=True)
    ]


def _label(index: int, labels: Sequence[str]) -> str:
    return f":{labels[index]}" if index < len(labels) and labels[index] else ""
