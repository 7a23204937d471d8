"""Which sequences share a run, and which sites are drawn in it, so that memory stays bounded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from seqlens.attention.choosing import answered_sites
from seqlens.attention.cutting import plan_cut, sizes_of
from seqlens.attention.map_sizes import HELD_BYTES, cut_selection, tensor_bytes
from seqlens.attention.selection import AttentionSelection
from seqlens.attention.sites import Site
from seqlens.backends.padding import sharing_key
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.sequences import InputSequence

_MOST_ROWS = 32
_MOST_TOKENS = 4_096  # of one run, padding included
_NEAR = 0.75  # shortest over longest of one run: less wastes half of a square map

T = TypeVar("T")
Run = tuple[int, ...]  # places of the sequences that share it


@dataclass(frozen=True, slots=True)
class Part:
    """Runs whose maps are held together, and the sites to look at in each at a time."""

    runs: tuple[Run, ...]
    groups: tuple[tuple[Site, ...], ...]


def plan_parts(
    anatomy: ModelAnatomy,
    sites: Sequence[Site],
    sequences: Sequence[InputSequence],
    selection: AttentionSelection,
    *,
    together: bool,
) -> list[Part]:
    """Parts in the order of the sequences, each within ``HELD_BYTES`` if a single map is."""
    answers = [_answer_bytes(sites, one, selection) for one in sequences]
    runs = plan_runs(anatomy, sites, sequences, together=together)
    parts = []
    for chunk in _packed(runs, lambda run: sum(answers[number] for number in run)):
        groups = _packed(sites, partial(_largest_run, runs=chunk, sequences=sequences))
        parts.append(Part(tuple(chunk), tuple(map(tuple, groups))))
    return parts


def plan_runs(
    anatomy: ModelAnatomy,
    sites: Sequence[Site],
    sequences: Sequence[InputSequence],
    *,
    together: bool,
) -> list[Run]:
    """Each sequence alone, or those of near lengths together where their maps bear padding."""
    numbers = range(len(sequences))
    if not together or not anatomy.batched or anatomy.fixed_batch is not None:
        return [(number,) for number in numbers]
    near = _NEAR if all(site.bears_padding for site in sites) else 1.0
    own = {extent.input for site in sites for extent in (site.queries, site.keys)} - {""}
    alike: dict[object, list[int]] = {}
    for number in sorted(numbers, key=lambda number: sequences[number].length):
        inputs = sequences[number].inputs
        # Positions of other inputs share no padding, not even where they are as many.
        sizes = tuple(len(inputs[name]) for name in sorted(own) if name in inputs)
        key = (sharing_key(anatomy, sequences[number]), sizes)
        alike.setdefault(key, []).append(number)
    runs = [run for group in alike.values() for run in _shared(group, sites, sequences, near)]
    return sorted(runs)


def _shared(
    ascending: Sequence[int], sites: Sequence[Site], sequences: Sequence[InputSequence], near: float
) -> Iterator[Run]:
    run: list[int] = []
    for number in ascending:
        length = sequences[number].length
        rows = len(run) + 1
        tensors = (_tensor(site, sequences[number]) for site in sites)
        if run and (
            rows > _MOST_ROWS
            or rows * length > _MOST_TOKENS
            or sequences[run[0]].length < near * length
            or rows * max(tensors) > HELD_BYTES
        ):
            yield tuple(run)
            run = []
        run.append(number)
    yield tuple(run)


def _answer_bytes(
    sites: Sequence[Site], sequence: InputSequence, selection: AttentionSelection
) -> int:
    return sum(
        plan_cut(site, cut_selection(selection), *size).size
        for site in answered_sites(sites, selection)
        for size in sizes_of(site, [sequence.length], [sequence])
    )


def _largest_run(site: Site, runs: Sequence[Run], sequences: Sequence[InputSequence]) -> int:
    """Bytes of a site's tensor in the largest of these runs, padding included."""
    return max(len(run) * max(_tensor(site, sequences[number]) for number in run) for run in runs)


def _tensor(site: Site, sequence: InputSequence) -> int:
    (size,) = tensor_bytes(site, [sequence.length], [sequence])
    return size


def _packed(items: Sequence[T], size: Callable[[T], int]) -> list[list[T]]:
    """Neighbours together as long as they stay within ``HELD_BYTES``."""
    packed: list[list[T]] = []
    held = 0
    for item in items:
        held += size(item)
        if not packed or held > HELD_BYTES:
            packed.append([])
            held = size(item)
        packed[-1].append(item)
    return packed
