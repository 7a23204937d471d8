"""The client for threads, over gRPC's synchronous channel."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from numpy.typing import ArrayLike

from seqlens_client import _operations as operations
from seqlens_client._answers import Outcome
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
from seqlens_client._files.job import FileJob, FileSummary
from seqlens_client._files.request import FileRequest
from seqlens_client._hedging import hedged
from seqlens_client._insight_calls import Looking
from seqlens_client._insight_sync import SyncInsight
from seqlens_client._operations import Operation, Selection
from seqlens_client._patience import TimeLeft, deadline, pause
from seqlens_client._results import Result
from seqlens_client._sequences import OneSequence, Prepared, grouped
from seqlens_client._statistics import ModelStatistics
from seqlens_client._transport import Stubs
from seqlens_wire.datatypes import Array
from seqlens_wire.pb.sequences_pb2 import ProcessStreamRequest

T = TypeVar("T")


class Client(
    InferenceCalls[
        Result,
        list[Result],
        list[Result | SeqLensError],
        Iterable[OneSequence],
        Iterator[Result],
        Iterator[Result | SeqLensError],
        Iterator[tuple[int, Result]],
        Iterator[tuple[int, Result | SeqLensError]],
        FileSummary,
    ],
    SyncInsight,
):
    """Calls a SeqLens server. May be used by several threads at the same time.

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
        self._channel = self._settings.open()
        self._stubs = Stubs(self._channel)

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

    def _infer_many(
        self, exchange: Exchange, groups: list[list[Prepared]], seconds: float | None
    ) -> list[Outcome]:
        outcomes = dict(self._exchange(exchange, groups, seconds))
        return [outcomes[index] for index in range(len(outcomes))]

    def _stream(self, exchange: Exchange, sequences: Iterable[OneSequence]) -> Iterator[Any]:
        return self._exchange(exchange, grouped(sequences, exchange.group_limit), None)

    def _exchange(
        self, exchange: Exchange, groups: Iterable[list[Prepared]], seconds: float | None
    ) -> Iterator[Any]:
        room = threading.Event()
        requests = _requests(exchange, groups, room)
        with self._told_if_closed():
            call = self._stubs.sequences.ProcessStream(
                requests, timeout=seconds, metadata=self._settings.metadata
            )
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

    def _process_file(self, request: FileRequest) -> FileSummary:
        model = self.describe(request.model, version=request.version)
        exchange = partial(self._exchange, seconds=None)
        return FileJob(request, model, exchange, lambda: self._closed).run()

    def infer_tensors(
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
        return self._run(operations.infer_tensors(selection, inputs), timeout, hedge_after)

    def models(self, *, timeout: float | None = None) -> list[ModelStatus]:
        """All models of the server's repository, ready or not."""
        return self._run(operations.models(), timeout)

    def describe(
        self, model: str, *, version: str = "", timeout: float | None = None
    ) -> ModelDescription:
        """What was found in a model, how it is served, and the proof that batching is safe."""
        return self._run(operations.describe(model, version), timeout)

    def load(self, model: str, *, timeout: float | None = None) -> None:
        """Load a model of the server's repository, or load it anew with its newest files.

        Returns when it takes requests; the one that was loaded before serves until then. Allow
        for the time in which the server proves and measures the model.
        """
        self._run(operations.load(model), timeout)

    def unload(self, model: str, *, timeout: float | None = None) -> None:
        """Stop serving a model. Its requests under way are answered."""
        self._run(operations.unload(model), timeout)

    def statistics(
        self, model: str | None = None, *, version: str = "", timeout: float | None = None
    ) -> list[ModelStatistics]:
        """What the server has counted since it loaded each version of one model, or of all."""
        return self._run(operations.statistics(model, version), timeout)

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

    def _run(
        self, operation: Operation[T], timeout: float | None, hedge_after: float | None = math.inf
    ) -> T:
        hedge = deadline(hedge_after, self._hedge_after)

        def attempt(left: TimeLeft) -> T:
            begin = partial(self._begin, operation, left)
            with self._told_if_closed():
                response = begin(wait=True) if hedge is None else hedged(begin, hedge)
            return operation.read(response)

        return self._attempts(attempt, timeout)

    def _attempts(self, attempt: Callable[[TimeLeft], T], timeout: float | None) -> T:
        left = TimeLeft(deadline(timeout, self._timeout))
        for retries in range(self._settings.retries, -1, -1):
            try:
                return attempt(left)
            except Overloaded as error:
                seconds = pause(error, retries=retries, seconds=left.seconds())
                if seconds is None:
                    raise
                time.sleep(seconds)
        raise AssertionError("the last attempt is not followed by a pause")

    def _begin(self, operation: Operation[T], left: TimeLeft, *, wait: bool = False) -> Any:
        method = self._stubs.method(operation)
        options = {"timeout": left.seconds(), "metadata": self._settings.metadata}
        if not wait:
            return method.future(operation.request, **options)
        try:
            return method(operation.request, **options)
        except grpc.RpcError as error:
            raise error_of_call(error) from error

    def _look(self, looking: Looking[Any], seconds: float | None) -> Any:
        method = getattr(self._stubs.sequences, looking.method)
        with self._told_if_closed():
            return method(looking.request, timeout=seconds, metadata=self._settings.metadata)


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
