"""What an input means, told from what it does: masks silence, lengths cut off, states go on.

Names only decide where behaviour leaves it open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seqlens.datatypes import NUMPY_TYPES
from seqlens.graphs.anatomy import Marks
from seqlens.graphs.axes import Probed, Run, attempt, changed_at, difference
from seqlens.graphs.layouts import InputLayout, build
from seqlens.sequences import Array

_BOTH: tuple[Marks, Marks] = ("real", "padding")
_CLEAR = 0.5  # the right reading of a mask at least halves the effect of what it hides
_LEAK = 1e-4  # relative effect of hidden positions that is more than rounding


@dataclass(frozen=True, slots=True)
class Bench:
    """A probed model with the blocks that are batch and time: where roles are tried out."""

    run: Run
    probed: Probed
    main: InputLayout  # the input that carries the sequence for sure
    batch: str | None
    time: str

    @property
    def length(self) -> int:
        """Positions of the probe's sequences."""
        return self.probed.sizes[self.time]

    @property
    def rows(self) -> int:
        """Sequences in the probe."""
        return self.probed.sizes.get(self.batch or "", 1)

    def effects(
        self, given: Mapping[str, Array], hidden: Sequence[int], *, of_real: bool = False
    ) -> dict[str, float]:
        """Of each output: its largest change elsewhere when the hidden positions' values change.

        With ``of_real`` the values of all other positions change instead. Infinite where the
        model refuses.
        """
        inputs = {**build(self.probed.layout, self.probed.sizes), **given}
        before = attempt(self.run, inputs)
        axis = self.main.axes.index(self.time)
        places = [i for i in range(self.length) if i not in hidden] if of_real else hidden
        inputs[self.main.name] = changed_at(self.main, inputs[self.main.name], axis, places)
        after = attempt(self.run, inputs)
        if before is None or after is None:
            return dict.fromkeys(self.probed.outputs, float("inf"))
        return {n: self._elsewhere(n, difference(before[n], after[n]), hidden) for n in before}

    def effect(self, given: Mapping[str, Array], hidden: Sequence[int]) -> float:
        """The largest of the effects on all outputs."""
        return max(self.effects(given, hidden).values(), default=0.0)

    def _elsewhere(self, name: str, change: Array, hidden: Sequence[int]) -> float:
        axes = self.probed.outputs.get(name, ())
        for axis in (i for i, label in enumerate(axes) if label == self.time):
            if change.shape[axis] == self.length:  # packed sequences may come back shorter
                change = np.delete(change, list(hidden), axis=axis)
        return float(change.max()) if change.size else 0.0


@dataclass(frozen=True, slots=True)
class MaskVerdict:
    """What a set entry marks, and how much the hidden positions still matter (0 to 1)."""

    marks: Marks
    leak: float


def mask_verdict(bench: Bench, entry: InputLayout) -> MaskVerdict | None:
    """Whether an input [batch, time] hides positions; None if it hides nothing.

    Both readings are tried with a hole and with a padded end: a causal model shows only the
    first, a model that sums the mask up to lengths only the second. A reading under which the
    real positions are silent too is wrong: a mask may also blank out the answers themselves.
    """
    best, leak = (_CLEAR, _BOTH[0]), 0.0
    for hidden in _hidden_places(bench.length):
        masks = {marks: {entry.name: _mask(bench, entry, marks, hidden)} for marks in _BOTH}
        effects = {marks: bench.effects(masks[marks], hidden) for marks in _BOTH}
        alive = {marks: bench.effects(masks[marks], hidden, of_real=True) for marks in _BOTH}
        found = min(
            (_clearest(_believable(effects, alive, output)) for output in bench.probed.outputs),
            default=best,
        )
        if found < best:
            best, leak = found, _remaining(effects, found[1])
    if best[0] >= _CLEAR:
        return None
    return MaskVerdict(best[1], leak if leak > _LEAK else 0.0)


def _believable(
    effects: Mapping[Marks, Mapping[str, float]],
    alive: Mapping[Marks, Mapping[str, float]],
    output: str,
) -> dict[Marks, float]:
    """Effects on one output, infinite under a reading that silences the real positions too."""
    return {m: effects[m][output] if alive[m][output] > 0 else np.inf for m in _BOTH}


