"""What answers depend on, as the caller sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqlens_client._errors import SeqLensError


@dataclass(frozen=True, slots=True)
class InsideSequence:
    """One sequence that was looked at."""

    length: int  # positions (tokens or time steps)
    tokens: tuple[str, ...]  # texts of its positions; empty: no tokenizer
    error: SeqLensError | None  # set: nothing is told about this sequence


@dataclass(frozen=True, slots=True)
class InfluenceTarget:
    """What of the model's answer is looked at: one element of an output, or a vector's norm.

    ``output`` is an output's name, or "hidden" for the last vectors of the positions; empty: the
    first output.
    """

    output: str = ""
    class_index: int | None = None  # one element of it, such as a class logit
    predicted_class: bool = False  # the element that is largest; neither: the whole vector's norm


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class InfluenceMap:
    """How much each row of the target depends on each position of one sequence.

    Occlusion: how far the target moves when a position is replaced, in the target's own unit;
    that is what the answer depends on. Jacobian: norm of the derivative by a position's
    embedding; that is the gradient path, and where it fades the answer need not. Values below
    their row's floor are rounding and not known.
    """

    sequence: int  # place among those asked about
    measure: str  # occlusion or jacobian
    method: str  # replacement, central_differences, autograd or closed_form
    output_positions: tuple[int, ...]  # of the rows; empty: one row, of the whole sequence
    input_positions: tuple[int, ...]  # of the columns
    values: NDArray[np.float32]  # [rows, columns]
    shares: NDArray[np.float32]  # [rows, columns]: rows sum to 1; 0 where below the floor
    floors: NDArray[np.float32]  # [rows]: what rounding alone gives
    tokens: tuple[str, ...]  # texts of the sequence's positions; empty: no tokenizer

    def __repr__(self) -> str:
        return (
            f"InfluenceMap({self.measure} by {self.method}, sequence {self.sequence}, "
            f"values {list(self.values.shape)})"
        )

    @property
    def below_floor(self) -> NDArray[np.bool_]:
        """Which values [rows, columns] are not known: rounding alone gives as much."""
        floors = self.floors[:, np.newaxis]
        return np.asarray((self.values <= floors) & (floors > 0))

    def look(self, row: int = -1) -> list[tuple[str, float]]:
        """What a row of the target depends on: (token, share), largest first.

        Without a tokenizer positions stand for tokens.
        """
        shares = self.shares[row]
        order = np.argsort(-shares, kind="stable")
        return [(self.text(self.input_positions[i]), float(shares[i])) for i in order]

    def text(self, position: int) -> str:
        """Text of a position, or its number."""
        return self.tokens[position] if position < len(self.tokens) else str(position)

    def plot(self, ax: Any = None) -> Any:
        """Draw the shares into matplotlib axes, and return them: bars, or an image of many rows.

        Without ``ax`` a figure is made. Raises ``ImportError`` where matplotlib is needed for
        that and is not installed.
        """
        from seqlens_client._plotting import plot_influence

        return plot_influence(self, ax)


@dataclass(frozen=True, slots=True, eq=False)
class InfluenceByDistance:
    """All maps of one measure, by distance from output to input position. Arrays [distances]."""

    measure: str
    distances: NDArray[np.int64]  # output position - input position
    mean_share: NDArray[np.float64]
    mean_value: NDArray[np.float64]  # geometric, of those above the floor; NaN: none is
    counts: NDArray[np.int64]
    below_floor: NDArray[np.int64]  # of the counts
    sequential_steps: NDArray[np.int64]  # that must follow each other from input to output


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Influence:
    """How much answers depend on each position: a map for each sequence and measure.

    ``values``, ``shares``, ``floors``, ``below_floor`` and ``tokens`` are those of the only map;
    where there are more, ``map`` finds one.
    """

    maps: tuple[InfluenceMap, ...]
    by_distance: tuple[InfluenceByDistance, ...]  # if asked for: one for each measure
    target: InfluenceTarget  # as it was understood
    sequences: tuple[InsideSequence, ...]  # in the order of the call
    predicted_seconds: float  # before the work began
    seconds: float  # that it took
    model_runs: int
    model_version: str  # the one that answered

    def __repr__(self) -> str:
        return f"Influence({list(self.maps)}, seconds={self.seconds:.3f})"

    def map(self, measure: str | None = None, sequence: int = 0) -> InfluenceMap:
        """The map of a measure (None: the first) and a sequence, by its place in the call.

        Raises ``ValueError`` for one that is not here.
        """
        for each in self.maps:
            if each.sequence == sequence and measure in (None, each.measure):
                return each
        here = ", ".join(f"{each.measure} of sequence {each.sequence}" for each in self.maps)
        raise ValueError(f"got {measure} of sequence {sequence}, expected one of {here or 'none'}")

    @property
    def _only(self) -> InfluenceMap:
        if len(self.maps) != 1:
            raise ValueError(f"not one map but {len(self.maps)}: use map(measure, sequence)")
        return self.maps[0]

    @property
    def values(self) -> NDArray[np.float32]:
        """Values [rows, columns] of the only map."""
        return self._only.values

    @property
    def shares(self) -> NDArray[np.float32]:
        """Shares [rows, columns] of the only map: rows sum to 1, 0 where below the floor."""
        return self._only.shares

    @property
    def floors(self) -> NDArray[np.float32]:
        """Floors [rows] of the only map: what rounding alone gives."""
        return self._only.floors

    @property
    def below_floor(self) -> NDArray[np.bool_]:
        """Which values [rows, columns] of the only map are not known."""
        return self._only.below_floor

    @property
    def tokens(self) -> tuple[str, ...]:
        """Texts of the positions of the only map's sequence; empty: no tokenizer."""
        return self._only.tokens
