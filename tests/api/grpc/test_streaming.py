"""A stream of requests of the Open Inference Protocol, over a real socket."""

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seqlens_zoo.weights import reference

FINAL = "triton_final_response"
ASK_FINAL = "triton_enable_empty_final_response"


@pytest.fixture
async def stub(target: str) -> AsyncIterator[GRPCInferenceServiceStub]:
    async with grpc.aio.insecure_channel(target) as channel:
        yield GRPCInferenceServiceStub(channel)


def asking(
    name: str, tokens: list[int], model: str = "lstm-onnx", *, final: bool = False
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, id=name)
    request.inputs.add(name="tokens", datatype="INT64", shape=[1, len(tokens)])
    request.raw_input_contents.append(np.array(tokens, np.int64).tobytes())
    if final:
        request.parameters[ASK_FINAL].bool_param = True
    return request


async def ask(stub: Any, *requests: pb.ModelInferRequest) -> tuple[Any, list[Any]]:
    """The call, and all answers to these requests."""
    call = stub.ModelStreamInfer()
    for request in requests:
        await call.write(request)
    await call.done_writing()
    return call, [response async for response in call]


async def read_for_ever(call: Any, answers: list[Any]) -> None:
    """Raises what ends the call."""
    while True:
        answers.append(await call.read())


def counted(metrics: str, model: str, code: str) -> float:
    """How many requests of streams the metrics tell."""
    with urllib.request.urlopen(f"http://{metrics}/metrics") as response:
        lines = response.read().decode().splitlines()
    wanted = (f'model="{model}"', 'method="stream"', f'code="{code}"', 'protocol="grpc"')
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("seqlens_requests_total{") and all(one in line for one in wanted)
    )


async def statistics(stub: Any, model: str) -> Any:
    answer = await stub.ModelStatistics(pb.ModelStatisticsRequest(name=model))
    return answer.model_stats[0].inference_stats


async def test_every_request_is_answered_whatever_its_model(
    stub: GRPCInferenceServiceStub,
) -> None:
    models = ["lstm-onnx", "rnn-torchscript", "transformer-onnx"]
    sequences = [[2, 3, 5], [7], [2] * 40]
    asked = [
        asking(f"{model} {row}", tokens, model)
        for model in models
        for row, tokens in enumerate(sequences)
    ]
    call, answers = await ask(stub, *asked)
    assert await call.code() is grpc.StatusCode.OK
    assert {one.error_message for one in answers} == {""}
    found = {one.infer_response.id: one.infer_response for one in answers}
    assert len(found) == len(answers) == len(asked)
    for model in models:
        body: Any = model.split("-")[0]
        expected = reference(body, sequences)
        for row in range(len(sequences)):
            told = found[f"{model} {row}"]
            assert (told.model_name, told.model_version) == (model, "1")
            logits = np.frombuffer(told.raw_output_contents[0], np.float32)
            np.testing.assert_allclose(logits, expected[row], atol=1e-5)
            assert FINAL not in told.parameters


def test_tritonclient_streams(target: str) -> None:
    told: Queue[Any] = Queue()
    tokens = triton.InferInput("tokens", [1, 3], "INT64")
    tokens.set_data_from_numpy(np.array([[2, 3, 5]]))
    with triton.InferenceServerClient(target) as client:
        client.start_stream(lambda result, error: told.put((result, error)))
        for name in ("a", "b"):
            client.async_stream_infer("rnn-onnx", [tokens], request_id=name)
        client.async_stream_infer("nobody", [tokens], request_id="c")
        client.async_stream_infer(
            "rnn-onnx", [tokens], request_id="d", enable_empty_final_response=True
        )
        answers = [told.get(timeout=20) for _ in range(4)]
        client.stop_stream()
    results = {result.get_response().id: result for result, _ in answers if result is not None}
    assert set(results) == {"a", "b", "d"}
    for result in results.values():
        logits = result.as_numpy("logits")
        np.testing.assert_allclose(logits, reference("rnn", [[2, 3, 5]]), atol=1e-5)
    assert results["d"].get_response().parameters[FINAL].bool_param
    (error,) = [error for _, error in answers if error is not None]
    assert "'nobody' is not in the repository" in str(error)


async def test_tritonclient_for_asyncio_streams(target: str) -> None:
    tokens = triton_aio.InferInput("tokens", [1, 2], "INT64")
    tokens.set_data_from_numpy(np.array([[2, 3]]))

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(20):
            yield {"model_name": "lstm-onnx", "inputs": [tokens], "request_id": str(number)}

    async with triton_aio.InferenceServerClient(target) as client:
        answers = [answer async for answer in client.stream_infer(requests())]
    assert {error for _, error in answers} == {None}
    assert {result.get_response().id for result, _ in answers} == {str(n) for n in range(20)}


async def test_a_bad_request_is_told_by_its_id_and_the_stream_lives(
    stub: GRPCInferenceServiceStub,
) -> None:
    short = asking("short", [2, 3])
    short.raw_input_contents[0] = b"123"
    unknown_output = asking("output", [2])
    unknown_output.outputs.add(name="logit")
    bad = [
        asking("model", [2], "nobody"),
        asking("vocabulary", [99_999]),
        asking("empty", []),
        short,
        unknown_output,
        pb.ModelInferRequest(),
    ]
    before = (await statistics(stub, "lstm-onnx")).fail.count
    call, answers = await ask(stub, *bad, asking("grüße", [2, 3]))
    assert await call.code() is grpc.StatusCode.OK
    told = {one.infer_response.id: one for one in answers}
    assert len(answers) == len(told) == len(bad) + 1
    assert told["grüße"].error_message == ""
    assert "inputs.tokens" in told["short"].error_message
    assert told["vocabulary"].infer_response.model_name == "lstm-onnx"
    assert all(told[one.id].error_message for one in bad)
    assert (await statistics(stub, "lstm-onnx")).fail.count == before + 4


