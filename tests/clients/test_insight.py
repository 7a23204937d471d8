"""Looking inside the example models with both clients, over real sockets."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from tests.clients.conftest import Face, eventually

import seqlens_client as sdk
from seqlens_wire.pb import sequences_pb2 as pb
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub
from seqlens_zoo.antecedent import KITTEN_SENTENCE

KITTEN = KITTEN_SENTENCE.lower().split()
FORMATS = ["onnx", "torchscript"]
ARCHITECTURES = ["rnn", "lstm", "transformer"]


@pytest.fixture
async def near(face: type[Face], target: str) -> AsyncIterator[Any]:
    """A client of the server of the example models."""
    client = face(target)
    yield client
    await client.close()


# --- attention


@pytest.mark.parametrize("form", FORMATS)
async def test_some_head_ties_the_last_it_to_the_kitten(near: Any, form: str) -> None:
    found = await near.attention(f"transformer-{form}", KITTEN_SENTENCE, measures=True)
    assert found.tokens == tuple(KITTEN)
    assert found.weights.shape == (2, 8, len(KITTEN), len(KITTEN))
    np.testing.assert_allclose(found.weights.sum(-1), 1, atol=1e-5)
    kitten = KITTEN.index("kitten")
    layer, head = np.unravel_index(found.weights[:, :, -1, kitten].argmax(), (2, 8))
    token, weight = found.look("it", int(layer), int(head))[0]
    assert token == "kitten"
    assert weight > 0.9
    measures = found.measures[layer]
    assert measures is not None
    assert measures.largest_positions[head, -1] == kitten
    assert all(site.proof is not None and site.proof.proved for site in found.sites)


async def test_both_formats_of_the_same_weights_look_at_the_same(near: Any) -> None:
    onnx, torchscript = [
        (await near.attention(f"transformer-{form}", KITTEN_SENTENCE)).weights for form in FORMATS
    ]
    np.testing.assert_allclose(onnx, torchscript, atol=1e-5)


async def test_weights_are_those_that_the_server_sends(near: Any, target: str) -> None:
    request = pb.ExtractAttentionRequest(
        model_name="transformer-onnx", sequences=pb.Sequences(texts=[KITTEN_SENTENCE])
    )
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = SequenceServiceStub(channel)
        messages = [message async for message in stub.ExtractAttention(request)]
    sent = [each for message in messages for each in message.layer.maps]
    found = await near.attention("transformer-onnx", KITTEN_SENTENCE)
    for site_map, message in zip(found, sent, strict=True):
        assert site_map.weights.tobytes() == message.weights


async def test_a_part_is_a_part_of_the_whole(near: Any) -> None:
    model = "transformer-onnx"
    whole = (await near.attention(model, KITTEN_SENTENCE)).weights
    part = await near.attention(
        model, KITTEN_SENTENCE, layers=[-1], heads=[2, 5], queries=slice(3, -1), keys=(None, 6)
    )
    np.testing.assert_allclose(part.weights[0], whole[1][[2, 5], 3:-1, :6], atol=1e-6)
    assert part.layer(1).heads == (2, 5)
    last = await near.attention(model, KITTEN_SENTENCE, last_query=True, reduce_heads="mean")
    np.testing.assert_allclose(last.weights[:, 0, 0], whole[:, :, -1].mean(1), atol=1e-6)
    assert last.look("it", layer=0)[0][1] == pytest.approx(whole[0, :, -1].mean(0).max(), abs=1e-6)
    top = await near.attention(model, KITTEN_SENTENCE, top_k=3)
    largest = -np.sort(-whole, axis=-1)[..., :3]
    np.testing.assert_allclose(top.weights, largest, atol=1e-6)
    dense = top.to_dense().weights
    assert dense.shape == whole.shape
    np.testing.assert_allclose(dense, np.where(dense > 0, whole, 0), atol=1e-6)


@pytest.mark.parametrize(("dtype", "atol"), [("float16", 5e-4), ("uint8", 0.51 / 255)])
async def test_fewer_bytes_are_as_near_as_they_can_be(near: Any, dtype: str, atol: float) -> None:
    exact = (await near.attention("transformer-onnx", KITTEN_SENTENCE)).weights
    found = (await near.attention("transformer-onnx", KITTEN_SENTENCE, dtype=dtype)).weights
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=atol)
    assert (found != exact).any()


async def test_a_ragged_list_with_plain_outputs(near: Any) -> None:
    sequences = [[4, 8, 15], [16, 23, 42, 7, 9, 12], [5]]
    found = await near.attention("transformer-torchscript", sequences, outputs=True, rollout=True)
    plain = await near.infer("transformer-torchscript", sequences)
    assert [each.length for each in found] == [3, 6, 1]
    for each, result in zip(found, plain, strict=True):
        (rollout,) = each
        assert rollout.site.name == "rollout"
        assert rollout.weights.shape[1:] == (each.length, each.length)
        np.testing.assert_allclose(*map(only, (each.outputs, result.outputs)), atol=1e-4)


def only(outputs: Any) -> Any:
    (output,) = outputs.values()
    return output


async def test_layers_are_streamed_in_order(near: Any) -> None:
    whole = await near.attention("transformer-onnx", [KITTEN_SENTENCE, "it"])
    streamed = await near.stream_attention("transformer-onnx", [KITTEN_SENTENCE, "it"])
    assert [(each.site.layer, each.sequence) for each in streamed] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    for each in streamed:
        same = whole[each.sequence].layer(each.site.layer)
        np.testing.assert_allclose(each.weights, same.weights, atol=1e-6)


# --- influence and gates


@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_one_question_for_all_architectures(near: Any, architecture: str) -> None:
    shares = []
    for form in FORMATS:
        found = await near.influence(
            f"{architecture}-{form}",
            KITTEN_SENTENCE,
            measures=["occlusion", "jacobian"],
            target=sdk.InfluenceTarget(predicted_class=True),
            by_distance=True,
        )
        occlusion, jacobian = found.map("occlusion"), found.map("jacobian")
        assert occlusion.values.shape == jacobian.values.shape == (1, len(KITTEN))
        for each in (occlusion, jacobian):
            assert each.shares.sum() == pytest.approx(1, abs=1e-5)
            assert not each.shares[each.below_floor].any()
        assert "kitten" in [token for token, _ in occlusion.look()[:2]]
        assert [each.measure for each in found.by_distance] == ["occlusion", "jacobian"]
        assert found.model_runs > 0
        shares.append(occlusion.shares)
    np.testing.assert_allclose(shares[0], shares[1], atol=1e-3)


async def test_rows_and_columns_may_be_chosen(near: Any) -> None:
    found = await near.influence(
        "lstm-onnx", KITTEN_SENTENCE, target="hidden", output_positions=[2, -1], input_positions=1
    )
    (only_map,) = found.maps
    assert only_map.output_positions == (2, len(KITTEN) - 1)
    assert only_map.input_positions == (1,)
    assert found.values.shape == found.shares.shape == (2, 1)


@pytest.mark.parametrize("form", FORMATS)
async def test_gates_of_every_step_and_unit(near: Any, form: str) -> None:
    found = await near.gates(f"lstm-{form}", KITTEN_SENTENCE, quantiles=[0.5], full=True)
    assert [(each.layer, each.direction) for each in found.layers] == [
        (0, "forward"),
        (1, "forward"),
    ]
    for layer in found.layers:
        assert layer.recomputed_error < 1e-4
        forget, product = layer.gate("forget"), layer.gate("forget_product")
        assert forget.values is not None
        assert product.values is not None
        assert forget.values.shape == (len(KITTEN), layer.units)
        np.testing.assert_allclose(forget.values.mean(1), forget.mean, atol=1e-5)
        np.testing.assert_allclose(np.median(forget.values, 1), forget.quantiles[0], atol=1e-5)
        running = product.values[:-1] * forget.values[1:]
        np.testing.assert_allclose(product.values[1:], running, atol=1e-5)


# --- what goes wrong


@pytest.mark.parametrize(
    ("method", "model", "options", "kind", "said"),
    [
        ("attention", "nobody", {}, sdk.ModelNotFound, "nobody"),
        ("attention", "lstm-onnx", {}, sdk.NotInModel, "influence"),
        ("gates", "transformer-onnx", {}, sdk.NotInModel, "gates"),
        ("attention", "transformer-onnx", {"layers": [2]}, sdk.InvalidInput, "2"),
        ("attention", "transformer-onnx", {"sites": ["here"]}, sdk.InvalidInput, "here"),
        ("attention", "transformer-onnx", {"heads": [8]}, sdk.InvalidInput, "8"),
        ("attention", "transformer-onnx", {"queries": (9, 99)}, sdk.InvalidInput, "99"),
        ("influence", "rnn-onnx", {"target": "here"}, sdk.InvalidInput, "here"),
        ("influence", "rnn-onnx", {"measures": ["guess"]}, sdk.InvalidInput, "guess"),
        ("gates", "lstm-onnx", {"layers": [5]}, sdk.InvalidInput, "5"),
    ],
)
async def test_errors_are_typed_and_say_what_is_wrong(
    method: str,
    model: str,
    options: dict[str, Any],
    kind: type[sdk.SeqLensError],
    said: str,
    near: Any,
) -> None:
    with pytest.raises(kind, match=said):
        await getattr(near, method)(model, "the kitten , it", **options)


async def test_a_bad_sequence_is_raised_or_takes_its_place(near: Any) -> None:
    for method, model in (("attention", "transformer-onnx"), ("gates", "lstm-onnx")):
        with pytest.raises(sdk.InvalidInput, match="sequence 1: ") as caught:
            await getattr(near, method)(model, [[4, 8], [-1]])
        assert caught.value.index == 1
    good, bad = await near.attention("transformer-onnx", [[4, 8], [-1]], return_errors=True)
    assert good.weights.shape == (2, 8, 2, 2)
    assert isinstance(bad, sdk.InvalidInput)
    found = await near.influence("rnn-onnx", [[4, 8], [-1]], return_errors=True)
    assert [each.sequence for each in found.maps] == [0]
    assert isinstance(found.sequences[1].error, sdk.InvalidInput)
    with pytest.raises(sdk.InvalidInput) as alone:
        await near.attention("transformer-onnx", [-1])
    assert alone.value.index is None


async def test_a_deadline_that_has_passed(near: Any) -> None:
    for ask in (near.attention, near.stream_attention, near.influence):
        with pytest.raises(sdk.DeadlineExceeded):
            await ask("transformer-onnx", KITTEN_SENTENCE, timeout=0)


async def test_a_closed_client_says_so(face: type[Face], target: str) -> None:
    client = face(target)
    await client.ready()
    await client.close()
    for ask in (client.attention, client.stream_attention, client.influence):
        with pytest.raises(sdk.Cancelled, match="closed"):
            await ask("transformer-onnx", "it")


async def test_a_server_without_a_call(client: Any) -> None:
    with pytest.raises(sdk.NotOffered):
        await client.influence("echo", [1])


# --- calls under way, of a server that does what its models' names say


@pytest.mark.parametrize("method", ["attention", "stream_attention"])
async def test_a_server_that_is_overloaded_or_away_is_asked_again(
    method: str, client: Any, fake: Any
) -> None:
    for model in ("relieved", "flaky"):
        found = await getattr(client, method)(model, [1])
        assert [each.site.layer for each in found] == [0, 1, 2]
        assert fake.models.calls[model] == 3
        fake.models.calls.clear()
    for model, kind in (("busy", sdk.Overloaded), ("crashing", sdk.ServerError)):
        with pytest.raises(kind):
            await getattr(client, method)(model, [1], timeout=0.5)


async def test_a_site_is_had_before_the_next_and_leaving_early_cancels(
    client: Any, fake: Any
) -> None:
    first = await client.first_site_map("forgetful-for-ever", [1], timeout=math.inf)
    assert (first.site.layer, first.weights.tolist()) == (0, [[[1.0]]])
    await eventually(lambda: fake.models.cancelled)


async def test_a_cancelled_task_cancels_its_call(fake: Any) -> None:
    async with sdk.AsyncClient(fake.address) as client:
        task = asyncio.create_task(client.attention("stuck", [1], timeout=math.inf))
        await eventually(lambda: fake.models.calls["stuck"] == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: len(fake.models.abandoned) == 1)


async def test_closing_the_client_ends_its_calls(client: Any, fake: Any) -> None:
    call = asyncio.create_task(client.attention("forgetful-for-ever", [1], timeout=math.inf))
    await eventually(lambda: fake.models.calls["forgetful-for-ever"] == 1)
    await client.close()
    with pytest.raises(sdk.Cancelled):
        await call
    await eventually(lambda: fake.models.cancelled)
