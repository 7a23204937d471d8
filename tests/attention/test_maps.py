"""Maps are numpy slices of the whole, whatever shares a run, and their size is told exactly."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.numpy_transformer import HEADS, VOCABULARY, NumpyTransformer

from seqlens.attention import drawing_plan, map_sizes
from seqlens.attention.maps import (
    answered_sites,
    choose_sites,
    draw,
    fitting_selection,
    predicted_bytes,
    working_bytes,
)
from seqlens.attention.measures import measure_map, rollout
from seqlens.attention.proof import prove_sites
from seqlens.attention.runs import CallerLeft
from seqlens.attention.selection import AttentionSelection, SequenceMap, SiteMaps, Span
from seqlens.attention.sites import AttentionReport
from seqlens.errors import BackendFailed, InvalidRequest, NotInModel
from seqlens.graphs.anatomy import Architecture, ModelAnatomy, RecurrentLayer
from seqlens.sequences import Array, InputSequence

PLAIN = NumpyTransformer(causal=True)
REPORTS: dict[str, AttentionReport] = {}
ALL = AttentionSelection()
LONGEST = 9
DATATYPES = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}


def report_of(model: NumpyTransformer) -> AttentionReport:
    key = repr(replace(model, runs=[]))
    if key not in REPORTS:
        REPORTS[key] = prove_sites(model, model.run_plain, seconds=30)
    return REPORTS[key]


def sequence(length: int, seed: int = 0, source: int = 0) -> InputSequence:
    random = np.random.default_rng([length, seed])
    inputs = {"tokens": random.integers(0, VOCABULARY, length)}
    if source:
        inputs["source"] = random.integers(0, VOCABULARY, source)
    return InputSequence(inputs, length)


def drawn(
    model: NumpyTransformer,
    sequences: list[InputSequence],
    selection: AttentionSelection = ALL,
    **more: Any,
) -> dict[str, dict[int, SequenceMap]]:
    """Maps by site and sequence, however they came."""
    sites = choose_sites(report_of(model), selection)
    found: dict[str, dict[int, SequenceMap]] = {}
    for item in draw(model, sites, sequences, selection, **more):
        if isinstance(item, SiteMaps):
            maps = found.setdefault(item.site.name, {})
            assert not {one.sequence for one in item.maps} & set(maps)
            maps.update({one.sequence: one for one in item.maps})
    return found


def spans(size: int) -> st.SearchStrategy[Span]:
    """Spans that are not empty at any length from this one on."""
    edges = st.one_of(st.none(), st.integers(-size, size))
    return st.builds(Span, edges, edges).filter(
        lambda one: all(
            len(range(length)[slice(one.start, one.stop)]) > 0
            for length in range(size, LONGEST + 1)
        )
    )


@st.composite
def selections(draw_one: st.DrawFn, size: int) -> AttentionSelection:
    last = draw_one(st.booleans())
    return AttentionSelection(
        layers=tuple(draw_one(st.lists(st.integers(-2, 1), max_size=2))),
        heads=tuple(draw_one(st.lists(st.integers(0, HEADS - 1), max_size=3, unique=True))),
        queries=Span() if last else draw_one(spans(size)),
        keys=draw_one(spans(size)),
        last_query=last,
        top_k=draw_one(st.integers(0, size + 1)),
        reduce_heads=draw_one(st.sampled_from(["", "mean", "max"])),
        datatype=draw_one(st.sampled_from(["FP32", "FP16", "UINT8"])),
    )


def by_slicing(weights: Array, selection: AttentionSelection) -> tuple[Array, Array | None]:
    """The same cut, by plain numpy on one whole map."""
    part = weights[list(selection.heads)] if selection.heads else weights
    queries = (
        slice(-1, None)
        if selection.last_query
        else slice(selection.queries.start, selection.queries.stop)
    )
    keys = slice(selection.keys.start, selection.keys.stop)
    part, positions = part[:, queries, keys], np.arange(weights.shape[2])[keys]
    if selection.reduce_heads:
        part = getattr(part, selection.reduce_heads)(axis=0)[np.newaxis]
    if not selection.top_k:
        return part, None
    rows = part.reshape(-1, part.shape[2])
    orders = [sorted(range(len(row)), key=lambda k, row=row: (-row[k], k)) for row in rows]
    best = [order[: selection.top_k] for order in orders]
    shape = (*part.shape[:2], -1)
    largest = np.array([row[one] for row, one in zip(rows, best, strict=True)]).reshape(shape)
    return largest, np.array([positions[one] for one in best]).reshape(shape)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_selection_is_a_numpy_slice_of_the_whole(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(4, LONGEST), min_size=1, max_size=3))
    selection = data.draw(selections(min(lengths)))
    sequences = [sequence(length, seed) for seed, length in enumerate(lengths)]
    sites = choose_sites(report_of(PLAIN), selection)
    found = drawn(PLAIN, sequences, selection, together=data.draw(st.booleans()))
    assert list(found) == [site.name for site in sites]
    size = 0
    for site in sites:
        for number, one in enumerate(sequences):
            got = found[site.name][number]
            whole = PLAIN.weights(one.inputs["tokens"])[site.name].astype(np.float32)
            weights, positions = by_slicing(whole, selection)
            assert got.weights.dtype == DATATYPES[selection.datatype]
            scale, tolerance = (255, 0.51) if selection.datatype == "UINT8" else (1, 1e-3)
            tolerance = 1e-6 if selection.datatype == "FP32" else tolerance
            np.testing.assert_allclose(got.weights, weights * scale, atol=tolerance, rtol=0)
            if positions is None:
                assert got.key_positions is None
            else:
                assert got.key_positions is not None
                assert got.key_positions.dtype == np.int32
                taken = np.take_along_axis(
                    reduced(whole, selection), got.key_positions.astype(np.int64), axis=2
                )
                np.testing.assert_allclose(taken, weights, atol=1e-6, rtol=0)
            assert got.heads == (
                () if selection.reduce_heads else selection.heads or tuple(range(HEADS))
            )
            length = lengths[number]
            start = length - 1 if selection.last_query else (selection.queries.start or 0)
            assert got.query_start == start % length
            assert got.key_start == (selection.keys.start or 0) % length
            size += got.weights.nbytes
            size += 0 if got.key_positions is None else got.key_positions.nbytes
    assert predicted_bytes(sites, lengths, selection) == size


def test_maps_of_a_fixed_length_are_cut_to_what_is_no_padding() -> None:
    fixed = NumpyTransformer(causal=True, fixed_length=LONGEST)
    sequences = [sequence(length, seed) for seed, length in enumerate((4, LONGEST, 7))]
    for name, maps in drawn(fixed, sequences).items():
        for number, one in enumerate(sequences):
            expected = PLAIN.weights(one.inputs["tokens"])[name]
            np.testing.assert_allclose(maps[number].weights, expected, atol=1e-6, rtol=0)


def reduced(whole: Array, selection: AttentionSelection) -> Array:
    """All keys of the chosen heads and queries."""
    return by_slicing(whole, replace(selection, keys=Span(), top_k=0))[0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 12), min_size=1, max_size=6), st.sampled_from(["", "pooling"]))
def test_batched_is_alone(lengths: list[int], extra: str) -> None:
    model = NumpyTransformer("batch_and_head", extra=extra)
    sequences = [sequence(length, seed) for seed, length in enumerate(lengths)]
    alone, together = (drawn(model, sequences, together=one) for one in (False, True))
    for name, maps in alone.items():
        for number, one in maps.items():
            queries = 1 if name == "pooling" else lengths[number]
            heads = 1 if name == "pooling" else HEADS
            assert one.weights.shape == (heads, queries, lengths[number])
            np.testing.assert_allclose(together[name][number].weights, one.weights, atol=1e-6)


def test_near_lengths_share_runs_and_far_ones_do_not() -> None:
    model = NumpyTransformer()
    sites = report_of(model).sites
    sequences = [sequence(n) for n in (40, 8, 37, 9, 38)]
    runs = drawing_plan.plan_runs(model.anatomy, sites, sequences, together=True)
    assert runs == [(1, 3), (2, 4, 0)]
    alone = drawing_plan.plan_runs(model.anatomy, sites, sequences, together=False)
    assert alone == [(number,) for number in range(5)]


def test_where_padding_leaks_only_equal_lengths_share_runs() -> None:
    model = NumpyTransformer(masked=False)
    sites = report_of(model).sites
    sequences = [sequence(n, seed) for seed, n in enumerate((8, 9, 8, 9, 9))]
    assert drawing_plan.plan_runs(model.anatomy, sites, sequences, together=True) == [
        (0, 2), (1, 3, 4)
    ]  # fmt: skip
    for maps in drawn(model, sequences, together=True).values():
        assert [maps[n].weights.shape[1:] for n in range(5)] == [
            (one.length, one.length) for one in sequences
        ]


def test_only_the_sites_asked_for_are_looked_at() -> None:
    model = NumpyTransformer(extra="pooling")
    report_of(model)
    model.runs.clear()
    drawn(model, [sequence(5), sequence(6)], AttentionSelection(layers=(1,)))
    assert [look.sites for look in model.runs] == [("layer1",), ("layer1",)]


def test_what_is_large_comes_in_parts_of_the_same_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = NumpyTransformer(extra="pooling")
    sequences = [sequence(n) for n in (9, 10, 4, 5)]
    whole = drawn(model, sequences, together=True)
    sites = report_of(model).sites
    for module in (map_sizes, drawing_plan):
        monkeypatch.setattr(module, "HELD_BYTES", 3_000)
    items = list(draw(model, sites, sequences, ALL, with_outputs=True))
    *maps, outputs = items
    assert isinstance(outputs, list)
    order = [(one.site.name, [m.sequence for m in one.maps]) for one in maps]  # type: ignore[union-attr]
    assert order[:3] == [("layer0", [0]), ("layer1", [0]), ("pooling", [0])]
    assert len(order) > 6
    for one in maps:
        assert isinstance(one, SiteMaps)
        for part in one.maps:
            expected = whole[one.site.name][part.sequence].weights
            np.testing.assert_allclose(part.weights, expected, atol=1e-6)
    assert working_bytes(sites, [9, 10, 4, 5], ALL) <= 4 * 3_000


@pytest.mark.parametrize("together", [False, True])
def test_plain_outputs_come_last_and_in_order(together: bool) -> None:
    model = NumpyTransformer()
    sequences = [sequence(n) for n in (9, 4, 8)]
    sites = report_of(model).sites
    *_, outputs = draw(model, sites, sequences, ALL, with_outputs=True, together=together)
    assert isinstance(outputs, list)
    for one, got in zip(sequences, outputs, strict=True):
        plain = model.run_plain(
            {"tokens": one.inputs["tokens"][None], "lengths": np.array([one.length])}
        )
        np.testing.assert_allclose(got["logits"], plain["logits"][0], atol=1e-9)


@pytest.mark.parametrize("heads", [(), (1, 3)])
@pytest.mark.parametrize("cut", [{}, {"last_query": True}, {"top_k": 2}, {"keys": Span(-3)}])
def test_rollout_is_one_map_through_the_layers(heads: tuple[int, ...], cut: Any) -> None:
    model = NumpyTransformer(extra="pooling")
    selection = AttentionSelection(rollout=True, heads=heads, **cut)
    one = sequence(6)
    found = drawn(model, [one, sequence(7)], selection, with_measures=True)
    assert list(found) == ["rollout"]
    maps = model.weights(one.inputs["tokens"])
    chosen = [maps[name][list(heads)] if heads else maps[name] for name in ("layer0", "layer1")]
    whole = rollout(chosen)
    expected, _ = by_slicing(whole[np.newaxis], replace(selection, heads=()))
    got = found["rollout"][0]
    np.testing.assert_allclose(got.weights, expected, atol=1e-6)
    assert got.heads == ()
    sites = choose_sites(report_of(model), selection)
    size = sum(
        m.weights.nbytes + (0 if m.key_positions is None else m.key_positions.nbytes)
        for m in found["rollout"].values()
    )
    assert predicted_bytes(sites, [6, 7], selection) == size
    (site,) = answered_sites(sites, selection)
    assert (site.name, site.site.heads, site.proof.proved) == ("rollout", 1, True)


def test_measures_are_of_whole_rows_before_any_reduction() -> None:
    one = sequence(7)
    selection = AttentionSelection(
        heads=(2, 0), queries=Span(2, 6), keys=Span(1, 3), top_k=1, reduce_heads="max",
        datatype="UINT8",
    )  # fmt: skip
    got = drawn(PLAIN, [one], selection, share_positions=[-7, 0, 3])["layer1"][0].measures
    assert got is not None
    whole = PLAIN.weights(one.inputs["tokens"])["layer1"]
    expected = measure_map(whole[[2, 0], 2:6], 2, [0, 3])
    np.testing.assert_allclose(got.entropy, expected.entropy, atol=1e-6)
    np.testing.assert_allclose(got.mean_distance, expected.mean_distance, atol=1e-6)
    assert got.share is not None
    np.testing.assert_allclose(got.share, expected.share, atol=1e-6)
    np.testing.assert_array_equal(got.largest_positions, expected.largest_positions)
    np.testing.assert_allclose(got.similarity, expected.similarity, atol=1e-6)
    assert got.patterns == pytest.approx(expected.patterns, abs=1e-5)


def test_cross_attention_has_the_lengths_of_both_inputs() -> None:
    model = NumpyTransformer(extra="cross")
    sequences = [sequence(5, source=3), sequence(6, source=8), sequence(5, 1, source=3)]
    selection = AttentionSelection(sites=("cross",))
    for together in (False, True):
        found = drawn(model, sequences, selection, together=together)["cross"]
        for number, one in enumerate(sequences):
            expected = model.weights(one.inputs["tokens"], one.inputs["source"])["cross"]
            np.testing.assert_allclose(found[number].weights, expected, atol=1e-6)
    sites = choose_sites(report_of(model), selection)
    size = sum(one.weights.nbytes for one in found.values())
    assert predicted_bytes(sites, [5, 6, 5], selection, sequences) == size


@pytest.mark.parametrize("together", [False, True])
def test_maps_of_models_that_leave_out_positions_have_those_that_are_left(together: bool) -> None:
    model = NumpyTransformer(stride=2)
    sequences = [sequence(n) for n in (8, 9, 11, 2)]
    found = drawn(model, sequences, together=together)["layer1"]
    for number, one in enumerate(sequences):
        expected = model.weights(one.inputs["tokens"])["layer1"]
        np.testing.assert_allclose(found[number].weights, expected, atol=1e-6)
    sites = report_of(model).sites
    size = 2 * sum(one.weights.nbytes for one in found.values())
    assert predicted_bytes(sites, [8, 9, 11, 2], ALL) == size


@pytest.mark.parametrize(
    ("selection", "field", "expected"),
    [
        ({"layers": (2,)}, "selection.layers", "0 or 1, or -2 to -1"),
        ({"layers": (-3,)}, "selection.layers", "0 or 1"),
        ({"sites": ("layer9",)}, "selection.sites", "'layer0', 'layer1'"),
        ({"heads": (0, 4)}, "selection.heads", "0 to 3 in 'layer0'"),
        ({"heads": (-1,)}, "selection.heads", "0 to 3"),
        ({"top_k": -1}, "selection.top_k", "at least 0"),
        ({"reduce_heads": "median"}, "selection.reduce_heads", "'mean', 'max'"),
        ({"datatype": "INT8"}, "selection.datatype", "'FP32', 'FP16', 'UINT8'"),
        ({"rollout": True, "reduce_heads": "max"}, "selection.reduce_heads", "'', 'mean'"),
        ({"last_query": True, "queries": Span(0)}, "selection.last_query", "one of the two"),
    ],
)
def test_what_a_model_does_not_have_is_named(
    selection: dict[str, Any], field: str, expected: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        choose_sites(report_of(PLAIN), AttentionSelection(**selection))
    assert caught.value.field == field
    assert expected in caught.value.expected


@pytest.mark.parametrize(
    ("selection", "field"),
    [
        ({"queries": Span(9)}, "selection.query_start"),
        ({"queries": Span(0, 6)}, "selection.query_start"),
        ({"queries": Span(-6)}, "selection.query_start"),
        ({"queries": Span(None, 0)}, "selection.query_stop"),
        ({"keys": Span(3, -3)}, "selection.key_start"),
        ({"keys": Span(5)}, "selection.key_start"),
    ],
)
def test_spans_beyond_a_sequence_are_refused_before_any_work(selection: Any, field: str) -> None:
    chosen = AttentionSelection(**selection)
    sites = choose_sites(report_of(PLAIN), chosen)
    PLAIN.runs.clear()
    with pytest.raises(InvalidRequest, match=r"sequence [01]: ") as caught:
        draw(PLAIN, sites, [sequence(20), sequence(5)], chosen)
    assert caught.value.field == field
    assert "positions of 'layer0'" in caught.value.expected
    assert PLAIN.runs == []


@pytest.mark.parametrize("position", [5, -6])
def test_shares_of_positions_beyond_a_sequence_are_refused(position: int) -> None:
    sites = choose_sites(report_of(PLAIN), ALL)
    with pytest.raises(InvalidRequest, match="share_positions"):
        draw(PLAIN, sites, [sequence(5)], ALL, share_positions=[position])


def test_cross_attention_does_not_roll_out() -> None:
    report = report_of(NumpyTransformer(extra="cross"))
    asked = AttentionSelection(rollout=True, layers=(1, 2))
    with pytest.raises(InvalidRequest, match="self-attention only"):
        choose_sites(report, asked)
    rolled = choose_sites(report, AttentionSelection(rollout=True))
    assert [site.name for site in rolled] == ["layer0", "layer1"]


def test_sites_that_are_not_proved_are_drawn_only_by_name() -> None:
    model = NumpyTransformer(fault="fake")
    report = report_of(model)
    assert [site.name for site in choose_sites(report, ALL)] == ["layer0"]
    with pytest.raises(InvalidRequest, match="asked for by name"):
        choose_sites(report, AttentionSelection(layers=(1,)))
    found = drawn(model, [sequence(5)], AttentionSelection(sites=("layer1",)))
    assert found["layer1"][0].weights.shape == (HEADS, 5, 5)


def test_a_gate_over_experts_is_not_drawn_even_by_name() -> None:
    report = report_of(NumpyTransformer(extra="experts"))
    for asked in ({"sites": ("experts",)}, {"layers": (2,)}):
        with pytest.raises(InvalidRequest, match="follows no length"):
            choose_sites(report, AttentionSelection(**asked))  # type: ignore[arg-type]


def test_models_without_attention_are_told_what_they_have() -> None:
    lstm = ModelAnatomy(
        (), (), Architecture.LSTM, (), "O(n)",
        recurrent_layers=(RecurrentLayer("lstm", "lstm", "forward", 4, 4),),
    )  # fmt: skip
    with pytest.raises(NotInModel, match="influence of its inputs and the gates"):
        choose_sites(AttentionReport(), ALL, lstm)
    with pytest.raises(NotInModel, match="influence of its inputs instead"):
        choose_sites(AttentionReport(), ALL)


def test_models_whose_sites_all_fail_say_why() -> None:
    report = report_of(NumpyTransformer(fault="drifting"))
    with pytest.raises(NotInModel, match=r"moves the outputs.*by name.*'layer0', 'layer1'"):
        choose_sites(report, ALL)


def test_a_failing_model_fails_the_drawing() -> None:
    model = NumpyTransformer(max_length=16)
    sites = report_of(model).sites
    with pytest.raises(BackendFailed, match="too long"):
        list(draw(model, sites, [sequence(17)], ALL))


@pytest.mark.parametrize("limit", [4, 40, 150, 600, 2_000, 6_000, 20_000])
def test_advice_does_fit(limit: int) -> None:
    sites = report_of(PLAIN).sites
    asked: list[tuple[int, int, AttentionSelection]] = []

    def fits(fewer: Any, lengths: Any, selection: AttentionSelection) -> bool:
        size = predicted_bytes(fewer, lengths, selection)
        if size <= limit:
            asked.append((len(fewer), len(lengths), selection))
        return size <= limit

    advice = fitting_selection(sites, [40, 30], ALL, fits)
    if limit == 4:
        assert advice == "no part of these maps is small enough"
        return
    assert asked
    assert advice.startswith("ask for ")
    if limit == 20_000:
        assert "reduce_heads=mean" in advice
        assert "last_query" in advice
    if limit <= 40:
        assert "sequences of at most" in advice


@pytest.mark.parametrize("stays", [0, 1, 4])
def test_a_caller_that_leaves_stops_the_drawing(stays: int) -> None:
    asked = iter([False] * stays)
    with pytest.raises(CallerLeft):
        drawn(PLAIN, [sequence(5), sequence(7)], cancelled=lambda: next(asked, True))


def test_advice_is_given_once() -> None:
    sites = report_of(PLAIN).sites
    rollout = AttentionSelection(rollout=True)
    advice = fitting_selection(sites, [40, 30], rollout, lambda *_: True)
    assert advice == "ask for one sequence at a time, or last_query, or top_k=8"
