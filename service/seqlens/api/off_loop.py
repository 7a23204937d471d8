"""Work on many bytes, kept off the event loop."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Checking or copying more than this takes longer than the event loop may be held up.
LARGE_BYTES = 1 << 20


async def off_loop_if_large(
    size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call a function on ``size`` bytes: in a thread if they are many, else at once."""
    if size > LARGE_BYTES:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)
