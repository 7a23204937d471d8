"""What callers see of a model that is served: put a sequence in, await its answer."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from seqlens.backends.base import Engine
from seqlens.backends.padding import sharing_key
from seqlens.errors import DeadlinePassed, Draining, Overloaded, SeqLensError
from seqlens.metrics.observer import ModelLabels, Observer, QueueState
from seqlens.scheduling.board import Board, ModelWork
from seqlens.scheduling.cost import CostModel, CostTracker
from seqlens.scheduling.executor import BatchExecutor
from seqlens.scheduling.jobs import Job, Settled, settle
from seqlens.scheduling.plan import Waiting
from seqlens.scheduling.queue import WaitingRoom
from seqlens.scheduling.strategy import Decision
from seqlens.sequences import InputSequence, SequenceAnswer
from seqlens.settings import SchedulerSettings


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the lanes need to know of a model."""

    labels: ModelLabels
    engine: Engine
    decision: Decision
    cost: CostModel
    settings: SchedulerSettings


class ModelQueue:
    """The way to one model. All methods but ``state`` belong to the event loop's thread."""

    def __init__(
        self,
        served: ServedModel,
        board: Board,
        observer: Observer,
        *,
        lanes: int,
        watch_deadline: Callable[[float], None],
    ) -> None:
        self.served = served
        self.work = _work_of(served, observer, lanes, self.settle)
        self._board, self._observer = board, observer
        self._watch_deadline = watch_deadline
        self._shares_batches = served.decision.strategy.shares_batches
        self._numbers = itertools.count()
        self._put_in_round = 0  # sequences that idle lanes have not been sent for
        self._unsettled: set[Job] = set()
        self._settled = asyncio.Event()  # nothing is unsettled
        self._settled.set()
        self._one_settled = asyncio.Event()  # for those who wait for room
        self._refusal: Callable[[], SeqLensError] | None = None

    def submit(
        self, sequence: InputSequence, *, deadline: float | None = None, priority: int = 0
    ) -> asyncio.Future[SequenceAnswer]:
        """Let one sequence wait for its turn; see ``submit_all``."""
        return self.submit_all([sequence], deadline=deadline, priority=priority)[0]

    def submit_all(
        self,
        sequences: Sequence[InputSequence],
        *,
        deadline: float | None = None,
        priority: int = 0,
        streamed: bool = False,
    ) -> Sequence[asyncio.Future[SequenceAnswer]]:
        """Let sequences wait for their turn, each with a future of its own, in the same order.

        ``deadline`` is on the monotonic clock, in seconds; ``priority`` 1 is the highest, larger
        numbers come later, 0 is the default and comes last. ``streamed`` sequences are those that
        ``room_for_stream`` was waited for. Raises ``Overloaded`` if they do
        not all fit, ``ModelNotReady`` or ``Draining`` when the model takes no more. A future
        fails with ``DeadlinePassed`` or ``BackendFailed``; cancelling it takes waiting work out.
        """
        self._refuse_if_closed(len(sequences))
        loop, now = asyncio.get_running_loop(), time.monotonic()
        jobs = []
        for one in sequences:
            key = sharing_key(self.served.engine.anatomy, one) if self._shares_batches else None
            number = next(self._numbers)
            waiting = Waiting(number, one.length, now, deadline, priority, key, streamed)
            jobs.append(Job(one, waiting, self._given_up, loop))
        self._put(jobs)
        self._unsettled.update(jobs)
        if jobs:
            self._settled.clear()
            self._wake_after_round(len(jobs))
        if deadline is not None:
            self._watch_deadline(deadline)
        return jobs

    async def room_for_stream(self, sequences: Sequence[InputSequence]) -> None:
        """Wait until all of them have room in the part that streams may fill.

        Ends as well when ``submit_all`` takes no more at all. Nothing is held back
        meanwhile: whoever submits first gets the room.
        """
        lengths = [one.length for one in sequences]
        # A room that is full is not empty: what waits there is settled sooner or later.
        while self._refusal is None and not self._board.has_room_for_stream(self.work, lengths):
            self._one_settled.clear()
            await self._one_settled.wait()

    def state(self) -> QueueState:
        """What waits and runs now. May be called from any thread."""
        room = self._board.state(self.work)
        return QueueState(room.sequences, room.tokens, room.oldest_seconds, len(self._unsettled))

    def refuse(self, reason: Callable[[], SeqLensError]) -> None:
        """Take no more sequences: ``submit`` raises what ``reason`` gives."""
        self._refusal = reason

    async def all_settled(self) -> None:
        """Wait until every sequence has its answer, or its caller has left."""
        await self._settled.wait()

    def settle(self, outcomes: Sequence[Settled]) -> None:
        """Answer jobs, those of a batch in one turn of the event loop."""
        answered = []
        for job, outcome in outcomes:
            if isinstance(outcome, SequenceAnswer) and not job.done():
                answered.append(job.sequence.length or None)
            settle(job, outcome)
        self._no_more(job for job, _ in outcomes)
        if answered:
            self._observer.sequences_finished(self.served.labels, lengths=answered)

    def fail(self, jobs: Sequence[Job], reason: Callable[[], SeqLensError]) -> None:
        """Fail these jobs, each with an error of its own."""
        self.settle([(job, reason()) for job in jobs])

    def fail_all(self, reason: Callable[[], SeqLensError]) -> None:
        """Fail all that waits or runs."""
        self._board.empty(self.work)
        self.fail(list(self._unsettled), reason)

    def expire(self, jobs: Sequence[Job]) -> None:
        """Fail jobs that waited until their deadline."""
        for job in jobs:
            if not job.done():
                self._observer.cancelled(self.served.labels, stage="queue", cause="deadline")
                waited = time.monotonic() - job.waiting.enqueued_at
                late = DeadlinePassed(f"deadline passed after {waited:.3f} s in the queue")
                self.settle([(job, late)])

    def _put(self, jobs: Sequence[Job]) -> None:
        try:
            self._board.put(self.work, jobs)
        except Overloaded:
            for _ in jobs:
                self._observer.rejected(self.served.labels, reason="queue_full")
            raise

    def _wake_after_round(self, sequences: int) -> None:
        """Send idle lanes when all callers that the event loop has at hand had their turn.

        A lane needs the interpreter to begin, so it would only get in their way, and with them
        come larger batches.
        """
        if not self._put_in_round:
            asyncio.get_running_loop().call_soon(self._wake)
        self._put_in_round += sequences

    def _wake(self) -> None:
        self._board.wake(self._put_in_round)
        self._put_in_round = 0

    def _refuse_if_closed(self, sequences: int) -> None:
        if self._refusal is None:
            return
        refusal = self._refusal()
        if isinstance(refusal, Draining):
            for _ in range(sequences):
                self._observer.rejected(self.served.labels, reason="draining")
        raise refusal

    def _given_up(self, job: Job) -> None:
        """Take back what a caller has cancelled."""
        self._board.withdraw(self.work, job)
        self._no_more([job])
        late = job.waiting.deadline is not None and job.waiting.deadline <= time.monotonic()
        self._observer.cancelled(
            self.served.labels,
            stage="compute" if job.started else "queue",
            cause="deadline" if late else "client",
        )

    def _no_more(self, jobs: Iterable[Job]) -> None:
        """Note that these are settled, and tell those who wait for it."""
        self._unsettled.difference_update(jobs)
        self._one_settled.set()
        if not self._unsettled:
            self._settled.set()


def _work_of(
    served: ServedModel,
    observer: Observer,
    lanes: int,
    settle: Callable[[Sequence[Settled]], None],
) -> ModelWork:
    cost = CostTracker(served.cost)
    room: WaitingRoom[Job] = WaitingRoom(
        served.settings,
        served.decision.strategy,
        cost,
        lanes=lanes,
        fixed_length=served.engine.anatomy.fixed_length,
        longest_shared=served.decision.longest_shared,
    )
    executor = BatchExecutor(served.labels, served.engine, served.decision, room, cost, observer)
    exclusive = not served.engine.capabilities.concurrent_runs
    return ModelWork(served.labels, room, executor, exclusive, settle)
