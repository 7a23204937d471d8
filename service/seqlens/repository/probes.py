"""Seeded sequences to try a model with, and padding values meant to show whether it looks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from seqlens.backends.padding import split_rows
from seqlens.graphs.anatomy import InputAnatomy, InputRole, ModelAnatomy
from seqlens.graphs.layouts import SMALL_IDS
from seqlens.graphs.trial import trial_inputs
from seqlens.sequences import Array, InputSequence

_SEED = 0
_LARGE_FEATURE = 1_000.0  # far outside of what features are
_STATE_SCALE = 0.1


@dataclass(frozen=True, slots=True)
class Prober:
    """Makes probe sequences for one model, the same in every process."""

    anatomy: ModelAnatomy

    def sequence(self, length: int, number: int, *, loudness: float = 1.0) -> InputSequence:
        """Sequence ``number`` of this length: random ids, or features N(0, ``loudness``).

        Inputs without batch axis are the same in all sequences, because all rows of a batch
        share them; state is random, so that mixed-up rows show.
        """
        shared = trial_inputs(self.anatomy, 1, length, seed=_SEED)
        own = trial_inputs(self.anatomy, 1, length, seed=_seed(length, number))
        inputs = {}
        for one in self.anatomy.inputs:
            if one.made_by_server:
                continue
            array = shared[one.name] if one.batch_axis is None else own[one.name]
            if one.role is InputRole.STATE:
                array = self._state(array, length, number)
            elif one.role is InputRole.SEQUENCE and array.dtype.kind == "f":
                array = (array * loudness).astype(array.dtype)
            inputs[one.name] = _row(one, array, length)
        return InputSequence(inputs, length)

    def fills(self) -> list[Mapping[str, float]]:
        """Padding values for each sequence input: zero, the largest, and others at random."""
        random = np.random.default_rng(_SEED)
        inputs = self.anatomy.sequence_inputs
        return [
            {one.name: 0.0 for one in inputs},
            {one.name: _largest(one) for one in inputs},
            *({one.name: _any(one, random) for one in inputs} for _ in range(3)),
        ]

    def _state(self, zeros: Array, length: int, number: int) -> Array:
        if zeros.dtype.kind != "f":
            return zeros
        random = np.random.default_rng(_seed(length, number))
        return (_STATE_SCALE * random.standard_normal(zeros.shape)).astype(zeros.dtype)


def _seed(length: int, number: int) -> int:
    return _SEED + 1 + 1_000 * length + number


def _row(one: InputAnatomy, array: Array, length: int) -> Array:
    """The first row, time first, cut to the length (a frozen length gives more)."""
    if array.ndim == 0:  # taking a row of it would give a number, which is no array any more
        return array
    times = () if one.time_axis is None else (one.time_axis,)
    row = split_rows(array, one.batch_axis, times, [length], length)[0]
    return row[:length] if times and one.role is InputRole.SEQUENCE else row


def _largest(one: InputAnatomy) -> float:
    return _LARGE_FEATURE if _is_feature(one) else float((one.vocabulary_size or SMALL_IDS) - 1)


def _any(one: InputAnatomy, random: np.random.Generator) -> float:
    if _is_feature(one):
        return float(random.standard_normal())
    return float(random.integers(0, one.vocabulary_size or SMALL_IDS))


def _is_feature(one: InputAnatomy) -> bool:
    return one.datatype in ("FP16", "FP32", "FP64", "BF16")
