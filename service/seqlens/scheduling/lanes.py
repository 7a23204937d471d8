"""The lanes: one thread each, pulling work by themselves, and the arbiter that owns them."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from seqlens.errors import BackendFailed, Draining, ModelNotReady, SeqLensError
from seqlens.metrics.observer import Observer
from seqlens.scheduling.board import Board, ModelWork, PlanningFailed
from seqlens.scheduling.executor import Unit
from seqlens.scheduling.jobs import Job, Settled
from seqlens.scheduling.model_queue import ModelQueue, ServedModel

# Callers that wait for an answer before they ask again are back by then.
_MOMENT_SECONDS = 0.1
_log = logging.getLogger(__name__)


class Arbiter:
    """Shares the lanes of a device between all models that are served on it.

    A lane that is free takes the next batch itself, without a turn of the event loop, and hands
    all answers of a batch over in one call. Lane time is shared evenly between the models that
    want it, by measured seconds. All methods belong to the event loop's thread.
    """

    def __init__(self, lanes: int, observer: Observer) -> None:
        self._observer = observer
        self._board = Board(self._expired_on_lane)
        self._lanes = [
            _Lane(number, self._board, self._deliver, observer) for number in range(lanes)
        ]
        self._queues: dict[ModelWork, ModelQueue] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")  # seconds, monotonic clock
        self._draining = False

    def start(self) -> None:
        """Start the lanes; answers go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        for lane in self._lanes:
            lane.start()

    @property
    def busy(self) -> bool:
        """Whether plain requests are answered now, or were a moment ago."""
        return self._board.quiet_seconds() < _MOMENT_SECONDS

    def add(self, served: ServedModel) -> ModelQueue:
        """Serve a model."""
        queue = ModelQueue(
            served,
            self._board,
            self._observer,
            lanes=len(self._lanes),
            watch_deadline=self._watch_deadline,
        )
        if self._draining:
            queue.refuse(_draining)
        self._queues[queue.work] = queue
        self._board.join(queue.work)
        self._observer.watch_queue(served.labels, queue.state)
        return queue

    async def remove(self, queue: ModelQueue, *, drain_seconds: float = 0.0) -> None:
        """Serve a model no more.

        New sequences are refused at once; those that wait have ``drain_seconds`` to be
        answered, then they fail with ``ModelNotReady``. Returns when no lane runs the model any
        more: only then may its engine be closed.
        """
        name = queue.served.labels.model

        def reason() -> SeqLensError:
            return ModelNotReady(f"model {name!r} was unloaded while the sequence waited")

        queue.refuse(lambda: ModelNotReady(f"model {name!r} is being unloaded"))
        if drain_seconds > 0:
            await _within(drain_seconds, [queue])
        idle = asyncio.Event()
        waiting = self._board.leave(queue.work, lambda: self._call(idle.set))
        queue.fail(waiting, reason)
        await idle.wait()
        self._queues.pop(queue.work, None)

    async def drain(self, seconds: float) -> bool:
        """Take no more sequences and wait for the answers of all that are in.

        Those that have none after ``seconds`` fail with ``Draining``. Returns whether all were
        answered.
        """
        self._draining = True
        queues = list(self._queues.values())
        for queue in queues:
            queue.refuse(_draining)
        answered = await _within(seconds, queues)
        for queue in queues:
            queue.fail_all(_draining)
        return answered

    def close(self, timeout_seconds: float = 5.0) -> bool:
        """Fail what is left and stop the lanes after the batch that they are at.

        Returns whether all lanes have ended; engines must not be closed if not.
        """
        if self._timer is not None:
            self._timer.cancel()
        for queue in self._queues.values():
            queue.refuse(_draining)
            queue.fail_all(_draining)
        self._board.close()
        until = time.monotonic() + timeout_seconds
        ended = [lane.stop(until - time.monotonic()) for lane in self._lanes]
        return all(ended)

    def _deliver(self, work: ModelWork, outcomes: Sequence[Settled]) -> None:
        self._call(work.settle, outcomes)

    def _expired_on_lane(self, work: ModelWork, jobs: Sequence[Job]) -> None:
        self._call(self._expire, work, jobs)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop was closed under running lanes: nobody is left to answer
            _log.warning("the event loop is closed: answers are dropped")

    def _expire(self, work: ModelWork, jobs: Sequence[Job]) -> None:
        queue = self._queues.get(work)
        if queue is not None:
            queue.expire(jobs)

    def _watch_deadline(self, deadline: float) -> None:
        """One timer for the earliest deadline of all: most are met and need none of their own."""
        if deadline >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, deadline - time.monotonic())
        self._timer_at = deadline
        self._timer = asyncio.get_running_loop().call_later(delay, self._sweep)

    def _sweep(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        following = self._board.take_expired(time.monotonic())
        if following is not None:
            self._watch_deadline(following)


class _Lane:
    """One thread that works for whatever model's turn it is."""

    def __init__(
        self,
        number: int,
        board: Board,
        deliver: Callable[[ModelWork, Sequence[Settled]], None],
        observer: Observer,
    ) -> None:
        self._number, self._board = number, board
        self._deliver, self._observer = deliver, observer
        self._thread = threading.Thread(
            target=self._live, name=f"seqlens-lane-{number}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Wait for the end of the thread once the board is closed."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout_seconds))
        return not self._thread.is_alive()

    def _live(self) -> None:
        """Work until the board closes, and begin again after any failure."""
        while True:
            try:
                while (taken := self._board.take(self._number)) is not None:
                    self._work(*taken)
                return
            except PlanningFailed as failure:
                self._fail(failure.work, failure.jobs)
                self._report(failure)
            except BaseException as error:
                self._report(error)

    def _work(self, work: ModelWork, unit: Unit) -> None:
        begun = time.monotonic()
        try:
            work.executor.run(unit, self._number, partial(self._deliver, work))
        except BaseException:
            self._fail(work, unit.jobs)
            raise
        finally:
            self._board.finished(work, unit, time.monotonic() - begun)

    def _fail(self, work: ModelWork, jobs: Sequence[Job]) -> None:
        message = f"lane {self._number} failed while it worked on this sequence"
        self._deliver(work, [(job, BackendFailed(message)) for job in jobs])

    def _report(self, error: BaseException) -> None:
        """Nothing dies in silence: beside the callers, the log and the metrics are told."""
        _log.critical("lane %d failed and starts again", self._number, exc_info=error)
        self._observer.lane_restarted(self._number)


def _draining() -> SeqLensError:
    return Draining("the server is shutting down")


async def _within(seconds: float, queues: Sequence[ModelQueue]) -> bool:
    """Whether all queues were settled in time."""
    try:
        async with asyncio.timeout(seconds):
            for queue in queues:
                await queue.all_settled()
    except TimeoutError:
        return False
    return True
