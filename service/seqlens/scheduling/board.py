"""What waits for which model, and which lane does it next: the one state that threads share."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from seqlens.metrics.observer import ModelLabels
from seqlens.scheduling.executor import Executor, Unit
from seqlens.scheduling.fairness import FairShare
from seqlens.scheduling.jobs import Deliver, Job
from seqlens.scheduling.queue import WaitingRoom


@dataclass(slots=True, eq=False)
class ModelWork:
    """The work of one model, as the board sees it. Changed under the board's lock only."""

    labels: ModelLabels
    room: WaitingRoom[Job]
    executor: Executor[Any]
    exclusive: bool  # never run by two lanes at once
    settle: Deliver  # on the event loop's thread
    running: int = 0  # units of work in progress
    when_idle: Callable[[], None] | None = None  # somebody waits for running to become 0


@dataclass(frozen=True, slots=True)
class RoomState:
    """What waits in a room at one moment."""

    sequences: int
    tokens: int
    oldest_seconds: float


class PlanningFailed(Exception):
    """A model's executor could not say what to run. Its waiting jobs left the room with this."""

    def __init__(self, work: ModelWork, jobs: Sequence[Job]) -> None:
        self.work, self.jobs = work, jobs
        super().__init__(f"no batch could be planned for model {work.labels.model!r}")


@dataclass(slots=True)
class Board:
    """One lock around all waiting rooms. Lanes take from it, the event loop puts on it.

    ``expired`` is told, under the lock, of jobs whose deadline passed before a lane came to
    them.
    """

    expired: Callable[[ModelWork, Sequence[Job]], None]
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _works: list[ModelWork] = field(default_factory=list)
    _shares: FairShare = field(default_factory=FairShare)
    _idle_lanes: int = 0
    _running: int = 0  # units of work in progress, of all models
    _last_work: float = -inf  # when the last of them ended, monotonic clock
    _closed: bool = False

    def join(self, work: ModelWork) -> None:
        """Let lanes work for a model."""
        with self._changed:
            self._works.append(work)

    def leave(self, work: ModelWork, when_idle: Callable[[], None]) -> list[Job]:
        """Take a model and all that waits for it off the board.

        ``when_idle`` is called, from any thread, as soon as no lane runs the model any more.
        """
        with self._changed:
            if work in self._works:
                self._works.remove(work)
            self._shares.forget(work)
            jobs = work.room.take_all()
            if work.running:
                work.when_idle = when_idle
                return jobs
        when_idle()
        return jobs

    def put(self, work: ModelWork, jobs: Sequence[Job]) -> None:
        """Let all jobs wait, or none: raises ``Overloaded`` if they do not fit.

        Lanes that are idle do not look for them before ``wake``.
        """
        with self._changed:
            work.room.check_room_for([job.waiting.length for job in jobs])
            work.room.add_all([(job.waiting, job) for job in jobs])

    def wake(self, lanes: int) -> None:
        """Send at most so many idle lanes for what waits."""
        with self._changed:
            self._changed.notify(lanes)

    def has_room_for_stream(self, work: ModelWork, lengths: Sequence[int]) -> bool:
        """Whether sequences of a stream may all wait for a model now."""
        with self._changed:
            return work.room.has_room_for_stream(lengths)

    def withdraw(self, work: ModelWork, job: Job) -> None:
        """Take out a job if it still waits."""
        with self._changed:
            work.room.remove(job.waiting.number)

    def empty(self, work: ModelWork) -> list[Job]:
        """Take out all jobs that wait for a model."""
        with self._changed:
            return work.room.take_all()

    def take_expired(self, now: float) -> float | None:
        """Hand over all jobs whose deadline has passed; returns the next deadline."""
        with self._changed:
            for work in self._works:
                self._drop_expired(work, now)
            deadlines = (work.room.next_deadline for work in self._works)
            return min((one for one in deadlines if one is not None), default=None)

    def quiet_seconds(self) -> float:
        """Time since a lane was last at work; 0 while one is."""
        with self._changed:
            return 0.0 if self._running else time.monotonic() - self._last_work

    def state(self, work: ModelWork) -> RoomState:
        """What waits for a model now."""
        with self._changed:
            room = work.room
            return RoomState(len(room), room.tokens, room.oldest_seconds(time.monotonic()))

    def take(self, lane: int) -> tuple[ModelWork, Unit] | None:
        """The next unit of work for a lane; waits until there is one, None when closed.

        An idle lane starts at once with what there is: no timer waits for more to come.
        """
        with self._changed:
            while not self._closed:
                taken = self._next(lane)
                if taken is not None:
                    return taken
                self._idle_lanes += 1
                try:
                    self._changed.wait()
                finally:
                    self._idle_lanes -= 1
            return None

    def finished(self, work: ModelWork, unit: Unit, seconds: float) -> None:
        """Note that a lane is done with a unit, well or not, after so many seconds."""
        with self._changed:
            work.running -= 1
            self._running -= 1
            self._last_work = time.monotonic()
            self._shares.correct(work, seconds - unit.seconds)
            if work.exclusive:
                self._changed.notify()  # this lane may turn to another model
            if work.when_idle is not None and not work.running:
                work.when_idle()
            work.executor.finished(unit)

    def close(self) -> None:
        """Send all lanes home after the unit that they are at."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self, lane: int) -> tuple[ModelWork, Unit] | None:
        able = [work for work in self._works if not (work.exclusive and work.running)]
        now = time.monotonic()
        for work in self._shares.in_turn(able):
            unit = self._plan(work, lane, now)
            if unit is not None:
                work.running += 1
                self._running += 1
                self._shares.charge(work, unit.seconds)
                return work, unit
        return None

    def _plan(self, work: ModelWork, lane: int, now: float) -> Unit | None:
        # Other lanes are no help to a model that only one of them may run.
        idle = 0 if work.exclusive else self._idle_lanes
        try:
            self._drop_expired(work, now)
            unit: Unit | None = work.executor.take(lane, now, idle)
        except Exception as error:
            raise PlanningFailed(work, work.room.take_all()) from error
        return unit

    def _drop_expired(self, work: ModelWork, now: float) -> None:
        jobs = work.room.take_expired(now)
        if jobs:
            self.expired(work, jobs)
