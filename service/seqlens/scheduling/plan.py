"""What to run next: pure functions of plain values, without clock, lock or await."""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from msgspec import Struct

from seqlens.metrics.observer import Trigger
from seqlens.scheduling.cost import Cost
from seqlens.scheduling.strategy import Strategy

_LOOK_AHEAD = 64  # mates considered for one batch
_PATIENCE = 8  # mates refused in a row before the others are not even looked at
# A mate must save this share of its time alone: less is within the noise of the measurement
# and would only delay the answers of the others.
_LEAST_SAVING = 0.1


class Waiting(Struct, frozen=True):
    """A sequence that waits, as the planner sees it."""

    number: int  # order of arrival, unique within a model
    length: int  # positions; 0 for a model without a time axis
    enqueued_at: float  # seconds, monotonic clock
    deadline: float | None = None  # same clock; None: the caller waits as long as it takes
    priority: int = 0  # 1 is the highest, larger numbers come later, 0 (not stated) comes last
    sharing_key: Hashable = None  # sequences with different keys never share a batch
    streamed: bool = False  # its caller waits for room instead of being refused


@dataclass(frozen=True, slots=True)
class BatchBudget:
    """How large a batch may become."""

    tokens: int  # padding included
    sequences: int
    # A batch may take the longer of the two: so many seconds, or so many times what its shortest
    # sequence takes alone. Else a short sequence pays for the efficiency of the long ones.
    # Chosen by simulating log-normal lengths: 2 costs recurrent models a seventh of their
    # throughput, no bound at all costs sequences up to 256 tokens a fifth more p99 at high load.
    quantum_seconds: float = 0.02
    stretch: float = 8.0
    fixed_length: int | None = None  # the only length that the model runs: all rows are filled up
    # Rounding adds up over a sequence: batched = alone is proved up to this length and no further.
    longest_shared: int | None = None


class Batch(Struct, frozen=True):
    """Sequences to run together, in the order in which they were chosen."""

    members: tuple[Waiting, ...]
    length: int  # positions of each row, padding included
    seconds: float  # predicted
    trigger: Trigger  # what closed it

    @property
    def real_tokens(self) -> int:
        """Positions that are not padding."""
        return sum(member.length for member in self.members)

    @property
    def padding_tokens(self) -> int:
        """Positions that are padding."""
        return self.length * len(self.members) - self.real_tokens


def order_key(waiting: Waiting, ageing_tokens_per_second: float) -> tuple[float, float, int]:
    """Sorts the shortest first, where each second of waiting counts as so many tokens less.

    All age alike, so the order between two that wait never changes and the key can be computed
    once, on arrival. Stated priorities go before it.
    """
    rank = waiting.priority if waiting.priority > 0 else math.inf
    age_credit = ageing_tokens_per_second * waiting.enqueued_at
    return rank, waiting.length + age_credit, waiting.number


def choose_seed(first: Waiting, oldest: Waiting, now: float, max_age_seconds: float) -> Waiting:
    """The sequence that must be in the next batch: the first in order, unless one is overdue.

    The overdue go first in order of arrival, whatever the priority of the others: this bounds
    the wait of every sequence.
    """
    return oldest if now - oldest.enqueued_at >= max_age_seconds else first


def fair_share(waiting: int, idle_lanes: int) -> int:
    """Sequences that one lane may take so that ``idle_lanes`` others get as many."""
    return math.ceil(waiting / (1 + max(0, idle_lanes)))


def plan_batch(
    seed: Waiting,
    mates: Iterable[Waiting],
    *,
    strategy: Strategy,
    budget: BatchBudget,
    cost: Cost,
    share: int,
) -> Batch:
    """Choose the sequences to run with ``seed``. Same arguments, same answer.

    ``mates`` come in order of preference (nearest length first). One joins only if the larger
    padded batch is predicted to be faster than running it apart, within the budget. A seed
    beyond the budget runs alone. At most ``share`` sequences are taken.
    """
    draft = _Draft(seed, budget, cost)
    most = min(budget.sequences, share)
    refused = 0
    trigger: Trigger = "idle"
    longest = math.inf if budget.longest_shared is None else budget.longest_shared
    look_ahead = _LOOK_AHEAD if most > 1 else 0
    for mate in islice(_eligible(seed, mates, strategy, longest), look_ahead):
        if len(draft.members) >= most:
            break
        verdict = draft.offer(mate)
        if verdict == "budget":
            trigger = "budget"
        refused = 0 if verdict == "joined" else refused + 1
        if refused == _PATIENCE:
            break
    if len(draft.members) >= budget.sequences > 1:
        trigger = "full"
    return Batch(tuple(draft.members), draft.length, draft.seconds, trigger)


class _Draft:
    """A batch that grows as long as that pays."""

    def __init__(self, seed: Waiting, budget: BatchBudget, cost: Cost) -> None:
        self.members = [seed]
        self.length = budget.fixed_length or seed.length
        self.seconds = cost.seconds(self.length, 1)
        self._budget, self._cost = budget, cost
        self._limit = self._time_limit(self.seconds)
        # Mates come by length, so that many in a row have the same.
        self._mate_length, self._mate_seconds, self._mate_limit = -1, 0.0, 0.0

    def offer(self, mate: Waiting) -> Literal["joined", "budget", "no gain"]:
        """Take the mate in, or say why not."""
        size = len(self.members) + 1
        length = max(self.length, mate.length)
        if length * size > self._budget.tokens:
            return "budget"
        if mate.length != self._mate_length:
            self._look_at(mate)
        together = self._cost.seconds(length, size)
        if together > self.seconds + (1 - _LEAST_SAVING) * self._mate_seconds:
            return "no gain"
        limit = min(self._limit, self._mate_limit)
        if together > limit:
            return "budget"
        self.members.append(mate)
        self.length, self.seconds, self._limit = length, together, limit
        return "joined"

    def _look_at(self, mate: Waiting) -> None:
        self._mate_length = mate.length
        self._mate_seconds = self._cost.seconds(self._budget.fixed_length or mate.length, 1)
        self._mate_limit = self._time_limit(self._mate_seconds)

    def _time_limit(self, alone: float) -> float:
        return max(self._budget.quantum_seconds, self._budget.stretch * alone)


def _eligible(
    seed: Waiting, mates: Iterable[Waiting], strategy: Strategy, longest: float
) -> Iterable[Waiting]:
    """The mates that may share a batch with the seed at all."""
    if not strategy.shares_batches or seed.length > longest:
        return ()
    same_length = strategy is Strategy.EQUAL_LENGTH
    return (
        mate
        for mate in mates
        if mate.sharing_key == seed.sharing_key
        and mate.length <= longest
        and not (same_length and mate.length != seed.length)
        and mate.number != seed.number
    )
