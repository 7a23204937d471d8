"""Whether the keys and queries of a map stand in the order of the sequence.

No other test sees a map whose keys are reversed: it has all properties of attention. But where
nothing has mixed positions before, one changed position changes the scores of one key and of
one query, and these must be its own.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from seqlens.attention.axes import LENGTH, SiteAxes, unfold
from seqlens.attention.probes import SiteProbe, inputs_of
from seqlens.attention.runs import changed_input
from seqlens.attention.sites import Extent
from seqlens.attention.trial_sizes import Sizes
from seqlens.graphs.anatomy import InputAnatomy
from seqlens.sequences import Array

_PLAIN = Extent()
_SEEN = 1e-9  # smaller weights are those of masked keys
_CHANGED = 1e-3  # of a weight, in parts of itself and beside its row
_FEWEST = 3  # keys of a row, to tell one that changed from the others


def misordered(probe: SiteProbe, sizes: Sizes, axes: Mapping[str, SiteAxes]) -> dict[str, str]:
    """The sites whose order is known to be another one, with what is known of it.

    The last position is changed. Sites that see mixed positions are not judged.
    """
    one = changed_input(probe.anatomy)
    judged = [name for name in probe.names if axes[name].keys == _PLAIN]
    if one is None or one.time_axis is None or LENGTH not in sizes.base or not judged:
        return {}
    inputs = inputs_of(probe.anatomy, sizes.base)
    changed = {**inputs, one.name: _changed(one, inputs[one.name])}
    before, after = probe.look(inputs).weights, probe.look(changed).weights
    found: dict[str, str] = {}
    for name in judged:
        pair = (unfold(seen[name], axes[name].axes, sizes.rows) for seen in (before, after))
        wrong = _wrong_place(*pair, has_queries=axes[name].queries == _PLAIN)
        if wrong:
            found[name] = wrong
    return found


def _changed(one: InputAnatomy, values: Array) -> Array:
    """The input with another last position."""
    last = [slice(None)] * values.ndim
    last[one.time_axis or 0] = slice(-1, None)
    changed = values.copy()
    if values.dtype.kind == "f":
        changed[tuple(last)] += 1
    else:
        changed[tuple(last)] = (values[tuple(last)] + 1) % (one.vocabulary_size or 2)
    return changed


def _wrong_place(before: Array, after: Array, *, has_queries: bool) -> str:
    """What stands elsewhere than last, "" where nothing does or it cannot be told."""
    moved = _moved(before.astype(np.float64), after.astype(np.float64))
    counts = moved.sum(-1).max((0, 1))  # for each query, over batch and heads
    whole = np.flatnonzero(counts > 1)
    columns = np.flatnonzero(moved[:, :, counts == 1].any((0, 1, 2)))
    if len(whole) > has_queries or len(columns) != 1:
        return ""
    last = moved.shape[-1] - 1
    if columns[0] != last:
        return f"its key {columns[0]} is position {last} of the sequence"
    if len(whole) and whole[0] != last:
        return f"its query {whole[0]} is position {last} of the sequence"
    return ""


def _moved(before: Array, after: Array) -> NDArray[np.bool_]:
    """Which weights [batch, head, query, key] moved against most others of their row."""
    seen = (before > _SEEN) & (after > _SEEN)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(seen, np.log(after / before), np.nan)
    enough = seen.sum(-1, keepdims=True) >= _FEWEST
    ratios = np.where(enough, ratios, 0.0)
    usual = np.nanmedian(ratios, axis=-1, keepdims=True)
    moved: NDArray[np.bool_] = np.nan_to_num(np.abs(ratios - usual)) > _CHANGED
    return moved
