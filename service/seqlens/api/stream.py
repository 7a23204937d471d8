"""One stream of sequences: read within a window, answered as ready or in order.

A reader takes messages as long as the window has room. Every sequence becomes a ``Pending`` that
is done exactly once; the writer takes what is done, as much as there is at a time, so that the
sequences of one batch travel in one message.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from seqlens.api.outcomes import Outcome, Started, outcome
from seqlens.api.stream_reading import StreamRoom
from seqlens.repository.loading import LoadedModel
from seqlens.sequences import array_bytes

# Answers that are ready together share a message up to about this size.
MAX_GROUP_BYTES = 1 << 20


@dataclass(slots=True, eq=False)
class Pending:
    """One sequence of a stream, from its arrival until its answer is sent."""

    id: str
    model: LoadedModel | None  # None: its message named none that could be found
    started: Started
    arrived: float  # seconds, time.perf_counter
    size: int  # bytes that it holds: its id, and its inputs or later its outputs

    def done(self) -> bool:
        """Whether there is an answer or an error."""
        return not isinstance(self.started, asyncio.Future) or self.started.done()

    def outcome(self) -> Outcome:
        """Answer or error, once done."""
        return outcome(self.started)


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences of one model that are answered in one message."""

    model: LoadedModel | None
    members: tuple[tuple[Pending, Outcome], ...]


class SequenceStream:
    """Unanswered sequences of one stream. Used on the event loop only.

    Parameters
    ----------
    window
        Messages are read only while fewer sequences than this are unanswered.
    most_bytes
        Messages are read only while the unanswered sequences hold less than this.
    keep_order
        Give answers in the order in which sequences came.
    """

    def __init__(self, window: int, most_bytes: int, keep_order: bool) -> None:
        self._keep_order = keep_order
        self._room = StreamRoom(window, most_bytes)
        # A plain dict would walk over the holes that earlier removals left at its front.
        self._unanswered: OrderedDict[Pending, None] = OrderedDict()  # in order of arrival
        self._done: deque[Pending] = deque()  # in order of completion; unused with keep_order
        self._changed = asyncio.Event()  # for the writer: something is done, or the end
        self._ended = False

    def add(self, pending: Pending) -> None:
        """Take in a sequence that has been started, or that could not be."""
        self._unanswered[pending] = None
        self._room.take(pending.size)
        if isinstance(pending.started, asyncio.Future):
            pending.started.add_done_callback(lambda _: self._finish(pending))
        else:
            self._finish(pending)

    def end(self) -> None:
        """No more sequences will come: ``groups`` ends once all are answered."""
        self._ended = True
        self._changed.set()

    async def room(self) -> None:
        """Wait until the window has room for another message."""
        await self._room.wait()

    async def groups(self) -> AsyncGenerator[Group, None]:
        """Answers in groups, as they are ready or in order, until the stream has ended."""
        while True:
            while group := self._next_group():
                yield group
            if self._ended and not self._unanswered:
                return
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> list[Pending]:
        """Take back whatever still waits, and return it."""
        left = list(self._unanswered)
        self._unanswered.clear()
        for pending in left:
            if isinstance(pending.started, asyncio.Future):
                pending.started.cancel()
        return left

    def _finish(self, pending: Pending) -> None:
        if pending not in self._unanswered:
            return  # taken back
        before, pending.size = pending.size, len(pending.id) + _answer_bytes(pending.started)
        self._room.resize(before, pending.size)
        if not self._keep_order:
            self._done.append(pending)
        self._changed.set()

    def _next_group(self) -> Group | None:
        members: list[tuple[Pending, Outcome]] = []
        size = 0
        while size < MAX_GROUP_BYTES and (pending := self._next_done()):
            if members and pending.model is not members[0][0].model:
                break
            size += len(pending.id) + _answer_bytes(pending.started)
            members.append((pending, pending.outcome()))
            self._remove(pending)
        return Group(members[0][0].model, tuple(members)) if members else None

    def _next_done(self) -> Pending | None:
        if not self._keep_order:
            return self._done[0] if self._done else None
        first = next(iter(self._unanswered), None)
        return first if first is not None and first.done() else None

    def _remove(self, pending: Pending) -> None:
        del self._unanswered[pending]
        if not self._keep_order:
            self._done.popleft()
        self._room.give_back(pending.size)


def _answer_bytes(started: Started) -> int:
    """Size of the answer of a sequence that is done."""
    if not isinstance(started, asyncio.Future) or started.exception() is not None:
        return 0
    return array_bytes(started.result().outputs)
