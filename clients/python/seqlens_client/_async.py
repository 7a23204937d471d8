"""The client for asyncio, over gRPC's asynchronous channel."""

# ruff: noqa: ASYNC109
# gRPC tells the server how long a call may take; asyncio.timeout would not.

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import grpc.aio
from numpy.typing import ArrayLike

from seqlens_client import _operations as operations
from seqlens_client._answers import Outcome
from seqlens_client._descriptions import ModelDescription, ModelStatus
from seqlens_client._errors import SeqLensError, Unavailable, client_closed, error_of_call
from seqlens_client._exchange import LIST_WINDOW, Exchange
from seqlens_client._operations import Operation, Selection
from seqlens_client._options import CallOptions, StreamingOptions
from seqlens_client._results import Result
from seqlens_client._sequences import (
    ManySequences,
    OneSequence,
    Prepared,
    grouped,
    prepare,
    prepare_all,
)
from seqlens_client._stream_status import StreamStatus
from seqlens_client._transport import MAX_MESSAGE_BYTES, ChannelSettings, Stubs, deadline
from seqlens_wire.datatypes import Array

T = TypeVar("T")
Groups = Iterable[list[Prepared]] | AsyncIterable[list[Prepared]]


class AsyncClient:
    """Calls a SeqLens server from one event loop: the one in which it is first used.

    ``target`` is ``host:port``. ``timeout`` is the time in seconds that a call may take unless
    it says otherwise. ``retries`` (0 to 4) is how often gRPC repeats a call that found the server
    unavailable. ``credentials`` are those of ``grpc.ssl_channel_credentials``; None: no TLS.
    ``max_message_bytes`` bounds a message in either direction.

    Every method raises ``SeqLensError``; its subclasses say which kind.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        credentials: grpc.ChannelCredentials | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._timeout = timeout
        self._settings = ChannelSettings(target, retries, max_message_bytes, credentials)
        self._closed = False

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        # Not in the constructor: a channel belongs to the loop that is running when it is made.
        return self._settings.open_aio()

    @cached_property
    def _open_stubs(self) -> Stubs:
        return Stubs(self._channel)

    @property
    def _stubs(self) -> Stubs:
        if self._closed:
            raise client_closed()
        return self._open_stubs

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
        await self._channel.close()

    @overload
    async def infer(  # type: ignore[overload-overlap]  # a str is one text, though also a Sequence[str]
        self,
        model: str,
        sequence: OneSequence,
        *,
        return_errors: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> Result: ...
    @overload
    async def infer(
        self,
        model: str,
        sequence: ManySequences,
        *,
        return_errors: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> list[Result]: ...
    @overload
    async def infer(
        self,
        model: str,
        sequence: ManySequences,
        *,
        return_errors: Literal[True],
        **options: Unpack[CallOptions],
    ) -> list[Result | SeqLensError]: ...
    async def infer(
        self,
        model: str,
        sequence: OneSequence | ManySequences,
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
        priority: int = 0,
        return_errors: bool = False,
    ) -> Any:
        """Run one sequence, or a list of them, each of its own length.

        One sequence is a text, a list of token ids or other numbers, an array whose first axis is
        time, or a mapping from input names to such arrays. A list of any of these gives a list of
        results in the same order; it travels in as few messages as is good for the server.

        ``outputs`` names those wanted (None: all); ``timeout`` is the time in seconds for the
        whole call (``math.inf``: no limit); ``priority`` 1 goes first, larger numbers later, 0 is
        the server's default. A bad sequence in a list raises its error, with ``index`` set, as
        soon as it is known, or with ``return_errors`` takes its place in the list.
        """
        selection = Selection(model, version, outputs, priority)
        prepared = prepare_all(sequence)
        if isinstance(prepared, Prepared):
            return await self._run(operations.process_one(selection, prepared), timeout)
        if len(prepared) == 1:  # in one message a call of its own is cheaper than a stream
            group = operations.process_group(selection, *prepared, return_errors=return_errors)
            return await self._run(group, timeout)
        return await self._infer_many(selection, prepared, timeout, return_errors)

    async def _infer_many(
        self,
        selection: Selection,
        groups: list[list[Prepared]],
        timeout: float | None,
        return_errors: bool,
    ) -> list[Outcome]:
        seconds = deadline(timeout, self._timeout)
        exchange = Exchange(
            selection,
            window=LIST_WINDOW,
            keep_order=False,
            return_errors=return_errors,
            timeout=seconds,
        )
        outcomes = {
            index: outcome async for index, outcome in self._exchange(exchange, groups, seconds)
        }
        return [outcomes[index] for index in range(len(outcomes))]

    @overload
    def stream(
        self,
        model: str,
        sequences: Iterable[OneSequence] | AsyncIterable[OneSequence],
        *,
        keep_order: Literal[True] = True,
        return_errors: Literal[False] = False,
        **options: Unpack[StreamingOptions],
    ) -> AsyncIterator[Result]: ...
    @overload
    def stream(
        self,
        model: str,
        sequences: Iterable[OneSequence] | AsyncIterable[OneSequence],
        *,
        keep_order: Literal[True] = True,
        return_errors: Literal[True],
        **options: Unpack[StreamingOptions],
    ) -> AsyncIterator[Result | SeqLensError]: ...
    @overload
    def stream(
        self,
        model: str,
        sequences: Iterable[OneSequence] | AsyncIterable[OneSequence],
        *,
        keep_order: Literal[False],
        return_errors: Literal[False] = False,
        **options: Unpack[StreamingOptions],
    ) -> AsyncIterator[tuple[int, Result]]: ...
    @overload
    def stream(
        self,
        model: str,
        sequences: Iterable[OneSequence] | AsyncIterable[OneSequence],
        *,
        keep_order: Literal[False],
        return_errors: Literal[True],
        **options: Unpack[StreamingOptions],
    ) -> AsyncIterator[tuple[int, Result | SeqLensError]]: ...
    def stream(
        self,
        model: str,
        sequences: Iterable[OneSequence] | AsyncIterable[OneSequence],
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
        priority: int = 0,
        window: int = 64,
        keep_order: bool = True,
        return_errors: bool = False,
    ) -> Any:
        """Send sequences as they come and yield results as they come.

        ``sequences`` may be endless and may be asynchronous; it is read by another task, never
        more than ``window`` sequences ahead of the answers. Yields results in the order of the
        sequences, or with ``keep_order=False`` pairs of a sequence's index and its result, as
        soon as each is ready.

        ``timeout`` is the time in seconds for each sequence at the server; the stream itself may
        last as long as it likes. A bad sequence raises its error, which ends the stream, or with
        ``return_errors`` takes its place in it. Other arguments are as for ``infer``.
        """
        exchange = Exchange(
            Selection(model, version, outputs, priority),
            window=window,
            keep_order=keep_order,
            return_errors=return_errors,
            timeout=deadline(timeout, self._timeout),
        )
        groups = (
            _alone(sequences)
            if isinstance(sequences, AsyncIterable)
            else grouped(sequences, exchange.group_limit)
        )
        return self._exchange(exchange, groups, None)

    async def _exchange(
        self, exchange: Exchange, groups: Groups, seconds: float | None
    ) -> AsyncIterator[Any]:
        room = asyncio.Event()
        call = self._stubs.sequences.ProcessStream(timeout=seconds)
        status = StreamStatus(call)
        sender = asyncio.create_task(_send(call, exchange, groups, room))
        try:
            with _cancelled_if_closed():
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

    async def infer_tensors(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
        priority: int = 0,
    ) -> dict[str, Array]:
        """Run whole tensors by the Open Inference Protocol: batch axis and padding included.

        Works with every server of the protocol. Arrays are sent in their own datatype.
        """
        selection = Selection(model, version, outputs, priority)
        return await self._run(operations.infer_tensors(selection, inputs), timeout)

    async def models(self, *, timeout: float | None = None) -> list[ModelStatus]:
        """All models of the server's repository, ready or not."""
        return await self._run(operations.models(), timeout)

    async def describe(
        self, model: str, *, version: str = "", timeout: float | None = None
    ) -> ModelDescription:
        """What was found in a model, how it is served, and the proof that batching is safe."""
        return await self._run(operations.describe(model, version), timeout)

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

    async def _run(self, operation: Operation[T], timeout: float | None) -> T:
        call = self._stubs.method(operation)
        try:
            with _cancelled_if_closed():
                response = await call(operation.request, timeout=deadline(timeout, self._timeout))
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        return operation.read(response)


@contextmanager
def _cancelled_if_closed() -> Iterator[None]:
    """A closed channel cancels its calls, which looks the same as a cancelled task."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise client_closed() from None


async def _alone(sequences: AsyncIterable[OneSequence]) -> AsyncIterator[list[Prepared]]:
    """Each sequence as a group of its own, so that none waits for one that may come later."""
    index = 0
    async for sequence in sequences:
        yield [prepare(sequence, index)]
        index += 1


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _send(call: Any, exchange: Exchange, groups: Groups, room: asyncio.Event) -> None:
    """Send all groups as there is room. An error of ``groups`` is left in ``exchange``."""
    try:
        await call.write(exchange.opening())
        async for group in _each(groups):
            while not exchange.has_room(group):
                room.clear()
                await room.wait()
            await call.write(exchange.request(group))
        exchange.all_sent = True
    except Exception as error:
        if call.done():  # no more can be written, and whoever reads hears why
            return
        exchange.failure = error
    await call.done_writing()
