"""Measures against the plainest loops, and at the ends of their scales."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqlens.attention.measures import (
    NO_PATH,
    effective_patterns,
    measure_map,
    rollout,
    sequential_steps,
    similarity_of_heads,
)
from seqlens.graphs.anatomy import (
    Architecture,
    AttentionSite,
    Direction,
    ModelAnatomy,
    RecurrentLayer,
)
from seqlens.sequences import Array


@st.composite
def maps(draw: st.DrawFn) -> Array:
    """Weights [heads, queries, keys] whose rows sum to 1, some of them exactly 0."""
    heads, queries, keys = (draw(st.integers(1, 5)) for _ in range(3))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    raw = random.random((heads, queries, keys)) ** draw(st.integers(1, 8))
    raw[random.random(raw.shape) < draw(st.sampled_from([0.0, 0.5]))] = 0.0
    raw[..., 0] += 1e-3
    return np.asarray(raw / raw.sum(-1, keepdims=True))


def entropy(row: Array) -> float:
    return -sum(float(p) * math.log(p) for p in row if p > 0)


def divergence(first: Array, second: Array) -> float:
    middle = (first + second) / 2
    total = 0.0
    for one in (first, second):
        pairs = zip(one, middle, strict=True)
        total += sum(float(p) * math.log(p / m) for p, m in pairs if p > 0) / 2
    return total


@settings(max_examples=60, deadline=None)
@given(maps(), st.integers(0, 9), st.data())
def test_measures_are_those_of_direct_loops(
    weights: Array, start: int, data: st.DataObject
) -> None:
    heads, queries, keys = weights.shape
    shared = data.draw(st.lists(st.integers(0, keys - 1), unique=True))
    got = measure_map(weights.astype(np.float32), start, shared)
    for head in range(heads):
        rows = weights[head]
        parts = [entropy(row) / math.log(keys) if keys > 1 else 0.0 for row in rows]
        assert got.entropy[head] == pytest.approx(np.mean(parts), abs=1e-6)
        distances = [
            sum(row[k] * abs(start + q - k) for k in range(keys)) for q, row in enumerate(rows)
        ]
        assert got.mean_distance[head] == pytest.approx(np.mean(distances), abs=1e-5)
        assert got.share is not None
        assert got.share[head] == pytest.approx(rows[:, shared].sum() / queries, abs=1e-6)
        for other in range(heads):
            pairs = zip(rows, weights[other], strict=True)
            alike = 1 - np.mean([divergence(*pair) for pair in pairs]) / math.log(2)
            assert got.similarity[head, other] == pytest.approx(alike, abs=1e-6)
    taken = np.take_along_axis(weights, got.largest_positions[..., np.newaxis], 2)[..., 0]
    np.testing.assert_allclose(taken, weights.max(2), atol=1e-7)
    assert got.largest_positions.dtype == np.int64
    assert 1 - 1e-9 <= got.patterns <= heads + 1e-9


def test_no_positions_no_share() -> None:
    assert measure_map(np.ones((1, 1, 1))).share is None


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_patterns_count_from_one_to_all(heads: int) -> None:
    same = np.repeat(np.full((1, 3, 8), 1 / 8), heads, axis=0)
    different = np.repeat(np.eye(8)[:heads, np.newaxis], 3, axis=1)
    assert measure_map(same).patterns == pytest.approx(1.0)
    assert measure_map(different).patterns == pytest.approx(heads)
    np.testing.assert_allclose(similarity_of_heads(different), np.eye(heads), atol=1e-12)


def test_two_pairs_of_like_heads_are_two_patterns() -> None:
    assert effective_patterns(np.kron(np.eye(2), np.ones((2, 2)))) == pytest.approx(2.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
def test_rollout_is_the_product_of_layers(layers: int, heads: int, size: int, seed: int) -> None:
    raw = np.random.default_rng(seed).random((layers, heads, size, size))
    weights = raw / raw.sum(-1, keepdims=True)
    expected = np.eye(size)
    for layer in weights:
        mixed = [
            [sum(layer[h, q, k] for h in range(heads)) / heads + (q == k) for k in range(size)]
            for q in range(size)
        ]
        expected = np.array([[k / sum(row) for k in row] for row in mixed]) @ expected
    got = rollout(list(weights))
    np.testing.assert_allclose(got, expected, atol=1e-12)
    np.testing.assert_allclose(got.sum(1), 1.0, atol=1e-12)


def net(*directions: Direction, attention: int = 0, stacked: int = 1) -> ModelAnatomy:
    return ModelAnatomy(
        (), (), Architecture.OTHER, (), "unknown",
        recurrent_layers=tuple(
            RecurrentLayer(str(n), "lstm", one, 4, 4, layers=stacked)
            for n, one in enumerate(directions)
        ),
        attention_sites=tuple(
            AttentionSite(str(n), n, "self", "Softmax") for n in range(attention)
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("anatomy", "source", "target", "steps"),
    [
        (net("forward"), 0, 0, 1),
        (net("forward"), 0, 9, 10),
        (net("forward", "forward"), 2, 9, 9),
        (net("forward", stacked=3), 0, 9, 12),
        (net("forward"), 9, 0, NO_PATH),
        (net("reverse"), 9, 0, 10),
        (net("reverse"), 0, 9, NO_PATH),
        (net("bidirectional"), 9, 0, 10),
        (net(attention=6), 0, 900, 6),
        (net(attention=6), 3, 3, 6),
        (net("forward", attention=1), 0, 900, 2),
        (net(), 0, 1, NO_PATH),
    ],
)
def test_steps_between_positions(
    anatomy: ModelAnatomy, source: int, target: int, steps: int
) -> None:
    assert sequential_steps(anatomy, source, target) == steps
