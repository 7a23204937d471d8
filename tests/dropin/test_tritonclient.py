"""tritonclient gets PyTorch's answers of all example models, by each of its four clients."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import numpy as np
import pytest
import tritonclient.http as http
from numpy.typing import NDArray
from tests.conftest import RunningServer
from tests.dropin.triton_client import KINDS, TritonClient, classes, connected, output_of
from tritonclient.utils import InferenceServerException, shared_memory

from seqlens_zoo.bodies import BODY_NAMES
from seqlens_zoo.formats import FORMATS

MODELS = [f"{body}-{form}" for form in FORMATS for body in BODY_NAMES]
Answers = dict[str, NDArray[np.float32]]


@pytest.fixture(params=KINDS)
async def triton(
    request: pytest.FixtureRequest, server: RunningServer
) -> AsyncIterator[TritonClient]:
    async with connected(request.param, server) as client:
        yield client


@dataclass(frozen=True, slots=True)
class Batch:
    """The same rows for everyone, and PyTorch's answers to them."""

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    expected: Answers

    def check(self, answer: NDArray[Any], model: str) -> None:
        np.testing.assert_allclose(answer, self.expected[model.split("-")[0]], atol=1e-5)

    def inputs(self, triton: TritonClient) -> list[Any]:
        return triton.tensors(tokens=self.tokens, lengths=self.lengths)


@pytest.fixture(scope="module")
def batch(tokens: NDArray[np.int64], lengths: NDArray[np.int64], expected: Answers) -> Batch:
    return Batch(tokens, lengths, expected)


@pytest.mark.parametrize("model", MODELS)
async def test_every_model_answers_as_pytorch_does(
    model: str, triton: TritonClient, batch: Batch
) -> None:
    result = await triton.call("infer", model, batch.inputs(triton))
    batch.check(result.as_numpy(output_of(model)), model)


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("kind", ["http", "http.aio"])
async def test_binary_and_json_tensors_mix(
    kind: str, sent: bool, answered: bool, server: RunningServer, batch: Batch
) -> None:
    async with connected(kind, server) as triton:
        inputs = [
            triton.tensor("tokens", batch.tokens, binary_data=sent),
            triton.tensor("lengths", batch.lengths, binary_data=not sent),
        ]
        outputs = [triton.module.InferRequestedOutput("logits", binary_data=answered)]
        result = await triton.call("infer", "lstm-onnx", inputs, outputs=outputs)
    batch.check(result.as_numpy("logits"), "lstm")
    assert ("data" in result.get_output("logits")) is not answered


async def test_whatever_else_a_request_may_carry_is_taken(
    triton: TritonClient, batch: Batch
) -> None:
    result = await triton.call(
        "infer",
        "lstm-onnx",
        batch.inputs(triton),
        model_version="1",
        request_id="Anfrage №1",
        sequence_id="a sequence",
        sequence_start=True,
        sequence_end=True,
        priority=1,
        timeout=30_000_000,
        headers={"x-request-source": "test"},
        parameters={"count": 3, "name": "any", "wanted": True},
    )
    batch.check(result.as_numpy("logits"), "lstm")
    answer = result.get_response() if triton.over_http else result.get_response(as_json=True)
    assert answer["id"] == "Anfrage №1"
    assert (answer["model_name"], answer["model_version"]) == ("lstm-onnx", "1")


@pytest.mark.parametrize("form", ["gzip", "deflate"])
async def test_both_ways_may_be_compressed(form: str, triton: TritonClient, batch: Batch) -> None:
    if triton.over_http:
        options = {"request_compression_algorithm": form, "response_compression_algorithm": form}
    else:
        options = {"compression_algorithm": form}
    result = await triton.call("infer", "lstm-onnx", batch.inputs(triton), **options)
    batch.check(result.as_numpy("logits"), "lstm")


async def test_classes_come_with_value_index_and_label(
    triton: TritonClient, batch: Batch, repository: Path
) -> None:
    labels = (repository / "lstm-onnx" / "labels.txt").read_text().split("\n")
    outputs = [triton.module.InferRequestedOutput("logits", class_count=3)]
    result = await triton.call("infer", "lstm-onnx", batch.inputs(triton), outputs=outputs)
    answer = result.as_numpy("logits")
    assert answer.shape == (len(batch.tokens), 3)
    for row, logits in zip(answer, batch.expected["lstm"], strict=True):
        best = np.argsort(-logits)[:3]
        found = classes(row)
        assert [index for _, index, _ in found] == best.tolist()
        assert [label for *_, label in found] == [labels[index] for index in best]
        np.testing.assert_allclose([value for value, *_ in found], logits[best], atol=1e-4)


@pytest.fixture
def region(batch: Batch) -> Iterator[tuple[str, int, Any]]:
    """Shared memory with the tokens in front and room for the answer behind: key, size, handle."""
    size = batch.tokens.nbytes + batch.expected["lstm"].nbytes
    key = f"/seqlens-{uuid4()}"
    handle = shared_memory.create_shared_memory_region("both", key, size)
    shared_memory.set_shared_memory_region(handle, [batch.tokens])
    yield key, size, handle
    shared_memory.destroy_shared_memory_region(handle)


