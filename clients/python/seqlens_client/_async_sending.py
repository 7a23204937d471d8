"""The sending half of a stream, as a task beside the one that receives."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, TypeVar

from seqlens_client._exchange import Exchange
from seqlens_client._sequences import OneSequence, Prepared, prepare

T = TypeVar("T")
Groups = Iterable[list[Prepared]] | AsyncIterable[list[Prepared]]


async def alone(sequences: AsyncIterable[OneSequence]) -> AsyncIterator[list[Prepared]]:
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


async def send(call: Any, exchange: Exchange, groups: Groups, room: asyncio.Event) -> None:
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
