"""Parts of maps fit into messages and make up the whole again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens.api.insight.splitting import split_gates, split_maps
from seqlens.attention.measures import measure_map
from seqlens.attention.questions import GateLayer, GateReading
from seqlens.attention.selection import SequenceMap, SiteMaps
from seqlens.attention.sites import Site, SiteProof
from seqlens.errors import AnswerTooLarge
from seqlens.graphs.anatomy import AttentionSite

SITE = Site(AttentionSite("a", 0, "self", "Softmax"), (), SiteProof(True), measured=True)


def some_map(
    sequence: int, heads: int, queries: int, keys: int, *, measured: bool = False
) -> SequenceMap:
    count = heads * queries * keys
    weights = np.arange(count, dtype=np.float32).reshape(heads, queries, keys)
    positions = np.arange(count, dtype=np.int32).reshape(heads, queries, keys)
    measures = measure_map(weights / weights.sum(-1, keepdims=True)) if measured else None
    return SequenceMap(sequence, tuple(range(heads)), 3, 0, weights, positions, measures)


@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 50)), max_size=4
    ),
    room=st.integers(0, 4_000),
)
def test_parts_fit_and_make_up_the_whole(shapes: list[tuple[int, int, int]], room: int) -> None:
    maps = tuple(some_map(number, *shape) for number, shape in enumerate(shapes))
    most = 1_024 + 50 * 8 + room  # one query always fits
    parts = list(split_maps(SiteMaps(SITE, maps), most))
    found = {number: np.full(shape, -1.0) for number, shape in enumerate(shapes)}
    for part in parts:
        assert sum(1_024 + 2 * one.weights.nbytes for one in part.maps) <= most
        for one in part.maps:
            rows = slice(one.query_start - 3, one.query_start - 3 + one.weights.shape[1])
            assert (found[one.sequence][list(one.heads), rows] == -1).all()
            found[one.sequence][list(one.heads), rows] = one.weights
            assert one.key_positions is not None
            assert (one.key_positions == one.weights).all()
    for number, one in enumerate(maps):
        np.testing.assert_array_equal(found[number], one.weights)


def test_measures_go_with_the_first_part_alone() -> None:
    whole = some_map(0, 4, 30, 30, measured=True)
    parts = list(split_maps(SiteMaps(SITE, (whole,)), 6_000))
    measures = [one.measures for part in parts for one in part.maps]
    assert len(measures) > 2
    assert measures[0] is whole.measures
    assert set(measures[1:]) == {None}


def test_a_query_that_fits_into_no_message_is_refused() -> None:
    with pytest.raises(AnswerTooLarge):
        list(split_maps(SiteMaps(SITE, (some_map(0, 2, 2, 5_000),)), 10_000))


def test_gates_are_split_between_readings() -> None:
    reading = GateReading(0, "input", np.zeros(50, np.float32), np.zeros((1, 50), np.float32), None)
    layer = GateLayer(0, "l", "lstm", "forward", 4, 0.0, (reading,) * 7)
    parts = list(split_gates(layer, 3_000))
    assert [len(part.readings) for part in parts] == [2, 2, 2, 1]
    with pytest.raises(AnswerTooLarge):
        list(split_gates(layer, 1_000))
