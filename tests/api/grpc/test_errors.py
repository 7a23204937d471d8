"""Errors of ours and of nobody's as gRPC statuses, through a real server and channel."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from seqlens.api.grpc.errors import MAX_MESSAGE_CHARACTERS, Context, streaming, unary
from seqlens.errors import (
    BackendFailed,
    DeadlinePassed,
    Draining,
    InvalidRequest,
    ModelNotFound,
    NotOffered,
    Overloaded,
    SeqLensError,
    SequenceTooLong,
)
from seqlens_wire.errors import from_metadata
from seqlens_wire.pb import sequences_pb2 as pb
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub
from seqlens_wire.services import SEQUENCES, add_servicer


class Failing:
    """A service whose methods raise what it is told to."""

    def __init__(self) -> None:
        self.error: Exception = SeqLensError("unset")

    @unary
    async def ProcessBatch(self, request: Any, context: Context) -> Any:  # noqa: N802
        raise self.error

    @streaming
    async def ProcessStream(  # noqa: N802
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[Any]:
        yield pb.ProcessStreamResponse(ids=["before"])
        raise self.error


@pytest.fixture
async def failing() -> AsyncIterator[tuple[Failing, SequenceServiceStub]]:
    server, service = grpc.aio.server(), Failing()
    add_servicer(server, SEQUENCES, service)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield service, SequenceServiceStub(channel)
    await server.stop(0)


async def error_of(stub: SequenceServiceStub) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ProcessBatch(pb.ProcessBatchRequest())
    return caught.value


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("f", got="a", expected="b"), grpc.StatusCode.INVALID_ARGUMENT),
        (SequenceTooLong("f", 3, 2), grpc.StatusCode.INVALID_ARGUMENT),
        (ModelNotFound("m", "1", "2"), grpc.StatusCode.NOT_FOUND),
        (Draining("no"), grpc.StatusCode.UNAVAILABLE),
        (DeadlinePassed("late"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (NotOffered("no"), grpc.StatusCode.UNIMPLEMENTED),
        (BackendFailed("no"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_each_error_has_its_status_message_and_parts(
    error: SeqLensError, code: grpc.StatusCode, failing: tuple[Failing, SequenceServiceStub]
) -> None:
    service, stub = failing
    service.error = error
    seen = await error_of(stub)
    assert seen.code() is code
    assert seen.details() == str(error)
    details = from_metadata(seen.trailing_metadata())
    assert (details.field, details.got, details.expected) == (
        error.field,
        error.got,
        error.expected,
    )


async def test_an_overloaded_server_says_when_to_come_again(
    failing: tuple[Failing, SequenceServiceStub],
) -> None:
    service, stub = failing
    service.error = Overloaded("full", retry_after_seconds=0.25)
    seen = await error_of(stub)
    assert seen.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(seen.trailing_metadata())["grpc-retry-pushback-ms"] == "250"


async def test_nobodys_errors_stay_in_the_log_under_an_id(
    failing: tuple[Failing, SequenceServiceStub],
) -> None:
    service, stub = failing
    service.error = ZeroDivisionError("the secret")
    with capture_logs() as logs:
        seen = await error_of(stub)
    assert seen.code() is grpc.StatusCode.INTERNAL
    assert seen.details().startswith("internal error, id ")
    assert "secret" not in str(seen)
    assert logs[0]["error_id"] in seen.details()
    assert logs[0]["exc_info"] is service.error


async def test_a_stream_ends_with_the_status_after_what_was_sent(
    failing: tuple[Failing, SequenceServiceStub],
) -> None:
    service, stub = failing
    service.error = InvalidRequest("f", got="a", expected="b")
    call = stub.ProcessStream()
    assert list((await call.read()).ids) == ["before"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert from_metadata(caught.value.trailing_metadata()).field == "f"


async def test_a_long_message_is_cut_to_what_headers_hold(
    failing: tuple[Failing, SequenceServiceStub],
) -> None:
    service, stub = failing
    service.error = InvalidRequest("f", got="ä" * 50_000, expected="b" * 50_000)
    seen = await error_of(stub)
    assert seen.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(seen.details()) == MAX_MESSAGE_CHARACTERS
