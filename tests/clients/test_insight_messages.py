"""Messages that look inside, put together by hand: what the client makes of them."""

import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import seqlens_client as sdk
from seqlens_client._insight_reading import AttentionReader, GateReader, read_influence
from seqlens_client._insight_requests import (
    Asked,
    attention_request,
    influence_request,
    read_asked,
)
from seqlens_wire.pb import sequences_pb2 as pb

TOKENS = ["the", "cat", "saw", "the", "dog"]
SITE = pb.AttentionSite(name="block.0", layer=0, kind="self", heads=3, proof={"proved": True})
DTYPES = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}


def asked(count: int | None = None) -> Asked:
    return read_asked(TOKENS[0] if count is None else TOKENS[:count])


def header(count: int = 1, length: int = 5) -> pb.ExtractAttentionResponse:
    inside = [pb.InsideSequence(length=length, tokens=TOKENS[:length]) for _ in range(count)]
    return pb.ExtractAttentionResponse(
        header=pb.AttentionHeader(model_version="7", sequences=inside, sites=[SITE])
    )


def piece(weights: Any, datatype: str = "FP32", **fields: Any) -> pb.AttentionMap:
    array = np.asarray(weights, DTYPES[datatype])
    heads = fields.pop("heads", range(array.shape[0]))
    _, queries, keys = array.shape
    return pb.AttentionMap(
        heads=heads,
        queries=queries,
        keys=keys,
        datatype=datatype,
        weights=array.tobytes(),
        **fields,
    )


def layer(*maps: pb.AttentionMap, site: pb.AttentionSite = SITE) -> pb.ExtractAttentionResponse:
    return pb.ExtractAttentionResponse(layer=pb.AttentionLayer(site=site, maps=maps))


def read(*messages: pb.ExtractAttentionResponse, count: int | None = None) -> Any:
    reader = AttentionReader(asked(count), return_errors=False)
    for message in messages:
        reader.take(message)
    return reader.finish()


def softmax(shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    powers = np.exp(np.random.default_rng(seed).normal(0, 2, shape))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)


def cuts(size: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """An axis of this size in pieces."""
    inner = st.sets(st.integers(1, size - 1)) if size > 1 else st.just(set())
    return inner.map(lambda places: list(pairwise([0, *sorted(places), size])))


@st.composite
def cut_maps(draw: st.DrawFn) -> tuple[Any, int, str, list[pb.AttentionMap]]:
    """Weights in a datatype, where its queries begin, and the pieces in any order."""
    shape = [draw(st.integers(1, most)) for most in (3, 5, 5)]
    start, datatype = draw(st.integers(0, 9)), draw(st.sampled_from(sorted(DTYPES)))
    weights = softmax((shape[0], shape[1], shape[2]), draw(st.integers(0, 99)))
    sent = (weights * 255).round() if datatype == "UINT8" else weights
    pieces = [
        piece(
            sent[h:i, q:r],
            datatype,
            heads=[head * 2 for head in range(h, i)],  # not all heads were asked for
            query_start=start + q,
            key_start=3,
        )
        for h, i in draw(cuts(shape[0]))
        for q, r in draw(cuts(shape[1]))
    ]
    return weights, start, datatype, draw(st.permutations(pieces))


@settings(max_examples=60, deadline=None)
@given(cut_maps(), st.booleans())
def test_pieces_become_one_map(
    cut: tuple[Any, int, str, list[pb.AttentionMap]], one_message: bool
) -> None:
    weights, start, datatype, pieces = cut
    messages = [layer(*pieces)] if one_message else [layer(each) for each in pieces]
    (found,) = read(header(), *messages)
    assert sorted(found.heads) == [head * 2 for head in range(len(weights))]
    assert (found.query_start, found.key_start) == (start, 3)
    assert found.weights.dtype == np.float32
    here = np.stack([found.head(head * 2) for head in range(len(weights))])
    atol = {"FP32": 0, "FP16": 5e-4, "UINT8": 0.5 / 255 + 1e-6}[datatype]
    np.testing.assert_allclose(here, weights, rtol=0, atol=atol)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.data())
