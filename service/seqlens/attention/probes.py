"""Runs of a tapped model on trial inputs of chosen sizes, for all of its sites at once."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from seqlens.attention.axes import (
    LENGTH,
    ROWS,
    AxesUnknown,
    Observation,
    SiteAxes,
    read_axes,
)
from seqlens.attention.extents import is_plain
from seqlens.backends.padding import split_rows
from seqlens.backends.tapped import Look, Seen, TappedModel
from seqlens.errors import BackendFailed, SeqLensError
from seqlens.graphs.anatomy import InputAnatomy, InputRole, ModelAnatomy
from seqlens.graphs.trial import position_axis, trial_inputs
from seqlens.sequences import Array, InputSequence, Tensors

_ROWS = (2, 3)
_LENGTHS = ((5, 7), (17, 19), (67, 71), (269, 271))  # long ones for models that need them
_OWN_LENGTHS = ((11, 13), (23, 29), (31, 37), (41, 43))
_CACHE_LENGTHS = (47, 53)
_MORE_LENGTHS = (1, 2, 3, 6, 11, 18, 120)  # beyond the second, where two do not tell enough
_MOST_OTHERS = 8  # inputs tried for a length of their own


@dataclass(slots=True)
class SiteProbe:
    """The sites of a tapped model that still run; one that fails is left out with its reason.

    Raises what the model raises where it fails without any site.
    """

    tapped: TappedModel
    refused: dict[str, str] = field(default_factory=dict)  # by site

    @property
    def anatomy(self) -> ModelAnatomy:
        """The anatomy of the model."""
        return self.tapped.anatomy

    @property
    def names(self) -> tuple[str, ...]:
        """The sites that run."""
        return tuple(t.site.name for t in self.tapped.taps if t.site.name not in self.refused)

    def refuse(self, name: str, reason: str) -> None:
        """Leave a site out."""
        self.refused[name] = reason

    def look(self, inputs: Tensors) -> Seen:
        """Weights of all sites that run, from one run if that works."""
        try:
            return self.tapped.run(inputs, Look(sites=self.names))
        except SeqLensError:
            plain = self.tapped.run(inputs, Look())
        return Seen(plain.outputs, dict(self._one_by_one(inputs)))

    def _one_by_one(self, inputs: Tensors) -> Iterator[tuple[str, Array]]:
        for name in self.names:
            try:
                yield name, self.tapped.run(inputs, Look(sites=(name,))).weights[name]
            except SeqLensError as error:
                self.refuse(name, str(error))


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes at which a model runs, and others to compare with; see ``axes.Observation``."""

    base: Mapping[str, int]
    other: Mapping[str, int]
    rows: int
    alike: Mapping[str, tuple[str, ...]]  # by input with its own length: those that share it
    cache: str = ""  # the input whose length is that of earlier steps


def find_axes(probe: SiteProbe, sizes: Sizes) -> dict[str, SiteAxes]:
    """The axes of every site that runs; those whose axes cannot be told are refused."""
    anatomy = probe.anatomy
    seen = [(at, probe.look(inputs_of(anatomy, at))) for at in _settings(sizes)]
    rolled = probe.look(_rolled(anatomy, inputs_of(anatomy, sizes.base)))
    found, unknown = _read(probe, seen, rolled, sizes)
    plain = all(is_plain(e) for one in found.values() for e in (one.queries, one.keys))
    if (unknown or not plain) and LENGTH in sizes.base:
        # Where the model leaves out positions, the first lengths may have looked alike.
        more = [{**sizes.base, LENGTH: n} for n in _more_lengths(anatomy, sizes)]
        seen += [(at, probe.look(inputs_of(anatomy, at))) for at in more if _runs(probe, at)]
        found, unknown = _read(probe, seen, rolled, sizes)
    for name, reason in unknown.items():
        probe.refuse(name, reason)
    return found


