"""A sequence on its way: what waits, the future that answers it, and how it is settled."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from seqlens.errors import SeqLensError
from seqlens.scheduling.plan import Waiting
from seqlens.sequences import InputSequence, SequenceAnswer

Outcome = SequenceAnswer | SeqLensError


class Job(asyncio.Future[SequenceAnswer]):
    """One sequence, from submission to its answer, which is the result of this future.

    ``given_up`` is told when a caller cancels it. That takes no callback of the future: the
    event loop would run one for every sequence, and most are answered.
    """

    def __init__(
        self,
        sequence: InputSequence,
        waiting: Waiting,
        given_up: "Callable[[Job], None]",
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(loop=loop)
        self.sequence, self.waiting = sequence, waiting
        self.started = False  # a lane has taken it
        self._given_up = given_up

    def cancel(self, msg: Any = None) -> bool:
        """Give the sequence up. Returns whether that was before it was answered."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._given_up(self)
        return cancelled


Settled = tuple[Job, Outcome]
Deliver = Callable[[Sequence[Settled]], None]


def settle(job: Job, outcome: Outcome) -> None:
    """Answer a job, on the event loop's thread."""
    if job.done():  # the caller gave up; its batch mates have not
        return
    if isinstance(outcome, SeqLensError):
        job.set_exception(outcome)
    else:
        job.set_result(outcome)