def _clearest(effects: Mapping[Marks, float]) -> tuple[float, Marks]:
    """The reading under which an output moves less, and its share of the other's effect."""
    right, wrong = sorted(_BOTH, key=lambda marks: effects[marks])
    quiet, loud = effects[right], effects[wrong]
    if loud == 0 or not np.isfinite(quiet):
        return 1.0, right
    return (quiet / loud if np.isfinite(loud) else 0.0), right


def _remaining(effects: Mapping[Marks, Mapping[str, float]], marks: Marks) -> float:
    """What the hidden positions still do under the right reading, relative to all they can do."""
    loudest = max(max(each.values()) for each in effects.values())
    if not np.isfinite(loudest) or loudest == 0:
        return 0.0
    return max(effects[marks].values()) / loudest


def _hidden_places(length: int) -> tuple[list[int], list[int]]:
    middle, tail = length // 4, max(1, length // 3)
    return [middle], list(range(length - tail, length))


def _mask(bench: Bench, entry: InputLayout, marks: Marks, hidden: Sequence[int]) -> Array:
    """A mask under which only ``hidden`` is padding."""
    shape = entry.shape(bench.probed.sizes)
    real = np.ones(shape, np.bool_)
    real[(slice(None),) * entry.axes.index(bench.time) + (list(hidden),)] = False
    return (real if marks == "real" else ~real).astype(NUMPY_TYPES[entry.datatype])


@dataclass(frozen=True, slots=True)
class LengthsVerdict:
    """How much positions beyond the length still matter, relative to those within it."""

    leak: float


def lengths_verdict(bench: Bench, entry: InputLayout) -> LengthsVerdict | None:
    """Whether an input [batch] cuts off what lies beyond; None if it does not.

    Values beyond the length must lose their effect, or, in models that read the answer at the
    last real position, the answer must move with the length.
    """
    hidden = _hidden_places(bench.length)[1]
    dtype, shape = NUMPY_TYPES[entry.datatype], entry.shape(bench.probed.sizes)
    short = np.full(shape, bench.length - len(hidden), dtype)
    full = np.full(shape, bench.length, dtype)
    beyond = bench.effect({entry.name: short}, hidden)
    within = bench.effect({entry.name: full}, hidden)
    if np.isfinite([beyond, within]).all() and within > 0 and beyond <= _CLEAR * within:
        return LengthsVerdict(beyond / within if beyond > _LEAK * within else 0.0)
    if "len" in entry.name.lower() and np.isfinite(beyond) and _matters(bench, entry, short, full):
        return LengthsVerdict(min(beyond / max(within, 1e-12), 1.0))
    return None


def _matters(bench: Bench, entry: InputLayout, one: Array, other: Array) -> bool:
    inputs = build(bench.probed.layout, bench.probed.sizes)
    first = attempt(bench.run, {**inputs, entry.name: one})
    second = attempt(bench.run, {**inputs, entry.name: other})
    if first is None or second is None:
        return False
    return any(difference(first[n], second[n]).any() for n in first)


def pair_states(probed: Probed, main: InputLayout, time: str | None) -> dict[str, str]:
    """Inputs that carry state, each with the output that continues it.

    A state has the shape of an output of its own type, no time axis, and at most the batch as
    free axis; several of one shape pair in order, equal names first.
    """
    free = dict(probed.outputs)
    pairs: dict[str, str] = {}
    for entry in probed.layout:
        if entry.name == main.name or time in entry.axes or not _may_be_state(entry):
            continue
        same = [n for n, axes in free.items() if _continues(entry, axes, probed.answers[n])]
        if same:
            output = min(same, key=lambda name: not _alike(entry.name, name))
            pairs[entry.name] = output
            del free[output]
    return pairs


def _may_be_state(entry: InputLayout) -> bool:
    return entry.datatype.startswith(("FP", "BF")) and len(entry.axes) > 1 and len(entry.blocks) < 2


def _continues(entry: InputLayout, axes: Sequence[int | str], answer: Array) -> bool:
    return tuple(axes) == entry.axes and answer.dtype == NUMPY_TYPES[entry.datatype]


def _alike(state: str, output: str) -> bool:
    first, second = state.lower(), output.lower()
    return first[:1] == second[:1] if len(first) < 3 else first in second or second in first
