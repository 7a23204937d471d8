"""What the axes of a tensor of attention weights mean, told by changing one size at a time.

Every other test of attention is passed by a gate over a fixed number of experts too; only the
axes give it away: attention sums to 1 over positions, of which there are as many as the sequence
has.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seqlens.attention.extents import fit_extent
from seqlens.attention.sites import ONE, Axis, Extent
from seqlens.sequences import Array

ROWS = "rows"  # the size whose change is a change of the batch
LENGTH = ""  # that of the sequence's length; other names are inputs with a length of their own

_ROLES = ("batch", "head", "query", "key")
_SUMS_TO_ONE = 1e-2  # sums in half precision are off by less
_SAME = 1e-3  # weights of one row, computed at two places of a batch

_Followed = list[frozenset[str]]  # for each axis the sizes that it follows


class AxesUnknown(Exception):
    """The axes cannot be told, or are not those of attention; the text says why."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Weights as a run at these sizes gave them."""

    sizes: Mapping[str, int]
    weights: Array


@dataclass(frozen=True, slots=True)
class SiteAxes:
    """What the axes of a site's tensor are."""

    axes: tuple[Axis, ...]
    heads: int
    queries: Extent
    keys: Extent


def read_axes(
    seen: Sequence[Observation],
    rows: int,
    *,
    frozen_length: int | None = None,
    own_positions: bool = False,
    fixed_keys: bool = False,
    rolled: Array | None = None,
) -> SiteAxes:
    """Tell the axes from runs that differ from the first in one size each.

    ``rows`` are those of the first run, ``rolled`` its weights when every row moves to the next
    place: that settles in which order batch and heads are folded into one axis. Where the
    model runs at one length only, axes of this length are those of positions; with
    ``own_positions`` also axes of equal sizes, such as the patches of a picture. With
    ``fixed_keys`` the keys may be positions of another input, of which there are always as many.
    Raises ``AxesUnknown``.
    """
    base = seen[0].weights
    followed = _followed(seen)
    frozen = LENGTH not in seen[0].sizes
    positions = _following_lengths(followed)
    if frozen:
        positions += _frozen_positions(base, followed, frozen_length, own_positions)
    key = _key_axis(seen, positions, _still(base, followed) if fixed_keys and positions else [])
    if frozen:
        positions = [axis for axis in positions if base.shape[axis] == base.shape[key]]
    query = _query_axis(positions, key, frozen=frozen)
    axes = _with_batch(seen, followed, key, query, rows, rolled)
    if query is None:
        axes = _with_fixed_queries(axes)
    if frozen and base.shape[key] != frozen_length:
        _check_whole(axes)
    extents = [_extent(seen, followed, axes, name, frozen_length) for name in ("query", "key")]
    heads = unfold(base, axes, rows).shape[1]
    return SiteAxes(axes, heads, *extents)


