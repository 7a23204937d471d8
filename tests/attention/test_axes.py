"""Axes are told by changing one size at a time, whatever the order or the folding."""

from typing import Any

import numpy as np
import pytest
from tests.support.numpy_transformer import HEADS, LAYOUTS, NumpyTransformer

from seqlens.attention.axes import LENGTH, AxesUnknown, Observation, read_axes, unfold
from seqlens.attention.extents import fit_extent
from seqlens.attention.probes import SiteProbe
from seqlens.attention.site_axes import find_axes
from seqlens.attention.sites import ONE, Extent

FULL = Extent()


def found(model: NumpyTransformer) -> tuple[dict[str, Any], dict[str, str]]:
    probe = SiteProbe(model)
    return find_axes(probe)[1], probe.refused


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("causal", [False, True])
def test_every_layout_is_told(layout: str, causal: bool) -> None:
    axes, refused = found(NumpyTransformer(layout, causal=causal))
    assert refused == {}
    for name in ("layer0", "layer1"):
        assert axes[name].axes == LAYOUTS[layout][0]
        assert (axes[name].heads, axes[name].queries, axes[name].keys) == (HEADS, FULL, FULL)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unfolding_undoes_every_layout(layout: str) -> None:
    names, lay, _ = LAYOUTS[layout]
    weights = np.random.default_rng(0).random((3, HEADS, 5, 7))
    unfolded = unfold(lay(weights), names, 3)  # type: ignore[arg-type]
    np.testing.assert_array_equal(unfolded, weights)
    assert unfolded.dtype == np.float64
    half = unfold(lay(weights).astype(np.float16), names, 3)  # type: ignore[arg-type]
    assert half.dtype == np.float32


def test_a_gate_over_experts_is_refused_and_told_why() -> None:
    axes, refused = found(NumpyTransformer(extra="experts"))
    assert set(axes) == {"layer0", "layer1"}
    assert "size 3 that follows no length" in refused["experts"]


def test_pooling_has_one_query_and_one_head() -> None:
    pooling = found(NumpyTransformer(extra="pooling"))[0]["pooling"]
    assert pooling.axes == ("batch", "key")
    assert (pooling.heads, pooling.queries, pooling.keys) == (1, ONE, FULL)


def test_steps_of_a_loop_are_queries() -> None:
    steps = found(NumpyTransformer(extra="steps"))[0]["steps"]
    assert steps.axes == ("query", "batch", "key")
    assert (steps.heads, steps.queries, steps.keys) == (1, FULL, FULL)


def test_cross_attention_follows_two_lengths() -> None:
    cross = found(NumpyTransformer(extra="cross"))[0]["cross"]
    assert cross.axes == ("batch", "head", "query", "key")
    assert (cross.queries, cross.keys) == (FULL, Extent(input="source"))


@pytest.mark.parametrize("stride", [2, 3, 5, 40])
def test_models_that_leave_out_positions_are_measured(stride: int) -> None:
    sizes, sites = find_axes(SiteProbe(NumpyTransformer(stride=stride)))
    axes = sites["layer1"]
    for length in range(stride, 1_000):
        assert axes.keys.size(length) == length // stride
    assert axes.queries == axes.keys
    # The weights of a single key tell nothing of their use.
    assert axes.keys.size(sizes.base[LENGTH]) >= 3


@pytest.mark.parametrize(
    "frozen",
    [
        {"fixed_length": 6},
        {"fixed_batch": 1},
        {"fixed_batch": 3},
        {"max_length": 4},
        {"fixed_length": 6, "fixed_batch": 3},
        {"fixed_length": 4},
    ],
)
@pytest.mark.parametrize("layout", ["plain", "head_and_batch", "transposed"])
def test_frozen_sizes_do_not_hide_the_axes(frozen: dict[str, int], layout: str) -> None:
    model = NumpyTransformer(layout, **frozen)  # type: ignore[arg-type]
    axes, refused = found(model)
    assert refused == {}
    rows = frozen.get("fixed_batch", 2)
    length = frozen.get("fixed_length", 4)
    weights = np.random.default_rng(0).random((rows, HEADS, length, length))
    unfolded = unfold(LAYOUTS[layout][1](weights), axes["layer0"].axes, rows)
    np.testing.assert_array_equal(unfolded, weights)
    # What is shorter than the only length is padded, and its maps are cut to its own.
    assert (axes["layer0"].queries, axes["layer0"].keys) == (FULL, FULL)


