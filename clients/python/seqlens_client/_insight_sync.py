"""Looking inside a model, for threads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, TypeVar

import grpc

from seqlens_client._attention import AttentionMap, SiteMap
from seqlens_client._errors import SeqLensError, error_of_call, looking_inside
from seqlens_client._gates import Gates
from seqlens_client._influence import Influence
from seqlens_client._insight_calls import InsightCalls, Looking
from seqlens_client._insight_reading import AttentionReader
from seqlens_client._operations import Operation
from seqlens_client._patience import TimeLeft

T = TypeVar("T")
Messages = Generator[Any, None, None]


class SyncInsight(
    InsightCalls[
        AttentionMap,
        list[AttentionMap],
        list[AttentionMap | SeqLensError],
        Iterator[SiteMap],
        Influence,
        Gates,
    ]
):
    """The part of ``Client`` that looks inside models."""

    def _ask(self, operation: Operation[Influence], timeout: float | None) -> Influence:
        with looking_inside():
            return self._run(operation, timeout)

    def _gather(self, looking: Looking[Any], timeout: float | None) -> Any:
        def attempt(left: TimeLeft) -> Any:
            reader = looking.reader()
            with closing(self._messages(looking, left)) as messages:
                for message in messages:
                    reader.take(message)
            return reader.finish()

        with looking_inside():
            return self._attempts(attempt, timeout)

    def _site_maps(
        self, looking: Looking[AttentionReader], timeout: float | None
    ) -> Iterator[SiteMap]:
        def attempt(left: TimeLeft) -> tuple[Any, Messages]:
            messages = self._messages(looking, left)
            return next(messages, None), messages  # a server that refuses does so at once

        reader = looking.reader()
        with looking_inside():
            first, messages = self._attempts(attempt, timeout)
            with closing(messages):
                if first is not None:
                    reader.take(first)
                for message in messages:
                    yield from reader.take(message)
            yield from reader.rest()

    def _messages(self, looking: Looking[Any], left: TimeLeft) -> Messages:
        call = self._look(looking, left.seconds())
        try:
            yield from call
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        finally:
            call.cancel()

    @abstractmethod
    def _run(self, operation: Operation[T], timeout: float | None) -> T: ...

    @abstractmethod
    def _attempts(self, attempt: Callable[[TimeLeft], T], timeout: float | None) -> T: ...

    @abstractmethod
    def _look(self, looking: Looking[Any], seconds: float | None) -> Any: ...
