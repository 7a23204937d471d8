"""The axes of all sites of a model, told by runs of several sizes."""

from collections.abc import Iterable

import numpy as np

from seqlens.attention.axes import LENGTH, AxesUnknown, Observation, SiteAxes, read_axes
from seqlens.attention.extents import is_plain
from seqlens.attention.probes import SiteProbe, inputs_of
from seqlens.attention.trial_sizes import Sizes, find_sizes
from seqlens.backends.tapped import Seen
from seqlens.errors import SeqLensError
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.sequences import Array, Tensors

_MORE_LENGTHS = (1, 2, 3, 6, 11, 18, 120)  # beyond the second, where two do not tell enough
_FEW_KEYS = 3  # weights of a single key are the same whatever the model does
_MOST_STEP = 1_024  # positions that become one; see ``extents``

_Observed = list[tuple[dict[str, int], Seen]]


def find_axes(probe: SiteProbe) -> tuple[Sizes, dict[str, SiteAxes]]:
    """The axes of every site that runs, and sizes at which it has a few keys.

    Sites whose axes cannot be told are refused. Raises what the model raises.
    """
    sizes = find_sizes(probe)
    found = _axes_at(probe, sizes)
    least = max((_least_length(one) for one in found.values()), default=0)
    if least > sizes.base.get(LENGTH, least):
        try:
            sizes = find_sizes(probe, least=least)
        except SeqLensError:  # too long for the model: what was found stands
            return sizes, found
        found = _axes_at(probe, sizes)
    return sizes, found


def _least_length(axes: SiteAxes) -> int:
    extents = (one for one in (axes.queries, axes.keys) if one.stride and not one.input)
    return max((_FEW_KEYS * one.stride - one.offset for one in extents), default=0)


def _axes_at(probe: SiteProbe, sizes: Sizes) -> dict[str, SiteAxes]:
    seen = [(at, probe.at(at)) for at in sizes.settings]
    rolled = probe.look(_rolled(probe.anatomy, inputs_of(probe.anatomy, sizes.base)))
    found, unknown = _read(probe, seen, rolled, sizes)
    plain = all(is_plain(e) for one in found.values() for e in (one.queries, one.keys))
    if (unknown or not plain) and LENGTH in sizes.base:
        # Where the model leaves out positions, the first lengths may have looked alike.
        longest = sizes.other[LENGTH]
        seen += _observed(probe, sizes, (longest + more for more in _MORE_LENGTHS))
        found, unknown = _read(probe, seen, rolled, sizes)
        strides = [e.stride for one in found.values() for e in (one.queries, one.keys)]
        if max(strides, default=0) > 1:
            seen += _observed(probe, sizes, _turns(probe, sizes))
            found, unknown = _read(probe, seen, rolled, sizes)
    for name, reason in unknown.items():
        probe.refuse(name, reason)
    return found


def _observed(probe: SiteProbe, sizes: Sizes, lengths: Iterable[int]) -> _Observed:
    found = (({**sizes.base, LENGTH: n}, _seen(probe, sizes, n)) for n in lengths)
    return [(at, seen) for at, seen in found if seen is not None]


def _seen(probe: SiteProbe, sizes: Sizes, length: int) -> Seen | None:
    """None beyond the longest that runs."""
    if probe.anatomy.max_length is not None and length > probe.anatomy.max_length:
        return None
    try:
        return probe.at({**sizes.base, LENGTH: length})
    except SeqLensError:
        return None


def _turns(probe: SiteProbe, sizes: Sizes) -> list[int]:
    """Two lengths at which one more position comes out, and those just before them.

    Between them lies the stride, exactly.
    """
    lengths: list[int] = []
    start = sizes.other[LENGTH]
    for _ in range(2):
        turn = _turn(probe, sizes, start)
        if turn is None:
            break
        lengths += [turn - 1, turn]
        start = turn
    return lengths


def _turn(probe: SiteProbe, sizes: Sizes, start: int) -> int | None:
    """The first length beyond ``start`` at which the weights have another shape."""
    before = _shapes(probe, sizes, start)
    low, step = start, 1
    while (high := start + step) and _shapes(probe, sizes, high) == before:
        low, step = high, 2 * step
        if step > 2 * _MOST_STEP:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if _shapes(probe, sizes, middle) == before:
            low = middle
        else:
            high = middle
    return high


def _shapes(probe: SiteProbe, sizes: Sizes, length: int) -> dict[str, tuple[int, ...]]:
    seen = _seen(probe, sizes, length)
    return {} if seen is None else {name: one.shape for name, one in seen.weights.items()}


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