def test_a_fixed_length_may_have_positions_of_the_models_own() -> None:
    weights = [np.full((rows, HEADS, 17, 17), 1 / 17) for rows in (2, 3)]
    seen = [Observation({"rows": len(one)}, one) for one in weights]
    with pytest.raises(AxesUnknown, match="not among all positions"):
        read_axes(seen, 2, frozen_length=3)
    axes = read_axes(seen, 2, frozen_length=3, own_positions=True)
    assert (axes.axes, axes.heads) == (("batch", "head", "query", "key"), HEADS)
    assert axes.queries == axes.keys == Extent(stride=0, offset=17)


def test_windows_that_are_rows_of_the_batch_are_no_heads() -> None:
    weights = [np.full((rows * 9, HEADS, 17, 17), 1 / 17) for rows in (2, 3)]
    seen = [Observation({"rows": rows}, one) for rows, one in zip((2, 3), weights, strict=True)]
    with pytest.raises(AxesUnknown, match="one by one"):
        read_axes(seen, 2, frozen_length=3, own_positions=True)


def test_where_no_length_can_change_a_gate_is_still_no_map() -> None:
    _, refused = found(NumpyTransformer(extra="experts", fixed_length=6))
    assert "follows no length" in refused["experts"]


def observed(*shapes: tuple[int, ...]) -> list[Observation]:
    sizes = [{"rows": 2, "": 5}, {"rows": 3, "": 5}, {"rows": 2, "": 7}]
    return [
        Observation(size, np.full(shape, 1 / shape[-1]))
        for size, shape in zip(sizes, shapes, strict=True)
    ]


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (((10, 5), (15, 5), (14, 7)), "batch and a length at once"),
        (((2, 5), (3, 5), (2, 1, 7)), "number of its axes changes"),
        (((2, 5, 5, 5), (3, 5, 5, 5), (2, 7, 7, 7)), "more than two"),
        (((2, 2, 5), (3, 3, 5), (2, 2, 7)), "more than one of its axes follows the batch"),
        (((3, 5), (4, 5), (3, 7)), "no multiple"),
    ],
)
def test_what_cannot_be_told_says_why(shapes: Any, reason: str) -> None:
    with pytest.raises(AxesUnknown, match=reason):
        read_axes(observed(*shapes), 2)


def test_an_axis_that_does_not_move_with_its_rows_is_no_batch() -> None:
    seen = observed((2, 5), (3, 5), (2, 7))
    seen[0].weights[0] = [1, 0, 0, 0, 0]
    with pytest.raises(AxesUnknown, match="do not move"):
        read_axes(seen, 2, rolled=seen[0].weights)


def test_learned_queries_are_queries() -> None:
    seen = observed((2, 4, 3, 5), (3, 4, 3, 5), (2, 4, 3, 7))
    axes = read_axes(seen, 2)
    assert axes.axes == ("batch", "head", "query", "key")
    assert (axes.heads, axes.queries) == (4, Extent(stride=0, offset=3))


def test_extents_are_the_simplest_that_fit() -> None:
    assert fit_extent({5: 5, 7: 7}, "") == Extent()
    assert fit_extent({5: 6, 7: 8}, "") == Extent(offset=1)
    assert fit_extent({n: (n + 1) // 2 for n in range(5, 12)}, "") == Extent(2, 1)
    assert fit_extent({5: 25, 7: 49, 9: 81}, "") is None