def find_sizes(probe: SiteProbe) -> Sizes:
    """Sizes that run: few rows and positions, and for other inputs their own number of them."""
    failure: SeqLensError = BackendFailed("no trial length fits the model")
    for lengths in _length_pairs(probe.anatomy):
        base, other = {}, {}
        if probe.anatomy.batched and probe.anatomy.fixed_batch is None:
            base[ROWS], other[ROWS] = _ROWS
        if lengths:
            base[LENGTH], other[LENGTH] = lengths
        try:
            _check_runs(probe, base, {**base, **({LENGTH: other[LENGTH]} if lengths else {})})
        except SeqLensError as error:
            failure = error
            continue
        alike = _own_lengths(probe, base, other)
        cache = _cache_length(probe, base, other, alike)
        return Sizes(base, other, base.get(ROWS, probe.anatomy.fixed_batch or 1), alike, cache)
    raise failure


def _own_lengths(
    probe: SiteProbe, base: dict[str, int], other: dict[str, int]
) -> dict[str, tuple[str, ...]]:
    """Add the inputs that run at lengths of their own; which others must then share each.

    A decoder's tokens run at another length than the encoder's, together with their own mask.
    """
    free, alike = list(_OWN_LENGTHS), dict[str, tuple[str, ...]]()
    others = _others(probe.anatomy)
    for one in others:
        if one.role not in (InputRole.SEQUENCE, InputRole.OTHER) or one.name in base or not free:
            continue
        pairs = ((mate.name,) for mate in others if mate is not one and mate.name not in base)
        for mates in ((), *pairs):
            if _runs(probe, {**base, **dict.fromkeys((one.name, *mates), free[0][0])}):
                own, second = free.pop(0)
                base.update(dict.fromkeys((one.name, *mates), own))
                other[one.name], alike[one.name] = second, mates
                break
    return alike


def _cache_length(
    probe: SiteProbe,
    base: dict[str, int],
    other: dict[str, int],
    alike: dict[str, tuple[str, ...]],
) -> str:
    """Add the length that all caches of earlier steps share; the first of them, "" if none."""
    inputs = probe.anatomy.inputs
    caches = [one.name for one in inputs if _has_positions(one) and not _leads_with_positions(one)]
    own, second = _CACHE_LENGTHS
    if not caches or not _runs(probe, {**base, **dict.fromkeys(caches, own)}):
        return ""
    base.update(dict.fromkeys(caches, own))
    other[caches[0]], alike[caches[0]] = second, tuple(caches[1:])
    return caches[0]