def unfold(weights: Array, axes: Sequence[Axis], rows: int) -> Array:
    """A tap's tensor as [batch, head, query, key], float32, or float64 if it is.

    Axes that are missing get size 1, several of heads become one. A tensor without batch axis
    is the same for all ``rows``.
    """
    shape: list[int] = []
    roles: list[str] = []
    for axis, size in zip(axes, weights.shape, strict=True):
        split = {
            "batch_and_head": (("batch", rows), ("head", size // rows)),
            "head_and_batch": (("head", size // rows), ("batch", rows)),
            "constant": (("head", size),),
        }.get(axis, ((axis, size),))
        for role, part in split:
            roles.append(role)
            shape.append(part)
    places = {role: [i for i, one in enumerate(roles) if one == role] for role in _ROLES}
    sizes = [math.prod(shape[place] for place in places[role]) for role in _ROLES]
    ordered = weights.reshape(shape).transpose([i for role in _ROLES for i in places[role]])
    datatype = np.float64 if weights.dtype == np.float64 else np.float32
    unfolded: Array = ordered.reshape(sizes).astype(datatype, copy=False)
    if not places["batch"]:
        unfolded = np.broadcast_to(unfolded, (rows, *unfolded.shape[1:]))
    return unfolded


def sum_error(weights: Array, axis: int) -> float:
    """How far sums over an axis are from 1; sums of nothing but zeros, all masked, do not count."""
    sums = weights.sum(axis=axis, dtype=np.float64)
    counted = sums[(weights != 0).any(axis=axis)]
    if not counted.size or not np.isfinite(counted).all():
        return math.inf
    return float(np.abs(counted - 1.0).max())


def _followed(seen: Sequence[Observation]) -> _Followed:
    base = seen[0]
    followed: list[set[str]] = [set() for _ in base.weights.shape]
    for one in seen[1:]:
        if one.weights.ndim != base.weights.ndim:
            raise AxesUnknown("the number of its axes changes with the input")
        changed = {name for name in base.sizes if one.sizes[name] != base.sizes[name]}
        pairs = zip(base.weights.shape, one.weights.shape, strict=True)
        for axis, (before, after) in enumerate(pairs):
            if before != after:
                followed[axis] |= changed
    return [frozenset(one) for one in followed]


def _following_lengths(followed: _Followed) -> list[int]:
    for one in followed:
        if ROWS in one and len(one) > 1:
            raise AxesUnknown("an axis follows the batch and a length at once")
    return [axis for axis, one in enumerate(followed) if one - {ROWS}]


def _frozen_positions(
    base: Array, followed: _Followed, frozen_length: int | None, own_positions: bool
) -> list[int]:
    """Axes that may be those of positions where the model runs at no other length."""
    still = _still(base, followed)
    alike = [axis for axis in still if base.shape[axis] == frozen_length]
    if any(sum_error(base, axis) <= _SUMS_TO_ONE for axis in alike):
        return alike
    if frozen_length is not None and not own_positions:
        return alike
    sizes = [base.shape[axis] for axis in still]
    return [axis for axis in still if sizes.count(base.shape[axis]) > 1]


def _still(base: Array, followed: _Followed) -> list[int]:
    return [axis for axis, one in enumerate(followed) if not one and base.shape[axis] > 1]


def _check_whole(axes: tuple[Axis, ...]) -> None:
    """Raise for parts of a picture that are rows of the batch: they are no heads."""
    if "head" in axes and ("batch_and_head" in axes or "head_and_batch" in axes):
        raise AxesUnknown("it looks at parts of the sequence one by one, as rows of the batch")


def _key_axis(seen: Sequence[Observation], positions: Sequence[int], fixed: Sequence[int]) -> int:
    """The axis of positions over which weights sum to 1, the last of several; else a fixed one."""
    errors = {
        axis: max(sum_error(one.weights, axis) for one in seen)
        for axis in range(seen[0].weights.ndim)
    }
    fitting = [axis for axis in positions if errors[axis] <= _SUMS_TO_ONE]
    if fitting:
        least = min(errors[axis] for axis in fitting)
        return max(axis for axis in fitting if errors[axis] <= max(4 * least, 1e-6))
    constant = [axis for axis, error in errors.items() if error <= _SUMS_TO_ONE]
    if set(constant) & set(fixed):
        return max(set(constant) & set(fixed))
    if constant:
        size = seen[0].weights.shape[constant[-1]]
        raise AxesUnknown(
            f"it sums to 1 over an axis of size {size} that follows no length: it chooses among "
            "experts, channels, a window or the like, not among all positions of a sequence"
        )
    raise AxesUnknown("it does not sum to 1 over any axis that follows a length")


def _query_axis(positions: Sequence[int], key: int, *, frozen: bool) -> int | None:
    others = [axis for axis in positions if axis != key]
    if len(others) > 1 and not frozen:
        raise AxesUnknown("more than two of its axes follow a length")
    # Where heads happen to be as many as the only length, queries stand next to the keys.
    return min(others, key=lambda axis: abs(axis - key)) if others else None


def _with_batch(
    seen: Sequence[Observation],
    followed: _Followed,
    key: int,
    query: int | None,
    rows: int,
    rolled: Array | None,
) -> tuple[Axis, ...]:
    """The labelling under which rows that change places take their weights along."""
    plain: list[Axis] = ["head" if size > 1 else "constant" for size in seen[0].weights.shape]
    plain[key] = "key"
    if query is not None:
        plain[query] = "query"
    labellings: list[tuple[Axis, ...]] = []
    for axis, name in _batch_candidates(seen, followed, plain, rows):
        labelling = list(plain)
        labelling[axis] = name
        labellings.append(tuple(labelling))
    labellings = labellings or [tuple(plain)]
    if rolled is None or rows < 2:
        return labellings[0]
    errors = [_rolling_error(seen[0].weights, rolled, one, rows) for one in labellings]
    if not min(errors) <= _SAME:
        raise AxesUnknown("its parts do not move with the rows of the batch")
    return labellings[errors.index(min(errors))]


def _batch_candidates(
    seen: Sequence[Observation], followed: _Followed, plain: Sequence[Axis], rows: int
) -> list[tuple[int, Axis]]:
    following = [axis for axis, one in enumerate(followed) if ROWS in one]
    if len(following) > 1:
        raise AxesUnknown("more than one of its axes follows the batch")
    if ROWS not in seen[0].sizes:  # the batch cannot change: any axis of its size may be it
        following = [axis for axis, one in enumerate(plain) if one in ("head", "constant")]
        following = [axis for axis in following if rows > 1]
    candidates: list[tuple[int, Axis]] = []
    for axis in following:
        sizes = [one.weights.shape[axis] / one.sizes.get(ROWS, rows) for one in seen]
        if len(set(sizes)) == 1 and sizes[0] == 1:
            candidates.append((axis, "batch"))
        elif len(set(sizes)) == 1 and sizes[0].is_integer():
            candidates += [(axis, "batch_and_head"), (axis, "head_and_batch")]
        elif ROWS in seen[0].sizes:
            raise AxesUnknown("an axis follows the batch, but is no multiple of it")
    return candidates


def _rolling_error(base: Array, rolled: Array, axes: Sequence[Axis], rows: int) -> float:
    if base.shape != rolled.shape:
        return math.inf
    moved = np.roll(unfold(base, axes, rows), 1, axis=0)
    return float(np.abs(moved - unfold(rolled, axes, rows)).max(initial=0.0))


def _with_fixed_queries(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Of several constant axes the last one is that of the queries: [..., head, query, key]."""
    constant = [axis for axis, one in enumerate(axes) if one in ("head", "constant")]
    folded = any(one in ("batch_and_head", "head_and_batch") for one in axes)
    if len(constant) + folded < 2:
        return axes
    labelled = list(axes)
    labelled[constant[-1]] = "query"
    return tuple(labelled)


def _extent(
    seen: Sequence[Observation],
    followed: _Followed,
    axes: Sequence[Axis],
    name: Axis,
    frozen_length: int | None,
) -> Extent:
    """How the size of an axis follows from a number of positions."""
    if name not in axes:
        return ONE
    axis = axes.index(name)
    size = seen[0].weights.shape[axis]
    lengths = followed[axis]
    if not lengths:
        # Shorter sequences are padded to the only length, and what is padding is cut off.
        return Extent() if size == frozen_length else Extent(stride=0, offset=size)
    if len(lengths) > 1:
        names = ", ".join(repr(one) if one else "the sequence" for one in sorted(lengths))
        raise AxesUnknown(f"an axis follows several lengths at once: {names}")
    length = next(iter(lengths))
    points = {one.sizes[length]: one.weights.shape[axis] for one in seen}
    extent = fit_extent(points, length)
    if extent is None:
        raise AxesUnknown("the size of an axis cannot be told from the length")
    return extent
