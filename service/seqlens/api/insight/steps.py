"""What a generator gives, made step by step in the threads that look inside models."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import TypeVar

from seqlens.attention.runs import never
from seqlens.scheduling.insight_lanes import Place

T = TypeVar("T")
First = TypeVar("First")


class Left:
    """Whether the caller has left, as the piece of work that is done now is told."""

    def __init__(self) -> None:
        self.asked: Callable[[], bool] = never

    def __call__(self) -> bool:
        """Ask."""
        return self.asked()


async def each(
    place: Place, steps: Iterator[T], deadline: float | None, left: Left
) -> AsyncGenerator[T, None]:
    """What a generator gives, each item made in a thread when the one before it is taken.

    The generator asks ``left``, between whose answers the thread may rest as well.
    """

    def step(cancelled: Callable[[], bool]) -> T | None:
        left.asked = cancelled
        return next(steps, None)

    while (item := await place.run(step, deadline=deadline)) is not None:
        yield item


async def led_by(first: First, items: AsyncGenerator[T, None]) -> AsyncGenerator[First | T, None]:
    """What follows, and before it, once it is known that something does, what comes first."""
    told = False
    async with aclosing(items):
        async for item in items:
            if not told:
                yield first
                told = True
            yield item
