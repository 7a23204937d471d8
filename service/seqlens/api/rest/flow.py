"""How fast one connection is read, and how long its client may take to read."""

import asyncio
from collections.abc import Sized

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """Flow control of one connection.

    It reads on only while no request waits for its turn, which bounds what can be pipelined. It
    cuts off a client that has an answer to read and reads nothing of it for a time.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        waiting: Sized,
        loop: asyncio.AbstractEventLoop,
        stall_seconds: float,
    ) -> None:
        super().__init__(transport)
        self._waiting = waiting
        self._loop = loop
        self._stall_seconds = stall_seconds
        self._stall_timer: asyncio.TimerHandle | None = None

    def resume_reading(self) -> None:
        """Read on, if that may be."""
        if not self._waiting:
            super().resume_reading()

    def pause_writing(self) -> None:
        """Let answers wait: the client is slow to read."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """Let answers go on: it has read, or is gone."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _watch_reader(self) -> None:
        unsent = self._transport.get_write_buffer_size()
        self._stall_timer = self._loop.call_later(self._stall_seconds, self._look_again, unsent)

    def _look_again(self, unsent: int) -> None:
        if self._transport.get_write_buffer_size() < unsent:
            self._watch_reader()
        else:
            self._transport.abort()