def test_the_largest_weights_are_spread_out(
    heads: int, queries: int, top_k: int, seed: int, data: st.DataObject
) -> None:
    keys = data.draw(st.integers(top_k, 8))
    weights = softmax((heads, queries, keys), seed)
    order = np.argsort(-weights, axis=-1)[..., :top_k]
    pieces = [
        piece(
            np.take_along_axis(weights, order, -1)[:, q:r],
            query_start=q,
            key_start=2,
            key_positions=(order[:, q:r] + 2).astype("<i4").tobytes(),
        )
        for q, r in data.draw(cuts(queries))
    ]
    found = read(header(length=5), layer(*pieces))
    np.testing.assert_array_equal(found.key_positions[0], order + 2)
    (dense,) = found.to_dense()
    expected = np.zeros_like(weights)
    np.put_along_axis(expected, order, np.take_along_axis(weights, order, -1), -1)
    shown = dense.weights[..., :keys]
    np.testing.assert_array_equal(shown, expected[..., : shown.shape[-1]])
    assert dense.weights.sum() == pytest.approx(expected.sum(), rel=1e-6)
    assert dense.weights.shape[-1] >= 5 - 2  # the sequence's own keys, from the third on
    assert found.to_bertviz()[0].shape == (1, *dense.weights.shape)


def test_maps_of_one_shape_are_one_array_and_others_are_found_by_layer_and_site() -> None:
    other = pb.AttentionSite(name="block.1", layer=1, kind="self")
    first, second = softmax((3, 5, 5)), softmax((2, 5, 5))
    found = read(header(), layer(piece(first)), layer(piece(first), site=other))
    assert found.weights.shape == (2, 3, 5, 5)
    assert found.key_positions is None
    assert [site.name for site in found.sites] == ["block.0", "block.1"]
    assert found.sites[0].proof is not None
    assert found.sites[0].proof.proved
    ragged = read(header(), layer(piece(first)), layer(piece(second), site=other))
    with pytest.raises(ValueError, match=r"\[2, 5, 5\] and \[3, 5, 5\]: use layer"):
        _ = ragged.weights
    np.testing.assert_array_equal(ragged.layer(1).weights, second)
    np.testing.assert_array_equal(ragged.layer(-2).weights, first)
    np.testing.assert_array_equal(ragged.site("block.1").weights, second)
    assert [each.shape for each in ragged.to_bertviz()] == [(1, 3, 5, 5), (1, 2, 5, 5)]
    for ask in (lambda: ragged.layer(2), lambda: ragged.site("block.2")):
        with pytest.raises(ValueError, match="expected one of"):
            ask()


def test_sequences_of_a_list_have_maps_of_their_own_lengths() -> None:
    shapes = [(3, 5, 5), (3, 2, 2)]
    maps = [piece(softmax(shape), sequence=index) for index, shape in enumerate(shapes)]
    first, second = read(header(2), layer(maps[0]), layer(maps[1]), count=2)
    assert first.weights.shape == (1, 3, 5, 5)
    assert second.weights.shape == (1, 3, 2, 2)
    assert second.model_version == "7"


def test_a_site_is_given_when_the_next_one_begins() -> None:
    other = pb.AttentionSite(name="block.1", layer=1)
    reader = AttentionReader(asked(), return_errors=False, keep_maps=False)
    weights = softmax((3, 5, 5))
    assert reader.take(header()) == []
    assert reader.take(layer(piece(weights[:1]))) == []
    assert reader.take(layer(piece(weights[1:], heads=[1, 2]))) == []
    (whole,) = reader.take(layer(piece(weights), site=other))
    np.testing.assert_array_equal(whole.weights, weights)
    assert [each.site.name for each in reader.rest()] == ["block.1"]