async def test_tensors_travel_in_shared_memory(
    triton: TritonClient, batch: Batch, region: tuple[str, int, Any]
) -> None:
    key, size, handle = region
    name, start = f"both-{triton.kind}", batch.tokens.nbytes
    tokens = triton.module.InferInput("tokens", list(batch.tokens.shape), "INT64")
    tokens.set_shared_memory(name, start)
    logits = triton.module.InferRequestedOutput("logits")
    logits.set_shared_memory(name, size - start, offset=start)
    await triton.call("register_system_shared_memory", name, key, size)
    try:
        status = await triton.told("get_system_shared_memory_status", name)
        lengths = triton.tensor("lengths", batch.lengths)
        await triton.call("infer", "lstm-onnx", [tokens, lengths], outputs=[logits])
    finally:
        await triton.call("unregister_system_shared_memory", name)
    batch.check(
        shared_memory.get_contents_as_numpy(
            handle, np.float32, batch.expected["lstm"].shape, offset=start
        ),
        "lstm",
    )
    [told] = status if triton.over_http else status["regions"].values()
    assert (told["name"], told["key"], int(told["byte_size"])) == (name, key, size)
    with pytest.raises(InferenceServerException, match=name) as caught:
        await triton.call("infer", "lstm-onnx", [tokens])
    assert caught.value.status() == triton.status("INVALID_ARGUMENT", 400)


async def test_health_and_readiness(triton: TritonClient) -> None:
    assert await triton.call("is_server_live")
    assert await triton.call("is_server_ready")
    assert await triton.call("is_model_ready", "rnn-onnx")
    assert await triton.call("is_model_ready", "rnn-onnx", "1")
    assert not await triton.call("is_model_ready", "rnn-onnx", "2")
    assert not await triton.call("is_model_ready", "nowhere")


async def test_errors_have_status_and_message(triton: TritonClient, batch: Batch) -> None:
    with pytest.raises(InferenceServerException, match="'nowhere'") as caught:
        await triton.call("infer", "nowhere", batch.inputs(triton))
    assert caught.value.status() == triton.status("NOT_FOUND", 404)
    for inputs, message in (
        (triton.tensors(tokens=batch.tokens.astype(np.int32)), "inputs.tokens.datatype: got INT32"),
        (triton.tensors(tokens=batch.tokens * 0 - 1), r"inputs.tokens\[0, 0\]: got -1"),
        (triton.tensors(token=batch.tokens), "did you mean 'tokens'"),
        (triton.tensors(lengths=batch.lengths), "inputs.tokens: got nothing"),
    ):
        with pytest.raises(InferenceServerException, match=message) as caught:
            await triton.call("infer", "lstm-onnx", inputs)
        assert caught.value.status() == triton.status("INVALID_ARGUMENT", 400)
    with pytest.raises(InferenceServerException) as caught:
        await triton.call("get_cuda_shared_memory_status")
    assert caught.value.status() == triton.status("UNIMPLEMENTED", 501)


async def test_a_request_that_may_not_wait_is_given_up(triton: TritonClient, batch: Batch) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await triton.call("infer", "lstm-onnx", batch.inputs(triton), timeout=1)
    assert caught.value.status() == triton.status("DEADLINE_EXCEEDED", 504)


def test_http_requests_in_flight_together(server: RunningServer, batch: Batch) -> None:
    with http.InferenceServerClient(server.rest, concurrency=4) as client:
        inputs = batch.inputs(TritonClient("http", http, client))
        sent = [client.async_infer(model, inputs) for model in MODELS]
        for model, request in zip(MODELS, sent, strict=True):
            batch.check(request.get_result().as_numpy(output_of(model)), model)


async def test_grpc_requests_in_flight_together(server: RunningServer, batch: Batch) -> None:
    loop, answers = asyncio.get_running_loop(), asyncio.Queue[tuple[Any, Any]]()

    def answered(result: Any, error: Any) -> None:
        loop.call_soon_threadsafe(answers.put_nowait, (result, error))

    async with connected("grpc", server) as triton:
        inputs = batch.inputs(triton)
        for model in MODELS:
            triton.client.async_infer(model, inputs, answered, request_id=model)
        for _ in MODELS:
            result, error = await answers.get()
            assert error is None
            model = result.get_response().id
            batch.check(result.as_numpy(output_of(model)), model)


def test_a_body_made_by_hand_and_read_by_hand(server: RunningServer, batch: Batch) -> None:
    client = http.InferenceServerClient
    inputs = batch.inputs(TritonClient("http", http, client))
    body, header_length = client.generate_request_body(inputs)
    name = "Inference-Header-Content-Length"
    url = f"http://{server.rest}/v2/models/lstm-onnx/infer"
    with urlopen(Request(url, body, {name: str(header_length)})) as answer:
        result = client.parse_response_body(answer.read(), header_length=int(answer.headers[name]))
    batch.check(result.as_numpy("logits"), "lstm")
