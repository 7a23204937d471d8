"""Questions about influence and gates, and their answers: plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from seqlens.errors import InvalidRequest
from seqlens.graphs.anatomy import Cell
from seqlens.sequences import Array

Measure = Literal["occlusion", "jacobian"]
Method = Literal["replacement", "central_differences", "autograd", "closed_form"]
HIDDEN = "hidden"  # as a target: the last vectors of the positions


@dataclass(frozen=True, slots=True)
class Target:
    """What of the model's answer is looked at: one element of an output, or a vector's norm."""

    output: str = ""  # an output's name or HIDDEN; empty: the first output
    class_index: int | None = None
    predicted_class: bool = False  # the element that is largest


@dataclass(frozen=True, slots=True)
class InfluenceQuestion:
    """What to measure. Negative positions count from the end of each sequence."""

    measures: tuple[Measure, ...] = ("occlusion",)
    target: Target = Target()
    output_positions: tuple[int, ...] = ()  # empty: all
    input_positions: tuple[int, ...] = ()  # empty: all
    replacements: int = 4  # known tokens tried at a position
    replacement_tokens: tuple[int, ...] = ()  # these instead
    directions: int = 4  # random ones, for the Jacobian
    exact: bool = False  # the Jacobian by autograd or in closed form, where the model allows
    by_distance: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """What a question will take, or has taken."""

    runs: int  # of the model, each a batch
    seconds: float
    bytes: int = 0  # of the maps, as far as they are foretold


@dataclass(frozen=True, slots=True)
class InfluenceMap:
    """How much each row of the target depends on each position of one sequence."""

    sequence: int  # place among those asked about
    measure: Measure
    method: Method
    output_positions: tuple[int, ...]  # empty: one row, of the whole sequence
    input_positions: tuple[int, ...]
    values: Array  # float32 [rows, columns]
    shares: Array  # float32 [rows, columns]: rows sum to 1, 0 where below the floor
    floors: Array  # float32 [rows]: what rounding alone gives


@dataclass(frozen=True, slots=True)
class InfluenceByDistance:
    """Many maps of one measure, by distance from output to input position."""

    measure: Measure
    distances: tuple[int, ...]
    mean_share: Array  # float64 [distances]
    mean_value: Array  # float64 [distances]: geometric, of those above the floor; NaN: none is
    counts: Array  # int64 [distances]
    below_floor: Array  # int64 [distances]: of the counts
    sequential_steps: Array  # int64 [distances]: that must follow each other


@dataclass(frozen=True, slots=True)
class InfluenceAnswer:
    """All that was measured."""

    target: Target  # as it was understood
    maps: tuple[InfluenceMap, ...]
    by_distance: tuple[InfluenceByDistance, ...]
    predicted: Cost
    taken: Cost
    errors: Mapping[int, InvalidRequest]  # what is wrong with sequences that have no maps


@dataclass(frozen=True, slots=True)
class GateQuestion:
    """Which gates, and in how much detail."""

    layers: tuple[int, ...] = ()  # empty: all; negative: from the end
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)  # over the units
    full: bool = False  # every unit's values, too


@dataclass(frozen=True, slots=True)
class GateReading:
    """One gate of one sequence. All float32."""

    sequence: int
    gate: str  # input, forget, output, cell, forget_product; update, reset, new, update_product
    mean: Array  # [steps]
    quantiles: Array  # [quantiles, steps]
    values: Array | None  # [steps, units], if asked for in full


@dataclass(frozen=True, slots=True)
class GateLayer:
    """The gates of one layer in one direction."""

    layer: int
    name: str
    cell: Cell
    direction: Literal["forward", "reverse"]
    units: int
    recomputed_error: float  # hidden states made of these gates, to the model's own
    readings: tuple[GateReading, ...]