def test_what_a_token_looks_at() -> None:
    weights = np.zeros((2, 5, 5), np.float32)
    weights[0, 3] = [0.5, 0.25, 0.125, 0.125, 0]
    weights[1, 3] = [0, 0, 0, 0, 1]
    found = read(header(), layer(piece(weights)))
    assert found.look("the", head=0)[:2] == [("the", 0.5), ("cat", 0.25)]  # the last "the"
    assert found.look(-2, layer=0) == found.look(3)
    assert found.look(3)[0] == ("dog", 0.5)
    with pytest.raises(ValueError, match="expected one of: the cat saw the dog"):
        found.look("fish")
    with pytest.raises(ValueError, match="head: got 2, expected one of 0, 1"):
        found.look(3, head=2)
    with pytest.raises(ValueError, match="one of positions 0 to 4"):
        found.look(5)


def test_heads_that_were_reduced_have_no_numbers() -> None:
    weights = softmax((1, 5, 5))
    found = read(header(), layer(piece(weights, heads=[]))).layer(0)
    assert found.heads == ()
    np.testing.assert_array_equal(found.head(), weights[0])
    with pytest.raises(ValueError, match="none: they were reduced to one"):
        found.head(0)


def test_measures_describe_the_whole_map() -> None:
    measures = pb.AttentionMeasures(
        entropy=[0.5, 0.25],
        mean_distance=[1, 2],
        largest_positions=range(10),
        similarity=[1, 0.5, 0.5, 1],
        patterns=1.5,
    )
    weights = softmax((2, 5, 5))
    pieces = (piece(weights[:1], measures=measures), piece(weights[1:], heads=[1]))
    (told,) = read(header(), layer(*pieces)).measures
    assert told.entropy.tolist() == [0.5, 0.25]
    assert told.largest_positions.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert told.similarity.tolist() == [[1, 0.5], [0.5, 1]]
    assert told.share is None
    assert told.patterns == 1.5
    measures.similarity.append(0)
    with pytest.raises(sdk.ServerError, match="measures of 2 heads"):
        read(header(), layer(piece(weights, measures=measures)))


WEIGHTS = softmax((2, 3, 3))


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "ends before it has begun"),
        ([layer(piece(WEIGHTS))], "layer is not what comes next"),
        ([header(), header()], "header is not what comes next"),
        ([header(2)], "tells of 2 sequences, not of 1"),
        ([header(), layer(piece(WEIGHTS, sequence=1))], "sequence 1, which nobody gave"),
        ([header(), layer(piece(WEIGHTS), piece(WEIGHTS))], "do not fill it"),
        (
            [header(), layer(piece(WEIGHTS[:1]), piece(WEIGHTS[:1, 2:], query_start=2))],
            "do not fill it",
        ),
        (
            [header(), layer(piece(WEIGHTS[:1]), *[piece(WEIGHTS[1:, :1], heads=[1])] * 3)],
            "do not fill it|lie over each other",
        ),
        (
            [
                header(),
                layer(
                    piece(WEIGHTS[:, :1]),
                    piece(WEIGHTS[:, :1]),
                    piece(WEIGHTS[:, 2:], query_start=2),
                ),
            ],
            "lie over each other",
        ),
        ([header(), layer(piece(WEIGHTS, key_positions=b"\0" * 8))], "key_positions"),
    ],
)
def test_answers_that_do_not_agree_with_themselves_are_errors(
    messages: list[pb.ExtractAttentionResponse], said: str
) -> None:
    with pytest.raises(sdk.ServerError, match=said):
        read(*messages)


def test_short_weights_are_an_error() -> None:
    short = piece(WEIGHTS)
    short.weights = short.weights[:-1]
    with pytest.raises(sdk.ServerError, match="weights"):
        read(header(), layer(short))


def influence_response() -> pb.MeasureInfluenceResponse:
    values = np.array([[4, 0.5, 0], [1, 3, 0.5]], "<f4")
    shares = np.array([[1, 0, 0], [0.25, 0.75, 0]], "<f4")
    response = pb.MeasureInfluenceResponse(
        sequences=[pb.InsideSequence(length=5, tokens=TOKENS)], model_version="7", model_runs=9
    )
    response.target.class_index = 0
    response.maps.add(
        measure="occlusion",
        method="replacement",
        output_positions=[3, 4],
        input_positions=[0, 2, 4],
        values=values.tobytes(),
        shares=shares.tobytes(),
        floors=np.array([0.5, 0.75], "<f4").tobytes(),
    )
    response.by_distance.add(measure="occlusion", distances=[-1, 0], mean_value=[1.5, np.nan])
    return response


