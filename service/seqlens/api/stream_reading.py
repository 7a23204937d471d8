"""What holds the reader of a stream back, and what ends it.

Not reading on is what pushes back on the client: HTTP/2 then stops its sender, and neither
requests nor answers pile up in memory.
"""

import asyncio
from collections.abc import Coroutine

from seqlens.api.served import DRAINING
from seqlens.errors import Draining


class StreamRoom:
    """What one stream leaves unanswered. Used on the event loop only.

    Parameters
    ----------
    window
        There is room for more only while fewer than this are unanswered.
    most_bytes
        There is room for more only while the unanswered hold less than this.
    """

    def __init__(self, window: int, most_bytes: int) -> None:
        self._window, self._most_bytes = window, most_bytes
        self._count = self._bytes = 0
        self._changed = asyncio.Event()

    def take(self, size: int) -> None:
        """One more is unanswered, and holds ``size`` bytes."""
        self._count += 1
        self._bytes += size

    def resize(self, before: int, after: int) -> None:
        """One of them holds another size now: its answer took the place of its inputs."""
        self._bytes += after - before
        self._changed.set()

    def give_back(self, size: int) -> None:
        """One of them, of ``size`` bytes, is answered."""
        self._count -= 1
        self._bytes -= size
        self._changed.set()

    async def wait(self) -> None:
        """Wait until there is room for more."""
        while self._count >= self._window or self._bytes >= self._most_bytes:
            self._changed.clear()
            await self._changed.wait()


async def read_until_drained(reading: Coroutine[None, None, None], draining: asyncio.Event) -> None:
    """Read to the end of a stream; when the server shuts down, stop and raise ``Draining``."""
    reader = asyncio.create_task(reading)
    drained = asyncio.create_task(draining.wait())
    try:
        await asyncio.wait({reader, drained}, return_when=asyncio.FIRST_COMPLETED)
        if not reader.done():
            raise Draining(DRAINING)
        await reader
    finally:
        reader.cancel()
        drained.cancel()
