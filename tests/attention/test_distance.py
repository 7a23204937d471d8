"""Influence by distance, against the plainest way to count."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.numpy_recurrent import recurrent, tokens

from seqlens.attention.distance import by_distance
from seqlens.attention.influence import measure, shares_of
from seqlens.attention.measures import sequential_steps
from seqlens.attention.questions import Cost, InfluenceMap, InfluenceQuestion, Target
from seqlens.sequences import Array

ANATOMY = recurrent("lstm", layers=2).anatomy


def influence_map(
    sequence: int, values: Array, floors: Array, rows: tuple[int, ...], columns: tuple[int, ...]
) -> InfluenceMap:
    return InfluenceMap(
        sequence, "occlusion", "replacement", rows, columns, values, shares_of(values, floors),
        floors,
    )  # fmt: skip


@st.composite
def maps(draw: st.DrawFn) -> list[InfluenceMap]:
    found = []
    for sequence in range(draw(st.integers(1, 3))):
        columns = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True))
        rows = draw(st.lists(st.integers(0, 9), max_size=4, unique=True))
        random = np.random.default_rng(draw(st.integers(0, 99)))
        shape = (max(1, len(rows)), len(columns))
        values, floors = random.exponential(size=shape), random.uniform(0, 1, shape[0])
        found.append(influence_map(sequence, values, floors, tuple(rows), tuple(columns)))
    return found


@given(maps())
def test_cells_are_gathered_by_distance(found: list[InfluenceMap]) -> None:
    lengths = [10 + one.sequence for one in found]
    cells = defaultdict(list)
    for one in found:
        for r, output in enumerate(one.output_positions or [lengths[one.sequence] - 1]):
            for c, source in enumerate(one.input_positions):
                known = one.values[r, c] > one.floors[r]
                cells[output - source].append((one.shares[r, c], one.values[r, c], known))
    answer = by_distance(ANATOMY, "occlusion", found, lengths)
    assert answer.distances == tuple(sorted(cells))
    for place, distance in enumerate(answer.distances):
        shares, values, known = map(np.array, zip(*cells[distance], strict=True))
        assert answer.counts[place] == len(values)
        assert answer.below_floor[place] == (~known).sum()
        assert answer.mean_share[place] == pytest.approx(shares.mean())
        mean = values[known].prod() ** (1 / known.sum()) if known.any() else np.nan
        assert answer.mean_value[place] == pytest.approx(mean, nan_ok=True)
        steps = sequential_steps(ANATOMY, max(0, -distance), max(0, distance))
        assert answer.sequential_steps[place] == steps


def test_other_measures_are_left_out() -> None:
    one = influence_map(0, np.ones((1, 2)), np.zeros(1), (), (0, 1))
    assert by_distance(ANATOMY, "jacobian", [one], [2]).distances == ()
    assert by_distance(ANATOMY, "occlusion", [one], [2]).distances == (0, 1)


def test_a_net_that_fades_does_so_by_distance() -> None:
    question = InfluenceQuestion(
        ("occlusion", "jacobian"), Target("hidden"), exact=True, by_distance=True
    )
    sequences = [tokens(12, seed) for seed in range(3)]
    model = recurrent("rnn", back=0.3)
    answer = measure(model, sequences, question, together=True, cost=Cost(0, 0.0))
    assert [one.measure for one in answer.by_distance] == ["occlusion", "jacobian"]
    for one in answer.by_distance:
        future = np.array(one.distances) < 0
        assert not one.mean_share[future].any()
        assert (one.below_floor[future] == one.counts[future]).all()
        assert (np.diff(one.mean_value[~future]) < 0).all()
        assert one.sequential_steps[~future].tolist() == list(range(1, 13))
        assert one.counts.tolist() == [3 * (12 - abs(d)) for d in one.distances]