async def test_exactly_one_final_response_for_each_request_that_asks(
    stub: GRPCInferenceServiceStub,
) -> None:
    _, answers = await ask(
        stub,
        asking("a", [2], final=True),
        asking("b", [2]),
        asking("c", [2], "nobody", final=True),
        asking("d", [99_999], final=True),
    )
    final = [
        one.infer_response.id
        for one in answers
        if FINAL in one.infer_response.parameters
        and one.infer_response.parameters[FINAL].bool_param
    ]
    assert sorted(final) == ["a", "c", "d"]
    assert len(answers) == 4


async def test_a_stream_without_a_request_ends_well(stub: GRPCInferenceServiceStub) -> None:
    call, answers = await ask(stub)
    assert answers == []
    assert await call.code() is grpc.StatusCode.OK


async def test_half_close_drains(stub: GRPCInferenceServiceStub) -> None:
    call, answers = await ask(stub, *(asking(str(n), [2] * 300) for n in range(300)))
    assert {one.infer_response.id for one in answers} == {str(n) for n in range(300)}
    assert await call.code() is grpc.StatusCode.OK


async def test_answers_come_as_ready(stub: GRPCInferenceServiceStub) -> None:
    """Short ones do not stand behind the long ones that came before them."""
    long = [asking(f"long {n}", [2] * 2000, "rnn-torchscript") for n in range(20)]
    short = [asking(f"short {n}", [2], "rnn-torchscript") for n in range(3)]
    _, answers = await ask(stub, *long, *short)
    order = [one.infer_response.id for one in answers]
    assert len(order) == 23
    assert order.index("short 2") < order.index("long 10")


async def test_each_request_counts_as_one(server: Any, stub: GRPCInferenceServiceStub) -> None:
    model = "transformer-torchscript"
    counts = {code: counted(server.metrics, model, code) for code in ("OK", "INVALID_ARGUMENT")}
    before = await statistics(stub, model)
    good = [asking(str(n), [2, 3], model) for n in range(5)]
    await ask(stub, *good, asking("bad", [99_999], model))
    assert counted(server.metrics, model, "OK") == counts["OK"] + 5
    assert counted(server.metrics, model, "INVALID_ARGUMENT") == counts["INVALID_ARGUMENT"] + 1
    after = await statistics(stub, model)
    assert after.success.count == before.success.count + 5
    assert after.fail.count == before.fail.count + 1


@pytest.mark.parametrize("code", ["CANCELLED", "DEADLINE_EXCEEDED"])
async def test_who_leaves_takes_the_waiting_work_along(
    code: str, server: Any, stub: GRPCInferenceServiceStub
) -> None:
    model = "rnn-torchscript"
    counts = counted(server.metrics, model, code)
    before = await statistics(stub, model)
    call = stub.ModelStreamInfer(timeout=0.5 if code == "DEADLINE_EXCEEDED" else 30)
    # More than five seconds of work on one lane.
    for number in range(200):
        await call.write(asking(str(number), [2] * 2000, model))
    if code == "CANCELLED":
        await call.read()
        call.cancel()
    else:
        with pytest.raises(grpc.aio.AioRpcError):
            await read_for_ever(call, [])
    assert (await call.code()).name == code
    begun = time.monotonic()
    _, (answer,) = await ask(stub, asking("next", [2, 3], model))
    assert answer.error_message == ""
    assert time.monotonic() - begun < 3
    given_up = counted(server.metrics, model, code) - counts
    after = await statistics(stub, model)
    # Those that were given up are no successes.
    assert 50 < given_up <= 200
    assert after.fail.count - before.fail.count == given_up
    assert after.success.count - before.success.count <= 200 - given_up + 1


async def test_a_client_that_does_not_read_is_not_read_from(
    stub: GRPCInferenceServiceStub,
) -> None:
    call = stub.ModelStreamInfer()
    request = asking("x" * 100_000, [2], "rnn-onnx")  # its answer is as large
    sent = 0

    async def send_for_ever() -> None:
        nonlocal sent
        for _ in range(5_000):
            await call.write(request)
            sent += 1

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send_for_ever(), 1.5)
    assert sent < 2_000
    await stub.ModelInfer(asking("y", [2], "rnn-onnx"), timeout=5)
    call.cancel()


async def test_requests_wait_for_room_and_a_stopping_server_answers_what_it_has_read(
    repository: Path, start_server: Callable[..., Any]
) -> None:
    """The waiting room holds ten sequences; the stream sends a hundred as fast as it can."""
    running = start_server(repository / "rnn-torchscript", "--scheduler.max-waiting-tokens", "1000")
    async with grpc.aio.insecure_channel(running.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer()
        for number in range(100):
            await call.write(asking(str(number), [2] * 100, "rnn-torchscript"))
        first = await call.read()
        assert first.error_message == ""
        running.process.terminate()
        answers = [first]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_for_ever(call, answers)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in str(caught.value.details())
    told = {one.infer_response.id: one.error_message for one in answers}
    assert len(told) == len(answers) > 1
    assert set(told.values()) <= {"", "the server is shutting down and takes no new work"}
    assert running.process.wait(10) == 0
