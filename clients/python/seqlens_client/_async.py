"""The client for asyncio, over gRPC's asynchronous channel."""

# ruff: noqa: ASYNC109
# gRPC tells the server how long a call may take; asyncio.timeout would not.

from __future__ import annotations

import asyncio
import math
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc.aio
from numpy.typing import ArrayLike

from seqlens_client import _operations as operations
from seqlens_client._answers import Outcome
from seqlens_client._async_closing import cancelled_if_closed
from seqlens_client._async_sending import Groups, alone, send
from seqlens_client._calls import InferenceCalls
from seqlens_client._descriptions import ModelDescription, ModelStatus
from seqlens_client._errors import (
    Overloaded,
    SeqLensError,
    Unavailable,
    client_closed,
    error_of_call,
)
from seqlens_client._exchange import Exchange
from seqlens_client._files.job import FileSummary
from seqlens_client._files.request import FileRequest
from seqlens_client._hedging import hedged_aio
from seqlens_client._insight_async import AsyncInsight
from seqlens_client._insight_calls import Looking
from seqlens_client._operations import Operation, Selection
from seqlens_client._patience import TimeLeft, deadline, pause
from seqlens_client._results import Result
from seqlens_client._sequences import OneSequence, Prepared, grouped
from seqlens_client._statistics import ModelStatistics
from seqlens_client._stream_status import StreamStatus
from seqlens_client._sync import Client
from seqlens_client._transport import Stubs
from seqlens_wire.datatypes import Array

T = TypeVar("T")