def test_influence_is_read() -> None:
    found = read_influence(influence_response(), asked(), return_errors=False)
    assert found.shares.tolist() == [[1, 0, 0], [0.25, 0.75, 0]]
    assert found.below_floor.tolist() == [[False, True, True], [False, False, True]]
    assert found.map("occlusion").look() == [("saw", 0.75), ("the", 0.25), ("dog", 0.0)]
    assert found.target == sdk.InfluenceTarget(class_index=0)
    assert (found.model_runs, found.tokens) == (9, tuple(TOKENS))
    assert found.by_distance[0].distances.tolist() == [-1, 0]
    assert np.isnan(found.by_distance[0].mean_value[1])
    with pytest.raises(ValueError, match="occlusion of sequence 0"):
        found.map("jacobian")


def test_values_without_a_floor_are_all_known() -> None:
    response = influence_response()
    response.maps[0].floors = np.zeros(2, "<f4").tobytes()
    found = read_influence(response, asked(), return_errors=False)
    assert not found.below_floor.any()


def test_one_of_several_influence_maps_is_found_by_measure_and_sequence() -> None:
    response = influence_response()
    response.maps.append(response.maps[0])
    response.maps[1].measure = "jacobian"
    found = read_influence(response, asked(), return_errors=False)
    assert found.map("jacobian").measure == "jacobian"
    with pytest.raises(ValueError, match="not one map but 2"):
        _ = found.values


def test_the_error_of_a_sequence_is_raised_or_told() -> None:
    response = influence_response()
    response.sequences.add().error.code = "INVALID_ARGUMENT"
    with pytest.raises(sdk.InvalidInput) as caught:
        read_influence(response, asked(2), return_errors=False)
    assert caught.value.index == 1
    found = read_influence(response, asked(2), return_errors=True)
    assert isinstance(found.sequences[1].error, sdk.InvalidInput)


def gate_layer(sequence: int, number: int = 0, full: bool = True) -> pb.ReadGatesResponse:
    response = pb.ReadGatesResponse()
    response.layer.layer, response.layer.units, response.layer.cell = number, 2, "lstm"
    response.layer.direction = "forward"
    response.layer.gates.add(
        sequence=sequence,
        gate="forget",
        mean=np.arange(3, dtype="<f4").tobytes(),
        quantiles=np.arange(6, dtype="<f4").tobytes(),
        values=np.arange(6, dtype="<f4").tobytes() if full else b"",
    )
    return response


def read_gates() -> sdk.Gates:
    reader = GateReader(asked(2), return_errors=False)
    inside = [pb.InsideSequence(length=3, tokens=TOKENS[:3])] * 2
    head = pb.GateHeader(sequences=inside, quantiles=[0.1, 0.9])
    for message in (
        pb.ReadGatesResponse(header=head),
        gate_layer(0),
        gate_layer(1, full=False),
        gate_layer(0, number=1),
    ):
        reader.take(message)
    return reader.finish()


def test_gates_are_read_and_parts_of_a_layer_joined() -> None:
    gates = read_gates()
    assert [each.layer for each in gates.layers] == [0, 1]
    first, second = gates.layer(0).gate("forget"), gates.layer(0).gate("forget", sequence=1)
    assert first.quantiles.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert first.values is not None
    assert first.values.shape == (3, 2)
    assert second.values is None
    assert gates.layer(-1).layer == 1
    assert gates.tokens == tuple(TOKENS[:3])
    for ask in (lambda: gates.layer(2), lambda: gates.layer(0).gate("update")):
        with pytest.raises(ValueError, match="expected one of"):
            ask()


# --- requests


