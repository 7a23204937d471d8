"""A sequence on its way: what waits, the future that answers it, and how it is settled."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seqlens.errors import SeqLensError
from seqlens.scheduling.plan import Waiting
from seqlens.sequences import InputSequence, SequenceAnswer

Outcome = SequenceAnswer | SeqLensError


@dataclass(slots=True, eq=False)
class Job:
    """One sequence, from submission to its answer."""

    sequence: InputSequence
    waiting: Waiting
    future: asyncio.Future[SequenceAnswer]
    started: bool = False  # a lane has taken it


Settled = tuple[Job, Outcome]
Deliver = Callable[[Sequence[Settled]], None]


def settle(job: Job, outcome: Outcome) -> None:
    """Answer a job, on the event loop's thread."""
    if job.future.done():  # the caller gave up; its batch mates have not
        return
    if isinstance(outcome, SeqLensError):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)


def settle_all(outcomes: Sequence[Settled]) -> None:
    """Answer all jobs of a batch in one turn of the event loop."""
    for job, outcome in outcomes:
        settle(job, outcome)
