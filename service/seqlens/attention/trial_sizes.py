"""Sizes of trial runs: those that a model runs at, and which inputs have their own length."""

from collections.abc import Mapping
from dataclasses import dataclass

from seqlens.attention.axes import LENGTH, ROWS
from seqlens.attention.probes import SiteProbe
from seqlens.datatypes import NUMPY_TYPES
from seqlens.errors import BackendFailed, SeqLensError
from seqlens.graphs.anatomy import InputAnatomy, InputRole, ModelAnatomy
from seqlens.graphs.trial import position_axis

_ROWS = (2, 3)
_LENGTHS = ((5, 7), (17, 19), (67, 71), (269, 271))  # long ones for models that need them
_SAMPLES = (2003, 2333)  # of sound, of which hundreds become one position
_OWN_LENGTHS = ((11, 13), (23, 29), (31, 37), (41, 43))
_CACHE_LENGTHS = (47, 53)
_MOST_OTHERS = 8  # inputs tried for a length of their own


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes at which a model runs, and others to compare with; see ``axes.Observation``."""

    base: Mapping[str, int]
    other: Mapping[str, int]
    rows: int
    alike: Mapping[str, tuple[str, ...]]  # by input with its own length: those that share it
    cache: str = ""  # the input whose length is that of earlier steps

    @property
    def settings(self) -> list[dict[str, int]]:
        """The sizes of runs of which each differs from the first in one thing."""
        changed = (
            {**self.base, **dict.fromkeys((name, *self.alike.get(name, ())), size)}
            for name, size in self.other.items()
        )
        return [dict(self.base), *changed]


def find_sizes(probe: SiteProbe, *, least: int = 0) -> Sizes:
    """Sizes that run: few rows and positions, and for other inputs their own number of them.

    ``least`` positions at least, where the length can be chosen. Raises what the model raises.
    """
    failure: SeqLensError = BackendFailed("no trial length fits the model")
    for lengths in _length_pairs(probe.anatomy, least):
        base, other = dict[str, int](), dict[str, int]()
        if probe.anatomy.batched and probe.anatomy.fixed_batch is None:
            base[ROWS], other[ROWS] = _ROWS
        if lengths:
            base[LENGTH], other[LENGTH] = lengths
        try:
            probe.at(base)
            probe.at({**base, **({LENGTH: other[LENGTH]} if lengths else {})})
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
            if probe.runs({**base, **dict.fromkeys((one.name, *mates), free[0][0])}):
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
    if not caches or not probe.runs({**base, **dict.fromkeys(caches, own)}):
        return ""
    base.update(dict.fromkeys(caches, own))
    other[caches[0]], alike[caches[0]] = second, tuple(caches[1:])
    return caches[0]


def _length_pairs(anatomy: ModelAnatomy, least: int) -> list[tuple[int, int] | None]:
    if anatomy.fixed_length is not None or not anatomy.has_time:
        return [None]
    most = anatomy.max_length
    if most is not None and most < _LENGTHS[0][1]:
        return [(most - 1, most) if most > 1 else None]
    pairs = _LENGTHS if _takes_ids(anatomy) else (*_LENGTHS, _SAMPLES)
    return [p for p in pairs if p[0] >= least and (most is None or p[1] <= most)]


def _takes_ids(anatomy: ModelAnatomy) -> bool:
    return any(NUMPY_TYPES[one.datatype].kind in "iu" for one in anatomy.sequence_inputs)


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
