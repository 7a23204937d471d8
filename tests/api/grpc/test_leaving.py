"""Callers who leave before they are answered: what is freed, and what is counted."""

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

MODEL = "rnn-torchscript"
ROWS, LENGTH = 60, 2_000  # seconds of work for one lane


@pytest.fixture
async def stub(target: str) -> AsyncIterator[GRPCInferenceServiceStub]:
    async with grpc.aio.insecure_channel(target) as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.fixture
def waiting_tokens(server: Any) -> Callable[[], float]:
    """What the metrics say of the model's waiting room."""

    def read() -> float:
        with urllib.request.urlopen(f"http://{server.metrics}/metrics") as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        return next(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "seqlens_queue_tokens" and sample.labels["model"] == MODEL
        )

    return read


def request(rows: int = ROWS, length: int = LENGTH, **parameters: int) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=MODEL)
    message.inputs.add(name="tokens", datatype="INT64", shape=[rows, length])
    message.raw_input_contents.append(np.full((rows, length), 2, np.int64).tobytes())
    for name, value in parameters.items():
        message.parameters[name].int64_param = value
    return message


async def counts(stub: GRPCInferenceServiceStub) -> tuple[int, int, int]:
    """Requests that succeeded, requests that failed, and rows of those that succeeded."""
    answer = await stub.ModelStatistics(pb.ModelStatisticsRequest(name=MODEL))
    (model,) = answer.model_stats
    stats = model.inference_stats
    return stats.success.count, stats.fail.count, model.inference_count


async def until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def cancel(call: Any) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def pass_deadline(call: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("deadline", "parameters", "leave"),
    [(None, {}, cancel), (0.4, {}, pass_deadline), (None, {"timeout": 400_000}, pass_deadline)],
    ids=["cancel", "deadline", "timeout"],
)
async def test_who_leaves_frees_what_waits_and_counts_as_failed(
    deadline: float | None,
    parameters: dict[str, int],
    leave: Callable[[Any], Any],
    stub: GRPCInferenceServiceStub,
    waiting_tokens: Callable[[], float],
) -> None:
    success, fail, rows = await counts(stub)
    call = stub.ModelInfer(request(**parameters), timeout=deadline)
    await until(lambda: waiting_tokens() > 0)
    await leave(call)
    # At once: the work itself would have taken much longer.
    await until(lambda: waiting_tokens() == 0, seconds=1)
    assert await counts(stub) == (success, fail + 1, rows)
    await stub.ModelInfer(request(1, 2), timeout=10)
    assert await counts(stub) == (success + 1, fail + 1, rows + 1)
