"""How a lane turns what waits for a model into work, and work into answers.

An executor is the seam between the board, which knows models and lanes but not how a model
runs, and an execution strategy. Whole sequences are run here; a strategy that keeps sequences
on a lane over several units of work (slots advanced chunk by chunk) is another executor.
"""

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from seqlens.backends.base import Engine
from seqlens.backends.padding import pad, unpad, with_zero_states
from seqlens.errors import BackendFailed, SeqLensError
from seqlens.metrics.observer import BatchSeconds, ModelLabels, Observer, Trigger
from seqlens.scheduling.cost import CostTracker
from seqlens.scheduling.jobs import Deliver, Job
from seqlens.scheduling.plan import Batch
from seqlens.scheduling.queue import WaitingRoom
from seqlens.scheduling.strategy import Decision, Strategy
from seqlens.sequences import Array, InputSequence, SequenceAnswer, Tensors

_log = logging.getLogger(__name__)


class Unit(Protocol):
    """One piece of work for one lane."""

    @property
    def jobs(self) -> Sequence[Job]:
        """The sequences on board: all of them fail if the lane dies."""

    @property
    def seconds(self) -> float:
        """Predicted lane time."""


U = TypeVar("U", bound=Unit)


class Executor(Protocol[U]):
    """A strategy at work. The board holds its lock around ``take`` and ``finished``."""

    def take(self, lane: int, now: float, idle_lanes: int) -> U | None:
        """Choose the next unit of work, in microseconds; None when there is none."""

    def run(self, unit: U, lane: int, deliver: Deliver) -> None:
        """Do the work, without the lock, and deliver each outcome once, many at a time.

        A failing sequence is an outcome. What this raises kills the lane and fails the unit.
        """

    def finished(self, unit: U) -> None:
        """Learn from a unit that ``run`` has done, well or not."""


@dataclass(slots=True)
class BatchUnit:
    """Whole sequences that run together once."""

    batch: Batch
    jobs: list[Job]
    compute_seconds: float | None = None  # of the run itself; None: it did not succeed

    @property
    def seconds(self) -> float:
        """Predicted lane time."""
        return self.batch.seconds


@dataclass(frozen=True, slots=True)
class _Run:
    """What one run of a batch gave, and where its time went."""

    answers: list[SequenceAnswer]  # as the jobs
    spent: BatchSeconds


@dataclass(frozen=True, slots=True)
class _Layout:
    """From sequences to the model's inputs, and from its outputs to answers."""

    build: Callable[[Sequence[InputSequence]], dict[str, Array]]
    take_apart: Callable[[Tensors, Sequence[int]], list[dict[str, Array]]]


class BatchExecutor:
    """Runs batches of whole sequences."""

    def __init__(
        self,
        labels: ModelLabels,
        engine: Engine,
        decision: Decision,
        room: WaitingRoom[Job],
        cost: CostTracker,
        observer: Observer,
    ) -> None:
        self._labels, self._engine = labels, engine
        self._room, self._cost, self._observer = room, cost, observer
        self._layout = _layout_for(engine, decision)

    def take(self, lane: int, now: float, idle_lanes: int) -> BatchUnit | None:
        """Plan the next batch; callers who have left are dropped before work is spent on them."""
        while (taken := self._room.take_batch(now, idle_lanes)) is not None:
            batch, jobs = taken
            staying = [job for job in jobs if not job.done()]
            for job in staying:
                job.started = True
            if staying:
                return self._unit(staying, batch.seconds, batch.trigger)
        return None

    def run(self, unit: BatchUnit, lane: int, deliver: Deliver) -> None:
        """Run a batch; if that fails, run its sequences alone to see which ones do."""
        try:
            run = self._attempt(unit)
        except Exception as error:
            if len(unit.jobs) == 1:
                deliver([(unit.jobs[0], _failure(self._labels, error))])
            else:
                self._run_apart(unit, lane, deliver)
            return
        deliver(list(zip(unit.jobs, run.answers, strict=True)))
        self._report(unit, run, lane)

    def finished(self, unit: BatchUnit) -> None:
        """Correct the cost model."""
        if unit.compute_seconds is not None:
            self._cost.observe(unit.batch.length, len(unit.jobs), unit.compute_seconds)

    def _unit(self, jobs: list[Job], seconds: float, trigger: Trigger) -> BatchUnit:
        longest = max(job.waiting.length for job in jobs)
        length = self._engine.anatomy.fixed_length or longest
        members = tuple(job.waiting for job in jobs)
        return BatchUnit(Batch(members, length, seconds, trigger), jobs)

    def _run_apart(self, unit: BatchUnit, lane: int, deliver: Deliver) -> None:
        seconds = unit.batch.seconds / len(unit.jobs)
        for job in unit.jobs:
            if not job.done():
                self.run(self._unit([job], seconds, "idle"), lane, deliver)

    def _attempt(self, unit: BatchUnit) -> _Run:
        sequences = [job.sequence for job in unit.jobs]
        started = time.monotonic()
        inputs = self._layout.build(sequences)
        built = time.monotonic()
        outputs = self._engine.run(inputs)
        ended = time.monotonic()
        unit.compute_seconds = ended - built
        rows = self._layout.take_apart(outputs, [one.length for one in sequences])
        answers = [
            SequenceAnswer(
                outputs=row,
                length=job.sequence.length,
                padded_length=unit.batch.length,
                batch_size=len(unit.jobs),
                queue_seconds=started - job.waiting.enqueued_at,
                compute_seconds=ended - built,
                build_seconds=built - started,
            )
            for job, row in zip(unit.jobs, rows, strict=True)
        ]
        spent = BatchSeconds(built - started, ended - built, time.monotonic() - ended)
        return _Run(answers, spent)

    def _report(self, unit: BatchUnit, run: _Run, lane: int) -> None:
        self._observer.sequences_ran(
            self._labels,
            lengths=[answer.length or None for answer in run.answers],
            queue_seconds=[answer.queue_seconds for answer in run.answers],
            spent=run.spent,
        )
        self._observer.batch_finished(
            self._labels,
            lane=lane,
            sequences=len(unit.jobs),
            real_tokens=unit.batch.real_tokens,
            padding_tokens=unit.batch.padding_tokens,
            trigger=unit.batch.trigger,
            spent=run.spent,
        )


def _layout_for(engine: Engine, decision: Decision) -> _Layout:
    if decision.strategy is Strategy.WHOLE:
        return _Layout(
            lambda requests: with_zero_states(engine.anatomy, requests[0].inputs),
            lambda out, _: [dict(out)],
        )
    return _Layout(partial(pad, engine.anatomy), partial(unpad, engine.anatomy))


def _failure(labels: ModelLabels, error: Exception) -> SeqLensError:
    """What the caller may know of an error; the rest goes to the log."""
    if isinstance(error, SeqLensError):
        return error
    error_id = uuid.uuid4().hex[:12]
    _log.error("model %s failed (error id %s)", labels.model, error_id, exc_info=error)
    failure = BackendFailed(f"model {labels.model!r} failed on this sequence (error id {error_id})")
    failure.__cause__ = error
    return failure
