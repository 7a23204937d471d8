"""Lists of arrays of different shapes as one RaggedTensor, and back."""

import itertools
from collections.abc import Sequence

import numpy as np

from seqlens_wire.datatypes import Array, TensorError, find_datatype
from seqlens_wire.pb.sequences_pb2 import RaggedTensor
from seqlens_wire.tensors import MAX_RANK, conform, decode, element_count, encode


def pack(name: str, datatype: str, rows: Sequence[Array]) -> RaggedTensor:
    """One message from arrays of the same rank, each with its own shape.

    Values are made to fit ``datatype`` as ``tensors.conform`` does. Raises ``TensorError`` with
    the field ``name[index]`` for a row that does not fit or has another rank than the first.
    """
    rank = rows[0].ndim if rows else 0
    for index, row in enumerate(rows):
        if row.ndim != rank:
            raise TensorError(
                f"{name}[{index}]", got=f"rank {row.ndim}", expected=f"rank {rank} as in row 0"
            )
    return RaggedTensor(
        name=name,
        datatype=datatype,
        rows=len(rows),
        rank=rank,
        shapes=list(itertools.chain.from_iterable(row.shape for row in rows)),
        values=_encode_rows(name, datatype, rows),
    )


def _encode_rows(name: str, datatype: str, rows: Sequence[Array]) -> bytes:
    dtype = find_datatype(datatype).dtype
    if not rows:
        return b""
    if any(row.dtype != dtype for row in rows):
        # Each row by itself: numpy would join int64 and uint64 rows as float64.
        rows = [conform(row, datatype, field=f"{name}[{i}]") for i, row in enumerate(rows)]
    return encode(np.concatenate(rows, axis=None), datatype, field=name)


def unpack(tensor: RaggedTensor, *, field: str = "") -> list[Array]:
    """The rows of a message: views of its bytes, read-only, in order.

    Raises ``TensorError`` for ``field`` (the tensor's name by default) if numbers of rows,
    shapes, values and datatype do not agree; nothing is allocated on the word of the message.
    """
    field = field or tensor.name
    shapes = _row_shapes(tensor, field)
    if tensor.rank == 1:  # token ids, class scores: rows are pieces of the values as they are
        counts = list(tensor.shapes)
        element_count([min(counts, default=0)], field=field)
    else:
        counts = [element_count(shape, field=field) for shape in shapes]
    total = element_count([sum(counts)], field=field)
    flat = decode(tensor.values, tensor.datatype, [total], field=field)
    ends = itertools.accumulate(counts)
    pieces = [flat[end - count : end] for count, end in zip(counts, ends, strict=True)]
    if tensor.rank == 1:
        return pieces
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _row_shapes(tensor: RaggedTensor, field: str) -> list[tuple[int, ...]]:
    rows, rank = tensor.rows, tensor.rank
    if rows < 0 or not 0 <= rank <= MAX_RANK:
        raise TensorError(
            field,
            got=f"{rows} rows of rank {rank}",
            expected=f"rows not negative and rank from 0 to {MAX_RANK}",
        )
    if len(tensor.shapes) != rows * rank:
        raise TensorError(
            field,
            got=f"{len(tensor.shapes)} sizes in shapes",
            expected=f"{rows * rank} for {rows} rows of rank {rank}",
        )
    # Rows without axes are counted by nothing but the message's word: hold it against the bytes.
    if rank == 0 and rows > len(tensor.values):
        raise TensorError(
            field, got=f"{len(tensor.values)} bytes", expected=f"at least {rows} for {rows} rows"
        )
    sizes = iter(tensor.shapes)
    return list(zip(*[sizes] * rank, strict=True)) if rank else [()] * rows
