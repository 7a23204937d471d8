"""The client for threads, over gRPC's synchronous channel."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import grpc
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
    prepare_all,
)
from seqlens_client._transport import MAX_MESSAGE_BYTES, ChannelSettings, Stubs, deadline
from seqlens_wire.datatypes import Array
from seqlens_wire.pb.sequences_pb2 import ProcessStreamRequest

T = TypeVar("T")


class Client:
    """Calls a SeqLens server. May be used by several threads at the same time.

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
        self._channel = ChannelSettings(target, retries, max_message_bytes, credentials).open()
        self._stubs = Stubs(self._channel)
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; calls under way are cancelled, and later ones raise ``Cancelled``."""
        self._closed = True
        self._channel.close()

    @contextmanager
    def _told_if_closed(self) -> Iterator[None]:
        """gRPC raises a bare ``ValueError`` for a call on a closed channel."""
        try:
            yield
        except ValueError:
            if self._closed:
                raise client_closed() from None
            raise

    @overload
    def infer(  # type: ignore[overload-overlap]  # a str is one text, not many
        self,
        model: str,
        sequence: OneSequence,
        *,
        return_errors: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> Result: ...
    @overload
    def infer(
        self,
        model: str,
        sequence: ManySequences,
        *,
        return_errors: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> list[Result]: ...
    @overload
    def infer(
        self,
        model: str,
        sequence: ManySequences,
        *,
        return_errors: Literal[True],
        **options: Unpack[CallOptions],
    ) -> list[Result | SeqLensError]: ...
    def infer(
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
            return self._run(operations.process_one(selection, prepared), timeout)
        if len(prepared) == 1:  # in one message a call of its own is cheaper than a stream
            group = operations.process_group(selection, *prepared, return_errors=return_errors)
            return self._run(group, timeout)
        return self._infer_many(selection, prepared, timeout, return_errors)

    def _infer_many(
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
        outcomes = dict(self._exchange(exchange, groups, seconds))
        return [outcomes[index] for index in range(len(outcomes))]

    @overload
    def stream(
        self,
        model: str,
        sequences: Iterable[OneSequence],
        *,
        keep_order: Literal[True] = True,
        return_errors: Literal[False] = False,
        **options: Unpack[StreamingOptions],
    ) -> Iterator[Result]: ...
    @overload
    def stream(
        self,
        model: str,
        sequences: Iterable[OneSequence],
        *,
        keep_order: Literal[True] = True,
        return_errors: Literal[True],
        **options: Unpack[StreamingOptions],
    ) -> Iterator[Result | SeqLensError]: ...
    @overload
    def stream(
        self,
        model: str,
        sequences: Iterable[OneSequence],
        *,
        keep_order: Literal[False],
        return_errors: Literal[False] = False,
        **options: Unpack[StreamingOptions],
    ) -> Iterator[tuple[int, Result]]: ...
    @overload
    def stream(
        self,
        model: str,
        sequences: Iterable[OneSequence],
        *,
        keep_order: Literal[False],
        return_errors: Literal[True],
        **options: Unpack[StreamingOptions],
    ) -> Iterator[tuple[int, Result | SeqLensError]]: ...
    def stream(
        self,
        model: str,
        sequences: Iterable[OneSequence],
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

        ``sequences`` may be endless; it is read on another thread, never more than ``window``
        sequences ahead of the answers. Yields results in the order of the sequences, or with
        ``keep_order=False`` pairs of a sequence's index and its result, as soon as each is ready.

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
        return self._exchange(exchange, grouped(sequences, exchange.group_limit), None)

    def _exchange(
        self, exchange: Exchange, groups: Iterable[list[Prepared]], seconds: float | None
    ) -> Iterator[Any]:
        room = threading.Event()
        requests = _requests(exchange, groups, room)
        with self._told_if_closed():
            call = self._stubs.sequences.ProcessStream(requests, timeout=seconds)
        try:
            for response in call:
                outcomes = exchange.outcomes(response)
                room.set()
                for index, outcome in outcomes:
                    yield exchange.shown(index, outcome)
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        finally:
            exchange.closed = True
            room.set()
            call.cancel()
        exchange.finish()

    def infer_tensors(
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
        return self._run(operations.infer_tensors(selection, inputs), timeout)

    def models(self, *, timeout: float | None = None) -> list[ModelStatus]:
        """All models of the server's repository, ready or not."""
        return self._run(operations.models(), timeout)

    def describe(
        self, model: str, *, version: str = "", timeout: float | None = None
    ) -> ModelDescription:
        """What was found in a model, how it is served, and the proof that batching is safe."""
        return self._run(operations.describe(model, version), timeout)

    def ready(
        self, model: str | None = None, *, version: str = "", timeout: float | None = None
    ) -> bool:
        """Whether the server, or one of its models, takes requests.

        False also for a server out of reach and for a model that a SeqLens server does not
        have; other servers of the protocol may raise ``ModelNotFound`` for that.
        """
        try:
            return self._run(operations.ready(model, version), timeout)
        except Unavailable:
            return False

    def _run(self, operation: Operation[T], timeout: float | None) -> T:
        call = self._stubs.method(operation)
        try:
            with self._told_if_closed():
                response = call(operation.request, timeout=deadline(timeout, self._timeout))
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        return operation.read(response)


def _requests(
    exchange: Exchange, groups: Iterable[list[Prepared]], room: threading.Event
) -> Iterator[ProcessStreamRequest]:
    """What gRPC's own thread sends. Ends, instead of raising there, when ``groups`` raises."""
    yield exchange.opening()
    try:
        for group in groups:
            while not exchange.has_room(group):
                room.clear()
                if not exchange.has_room(group):
                    room.wait()
            if exchange.closed:
                return
            yield exchange.request(group)
        exchange.all_sent = True
    except Exception as error:
        exchange.failure = error