@pytest.mark.parametrize(
    ("positions", "start", "stop"),
    [
        (slice(1, 3), 1, 3),
        (slice(-2, None), -2, None),
        (range(2, 5), 2, 5),
        ((None, 4), None, 4),
        (3, 3, 4),
        (-1, -1, None),
        (-2, -2, -1),
    ],
)
def test_positions_are_a_span(positions: Any, start: int | None, stop: int | None) -> None:
    selection = attention_request("m", asked(), queries=positions).selection
    assert (selection.query_start if selection.HasField("query_start") else None) == start
    assert (selection.query_stop if selection.HasField("query_stop") else None) == stop
    assert not selection.HasField("key_start")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"queries": slice(0, 8, 2)}, "queries: got slice"),
        ({"keys": (1, 2, 3)}, "keys: got"),
        ({"keys": 1.5}, "keys: got 1.5"),
        ({"sites": "block.0"}, r"a list of names: \['block.0'\]"),
        ({"layers": []}, "layers: got an empty list"),
        ({"dtype": "int8"}, "float32, float16 or uint8"),
        ({"top_k": -1}, "top_k"),
        ({"layers": [1.5]}, r"layers: got \[1.5\]"),
        ({"heads": [2**40]}, "heads: got"),
        ({"share_positions": [1]}, "measures=True"),
    ],
)
def test_what_cannot_be_selected_is_refused_before_anything_is_sent(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(sdk.InvalidInput, match=said):
        attention_request("m", asked(), **options)


def test_targets_have_short_forms() -> None:
    def sent(target: Any) -> pb.InfluenceTarget:
        rest: dict[str, Any] = dict.fromkeys(
            ["output_positions", "input_positions", "replacements", "replacement_tokens"]
        )
        options = {"measures": ["jacobian"], "directions": 2, "exact": False, "by_distance": True}
        return influence_request("m", "", asked(), target=target, **rest, **options).target

    assert sent("hidden") == pb.InfluenceTarget(output="hidden")
    assert sent(0) == pb.InfluenceTarget(class_index=0)
    whole = sdk.InfluenceTarget("logits", predicted_class=True)
    assert sent(whole) == pb.InfluenceTarget(output="logits", predicted_class=True)
    assert sent(None) == pb.InfluenceTarget()


def test_sequences_of_a_call_are_of_one_kind() -> None:
    with pytest.raises(sdk.InvalidInput, match=r"sequence 1: .*another kind"):
        read_asked(["a text", [1, 2]])
    with pytest.raises(sdk.InvalidInput, match="at least one"):
        read_asked([])


def test_plotting_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = read(header(), layer(piece(softmax((3, 5, 5)))))
    with pytest.raises(ImportError, match=r"pip install 'seqlens\[plot\]'"):
        found.plot()


def labels(ticks: Any) -> list[str]:
    return [text.get_text() for text in ticks]


def test_pictures_show_the_numbers_and_the_tokens_texts() -> None:
    axes = Figure().subplots(4)
    weights = softmax((3, 5, 5))
    shown = read(header(), layer(piece(weights))).plot(layer=0, head=1, ax=axes[0])
    np.testing.assert_array_equal(shown.images[0].get_array(), weights[1])
    assert labels(shown.get_xticklabels()) == labels(shown.get_yticklabels()) == TOKENS
    assert "head 1" in shown.get_title()

    (many,) = read_influence(influence_response(), asked(), return_errors=False).maps
    pixels = many.plot(axes[1]).images[0].get_array()
    assert np.ma.getmaskarray(pixels).tolist() == many.below_floor.tolist()
    one = replace(many, values=many.values[1:], shares=many.shares[1:], floors=many.floors[1:])
    heights = [bar.get_height() for bar in one.plot(axes[2]).patches]
    np.testing.assert_allclose(heights, [0.25, 0.75, np.nan])

    drawn = read_gates().layer(0).plot(ax=axes[3])
    np.testing.assert_array_equal(drawn.lines[0].get_ydata(), [0, 1, 2])
    assert labels(drawn.get_xticklabels()) == TOKENS[:3]
