"""Drawing attention maps: what was asked for, cut out of a tapped model's tensors."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from seqlens.attention.axes import unfold
from seqlens.attention.choosing import (
    ROLLOUT,
    answered_sites,
    choose_sites,
    rollout_site,
)
from seqlens.attention.cutting import Cut, cut_map, plan_cut, size_of, sizes_of
from seqlens.attention.drawing_plan import Part, Run, plan_parts
from seqlens.attention.map_sizes import (
    cut_selection,
    fitting_selection,
    predicted_bytes,
    working_bytes,
)
from seqlens.attention.measures import measure_map, roll_on
from seqlens.attention.runs import CallerLeft, never
from seqlens.attention.selection import AttentionSelection, MapMeasures, SequenceMap, SiteMaps
from seqlens.attention.sites import Site
from seqlens.backends.padding import pad, padded_length, unpad
from seqlens.backends.tapped import Look, TappedModel
from seqlens.errors import InvalidRequest
from seqlens.sequences import Array, InputSequence

__all__ = [
    "ROLLOUT",
    "answered_sites",
    "check_sequence",
    "choose_sites",
    "draw",
    "fitting_selection",
    "predicted_bytes",
    "working_bytes",
]

Outputs = list[dict[str, Array]]


def check_sequence(
    sites: Sequence[Site],
    sequence: InputSequence,
    selection: AttentionSelection,
    share_positions: Sequence[int] | None = None,
) -> None:
    """Raise ``InvalidRequest`` for spans and positions that the sequence does not have."""
    for site in answered_sites(sites, selection):
        queries, keys = sizes_of(site, [sequence.length], [sequence])[0]
        plan_cut(site, cut_selection(selection), queries, keys)
        _positions(share_positions, keys)


def draw(
    tapped: TappedModel,
    sites: Sequence[Site],
    sequences: Sequence[InputSequence],
    selection: AttentionSelection,
    *,
    share_positions: Sequence[int] | None = None,
    with_measures: bool = False,
    with_outputs: bool = False,
    together: bool = False,
    cancelled: Callable[[], bool] = never,
) -> Iterator[SiteMaps | Outputs]:
    """Draw the maps of sites that ``choose_sites`` gave, in order of execution.

    Sequences run alone, or ``together`` in padded batches of near lengths where every site's
    maps stay what they are under padding. A map has exactly its sequence's positions, or as many
    as the model makes of them. What is large comes in parts: a site then has several
    ``SiteMaps``, each with some of the sequences. With ``with_outputs`` the last item are the
    model's plain outputs, of the same runs, as ``padding.unpad`` gives them.
    ``share_positions`` are keys to measure the share of, negative ones count from the end; they
    ask for measures. ``cancelled`` is asked before every run and map; when it says so
    ``CallerLeft`` is raised.

    Raises ``InvalidRequest`` at once for spans and positions beyond a sequence; the iterator
    raises what the model raises.
    """
    drawing = _Drawing(
        tapped,
        tuple(sites),
        sequences,
        selection,
        share_positions,
        with_measures or share_positions is not None,
        with_outputs,
        cancelled,
    )
    drawing.check()
    return drawing.items(together)


@dataclass(slots=True)
class _Drawing:
    tapped: TappedModel
    sites: tuple[Site, ...]
    sequences: Sequence[InputSequence]
    selection: AttentionSelection
    share_positions: Sequence[int] | None
    with_measures: bool
    with_outputs: bool
    cancelled: Callable[[], bool]
    outputs: dict[int, dict[str, Array]] = field(default_factory=dict)  # by sequence

    def check(self) -> None:
        """Raise for what some sequence does not have, before any work."""
        lengths = [one.length for one in self.sequences]
        predicted_bytes(self.sites, lengths, self.selection, self.sequences)
        for site in answered_sites(self.sites, self.selection):
            for _, keys in sizes_of(site, lengths, self.sequences):
                _positions(self.share_positions, keys)

    def items(self, together: bool) -> Iterator[SiteMaps | Outputs]:
        """Maps part by part, then the outputs."""
        anatomy = self.tapped.anatomy
        parts = plan_parts(anatomy, self.sites, self.sequences, self.selection, together=together)
        for part in parts:
            yield from self._rollouts(part) if self.selection.rollout else self._maps(part)
        if self.with_outputs:
            yield [self.outputs[number] for number in range(len(self.sequences))]

    def _maps(self, part: Part) -> Iterator[SiteMaps]:
        for group in part.groups:
            maps: dict[str, list[SequenceMap]] = {site.name: [] for site in group}
            for run in part.runs:
                for site, number, weights in self._weights(run, group):
                    maps[site.name].append(self._cut(site, number, weights))
            for site in group:
                yield _in_order(site, maps[site.name])

    def _rollouts(self, part: Part) -> Iterator[SiteMaps]:
        site = rollout_site(self.sites)
        heads = list(self.selection.heads)
        maps = []
        for run in part.runs:
            through: dict[int, Array] = {}
            for group in part.groups:
                for _, number, weights in self._weights(run, group):
                    chosen = weights[heads] if heads else weights
                    before = through.get(number)
                    start = np.eye(weights.shape[-1]) if before is None else before
                    through[number] = roll_on(start, chosen)
            maps += [self._cut(site, number, through[number][np.newaxis]) for number in run]
        yield _in_order(site, maps)

    def _weights(self, run: Run, sites: Sequence[Site]) -> Iterator[tuple[Site, int, Array]]:
        """Weights [head, query, key] of each site and each sequence of one run, site by site."""
        self._stay()
        anatomy = self.tapped.anatomy
        sequences = [self.sequences[number] for number in run]
        lengths = [one.length for one in sequences]
        seen = self.tapped.run(
            pad(anatomy, sequences), Look(sites=tuple(site.name for site in sites))
        )
        if self.with_outputs and run[0] not in self.outputs:
            self.outputs.update(zip(run, unpad(anatomy, seen.outputs, lengths), strict=True))
        padded = padded_length(anatomy, lengths)
        for site in sites:
            rows = unfold(seen.weights.pop(site.name), site.axes, len(run))
            for number, sequence, row in zip(run, sequences, rows, strict=True):
                yield (
                    site,
                    number,
                    row if sequence.length == padded else _cropped(row, site, sequence),
                )

    def _cut(self, site: Site, number: int, weights: Array) -> SequenceMap:
        self._stay()
        selection = cut_selection(self.selection)
        cut = plan_cut(site, selection, *weights.shape[1:])
        part, key_positions = cut_map(weights, cut)
        return SequenceMap(
            sequence=number,
            heads=() if cut.reduce_heads else cut.heads,
            query_start=cut.queries.start,
            key_start=cut.keys.start,
            weights=part,
            key_positions=key_positions,
            measures=self._measured(weights, cut) if self.with_measures else None,
        )

    def _stay(self) -> None:
        if self.cancelled():
            raise CallerLeft

    def _measured(self, weights: Array, cut: Cut) -> MapMeasures:
        queries = weights[list(cut.heads), cut.queries.start : cut.queries.stop]
        share = _positions(self.share_positions, weights.shape[2])
        return measure_map(queries, cut.queries.start, share)


def _in_order(site: Site, maps: list[SequenceMap]) -> SiteMaps:
    return SiteMaps(site, tuple(sorted(maps, key=lambda one: one.sequence)))


def _cropped(weights: Array, site: Site, sequence: InputSequence) -> Array:
    """Without the rows and columns of padding; inputs with own lengths share none."""
    ends = (
        None if extent.input else size_of(extent, sequence.length)
        for extent in (site.queries, site.keys)
    )
    queries, keys = (slice(end) for end in ends)
    return weights[:, queries, keys]


def _positions(given: Sequence[int] | None, keys: int) -> list[int] | None:
    """Places of keys counted from the first. Raises ``InvalidRequest`` for those that are none."""
    if given is None:
        return None
    for position in given:
        if not -keys <= position < keys:
            raise InvalidRequest(
                "share_positions", got=str(position), expected=f"{-keys} to {keys - 1}"
            )
    return sorted({position % keys for position in given})
