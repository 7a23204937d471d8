"""Inputs for trial runs of a model whose anatomy is known."""

from collections.abc import Mapping

import numpy as np

from seqlens.datatypes import NUMPY_TYPES
from seqlens.graphs.anatomy import InputAnatomy, InputRole, ModelAnatomy
from seqlens.graphs.layouts import SMALL_IDS
from seqlens.sequences import Array

_OTHER_AXIS = 7  # size of axes that are neither batch nor time


def trial_inputs(
    anatomy: ModelAnatomy,
    rows: int,
    length: int,
    *,
    seed: int = 0,
    lengths: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """All inputs for ``rows`` sequences of ``length`` positions without any padding.

    Ids are drawn below the vocabulary, features from a normal distribution; lengths, masks and
    positions say that every position is real; state starts at zero. ``lengths`` are of inputs
    that have another number of positions, by name. Sizes that are frozen in the model win over
    those asked for.
    """
    random = np.random.default_rng(seed)
    rows, length = anatomy.fixed_batch or rows, anatomy.fixed_length or length
    own = lengths or {}
    return {
        one.name: _trial_input(one, rows, length, own.get(one.name), random)
        for one in anatomy.inputs
    }


def position_axis(one: InputAnatomy) -> int | None:
    """The axis that counts positions: time, or else the only open one that is not the batch.

    A decoder's input has its own length, which is not the time of the model's main input.
    """
    if one.time_axis is not None:
        return one.time_axis
    free = [axis for axis, size in enumerate(one.shape) if size < 0 and axis != one.batch_axis]
    return free[0] if len(free) == 1 else None


def _trial_input(
    one: InputAnatomy, rows: int, length: int, own: int | None, random: np.random.Generator
) -> Array:
    shape = [_OTHER_AXIS if size < 0 else size for size in one.shape]
    for axis, size in ((one.batch_axis, rows), (one.time_axis, length)):
        if axis is not None:
            shape[axis] = size
    place = position_axis(one)
    if own is not None and place is not None:
        shape[place] = own
    return _values(one, shape, own or length, random).astype(NUMPY_TYPES[one.datatype])


def _values(one: InputAnatomy, shape: list[int], length: int, random: np.random.Generator) -> Array:
    if one.role is InputRole.LENGTHS:
        return np.full(shape, length)
    if one.role is InputRole.MASK:
        return np.full(shape, one.mask_marks != "padding")
    if one.role is InputRole.POSITIONS:
        places = [length if axis == one.time_axis else 1 for axis in range(len(shape))]
        return np.broadcast_to(np.arange(length).reshape(places), shape)
    if one.role is InputRole.STATE:
        return np.zeros(shape)
    if one.trial_value is not None:
        return np.full(shape, one.trial_value)
    if one.role is InputRole.OTHER and "mask" in one.name.lower():  # a decoder's own, for one
        return np.ones(shape)
    if NUMPY_TYPES[one.datatype].kind == "f":
        return random.standard_normal(shape)
    return random.integers(0, one.vocabulary_size or SMALL_IDS, shape)
