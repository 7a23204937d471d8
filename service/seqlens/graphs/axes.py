"""Which layout runs, which output axis follows which input axis, and which of them is time.

Everything is found by running: sizes are distinct primes, so an axis that has the size of a
block, and changes with it, is that block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from seqlens.errors import ModelRejected
from seqlens.graphs.anatomy import AnatomyOverrides
from seqlens.graphs.layouts import (
    Axis,
    InputLayout,
    Layout,
    Sizes,
    blocks_of,
    build,
    fills,
    guesses,
)
from seqlens.graphs.reading import GraphReading
from seqlens.sequences import Array, Tensors

Run = Callable[[Tensors], dict[str, Array]]
_PRIMES = (3, 17, 7, 11, 13, 23, 29, 31)
_OTHER_SIZE = {3: 5, 17: 19, 7: 37, 11: 41, 13: 43, 23: 47, 29: 53, 31: 59}
_LARGE = (67, 269)  # for models that need long inputs, such as a window of samples
_MOST_ATTEMPTS = 1_500
_FROZEN_LENGTHS = (*range(1, 131), 160, 192, 200, 256, 300, 384, 400, 500, 512, 768, 1024)
_MIXING = 1e-3  # effect on other places over effect on the own place; below it is rounding


@dataclass(frozen=True, slots=True)
class Probed:
    """A layout that runs."""

    layout: Layout
    sizes: Sizes  # at which it was run
    frozen: frozenset[str]  # blocks that run at this size only
    outputs: dict[str, tuple[Axis, ...]]  # block or size of each axis; -1: it varies otherwise
    answers: dict[str, Array]  # of the run at ``sizes``

    def entry(self, name: str) -> InputLayout:
        """The layout of one input."""
        return next(entry for entry in self.layout if entry.name == name)


def find_layout(reading: GraphReading, run: Run, overrides: AnatomyOverrides) -> Probed:
    """Run guesses until one is taken, then vary each block.

    Raises ``ModelRejected`` with the model's own complaint if no guess runs.
    """
    refusals: list[str] = []
    spoilt: tuple[Layout, Sizes, dict[str, Array]] | None = None
    for layout, sizes in _attempts(reading, overrides):
        if spoilt and _shapes(layout) != _shapes(spoilt[0]):
            break
        answers = attempt(run, build(layout, sizes), refusals)
        if answers is not None and all(map(_is_finite, answers.values())):
            return _vary(run, layout, sizes, answers)
        if answers is not None:  # e.g. all is masked: another way to fill it may do better
            spoilt = spoilt or (layout, sizes, answers)
    if spoilt:
        return _vary(run, *spoilt)
    raise ModelRejected(_nothing_ran(reading, refusals))


def _shapes(layout: Layout) -> list[tuple[str, tuple[Axis, ...]]]:
    return [(entry.datatype, entry.axes) for entry in layout]


def _is_finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def attempt(
    run: Run, inputs: Tensors, refusals: list[str] | None = None
) -> dict[str, Array] | None:
    """Run once; a refusal is an observation, whatever the library raises."""
    try:
        return run(inputs)
    except Exception as error:
        if refusals is not None and len(refusals) < 2:
            refusals.append(str(error).strip())
        return None


def _attempts(
    reading: GraphReading, overrides: AnatomyOverrides
) -> Iterator[tuple[Layout, dict[str, int]]]:
    """Layouts with sizes: small everywhere, then one block large, then lengths one by one."""
    layouts = [filled for guess in guesses(reading, overrides) for filled in fills(guess, reading)]
    layouts = sorted(layouts, key=_tells_little)[:_MOST_ATTEMPTS]
    yield from ((layout, _small_sizes(layout)) for layout in layouts)
    few = layouts[:24]
    for size in _LARGE:
        for layout in few:
            for block in reversed(blocks_of(layout)):
                yield layout, {**_small_sizes(layout), block: size}
    for layout in few[:4]:
        for block in reversed(blocks_of(layout)):
            yield from ((layout, {**_small_sizes(layout), block: n}) for n in _FROZEN_LENGTHS)


def _tells_little(layout: Layout) -> bool:
    """Whether a layout may run with its axes mixed up: square inputs, and lengths of 1."""
    square = any(len(set(entry.blocks)) < len(entry.blocks) for entry in layout)
    return square or any(e.is_integer and len(e.axes) == 1 and e.fill == 1 for e in layout)


def _small_sizes(layout: Layout) -> dict[str, int]:
    blocks = blocks_of(layout)
    return {block: _PRIMES[i % len(_PRIMES)] for i, block in enumerate(blocks)}


def _vary(run: Run, layout: Layout, sizes: Sizes, answers: dict[str, Array]) -> Probed:
    """Change one block at a time and see which output axes follow."""
    frozen: set[str] = set()
    labels: dict[str, list[Axis]] = {name: list(a.shape) for name, a in answers.items()}
    for block in blocks_of(layout):
        other = _OTHER_SIZE.get(sizes[block], sizes[block] + 2)
        changed = next(
            (
                (size, result)
                for size in (other, sizes[block] + 1, max(sizes[block] - 1, 1))
                if (result := attempt(run, build(layout, {**sizes, block: size}))) is not None
            ),
            None,
        )
        if changed is None:
            frozen.add(block)
            _label_frozen(labels, block, sizes[block], layout)
        else:
            _label_changed(labels, answers, block, sizes[block], *changed)
    axes = {name: tuple(axes) for name, axes in labels.items()}
    return Probed(layout, sizes, frozenset(frozen), axes, answers)


def _label_changed(
    labels: dict[str, list[Axis]],
    before: dict[str, Array],
    block: str,
    old_size: int,
    new_size: int,
    after: dict[str, Array],
) -> None:
    for name, array in before.items():
        if array.ndim != after[name].ndim:
            continue
        for axis, (old, new) in enumerate(zip(array.shape, after[name].shape, strict=True)):
            if (old, new) == (old_size, new_size):
                labels[name][axis] = block
            elif old != new:
                labels[name][axis] = -1


def _label_frozen(labels: dict[str, list[Axis]], block: str, size: int, layout: Layout) -> None:
    """A block that cannot change is known by its size, at its own place first."""
    places = [e.axes.index(block) for e in layout if block in e.axes]
    for axes in labels.values():
        order = sorted(range(len(axes)), key=lambda axis: axis not in places)
        match = next((axis for axis in order if axes[axis] == size), None)
        if match is not None:
            axes[match] = block


def find_batch_and_time(
    run: Run, probed: Probed, main: InputLayout
) -> tuple[str | None, str | None]:
    """The blocks that are batch and time in the main input; None where there is no such block.

    Rows of a batch do not influence each other, positions of a sequence do.
    """
    mixing = {block: _mixing(run, probed, main, block) for block in dict.fromkeys(main.blocks)}
    seen = [block for block in mixing if mixing[block] is not None]
    if len(mixing) == 1:
        only = next(iter(mixing))
        limit = 0.1 if _sounds_like_batch(only) else _MIXING
        rows = mixing[only] is not None and (mixing[only] or 0.0) < limit
        return (only, None) if rows else (None, only)
    if not seen:
        return None, next(iter(mixing), None)
    batch = min(_shared_by_all(probed, seen), key=lambda block: _batch_rank(mixing, block))
    return batch, next(block for block in mixing if block != batch)


def _batch_rank(mixing: dict[str, float | None], block: str) -> tuple[float, bool]:
    mixed = mixing[block] or 0.0
    return (0.0 if mixed < 1e-6 else mixed, not _sounds_like_batch(block))


def _sounds_like_batch(block: str) -> bool:
    return "batch" in block.lower() or block in {"N", "B", "n", "b"}


def _shared_by_all(probed: Probed, blocks: Sequence[str]) -> Sequence[str]:
    """Of these blocks, those that every input and output with any block has."""
    carriers = [set(entry.blocks) for entry in probed.layout if entry.blocks]
    carriers += [{a for a in axes if isinstance(a, str)} for axes in probed.outputs.values()]
    shared = [b for b in blocks if all(b in carrier for carrier in carriers if carrier)]
    return shared or blocks


def _mixing(run: Run, probed: Probed, main: InputLayout, block: str) -> float | None:
    """How much place 1 of a block influences the other places, relative to itself.

    None where no output has this block: it is summed up on the way.
    """
    answering = {n: a.index(block) for n, a in probed.outputs.items() if block in a}
    if not answering or probed.sizes[block] < 2:
        return None
    inputs = dict(build(probed.layout, probed.sizes))
    before = attempt(run, inputs)
    inputs[main.name] = changed_at(main, inputs[main.name], main.axes.index(block), [1])
    after = attempt(run, inputs)
    if before is None or after is None:
        return None
    ratios = [0.0]
    for name, axis in answering.items():
        effect = np.moveaxis(difference(before[name], after[name]), axis, 0)
        effect = effect.reshape(len(effect), -1).max(axis=1)
        if effect[1] > 0 or effect.max() > 0:
            ratios.append(float(np.delete(effect, 1).max() / max(effect[1], 1e-12)))
    return min(max(ratios), 1e6)


def changed_at(entry: InputLayout, array: Array, axis: int, places: Sequence[int]) -> Array:
    """A copy with other valid values at these places of an axis."""
    changed = array.copy()
    index = (slice(None),) * axis + (list(places),)
    if entry.is_integer:
        limit = entry.id_limit
        changed[index] = changed[index] % (limit - 1) + 1 if limit > 2 else 1 - changed[index]
    elif array.dtype.kind == "f":
        changed[index] = 1.5 - changed[index]
    elif array.dtype.hasobject:
        changed[index] = changed[index] + b"b"
    else:
        changed[index] = ~changed[index]
    return changed


def difference(before: Array, after: Array) -> Array:
    """Absolute difference as float64; where only one of the two is a number, infinity."""
    if before.shape != after.shape:
        return np.full(before.shape, np.inf)
    if before.dtype.kind not in "biuf":
        return np.asarray(before != after, np.float64)
    first, second = before.astype(np.float64), after.astype(np.float64)
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):
        apart: Array = np.asarray(np.abs(first - second))
    apart[np.isnan(apart)] = np.inf
    apart[same] = 0.0
    return apart


def _nothing_ran(reading: GraphReading, refusals: Sequence[str]) -> str:
    shapes = ", ".join(
        f"{t.name} {t.datatype or 'unknown'} {list(t.shape or ()) if t.shape is not None else '?'}"
        for t in reading.inputs
    )
    said = f" The model said: {refusals[0][:300]}" if refusals else ""
    hints = "".join(f" {finding}." for finding in reading.findings)
    return (
        f"no trial input was accepted (inputs: {shapes}).{said}{hints} State datatype and shape of "
        "its inputs in model.yaml, or export it again with dynamic batch and length"
    )


def resized(probed: Probed, sizes: Sizes, run: Run) -> Probed:
    """The same layout observed at other sizes, if it runs there."""
    wanted = {**probed.sizes, **{b: n for b, n in sizes.items() if b not in probed.frozen}}
    if wanted == probed.sizes:
        return probed
    answers = attempt(run, build(probed.layout, wanted))
    return probed if answers is None else replace(probed, sizes=wanted, answers=answers)
