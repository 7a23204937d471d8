"""Attention weights in padded batches: is there any on padding, and do maps stay the same?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seqlens.attention.axes import LENGTH, SiteAxes, unfold
from seqlens.attention.probes import SiteProbe, probe_sequences
from seqlens.attention.trial_sizes import Sizes
from seqlens.backends.padding import pad
from seqlens.datatypes import NUMPY_TYPES
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.graphs.layouts import SMALL_IDS
from seqlens.sequences import Array, InputSequence

_LOUD = 1_000.0  # far outside of what features are


@dataclass(frozen=True, slots=True)
class Padded:
    """What padding does to one site, largest absolute values."""

    weight: float  # on keys that are padding, of queries that are not
    error: float  # of weights, to those of the sequence alone


def try_padding(probe: SiteProbe, sizes: Sizes, axes: Mapping[str, SiteAxes]) -> dict[str, Padded]:
    """Run sequences of several lengths together, with hostile values in the padding.

    Empty where the model takes no padding: without batch axis, or at one size only. Raises what
    the model raises, ``ValueError`` where sequences of several lengths cannot share its inputs.
    """
    anatomy = probe.anatomy
    lengths = _lengths(anatomy, sizes, max(map(_stride, axes.values()), default=1))
    if len(lengths) < 2:
        return {}
    sequences = probe_sequences(anatomy, sizes.base, lengths)
    alone = [_maps(probe, [one], axes) for one in sequences]
    # What runs at one length only pads every sequence: what stands there must not matter.
    batches = (
        [sequences]
        if anatomy.batched and anatomy.fixed_batch is None
        else [[one] for one in sequences]
    )
    together = [_maps(probe, batch, axes, fill=_hostile(anatomy)) for batch in batches]
    found = {}
    for name in probe.names:
        rows = [row for batch in together for row in batch[name]]
        pairs = zip(rows, (one[name][0] for one in alone), lengths, strict=True)
        trials = [_compare(*pair, axes[name]) for pair in pairs]
        found[name] = Padded(max(t.weight for t in trials), max(t.error for t in trials))
    return found


def _stride(axes: SiteAxes) -> int:
    return max(axes.queries.stride, axes.keys.stride)


def _lengths(anatomy: ModelAnatomy, sizes: Sizes, stride: int) -> list[int]:
    """The longest first; others are shorter by at least one position of every site."""
    if anatomy.fixed_length is not None:
        return sorted({anatomy.fixed_length, max(anatomy.fixed_length - 2, 1)}, reverse=True)
    if LENGTH not in sizes.base or not anatomy.batched or anatomy.fixed_batch is not None:
        return []
    base, other = sizes.base[LENGTH], sizes.other[LENGTH]
    if stride > 1:
        return [other, other - stride] if other > stride else []
    # Two steps shorter than the shortest that is known to run may be too short for the model.
    return [other, base, max(base - 2, 1)] if base == 5 else [other, base]


def _maps(
    probe: SiteProbe,
    sequences: Sequence[InputSequence],
    axes: Mapping[str, SiteAxes],
    fill: Mapping[str, float] | None = None,
) -> dict[str, Array]:
    seen = probe.look(pad(probe.anatomy, sequences, fill=fill or 0.0))
    return {
        name: unfold(weights, axes[name].axes, len(sequences))
        for name, weights in seen.weights.items()
    }


def _hostile(anatomy: ModelAnatomy) -> dict[str, float]:
    """Values that show: the last id of the vocabulary, and features that are far too large."""
    return {
        one.name: _LOUD
        if NUMPY_TYPES[one.datatype].kind == "f"
        else float((one.vocabulary_size or SMALL_IDS) - 1)
        for one in anatomy.sequence_inputs
    }


def _compare(padded: Array, alone: Array, length: int, axes: SiteAxes) -> Padded:
    """One sequence's weights [head, query, key], padded and alone."""
    queries, keys = (
        size if extent.input else min(extent.size(length), size)
        for extent, size in zip((axes.queries, axes.keys), padded.shape[1:], strict=True)
    )
    own = padded[:, :queries, :keys]
    weight = np.abs(padded[:, :queries, keys:]).max(initial=0.0)
    error = np.abs(own - alone[:, :queries, :keys]).max(initial=0.0)
    return Padded(float(weight), float(error) if np.isfinite(error) else np.inf)
