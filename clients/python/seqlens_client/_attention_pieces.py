"""Maps put together from the pieces in which they travel."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqlens_client._attention import AttentionMeasures, SiteMap
from seqlens_client._descriptions import AttentionSite
from seqlens_client._errors import unreadable_answer
from seqlens_client._influence import InsideSequence
from seqlens_wire.datatypes import Array, TensorError
from seqlens_wire.pb import sequences_pb2 as pb
from seqlens_wire.tensors import decode

UINT8_STEPS = 255  # a UINT8 weight is this many times the weight


@dataclass(frozen=True, slots=True)
class Block:
    """Where a piece lies in its map: rows of heads, queries and keys."""

    heads: tuple[int, ...]
    query_start: int
    key_start: int
    weights: NDArray[np.float32]  # [heads, queries, keys]
    key_positions: NDArray[np.int32] | None

    @property
    def rows(self) -> tuple[int, ...]:
        """Numbers of the heads, where heads that were reduced to one count as head 0."""
        return self.heads or (0,)

    @property
    def first_key(self) -> int:
        """Place of the first weight of a query: those of ``top_k`` have no place but their rank."""
        return self.key_start if self.key_positions is None else 0


def merge(
    site: AttentionSite, sequence: InsideSequence, pieces: Sequence[pb.AttentionMap]
) -> SiteMap:
    """The map of one sequence at one site. Raises ``ServerError`` unless the pieces fill it."""
    blocks = [_read_block(piece) for piece in pieces]
    whole = blocks[0] if len(blocks) == 1 else _joined(blocks)
    measures = [piece.measures for piece in pieces if piece.HasField("measures")]
    return SiteMap(
        site=site,
        sequence=pieces[0].sequence,
        heads=whole.heads,
        query_start=whole.query_start,
        key_start=whole.key_start,
        weights=whole.weights,
        key_positions=whole.key_positions,
        measures=_read_measures(measures[0]) if measures else None,
        tokens=sequence.tokens,
        length=sequence.length,
    )


def _read_block(piece: pb.AttentionMap) -> Block:
    shape = (len(piece.heads) or 1, piece.queries, piece.keys)
    try:
        weights = decode(piece.weights, piece.datatype, shape, field="weights")
        positions = (
            decode(piece.key_positions, "INT32", shape, field="key_positions").astype(np.int32)
            if piece.key_positions
            else None
        )
    except TensorError as error:
        raise unreadable_answer(str(error)) from error
    floats = weights.astype(np.float32)  # a copy: a view would keep the whole message alive
    if piece.datatype == "UINT8":
        floats /= UINT8_STEPS
    return Block(tuple(piece.heads), piece.query_start, piece.key_start, floats, positions)


def _joined(blocks: Sequence[Block]) -> Block:
    heads = list(dict.fromkeys(head for block in blocks for head in block.rows))
    query_start = min(block.query_start for block in blocks)
    key_start = min(block.first_key for block in blocks)
    shape = (
        len(heads),
        max(block.query_start + block.weights.shape[1] for block in blocks) - query_start,
        max(block.first_key + block.weights.shape[2] for block in blocks) - key_start,
    )
    # Before anything is allocated on the word of the messages.
    if math.prod(shape) != sum(block.weights.size for block in blocks):
        raise unreadable_answer("pieces of a map do not fill it")
    places = [
        np.ix_(
            np.array([heads.index(head) for head in block.rows]),
            block.query_start - query_start + np.arange(block.weights.shape[1]),
            block.first_key - key_start + np.arange(block.weights.shape[2]),
        )
        for block in blocks
    ]
    sparse = [block.key_positions for block in blocks if block.key_positions is not None]
    if sparse and len(sparse) != len(blocks):
        raise unreadable_answer("only some pieces of a map say where their weights lie")
    return replace(
        blocks[0],
        heads=tuple(heads) if blocks[0].heads else (),
        query_start=query_start,
        key_start=blocks[0].key_start if sparse else key_start,
        weights=_filled(shape, places, [block.weights for block in blocks]),
        key_positions=_filled(shape, places, sparse) if sparse else None,
    )


def _filled(shape: tuple[int, ...], places: Sequence[Any], parts: Sequence[Array]) -> Array:
    """One array of all parts. Their sizes add up to its own, so any overlap leaves a gap."""
    whole, filled = np.empty(shape, parts[0].dtype), np.zeros(shape, bool)
    for place, part in zip(places, parts, strict=True):
        whole[place], filled[place] = part, True
    if not filled.all():
        raise unreadable_answer("pieces of a map lie over each other")
    return whole


def _read_measures(measures: pb.AttentionMeasures) -> AttentionMeasures:
    entropy = np.array(measures.entropy, np.float64)
    heads = len(entropy)
    try:
        largest = _array(measures.largest_positions, np.int64).reshape(heads, -1)
        similarity = _array(measures.similarity, np.float64).reshape(heads, heads)
    except ValueError as error:
        raise unreadable_answer(f"measures of {heads} heads: {error}") from error
    return AttentionMeasures(
        entropy=entropy,
        mean_distance=_array(measures.mean_distance, np.float64),
        share=_array(measures.share, np.float64) if measures.share else None,
        largest_positions=largest,
        similarity=similarity,
        patterns=measures.patterns,
    )


def _array(values: Sequence[Any], dtype: type) -> Array:
    return np.array(values, dtype)
