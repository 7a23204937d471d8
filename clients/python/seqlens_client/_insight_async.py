"""Looking inside a model, from an event loop."""

# ruff: noqa: ASYNC109
# gRPC tells the server how long a call may take; asyncio.timeout would not.

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import grpc

from seqlens_client._async_closing import cancelled_if_closed
from seqlens_client._attention import AttentionMap, SiteMap
from seqlens_client._errors import SeqLensError, error_of_call, looking_inside
from seqlens_client._gates import Gates
from seqlens_client._influence import Influence
from seqlens_client._insight_calls import InsightCalls, Looking
from seqlens_client._insight_reading import AttentionReader
from seqlens_client._operations import Operation
from seqlens_client._patience import TimeLeft

T = TypeVar("T")
Messages = AsyncGenerator[Any, None]


class AsyncInsight(
    InsightCalls[
        Coroutine[Any, Any, AttentionMap],
        Coroutine[Any, Any, list[AttentionMap]],
        Coroutine[Any, Any, list[AttentionMap | SeqLensError]],
        AsyncIterator[SiteMap],
        Coroutine[Any, Any, Influence],
        Coroutine[Any, Any, Gates],
    ]
):
    """The part of ``AsyncClient`` that looks inside models."""

    async def _ask(self, operation: Operation[Influence], timeout: float | None) -> Influence:
        with looking_inside():
            return await self._run(operation, timeout)

    async def _gather(self, looking: Looking[Any], timeout: float | None) -> Any:
        async def attempt(left: TimeLeft) -> Any:
            reader = looking.reader()
            async with aclosing(self._messages(looking, left)) as messages:
                async for message in messages:
                    reader.take(message)
            return reader.finish()

        with looking_inside():
            return await self._attempts(attempt, timeout)

    async def _site_maps(
        self, looking: Looking[AttentionReader], timeout: float | None
    ) -> AsyncIterator[SiteMap]:
        async def attempt(left: TimeLeft) -> tuple[Any, Messages]:
            messages = self._messages(looking, left)
            return await anext(messages, None), messages  # a server that refuses does so at once

        reader = looking.reader()
        with looking_inside():
            first, messages = await self._attempts(attempt, timeout)
            async with aclosing(messages):
                if first is not None:
                    reader.take(first)
                async for message in messages:
                    for site_map in reader.take(message):
                        yield site_map
            for site_map in reader.rest():
                yield site_map

    async def _messages(self, looking: Looking[Any], left: TimeLeft) -> Messages:
        call = self._look(looking, left.seconds())
        try:
            with cancelled_if_closed():
                async for message in call:
                    yield message
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        finally:
            call.cancel()

    @abstractmethod
    async def _run(self, operation: Operation[T], timeout: float | None) -> T: ...

    @abstractmethod
    async def _attempts(
        self, attempt: Callable[[TimeLeft], Awaitable[T]], timeout: float | None
    ) -> T: ...

    @abstractmethod
    def _look(self, looking: Looking[Any], seconds: float | None) -> Any: ...
