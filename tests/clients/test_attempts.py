"""Asking again: retries by gRPC and by the library, and hedging."""

import asyncio
import math
import time
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.clients.conftest import eventually

import seqlens_client as sdk
from seqlens_client._patience import pause, settles
from seqlens_wire.errors import ErrorDetails

# --- retries


async def test_a_server_out_of_reach_for_a_moment_is_asked_again(client: Any, fake: Any) -> None:
    assert (await client.infer("flaky", [1])).length == 1
    assert fake.models.calls["flaky"] == 3


async def test_an_overloaded_server_is_asked_again_when_it_said(client: Any, fake: Any) -> None:
    started = time.monotonic()
    assert (await client.infer("relieved", [1])).length == 1
    assert fake.models.calls["relieved"] == 3
    assert time.monotonic() - started >= 2 * 0.25


async def test_a_request_beyond_the_buffer_of_grpc_is_sent_again(client: Any, fake: Any) -> None:
    assert (await client.infer("relieved", np.zeros(100_000))).length == 100_000
    assert fake.models.calls["relieved"] == 3


@pytest.mark.parametrize("model", ["full", "forbidding", "crashing", "nowhere"])
async def test_nothing_else_is_asked_again(model: str, client: Any, fake: Any) -> None:
    with pytest.raises(sdk.SeqLensError):
        await client.infer(model, [1])
    assert fake.models.calls[model] == 1


async def test_a_server_that_stays_overloaded_says_when_to_come_back(
    client: Any, fake: Any
) -> None:
    with pytest.raises(sdk.Overloaded) as caught:
        await client.infer("busy", [1], timeout=0.7)
    assert caught.value.retry_after == 0.25
    assert fake.models.calls["busy"] == 3  # a fourth would have come after the timeout


async def test_retries_can_be_turned_off(face: Any, fake: Any) -> None:
    client = face(fake.address, retries=0)
    with pytest.raises(sdk.Unavailable, match="failed to load"):
        await client.infer("down", [1])
    assert fake.models.calls["down"] == 1
    await client.close()


def test_more_retries_than_grpc_makes_are_refused(face: Any) -> None:
    with pytest.raises(ValueError, match="retries: got 5, expected from 0 to 4"):
        face("127.0.0.1:1", retries=5)


details = st.builds(
    ErrorDetails, retry_after_seconds=st.none() | st.floats(0, 100, allow_nan=False)
)
errors = st.builds(
    lambda kind, details, index: kind("why", code="", details=details, index=index),
    st.sampled_from([sdk.Overloaded, sdk.Unavailable, sdk.InvalidInput, sdk.DeadlineExceeded]),
    details,
    st.none() | st.integers(0, 9),
)


@given(errors, st.integers(0, 4), st.none() | st.floats(0, 100))
def test_a_pause_is_what_the_server_asked_for_and_ends_in_time(
    error: sdk.SeqLensError, retries: int, seconds: float | None
) -> None:
    waits = pause(error, retries=retries, seconds=seconds)
    may = isinstance(error, sdk.Overloaded) and error.index is None and retries > 0
    in_time = may and error.retry_after is not None and error.retry_after < (seconds or math.inf)
    if waits is None:
        assert not in_time or seconds == 0
    else:
        assert in_time
        assert waits == error.retry_after


# --- hedging


async def test_the_first_answer_of_two_is_taken_and_the_other_call_given_up(
    client: Any, fake: Any
) -> None:
    started = time.monotonic()
    assert (await client.infer("stuck-once", [1, 2], hedge_after=0.1)).length == 2
    assert 0.1 <= time.monotonic() - started < 5
    assert fake.models.calls["stuck-once"] == 2
    await eventually(lambda: len(fake.models.abandoned) == 1)


async def test_an_answer_in_time_is_not_asked_for_twice(client: Any, fake: Any) -> None:
    assert (await client.infer("echo", [1], hedge_after=5)).length == 1
    assert fake.models.calls == {"echo": 1}


async def test_the_client_may_hedge_all_calls_and_a_call_may_do_without(
    face: Any, fake: Any
) -> None:
    client = face(fake.address, hedge_after=0.1)
    tensors = await client.infer_tensors("stuck-once", {"ids": np.ones((1, 2), np.int64)})
    assert tensors["ids"].shape == (1, 2)
    with pytest.raises(sdk.DeadlineExceeded):
        await client.infer("stuck", [1], timeout=0.5, hedge_after=math.inf)
    assert fake.models.calls == {"stuck-once": 2, "stuck": 1}
    await client.close()


async def test_both_calls_together_have_the_time_of_one(client: Any, fake: Any) -> None:
    started = time.monotonic()
    with pytest.raises(sdk.DeadlineExceeded):
        await client.infer("stuck", [1], timeout=0.5, hedge_after=0.2)
    assert time.monotonic() - started < 2
    assert fake.models.calls["stuck"] == 2


async def test_a_failed_second_call_leaves_the_first_its_time(face: Any, fake: Any) -> None:
    client = face(fake.address, retries=0)
    with pytest.raises(sdk.DeadlineExceeded):
        await client.infer("stuck-once-then-down", [1], timeout=0.5, hedge_after=0.1)
    assert fake.models.calls["stuck-once-then-down"] == 2
    await client.close()


async def test_what_is_wrong_with_the_request_is_told_at_once(client: Any, fake: Any) -> None:
    with pytest.raises(sdk.ModelNotFound):
        await client.infer("nowhere", [1], hedge_after=1)
    with pytest.raises(sdk.InvalidInput):
        await client.infer("echo", [-1], hedge_after=1)
    with pytest.raises(sdk.ServerError):
        await client.infer("crashing", [1], hedge_after=1)
    assert fake.models.calls == {"nowhere": 1, "echo": 1, "crashing": 1}


async def test_closing_the_client_ends_hedged_calls(client: Any, fake: Any) -> None:
    call = asyncio.ensure_future(client.infer("stuck", [1], hedge_after=0.05))
    await eventually(lambda: fake.models.calls["stuck"] == 2)
    await client.close()
    with pytest.raises(sdk.Cancelled):
        await call


async def test_cancelling_the_task_gives_both_calls_up(fake: Any) -> None:
    async with sdk.AsyncClient(fake.address) as client:
        call = asyncio.ensure_future(client.infer("stuck", [1], hedge_after=0.05))
        await eventually(lambda: fake.models.calls["stuck"] == 2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await eventually(lambda: len(fake.models.abandoned) == 2)


async def test_calls_go_to_all_servers_of_a_target_in_turn(
    face: Any, fake: Any, another_fake: Any
) -> None:
    client = face(f"ipv4:{fake.address},{another_fake.address}")
    calls = (fake.models.calls, another_fake.models.calls)
    for _ in range(100):
        await client.infer("echo", [1])
        if all(each["echo"] for each in calls):
            break
    assert all(each["echo"] for each in calls)
    await client.close()


async def test_one_of_two_servers_may_refuse_all_its_calls(
    face: Any, fake: Any, another_fake: Any
) -> None:
    client = face(f"ipv4:{fake.address},{another_fake.address}")
    fake.models.draining = True
    for _ in range(40):
        assert (await client.infer("echo", [1])).length == 1
    assert fake.models.calls["echo"] >= 10
    await client.close()


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_only_a_failure_of_the_server_is_worth_another_call(code: grpc.StatusCode) -> None:
    failures = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNKNOWN", "DATA_LOSS"}
    assert settles(code) == (code.name not in failures)
