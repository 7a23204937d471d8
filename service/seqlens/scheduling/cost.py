"""What a run will take: T(length, batch), measured at load and corrected while serving."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

# A run's time grows at most with the square of the length (attention): a steeper slope at the
# edge of the grid is noise, and would be carried far beyond it.
_STEEPEST = 2.0
_REMEMBERED = 65_536  # predictions kept; far more than (length, batch) pairs that occur together


@dataclass(frozen=True, slots=True)
class Measurement:
    """One cell of the load-time grid: ``batch`` sequences of ``length`` positions each."""

    length: int
    batch: int
    seconds: float


class Cost(Protocol):
    """Anything that predicts the seconds of one run."""

    def seconds(self, length: int, batch: int) -> float:
        """Predicted seconds of a run of ``batch`` rows of ``length`` positions."""


@dataclass(frozen=True)
class CostModel:
    """Predicts the time of a run from a small grid of measurements.

    Between cells the logarithm of the time is linear in the logarithms of length and batch. The
    prediction never falls when length or batch grows, however noisy the grid. Beyond the longest
    length the last slope goes on, beyond the largest batch a row costs what it cost there. Cells
    may be missing (large batches of long sequences take long to measure): there a batch gains
    over its rows apart what it gained at the nearest length. Raises ``ValueError`` without
    measurements, or with one that is not positive.
    """

    measurements: tuple[Measurement, ...]

    def __post_init__(self) -> None:
        if not self.measurements:
            raise ValueError("a cost model needs at least one measurement")
        if any(not 0 < one.seconds < math.inf or one.batch < 1 for one in self.measurements):
            raise ValueError(f"not a measurement of a run: {self.measurements}")
        # Not fields: they follow from the measurements and are not stored with them.
        object.__setattr__(self, "_curves", _complete(self.measurements))
        object.__setattr__(self, "_known", {})

    def seconds(self, length: int, batch: int) -> float:
        """Predicted seconds of a run of ``batch`` rows of ``length`` positions."""
        known: dict[tuple[int, int], float] = self.__dict__["_known"]
        seconds = known.get((length, batch))
        if seconds is None:
            if len(known) >= _REMEMBERED:
                known.clear()
            seconds = known[length, batch] = self._predict(length, batch)
        return seconds

    def _predict(self, length: int, batch: int) -> float:
        curves: dict[int, _Curve] = self.__dict__["_curves"]
        batches = list(curves)
        at_length = list(accumulate((curve.seconds(length) for curve in curves.values()), max))
        if batch >= batches[-1]:
            return at_length[-1] * batch / batches[-1]
        place = bisect_left(batches, batch)
        if place == 0:
            return at_length[0]
        return _between(batch, batches[place - 1 : place + 1], at_length[place - 1 : place + 1])


class CostTracker:
    """A cost model with a correction for what serving shows: load, heat, other processes.

    One factor for all lengths and batches, so that it changes predicted seconds but not which
    of two plans is cheaper. Has one owner; not safe for several threads at once.
    """

    _WEIGHT = 0.05  # of one run: about the last 20 runs count
    _LARGEST_RATIO = 4.0  # one run that met a page fault or a debugger says little

    def __init__(self, model: CostModel) -> None:
        self._model = model
        self._factor = 1.0

    @property
    def factor(self) -> float:
        """Measured over predicted, averaged over the last runs."""
        return self._factor

    def seconds(self, length: int, batch: int) -> float:
        """Predicted seconds of a run of ``batch`` rows of ``length`` positions."""
        return self._model.seconds(length, batch) * self._factor

    def observe(self, length: int, batch: int, seconds: float) -> None:
        """Learn from one run that took ``seconds``."""
        error = seconds / self.seconds(length, batch)
        bounded = min(max(error, 1 / self._LARGEST_RATIO), self._LARGEST_RATIO)
        self._factor *= bounded**self._WEIGHT


class _Curve:
    """Seconds over length for one batch size: lengths ascend, times never fall."""

    def __init__(self, times: Mapping[int, float]) -> None:
        self.lengths = sorted(times)
        self.times = list(accumulate((times[length] for length in self.lengths), max))

    def seconds(self, length: int) -> float:
        length = max(1, length)
        if len(self.lengths) == 1:
            return self.times[0] * max(1.0, length / self.lengths[0])
        place = min(max(bisect_left(self.lengths, length), 1), len(self.lengths) - 1)
        edges = slice(place - 1, place + 1)
        return _between(length, self.lengths[edges], self.times[edges])


def _complete(measurements: Sequence[Measurement]) -> dict[int, _Curve]:
    """One curve per batch size, ascending, each over all lengths of the grid."""
    cells: dict[int, dict[int, float]] = {}
    for one in sorted(measurements, key=lambda one: one.batch):
        row = cells.setdefault(one.batch, {})
        length = max(1, one.length)  # a model without a time axis has length 0
        row[length] = min(one.seconds, row.get(length, math.inf))
    base = _Curve(next(iter(cells.values())))
    lengths = {length for row in cells.values() for length in row}
    curves: dict[int, _Curve] = {}
    below = dict.fromkeys(lengths, 0.0)
    for batch, row in cells.items():
        below = {n: max(below[n], base.seconds(n) * _ratio(row, base, n)) for n in sorted(lengths)}
        curves[batch] = _Curve(below)
    return curves


def _ratio(row: Mapping[int, float], base: _Curve, length: int) -> float:
    """How many times the base curve a row of cells takes; as at its ends beyond them."""
    known = sorted(row)
    length = min(max(length, known[0]), known[-1])
    place = bisect_left(known, length)
    around = known[place : place + 1] if known[place] == length else known[place - 1 : place + 1]
    ratios = [row[n] / base.seconds(n) for n in around]
    return ratios[0] if len(ratios) == 1 else _between(length, around, ratios)


def _between(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """The straight line through two points in logarithms, followed beyond them too."""
    slope = math.log(ys[1] / ys[0]) / math.log(xs[1] / xs[0])
    anchor = 0 if x <= xs[1] else 1
    if not xs[0] <= x <= xs[1]:
        slope = min(slope, _STEEPEST)
    return float(ys[anchor] * (x / xs[anchor]) ** slope)
