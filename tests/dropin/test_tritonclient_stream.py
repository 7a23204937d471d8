"""tritonclient's streams: answers as they are ready, errors in between, a clean end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.conftest import RunningServer
from tests.dropin.triton_client import TritonClient, connected, output_of

from seqlens_zoo.bodies import BODY_NAMES
from seqlens_zoo.formats import FORMATS

MODELS = [f"{body}-{form}" for form in FORMATS for body in BODY_NAMES]
COMPRESSIONS = [None, "gzip", "deflate"]
Answer = tuple[Any, Any]


def requests(
    triton: TritonClient, tokens: NDArray[np.int64], lengths: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """One good request for each model, and a bad one after each."""
    good = triton.tensors(tokens=tokens, lengths=lengths)
    bad = triton.tensors(tokens=-tokens)
    return [
        {"model_name": model, "inputs": inputs, "request_id": f"{model} {kind}"}
        for model in MODELS
        for kind, inputs in (("good", good), ("bad", bad))
    ]


def check(answers: list[Answer], expected: dict[str, NDArray[np.float32]]) -> None:
    """One answer for each request, in whatever order."""
    assert len(answers) == 2 * len(MODELS)
    good = {result.get_response().id: result for result, error in answers if error is None}
    assert set(good) == {f"{model} good" for model in MODELS}
    for model in MODELS:
        logits = good[f"{model} good"].as_numpy(output_of(model))
        np.testing.assert_allclose(logits, expected[model.split("-")[0]], atol=1e-5)
    errors = [error.message() for _, error in answers if error is not None]
    assert all("inputs.tokens[0, 0]" in error for error in errors)


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_a_stream_with_a_callback(
    compression: str | None,
    server: RunningServer,
    tokens: NDArray[np.int64],
    lengths: NDArray[np.int64],
    expected: dict[str, NDArray[np.float32]],
) -> None:
    loop, answers = asyncio.get_running_loop(), asyncio.Queue[Answer]()

    def answered(result: Any, error: Any) -> None:
        loop.call_soon_threadsafe(answers.put_nowait, (result, error))

    async with connected("grpc", server) as triton:
        triton.client.start_stream(answered, compression_algorithm=compression)
        asked = requests(triton, tokens, lengths)
        for request in asked:
            triton.client.async_stream_infer(**request)
        check([await answers.get() for _ in asked], expected)
        await asyncio.to_thread(triton.client.stop_stream)
    assert answers.empty()


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_a_stream_of_asyncio(
    compression: str | None,
    server: RunningServer,
    tokens: NDArray[np.int64],
    lengths: NDArray[np.int64],
    expected: dict[str, NDArray[np.float32]],
) -> None:
    async with connected("grpc.aio", server) as triton:

        async def asked() -> AsyncIterator[dict[str, Any]]:
            for request in requests(triton, tokens, lengths):
                yield request

        stream = triton.client.stream_infer(asked(), compression_algorithm=compression)
        check([answer async for answer in stream], expected)


async def test_the_last_answer_says_so_to_whoever_asks(
    server: RunningServer, tokens: NDArray[np.int64]
) -> None:
    # tritonclient for asyncio cannot ask.
    loop, answers = asyncio.get_running_loop(), asyncio.Queue[Answer]()
    async with connected("grpc", server) as triton:
        triton.client.start_stream(
            lambda result, error: loop.call_soon_threadsafe(answers.put_nowait, (result, error))
        )
        for wanted in (True, False):
            triton.client.async_stream_infer(
                "lstm-onnx",
                triton.tensors(tokens=tokens),
                request_id=f"wanted {wanted}",
                enable_empty_final_response=wanted,
            )
        await asyncio.to_thread(triton.client.stop_stream)
        await asyncio.sleep(0)  # for the callbacks of the last moment
    responses = [answers.get_nowait()[0].get_response() for _ in range(answers.qsize())]
    final = {one.id: one.parameters["triton_final_response"].bool_param for one in responses}
    assert final == {"wanted True": True, "wanted False": False}
    assert len(responses) == 2