def inputs_of(anatomy: ModelAnatomy, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Trial inputs of these sizes."""
    own = {name: size for name, size in sizes.items() if name not in (ROWS, LENGTH)}
    return trial_inputs(anatomy, sizes.get(ROWS, 1), sizes.get(LENGTH, 1), lengths=own)


def probe_sequences(
    anatomy: ModelAnatomy, sizes: Mapping[str, int], lengths: Iterable[int]
) -> list[InputSequence]:
    """One random sequence of each length; inputs with lengths of their own keep those."""
    shared = inputs_of(anatomy, {**sizes, ROWS: 1})
    sequences = []
    for number, length in enumerate(lengths):
        own = {name: size for name, size in sizes.items() if name not in (ROWS, LENGTH)}
        drawn = trial_inputs(anatomy, 1, length, seed=number + 1, lengths=own)
        inputs = {
            one.name: _row(one, drawn if one.batch_axis is not None else shared, length, own)
            for one in anatomy.inputs
            if not one.made_by_server and one.role is not InputRole.STATE
        }
        sequences.append(InputSequence(inputs, length))
    return sequences


def _row(one: InputAnatomy, values: Tensors, length: int, own: Mapping[str, int]) -> Array:
    array = values[one.name]
    if array.ndim == 0:
        return array
    times = () if one.time_axis is None else (one.time_axis,)
    row = split_rows(array, one.batch_axis, times, [array.shape[times[0]] if times else 0], -1)[0]
    return row[:length] if times and one.name not in own else row


def _length_pairs(anatomy: ModelAnatomy) -> list[tuple[int, int] | None]:
    if anatomy.fixed_length is not None or not anatomy.has_time:
        return [None]
    most = anatomy.max_length
    if most is None or most >= _LENGTHS[0][1]:
        return [pair for pair in _LENGTHS if most is None or pair[1] <= most]
    return [(most - 1, most) if most > 1 else None]


def _more_lengths(anatomy: ModelAnatomy, sizes: Sizes) -> list[int]:
    longest = sizes.other.get(LENGTH, 0)
    lengths = (longest + more for more in _MORE_LENGTHS)
    return [n for n in lengths if anatomy.max_length is None or n <= anatomy.max_length]


def _others(anatomy: ModelAnatomy) -> list[InputAnatomy]:
    """Inputs of positions beside the one whose positions are the sequence's length."""
    main = next((one for one in anatomy.sequence_inputs if one.time_axis is not None), None)
    others = [one for one in anatomy.inputs if one is not main and _leads_with_positions(one)]
    return others[:_MOST_OTHERS]


def _leads_with_positions(one: InputAnatomy) -> bool:
    """Whether positions come first in a sequence's part of an input, so that its size counts them.

    The caches of a decoder have heads in front.
    """
    place = position_axis(one)
    leads = place is not None and place in (one.time_axis, int(one.batch_axis == 0))
    return leads and _has_positions(one)


def _has_positions(one: InputAnatomy) -> bool:
    given = not one.made_by_server and one.role is not InputRole.STATE
    return given and position_axis(one) is not None


def _check_runs(probe: SiteProbe, *settings: Mapping[str, int]) -> None:
    for sizes in settings:
        probe.look(inputs_of(probe.anatomy, sizes))


def _runs(probe: SiteProbe, sizes: Mapping[str, int]) -> bool:
    try:
        _check_runs(probe, sizes)
    except SeqLensError:
        return False
    return True


def _settings(sizes: Sizes) -> list[dict[str, int]]:
    changed = (
        {**sizes.base, **dict.fromkeys((name, *sizes.alike.get(name, ())), size)}
        for name, size in sizes.other.items()
    )
    return [dict(sizes.base), *changed]


def _rolled(anatomy: ModelAnatomy, inputs: Tensors) -> dict[str, Array]:
    """Every row at the next place of the batch."""
    axes = {one.name: one.batch_axis for one in anatomy.inputs}
    return {
        name: array if axes[name] is None else np.roll(array, 1, axis=axes[name])
        for name, array in inputs.items()
    }


def _read(
    probe: SiteProbe, seen: list[tuple[dict[str, int], Seen]], rolled: Seen, sizes: Sizes
) -> tuple[dict[str, SiteAxes], dict[str, str]]:
    """The axes of the sites that run, and for the others why they cannot be told."""
    found, unknown = {}, {}
    kinds = {tap.site.name: tap.site.kind for tap in probe.tapped.taps}
    told = sizes.other  # an input that shares another's length tells no more than that one
    for name in probe.names:
        try:
            found[name] = read_axes(
                [
                    Observation({one: at[one] for one in told}, seen_at.weights[name])
                    for at, seen_at in seen
                ],
                sizes.rows,
                frozen_length=probe.anatomy.fixed_length,
                own_positions=kinds[name] in ("self", "cross"),
                fixed_keys=kinds[name] == "cross",
                rolled=rolled.weights[name],
            )
        except AxesUnknown as error:
            unknown[name] = str(error)
            continue
        if sizes.cache and sizes.cache in (found[name].queries.input, found[name].keys.input):
            del found[name]
            unknown[name] = f"its positions are those of {sizes.cache!r}, a cache of earlier steps"
    return found, unknown
