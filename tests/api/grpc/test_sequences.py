"""Batches and streams of ragged sequences, over a real socket."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from numpy.typing import NDArray

from seqlens_wire.pb import open_inference_pb2 as oip
from seqlens_wire.pb import sequences_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub
from seqlens_wire.ragged import pack, unpack
from seqlens_zoo.antecedent import KITTEN_SENTENCE, VOCABULARY, encode
from seqlens_zoo.weights import reference

LENGTHS = (40, 3, 1, 90, 17)


@pytest.fixture(scope="module")
def sequences() -> list[list[int]]:
    random = np.random.default_rng(5)
    return [random.integers(2, len(VOCABULARY), length).tolist() for length in LENGTHS]


@pytest.fixture
def stub(target: str) -> Iterator[SequenceServiceStub]:
    with grpc.insecure_channel(target) as channel:
        yield SequenceServiceStub(channel)


@pytest.fixture
async def streaming(target: str) -> AsyncIterator[SequenceServiceStub]:
    async with grpc.aio.insecure_channel(target) as channel:
        yield SequenceServiceStub(channel)


def ragged(sequences: list[list[int]]) -> pb.Sequences:
    rows = [np.array(sequence, np.int32) for sequence in sequences]
    return pb.Sequences(inputs=[pack("", "INT32", rows)])


def logits(answers: pb.Answers) -> NDArray[np.float32]:
    return np.stack(unpack(answers.outputs[0]))


def opening(model: str = "lstm-onnx", **options: Any) -> pb.ProcessStreamRequest:
    return pb.ProcessStreamRequest(options=pb.StreamOptions(model_name=model, **options))


def sending(ids: list[str], sequences: list[list[int]]) -> pb.ProcessStreamRequest:
    return pb.ProcessStreamRequest(
        sequences=pb.StreamSequences(ids=ids, sequences=ragged(sequences))
    )


async def read_all(call: Any) -> dict[str, pb.SequenceResult]:
    return {
        name: result
        async for response in call
        for name, result in zip(response.ids, response.answers.results, strict=True)
    }


@pytest.mark.parametrize("model", ["rnn-torchscript", "lstm-onnx", "transformer-onnx"])
def test_a_ragged_batch_gets_pytorchs_answers(
    model: str, stub: SequenceServiceStub, sequences: list[list[int]]
) -> None:
    response = stub.ProcessBatch(
        pb.ProcessBatchRequest(model_name=model, id="b", sequences=ragged(sequences))
    )
    assert (response.model_name, response.model_version, response.id) == (model, "1", "b")
    assert [result.length for result in response.answers.results] == list(LENGTHS)
    body: Any = model.split("-")[0]
    np.testing.assert_allclose(logits(response.answers), reference(body, sequences), atol=1e-5)


def test_texts_are_tokenised_by_the_server(stub: SequenceServiceStub) -> None:
    request = pb.ProcessBatchRequest(model_name="transformer-onnx")
    request.sequences.texts.append(KITTEN_SENTENCE)
    answers = stub.ProcessBatch(request).answers
    expected = reference("transformer", [encode(KITTEN_SENTENCE)])
    np.testing.assert_allclose(logits(answers), expected, atol=1e-5)


def test_one_bad_sequence_costs_its_batch_mates_nothing(
    stub: SequenceServiceStub, sequences: list[list[int]]
) -> None:
    mixed = [sequences[0], [2, 99_999], [], sequences[1]]
    request = pb.ProcessBatchRequest(model_name="lstm-onnx", sequences=ragged(mixed))
    answers = stub.ProcessBatch(request).answers
    codes = [result.error.code for result in answers.results]
    assert codes == ["", "INVALID_ARGUMENT", "INVALID_ARGUMENT", ""]
    assert answers.results[1].error.field == "inputs.tokens[1]"
    assert answers.results[2].error.got == "length 0"
    np.testing.assert_allclose(logits(answers), reference("lstm", sequences[:2]), atol=1e-5)


async def test_a_stream_answers_every_id(
    streaming: SequenceServiceStub, sequences: list[list[int]]
) -> None:
    call = streaming.ProcessStream()
    await call.write(opening())
    await call.write(sending(["a", "b"], sequences[:2]))
    await call.write(sending(["c"], sequences[2:3]))
    await call.done_writing()
    results = await read_all(call)
    assert {name: result.length for name, result in results.items()} == {"a": 40, "b": 3, "c": 1}
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_keeps_the_order_if_asked(streaming: SequenceServiceStub) -> None:
    call = streaming.ProcessStream()
    await call.write(opening("transformer-onnx", keep_order=True))
    names = [str(number) for number in range(40)]
    for number, name in enumerate(names):
        await call.write(sending([name], [[2] * (400 if number % 10 == 0 else 2)]))
    await call.done_writing()
    assert [name async for response in call for name in response.ids] == names


async def test_a_stream_answers_what_was_sent_before_the_client_closed_its_side(
    streaming: SequenceServiceStub,
) -> None:
    call = streaming.ProcessStream()
    await call.write(opening("rnn-torchscript"))
    await call.write(sending([str(n) for n in range(50)], [[2] * 100] * 50))
    await call.done_writing()
    assert len(await read_all(call)) == 50


async def test_a_bad_message_costs_its_own_ids_and_the_stream_lives(
    streaming: SequenceServiceStub, sequences: list[list[int]]
) -> None:
    call = streaming.ProcessStream()
    await call.write(opening())
    broken = sending(["x", "y"], sequences[:2])
    broken.sequences.sequences.inputs[0].values = b"123"
    await call.write(broken)
    await call.write(sending(["p", "q", "r"], sequences[:2]))
    await call.write(sending(["a", "b"], [sequences[0], [99_999]]))
    await call.write(pb.ProcessStreamRequest())
    await call.done_writing()
    results = await read_all(call)
    codes = {name: result.error.code for name, result in results.items()}
    assert codes.pop("a") == ""
    assert codes == dict.fromkeys(["x", "y", "p", "q", "r", "b", ""], "INVALID_ARGUMENT")
    assert results["p"].error.field == "sequences.ids"
    assert results["b"].error.field == "inputs.tokens[0]"


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (opening("nobody"), grpc.StatusCode.NOT_FOUND),
        (opening(output_names=["logit"]), grpc.StatusCode.INVALID_ARGUMENT),
        (opening(timeout_seconds=-1.0), grpc.StatusCode.INVALID_ARGUMENT),
        (sending(["a"], [[2]]), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_stream_that_begins_wrongly_fails_as_a_whole(
    first: pb.ProcessStreamRequest, code: grpc.StatusCode, streaming: SequenceServiceStub
) -> None:
    call = streaming.ProcessStream()
    await call.write(first)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is code


async def test_a_stream_waits_for_room_where_a_batch_is_refused(
    repository: Path, start_server: Callable[..., Any]
) -> None:
    """The waiting room holds ten sequences; the stream sends four hundred as fast as it can."""
    address = start_server(repository / "rnn-onnx", "--scheduler.max-waiting-tokens", "1000").grpc
    async with grpc.aio.insecure_channel(address) as channel:
        stub = SequenceServiceStub(channel)
        call = stub.ProcessStream()
        await call.write(opening("rnn-onnx", window=1000))
        for number in range(100):
            names = [f"{number}.{one}" for one in range(4)]
            await call.write(sending(names, [[2] * 100] * 4))
        await call.done_writing()
        results = await read_all(call)
        late = stub.ProcessStream()
        await late.write(opening("rnn-onnx", window=1000, timeout_seconds=0.02))
        for number in range(100):
            await late.write(sending([str(number)], [[2] * 1000]))
        await late.done_writing()
        codes = {result.error.code for result in (await read_all(late)).values()}
    assert len(results) == 400
    assert {result.error.code for result in results.values()} == {""}
    assert codes <= {"", "DEADLINE_EXCEEDED"}


async def test_a_stream_leaves_room_for_other_callers(
    repository: Path, start_server: Callable[..., Any]
) -> None:
    """The waiting room holds twenty sequences, and the stream has always more than that to send."""
    address = start_server(repository / "rnn-onnx", "--scheduler.max-waiting-tokens", "2000").grpc
    async with grpc.aio.insecure_channel(address) as channel:
        stub = SequenceServiceStub(channel)
        call = stub.ProcessStream()
        await call.write(opening("rnn-onnx", window=1000))

        async def send_for_ever() -> None:
            while True:
                await call.write(sending(["x"], [[2] * 100]))

        sender = asyncio.create_task(send_for_ever())
        reader = asyncio.create_task(read_all(call))
        await asyncio.sleep(0.3)
        request = pb.ProcessBatchRequest(model_name="rnn-onnx", sequences=ragged([[2] * 100] * 5))
        errors = [
            result.error.code
            for _ in range(20)
            for result in (await stub.ProcessBatch(request, timeout=10)).answers.results
        ]
        sender.cancel()
        reader.cancel()
        await asyncio.gather(sender, reader, return_exceptions=True)
    assert errors == [""] * 100


async def test_a_client_that_does_not_read_is_not_read_from(
    streaming: SequenceServiceStub,
) -> None:
    """Neither answers nor sequences pile up in the server, and others are answered meanwhile."""
    call = streaming.ProcessStream()
    await call.write(opening("rnn-onnx", window=4))
    message = sending(["x" * 100_000], [[2]])  # its answer is as large

    async def send_for_ever() -> None:
        for _ in range(1_000):
            await call.write(message)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send_for_ever(), 3)
    request = pb.ProcessBatchRequest(model_name="rnn-onnx", sequences=ragged([[2, 3]]))
    await streaming.ProcessBatch(request, timeout=5)
    call.cancel()


async def test_every_answer_of_a_narrow_window_makes_room(
    streaming: SequenceServiceStub,
) -> None:
    call = streaming.ProcessStream()
    await call.write(opening(window=2))
    for number in range(20):
        await call.write(sending([str(number)], [[2] * 30]))
    await call.done_writing()
    assert len(await read_all(call)) == 20


async def test_a_deadline_of_the_stream_is_one_of_each_sequence(
    streaming: SequenceServiceStub,
) -> None:
    call = streaming.ProcessStream()
    await call.write(opening("rnn-torchscript", timeout_seconds=0.001))
    await call.write(sending([str(n) for n in range(200)], [[2] * 1000] * 200))
    await call.done_writing()
    results = await read_all(call)
    codes = {result.error.code for result in results.values()}
    assert len(results) == 200
    assert "DEADLINE_EXCEEDED" in codes
    assert codes <= {"", "DEADLINE_EXCEEDED"}


async def test_a_cancelled_stream_takes_its_waiting_work_back(
    streaming: SequenceServiceStub,
) -> None:
    call = streaming.ProcessStream()
    await call.write(opening("rnn-torchscript", window=4000))
    # Some ten seconds of work on one lane.
    await call.write(sending([str(n) for n in range(400)], [[2] * 2000] * 400))
    await call.read()
    call.cancel()
    begun = time.monotonic()
    request = pb.ProcessBatchRequest(model_name="rnn-torchscript", sequences=ragged([[2, 3]]))
    response = await streaming.ProcessBatch(request, timeout=20)
    assert not response.answers.results[0].HasField("error")
    assert time.monotonic() - begun < 3


async def test_a_cancelled_batch_and_one_past_its_deadline_give_way(
    streaming: SequenceServiceStub,
) -> None:
    request = pb.ProcessBatchRequest(
        model_name="rnn-torchscript", sequences=ragged([[2] * 2000] * 400)
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await streaming.ProcessBatch(request, timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    begun = time.monotonic()
    small = pb.ProcessBatchRequest(model_name="rnn-torchscript", sequences=ragged([[2, 3]]))
    await streaming.ProcessBatch(small, timeout=20)
    assert time.monotonic() - begun < 3


def test_a_model_describes_itself(stub: SequenceServiceStub) -> None:
    described = stub.DescribeModel(pb.DescribeModelRequest(model_name="transformer-onnx"))
    assert described.architecture == "transformer"
    assert described.sequential_depth == "O(1)"
    assert described.strategy == "by_length"
    assert described.backend == "onnxruntime"
    assert described.device == "cpu"
    assert list(described.versions) == ["1"]
    assert described.has_tokenizer
    assert len(described.labels) == 40
    assert described.proof.padded_error <= described.proof.allowed_error < described.proof.tolerance
    assert len(described.attention_sites) == 2
    assert sum(group.count for group in described.parameters) > 264_000
    assert described.limits.max_batch_tokens > 0
    assert all(point.seconds > 0 for point in described.costs)
    assert described.costs
    inputs = {one.name: one for one in described.inputs}
    assert inputs["tokens"].vocabulary_size == len(VOCABULARY)
    assert (inputs["tokens"].batch_axis, inputs["tokens"].time_axis) == (0, 1)
    assert not inputs["lengths"].HasField("time_axis")
    assert inputs["lengths"].made_by_server


@pytest.mark.parametrize(
    ("sequences", "success", "fail"), [([[3]], 1, 0), ([[3], [-1]], 1, 0), ([[-1], []], 0, 1)]
)
def test_a_batch_without_an_answer_is_no_success(
    sequences: list[list[int]], success: int, fail: int, target: str
) -> None:
    wanted = oip.ModelStatisticsRequest(name="rnn-onnx")
    with grpc.insecure_channel(target) as channel:
        inference, stub = GRPCInferenceServiceStub(channel), SequenceServiceStub(channel)
        before = inference.ModelStatistics(wanted).model_stats[0].inference_stats
        stub.ProcessBatch(
            pb.ProcessBatchRequest(model_name="rnn-onnx", sequences=ragged(sequences))
        )
        after = inference.ModelStatistics(wanted).model_stats[0].inference_stats
    assert after.success.count - before.success.count == success
    assert after.fail.count - before.fail.count == fail
