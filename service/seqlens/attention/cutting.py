"""The part of a map that was asked for: its place, its size in bytes, and the cut itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqlens.attention.selection import AttentionSelection, MapDatatype, Reduction, Span
from seqlens.attention.sites import Extent, Site
from seqlens.errors import InvalidRequest
from seqlens.sequences import Array, InputSequence

_DATATYPES: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype(np.float32),
    "FP16": np.dtype(np.float16),
    "UINT8": np.dtype(np.uint8),
}
_POSITION_BYTES = 4  # of a key position, int32


@dataclass(frozen=True, slots=True)
class Cut:
    """What is cut out of one map [head, query, key]."""

    heads: tuple[int, ...]
    queries: range
    keys: range
    top_k: int
    reduce_heads: Reduction
    datatype: MapDatatype

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of what comes out: [heads, queries, keys]."""
        heads = 1 if self.reduce_heads else len(self.heads)
        keys = min(self.top_k, len(self.keys)) if self.top_k else len(self.keys)
        return heads, len(self.queries), keys

    @property
    def size(self) -> int:
        """Of what comes out, key positions included, in bytes."""
        each = _DATATYPES[self.datatype].itemsize + (_POSITION_BYTES if self.top_k else 0)
        return math.prod(self.shape) * each


def plan_cut(site: Site, selection: AttentionSelection, queries: int, keys: int) -> Cut:
    """Where the cut lies in a site's map of so many queries and keys.

    Raises ``InvalidRequest`` for spans that are empty or beyond the map.
    """
    span = Span(-1) if selection.last_query else selection.queries
    return Cut(
        heads=tuple(dict.fromkeys(selection.heads)) or tuple(range(site.site.heads or 1)),
        queries=_resolve("query", span, queries, site),
        keys=_resolve("key", selection.keys, keys, site),
        top_k=selection.top_k,
        reduce_heads=selection.reduce_heads,
        datatype=selection.datatype,
    )


def _resolve(axis: str, span: Span, size: int, site: Site) -> range:
    start, stop = (
        edge if edge is None or edge >= 0 else edge + size for edge in (span.start, span.stop)
    )
    start, stop = 0 if start is None else start, size if stop is None else stop
    if 0 <= start < stop <= size or (span == Span() and size == 0):
        return range(start, stop)
    edges = (f"{edge if edge is not None else ''}" for edge in (span.start, span.stop))
    raise InvalidRequest(
        f"selection.{axis}_{'stop' if span.start is None else 'start'}",
        got=":".join(edges),
        expected=f"a span that is not empty, within the {size} positions of {site.name!r}",
    )


def cut_map(weights: Array, cut: Cut) -> tuple[Array, Array | None]:
    """Weights [heads, queries, keys] in the datatype asked for, and key positions for ``top_k``.

    Key positions, int32, are counted from the first key of the whole map; equal weights stand in
    order of position.
    """
    part = weights[list(cut.heads)] if cut.heads != tuple(range(len(weights))) else weights
    part = part[:, cut.queries.start : cut.queries.stop, cut.keys.start : cut.keys.stop]
    if cut.reduce_heads == "mean":
        part = part.mean(axis=0, keepdims=True, dtype=np.float64)
    elif cut.reduce_heads == "max":
        part = part.max(axis=0, keepdims=True)
    if not cut.top_k:
        return _converted(part, cut.datatype), None
    pairs = [_largest(head, cut.top_k) for head in part]
    largest, places = (np.stack(parts) for parts in zip(*pairs, strict=True))
    return _converted(largest, cut.datatype), (places + cut.keys.start).astype(np.int32)


def _largest(weights: Array, count: int) -> tuple[Array, Array]:
    """The largest weights of each query [queries, keys], descending, and their places."""
    order = np.argsort(-weights, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(weights, order, axis=1), order


def _converted(weights: Array, datatype: MapDatatype) -> Array:
    if datatype == "UINT8":
        # A query that sees nothing at all is not a number in some models.
        weights = np.rint(np.nan_to_num(weights) * 255.0).clip(0, 255)
    # Always a copy: a view would keep the whole tensor, padding and all heads, in memory.
    converted: Array = np.array(weights, _DATATYPES[datatype], order="C")
    return converted


def size_of(extent: Extent, length: int, sequence: InputSequence | None = None) -> int:
    """Size of an axis for one sequence; its inputs tell where they have lengths of their own."""
    if extent.input and sequence is not None and extent.input in sequence.inputs:
        length = len(sequence.inputs[extent.input])
    return extent.size(length)


def sizes_of(
    site: Site, lengths: Sequence[int], sequences: Sequence[InputSequence] = ()
) -> list[tuple[int, int]]:
    """Queries and keys of a site's map for each sequence."""
    own: Sequence[InputSequence | None] = sequences or [None] * len(lengths)
    return [
        (size_of(site.queries, length, one), size_of(site.keys, length, one))
        for length, one in zip(lengths, own, strict=True)
    ]
