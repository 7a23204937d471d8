"""Threads of their own for looking inside models, beside the lanes of plain requests."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from seqlens.errors import DeadlinePassed, Draining, Overloaded, SeqLensError
from seqlens.scheduling.pieces import Cancelled, Piece, caller_failure
from seqlens.scheduling.rests import Rests

_log = logging.getLogger(__name__)
_FIRST_GUESS_SECONDS = 1.0
_LEAST_RETRY_SECONDS = 0.1
_SHARE_OF_NEWEST = 0.2

T = TypeVar("T")


class InsightLanes:
    """A bounded queue of requests that look inside models, and the threads that work for them.

    A request takes a ``place`` and has its work run there, piece by piece; what follows of a
    request goes before those that have not begun. All methods belong to the event loop's thread.

    Parameters
    ----------
    threads
        Requests that are worked for at the same time.
    max_waiting
        Requests that may have a place beyond those; more are refused.
    share
        Part of the time that a thread works while ``busy``, above 0 and at most 1.
    busy
        Whether plain requests need the processors now. A lower priority of the threads would not
        do: one that holds the interpreter's lock while others have the processors holds up the
        event loop.
    """

    def __init__(
        self,
        threads: int,
        max_waiting: int,
        *,
        share: float = 1.0,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._most_places = threads + max_waiting
        self._threads_wanted = threads
        self._share, self._busy = share, busy
        self._pieces: deque[Piece] = deque()
        self._changed = threading.Condition()  # guards the pieces that wait, and ``_closed``
        self._closed = False
        self._places: set[Place] = set()
        self._draining = False
        self._seconds = _FIRST_GUESS_SECONDS  # that a request takes
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def start(self) -> None:
        """Start the threads; results go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        for number in range(self._threads_wanted):
            thread = threading.Thread(
                target=self._live, name=f"seqlens-insight-{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    @property
    def waiting(self) -> int:
        """Requests that wait for a thread now."""
        return len(self._pieces)

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """A place for one request. Raises ``Overloaded`` when all are taken, or ``Draining``."""
        if self._draining:
            raise _draining()
        if len(self._places) >= self._most_places:
            seconds = max(_LEAST_RETRY_SECONDS, self._seconds)
            raise Overloaded(
                f"{len(self._places)} requests already look inside models (insight.max_waiting)",
                retry_after_seconds=seconds,
            )
        place = Place(self)
        self._places.add(place)
        self._empty.clear()
        try:
            yield place
        finally:
            place.leave()

    async def drain(self, seconds: float) -> bool:
        """Give no more places and wait for the end of all requests that have one.

        Those that have not ended after ``seconds`` fail with ``Draining``. Returns whether all
        have ended.
        """
        self._draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            for place in list(self._places):
                place.fail(_draining())
            return False
        return True

    def close(self, timeout_seconds: float = 5.0) -> bool:
        """Fail what is left and stop the threads after the piece that they are at.

        Returns whether all have ended; models must not be closed if not.
        """
        self._draining = True
        for place in list(self._places):
            place.fail(_draining())
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def enter(self, piece: Piece, *, first: bool) -> None:
        """Let a piece wait for a thread: before all others if its request has begun."""
        with self._changed:
            if first:
                self._pieces.appendleft(piece)
            else:
                self._pieces.append(piece)
            self._changed.notify()

    def withdraw(self, piece: Piece) -> bool:
        """Take back a piece; False: it runs, or has run, and will be settled."""
        with self._changed:
            try:
                self._pieces.remove(piece)
            except ValueError:
                return False
            return True

    def left(self, place: "Place", seconds: float) -> None:
        """A place is free, after so many seconds of work."""
        self._places.discard(place)
        if seconds:
            self._seconds += _SHARE_OF_NEWEST * (seconds - self._seconds)
        if not self._places:
            self._empty.set()

    def _live(self) -> None:
        rests = Rests(self._share, self._busy)
        while self._work_once(rests):
            pass

    def _work_once(self, rests: Rests) -> bool:
        """Run the next piece; False: closed. What it gave is not held on to while waiting."""
        piece = self._take()
        if piece is None:
            return False
        result, error = None, None

        def cancelled() -> bool:
            rests.end()
            rests.begin(lambda: piece.cancelled)
            return piece.cancelled

        begun = time.monotonic()
        rests.begin(lambda: piece.cancelled)
        try:
            result = None if piece.cancelled else piece.work(cancelled)
        except BaseException as failure:
            error = caller_failure(failure)
        rests.end()
        self._call(piece, result, error, time.monotonic() - begun)
        return True

    def _take(self) -> Piece | None:
        with self._changed:
            while not self._pieces and not self._closed:
                self._changed.wait()
            return self._pieces.popleft() if self._pieces else None

    def _call(self, piece: Piece, result: Any, error: Exception | None, seconds: float) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(piece.settle, result, error, seconds)
        except RuntimeError:  # the loop was closed under running threads: nobody is left to answer
            _log.warning("the event loop is closed: what was seen is dropped")


class Place:
    """One request's place among those that look inside models. Made by ``InsightLanes.place``."""

    def __init__(self, lanes: InsightLanes) -> None:
        self._lanes = lanes
        self._piece: Piece | None = None  # waits or runs
        self._begun = False
        self._left = False
        self._failure: SeqLensError | None = None
        self._seconds = 0.0  # of work
        self._afterwards: list[Callable[[], None]] = []

    async def run(self, work: Callable[[Cancelled], T], *, deadline: float | None = None) -> T:
        """Run one piece of the request's work in a thread; one at a time.

        Work is told through ``cancelled`` that its caller has left, and taken back if it has not
        begun. Raises what the work raises, ``DeadlinePassed`` if it has not begun by ``deadline``
        (monotonic clock, seconds), and ``Draining``.
        """
        if self._failure is not None:
            raise self._failure
        if deadline is not None and deadline <= time.monotonic():
            raise _late()
        loop = asyncio.get_running_loop()
        piece = self._piece = Piece(work, loop.create_future(), self.settled)
        self._lanes.enter(piece, first=self._begun)
        timer = None
        if deadline is not None:
            timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._expire, piece)
        try:
            result: T = await piece.future
            return result
        finally:
            if timer is not None:
                timer.cancel()
            self._give_up(piece)

    def fail(self, error: SeqLensError) -> None:
        """Let the request end with this error, as soon as its caller asks for more.

        What it used is free once no thread works for it, though its caller, who may be slow to
        take what was made for it, still has the place.
        """
        self._failure = self._failure or error
        if self._piece is not None:
            self._piece.fail(error)
            self._give_up(self._piece)
        self._end()

    def afterwards(self, callback: Callable[[], None]) -> None:
        """Call this once none of the request's work runs, nor will run."""
        self._afterwards.append(callback)

    def leave(self) -> None:
        """The request has ended."""
        self._left = True
        self._end()

    def settled(self, piece: Piece, seconds: float) -> None:
        """A thread has done with a piece."""
        self._begun = True
        self._seconds += seconds
        if self._piece is piece:
            self._piece = None
        self._end()

    def _expire(self, piece: Piece) -> None:
        if self._lanes.withdraw(piece):
            self._piece = None
            piece.fail(_late())

    def _give_up(self, piece: Piece) -> None:
        piece.cancelled = True
        if self._lanes.withdraw(piece):
            self._piece = None

    def _end(self) -> None:
        if self._piece is not None:
            return
        if self._left:
            self._lanes.left(self, self._seconds)
        if self._left or self._failure is not None:
            callbacks, self._afterwards = self._afterwards, []
            for callback in callbacks:
                callback()


def _late() -> SeqLensError:
    return DeadlinePassed("deadline passed before there was time to look inside the model")


def _draining() -> SeqLensError:
    return Draining("the server is shutting down")