class AsyncClient(
    InferenceCalls[
        Coroutine[Any, Any, Result],
        Coroutine[Any, Any, list[Result]],
        Coroutine[Any, Any, list[Result | SeqLensError]],
        Iterable[OneSequence] | AsyncIterable[OneSequence],
        AsyncIterator[Result],
        AsyncIterator[Result | SeqLensError],
        AsyncIterator[tuple[int, Result]],
        AsyncIterator[tuple[int, Result | SeqLensError]],
        Coroutine[Any, Any, FileSummary],
    ],
    AsyncInsight,
):
    """Calls a SeqLens server from one event loop: the one in which it is first used.

    ``target`` is ``host:port``, or any other target of gRPC; if it stands for several servers,
    calls go to each in turn. ``timeout`` is the time in seconds that a call may take, all its
    attempts together, unless it says otherwise. ``retries`` (0 to 4) is how often a call is
    repeated that found the server unavailable, or overloaded and saying when to come again.
    After ``hedge_after`` seconds without an answer ``infer`` asks a second time and takes the
    first answer (None: never). ``max_message_bytes`` bounds a message in either direction.

    ``credentials`` are those of ``tls()``; None: no TLS. ``token`` goes with every call as
    ``authorization: Bearer``. Without TLS anybody on the way can read it: use it so within one
    machine or behind a proxy that adds TLS.

    Every method raises ``SeqLensError``; its subclasses say which kind.
    """

    def _connect(self) -> None:
        self._file_clients: set[Client] = set()

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        # Not in the constructor: a channel belongs to the loop that is running when it is made.
        self._loop = asyncio.get_running_loop()
        return self._settings.open_aio()

    @cached_property
    def _open_stubs(self) -> Stubs:
        return Stubs(self._channel)

    @property
    def _stubs(self) -> Stubs:
        if self._closed:
            raise client_closed()
        stubs = self._open_stubs
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("this AsyncClient belongs to another event loop: make one for each")
        return stubs

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled, and later ones raise ``Cancelled``."""
        self._closed = True
        for client in self._file_clients:
            client.close()
        await self._channel.close()

    async def _infer_many(
        self, exchange: Exchange, groups: list[list[Prepared]], seconds: float | None
    ) -> list[Outcome]:
        outcomes = {
            index: outcome async for index, outcome in self._exchange(exchange, groups, seconds)
        }
        return [outcomes[index] for index in range(len(outcomes))]

    def _stream(
        self, exchange: Exchange, sequences: Iterable[OneSequence] | AsyncIterable[OneSequence]
    ) -> AsyncIterator[Any]:
        groups = (
            alone(sequences)
            if isinstance(sequences, AsyncIterable)
            else grouped(sequences, exchange.group_limit)
        )
        return self._exchange(exchange, groups, None)

    async def _exchange(
        self, exchange: Exchange, groups: Groups, seconds: float | None
    ) -> AsyncIterator[Any]:
        room = asyncio.Event()
        call = self._stubs.sequences.ProcessStream(
            timeout=seconds, metadata=self._settings.metadata
        )
        status = StreamStatus(call)
        sender = asyncio.create_task(send(call, exchange, groups, room))
        try:
            with cancelled_if_closed():
                async for response in call:
                    outcomes = exchange.outcomes(response)
                    room.set()
                    for index, outcome in outcomes:
                        yield exchange.shown(index, outcome)
        except grpc.RpcError as error:
            reason = await status.error(error)
            if reason is not None:
                raise reason from error
        finally:
            call.cancel()
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        exchange.finish()

    async def _process_file(self, request: FileRequest) -> FileSummary:
        """Files block, so they are left to a client for threads, on a thread of its own."""
        if self._closed:
            raise client_closed()
        settings = self._settings
        client = Client(
            settings.target,
            timeout=self._timeout,
            retries=settings.retries,
            credentials=settings.credentials,
            token=settings.token,
            max_message_bytes=settings.max_message_bytes,
        )
        self._file_clients.add(client)
        work = asyncio.ensure_future(asyncio.to_thread(client._process_file, request))
        try:
            return await asyncio.shield(work)
        finally:
            client.close()  # which ends the work, if the task was cancelled before it did
            self._file_clients.discard(client)
            await asyncio.wait({work})

    async def infer_tensors(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
        priority: int = 0,
        hedge_after: float | None = None,
    ) -> dict[str, Array]:
        """Run whole tensors by the Open Inference Protocol: batch axis and padding included.

        Works with every server of the protocol. Arrays are sent in their own datatype.
        """
        selection = Selection(model, version, outputs, priority)
        return await self._run(operations.infer_tensors(selection, inputs), timeout, hedge_after)

    async def models(self, *, timeout: float | None = None) -> list[ModelStatus]:
        """All models of the server's repository, ready or not."""
        return await self._run(operations.models(), timeout)

    async def describe(
        self, model: str, *, version: str = "", timeout: float | None = None
    ) -> ModelDescription:
        """What was found in a model, how it is served, and the proof that batching is safe."""
        return await self._run(operations.describe(model, version), timeout)

    async def load(self, model: str, *, timeout: float | None = None) -> None:
        """Load a model of the server's repository, or load it anew with its newest files.

        Returns when it takes requests; the one that was loaded before serves until then. Allow
        for the time in which the server proves and measures the model.
        """
        await self._run(operations.load(model), timeout)

    async def unload(self, model: str, *, timeout: float | None = None) -> None:
        """Stop serving a model. Its requests under way are answered."""
        await self._run(operations.unload(model), timeout)

    async def statistics(
        self, model: str | None = None, *, version: str = "", timeout: float | None = None
    ) -> list[ModelStatistics]:
        """What the server has counted since it loaded each version of one model, or of all."""
        return await self._run(operations.statistics(model, version), timeout)

    async def ready(
        self, model: str | None = None, *, version: str = "", timeout: float | None = None
    ) -> bool:
        """Whether the server, or one of its models, takes requests.

        False also for a server out of reach and for a model that a SeqLens server does not
        have; other servers of the protocol may raise ``ModelNotFound`` for that.
        """
        try:
            return await self._run(operations.ready(model, version), timeout)
        except Unavailable:
            return False

    async def _run(
        self, operation: Operation[T], timeout: float | None, hedge_after: float | None = math.inf
    ) -> T:
        hedge = deadline(hedge_after, self._hedge_after)

        async def attempt(left: TimeLeft) -> T:
            begin = partial(self._begin, operation, left)
            with cancelled_if_closed():
                response = await (begin() if hedge is None else hedged_aio(begin, hedge))
            return operation.read(response)

        return await self._attempts(attempt, timeout)

    async def _attempts(
        self, attempt: Callable[[TimeLeft], Awaitable[T]], timeout: float | None
    ) -> T:
        left = TimeLeft(deadline(timeout, self._timeout))
        for retries in range(self._settings.retries, -1, -1):
            try:
                return await attempt(left)
            except Overloaded as error:
                seconds = pause(error, retries=retries, seconds=left.seconds())
                if seconds is None:
                    raise
                await asyncio.sleep(seconds)
        raise AssertionError("the last attempt is not followed by a pause")

    async def _begin(self, operation: Operation[T], left: TimeLeft) -> Any:
        method = self._stubs.method(operation)
        try:
            return await method(
                operation.request, timeout=left.seconds(), metadata=self._settings.metadata
            )
        except grpc.RpcError as error:
            raise error_of_call(error) from error

    def _look(self, looking: Looking[Any], seconds: float | None) -> Any:
        method = getattr(self._stubs.sequences, looking.method)
        return method(looking.request, timeout=seconds, metadata=self._settings.metadata)
