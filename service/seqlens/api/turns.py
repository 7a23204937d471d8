"""Long work on the event loop, one caller at a time."""

import asyncio

# So many sequences are taken apart, or handed over, in about 5 ms.
MANY_SEQUENCES = 128


class Turns:
    """Keeps callers with much to do from doing it all in the same round of the event loop.

    A round runs all that is ready, and only then looks for anything new: without turns, sixty
    requests of thousands of rows each hold up a health check that comes after them for the time
    of all sixty.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def take(self, sequences: int) -> None:
        """Return at once where there is little to do, else in a round that no other one got."""
        if sequences > MANY_SEQUENCES:
            async with self._lock:
                await asyncio.sleep(0)
