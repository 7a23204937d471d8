"""The best classes of an output, as the classification extension writes them.

Triton Inference Server, docs/protocol/extension_classification.md.
"""

from collections.abc import Sequence

import numpy as np

from seqlens.api.requests import NamedTensor
from seqlens.errors import InvalidRequest
from seqlens.sequences import Array


def best_classes(
    tensor: NamedTensor, classes: int, labels: Sequence[str], batch_axis: int | None
) -> NamedTensor:
    """The ``classes`` largest values of each row as BYTES ``value:index`` or ``value:index:label``.

    Shape [batch, classes], or [classes] without a batch axis; all other axes of a row count as
    one. Of equal values the first comes first. Raises ``InvalidRequest`` for outputs that are
    not numbers.
    """
    if tensor.array.dtype.kind not in "iufb":
        raise InvalidRequest(
            f"outputs.{tensor.name}.parameters.classification",
            got=f"classes of an output of datatype {tensor.datatype}",
            expected="an output of numbers",
        )
    if batch_axis is None:
        best = _of_row(tensor.array.ravel(), classes, labels)
    else:
        rows = np.moveaxis(tensor.array, batch_axis, 0)
        rows = rows.reshape(len(rows), -1)
        shape = (len(rows), min(classes, rows.shape[1]))
        best = np.empty(shape, object)
        for index, row in enumerate(rows):
            best[index] = _of_row(row, classes, labels)
    return NamedTensor(tensor.name, "BYTES", best)


def _of_row(values: Array, classes: int, labels: Sequence[str]) -> Array:
    order = np.argsort(-values.astype(np.float64), kind="stable")[:classes]
    best = np.empty(len(order), object)
    best[:] = [_written(values[index], int(index), labels) for index in order]
    return best


def _written(value: Array, index: int, labels: Sequence[str]) -> bytes:
    number = f"{float(value):f}" if value.dtype.kind == "f" else str(int(value))
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{number}:{index}{label}".encode()
