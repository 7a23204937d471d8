"""What closing a client does to the calls under way in an event loop."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from seqlens_client._errors import client_closed


@contextmanager
def cancelled_if_closed() -> Iterator[None]:
    """A closed channel cancels its calls, which looks the same as a cancelled task."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise client_closed() from None
