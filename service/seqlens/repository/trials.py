"""Probe sequences run alone and together, and how far their answers differ."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from seqlens.backends.base import Engine
from seqlens.backends.padding import pad, unpad
from seqlens.errors import SeqLensError
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.repository.probes import Prober
from seqlens.sequences import Array, InputSequence, Tensors

Kind = Literal["repeat", "equal_length", "padded"]
Key = tuple[int, int]  # length and number of a probe sequence

_BATCHES = (2, 3, 8)
_ENOUGH_LENGTHS = 3
_MIDDLE = 9  # a length that shows most faults and costs little: tried first
_CLIMBING_ROWS = 4
_STEEPEST = 4.0  # attention: twice the length takes four times as long
_LOUD = 30.0  # a mate this loud moves a scale that is taken over the whole batch


class Trial:
    """The probes of one model, their answers alone, and the largest differences met.

    ``most_rows`` bounds the batches, ``seconds`` softly the time. Methods raise what the model
    raises, and ``ValueError`` where its inputs cannot be built.
    """

    def __init__(
        self, engine: Engine, anatomy: ModelAnatomy, most_rows: int, seconds: float
    ) -> None:
        self.alone: dict[Key, Tensors] = {}
        self.refused: dict[int, str] = {}  # lengths that do not run even alone
        self.lengths: list[int] = []  # those that do
        self.climbed: list[int] = []  # longer ones, tried by `climb`
        self.errors: dict[Kind, dict[int, float]] = {"repeat": {}, "equal_length": {}, "padded": {}}
        self._engine, self._anatomy = engine, anatomy
        self._most_rows = most_rows
        self._prober = Prober(anatomy)
        self._until = time.perf_counter() + seconds
        self._sequences: dict[Key, InputSequence] = {}

    def on(self, engine: Engine) -> "Trial":
        """The same probes and answers alone, to be tried on another engine without delay."""
        other = Trial(engine, engine.anatomy, self._most_rows, seconds=0.0)
        other.lengths, other.alone = self.lengths, self.alone
        other._sequences = self._sequences
        return other

    def run_alone(self, lengths: Iterable[int], *, usual: int) -> None:
        """Run one probe of each length; lengths above ``usual`` only until enough have run."""
        for length in lengths:
            if length > usual and len(self.lengths) >= _ENOUGH_LENGTHS:
                break
            try:
                self._answer((length, 0))
            except (SeqLensError, ValueError) as error:
                self.refused[length] = str(error)
            else:
                self.lengths.append(length)

    def largest_answer(self) -> float:
        """Largest finite absolute value of all answers alone."""
        answers = [array for answer in self.alone.values() for array in answer.values()]
        floats = [array[np.isfinite(array)] for array in answers if array.dtype.kind == "f"]
        return max((float(np.abs(one).max()) for one in floats if one.size), default=0.0)

    def repeat(self) -> None:
        """Alone and alone again."""
        for length in self.lengths:
            self._compare("repeat", [(length, 0)], {})

    def equal_lengths(self) -> None:
        """Batches of one length, each also turned round so that every row has another place."""
        for length in sorted(self.lengths, key=lambda length: abs(length - _MIDDLE)):
            for rows in (n for n in _BATCHES if n <= self._most_rows):
                keys = [(length, number) for number in range(rows)]
                self._compare("equal_length", keys, {})
                self._compare("equal_length", keys[::-1], {})
            if self._late():
                break

    def padded(self) -> None:
        """Mixed lengths, each in every place as far as time allows, padding of every kind."""
        fills = self._prober.fills()
        for number, keys in enumerate(self._mixed()):
            if number >= len(fills) and self._late():
                break
            self._compare("padded", keys, fills[number % len(fills)])
        if self._anatomy.fixed_length is not None:
            for length in self.lengths:
                for fill in fills:  # shorter ones are padded even alone: its values may not matter
                    self._compare("padded", [(length, 0)], fill)

    def climb(self, lengths: Iterable[int], kinds: Sequence[Kind], seconds: float) -> None:
        """Small batches of longer and longer sequences, as far as the time allows.

        Rounding adds up over a sequence, so what holds for short ones need not hold for long ones.
        """
        for length in lengths:
            # This thread's own time: how far a proof gets must not hang on what else is loading.
            started = time.thread_time()
            for kind in kinds:
                self.errors[kind][length] = self._long_error(length, kind)
            self.climbed.append(length)
            took = time.thread_time() - started
            seconds -= took
            if seconds < _STEEPEST * took:
                return

    def worst(self, kind: Kind) -> float | None:
        """The largest difference of a kind; None if nothing was compared."""
        return max(self.errors[kind].values(), default=None)

    def _long_error(self, length: int, kind: Kind) -> float:
        rows = min(_CLIMBING_ROWS, self._most_rows)
        shorter = length // (2 * rows) if kind == "padded" else 0
        keys = [(length - row * shorter, row) for row in range(rows)]
        together = self._run(keys, self._prober.fills()[-1])
        pairs = zip(keys, together, strict=True)
        return max(largest_difference(self._answer(key), answer) for key, answer in pairs)

    def _mixed(self) -> Iterator[list[Key]]:
        keys = [(length, 0) for length in self.lengths]
        for turn in range(len(keys) if len(keys) > 1 else 0):
            turned = keys[turn:] + keys[:turn]
            for start in range(0, len(turned), self._most_rows):
                part = turned[start : start + self._most_rows]
                yield part if turn % 2 else part[::-1]

    def _compare(self, kind: Kind, keys: Sequence[Key], fill: Mapping[str, float]) -> None:
        errors = self.errors[kind]
        for key, answer in zip(keys, self._run(keys, fill), strict=True):
            error = largest_difference(self._answer(key), answer)
            errors[key[0]] = max(error, errors.get(key[0], 0.0))

    def _answer(self, key: Key) -> Tensors:
        """The answer to a probe alone: a batch of one, no padding but up to a frozen length."""
        if key not in self.alone:
            self.alone[key] = self._run([key], {})[0]
        return self.alone[key]

    def _run(self, keys: Sequence[Key], fill: Mapping[str, float]) -> list[dict[str, Array]]:
        sequences = [self._sequence(key) for key in keys]
        outputs = self._engine.run(pad(self._anatomy, sequences, fill=fill))
        return unpad(self._anatomy, outputs, [sequence.length for sequence in sequences])

    def _sequence(self, key: Key) -> InputSequence:
        """The probe of this length and number; every fourth is loud."""
        if key not in self._sequences:
            loudness = _LOUD if key[1] % 4 == 3 else 1.0
            self._sequences[key] = self._prober.sequence(*key, loudness=loudness)
        return self._sequences[key]

    def _late(self) -> bool:
        return time.perf_counter() > self._until


def largest_difference(alone: Tensors, together: Tensors) -> float:
    """Largest absolute difference of two answers; infinite if shapes or non-finite places differ.

    Whole numbers and truth values count by value, texts as equal or not.
    """
    return max((_difference(alone[name], together[name]) for name in alone), default=0.0)


def _difference(alone: Array, together: Array) -> float:
    if alone.shape != together.shape:
        return math.inf
    if alone.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(alone, together) else math.inf
    a, b = alone.astype(np.float64), together.astype(np.float64)
    differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not differs.any():
        return 0.0
    difference = np.abs(a[differs] - b[differs])
    return float(np.where(np.isfinite(difference), difference, math.inf).max())
