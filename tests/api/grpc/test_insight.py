"""Attention maps, influence and gates over a real socket, against eager PyTorch."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tests.support.attention import eager_maps, joined, ragged, weights_of

from seqlens_wire.pb import sequences_pb2 as pb
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub
from seqlens_wire.ragged import unpack
from seqlens_zoo.antecedent import KITTEN_SENTENCE, VOCABULARY, encode
from seqlens_zoo.weights import reference

FORMATS = ("transformer-onnx", "transformer-torchscript")
LENGTHS = (9, 1, 30, 9)


@pytest.fixture(scope="module")
def sequences() -> list[list[int]]:
    random = np.random.default_rng(7)
    return [random.integers(2, len(VOCABULARY), length).tolist() for length in LENGTHS]


@pytest.fixture
def stub(target: str) -> Iterator[SequenceServiceStub]:
    with grpc.insecure_channel(target) as channel:
        yield SequenceServiceStub(channel)


def attention(
    stub: SequenceServiceStub, model: str, sequences: list[list[int]], **request: Any
) -> list[pb.ExtractAttentionResponse]:
    selection = pb.AttentionSelection(**request.pop("selection", {}))
    message = pb.ExtractAttentionRequest(
        model_name=model, sequences=ragged(sequences), selection=selection, **request
    )
    return list(stub.ExtractAttention(message))


@pytest.mark.parametrize("model", FORMATS)
def test_maps_are_those_of_eager_pytorch_for_sequences_of_any_lengths(
    stub: SequenceServiceStub, sequences: list[list[int]], model: str
) -> None:
    answers = attention(stub, model, sequences, id="mine")
    header = answers[0].header
    assert (header.model_name, header.model_version, header.id) == (model, "1", "mine")
    assert [one.length for one in header.sequences] == list(LENGTHS)
    assert all(one.tappable and one.proof.proved for one in header.sites)
    assert all(one.proof.HasField("padded_error") for one in header.sites)
    maps = joined(answers[1:])
    assert len(maps) == 2 * len(sequences)
    assert header.predicted_bytes == sum(one.nbytes for one in maps.values())
    for number, sequence in enumerate(sequences):
        for site, expected in zip(header.sites, eager_maps(sequence), strict=True):
            np.testing.assert_allclose(maps[site.name, number], expected, atol=1e-5)


@pytest.mark.parametrize("model", FORMATS)
def test_plain_outputs_come_last_and_are_those_of_a_plain_call(
    stub: SequenceServiceStub, sequences: list[list[int]], model: str
) -> None:
    last = attention(stub, model, sequences, with_outputs=True)[-1].answers
    assert [one.length for one in last.results] == list(LENGTHS)
    np.testing.assert_allclose(
        np.stack(unpack(last.outputs[0])), reference("transformer", sequences), atol=1e-4
    )


def test_a_selection_is_a_part_of_the_whole_map(
    stub: SequenceServiceStub, sequences: list[list[int]]
) -> None:
    selection = {"layers": [-1], "heads": [5, 2], "key_start": 3, "last_query": True}
    answers = attention(stub, FORMATS[0], sequences[2:3], selection=selection)
    (one,) = answers[1].layer.maps
    assert (list(one.heads), one.query_start, one.key_start) == ([5, 2], 29, 3)
    expected = eager_maps(sequences[2])[1][[5, 2], -1:, 3:]
    np.testing.assert_allclose(weights_of(one), expected, atol=1e-5)


def test_measures_and_the_share_on_given_positions_come_with_the_maps(
    stub: SequenceServiceStub, sequences: list[list[int]]
) -> None:
    answers = attention(
        stub, FORMATS[0], sequences[:1], with_measures=True, share_positions=[0, -1]
    )
    expected = eager_maps(sequences[0])
    for layer, weights in zip(answers[1:], expected, strict=True):
        measures = layer.layer.maps[0].measures
        share = weights[:, :, [0, -1]].sum(-1).mean(-1)
        np.testing.assert_allclose(measures.share, share, atol=1e-5)
        assert list(measures.largest_positions) == weights.argmax(-1).ravel().tolist()


def test_texts_and_ids_both_get_the_texts_of_their_tokens(stub: SequenceServiceStub) -> None:
    texts = pb.Sequences(texts=[KITTEN_SENTENCE])
    request = pb.ExtractAttentionRequest(model_name=FORMATS[0], sequences=texts)
    (of_text,) = next(iter(stub.ExtractAttention(request))).header.sequences
    (of_ids,) = attention(stub, FORMATS[0], [encode(KITTEN_SENTENCE)])[0].header.sequences
    assert "kitten" in of_text.tokens
    assert list(of_text.tokens) == list(of_ids.tokens)
    assert len(of_text.tokens) == of_text.length


def test_a_bad_sequence_costs_the_good_ones_nothing(
    stub: SequenceServiceStub, sequences: list[list[int]]
) -> None:
    mixed = [[10_000], sequences[0], []]
    answers = attention(stub, FORMATS[0], mixed, with_outputs=True)
    told = answers[0].header.sequences
    assert [one.error.code for one in told] == ["INVALID_ARGUMENT", "", "INVALID_ARGUMENT"]
    assert "token id" in told[0].error.expected
    maps = joined(answers[1:-1])
    assert {number for _, number in maps} == {1}
    expected = eager_maps(sequences[0])
    np.testing.assert_allclose(np.stack(list(maps.values())), expected, atol=1e-5)
    results = answers[-1].answers.results
    assert [one.error.code for one in results] == ["INVALID_ARGUMENT", "", "INVALID_ARGUMENT"]


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("selection.key_stop", {"selection": {"key_stop": 3}}),
        ("selection.query_start", {"selection": {"query_start": -3}}),
        ("share_positions", {"share_positions": [2]}),
    ],
)
def test_positions_that_one_sequence_does_not_have_cost_the_others_nothing(
    stub: SequenceServiceStub, field: str, request_: dict[str, Any]
) -> None:
    mixed = attention(stub, FORMATS[0], [[3], [3, 4, 5], [6]], with_outputs=True, **request_)
    alone = attention(stub, FORMATS[0], [[3, 4, 5]], **request_)
    told = mixed[0].header.sequences
    assert [one.error.field for one in told] == [field, "", field]
    assert [one.length for one in told] == [0, 3, 0]
    results = mixed[-1].answers.results
    assert [one.error.field for one in results] == [field, "", field]
    expected = joined(alone[1:])
    drawn = joined(mixed[1:-1])
    assert set(drawn) == {(site, 1) for site, _ in expected}
    for (site, _), weights in expected.items():
        np.testing.assert_array_equal(drawn[site, 1], weights)


@pytest.mark.parametrize("field", ["input_positions", "output_positions"])
def test_influence_of_positions_that_one_sequence_does_not_have(
    stub: SequenceServiceStub, field: str
) -> None:
    request = pb.MeasureInfluenceRequest(
        model_name=FORMATS[1],
        sequences=ragged([[3], [10_000], [3, 4, 5]]),
        target={"output": "hidden"},
        measures=["jacobian"],
        exact=True,
        **{field: [2]},
    )
    answer = stub.MeasureInfluence(request)
    assert [one.error.field for one in answer.sequences] == [field, "inputs.tokens[0]", ""]
    assert [one.sequence for one in answer.maps] == [2]


def test_the_same_named_a_million_times_is_one(stub: SequenceServiceStub) -> None:
    started = time.monotonic()
    many: dict[str, Any] = {
        "selection": {"layers": [1] * 1_000_000, "heads": [2] * 1_000_000},
        "share_positions": [0] * 1_000_000,
    }
    (_, layer) = attention(stub, FORMATS[0], [[3, 4]], **many)
    assert list(layer.layer.maps[0].heads) == [2]
    request = pb.MeasureInfluenceRequest(
        model_name=FORMATS[0], sequences=ragged([[3, 4]]), input_positions=[1] * 1_000_000
    )
    assert list(stub.MeasureInfluence(request).maps[0].input_positions) == [1]
    assert time.monotonic() - started < 5


def test_nothing_but_bad_sequences_is_no_failure_of_the_call(stub: SequenceServiceStub) -> None:
    (only,) = attention(stub, FORMATS[0], [[10_000]])
    assert only.header.sequences[0].error.code == "INVALID_ARGUMENT"
    sequences = ragged([[10_000]])
    influence = stub.MeasureInfluence(
        pb.MeasureInfluenceRequest(model_name="lstm-onnx", sequences=sequences)
    )
    assert influence.sequences[0].error.field.startswith("inputs.tokens")
    assert not influence.maps
    request = pb.ReadGatesRequest(model_name="lstm-onnx", sequences=sequences)
    (gates,) = stub.ReadGates(request)
    assert gates.header.sequences[0].error.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("model", "request_", "code", "words"),
    [
        ("nope", {}, "NOT_FOUND", "nope"),
        ("transformer-onnx", {"selection": {"layers": [2]}}, "INVALID_ARGUMENT", "0 or 1"),
        ("transformer-onnx", {"selection": {"heads": [8]}}, "INVALID_ARGUMENT", "selection.heads"),
        ("transformer-onnx", {"selection": {"sites": ["x"]}}, "INVALID_ARGUMENT", "attention"),
        ("transformer-onnx", {"selection": {"datatype": "INT8"}}, "INVALID_ARGUMENT", "'UINT8'"),
        ("transformer-onnx", {"selection": {"reduce_heads": "x"}}, "INVALID_ARGUMENT", "'mean'"),
        ("lstm-onnx", {}, "FAILED_PRECONDITION", "influence"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_what_can(
    stub: SequenceServiceStub, model: str, request_: dict[str, Any], code: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        attention(stub, model, [[5, 6, 7]], **request_)
    assert caught.value.code().name == code
    assert words in caught.value.details()


def test_too_much_is_refused_before_any_work_with_what_would_fit(
    stub: SequenceServiceStub,
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        attention(stub, FORMATS[0], [[5] * 1_024] * 40)
    details = caught.value.details()
    size = 40 * 2 * 8 * 1_024**2 * 4
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{size} bytes" in details
    assert "insight.max_bytes" in details
    assert "one sequence at a time" in details


def test_influence_longer_than_is_begun_is_refused_with_what_would_fit(
    stub: SequenceServiceStub,
) -> None:
    request = pb.MeasureInfluenceRequest(
        model_name="transformer-onnx",
        sequences=ragged([[5] * 2_000] * 8),
        measures=["jacobian"],
        directions=64,
    )
    with pytest.raises(grpc.RpcError) as caught:
        stub.MeasureInfluence(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "insight.max_seconds" in caught.value.details()


def test_influence_comes_as_values_shares_and_floors(stub: SequenceServiceStub) -> None:
    request = pb.MeasureInfluenceRequest(
        model_name="lstm-onnx", id="i", sequences=ragged([[10_000], [5, 6, 7, 8]]),
        measures=["occlusion", "jacobian"], target=pb.InfluenceTarget(class_index=3),
        by_distance=True,
    )  # fmt: skip
    answer = stub.MeasureInfluence(request)
    assert (answer.model_name, answer.id, answer.target.class_index) == ("lstm-onnx", "i", 3)
    assert [one.error.code for one in answer.sequences] == ["INVALID_ARGUMENT", ""]
    assert [(one.sequence, one.measure) for one in answer.maps] == [
        (1, "occlusion"),
        (1, "jacobian"),
    ]
    for one in answer.maps:
        shares = np.frombuffer(one.shares, np.float32)
        assert list(one.input_positions) == [0, 1, 2, 3]
        assert shares.sum() == pytest.approx(1, abs=1e-5)
        assert len(one.values) == len(one.shares) == 4 * 4
    assert answer.model_runs > 0
    assert [one.measure for one in answer.by_distance] == ["occlusion", "jacobian"]


def test_gates_come_layer_by_layer(stub: SequenceServiceStub) -> None:
    request = pb.ReadGatesRequest(
        model_name="lstm-onnx", sequences=ragged([[10_000], [5, 6, 7]]), quantiles=[0.5], full=True
    )
    header, *layers = stub.ReadGates(request)
    assert [one.error.code for one in header.header.sequences] == ["INVALID_ARGUMENT", ""]
    assert list(header.header.quantiles) == [0.5]
    for layer in layers:
        assert layer.layer.cell == "lstm"
        assert layer.layer.recomputed_error < 1e-5
        for gate in layer.layer.gates:
            values = np.frombuffer(gate.values, np.float32).reshape(3, layer.layer.units)
            np.testing.assert_allclose(
                np.frombuffer(gate.mean, np.float32), values.mean(1), atol=1e-6
            )
            assert gate.sequence == 1


def test_models_without_gates_say_what_they_have(stub: SequenceServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ReadGates(pb.ReadGatesRequest(model_name=FORMATS[0], sequences=ragged([[5]]))))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "attention maps" in caught.value.details()


def test_the_sites_are_described_with_their_proof(stub: SequenceServiceStub) -> None:
    answer = stub.DescribeModel(pb.DescribeModelRequest(model_name=FORMATS[0]))
    assert [site.layer for site in answer.attention_sites] == [0, 1]
    for site in answer.attention_sites:
        assert site.tappable
        assert site.proof.proved
        assert list(site.proof.axes) == ["batch", "head", "query", "key"]
        assert site.proof.row_sum_error < 2e-6
        assert site.proof.uniform_movement > 1e-3


@pytest.mark.parametrize("model", FORMATS)
def test_plain_and_tapped_requests_at_once_are_all_right(
    stub: SequenceServiceStub, sequences: list[list[int]], model: str
) -> None:
    expected = reference("transformer", sequences)
    maps = [eager_maps(sequence) for sequence in sequences]
    wrong: list[BaseException] = []

    def plain() -> None:
        for _ in range(15):
            request = pb.ProcessBatchRequest(model_name=model, sequences=ragged(sequences))
            answers = stub.ProcessBatch(request).answers
            np.testing.assert_allclose(np.stack(unpack(answers.outputs[0])), expected, atol=1e-4)

    def tapped() -> None:
        for number in range(5):
            which = number % len(sequences)
            answers = attention(stub, model, [sequences[which]])
            drawn = np.stack(list(joined(answers[1:]).values()))
            np.testing.assert_allclose(drawn, maps[which], atol=1e-5)

    def noting(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=noting, args=(work,)) for work in [plain, tapped] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


async def test_a_caller_that_leaves_mid_stream_frees_its_place(target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        stub = SequenceServiceStub(channel)
        request = pb.ExtractAttentionRequest(
            model_name=FORMATS[0], sequences=ragged([[5] * 400] * 6)
        )
        for _ in range(3):
            call = stub.ExtractAttention(request)
            assert (await call.read()).header.sequences
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call.read()
        small = pb.ExtractAttentionRequest(model_name=FORMATS[0], sequences=ragged([[5]]))
        async with asyncio.timeout(10):
            assert [one async for one in stub.ExtractAttention(small)]
