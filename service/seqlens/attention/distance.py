"""Influence by distance: many maps of one measure, in one line."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from seqlens.attention.measures import sequential_steps
from seqlens.attention.questions import InfluenceByDistance, InfluenceMap, Measure
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.sequences import Array


@dataclass(slots=True)
class _Sums:
    """What adds up for one distance."""

    count: int = 0
    share: float = 0.0
    logarithms: list[float] = field(default_factory=list)  # of values above the floor


def by_distance(
    anatomy: ModelAnatomy, measure: Measure, maps: Sequence[InfluenceMap], lengths: Sequence[int]
) -> InfluenceByDistance:
    """Cells of all ``maps`` of ``measure``, by output position minus input position.

    ``lengths`` are those of the maps' sequences, by number. The one row of a target without
    positions stands at the last position: there a model that reads on has read everything.
    """
    sums: dict[int, _Sums] = {}
    for one in maps:
        if one.measure == measure:
            _add(sums, one, lengths[one.sequence])
    distances = sorted(sums)
    found = [sums[distance] for distance in distances]
    return InfluenceByDistance(
        measure,
        tuple(distances),
        np.array([one.share / one.count for one in found], np.float64),
        np.array([_geometric_mean(one.logarithms) for one in found], np.float64),
        np.array([one.count for one in found], np.int64),
        np.array([one.count - len(one.logarithms) for one in found], np.int64),
        _steps(anatomy, distances),
    )


def _add(sums: dict[int, _Sums], one: InfluenceMap, length: int) -> None:
    for row, position in enumerate(one.output_positions or (length - 1,)):
        for column, source in enumerate(one.input_positions):
            cell = sums.setdefault(position - source, _Sums())
            cell.count += 1
            cell.share += float(one.shares[row, column])
            value = float(one.values[row, column])
            if value > one.floors[row]:
                cell.logarithms.append(float(np.log(value)))


def _geometric_mean(logarithms: Sequence[float]) -> float:
    return float(np.exp(np.mean(logarithms))) if logarithms else float("nan")


def _steps(anatomy: ModelAnatomy, distances: Sequence[int]) -> Array:
    steps = [sequential_steps(anatomy, max(0, -d), max(0, d)) for d in distances]
    return np.array(steps, np.int64)
