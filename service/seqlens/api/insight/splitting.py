"""Maps and gates in parts that fit into messages."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from seqlens.attention.questions import GateLayer, GateReading
from seqlens.attention.selection import SequenceMap, SiteMaps
from seqlens.errors import AnswerTooLarge

# Names, numbers and measures beside the weights: more than they ever take, for a map.
_BESIDE = 1_024

Part = TypeVar("Part")


def split_maps(maps: SiteMaps, most_bytes: int) -> Iterator[SiteMaps]:
    """The maps of a site in parts of at most ``most_bytes`` each.

    Whole sequences stay together while they fit; the map of a sequence that does not is cut into
    heads, and those into queries, so each part is a map of its own. Measures go with the first
    part and describe the whole map. Raises ``AnswerTooLarge`` where one query is too large.
    """
    parts = [part for one in maps.maps for part in _split_map(one, most_bytes)]
    sizes = [_map_bytes(part) for part in parts]
    for group in _groups(parts, sizes, most_bytes):
        yield replace(maps, maps=tuple(group))


def split_gates(layer: GateLayer, most_bytes: int) -> Iterator[GateLayer]:
    """The gates of a layer in parts of at most ``most_bytes`` each.

    Raises ``AnswerTooLarge`` where one gate of one sequence is too large.
    """
    sizes = [_reading_bytes(one) for one in layer.readings]
    if max(sizes, default=0) > most_bytes:
        raise AnswerTooLarge(max(sizes), most_bytes)
    for group in _groups(layer.readings, sizes, most_bytes):
        yield replace(layer, readings=tuple(group))


def _groups(parts: Sequence[Part], sizes: Sequence[int], most_bytes: int) -> Iterator[list[Part]]:
    """As many following each other as fit together."""
    group: list[Part] = []
    held = 0
    for part, size in zip(parts, sizes, strict=True):
        if group and held + size > most_bytes:
            yield group
            group, held = [], 0
        group.append(part)
        held += size
    if group:
        yield group


def _split_map(one: SequenceMap, most_bytes: int) -> Iterator[SequenceMap]:
    size = _map_bytes(one)
    if size <= most_bytes:
        yield one
        return
    heads, queries, _ = one.weights.shape
    if heads == 1 and queries == 1:
        raise AnswerTooLarge(size, most_bytes)
    if heads > 1:
        halves = (_heads(one, 0, heads // 2), _heads(one, heads // 2, heads))
    else:
        halves = (_queries(one, 0, queries // 2), _queries(one, queries // 2, queries))
    yield from _split_map(halves[0], most_bytes)
    yield from _split_map(replace(halves[1], measures=None), most_bytes)


def _heads(one: SequenceMap, start: int, stop: int) -> SequenceMap:
    positions = one.key_positions
    return replace(
        one,
        heads=one.heads[start:stop],
        weights=one.weights[start:stop],
        key_positions=None if positions is None else positions[start:stop],
    )


def _queries(one: SequenceMap, start: int, stop: int) -> SequenceMap:
    positions = one.key_positions
    return replace(
        one,
        query_start=one.query_start + start,
        weights=one.weights[:, start:stop],
        key_positions=None if positions is None else positions[:, start:stop],
    )


def _map_bytes(one: SequenceMap) -> int:
    positions, measures = one.key_positions, one.measures
    size = _BESIDE + one.weights.nbytes + (0 if positions is None else positions.nbytes)
    if measures is not None:
        size += measures.largest_positions.nbytes + measures.similarity.nbytes
    return int(size)


def _reading_bytes(one: GateReading) -> int:
    values = 0 if one.values is None else one.values.nbytes
    return int(_BESIDE + one.mean.nbytes + one.quantiles.nbytes + values)
